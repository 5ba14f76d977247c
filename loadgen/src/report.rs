//! What a run found, as JSON and as a page of text.

use crate::host::{Cpu, Reading};
use crate::publisher::Outcome;
use crate::recover::RecoveryReport;
use crate::slow::SlowOutcome;
use crate::tally::Tally;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Version of the JSON object; raised when a field changes its meaning or goes.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Share of its time that a worker may be busy or kept waiting for a core before it counts as the
/// bottleneck.
const SATURATED: f64 = 0.9;

/// The report of one run. Times are in seconds unless named otherwise.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// [`SCHEMA_VERSION`].
    pub(crate) schema_version: u32,
    /// The command line, without the secret of a key.
    pub(crate) command: Vec<String>,
    /// Whether nothing was lost, duplicated, reordered, damaged or refused.
    pub(crate) ok: bool,
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
    /// Slow readers, if there were any.
    pub(crate) slow_readers: Option<SlowOutcome>,
    /// The server's CPU and memory, if its process id was given.
    pub(crate) server: Option<ServerReport>,
    /// This process.
    pub(crate) loadgen: LoadgenReport,
}

/// Connecting.
#[derive(Debug, Serialize)]
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
}

/// Publishing.
#[derive(Debug, Serialize)]
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
    /// Publications due per second; `None`: as fast as the broker's credit allowed (closed loop).
    pub(crate) rate: Option<f64>,
    /// Until the last acknowledgement.
    pub(crate) seconds: f64,
    /// Publications per second of that time.
    pub(crate) per_second: f64,
    /// Most that a publication was handed over behind its schedule, milliseconds.
    pub(crate) late_ms_max: f64,
    /// Why it ended early, or the first refusal.
    pub(crate) error: Option<String>,
}

/// Delivery.
#[derive(Debug, Serialize)]
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
    /// From the first publication to the last delivery.
    pub(crate) seconds: f64,
    /// Deliveries per second of that time.
    pub(crate) per_second: f64,
    /// From when the publication was due.
    pub(crate) latency: Latency,
    /// From when the publication was handed to the socket.
    pub(crate) latency_from_send: Latency,
}

/// Quantiles in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// Half are below.
    pub(crate) p50_ms: f64,
    /// 9 of 10 are below.
    pub(crate) p90_ms: f64,
    /// 99 of 100 are below.
    pub(crate) p99_ms: f64,
    /// 999 of 1,000 are below.
    pub(crate) p999_ms: f64,
    /// The longest.
    pub(crate) max_ms: f64,
}

/// The quiet time of `idle`.
#[derive(Debug, Serialize)]
pub(crate) struct HoldReport {
    /// How long.
    pub(crate) seconds: f64,
    /// Server pings answered since the start.
    pub(crate) pings_answered: u64,
    /// Connections that the server closed in that time.
    pub(crate) closed: u64,
}

/// Who was there, as the server said.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Default, Serialize)]
pub(crate) struct ServerReport {
    /// CPU during connecting.
    pub(crate) connect_cpu: CpuReport,
    /// CPU from the first publication to the last delivery, or while holding.
    pub(crate) run_cpu: CpuReport,
    /// CPU per connection of the first, microseconds.
    pub(crate) connect_cpu_us_each: Option<f64>,
    /// CPU per delivery (per publication in `publish`) of the second, microseconds.
    pub(crate) run_cpu_us_each: Option<f64>,
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
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CpuReport {
    /// On a core, all threads together.
    pub(crate) seconds: f64,
    /// Of that in user mode, in steps of 10 ms.
    pub(crate) user_seconds: f64,
    /// Of that in the kernel, in steps of 10 ms.
    pub(crate) system_seconds: f64,
}

/// This process.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LoadgenReport {
    /// CPU of all threads while the run took place, connecting excluded.
    pub(crate) run_cpu_seconds: f64,
    /// Per delivery (per publication in `publish`), microseconds.
    pub(crate) run_cpu_us_each: Option<f64>,
    /// Of each worker in that time.
    pub(crate) workers: Vec<WorkerReport>,
    /// Resident memory with all connections subscribed, bytes.
    pub(crate) rss_bytes: u64,
    /// Growth of resident memory per subscribed connection, bytes.
    pub(crate) rss_per_connection_bytes: Option<f64>,
    /// Times that a receive had to wait for buffers.
    pub(crate) enobufs: u64,
    /// Whether a worker was short of CPU: then the latencies are partly its own.
    pub(crate) bottleneck: bool,
}

