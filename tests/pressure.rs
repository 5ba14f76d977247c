//! When everybody wants everything at once: receive buffers run out, lanes fill, and nothing is
//! lost for it.

mod support;

use ringcast::base::Content;
use ringcast::client::Message;
use ringcast::limits;
use ringcast::wire::upstream::AckLevel;
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use support::{Broker, Client, Process, answer, dial, frame, until};

#[test]
fn receive_buffers_that_run_out_come_back() {
    const CLIENTS: usize = 200;
    let broker = Broker::start("--shards 1 --allow-anonymous");
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(broker.clients))
        .collect();
    // Together they send several times what all receive buffers hold.
    let mut command = br#"{"id":77,"rpc":{"data":""#.to_vec();
    command.resize(limits::MESSAGE_BYTES_MAX - 3, b'x');
    command.extend(b"\"}}");
    let message = frame(0x81, &command);
    assert!(CLIENTS * message.len() > 4 * limits::RECV_BUFFERS * limits::RECV_BUFFER_BYTES);
    std::thread::scope(|scope| {
        for client in &mut clients {
            let message = &message;
            scope.spawn(move || client.stream().write_all(message).unwrap());
        }
    });
    for client in &mut clients {
        assert_eq!(client.reply(77)["error"]["code"], 108);
    }
    let metrics = broker.until("all buffers back", |metrics| {
        metrics.sum("buffers_loaned") == 0 && metrics.sum("parked_connections") == 0
    });
    assert!(metrics.sum("enobufs_total") > 0, "the buffers did run out");
}

#[test]
fn publications_that_fill_the_lanes_all_have_their_place() {
    const PUBLISHERS: u64 = 24;
    const EACH: u64 = 60;
    let broker = Broker::start("--shards 3 --allow-anonymous --allow-publish");
    let mut rounds = 0;
    // As often as it takes until somebody has found a lane full.
    while broker.metrics().sum("lane_stalls_total") == 0 {
        rounds += 1;
        assert!(rounds < 100, "the lanes are never full");
        std::thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let address = broker.clients;
                scope.spawn(move || publish_and_count(address, publisher, EACH));
            }
        });
    }
    let published = rounds * PUBLISHERS * EACH;
    assert_eq!(broker.metrics().sum("publications_total"), published);
    // And the rooms' offsets are as many as were promised.
    let mut upstream = broker.upstream();
    let message = Message::new(Content::Json, b"0", AckLevel::Sequenced);
    let offsets = (0..8).map(|room| {
        let receipt = upstream.publish(&format!("big:{room}"), &message).unwrap();
        receipt.offset.0
    });
    assert!(offsets.eq([published / 8 + 1; 8]));
}

/// Publishes large documents without waiting for the replies, then counts these.
fn publish_and_count(address: SocketAddr, publisher: u64, count: u64) {
    let mut client = Client::connect(address);
    let channel = format!("big:{}", publisher % 8);
    let payload = "x".repeat(60_000);
    for n in 0..count {
        let publish = json!({"channel": channel, "data": [n, payload]});
        client.send(&json!({"id": 10 + n, "publish": publish}).to_string());
    }
    for n in 0..count {
        assert!(client.reply(10 + n as u32).get("publish").is_some());
    }
}

#[test]
fn a_service_that_never_waits_loses_nothing() {
    const COUNT: u64 = 100_000;
    let broker = Broker::start("--shards 2");
    let mut upstream = broker.upstream();
    let payload = [b'7'; 128];
    let message = Message::new(Content::Json, &payload, AckLevel::None);
    for n in 0..COUNT {
        upstream.send(&format!("r{}", n % 100), &message).unwrap();
    }
    upstream.close().unwrap();
    let metrics = broker.until("all of it", |metrics| {
        metrics.sum("publications_total") == COUNT
    });
    assert_eq!(metrics.sum("upstream_errors_total"), 0);
    assert_eq!(metrics.sum("homes"), 100);
}

#[test]
fn the_largest_publication_arrives() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    let mut upstream = broker.upstream();
    for room in ["a", "b", "c", "d"] {
        client.subscribe(room);
        let text = "y".repeat(limits::UPSTREAM_FRAME_MAX - 64);
        let message = Message::new(Content::Text, text.as_bytes(), AckLevel::Sequenced);
        upstream.publish(room, &message).unwrap();
        assert_eq!(client.push().data, json!(text));
    }
    broker.until("an empty tail", |metrics| metrics.sum("tail_bytes") == 0);
}

#[test]
fn a_crowd_that_comes_and_goes_during_traffic_sees_no_gap_and_leaves_nothing() {
    let broker = Broker::start("--shards 3 --allow-anonymous");
    let address = broker.clients;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut upstream, stop) = (broker.upstream(), &stop);
        scope.spawn(move || {
            let message = Message::new(Content::Json, b"[1,2,3]", AckLevel::None);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for room in 0..10 {
                    upstream.send(&format!("r{room}"), &message).unwrap();
                }
                upstream.ping().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let crowd: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..40 {
                        let mut client = Client::connect(address);
                        let room = format!("r{}", (thread + round) % 10);
                        client.subscribe(&room);
                        let first = client.push().offset;
                        for offset in first + 1..first + 4 {
                            assert_eq!(client.push().offset, offset, "{room}");
                        }
                        match round % 3 {
                            0 => client.vanish(),
                            1 => drop(client),
                            _ => client.close(None),
                        }
                    }
                })
            })
            .collect();
        crowd.into_iter().for_each(|one| one.join().unwrap());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    broker.until("nobody and nothing", |metrics| {
        [
            "connections",
            "sessions",
            "subscriptions",
            "rooms",
            "tail_bytes",
            "buffers_loaned",
        ]
        .iter()
        .all(|gauge| metrics.sum(gauge) == 0)
    });
}

#[test]
fn a_full_table_refuses_then_makes_wait_and_recovers() {
    const DESCRIPTORS: usize = 200;
    const PLACES: usize = DESCRIPTORS - limits::REFUSAL_SLOTS;
    let flags = "--shards 1 --allow-anonymous --listen 127.0.0.1:0 --upstream 127.0.0.1:0 \
                 --admin 127.0.0.1:0";
    let broker = Process::serve_with_descriptors(DESCRIPTORS, flags);
    let mut clients: Vec<Client> = (0..PLACES)
        .map(|_| Client::connect(broker.clients))
        .collect();
    // More than there are slots: the first are told so, the rest wait for an accept.
    let mut refused: Vec<_> = (0..limits::REFUSAL_SLOTS + 40)
        .map(|_| dial(broker.clients))
        .collect();
    until("a full table", || {
        (broker.metrics().sum("connections") == DESCRIPTORS as u64).then_some(())
    });
    let waiting = refused.split_off(limits::REFUSAL_SLOTS);
    for stream in &mut refused {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(answer(stream).status, 503);
    }
    drop(refused);
    for mut stream in waiting {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(answer(&mut stream).status, 503);
    }
    assert_eq!(
        clients[0].refused(json!({"rpc": {}})),
        108,
        "those inside stay"
    );
    clients.clear();
    until("an empty table", || {
        (broker.metrics().sum("connections") == 0).then_some(())
    });
    clients.extend((0..PLACES).map(|_| Client::connect(broker.clients)));
    let metrics = broker.metrics();
    assert_eq!(metrics.sum("sessions"), PLACES as u64);
    assert_eq!(metrics.sum("accept_errors_total"), 0, "nobody was dropped");
}
