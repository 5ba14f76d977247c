//! What a run found: the fields of the JSON report. The page of text, the page for a browser and the
//! spectrum are made from it in the files beside.

mod compare;
mod doubts;
mod hgrm;
mod html;
mod text;

pub(crate) use compare::compare;
pub(crate) use doubts::Doubts;
pub(crate) use text::grouped;

use crate::abuse::AbuseReport;
use crate::course::Point;
use crate::environment::Environment;
use crate::fleet::ProcessReport;
use crate::host::{Cpu, Reading};
use crate::options::Output;
use crate::polling::PollingReport;
use crate::publisher::Outcome;
use crate::recover::RecoveryReport;
use crate::slow::SlowOutcome;
use crate::tally::Tally;
use crate::verdict::Verdict;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Version of the JSON object; raised when a field changes its meaning or goes.
pub(crate) const SCHEMA_VERSION: u32 = 4;

/// Samples beyond a percentile that it has to stand on.
const SAMPLES_BEYOND_MIN: f64 = 10.0;

/// The report of one run. Times are in seconds unless named otherwise.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// The command line, without secrets; for a scenario file the one that does the same without it.
    pub(crate) command: Vec<String>,
    /// Where it took place.
    pub(crate) environment: Environment,
    /// Whether nothing was lost, duplicated, reordered, damaged or refused.
    pub(crate) ok: bool,
    /// What the run is worth.
    pub(crate) verdict: Verdict,
    /// Connecting; `None` in `publish`.
    pub(crate) connect: Option<ConnectReport>,
    /// Publishing; `None` in `idle`.
    pub(crate) publish: Option<PublishReport>,
    /// Delivery; only in `fanout`.
    pub(crate) delivery: Option<DeliveryReport>,
    /// The quiet time of `idle`.
    pub(crate) hold: Option<HoldReport>,
    /// Drops and recoveries; only in `recover`.
    pub(crate) recovery: Option<RecoveryReport>,
    /// Who was there; only in `presence`.
    pub(crate) presence: Option<PresenceReport>,
    /// Connections that were dropped on purpose, in `churn` and `storm`.
    pub(crate) back: Option<BackReport>,
    /// Questions and answers, in `polling`.
    pub(crate) polling: Option<PollingReport>,
    /// Slow readers, if there were any.
    pub(crate) slow_readers: Option<SlowOutcome>,
    /// Attackers, in `abuse`.
    pub(crate) abuse: Option<AbuseReport>,
    /// The server's CPU and memory, if its process id was given.
    pub(crate) server: Option<ServerReport>,
    /// loadgen itself.
    pub(crate) loadgen: LoadgenReport,
    /// One point per second.
    pub(crate) course: Vec<Point>,
    /// The latencies for the spectrum: upper end of a range in nanoseconds, and how many are in it.
    pub(crate) histogram: Vec<(u64, u64)>,
    /// The same from when publications were handed over.
    pub(crate) histogram_from_send: Vec<(u64, u64)>,
}

/// Connecting.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConnectReport {
    /// Connections asked for.
    pub(crate) connections: u32,
    /// Connections with upgrade, connect and subscribe confirmed.
    pub(crate) subscribed: u64,
    /// Failures of the whole run, by why.
    pub(crate) failures: BTreeMap<String, u64>,
    /// From the first connect to the last confirmed subscribe.
    pub(crate) seconds: f64,
    /// Subscribed connections per second of that time.
    pub(crate) per_second: f64,
    /// From when each connect was due to its confirmed subscribe.
    pub(crate) latency: Latency,
    /// Pings of the server that were answered, in the whole run.
    pub(crate) pings_answered: u64,
}

/// Connections that were dropped on purpose.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BackReport {
    /// Dropped.
    pub(crate) dropped: u64,
    /// Subscribed again.
    pub(crate) back: u64,
    /// Attempts that failed and were repeated, by why.
    pub(crate) retries: BTreeMap<String, u64>,
    /// From the drop, back-off included, to the confirmed subscribe.
    pub(crate) latency: Latency,
}

