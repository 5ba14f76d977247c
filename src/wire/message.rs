//! WebSocket messages out of received bytes: frames reassembled, control frames in between.
//!
//! A frame that lies whole in the received bytes is unmasked in place and handed out as a slice of
//! them; nothing is copied and nothing is allocated. Only what a read has cut, and messages in
//! fragments, are gathered on the heap, and that memory is freed with the message. Buffers grow by
//! the bytes that arrived, never by a length that the peer declared.
//!
//! The same bytes give the same messages and the same error however reads cut them. Time and rates
//! are not known here: how many frames a peer may send in a second is the caller's business.

#[cfg(any(test, fuzzing))]
mod fuzz;
mod partial;

#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_frames;

use crate::limits::MESSAGE_BYTES_MAX;
use crate::wire::frame::{FrameError, Opcode, Role, Violation, close_code_is_valid, decode_header};
use crate::wire::{mask, utf8};
use partial::{Partial, expected, take};

/// What a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message, fragments joined. Text has been checked to be UTF-8.
    Message {
        /// [`Opcode::Text`] or [`Opcode::Binary`].
        opcode: Opcode,
        /// The message.
        payload: &'a [u8],
    },
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// Answer to a ping, or unsolicited.
    Pong(&'a [u8]),
    /// The peer closes; whatever follows it is not to be read.
    Close {
        /// Close code, valid in a frame; `None` when the frame has no payload.
        code: Option<u16>,
        /// Why, in the peer's words; at most 123 bytes.
        reason: &'a str,
    },
}

/// Turns one connection's bytes into messages.
#[derive(Debug)]
pub struct Assembler {
    role: Role,
    /// Payload bytes of a message, all fragments together.
    message_max: u32,
    /// Present while a frame or message is incomplete, and until the call after it is complete.
    partial: Option<Box<Partial>>,
}

const _: () = assert!(
    size_of::<Assembler>() <= 48,
    "an idle connection pays for this"
);

impl Assembler {
    /// An assembler of messages of up to [`MESSAGE_BYTES_MAX`] bytes.
    pub fn new(role: Role) -> Self {
        Self::with_message_max(role, MESSAGE_BYTES_MAX as u32)
    }

    /// An assembler of messages of up to `message_max` bytes, for a peer that we chose ourselves.
    pub fn with_message_max(role: Role, message_max: u32) -> Self {
        Self {
            role,
            message_max,
            partial: None,
        }
    }

    /// Whether nothing is incomplete, so that nothing is on the heap.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes bytes off the front of `input` up to the end of the next message or control frame, and
    /// unmasks them in place. `None` when all input is used and more is needed.
    ///
    /// To be called until it gives `None`. After an error or [`Incoming::Close`] the stream has no
    /// meaning any more and the assembler is to be dropped.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Incoming<'a>>, FrameError> {
        self.release_finished();
        if self.at_frame_start() {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some((opcode, payload)) = self.next_in_place(input)? {
                return incoming(opcode, payload).map(Some);
            }
        }
        let (role, message_max) = (self.role, self.message_max as usize);
        let partial = self.partial.get_or_insert_default();
        match partial.gather(input, role, message_max)? {
            Some(Opcode::Text) => Ok(Some(Incoming::Message {
                // Checked as it came in.
                opcode: Opcode::Text,
                payload: &partial.finished,
            })),
            Some(opcode) => incoming(opcode, &partial.finished).map(Some),
            None => Ok(None),
        }
    }

    /// The next frame without its header, when it lies whole in `input` and needs nothing else.
    fn next_in_place<'i>(
        &self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<(Opcode, &'i [u8])>, FrameError> {
        let message = self
            .partial
            .as_ref()
            .and_then(|partial| partial.message.as_ref());
        let expected = expected(self.role, message, self.message_max as usize);
        let Some((header, header_bytes)) = decode_header(input, &expected)? else {
            return Ok(None);
        };
        let is_alone = header.fin && header.opcode != Opcode::Continuation;
        if !is_alone || input.len() - header_bytes < header.payload_bytes {
            return Ok(None);
        }
        take(input, header_bytes);
        let payload = take(input, header.payload_bytes);
        if let Some(key) = header.mask {
            mask::apply(payload, key, 0);
        }
        Ok(Some((header.opcode, payload)))
    }

    fn at_frame_start(&self) -> bool {
        self.partial
            .as_ref()
            .is_none_or(|partial| partial.at_frame_start())
    }

    /// Gives back the memory of what the call before handed out.
    fn release_finished(&mut self) {
        match &mut self.partial {
            Some(partial) if partial.is_idle() => self.partial = None,
            Some(partial) => partial.finished = Vec::new(),
            None => {}
        }
    }
}