/// A worker's share of the run.
#[derive(Clone, Copy, Debug, Serialize)]
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

    /// Whether it had hardly any time left.
    pub(crate) fn is_saturated(self) -> bool {
        self.busy + self.starved > SATURATED
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

impl Latency {
    /// Of a histogram in nanoseconds.
    pub(crate) fn new(histogram: &Histogram<u64>) -> Self {
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: histogram.max() as f64 / 1e6,
        }
    }
}

impl ConnectReport {
    /// Of a run that asked for `connections`.
    pub(crate) fn new(connections: u32, tally: &Tally) -> Self {
        let seconds = seconds_between(tally.first_connect_ns, tally.last_subscribed_ns);
        Self {
            connections,
            subscribed: tally.subscribed,
            failures: tally
                .failures
                .iter()
                .map(|(failure, count)| (failure.to_string(), *count))
                .collect(),
            seconds,
            per_second: per_second(tally.subscribed, seconds),
        }
    }
}

impl PublishReport {
    /// Of a plan and its outcome.
    pub(crate) fn new(plan: &crate::publisher::Plan, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed_ns as f64 / 1e9;
        Self {
            planned: plan.publications,
            published: outcome.published,
            acknowledged: outcome.acknowledged,
            refused: outcome.refused,
            rooms_settled: None,
            rooms_shared: None,
            payload_bytes: plan.payload_bytes,
            rate: plan.rate,
            seconds,
            per_second: per_second(outcome.published, seconds),
            late_ms_max: outcome.late_ns_max as f64 / 1e6,
            error: outcome.error.clone(),
        }
    }

