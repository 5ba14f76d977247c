//! A run with its connections up: what is read of both ends, and what a report of it has in any case.

use crate::clock;
use crate::course::{Now, Phase, Point};
use crate::fleet::{Finished, Fleet, POLL, Work};
use crate::host::{self, Cpu, Reading};
use crate::options::{Clients, Observe, Output};
use crate::report::{
    ConnectReport, CpuReport, Latency, LoadgenReport, Report, ServerReport, WorkerReport,
};
use crate::tally::Tally;
use crate::watch::Watch;
use crate::worker::Totals;
use std::time::Instant;

/// A run with its connections up.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    readings: Readings,
    pub(super) watch: Watch,
    server_pids: Vec<u32>,
}

/// The readings around connecting.
pub(crate) struct Readings {
    server_before: Option<Reading>,
    server_connected: Option<Reading>,
    own_before: Reading,
    own_connected: Reading,
    connecting_workers: Vec<WorkerReport>,
    socket_bytes: Option<u64>,
}

/// A run that is over.
pub(crate) struct Ending {
    pub(crate) finished: Finished,
    readings: Readings,
    course: Vec<Point>,
}

/// The readings at the beginning or the end of the part that is measured.
#[derive(Clone)]
pub(crate) struct Mark {
    at_ns: u64,
    delivered: u64,
    server: Option<Reading>,
    own: Reading,
    threads: Vec<Cpu>,
}

/// The part that is measured.
pub(crate) struct Marks {
    /// When the first publication that is measured was due, nanoseconds.
    pub(crate) steady_ns: u64,
    pub(crate) begin: Mark,
    pub(crate) end: Mark,
    /// When nothing more came.
    pub(crate) over: Mark,
}

impl Stage {
    /// Brings the connections up and lets them settle.
    pub(crate) fn connect(
        clients: &Clients,
        work: &Work,
        observe: &Observe,
        output: &Output,
    ) -> Result<Self, String> {
        let mut fleet = Fleet::start(clients, work)?;
        let (intervals, before) = (fleet.take_intervals(), fleet.read()?);
        let own_before = before.process;
        let connections = clients.connections.into();
        let mut watch = Watch::new(intervals, own_before, connections, observe, output)?;
        let server_before = host::read_all(&observe.server_pid)?;
        let begin_ns = clock::now_ns();
        fleet.begin();
        fleet.wait_connected(clients.connect_timeout + clients.ramp, |fleet| {
            watch.tick(|| Now::of(fleet, Phase::Ramp));
        })?;
        // CPU of connecting is read at once, memory when buffers had time to be freed.
        let server_cpu = host::read_all(&observe.server_pid)?;
        let seconds = (clock::now_ns() - begin_ns) as f64 / 1e9;
        let connecting_workers = shares(&before.threads, &fleet.read()?.threads, seconds);
        let settled = Instant::now() + clients.settle;
        while Instant::now() < settled {
            watch.tick(|| Now::of(&fleet, Phase::Settle));
            std::thread::sleep(POLL);
        }
        let server_settled = host::read_all(&observe.server_pid)?;
        let server_connected = server_cpu
            .zip(server_settled)
            .map(|(cpu, settled)| Reading {
                rss_bytes: settled.rss_bytes,
                pss_bytes: settled.pss_bytes,
                ..cpu
            });
        let readings = Readings {
            server_before,
            server_connected,
            own_before,
            own_connected: fleet.read()?.process,
            connecting_workers,
            socket_bytes: host::read_socket_bytes(),
        };
        Ok(Self {
            fleet,
            readings,
            watch,
            server_pids: observe.server_pid.clone(),
        })
    }

    /// Reads where all stand now.
    pub(crate) fn mark(&self) -> Result<Mark, String> {
        let own = self.fleet.read()?;
        Ok(Mark {
            server: host::read_all(&self.server_pids)?,
            own: own.process,
            threads: own.threads,
            delivered: self.fleet.counts().delivered,
            at_ns: clock::now_ns(),
        })
    }

