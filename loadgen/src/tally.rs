//! What the workers count. One tally per worker, merged at the end; and an interval per worker and
//! second, for the course of the run.

mod pairs;
mod ranges;

use crate::payload::Stamp;
use hdrhistogram::Histogram;
use ringcast::wire::frame::FrameError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Longest latency that is told apart from longer ones, nanoseconds.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Why a connection is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The connect failed with this errno.
    Connect(i32),
    /// Nothing came of the connection in time.
    Unanswered,
    /// The upgrade was answered with this status.
    UpgradeStatus(u16),
    /// The answer to the upgrade was no HTTP response, or lacked `Upgrade` or `Connection`.
    UpgradeMalformed,
    /// `Sec-WebSocket-Accept` is missing or wrong.
    AcceptKey,
    /// The server did not choose the subprotocol that it was asked for, or one although it was not asked.
    Subprotocol,
    /// The server chose an extension, for which it was not asked.
    Extension,
    /// The connect command was answered with this error code.
    ConnectRefused(u32),
    /// The subscribe command was answered with this error code.
    SubscribeRefused(u32),
    /// A room to be recovered has no history or hands out no positions.
    NotRecoverable,
    /// The frame breaks RFC 6455.
    Frame,
    /// A message is longer than loadgen takes.
    TooLong,
    /// The message is none that the client protocol allows here.
    Message,
    /// The server reported an error, which ends the connection.
    Reported,
    /// The server closed with this code before the end; 0 when the close frame had none.
    Closed(u16),
    /// The stream ended without a close frame.
    Ended,
    /// The stream failed with this errno.
    Receive(i32),
    /// A send failed with this errno; 0 when it was short.
    Send(i32),
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooBig => Self::TooLong,
            FrameError::Protocol(_) | FrameError::InvalidUtf8 => Self::Frame,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = |errno: &i32| std::io::Error::from_raw_os_error(*errno);
        match self {
            Self::Connect(number) => write!(f, "connect: {}", errno(number)),
            Self::Unanswered => f.write_str("no answer in time"),
            Self::UpgradeStatus(status) => write!(f, "upgrade: status {status}"),
            Self::UpgradeMalformed => f.write_str("upgrade: no valid response"),
            Self::AcceptKey => f.write_str("upgrade: wrong accept key"),
            Self::Subprotocol => f.write_str("upgrade: not the subprotocol asked for"),
            Self::Extension => f.write_str("upgrade: an extension that was not asked for"),
            Self::ConnectRefused(code) => write!(f, "connect command: error {code}"),
            Self::SubscribeRefused(code) => write!(f, "subscribe command: error {code}"),
            Self::NotRecoverable => f.write_str("subscribe command: the room is not recoverable"),
            Self::Frame => f.write_str("frame breaks RFC 6455"),
            Self::TooLong => f.write_str("a message is longer than the 4 MiB that loadgen takes"),
            Self::Message => f.write_str("unexpected message"),
            Self::Reported => f.write_str("the server reported an error"),
            Self::Closed(code) => write!(f, "closed by the server: {code}"),
            Self::Ended => f.write_str("closed by the server without a close frame"),
            Self::Receive(number) => write!(f, "receive: {}", errno(number)),
            Self::Send(0) => f.write_str("send: short"),
            Self::Send(number) => write!(f, "send: {}", errno(number)),
        }
    }
}

/// What one worker counted in one second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Which second: of CLOCK_MONOTONIC.
    pub(crate) second: u64,
    /// Latencies of the publications that came, from when they were due.
    #[serde(with = "ranges")]
    pub(crate) latency: Histogram<u64>,
    /// Longest turn of the loop.
    pub(crate) loop_lag_ns_max: u64,
    /// Most that a publication of a client was late.
    pub(crate) late_ns_max: u64,
}

impl Interval {
    /// Adds what another worker counted in the same second.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency
            .add(&other.latency)
            .expect("histograms that grow hold every value");
        self.loop_lag_ns_max = self.loop_lag_ns_max.max(other.loop_lag_ns_max);
        self.late_ns_max = self.late_ns_max.max(other.late_ns_max);
    }

    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            second: 0,
            latency: histogram(2),
            loop_lag_ns_max: 0,
            late_ns_max: 0,
        }
    }
}