/// A whole frame's payload as what it means.
fn incoming(opcode: Opcode, payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    match opcode {
        Opcode::Ping => Ok(Incoming::Ping(payload)),
        Opcode::Pong => Ok(Incoming::Pong(payload)),
        Opcode::Close => close(payload),
        Opcode::Text | Opcode::Binary | Opcode::Continuation => {
            if opcode == Opcode::Text && utf8::check(payload).is_err() {
                return Err(FrameError::InvalidUtf8);
            }
            Ok(Incoming::Message { opcode, payload })
        }
    }
}

/// The payload of a close frame (RFC 6455 section 5.5.1).
fn close(payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Incoming::Close {
                code: None,
                reason: "",
            }),
            _ => Err(FrameError::Protocol(Violation::CloseTooShort)),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !close_code_is_valid(code) {
        return Err(FrameError::Protocol(Violation::CloseCode));
    }
    let reason = utf8::check(reason).map_err(|_| FrameError::InvalidUtf8)?;
    Ok(Incoming::Close {
        code: Some(code),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::fuzz::{Event, check_against_tungstenite, check_bounds, read, read_cut};
    use super::*;
    use crate::limits::MESSAGE_FRAGMENTS_MAX;
    use crate::wire::frame::{HEADER_BYTES_MAX, write_client_frame, write_server_header};
    use proptest::prelude::*;

    const KEY: [u8; 4] = [0x12, 0xa4, 0x5f, 0x00];
    const FIN: bool = true;

    /// A frame from a client, with any FIN bit and opcode.
    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_client_frame(&mut out, opcode, KEY, payload);
        if !fin {
            out[0] &= 0x7f;
        }
        out
    }

    /// What a server makes of `frames`, whatever the reads.
    fn events(frames: &[Vec<u8>]) -> Vec<Event> {
        let stream = frames.concat();
        let max = MESSAGE_BYTES_MAX as u32;
        let whole = read(&stream, stream.len().max(1), Role::Server, max);
        assert_eq!(read(&stream, 1, Role::Server, max), whole);
        whole
    }

    fn text(text: &str) -> Event {
        Event::Message(Opcode::Text, text.as_bytes().to_vec())
    }

    fn violation(violation: Violation) -> Event {
        Event::Error(FrameError::Protocol(violation))
    }

    #[test]
    fn a_whole_frame_is_handed_out_in_place() {
        let mut stream = [
            frame(FIN, Opcode::Text, b"one"),
            frame(FIN, Opcode::Binary, &[7; 300]),
        ]
        .concat();
        let range = stream.as_ptr_range();
        let mut input = stream.as_mut_slice();
        let mut assembler = Assembler::new(Role::Server);
        for length in [3, 300] {
            let Ok(Some(Incoming::Message { payload, .. })) = assembler.next(&mut input) else {
                panic!("a message expected");
            };
            assert_eq!(payload.len(), length);
            assert!(range.contains(&payload.as_ptr()), "a slice of the input");
        }
        assert_eq!(assembler.next(&mut input), Ok(None));
        assert!(assembler.is_idle());
    }

    #[test]
    fn memory_is_held_only_while_something_is_incomplete() {
        let mut stream = frame(FIN, Opcode::Text, b"hello");
        let (mut head, mut tail) = stream.split_at_mut(4);
        let mut assembler = Assembler::new(Role::Server);
        assert_eq!(assembler.next(&mut head), Ok(None));
        assert!(!assembler.is_idle());
        let message = Incoming::Message {
            opcode: Opcode::Text,
            payload: b"hello",
        };
        assert_eq!(assembler.next(&mut tail), Ok(Some(message)));
        assert_eq!(assembler.next(&mut tail), Ok(None));
        assert!(assembler.is_idle());
    }

    #[test]
    fn a_declared_length_takes_no_memory() {
        let mut assembler = Assembler::new(Role::Server);
        let mut stream = frame(FIN, Opcode::Binary, &[1; MESSAGE_BYTES_MAX]);
        let mut input = &mut stream[..HEADER_BYTES_MAX + 100];
        assert_eq!(assembler.next(&mut input), Ok(None));
        let partial = assembler.partial.as_ref().expect("an open message");
        let message = partial.message.as_ref().expect("an open message");
        assert!(message.payload.capacity() < 256);
    }

    #[test]
    fn fragments_are_joined() {
        let frames = [
            frame(!FIN, Opcode::Text, b"one, "),
            frame(!FIN, Opcode::Continuation, b""),
            frame(!FIN, Opcode::Continuation, b"two, "),
            frame(FIN, Opcode::Continuation, b"three"),
            frame(FIN, Opcode::Text, b"next"),
        ];
        assert_eq!(events(&frames), [text("one, two, three"), text("next")]);
    }

    #[test]
    fn a_control_frame_between_fragments_is_delivered() {
        let frames = [
            frame(!FIN, Opcode::Text, b"one, "),
            frame(FIN, Opcode::Ping, b"are you there"),
            frame(FIN, Opcode::Pong, b""),
            frame(FIN, Opcode::Continuation, b"two"),
        ];
        let expected = [
            Event::Ping(b"are you there".to_vec()),
            Event::Pong(Vec::new()),
            text("one, two"),
        ];
        assert_eq!(events(&frames), expected);
    }

    #[test]
    fn empty_messages_are_messages() {
        let frames = [
            frame(FIN, Opcode::Text, b""),
            frame(!FIN, Opcode::Binary, b""),
            frame(FIN, Opcode::Continuation, b""),
        ];
        assert_eq!(
            events(&frames),
            [text(""), Event::Message(Opcode::Binary, Vec::new())]
        );
    }

    #[test]
    fn fragments_out_of_order_are_refused() {
        let lone = [frame(FIN, Opcode::Continuation, b"x")];
        assert_eq!(
            events(&lone),
            [violation(Violation::UnexpectedContinuation)]
        );
        let nested = [
            frame(!FIN, Opcode::Text, b"x"),
            frame(FIN, Opcode::Text, b"y"),
        ];
        assert_eq!(
            events(&nested),
            [violation(Violation::ExpectedContinuation)]
        );
        let after_the_end = [
            frame(!FIN, Opcode::Text, b"x"),
            frame(FIN, Opcode::Continuation, b"y"),
            frame(FIN, Opcode::Continuation, b"z"),
        ];
        assert_eq!(
            events(&after_the_end),
            [text("xy"), violation(Violation::UnexpectedContinuation)]
        );
    }

    #[test]
    fn the_message_limit_is_over_all_fragments() {
        let half = vec![b'x'; MESSAGE_BYTES_MAX / 2];
        let fits = [
            frame(!FIN, Opcode::Text, &half),
            frame(FIN, Opcode::Continuation, &half),
        ];
        assert!(matches!(&events(&fits)[..], [Event::Message(_, payload)]
            if payload.len() == MESSAGE_BYTES_MAX));
        let too_big = [
            frame(!FIN, Opcode::Text, &half),
            frame(!FIN, Opcode::Continuation, &half),
            frame(FIN, Opcode::Continuation, b"x"),
        ];
        assert_eq!(events(&too_big), [Event::Error(FrameError::TooBig)]);
        let at_once = [frame(FIN, Opcode::Binary, &vec![0; MESSAGE_BYTES_MAX + 1])];
        assert_eq!(events(&at_once), [Event::Error(FrameError::TooBig)]);
    }

    #[test]
    fn fragments_are_counted_even_when_empty() {
        let max = MESSAGE_FRAGMENTS_MAX as usize;
        let mut frames = vec![frame(!FIN, Opcode::Binary, b"")];
        frames.resize(max - 1, frame(!FIN, Opcode::Continuation, b""));
        let mut fits = frames.clone();
        fits.push(frame(FIN, Opcode::Continuation, b"x"));
        assert_eq!(
            events(&fits),
            [Event::Message(Opcode::Binary, b"x".to_vec())]
        );
        frames.resize(max + 1, frame(!FIN, Opcode::Continuation, b""));
        assert_eq!(events(&frames), [Event::Error(FrameError::TooBig)]);
    }

    #[test]
    fn a_client_takes_messages_up_to_its_own_limit() {
        let mut stream = Vec::new();
        write_server_header(&mut stream, Opcode::Binary, 100_000);
        stream.resize(stream.len() + 100_000, 5);
        let message = Event::Message(Opcode::Binary, vec![5; 100_000]);
        assert_eq!(read(&stream, 2048, Role::Client, 100_000), [message]);
        assert_eq!(
            read(&stream, 2048, Role::Client, 99_999),
            [Event::Error(FrameError::TooBig)]
        );
    }

    #[test]
    fn a_character_may_be_split_over_fragments() {
        let text_bytes = "aß水🍉".as_bytes();
        for cut in 0..=text_bytes.len() {
            let frames = [
                frame(!FIN, Opcode::Text, &text_bytes[..cut]),
                frame(FIN, Opcode::Continuation, &text_bytes[cut..]),
            ];
            assert_eq!(events(&frames), [text("aß水🍉")], "cut at {cut}");
        }
    }

    #[test]
    fn text_that_ends_within_a_character_is_refused() {
        let cut = &"水".as_bytes()[..2];
        let whole = [frame(FIN, Opcode::Text, cut)];
        assert_eq!(events(&whole), [Event::Error(FrameError::InvalidUtf8)]);
        let fragments = [
            frame(!FIN, Opcode::Text, cut),
            frame(FIN, Opcode::Continuation, b""),
        ];
        assert_eq!(events(&fragments), [Event::Error(FrameError::InvalidUtf8)]);
    }

    #[test]
    fn invalid_text_fails_before_its_frame_is_whole() {
        // A byte that no text has, then 90 more bytes of the frame that never come.
        let mut payload = b"valid \xf4\x90".to_vec();
        let bad = payload.len();
        payload.resize(bad + 90, b'x');
        let frames = [
            frame(!FIN, Opcode::Text, b"begin "),
            frame(!FIN, Opcode::Continuation, &payload),
        ]
        .concat();
        let arrived = &frames[..frames.len() - 90];
        let verdict = [Event::Error(FrameError::InvalidUtf8)];
        assert_eq!(read(arrived, arrived.len(), Role::Server, 4096), verdict);
        assert_eq!(
            read(&arrived[..arrived.len() - 1], 7, Role::Server, 4096),
            []
        );
    }

    #[test]
    fn binary_may_be_anything() {
        let bytes = [0xff, 0xfe, 0x00, 0x80];
        let frames = [
            frame(!FIN, Opcode::Binary, &bytes[..2]),
            frame(FIN, Opcode::Continuation, &bytes[2..]),
        ];
        assert_eq!(
            events(&frames),
            [Event::Message(Opcode::Binary, bytes.to_vec())]
        );
    }

    #[test]
    fn a_close_frame_gives_code_and_reason() {
        let close = |payload: &[u8]| events(&[frame(FIN, Opcode::Close, payload)]);
        assert_eq!(close(b""), [Event::Close(None, String::new())]);
        assert_eq!(
            close(b"\x03\xe8"),
            [Event::Close(Some(1000), String::new())]
        );
        assert_eq!(
            close(b"\x0b\xb9bye"),
            [Event::Close(Some(3001), "bye".to_owned())]
        );
        assert_eq!(close(b"\x03"), [violation(Violation::CloseTooShort)]);
        assert_eq!(
            close(b"\x03\xe8\xff"),
            [Event::Error(FrameError::InvalidUtf8)]
        );
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, u16::MAX] {
            assert_eq!(
                close(&code.to_be_bytes()),
                [violation(Violation::CloseCode)]
            );
        }
    }

    #[test]
    fn control_frames_of_125_bytes_arrive_whole() {
        let payload: Vec<u8> = (0..125).collect();
        let frames = [
            frame(FIN, Opcode::Ping, &payload),
            frame(FIN, Opcode::Pong, &payload),
        ];
        assert_eq!(
            events(&frames),
            [Event::Ping(payload.clone()), Event::Pong(payload)]
        );
    }

    #[test]
    fn the_fuzz_seeds_keep_every_promise() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frames");
        let mut seeds = 0;
        for entry in std::fs::read_dir(corpus).expect("the seeds are in the repository") {
            fuzz_frames(&std::fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0);
    }

    /// Frames that are mostly legal: a stream of them goes deep before it fails, if it fails.
    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let opcode = prop_oneof![
            Just(Opcode::Continuation),
            Just(Opcode::Text),
            Just(Opcode::Binary),
            Just(Opcode::Ping),
            Just(Opcode::Pong),
        ];
        let payload = prop_oneof![
            "\\PC{0,40}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..200),
            (0..5usize).prop_map(|cut| "x🍉".as_bytes()[..cut].to_vec()),
        ];
        (any::<bool>(), opcode, payload).prop_map(|(fin, opcode, payload)| {
            let payload =
                &payload[..payload
                    .len()
                    .min(if opcode.is_control() { 125 } else { 200 })];
            frame(fin || opcode.is_control(), opcode, payload)
        })
    }

    /// Fragmented messages with control frames in between.
    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let part = ("\\PC{0,30}", any::<bool>());
        proptest::collection::vec(part, 1..5).prop_map(|parts| {
            let last = parts.len() - 1;
            let mut stream = Vec::new();
            for (index, (part, ping)) in parts.iter().enumerate() {
                let opcode = match index {
                    0 => Opcode::Text,
                    _ => Opcode::Continuation,
                };
                stream.extend(frame(index == last, opcode, part.as_bytes()));
                if *ping {
                    stream.extend(frame(
                        FIN,
                        Opcode::Ping,
                        part.as_bytes().get(..9).unwrap_or(b""),
                    ));
                }
            }
            stream
        })
    }

    proptest! {
        #[test]
        fn reads_may_cut_the_stream_anywhere(
            frames in proptest::collection::vec(prop_oneof![any_frame(), any_message()], 0..8),
            mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = frames.concat();
            let whole = read(&stream, stream.len().max(1), Role::Server, 512);
            check_bounds(&whole, 512);
            check_against_tungstenite(&stream, &whole);
            let mut places: Vec<usize> = cuts.drain(..).map(|cut| cut.index(stream.len() + 1)).collect();
            places.sort_unstable();
            prop_assert_eq!(read_cut(&stream, places, Role::Server, 512), whole);
        }

        #[test]
        fn random_bytes_keep_every_promise(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            fuzz_frames(&bytes);
        }
    }
}
