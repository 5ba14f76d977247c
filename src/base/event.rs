//! What services decide, are told of, and want done: kinds, with their values in the upstream protocol.

use rkyv::{Archive, Serialize};

/// What happened. The value is the wire value and the number of the bit in REGISTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize)]
#[repr(u8)]
pub enum EventKind {
    /// A client wants to connect.
    Connect = 0,
    /// A client wants to subscribe.
    Subscribe = 1,
    /// A client wants to publish.
    Publish = 2,
    /// A client calls a method.
    Rpc = 3,
    /// A connection has expired.
    Refresh = 4,
    /// A subscription has expired.
    SubRefresh = 5,
    /// A client sent a message; not answered.
    Message = 6,
    /// A client is gone; not answered.
    Disconnect = 7,
    /// A subscription has ended; not answered.
    Unsubscribe = 8,
}

impl EventKind {
    /// Every kind, by its wire value.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Subscribe,
        Self::Publish,
        Self::Rpc,
        Self::Refresh,
        Self::SubRefresh,
        Self::Message,
        Self::Disconnect,
        Self::Unsubscribe,
    ];

    /// The bits of all kinds.
    pub const ALL_BITS: u32 = (1 << Self::ALL.len()) - 1;

    /// Its bit in REGISTER.
    pub fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// What a service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[repr(u8)]
pub enum Verdict {
    /// Granted, as the result says.
    Result = 0,
    /// Refused with code and text.
    Error = 1,
    /// As [`Verdict::Error`]; the client tries again by itself.
    TemporaryError = 2,
    /// The client is closed with code and text.
    Disconnect = 3,
}

impl Verdict {
    /// Every verdict, by its wire value.
    pub const ALL: [Self; 4] = [
        Self::Result,
        Self::Error,
        Self::TemporaryError,
        Self::Disconnect,
    ];
}

/// What a service wants done to a user's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[repr(u8)]
pub enum OrderKind {
    /// Close them with code and text.
    Disconnect = 0,
    /// Subscribe them to the channel.
    Subscribe = 1,
    /// End their subscriptions to the channel.
    Unsubscribe = 2,
    /// They live on until the expiry.
    Refresh = 3,
    /// They have expired.
    Expire = 4,
    /// Send them the data.
    Message = 5,
}

impl OrderKind {
    /// Every kind, by its wire value.
    pub const ALL: [Self; 6] = [
        Self::Disconnect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Refresh,
        Self::Expire,
        Self::Message,
    ];
}
