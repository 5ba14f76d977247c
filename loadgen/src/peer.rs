//! One client connection, without its socket: bytes in, bytes to send out.
//!
//! Upgrade, connect and subscribe in one message, then publications and pings until the end. An idle
//! subscribed peer is [`PEER_BYTES_MAX`] bytes at most and has nothing on the heap.
#![expect(
    clippy::box_collection,
    reason = "one word instead of three in every peer, and almost always absent"
)]

use crate::message::{self, Body, Message, ROOM_PREFIX};
use crate::order::{Arrival, Order};
use crate::payload;
use crate::tally::{Failure, Tally};
use crate::upgrade::{self, Numbers};
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};

/// Bytes of a peer.
pub(crate) const PEER_BYTES_MAX: usize = 72;
const _: () = assert!(
    size_of::<Peer>() <= PEER_BYTES_MAX,
    "there are a million of them"
);

/// Payload bytes of one message from the server: we chose it, and it may batch.
const MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

const CONNECT_ID: u32 = 1;
const SUBSCRIBE_ID: u32 = 2;

/// What all peers of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Value of the `Host` field.
    pub(crate) host: String,
    /// Path of the WebSocket endpoint.
    pub(crate) path: String,
    /// Run number in the payloads that count.
    pub(crate) run: u16,
}

/// How far a peer has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// TCP connect is under way.
    Connecting,
    /// The upgrade request was sent; the bytes of its answer, while incomplete.
    Upgrading(Option<Box<Vec<u8>>>),
    /// Connect and subscribe were sent.
    Joining {
        /// Whether the connect command was confirmed.
        connected: bool,
    },
    /// The subscribe command was confirmed.
    Subscribed,
    /// Failed or closed.
    Gone {
        /// Whether it had been [`Stage::Subscribed`]: then what it missed is lost.
        was_subscribed: bool,
    },
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stage: Stage,
    /// The room that it subscribes to.
    room: u32,
    order: Order,
    assembler: Assembler,
    /// What key and masks are made from.
    seed: u64,
    /// Bytes that wait for the send in flight.
    unsent: Option<Box<Vec<u8>>>,
}

impl Peer {
    /// A peer whose TCP connect was just started.
    pub(crate) fn new(room: u32, seed: u64) -> Self {
        Self {
            stage: Stage::Connecting,
            room,
            order: Order::new(),
            assembler: Assembler::with_message_max(Role::Client, MESSAGE_BYTES_MAX),
            seed,
            unsent: None,
        }
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Number of its room.
    pub(crate) fn room(&self) -> u32 {
        self.room
    }

    /// Ends it: what it was before.
    pub(crate) fn end(&mut self) -> Stage {
        self.unsent = None;
        self.assembler = Assembler::with_message_max(Role::Client, 0);
        let was_subscribed = match self.stage {
            Stage::Subscribed => true,
            Stage::Gone { was_subscribed } => was_subscribed,
            _ => false,
        };
        std::mem::replace(&mut self.stage, Stage::Gone { was_subscribed })
    }

    /// Keeps bytes until the send in flight is done.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.unsent.get_or_insert_default().extend_from_slice(bytes);
    }

    /// The bytes that were kept.
    pub(crate) fn take_kept(&mut self) -> Option<Box<Vec<u8>>> {
        self.unsent.take()
    }

    /// TCP is connected: appends the upgrade request to `out`.
    pub(crate) fn handle_connected(&mut self, context: &Context, out: &mut Vec<u8>) {
        self.stage = Stage::Upgrading(None);
        upgrade::write_request(out, &context.host, &context.path, self.seed);
    }

    /// Bytes came in at `now_ns`: counts what they bring and appends what is to be sent to `out`.
    pub(crate) fn handle_bytes(
        &mut self,
        input: &mut [u8],
        now_ns: u64,
        context: &Context,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match &mut self.stage {
            Stage::Upgrading(head) => {
                let mut head = head.take().unwrap_or_default();
                head.extend_from_slice(input);
                let Some(head_bytes) = upgrade::check_response(&head, self.seed)? else {
                    self.stage = Stage::Upgrading(Some(head));
                    return Ok(());
                };
                self.stage = Stage::Joining { connected: false };
                self.write_commands(out);
                self.handle_frames(&mut head[head_bytes..], now_ns, context, tally, out)
            }
            _ => self.handle_frames(input, now_ns, context, tally, out),
        }
    }

