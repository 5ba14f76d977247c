//! The runs: fan-out, idle and publish, from the first check to the report.

use crate::fleet::{Fleet, POLL};
use crate::host::{self, Cpu, Reading};
use crate::options::{self, Clients, Fanout, Idle, Key, Publications, Publish};
use crate::publisher::{self, Outcome, Plan};
use crate::report::{
    ConnectReport, CpuReport, DeliveryReport, HoldReport, LoadgenReport, PublishReport, Report,
    SCHEMA_VERSION, ServerReport, WorkerReport, grouped,
};
use crate::slow::SlowReaders;
use crate::tally::Tally;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the last expected delivery repeated ones are waited for.
const AFTERMATH: Duration = Duration::from_millis(200);

/// Connects, subscribes, publishes, and checks every delivery. The error says why there was no run.
pub(crate) fn fanout(options: &Fanout) -> Result<Report, String> {
    let mut plan = plan(&options.publications, options.clients.rooms)?;
    plan.rate = options.rate;
    plan.burst = options.burst;
    check_target(options.clients.target)?;
    drop(connect_upstream(
        options.publications.upstream,
        options.publications.key(),
    )?);
    let slow = SlowReaders::connect(
        options.slow_readers,
        options.clients.rooms,
        options.clients.target,
        &options.clients.path,
    )?;
    let stage = Stage::connect(&options.clients, plan.run)?;

    let upstream = connect_upstream(options.publications.upstream, options.publications.key())?;
    let before = stage.mark()?;
    let outcome = stage.publish(&plan, upstream, options.grace)?;
    let after = stage.mark()?;
    std::thread::sleep(AFTERMATH);
    let tally = stage.fleet.finish(outcome.published)?;

    let publish = PublishReport::new(&plan, &outcome);
    let delivery = DeliveryReport::new(&tally, before.at_ns);
    let ok = tally.is_clean()
        && publish.is_clean()
        && tally.subscribed == u64::from(options.clients.connections);
    Ok(Report {
        ok,
        publish: Some(publish),
        delivery: Some(delivery),
        slow_readers: (options.slow_readers > 0).then(|| slow.finish()),
        ..stage
            .readings
            .report(&options.clients, &tally, &before, &after, tally.delivered)
    })
}

/// Connects, subscribes and holds.
pub(crate) fn idle(options: &Idle) -> Result<Report, String> {
    check_target(options.clients.target)?;
    let stage = Stage::connect(&options.clients, publisher::run_number())?;
    let before = stage.mark()?;
    let failed_before = stage.fleet.failed();
    let until = Instant::now() + options.hold;
    let mut ticker = Ticker::new();
    while Instant::now() < until {
        std::thread::sleep(POLL);
        ticker.tick(|| {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            let closed = stage.fleet.failed() - failed_before;
            format!("hold: {left} s left, {closed} closed")
        });
    }
    let after = stage.mark()?;
    let closed = stage.fleet.failed() - failed_before;
    let tally = stage.fleet.finish(0)?;
    Ok(Report {
        ok: tally.is_clean() && tally.subscribed == u64::from(options.clients.connections),
        hold: Some(HoldReport {
            seconds: options.hold.as_secs_f64(),
            pings_answered: tally.pings,
            closed,
        }),
        ..stage
            .readings
            .report(&options.clients, &tally, &before, &after, 0)
    })
}

/// Publishes to rooms without subscribers.
pub(crate) fn publish(options: &Publish) -> Result<Report, String> {
    let mut plan = plan(&options.publications, options.rooms)?;
    plan.level = options.ack.level();
    plan.settle_every_room();
    let upstream = connect_upstream(options.publications.upstream, options.publications.key())?;
    let progress = publisher::Progress::default();
    let server_before = read_server(options.server_pid)?;
    let own_before = read_own()?;
    let outcome = publisher::run(&plan, upstream, &progress);
    let server_after = read_server(options.server_pid)?;
    let own_after = read_own()?;

    let own = CpuReport::between(&own_before, &own_after);
    let server = server_before.zip(server_after).map(|(before, after)| {
        let run_cpu = CpuReport::between(&before, &after);
        ServerReport {
            run_cpu,
            run_cpu_us_each: run_cpu.us_each(outcome.published),
            rss_before_bytes: before.rss_bytes,
            rss_connected_bytes: before.rss_bytes,
            rss_after_bytes: after.rss_bytes,
            ..ServerReport::default()
        }
    });
    let report = PublishReport::new(&plan, &outcome).with_rooms(&outcome);
    Ok(Report {
        ok: report.is_clean(),
        publish: Some(report),
        server,
        loadgen: LoadgenReport {
            run_cpu_seconds: own.seconds,
            run_cpu_us_each: own.us_each(outcome.published),
            rss_bytes: own_after.rss_bytes,
            bottleneck: own.seconds * 1e9 > 0.9 * outcome.elapsed_ns as f64,
            ..LoadgenReport::default()
        },
        ..empty_report()
    })
}

