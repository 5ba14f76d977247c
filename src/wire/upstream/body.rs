//! What is in a frame whose header was accepted: name and body of each type.
//!
//! Each function takes the whole body or says what is wrong with it; left-over and missing bytes are both
//! wrong.

use super::frame::split_room;
use super::names::split;
use super::{
    AckLevel, ErrorCode, EventKind, Extras, Frame, HelloAuth, Kind, MAGIC, Names, OrderKind, Query,
    QueryResult, Rooms, VERSION, Verdict, flags,
};
use crate::base::{Content, Epoch, Offset};
use crate::limits::{BROADCAST_ROOMS_MAX, ROOM_NAME_MAX, UPSTREAM_NAME_MAX, UPSTREAM_PING_MAX};

/// Reads one frame from the header's `kind`, `flags` and `request`, its name and its body.
pub(super) fn read<'a>(
    kind: Kind,
    flags: u8,
    request: u64,
    name: &'a [u8],
    body: &'a [u8],
) -> Result<Frame<'a>, Fault> {
    match kind {
        Kind::Publish => publish(flags, request, name, body),
        Kind::Broadcast => broadcast(flags, request, name, body),
        Kind::Register => register(request, name, body),
        Kind::Answer => answer(request, name, body),
        Kind::Event => event(request, name, body),
        Kind::Order => order(request, name, body),
        Kind::History
        | Kind::Presence
        | Kind::PresenceStats
        | Kind::ForgetHistory
        | Kind::Channels => query(kind, request, name, body),
        Kind::Result => result(request, name, body),
        Kind::Hello => hello(request, name, body),
        Kind::Ping | Kind::Pong => ping(request, kind, name, body),
        Kind::Challenge => challenge(request, name, body),
        Kind::Welcome => welcome(request, name, body),
        Kind::Ack => ack(request, name, body),
        Kind::Error => error(request, name, body),
        Kind::Credit => credit(request, name, body),
        Kind::Goaway => goaway(request, name, body),
    }
}

/// What is wrong with a frame, before the header's facts are added.
#[derive(Clone, Copy)]
pub(super) struct Fault(pub(super) ErrorCode, pub(super) &'static str);

pub(super) const fn malformed(text: &'static str) -> Fault {
    Fault(ErrorCode::Malformed, text)
}

pub(super) const fn unsupported(text: &'static str) -> Fault {
    Fault(ErrorCode::Unsupported, text)
}

fn publish<'a>(bits: u8, request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let options = Options::read(bits)?;
    let room = room(name)?;
    let (key, body) = options.split_key(body)?;
    let (extras, payload) = options.split_extras(body)?;
    Ok(Frame::Publish {
        request,
        room,
        level: options.level,
        content: options.content,
        skip_history: options.skip_history,
        key,
        extras,
        payload,
    })
}

fn broadcast<'a>(bits: u8, request: u64, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let options = Options::read(bits)?;
    no_name(name)?;
    let (key, body) = options.split_key(body)?;
    let (extras, body) = options.split_extras(body)?;
    let (count, names) = body
        .split_first_chunk::<2>()
        .ok_or(malformed("body ends before the count of rooms"))?;
    let count = u16::from_le_bytes(*count);
    if count == 0 {
        return Err(malformed("BROADCAST without a room"));
    }
    if usize::from(count) > BROADCAST_ROOMS_MAX {
        return Err(Fault(ErrorCode::TooLarge, "more than 1024 rooms"));
    }
    let mut payload = names;
    let mut forbidden = None;
    for _ in 0..count {
        let (name, rest) =
            split_room(payload).ok_or(malformed("body ends before the last room"))?;
        match room(name) {
            Ok(_) => {}
            Err(fault) if fault.0.closes() => return Err(fault),
            // The rest of the list is still checked, so that a malformed frame is never called less.
            Err(fault) => forbidden = forbidden.or(Some(fault)),
        }
        payload = rest;
    }
    if let Some(fault) = forbidden {
        return Err(fault);
    }
    let names_bytes = names.len() - payload.len();
    Ok(Frame::Broadcast {
        request,
        level: options.level,
        content: options.content,
        skip_history: options.skip_history,
        key,
        extras,
        rooms: Rooms::from_checked(count, names.get(..names_bytes).unwrap_or_default()),
        payload,
    })
}

