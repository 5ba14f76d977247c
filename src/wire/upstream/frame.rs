//! Frames of the upstream protocol as values, and how they become bytes.
//!
//! A frame borrows everything from the buffer it was read from or from its sender; encoding appends to
//! the caller's buffer. The encoding is canonical: a frame has exactly one byte form, which is also the
//! only one that [`super::decode()`] takes.

use super::{
    AckLevel, ErrorCode, EventKind, Extras, HEADER_BYTES, Kind, LENGTH_BYTES, MAGIC, Names,
    OrderKind, Query, QueryResult, VERSION, Verdict, flags,
};
use crate::base::{Content, Epoch, Offset};
use crate::limits::{BROADCAST_ROOMS_MAX, ROOM_NAME_MAX, UPSTREAM_NAME_MAX, UPSTREAM_PING_MAX};

/// One frame. `request` is the request id: chosen by who asks, echoed by who answers, 0 when no answer
/// is wanted. Names are at most [`UPSTREAM_NAME_MAX`] bytes, rooms 1 to [`ROOM_NAME_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Client: who it is. Answers the challenge.
    Hello {
        /// Echoed by WELCOME.
        request: u64,
        /// Name of the service, never empty.
        service: &'a str,
        /// How it proves that.
        auth: HelloAuth<'a>,
    },
    /// Client: one publication to one room.
    Publish {
        /// Echoed by ACK or ERROR.
        request: u64,
        /// The room.
        room: &'a str,
        /// When to acknowledge.
        level: AckLevel,
        /// What the payload is. Not checked by the codec.
        content: Content,
        /// Keep it out of the room's history.
        skip_history: bool,
        /// Idempotency key: a repetition is acknowledged, not delivered.
        key: Option<[u8; 16]>,
        /// What else is said of it.
        extras: Extras<'a>,
        /// The payload.
        payload: &'a [u8],
    },
    /// Client: one payload to many rooms, one acknowledgement.
    Broadcast {
        /// Echoed by ACK or ERROR.
        request: u64,
        /// When to acknowledge.
        level: AckLevel,
        /// What the payload is. Not checked by the codec.
        content: Content,
        /// Keep it out of the rooms' histories.
        skip_history: bool,
        /// Idempotency key, looked up in each room.
        key: Option<[u8; 16]>,
        /// What else is said of it.
        extras: Extras<'a>,
        /// The rooms, 1 to [`BROADCAST_ROOMS_MAX`].
        rooms: Rooms<'a>,
        /// The payload.
        payload: &'a [u8],
    },
    /// Client: which events it decides or wants to be told of. Replaces an earlier one. Answered by an
    /// ACK of level none.
    Register {
        /// Echoed by ACK or ERROR.
        request: u64,
        /// Bits of [`EventKind::bit`].
        events: u32,
        /// Namespaces of the channels; none for all. The empty name is that of channels without one.
        namespaces: Names<'a>,
        /// Methods of calls; none for all.
        methods: Names<'a>,
    },
    /// Client: what it makes of an event.
    Answer {
        /// The event's request id.
        request: u64,
        /// What kind of answer.
        verdict: Verdict,
        /// Code of an error or of a close; else 0.
        code: u32,
        /// Its text; else empty.
        text: &'a str,
        /// A JSON object, or nothing.
        result: &'a [u8],
    },
    /// Client: something to be done to the connections of a user, or to one connection. Acknowledged at
    /// level accepted when it is queued for them.
    Order {
        /// Echoed by ACK or ERROR.
        request: u64,
        /// The user; may be empty when a client is named.
        user: &'a str,
        /// What.
        kind: OrderKind,
        /// Public id of the only connection meant; empty for all of the user's.
        client: &'a str,
        /// Channel of a subscription; else empty.
        channel: &'a str,
        /// Close code; else 0.
        code: u32,
        /// Close reason; else empty.
        text: &'a str,
        /// Unix time in seconds at which connection or subscription expires; 0 for never.
        expire_at_s: u64,
        /// What `info` is.
        info_content: Content,
        /// What others see of the connection or subscriber.
        info: &'a [u8],
        /// What `data` is.
        content: Content,
        /// For the client's application.
        data: &'a [u8],
    },
    /// Client: a question about a room, or about channels.
    Query {
        /// Echoed by RESULT or ERROR.
        request: u64,
        /// The room; of [`Query::Channels`] a glob, empty for all.
        name: &'a str,
        /// What is asked.
        query: Query<'a>,
    },
    /// Server: the answer to a question.
    Result {
        /// As in the question.
        request: u64,
        /// The answer.
        result: QueryResult<'a>,
    },
    /// Server: something that the client registered for.
    Event {
        /// Chosen by the server; 0 when no answer is wanted.
        request: u64,
        /// Channel or method; empty where there is neither.
        subject: &'a str,
        /// What happened.
        kind: EventKind,
        /// What `data` is.
        content: Content,
        /// Milliseconds until the server goes on without an answer.
        deadline_ms: u32,
        /// Close or unsubscribe code; else 0.
        code: u32,
        /// Its reason; for connect, name and version of the client's software with a newline between.
        text: &'a str,
        /// Flat info of the client: see [`crate::wire::client::flat`].
        info: &'a [u8],
        /// JSON that is kept of the connection for services only; empty for none. Not checked by the
        /// codec.
        meta: &'a [u8],
        /// The client's data.
        data: &'a [u8],
    },
    /// Either: wants a PONG with the same request id and body.
    Ping {
        /// Echoed by PONG.
        request: u64,
        /// At most [`UPSTREAM_PING_MAX`] bytes.
        body: &'a [u8],
    },
    /// Either: answer to PING.
    Pong {
        /// As in the PING.
        request: u64,
        /// As in the PING.
        body: &'a [u8],
    },
    /// Server: the first frame of a connection.
    Challenge {
        /// Name of the node, may be empty.
        node: &'a str,
        /// 32 random bytes, fresh for each connection.
        challenge: &'a [u8; 32],
    },
    /// Server: HELLO was accepted.
    Welcome {
        /// As in the HELLO.
        request: u64,
        /// Name of the node, may be empty.
        node: &'a str,
        /// Largest `length` that the server takes, in bytes.
        frame_bytes_max: u32,
        /// First credit, in bytes: see [`Frame::Credit`].
        credit: u64,
    },
    /// Server: a publication reached the level that was asked for.
    Ack {
        /// As in the publication.
        request: u64,
        /// The level reached.
        level: AckLevel,
        /// The idempotency key was seen before; epoch and offset are those of the first time.
        duplicate: bool,
        /// 0 in the answer to BROADCAST and at level `accepted`.
        epoch: Epoch,
        /// 0 in the answer to BROADCAST and at level `accepted`.
        offset: Offset,
    },
    /// Either: a request failed, or with request 0 the connection.
    Error {
        /// The failed request, 0 when it is not known.
        request: u64,
        /// What went wrong.
        code: ErrorCode,
        /// For people; programs use the code.
        text: &'a str,
    },
    /// Server: total bytes of PUBLISH and BROADCAST frames, `length` fields included, that the client may
    /// have sent since WELCOME. Never smaller than an earlier total.
    Credit {
        /// The total in bytes.
        total: u64,
    },
    /// Server: finish what is under way, then reconnect elsewhere.
    Goaway {
        /// Name of the node, may be empty.
        node: &'a str,
        /// Milliseconds until the server closes the connection.
        grace_ms: u32,
    },
}

