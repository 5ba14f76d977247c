//! What a worker does later: connections that leave, and those that come again.

use ringcast::base::ConnId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Shortest and longest wait before a reconnect, nanoseconds: the defaults of the JavaScript SDK.
const BACK_OFF_NS_MIN: u64 = 500_000_000;
const BACK_OFF_NS_MAX: u64 = 20_000_000_000;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The connection closes and comes again.
    Leave { conn: ConnId },
    /// A connection that is gone comes again.
    Connect {
        connection: u32,
        /// How many times it has tried since it was dropped.
        attempt: u32,
        /// When it was dropped, nanoseconds.
        since_ns: u64,
    },
}

/// What is due, by its time.
#[derive(Debug, Default)]
pub(super) struct Dues {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Attempts of connections that are trying again.
    pub(super) attempts: HashMap<u32, u32>,
    /// Mean life of connections, while they churn.
    pub(super) life_ns: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at_ns: u64,
    due: Due,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at_ns.cmp(&other.at_ns)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Dues {
    /// To be done at `at_ns`.
    pub(super) fn push(&mut self, at_ns: u64, due: Due) {
        self.heap.push(Reverse(Entry { at_ns, due }));
    }

    /// When the next is due.
    pub(super) fn next_ns(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |entry| entry.0.at_ns)
    }

    /// The next that is due by `now_ns`.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<(u64, Due)> {
        if self.next_ns() > now_ns {
            return None;
        }
        self.heap.pop().map(|entry| (entry.0.at_ns, entry.0.due))
    }

    /// Nobody leaves any more.
    pub(super) fn clear_leaves(&mut self) {
        self.heap
            .retain(|entry| !matches!(entry.0.due, Due::Leave { .. }));
    }
}

/// How long an SDK waits before it tries again, with full jitter: `random` decides.
pub(super) fn back_off_ns(attempt: u32, random: u64) -> u64 {
    let most = BACK_OFF_NS_MIN
        .saturating_mul(1 << attempt.min(31))
        .min(BACK_OFF_NS_MAX);
    (BACK_OFF_NS_MIN + random % most).min(BACK_OFF_NS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time() {
        let mut dues = Dues::default();
        let connect = |connection| Due::Connect {
            connection,
            attempt: 0,
            since_ns: 0,
        };
        for at_ns in [30, 10, 20] {
            dues.push(at_ns, connect(at_ns as u32));
        }
        assert_eq!(dues.pop(9), None);
        assert_eq!(dues.pop(20), Some((10, connect(10))));
        assert_eq!(dues.pop(20), Some((20, connect(20))));
        assert_eq!((dues.pop(20), dues.next_ns()), (None, 30));
    }

    #[test]
    fn the_back_off_doubles_up_to_a_bound() {
        for (attempt, longest_ms) in [
            (0, 1_000),
            (1, 1_500),
            (3, 4_500),
            (6, 20_000),
            (40, 20_000),
        ] {
            let longest = (0..10_000u64)
                .map(|n| back_off_ns(attempt, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                .max();
            let longest = longest.unwrap() / 1_000_000;
            assert!(
                longest <= longest_ms && longest > longest_ms * 9 / 10,
                "{attempt}: {longest}"
            );
            assert!(back_off_ns(attempt, 0) >= BACK_OFF_NS_MIN);
        }
    }
}
