//! One client over all its connections, without a socket: bytes in, bytes to send out.
//!
//! It does what an SDK does: connect and subscribe in one message, remember epoch and last offset of
//! each room, and ask for what came after them on the next connection. And it checks: publication n to
//! a room has the room's first offset plus n, and must come exactly once and in order, live or
//! recovered, unless the server said that it does not.

use super::message::{self, Message, Publication, Subscription};
use super::tally::Tally;
use crate::dialect::{Named, ROOM_PREFIX};
use crate::order::{Arrival, Order};
use crate::payload;
use crate::tally::Failure;
use crate::upgrade::{self, Numbers};
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use std::fmt::Write;

/// Payload bytes of one message from the server: up to 300 recovered publications for each room.
const MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

const CONNECT_ID: u32 = 1;
/// Unsubscribe codes from this one on ask the client to subscribe again.
const INSUFFICIENT_STATE: u32 = 2500;

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Value of the `Host` field.
    pub(super) host: String,
    /// Path of the WebSocket endpoint.
    pub(super) path: String,
    /// Run number in the payloads.
    pub(super) run: u16,
    /// Publications that the rooms' histories hold.
    pub(super) history: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    rooms: Vec<Room>,
    stage: Stage,
    assembler: Assembler,
    /// What key and masks of the connection are made from.
    seed: u64,
    next_id: u32,
}

/// How far the connection has come.
#[derive(Debug)]
enum Stage {
    /// There is none.
    Away,
    /// The upgrade request was sent; the bytes of its answer, while incomplete.
    Upgrading(Vec<u8>),
    /// Connect and subscribe were sent.
    Joining,
    /// The connect command was confirmed.
    Connected,
}

/// What a client knows of a room.
#[derive(Debug)]
struct Room {
    number: u32,
    /// `None` before the first subscription.
    position: Option<Position>,
    subscribed: Subscribed,
}

#[derive(Debug, PartialEq, Eq)]
enum Subscribed {
    No,
    /// The command with this id asks for it.
    Asked(u32),
    Yes,
}

#[derive(Debug)]
struct Position {
    epoch: String,
    /// The offset of the room before publishing began.
    base: u64,
    /// Publications that came; those after `base` are numbered from 1.
    order: Order,
}

impl Position {
    fn last(&self) -> u64 {
        self.base + u64::from(self.order.last())
    }

    /// The number of the publication with this offset.
    fn number(&self, offset: u64) -> Option<u32> {
        let number = offset.checked_sub(self.base)?;
        u32::try_from(number).ok().filter(|number| *number > 0)
    }
}

impl Client {
    /// A client of these rooms, without a connection.
    pub(super) fn new(rooms: impl Iterator<Item = u32>) -> Self {
        Self {
            rooms: rooms
                .map(|number| Room {
                    number,
                    position: None,
                    subscribed: Subscribed::No,
                })
                .collect(),
            stage: Stage::Away,
            assembler: Assembler::new(Role::Client),
            seed: 0,
            next_id: 0,
        }
    }

    /// TCP is connected: appends the upgrade request to `out`.
    pub(super) fn handle_connected(&mut self, seed: u64, context: &Context, out: &mut Vec<u8>) {
        self.stage = Stage::Upgrading(Vec::new());
        self.assembler = Assembler::with_message_max(Role::Client, MESSAGE_BYTES_MAX);
        self.seed = seed;
        self.next_id = CONNECT_ID;
        upgrade::write_request(out, &context.host, context.path.as_bytes(), None, seed);
    }

    /// The connection is gone: nothing more of it counts.
    pub(super) fn leave(&mut self) {
        self.stage = Stage::Away;
        for room in &mut self.rooms {
            room.subscribed = Subscribed::No;
        }
    }

    /// Appends a close frame to `out`, if the connection has come so far.
    pub(super) fn write_close(&self, out: &mut Vec<u8>) {
        if matches!(self.stage, Stage::Joining | Stage::Connected) {
            let normal = 1000u16.to_be_bytes();
            write_client_frame(out, Opcode::Close, self.mask(), &normal);
        }
    }

    /// Whether it is subscribed to all its rooms.
    pub(super) fn is_back(&self) -> bool {
        self.rooms
            .iter()
            .all(|room| room.subscribed == Subscribed::Yes)
    }

