//! A simulated client: what it asks for, what it remembers, what it checks.

use super::{Dice, KINDS, ROOMS, Totals, room};
use ringcast::driver::sim::Client;
use ringcast::wire::fossil;
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What a client asks for with its subscriptions; it does not change.
#[derive(Clone, Copy)]
pub(crate) struct Tastes {
    /// It recovers after a reconnect; else it begins anew and is closed when it is slow.
    recovers: bool,
    delta: bool,
    members: bool,
    /// It wants the publications only whose number leaves this when it is divided by [`KINDS`].
    kind: Option<u64>,
}

impl Tastes {
    pub(crate) fn random(dice: &mut Dice) -> Self {
        Self {
            recovers: dice.below(4) > 0,
            delta: dice.below(3) == 0,
            members: dice.below(3) == 0,
            kind: (dice.below(3) == 0).then(|| dice.below(KINDS)),
        }
    }

    /// Deltas need every publication.
    fn kind(self) -> Option<u64> {
        self.kind.filter(|_| !self.delta)
    }

    /// Offset of the first publication after `last` that it wants.
    fn next(self, last: u64) -> u64 {
        let is_wanted = |offset: &u64| self.kind().is_none_or(|kind| offset % KINDS == kind);
        (last + 1..)
            .find(is_wanted)
            .expect("every kind comes again")
    }
}

/// How far a client has come in a room. It is kept over reconnects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) subscribed: bool,
    /// Offset of the last publication that it has, or that it was told to begin at.
    pub(crate) offset: Option<u64>,
    epoch: String,
    /// Text of the last publication, for deltas.
    base: Option<String>,
}

/// A client, and what it has seen.
pub(crate) struct User {
    pub(crate) client: Client,
    tastes: Tastes,
    assembler: Assembler,
    /// Bytes before the end of the HTTP response; `None` once it is over.
    head: Option<Vec<u8>>,
    asked: bool,
    connected: bool,
    pub(crate) stalled: bool,
    vanished: bool,
    commands: u32,
    pending: HashMap<u32, (String, bool)>,
    pub(crate) rooms: BTreeMap<String, Place>,
    pub(crate) close_code: Option<u16>,
}

impl User {
    pub(crate) fn new(client: Client, tastes: Tastes) -> Self {
        Self {
            client,
            tastes,
            assembler: Assembler::with_message_max(Role::Client, 1 << 20),
            head: Some(Vec::new()),
            asked: false,
            connected: false,
            stalled: false,
            vanished: false,
            commands: 0,
            pending: HashMap::new(),
            rooms: BTreeMap::new(),
            close_code: None,
        }
    }

    /// Whether its connection is of no use to it any more.
    pub(crate) fn is_gone(&self) -> bool {
        let ended = self.client.is_finished() || self.client.end().is_some();
        self.vanished || ended || self.close_code.is_some()
    }

    /// Goes on over a new connection, with what it remembers; 1 if it was closed as slow.
    pub(crate) fn come_back(&mut self, client: Client) -> u64 {
        let slow = u64::from(self.close_code == Some(3008));
        let mut rooms = std::mem::take(&mut self.rooms);
        rooms
            .values_mut()
            .for_each(|place| place.subscribed = false);
        if !self.tastes.recovers {
            rooms.clear();
        }
        // The other end is not always told.
        if !self.client.is_finished() {
            self.client.vanish();
        }
        *self = Self {
            rooms,
            ..Self::new(client, self.tastes)
        };
        slow
    }

    /// Whether it has everything that it wants of a room with this many publications.
    pub(crate) fn has_all(&self, offset: u64, top: u64) -> bool {
        offset <= top && self.tastes.next(offset) > top
    }

    pub(crate) fn is_well(&self) -> bool {
        !self.is_gone() && self.connected && self.pending.is_empty()
    }

    pub(crate) fn act(&mut self, dice: &mut Dice) {
        if self.is_gone() {
            return;
        }
        if !self.asked {
            self.asked = true;
            return self.client.write(UPGRADE);
        }
        let room = room(dice.below(ROOMS));
        match dice.below(24) {
            0 => {
                self.client.stop_reading();
                self.stalled = true;
            }
            1 | 2 => {
                self.client.resume_reading();
                self.stalled = false;
            }
            3 if dice.below(3) == 0 => {
                self.client.vanish();
                self.vanished = true;
            }
            4 if dice.below(3) == 0 => self.client.reset(),
            5 if dice.below(3) == 0 => self.client.close(),
            _ if !self.connected => {}
            6..=9 => self.unsubscribe(&room),
            _ => self.subscribe(&room),
        }
    }