    /// Publications that did not come, of `published` in its room.
    pub(crate) fn lost(&self, published: u32) -> u64 {
        match self.stage {
            Stage::Subscribed
            | Stage::Gone {
                was_subscribed: true,
            } => u64::from(self.order.missing(published)),
            _ => 0,
        }
    }

    /// Connect and subscribe in one message, as the official JavaScript client sends them.
    fn write_commands(&self, out: &mut Vec<u8>) {
        let commands = format!(
            "{{\"id\":{CONNECT_ID},\"connect\":{{\"name\":\"loadgen\"}}}}\n\
             {{\"id\":{SUBSCRIBE_ID},\"subscribe\":{{\"channel\":\"{ROOM_PREFIX}{}\"}}}}",
            self.room
        );
        write_client_frame(out, Opcode::Text, self.mask(), commands.as_bytes());
    }

    fn mask(&self) -> [u8; 4] {
        // Unlike the key's numbers, but as random.
        (Numbers::new(!self.seed).next() as u32).to_ne_bytes()
    }

    fn handle_frames(
        &mut self,
        mut input: &mut [u8],
        now_ns: u64,
        context: &Context,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut assembler = std::mem::replace(&mut self.assembler, Assembler::new(Role::Client));
        while let Some(incoming) = assembler.next(&mut input)? {
            match incoming {
                Incoming::Message {
                    opcode: Opcode::Text,
                    payload,
                } => {
                    let lines = payload.strip_suffix(b"\n").unwrap_or(payload);
                    for line in lines.split(|byte| *byte == b'\n') {
                        self.handle_line(line, now_ns, context, tally, out)?;
                    }
                }
                Incoming::Message { .. } => return Err(Failure::Message),
                Incoming::Ping(payload) => {
                    write_client_frame(out, Opcode::Pong, self.mask(), payload);
                }
                Incoming::Pong(_) => {}
                Incoming::Close { code, .. } => return Err(Failure::Closed(code.unwrap_or(0))),
            }
        }
        self.assembler = assembler;
        Ok(())
    }

    fn handle_line(
        &mut self,
        line: &[u8],
        now_ns: u64,
        context: &Context,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match message::read(line) {
            Message::Publication { room, data } => {
                self.handle_publication(room, data, now_ns, context, tally);
                Ok(())
            }
            Message::Ping => {
                tally.pings += 1;
                write_client_frame(out, Opcode::Text, self.mask(), b"{}");
                Ok(())
            }
            Message::Reply { id, body } => self.handle_reply(id, body),
            Message::OtherPush | Message::Unknown => Err(Failure::Message),
        }
    }

    fn handle_reply(&mut self, id: u32, body: Body) -> Result<(), Failure> {
        match (&self.stage, id, body) {
            (Stage::Joining { connected: false }, CONNECT_ID, Body::Connected) => {
                self.stage = Stage::Joining { connected: true };
                Ok(())
            }
            (Stage::Joining { connected: true }, SUBSCRIBE_ID, Body::Subscribed) => {
                self.stage = Stage::Subscribed;
                Ok(())
            }
            (_, CONNECT_ID, Body::Error(code)) => Err(Failure::ConnectRefused(code)),
            (_, SUBSCRIBE_ID, Body::Error(code)) => Err(Failure::SubscribeRefused(code)),
            _ => Err(Failure::Message),
        }
    }