fn hello<'a>(request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let service = bounded_name(name)?;
    if service.is_empty() {
        return Err(malformed("service name is empty"));
    }
    let Some((magic, body)) = body.split_first_chunk::<4>() else {
        return Err(malformed("HELLO is too short"));
    };
    if *magic != MAGIC {
        return Err(malformed("HELLO does not begin with RCST"));
    }
    let Some((&[v0, v1, m0, m1], body)) = body.split_first_chunk::<4>() else {
        return Err(malformed("HELLO is too short"));
    };
    if u16::from_le_bytes([v0, v1]) != VERSION {
        return Err(unsupported("protocol version is not 1"));
    }
    let auth = match u16::from_le_bytes([m0, m1]) {
        0 if body.is_empty() => HelloAuth::None,
        0 => return Err(malformed("HELLO is too long")),
        1 => hello_hmac(body)?,
        _ => return Err(unsupported("authentication method is not known")),
    };
    Ok(Frame::Hello {
        request,
        service,
        auth,
    })
}

fn hello_hmac(body: &[u8]) -> Result<HelloAuth<'_>, Fault> {
    let (key_id, mac) = split_room(body).ok_or(malformed("HELLO is too short"))?;
    let mac = exactly::<32>(mac, "HMAC is not of 32 bytes")?;
    let key_id = bounded_name(key_id)?;
    if key_id.is_empty() {
        return Err(malformed("key id is empty"));
    }
    Ok(HelloAuth::Hmac { key_id, mac })
}

fn register<'a>(request: u64, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let (events, rest) = body
        .split_first_chunk::<4>()
        .ok_or(malformed("REGISTER is too short"))?;
    let events = u32::from_le_bytes(*events);
    if events & !EventKind::ALL_BITS != 0 {
        return Err(unsupported("event bit is not known"));
    }
    let list = malformed("a list of at most 256 names of at most 255 bytes expected");
    let (namespaces, rest) = Names::take(rest).ok_or(list)?;
    let (methods, rest) = Names::take(rest).ok_or(list)?;
    if !rest.is_empty() {
        return Err(malformed("REGISTER is too long"));
    }
    Ok(Frame::Register {
        request,
        events,
        namespaces,
        methods,
    })
}

fn answer<'a>(request: u64, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let (&[verdict, z0, z1, z2, c0, c1, c2, c3], rest) = body
        .split_first_chunk::<8>()
        .ok_or(malformed("ANSWER is too short"))?;
    if [z0, z1, z2] != [0, 0, 0] {
        return Err(unsupported("reserved bytes are not 0"));
    }
    let (text, result) = split(rest).ok_or(malformed("ANSWER is too short"))?;
    Ok(Frame::Answer {
        request,
        verdict: Verdict::ALL
            .get(usize::from(verdict))
            .copied()
            .ok_or(unsupported("verdict is not known"))?,
        code: u32::from_le_bytes([c0, c1, c2, c3]),
        text: utf8(text)?,
        result,
    })
}

