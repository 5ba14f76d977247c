//! The client protocol: what browsers and SDKs say after the upgrade.
//!
//! Centrifugo's client protocol v2, so that existing SDKs work unmodified. This file is the protocol as
//! values; [`json`] and [`protobuf`] are two ways to write them, [`flat`] is how they cross lanes.
//! Nothing here keeps state: order and dispatch rules that need a session are the session's.

mod commands;
mod filter;
pub mod flat;
mod fuzz;
pub mod json;
pub mod protobuf;

pub use commands::Commands;
pub use filter::{BadFilter, Filter};
pub use flat::Tags;
pub use fuzz::fuzz_commands;

use crate::base::Content;
use crate::base::reason::CloseReason;
use std::borrow::Cow;
use std::fmt;

/// How a connection writes the protocol; fixed at the upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON document per line, in text frames.
    #[default]
    Json,
    /// Length-prefixed Protobuf messages, in binary frames.
    Protobuf,
}

impl Encoding {
    /// The WebSocket subprotocol that names it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "centrifuge-json",
            Self::Protobuf => "centrifuge-protobuf",
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
///
/// `data` is empty when the field is missing. In JSON it is one valid document without raw newlines,
/// nested at most [`crate::limits::JSON_DEPTH_MAX`] deep; in Protobuf it is any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Answer to our ping: a command with neither id nor `send`.
    Pong,
    /// Opens the session; the first command of a connection.
    Connect(Connect<'a>),
    /// Asks for the publications of a channel.
    Subscribe(Subscribe<'a>),
    /// Ends a subscription.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Publishes to a channel.
    Publish {
        /// The channel.
        channel: Cow<'a, str>,
        /// What to publish; empty is refused with error 107.
        data: Cow<'a, [u8]>,
    },
    /// Asks who is subscribed to a channel.
    Presence {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Asks how many are subscribed to a channel.
    PresenceStats {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Asks for past publications of a channel.
    History {
        /// The channel.
        channel: Cow<'a, str>,
        /// Publications at most: 0 for the position only, negative for as many as are allowed.
        limit: i32,
        /// Excluded itself: later publications, or earlier ones with `reverse`.
        since: Option<StreamPosition<'a>>,
        /// Newest first.
        reverse: bool,
    },
    /// `ping` of an earlier protocol; not served (error 108).
    Ping,
    /// A message to the application, never answered.
    Send {
        /// The message.
        data: Cow<'a, [u8]>,
    },
    /// A call to the application.
    Rpc {
        /// The method, possibly empty.
        method: Cow<'a, str>,
        /// The argument.
        data: Cow<'a, [u8]>,
    },
    /// A new connection token.
    Refresh {
        /// The token.
        token: Cow<'a, str>,
    },
    /// A new subscription token.
    SubRefresh {
        /// The channel.
        channel: Cow<'a, str>,
        /// The token.
        token: Cow<'a, str>,
    },
}

/// Fields of `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Connection token, `None` when absent or empty.
    pub token: Option<Cow<'a, str>>,
    /// For the application.
    pub data: Cow<'a, [u8]>,
    /// Positions of server-side subscriptions to recover, by channel: each channel once, at most
    /// [`crate::limits::SUBSCRIPTIONS_PER_CONN_MAX`] of them.
    pub subs: Vec<(Cow<'a, str>, Recover<'a>)>,
    /// Name of the SDK or application, `None` when absent or empty.
    pub name: Option<Cow<'a, str>>,
    /// Version of it, `None` when absent or empty.
    pub version: Option<Cow<'a, str>>,
}

/// The part of a subscribe request that asks for what was missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recover<'a> {
    /// The client wants what it missed.
    pub wanted: bool,
    /// Where it is.
    pub since: StreamPosition<'a>,
}

/// Fields of `subscribe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// Subscription token, `None` when absent or empty.
    pub token: Option<Cow<'a, str>>,
    /// Recovery.
    pub recover: Recover<'a>,
    /// For the application.
    pub data: Cow<'a, [u8]>,
    /// The client wants its position watched.
    pub positioned: bool,
    /// The client wants to be able to recover.
    pub recoverable: bool,
    /// The client wants join and leave pushes.
    pub join_leave: bool,
    /// The client takes fossil deltas.
    pub delta_fossil: bool,
    /// Which publications the client wants, by their tags; a bad filter is error 107.
    pub filter: Result<Option<Box<Filter>>, BadFilter>,
    /// Bit 0: takes numeric channel ids. Bit 1: error 112 rather than an unrecovered subscription.
    pub flag: i64,
    /// 0 = stream; the others are not offered here (error 108).
    pub kind: i32,
}

impl Default for Subscribe<'_> {
    fn default() -> Self {
        Self {
            channel: Cow::default(),
            token: None,
            recover: Recover::default(),
            data: Cow::default(),
            positioned: false,
            recoverable: false,
            join_leave: false,
            delta_fossil: false,
            filter: Ok(None),
            flag: 0,
            kind: 0,
        }
    }
}