/// How a service proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloAuth<'a> {
    /// Method 0: not at all.
    None,
    /// Method 1: see [`super::hello_mac`].
    Hmac {
        /// Which secret was used; 1 to [`UPSTREAM_NAME_MAX`] bytes.
        key_id: &'a str,
        /// The code.
        mac: &'a [u8; 32],
    },
}

impl Frame<'_> {
    /// Appends the frame to `out`. Names and lists beyond their bounds are the caller's fault and panic;
    /// nothing that was decoded is beyond them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match *self {
            Frame::Hello {
                request,
                service,
                auth,
            } => {
                write_header(out, Kind::Hello, 0, request, service);
                write_hello(out, auth);
            }
            Frame::Publish {
                request,
                room,
                level,
                content,
                skip_history,
                key,
                extras,
                payload,
            } => {
                assert!((1..=ROOM_NAME_MAX).contains(&room.len()), "room name");
                let flags = publication_flags(level, content, skip_history, key.is_some(), extras);
                write_header(out, Kind::Publish, flags, request, room);
                out.extend_from_slice(key.as_ref().map_or(&[][..], |key| key));
                extras.encode(out);
                out.extend_from_slice(payload);
            }
            Frame::Broadcast {
                request,
                level,
                content,
                skip_history,
                key,
                extras,
                rooms,
                payload,
            } => {
                let flags = publication_flags(level, content, skip_history, key.is_some(), extras);
                write_header(out, Kind::Broadcast, flags, request, "");
                out.extend_from_slice(key.as_ref().map_or(&[][..], |key| key));
                extras.encode(out);
                rooms.encode(out);
                out.extend_from_slice(payload);
            }
            Frame::Register {
                request,
                events,
                namespaces,
                methods,
            } => {
                write_header(out, Kind::Register, 0, request, "");
                out.extend_from_slice(&events.to_le_bytes());
                out.extend_from_slice(namespaces.bytes());
                out.extend_from_slice(methods.bytes());
            }
            Frame::Answer {
                request,
                verdict,
                code,
                text,
                result,
            } => {
                write_header(out, Kind::Answer, 0, request, "");
                out.extend_from_slice(&[verdict as u8, 0, 0, 0]);
                out.extend_from_slice(&code.to_le_bytes());
                write_text(out, text);
                out.extend_from_slice(result);
            }
            Frame::Order {
                request,
                user,
                kind,
                client,
                channel,
                code,
                text,
                expire_at_s,
                info_content,
                info,
                content,
                data,
            } => {
                write_header(out, Kind::Order, 0, request, user);
                out.extend_from_slice(&[kind as u8, info_content as u8, content as u8, 0]);
                out.extend_from_slice(&code.to_le_bytes());
                out.extend_from_slice(&expire_at_s.to_le_bytes());
                for part in [client, channel, text] {
                    write_text(out, part);
                }
                out.extend_from_slice(&(info.len() as u32).to_le_bytes());
                out.extend_from_slice(info);
                out.extend_from_slice(data);
            }
            Frame::Query {
                request,
                name,
                query,
            } => {
                let is_named = query == Query::Channels || !name.is_empty();
                assert!(is_named && name.len() <= ROOM_NAME_MAX, "room name");
                write_header(out, query.kind(), 0, request, name);
                query.encode(out);
            }
            Frame::Ping { request, body } => write_ping(out, Kind::Ping, request, body),
            Frame::Pong { request, body } => write_ping(out, Kind::Pong, request, body),
            _ => self.encode_from_server(out),
        }
        write_length(out, start);
    }

    /// Whether a client may send this frame; the others come from the server only.
    pub fn is_from_client(&self) -> bool {
        matches!(
            self,
            Frame::Hello { .. }
                | Frame::Publish { .. }
                | Frame::Broadcast { .. }
                | Frame::Register { .. }
                | Frame::Answer { .. }
                | Frame::Order { .. }
                | Frame::Query { .. }
                | Frame::Ping { .. }
                | Frame::Pong { .. }
        )
    }

    /// The request id, 0 for frames that have none.
    pub fn request(&self) -> u64 {
        match *self {
            Frame::Hello { request, .. }
            | Frame::Publish { request, .. }
            | Frame::Broadcast { request, .. }
            | Frame::Register { request, .. }
            | Frame::Answer { request, .. }
            | Frame::Order { request, .. }
            | Frame::Query { request, .. }
            | Frame::Result { request, .. }
            | Frame::Event { request, .. }
            | Frame::Ping { request, .. }
            | Frame::Pong { request, .. }
            | Frame::Welcome { request, .. }
            | Frame::Ack { request, .. }
            | Frame::Error { request, .. } => request,
            Frame::Challenge { .. } | Frame::Credit { .. } | Frame::Goaway { .. } => 0,
        }
    }

    /// Header and body of what only the server sends.
    fn encode_from_server(&self, out: &mut Vec<u8>) {
        match *self {
            Frame::Challenge { node, challenge } => {
                write_header(out, Kind::Challenge, 0, 0, node);
                out.extend_from_slice(challenge);
            }
            Frame::Welcome {
                request,
                node,
                frame_bytes_max,
                credit,
            } => {
                write_header(out, Kind::Welcome, 0, request, node);
                out.extend_from_slice(&VERSION.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&frame_bytes_max.to_le_bytes());
                out.extend_from_slice(&credit.to_le_bytes());
            }
            Frame::Ack {
                request,
                level,
                duplicate,
                epoch,
                offset,
            } => {
                write_header(out, Kind::Ack, 0, request, "");
                out.extend_from_slice(&[level as u8, u8::from(duplicate), 0, 0]);
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&offset.0.to_le_bytes());
            }
            Frame::Error {
                request,
                code,
                text,
            } => {
                write_header(out, Kind::Error, 0, request, "");
                out.extend_from_slice(&(code as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Frame::Result { request, result } => {
                write_header(out, Kind::Result, 0, request, "");
                result.encode(out);
            }
            Frame::Credit { total } => {
                write_header(out, Kind::Credit, 0, 0, "");
                out.extend_from_slice(&total.to_le_bytes());
            }
            Frame::Goaway { node, grace_ms } => {
                write_header(out, Kind::Goaway, 0, 0, node);
                out.extend_from_slice(&grace_ms.to_le_bytes());
            }
            Frame::Event {
                request,
                subject,
                kind,
                content,
                deadline_ms,
                code,
                text,
                info,
                meta,
                data,
            } => {
                write_header(out, Kind::Event, 0, request, subject);
                out.extend_from_slice(&[kind as u8, content as u8, 0, 0]);
                out.extend_from_slice(&deadline_ms.to_le_bytes());
                out.extend_from_slice(&code.to_le_bytes());
                write_text(out, text);
                for part in [info, meta] {
                    out.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    out.extend_from_slice(part);
                }
                out.extend_from_slice(data);
            }
            Frame::Hello { .. }
            | Frame::Publish { .. }
            | Frame::Broadcast { .. }
            | Frame::Register { .. }
            | Frame::Answer { .. }
            | Frame::Order { .. }
            | Frame::Query { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => unreachable!("encoded by `encode`"),
        }
    }
}

/// Header with a length of 0, which [`write_length`] puts right.
fn write_header(out: &mut Vec<u8>, kind: Kind, flags: u8, request: u64, name: &str) {
    assert!(name.len() <= UPSTREAM_NAME_MAX, "name of a frame");
    let mut header = [0; HEADER_BYTES];
    header[4] = kind as u8;
    header[5] = flags;
    header[6..8].copy_from_slice(&(name.len() as u16).to_le_bytes());
    header[8..16].copy_from_slice(&request.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(name.as_bytes());
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("texts are short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Writes the length of the frame that began at `start` and ends here.
fn write_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).expect("a frame of 4 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn write_hello(out: &mut Vec<u8>, auth: HelloAuth<'_>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    match auth {
        HelloAuth::None => out.extend_from_slice(&0_u16.to_le_bytes()),
        HelloAuth::Hmac { key_id, mac } => {
            assert!((1..=UPSTREAM_NAME_MAX).contains(&key_id.len()), "key id");
            out.extend_from_slice(&1_u16.to_le_bytes());
            out.extend_from_slice(&(key_id.len() as u16).to_le_bytes());
            out.extend_from_slice(key_id.as_bytes());
            out.extend_from_slice(mac);
        }
    }
}

fn write_ping(out: &mut Vec<u8>, kind: Kind, request: u64, body: &[u8]) {
    assert!(body.len() <= UPSTREAM_PING_MAX, "body of a ping");
    write_header(out, kind, 0, request, "");
    out.extend_from_slice(body);
}

fn publication_flags(
    level: AckLevel,
    content: Content,
    skip_history: bool,
    key: bool,
    extras: Extras<'_>,
) -> u8 {
    level as u8
        | (content as u8) << flags::CONTENT_SHIFT
        | if key { flags::KEY } else { 0 }
        | if skip_history { flags::SKIP_HISTORY } else { 0 }
        | if extras.is_empty() { 0 } else { flags::EXTRAS }
}

/// The rooms of a BROADCAST: 1 to [`BROADCAST_ROOMS_MAX`] names of 1 to [`ROOM_NAME_MAX`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rooms<'a>(Source<'a>);

#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// Names of a sender.
    Listed(&'a [&'a str]),
    /// `count` times length and name, all of them checked by the decoder.
    Encoded { count: u16, names: &'a [u8] },
}

impl<'a> Rooms<'a> {
    /// The rooms of a frame to be sent. Panics when the list or a name is beyond its bounds.
    pub fn new(names: &'a [&'a str]) -> Self {
        assert!((1..=BROADCAST_ROOMS_MAX).contains(&names.len()), "rooms");
        for name in names {
            assert!((1..=ROOM_NAME_MAX).contains(&name.len()), "room name");
        }
        Self(Source::Listed(names))
    }

    /// The rooms of a received frame; `names` holds `count` names and nothing else.
    pub(super) fn from_checked(count: u16, names: &'a [u8]) -> Self {
        Self(Source::Encoded { count, names })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self.0 {
            Source::Listed(names) => names.len(),
            Source::Encoded { count, .. } => usize::from(count),
        }
    }

    /// The names, in the sender's order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (mut listed, mut encoded): (&[&str], &[u8]) = match self.0 {
            Source::Listed(names) => (names, &[]),
            Source::Encoded { names, .. } => (&[], names),
        };
        std::iter::from_fn(move || {
            if let Some((name, rest)) = listed.split_first() {
                listed = rest;
                return Some(*name);
            }
            // The decoder has been over these bytes: neither step fails before the end.
            let (name, rest) = split_room(encoded)?;
            encoded = rest;
            std::str::from_utf8(name).ok()
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.count() as u16).to_le_bytes());
        match self.0 {
            Source::Encoded { names, .. } => out.extend_from_slice(names),
            Source::Listed(names) => {
                for name in names {
                    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                    out.extend_from_slice(name.as_bytes());
                }
            }
        }
    }
}

impl PartialEq for Rooms<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.count() == other.count() && self.iter().eq(other.iter())
    }
}

impl Eq for Rooms<'_> {}

/// The first name of an encoded list, and what follows it.
pub(super) fn split_room(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = names.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}
