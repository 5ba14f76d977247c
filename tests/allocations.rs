//! The path of a delivery allocates nothing: a real shard on a real ring, every turn counted.

use ringcast::base::stats::Stats;
use ringcast::base::{Content, NodeId, RoomHasher};
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::uring::{Uring, UringSetup};
use ringcast::limits;
use ringcast::mesh::{self, Port, Publish, Request};
use ringcast::shard::Shard;
use ringcast::shard::settings::Settings;
use socket2::{Domain, Socket, Type};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::Message;

const SUBSCRIBERS: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_delivery_allocates_nothing() {
    let mut bench = Bench::new();
    let address = bench.address;
    let clients = std::thread::spawn(move || subscribe(address));
    bench.turn_until(|stats| stats.shard.subscriptions.read() == SUBSCRIBERS);
    // Buffers, tables and the chunk pool reach the size that they keep.
    bench.publish_and_deliver(500);
    let before = bench.allocations;
    bench.publish_and_deliver(2_000);
    let allocated = bench.allocations - before;
    let deliveries = 2_000 * SUBSCRIBERS;
    assert!(
        allocated <= 20,
        "{allocated} allocations for {deliveries} deliveries"
    );
    drop(bench);
    clients.join().expect("readers end when the ring is gone");
}

struct Bench {
    shard: Shard<Uring>,
    stats: Arc<Stats>,
    service: Port,
    bells: Doorbells,
    address: SocketAddr,
    published: u64,
    allocations: u64,
}

impl Bench {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        listener.listen(128).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let bells = Doorbells::for_rings_and_service(1).unwrap();
        let setup = UringSetup {
            listener: Some(listener),
            slots: 512,
            bells: bells.clone(),
            node: 0,
        };
        let mut ports = mesh::mesh(2, limits::LANE_BYTES);
        let service = ports.pop().unwrap();
        let mut settings = Settings::new(NodeId(0), RoomHasher::new(1, 1), 1, 1);
        settings.allow_everything();
        let stats = Arc::new(Stats::default());
        let uring = Uring::new(setup).unwrap();
        let shard = Shard::new(uring, ports.pop().unwrap(), settings, Arc::clone(&stats));
        Self {
            shard,
            stats,
            service,
            bells,
            address,
            published: 0,
            allocations: 0,
        }
    }

    fn turn_until(&mut self, done: impl Fn(&Stats) -> bool) {
        let start = Instant::now();
        while !done(&self.stats) {
            assert!(start.elapsed() < PATIENCE, "the shard gets there");
            let shard = &mut self.shard;
            let info = allocation_counter::measure(|| _ = shard.turn());
            self.allocations += info.count_total;
        }
    }

    fn publish_and_deliver(&mut self, count: u64) {
        for _ in 0..count {
            let publish = Publish::plain("room", Content::Json, &[b'7'; 128]);
            self.service
                .outlets
                .request(NodeId(0), &Request::Publish(publish))
                .unwrap();
            let bells = self.bells.clone();
            self.service
                .outlets
                .publish(|node| bells.ring(node.0).unwrap());
            self.published += 1;
            let deliveries = self.published * SUBSCRIBERS;
            self.turn_until(|stats| stats.shard.deliveries_total.read() == deliveries);
        }
    }
}

/// Subscribes all clients, then reads whatever comes until the connections end.
fn subscribe(address: SocketAddr) {
    let sockets: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            let url = format!("ws://{address}/connection/websocket");
            let (mut socket, _) = tungstenite::client(url, stream).unwrap();
            let commands =
                "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
            socket.send(Message::text(commands)).unwrap();
            socket.get_ref().set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut buffer = vec![0; 64 * 1024];
    let mut open: Vec<_> = sockets
        .iter()
        .map(tungstenite::WebSocket::get_ref)
        .collect();
    while !open.is_empty() {
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        std::thread::sleep(Duration::from_millis(1));
    }
}
