//! Servers where the path of the WebSocket is the room, and messages are bare payloads: small servers on
//! uWebSockets or `ws`, nchan; and echo servers, where every connection is a room of its own.

use super::{Dialect, Line, Named, ROOM_PREFIX, Session};
use crate::tally::Failure;
use ringcast::wire::frame::Opcode;

/// What stands for the name of the room in a path.
const PLACE: &str = "{room}";

/// The dialect.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// What comes before and behind the name of the room; `None` behind: the room is not named.
    before: String,
    behind: Option<String>,
}

impl Topic {
    /// With a path in which `{room}` stands for the name of the room; it comes at the end otherwise.
    pub(crate) fn new(path: &str) -> Self {
        let (before, behind) = match path.split_once(PLACE) {
            Some((before, behind)) => (before.to_owned(), behind.to_owned()),
            None => (format!("{}/", path.trim_end_matches('/')), String::new()),
        };
        Self {
            before,
            behind: Some(behind),
        }
    }

    /// An echo server: what a connection sends comes back to it.
    pub(crate) fn echo(path: &str) -> Self {
        Self {
            before: path.to_owned(),
            behind: None,
        }
    }
}

impl Dialect for Topic {
    fn write_path(&self, session: &Session, out: &mut Vec<u8>) {
        out.extend_from_slice(self.before.as_bytes());
        if let Some(behind) = &self.behind {
            out.extend_from_slice(format!("{ROOM_PREFIX}{}{behind}", session.room).as_bytes());
        }
    }

    fn handle_open(&self, _: &mut Session, line: &mut dyn Line) {
        line.subscribed();
    }

    fn handle_message(
        &self,
        _: &mut Session,
        _: Opcode,
        payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure> {
        line.publication(Named::Unnamed, payload);
        Ok(())
    }

    fn publish(&self, _: &mut Session, payload: &[u8], line: &mut dyn Line) {
        line.send(Opcode::Text, payload);
    }

    fn publishes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn path(dialect: &Topic) -> String {
        let session = Session {
            room: 7,
            ..Session::default()
        };
        let mut out = Vec::new();
        dialect.write_path(&session, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_room_is_in_the_path() {
        assert_eq!(path(&Topic::new("/sub/{room}?x=1")), "/sub/room-7?x=1");
        assert_eq!(path(&Topic::new("/sub/")), "/sub/room-7");
        assert_eq!(path(&Topic::new("/")), "/room-7");
        assert_eq!(path(&Topic::echo("/")), "/");
    }

    #[test]
    fn every_message_is_a_publication_without_a_name() {
        let (topic, mut record) = (Topic::echo("/"), Record::default());
        let mut session = Session::default();
        topic.handle_open(&mut session, &mut record);
        topic.publish(&mut session, b"\"x\"", &mut record);
        let sent = record.sent[0].1.clone();
        topic
            .handle_message(&mut session, Opcode::Text, &sent, &mut record)
            .unwrap();
        assert_eq!((record.subscribed, record.sent.len()), (1, 1));
        assert_eq!(record.publications, [(Named::Unnamed, b"\"x\"".to_vec())]);
    }
}
