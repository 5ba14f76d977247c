//! One client connection, without its socket: bytes in, bytes to send out.
//!
//! Upgrade, what the server's protocol wants for a subscription, then publications and pings until the
//! end. An idle subscribed peer is [`PEER_BYTES_MAX`] bytes at most and has nothing on the heap.
#![expect(
    clippy::box_collection,
    reason = "one word instead of three in every peer, and almost always absent"
)]

use crate::dialect::{Dialect, Line, Named, Session};
use crate::order::{Arrival, Order};
use crate::payload::{self, Maker, Stamp};
use crate::tally::{Failure, Tally};
use crate::upgrade::{self, Numbers};
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use std::sync::Arc;

/// Bytes of a peer.
pub(crate) const PEER_BYTES_MAX: usize = 120;
const _: () = assert!(
    size_of::<Peer>() <= PEER_BYTES_MAX,
    "there are a million of them"
);

/// Payload bytes of one message from the server: we chose it, and it may batch.
const MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// What all peers of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Value of the `Host` field.
    pub(crate) host: String,
    /// What the server speaks.
    pub(crate) dialect: Arc<dyn Dialect>,
    /// Run number in the payloads that count.
    pub(crate) run: u16,
    /// Who publishes.
    pub(crate) publishers: Publishers,
}

/// Who publishes to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publishers {
    /// One, who is no member.
    One,
    /// Every member; this many at most.
    Members(u32),
}

/// How far a peer has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// TCP connect is under way.
    Connecting,
    /// The upgrade request was sent; the bytes of its answer, while incomplete.
    Upgrading(Option<Box<Vec<u8>>>),
    /// The WebSocket is open.
    Joining,
    /// The subscription was confirmed.
    Subscribed,
    /// Failed or closed.
    Gone {
        /// Whether what it missed since then is lost.
        misses: bool,
    },
}

/// The publications that a peer has seen.
#[derive(Debug)]
enum Seen {
    /// Of the one publisher.
    One(Order),
    /// Of every member.
    Members(Box<Members>),
}

/// What a member of a chat has seen, and what it sent.
#[derive(Debug)]
struct Members {
    /// By member, itself included.
    orders: Vec<Order>,
    sent: u32,
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stage: Stage,
    session: Session,
    seen: Seen,
    assembler: Assembler,
    /// What key and masks are made from.
    seed: u64,
    since: Since,
    /// When its connect was due, or when it was dropped; once subscribed, since when. Nanoseconds.
    pub(crate) since_ns: u64,
    /// Bytes that wait for the send in flight.
    unsent: Option<Box<Vec<u8>>>,
}

/// Whether a peer is there from before the first publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// It is: everything is expected.
    Start,
    /// It comes while publications flow: what is due from then on is expected.
    Later,
}

impl Peer {
    /// A peer whose TCP connect was just started.
    pub(crate) fn new(
        connection: u32,
        room: u32,
        seed: u64,
        since: Since,
        publishers: Publishers,
    ) -> Self {
        let order = || match since {
            Since::Start => Order::new(),
            Since::Later => Order::from_first(),
        };
        let seen = match publishers {
            Publishers::One => Seen::One(order()),
            Publishers::Members(members) => Seen::Members(Box::new(Members {
                orders: (0..members).map(|_| order()).collect(),
                sent: 0,
            })),
        };
        Self {
            stage: Stage::Connecting,
            session: Session {
                room,
                connection,
                ..Session::default()
            },
            seen,
            assembler: Assembler::with_message_max(Role::Client, MESSAGE_BYTES_MAX),
            seed,
            since,
            since_ns: 0,
            unsent: None,
        }
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whether it has neither been subscribed nor failed yet.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(
            self.stage,
            Stage::Connecting | Stage::Upgrading(_) | Stage::Joining
        )
    }

    /// Whether it is there from the start.
    pub(crate) fn since(&self) -> Since {
        self.since
    }

    /// Number of its room.
    pub(crate) fn room(&self) -> u32 {
        self.session.room
    }

    /// Number of the connection in the run.
    pub(crate) fn connection(&self) -> u32 {
        self.session.connection
    }

    /// Publications that it sent.
    pub(crate) fn sent(&self) -> u32 {
        match &self.seen {
            Seen::One(_) => 0,
            Seen::Members(members) => members.sent,
        }
    }

    /// Ends it by the server's or the host's fault: what it misses from now on is lost.
    pub(crate) fn end(&mut self) -> Stage {
        let misses = match self.stage {
            Stage::Subscribed => true,
            Stage::Gone { misses } => misses,
            _ => false,
        };
        self.leave(misses)
    }

