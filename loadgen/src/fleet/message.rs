//! What a coordinator and a worker process say to each other: one JSON object per line, both ways.
//!
//! ```text
//! coordinator                      worker process
//!   hello ------------------------->
//!         <------------------------- hello
//!   probe, several times ---------->
//!         <------------------------- clock
//!   prepare ----------------------->
//!         <------------------------- ready
//!   order, read, probe, foretell -->
//!         <------------------------- counts, interval, usage, sent, expected
//!   stop -------------------------->
//!         <------------------------- tally, closed
//! ```
//!
//! Both ends are the same version of this program; times are nanoseconds of the coordinator's clock,
//! but for `clock`. A worker process that cannot go on says `failed` and why.

use super::{Part, Work};
use crate::environment::Environment;
use crate::host::{Cpu, Reading};
use crate::options::{CONNECTIONS_MAX, CORES_MAX, Clients};
use crate::payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, ROOMS_MAX};
use crate::tally::{Interval, Tally};
use crate::worker::Totals;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};

/// Version of the program: the messages are those of one version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Bytes of a line: one number for each connection of the run, and some.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the coordinator says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Who it is.
    Hello {
        /// [`VERSION`].
        version: String,
    },
    /// What time is it?
    Probe,
    /// Sets the threads up.
    Prepare(Box<Assignment>),
    /// To be done.
    Order(Order),
    /// What has been used?
    Read,
    /// What is to come of these?
    Foretell(Totals),
    /// The run is over.
    Stop(Totals),
}

/// What a worker process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// Who it is.
    Hello(Box<Hello>),
    /// Its time: CLOCK_MONOTONIC, nanoseconds.
    Clock {
        /// The time.
        now_ns: u64,
    },
    /// The threads are set up.
    Ready,
    /// Where its connections stand.
    Counts(Counts),
    /// What was counted in a second.
    Interval(Interval),
    /// What has been used.
    Usage(Usage),
    /// How many publications each connection sent.
    Sent(Vec<u32>),
    /// How many deliveries there are to be.
    Expected(u64),
    /// What was counted in all.
    Tally(Box<Tally>),
    /// All connections are closed.
    Closed,
    /// Why it cannot go on.
    Failed(String),
}

/// Who a worker process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// [`VERSION`].
    pub(super) version: String,
    /// Name of the host.
    pub(super) host: String,
    /// Which start of which kernel: processes with the same share a clock.
    pub(super) boot: String,
    /// Where it runs.
    pub(super) environment: Environment,
}

/// What a worker process is to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    /// All clients of the run.
    pub(super) clients: Clients,
    /// What they are to do.
    pub(super) work: Work,
    /// Its part of them.
    pub(super) part: Part,
    /// Its clock minus the coordinator's, nanoseconds.
    pub(super) clock_offset_ns: i64,
}

/// An order to the threads of a process. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Start to connect at this time.
    Begin { at_ns: u64 },
    /// Start no more connects, and count those under way as failed.
    StopConnecting,
    /// Measure the latency of what is due between these times.
    Measure { from_ns: u64, to_ns: u64 },
    /// Clients publish, on a schedule that starts here.
    PublishFrom { at_ns: u64 },
    /// Connections live as long as they are told, close and come again.
    Churn,
    /// Drop so many connections of the run at once.
    Drop { count: u32 },
    /// Clients publish no more and leave no more.
    Quieten,
}

/// Where connections stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Subscribe was confirmed for the first time.
    pub(crate) subscribed: u64,
    /// Subscribe was confirmed, or failed before.
    pub(crate) settled: u64,
    /// Subscribed now.
    pub(crate) there: u64,
    /// Failed at any time.
    pub(crate) failed: u64,
    /// Subscribed again after they had dropped.
    pub(crate) back: u64,
    /// Dropped on purpose.
    pub(crate) dropped: u64,
    /// Publications delivered.
    pub(crate) delivered: u64,
    /// Publications sent by clients.
    pub(crate) published: u64,
    /// Longest latency of a delivery, nanoseconds.
    pub(crate) latency_ns_max: u64,
}

impl Counts {
    /// Adds those of others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.subscribed += other.subscribed;
        self.settled += other.settled;
        self.there += other.there;
        self.failed += other.failed;
        self.back += other.back;
        self.dropped += other.dropped;
        self.delivered += other.delivered;
        self.published += other.published;
        self.latency_ns_max = self.latency_ns_max.max(other.latency_ns_max);
    }
}

/// What processes and their worker threads have used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// The processes together.
    pub(crate) process: Reading,
    /// CPU time of each worker thread.
    pub(crate) threads: Vec<Cpu>,
}

impl Usage {
    /// Adds that of others.
    pub(crate) fn add(&mut self, other: Self) {
        self.process.add(&other.process);
        self.threads.extend(other.threads);
    }
}

impl Assignment {
    /// Whether it can be carried out: what the command line of the coordinator made sure of.
    pub(super) fn check(&self) -> Result<(), String> {
        let (clients, part) = (&self.clients, &self.part);
        let is_part = !part.connections.is_empty()
            && part.connections.end <= clients.connections
            && clients.connections <= CONNECTIONS_MAX
            && clients.cores.iter().all(|core| *core < CORES_MAX)
            && clients.source.iter().all(|range| range.is_sound())
            && !part.sources.is_empty();
        let is_run = (1..=ROOMS_MAX).contains(&clients.rooms())
            && clients.in_flight > 0
            && (clients.crowd == 0 || clients.rooms() > 1)
            && self.work.chat.iter().all(|chat| {
                (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&chat.payload_bytes)
                    && chat.schedule.is_sound()
            });
        match is_part && is_run {
            true => Ok(()),
            false => Err("the assignment is not that of a run".to_owned()),
        }
    }
}

/// Writes one message and sends it off.
pub(super) fn write(out: &mut impl Write, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Reads one message; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl BufRead) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "a line that does not end",
        )),
    }
}
