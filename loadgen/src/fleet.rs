//! All connections of a run, wherever they are held: by threads of this process, by processes that it
//! starts, or by worker processes on other hosts. Others see one fleet.

mod message;
mod offset;
mod remote;
mod serve;
mod threads;

pub(crate) use remote::{ProcessReport, join_processes};
pub(crate) use serve::serve;

use crate::clock;
use crate::host;
use crate::options::Clients;
use crate::peer::{Context, Publishers};
use crate::rooms::members_max;
use crate::tally::{Interval, Tally};
use crate::target;
use crate::worker::{Chat, Totals};
use message::{Counts, Order, Usage};
use remote::Remote;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use threads::{Threads, boundary};

/// How often the others look at the workers.
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// Values of the third byte of a source address, which names a thread.
const SOURCES: Range<u8> = 1..251;
/// From an order with a time until that time, so that all threads know of it.
const LEAD_NS: u64 = 50_000_000;
/// How long worker threads may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The fleet.
pub(crate) struct Fleet {
    /// In the order of their connections.
    members: Vec<Box<dyn Member>>,
    intervals: Option<Receiver<Interval>>,
    connections: u32,
}

/// What the workers are to do, apart from where the connections go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Run number in the payloads.
    pub(crate) run: u16,
    /// What clients publish, if they do.
    pub(crate) chat: Option<Arc<Chat>>,
    /// Mean life of a connection, once [`Fleet::churn`] is called.
    pub(crate) life: Option<Duration>,
}

/// A part of the run's connections, for one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// By their number in the run.
    pub(crate) connections: Range<u32>,
    /// Third bytes of source addresses, one for each thread; processes of one host share none.
    pub(crate) sources: Range<u8>,
}

/// One process's part of a fleet.
trait Member {
    /// Passes an order on.
    fn order(&self, order: &Order);

    /// Where its connections stand.
    fn counts(&self) -> Counts;

    /// What its process and its threads have used until now.
    fn read(&self) -> Result<Usage, String>;

    /// How many publications each connection sent, some time after [`Order::Quieten`].
    fn sent(&self) -> Option<Vec<u32>>;

    /// Has it tell what is to come of `totals`.
    fn foretell(&self, totals: &Totals);

    /// How many deliveries there are to be in all, some time after [`Member::foretell`].
    fn expected(&self) -> Option<u64>;

    /// Whether all is well; the error is of a worker that could not run.
    fn check(&self) -> Result<(), String>;

    /// Most that its clock is off, nanoseconds.
    fn clock_error_ns(&self) -> u64 {
        0
    }

    /// Whether its process is not this one.
    fn is_remote(&self) -> bool {
        false
    }

    /// What there is to say of its process, if that is not this one.
    fn describe(&self) -> Option<ProcessReport> {
        None
    }

    /// Has it end, and count what is lost of `totals`.
    fn stop(&self, totals: &Totals);

    /// What it counted, after [`Member::stop`].
    fn finish(self: Box<Self>) -> Result<(Tally, Box<dyn Ended>), String>;
}

/// A member that has counted and is closing its connections.
pub(crate) trait Ended {
    /// Waits until all connections are closed.
    fn join(self: Box<Self>);
}

/// What came of a fleet.
pub(crate) struct Finished {
    /// All counts.
    pub(crate) tally: Tally,
    /// The processes that held connections, unless that was this one alone.
    pub(crate) processes: Vec<ProcessReport>,
    /// Most that two of their clocks may differ by, and with them a latency, milliseconds; `None` on one clock.
    pub(crate) clock_error_ms: Option<f64>,
    ended: Vec<Box<dyn Ended>>,
}

impl Finished {
    /// Waits until all connections are closed.
    pub(crate) fn join(self) -> Tally {
        for member in self.ended {
            member.join();
        }
        self.tally
    }
}