impl BackReport {
    /// Of a run that dropped connections.
    pub(crate) fn new(tally: &Tally) -> Self {
        Self {
            dropped: tally.dropped,
            back: tally.back,
            retries: by_name(&tally.retries),
            latency: Latency::new(&tally.back_latency),
        }
    }
}

fn by_name(failures: &BTreeMap<crate::tally::Failure, u64>) -> BTreeMap<String, u64> {
    let named = failures
        .iter()
        .map(|(failure, count)| (failure.to_string(), *count));
    named.collect()
}

/// Publishing.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PublishReport {
    /// Publications asked for.
    pub(crate) planned: u64,
    /// Publications handed to the connection.
    pub(crate) published: u64,
    /// Acknowledgements.
    pub(crate) acknowledged: u64,
    /// Refused publications.
    pub(crate) refused: u64,
    /// Rooms whose last publication was acknowledged with an offset that covers all to the room;
    /// `None` in `fanout`, where deliveries are checked instead.
    pub(crate) rooms_settled: Option<u64>,
    /// Of those, rooms with a greater offset, so that others' publications could stand in for ours.
    pub(crate) rooms_shared: Option<u64>,
    /// Bytes of one payload.
    pub(crate) payload_bytes: usize,
    /// Publications due per second, one rate after the other; none: as fast as the broker's credit
    /// allowed (closed loop).
    pub(crate) rates: Vec<f64>,
    /// From the first until the last acknowledgement, warm-up and cool-down included.
    pub(crate) seconds: f64,
    /// Publications per second of that time.
    pub(crate) per_second: f64,
    /// How far behind its schedule each was handed over.
    pub(crate) late: Latency,
    /// Whether each waited for the answer to the one before, because that is the way it was published.
    pub(crate) is_one_at_a_time: bool,
    /// Publications without their confirmation at a time; `None`: no bound.
    pub(crate) window: Option<u32>,
    /// Why it ended early, or the first refusal.
    pub(crate) error: Option<String>,
}

/// Delivery.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct DeliveryReport {
    /// Publications times subscribers.
    pub(crate) expected: u64,
    /// Came for the first time.
    pub(crate) delivered: u64,
    /// Never came.
    pub(crate) lost: u64,
    /// Came again.
    pub(crate) duplicated: u64,
    /// Came after a later one.
    pub(crate) reordered: u64,
    /// Came with a wrong checksum.
    pub(crate) damaged: u64,
    /// Came to a connection that is not subscribed to the room.
    pub(crate) misrouted: u64,
    /// Came from another publisher; not counted otherwise.
    pub(crate) foreign: u64,
    /// From the first publication that is measured to its last delivery, warm-up and cool-down excluded.
    pub(crate) seconds: f64,
    /// Deliveries per second of that time.
    pub(crate) per_second: f64,
    /// From when the publication was due.
    pub(crate) latency: Latency,
    /// From when the publication was handed to the socket.
    pub(crate) latency_from_send: Latency,
}

/// Quantiles in milliseconds. Each stands on ten samples beyond it, or is `None`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// How many there are.
    pub(crate) samples: u64,
    /// Half are below.
    pub(crate) p50_ms: Option<f64>,
    /// 3 of 4 are below.
    pub(crate) p75_ms: Option<f64>,
    /// 9 of 10 are below.
    pub(crate) p90_ms: Option<f64>,
    /// 19 of 20 are below.
    pub(crate) p95_ms: Option<f64>,
    /// 99 of 100 are below.
    pub(crate) p99_ms: Option<f64>,
    /// 999 of 1,000 are below.
    pub(crate) p999_ms: Option<f64>,
    /// 9,999 of 10,000 are below.
    pub(crate) p9999_ms: Option<f64>,
    /// 99,999 of 100,000 are below.
    pub(crate) p99999_ms: Option<f64>,
    /// The mean.
    pub(crate) mean_ms: Option<f64>,
    /// The longest.
    pub(crate) max_ms: Option<f64>,
}

/// The quiet time of `idle`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct HoldReport {
    /// How long.
    pub(crate) seconds: f64,
    /// Server pings answered since the start.
    pub(crate) pings_answered: u64,
    /// Connections that the server closed in that time.
    pub(crate) closed: u64,
}

