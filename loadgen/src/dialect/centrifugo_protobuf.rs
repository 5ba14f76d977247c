//! The Centrifugo client protocol, Protobuf: Ringcast, Centrifugo.
//!
//! A message is a row of lengths and as many bytes, each a command or a reply. The few fields that matter
//! are read and written here without a schema compiler: nothing is copied, and the broker's own codec is not
//! checked with itself. Field numbers are those of the protocol's schema.

use super::{Dialect, Line, Named, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;

const CONNECT_ID: u64 = 1;
const SUBSCRIBE_ID: u64 = 2;

/// Steps of a session.
const OPENED: u8 = 1;
const CONNECTED: u8 = 2;
const SUBSCRIBED: u8 = 3;

/// Wire type of a value with a length.
const WITH_LENGTH: u64 = 2;

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct CentrifugoProtobuf {
    path: String,
}

impl CentrifugoProtobuf {
    /// With the path of the WebSocket endpoint; the format is asked for in its query.
    pub(crate) fn new(path: &str) -> Self {
        let sign = if path.contains('?') { '&' } else { '?' };
        Self {
            path: format!("{path}{sign}format=protobuf"),
        }
    }
}

impl Dialect for CentrifugoProtobuf {
    fn write_path(&self, _: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.as_bytes());
    }

    fn handle_open(&self, session: &mut Session, line: &mut dyn Line) {
        session.step = OPENED;
        session.last_id = SUBSCRIBE_ID as u16;
        let (mut connect, mut subscribe, mut out) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut connect, 4, b"loadgen");
        put_command(&mut out, CONNECT_ID, 4, &connect);
        put_bytes(&mut subscribe, 1, room_name(session).as_bytes());
        put_command(&mut out, SUBSCRIBE_ID, 5, &subscribe);
        line.send(Opcode::Binary, &out);
    }

    fn handle_message(
        &self,
        session: &mut Session,
        opcode: Opcode,
        mut payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure> {
        if opcode != Opcode::Binary {
            return Err(Failure::Message);
        }
        while !payload.is_empty() {
            let reply = take_bytes(&mut payload).ok_or(Failure::Message)?;
            if reply.is_empty() {
                line.send(Opcode::Binary, &[0]);
                line.pinged();
            } else {
                handle_reply(session, reply, line)?;
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line) {
        session.last_id = session.last_id.checked_add(1).unwrap_or(3);
        let mut publish = Vec::with_capacity(32 + payload.len());
        put_bytes(&mut publish, 1, room_name(session).as_bytes());
        put_bytes(&mut publish, 2, payload);
        let mut out = Vec::with_capacity(16 + publish.len());
        put_command(&mut out, u64::from(session.last_id), 7, &publish);
        line.send(Opcode::Binary, &out);
    }

    fn publishes(&self) -> bool {
        true
    }

    fn confirms(&self) -> bool {
        true
    }
}

fn room_name(session: &Session) -> String {
    format!("{ROOM_PREFIX}{}", session.room)
}

fn handle_reply(session: &mut Session, reply: &[u8], line: &mut dyn Line) -> Result<(), Failure> {
    let mut id = 0;
    for field in fields(reply) {
        match field? {
            (1, Value::Number(number)) => id = number,
            (2, Value::Bytes(error)) => return handle_error(session, id, error, line),
            (4, Value::Bytes(push)) => return handle_push(push, line),
            (5, Value::Bytes(_)) if (session.step, id) == (OPENED, CONNECT_ID) => {
                session.step = CONNECTED;
                return Ok(());
            }
            (6, Value::Bytes(_)) if (session.step, id) == (CONNECTED, SUBSCRIBE_ID) => {
                session.step = SUBSCRIBED;
                line.subscribed();
                return Ok(());
            }
            (8, Value::Bytes(_)) if session.step == SUBSCRIBED => {
                line.published(id, None);
                return Ok(());
            }
            _ => return Err(Failure::Message),
        }
    }
    Err(Failure::Message)
}

fn handle_error(
    session: &Session,
    id: u64,
    error: &[u8],
    line: &mut dyn Line,
) -> Result<(), Failure> {
    let code = match fields(error).next() {
        Some(Ok((1, Value::Number(code)))) => code as u32,
        _ => return Err(Failure::Message),
    };
    match id {
        CONNECT_ID => Err(Failure::ConnectRefused(code)),
        SUBSCRIBE_ID => Err(Failure::SubscribeRefused(code)),
        _ if session.step == SUBSCRIBED => {
            line.published(id, Some(code));
            Ok(())
        }
        _ => Err(Failure::Message),
    }
}

fn handle_push(push: &[u8], line: &mut dyn Line) -> Result<(), Failure> {
    let mut channel = None;
    for field in fields(push) {
        match field? {
            (2, Value::Bytes(name)) => channel = Some(name),
            (4, Value::Bytes(publication)) => {
                let room = Named::new(channel.ok_or(Failure::Message)?);
                for field in fields(publication) {
                    if let (4, Value::Bytes(data)) = field? {
                        line.publication(room, data);
                        return Ok(());
                    }
                }
                return Err(Failure::Message);
            }
            _ => {}
        }
    }
    Err(Failure::Message)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order in which they were written.
fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), Failure>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = take_field(&mut message);
        if field.is_none() {
            // Nothing more can be made of it.
            message = &[];
        }
        Some(field.ok_or(Failure::Message))
    })
}

fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_number(message)?;
    let value = match tag & 7 {
        0 => Value::Number(take_number(message)?),
        WITH_LENGTH => Value::Bytes(take_bytes(message)?),
        1 => Value::Bytes(take(message, 8)?),
        5 => Value::Bytes(take(message, 4)?),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(message: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(count)?;
    *message = rest;
    Some(taken)
}

fn take_bytes<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = take_number(message)?;
    take(message, usize::try_from(count).ok()?)
}

/// An unsigned LEB128 number of at most 64 bits.
fn take_number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_number(out, field << 3 | WITH_LENGTH);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_command(out: &mut Vec<u8>, id: u64, field: u64, request: &[u8]) {
    let mut command = Vec::with_capacity(16 + request.len());
    put_number(&mut command, 1 << 3);
    put_number(&mut command, id);
    put_bytes(&mut command, field, request);
    put_number(out, command.len() as u64);
    out.extend_from_slice(&command);
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|two| pair(two).unwrap()).collect()
    }

    fn opened() -> (CentrifugoProtobuf, Session, Record) {
        let dialect = CentrifugoProtobuf::new("/connection/websocket");
        let mut session = Session {
            room: 5,
            ..Session::default()
        };
        let mut record = Record::default();
        dialect.handle_open(&mut session, &mut record);
        (dialect, session, record)
    }

    fn feed(
        (dialect, session, record): &mut (CentrifugoProtobuf, Session, Record),
        text: &str,
    ) -> Result<(), Failure> {
        dialect.handle_message(session, Opcode::Binary, &hex(text), record)
    }

    /// Replies to connect (client "c1", ping 25, pong) and subscribe, as the reference server sends them.
    const WELCOME: &str = "0c 0801 2a08 0a026331 3819 4001 04 0802 3200";

    #[test]
    fn commands_are_those_of_the_sdk_and_both_must_be_confirmed() {
        let mut all = opened();
        let sent = hex("0d 0801 2209 22076c6f616467656e 0c 0802 2a08 0a06726f6f6d2d35");
        assert_eq!(all.2.sent, [(Opcode::Binary, sent)]);
        feed(&mut all, WELCOME).unwrap();
        assert_eq!(all.2.subscribed, 1);
        assert_eq!(feed(&mut opened(), "04 0802 3200"), Err(Failure::Message));
    }

    #[test]
    fn publications_and_pings_share_a_message() {
        let mut all = opened();
        feed(&mut all, WELCOME).unwrap();
        feed(
            &mut all,
            "15 2213 12046e657773 220b 22077b2261223a317d 3001 00",
        )
        .unwrap();
        assert_eq!(all.2.publications, [(Named::Other, b"{\"a\":1}".to_vec())]);
        assert_eq!((all.2.pings, all.2.sent[1].1.as_slice()), (1, &[0][..]));
    }

    #[test]
    fn a_refusal_has_its_code() {
        let refused = "15 0801 1211 086c 120d 6e6f7420617661696c61626c65";
        assert_eq!(
            feed(&mut opened(), refused),
            Err(Failure::ConnectRefused(108))
        );
        let mut all = opened();
        feed(&mut all, WELCOME).unwrap();
        let (dialect, session, record) = &mut all;
        dialect.publish(session, b"\"p\"", record);
        assert_eq!(
            record.sent[1].1,
            hex("11 0803 3a0d 0a06726f6f6d2d35 1203 227022")
        );
        feed(&mut all, "04 0803 4200").unwrap();
        feed(&mut all, &refused.replace("0801", "0803")).unwrap();
        assert_eq!(all.2.published, [(3, None), (3, Some(108))]);
    }

    #[test]
    fn what_is_cut_off_or_no_message_is_a_failure() {
        let mut all = opened();
        for bad in [
            "05 0801",
            "ff ff ff ff ff ff ff ff ff ff ff 01",
            "02 0807",
            "01 07",
        ] {
            assert_eq!(feed(&mut all, bad), Err(Failure::Message), "{bad}");
        }
    }
}