/// Records a time.
pub(crate) fn record(histogram: &mut Histogram<u64>, ns: u64) {
    record_many(histogram, ns, 1);
}

/// Records a time so many times.
pub(crate) fn record_many(histogram: &mut Histogram<u64>, ns: u64, count: u64) {
    // A histogram that grows takes every value.
    let _ = histogram.record_n(ns.min(LATENCY_NS_MAX), count);
}

/// An empty histogram of nanoseconds with this many significant digits. It grows with what it holds:
/// hundreds of workers have several each.
pub(crate) fn histogram(digits: u8) -> Histogram<u64> {
    let mut histogram = Histogram::new(digits).expect("a small number of digits");
    histogram.auto(true);
    histogram
}

/// Counts of one worker, or of all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// The steady phase, nanoseconds: of what is due in it the latency is measured. Nothing before it is known.
    pub(crate) steady_ns: (u64, u64),
    /// Since the last [`Tally::take_interval`].
    #[serde(skip, default = "Interval::new")]
    interval: Interval,
    /// Connections whose subscribe was confirmed.
    pub(crate) subscribed: u64,
    /// Connections that failed before or after that, by why.
    #[serde(with = "pairs")]
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Connections that were ended on purpose.
    pub(crate) dropped: u64,
    /// Connections that were subscribed again after they had been dropped.
    pub(crate) back: u64,
    /// Attempts of these to connect that failed and were repeated, by why.
    #[serde(with = "pairs")]
    pub(crate) retries: BTreeMap<Failure, u64>,
    /// Publications that clients sent.
    pub(crate) published: u64,
    /// Of those, publications that the server refused.
    pub(crate) refused: u64,
    /// The code of the first refusal.
    pub(crate) refusal: Option<u32>,
    /// Publications that came for the first time, in order or late.
    pub(crate) delivered: u64,
    /// Longest latency of any publication, from when it was due, nanoseconds.
    pub(crate) latency_ns_max: u64,
    /// Publications that never came to a subscriber.
    pub(crate) lost: u64,
    /// Publications that came again.
    pub(crate) duplicated: u64,
    /// Publications that came after a later one.
    pub(crate) reordered: u64,
    /// Payloads with a wrong checksum.
    pub(crate) damaged: u64,
    /// Sound payloads of a room that the connection is not subscribed to.
    pub(crate) misrouted: u64,
    /// Publications that another run or publisher sent; neither good nor bad.
    pub(crate) foreign: u64,
    /// Server pings answered.
    pub(crate) pings: u64,
    /// Bytes received.
    pub(crate) received_bytes: u64,
    /// Times that a receive waited for buffers.
    pub(crate) enobufs: u64,
    /// From when a connect was due until the subscribe was confirmed.
    #[serde(with = "ranges")]
    pub(crate) connect_latency: Histogram<u64>,
    /// From the drop of a connection until it was subscribed again.
    #[serde(with = "ranges")]
    pub(crate) back_latency: Histogram<u64>,
    /// How long what came waited for its turn in the worker's loop.
    #[serde(with = "ranges")]
    pub(crate) loop_lag: Histogram<u64>,
    /// How late publications of clients were sent.
    #[serde(with = "ranges")]
    pub(crate) schedule_lag: Histogram<u64>,
    /// From when a publication was due.
    #[serde(with = "ranges")]
    pub(crate) due_latency: Histogram<u64>,
    /// From when a publication was handed to the publisher's socket.
    #[serde(with = "ranges")]
    pub(crate) sent_latency: Histogram<u64>,
    /// When the first connect was started, nanoseconds.
    pub(crate) first_connect_ns: Option<u64>,
    /// When the last subscribe was confirmed, nanoseconds.
    pub(crate) last_subscribed_ns: Option<u64>,
    /// When the last publication that is measured came, nanoseconds.
    pub(crate) last_measured_ns: Option<u64>,
    /// Longest time from a drop until the connection was subscribed again, nanoseconds.
    pub(crate) back_ns_max: u64,
}

