//! What does one publication into a room of 10,000 cost a shard, kernel aside?
//!
//! One shard on the simulated kernel: request lane, home, history, encoding, tail, marks, 10,000 sends
//! submitted and completed. The simulated kernel's own work is in the figure and is most of it: compare
//! before and after a change, never with the real kernel. Budget: 25 ms a publication.
//!
//! `cargo bench --bench publication`

use criterion::{Criterion, criterion_group, criterion_main};
use ringcast::base::stats::Stats;
use ringcast::base::{Content, NodeId, RoomHasher};
use ringcast::driver::sim::{Client, Faults, Sim, SimSetup, Step, World};
use ringcast::limits;
use ringcast::mesh::{self, Port, Publish, Request};
use ringcast::shard::Shard;
use ringcast::shard::settings::Settings;
use ringcast::wire::frame::{Opcode, write_client_frame};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SUBSCRIBERS: usize = 10_000;
const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

struct Room {
    world: World,
    shard: Shard<Sim>,
    stats: Arc<Stats>,
    service: Port,
    clients: Vec<Client>,
}

impl Room {
    fn full() -> Self {
        let world = World::new(1, Faults::none());
        let mut ports = mesh::mesh(2, limits::LANE_BYTES);
        let service = ports.pop().expect("two ports");
        let setup = SimSetup {
            slots: SUBSCRIBERS as u32 + 128,
            buffers: 1_024,
            buffer_bytes: 2_048,
        };
        let mut settings = Settings::new(NodeId(0), RoomHasher::new(1, 1), 1, 1);
        settings.allow_everything();
        settings.ping_ms = u64::MAX / 4;
        let stats = Arc::new(Stats::default());
        let port = ports.pop().expect("two ports");
        let shard = Shard::new(world.sim(setup), port, settings, Arc::clone(&stats));
        let mut room = Self {
            world,
            shard,
            stats,
            service,
            clients: Vec::new(),
        };
        let mut commands = UPGRADE.to_vec();
        let text = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
        write_client_frame(&mut commands, Opcode::Text, [1, 2, 3, 4], text.as_bytes());
        for _ in 0..SUBSCRIBERS {
            let client = room.world.connect(0);
            client.write(&commands);
            room.clients.push(client);
        }
        while room.stats.shard.subscriptions.read() < SUBSCRIBERS as u64 {
            room.step();
        }
        room
    }

    fn step(&mut self) -> Duration {
        match self.world.step() {
            Step::Turn(_) => {
                let start = Instant::now();
                self.shard.turn();
                start.elapsed()
            }
            Step::Waited | Step::Idle => Duration::ZERO,
        }
    }

    /// Publishes once; the time that the shard's turns took until every send had completed.
    fn publish(&mut self) -> Duration {
        let publish = Publish::plain("room", Content::Json, &[b'1'; 128]);
        self.service
            .outlets
            .request(NodeId(0), &Request::Publish(publish))
            .expect("an empty lane");
        let world = self.world.clone();
        self.service.outlets.publish(|node| world.ring(node.0));
        let sends = self.stats.shard.sends_total.read() + SUBSCRIBERS as u64;
        let completed = self.stats.shard.ring_completions_total.read() + SUBSCRIBERS as u64;
        let mut spent = Duration::ZERO;
        while self.stats.shard.sends_total.read() < sends
            || self.stats.shard.ring_completions_total.read() < completed
        {
            spent += self.step();
        }
        for client in &self.clients {
            client.read();
        }
        spent
    }
}

fn publication(criterion: &mut Criterion) {
    let mut room = Room::full();
    criterion.bench_function("publication into a room of 10,000", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| room.publish()).sum());
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = publication
}
criterion_main!(benches);