    fn subscribe(&mut self, room: &str) {
        let pending = self.pending.values().any(|(waiting, _)| waiting == room);
        let place = self.rooms.entry(room.into()).or_default();
        if pending || place.subscribed {
            return;
        }
        let mut subscribe = json!({"channel": room});
        if self.tastes.recovers {
            subscribe["recoverable"] = json!(true);
        }
        if let (true, Some(offset)) = (self.tastes.recovers, place.offset) {
            subscribe["recover"] = json!(true);
            subscribe["epoch"] = json!(place.epoch);
            subscribe["offset"] = json!(offset);
        }
        if self.tastes.delta {
            subscribe["delta"] = json!("fossil");
        }
        if let Some(kind) = self.tastes.kind() {
            subscribe["tf"] = json!({"key": "kind", "cmp": "eq", "val": kind.to_string()});
        }
        if self.tastes.members {
            subscribe["join_leave"] = json!(true);
        }
        self.commands += 1;
        self.pending.insert(self.commands, (room.into(), true));
        let command = json!({"id": self.commands, "subscribe": subscribe});
        self.send(&command.to_string());
    }

    fn unsubscribe(&mut self, room: &str) {
        let pending = self.pending.values().any(|(waiting, _)| waiting == room);
        if !pending && self.rooms.get(room).is_some_and(|place| place.subscribed) {
            self.commands += 1;
            self.pending.insert(self.commands, (room.into(), false));
            let command = json!({"id": self.commands, "unsubscribe": {"channel": room}});
            self.send(&command.to_string());
        }
    }

    fn send(&mut self, text: &str) {
        if self.client.is_finished() || self.vanished {
            return;
        }
        let mut frame = Vec::new();
        write_client_frame(&mut frame, Opcode::Text, [1, 2, 3, 4], text.as_bytes());
        self.client.write(&frame);
    }

    /// Takes what has come in; returns what that was.
    pub(crate) fn read(&mut self, sequence: &mut BTreeMap<(String, u64), String>) -> Totals {
        let mut totals = Totals::default();
        let mut bytes = self.client.read();
        if bytes.is_empty() {
            return totals;
        }
        if let Some(mut head) = self.head.take() {
            head.append(&mut bytes);
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                self.head = Some(head);
                return totals;
            };
            if !head.starts_with(b"HTTP/1.1 101") {
                self.close_code = Some(0);
                return totals;
            }
            bytes = head.split_off(end + 4);
            self.commands = 1;
            self.send(r#"{"id":1,"connect":{}}"#);
        }
        if self.close_code.is_some() {
            return totals;
        }
        let mut messages = Vec::new();
        let mut input = &mut bytes[..];
        let mut close = None;
        while let Some(incoming) = self
            .assembler
            .next(&mut input)
            .expect("the server's frames are well formed")
        {
            match incoming {
                Incoming::Message { payload, .. } => messages.push(payload.to_vec()),
                Incoming::Close { code, reason } => {
                    assert!(!reason.is_empty(), "a close says why");
                    close = code;
                    break;
                }
                other => panic!("the server sent {other:?}"),
            }
        }
        for message in messages {
            for line in std::str::from_utf8(&message)
                .expect("text is UTF-8")
                .split('\n')
            {
                self.document(line, sequence, &mut totals);
            }
        }
        self.close_code = self.close_code.or(close);
        totals
    }

    fn document(
        &mut self,
        line: &str,
        sequence: &mut BTreeMap<(String, u64), String>,
        totals: &mut Totals,
    ) {
        let document: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        if document.as_object().is_some_and(serde_json::Map::is_empty) {
            return self.send("{}");
        }
        if let Some(push) = document.get("push") {
            return self.push(push, sequence, totals);
        }
        assert!(
            document.get("error").is_none(),
            "no command of the simulation is refused: {line}"
        );
        let id = document["id"].as_u64().expect("a reply has an id") as u32;
        if document.get("connect").is_some() {
            self.connected = true;
            return;
        }
        let (room, joined) = self.pending.remove(&id).expect("one reply to a command");
        if joined {
            return self.subscribed(&room, &document["subscribe"], sequence, totals);
        }
        // Whoever leaves a room of itself begins anew.
        self.rooms.remove(&room);
    }