/// A run with its connections up.
pub(crate) struct Stage {
    fleet: Fleet,
    readings: Readings,
    server_pid: Option<u32>,
}

/// The readings around connecting.
pub(crate) struct Readings {
    server_before: Option<Reading>,
    server_connected: Option<Reading>,
    own_before: Reading,
    own_connected: Reading,
}

/// The readings at the beginning or the end of the part that is measured.
pub(crate) struct Mark {
    at_ns: u64,
    server: Option<Reading>,
    own: Reading,
    workers: Vec<Cpu>,
}

impl Stage {
    /// Brings the connections up and lets them settle.
    pub(crate) fn connect(clients: &Clients, run: u16) -> Result<Self, String> {
        let mut fleet = Fleet::start(clients, run)?;
        let server_before = read_server(clients.server_pid)?;
        let own_before = read_own()?;
        fleet.begin();
        let mut ticker = Ticker::new();
        fleet.wait_connected(clients.connect_timeout, |fleet| {
            let subscribed = fleet.subscribed();
            ticker.tick_rate(subscribed, |rate| {
                format!(
                    "connect: {} of {} subscribed, {rate} per second, {} failed",
                    grouped(subscribed),
                    grouped(u64::from(clients.connections)),
                    fleet.failed()
                )
            });
        })?;
        // CPU of connecting is read at once, memory when buffers had time to be freed.
        let server_cpu = read_server(clients.server_pid)?;
        std::thread::sleep(clients.settle);
        let server_settled = read_server(clients.server_pid)?;
        let server_connected = server_cpu
            .zip(server_settled)
            .map(|(cpu, settled)| Reading {
                rss_bytes: settled.rss_bytes,
                ..cpu
            });
        let readings = Readings {
            server_before,
            server_connected,
            own_before,
            own_connected: read_own()?,
        };
        Ok(Self {
            fleet,
            readings,
            server_pid: clients.server_pid,
        })
    }

    /// Reads where all stand now.
    pub(crate) fn mark(&self) -> Result<Mark, String> {
        Ok(Mark {
            server: read_server(self.server_pid)?,
            own: read_own()?,
            workers: self.fleet.cpu(),
            at_ns: host::now_ns(),
        })
    }

    /// Ends the connections.
    pub(crate) fn finish(self, published: u64) -> Result<(Tally, Readings), String> {
        Ok((self.fleet.finish(published)?, self.readings))
    }

    /// Publishes and waits until everything was delivered, or nothing more comes for `grace`.
    fn publish(
        &self,
        plan: &Plan,
        upstream: ringcast::client::Upstream,
        grace: Duration,
    ) -> Result<Outcome, String> {
        let progress = Arc::new(publisher::Progress::default());
        let (theirs, their_plan) = (Arc::clone(&progress), plan.clone());
        let publishing = std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || publisher::run(&their_plan, upstream, &theirs))
            .map_err(|error| format!("thread: {error}"))?;
        let expected = self.fleet.subscribed() * (plan.publications / u64::from(plan.rooms));
        let mut ticker = Ticker::new();
        let (mut delivered, mut changed) = (0, Instant::now());
        loop {
            let now_delivered = self.fleet.delivered();
            if now_delivered != delivered {
                (delivered, changed) = (now_delivered, Instant::now());
            }
            if !publishing.is_finished() {
                changed = Instant::now();
            } else if delivered >= expected || changed.elapsed() > grace {
                break;
            }
            ticker.tick_rate(delivered, |rate| {
                format!(
                    "deliver: {} delivered, {rate} per second, {} of {} published",
                    grouped(delivered),
                    grouped(progress.published.load(Relaxed)),
                    grouped(plan.publications)
                )
            });
            std::thread::sleep(POLL);
        }
        publishing
            .join()
            .map_err(|_| "the publisher panicked".to_owned())
    }
}

