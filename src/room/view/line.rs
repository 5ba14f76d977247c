//! A line: subscribers of a view that see the same bytes, and the tail that they read them from.

use crate::base::chunk::ChunkPool;
use crate::room::tail::{Cursor, Tail};
use crate::wire::client::{Encoding, Filter, Tags};

/// What subscribers of one line have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineKind {
    /// How their connections write the protocol.
    pub encoding: Encoding,
    /// They take deltas.
    pub delta: bool,
    /// They are told of joins and leaves.
    pub members: bool,
    /// Place of the line among the view's, from 1 on, when it has a filter; 0 for all publications.
    pub filtered: u16,
}

impl LineKind {
    /// Of [`LineKind::bits`]: three lowest ones and the upper half.
    pub const BITS: u32 = 0xffff_0007;

    /// As a number, to be kept with a subscription.
    pub fn bits(self) -> u32 {
        u32::from(self.encoding == Encoding::Protobuf)
            | u32::from(self.delta) << 1
            | u32::from(self.members) << 2
            | u32::from(self.filtered) << 16
    }

    /// The kind that [`LineKind::bits`] made [`LineKind::BITS`] from.
    pub fn from_bits(bits: u32) -> Self {
        let encoding = match bits & 1 {
            0 => Encoding::Json,
            _ => Encoding::Protobuf,
        };
        Self {
            encoding,
            delta: bits & 2 != 0,
            members: bits & 4 != 0,
            filtered: (bits >> 16) as u16,
        }
    }
}

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// What of the tail it has been sent.
    pub cursor: Cursor,
    /// Slot of the connection; a subscription never outlives its connection.
    pub slot: u32,
    /// It takes deltas and has nothing yet that one could start from.
    pub fresh: bool,
}

/// The subscribers of one kind and their tail. Invariant: `caught_up` = subscribers whose cursor is at
/// the end.
#[derive(Debug)]
pub struct Line {
    pub(super) kind: LineKind,
    pub(super) filter: Option<Box<Filter>>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) tail: Tail,
    /// End of the tail when `turn` began: what flushes before it have offered.
    pub(super) offered: Cursor,
    pub(super) turn: u64,
    pub(super) caught_up: u32,
    pub(super) fresh: u32,
}

impl Line {
    pub(super) fn new(kind: LineKind) -> Self {
        Self {
            kind,
            filter: None,
            subscribers: Vec::new(),
            tail: Tail::default(),
            offered: 0,
            turn: 0,
            caught_up: 0,
            fresh: 0,
        }
    }

    /// What its subscribers have in common.
    pub fn kind(&self) -> LineKind {
        self.kind
    }

    /// Whether its subscribers want a publication with these tags.
    pub fn wants(&self, tags: Tags<'_>) -> bool {
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| filter.matches(tags))
    }

    /// The subscribers, in no order.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// The tail.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Whether a delta would find anybody without what it starts from.
    pub fn has_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// Whether any subscriber lags.
    pub fn is_lagging(&self) -> bool {
        (self.caught_up as usize) < self.subscribers.len()
    }

    pub(super) fn invariants(&self, room: &str) {
        let end = self.tail.end();
        let subscribers = self.subscribers.iter();
        assert!(subscribers.clone().all(|one| one.cursor <= end));
        let caught_up = subscribers.clone().filter(|one| one.cursor == end);
        assert_eq!(
            caught_up.count(),
            self.caught_up as usize,
            "caught_up of {room}"
        );
        let fresh = subscribers.filter(|one| one.fresh).count();
        assert_eq!(fresh, self.fresh as usize, "fresh of {room}");
        if !self.is_lagging() {
            assert_eq!(
                self.tail.held_bytes(),
                0,
                "nobody lags, yet {room} holds a tail"
            );
        }
    }

    pub(super) fn release_when_caught_up(&mut self, pool: &mut ChunkPool) {
        if !self.is_lagging() {
            self.tail.release(pool);
        }
    }
}