    /// Ends the connections.
    pub(crate) fn finish(self, totals: &Totals) -> Result<Ending, String> {
        let finished = self.fleet.finish(totals)?;
        Ok(Ending {
            finished,
            readings: self.readings,
            course: self.watch.finish(),
        })
    }
}

impl Ending {
    /// The parts of a report that every run with connections has.
    pub(crate) fn report(&mut self, clients: &Clients, marks: &Marks) -> Report {
        let (begin, end) = (&marks.begin, &marks.end);
        let (tally, readings) = (&self.finished.tally, &self.readings);
        let seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
        let each = end.delivered.saturating_sub(begin.delivered);
        let workers = worker_reports(marks);
        let own = CpuReport::between(&begin.own, &end.own);
        Report {
            connect: Some(ConnectReport::new(clients.connections, tally)),
            server: readings.server(tally, marks, each, seconds),
            loadgen: LoadgenReport {
                run_cpu_seconds: own.seconds,
                run_cpu_us_each: own.us_each(each),
                run_user_us_each: (each > 0).then(|| own.user_seconds * 1e6 / each as f64),
                loop_lag: Latency::new(&tally.loop_lag),
                workers,
                connecting_workers: readings.connecting_workers.clone(),
                processes: self.finished.processes.clone(),
                clock_error_ms: self.finished.clock_error_ms,
                rss_bytes: readings.own_connected.rss_bytes,
                rss_per_connection_bytes: per_connection(
                    &readings.own_before,
                    &readings.own_connected,
                    tally,
                ),
                enobufs: tally.enobufs,
            },
            course: std::mem::take(&mut self.course),
            ..Report::empty()
        }
    }
}

/// How short of CPU the worker threads were: until the end of the part that is measured, or until
/// nothing more came if that was worse, since the kernel counts a wait for a core only when it is over.
fn worker_reports(marks: &Marks) -> Vec<WorkerReport> {
    let until = |mark: &Mark| -> Vec<WorkerReport> {
        let seconds = (mark.at_ns - marks.begin.at_ns) as f64 / 1e9;
        shares(&marks.begin.threads, &mark.threads, seconds)
    };
    let both = until(&marks.end).into_iter().zip(until(&marks.over));
    both.map(|(end, over)| end.worse(over)).collect()
}

fn shares(before: &[Cpu], after: &[Cpu], seconds: f64) -> Vec<WorkerReport> {
    let threads = after.iter().zip(before);
    threads
        .map(|(after, before)| WorkerReport::new(after.since(*before), seconds))
        .collect()
}

impl Readings {
    fn server(
        &self,
        tally: &Tally,
        marks: &Marks,
        each: u64,
        seconds: f64,
    ) -> Option<ServerReport> {
        let (first, connected) = self.server_before.zip(self.server_connected)?;
        let (begin, end) = marks.begin.server.zip(marks.end.server)?;
        let connect_cpu = CpuReport::between(&first, &connected);
        let run_cpu = CpuReport::between(&begin, &end);
        Some(ServerReport {
            connect_cpu,
            run_cpu,
            connect_cpu_us_each: connect_cpu.us_each(tally.subscribed),
            run_cpu_us_each: run_cpu.us_each(each),
            run_cores: (seconds > 0.0).then(|| run_cpu.seconds / seconds),
            socket_bytes: self.socket_bytes,
            rss_before_bytes: first.rss_bytes,
            rss_connected_bytes: connected.rss_bytes,
            pss_connected_bytes: connected.pss_bytes,
            rss_after_bytes: end.rss_bytes,
            rss_per_connection_bytes: per_connection(&first, &connected, tally),
        })
    }
}

fn per_connection(before: &Reading, after: &Reading, tally: &Tally) -> Option<f64> {
    let growth = after.rss_bytes as f64 - before.rss_bytes as f64;
    (tally.subscribed > 0).then(|| growth / tally.subscribed as f64)
}