/// Who was there, as the server said.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PresenceReport {
    /// Rooms asked about.
    pub(crate) rooms: u32,
    /// Of those, rooms with as many clients as had subscribed.
    pub(crate) rooms_right: u32,
    /// Clients in all rooms.
    pub(crate) clients: u64,
    /// From when all had left until no room had any; `None` when that took too long.
    pub(crate) empty_after_seconds: Option<f64>,
}

impl PresenceReport {
    /// Whether every room had the clients that it should have, then and after.
    pub(crate) fn is_right(&self) -> bool {
        self.rooms_right == self.rooms && self.empty_after_seconds.is_some()
    }
}

/// The server's CPU and memory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    /// CPU during connecting.
    pub(crate) connect_cpu: CpuReport,
    /// CPU from the first publication to the last delivery, or while holding.
    pub(crate) run_cpu: CpuReport,
    /// CPU per connection of the first, microseconds.
    pub(crate) connect_cpu_us_each: Option<f64>,
    /// CPU per delivery (per publication in `publish`) of the second, microseconds.
    pub(crate) run_cpu_us_each: Option<f64>,
    /// Cores used in that time, on the mean.
    pub(crate) run_cores: Option<f64>,
    /// Kernel memory in the buffers of all TCP sockets of the host, with all connections subscribed, bytes.
    pub(crate) socket_bytes: Option<u64>,
    /// With shared pages divided, all connections subscribed and quiet, bytes; 0 where not known.
    pub(crate) pss_connected_bytes: u64,
    /// Resident memory before the first connect, bytes.
    pub(crate) rss_before_bytes: u64,
    /// Resident memory with all connections subscribed and quiet, bytes.
    pub(crate) rss_connected_bytes: u64,
    /// Resident memory at the end, bytes.
    pub(crate) rss_after_bytes: u64,
    /// Growth of resident memory per subscribed connection, bytes.
    pub(crate) rss_per_connection_bytes: Option<f64>,
}

/// CPU time of a process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CpuReport {
    /// On a core, all threads together.
    pub(crate) seconds: f64,
    /// Of that in user mode, in steps of 10 ms.
    pub(crate) user_seconds: f64,
    /// Of that in the kernel, in steps of 10 ms.
    pub(crate) system_seconds: f64,
}

/// loadgen itself: all its processes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoadgenReport {
    /// CPU of all threads while the run took place, connecting excluded.
    pub(crate) run_cpu_seconds: f64,
    /// Per delivery (per publication in `publish`), microseconds.
    pub(crate) run_cpu_us_each: Option<f64>,
    /// Of that in user mode, microseconds; the kernel counts it in steps of 10 ms.
    pub(crate) run_user_us_each: Option<f64>,
    /// How long what came waited for its turn in a worker's loop.
    pub(crate) loop_lag: Latency,
    /// Of each worker thread in that time.
    pub(crate) workers: Vec<WorkerReport>,
    /// The same while it connected.
    pub(crate) connecting_workers: Vec<WorkerReport>,
    /// The processes that held connections, unless that was this one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) processes: Vec<ProcessReport>,
    /// Latencies are off by no more than this, because hosts have different clocks; `None` on one clock,
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clock_error_ms: Option<f64>,
    /// Resident memory with all connections subscribed, bytes.
    pub(crate) rss_bytes: u64,
    /// Growth of resident memory per subscribed connection, bytes.
    pub(crate) rss_per_connection_bytes: Option<f64>,
    /// Times that a receive had to wait for buffers.
    pub(crate) enobufs: u64,
}

/// A worker's share of the run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// Share of the time on a core.
    pub(crate) busy: f64,
    /// Share of the time in which it could have run and had no core.
    pub(crate) starved: f64,
}

impl WorkerReport {
    /// Of a worker that used `cpu` within `seconds`.
    pub(crate) fn new(cpu: Cpu, seconds: f64) -> Self {
        let share = |ns: u64| ns as f64 / 1e9 / seconds.max(1e-9);
        Self {
            busy: share(cpu.run_ns),
            starved: share(cpu.queued_ns),
        }
    }

