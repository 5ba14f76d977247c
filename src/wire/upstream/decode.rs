//! Bytes to frames: nothing is copied, nothing is allocated, nothing is believed before it is checked.
//!
//! The header is judged as soon as it is there, so that a frame that will be refused is not waited for
//! or stored. Rules of shape only: which frame may come when, credit and payloads are not looked at.

use super::frame::split_room;
use super::{
    AckLevel, ErrorCode, Frame, HEADER_BYTES, HelloAuth, Kind, LENGTH_BYTES, LENGTH_MIN, MAGIC,
    Rooms, VERSION, flags,
};
use crate::base::{Content, Epoch, Offset};
use crate::limits::{BROADCAST_ROOMS_MAX, ROOM_NAME_MAX, UPSTREAM_NAME_MAX, UPSTREAM_PING_MAX};
use std::fmt;

/// Takes the first frame of `input`: the frame and the bytes it occupied, or `None` when it is not
/// complete. `frame_bytes_max` is what `length` may be at most.
///
/// # Errors
///
/// [`DecodeError`] says what to answer and how to go on. It may come before the frame is complete.
pub fn decode(
    input: &[u8],
    frame_bytes_max: usize,
) -> Result<Option<(Frame<'_>, usize)>, DecodeError> {
    let Some(header) = Header::read(input)? else {
        return Ok(None);
    };
    let kind = header.check(frame_bytes_max)?;
    let frame_bytes = header.frame_bytes();
    let Some((name, body)) = input
        .get(HEADER_BYTES..frame_bytes)
        .and_then(|rest| rest.split_at_checked(usize::from(header.name_len)))
    else {
        return Ok(None);
    };
    let frame = match kind {
        Kind::Publish => publish(&header, name, body),
        Kind::Broadcast => broadcast(&header, name, body),
        Kind::Hello => hello(&header, name, body),
        Kind::Ping | Kind::Pong => ping(&header, kind, name, body),
        Kind::Challenge => challenge(name, body),
        Kind::Welcome => welcome(&header, name, body),
        Kind::Ack => ack(&header, name, body),
        Kind::Error => error(&header, name, body),
        Kind::Credit => credit(name, body),
        Kind::Goaway => goaway(name, body),
    };
    frame
        .map(|frame| Some((frame, frame_bytes)))
        .map_err(|fault| header.error(fault))
}

/// Why a frame was not taken: what to send back, and how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Code of the ERROR frame.
    pub code: ErrorCode,
    /// The request that failed; 0 when the header did not come that far.
    pub request: u64,
    /// Text of the ERROR frame.
    pub text: &'static str,
    /// What to do with the bytes.
    pub recovery: Recovery,
}

/// How to go on after a [`DecodeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Discard this many bytes from the beginning of the input and go on. They need not have arrived
    /// yet, and bytes of a publication count against the credit like those of any other: that bounds
    /// how much there is to discard.
    Skip(usize),
    /// The stream cannot be trusted: answer and close.
    Close,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.label(), self.text)
    }
}

impl std::error::Error for DecodeError {}

/// What is wrong with a frame, before the header's facts are added.
#[derive(Clone, Copy)]
struct Fault(ErrorCode, &'static str);

const fn malformed(text: &'static str) -> Fault {
    Fault(ErrorCode::Malformed, text)
}

const fn unsupported(text: &'static str) -> Fault {
    Fault(ErrorCode::Unsupported, text)
}

struct Header {
    length: u32,
    kind: u8,
    flags: u8,
    name_len: u16,
    request: u64,
}

impl Header {
    /// The header, `None` when it is not complete. A `length` below [`LENGTH_MIN`] is refused at once:
    /// there is no header to wait for.
    fn read(input: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some(length) = input.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        if (length as usize) < LENGTH_MIN {
            return Err(DecodeError {
                code: ErrorCode::Malformed,
                request: 0,
                text: "length is below 12",
                recovery: Recovery::Close,
            });
        }
        let Some(
            &[
                _,
                _,
                _,
                _,
                kind,
                flags,
                n0,
                n1,
                r0,
                r1,
                r2,
                r3,
                r4,
                r5,
                r6,
                r7,
            ],
        ) = input.first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            length,
            kind,
            flags,
            name_len: u16::from_le_bytes([n0, n1]),
            request: u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
        }))
    }

    /// What the header alone decides.
    fn check(&self, frame_bytes_max: usize) -> Result<Kind, DecodeError> {
        let kind = Kind::from_wire(self.kind);
        let is_publication = matches!(kind, Some(Kind::Publish | Kind::Broadcast));
        if self.length as usize > frame_bytes_max {
            // Credit bounds what a publication may make us discard; nothing bounds the others.
            return Err(self.error(if is_publication {
                Fault(ErrorCode::TooLarge, "length is above max_frame")
            } else {
                malformed("length is above max_frame")
            }));
        }
        if usize::from(self.name_len) > self.length as usize - LENGTH_MIN {
            return Err(self.error(malformed("name_len is above length")));
        }
        let Some(kind) = kind else {
            return Err(self.error(unsupported("frame type is not known")));
        };
        let known = if is_publication { flags::KNOWN } else { 0 };
        if self.flags & !known != 0 {
            return Err(self.error(unsupported("flag bit is not known")));
        }
        Ok(kind)
    }

    fn frame_bytes(&self) -> usize {
        LENGTH_BYTES + self.length as usize
    }

    #[cold]
    fn error(&self, Fault(code, text): Fault) -> DecodeError {
        DecodeError {
            code,
            request: self.request,
            text,
            recovery: if code.closes() {
                Recovery::Close
            } else {
                Recovery::Skip(self.frame_bytes())
            },
        }
    }
}

