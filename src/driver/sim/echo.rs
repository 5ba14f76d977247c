//! An echo server on [`Sockets`] that must survive the simulated kernel, whatever the seed.

use super::tests::{SECOND_NS, payload};
use super::*;
use crate::base::ConnId;
use crate::base::chunk::Chunk;
use crate::driver::sockets::{Event, Sockets};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What the server still has to do for one connection.
#[derive(Default)]
struct Echo {
    pending: Vec<u8>,
    ended: bool,
}

struct Server {
    sockets: Sockets<Sim>,
    echoes: BTreeMap<(u32, u32), (ConnId, Echo)>,
    /// Loans that the server keeps for some turns, so that buffers run out.
    kept: VecDeque<Loan>,
    draining: bool,
    enobufs: u64,
}

impl Server {
    fn new(sim: Sim) -> Self {
        let mut sockets = Sockets::new(sim);
        sockets.start_accepting();
        Self {
            sockets,
            echoes: BTreeMap::new(),
            kept: VecDeque::new(),
            draining: false,
            enobufs: 0,
        }
    }

    fn turn(&mut self) {
        while let Some(event) = self.sockets.next_event() {
            self.handle(event);
        }
        let world = self.sockets.driver_mut().world().clone();
        while !self.kept.is_empty() && (world.random(2) == 0 || self.draining) {
            let loan = self.kept.pop_front().unwrap();
            self.sockets.recycle(loan);
        }
        let conns: Vec<ConnId> = self.echoes.values().map(|(conn, _)| *conn).collect();
        for conn in conns {
            self.flush(conn);
        }
        self.sockets.submit(match world.random(3) {
            0 => Wait::No,
            _ => Wait::UpTo(Duration::from_millis(10)),
        });
        self.enobufs = self.sockets.counts().0.enobufs;
        self.sockets.driver_mut().invariants();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { conn, .. } => {
                let echo = (conn, Echo::default());
                let before = self.echoes.insert((conn.slot, conn.generation), echo);
                assert!(before.is_none());
            }
            Event::Received { conn, loan } => {
                let bytes = self.sockets.bytes(&loan).to_vec();
                self.echo(conn).pending.extend(bytes);
                self.kept.push_back(loan);
            }
            Event::Ended { conn, errno } => {
                self.echo(conn).ended = true;
                if errno.is_some() {
                    self.sockets.close(conn);
                }
            }
            Event::SendFailed { conn, .. } => self.sockets.close(conn),
            Event::Closed { conn } => {
                let gone = self.echoes.remove(&(conn.slot, conn.generation));
                assert!(gone.is_some());
            }
            Event::Sent { .. } | Event::Bell => {}
            other => panic!("an echo server does not connect: {other:?}"),
        }
    }

    fn flush(&mut self, conn: ConnId) {
        if self.draining {
            return self.sockets.close(conn);
        }
        if !self.sockets.is_idle(conn) {
            return;
        }
        let echo = self.echo(conn);
        if echo.pending.is_empty() {
            if echo.ended {
                self.sockets.close(conn);
            }
            return;
        }
        let bytes = std::mem::take(&mut echo.pending);
        let payload = if bytes.len().is_multiple_of(2) {
            payload(&bytes)
        } else {
            let (chunk, middle) = (Chunk::new(bytes.len()), bytes.len() / 2);
            chunk.append(&bytes);
            let mut parts = self.sockets.spare_parts();
            parts.push(Part::new(&chunk, 0, middle));
            parts.push(Part::new(&chunk, middle, bytes.len()));
            Payload::Many(parts)
        };
        self.sockets.send(conn, payload);
    }

    fn echo(&mut self, conn: ConnId) -> &mut Echo {
        let entry = self.echoes.get_mut(&(conn.slot, conn.generation));
        &mut entry.expect("events name live connections").1
    }
}

/// A client of the echo server: what it wrote, what came back, what it does next.
struct Caller {
    client: Client,
    wrote: Vec<u8>,
    read: Vec<u8>,
    left: usize,
    vanished: bool,
    was_reset: bool,
}

impl Caller {
    fn new(world: &World) -> Self {
        Self {
            client: world.connect(0),
            wrote: Vec::new(),
            read: Vec::new(),
            left: 1 + world.random(3_000) as usize,
            vanished: false,
            was_reset: false,
        }
    }

