//! Why a connection ends and why something is discarded: closed vocabularies, one table each.
//!
//! A reason is also a metric label, so the set is fixed; there is no variant with free text.

/// Why a client's connection ends. [`CloseReason::code`] and [`CloseReason::text`] go into the close
/// frame; SDKs reconnect unless the code is 3500–3999 or 1009.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed with a close frame; answered with its own code.
    PeerClosed,
    /// The peer's TCP stream ended or was reset without a close frame.
    PeerVanished,
    /// The upgrade request was refused with an HTTP status.
    UpgradeRefused,
    /// No complete upgrade request within its deadline.
    UpgradeTimeout,
    /// A page was served; the connection has done its work.
    PageServed,
    /// WebSocket protocol error: reserved bits, unmasked frame, bad opcode, bad close frame.
    ProtocolError,
    /// A text message or close reason that is not UTF-8.
    InvalidUtf8,
    /// A message beyond the size or fragment limit.
    MessageTooBig,
    /// A frame from a client that does not follow the client protocol.
    BadRequest,
    /// No successful `connect` in time.
    Stale,
    /// No answer to a ping.
    NoPong,
    /// What the client has to be sent outgrew its bounds, or a send made no progress.
    Slow,
    /// The kernel refused a send.
    WriteError,
    /// The server is going down; the client comes back elsewhere.
    Shutdown,
    /// `send` without anybody to receive it.
    NotAvailable,
    /// A token that cannot be verified.
    InvalidToken,
    /// The connection token has expired and was not refreshed.
    Expired,
    /// A server-side subscription has expired and was not refreshed.
    SubscriptionExpired,
    /// A server-side subscription lost what cannot be given again.
    InsufficientState,
    /// More commands than may wait.
    TooManyRequests,
    /// A service or an operator wants it closed; code and text are theirs.
    Ordered,
    /// The user has all the connections that one may have.
    ConnectionLimit,
    /// More server-side subscriptions than a connection may have.
    ChannelLimit,
    /// Token after token that cannot be verified.
    TooManyErrors,
}

impl CloseReason {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 24] = [
        Self::PeerClosed,
        Self::PeerVanished,
        Self::UpgradeRefused,
        Self::UpgradeTimeout,
        Self::PageServed,
        Self::ProtocolError,
        Self::InvalidUtf8,
        Self::MessageTooBig,
        Self::BadRequest,
        Self::Stale,
        Self::NoPong,
        Self::Slow,
        Self::WriteError,
        Self::Shutdown,
        Self::NotAvailable,
        Self::InvalidToken,
        Self::Expired,
        Self::SubscriptionExpired,
        Self::InsufficientState,
        Self::TooManyRequests,
        Self::Ordered,
        Self::ConnectionLimit,
        Self::ChannelLimit,
        Self::TooManyErrors,
    ];

    /// Close code (RFC 6455 section 7.4; 3000–3999 as the client protocol gives them). `None` where
    /// no close frame can be sent.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::PeerClosed => Some(1000),
            Self::PeerVanished | Self::UpgradeRefused | Self::UpgradeTimeout | Self::PageServed => {
                None
            }
            Self::ProtocolError => Some(1002),
            Self::InvalidUtf8 => Some(1007),
            Self::MessageTooBig => Some(1009),
            Self::BadRequest => Some(3501),
            Self::Stale => Some(3502),
            Self::NoPong => Some(3012),
            Self::Slow => Some(3008),
            Self::WriteError => Some(3009),
            Self::Shutdown => Some(3001),
            Self::NotAvailable => Some(3508),
            Self::InvalidToken => Some(3500),
            Self::Expired => Some(3005),
            Self::SubscriptionExpired => Some(3006),
            Self::InsufficientState => Some(3010),
            Self::TooManyRequests => Some(3013),
            Self::Ordered => Some(3503),
            Self::ConnectionLimit => Some(3504),
            Self::ChannelLimit => Some(3505),
            Self::TooManyErrors => Some(3509),
        }
    }

    /// The reason in the close frame: never empty, never JSON, at most 32 bytes, as SDKs require.
    pub fn text(self) -> &'static str {
        match self {
            Self::PeerClosed => "closed by peer",
            Self::PeerVanished => "connection closed",
            Self::UpgradeRefused => "upgrade refused",
            Self::UpgradeTimeout => "upgrade timeout",
            Self::PageServed => "page served",
            Self::ProtocolError => "protocol error",
            Self::InvalidUtf8 => "invalid utf-8",
            Self::MessageTooBig => "message size limit exceeded",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::NoPong => "no pong",
            Self::Slow => "slow",
            Self::WriteError => "write error",
            Self::Shutdown => "shutdown",
            Self::NotAvailable => "not available",
            Self::InvalidToken => "invalid token",
            Self::Expired => "connection expired",
            Self::SubscriptionExpired => "subscription expired",
            Self::InsufficientState => "insufficient state",
            Self::TooManyRequests => "too many requests",
            Self::Ordered => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::TooManyErrors => "too many errors",
        }
    }

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerVanished => "peer_vanished",
            Self::UpgradeRefused => "upgrade_refused",
            Self::UpgradeTimeout => "upgrade_timeout",
            Self::PageServed => "page_served",
            Self::ProtocolError => "protocol_error",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MessageTooBig => "message_too_big",
            Self::BadRequest => "bad_request",
            Self::Stale => "stale",
            Self::NoPong => "no_pong",
            Self::Slow => "slow",
            Self::WriteError => "write_error",
            Self::Shutdown => "shutdown",
            Self::NotAvailable => "not_available",
            Self::InvalidToken => "invalid_token",
            Self::Expired => "expired",
            Self::SubscriptionExpired => "subscription_expired",
            Self::InsufficientState => "insufficient_state",
            Self::TooManyRequests => "too_many_requests",
            Self::Ordered => "ordered",
            Self::ConnectionLimit => "connection_limit",
            Self::ChannelLimit => "channel_limit",
            Self::TooManyErrors => "too_many_errors",
        }
    }
}

/// Why a subscription ends before its connection does. SDKs subscribe again by themselves from 2500 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unsubscribed {
    /// The client asked for it; no push is sent.
    ByClient,
    /// A service or an operator asked for it.
    ByServer,
    /// Publications were lost on the way to a client that can recover.
    InsufficientState,
    /// It has expired and was not refreshed.
    Expired,
}

impl Unsubscribed {
    /// Code of the unsubscribe push; 0 where none is sent.
    pub fn code(self) -> u32 {
        match self {
            Self::ByClient => 0,
            Self::ByServer => 2000,
            Self::InsufficientState => 2500,
            Self::Expired => 2501,
        }
    }

    /// Its reason; never empty.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ByClient => "client unsubscribe",
            Self::ByServer => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_fit_for_sdks() {
        for (index, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "ALL is in discriminant order");
            let text = reason.text();
            assert!(!text.is_empty() && text.len() <= 32);
            assert!(
                serde_json::from_str::<serde_json::Value>(text).is_err(),
                "{text} parses as JSON"
            );
        }
    }
}
