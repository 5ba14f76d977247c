//! The worker threads of one process: how many, which share each has, and how they are started and stopped.

use super::message::{Counts, Order, Usage};
use super::{Ended, Member, POLL, Part, Work, context};
use crate::clock;
use crate::host;
use crate::options::Clients;
use crate::source::{AddressRange, Sources, check_ports};
use crate::tally::{Interval, Tally};
use crate::worker::{self, CONNECTIONS_PER_WORKER, Progress, Share, Totals};
use ringcast::driver::doorbell::Doorbells;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The running threads.
pub(crate) struct Threads {
    workers: Vec<Running>,
    results: Receiver<Result<Tally, String>>,
    bells: Doorbells,
}

struct Running {
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

impl Threads {
    /// Starts the workers of a part of the run and waits until their rings are set up. What they count
    /// in each second goes to `intervals`. The error is of one that failed.
    pub(crate) fn start(
        clients: &Clients,
        work: &Work,
        part: &Part,
        intervals: &Sender<Interval>,
    ) -> Result<Self, String> {
        let shares = shares(clients, work, part, host::raise_descriptor_limit())?;
        let bells = Doorbells::for_rings(shares.len() as u16)
            .map_err(|error| format!("eventfd: {error}"))?;
        let mut workers = Vec::with_capacity(shares.len());
        let (to_results, results) = channel();
        for share in shares {
            let progress = Arc::new(Progress::default());
            let (theirs, bells) = (Arc::clone(&progress), bells.clone());
            let (to_results, to_intervals) = (to_results.clone(), intervals.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{}", share.worker))
                .spawn(move || worker::run(share, &theirs, bells, to_intervals, &to_results))
                .map_err(|error| format!("thread: {error}"))?;
            workers.push(Running { progress, thread });
        }
        let threads = Self {
            workers,
            results,
            bells,
        };
        while threads
            .workers
            .iter()
            .any(|worker| worker.progress.tid.load(Relaxed) == 0)
        {
            threads.check()?;
            std::thread::sleep(POLL);
        }
        Ok(threads)
    }

    /// Has every worker do what `give` leaves with it.
    fn tell(&self, give: impl Fn(&Progress)) {
        for (node, worker) in self.workers.iter().enumerate() {
            give(&worker.progress);
            // A ring that cannot be rung looks at its orders at its next tick.
            let _ = self.bells.ring(node as u16);
        }
    }
}

impl Member for Threads {
    fn order(&self, order: &Order) {
        match *order {
            Order::Begin { at_ns } => {
                clock::sleep_until(at_ns);
                for worker in &self.workers {
                    worker.progress.start.store(true, Release);
                    worker.thread.thread().unpark();
                }
            }
            Order::StopConnecting => {
                self.tell(|progress| progress.stop_connecting.store(true, Relaxed));
            }
            Order::Measure { from_ns, to_ns } => self.tell(|progress| {
                progress.steady_from_ns.store(from_ns, Relaxed);
                // Pairs with the worker's acquire load: it sees the beginning.
                progress.steady_to_ns.store(to_ns, Release);
            }),
            Order::PublishFrom { at_ns } => {
                self.tell(|progress| progress.publish_from_ns.store(at_ns, Relaxed));
            }
            Order::Churn => self.tell(|progress| progress.churn.store(true, Relaxed)),
            Order::Drop { count } => {
                self.tell(|progress| progress.drop_count.store(count, Relaxed));
            }
            Order::Quieten => self.tell(|progress| progress.quiet.store(true, Relaxed)),
        }
    }

    fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for Running { progress, .. } in &self.workers {
            all.add(&Counts {
                subscribed: progress.subscribed.load(Relaxed).into(),
                settled: progress.settled.load(Relaxed).into(),
                there: progress.there.load(Relaxed).into(),
                failed: progress.failed.load(Relaxed).into(),
                back: progress.back.load(Relaxed),
                dropped: progress.dropped.load(Relaxed),
                delivered: progress.delivered.load(Relaxed),
                published: progress.published.load(Relaxed),
                latency_ns_max: progress.latency_ns_max.load(Relaxed),
            });
        }
        all
    }

    fn read(&self) -> Result<Usage, String> {
        let tids = self
            .workers
            .iter()
            .map(|worker| worker.progress.tid.load(Relaxed));
        Ok(Usage {
            process: host::read_own()?,
            threads: tids
                .map(|tid| host::read_thread(tid).unwrap_or_default())
                .collect(),
        })
    }

    fn sent(&self) -> Option<Vec<u32>> {
        let each = self.workers.iter().map(|worker| worker.progress.sent.get());
        let each: Option<Vec<&Vec<u32>>> = each.collect();
        Some(each?.into_iter().flatten().copied().collect())
    }

    fn foretell(&self, totals: &Totals) {
        self.tell(|progress| {
            // Asked once in a run.
            let _ = progress.foretell.set(totals.clone());
        });
    }

    fn expected(&self) -> Option<u64> {
        let each = self.workers.iter();
        each.map(|worker| worker.progress.expected.get()).sum()
    }

