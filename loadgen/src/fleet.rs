//! All workers of a run: how many, which share each has, and how they are started and stopped.

use crate::host::{self, Cpu};
use crate::options::Clients;
use crate::peer::{Context, Publishers};
use crate::rooms::{members_max, publications_of};
use crate::tally::{Interval, Tally};
use crate::target;
use crate::worker::{self, CONNECTIONS_PER_WORKER, Chat, Progress, Share, Totals};
use ringcast::driver::doorbell::Doorbells;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Workers at most: the third byte of a source address names one.
const WORKERS_MAX: u32 = 250;
/// How often the others look at the workers.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// The running workers.
#[derive(Debug)]
pub(crate) struct Fleet {
    workers: Vec<Running>,
    results: Receiver<Result<Tally, String>>,
    intervals: Option<Receiver<Interval>>,
    bells: Doorbells,
    connections: u32,
    rooms: u32,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

/// What the workers are to do, apart from where the connections go.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// Run number in the payloads.
    pub(crate) run: u16,
    /// What clients publish, if they do.
    pub(crate) chat: Option<Arc<Chat>>,
    /// Mean life of a connection, once [`Fleet::churn`] is called.
    pub(crate) life: Option<Duration>,
}

impl Fleet {
    /// Starts the workers and waits until their rings are set up. The error is of one that failed.
    pub(crate) fn start(clients: &Clients, work: &Work) -> Result<Self, String> {
        let shares = shares(clients, work, host::raise_descriptor_limit())?;
        let bells = Doorbells::for_rings(shares.len() as u16)
            .map_err(|error| format!("eventfd: {error}"))?;
        let mut workers = Vec::with_capacity(shares.len());
        let (to_results, results) = channel();
        let (to_intervals, intervals) = channel();
        for share in shares {
            let progress = Arc::new(Progress::default());
            let (theirs, bells) = (Arc::clone(&progress), bells.clone());
            let (to_results, to_intervals) = (to_results.clone(), to_intervals.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{}", share.worker))
                .spawn(move || worker::run(share, &theirs, bells, to_intervals, &to_results))
                .map_err(|error| format!("thread: {error}"))?;
            workers.push(Running { progress, thread });
        }
        let fleet = Self {
            workers,
            results,
            intervals: Some(intervals),
            bells,
            connections: clients.connections,
            rooms: clients.rooms(),
        };
        while fleet
            .workers
            .iter()
            .any(|worker| worker.progress.tid.load(Relaxed) == 0)
        {
            fleet.check_alive()?;
            std::thread::sleep(POLL);
        }
        Ok(fleet)
    }

    /// What the workers count in each second; to be taken once.
    pub(crate) fn take_intervals(&mut self) -> Receiver<Interval> {
        self.intervals.take().unwrap_or_else(|| channel().1)
    }

    /// Lets the workers connect.
    pub(crate) fn begin(&self) {
        for worker in &self.workers {
            worker.progress.start.store(true, Release);
            worker.thread.thread().unpark();
        }
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
            let now_settled = self.sum(|progress| u64::from(progress.settled.load(Relaxed)));
            if now_settled == u64::from(self.connections) {
                return Ok(());
            }
            if now_settled != settled {
                (settled, changed) = (now_settled, Instant::now());
            }
            if changed.elapsed() > timeout {
                self.order(|progress| progress.stop_connecting.store(true, Relaxed));
            }
            self.check_alive()?;
            tick(self);
            std::thread::sleep(POLL);
        }
    }

    /// Connections whose subscribe was confirmed for the first time.
    pub(crate) fn subscribed(&self) -> u64 {
        self.sum(|progress| u64::from(progress.subscribed.load(Relaxed)))
    }

    /// Connections that are subscribed now.
    pub(crate) fn there(&self) -> u64 {
        self.sum(|progress| u64::from(progress.there.load(Relaxed)))
    }

    /// Connections that failed at any time.
    pub(crate) fn failed(&self) -> u64 {
        self.sum(|progress| u64::from(progress.failed.load(Relaxed)))
    }

    /// Connections that were subscribed again after they had dropped.
    pub(crate) fn back(&self) -> u64 {
        self.sum(|progress| progress.back.load(Relaxed))
    }

    /// Connections that were dropped on purpose.
    pub(crate) fn dropped(&self) -> u64 {
        self.sum(|progress| progress.dropped.load(Relaxed))
    }

