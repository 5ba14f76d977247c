//! MQTT 3.1.1 over WebSocket, at most once (QoS 0). A topic has the name of the room.
//!
//! Packets are in binary messages and need not begin or end where a message does (MQTT 3.1.1 section 6).

use super::{Dialect, Line, Named, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;

/// Steps of a session.
const OPENED: u8 = 1;
const CONNECTED: u8 = 2;
const SUBSCRIBED: u8 = 3;

/// Types of packets, in the upper half of their first byte (section 2.2.1).
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBACK: u8 = 9;
const PINGRESP: u8 = 13;

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct Mqtt {
    path: String,
}

impl Mqtt {
    /// With the path of the WebSocket endpoint.
    pub(crate) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
        }
    }
}

impl Dialect for Mqtt {
    fn write_path(&self, _: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.as_bytes());
    }

    fn subprotocol(&self) -> Option<&'static str> {
        Some("mqtt")
    }

    fn handle_open(&self, session: &mut Session, line: &mut dyn Line) {
        session.step = OPENED;
        let name = format!("loadgen-{}", session.connection);
        line.send(Opcode::Binary, &connect_packet(&name));
    }

    fn handle_message(
        &self,
        session: &mut Session,
        _: Opcode,
        payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure> {
        session.with_rest(payload, |session, bytes| {
            handle_packets(session, bytes, line)
        })
    }

    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line) {
        line.send(Opcode::Binary, &publish_packet(session.room, payload, None));
    }

    fn publishes(&self) -> bool {
        true
    }
}

/// Handles whole packets; the bytes that were used.
fn handle_packets(
    session: &mut Session,
    bytes: &[u8],
    line: &mut dyn Line,
) -> Result<usize, Failure> {
    let mut used = 0;
    while let Some((first, body, packet_bytes)) = take_packet(&bytes[used..])? {
        used += packet_bytes;
        handle_packet(session, first, body, line)?;
    }
    Ok(used)
}

fn handle_packet(
    session: &mut Session,
    first: u8,
    body: &[u8],
    line: &mut dyn Line,
) -> Result<(), Failure> {
    match (first >> 4, session.step) {
        (PUBLISH, _) => {
            let (length, rest) = body.split_at_checked(2).ok_or(Failure::Message)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let (topic, data) = rest.split_at_checked(length).ok_or(Failure::Message)?;
            line.publication(Named::new(topic), data);
        }
        (CONNACK, OPENED) => match body {
            [_, 0] => {
                session.step = CONNECTED;
                line.send(Opcode::Binary, &subscribe_packet(session.room));
            }
            [_, code] => return Err(Failure::ConnectRefused(u32::from(*code))),
            _ => return Err(Failure::Message),
        },
        (SUBACK, CONNECTED) => match body {
            [_, _, 0x80] => return Err(Failure::SubscribeRefused(0x80)),
            [_, _, _] => {
                session.step = SUBSCRIBED;
                line.subscribed();
            }
            _ => return Err(Failure::Message),
        },
        (PINGRESP, _) => {}
        _ => return Err(Failure::Message),
    }
    Ok(())
}

/// A packet: its first byte, its body, and the bytes that it takes.
type Packet<'a> = (u8, &'a [u8], usize);

/// The packet at the front, when it is whole.
pub(crate) fn take_packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, Failure> {
    let mut body_bytes = 0;
    for index in 0..4 {
        let Some(byte) = bytes.get(1 + index) else {
            return Ok(None);
        };
        body_bytes |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let begin = 2 + index;
            let body = bytes.get(begin..begin + body_bytes);
            return Ok(body.map(|body| (bytes[0], body, begin + body_bytes)));
        }
    }
    Err(Failure::Message)
}

/// CONNECT with a clean session and no keep-alive (section 3.1).
pub(crate) fn connect_packet(name: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    put_text(&mut body, name.as_bytes());
    packet(0x10, &body)
}

/// PUBLISH; with an identifier it is to be confirmed (QoS 1, section 3.3).
pub(crate) fn publish_packet(room: u32, payload: &[u8], identifier: Option<u16>) -> Vec<u8> {
    let mut body = Vec::with_capacity(32 + payload.len());
    put_text(&mut body, format!("{ROOM_PREFIX}{room}").as_bytes());
    let mut first = 0x30;
    if let Some(identifier) = identifier {
        first = 0x32;
        body.extend_from_slice(&identifier.to_be_bytes());
    }
    body.extend_from_slice(payload);
    packet(first, &body)
}

fn subscribe_packet(room: u32) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, format!("{ROOM_PREFIX}{room}").as_bytes());
    body.push(0);
    packet(0x82, &body)
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn feed(session: &mut Session, record: &mut Record, bytes: &[u8]) -> Result<(), Failure> {
        Mqtt::new("/").handle_message(session, Opcode::Binary, bytes, record)
    }

    fn opened() -> (Session, Record) {
        let mut session = Session {
            room: 5,
            connection: 9,
            ..Session::default()
        };
        let mut record = Record::default();
        Mqtt::new("/").handle_open(&mut session, &mut record);
        (session, record)
    }

    #[test]
    fn connect_then_subscribe_and_both_must_be_confirmed() {
        let (mut session, mut record) = opened();
        assert_eq!(
            record.sent[0].1,
            b"\x10\x15\0\x04MQTT\x04\x02\0\0\0\x09loadgen-9"
        );
        feed(&mut session, &mut record, b"\x20\x02\0\0").unwrap();
        assert_eq!(record.sent[1].1, b"\x82\x0b\0\x01\0\x06room-5\0");
        feed(&mut session, &mut record, b"\x90\x03\0\x01\0").unwrap();
        assert_eq!(record.subscribed, 1);
        let (mut session, mut record) = opened();
        assert_eq!(
            feed(&mut session, &mut record, b"\x20\x02\0\x05"),
            Err(Failure::ConnectRefused(5))
        );
    }

    #[test]
    fn packets_may_be_cut_anywhere() {
        let long = vec![b'x'; 300];
        let mut bytes = b"\x20\x02\0\0\x90\x03\0\x01\0".to_vec();
        bytes.extend(publish_packet(5, b"\"a\"", None));
        bytes.extend(publish_packet(7, &long, None));
        for cut in 0..bytes.len() {
            let (mut session, mut record) = opened();
            feed(&mut session, &mut record, &bytes[..cut]).unwrap();
            feed(&mut session, &mut record, &bytes[cut..]).unwrap();
            let expected = [
                (Named::Room(5), b"\"a\"".to_vec()),
                (Named::Room(7), long.clone()),
            ];
            assert_eq!(record.publications, expected, "cut at {cut}");
            assert!(session.rest.is_none());
        }
    }

    #[test]
    fn what_is_no_packet_is_a_failure() {
        for bad in [
            &b"\x30\xff\xff\xff\xff\x01"[..],
            b"\x30\x03\0\x09x",
            b"\xf0\0",
        ] {
            let (mut session, mut record) = opened();
            assert_eq!(feed(&mut session, &mut record, bad), Err(Failure::Message));
        }
    }
}