impl Fleet {
    /// Starts the workers and waits until their rings are set up. The error is of one that failed.
    pub(crate) fn start(clients: &Clients, work: &Work) -> Result<Self, String> {
        let (to_intervals, intervals) = channel();
        let mut members: Vec<Box<dyn Member>> = Vec::new();
        if clients.processes == 1 && clients.workers.is_empty() {
            let part = &parts(clients.connections, 1)?[0];
            let threads = Threads::start(clients, work, part, &to_intervals)?;
            members.push(Box::new(threads));
        } else {
            for remote in Remote::start_all(clients, work, &to_intervals)? {
                members.push(Box::new(remote));
            }
        }
        Ok(Self {
            members,
            intervals: Some(intervals),
            connections: clients.connections,
        })
    }

    /// What the workers count in each second; to be taken once.
    pub(crate) fn take_intervals(&mut self) -> Receiver<Interval> {
        self.intervals.take().unwrap_or_else(|| channel().1)
    }

    /// Lets the workers connect, all at the same time.
    pub(crate) fn begin(&self) {
        let lead_ns = match self.members.as_slice() {
            [_] => 0,
            _ => self.lead_ns(),
        };
        let at_ns = clock::now_ns() + lead_ns;
        self.order(&Order::Begin { at_ns });
    }

    /// From now until a time that all members can know of before it comes, nanoseconds.
    pub(crate) fn lead_ns(&self) -> u64 {
        let errors = self.members.iter().map(|member| member.clock_error_ns());
        // The error is half a round trip.
        LEAD_NS + 4 * errors.max().unwrap_or(0)
    }

    /// Waits until each connection is subscribed or has failed, or none has come up for `timeout`.
    /// Connections that are still under way then count as failed. The error is a worker's that could
    /// not run.
    pub(crate) fn wait_connected(
        &self,
        timeout: Duration,
        mut tick: impl FnMut(&Self),
    ) -> Result<(), String> {
        let (mut settled, mut changed) = (0, Instant::now());
        loop {
            let now_settled = self.counts().settled;
            if now_settled == u64::from(self.connections) {
                return Ok(());
            }
            if now_settled != settled {
                (settled, changed) = (now_settled, Instant::now());
            }
            if changed.elapsed() > timeout {
                self.order(&Order::StopConnecting);
            }
            self.check()?;
            tick(self);
            std::thread::sleep(POLL);
        }
    }