impl Tally {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self {
            steady_ns: (u64::MAX, u64::MAX),
            interval: Interval::new(),
            dropped: 0,
            back: 0,
            retries: BTreeMap::new(),
            published: 0,
            refused: 0,
            refusal: None,
            connect_latency: histogram(2),
            back_latency: histogram(2),
            loop_lag: histogram(2),
            schedule_lag: histogram(2),
            subscribed: 0,
            failures: BTreeMap::new(),
            delivered: 0,
            latency_ns_max: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            damaged: 0,
            misrouted: 0,
            foreign: 0,
            pings: 0,
            received_bytes: 0,
            enobufs: 0,
            due_latency: histogram(3),
            sent_latency: histogram(3),
            first_connect_ns: None,
            last_subscribed_ns: None,
            last_measured_ns: None,
            back_ns_max: 0,
        }
    }

    /// Counts a failed connection.
    pub(crate) fn fail(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Failed connections in all.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Counts a publication that came for the first time at `now_ns`.
    pub(crate) fn deliver(&mut self, stamp: &Stamp, now_ns: u64) {
        self.delivered += 1;
        let sent_ns = stamp
            .due_ns
            .saturating_add(u64::from(stamp.delay_us) * 1_000);
        let due = now_ns.saturating_sub(stamp.due_ns);
        record(&mut self.interval.latency, due);
        self.latency_ns_max = self.latency_ns_max.max(due);
        let (begin_ns, end_ns) = self.steady_ns;
        if (begin_ns..end_ns).contains(&stamp.due_ns) {
            record(&mut self.due_latency, due);
            record(&mut self.sent_latency, now_ns.saturating_sub(sent_ns));
            self.last_measured_ns = Some(now_ns);
        }
    }

    /// Counts a publication that a client sends, so much later than it was due.
    pub(crate) fn publish(&mut self, late_ns: u64) {
        self.published += 1;
        record(&mut self.schedule_lag, late_ns);
        self.interval.late_ns_max = self.interval.late_ns_max.max(late_ns);
    }

    /// Counts one turn of the worker's loop: `events` in `turn_ns`. What came last waited that long.
    pub(crate) fn turn(&mut self, events: u64, turn_ns: u64) {
        if events > 0 {
            record_many(&mut self.loop_lag, turn_ns, events);
            self.interval.loop_lag_ns_max = self.interval.loop_lag_ns_max.max(turn_ns);
        }
    }

    /// What was counted since the last call, as of `second`; `None` when nothing was.
    pub(crate) fn take_interval(&mut self, second: u64) -> Option<Interval> {
        if self.interval.latency.is_empty() && self.interval.loop_lag_ns_max == 0 {
            return None;
        }
        let mut interval = std::mem::replace(&mut self.interval, Interval::new());
        interval.second = second;
        Some(interval)
    }

    /// Whether every connection stood and every publication came once, whole and in order.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty()
            && self.lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.damaged == 0
            && self.misrouted == 0
    }

    /// Adds another worker's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.subscribed += other.subscribed;
        self.dropped += other.dropped;
        self.back += other.back;
        for (failure, count) in &other.retries {
            *self.retries.entry(*failure).or_default() += count;
        }
        self.published += other.published;
        self.refused += other.refused;
        self.refusal = self.refusal.or(other.refusal);
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.delivered += other.delivered;
        self.latency_ns_max = self.latency_ns_max.max(other.latency_ns_max);
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.misrouted += other.misrouted;
        self.foreign += other.foreign;
        self.pings += other.pings;
        self.received_bytes += other.received_bytes;
        self.enobufs += other.enobufs;
        for (mine, theirs) in [
            (&mut self.connect_latency, &other.connect_latency),
            (&mut self.back_latency, &other.back_latency),
            (&mut self.loop_lag, &other.loop_lag),
            (&mut self.schedule_lag, &other.schedule_lag),
            (&mut self.due_latency, &other.due_latency),
            (&mut self.sent_latency, &other.sent_latency),
        ] {
            mine.add(theirs)
                .expect("histograms that grow hold every value");
        }
        let starts = [self.first_connect_ns, other.first_connect_ns];
        self.first_connect_ns = starts.into_iter().flatten().min();
        self.last_subscribed_ns = self.last_subscribed_ns.max(other.last_subscribed_ns);
        self.last_measured_ns = self.last_measured_ns.max(other.last_measured_ns);
        self.back_ns_max = self.back_ns_max.max(other.back_ns_max);
    }
}
