//! All workers of a run: how many, which share each has, and how they are started and stopped.

use crate::host::{self, Cpu};
use crate::options::Clients;
use crate::peer::Context;
use crate::tally::Tally;
use crate::worker::{self, CONNECTIONS_PER_WORKER, Progress, Share};
use ringcast::driver::doorbell::Doorbells;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
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
    bells: Doorbells,
    connections: u32,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    thread: JoinHandle<Result<Tally, String>>,
}

impl Fleet {
    /// Starts the workers and waits until their rings are set up. The error is of one that failed.
    pub(crate) fn start(clients: &Clients, run: u16) -> Result<Self, String> {
        let shares = shares(clients, run, host::raise_descriptor_limit())?;
        let bells = Doorbells::for_rings(shares.len() as u16)
            .map_err(|error| format!("eventfd: {error}"))?;
        let mut workers = Vec::with_capacity(shares.len());
        for share in shares {
            let progress = Arc::new(Progress::default());
            let (theirs, bells) = (Arc::clone(&progress), bells.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{}", share.worker))
                .spawn(move || worker::run(share, &theirs, bells))
                .map_err(|error| format!("thread: {error}"))?;
            workers.push(Running { progress, thread });
        }
        let mut fleet = Self {
            workers,
            bells,
            connections: clients.connections,
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
        &mut self,
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

    /// Connections whose subscribe was confirmed.
    pub(crate) fn subscribed(&self) -> u64 {
        self.sum(|progress| u64::from(progress.subscribed.load(Relaxed)))
    }

    /// Connections that failed at any time.
    pub(crate) fn failed(&self) -> u64 {
        self.sum(|progress| u64::from(progress.failed.load(Relaxed)))
    }

    /// Publications delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.sum(|progress| progress.delivered.load(Relaxed))
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

    /// Stops the workers, which count what is lost of `published` publications, and adds them up.
    pub(crate) fn finish(self, published: u64) -> Result<Tally, String> {
        self.order(|progress| {
            progress.published.store(published, Relaxed);
            // Pairs with the worker's acquire load: it sees `published`.
            progress.stop.store(true, Release);
        });
        let mut all = Tally::new();
        for worker in self.workers {
            all.merge(
                &worker
                    .thread
                    .join()
                    .map_err(|_| "a worker panicked".to_owned())??,
            );
        }
        Ok(all)
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
    fn check_alive(&mut self) -> Result<(), String> {
        let ended = self
            .workers
            .iter()
            .position(|worker| worker.thread.is_finished());
        match ended.map(|index| self.workers.remove(index).thread.join()) {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err("a worker panicked".to_owned()),
        }
    }
}

/// Each worker's share of the connections, given the descriptor limit, which bounds a ring's table.
fn shares(clients: &Clients, run: u16, descriptors: u64) -> Result<Vec<Share>, String> {
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
    let context = Arc::new(Context {
        host: clients.target.to_string(),
        path: clients.path.clone(),
        run,
    });
    let share = |worker: u32| Share {
        worker: worker as u16,
        core: (!cores.is_empty()).then(|| cores[worker as usize % cores.len()]),
        connections: boundary(clients.connections, workers, worker)
            ..boundary(clients.connections, workers, worker + 1),
        rooms: clients.rooms,
        crowd: clients.crowd,
        target: clients.target,
        source_base,
        in_flight_max: clients.in_flight,
        context: Arc::clone(&context),
    };
    Ok((0..workers).map(share).collect())
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
            let shares = shares(&clients, 0, 20_000).unwrap();
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
        assert_eq!(shares(&wanted, 0, 1_024).unwrap().len(), 49);
        let too_many = clients(&["--connections", "500000"]);
        assert!(shares(&too_many, 0, 1_024).unwrap_err().contains("ulimit"));
        let fixed = clients(&["--connections", "50000", "--workers", "2"]);
        assert!(shares(&fixed, 0, 20_000).is_err());
        assert_eq!(shares(&fixed, 0, 30_000).unwrap().len(), 2);
    }

    #[test]
    fn only_loopback_targets_have_chosen_sources() {
        let source =
            |arguments: &[&str]| shares(&clients(arguments), 0, 20_000).unwrap()[0].source_base;
        assert_eq!(source(&[]), Some(Ipv4Addr::new(127, 0, 0, 0)));
        assert_eq!(source(&["--target", "10.0.0.1:80"]), None);
        let chosen = source(&["--target", "10.0.0.1:80", "--source-base", "10.1.0.0"]);
        assert_eq!(chosen, Some(Ipv4Addr::new(10, 1, 0, 0)));
    }
}
