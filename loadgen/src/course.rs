//! The course of a run: one point per second, of both ends.

use crate::clock;
use crate::fleet::Fleet;
use crate::host::{self, Reading};
use crate::options::Observe;
use crate::prometheus::Endpoint;
use crate::publisher;
use crate::tally::Interval;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;

/// Points at most: a run that takes longer keeps its first 24 hours.
const POINTS_MAX: usize = 86_400;

/// The first point is of this at least, nanoseconds: reading the CPU of all threads takes some of it.
const POINT_NS_MIN: u64 = 250_000_000;

/// Parts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Connections come up.
    #[default]
    Ramp,
    /// Quiet, before the first publication.
    Settle,
    /// Publications that are checked and not measured.
    WarmUp,
    /// What is measured.
    Steady,
    /// After what is measured.
    CoolDown,
}

impl Phase {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ramp => "ramp",
            Self::Settle => "settle",
            Self::WarmUp => "warm-up",
            Self::Steady => "steady",
            Self::CoolDown => "cool-down",
        }
    }
}

/// One second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Seconds since the first point. On a host that stalls one may be left out: the next point is then of
    /// all that time.
    pub(crate) second: u64,
    /// Which part of the run it ends in.
    pub(crate) phase: Phase,
    /// Connections that are subscribed.
    pub(crate) connections: u64,
    /// Connections that have failed until now.
    pub(crate) failed: u64,
    /// Publications sent in this second.
    pub(crate) published: u64,
    /// Publications delivered in this second.
    pub(crate) delivered: u64,
    /// Their latency from when they were due: half are below, milliseconds.
    pub(crate) p50_ms: Option<f64>,
    /// 99 of 100 are below; `None` with fewer than 1,000.
    pub(crate) p99_ms: Option<f64>,
    /// The longest.
    pub(crate) max_ms: Option<f64>,
    /// The longest turn of a worker's loop, milliseconds.
    pub(crate) loop_lag_ms: f64,
    /// Most that a publication was behind its schedule, milliseconds.
    pub(crate) schedule_lag_ms: f64,
    /// Cores that the server used.
    pub(crate) server_cores: Option<f64>,
    /// Resident memory of the server, bytes.
    pub(crate) server_rss_bytes: Option<u64>,
    /// The same with shared pages divided, bytes.
    pub(crate) server_pss_bytes: Option<u64>,
    /// Context switches of the server in this second.
    pub(crate) server_switches: Option<u64>,
    /// Cores that loadgen used.
    pub(crate) own_cores: f64,
    /// Kernel memory in the buffers of all TCP sockets, bytes.
    pub(crate) socket_bytes: Option<u64>,
    /// What the server's endpoint said, summed over labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// What changes between two points.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// The part of the run.
    pub(crate) phase: Phase,
    /// Connections that are subscribed.
    pub(crate) connections: u64,
    /// Connections that have failed until now.
    pub(crate) failed: u64,
    /// Publications sent until now.
    pub(crate) published: u64,
    /// Publications delivered until now.
    pub(crate) delivered: u64,
    /// What loadgen has used until now; `None` where that is not known.
    pub(crate) own: Option<Reading>,
    /// Most that one was late since the last point, nanoseconds.
    pub(crate) late_ns: u64,
}

impl Now {
    /// Of a fleet in a part of the run.
    pub(crate) fn of(fleet: &Fleet, phase: Phase) -> Self {
        let counts = fleet.counts();
        Self {
            phase,
            connections: counts.there,
            failed: counts.failed,
            published: counts.published,
            delivered: counts.delivered,
            // A worker process that has ended is found out by the run.
            own: fleet.read().ok().map(|usage| usage.process),
            late_ns: 0,
        }
    }

    /// Of a publisher in the steady phase, in a run of this process alone.
    pub(crate) fn of_publisher(progress: &publisher::Progress) -> Self {
        Self {
            phase: Phase::Steady,
            published: progress.published.load(Relaxed),
            late_ns: progress.late_ns_max.swap(0, Relaxed),
            own: host::read_own().ok(),
            ..Self::default()
        }
    }
}

/// Writes the course down.
pub(crate) struct Recorder {
    points: Vec<Point>,
    /// Seconds of CLOCK_MONOTONIC of the points, in the same order.
    seconds: Vec<u64>,
    intervals: BTreeMap<u64, Interval>,
    from_workers: Receiver<Interval>,
    pids: Vec<u32>,
    endpoint: Option<Endpoint>,
    last: Last,
}

/// At the last point.
#[derive(Default)]
struct Last {
    at_ns: u64,
    published: u64,
    delivered: u64,
    own: Reading,
    server: Option<Reading>,
}

