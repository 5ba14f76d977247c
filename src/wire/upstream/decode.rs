//! Bytes to frames: nothing is copied, nothing is allocated, nothing is believed before it is checked.
//!
//! The header is judged as soon as it is there, so that a frame that will be refused is not waited for
//! or stored. Rules of shape only: which frame may come when, credit and payloads are not looked at.
//! This file cuts the stream; `body` reads what is in a frame.

use super::body::{self, Fault, malformed, unsupported};
use super::{ErrorCode, Frame, HEADER_BYTES, Kind, LENGTH_BYTES, LENGTH_MIN, flags};
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
    let frame = body::read(kind, header.flags, header.request, name, body);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Content, Epoch, Offset};
    use crate::limits::{UPSTREAM_FRAME_MAX, UPSTREAM_PING_MAX};
    use crate::wire::client::flat::Tags;
    use crate::wire::upstream::{
        AckLevel, Extras, HelloAuth, Query, QueryResult, Rooms, fuzz_upstream, sorted_tags,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A header with any values, and a body.
    fn raw(length: u32, kind: u8, flags: u8, name_len: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(name_len.to_le_bytes());
        bytes.extend(77_u64.to_le_bytes());
        bytes.extend(rest);
        bytes
    }

    fn refusal(bytes: &[u8]) -> (ErrorCode, u64, Recovery) {
        let error = decode(bytes, UPSTREAM_FRAME_MAX).expect_err("an error");
        (error.code, error.request, error.recovery)
    }

    #[test]
    fn a_refused_frame_is_not_waited_for() {
        let over = UPSTREAM_FRAME_MAX as u32 + 1;
        let publication = raw(over, 0x02, 0, 1, b"");
        let skip = Recovery::Skip(over as usize + 4);
        assert_eq!(refusal(&publication), (ErrorCode::TooLarge, 77, skip));
        for kind in [0x01, 0x20, 0x7f] {
            let other = raw(u32::MAX, kind, 0, 1, b"");
            let expected = (ErrorCode::Malformed, 77, Recovery::Close);
            assert_eq!(refusal(&other), expected);
        }
        let unknown = raw(1_000, 0x7f, 0, 0, b"");
        let expected = (ErrorCode::Unsupported, 77, Recovery::Skip(1_004));
        assert_eq!(refusal(&unknown), expected);
        let expected = (ErrorCode::Malformed, 0, Recovery::Close);
        assert_eq!(refusal(&[11, 0, 0, 0]), expected);
    }

    #[test]
    fn a_frame_at_the_limit_is_taken() {
        let body = vec![b'1'; UPSTREAM_FRAME_MAX - LENGTH_MIN];
        let bytes = raw(UPSTREAM_FRAME_MAX as u32, 0x02, 0, 1, &body);
        let decoded = decode(&bytes, UPSTREAM_FRAME_MAX).expect("valid");
        assert_eq!(decoded.map(|(_, size)| size), Some(bytes.len()));
    }

    #[test]
    fn frames_that_follow_each_other_are_told_apart() {
        let mut bytes = Vec::new();
        Frame::Credit { total: 1 }.encode(&mut bytes);
        let first = bytes.len();
        Frame::Credit { total: 2 }.encode(&mut bytes);
        assert_eq!(
            decode(&bytes, UPSTREAM_FRAME_MAX),
            Ok(Some((Frame::Credit { total: 1 }, first)))
        );
        assert_eq!(
            decode(&bytes[first..], UPSTREAM_FRAME_MAX),
            Ok(Some((Frame::Credit { total: 2 }, bytes.len() - first)))
        );
    }

    fn level() -> impl Strategy<Value = AckLevel> {
        prop::sample::select(AckLevel::ALL.to_vec())
    }

    fn content() -> impl Strategy<Value = Content> {
        prop::sample::select(vec![Content::Json, Content::Text, Content::Bytes])
    }

    fn room_name() -> impl Strategy<Value = String> {
        "\\PC{1,60}"
    }

    fn check(frame: Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let size = bytes.len();
        bytes.extend(b"what follows");
        assert_eq!(decode(&bytes, UPSTREAM_FRAME_MAX), Ok(Some((frame, size))));
        for cut in 0..size.min(400) {
            assert_eq!(decode(&bytes[..cut], UPSTREAM_FRAME_MAX), Ok(None));
        }
    }

    proptest! {
        #[test]
        fn a_publication_reads_back_as_it_was_written(
            request: u64, room in room_name(), level in level(), content in content(),
            skip_history: bool, key: Option<[u8; 16]>, payload in vec(any::<u8>(), 0..300),
            rooms in vec(room_name(), 1..20), delta: bool, exclude in "\\PC{0,20}",
            version in prop_oneof![Just(0), any::<u64>()], version_epoch in "\\PC{0,9}",
            tags in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..5),
        ) {
            let tags: Vec<_> = tags.iter().map(|(key, value)| (&**key, &**value)).collect();
            let tags = sorted_tags(&tags).expect("few tags");
            let version_epoch = if version > 0 { &*version_epoch } else { "" };
            let tags = Tags::from_flat(&tags);
            let extras = Extras { delta, exclude: &exclude, version, version_epoch, tags };
            let (room, payload) = (room.as_str(), payload.as_slice());
            check(Frame::Publish { request, room, level, content, skip_history, key, extras, payload });
            let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
            let rooms = Rooms::new(&rooms);
            check(Frame::Broadcast {
                request, level, content, skip_history, key, extras, rooms, payload,
            });
        }

        #[test]
        fn an_opening_reads_back_as_it_was_written(
            request: u64, service in room_name(), node in "\\PC{0,60}", key_id in room_name(),
            bytes: [u8; 32], frame_bytes_max: u32, credit: u64, grace_ms: u32,
        ) {
            let (service, node) = (service.as_str(), node.as_str());
            let hmac = HelloAuth::Hmac { key_id: &key_id, mac: &bytes };
            check(Frame::Challenge { node, challenge: &bytes });
            check(Frame::Hello { request, service, auth: HelloAuth::None });
            check(Frame::Hello { request, service, auth: hmac });
            check(Frame::Welcome { request, node, frame_bytes_max, credit });
            check(Frame::Goaway { node, grace_ms });
        }

        #[test]
        fn an_answer_reads_back_as_it_was_written(
            request: u64, level in level(), duplicate: bool, epoch: u32, offset: u64,
            code in prop::sample::select(ErrorCode::ALL.to_vec()), text in "\\PC{0,80}",
            body in vec(any::<u8>(), 0..=UPSTREAM_PING_MAX),
        ) {
            let (epoch, offset, total) = (Epoch(epoch), Offset(offset), offset);
            check(Frame::Ack { request, level, duplicate, epoch, offset });
            check(Frame::Error { request, code, text: &text });
            check(Frame::Credit { total });
            check(Frame::Ping { request, body: &body });
            check(Frame::Pong { request, body: &body });
        }

        #[test]
        fn a_question_and_its_answer_read_back_as_they_were_written(
            request: u64, name in room_name(), limit: i32, reverse: bool, epoch in "\\PC{0,20}",
            since: Option<u64>, found: bool, epoch_number: u32, clients: u32, users: u32,
        ) {
            let since = since.map(|offset| (epoch.as_str(), Offset(offset)));
            let history = Query::History { limit, reverse, since };
            let others = [Query::Presence, Query::PresenceStats, Query::ForgetHistory];
            for query in [history].into_iter().chain(others) {
                check(Frame::Query { request, name: &name, query });
            }
            check(Frame::Query { request, name: "", query: Query::Channels });
            let (epoch, top) = (Epoch(epoch_number), Offset(request));
            let results = [
                QueryResult::History { found, epoch, top, publications: &[] },
                QueryResult::Presence { complete: found, clients: &[] },
                QueryResult::PresenceStats { clients, users },
                QueryResult::Done,
                QueryResult::Channels { complete: found, channels: b"\x01\0a\x02\0\0\0" },
            ];
            for result in results {
                check(Frame::Result { request, result });
            }
        }

        #[test]
        fn any_bytes_after_a_plausible_header_keep_the_promises(
            kind in prop::sample::select((1_u8..0x0d).chain(0x20..0x22).chain(0x80..0x89).collect::<Vec<_>>()),
            flags: u8, name_len in 0_u16..6, rest in vec(any::<u8>(), 0..80),
        ) {
            let length = LENGTH_MIN as u32 + rest.len() as u32;
            fuzz_upstream(&raw(length, kind, flags, name_len, &rest));
        }
    }
}
