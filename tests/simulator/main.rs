//! Shards, rooms and clients in one thread on a simulated kernel, with faults and virtual time.
//!
//! `cargo test --test simulator` runs the seeds that CI runs; `-- --seeds N` runs as many from 0 on,
//! `-- --seed N` replays one, which is what a failure asks for. Each seed makes a world: shards,
//! rooms, clients that read, stall, leave, vanish or reset, and a publisher in the place of the
//! service thread. Clients that lose their connection come back with their positions and recover;
//! some take deltas, some joins and leaves, some by their tags only every third publication. Checked in every turn: the invariants of shards and
//! kernel. Checked of every client, always: each room's publications arrive in offset order without
//! gap or duplicate, over reconnects too unless the server says that it could not recover, the
//! same publication at the same offset for everybody, in their publisher's order. Checked at the
//! end: who was well has everything or was told, acknowledgements were in order, and when all have
//! gone nothing is left.

mod user;

use ringcast::access::{ChannelOptions, Namespaces};
use ringcast::base::stats::Stats;
use ringcast::base::{Content, NodeId, Offset, RoomHasher};
use ringcast::driver::sim::{Client, Faults, Sim, SimSetup, Step, World};
use ringcast::limits;
use ringcast::mesh::{self, Delivery, Port, Publish, ReplyTo, Request};
use ringcast::shard::settings::Settings;
use ringcast::shard::{Shard, Turn};
use ringcast::wire::client::flat;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use user::{Tastes, User};

/// Seeds of a run without arguments.
const SEEDS: u64 = 1_000;
const ROOMS: u64 = 5;
const CLIENTS: usize = 14;
const ACTIONS: u64 = 400;
/// Publications are of these many kinds in turn, as their tag says.
const KINDS: u64 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        Some(
            arguments
                .get(at + 1)?
                .parse::<u64>()
                .expect("a number follows the flag"),
        )
    };
    let seeds = match number("--seed") {
        Some(seed) => seed..seed + 1,
        None => 0..number("--seeds").unwrap_or(SEEDS),
    };
    let (mut passed, mut failed, mut totals) = (0, 0, Totals::default());
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(run) => {
                totals.add(&run);
                passed += 1;
            }
            Err(_) => {
                println!(
                    "seed {seed} failed; replay: cargo test --test simulator -- --seed {seed}"
                );
                failed += 1;
            }
        }
    }
    println!("{totals:?}");
    println!("{passed} passed, {failed} failed");
    // A run in which nothing happened proves nothing.
    let happened = [
        totals.received,
        totals.closed_slow,
        totals.insufficient,
        totals.enobufs,
        totals.recovered,
        totals.unrecovered,
        totals.deltas,
        totals.memberships,
        totals.filtered,
    ];
    let idle = passed > 100 && happened.contains(&0);
    assert!(!idle, "the worlds were too quiet to prove anything");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What happened, to see that the runs are not empty.
#[derive(Debug, Default)]
struct Totals {
    turns: u64,
    published: u64,
    acknowledged: u64,
    received: u64,
    closed_slow: u64,
    complete: u64,
    enobufs: u64,
    /// Subscriptions that a reconnected client got back with everything that it had missed.
    recovered: u64,
    /// Those of which the server said that it cannot.
    unrecovered: u64,
    /// Subscriptions ended with 2500.
    insufficient: u64,
    /// Publications that came as deltas.
    deltas: u64,
    /// Joins and leaves.
    memberships: u64,
    /// Publications that came to who wants only some.
    filtered: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.received += other.received;
        self.closed_slow += other.closed_slow;
        self.complete += other.complete;
        self.enobufs += other.enobufs;
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.insufficient += other.insufficient;
        self.deltas += other.deltas;
        self.memberships += other.memberships;
        self.filtered += other.filtered;
    }
}

fn run(seed: u64) -> Totals {
    let mut simulation = Simulation::new(seed);
    for _ in 0..ACTIONS {
        simulation.act();
        simulation.pass_time();
    }
    simulation.settle();
    simulation.check_the_well();
    simulation.leave();
    simulation.drain();
    simulation.totals
}

/// The test's own dice, apart from the world's.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

