//! Clients that go without a word leave nothing behind: no slot, room, subscription or buffer.

mod support;

use ringcast::base::Content;
use ringcast::client::Message;
use ringcast::wire::upstream::AckLevel;
use socket2::SockRef;
use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use support::{Broker, Client, Metrics, dial, frame, until};

/// Ends a stream with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn nothing_is_out(metrics: &Metrics) -> bool {
    metrics.sum("tail_bytes") == 0
        && metrics.sum("buffers_loaned") == 0
        && metrics.sum("parked_connections") == 0
}

#[test]
fn half_of_two_thousand_clients_vanish_and_leave_nothing_behind() {
    const CLIENTS: usize = 2_000;
    const ROOMS: usize = 100;
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let room_of = |client: usize| format!("room:{}", client % ROOMS);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let mut client = Client::connect(broker.clients);
            client.subscribe(&room_of(n));
            client.subscribe("all");
            client
        })
        .collect();
    broker.until("all of them", |metrics| {
        metrics.sum("sessions") == CLIENTS as u64
            && metrics.sum("subscriptions") == 2 * CLIENTS as u64
    });

    // The lower rooms lose all their subscribers; every other one goes by reset, as when a
    // process is killed with unread bytes, and the rest by the end of the stream.
    let (gone, stayed): (Vec<_>, Vec<_>) = clients
        .drain(..)
        .enumerate()
        .partition(|(n, _)| n % ROOMS < ROOMS / 2);
    for (n, client) in gone {
        if n % 2 == 0 {
            client.vanish();
        } else {
            drop(client);
        }
    }
    let left = stayed.len() as u64;
    assert_eq!(left, CLIENTS as u64 / 2);
    let metrics = broker.until("the survivors alone", |metrics| {
        metrics.sum("connections") == left
            && metrics.sum("sessions") == left
            && metrics.sum("subscriptions") == 2 * left
            && nothing_is_out(metrics)
    });
    assert_eq!(metrics.closes("peer_vanished"), CLIENTS as u64 - left);
    // A room has a view on each shard where somebody subscribes to it, and nowhere else.
    let rooms = metrics.sum("rooms");
    let at_least = ROOMS as u64 / 2 + 1;
    assert!(
        (at_least..=2 * at_least).contains(&rooms),
        "{rooms} views of {at_least} rooms"
    );

    let mut upstream = broker.upstream();
    let deliveries = metrics.sum("deliveries_total");
    for n in 0..ROOMS {
        let message = Message::new(Content::Json, b"\"room\"", AckLevel::Sequenced);
        upstream.publish(&room_of(n), &message).unwrap();
    }
    let message = Message::new(Content::Json, b"\"all\"", AckLevel::Sequenced);
    upstream.publish("all", &message).unwrap();
    let mut survivors: Vec<Client> = stayed.into_iter().map(|(_, client)| client).collect();
    for client in &mut survivors {
        let heard: HashSet<String> = [(); 2]
            .map(|()| client.push().data.as_str().unwrap().to_owned())
            .into();
        assert_eq!(heard.len(), 2, "one of each room");
    }
    let metrics = broker.until("nothing out", nothing_is_out);
    assert_eq!(metrics.sum("deliveries_total") - deliveries, 2 * left);

    survivors.drain(..).for_each(Client::vanish);
    broker.until("nobody", |metrics| {
        ["connections", "sessions", "subscriptions", "rooms"]
            .iter()
            .all(|gauge| metrics.sum(gauge) == 0)
            && nothing_is_out(metrics)
    });
    // The homes know that nobody is left, once they have read so: a publication goes nowhere.
    let mut before = broker.metrics();
    until("quiet lanes", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = broker.metrics();
        let frames = |metrics: &support::Metrics| metrics.sum("lane_frames_total");
        let is_quiet = frames(&now) == frames(&before);
        before = now;
        is_quiet.then_some(())
    });
    for n in 0..ROOMS {
        let message = Message::new(Content::Json, b"0", AckLevel::Sequenced);
        upstream.publish(&room_of(n), &message).unwrap();
    }
    let after = broker.metrics();
    let delta = |name: &str| after.sum(name) - before.sum(name);
    assert_eq!(delta("publications_total"), ROOMS as u64);
    assert_eq!(delta("lane_frames_total"), ROOMS as u64, "requests only");
    assert_eq!(delta("stale_deliveries_total"), 0);
}

#[test]
fn the_slots_of_those_who_vanished_are_used_again() {
    const PLACES: usize = 50;
    let flags = format!("--shards 1 --allow-anonymous --connections-per-shard {PLACES}");
    let broker = Broker::start(&flags);
    for round in 0..20 {
        let clients: Vec<Client> = (0..PLACES)
            .map(|_| {
                let mut client = Client::connect(broker.clients);
                client.subscribe("all");
                client
            })
            .collect();
        for (n, client) in clients.into_iter().enumerate() {
            if (n + round) % 2 == 0 {
                client.vanish();
            } else {
                drop(client);
            }
        }
        broker.until("empty places", |metrics| metrics.sum("connections") == 0);
    }
    let metrics = broker.metrics();
    assert_eq!(metrics.sum("accepts_total"), 20 * PLACES as u64);
    assert_eq!(metrics.closes("upgrade_refused"), 0, "nobody found it full");
}

#[test]
fn whoever_vanishes_in_the_middle_of_something_leaves_nothing_behind() {
    let broker = Broker::start("--shards 2 --allow-anonymous --allow-publish");
    let mut upstream = broker.upstream();
    for round in 0..20 {
        // In the middle of the upgrade.
        let mut upgrading = dial(broker.clients);
        upgrading.write_all(b"GET /connection/web").unwrap();
        // In the middle of a message, of a frame, of a frame's header.
        let mut in_message = Client::connect(broker.clients);
        in_message.write_raw(&frame(0x01, b"{\"id\":2,"));
        let mut in_frame = Client::connect(broker.clients);
        in_frame.write_raw(&frame(0x81, &[b' '; 40_000])[..30_000]);
        let mut in_header = Client::connect(broker.clients);
        in_header.write_raw(&frame(0x81, &[b' '; 40_000])[..3]);
        // With a subscribe that waits for its home, and a publish that waits for its place.
        let mut waiting = Client::connect(broker.clients);
        waiting.send(&format!(
            "{{\"id\":2,\"subscribe\":{{\"channel\":\"w{round}\"}}}}\n\
             {{\"id\":3,\"publish\":{{\"channel\":\"v{round}\",\"data\":1}}}}"
        ));
        // With a send in flight and more to come: it reads nothing of two megabytes.
        let mut unread = Client::connect(broker.clients);
        unread.subscribe("flood");
        let payload = format!("\"{}\"", "x".repeat(256 * 1024));
        let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
        for _ in 0..8 {
            upstream.publish("flood", &message).unwrap();
        }
        if round % 2 == 0 {
            reset(upgrading);
            for client in [in_message, in_frame, in_header, waiting, unread] {
                client.vanish();
            }
        }
    }
    let metrics = broker.until("nobody", |metrics| {
        ["connections", "sessions", "subscriptions", "rooms"]
            .iter()
            .all(|gauge| metrics.sum(gauge) == 0)
            && nothing_is_out(metrics)
    });
    assert_eq!(metrics.sum("accepts_total"), 20 * 6);
}