fn publish<'a>(header: &Header, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    let options = Options::read(header.flags)?;
    let room = room(name)?;
    let (key, payload) = options.split_key(body)?;
    Ok(Frame::Publish {
        request: header.request,
        room,
        level: options.level,
        content: options.content,
        skip_history: options.skip_history,
        key,
        payload,
    })
}

fn broadcast<'a>(header: &Header, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let options = Options::read(header.flags)?;
    let (key, body) = options.split_key(body)?;
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
        request: header.request,
        level: options.level,
        content: options.content,
        skip_history: options.skip_history,
        key,
        rooms: Rooms::from_checked(count, names.get(..names_bytes).unwrap_or_default()),
        payload,
    })
}

fn hello<'a>(header: &Header, name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
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
        request: header.request,
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

fn ping<'a>(header: &Header, kind: Kind, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    if body.len() > UPSTREAM_PING_MAX {
        return Err(malformed("body is above 64 bytes"));
    }
    let request = header.request;
    Ok(if kind == Kind::Ping {
        Frame::Ping { request, body }
    } else {
        Frame::Pong { request, body }
    })
}

fn challenge<'a>(name: &'a [u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    Ok(Frame::Challenge {
        node: bounded_name(name)?,
        challenge: exactly::<32>(body, "challenge is not of 32 bytes")?,
    })
}

fn welcome<'a>(header: &Header, name: &'a [u8], body: &[u8]) -> Result<Frame<'a>, Fault> {
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
        request: header.request,
        node,
        frame_bytes_max: u32::from_le_bytes([m0, m1, m2, m3]),
        credit: u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
    })
}

fn ack(header: &Header, name: &[u8], body: &[u8]) -> Result<Frame<'static>, Fault> {
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
        request: header.request,
        level: AckLevel::ALL
            .get(usize::from(level))
            .copied()
            .ok_or(unsupported("acknowledgement level is not known"))?,
        duplicate: duplicate == 1,
        epoch: Epoch(u32::from_le_bytes([e0, e1, e2, e3])),
        offset: Offset(u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7])),
    })
}

fn error<'a>(header: &Header, name: &[u8], body: &'a [u8]) -> Result<Frame<'a>, Fault> {
    no_name(name)?;
    let (code, text) = body
        .split_first_chunk::<2>()
        .ok_or(malformed("ERROR is too short"))?;
    Ok(Frame::Error {
        request: header.request,
        code: ErrorCode::from_wire(u16::from_le_bytes(*code))
            .ok_or(unsupported("error code is not known"))?,
        text: utf8(text)?,
    })
}

fn credit(name: &[u8], body: &[u8]) -> Result<Frame<'static>, Fault> {
    no_name(name)?;
    let total = exactly::<8>(body, "CREDIT is not of 8 bytes")?;
    Ok(Frame::Credit {
        total: u64::from_le_bytes(*total),
    })
}

fn goaway<'a>(name: &'a [u8], body: &[u8]) -> Result<Frame<'a>, Fault> {
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

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))
}

fn exactly<'a, const N: usize>(body: &'a [u8], text: &'static str) -> Result<&'a [u8; N], Fault> {
    body.try_into().map_err(|_| malformed(text))
}