    /// Where all connections stand.
    pub(crate) fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for member in &self.members {
            all.add(&member.counts());
        }
        all
    }

    /// What all processes of the run have used until now, this one included, and their threads.
    pub(crate) fn read(&self) -> Result<Usage, String> {
        let mut all = Usage::default();
        for member in &self.members {
            all.add(member.read()?);
        }
        if self.members.iter().any(|member| member.is_remote()) {
            all.process.add(&host::read_own()?);
        }
        Ok(all)
    }

    /// Of what is due from `begin_ns` to `end_ns` the latency is measured.
    pub(crate) fn measure(&self, (from_ns, to_ns): (u64, u64)) {
        self.order(&Order::Measure { from_ns, to_ns });
    }

    /// Clients publish, on a schedule that starts at `at_ns`.
    pub(crate) fn publish_from(&self, at_ns: u64) {
        self.order(&Order::PublishFrom { at_ns });
    }

    /// Connections live as long as they are told, close and come again.
    pub(crate) fn churn(&self) {
        self.order(&Order::Churn);
    }

    /// Drops so many connections at once.
    pub(crate) fn drop_many(&self, count: u32) {
        self.order(&Order::Drop { count });
    }

    /// Clients publish no more and leave no more. How many publications each connection sent.
    pub(crate) fn quieten(&self) -> Result<Arc<[u32]>, String> {
        self.order(&Order::Quieten);
        let each = self.wait_for(|member| member.sent())?;
        Ok(each.concat().into())
    }

    /// How many deliveries there are to be in all when each connection that is there now gets what is due to
    /// it of `totals`. To be asked once.
    pub(crate) fn foretell(&self, totals: &Totals) -> Result<u64, String> {
        for member in &self.members {
            member.foretell(totals);
        }
        self.wait_for(|member| member.expected())
            .map(|each| each.iter().sum())
    }

    /// Waits until all members have their answer.
    fn wait_for<T>(&self, answer: impl Fn(&dyn Member) -> Option<T>) -> Result<Vec<T>, String> {
        let since = Instant::now();
        loop {
            let each: Option<Vec<T>> = self
                .members
                .iter()
                .map(|member| answer(&**member))
                .collect();
            if let Some(each) = each {
                return Ok(each);
            }
            self.check()?;
            if since.elapsed() > ANSWER_TIMEOUT {
                let seconds = ANSWER_TIMEOUT.as_secs();
                return Err(format!("a worker thread has not answered for {seconds} s"));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Stops the workers, which count what is lost of `totals`, and adds them up. Their connections
    /// are closed some time later, see [`Finished::join`].
    pub(crate) fn finish(self, totals: &Totals) -> Result<Finished, String> {
        for member in &self.members {
            member.stop(totals);
        }
        let processes = self.members.iter().filter_map(|member| member.describe());
        let processes: Vec<_> = processes.collect();
        let mut finished = Finished {
            tally: Tally::new(),
            clock_error_ms: clock_error_ms(&processes),
            processes,
            ended: Vec::new(),
        };
        for member in self.members {
            let (tally, ended) = member.finish()?;
            finished.tally.merge(&tally);
            finished.ended.push(ended);
        }
        Ok(finished)
    }

    fn order(&self, order: &Order) {
        for member in &self.members {
            member.order(order);
        }
    }

    /// Whether all is well; the error is of a worker that could not run.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.members.iter().try_for_each(|member| member.check())
    }
}

/// Most that two clocks may differ by: where clients publish, a publication is from one host to another.
fn clock_error_ms(processes: &[ProcessReport]) -> Option<f64> {
    let clocks = processes.iter().filter_map(|process| process.clock);
    let mut errors: Vec<_> = clocks.map(|clock| clock.error_ms).collect();
    errors.sort_by(f64::total_cmp);
    errors.iter().rev().take(2).copied().reduce(|a, b| a + b)
}

/// The parts of `count` processes: connections and source addresses, as even as they go.
fn parts(connections: u32, count: u32) -> Result<Vec<Part>, String> {
    if count == 0 || count > SOURCES.len() as u32 || connections < count {
        return Err(format!(
            "{connections} connections cannot be shared by {count} processes: there are {} at most, and \
             each needs a connection",
            SOURCES.len()
        ));
    }
    let of = |index| {
        let source = |index| SOURCES.start + boundary(SOURCES.len() as u32, count, index) as u8;
        Part {
            connections: boundary(connections, count, index)
                ..boundary(connections, count, index + 1),
            sources: source(index)..source(index + 1),
        }
    };
    Ok((0..count).map(of).collect())
}

/// What the connections need to know.
pub(crate) fn context(clients: &Clients, work: &Work) -> Context {
    Context {
        host: clients.target.to_string(),
        dialect: target::dialect(clients),
        run: work.run,
        publishers: match work.chat {
            None => Publishers::One,
            Some(_) => Publishers::Members(members_max(clients.connections, clients.rooms())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_processes_cover_all_connections_and_share_no_source() {
        for (connections, count) in [(1, 1), (7, 3), (1_000_000, 4), (250, 250)] {
            let parts = parts(connections, count).unwrap();
            assert_eq!(parts.len() as u32, count);
            let (mut next, mut source) = (0, SOURCES.start);
            for part in parts {
                assert_eq!((part.connections.start, part.sources.start), (next, source));
                assert!(!part.connections.is_empty() && !part.sources.is_empty());
                (next, source) = (part.connections.end, part.sources.end);
            }
            assert_eq!((next, source), (connections, SOURCES.end));
        }
        for (connections, count) in [(1, 2), (1_000, 0), (1_000, 251)] {
            assert!(parts(connections, count).is_err());
        }
    }
}
