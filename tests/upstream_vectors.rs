//! The upstream codec against the published vectors, in both directions. The Python client is held to the
//! same file by `clients/python/test_vectors.py`.

use ringcast::base::{Content, Epoch, Offset};
use ringcast::wire::client::Tags;
use ringcast::wire::upstream::{
    AckLevel, ErrorCode, EventKind, Extras, Frame, HelloAuth, Names, OrderKind, Query, QueryResult,
    Recovery, Rooms, Verdict, decode, hello_mac, hello_mac_is_valid, sorted_tags,
};
use serde_json::Value;
use std::collections::BTreeMap;

const EVENTS: [&str; 9] = [
    "connect",
    "subscribe",
    "publish",
    "rpc",
    "refresh",
    "sub_refresh",
    "message",
    "disconnect",
    "unsubscribe",
];
const ORDERS: [&str; 6] = [
    "disconnect",
    "subscribe",
    "unsubscribe",
    "refresh",
    "expire",
    "message",
];
const VERDICTS: [&str; 4] = ["result", "error", "temporary_error", "disconnect"];

struct Vectors(Value);

impl Vectors {
    fn read() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/upstream/vectors.json"
        );
        let text = std::fs::read_to_string(path).expect("the vectors");
        Self(serde_json::from_str(&text).expect("JSON"))
    }

    /// The entries of one list, at least `least` of them.
    fn list(&self, name: &str, least: usize) -> &[Value] {
        let list = self.0[name].as_array().expect(name);
        assert!(list.len() >= least, "{name}: {}", list.len());
        list
    }

    fn frame_bytes_max(&self) -> usize {
        number(&self.0, "max_frame") as usize
    }
}

#[test]
fn every_frame_decodes_to_its_meaning_and_encodes_to_its_bytes() {
    let vectors = Vectors::read();
    for vector in vectors.list("frames", 65) {
        let name = text(vector, "name");
        let bytes = bytes(vector, "hex");
        let fields = Fields::read(&vector["frame"]);
        let rooms: Vec<&str> = fields.rooms.iter().map(String::as_str).collect();
        let expected = fields.frame(&rooms);

        let decoded = decode(&bytes, vectors.frame_bytes_max());
        assert_eq!(decoded, Ok(Some((expected, bytes.len()))), "{name}");
        let mut encoded = Vec::new();
        expected.encode(&mut encoded);
        assert_eq!(encoded, bytes, "{name}");
    }
}

#[test]
fn every_error_has_its_code_its_request_and_its_way_on() {
    let vectors = Vectors::read();
    for vector in vectors.list("errors", 80) {
        let name = text(vector, "name");
        let error = decode(&bytes(vector, "hex"), vectors.frame_bytes_max()).expect_err(name);
        assert_eq!(error.code as u64, number(vector, "code"), "{name}");
        assert_eq!(error.request, number(vector, "request_id"), "{name}");
        let recovery = match vector["skip"].as_u64() {
            Some(skip) => Recovery::Skip(skip as usize),
            None => Recovery::Close,
        };
        assert_eq!(error.recovery, recovery, "{name}");
    }
}

#[test]
fn what_is_not_complete_is_waited_for() {
    let vectors = Vectors::read();
    for vector in vectors.list("incomplete", 5) {
        let bytes = bytes(vector, "hex");
        let decoded = decode(&bytes, vectors.frame_bytes_max());
        assert_eq!(decoded, Ok(None), "{}", text(vector, "name"));
    }
}

#[test]
fn the_code_of_a_hello_is_the_published_one() {
    let vectors = Vectors::read();
    for vector in vectors.list("macs", 2) {
        let secret = bytes(vector, "secret");
        let challenge = array(vector, "challenge");
        let (service, key_id) = (text(vector, "service"), text(vector, "key_id"));
        let mac = array(vector, "mac");
        assert_eq!(hello_mac(&secret, &challenge, service, key_id), mac);
        assert!(hello_mac_is_valid(
            &secret, &challenge, service, key_id, &mac
        ));
    }
}