fn order<'a>(request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let user = bounded_name(name)?;
    let short = malformed("ORDER is too short");
    let (&[kind, info_content, content, z0], rest) = body.split_first_chunk::<4>().ok_or(short)?;
    if z0 != 0 {
        return Err(unsupported("reserved bytes are not 0"));
    }
    let (code, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (expire_at_s, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (client, rest) = split(rest).ok_or(short)?;
    let (channel, rest) = split(rest).ok_or(short)?;
    let (text, rest) = split(rest).ok_or(short)?;
    let (info, data) = split_long(rest).ok_or(short)?;
    let content_of = |bits| Content::from_bits(bits).ok_or(unsupported("content is not known"));
    Ok(Frame::Order {
        request,
        user,
        kind: OrderKind::ALL
            .get(usize::from(kind))
            .copied()
            .ok_or(unsupported("order kind is not known"))?,
        client: utf8(client)?,
        channel: utf8(channel)?,
        code: u32::from_le_bytes(*code),
        text: utf8(text)?,
        expire_at_s: u64::from_le_bytes(*expire_at_s),
        info_content: content_of(info_content)?,
        info,
        content: content_of(content)?,
        data,
    })
}

fn event<'a>(request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let subject = bounded_name(name)?;
    let short = malformed("EVENT is too short");
    let (&[kind, content, z0, z1, d0, d1, d2, d3, c0, c1, c2, c3], rest) =
        body.split_first_chunk::<12>().ok_or(short)?;
    if [z0, z1] != [0, 0] {
        return Err(unsupported("reserved bytes are not 0"));
    }
    let (text, rest) = split(rest).ok_or(short)?;
    let (info, rest) = split_long(rest).ok_or(short)?;
    let (meta, data) = split_long(rest).ok_or(short)?;
    Ok(Frame::Event {
        request,
        subject,
        kind: EventKind::ALL
            .get(usize::from(kind))
            .copied()
            .ok_or(unsupported("event kind is not known"))?,
        content: Content::from_bits(content).ok_or(unsupported("content is not known"))?,
        deadline_ms: u32::from_le_bytes([d0, d1, d2, d3]),
        code: u32::from_le_bytes([c0, c1, c2, c3]),
        text: utf8(text)?,
        info,
        meta,
        data,
    })
}

fn ping<'a>(request: u64, kind: Kind, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    if body.len() > UPSTREAM_PING_MAX {
        return Err(malformed("body is above 64 bytes"));
    }
    Ok(if kind == Kind::Ping {
        Frame::Ping { request, body }
    } else {
        Frame::Pong { request, body }
    })
}

fn query<'a>(kind: Kind, request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let name = if kind == Kind::Channels {
        bounded_name(name)?
    } else {
        room(name)?
    };
    let query = Query::read(kind, body)?;
    Ok(Frame::Query {
        request,
        name,
        query,
    })
}

fn result<'a>(request: u64, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let result = QueryResult::read(body)?;
    Ok(Frame::Result { request, result })
}

fn challenge<'a>(request: u64, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_request(request)?;
    Ok(Frame::Challenge {
        node: bounded_name(name)?,
        challenge: exactly::<32>(body, "challenge is not of 32 bytes")?,
    })
}

fn welcome<'a>(request: u64, name: &'a [u8], body: &[u8]) -> Result<Frame<'a>, Fault> {
    let node = bounded_name(name)?;
    let &[
        v0,
        v1,
        z0,
        z1,
        m0,
        m1,
        m2,
        m3,
        c0,
        c1,
        c2,
        c3,
        c4,
        c5,
        c6,
        c7,
    ] = exactly::<16>(body, "WELCOME is not of 16 bytes")?;
    if u16::from_le_bytes([v0, v1]) != VERSION {
        return Err(unsupported("protocol version is not 1"));
    }
    if [z0, z1] != [0, 0] {
        return Err(unsupported("reserved bytes are not 0"));
    }
    Ok(Frame::Welcome {
        request,
        node,
        frame_bytes_max: u32::from_le_bytes([m0, m1, m2, m3]),
        credit: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
    })
}

fn ack(request: u64, name: &[u8], body: &[u8]) -> Result<Frame<'static>, Fault> {
    no_name(name)?;
    let &[
        level,
        duplicate,
        z0,
        z1,
        e0,
        e1,
        e2,
        e3,
        o0,
        o1,
        o2,
        o3,
        o4,
        o5,
        o6,
        o7,
    ] = exactly::<16>(body, "ACK is not of 16 bytes")?;
    if [z0, z1] != [0, 0] {
        return Err(unsupported("reserved bytes are not 0"));
    }
    if duplicate > 1 {
        return Err(malformed("duplicate is neither 0 nor 1"));
    }
    Ok(Frame::Ack {
        request,
        level: AckLevel::ALL
            .get(usize::from(level))
            .copied()
            .ok_or(unsupported("acknowledgement level is not known"))?,
        duplicate: duplicate == 1,
        epoch: Epoch(u32::from_le_bytes([e0, e1, e2, e3])),
        offset: Offset(u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7])),
    })
}