    /// Of a plan whose rooms were settled, see [`crate::publisher::Plan::settle_every_room`].
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
    /// Of publications that started at `start_ns`.
    pub(crate) fn new(tally: &Tally, start_ns: u64) -> Self {
        let seconds = seconds_between(Some(start_ns), tally.last_delivered_ns);
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
            per_second: per_second(tally.delivered, seconds),
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

impl Report {
    /// Prints to standard output: one JSON object, or a page of text.
    pub(crate) fn print(&self, json: bool) {
        if json {
            let text = serde_json::to_string_pretty(self).expect("numbers and strings only");
            println!("{text}");
        } else {
            print!("{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connect) = &self.connect {
            write_connect(f, connect)?;
        }
        if let Some(publish) = &self.publish {
            write_publish(f, publish)?;
        }
        if let Some(delivery) = &self.delivery {
            write_delivery(f, delivery)?;
        }
        if let Some(hold) = &self.hold {
            writeln!(
                f,
                "hold         {:.1} s: {} pings answered, {} connections closed by the server",
                hold.seconds,
                grouped(hold.pings_answered),
                grouped(hold.closed)
            )?;
        }
        if let Some(recovery) = &self.recovery {
            write!(f, "{recovery}")?;
        }
        if let Some(presence) = &self.presence {
            let empty = match presence.empty_after_seconds {
                Some(seconds) => format!("empty {seconds:.2} s after all had left"),
                None => "NOT EMPTY after all had left".to_owned(),
            };
            writeln!(
                f,
                "presence     {} clients; {} of {} rooms right; {empty}",
                grouped(presence.clients),
                grouped(u64::from(presence.rooms_right)),
                grouped(u64::from(presence.rooms))
            )?;
        }
        if let Some(slow) = &self.slow_readers {
            writeln!(f, "slow readers: {} cut, {} held", slow.cut, slow.held)?;
            if slow.cut == 0 {
                writeln!(
                    f,
                    "  WARNING    none was cut: if their kernel buffers took everything, nothing was slow; \
                     send each more, about 4 MB"
                )?;
            }
        }
        if let Some(server) = &self.server {
            write_server(f, server)?;
        }
        write_loadgen(f, &self.loadgen)?;
        writeln!(f, "result       {}", if self.ok { "ok" } else { "FAILED" })
    }
}

fn write_connect(f: &mut fmt::Formatter<'_>, connect: &ConnectReport) -> fmt::Result {
    writeln!(
        f,
        "connect      {} of {} subscribed in {:.2} s, {} per second",
        grouped(connect.subscribed),
        grouped(u64::from(connect.connections)),
        connect.seconds,
        grouped(connect.per_second as u64)
    )?;
    for (failure, count) in &connect.failures {
        writeln!(f, "  failed     {} × {failure}", grouped(*count))?;
    }
    Ok(())
}

fn write_publish(f: &mut fmt::Formatter<'_>, publish: &PublishReport) -> fmt::Result {
    let pace = match publish.rate {
        Some(rate) => format!(
            "schedule of {rate} per second, at most {:.2} ms behind",
            publish.late_ms_max
        ),
        None => "closed loop: as fast as credit allowed".to_owned(),
    };
    writeln!(
        f,
        "publish      {} of {} × {} bytes in {:.2} s, {} per second ({pace})",
        grouped(publish.published),
        grouped(publish.planned),
        publish.payload_bytes,
        publish.seconds,
        grouped(publish.per_second as u64)
    )?;
    if publish.acknowledged + publish.refused > 0 {
        let (acknowledged, refused) = (grouped(publish.acknowledged), grouped(publish.refused));
        writeln!(
            f,
            "  answers    {acknowledged} acknowledged, {refused} refused"
        )?;
    }
    match (publish.rooms_settled, publish.rooms_shared, &publish.error) {
        (Some(_), Some(0), None) => writeln!(
            f,
            "  proof      every room's last publication acknowledged, at the offset expected"
        )?,
        (Some(_), Some(shared), None) => writeln!(
            f,
            "  proof      every room's last publication acknowledged; {} rooms had other \
             publications too: for proof by offset start a fresh broker",
            grouped(shared)
        )?,
        _ => {}
    }
    if let Some(error) = &publish.error {
        writeln!(f, "  error      {error}")?;
    }
    Ok(())
}

fn write_delivery(f: &mut fmt::Formatter<'_>, delivery: &DeliveryReport) -> fmt::Result {
    writeln!(
        f,
        "deliver      {} of {} in {:.2} s, {} per second",
        grouped(delivery.delivered),
        grouped(delivery.expected),
        delivery.seconds,
        grouped(delivery.per_second as u64)
    )?;
    writeln!(
        f,
        "  check      {} lost, {} duplicated, {} reordered, {} damaged, {} misrouted",
        grouped(delivery.lost),
        grouped(delivery.duplicated),
        grouped(delivery.reordered),
        grouped(delivery.damaged),
        grouped(delivery.misrouted)
    )?;
    if delivery.foreign > 0 {
        let foreign = grouped(delivery.foreign);
        writeln!(
            f,
            "  foreign    {foreign} from other publishers, not counted"
        )?;
    }
    for (name, latency) in [
        ("latency", &delivery.latency),
        ("from send", &delivery.latency_from_send),
    ] {
        writeln!(
            f,
            "  {name:<10} p50 {:.2} · p90 {:.2} · p99 {:.2} · p99.9 {:.2} · max {:.2} ms",
            latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
        )?;
    }
    Ok(())
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerReport) -> fmt::Result {
    for (name, cpu, us_each) in [
        ("connect", &server.connect_cpu, server.connect_cpu_us_each),
        ("run", &server.run_cpu, server.run_cpu_us_each),
    ] {
        let each = us_each.map_or(String::new(), |us| format!(", {us:.2} µs each"));
        writeln!(
            f,
            "server cpu   {name}: {:.2} s ({:.2} user, {:.2} system){each}",
            cpu.seconds, cpu.user_seconds, cpu.system_seconds
        )?;
    }
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    write!(
        f,
        "server rss   {:.1} MiB before, {:.1} connected, {:.1} at the end",
        mib(server.rss_before_bytes),
        mib(server.rss_connected_bytes),
        mib(server.rss_after_bytes)
    )?;
    match server.rss_per_connection_bytes {
        Some(bytes) => writeln!(f, ", {bytes:.0} bytes per connection"),
        None => writeln!(f),
    }
}

fn write_loadgen(f: &mut fmt::Formatter<'_>, loadgen: &LoadgenReport) -> fmt::Result {
    let each = loadgen
        .run_cpu_us_each
        .map_or(String::new(), |us| format!(", {us:.2} µs each"));
    writeln!(
        f,
        "loadgen cpu  run: {:.2} s{each}",
        loadgen.run_cpu_seconds
    )?;
    if loadgen.workers.is_empty() {
        return Ok(());
    }
    let mut shares = String::new();
    for worker in &loadgen.workers {
        write!(
            shares,
            " {:.0}+{:.0}%",
            worker.busy * 100.0,
            worker.starved * 100.0
        )?;
    }
    let verdict = if loadgen.bottleneck {
        "loadgen was short of CPU, so latencies are partly its own"
    } else {
        "loadgen was not the bottleneck"
    };
    writeln!(f, "  workers    busy + starved:{shares}; {verdict}")?;
    if let Some(bytes) = loadgen.rss_per_connection_bytes {
        writeln!(f, "  rss        {bytes:.0} bytes per connection")?;
    }
    Ok(())
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_worker_without_a_core_is_as_saturated_as_a_busy_one() {
        let worker = |run_ns, queued_ns| WorkerReport::new(Cpu { run_ns, queued_ns }, 1.0);
        assert!(worker(950_000_000, 0).is_saturated());
        assert!(worker(500_000_000, 450_000_000).is_saturated());
        assert!(!worker(500_000_000, 100_000_000).is_saturated());
    }
}