struct Simulation {
    world: World,
    dice: Dice,
    shards: Vec<Shard<Sim>>,
    stats: Vec<Arc<Stats>>,
    service: Port,
    hasher: RoomHasher,
    users: Vec<User>,
    /// The publication at each offset of each room, as the first receiver saw it.
    sequence: BTreeMap<(String, u64), String>,
    /// Number of publications sent to each room by the service.
    sent: BTreeMap<String, u64>,
    /// Acknowledged offsets of each room, in the order of the acknowledgements.
    acknowledged: BTreeMap<String, u64>,
    /// Room of each request that waits for its acknowledgement, by request id.
    awaited: HashMap<u64, String>,
    requests: u64,
    /// Shards that have said that their last connection is gone.
    emptied: usize,
    /// Shards that have ended.
    drained: BTreeSet<NodeId>,
    draining: bool,
    totals: Totals,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut faults = match dice.below(4) {
            0 => Faults::none(),
            1 => Faults::unordered(),
            _ => Faults::chaotic(),
        };
        faults.window_bytes = 200 + dice.below(4_000) as usize;
        let world = World::new(seed, faults);
        let count = 1 + dice.below(3) as u16;
        let mut ports = mesh::mesh(count + 1, limits::LANE_BYTES);
        let service = ports.pop().expect("the service is the last node");
        let hasher = RoomHasher::new(seed, count);
        let stats: Vec<Arc<Stats>> = (0..count).map(|_| Arc::default()).collect();
        let buffers = 1 << dice.below(4);
        let setup = SimSetup {
            slots: 40,
            buffers,
            buffer_bytes: 64 + dice.below(512) as usize,
        };
        let namespaces = Arc::new(Namespaces::open(ChannelOptions {
            history_count: 3 + dice.below(40) as usize,
            delta_publish: true,
            ..ChannelOptions::everything()
        }));
        let shards = ports.into_iter().zip(&stats).map(|(port, stats)| {
            let mut settings = settings(&mut dice, port.id, hasher, count, seed);
            settings.set_namespaces(Arc::clone(&namespaces));
            Shard::new(world.sim(setup), port, settings, Arc::clone(stats))
        });
        let shards = shards.collect();
        Self {
            world,
            dice,
            shards,
            stats,
            service,
            hasher,
            users: Vec::new(),
            sequence: BTreeMap::new(),
            sent: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            awaited: HashMap::new(),
            requests: 0,
            emptied: 0,
            drained: BTreeSet::new(),
            draining: false,
            totals: Totals::default(),
        }
    }

    /// One thing that a client or the publisher does.
    fn act(&mut self) {
        match self.dice.below(12) {
            0 | 1 if self.users.len() < CLIENTS => {
                let client = self.connect();
                let tastes = Tastes::random(&mut self.dice);
                self.users.push(User::new(client, tastes));
            }
            0..=4 => {
                let room = room(self.dice.below(ROOMS));
                for _ in 0..=self.dice.below(6) {
                    self.publish(&room);
                }
                self.ring();
            }
            _ if self.users.is_empty() => {}
            _ => {
                let index = self.dice.below(self.users.len() as u64) as usize;
                if self.users[index].is_gone() {
                    let client = self.connect();
                    self.totals.closed_slow += self.users[index].come_back(client);
                }
                self.users[index].act(&mut self.dice);
            }
        }
    }

    fn connect(&mut self) -> Client {
        let shard = self.dice.below(self.shards.len() as u64) as u16;
        self.world.connect(shard)
    }

    /// Up to a few milliseconds, now and then up to a few hundred.
    fn pass_time(&mut self) {
        let milliseconds = if self.dice.below(40) == 0 { 400 } else { 4 };
        let until_ns = self.world.now_ns() + self.dice.below(milliseconds * 1_000_000);
        while self.world.now_ns() < until_ns {
            let quiet = self.world.runnable().is_empty();
            if quiet
                && self
                    .world
                    .next_deadline()
                    .is_none_or(|next_ns| next_ns > until_ns)
            {
                self.world.advance_by(until_ns - self.world.now_ns());
                break;
            }
            self.step();
        }
    }

    fn publish(&mut self, room: &str) {
        let number = self.sent.entry(room.into()).or_default();
        *number += 1;
        let size = self.dice.below(300) as usize;
        let payload = format!(
            r#"{{"room":"{room}","n":{number},"pad":"{}"}}"#,
            "x".repeat(size)
        );
        let mut tags = Vec::new();
        flat::push_tag(&mut tags, "kind", &(*number % KINDS).to_string());
        self.requests += 1;
        let reply = ReplyTo::Upstream {
            conn: 0,
            generation: 0,
            request: self.requests,
        };
        let publish = Publish {
            reply,
            tags: &tags,
            ..Publish::plain(room, Content::Json, payload.as_bytes())
        };
        let sent = self
            .service
            .outlets
            .request(self.hasher.home(room), &Request::Publish(publish));
        sent.expect("the simulation publishes less than a lane holds");
        self.awaited.insert(self.requests, room.into());
        self.totals.published += 1;
    }

    fn ring(&mut self) {
        let world = self.world.clone();
        self.service.outlets.publish(|node| world.ring(node.0));
    }

    fn step(&mut self) -> Step {
        let step = self.world.step();
        if let Step::Turn(node) = step {
            let shard = &mut self.shards[usize::from(node)];
            let drained = self.drained.contains(&NodeId(node));
            if !drained {
                let turn = shard.turn();
                shard.invariants();
                shard.driver_mut().invariants();
                self.totals.turns += 1;
                assert!(
                    turn == Turn::Continue || self.draining,
                    "a shard ends only when it is drained"
                );
                if turn == Turn::Finished {
                    self.drained.insert(NodeId(node));
                }
            }
        }
        self.take_deliveries();
        for user in &mut self.users {
            self.totals.add(&user.read(&mut self.sequence));
        }
        step
    }

    fn take_deliveries(&mut self) {
        for peer in self.service.inlets.peers() {
            while let Some(frame) = self.service.inlets.next_delivery(peer) {
                match frame.get() {
                    Delivery::Published {
                        reply: ReplyTo::Upstream { request, .. },
                        offset,
                        ..
                    } => {
                        let room = self
                            .awaited
                            .remove(&request)
                            .expect("one answer to a request");
                        let last = self.acknowledged.entry(room).or_default();
                        assert_eq!(offset, Offset(*last + 1), "acknowledgements are in order");
                        *last = offset.0;
                        self.totals.acknowledged += 1;
                    }
                    Delivery::Drained => self.emptied += 1,
                    other => panic!("the service was sent {other:?}"),
                }
            }
        }
    }

    /// Lets the world come to rest: for long enough that every deadline has had its turn.
    fn settle(&mut self) {
        for user in &mut self.users {
            user.client.resume_reading();
            user.stalled = false;
        }
        let until_ns = self.world.now_ns() + 3_000_000_000;
        while self.world.now_ns() < until_ns {
            if self.step() == Step::Idle {
                break;
            }
        }
        assert!(
            self.awaited.is_empty(),
            "every sequenced publication is acknowledged"
        );
        assert_eq!(self.acknowledged, self.sent, "nothing published is missing");
    }

    /// Whoever is connected and has read everything has all publications since its subscribe.
    fn check_the_well(&mut self) {
        for user in &mut self.users {
            self.totals.closed_slow += u64::from(user.close_code == Some(3008));
            if !user.is_well() {
                continue;
            }
            for (room, place) in &user.rooms {
                let top = self.sent.get(room).copied().unwrap_or(0);
                if let (true, Some(offset)) = (place.subscribed, place.offset) {
                    assert!(
                        user.has_all(offset, top),
                        "a client that reads gets everything of {room}: {offset} of {top}"
                    );
                }
            }
            self.totals.complete += 1;
        }
    }

    /// Everybody goes, one way or another; nothing may be left of them.
    fn leave(&mut self) {
        for user in &mut self.users {
            if !user.client.is_finished() {
                match self.dice.below(3) {
                    0 => user.client.close(),
                    1 => user.client.reset(),
                    _ => user.client.vanish(),
                }
            }
        }
        let until_ns = self.world.now_ns() + 8_000_000_000;
        while self.world.now_ns() < until_ns {
            self.step();
        }
        for (shard, stats) in self.shards.iter_mut().zip(&self.stats) {
            let left = &stats.shard;
            assert_eq!(left.connections.read(), 0, "no connection is left");
            assert_eq!((left.sessions.read(), left.subscriptions.read()), (0, 0));
            assert_eq!(left.present_clients.read(), 0, "nobody is present");
            assert_eq!(
                (left.rooms.read(), left.tail_bytes.read()),
                (0, 0),
                "no view and no tail is left"
            );
            assert_eq!(shard.driver_mut().occupied(), 0, "no slot is left");
            assert!(shard.driver_mut().buffers_are_home(), "no buffer is lost");
            self.totals.enobufs += left.enobufs_total.read();
        }
    }

    /// Drains all shards; they serve publications until they are told a second time.
    fn drain(&mut self) {
        self.draining = true;
        self.order_drain();
        let shards = self.shards.len();
        self.step_until("every shard drains", |simulation| {
            simulation.emptied == shards
        });
        self.publish(&room(0));
        self.ring();
        self.step_until("a drained shard still answers", |simulation| {
            simulation.awaited.is_empty()
        });
        self.order_drain();
        self.step_until("every shard ends", |simulation| {
            simulation.drained.len() == shards
        });
    }

    fn order_drain(&mut self) {
        for node in 0..self.shards.len() as u16 {
            self.service
                .outlets
                .deliver(NodeId(node), &Delivery::Drain)
                .expect("lanes are empty");
        }
        self.ring();
    }

    fn step_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let until_ns = self.world.now_ns() + 2_000_000_000;
        while !done(self) {
            assert!(self.world.now_ns() < until_ns, "{what}");
            self.step();
        }
    }
}

fn room(index: u64) -> String {
    format!("room-{index}")
}

fn settings(dice: &mut Dice, node: NodeId, hasher: RoomHasher, shards: u16, seed: u64) -> Settings {
    let mut settings = Settings::new(node, hasher, shards, seed);
    settings.allow_everything();
    settings.tail.bytes = 2_000 + dice.below(60_000) as usize;
    settings.tail.age_ms = 50 + dice.below(400);
    settings.upgrade_ms = 500;
    settings.stale_ms = 700;
    settings.ping_ms = 400 + dice.below(600);
    settings.pong_ms = 300;
    settings.write_ms = 100 + dice.below(500);
    settings.close_ms = 300;
    settings.connections_max = 36;
    settings
}