    fn push(
        &mut self,
        push: &Value,
        sequence: &mut BTreeMap<(String, u64), String>,
        totals: &mut Totals,
    ) {
        let room = push["channel"].as_str().expect("a push names its channel");
        if push.get("join").is_some() || push.get("leave").is_some() {
            assert!(
                self.tastes.members,
                "only who asked hears of joins and leaves"
            );
            totals.memberships += 1;
        } else if let Some(ended) = push.get("unsubscribe") {
            assert_eq!(ended["code"], 2500, "nobody else ends subscriptions here");
            assert!(self.tastes.recovers, "only who can recover is told so");
            totals.insufficient += 1;
            let place = self.rooms.get_mut(room).expect("it was subscribed");
            place.subscribed = false;
        } else {
            self.publication(room, &push["pub"], sequence, totals);
        }
    }

    /// A subscription has begun, perhaps with what was missed.
    fn subscribed(
        &mut self,
        room: &str,
        reply: &Value,
        sequence: &mut BTreeMap<(String, u64), String>,
        totals: &mut Totals,
    ) {
        let place = self.rooms.entry(room.into()).or_default();
        let was_at = place.offset.take();
        place.subscribed = true;
        if !self.tastes.recovers {
            return;
        }
        assert_eq!(reply["recoverable"], true, "as was asked for");
        let offset = reply["offset"].as_u64().unwrap_or(0);
        let epoch = reply["epoch"].as_str().expect("a position has an epoch");
        let was_recovering = reply["was_recovering"] == true;
        assert_eq!(was_recovering, was_at.is_some(), "it says whether it tried");
        if let Some(was_at) = was_at {
            if reply["recovered"] == true {
                assert_eq!(
                    (offset, epoch),
                    (was_at, &*place.epoch),
                    "from where it was"
                );
                totals.recovered += 1;
            } else {
                assert!(reply.get("publications").is_none(), "all or nothing");
                totals.unrecovered += 1;
            }
        }
        place.offset = Some(offset);
        place.epoch = epoch.into();
        place.base = None;
        for publication in reply["publications"].as_array().into_iter().flatten() {
            self.publication(room, publication, sequence, totals);
        }
    }

    fn publication(
        &mut self,
        room: &str,
        publication: &Value,
        sequence: &mut BTreeMap<(String, u64), String>,
        totals: &mut Totals,
    ) {
        totals.received += 1;
        totals.filtered += u64::from(self.tastes.kind().is_some());
        let place = self.rooms.get_mut(room);
        let place = place.filter(|place| place.subscribed);
        let place = place.unwrap_or_else(|| panic!("a push of {room}, not subscribed"));
        let offset = publication["offset"].as_u64();
        let offset = offset.expect("rooms keep history here");
        if let Some(last) = place.offset {
            assert_eq!(
                offset,
                self.tastes.next(last),
                "{room}: no gap, no duplicate, no disorder"
            );
        }
        place.offset = Some(offset);
        let data = if self.tastes.delta {
            let text = publication["data"].as_str().expect("deltas make data text");
            let text = match publication["delta"].as_bool() {
                Some(true) => {
                    totals.deltas += 1;
                    let base = place.base.as_ref().expect("a delta has a base");
                    let mut whole = Vec::new();
                    fossil::apply(base.as_bytes(), text.as_bytes(), &mut whole)
                        .expect("a delta to what came before");
                    String::from_utf8(whole).expect("text")
                }
                _ => text.to_owned(),
            };
            let value: Value = serde_json::from_str(&text).expect("JSON in text");
            place.base = Some(text);
            value
        } else {
            publication["data"].clone()
        };
        let text = data.to_string();
        let first = sequence
            .entry((room.into(), offset))
            .or_insert_with(|| text.clone());
        assert_eq!(
            *first, text,
            "everybody sees the same publication at an offset"
        );
        assert_eq!(data["room"], room, "a publication stays in its room");
        let number = data["n"].as_u64().expect("publications are numbered");
        assert_eq!(number, offset, "one publisher: offsets follow its order");
    }
}