    /// Whether it is subscribed to all its rooms and at their ends, given how many publications each
    /// room had.
    pub(super) fn is_at_end(&self, published: impl Fn(u32) -> u32) -> bool {
        self.is_back()
            && self.rooms.iter().all(|room| {
                let position = room.position.as_ref();
                position.is_some_and(|position| position.order.last() == published(room.number))
            })
    }

    /// Publications that did not come and of which it was not told, given how many each room had.
    pub(super) fn lost(&self, published: impl Fn(u32) -> u32) -> u64 {
        let missing = self.rooms.iter().map(|room| {
            let published = published(room.number);
            let position = room.position.as_ref();
            u64::from(position.map_or(published, |position| position.order.missing(published)))
        });
        missing.sum()
    }

    /// Bytes came in: counts what they bring and appends what is to be sent to `out`.
    pub(super) fn handle_bytes(
        &mut self,
        input: &mut [u8],
        context: &Context,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Stage::Upgrading(head) = &mut self.stage else {
            return self.handle_frames(input, context, tally, out);
        };
        head.extend_from_slice(input);
        let Some(head_bytes) = upgrade::check_response(head, None, self.seed)? else {
            return Ok(());
        };
        let mut frames = head.split_off(head_bytes);
        self.stage = Stage::Joining;
        self.write_commands(out);
        self.handle_frames(&mut frames, context, tally, out)
    }

    /// Connect and all subscribes in one message, as the official JavaScript client sends them.
    fn write_commands(&mut self, out: &mut Vec<u8>) {
        let mut commands = format!("{{\"id\":{CONNECT_ID},\"connect\":{{\"name\":\"loadgen\"}}}}");
        for index in 0..self.rooms.len() {
            commands.push('\n');
            self.add_subscribe(index, &mut commands);
        }
        write_client_frame(out, Opcode::Text, self.mask(), commands.as_bytes());
    }

    fn add_subscribe(&mut self, index: usize, commands: &mut String) {
        self.next_id += 1;
        let (id, room) = (self.next_id, &mut self.rooms[index]);
        room.subscribed = Subscribed::Asked(id);
        let number = room.number;
        let recover = match &room.position {
            None => String::new(),
            Some(position) => format!(
                ",\"recover\":true,\"epoch\":\"{}\",\"offset\":{}",
                position.epoch,
                position.last()
            ),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            commands,
            "{{\"id\":{id},\"subscribe\":{{\"channel\":\"{ROOM_PREFIX}{number}\"{recover},\"flag\":1}}}}"
        );
    }

    fn mask(&self) -> [u8; 4] {
        // Unlike the key's numbers, but as random.
        (Numbers::new(!self.seed).next() as u32).to_ne_bytes()
    }

    fn handle_frames(
        &mut self,
        mut input: &mut [u8],
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
                        self.handle_line(line, context, tally, out)?;
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
        context: &Context,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match message::read(line) {
            Message::Ping => write_client_frame(out, Opcode::Text, self.mask(), b"{}"),
            Message::Publication(number, publication) => {
                match self
                    .rooms
                    .iter_mut()
                    .find(|room| Named::Room(room.number) == number)
                {
                    Some(room) if room.subscribed == Subscribed::Yes => {
                        room.take(&publication, context, tally);
                    }
                    _ => tally.deliveries.unasked += 1,
                }
            }
            Message::Unsubscribed(number, code) if code >= INSUFFICIENT_STATE => {
                tally.insufficient += 1;
                let index = self
                    .rooms
                    .iter()
                    .position(|room| Named::Room(room.number) == number);
                let mut command = String::new();
                self.add_subscribe(index.ok_or(Failure::Message)?, &mut command);
                write_client_frame(out, Opcode::Text, self.mask(), command.as_bytes());
            }
            Message::Connected if matches!(self.stage, Stage::Joining) => {
                self.stage = Stage::Connected;
            }
            Message::Subscribed(id, subscription) if matches!(self.stage, Stage::Connected) => {
                let asked = Subscribed::Asked(id);
                let room = self.rooms.iter_mut().find(|room| room.subscribed == asked);
                room.ok_or(Failure::Message)?
                    .handle_subscribed(subscription, context, tally)?;
            }
            Message::Refused(CONNECT_ID, code) => return Err(Failure::ConnectRefused(code)),
            Message::Refused(_, code) => return Err(Failure::SubscribeRefused(code)),
            _ => return Err(Failure::Message),
        }
        Ok(())
    }
}