    fn act(&mut self, world: &World, gentle: bool) {
        match world.random(60) {
            0..5 if self.left > 0 && !self.client.is_finished() => {
                let count = self.left.min(1 + world.random(400) as usize);
                let bytes: Vec<u8> = (0..count).map(|_| world.random(256) as u8).collect();
                self.client.write(&bytes);
                self.wrote.extend(bytes);
                self.left -= count;
                if self.left == 0 {
                    self.client.close();
                }
            }
            5 => self.client.stop_reading(),
            6..10 => self.client.resume_reading(),
            10 if !gentle && world.random(20) == 0 => {
                self.client.vanish();
                self.vanished = true;
            }
            11 if !gentle && world.random(20) == 0 => {
                self.client.reset();
                self.was_reset = true;
            }
            _ => {}
        }
        if self.client.end() == Some(End::Finished) {
            assert!(self.client.is_finished(), "the server ends no stream first");
        }
        self.check();
    }

    fn check(&mut self) {
        self.read.extend(self.client.read());
        assert!(
            self.wrote.starts_with(&self.read),
            "an echo is what was written"
        );
    }

    fn is_done(&self) -> bool {
        self.client.end().is_some() || self.vanished
    }
}

struct Outcome {
    trace: u64,
    finished: usize,
    reset: usize,
    enobufs: u64,
}

fn echo(seed: u64, faults: Faults, gentle: bool) -> Outcome {
    let world = World::new(seed, faults);
    let mut server = Server::new(world.sim(SimSetup {
        slots: 8,
        ..SimSetup::default()
    }));
    // Callers come one by one, so that slots are reused, and in chaos more of them than slots.
    let (mut to_come, at_once) = if gentle { (0, 6) } else { (20, 10) };
    let mut callers: Vec<Caller> = (0..if gentle { 6 } else { 1 })
        .map(|_| Caller::new(&world))
        .collect();
    let deadline_ns = world.now_ns() + 60 * SECOND_NS;
    while to_come > 0 || !callers.iter().all(Caller::is_done) {
        assert!(
            world.now_ns() < deadline_ns,
            "seed {seed}: a caller waits for ever"
        );
        match world.step() {
            Step::Turn(_) => server.turn(),
            Step::Waited => {}
            Step::Idle => panic!("a server that sleeps ten milliseconds always wakes"),
        }
        let waiting = callers.iter().filter(|caller| !caller.is_done()).count();
        if to_come > 0 && waiting < at_once && world.random(4) == 0 {
            to_come -= 1;
            callers.push(Caller::new(&world));
        }
        let who = world.random(callers.len() as u64) as usize;
        callers[who].act(&world, gentle);
    }
    // Connections of clients that vanished never end by themselves.
    server.draining = true;
    server.sockets.stop_accepting();
    let drained_ns = world.now_ns() + 5 * SECOND_NS;
    while world.now_ns() < drained_ns {
        if let Step::Turn(_) = world.step() {
            server.turn();
        }
    }
    callers.iter_mut().for_each(Caller::check);
    for caller in &callers {
        let broke =
            caller.vanished || caller.was_reset || caller.client.end() != Some(End::Finished);
        assert!(
            !gentle || !broke,
            "seed {seed}: a connection broke without a fault"
        );
        if !broke && caller.left == 0 {
            assert!(
                caller.read == caller.wrote,
                "seed {seed}: a finished echo is whole"
            );
        }
    }
    assert_eq!(server.sockets.open(), 0, "seed {seed}");
    assert_eq!(server.sockets.driver_mut().occupied(), 0, "seed {seed}");
    assert!(
        server.sockets.driver_mut().buffers_are_home(),
        "seed {seed}"
    );
    assert_eq!(server.sockets.counts().0.stale, 0, "seed {seed}");
    let ends = |end| {
        callers
            .iter()
            .filter(|c| c.client.end() == Some(end))
            .count()
    };
    Outcome {
        trace: world.trace(),
        finished: ends(End::Finished),
        reset: ends(End::Reset),
        enobufs: server.enobufs,
    }
}

#[test]
fn an_echo_server_loses_no_byte_however_operations_are_delayed_and_reordered() {
    for seed in 0..200 {
        let outcome = echo(seed, Faults::unordered(), true);
        assert_eq!(outcome.finished, 6, "seed {seed}");
    }
}

#[test]
fn an_echo_server_survives_five_hundred_seeds_of_chaos() {
    let (mut finished, mut reset, mut enobufs) = (0, 0, 0);
    for seed in 0..500 {
        let outcome = echo(seed, Faults::chaotic(), false);
        finished += outcome.finished;
        reset += outcome.reset;
        enobufs += outcome.enobufs;
    }
    // Chaos that never breaks anything, or breaks everything, tests nothing.
    assert!(
        finished > 500 && reset > 500 && enobufs > 500,
        "{finished} {reset} {enobufs}"
    );
}

#[test]
fn the_same_seed_makes_the_same_run_and_another_seed_another() {
    let trace = |seed| echo(seed, Faults::chaotic(), false).trace;
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed));
        assert_ne!(trace(seed), trace(seed + 1));
    }
}
