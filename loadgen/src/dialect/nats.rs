//! NATS over WebSocket: its text protocol in binary messages.
//!
//! A message may hold several protocol lines, and a line or a payload may go on in the next message. A
//! subject has the name of the room. The PONG to the PING behind the SUB confirms the subscription, because
//! the server handles what a client sends in order.

use super::{Dialect, Line, Named, REST_BYTES_MAX, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;

/// Steps of a session.
const OPENED: u8 = 1;
const ASKED: u8 = 2;
const SUBSCRIBED: u8 = 3;

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    path: String,
}

impl Nats {
    /// With the path of the WebSocket endpoint.
    pub(crate) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
        }
    }
}

impl Dialect for Nats {
    fn write_path(&self, _: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.as_bytes());
    }

    fn handle_open(&self, session: &mut Session, _: &mut dyn Line) {
        // The server speaks first.
        session.step = OPENED;
    }

    fn handle_message(
        &self,
        session: &mut Session,
        _: Opcode,
        payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure> {
        session.with_rest(payload, |session, bytes| handle_lines(session, bytes, line))
    }

    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line) {
        let mut out =
            format!("PUB {ROOM_PREFIX}{} {}\r\n", session.room, payload.len()).into_bytes();
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        line.send(Opcode::Binary, &out);
    }

    fn publishes(&self) -> bool {
        true
    }
}

/// Handles whole lines, with their payloads; the bytes that were used.
fn handle_lines(
    session: &mut Session,
    bytes: &[u8],
    line: &mut dyn Line,
) -> Result<usize, Failure> {
    let mut used = 0;
    while let Some(end) = bytes[used..].windows(2).position(|two| two == b"\r\n") {
        let text = &bytes[used..used + end];
        let behind = used + end + 2;
        let Some(arguments) = text.strip_prefix(b"MSG ") else {
            handle_line(session, text, line)?;
            used = behind;
            continue;
        };
        // MSG <subject> <sid> [reply-to] <bytes>
        let mut words = arguments.split(|byte| *byte == b' ');
        let subject = words.next().unwrap_or_default();
        let count = words.next_back().and_then(parse).ok_or(Failure::Message)?;
        let Some(data) = bytes.get(behind..behind + count + 2) else {
            break;
        };
        line.publication(Named::new(subject), &data[..count]);
        used = behind + count + 2;
    }
    Ok(used)
}

fn handle_line(session: &mut Session, text: &[u8], line: &mut dyn Line) -> Result<(), Failure> {
    let word = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    match (word, session.step) {
        (b"INFO", OPENED) => {
            session.step = ASKED;
            let commands = format!(
                "CONNECT {{\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"name\":\"loadgen\"}}\r\n\
                 SUB {ROOM_PREFIX}{} 1\r\nPING\r\n",
                session.room
            );
            line.send(Opcode::Binary, commands.as_bytes());
        }
        (b"PONG", ASKED) => {
            session.step = SUBSCRIBED;
            line.subscribed();
        }
        (b"PING", _) => {
            line.send(Opcode::Binary, b"PONG\r\n");
            line.pinged();
        }
        (b"-ERR", SUBSCRIBED) => return Err(Failure::Reported),
        (b"-ERR", _) => return Err(Failure::ConnectRefused(0)),
        (b"INFO" | b"PONG" | b"+OK", _) => {}
        _ => return Err(Failure::Message),
    }
    Ok(())
}

fn parse(digits: &[u8]) -> Option<usize> {
    let count: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (count <= REST_BYTES_MAX).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn feed(session: &mut Session, record: &mut Record, text: &str) -> Result<(), Failure> {
        Nats::new("/").handle_message(session, Opcode::Binary, text.as_bytes(), record)
    }

    fn asked() -> (Session, Record) {
        let mut session = Session {
            room: 5,
            ..Session::default()
        };
        let mut record = Record::default();
        Nats::new("/").handle_open(&mut session, &mut record);
        feed(&mut session, &mut record, "INFO {\"server_id\":\"x\"} \r\n").unwrap();
        (session, record)
    }

    #[test]
    fn the_answer_behind_the_subscription_confirms_it() {
        let (mut session, mut record) = asked();
        assert!(record.sent[0].1.ends_with(b"SUB room-5 1\r\nPING\r\n"));
        assert_eq!(record.subscribed, 0);
        feed(&mut session, &mut record, "PONG\r\nPING\r\n").unwrap();
        assert_eq!((record.subscribed, record.pings), (1, 1));
        assert_eq!(record.sent[1].1, b"PONG\r\n");
        let error = "-ERR 'Slow Consumer'\r\n";
        let reported = feed(&mut session, &mut record, error);
        assert_eq!(reported, Err(Failure::Reported));
        let (mut session, mut record) = asked();
        let error = "-ERR 'Authorization Violation'\r\n";
        let refused = feed(&mut session, &mut record, error);
        assert_eq!(refused, Err(Failure::ConnectRefused(0)));
    }

    #[test]
    fn publications_may_be_cut_anywhere() {
        let text =
            "PONG\r\nMSG room-5 1 5\r\n\"a\\r\"\r\nMSG room-7 1 reply 3\r\n\"b\"\r\nPING\r\n";
        for cut in 0..text.len() {
            let (mut session, mut record) = asked();
            for part in [&text[..cut], &text[cut..]] {
                feed(&mut session, &mut record, part).unwrap();
            }
            let expected = [
                (Named::Room(5), b"\"a\\r\"".to_vec()),
                (Named::Room(7), b"\"b\"".to_vec()),
            ];
            assert_eq!(record.publications, expected, "cut at {cut}");
            assert!(session.rest.is_none() && record.pings == 1);
        }
    }

    #[test]
    fn what_nats_does_not_say_is_a_failure() {
        for bad in [
            "HELLO\r\n",
            "MSG room-5 1 x\r\n",
            "MSG room-5 1 99999999999\r\n",
        ] {
            let (mut session, mut record) = asked();
            assert_eq!(feed(&mut session, &mut record, bad), Err(Failure::Message));
        }
    }
}
