//! Why the times of a report may be loadgen's own, and not the server's.

use super::{Latency, Report, WorkerReport};

/// Share of its time that a worker may be busy or kept waiting for a core before it counts as the
/// bottleneck.
const SATURATED: f64 = 0.9;
/// Share of its time that a worker may be kept waiting for a core, however little it then does.
const STARVED: f64 = 0.5;
/// Lag of the loop and of the schedule, at their tails, above which times are doubted, milliseconds;
/// that of the loop only when it is also this share of the latencies at theirs.
const LAG_MS_MAX: f64 = 10.0;
const LAG_SHARE_MAX: f64 = 0.5;
/// Share of the median latency that clocks of hosts may differ by.
const CLOCK_SHARE_MAX: f64 = 0.1;

/// Doubts, by what they touch.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Of times and rates while publications flow.
    pub(crate) run: Vec<String>,
    /// Of times and rates of connecting.
    pub(crate) connecting: Vec<String>,
}

impl Doubts {
    /// Of a report whose numbers are complete.
    pub(crate) fn of(report: &Report) -> Self {
        let loadgen = &report.loadgen;
        let run = [
            cpu_doubt(&loadgen.workers, "loadgen was short of CPU"),
            clock_doubt(report),
            loop_doubt(report),
            schedule_doubt(report),
        ];
        let connecting = cpu_doubt(
            &loadgen.connecting_workers,
            "loadgen was short of CPU while it connected (--ramp spreads the connects)",
        );
        Self {
            run: run.into_iter().flatten().collect(),
            connecting: connecting.into_iter().collect(),
        }
    }
}

impl WorkerReport {
    /// Whether it had hardly any time left.
    pub(crate) fn is_saturated(self) -> bool {
        self.busy + self.starved > SATURATED || self.starved > STARVED
    }
}

fn cpu_doubt(workers: &[WorkerReport], what: &str) -> Option<String> {
    let saturated = workers.iter().filter(|worker| worker.is_saturated());
    let count = saturated.count();
    (count > 0).then(|| {
        format!(
            "{what}: {count} of {} workers were busy or waited for a core for more than {:.0} % of the time, \
             or waited for more than {:.0} %",
            workers.len(),
            SATURATED * 100.0,
            STARVED * 100.0
        )
    })
}

/// Whether the clocks of the hosts are near enough to each other for the latencies.
fn clock_doubt(report: &Report) -> Option<String> {
    let latency = &report.delivery.as_ref()?.latency;
    let median_ms = latency.p50_ms.or(latency.mean_ms)?;
    let error_ms = report.loadgen.clock_error_ms?;
    (error_ms > median_ms * CLOCK_SHARE_MAX).then(|| {
        format!(
            "clocks of the hosts may differ by {error_ms:.3} ms, more than {:.0} % of the median latency",
            CLOCK_SHARE_MAX * 100.0
        )
    })
}

fn loop_doubt(report: &Report) -> Option<String> {
    let (name, lag_ms) = tail(&report.loadgen.loop_lag)?;
    let (_, latency_ms) = tail(&report.delivery.as_ref()?.latency)?;
    (lag_ms > LAG_MS_MAX && lag_ms > latency_ms * LAG_SHARE_MAX).then(|| {
        format!(
            "loadgen's own loop lagged by {lag_ms:.1} ms at its {name}, more than half of the latency"
        )
    })
}

/// With a window the server decides when publications are sent, which is no fault of the generator.
fn schedule_doubt(report: &Report) -> Option<String> {
    let publish = report.publish.as_ref()?;
    if publish.rates.is_empty() || publish.window.is_some() {
        return None;
    }
    let (name, late_ms) = tail(&publish.late)?;
    let why = match publish.is_one_at_a_time {
        true => {
            "; this way to publish waits for the answer to each, so that the server or one connection \
                  may be too slow for the rate: --window 1 says that it is meant to be the server's"
        }
        false => "",
    };
    (late_ms > LAG_MS_MAX).then(|| {
        format!(
            "the schedule was not kept: publications were sent {late_ms:.1} ms late at the {name}{why}"
        )
    })
}

/// The highest percentile up to the 99th that is known; with fewer than 20 samples the longest.
fn tail(latency: &Latency) -> Option<(&'static str, f64)> {
    [
        ("99th percentile", latency.p99_ms),
        ("95th percentile", latency.p95_ms),
        ("90th percentile", latency.p90_ms),
        ("75th percentile", latency.p75_ms),
        ("50th percentile", latency.p50_ms),
        ("longest", latency.max_ms),
    ]
    .into_iter()
    .find_map(|(name, ms)| Some((name, ms?)))
}

#[cfg(test)]
mod tests {
    use super::super::{DeliveryReport, PublishReport};
    use super::*;
    use crate::host::Cpu;
    use crate::tally::{histogram, record_many};

    #[test]
    fn a_worker_without_a_core_is_as_saturated_as_a_busy_one() {
        let worker = |run_ns, queued_ns| WorkerReport::new(Cpu { run_ns, queued_ns }, 1.0);
        assert!(worker(950_000_000, 0).is_saturated());
        assert!(worker(500_000_000, 450_000_000).is_saturated());
        assert!(worker(5_000_000, 550_000_000).is_saturated());
        assert!(!worker(500_000_000, 100_000_000).is_saturated());
    }

    fn latency(samples: u64, ms: u64) -> Latency {
        let mut all = histogram(3);
        record_many(&mut all, ms * 1_000_000, samples);
        Latency::new(&all)
    }

    #[test]
    fn a_schedule_that_is_late_is_doubted_however_few_publications_there_are() {
        for count in [1, 30, 300, 3_000] {
            let mut report = Report::empty();
            report.publish = Some(PublishReport {
                rates: vec![1.0],
                late: latency(count, 500),
                ..PublishReport::default()
            });
            assert_eq!(Doubts::of(&report).run.len(), 1, "{count}");
            report.publish.as_mut().unwrap().window = Some(1);
            assert!(Doubts::of(&report).run.is_empty());
        }
    }

    #[test]
    fn a_loop_that_lags_is_doubted_where_it_is_much_of_the_latency() {
        let with = |lag_ms, latency_ms| {
            let mut report = Report::empty();
            report.loadgen.loop_lag = latency(300, lag_ms);
            report.delivery = Some(DeliveryReport {
                latency: latency(300, latency_ms),
                ..DeliveryReport::default()
            });
            Doubts::of(&report).run.len()
        };
        assert_eq!([with(20, 30), with(20, 300), with(5, 6)], [1, 0, 0]);
    }
}
