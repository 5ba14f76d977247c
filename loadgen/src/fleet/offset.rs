//! How far the clock of another process is from ours, and how sure that is.
//!
//! As NTP does it (RFC 5905, section 8): of several questions the one with the shortest round trip tells
//! most. The answer was given somewhere within that round trip, so the error is half of it at most.

/// One question and its answer, nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was asked: our clock.
    pub(super) asked_ns: u64,
    /// When it was answered: their clock.
    pub(super) theirs_ns: u64,
    /// When the answer came: our clock.
    pub(super) came_ns: u64,
}

/// Their clock minus ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) ns: i64,
    /// It is off by no more than this.
    pub(super) error_ns: u64,
}

impl Offset {
    /// Of some samples; `None` without any.
    pub(super) fn of(samples: &[Sample]) -> Option<Self> {
        let trip_ns = |sample: &Sample| sample.came_ns.saturating_sub(sample.asked_ns);
        let best = samples.iter().min_by_key(|sample| trip_ns(sample))?;
        let half_ns = trip_ns(best).div_ceil(2);
        let middle_ns = best.asked_ns + half_ns;
        Some(Self {
            ns: best.theirs_ns.wrapping_sub(middle_ns) as i64,
            error_ns: half_ns,
        })
    }

    /// Where both processes run on one kernel they share its clock, unless a time namespace moved one of
    /// them: then the samples say so.
    pub(super) fn on_one_kernel(self) -> Self {
        match self.ns.unsigned_abs() <= self.error_ns {
            true => Self::default(),
            false => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(asked_ns: u64, theirs_ns: u64, came_ns: u64) -> Sample {
        Sample {
            asked_ns,
            theirs_ns,
            came_ns,
        }
    }

    #[test]
    fn the_shortest_round_trip_tells_most_and_bounds_the_error() {
        // Their clock is 1,000 ahead; the way back of the first answer took 900, all others less.
        let samples = [
            sample(0, 1_100, 1_000),
            sample(2_000, 3_060, 2_100),
            sample(5_000, 6_200, 5_400),
        ];
        let offset = Offset::of(&samples).unwrap();
        assert_eq!(offset.error_ns, 50);
        assert!((offset.ns - 1_000).unsigned_abs() <= offset.error_ns);
        assert_eq!(Offset::of(&[]), None);
    }

    #[test]
    fn a_clock_that_is_behind_has_a_negative_offset() {
        let offset = Offset::of(&[sample(1_000_000, 20, 1_000_010)]).unwrap();
        assert_eq!((offset.ns, offset.error_ns), (-999_985, 5));
    }

    #[test]
    fn one_kernel_has_one_clock_unless_the_samples_exclude_it() {
        let near = Offset {
            ns: -40,
            error_ns: 50,
        };
        assert_eq!(near.on_one_kernel(), Offset::default());
        let far = Offset {
            ns: 60,
            error_ns: 50,
        };
        assert_eq!(far.on_one_kernel(), far);
    }
}
