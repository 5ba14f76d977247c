//! Readers that do not keep up cost their neighbours nothing, the broker little, and are told.

mod support;

use ringcast::base::Content;
use ringcast::client::{Message, Upstream};
use ringcast::limits;
use ringcast::wire::upstream::AckLevel;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{Broker, Client, Heard, PATIENCE, Process, frame};

/// Payload bytes of a publication.
const PAYLOAD: usize = 8 * 1024;

/// A stream that takes little before TCP closes the window.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(&address.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn narrow_subscriber(address: SocketAddr, room: &str) -> Client {
    let mut client = Client::connect_on(address, narrow(address));
    client.subscribe(room);
    client
}

/// Publishes number `n`, padded to [`PAYLOAD`], and waits until it is sequenced.
fn publish(upstream: &mut Upstream, room: &str, n: u64) {
    let payload = format!("[{n},\"{}\"]", "x".repeat(PAYLOAD));
    let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
    upstream.publish(room, &message).expect("publish");
}

/// What of a tail may stay when nobody was cut off: its bound and the newest chunk.
const TAIL_MAX: u64 = (limits::TAIL_BYTES + limits::CHUNK_BYTES_MAX) as u64;

#[test]
fn a_slow_reader_never_delays_its_neighbour_and_is_told_what_it_lost() {
    const COUNT: u64 = 2_000;
    // No write timeout: only the tail's bound can end the slow reader.
    let broker = Broker::start_with("--shards 1 --allow-anonymous", |config| {
        config.timing.write_ms = 600_000;
        config.timing.ping_ms = 600_000;
    });
    let mut slow = narrow_subscriber(broker.clients, "news");
    let mut neighbour = Client::connect(broker.clients);
    neighbour.subscribe("news");
    let mut upstream = broker.upstream();
    for n in 1..=COUNT {
        publish(&mut upstream, "news", n);
        // Each is there before the next is published, although the slow one reads nothing.
        assert_eq!(neighbour.push().offset, n);
    }
    let metrics = broker.metrics();
    assert_eq!(
        metrics.sum("connections"),
        2,
        "nobody was cut off meanwhile"
    );
    let tail = metrics.sum("tail_bytes");
    assert!(
        0 < tail && tail <= TAIL_MAX,
        "{tail} bytes held for the slow one"
    );

    // It reads at last: a prefix without gap, and then it is told.
    let mut reached = 0;
    let closed = loop {
        match slow.hear("the end of the slow one") {
            Heard::Document(push) => {
                reached += 1;
                assert_eq!(
                    push.pointer("/push/pub/data/0"),
                    Some(&Value::from(reached))
                );
            }
            Heard::Closed(code, reason) => break (code, reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(closed, (3008, "slow".to_owned()));
    assert!(reached < COUNT, "it has lost something");
    let metrics = broker.until("an empty tail", |metrics| metrics.sum("tail_bytes") == 0);
    assert_eq!(
        (metrics.closes("slow"), metrics.sum("lost_cursors_total")),
        (1, 1)
    );
    publish(&mut upstream, "news", COUNT + 1);
    assert_eq!(neighbour.push().offset, COUNT + 1);
}

#[test]
fn a_reader_that_never_reads_is_cut_off_by_the_write_timeout() {
    let broker = Broker::start_with("--shards 2 --allow-anonymous", |config| {
        config.timing.write_ms = 1_000;
        config.timing.ping_ms = 600_000;
    });
    let stuck: Vec<Client> = (0..8)
        .map(|_| narrow_subscriber(broker.clients, "news"))
        .collect();
    let mut neighbour = Client::connect(broker.clients);
    neighbour.subscribe("news");
    let mut upstream = broker.upstream();
    for n in 1..=1_000 {
        publish(&mut upstream, "news", n);
        assert_eq!(neighbour.push().offset, n);
    }
    let metrics = broker.until("the cuts", |metrics| metrics.closes("slow") == 8);
    assert_eq!(metrics.sum("sessions"), 1);
    broker.until("nothing kept for them", |metrics| {
        metrics.sum("tail_bytes") == 0
            && metrics.sum("connections") == 1
            && metrics.sum("subscriptions") == 1
    });
    // What they had been sent is whole and in order up to the cut.
    for mut client in stuck {
        let mut reached = 0;
        while let Heard::Document(push) = client.hear("what was sent before the cut") {
            reached += 1;
            assert_eq!(
                push.pointer("/push/pub/offset"),
                Some(&Value::from(reached))
            );
        }
        assert!(reached < 1_000);
    }
    publish(&mut upstream, "news", 1_001);
    assert_eq!(neighbour.push().offset, 1_001);
}

/// Publishes to `room`, where a narrow subscriber reads nothing, until the kernel takes no more and
/// the tail is held for it: the number of publications.
fn plug(broker: &Broker, upstream: &mut Upstream, room: &str) -> u64 {
    for n in 1.. {
        publish(upstream, room, n);
        let start = Instant::now();
        while broker.metrics().sum("tail_bytes") > 0 {
            if start.elapsed() > Duration::from_millis(300) {
                return n;
            }
        }
        assert!(n < 10_000, "the kernel takes everything");
    }
    unreachable!("a number was returned")
}

#[test]
fn a_pause_shorter_than_the_timeout_loses_nothing() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut late = narrow_subscriber(broker.clients, "news");
    let mut upstream = broker.upstream();
    let plugged = plug(&broker, &mut upstream, "news");
    let count = plugged + 50;
    for n in plugged + 1..=count {
        publish(&mut upstream, "news", n);
    }
    for n in 1..=count {
        assert_eq!(late.push().offset, n);
    }
    broker.until("an empty tail", |metrics| metrics.sum("tail_bytes") == 0);
}

#[test]
fn what_does_not_fit_one_send_follows_in_the_next() {
    const ROOMS: usize = 3 * limits::SEND_PARTS_MAX;
    const EACH: u64 = 2;
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut late = narrow_subscriber(broker.clients, "plug");
    let rooms: Vec<String> = (0..ROOMS).map(|n| format!("room:{n}")).collect();
    rooms.iter().for_each(|room| late.subscribe(room));
    let mut upstream = broker.upstream();
    let plugged = plug(&broker, &mut upstream, "plug");
    for n in 1..=EACH {
        rooms
            .iter()
            .for_each(|room| publish(&mut upstream, room, n));
    }
    let mut seen: HashMap<String, u64> = HashMap::new();
    for _ in 0..plugged + EACH * ROOMS as u64 {
        let push = late.push();
        let last = seen.entry(push.channel).or_default();
        *last += 1;
        assert_eq!(push.offset, *last);
    }
    assert_eq!(seen.remove("plug"), Some(plugged));
    assert!(seen.len() == ROOMS && seen.values().all(|last| *last == EACH));
    broker.until("empty tails", |metrics| metrics.sum("tail_bytes") == 0);
}

#[test]
fn whoever_joins_while_another_lags_gets_only_what_follows() {
    let broker = Broker::start("--shards 1 --allow-anonymous");
    let mut late = narrow_subscriber(broker.clients, "news");
    let mut upstream = broker.upstream();
    let plugged = plug(&broker, &mut upstream, "news");
    let mut newcomer = Client::connect(broker.clients);
    newcomer.subscribe("news");
    publish(&mut upstream, "news", plugged + 1);
    assert_eq!(newcomer.push().offset, plugged + 1);
    // Whoever leaves takes nothing from those who stay.
    newcomer.unsubscribe("news");
    publish(&mut upstream, "news", plugged + 2);
    for offset in 1..=plugged + 2 {
        assert_eq!(late.push().offset, offset);
    }
    assert_eq!(newcomer.refused(json!({"rpc": {}})), 108);
}

#[test]
fn replies_that_nobody_reads_are_bounded() {
    let broker = Broker::start_with("--shards 1 --allow-anonymous", |config| {
        config.timing.write_ms = 600_000;
    });
    let mut client = Client::connect_on(broker.clients, narrow(broker.clients));
    // Each ping is answered by as many bytes: far more than the kernel and the bound take.
    let burst = frame(0x89, &[7; 125]).repeat(1_000);
    let cut = (0..1_000).find(|_| {
        use std::io::Write;
        client.stream().write_all(&burst).is_err()
    });
    assert!(cut.is_some(), "131 MB of pings were taken without an end");
    let metrics = broker.until("the cut", |metrics| metrics.closes("slow") == 1);
    assert_eq!(metrics.sum("sessions"), 0);
    broker.until("nothing left", |metrics| {
        metrics.sum("connections") == 0 && metrics.sum("tail_bytes") == 0
    });
}

#[test]
fn memory_for_readers_that_do_not_read_is_bounded() {
    const READERS: usize = 20;
    const COUNT: u64 = 8_000;
    let flags = "--shards 1 --allow-anonymous --listen 127.0.0.1:0 --upstream 127.0.0.1:0 \
                 --admin 127.0.0.1:0 --history-count 0";
    let process = Process::serve(flags);
    let _readers: Vec<Client> = (0..READERS)
        .map(|_| narrow_subscriber(process.clients, "news"))
        .collect();
    let mut upstream = Upstream::connect(process.upstream, "test", None).unwrap();
    let warm = process.resident_bytes();
    let payload = "7".repeat(PAYLOAD);
    let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Accepted);
    let mut peak = 0;
    for n in 0..COUNT {
        upstream.publish("news", &message).expect("publish");
        if n % 500 == 0 {
            peak = peak.max(process.resident_bytes());
        }
    }
    let grown = peak.saturating_sub(warm);
    // The tail, the pool of free chunks, a lane in use, and what each send in flight keeps.
    let in_flight = READERS * limits::SEND_PARTS_MAX * limits::CHUNK_BYTES_MAX;
    let bound = limits::TAIL_BYTES + limits::CHUNK_POOL_BYTES + 2 * limits::LANE_BYTES + in_flight;
    assert!(
        grown < bound,
        "{grown} bytes for readers that do not read, at most {bound}"
    );
    assert!(COUNT as usize * PAYLOAD > bound, "enough to prove it");
}
