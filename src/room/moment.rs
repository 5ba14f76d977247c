//! Points in time of what a room keeps.

/// Milliseconds on the shard's clock. Negative for what happened before the process began: ages go on
/// over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(i64);

impl Moment {
    pub(super) fn now(now_ms: u64) -> Self {
        Self::before(now_ms, 0)
    }

    /// `age_ms` ago.
    pub(super) fn before(now_ms: u64, age_ms: u64) -> Self {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Self(signed(now_ms).saturating_sub(signed(age_ms)))
    }

    /// Milliseconds since then; 0 for what is still to come.
    pub(super) fn age_ms(self, now_ms: u64) -> u64 {
        let now = Self::now(now_ms).0;
        u64::try_from(now.saturating_sub(self.0)).unwrap_or(0)
    }

    /// On the shard's clock; 0 for everything before it began.
    pub(super) fn at_ms(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_reach_back_behind_the_start_of_the_clock() {
        let before = Moment::before(10, 100);
        assert_eq!((before.age_ms(10), before.age_ms(15)), (100, 105));
        assert_eq!((before.at_ms(), Moment::now(10).at_ms()), (0, 10));
        assert!(before < Moment::now(0));
        assert_eq!(Moment::now(10).age_ms(9), 0, "not yet");
        assert!(Moment::before(0, u64::MAX).age_ms(u64::MAX) > 1 << 62);
    }
}
