//! What a server wants to be told, and says, once the WebSocket is open: one file per protocol.
//!
//! A dialect does no I/O and keeps nothing: what a connection has to remember is its [`Session`], a few
//! words, because there may be a million. It sends, and reports what it heard, through a [`Line`].

mod centrifugo_json;
mod centrifugo_line;
mod centrifugo_protobuf;
pub(crate) mod mqtt;
mod nats;
mod socket_io;
mod topic;

pub(crate) use centrifugo_json::CentrifugoJson;
pub(crate) use centrifugo_protobuf::CentrifugoProtobuf;
pub(crate) use mqtt::Mqtt;
pub(crate) use nats::Nats;
pub(crate) use socket_io::SocketIo;
pub(crate) use topic::Topic;

use crate::tally::Failure;
use ringcast::wire::frame::Opcode;
use std::fmt;

/// What comes before the number of a room in its name.
pub(crate) const ROOM_PREFIX: &str = "room-";

/// Bytes that may wait for the rest of a packet.
const REST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A protocol over WebSocket messages.
pub(crate) trait Dialect: fmt::Debug + Send + Sync {
    /// Appends the request target of the upgrade.
    fn write_path(&self, session: &Session, out: &mut Vec<u8>);

    /// The subprotocol to ask for; the server has to choose it.
    fn subprotocol(&self) -> Option<&'static str> {
        None
    }

    /// The WebSocket is open: sends what leads to a subscription to the session's room. A server that
    /// confirms nothing counts as subscribed at once.
    fn handle_open(&self, session: &mut Session, line: &mut dyn Line);

    /// A message came in whole. The error is what the server did wrong, and ends the connection.
    fn handle_message(
        &self,
        session: &mut Session,
        opcode: Opcode,
        payload: &[u8],
        line: &mut dyn Line,
    ) -> Result<(), Failure>;

    /// Publishes to the session's room, once subscribed; [`Dialect::publishes`] says whether it can.
    fn publish(&self, session: &mut Session, payload: &[u8], line: &mut dyn Line);

    /// Whether clients of this protocol can publish.
    fn publishes(&self) -> bool;

    /// Whether the server answers every publication: by the id that [`Session::last_id`] had behind it.
    fn confirms(&self) -> bool {
        false
    }
}

/// What a connection remembers for its dialect.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Number of its room.
    pub(crate) room: u32,
    /// Number of the connection in the run: names clients where a protocol wants names.
    pub(crate) connection: u32,
    /// Id of its last command, where commands have ids.
    pub(crate) last_id: u16,
    /// How far the handshake of the dialect is; 0 before its first message.
    pub(crate) step: u8,
    /// Bytes that wait for the rest of a packet, where packets may span messages.
    pub(crate) rest: Option<Box<[u8]>>,
}

impl Session {
    /// Hands over `input` behind what waited for it. `handle` gives how many bytes of its whole packets it
    /// used; the others wait.
    fn with_rest(
        &mut self,
        input: &[u8],
        handle: impl FnOnce(&mut Self, &[u8]) -> Result<usize, Failure>,
    ) -> Result<(), Failure> {
        let joined;
        let bytes = match self.rest.take() {
            None => input,
            Some(rest) => {
                joined = [&*rest, input].concat();
                &joined
            }
        };
        let used = handle(self, bytes)?;
        let rest = &bytes[used..];
        if rest.len() > REST_BYTES_MAX {
            return Err(Failure::Message);
        }
        self.rest = (!rest.is_empty()).then(|| rest.into());
        Ok(())
    }
}

/// The connection as a dialect sees it.
pub(crate) trait Line {
    /// Sends one message.
    fn send(&mut self, opcode: Opcode, payload: &[u8]);
    /// The subscription is confirmed.
    fn subscribed(&mut self);
    /// A publication came.
    fn publication(&mut self, room: Named, data: &[u8]);
    /// Its own publication with this id was confirmed, or refused with a code.
    fn published(&mut self, id: u64, refusal: Option<u32>);
    /// The server asked whether the client is there, and was answered.
    fn pinged(&mut self);
}

/// What a protocol says of the room of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Its number.
    Room(u32),
    /// A name that no room of a run has.
    Other,
    /// Nothing: the connection stands for the room.
    Unnamed,
}

impl Named {
    /// Of the name of a room.
    pub(crate) fn new(name: &[u8]) -> Self {
        let digits = name.strip_prefix(ROOM_PREFIX.as_bytes());
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        number.map_or(Self::Other, Self::Room)
    }
}

/// A line that writes down what a dialect says; for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Messages sent.
    pub(crate) sent: Vec<(Opcode, Vec<u8>)>,
    /// Times that the subscription was confirmed.
    pub(crate) subscribed: u32,
    /// Publications.
    pub(crate) publications: Vec<(Named, Vec<u8>)>,
    /// Ids of its own, confirmed or refused.
    pub(crate) published: Vec<(u64, Option<u32>)>,
    /// Pings.
    pub(crate) pings: u32,
}

#[cfg(test)]
impl Line for Record {
    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.sent.push((opcode, payload.to_vec()));
    }

    fn subscribed(&mut self) {
        self.subscribed += 1;
    }

    fn publication(&mut self, room: Named, data: &[u8]) {
        self.publications.push((room, data.to_vec()));
    }

    fn published(&mut self, id: u64, refusal: Option<u32>) {
        self.published.push((id, refusal));
    }

    fn pinged(&mut self) {
        self.pings += 1;
    }
}
