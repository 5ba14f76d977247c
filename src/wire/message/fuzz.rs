//! What a fuzzer checks of the assembler, callable from a plain test as well: the same stream read
//! with other cuts, and read by tungstenite.

use super::{Assembler, Incoming};
use crate::wire::frame::{FrameError, Opcode, Role, close_code_is_valid};
use std::io::{Cursor, Read};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Oracle of the fuzz target `frames`. The first byte chooses the role, the second how reads cut
/// the stream, the rest is the stream.
///
/// The messages and the verdict must not depend on the cuts, must keep every bound, and, where
/// there is no error, must be what tungstenite's frame reader finds in the same bytes.
pub fn fuzz_frames(data: &[u8]) {
    let [role, cut, stream @ ..] = data else {
        return;
    };
    let role = match role % 2 {
        0 => Role::Server,
        _ => Role::Client,
    };
    let message_max = 4096;
    let whole = read(stream, stream.len().max(1), role, message_max);
    check_bounds(&whole, message_max as usize);
    for part in [1, usize::from(*cut) + 1] {
        let parts = read(stream, part, role, message_max);
        assert_eq!(parts, whole, "reads of {part} bytes");
    }
    check_against_tungstenite(stream, &whole);
}

/// [`Incoming`] that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message(Opcode, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(FrameError),
}

impl From<Incoming<'_>> for Event {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Message { opcode, payload } => Self::Message(opcode, payload.to_vec()),
            Incoming::Ping(payload) => Self::Ping(payload.to_vec()),
            Incoming::Pong(payload) => Self::Pong(payload.to_vec()),
            Incoming::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

/// Everything that `stream` says when it comes in reads of `part` bytes, up to a close frame or
/// an error.
pub(super) fn read(stream: &[u8], part: usize, role: Role, message_max: u32) -> Vec<Event> {
    let cuts = (0..stream.len()).step_by(part).skip(1);
    read_cut(stream, cuts, role, message_max)
}

/// [`read`] with cuts at the given places, which ascend.
pub(super) fn read_cut(
    stream: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    role: Role,
    message_max: u32,
) -> Vec<Event> {
    let mut assembler = Assembler::with_message_max(role, message_max);
    let mut events = Vec::new();
    let mut start = 0;
    for end in cuts.into_iter().chain([stream.len()]) {
        let mut read = stream[start..end].to_vec();
        let mut input = read.as_mut_slice();
        start = end;
        loop {
            match assembler.next(&mut input) {
                Ok(Some(incoming)) => events.push(Event::from(incoming)),
                Ok(None) => break,
                Err(error) => events.push(Event::Error(error)),
            }
            if let Some(Event::Close(..) | Event::Error(_)) = events.last() {
                return events;
            }
        }
        assert!(input.is_empty(), "input left over without a message");
    }
    events
}

pub(super) fn check_bounds(events: &[Event], message_max: usize) {
    for event in events {
        match event {
            Event::Message(opcode, payload) => {
                assert!(payload.len() <= message_max);
                assert!(matches!(opcode, Opcode::Text | Opcode::Binary));
                assert!(*opcode == Opcode::Binary || std::str::from_utf8(payload).is_ok());
            }
            Event::Ping(payload) | Event::Pong(payload) => assert!(payload.len() <= 125),
            Event::Close(code, reason) => {
                assert!(code.is_none_or(close_code_is_valid));
                assert!(reason.len() <= 123);
            }
            Event::Error(_) => {}
        }
    }
}

/// Reads as many frames with tungstenite as the `events` before an error need, and joins them
/// in the plainest way.
pub(super) fn check_against_tungstenite(stream: &[u8], events: &[Event]) {
    let mut cursor = Cursor::new(stream);
    let mut open: Option<(Opcode, Vec<u8>)> = None;
    let mut wanted = events
        .iter()
        .filter(|event| !matches!(event, Event::Error(_)));
    let mut next = wanted.next();
    while let Some(event) = next {
        let (header, payload_bytes) = FrameHeader::parse(&mut cursor)
            .expect("a valid header")
            .expect("a whole header");
        let mut payload = vec![0; payload_bytes as usize];
        cursor.read_exact(&mut payload).expect("a whole payload");
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= header.mask.map_or(0, |key| key[index % 4]);
        }
        let found = match header.opcode {
            OpCode::Control(Control::Ping) => Event::Ping(payload),
            OpCode::Control(Control::Pong) => Event::Pong(payload),
            OpCode::Control(_) => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = payload.split_off(payload.len().min(2));
                Event::Close(code, String::from_utf8(reason).expect("a reason in UTF-8"))
            }
            OpCode::Data(data) => {
                let opcode = match data {
                    Data::Text => Opcode::Text,
                    _ => Opcode::Binary,
                };
                let (_, joined) = open.get_or_insert((opcode, Vec::new()));
                joined.extend_from_slice(&payload);
                if !header.is_final {
                    continue;
                }
                let (opcode, payload) = open.take().expect("a message was opened above");
                Event::Message(opcode, payload)
            }
        };
        assert_eq!(&found, event);
        next = wanted.next();
    }
}
