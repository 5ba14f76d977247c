//! The Centrifugo client protocol, JSON: Ringcast, Centrifugo.
//!
//! Connect and subscribe go in one message, as the official JavaScript client sends them; a message
//! from the server has one reply or push per line.

use super::centrifugo_line::{self as line, Body, Message};
use super::{Dialect, Line, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;
use std::io::Write;

const CONNECT_ID: u32 = 1;
const SUBSCRIBE_ID: u32 = 2;

/// Steps of a session.
const OPENED: u8 = 1;
const CONNECTED: u8 = 2;
const SUBSCRIBED: u8 = 3;

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct CentrifugoJson {
    path: String,
}

impl CentrifugoJson {
    /// With the path of the WebSocket endpoint.
    pub(crate) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
        }
    }
}

impl Dialect for CentrifugoJson {
    fn write_path(&self, _: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.path.as_bytes());
    }

    fn handle_open(&self, session: &mut Session, line: &mut dyn Line) {
        session.step = OPENED;
        session.last_id = SUBSCRIBE_ID as u16;
        let commands = format!(
            "{{\"id\":{CONNECT_ID},\"connect\":{{\"name\":\"loadgen\"}}}}\n\
             {{\"id\":{SUBSCRIBE_ID},\"subscribe\":{{\"channel\":\"{ROOM_PREFIX}{}\"}}}}",
            session.room
        );
        line.send(Opcode::Text, commands.as_bytes());
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
        for text in line::lines(payload) {
            match line::read(text) {
                Message::Publication { room, data } => {
                    line.publication(room, data);
                }
                Message::Ping => {
                    line.send(Opcode::Text, b"{}");
                    line.pinged();
                }
                Message::Reply { id, body } => handle_reply(session, id, body, line)?,
                Message::OtherPush | Message::Unknown => return Err(Failure::Message),
            }
        }
        Ok(())
    }

    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line) {
        session.last_id = session.last_id.checked_add(1).unwrap_or(3);
        let mut command = Vec::with_capacity(80 + payload.len());
        // Writing to a vector cannot fail.
        let _ = write!(
            command,
            "{{\"id\":{},\"publish\":{{\"channel\":\"{ROOM_PREFIX}{}\",\"data\":",
            session.last_id, session.room
        );
        command.extend_from_slice(payload);
        command.extend_from_slice(b"}}");
        line.send(Opcode::Text, &command);
    }

    fn publishes(&self) -> bool {
        true
    }

    fn confirms(&self) -> bool {
        true
    }
}

fn handle_reply(
    session: &mut Session,
    id: u32,
    body: Body,
    line: &mut dyn Line,
) -> Result<(), Failure> {
    match (session.step, id, body) {
        (OPENED, CONNECT_ID, Body::Connected) => session.step = CONNECTED,
        (CONNECTED, SUBSCRIBE_ID, Body::Subscribed) => {
            session.step = SUBSCRIBED;
            line.subscribed();
        }
        (_, CONNECT_ID, Body::Error(code)) => return Err(Failure::ConnectRefused(code)),
        (_, SUBSCRIBE_ID, Body::Error(code)) => return Err(Failure::SubscribeRefused(code)),
        (SUBSCRIBED, _, Body::Published) => line.published(u64::from(id), None),
        (SUBSCRIBED, _, Body::Error(code)) => line.published(u64::from(id), Some(code)),
        _ => return Err(Failure::Message),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Named, Record};
    use super::*;

    fn opened() -> (CentrifugoJson, Session, Record) {
        let dialect = CentrifugoJson::new("/connection/websocket");
        let mut session = Session {
            room: 5,
            ..Session::default()
        };
        let mut record = Record::default();
        dialect.handle_open(&mut session, &mut record);
        (dialect, session, record)
    }

    fn feed(
        (dialect, session, record): &mut (CentrifugoJson, Session, Record),
        text: &str,
    ) -> Result<(), Failure> {
        dialect.handle_message(session, Opcode::Text, text.as_bytes(), record)
    }

    const WELCOME: &str =
        "{\"id\":1,\"connect\":{\"client\":\"c\",\"version\":\"v\"}}\n{\"id\":2,\"subscribe\":{}}";

    #[test]
    fn connect_and_subscribe_go_in_one_message_and_both_must_be_confirmed() {
        let mut all = opened();
        assert_eq!(all.2.sent.len(), 1);
        assert!(all.2.sent[0].1.ends_with(br#"{"channel":"room-5"}}"#));
        feed(&mut all, WELCOME).unwrap();
        assert_eq!(all.2.subscribed, 1);
        assert_eq!(
            feed(&mut opened(), r#"{"id":2,"subscribe":{}}"#),
            Err(Failure::Message)
        );
    }

    #[test]
    fn a_ping_is_answered_and_a_publication_has_its_room() {
        let mut all = opened();
        feed(&mut all, WELCOME).unwrap();
        feed(
            &mut all,
            "{}\n{\"push\":{\"channel\":\"room-5\",\"pub\":{\"data\":\"x\"}}}",
        )
        .unwrap();
        assert_eq!((all.2.pings, all.2.sent[1].1.as_slice()), (1, &b"{}"[..]));
        assert_eq!(all.2.publications, [(Named::Room(5), b"\"x\"".to_vec())]);
    }

    #[test]
    fn a_refusal_ends_the_connection_unless_it_is_of_a_publication() {
        let refused = |id| format!(r#"{{"id":{id},"error":{{"code":103,"message":"no"}}}}"#);
        assert_eq!(
            feed(&mut opened(), &refused(1)),
            Err(Failure::ConnectRefused(103))
        );
        assert_eq!(
            feed(&mut opened(), &refused(2)),
            Err(Failure::SubscribeRefused(103))
        );
        let mut all = opened();
        feed(&mut all, WELCOME).unwrap();
        let (dialect, session, record) = &mut all;
        dialect.publish(session, b"\"p\"", record);
        dialect.publish(session, b"\"p\"", record);
        assert!(
            record.sent[2]
                .1
                .starts_with(br#"{"id":4,"publish":{"channel":"room-5","data":"p""#)
        );
        feed(&mut all, r#"{"id":3,"publish":{}}"#).unwrap();
        feed(&mut all, &refused(4)).unwrap();
        assert_eq!(all.2.published, [(3, None), (4, Some(103))]);
    }
}
