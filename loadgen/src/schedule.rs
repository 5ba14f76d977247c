//! When publications are due: an open schedule of intended times, in phases.
//!
//! A schedule is a row of segments with a rate each: the warm-up, one or more steps of the steady
//! phase, the cool-down. Publication k is due at a time that depends on k alone, whatever the server does.
//! What is due in the steady phase is measured; everything is checked.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Publications per second, above 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct Rate(pub(crate) f64);

/// A part of the schedule with one rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Segment {
    rate: Rate,
    /// Its first publication.
    first: u64,
    /// Nanoseconds from the start of the schedule to its own.
    begin_ns: u64,
}

/// A schedule. Without segments everything is due when it is made: a closed loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    segments: Vec<Segment>,
    /// Publications that are due at the same time.
    burst: u32,
    /// Publications in all.
    publications: u64,
    /// The steady phase: nanoseconds from the start.
    steady_ns: (u64, u64),
}

impl Schedule {
    /// `publications` as fast as they go.
    pub(crate) fn closed(publications: u64) -> Self {
        Self {
            segments: Vec::new(),
            burst: 1,
            publications,
            steady_ns: (0, u64::MAX),
        }
    }

    /// `publications` at one rate, all of them measured.
    pub(crate) fn counted(publications: u64, rate: Rate, burst: u32) -> Self {
        let segment = Segment {
            rate,
            first: 0,
            begin_ns: 0,
        };
        Self {
            segments: vec![segment],
            burst,
            publications,
            steady_ns: (0, u64::MAX),
        }
    }

    /// Warm-up at the first rate, each of `rates` for `each`, cool-down at the last rate. `rates` must
    /// not be empty.
    pub(crate) fn phased(
        warmup: Duration,
        rates: &[Rate],
        each: Duration,
        cooldown: Duration,
        burst: u32,
    ) -> Self {
        let (first, last) = (rates[0], rates[rates.len() - 1]);
        let steps = rates.iter().map(|rate| (*rate, each));
        let parts = std::iter::once((first, warmup))
            .chain(steps)
            .chain([(last, cooldown)]);
        let mut schedule = Self::counted(0, first, burst);
        schedule.segments.clear();
        let mut begin_ns = 0;
        for (rate, time) in parts {
            schedule.segments.push(Segment {
                rate,
                first: schedule.publications,
                begin_ns,
            });
            schedule.publications += (rate.0 * time.as_secs_f64()).round() as u64;
            begin_ns += time.as_nanos() as u64;
        }
        let warmup_ns = warmup.as_nanos() as u64;
        schedule.steady_ns = (warmup_ns, begin_ns - cooldown.as_nanos() as u64);
        schedule
    }

    /// Whether it is one that this program makes: it may have come from another process.
    pub(crate) fn is_sound(&self) -> bool {
        let starts = self.segments.iter().map(|segment| segment.first);
        self.burst > 0
            && starts.is_sorted()
            && self.segments.iter().all(|segment| segment.rate.0 > 0.0)
    }

    /// Publications in all.
    pub(crate) fn publications(&self) -> u64 {
        self.publications
    }

    /// Publications per second, one rate after the other; none in a closed loop.
    pub(crate) fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<_> = self.segments.iter().map(|segment| segment.rate.0).collect();
        rates.dedup();
        rates
    }

    /// Nanoseconds from the start at which the last publication is due; `None` in a closed loop.
    pub(crate) fn last_due_ns(&self) -> Option<u64> {
        self.due_ns(self.publications.checked_sub(1)?)
    }

    /// The steady phase of a schedule that starts at `start_ns`: nanoseconds of the same clock.
    pub(crate) fn steady(&self, start_ns: u64) -> (u64, u64) {
        let (begin_ns, end_ns) = self.steady_ns;
        (
            start_ns.saturating_add(begin_ns),
            start_ns.saturating_add(end_ns),
        )
    }

    /// Nanoseconds from the start at which publication `number`, from 0, is due; `None` in a closed
    /// loop.
    pub(crate) fn due_ns(&self, number: u64) -> Option<u64> {
        let index = self
            .segments
            .iter()
            .rposition(|segment| segment.first <= number)?;
        let segment = &self.segments[index];
        let burst = u64::from(self.burst);
        let tick = (number - segment.first) / burst * burst;
        Some(segment.begin_ns + (tick as f64 / segment.rate.0 * 1e9) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_publication_is_due_at_a_time_of_its_own() {
        let schedule = Schedule::counted(10, Rate(4.0), 2);
        let due: Vec<_> = (0..5).map(|number| schedule.due_ns(number)).collect();
        let half = Some(500_000_000);
        assert_eq!(due, [Some(0), Some(0), half, half, Some(1_000_000_000)]);
        assert_eq!(Schedule::closed(10).due_ns(3), None);
    }

    #[test]
    fn phases_follow_each_other_with_their_rates() {
        let rates = [Rate(10.0), Rate(100.0)];
        let schedule = Schedule::phased(2 * SECOND, &rates, 3 * SECOND, SECOND, 1);
        assert_eq!(schedule.publications(), 20 + 30 + 300 + 100);
        assert_eq!(schedule.due_ns(0), Some(0));
        assert_eq!(schedule.due_ns(20), Some(2_000_000_000));
        assert_eq!(schedule.due_ns(50), Some(5_000_000_000));
        assert_eq!(schedule.due_ns(51), Some(5_010_000_000));
        assert_eq!(schedule.due_ns(350), Some(8_000_000_000));
        assert_eq!(schedule.steady(7), (2_000_000_007, 8_000_000_007));
        assert_eq!(schedule.last_due_ns(), Some(8_990_000_000));
        assert_eq!(schedule.rates(), [10.0, 100.0]);
        assert!(Schedule::closed(3).rates().is_empty());
    }

    #[test]
    fn a_phase_that_takes_no_time_has_no_publications() {
        let schedule = Schedule::phased(Duration::ZERO, &[Rate(5.0)], SECOND, Duration::ZERO, 1);
        assert_eq!(schedule.publications(), 5);
        assert_eq!(schedule.due_ns(0), Some(0));
        assert_eq!(schedule.steady(0), (0, 1_000_000_000));
    }
}