/// The fields of a frame that a [`Frame`] borrows.
struct Fields<'a> {
    frame: &'a Value,
    rooms: Vec<String>,
    payload: Vec<u8>,
    body: Vec<u8>,
    result: Vec<u8>,
    info: Vec<u8>,
    meta: Vec<u8>,
    data: Vec<u8>,
    /// The list of a RESULT.
    list: Vec<u8>,
    tags: Vec<u8>,
    namespaces: Vec<u8>,
    methods: Vec<u8>,
    fixed: [u8; 32],
}

impl<'a> Fields<'a> {
    fn read(frame: &'a Value) -> Self {
        let optional = |field: &str| {
            if frame[field].is_string() {
                bytes(frame, field)
            } else {
                Vec::new()
            }
        };
        let list = |field: &str| {
            let names: Vec<String> =
                serde_json::from_value(frame[field].clone()).unwrap_or_default();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Names::list(&names)
        };
        let tags: BTreeMap<String, String> =
            serde_json::from_value(frame["tags"].clone()).unwrap_or_default();
        let tags: Vec<_> = tags.iter().map(|(key, value)| (&**key, &**value)).collect();
        let fixed = [optional("challenge"), optional("mac")].concat();
        Self {
            frame,
            rooms: serde_json::from_value(frame["rooms"].clone()).unwrap_or_default(),
            payload: optional("payload"),
            body: optional("body"),
            result: optional("result"),
            info: optional("info"),
            meta: optional("meta"),
            data: optional("data"),
            list: ["publications", "clients", "channels"]
                .map(optional)
                .concat(),
            tags: sorted_tags(&tags).expect("tags"),
            namespaces: list("namespaces"),
            methods: list("methods"),
            fixed: fixed.try_into().unwrap_or_default(),
        }
    }