    /// The one of two that had less time left.
    pub(crate) fn worse(self, other: Self) -> Self {
        match other.busy + other.starved > self.busy + self.starved {
            true => other,
            false => self,
        }
    }
}

impl CpuReport {
    /// Between two readings.
    pub(crate) fn between(before: &Reading, after: &Reading) -> Self {
        Self {
            seconds: after.cpu.since(before.cpu).run_ns as f64 / 1e9,
            user_seconds: after.user.saturating_sub(before.user).as_secs_f64(),
            system_seconds: after.system.saturating_sub(before.system).as_secs_f64(),
        }
    }

    /// Microseconds for each of `count`.
    pub(crate) fn us_each(&self, count: u64) -> Option<f64> {
        (count > 0).then(|| self.seconds * 1e6 / count as f64)
    }
}

impl ServerReport {
    /// Of a server that was read before the first connect, at the beginning of the run and at its end, and
    /// did `count` things in it.
    pub(crate) fn between(readings: [Option<Reading>; 3], count: u64) -> Option<Self> {
        let [Some(before), Some(begin), Some(end)] = readings else {
            return None;
        };
        let run_cpu = CpuReport::between(&begin, &end);
        Some(Self {
            connect_cpu: CpuReport::between(&before, &begin),
            run_cpu,
            run_cpu_us_each: run_cpu.us_each(count),
            rss_before_bytes: before.rss_bytes,
            rss_connected_bytes: begin.rss_bytes,
            rss_after_bytes: end.rss_bytes,
            ..Self::default()
        })
    }
}

impl Latency {
    /// Of a histogram in nanoseconds.
    pub(crate) fn new(histogram: &Histogram<u64>) -> Self {
        let samples = histogram.len();
        let ms = |quantile: f64| {
            let beyond = samples as f64 * (1.0 - quantile);
            // 1,000 × (1 − 0.99) is a little less than 10.
            (beyond + 1e-6 >= SAMPLES_BEYOND_MIN)
                .then(|| histogram.value_at_quantile(quantile) as f64 / 1e6)
        };
        let any = |ms: f64| (samples > 0).then_some(ms);
        Self {
            samples,
            p50_ms: ms(0.5),
            p75_ms: ms(0.75),
            p90_ms: ms(0.9),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            p9999_ms: ms(0.9999),
            p99999_ms: ms(0.99999),
            mean_ms: any(histogram.mean() / 1e6),
            max_ms: any(histogram.max() as f64 / 1e6),
        }
    }
}

/// Ranges of a histogram that hold anything: upper end and count.
pub(crate) fn ranges(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let recorded = histogram.iter_recorded();
    recorded
        .map(|range| (range.value_iterated_to(), range.count_at_value()))
        .collect()
}

impl ConnectReport {
    /// Of a run that asked for `connections`.
    pub(crate) fn new(connections: u32, tally: &Tally) -> Self {
        let seconds = seconds_between(tally.first_connect_ns, tally.last_subscribed_ns);
        Self {
            connections,
            subscribed: tally.subscribed,
            failures: by_name(&tally.failures),
            seconds,
            per_second: per_second(tally.subscribed, seconds),
            latency: Latency::new(&tally.connect_latency),
            pings_answered: tally.pings,
        }
    }
}

impl PublishReport {
    /// Of a plan and its outcome.
    pub(crate) fn new(plan: &crate::publisher::Plan, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed_ns as f64 / 1e9;
        Self {
            planned: plan.schedule.publications(),
            published: outcome.published,
            acknowledged: outcome.acknowledged,
            refused: outcome.refused,
            payload_bytes: plan.payload_bytes,
            rates: plan.schedule.rates(),
            seconds,
            per_second: per_second(outcome.published, seconds),
            late: Latency::new(&outcome.late),
            is_one_at_a_time: outcome.is_one_at_a_time,
            window: plan.window,
            error: outcome.error.clone(),
            ..Self::default()
        }
    }

