//! What the workers of a recovery run count. One tally per worker, merged at the end.

use crate::tally::Failure;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest time that is told apart from longer ones, nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropKind {
    /// The socket is reset.
    Reset,
    /// A close frame, then the end of the stream.
    CloseFrame,
    /// Nothing: the client stops reading and comes back on another connection.
    HalfOpen,
}

/// Clients that left, by how.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Drops {
    /// By a TCP reset.
    pub(crate) reset: u64,
    /// By a close frame.
    pub(crate) close_frame: u64,
    /// By going silent.
    pub(crate) half_open: u64,
}

/// Subscriptions that asked for what they missed, by the answer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recoveries {
    /// Told that nothing is missing.
    pub(crate) recovered: u64,
    /// Told that something is missing, and further behind than the history reaches.
    pub(crate) beyond_history: u64,
    /// Told that something is missing, and no more than the history holds: a fault.
    pub(crate) unexplained: u64,
    /// The room has another epoch, without a restart: a fault.
    pub(crate) other_epoch: u64,
    /// An answer that contradicts the question: a fault.
    pub(crate) contradicting: u64,
}

/// Publications, by how they came.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Deliveries {
    /// Came for the first time, recovered ones included.
    pub(crate) delivered: u64,
    /// Of those, in an answer to a subscribe.
    pub(crate) recovered: u64,
    /// Did not come, and the client was told so.
    pub(crate) told_missing: u64,
    /// Never came.
    pub(crate) lost: u64,
    /// Came again.
    pub(crate) duplicated: u64,
    /// Came after a later one.
    pub(crate) reordered: u64,
    /// The payload is not what was published at this offset of this room.
    pub(crate) wrong: u64,
    /// Came while the client was not subscribed to the room.
    pub(crate) unasked: u64,
}

/// Counts of one worker, or of all.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) drops: Drops,
    pub(super) recoveries: Recoveries,
    pub(super) deliveries: Deliveries,
    /// Connections after the first of each client, with all rooms subscribed again.
    pub(super) reconnects: u64,
    /// Connections that were dropped before they had all rooms.
    pub(super) cut_short: u64,
    /// Subscriptions that the server ended for insufficient state.
    pub(super) insufficient: u64,
    /// Clients that were never dropped.
    pub(super) never_dropped: u64,
    /// Clients that were not back, or not at the end of their rooms, when the run ended.
    pub(super) behind: u64,
    /// Connections that failed on the server's side, by why.
    pub(super) failures: BTreeMap<Failure, u64>,
    /// From the start of a connect to the answer of the last subscribe, nanoseconds.
    pub(super) back: Histogram<u64>,
}

impl Tally {
    /// All zero.
    pub(super) fn new() -> Self {
        Self {
            drops: Drops::default(),
            recoveries: Recoveries::default(),
            deliveries: Deliveries::default(),
            reconnects: 0,
            cut_short: 0,
            insufficient: 0,
            never_dropped: 0,
            behind: 0,
            failures: BTreeMap::new(),
            back: Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)
                .expect("the bounds are in order"),
        }
    }

    /// Counts a client that leaves.
    pub(super) fn count_drop(&mut self, kind: DropKind) {
        *match kind {
            DropKind::Reset => &mut self.drops.reset,
            DropKind::CloseFrame => &mut self.drops.close_frame,
            DropKind::HalfOpen => &mut self.drops.half_open,
        } += 1;
    }

    /// Counts a connection that failed on the server's side.
    pub(super) fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Whether every publication came once, whole and in order, or its client was told that it does
    /// not come and why.
    pub(super) fn is_clean(&self) -> bool {
        let (deliveries, recoveries) = (&self.deliveries, &self.recoveries);
        let faults = deliveries.lost
            + deliveries.duplicated
            + deliveries.reordered
            + deliveries.wrong
            + deliveries.unasked
            + recoveries.unexplained
            + recoveries.other_epoch
            + recoveries.contradicting
            + self.behind;
        faults == 0 && self.failures.is_empty()
    }

    /// Adds another worker's counts.
    pub(super) fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (&mut self.drops, &other.drops);
        mine.reset += theirs.reset;
        mine.close_frame += theirs.close_frame;
        mine.half_open += theirs.half_open;
        let (mine, theirs) = (&mut self.recoveries, &other.recoveries);
        mine.recovered += theirs.recovered;
        mine.beyond_history += theirs.beyond_history;
        mine.unexplained += theirs.unexplained;
        mine.other_epoch += theirs.other_epoch;
        mine.contradicting += theirs.contradicting;
        let (mine, theirs) = (&mut self.deliveries, &other.deliveries);
        mine.delivered += theirs.delivered;
        mine.recovered += theirs.recovered;
        mine.told_missing += theirs.told_missing;
        mine.lost += theirs.lost;
        mine.duplicated += theirs.duplicated;
        mine.reordered += theirs.reordered;
        mine.wrong += theirs.wrong;
        mine.unasked += theirs.unasked;
        self.reconnects += other.reconnects;
        self.cut_short += other.cut_short;
        self.insufficient += other.insufficient;
        self.never_dropped += other.never_dropped;
        self.behind += other.behind;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.back
            .add(&other.back)
            .expect("all histograms have the same bounds");
    }
}
