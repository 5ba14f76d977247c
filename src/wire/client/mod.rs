//! The client protocol: what browsers and SDKs say after the upgrade.
//!
//! Centrifugo's client protocol v2, so that existing SDKs work unmodified. This file is the protocol as
//! values; [`json`] is one way to write them. Nothing here keeps state: order and dispatch rules that
//! need a session are the session's.

pub mod json;

use crate::base::reason::CloseReason;
use std::borrow::Cow;
use std::fmt;

/// How a connection writes the protocol; fixed at the upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON document per line, in text frames.
    #[default]
    Json,
}

impl Encoding {
    /// The WebSocket subprotocol that names it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "centrifuge-json",
        }
    }
}

/// One command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Chosen by the client, repeated in the reply. 0 in [`Request::Pong`] and usually in
    /// [`Request::Send`], which are never answered.
    pub id: u32,
    /// What the client wants.
    pub request: Request<'a>,
}

/// What a client wants. A channel is the protocol's word for a room; it is never empty here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Answer to our ping: a command with neither id nor `send`.
    Pong,
    /// Opens the session; the first command of a connection.
    Connect {
        /// Connection token, `None` when absent or empty.
        token: Option<Cow<'a, str>>,
        /// Name of the SDK or application, `None` when absent or empty.
        name: Option<Cow<'a, str>>,
    },
    /// Asks for the publications of a channel.
    Subscribe {
        /// The channel.
        channel: Cow<'a, str>,
        /// Subscription token, `None` when absent or empty.
        token: Option<Cow<'a, str>>,
        /// The client wants what it missed.
        recover: bool,
        /// Bit 0: takes numeric channel ids. Bit 1: error 112 rather than an unrecovered subscription.
        flag: i64,
        /// 0 = stream; the others are not offered here (error 108).
        kind: i32,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Publishes to a channel.
    Publish {
        /// The channel.
        channel: Cow<'a, str>,
        /// One JSON document without raw newlines, nested at most
        /// [`crate::limits::JSON_DEPTH_MAX`] deep; empty when the field is missing (error 107).
        data: &'a str,
    },
    /// A message to the application, never answered.
    Send {
        /// As in [`Request::Publish`].
        data: &'a str,
    },
    /// A request of the protocol that is not offered: answer [`ErrorCode::NotAvailable`].
    Unsupported,
}

/// Why a message is not a list of commands. The connection is closed with
/// [`CloseReason::BadRequest`] (3501) whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCommand {
    /// An empty message or an empty line in its middle.
    Empty,
    /// Not UTF-8.
    NotUtf8,
    /// A line that is not a JSON object with fields of the right types.
    NotJson,
    /// An id, but no known request.
    NoRequest,
    /// A channel that is empty or missing.
    NoChannel,
    /// Data that nests deeper than [`crate::limits::JSON_DEPTH_MAX`].
    TooDeep,
    /// More than [`crate::limits::COMMANDS_PER_MESSAGE_MAX`] commands.
    TooMany,
}

impl BadCommand {
    /// Why the connection is closed.
    pub fn reason(self) -> CloseReason {
        CloseReason::BadRequest
    }
}

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty message or line",
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not a command in JSON",
            Self::NoRequest => "command without a request",
            Self::NoChannel => "command without a channel",
            Self::TooDeep => "data nests too deep",
            Self::TooMany => "too many commands in a message",
        })
    }
}

impl std::error::Error for BadCommand {}

/// Code of an error reply; numbers, texts and the temporary flag are fixed by the SDKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// A fault of ours.
    Internal = 100,
    /// Who the client is does not allow it.
    Unauthorized = 101,
    /// No such namespace.
    UnknownChannel = 102,
    /// Not allowed, or a subscription token that is not valid.
    PermissionDenied = 103,
    /// No such RPC method.
    MethodNotFound = 104,
    /// A second subscription to one channel.
    AlreadySubscribed = 105,
    /// Too many channels on one connection.
    LimitExceeded = 106,
    /// A field beyond its limits: channel too long, data empty.
    BadRequest = 107,
    /// A request that is not offered.
    NotAvailable = 108,
    /// The client fetches a new token and comes back.
    TokenExpired = 109,
    /// Too many requests at this time.
    TooManyRequests = 111,
    /// What was missed cannot be given (subscribe with flag bit 1).
    Unrecoverable = 112,
}

impl ErrorCode {
    /// Every code, ascending.
    pub const ALL: [Self; 12] = [
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::TooManyRequests,
        Self::Unrecoverable,
    ];

    /// The message, never empty.
    pub fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::TooManyRequests => "too many requests",
            Self::Unrecoverable => "unrecoverable position",
        }
    }

    /// Whether the client tries again by itself.
    pub fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }
}

/// What a subscribe reply says. Zero values are left out on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeResult<'a> {
    /// Missed publications can be asked for after a reconnect.
    pub recoverable: bool,
    /// The server watches this subscription for gaps.
    pub positioned: bool,
    /// Incarnation of the channel's history.
    pub epoch: &'a str,
    /// Newest offset of the channel; after a recovery the one that the client asked with.
    pub offset: u64,
    /// What was missed has been given.
    pub recovered: bool,
    /// Recovery was asked for, whatever came of it.
    pub was_recovering: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_texts_and_flags_that_sdks_expect() {
        let table: Vec<_> = ErrorCode::ALL
            .iter()
            .map(|code| (*code as u16, code.message(), code.temporary()))
            .collect();
        assert_eq!(table[0], (100, "internal server error", true));
        assert_eq!(table[8], (108, "not available", false));
        assert_eq!(table[10], (111, "too many requests", true));
        assert_eq!(table[11], (112, "unrecoverable position", false));
        assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(table.iter().filter(|row| row.2).count(), 2);
    }

    #[test]
    fn every_bad_command_closes_with_3501() {
        assert_eq!(BadCommand::TooMany.reason().code(), Some(3501));
    }
}