impl Readings {
    /// The parts of a report that every run with connections has; `each` is what CPU is divided by.
    pub(crate) fn report(
        &self,
        clients: &Clients,
        tally: &Tally,
        before: &Mark,
        after: &Mark,
        each: u64,
    ) -> Report {
        let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
        let workers: Vec<_> = after
            .workers
            .iter()
            .zip(&before.workers)
            .map(|(after, before)| WorkerReport::new(after.since(*before), seconds))
            .collect();
        let own = CpuReport::between(&before.own, &after.own);
        Report {
            connect: Some(ConnectReport::new(clients.connections, tally)),
            server: self.server(tally, before, after, each),
            loadgen: LoadgenReport {
                run_cpu_seconds: own.seconds,
                run_cpu_us_each: own.us_each(each),
                bottleneck: workers.iter().any(|worker| worker.is_saturated()),
                workers,
                rss_bytes: self.own_connected.rss_bytes,
                rss_per_connection_bytes: per_connection(
                    &self.own_before,
                    &self.own_connected,
                    tally,
                ),
                enobufs: tally.enobufs,
            },
            ..empty_report()
        }
    }

    fn server(
        &self,
        tally: &Tally,
        before: &Mark,
        after: &Mark,
        each: u64,
    ) -> Option<ServerReport> {
        let (first, connected) = self.server_before.zip(self.server_connected)?;
        let (begin, end) = before.server.zip(after.server)?;
        let connect_cpu = CpuReport::between(&first, &connected);
        let run_cpu = CpuReport::between(&begin, &end);
        Some(ServerReport {
            connect_cpu,
            run_cpu,
            connect_cpu_us_each: connect_cpu.us_each(tally.subscribed),
            run_cpu_us_each: run_cpu.us_each(each),
            rss_before_bytes: first.rss_bytes,
            rss_connected_bytes: connected.rss_bytes,
            rss_after_bytes: end.rss_bytes,
            rss_per_connection_bytes: per_connection(&first, &connected, tally),
        })
    }
}

fn per_connection(before: &Reading, after: &Reading, tally: &Tally) -> Option<f64> {
    let growth = after.rss_bytes as f64 - before.rss_bytes as f64;
    (tally.subscribed > 0).then(|| growth / tally.subscribed as f64)
}

pub(crate) fn empty_report() -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        command: options::command_line(std::env::args()),
        ok: false,
        connect: None,
        publish: None,
        delivery: None,
        hold: None,
        recovery: None,
        presence: None,
        slow_readers: None,
        server: None,
        loadgen: LoadgenReport::default(),
    }
}

fn plan(publications: &Publications, rooms: u32) -> Result<Plan, String> {
    let plan = Plan::new(publications, rooms);
    match u32::try_from(plan.publications) {
        Ok(_) => Ok(plan),
        Err(_) => Err("rooms × messages must be below 2^32".to_owned()),
    }
}

/// Finds out before the run whether anybody listens.
pub(crate) fn check_target(target: SocketAddrV4) -> Result<(), String> {
    let target = SocketAddr::from(target);
    match TcpStream::connect_timeout(&target, CHECK_TIMEOUT) {
        Ok(_) => Ok(()),
        Err(error) => Err(unreachable_at("clients", "--listen", target, &error)),
    }
}

pub(crate) fn connect_upstream(
    upstream: SocketAddr,
    key: Option<&Key>,
) -> Result<ringcast::client::Upstream, String> {
    publisher::connect(upstream, key)
        .map_err(|error| unreachable_at("upstreams", "--upstream", upstream, &error))
}

fn unreachable_at(
    who: &str,
    option: &str,
    addr: SocketAddr,
    error: &dyn std::error::Error,
) -> String {
    format!(
        "no broker for {who} at {addr}: {error}\n\
         start one with `ringcast serve {option} {addr} --allow-anonymous`, or name another address"
    )
}

pub(crate) fn read_server(pid: Option<u32>) -> Result<Option<Reading>, String> {
    let Some(pid) = pid else {
        return Ok(None);
    };
    match host::read_process(pid) {
        Ok(reading) => Ok(Some(reading)),
        Err(error) => Err(format!("--server-pid {pid}: {error}")),
    }
}

pub(crate) fn read_own() -> Result<Reading, String> {
    host::read_process(std::process::id()).map_err(|error| format!("/proc: {error}"))
}

/// One line on standard error per second.
pub(crate) struct Ticker {
    started: Instant,
    last: Instant,
    last_count: u64,
}

impl Ticker {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            last_count: 0,
        }
    }

    fn tick(&mut self, line: impl FnOnce() -> String) {
        self.tick_rate(0, |_| line());
    }

    /// `line` is given the growth of `count` per second since the last line.
    pub(crate) fn tick_rate(&mut self, count: u64, line: impl FnOnce(String) -> String) {
        let since = self.last.elapsed();
        if since >= Duration::from_secs(1) {
            let grown = count.saturating_sub(self.last_count);
            let rate = grouped((grown as f64 / since.as_secs_f64()) as u64);
            eprintln!("{:>4} s  {}", self.started.elapsed().as_secs(), line(rate));
            self.last = Instant::now();
            self.last_count = count;
        }
    }
}
