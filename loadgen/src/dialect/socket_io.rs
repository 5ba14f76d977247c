//! Socket.IO 4 (Engine.IO 4) over WebSocket.
//!
//! Rooms are the application's affair there, so this speaks to a small application: the event `subscribe`
//! with a room's name is answered with `subscribed`, `publish` with a name and a payload reaches all members
//! of the room as `publication`.

use super::{Dialect, Line, Named, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;
use serde_json::value::RawValue;

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct SocketIo {
    path: String,
}

impl SocketIo {
    /// With the path of the endpoint, without a query.
    pub(crate) fn new(path: &str) -> Self {
        Self {
            path: format!("{path}?EIO=4&transport=websocket"),
        }
    }
}

impl Dialect for SocketIo {
    fn write_path(&self, _: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.as_bytes());
    }

    fn handle_open(&self, _: &mut Session, _: &mut dyn Line) {
        // The server speaks first.
    }

    fn handle_message(
        &self,
        session: &mut Session,
        opcode: Opcode,
        payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure> {
        if opcode != Opcode::Text {
            return Err(Failure::Message);
        }
        if let Some((name, data)) = read_publication(payload) {
            line.publication(Named::new(name), data);
            return Ok(());
        }
        // Engine.IO: open, ping, message. Socket.IO in a message: connect, event, refusal.
        match payload {
            [b'0', ..] => line.send(Opcode::Text, b"40"),
            b"2" => {
                line.send(Opcode::Text, b"3");
                line.pinged();
            }
            [b'4', b'0', ..] => {
                let event = format!("42[\"subscribe\",\"{ROOM_PREFIX}{}\"]", session.room);
                line.send(Opcode::Text, event.as_bytes());
            }
            [b'4', b'4', ..] => return Err(Failure::ConnectRefused(0)),
            [b'4', b'2', event @ ..] => return handle_event(event, line),
            _ => return Err(Failure::Message),
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line) {
        let mut out = format!("42[\"publish\",\"{ROOM_PREFIX}{}\",", session.room).into_bytes();
        out.extend_from_slice(payload);
        out.push(b']');
        line.send(Opcode::Text, &out);
    }

    fn publishes(&self) -> bool {
        true
    }
}

/// Name and payload of the common form, `42["publication","room-N","…"]` without escapes.
fn read_publication(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = payload.strip_prefix(br#"42["publication",""#)?;
    let end = memchr::memchr(b'"', rest)?;
    let data = rest[end + 1..].strip_prefix(b",")?.strip_suffix(b"]")?;
    let inner = data.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let is_plain = !inner.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    is_plain.then_some((&rest[..end], data))
}

fn handle_event(event: &[u8], line: &mut dyn Line) -> Result<(), Failure> {
    let parts: Vec<&RawValue> = serde_json::from_slice(event).map_err(|_| Failure::Message)?;
    let text = |part: &RawValue| part.get().trim_matches('"').to_owned();
    match parts.as_slice() {
        [name, _] if name.get() == "\"subscribed\"" => line.subscribed(),
        [name, room, data] if name.get() == "\"publication\"" => {
            line.publication(Named::new(text(room).as_bytes()), data.get().as_bytes());
        }
        _ => return Err(Failure::Message),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn feed(record: &mut Record, text: &str) -> Result<(), Failure> {
        let mut session = Session {
            room: 5,
            ..Session::default()
        };
        SocketIo::new("/socket.io/").handle_message(
            &mut session,
            Opcode::Text,
            text.as_bytes(),
            record,
        )
    }

    #[test]
    fn open_connect_subscribe_and_pings_are_answered_in_turn() {
        let mut record = Record::default();
        for text in [
            "0{\"sid\":\"x\",\"pingInterval\":25000}",
            "40{\"sid\":\"y\"}",
            "2",
        ] {
            feed(&mut record, text).unwrap();
        }
        let sent: Vec<_> = record
            .sent
            .iter()
            .map(|(_, text)| text.as_slice())
            .collect();
        assert_eq!(sent, [&b"40"[..], br#"42["subscribe","room-5"]"#, b"3"]);
        feed(&mut record, r#"42["subscribed","room-5"]"#).unwrap();
        assert_eq!((record.subscribed, record.pings), (1, 1));
    }

    #[test]
    fn a_publication_is_read_in_any_form() {
        let mut record = Record::default();
        feed(&mut record, r#"42["publication","room-5","abc"]"#).unwrap();
        feed(&mut record, r#"42[ "publication" , "room-7" , "a\"b" ]"#).unwrap();
        let expected = [
            (Named::Room(5), b"\"abc\"".to_vec()),
            (Named::Room(7), br#""a\"b""#.to_vec()),
        ];
        assert_eq!(record.publications, expected);
    }

    #[test]
    fn a_refusal_or_nonsense_is_a_failure() {
        let mut record = Record::default();
        let refused = feed(&mut record, r#"44{"message":"no"}"#);
        assert_eq!(refused, Err(Failure::ConnectRefused(0)));
        for bad in ["", "x", "42[1]", "42{", r#"42["other"]"#] {
            assert_eq!(feed(&mut record, bad), Err(Failure::Message), "{bad}");
        }
    }
}