    /// Of clients that published `chat` for `seconds`.
    pub(crate) fn of_clients(chat: &crate::worker::Chat, tally: &Tally, seconds: f64) -> Self {
        Self {
            planned: chat.schedule.publications(),
            published: tally.published,
            refused: tally.refused,
            payload_bytes: chat.payload_bytes,
            rates: chat.schedule.rates(),
            seconds,
            per_second: per_second(tally.published, seconds),
            late: Latency::new(&tally.schedule_lag),
            error: tally.refusal.map(|code| format!("error {code}")),
            ..Self::default()
        }
    }

    /// Of a plan whose rooms were settled, see [`crate::publisher::Plan::settles_rooms`].
    pub(crate) fn with_rooms(self, outcome: &Outcome) -> Self {
        Self {
            rooms_settled: Some(outcome.rooms_settled),
            rooms_shared: Some(outcome.rooms_shared),
            ..self
        }
    }

    /// Whether everything was published and taken.
    pub(crate) fn is_clean(&self) -> bool {
        self.published == self.planned && self.refused == 0 && self.error.is_none()
    }
}

impl DeliveryReport {
    /// Of publications that are measured from `steady_ns` on.
    pub(crate) fn new(tally: &Tally, steady_ns: u64) -> Self {
        let seconds = seconds_between(Some(steady_ns), tally.last_measured_ns);
        Self {
            expected: tally.delivered + tally.lost,
            delivered: tally.delivered,
            lost: tally.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            damaged: tally.damaged,
            misrouted: tally.misrouted,
            foreign: tally.foreign,
            seconds,
            per_second: per_second(tally.due_latency.len(), seconds),
            latency: Latency::new(&tally.due_latency),
            latency_from_send: Latency::new(&tally.sent_latency),
        }
    }
}

fn seconds_between(start_ns: Option<u64>, end_ns: Option<u64>) -> f64 {
    match (start_ns, end_ns) {
        (Some(start_ns), Some(end_ns)) => end_ns.saturating_sub(start_ns) as f64 / 1e9,
        _ => 0.0,
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

impl LoadgenReport {
    /// Of a run in this process alone, in which `count` things were done.
    pub(crate) fn between(begin: &Reading, end: &Reading, count: u64) -> Self {
        let cpu = CpuReport::between(begin, end);
        Self {
            run_cpu_seconds: cpu.seconds,
            run_cpu_us_each: cpu.us_each(count),
            run_user_us_each: (count > 0).then(|| cpu.user_seconds * 1e6 / count as f64),
            rss_bytes: end.rss_bytes,
            ..Self::default()
        }
    }
}

impl Report {
    /// Of a run that is yet to be.
    pub(crate) fn empty() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            environment: Environment::read(),
            ..Self::default()
        }
    }

    /// Writes the files that were asked for and prints to standard output: one JSON object, or a page
    /// of text.
    pub(crate) fn publish(&self, output: &Output) -> Result<(), String> {
        if let Some(path) = &output.out {
            write_file(path, &self.to_json())?;
        }
        if let Some(path) = &output.html {
            write_file(path, &html::page(self))?;
        }
        if let Some(path) = &output.hgrm {
            write_file(path, &hgrm::spectrum(&self.histogram))?;
        }
        let text = match output.json {
            true => self.to_json(),
            false => self.to_string(),
        };
        // A reader that has seen enough closes the pipe.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }

    fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and strings only");
        text.push('\n');
        text
    }
}

/// Reads a report that was written with `--out`.
pub(crate) fn read(path: &Path) -> Result<Report, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| format!("{name} is no report: {error}"))?;
    match report.schema_version {
        SCHEMA_VERSION => Ok(report),
        other => Err(format!(
            "{name} has schema version {other}, this loadgen reads {SCHEMA_VERSION}"
        )),
    }
}

/// Writes a file; the error names it.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_stands_on_ten_samples_beyond_it() {
        let mut histogram = crate::tally::histogram(3);
        for value in 1..=1_000u64 {
            crate::tally::record(&mut histogram, value * 1_000_000);
        }
        let latency = Latency::new(&histogram);
        assert!((latency.p99_ms.unwrap() - 990.0).abs() < 2.0);
        assert_eq!((latency.p999_ms, latency.samples), (None, 1_000));
        assert_eq!(Latency::new(&crate::tally::histogram(3)).max_ms, None);
    }
}
