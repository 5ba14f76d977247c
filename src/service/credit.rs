//! Credit of one upstream connection: how many bytes of publications it may send.
//!
//! `granted` and `taken` are totals since WELCOME. A frame is taken when it lies in a lane (or was
//! refused), and lanes have room only as shards empty them: the grants therefore come at the pace of
//! the slowest home that the connection publishes to. `taken ≤ granted + one frame`.

use crate::wire::upstream::LENGTH_BYTES;

/// See the module.
#[derive(Debug)]
pub(super) struct Credit {
    window: u64,
    granted: u64,
    taken: u64,
    /// Bytes of the largest whole frame.
    frame_bytes_max: u64,
}

/// The client sent more than its credit and one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverCredit;

impl Credit {
    /// The credit of a new connection. `length_max` is the largest value of a frame's `length`.
    pub(super) fn new(window_bytes: u64, length_max: usize) -> Self {
        Self {
            window: window_bytes,
            granted: window_bytes,
            taken: 0,
            frame_bytes_max: (LENGTH_BYTES + length_max) as u64,
        }
    }

    /// The total for WELCOME.
    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// Whether a publication of `frame_bytes` may come now. A frame may begin within the credit and
    /// end beyond it; the next may not begin.
    pub(super) fn check(&self, frame_bytes: usize) -> Result<(), OverCredit> {
        let is_over = self.taken > self.granted
            || self.taken + frame_bytes as u64 > self.granted + self.frame_bytes_max;
        if is_over { Err(OverCredit) } else { Ok(()) }
    }

    /// Notes that a publication of `frame_bytes`, which was checked, is done with.
    pub(super) fn take(&mut self, frame_bytes: usize) {
        self.taken += frame_bytes as u64;
    }

    /// The new total, when at least a quarter of the window is to be granted again.
    pub(super) fn grant(&mut self) -> Option<u64> {
        let total = self.taken + self.window;
        if total - self.granted < (self.window / 4).max(1) {
            return None;
        }
        self.granted = total;
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_granted_by_quarters_of_the_window_and_never_shrinks() {
        let mut credit = Credit::new(1_000, 500);
        credit.take(249);
        assert_eq!(credit.grant(), None);
        credit.take(1);
        assert_eq!(credit.grant(), Some(1_250));
        assert_eq!(credit.grant(), None);
    }

    #[test]
    fn a_frame_may_begin_within_the_credit_and_the_next_may_not() {
        let mut credit = Credit::new(1_000, 500);
        credit.take(1_000);
        assert_eq!(credit.check(100), Ok(()));
        credit.take(100);
        assert_eq!(credit.check(1), Err(OverCredit));
    }

    #[test]
    fn a_frame_beyond_every_bound_does_not_pass_as_the_last_one() {
        let credit = Credit::new(1_000, 500);
        assert_eq!(credit.check(1_504), Ok(()));
        assert_eq!(credit.check(1_505), Err(OverCredit));
        assert_eq!(credit.check(u32::MAX as usize), Err(OverCredit));
    }
}
