//! A timer wheel for deadlines that mostly move before they come due.
//!
//! One level of slots, one tick each, with later deadlines going round: an entry whose deadline is
//! beyond the current lap stays in its slot until its lap. Keys are handed back when due, and the
//! owner decides whether the deadline still holds; nothing is cancelled. Time is an argument.

use crate::limits::TICK_MS;

const SLOTS: usize = 1024;

/// Deadlines of keys of type `K`.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Box<[Vec<(u64, K)>]>,
    /// The first tick that has not been handed out.
    next_tick: u64,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel whose time begins at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self {
            slots,
            next_tick: now_ms / TICK_MS,
            len: 0,
        }
    }

    /// Hands `key` back in the first advance at or after `deadline_ms`, at most one tick late.
    pub fn insert(&mut self, deadline_ms: u64, key: K) {
        let tick = deadline_ms.div_ceil(TICK_MS).max(self.next_tick);
        self.slots[tick as usize % SLOTS].push((tick, key));
        self.len += 1;
    }

    /// Moves time to `now_ms` and appends every key that has come due to `due`.
    pub fn advance(&mut self, now_ms: u64, due: &mut Vec<K>) {
        let now_tick = now_ms / TICK_MS;
        if self.len == 0 {
            self.next_tick = self.next_tick.max(now_tick + 1);
            return;
        }
        // One lap visits every slot; a longer pause needs no second visit.
        let first = self.next_tick;
        let last = now_tick.min(first.saturating_add(SLOTS as u64 - 1));
        for tick in first..=last {
            let slot = &mut self.slots[tick as usize % SLOTS];
            let before = slot.len();
            slot.retain(|(at, key)| {
                let keep = *at > now_tick;
                if !keep {
                    due.push(*key);
                }
                keep
            });
            self.len -= before - slot.len();
            if slot.is_empty() && slot.capacity() > 64 {
                *slot = Vec::new();
            }
        }
        self.next_tick = self.next_tick.max(now_tick + 1);
    }

    /// Milliseconds from `now_ms` until the next tick that may have something due, at most
    /// `max_ms`; `max_ms` when the wheel is empty.
    pub fn wait_ms(&self, now_ms: u64, max_ms: u64) -> u64 {
        if self.len == 0 {
            return max_ms;
        }
        let ticks = (max_ms / TICK_MS + 1).min(SLOTS as u64);
        for tick in self.next_tick..self.next_tick + ticks {
            if self.slots[tick as usize % SLOTS]
                .iter()
                .any(|(at, _)| *at <= tick)
            {
                return (tick * TICK_MS).saturating_sub(now_ms).min(max_ms);
            }
        }
        max_ms
    }

    /// Entries in the wheel, stale ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deadline_comes_due_once_and_never_early() {
        let mut wheel = Wheel::new(1_000);
        let deadlines: Vec<u64> = (0..5_000).map(|i| 1_000 + i * 37 % 90_000).collect();
        for deadline in &deadlines {
            wheel.insert(*deadline, *deadline);
        }
        let mut fired = Vec::new();
        for now in (1_000..95_000).step_by(19) {
            let mut due = Vec::new();
            wheel.advance(now, &mut due);
            assert!(
                due.iter()
                    .all(|deadline| *deadline <= now && now < deadline + 2 * TICK_MS)
            );
            fired.extend(due);
        }
        fired.sort_unstable();
        let mut expected = deadlines;
        expected.sort_unstable();
        assert_eq!(fired, expected);
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_long_pause_hands_out_everything_due() {
        let mut wheel = Wheel::new(0);
        for lap in 0..10 {
            wheel.insert(lap * SLOTS as u64 * TICK_MS + 5, lap);
        }
        let mut due = Vec::new();
        wheel.advance(5 * SLOTS as u64 * TICK_MS, &mut due);
        due.sort_unstable();
        assert_eq!(due, [0, 1, 2, 3, 4]);
        assert_eq!(wheel.len(), 5);
    }

    #[test]
    fn the_wait_ends_at_the_next_deadline() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.wait_ms(0, 250), 250);
        wheel.insert(100, ());
        assert_eq!(wheel.wait_ms(0, 250), 128);
        assert_eq!(wheel.wait_ms(90, 250), 38);
        wheel.insert(SLOTS as u64 * TICK_MS + 10, ());
        assert_eq!(
            wheel.wait_ms(0, 250),
            128,
            "a later lap is not due in this one"
        );
    }
}