    /// What is missing between what came.
    pub(crate) fn gaps(&self) -> u64 {
        match &self.seen {
            Seen::One(order) => u64::from(order.gaps()),
            Seen::Members(members) => {
                let gaps = members.orders.iter().map(|order| u64::from(order.gaps()));
                gaps.sum()
            }
        }
    }

    /// What it has seen of the one publisher, if that is what it hears; it has then seen nothing.
    pub(crate) fn take_order(&mut self) -> Option<Order> {
        match &mut self.seen {
            Seen::One(order) => Some(std::mem::replace(order, Order::new())),
            Seen::Members(_) => None,
        }
    }

    /// Ends it on purpose: nothing more is expected.
    pub(crate) fn drop_out(&mut self) {
        self.leave(false);
    }

    fn leave(&mut self, misses: bool) -> Stage {
        self.unsent = None;
        self.session.rest = None;
        self.assembler = Assembler::with_message_max(Role::Client, 0);
        std::mem::replace(&mut self.stage, Stage::Gone { misses })
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
        let mut path = Vec::with_capacity(64);
        context.dialect.write_path(&self.session, &mut path);
        let subprotocol = context.dialect.subprotocol();
        upgrade::write_request(out, &context.host, &path, subprotocol, self.seed);
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
        let Stage::Upgrading(head) = &mut self.stage else {
            return self.handle_frames(input, now_ns, context, tally, out);
        };
        let mut head = head.take().unwrap_or_default();
        head.extend_from_slice(input);
        let subprotocol = context.dialect.subprotocol();
        let Some(head_bytes) = upgrade::check_response(&head, subprotocol, self.seed)? else {
            self.stage = Stage::Upgrading(Some(head));
            return Ok(());
        };
        self.stage = Stage::Joining;
        let (session, mut hearing) = self.hearing(now_ns, context, tally, out);
        context.dialect.handle_open(session, &mut hearing);
        self.handle_frames(&mut head[head_bytes..], now_ns, context, tally, out)
    }

    /// Publishes, if it is subscribed; a publication that was due at `due_ns`. Whether it did.
    pub(crate) fn publish(
        &mut self,
        due_ns: u64,
        now_ns: u64,
        member: u32,
        context: &Context,
        maker: &mut Maker,
        (tally, out): (&mut Tally, &mut Vec<u8>),
    ) -> bool {
        let Seen::Members(members) = &mut self.seen else {
            return false;
        };
        if !matches!(self.stage, Stage::Subscribed) {
            return false;
        }
        members.sent += 1;
        let number = members.sent;
        let late_ns = now_ns.saturating_sub(due_ns);
        let payload = maker.make(&Stamp {
            run: context.run,
            room: self.session.room,
            number,
            publisher: member,
            due_ns,
            delay_us: u32::try_from(late_ns / 1_000).unwrap_or(u32::MAX),
        });
        tally.publish(late_ns);
        let (session, mut hearing) = self.hearing(now_ns, context, tally, out);
        context.dialect.publish(session, payload, &mut hearing);
        true
    }

    /// Appends a close frame to `out`, if the WebSocket is open.
    pub(crate) fn write_close(&self, out: &mut Vec<u8>) {
        if matches!(self.stage, Stage::Joining | Stage::Subscribed) {
            let normal = 1000u16.to_be_bytes();
            write_client_frame(out, Opcode::Close, mask(self.seed), &normal);
        }
    }

    /// Publications that did not come, given how many each publisher of its room sent, and the first that
    /// was due when it was there.
    pub(crate) fn lost(&self, first: u32, published: impl Fn(u32) -> u32) -> u64 {
        if !matches!(self.stage, Stage::Subscribed | Stage::Gone { misses: true }) {
            return 0;
        }
        match &self.seen {
            Seen::One(order) => u64::from(order.missing_from(first, published(0))),
            Seen::Members(members) => (0..)
                .zip(&members.orders)
                .map(|(member, order)| u64::from(order.missing_from(first, published(member))))
                .sum(),
        }
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
                Incoming::Message { opcode, payload } => {
                    let (session, mut hearing) = self.hearing(now_ns, context, tally, out);
                    let dialect = &context.dialect;
                    dialect.handle_message(session, opcode, payload, &mut hearing)?;
                }
                Incoming::Ping(payload) => {
                    tally.pings += 1;
                    write_client_frame(out, Opcode::Pong, mask(self.seed), payload);
                }
                Incoming::Pong(_) => {}
                Incoming::Close { code, .. } => return Err(Failure::Closed(code.unwrap_or(0))),
            }
        }
        self.assembler = assembler;
        Ok(())
    }

    fn hearing<'a>(
        &'a mut self,
        now_ns: u64,
        context: &Context,
        tally: &'a mut Tally,
        out: &'a mut Vec<u8>,
    ) -> (&'a mut Session, Hearing<'a>) {
        let hearing = Hearing {
            stage: &mut self.stage,
            seen: &mut self.seen,
            room: self.session.room,
            seed: self.seed,
            run: context.run,
            now_ns,
            tally,
            out,
        };
        (&mut self.session, hearing)
    }
}