    /// Workers end by themselves only when they cannot run.
    fn check(&self) -> Result<(), String> {
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

    fn stop(&self, totals: &Totals) {
        self.tell(|progress| {
            // Set once only: nobody else ends a fleet.
            let _ = progress.totals.set(totals.clone());
            // Pairs with the worker's acquire load: it sees `totals`.
            progress.stop.store(true, Release);
        });
        // Those that have not begun are still parked.
        for worker in &self.workers {
            worker.thread.thread().unpark();
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(Tally, Box<dyn Ended>), String> {
        let mut all = Tally::new();
        for _ in &self.workers {
            all.merge(&self.results.recv().map_err(|_| PANICKED.to_owned())??);
        }
        Ok((all, Box::new(Closing(std::mem::take(&mut self.workers)))))
    }
}

/// Threads of a run that was broken off end too.
impl Drop for Threads {
    fn drop(&mut self) {
        self.stop(&Totals::nothing());
    }
}

const PANICKED: &str = "a worker panicked";

/// Workers that have counted and are closing their connections.
struct Closing(Vec<Running>);

impl Ended for Closing {
    fn join(self: Box<Self>) {
        for worker in self.0 {
            // Its result is there already.
            let _ = worker.thread.join();
        }
    }
}

/// Each worker's share of the connections, given the descriptor limit, which bounds a ring's table.
fn shares(
    clients: &Clients,
    work: &Work,
    part: &Part,
    descriptors: u64,
) -> Result<Vec<Share>, String> {
    let all_cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<_> = match clients.cores.as_slice() {
        [] => all_cores,
        list => list
            .iter()
            .map(|id| core_affinity::CoreId { id: *id })
            .collect(),
    };
    let connections = part.connections.len() as u32;
    let per_worker = u64::from(CONNECTIONS_PER_WORKER).min(descriptors).max(1) as u32;
    let needed = connections.div_ceil(per_worker);
    let workers_max = part.sources.len() as u32;
    let workers = clients
        .threads
        .unwrap_or_else(|| needed.max(workers_max.min(cores.len() as u32)));
    let workers = workers.clamp(1, connections);
    let per_worker = connections.div_ceil(workers);
    if workers > workers_max || u64::from(per_worker) > descriptors {
        return Err(format!(
            "{connections} connections need {needed} threads (at most {workers_max}) with a descriptor \
             limit of {descriptors} each: raise it with `ulimit -n`, or ask for fewer connections"
        ));
    }
    let given = AddressRange::addresses(&clients.source);
    check_ports(
        connections,
        &clients.source,
        clients.target,
        host::local_ports(),
    )?;
    let sources = |worker: u32| match (given.is_empty(), clients.target.ip().is_loopback()) {
        (false, _) => Sources::Given(Arc::clone(&given)),
        (true, true) => Sources::Loopback(part.sources.start + worker as u8),
        (true, false) => Sources::Kernel,
    };
    let context = Arc::new(context(clients, work));
    let boundary = |worker| part.connections.start + boundary(connections, workers, worker);
    let share = |worker: u32| Share {
        worker: worker as u16,
        sources: sources(worker),
        core: (!cores.is_empty()).then(|| cores[worker as usize % cores.len()]),
        connections: boundary(worker)..boundary(worker + 1),
        all_connections: clients.connections,
        rooms: clients.rooms(),
        crowd: clients.crowd,
        target: clients.target,
        in_flight_max: clients.in_flight,
        ramp_ns: clients.ramp.as_nanos() as u64,
        life_ns: work.life.map(|life| life.as_nanos() as u64),
        chat: work.chat.clone(),
        context: Arc::clone(&context),
    };
    Ok((0..workers).map(share).collect())
}

/// The first connection of a worker: shares differ by one at most.
pub(super) fn boundary(connections: u32, workers: u32, worker: u32) -> u32 {
    (u64::from(connections) * u64::from(worker) / u64::from(workers)) as u32
}

#[cfg(test)]
mod tests {
    use super::super::SOURCES;
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    const WORK: Work = Work {
        run: 0,
        chat: None,
        life: None,
    };

    fn all(clients: &Clients) -> Part {
        Part {
            connections: 0..clients.connections,
            sources: SOURCES,
        }
    }

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
            let shares = shares(&clients, &WORK, &all(&clients), 20_000).unwrap();
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
        assert_eq!(
            shares(&wanted, &WORK, &all(&wanted), 1_024).unwrap().len(),
            49
        );
        let too_many = clients(&["--connections", "500000"]);
        assert!(
            shares(&too_many, &WORK, &all(&too_many), 1_024)
                .unwrap_err()
                .contains("ulimit")
        );
        let fixed = clients(&["--connections", "50000", "--threads", "2"]);
        assert!(shares(&fixed, &WORK, &all(&fixed), 20_000).is_err());
        assert_eq!(
            shares(&fixed, &WORK, &all(&fixed), 30_000).unwrap().len(),
            2
        );
    }

    #[test]
    fn only_loopback_targets_have_chosen_sources() {
        let source = |arguments: &[&str]| {
            let clients = clients(arguments);
            let shares = shares(&clients, &WORK, &all(&clients), 20_000);
            shares.map(|shares| shares[0].sources.clone())
        };
        assert_eq!(source(&[]), Ok(Sources::Loopback(1)));
        assert_eq!(source(&["--target", "10.0.0.1:80"]), Ok(Sources::Kernel));
        let chosen = source(&["--target", "10.0.0.1:80", "--source", "10.1.0.1-2"]);
        assert!(matches!(chosen, Ok(Sources::Given(all)) if all.len() == 2));
        let crowded = ["--target", "10.0.0.1:80", "--connections", "100000"];
        assert!(source(&crowded).unwrap_err().contains("--source"));
    }
}