    fn frame<'b>(&'b self, rooms: &'b [&'b str]) -> Frame<'b> {
        let frame = self.frame;
        let request = frame["request_id"].as_u64().unwrap_or(0);
        let body = &self.body;
        match text(frame, "type") {
            "HELLO" => Frame::Hello {
                request,
                service: text(frame, "service"),
                auth: match number(frame, "method") {
                    0 => HelloAuth::None,
                    _ => HelloAuth::Hmac {
                        key_id: text(frame, "key_id"),
                        mac: &self.fixed,
                    },
                },
            },
            "PUBLISH" => Frame::Publish {
                request,
                room: text(frame, "room"),
                level: level(frame),
                content: content(frame),
                skip_history: flag(frame, "skip_history"),
                key: key(frame),
                extras: self.extras(),
                payload: &self.payload,
            },
            "BROADCAST" => Frame::Broadcast {
                request,
                level: level(frame),
                content: content(frame),
                skip_history: flag(frame, "skip_history"),
                key: key(frame),
                extras: self.extras(),
                rooms: Rooms::new(rooms),
                payload: &self.payload,
            },
            "REGISTER" => Frame::Register {
                request,
                events: number(frame, "events") as u32,
                namespaces: Names::take(&self.namespaces).expect("a list").0,
                methods: Names::take(&self.methods).expect("a list").0,
            },
            "ANSWER" => Frame::Answer {
                request,
                verdict: Verdict::ALL[position(frame, "verdict", &VERDICTS)],
                code: number(frame, "code") as u32,
                text: text(frame, "text"),
                result: &self.result,
            },
            "ORDER" => Frame::Order {
                request,
                user: text(frame, "user"),
                kind: OrderKind::ALL[position(frame, "kind", &ORDERS)],
                client: text(frame, "client"),
                channel: text(frame, "channel"),
                code: number(frame, "code") as u32,
                text: text(frame, "text"),
                expire_at_s: number(frame, "expire_at"),
                info_content: content_of(frame, "info_content"),
                info: &self.info,
                content: content(frame),
                data: &self.data,
            },
            "HISTORY" => self.query(
                "room",
                Query::History {
                    limit: frame["limit"].as_i64().expect("limit") as i32,
                    reverse: flag(frame, "reverse"),
                    since: frame["since"].is_object().then(|| {
                        let since = &frame["since"];
                        (text(since, "epoch"), Offset(number(since, "offset")))
                    }),
                },
            ),
            "PRESENCE" => self.query("room", Query::Presence),
            "PRESENCE_STATS" => self.query("room", Query::PresenceStats),
            "FORGET_HISTORY" => self.query("room", Query::ForgetHistory),
            "CHANNELS" => self.query("pattern", Query::Channels),
            "PING" => Frame::Ping { request, body },
            "PONG" => Frame::Pong { request, body },
            _ => self.server_frame(request),
        }
    }

    fn query<'b>(&'b self, name: &str, query: Query<'b>) -> Frame<'b> {
        Frame::Query {
            request: number(self.frame, "request_id"),
            name: text(self.frame, name),
            query,
        }
    }

    fn extras(&self) -> Extras<'_> {
        Extras {
            delta: self.frame["delta"].as_bool().unwrap_or_default(),
            exclude: self.frame["exclude"].as_str().unwrap_or_default(),
            version: self.frame["version"].as_u64().unwrap_or_default(),
            version_epoch: self.frame["version_epoch"].as_str().unwrap_or_default(),
            tags: Tags::from_flat(&self.tags),
        }
    }

    fn result(&self) -> QueryResult<'_> {
        let (frame, list) = (self.frame, &self.list);
        let whole = flag(frame, "whole");
        match text(frame, "kind") {
            "history" => QueryResult::History {
                found: whole,
                epoch: Epoch(number(frame, "epoch") as u32),
                top: Offset(number(frame, "offset")),
                publications: list,
            },
            "presence" => QueryResult::Presence {
                complete: whole,
                clients: list,
            },
            "presence_stats" => QueryResult::PresenceStats {
                clients: number(frame, "num_clients") as u32,
                users: number(frame, "num_users") as u32,
            },
            "done" => QueryResult::Done,
            "channels" => QueryResult::Channels {
                complete: whole,
                channels: list,
            },
            other => panic!("kind {other}"),
        }
    }

    fn server_frame(&self, request: u64) -> Frame<'_> {
        let frame = self.frame;
        match text(frame, "type") {
            "CHALLENGE" => Frame::Challenge {
                node: text(frame, "node"),
                challenge: &self.fixed,
            },
            "WELCOME" => Frame::Welcome {
                request,
                node: text(frame, "node"),
                frame_bytes_max: number(frame, "max_frame") as u32,
                credit: number(frame, "credit"),
            },
            "ACK" => Frame::Ack {
                request,
                level: level(frame),
                duplicate: flag(frame, "duplicate"),
                epoch: Epoch(number(frame, "epoch") as u32),
                offset: Offset(number(frame, "offset")),
            },
            "ERROR" => Frame::Error {
                request,
                code: ErrorCode::from_wire(number(frame, "code") as u16).expect("a code"),
                text: text(frame, "text"),
            },
            "EVENT" => Frame::Event {
                request,
                subject: text(frame, "subject"),
                kind: EventKind::ALL[position(frame, "kind", &EVENTS)],
                content: content(frame),
                deadline_ms: number(frame, "deadline_ms") as u32,
                code: number(frame, "code") as u32,
                text: text(frame, "text"),
                info: &self.info,
                meta: &self.meta,
                data: &self.data,
            },
            "RESULT" => Frame::Result {
                request,
                result: self.result(),
            },
            "CREDIT" => Frame::Credit {
                total: number(frame, "total"),
            },
            "GOAWAY" => Frame::Goaway {
                node: text(frame, "node"),
                grace_ms: number(frame, "grace_ms") as u32,
            },
            other => panic!("frame type {other}"),
        }
    }
}

fn level(frame: &Value) -> AckLevel {
    AckLevel::ALL[number(frame, "level") as usize]
}

fn content(frame: &Value) -> Content {
    content_of(frame, "content")
}

fn content_of(frame: &Value, field: &str) -> Content {
    match text(frame, field) {
        "json" => Content::Json,
        "text" => Content::Text,
        "bytes" => Content::Bytes,
        other => panic!("content {other}"),
    }
}

fn key(frame: &Value) -> Option<[u8; 16]> {
    frame["key"].as_str().map(|_| array(frame, "key"))
}

fn position(frame: &Value, field: &str, names: &[&str]) -> usize {
    let name = text(frame, field);
    let found = names.iter().position(|known| *known == name);
    found.unwrap_or_else(|| panic!("{field} {name}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().expect(field)
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().expect(field)
}

fn flag(value: &Value, field: &str) -> bool {
    value[field].as_bool().expect(field)
}

fn array<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    bytes(value, field).try_into().expect(field)
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    let hex = text(value, field).as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hex digit") as u8;
    hex.chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