    /// Publications delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.sum(|progress| progress.delivered.load(Relaxed))
    }

    /// Publications sent by clients.
    pub(crate) fn published(&self) -> u64 {
        self.sum(|progress| progress.published.load(Relaxed))
    }

    /// CPU time of each worker until now.
    pub(crate) fn cpu(&self) -> Vec<Cpu> {
        let tids = self
            .workers
            .iter()
            .map(|worker| worker.progress.tid.load(Relaxed));
        tids.map(|tid| host::read_thread(tid).unwrap_or_default())
            .collect()
    }

    /// Of what is due from `begin_ns` to `end_ns` the latency is measured.
    pub(crate) fn measure(&self, (begin_ns, end_ns): (u64, u64)) {
        self.order(|progress| {
            progress.steady_from_ns.store(begin_ns, Relaxed);
            // Pairs with the worker's acquire load: it sees the beginning.
            progress.steady_to_ns.store(end_ns, Release);
        });
    }

    /// Clients publish, on a schedule that starts at `start_ns`.
    pub(crate) fn publish_from(&self, start_ns: u64) {
        self.order(|progress| progress.publish_from_ns.store(start_ns, Relaxed));
    }

    /// Connections live as long as they are told, close and come again.
    pub(crate) fn churn(&self) {
        self.order(|progress| progress.churn.store(true, Relaxed));
    }

    /// Drops so many connections of a thousand at once.
    pub(crate) fn drop_many(&self, permille: u32) {
        self.order(|progress| progress.drop_permille.store(permille, Relaxed));
    }

    /// Clients publish no more and leave no more. How many publications each connection sent.
    pub(crate) fn quieten(&self) -> Result<Arc<[u32]>, String> {
        self.order(|progress| progress.quiet.store(true, Relaxed));
        let mut all = Vec::with_capacity(self.connections as usize);
        for worker in &self.workers {
            loop {
                if let Some(sent) = worker.progress.sent.get() {
                    all.extend_from_slice(sent);
                    break;
                }
                self.check_alive()?;
                std::thread::sleep(POLL);
            }
        }
        Ok(all.into())
    }

    /// Deliveries that `published` publications to the rooms in turn lead to, when all members are there;
    /// to all who are there, when some are not.
    pub(crate) fn expected_in_turn(&self, published: u64) -> u64 {
        let there = self.subscribed();
        if there < u64::from(self.connections) {
            return there * (published / u64::from(self.rooms));
        }
        let rooms = self.rooms;
        let of = |room: u32| {
            let members = (self.connections.saturating_sub(room)).div_ceil(rooms);
            u64::from(members) * u64::from(publications_of(room, rooms, published))
        };
        (0..rooms).map(of).sum()
    }

    /// Deliveries that `sent` has to lead to, when all members are there.
    pub(crate) fn expected(&self, sent: &[u32]) -> u64 {
        let members = |room: u32| (self.connections - room).div_ceil(self.rooms);
        (0..)
            .zip(sent)
            .map(|(connection, sent)| {
                u64::from(*sent) * u64::from(members(connection % self.rooms))
            })
            .sum()
    }

    /// Stops the workers, which count what is lost of `totals`, and adds them up. Their connections
    /// are closed some time later, see [`Ended::join`].
    pub(crate) fn finish(self, totals: &Totals) -> Result<(Tally, Ended), String> {
        self.order(|progress| {
            // Set once only: nobody else ends a fleet.
            let _ = progress.totals.set(totals.clone());
            // Pairs with the worker's acquire load: it sees `totals`.
            progress.stop.store(true, Release);
        });
        let mut all = Tally::new();
        for _ in &self.workers {
            all.merge(&self.results.recv().map_err(|_| PANICKED.to_owned())??);
        }
        Ok((all, Ended(self.workers)))
    }

    fn order(&self, give: impl Fn(&Progress)) {
        for (node, worker) in self.workers.iter().enumerate() {
            give(&worker.progress);
            // A ring that cannot be rung looks at its orders at its next tick.
            let _ = self.bells.ring(node as u16);
        }
    }

    fn sum(&self, count: impl Fn(&Progress) -> u64) -> u64 {
        self.workers
            .iter()
            .map(|worker| count(&worker.progress))
            .sum()
    }

    /// Workers end by themselves only when they cannot run.
    pub(crate) fn check_alive(&self) -> Result<(), String> {
        match self
            .workers
            .iter()
            .any(|worker| worker.thread.is_finished())
        {
            false => Ok(()),
            true => match self.results.try_recv() {
                Ok(Err(error)) => Err(error),
                _ => Err(PANICKED.to_owned()),
            },
        }
    }
}

const PANICKED: &str = "a worker panicked";

/// Workers that have counted and are closing their connections.
#[derive(Debug)]
pub(crate) struct Ended(Vec<Running>);