/// A peer while its dialect speaks.
struct Hearing<'a> {
    stage: &'a mut Stage,
    seen: &'a mut Seen,
    room: u32,
    seed: u64,
    run: u16,
    now_ns: u64,
    tally: &'a mut Tally,
    out: &'a mut Vec<u8>,
}

impl Line for Hearing<'_> {
    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        write_client_frame(self.out, opcode, mask(self.seed), payload);
    }

    fn subscribed(&mut self) {
        *self.stage = Stage::Subscribed;
    }

    fn publication(&mut self, room: Named, data: &[u8]) {
        let Ok(stamp) = payload::read(data) else {
            self.tally.damaged += 1;
            return;
        };
        if stamp.run != self.run {
            self.tally.foreign += 1;
            return;
        }
        let is_ours = matches!(room, Named::Unnamed) || room == Named::Room(self.room);
        let order = match self.seen {
            Seen::One(order) => (stamp.publisher == 0).then_some(order),
            Seen::Members(members) => members.orders.get_mut(stamp.publisher as usize),
        };
        let Some(order) = order.filter(|_| is_ours && stamp.room == self.room) else {
            self.tally.misrouted += 1;
            return;
        };
        match order.take(stamp.number) {
            Arrival::New => self.tally.deliver(&stamp, self.now_ns),
            Arrival::Late => {
                self.tally.reordered += 1;
                self.tally.deliver(&stamp, self.now_ns);
            }
            Arrival::Repeated => self.tally.duplicated += 1,
        }
    }

    fn published(&mut self, _: u64, refusal: Option<u32>) {
        if let Some(code) = refusal {
            self.tally.refused += 1;
            self.tally.refusal.get_or_insert(code);
        }
    }

    fn pinged(&mut self) {
        self.tally.pings += 1;
    }
}

