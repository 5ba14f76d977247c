//! The provided receive buffers of one simulated ring: who holds which.
//!
//! The states are those of the real ring: a recycled buffer is the kernel's only after the next
//! submit, and a filled one counts as loaned only once its completion is reaped.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The kernel may fill it.
    Provided,
    /// Named by a completion that was not reaped yet.
    Filled,
    /// The caller holds a loan.
    Loaned,
    /// Given back, to be provided with the next submit.
    Recycled,
}

/// Invariant: every buffer has one holder, and `provided` lists the provided ones once each.
#[derive(Debug)]
pub(super) struct Pool {
    holders: Vec<Holder>,
    provided: VecDeque<u16>,
    recycled: Vec<u16>,
    loaned: usize,
}

impl Pool {
    pub(super) fn new(count: u16) -> Self {
        Self {
            holders: vec![Holder::Provided; usize::from(count)],
            provided: (0..count).collect(),
            recycled: Vec::new(),
            loaned: 0,
        }
    }

    /// A buffer to fill, oldest first.
    pub(super) fn fill(&mut self) -> Option<u16> {
        let buffer = self.provided.pop_front()?;
        self.change(buffer, Holder::Provided, Holder::Filled);
        Some(buffer)
    }

    pub(super) fn lend(&mut self, buffer: u16) {
        self.change(buffer, Holder::Filled, Holder::Loaned);
        self.loaned += 1;
    }

    pub(super) fn recycle(&mut self, buffer: u16) {
        self.change(buffer, Holder::Loaned, Holder::Recycled);
        self.loaned -= 1;
        self.recycled.push(buffer);
    }

    /// Provides what was recycled.
    pub(super) fn publish(&mut self) {
        for buffer in std::mem::take(&mut self.recycled) {
            self.change(buffer, Holder::Recycled, Holder::Provided);
            self.provided.push_back(buffer);
        }
    }

    pub(super) fn assert_loaned(&self, buffer: u16) {
        let holder = self.holders[usize::from(buffer)];
        assert_eq!(
            holder,
            Holder::Loaned,
            "contract: buffer {buffer} is not on loan"
        );
    }

    pub(super) fn count(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn loaned(&self) -> usize {
        self.loaned
    }

    /// Whether the caller holds nothing and no completion does.
    pub(super) fn is_home(&self) -> bool {
        self.provided.len() + self.recycled.len() == self.count()
    }

    pub(super) fn invariants(&self) {
        let held = |holder| self.holders.iter().filter(|held| **held == holder).count();
        assert_eq!(self.loaned, held(Holder::Loaned));
        assert_eq!(self.recycled.len(), held(Holder::Recycled));
        assert_eq!(self.provided.len(), held(Holder::Provided));
        let listed = |buffer: &u16| self.holders[usize::from(*buffer)] == Holder::Provided;
        assert!(
            self.provided.iter().all(listed),
            "a provided buffer is held"
        );
    }

    fn change(&mut self, buffer: u16, from: Holder, to: Holder) {
        let holder = &mut self.holders[usize::from(buffer)];
        assert_eq!(
            *holder, from,
            "contract: buffer {buffer} cannot become {to:?}"
        );
        *holder = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_buffer_is_provided_only_after_the_next_submit() {
        let mut pool = Pool::new(1);
        let buffer = pool.fill().unwrap();
        pool.lend(buffer);
        assert_eq!((pool.loaned(), pool.fill()), (1, None));
        pool.recycle(buffer);
        assert_eq!((pool.loaned(), pool.fill()), (0, None));
        pool.publish();
        pool.invariants();
        assert_eq!(pool.fill(), Some(buffer));
    }

    #[test]
    #[should_panic(expected = "cannot become Recycled")]
    fn a_buffer_recycled_twice_is_a_broken_contract() {
        let mut pool = Pool::new(1);
        let buffer = pool.fill().unwrap();
        pool.lend(buffer);
        pool.recycle(buffer);
        pool.recycle(buffer);
    }
}
