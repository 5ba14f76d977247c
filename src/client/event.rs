//! Events of clients, for services that decide on them or want to be told, and orders for clients.

use super::ClientError;
use crate::base::Content;
use crate::wire::client::{ClientInfo, flat};
use crate::wire::upstream::{EventKind, Frame, OrderKind, Verdict};

/// Something that a client wants, or that happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To be given to [`super::Upstream::answer`]; 0 when no answer is wanted.
    pub request: u64,
    /// What happened.
    pub kind: EventKind,
    /// Channel or method; empty where there is neither.
    pub subject: String,
    /// The user; empty for an anonymous one.
    pub user: String,
    /// Public id of the connection.
    pub client: String,
    /// What the connection token or a service said of the connection.
    pub conn_info: Vec<u8>,
    /// What the subscription token or a service said of the subscription.
    pub chan_info: Vec<u8>,
    /// JSON that the connection token or a service has kept of the connection for services only; empty
    /// for none.
    pub meta: Vec<u8>,
    /// Milliseconds until the broker goes on without an answer.
    pub deadline_ms: u32,
    /// Close or unsubscribe code; else 0.
    pub code: u32,
    /// Its reason; for connect, name and version of the client's software with a newline between.
    pub text: String,
    /// What `data` is.
    pub content: Content,
    /// The client's data.
    pub data: Vec<u8>,
}

/// What a service makes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventAnswer<'a> {
    /// Granted; a JSON object, or empty.
    Result(&'a [u8]),
    /// Refused.
    Error {
        /// 100 to 1999.
        code: u32,
        /// 1 to 255 bytes.
        text: &'a str,
        /// The client tries again by itself.
        temporary: bool,
    },
    /// The client is closed.
    Disconnect {
        /// 3000 to 4999; clients come back unless it is 3500 to 3999 or from 4500 on.
        code: u32,
        /// 1 to 123 bytes, not JSON.
        text: &'a str,
    },
}

/// Something to be done to the connections of a user. What a kind has no use for is left as it is in
/// [`Order::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// What.
    pub kind: OrderKind,
    /// The user; may be empty when a client is named.
    pub user: &'a str,
    /// Public id of the only connection meant; empty for all of the user's.
    pub client: &'a str,
    /// Channel of a subscription.
    pub channel: &'a str,
    /// Close code, 3000 to 4999, and reason.
    pub close: (u32, &'a str),
    /// Unix time in seconds of the expiry; 0 for never.
    pub expire_at_s: u64,
    /// What others see of the connection or subscriber, in JSON.
    pub info: &'a [u8],
    /// For the client's application, in JSON.
    pub data: &'a [u8],
}

impl<'a> Order<'a> {
    /// An order for all connections of a user that says nothing more.
    pub fn new(kind: OrderKind, user: &'a str) -> Self {
        Self {
            kind,
            user,
            client: "",
            channel: "",
            close: (0, ""),
            expire_at_s: 0,
            info: b"",
            data: b"",
        }
    }

    pub(super) fn frame(&self, request: u64) -> Frame<'a> {
        Frame::Order {
            request,
            user: self.user,
            kind: self.kind,
            client: self.client,
            channel: self.channel,
            code: self.close.0,
            text: self.close.1,
            expire_at_s: self.expire_at_s,
            info_content: Content::Json,
            info: self.info,
            content: Content::Json,
            data: self.data,
        }
    }
}

impl Event {
    pub(super) fn from_frame(frame: &Frame<'_>) -> Result<Self, ClientError> {
        let Frame::Event {
            request,
            subject,
            kind,
            content,
            deadline_ms,
            code,
            text,
            mut info,
            meta,
            data,
        } = *frame
        else {
            return Err(ClientError::UnexpectedFrame);
        };
        let info: ClientInfo<'_> = flat::take_info(&mut info).unwrap_or_default();
        Ok(Self {
            request,
            kind,
            subject: subject.into(),
            user: info.user.into(),
            client: info.client.into(),
            conn_info: info.conn_info.bytes.into(),
            chan_info: info.chan_info.bytes.into(),
            meta: meta.into(),
            deadline_ms,
            code,
            text: text.into(),
            content,
            data: data.into(),
        })
    }
}

impl<'a> EventAnswer<'a> {
    pub(super) fn frame(self, request: u64) -> Frame<'a> {
        let (verdict, code, text, result) = match self {
            Self::Result(result) => (Verdict::Result, 0, "", result),
            Self::Error {
                code,
                text,
                temporary: false,
            } => (Verdict::Error, code, text, &b""[..]),
            Self::Error { code, text, .. } => (Verdict::TemporaryError, code, text, &b""[..]),
            Self::Disconnect { code, text } => (Verdict::Disconnect, code, text, &b""[..]),
        };
        Frame::Answer {
            request,
            verdict,
            code,
            text,
            result,
        }
    }
}