    fn handle_publication(
        &mut self,
        room: Option<u32>,
        data: &[u8],
        now_ns: u64,
        context: &Context,
        tally: &mut Tally,
    ) {
        let Ok(stamp) = payload::read(data) else {
            tally.damaged += 1;
            return;
        };
        if stamp.run != context.run {
            tally.foreign += 1;
            return;
        }
        if stamp.room != self.room || room != Some(self.room) {
            tally.misrouted += 1;
            return;
        }
        match self.order.take(stamp.number) {
            Arrival::New => tally.deliver(&stamp, now_ns),
            Arrival::Late => {
                tally.reordered += 1;
                tally.deliver(&stamp, now_ns);
            }
            Arrival::Repeated => tally.duplicated += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Maker, Stamp};
    use ringcast::wire::frame::write_server_header;
    use tungstenite::handshake::derive_accept_key;

    const SEED: u64 = 99;

    fn context() -> Context {
        Context {
            host: "127.0.0.1:8000".to_owned(),
            path: "/connection/websocket".to_owned(),
            run: 1,
        }
    }

    fn text(payload: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        write_server_header(&mut frame, Opcode::Text, payload.len());
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    fn opening() -> Vec<u8> {
        let accept = derive_accept_key(&upgrade::key(SEED));
        let mut bytes = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(text(
            "{\"id\":1,\"connect\":{\"client\":\"c\",\"version\":\"v\"}}\n{\"id\":2,\"subscribe\":{}}",
        ));
        bytes
    }

    fn publication(number: u32) -> Vec<u8> {
        let stamp = Stamp {
            run: 1,
            room: 5,
            number,
            ..Stamp::default()
        };
        let mut maker = Maker::new(100);
        let data = std::str::from_utf8(maker.make(&stamp)).unwrap();
        text(&format!(
            r#"{{"push":{{"channel":"room-5","pub":{{"data":{data},"offset":{number}}}}}}}"#
        ))
    }

    fn feed(peer: &mut Peer, tally: &mut Tally, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        peer.handle_bytes(&mut bytes.to_vec(), 1, &context(), tally, &mut out)?;
        Ok(out)
    }

    fn connected() -> Peer {
        let mut peer = Peer::new(5, SEED);
        peer.handle_connected(&context(), &mut Vec::new());
        peer
    }

    fn subscribed() -> (Peer, Tally) {
        let (mut peer, mut tally) = (connected(), Tally::new());
        feed(&mut peer, &mut tally, &opening()).unwrap();
        assert!(matches!(peer.stage(), Stage::Subscribed));
        (peer, tally)
    }

    #[test]
    fn bytes_one_by_one_are_as_good_as_all_at_once() {
        let (mut peer, mut tally) = (connected(), Tally::new());
        let mut bytes = opening();
        bytes.extend(publication(1));
        for byte in bytes {
            feed(&mut peer, &mut tally, &[byte]).unwrap();
        }
        assert!(matches!(peer.stage(), Stage::Subscribed));
        assert_eq!((tally.delivered, peer.lost(1)), (1, 0));
    }

    #[test]
    fn a_ping_is_answered() {
        let (mut peer, mut tally) = subscribed();
        let mut pong = feed(&mut peer, &mut tally, &text("{}")).unwrap();
        let mut server = Assembler::new(Role::Server);
        let opcode = Opcode::Text;
        let payload = &b"{}"[..];
        assert_eq!(
            server.next(&mut &mut pong[..]),
            Ok(Some(Incoming::Message { opcode, payload }))
        );
        assert_eq!(tally.pings, 1);
    }

    #[test]
    fn every_fault_of_a_delivery_has_its_count() {
        let (mut peer, mut tally) = subscribed();
        let mut damaged = publication(4);
        damaged[90] ^= 1;
        let mut misrouted = publication(6);
        let channel = misrouted.windows(6).position(|w| w == b"room-5").unwrap();
        misrouted[channel + 5] = b'6';
        for bytes in [
            &publication(2),
            &publication(1),
            &publication(2),
            &damaged,
            &publication(5),
            &misrouted,
        ] {
            feed(&mut peer, &mut tally, bytes).unwrap();
        }
        assert_eq!(tally.delivered, 3);
        assert_eq!((tally.reordered, tally.duplicated), (1, 1));
        assert_eq!((tally.damaged, tally.misrouted), (1, 1));
        // 3 never came, 4 came damaged, 6 under the wrong name.
        assert_eq!(peer.lost(6), 3);
    }

    #[test]
    fn a_refusal_is_a_failure_with_its_code() {
        let (mut peer, mut tally) = (connected(), Tally::new());
        let refusal = r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        let mut bytes = opening();
        let frame = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        bytes.truncate(frame);
        bytes.extend(text(r#"{"id":1,"connect":{"client":"c","version":"v"}}"#));
        bytes.extend(text(refusal));
        assert_eq!(
            feed(&mut peer, &mut tally, &bytes),
            Err(Failure::SubscribeRefused(103))
        );
        let (mut peer, mut tally) = subscribed();
        let close = b"\x88\x02\x0b\xb9";
        assert_eq!(
            feed(&mut peer, &mut tally, close),
            Err(Failure::Closed(3001))
        );
    }
}