/// A place in a channel's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPosition<'a> {
    /// Offset of the last publication seen.
    pub offset: u64,
    /// Incarnation of the history; empty when the client knows none.
    pub epoch: Cow<'a, str>,
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
    /// Bytes that are not a length and a Protobuf command of that length.
    NotProtobuf,
    /// An id, but no known request.
    NoRequest,
    /// A channel that is empty or missing.
    NoChannel,
    /// Data that nests deeper than [`crate::limits::JSON_DEPTH_MAX`].
    TooDeep,
    /// More than [`crate::limits::COMMANDS_PER_MESSAGE_MAX`] commands, or more than
    /// [`crate::limits::SUBSCRIPTIONS_PER_CONN_MAX`] channels in a `connect`.
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
            Self::NotProtobuf => "not a command in Protobuf",
            Self::NoRequest => "command without a request",
            Self::NoChannel => "command without a channel",
            Self::TooDeep => "data nests too deep",
            Self::TooMany => "too many commands or channels in a message",
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
    /// A connection or subscription that has expired already.
    Expired = 110,
    /// Too many requests at this time.
    TooManyRequests = 111,
    /// What was missed cannot be given (subscribe with flag bit 1).
    Unrecoverable = 112,
}

impl ErrorCode {
    /// Every code, ascending.
    pub const ALL: [Self; 13] = [
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
        Self::Expired,
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
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::Unrecoverable => "unrecoverable position",
        }
    }

    /// Whether the client tries again by itself.
    pub fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests)
    }
}

/// An error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReply<'a> {
    /// An [`ErrorCode`], or a code of the application (400 to 1999).
    pub code: u32,
    /// Never empty.
    pub message: &'a str,
    /// The client tries again by itself.
    pub temporary: bool,
}

impl From<ErrorCode> for ErrorReply<'static> {
    fn from(code: ErrorCode) -> Self {
        Self {
            code: code as u32,
            message: code.message(),
            temporary: code.temporary(),
        }
    }
}

/// Bytes for a client and what they are; absent on the wire when there are none.
///
/// To JSON clients [`Content::Json`] goes as it is, without raw newlines, [`Content::Text`] as a JSON
/// string and [`Content::Bytes`] as a base64 string. Protobuf clients get the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data<'a> {
    /// What the bytes are; checked where they entered.
    pub content: Content,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Who a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo<'a> {
    /// The user; empty for an anonymous one.
    pub user: &'a str,
    /// Public id of the connection.
    pub client: &'a str,
    /// What the connection token says of it.
    pub conn_info: Data<'a>,
    /// What the subscription token says of it.
    pub chan_info: Data<'a>,
}

/// A publication as subscribers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publication<'a> {
    /// Position in the channel; 0 when the channel keeps no history.
    pub offset: u64,
    /// The payload, or with `delta` what turns the previous payload into it.
    ///
    /// JSON clients that negotiated deltas patch the text of documents, so they want every document as
    /// a string: in [`SubscribeResult::publications`] and with `delta` it is written so; a push of the
    /// whole document says so as [`Content::Text`]. To them [`Content::Bytes`] are base64 and never
    /// come as deltas.
    pub data: Data<'a>,
    /// Who published, when it was a client.
    pub info: Option<ClientInfo<'a>>,
    /// Key and value pairs of the publisher.
    pub tags: Tags<'a>,
    /// `data` is a fossil delta to the publication before.
    pub delta: bool,
}