impl Room {
    fn handle_subscribed(
        &mut self,
        subscription: Subscription<'_>,
        context: &Context,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if !subscription.recoverable || subscription.epoch.is_empty() {
            return Err(Failure::NotRecoverable);
        }
        self.subscribed = Subscribed::Yes;
        let Some(position) = &mut self.position else {
            self.position = Some(Position {
                epoch: subscription.epoch,
                base: subscription.offset,
                order: Order::new(),
            });
            return Ok(());
        };
        let counts = &mut tally.recoveries;
        let (last, top) = (position.last(), subscription.offset);
        if subscription.epoch != position.epoch {
            counts.other_epoch += 1;
        } else if !subscription.was_recovering || top < last {
            counts.contradicting += 1;
        } else if !subscription.recovered {
            let missed = top - last;
            if missed > context.history {
                counts.beyond_history += 1;
            } else {
                counts.unexplained += 1;
            }
            let number = position.number(top).unwrap_or(0);
            tally.deliveries.told_missing += u64::from(position.order.skip(number));
        } else if top != last {
            // A recovered position is the one that was asked for: the publications move it on.
            counts.contradicting += 1;
        } else {
            counts.recovered += 1;
        }
        let before = tally.deliveries.delivered;
        for publication in &subscription.publications {
            self.take(publication, context, tally);
        }
        tally.deliveries.recovered += tally.deliveries.delivered - before;
        Ok(())
    }

    /// Checks one publication.
    fn take(&mut self, publication: &Publication<'_>, context: &Context, tally: &mut Tally) {
        let counts = &mut tally.deliveries;
        let position = self.position.as_mut();
        let stamp = payload::read(publication.data.get().as_bytes());
        let (Some(position), Ok(stamp)) = (position, stamp) else {
            counts.wrong += 1;
            return;
        };
        let expected = (
            context.run,
            self.number,
            position.number(publication.offset),
        );
        if (stamp.run, stamp.room, Some(stamp.number)) != expected {
            counts.wrong += 1;
            return;
        }
        match position.order.take(stamp.number) {
            Arrival::New => counts.delivered += 1,
            Arrival::Late => {
                counts.delivered += 1;
                counts.reordered += 1;
            }
            Arrival::Repeated => counts.duplicated += 1,
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
            history: 10,
        }
    }

