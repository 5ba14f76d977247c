//! The upstream protocol, version 1: how services push into the broker.
//!
//! A length-prefixed binary protocol over TCP, specified in `docs/upstream-protocol.md` and pinned byte
//! by byte by `tests/vectors/upstream/`. All integers are little-endian. A frame:
//!
//! ```text
//!  0        4      5       6          8            16          16+name_len      4+length
//!  +--------+------+-------+----------+------------+-----------+----------------+
//!  | length | type | flags | name_len | request_id | name      | body           |
//!  +--------+------+-------+----------+------------+-----------+----------------+
//!             length = 12 + name_len + body bytes
//! ```
//!
//! Both directions are here, so that the broker and the clients share one codec. What is *not* here:
//! which frame may come when, credit, and the validity of payloads; that is the business of who holds
//! the connection.

mod body;
mod decode;
mod extras;
mod frame;
mod fuzz;
mod names;
mod opening;
mod query;

pub use crate::base::event::{EventKind, OrderKind, Verdict};
pub use decode::{DecodeError, Recovery, decode};
pub use extras::{Extras, sorted_tags};
pub use frame::{Frame, HelloAuth, Rooms};
pub use fuzz::fuzz_upstream;
pub use names::Names;
pub use opening::{hello_mac, hello_mac_is_valid};
pub use query::{Query, QueryResult, take_channel};

/// Bytes of a frame before its name.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the `length` field, which does not count itself.
pub const LENGTH_BYTES: usize = 4;
/// What `length` is at least: the rest of the header.
pub const LENGTH_MIN: usize = HEADER_BYTES - LENGTH_BYTES;
/// The version that HELLO asks for and WELCOME confirms.
pub const VERSION: u16 = 1;
/// First bytes of HELLO's body.
pub const MAGIC: [u8; 4] = *b"RCST";

/// How far a publication must have come before it is acknowledged; bits 0 and 1 of the flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AckLevel {
    /// No acknowledgement.
    #[default]
    None = 0,
    /// Queued on the node that took it.
    Accepted = 1,
    /// It has its offset and is in the room's history.
    Sequenced = 2,
    /// The cluster engine has it.
    Replicated = 3,
}

impl AckLevel {
    /// Every level, by its wire value.
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::Accepted,
        Self::Sequenced,
        Self::Replicated,
    ];
}

/// Code of an ERROR frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// The bytes are no frame of this protocol. Closes.
    Malformed = 1,
    /// A frame type, flag bit, version or method that the receiver does not know. Closes in the opening.
    Unsupported = 2,
    /// HELLO was not accepted. Closes.
    Unauthorised = 3,
    /// The room's name is empty or too long, or the service may not publish to it.
    ForbiddenRoom = 4,
    /// The frame exceeds `max_frame`, or a list or name in it exceeds its bound.
    TooLarge = 5,
    /// The payload is not what the content bits say.
    InvalidPayload = 6,
    /// More bytes than the credit allows. Closes.
    OverCredit = 7,
    /// The broker cannot take it now; retry later.
    Overloaded = 8,
    /// The broker is going down; reconnect elsewhere.
    Draining = 9,
    /// A fault of the broker.
    Internal = 10,
    /// The acknowledgement level asked for does not exist here.
    LevelUnavailable = 11,
}

impl ErrorCode {
    /// Every code, in the order of the wire values from 1.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Unsupported,
        Self::Unauthorised,
        Self::ForbiddenRoom,
        Self::TooLarge,
        Self::InvalidPayload,
        Self::OverCredit,
        Self::Overloaded,
        Self::Draining,
        Self::Internal,
        Self::LevelUnavailable,
    ];

    /// The code with the given wire value, if there is one.
    pub fn from_wire(value: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u16 == value)
    }

    /// Whether the connection is closed after this error at any time. [`ErrorCode::Unsupported`] closes
    /// in the opening only.
    pub fn closes(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::Unauthorised | Self::OverCredit
        )
    }

    /// A short name: the default text of an ERROR frame and the metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Unauthorised => "unauthorised",
            Self::ForbiddenRoom => "forbidden_room",
            Self::TooLarge => "too_large",
            Self::InvalidPayload => "invalid_payload",
            Self::OverCredit => "over_credit",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Internal => "internal",
            Self::LevelUnavailable => "level_unavailable",
        }
    }
}

/// Type byte of a frame. Bit 7 is set in what only the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 0x01,
    Publish = 0x02,
    Broadcast = 0x03,
    Register = 0x04,
    Answer = 0x05,
    Order = 0x06,
    History = 0x07,
    Presence = 0x08,
    PresenceStats = 0x09,
    ForgetHistory = 0x0a,
    Channels = 0x0b,
    Ping = 0x20,
    Pong = 0x21,
    Challenge = 0x80,
    Welcome = 0x81,
    Ack = 0x82,
    Error = 0x83,
    Credit = 0x84,
    Goaway = 0x85,
    Event = 0x86,
    Result = 0x87,
}

impl Kind {
    fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            0x01 => Self::Hello,
            0x02 => Self::Publish,
            0x03 => Self::Broadcast,
            0x04 => Self::Register,
            0x05 => Self::Answer,
            0x06 => Self::Order,
            0x07 => Self::History,
            0x08 => Self::Presence,
            0x09 => Self::PresenceStats,
            0x0a => Self::ForgetHistory,
            0x0b => Self::Channels,
            0x20 => Self::Ping,
            0x21 => Self::Pong,
            0x80 => Self::Challenge,
            0x81 => Self::Welcome,
            0x82 => Self::Ack,
            0x83 => Self::Error,
            0x84 => Self::Credit,
            0x85 => Self::Goaway,
            0x86 => Self::Event,
            0x87 => Self::Result,
            _ => return None,
        })
    }
}

/// Flag bits of PUBLISH and BROADCAST.
mod flags {
    /// Acknowledgement level.
    pub(super) const LEVEL: u8 = 0b0000_0011;
    /// An idempotency key starts the body.
    pub(super) const KEY: u8 = 0b0000_0100;
    /// Content of the payload.
    pub(super) const CONTENT: u8 = 0b0001_1000;
    /// How far the content is shifted.
    pub(super) const CONTENT_SHIFT: u32 = 3;
    /// Leave the publication out of the history.
    pub(super) const SKIP_HISTORY: u8 = 0b0010_0000;
    /// A publication header follows the key.
    pub(super) const EXTRAS: u8 = 0b0100_0000;
    /// The bits that have a meaning.
    pub(super) const KNOWN: u8 = LEVEL | KEY | CONTENT | SKIP_HISTORY | EXTRAS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_levels_are_found_by_their_wire_value() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index + 1);
            assert_eq!(ErrorCode::from_wire(index as u16 + 1), Some(*code));
        }
        assert_eq!(ErrorCode::from_wire(0), None);
        assert_eq!(ErrorCode::from_wire(12), None);
        for (index, level) in AckLevel::ALL.iter().enumerate() {
            assert_eq!(*level as usize, index);
        }
    }

    #[test]
    fn a_type_byte_reads_back_as_its_kind() {
        let known = (0..=u8::MAX).filter_map(Kind::from_wire).inspect(|kind| {
            assert_eq!(Kind::from_wire(*kind as u8), Some(*kind));
        });
        assert_eq!(known.count(), 21);
    }
}