fn mask(seed: u64) -> [u8; 4] {
    // Unlike the key's numbers, but as random.
    (Numbers::new(!seed).next() as u32).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::CentrifugoJson;
    use ringcast::wire::frame::write_server_header;
    use tungstenite::handshake::derive_accept_key;

    const SEED: u64 = 99;

    fn context(publishers: Publishers) -> Context {
        Context {
            host: "127.0.0.1:8000".to_owned(),
            dialect: Arc::new(CentrifugoJson::new("/connection/websocket")),
            run: 1,
            publishers,
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

    fn publication_of(publisher: u32, number: u32) -> Vec<u8> {
        let stamp = Stamp {
            run: 1,
            room: 5,
            number,
            publisher,
            ..Stamp::default()
        };
        let mut maker = Maker::new(100);
        let data = std::str::from_utf8(maker.make(&stamp)).unwrap();
        text(&format!(
            r#"{{"push":{{"channel":"room-5","pub":{{"data":{data},"offset":{number}}}}}}}"#
        ))
    }

    fn publication(number: u32) -> Vec<u8> {
        publication_of(0, number)
    }

    struct Run {
        peer: Peer,
        context: Context,
        tally: Tally,
    }

    impl Run {
        fn connected(publishers: Publishers, since: Since) -> Self {
            let context = context(publishers);
            let mut peer = Peer::new(17, 5, SEED, since, publishers);
            peer.handle_connected(&context, &mut Vec::new());
            Self {
                peer,
                context,
                tally: Tally::new(),
            }
        }

        fn subscribed(publishers: Publishers) -> Self {
            let mut run = Self::connected(publishers, Since::Start);
            run.feed(&opening()).unwrap();
            assert!(matches!(run.peer.stage(), Stage::Subscribed));
            run
        }

        fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
            let (mut out, mut bytes) = (Vec::new(), bytes.to_vec());
            let (context, tally) = (&self.context, &mut self.tally);
            self.peer
                .handle_bytes(&mut bytes, 1, context, tally, &mut out)?;
            Ok(out)
        }
    }

    #[test]
    fn bytes_one_by_one_are_as_good_as_all_at_once() {
        let mut run = Run::connected(Publishers::One, Since::Start);
        let mut bytes = opening();
        bytes.extend(publication(1));
        for byte in bytes {
            run.feed(&[byte]).unwrap();
        }
        assert!(matches!(run.peer.stage(), Stage::Subscribed));
        assert_eq!((run.tally.delivered, run.peer.lost(1, |_| 1)), (1, 0));
    }

    #[test]
    fn a_ping_is_answered() {
        let mut run = Run::subscribed(Publishers::One);
        let mut pong = run.feed(&text("{}")).unwrap();
        let mut server = Assembler::new(Role::Server);
        let opcode = Opcode::Text;
        let payload = &b"{}"[..];
        assert_eq!(
            server.next(&mut &mut pong[..]),
            Ok(Some(Incoming::Message { opcode, payload }))
        );
        assert_eq!(run.tally.pings, 1);
    }

    #[test]
    fn every_fault_of_a_delivery_has_its_count() {
        let mut run = Run::subscribed(Publishers::One);
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
            // Of a publisher that the room does not have.
            &publication_of(1, 1),
        ] {
            run.feed(bytes).unwrap();
        }
        let tally = &run.tally;
        assert_eq!(tally.delivered, 3);
        assert_eq!((tally.reordered, tally.duplicated), (1, 1));
        assert_eq!((tally.damaged, tally.misrouted), (1, 2));
        // 3 never came, 4 came damaged, 6 under the wrong name.
        assert_eq!(run.peer.lost(1, |_| 6), 3);
    }

    #[test]
    fn each_member_of_a_chat_has_an_order_of_its_own() {
        let mut run = Run::subscribed(Publishers::Members(3));
        for (member, number) in [(0, 1), (2, 1), (0, 2), (2, 3)] {
            run.feed(&publication_of(member, number)).unwrap();
        }
        // One of member 2 is missing, and both of member 1.
        assert_eq!(run.peer.lost(1, |member| [2, 2, 3][member as usize]), 3);
        assert_eq!((run.tally.delivered, run.tally.reordered), (4, 0));
    }

    #[test]
    fn a_member_publishes_to_its_room() {
        let mut run = Run::subscribed(Publishers::Members(3));
        let (mut maker, mut out) = (Maker::new(64), Vec::new());
        let to = (&mut run.tally, &mut out);
        assert!(
            run.peer
                .publish(10, 20_000, 1, &run.context, &mut maker, to)
        );
        let mut server = Assembler::new(Role::Server);
        let Ok(Some(Incoming::Message { payload, .. })) = server.next(&mut &mut out[..]) else {
            panic!("no message");
        };
        let data = payload.windows(4).position(|w| w == b"\"rc0").unwrap();
        let stamp = payload::read(&payload[data..][..64]).unwrap();
        assert_eq!((stamp.publisher, stamp.number, stamp.delay_us), (1, 1, 19));
        assert_eq!((run.peer.sent(), run.tally.published), (1, 1));
    }

    #[test]
    fn who_drops_out_has_lost_only_what_was_missing_before() {
        let mut run = Run::connected(Publishers::One, Since::Later);
        run.feed(&opening()).unwrap();
        for number in [7, 9] {
            run.feed(&publication(number)).unwrap();
        }
        assert_eq!(run.peer.gaps(), 1);
        run.peer.drop_out();
        assert_eq!(run.peer.lost(1, |_| 20), 0);
    }

    #[test]
    fn what_was_missing_before_a_failure_is_still_missing_when_another_takes_the_place() {
        let mut run = Run::subscribed(Publishers::One);
        for number in [1, 3] {
            run.feed(&publication(number)).unwrap();
        }
        run.peer.end();
        assert_eq!(run.peer.gaps(), 1);
        run.peer.drop_out();
    }

    #[test]
    fn a_refusal_or_a_close_is_a_failure_with_its_code() {
        let mut run = Run::connected(Publishers::One, Since::Start);
        let refusal = r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        let mut bytes = opening();
        let frame = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        bytes.truncate(frame);
        bytes.extend(text(r#"{"id":1,"connect":{"client":"c","version":"v"}}"#));
        bytes.extend(text(refusal));
        assert_eq!(run.feed(&bytes), Err(Failure::SubscribeRefused(103)));
        let mut run = Run::subscribed(Publishers::One);
        let close = b"\x88\x02\x0b\xb9";
        assert_eq!(run.feed(close), Err(Failure::Closed(3001)));
    }
}