    fn text(payload: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        write_server_header(&mut frame, Opcode::Text, payload.len());
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    /// The publication with this offset; the room was at offset 7 when publishing began.
    fn publication(offset: u64) -> String {
        let stamp = Stamp {
            run: 1,
            room: 5,
            number: offset as u32 - 7,
            ..Stamp::default()
        };
        let data = String::from_utf8(Maker::new(64).make(&stamp).to_vec()).unwrap();
        format!(r#"{{"data":{data},"offset":{offset}}}"#)
    }

    fn push_line(offset: u64) -> String {
        let publication = publication(offset);
        format!(r#"{{"push":{{"channel":"room-5","pub":{publication}}}}}"#)
    }

    fn push(offset: u64) -> Vec<u8> {
        text(&push_line(offset))
    }

    struct Run {
        client: Client,
        tally: Tally,
        sent: String,
    }

    impl Run {
        fn new() -> Self {
            let mut run = Self {
                client: Client::new([5].into_iter()),
                tally: Tally::new(),
                sent: String::new(),
            };
            run.connect(r#""offset":7"#);
            run
        }

        fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
            let (tally, mut out) = (&mut self.tally, Vec::new());
            let mut bytes = bytes.to_vec();
            self.client
                .handle_bytes(&mut bytes, &context(), tally, &mut out)?;
            let mut server = Assembler::new(Role::Server);
            let mut out = &mut out[..];
            while let Some(Incoming::Message { payload, .. }) = server.next(&mut out).unwrap() {
                self.sent = String::from_utf8(payload.to_vec()).unwrap();
            }
            Ok(())
        }

        /// A connection whose subscribe is answered with these fields.
        fn connect(&mut self, answer: &str) {
            self.client.leave();
            self.client
                .handle_connected(SEED, &context(), &mut Vec::new());
            let accept = derive_accept_key(&upgrade::key(SEED));
            let upgraded = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            self.feed(upgraded.as_bytes()).unwrap();
            let reply = format!(
                "{{\"id\":1,\"connect\":{{}}}}\n\
                 {{\"id\":2,\"subscribe\":{{\"recoverable\":true,\"epoch\":\"abc\",{answer}}}}}"
            );
            self.feed(&text(&reply)).unwrap();
        }

        fn lost(&self, top: u32) -> u64 {
            self.client.lost(|_| top - 7)
        }
    }

    #[test]
    fn a_client_asks_for_what_came_after_its_last_offset_and_takes_it_once() {
        let mut run = Run::new();
        run.feed(&push(8)).unwrap();
        let missed = [publication(9), publication(10)].join(",");
        run.connect(&format!(
            r#""offset":8,"recovered":true,"was_recovering":true,"publications":[{missed}]"#
        ));
        assert!(
            run.sent
                .contains(r#""recover":true,"epoch":"abc","offset":8"#)
        );
        run.feed(&push(11)).unwrap();
        assert!(run.client.is_at_end(|_| 4) && run.tally.is_clean());
        assert_eq!((run.tally.deliveries.delivered, run.lost(11)), (4, 0));
        assert_eq!(
            (
                run.tally.deliveries.recovered,
                run.tally.recoveries.recovered
            ),
            (2, 1)
        );
    }

    #[test]
    fn a_publication_that_is_missing_from_a_recovery_is_lost() {
        let mut run = Run::new();
        let missed = publication(9);
        run.connect(&format!(
            r#""offset":7,"recovered":true,"was_recovering":true,"publications":[{missed}]"#
        ));
        assert_eq!((run.lost(9), run.lost(10)), (1, 2));
        assert!(!run.client.is_at_end(|_| 3));
    }

    #[test]
    fn a_client_that_was_told_has_lost_nothing() {
        let mut run = Run::new();
        run.connect(r#""offset":18,"was_recovering":true"#);
        run.feed(&push(19)).unwrap();
        assert_eq!((run.lost(19), run.tally.deliveries.told_missing), (0, 11));
        assert_eq!(run.tally.recoveries.beyond_history, 1);
        assert!(run.tally.is_clean());
        run.connect(r#""offset":21,"was_recovering":true"#);
        assert_eq!(run.tally.recoveries.unexplained, 1);
        assert!(!run.tally.is_clean());
    }

    #[test]
    fn every_fault_of_a_delivery_has_its_count() {
        let mut run = Run::new();
        for offset in [9, 8, 9] {
            run.feed(&push(offset)).unwrap();
        }
        // The right payload under another offset.
        let line = push_line(10);
        run.feed(&text(&line.replace(":10}", ":11}"))).unwrap();
        run.feed(&text(&line.replace("room-5", "room-6"))).unwrap();
        let counts = run.tally.deliveries;
        assert_eq!(
            (counts.delivered, counts.reordered, counts.duplicated),
            (2, 1, 1)
        );
        assert_eq!((counts.wrong, counts.unasked), (1, 1));
    }

    #[test]
    fn insufficient_state_is_a_reason_to_recover_on_the_same_connection() {
        let mut run = Run::new();
        run.feed(&text(
            r#"{"push":{"channel":"room-5","unsubscribe":{"code":2500,"reason":"x"}}}"#,
        ))
        .unwrap();
        assert!(run.sent.contains(r#""id":3"#) && run.sent.contains(r#""offset":7"#));
        assert!(!run.client.is_back());
        run.feed(&push(8)).unwrap();
        assert_eq!(run.tally.deliveries.unasked, 1);
    }

    #[test]
    fn a_room_without_recovery_is_no_room_to_check() {
        let mut run = Run::new();
        run.client.rooms[0].subscribed = Subscribed::Asked(9);
        let plain = text(r#"{"id":9,"subscribe":{}}"#);
        assert_eq!(run.feed(&plain), Err(Failure::NotRecoverable));
    }
}
