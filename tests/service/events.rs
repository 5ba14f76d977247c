//! Events that played shards send, and the answers that they get.

use super::Knobs;
use ringcast::base::{ConnId, Content, EventKind, NodeId, Verdict};
use ringcast::mesh::{Answer, Event, Outlets, ReplyTo, Request};
use ringcast::wire::client::{ClientInfo, Data, flat};

/// An event to be sent by a shard.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) shard: u16,
    pub(crate) kind: EventKind,
    /// What the answer will have; `None` for what is only told.
    pub(crate) serial: Option<u32>,
    pub(crate) subject: String,
    pub(crate) code: u32,
    pub(crate) text: String,
    pub(crate) meta: &'static str,
    pub(crate) data: Vec<u8>,
}

/// An answer that a shard got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) shard: u16,
    pub(crate) serial: u32,
    pub(crate) verdict: Verdict,
    pub(crate) code: u32,
    pub(crate) text: String,
    pub(crate) result: String,
}

impl Sent {
    /// An event of shard 0 that wants an answer.
    pub(crate) fn asking(kind: EventKind, serial: u32, subject: &str) -> Self {
        Self {
            shard: 0,
            kind,
            serial: Some(serial),
            subject: subject.to_owned(),
            code: 0,
            text: String::new(),
            meta: "",
            data: b"[1]".to_vec(),
        }
    }

    /// One that wants none.
    pub(crate) fn telling(kind: EventKind, subject: &str) -> Self {
        let asking = Self::asking(kind, 0, subject);
        Self {
            serial: None,
            ..asking
        }
    }
}

/// Info of the client of every event.
pub(crate) fn info() -> Vec<u8> {
    let mut flat = Vec::new();
    let info = ClientInfo {
        user: "42",
        client: "c1",
        conn_info: Data {
            content: Content::Json,
            bytes: b"{}",
        },
        chan_info: Data::default(),
    };
    flat::push_info(&mut flat, &info);
    flat
}

/// Sends what is to be sent by `shard`, as far as the lane has room.
pub(super) fn send(knobs: &Knobs, shard: NodeId, outlets: &mut Outlets, service: NodeId) {
    let mut events = knobs.events.lock().unwrap();
    let info = info();
    while let Some(at) = events.iter().position(|event| event.shard == shard.0) {
        let event = &events[at];
        let conn = ConnId {
            slot: 5,
            generation: 1,
        };
        let reply = event
            .serial
            .map_or(ReplyTo::Nobody, |serial| ReplyTo::Event { conn, serial });
        let request = Request::Event(Event {
            kind: event.kind,
            reply,
            subject: &event.subject,
            info: &info,
            meta: event.meta.as_bytes(),
            code: event.code,
            text: &event.text,
            content: Content::Json,
            data: &event.data,
        });
        if outlets.request(service, &request).is_err() {
            return;
        }
        events.remove(at);
    }
}

/// Notes an answer.
pub(super) fn note(knobs: &Knobs, shard: NodeId, answer: &Answer<'_>) {
    let ReplyTo::Event { serial, .. } = answer.reply else {
        panic!("{answer:?}");
    };
    knobs.answers.lock().unwrap().push(Given {
        shard: shard.0,
        serial,
        verdict: answer.verdict,
        code: answer.code,
        text: answer.text.to_owned(),
        result: String::from_utf8(answer.result.to_vec()).unwrap(),
    });
}