fn error<'a>(request: u64, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let (code, text) = body
        .split_first_chunk::<2>()
        .ok_or(malformed("ERROR is too short"))?;
    Ok(Frame::Error {
        request,
        code: ErrorCode::from_wire(u16::from_le_bytes(*code))
            .ok_or(unsupported("error code is not known"))?,
        text: utf8(text)?,
    })
}

fn credit(request: u64, name: &[u8], body: &[u8]) -> Result<Frame<'static>, Fault> {
    no_request(request)?;
    no_name(name)?;
    let total = exactly::<8>(body, "CREDIT is not of 8 bytes")?;
    Ok(Frame::Credit {
        total: u64::from_le_bytes(*total),
    })
}

fn goaway<'a>(request: u64, name: &'a [u8], body: &[u8]) -> Result<Frame<'a>, Fault> {
    no_request(request)?;
    let grace_ms = exactly::<4>(body, "GOAWAY is not of 4 bytes")?;
    Ok(Frame::Goaway {
        node: bounded_name(name)?,
        grace_ms: u32::from_le_bytes(*grace_ms),
    })
}

/// What the flags of PUBLISH and BROADCAST say.
struct Options {
    level: AckLevel,
    content: Content,
    skip_history: bool,
    has_key: bool,
    has_extras: bool,
}

impl Options {
    fn read(bits: u8) -> Result<Self, Fault> {
        let level = match bits & flags::LEVEL {
            0 => AckLevel::None,
            1 => AckLevel::Accepted,
            2 => AckLevel::Sequenced,
            _ => AckLevel::Replicated,
        };
        let content = Content::from_bits((bits & flags::CONTENT) >> flags::CONTENT_SHIFT)
            .ok_or(unsupported("content is not known"))?;
        Ok(Self {
            level,
            content,
            skip_history: bits & flags::SKIP_HISTORY != 0,
            has_key: bits & flags::KEY != 0,
            has_extras: bits & flags::EXTRAS != 0,
        })
    }

    /// The key at the beginning of the body, when there is to be one, and the rest.
    fn split_key<'a>(&self, body: &'a [u8]) -> Result<(Option<[u8; 16]>, &'a [u8]), Fault> {
        if !self.has_key {
            return Ok((None, body));
        }
        body.split_first_chunk::<16>()
            .map(|(key, rest)| (Some(*key), rest))
            .ok_or(malformed("body ends before the key"))
    }

    /// The publication header behind the key, when there is to be one, and the rest.
    fn split_extras<'a>(&self, body: &'a [u8]) -> Result<(Extras<'a>, &'a [u8]), Fault> {
        if !self.has_extras {
            return Ok((Extras::default(), body));
        }
        Extras::take(body)
    }
}

fn room(name: &[u8]) -> Result<&str, Fault> {
    if name.is_empty() {
        return Err(Fault(ErrorCode::ForbiddenRoom, "room name is empty"));
    }
    if name.len() > ROOM_NAME_MAX {
        return Err(Fault(
            ErrorCode::ForbiddenRoom,
            "room name is above 255 bytes",
        ));
    }
    utf8(name)
}

fn bounded_name(name: &[u8]) -> Result<&str, Fault> {
    if name.len() > UPSTREAM_NAME_MAX {
        return Err(malformed("name is above 255 bytes"));
    }
    utf8(name)
}

fn no_name(name: &[u8]) -> Result<(), Fault> {
    if name.is_empty() {
        Ok(())
    } else {
        Err(malformed("frame type takes no name"))
    }
}

fn no_request(request: u64) -> Result<(), Fault> {
    if request == 0 {
        Ok(())
    } else {
        Err(malformed("frame type takes no request_id"))
    }
}

/// Bytes behind their length, a u32, and what follows them.
fn split_long(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))
}

fn exactly<'a, const N: usize>(body: &'a [u8], text: &'static str) -> Result<&'a [u8; N], Fault> {
    body.try_into().map_err(|_| malformed(text))
}