/// What a subscribe reply says. Zero values are left out on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeResult<'a> {
    /// Seconds after which the subscription expires unless refreshed; 0 when it does not.
    pub ttl_s: u32,
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
    /// What was missed, in order.
    pub publications: &'a [Publication<'a>],
    /// For the client's application.
    pub data: Data<'a>,
    /// Publications may come as deltas; their data is a JSON string for JSON clients.
    pub delta: bool,
}

/// What a connect reply says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResult<'a> {
    /// Public id of the connection; never empty.
    pub client: &'a str,
    /// Of the server; never empty.
    pub version: &'a str,
    /// Seconds after which the connection expires unless refreshed; 0 when it does not.
    pub ttl_s: u32,
    /// For the client's application.
    pub data: Data<'a>,
    /// Server-side subscriptions, by channel.
    pub subs: &'a [(&'a str, SubscribeResult<'a>)],
    /// Seconds between pings; 0 for none.
    pub ping_s: u32,
    /// The client has to answer them.
    pub pong: bool,
}

/// Answer to a command, behind its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Refused.
    Error(ErrorReply<'a>),
    /// To `connect`.
    Connect(&'a ConnectResult<'a>),
    /// To `subscribe`.
    Subscribe(&'a SubscribeResult<'a>),
    /// To `unsubscribe`.
    Unsubscribe,
    /// To `publish`.
    Publish,
    /// To `presence`: everybody, each with a client id of its own.
    Presence(&'a [ClientInfo<'a>]),
    /// To `presence_stats`.
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Distinct users.
        users: u32,
    },
    /// To `history`.
    History {
        /// In the order asked for.
        publications: &'a [Publication<'a>],
        /// Incarnation of the history.
        epoch: &'a str,
        /// Offset of the newest publication.
        offset: u64,
    },
    /// To `rpc`.
    Rpc(Data<'a>),
    /// To `refresh`.
    Refresh {
        /// The same public id as before.
        client: &'a str,
        /// Of the server.
        version: &'a str,
        /// Seconds to the next expiry; 0 for none.
        ttl_s: u32,
    },
    /// To `sub_refresh`.
    SubRefresh {
        /// Seconds to the next expiry; 0 for none.
        ttl_s: u32,
    },
}

/// What the server says unasked. All but [`Push::Message`] are of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push<'a> {
    /// A publication.
    Publication(&'a Publication<'a>),
    /// Somebody subscribed.
    Join(&'a ClientInfo<'a>),
    /// Somebody left.
    Leave(&'a ClientInfo<'a>),
    /// The subscription is over.
    Unsubscribe {
        /// From 2500 on the client subscribes again.
        code: u32,
        /// Never empty.
        reason: &'a str,
    },
    /// A server-side subscription has begun.
    Subscribe(&'a SubscribeResult<'a>),
    /// A message to the connection.
    Message(Data<'a>),
    /// The server has moved the connection's expiry.
    Refresh {
        /// Seconds after which it expires unless refreshed; 0 when it does not.
        ttl_s: u32,
    },
}

/// Writes the answer to command `id`, as one document (JSON) or one length-prefixed message (Protobuf).
pub fn write_reply(encoding: Encoding, out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    match encoding {
        Encoding::Json => json::reply(out, id, reply),
        Encoding::Protobuf => protobuf::reply(out, id, reply),
    }
}

/// Writes a push of `channel`, which is empty for [`Push::Message`] and [`Push::Refresh`].
pub fn write_push(encoding: Encoding, out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    match encoding {
        Encoding::Json => json::push(out, channel, push),
        Encoding::Protobuf => protobuf::push(out, channel, push),
    }
}

/// Writes a ping.
pub fn write_ping(encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Json => json::ping(out),
        Encoding::Protobuf => protobuf::ping(out),
    }
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
        assert_eq!(table[11], (111, "too many requests", true));
        assert_eq!(table[12], (112, "unrecoverable position", false));
        assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(table.iter().filter(|row| row.2).count(), 2);
    }

    #[test]
    fn every_bad_command_closes_with_3501() {
        assert_eq!(BadCommand::TooMany.reason().code(), Some(3501));
    }
}