impl Ended {
    /// Waits until all connections are closed.
    pub(crate) fn join(self) {
        for worker in self.0 {
            // Its result is there already.
            let _ = worker.thread.join();
        }
    }
}

/// Each worker's share of the connections, given the descriptor limit, which bounds a ring's table.
fn shares(clients: &Clients, work: &Work, descriptors: u64) -> Result<Vec<Share>, String> {
    let all_cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<_> = match clients.cores.as_slice() {
        [] => all_cores,
        list => list
            .iter()
            .map(|id| core_affinity::CoreId { id: *id })
            .collect(),
    };
    let per_worker = u64::from(CONNECTIONS_PER_WORKER).min(descriptors).max(1) as u32;
    let needed = clients.connections.div_ceil(per_worker);
    let workers = clients
        .workers
        .unwrap_or_else(|| needed.max(cores.len() as u32));
    let workers = workers.clamp(1, clients.connections);
    let per_worker = clients.connections.div_ceil(workers);
    if workers > WORKERS_MAX || u64::from(per_worker) > descriptors {
        return Err(format!(
            "{} connections need {needed} workers (at most {WORKERS_MAX}) with a descriptor limit of \
             {descriptors} each: raise it with `ulimit -n`, or ask for fewer connections",
            clients.connections
        ));
    }
    let is_loopback = clients.target.ip().is_loopback();
    let source_base = clients
        .source_base
        .or_else(|| is_loopback.then_some(Ipv4Addr::new(127, 0, 0, 0)));
    let context = Arc::new(context(clients, work));
    let share = |worker: u32| Share {
        worker: worker as u16,
        core: (!cores.is_empty()).then(|| cores[worker as usize % cores.len()]),
        connections: boundary(clients.connections, workers, worker)
            ..boundary(clients.connections, workers, worker + 1),
        all_connections: clients.connections,
        rooms: clients.rooms(),
        crowd: clients.crowd,
        target: clients.target,
        source_base,
        in_flight_max: clients.in_flight,
        ramp_ns: clients.ramp.as_nanos() as u64,
        life_ns: work.life.map(|life| life.as_nanos() as u64),
        chat: work.chat.clone(),
        context: Arc::clone(&context),
    };
    Ok((0..workers).map(share).collect())
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

/// The first connection of a worker: shares differ by one at most.
fn boundary(connections: u32, workers: u32, worker: u32) -> u32 {
    (u64::from(connections) * u64::from(worker) / u64::from(workers)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    const WORK: Work = Work {
        run: 0,
        chat: None,
        life: None,
    };

    fn clients(arguments: &[&str]) -> Clients {
        let all = ["loadgen", "idle"].iter().chain(arguments);
        match Options::parse_from(all).command {
            Command::Idle(idle) => idle.clients,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_connection_is_in_one_share_and_no_table_is_too_large() {
        for connections in ["1", "7", "20000", "50000", "1000000"] {
            let clients = clients(&["--connections", connections]);
            let shares = shares(&clients, &WORK, 20_000).unwrap();
            let mut next = 0;
            for share in &shares {
                assert_eq!(share.connections.start, next);
                next = share.connections.end;
                assert!((1..=CONNECTIONS_PER_WORKER).contains(&(share.connections.len() as u32)));
            }
            assert_eq!(next, clients.connections);
        }
    }

    #[test]
    fn a_low_descriptor_limit_means_more_workers_or_a_clear_refusal() {
        let wanted = clients(&["--connections", "50000"]);
        assert_eq!(shares(&wanted, &WORK, 1_024).unwrap().len(), 49);
        let too_many = clients(&["--connections", "500000"]);
        assert!(
            shares(&too_many, &WORK, 1_024)
                .unwrap_err()
                .contains("ulimit")
        );
        let fixed = clients(&["--connections", "50000", "--workers", "2"]);
        assert!(shares(&fixed, &WORK, 20_000).is_err());
        assert_eq!(shares(&fixed, &WORK, 30_000).unwrap().len(), 2);
    }

    #[test]
    fn only_loopback_targets_have_chosen_sources() {
        let source =
            |arguments: &[&str]| shares(&clients(arguments), &WORK, 20_000).unwrap()[0].source_base;
        assert_eq!(source(&[]), Some(Ipv4Addr::new(127, 0, 0, 0)));
        assert_eq!(source(&["--target", "10.0.0.1:80"]), None);
        let chosen = source(&["--target", "10.0.0.1:80", "--source-base", "10.1.0.0"]);
        assert_eq!(chosen, Some(Ipv4Addr::new(10, 1, 0, 0)));
    }
}
