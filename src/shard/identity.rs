//! What only some connections have: a user, an expiry, something that is waited for.

use super::connect::Identity;
use crate::base::{Content, Epoch, Offset, Overrides, ViewId};
use crate::wire::client::{Data, Filter};
use std::collections::VecDeque;

/// Bytes that a connection keeps, and what they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Blob {
    content: Content,
    bytes: Box<[u8]>,
}

impl Blob {
    pub(super) fn new(content: Content, bytes: &[u8]) -> Self {
        Self {
            content,
            bytes: bytes.into(),
        }
    }

    pub(super) fn data(&self) -> Data<'_> {
        Data {
            content: self.content,
            bytes: &self.bytes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// See the module documentation. The default is an anonymous connection that waits for nothing.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// The user; empty for an anonymous one.
    pub(super) user: Box<str>,
    /// What the token or a service says of the connection.
    pub(super) conn_info: Blob,
    /// JSON for services only, which goes with every event of the connection; empty for none.
    pub(super) meta: Box<[u8]>,
    /// Unix time in seconds at which the connection expires; 0 for never.
    pub(super) expire_at_s: u64,
    /// It has one of its user's places.
    pub(super) seated: bool,
    /// Events of this connection so far.
    pub(super) serial: u32,
    /// What services are asked, by the event's serial. A connection has one command in it at most.
    pub(super) pending: Vec<(u32, Pending)>,
    /// Messages that came while a command waits, oldest first.
    pub(super) held: VecDeque<Box<[u8]>>,
    /// Bytes of them.
    pub(super) held_bytes: usize,
    /// Subscription tokens so far that could not be verified.
    pub(super) bad_tokens: u8,
    /// The connection waits for lane space and will be resumed.
    pub(super) stalled: bool,
    /// The `connect` that waits for its server-side subscriptions.
    pub(super) connecting: Option<Box<Connecting>>,
    /// What only some subscriptions have.
    pub(super) subs: Vec<SubExtra>,
}

impl Extra {
    /// Whether further commands have to wait.
    pub(super) fn is_waiting(&self) -> bool {
        let command = |(_, pending): &(u32, Pending)| pending.is_command();
        self.connecting.is_some() || self.pending.iter().any(command)
    }

    /// Whether a service is being asked for a refresh of the connection.
    pub(super) fn is_refreshing(&self) -> bool {
        let refresh = |(_, pending): &(u32, Pending)| matches!(pending, Pending::Refresh { .. });
        self.pending.iter().any(refresh)
    }

    /// Notes what an event is about; its serial.
    pub(super) fn expect(&mut self, pending: Pending) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.pending.push((self.serial, pending));
        self.serial
    }

    /// What the event with this serial was about.
    pub(super) fn settle(&mut self, serial: u32) -> Option<Pending> {
        let at = self
            .pending
            .iter()
            .position(|(other, _)| *other == serial)?;
        Some(self.pending.swap_remove(at).1)
    }

    /// What is kept of a subscription.
    pub(super) fn sub(&self, view: ViewId) -> Option<&SubExtra> {
        self.subs.iter().find(|sub| sub.view == view)
    }

    /// The same, to be changed.
    pub(super) fn sub_mut(&mut self, view: ViewId) -> Option<&mut SubExtra> {
        self.subs.iter_mut().find(|sub| sub.view == view)
    }

    /// The earliest expiry in unix seconds, of the connection or a subscription; `u64::MAX` for none.
    pub(super) fn next_expiry_s(&self) -> u64 {
        let subs = self.subs.iter().map(|sub| sub.expire_at_s);
        let all = subs.chain([self.expire_at_s]);
        all.filter(|at_s| *at_s != 0).min().unwrap_or(u64::MAX)
    }
}

/// What only some subscriptions have.
#[derive(Debug, Default)]
pub(super) struct SubExtra {
    /// The room's view.
    pub(super) view: ViewId,
    /// Unix time in seconds at which the subscription expires; 0 for never.
    pub(super) expire_at_s: u64,
    /// What the token or a service says of the subscription.
    pub(super) chan_info: Blob,
    /// For the client's application, with the reply.
    pub(super) data: Blob,
    /// Where it was when it asked for what it missed.
    pub(super) since: Offset,
    /// A service is being asked for a refresh.
    pub(super) refreshing: bool,
    /// What it wants, until it is a subscriber: from then on its line knows.
    pub(super) filter: Option<Box<Filter>>,
}

/// What a service was asked.
#[derive(Debug)]
pub(super) enum Pending {
    /// May it connect?
    Connect {
        command: u32,
        recovers: Vec<RecoverAt>,
    },
    /// May its user have one more connection?
    Seat {
        command: u32,
        identity: Box<Identity>,
        recovers: Vec<RecoverAt>,
    },
    /// May it subscribe?
    Subscribe(Box<Start>),
    /// May it publish this?
    Publish {
        command: u32,
        channel: Box<str>,
        data: Blob,
    },
    /// The answer to a call.
    Rpc { command: u32 },
    /// How long does the connection live on? The command is 0 when nobody asked.
    Refresh { command: u32 },
    /// How long does the subscription live on?
    SubRefresh { view: ViewId },
}

impl Pending {
    fn is_command(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Seat { .. }
            | Self::Subscribe(_)
            | Self::Publish { .. }
            | Self::Rpc { .. } => true,
            Self::Refresh { command } => *command != 0,
            Self::SubRefresh { .. } => false,
        }
    }
}

/// Where a client is in a room of a server-side subscription.
#[derive(Debug)]
pub(super) struct RecoverAt {
    pub(super) room: Box<str>,
    pub(super) epoch: Option<Epoch>,
    pub(super) offset: Offset,
}

/// A subscription about to start: everything but the connection is known and allowed.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    pub(super) room: Box<str>,
    /// The client's command; 0 for a server-side subscription.
    pub(super) command: u32,
    pub(super) server_side: bool,
    pub(super) positioned: bool,
    pub(super) recoverable: bool,
    pub(super) join_leave: bool,
    pub(super) delta: bool,
    pub(super) recover: bool,
    pub(super) strict: bool,
    /// `None` when the client knows no epoch.
    pub(super) epoch: Option<Epoch>,
    pub(super) offset: Offset,
    pub(super) expire_at_s: u64,
    pub(super) chan_info: Blob,
    pub(super) data: Blob,
    pub(super) overrides: Overrides,
    /// Publications wanted; `None` for all.
    pub(super) filter: Option<Box<Filter>>,
}

/// A `connect` whose server-side subscriptions are being made.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) command: u32,
    /// Subscriptions that homes have not answered for.
    pub(super) left: usize,
    /// For the client's application.
    pub(super) data: Blob,
    pub(super) results: Vec<SubResult>,
}

/// What the reply says of a subscription.
#[derive(Clone, Debug)]
pub(super) struct SubResult {
    pub(super) room: Box<str>,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    pub(super) recovered: bool,
    pub(super) was_recovering: bool,
    /// Flat publications.
    pub(super) publications: Box<[u8]>,
    pub(super) data: Blob,
}