impl Recorder {
    /// Of what `from_workers` brings and `observe` names; loadgen has used `own`. The error is of an endpoint
    /// that cannot be read.
    pub(crate) fn new(
        from_workers: Receiver<Interval>,
        own: Reading,
        observe: &Observe,
    ) -> Result<Self, String> {
        let endpoint = observe
            .prometheus
            .as_ref()
            .map(|url| Endpoint::new(url, &observe.metric))
            .transpose()?;
        Ok(Self {
            points: Vec::new(),
            seconds: Vec::new(),
            intervals: BTreeMap::new(),
            from_workers,
            pids: observe.server_pid.clone(),
            endpoint,
            last: Last {
                at_ns: clock::now_ns(),
                own,
                server: host::read_all(&observe.server_pid)?,
                ..Last::default()
            },
        })
    }

    /// To be called often: adds a point when a second has passed. Whether it did.
    pub(crate) fn tick(&mut self, now: impl FnOnce() -> Now) -> bool {
        let now_ns = clock::now_ns();
        let is_same_second = now_ns / 1_000_000_000 == self.last.at_ns / 1_000_000_000;
        if is_same_second || now_ns - self.last.at_ns < POINT_NS_MIN {
            return false;
        }
        let now = now();
        self.collect_intervals();
        if self.points.len() < POINTS_MAX {
            let second = self.last.at_ns / 1_000_000_000;
            self.seconds.push(second);
            let point = self.point(now_ns, &now);
            self.points.push(point);
        }
        self.last.at_ns = now_ns;
        self.last.published = now.published;
        true
    }

    fn point(&mut self, now_ns: u64, now: &Now) -> Point {
        let seconds = (now_ns - self.last.at_ns) as f64 / 1e9;
        let cores = |before: &Reading, after: &Reading| {
            after.cpu.since(before.cpu).run_ns as f64 / 1e9 / seconds
        };
        // A server that has ended has no more to tell; the run finds that out by itself.
        let server = host::read_all(&self.pids).ok().flatten();
        let own = now.own.unwrap_or(self.last.own);
        let of_both = self.last.server.as_ref().zip(server.as_ref());
        let point = Point {
            second: (self.last.at_ns / 1_000_000_000).saturating_sub(self.seconds[0]),
            phase: now.phase,
            connections: now.connections,
            failed: now.failed,
            published: now.published.saturating_sub(self.last.published),
            delivered: now.delivered.saturating_sub(self.last.delivered),
            schedule_lag_ms: now.late_ns as f64 / 1e6,
            server_cores: of_both.map(|(before, after)| cores(before, after)),
            server_rss_bytes: server.map(|reading| reading.rss_bytes),
            server_pss_bytes: server
                .map(|reading| reading.pss_bytes)
                .filter(|bytes| *bytes > 0),
            server_switches: of_both
                .map(|(before, after)| after.switches.saturating_sub(before.switches)),
            own_cores: cores(&self.last.own, &own),
            socket_bytes: host::read_socket_bytes(),
            metrics: self
                .endpoint
                .as_mut()
                .map(Endpoint::read)
                .unwrap_or_default(),
            ..Point::default()
        };
        self.last.own = own;
        self.last.delivered += point.delivered;
        self.last.server = server;
        point
    }

    fn collect_intervals(&mut self) {
        for interval in self.from_workers.try_iter() {
            self.intervals
                .entry(interval.second)
                .or_insert_with(Interval::new)
                .add(&interval);
        }
    }

    /// The last point, as far as it is known.
    pub(crate) fn latest(&self) -> Option<Point> {
        let mut point = self.points.last()?.clone();
        // Workers that sleep tell of a second a little later.
        let second = self.seconds.last()?;
        let known = [*second, second.saturating_sub(1)];
        if let Some(interval) = known.iter().find_map(|second| self.intervals.get(second)) {
            point.fill(interval);
        }
        Some(point)
    }

    /// All points.
    pub(crate) fn finish(mut self) -> Vec<Point> {
        self.collect_intervals();
        let next = self.seconds.iter().skip(1).copied().chain([u64::MAX]);
        for ((point, second), next) in self.points.iter_mut().zip(&self.seconds).zip(next) {
            let of_point = self.intervals.range(*second..next);
            let all = of_point.fold(None, |all: Option<Interval>, (_, interval)| {
                let mut sum = all.unwrap_or_else(Interval::new);
                sum.add(interval);
                Some(sum)
            });
            if let Some(all) = all {
                point.fill(&all);
            }
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.keep_what_matters(&mut self.points);
        }
        self.points
    }
}

impl Point {
    fn fill(&mut self, interval: &Interval) {
        let latency = &interval.latency;
        let ms = |ns: u64| ns as f64 / 1e6;
        self.loop_lag_ms = ms(interval.loop_lag_ns_max);
        // That of one publisher is there already.
        self.schedule_lag_ms = self.schedule_lag_ms.max(ms(interval.late_ns_max));
        self.p50_ms = (latency.len() >= 20).then(|| ms(latency.value_at_quantile(0.5)));
        self.p99_ms = (latency.len() >= 1_000).then(|| ms(latency.value_at_quantile(0.99)));
        self.max_ms = (!latency.is_empty()).then(|| ms(latency.max()));
    }
}
