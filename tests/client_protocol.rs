//! The client protocol against a running broker: what each command, error and close promises.

mod support;

use ringcast::base::Content;
use ringcast::client::{Message as Publication, Upstream};
use ringcast::wire::upstream::AckLevel;
use serde_json::json;
use std::collections::HashMap;
use support::{Broker, Client, Heard, Push, frame};
use tungstenite::Message;

/// Anonymous clients that may publish, on several shards so that homes are local and remote.
const OPEN: &str = "--shards 3 --allow-anonymous --allow-publish";

fn json_to(upstream: &mut Upstream, room: &str, payload: &str) -> u64 {
    let message = Publication::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
    upstream.publish(room, &message).expect("publish").offset.0
}

fn rooms(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("room:{n}")).collect()
}

#[test]
fn a_connect_reply_names_client_version_and_ping() {
    let broker = Broker::start(OPEN);
    let mut client = Client::open(broker.clients);
    let reply = client.say_hello();
    assert_eq!(reply["id"], 1);
    let connect = &reply["connect"];
    assert_eq!(
        (&connect["ping"], &connect["pong"]),
        (&json!(25), &json!(true))
    );
    assert!(
        connect["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    );
    let other = Client::connect(broker.clients);
    assert!(
        !client.id.is_empty() && client.id != other.id,
        "ids are distinct"
    );
    let metrics = broker.until("two sessions", |metrics| metrics.sum("sessions") == 2);
    assert_eq!(metrics.sum("upgrades_total"), 2);
}

#[test]
fn the_first_frame_may_carry_everything_and_takes_effect_in_order() {
    let broker = Broker::start(OPEN);
    for room in rooms(30) {
        let mut client = Client::open(broker.clients);
        let commands = [
            json!({"id": 1, "connect": {}}),
            json!({"id": 2, "subscribe": {"channel": room}}),
            json!({"id": 3, "publish": {"channel": room, "data": {"n": 1}}}),
        ];
        // One trailing newline is allowed.
        client.send(&commands.map(|command| format!("{command}\n")).concat());
        let first = client.document("the connect reply");
        assert_eq!(first["id"], 1, "connect is answered first: {first}");
        assert_eq!(client.reply(2)["subscribe"], json!({}));
        assert_eq!(client.reply(3)["publish"], json!({}));
        let push = client.push();
        assert_eq!(
            (push.channel, push.data, push.offset),
            (room, json!({"n": 1}), 1)
        );
    }
}

#[test]
fn the_subscribe_reply_precedes_every_push_of_the_room() {
    let broker = Broker::start(OPEN);
    let rooms = rooms(10);
    let mut upstream = broker.upstream();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let names = rooms.clone();
    let publisher = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for room in &names {
                let message = Publication::new(Content::Json, b"1", AckLevel::None);
                upstream.send(room, &message).expect("publish");
            }
            upstream.ping().expect("ping");
        }
    });
    let mut client = Client::connect(broker.clients);
    for round in 0..20u32 {
        let subscribe = |room| json!({"id": 100, "subscribe": {"channel": room}}).to_string();
        client.send(&subscribe(&rooms[round as usize % rooms.len()]));
        let reply = client.document("the subscribe reply");
        assert_eq!(reply["id"], 100, "the reply comes first: {reply}");
        let (first, second) = (client.push(), client.push());
        assert_eq!(second.offset, first.offset + 1);
        client.unsubscribe(&first.channel);
        // Pushes that were sent before the unsubscribe took effect were kept; none follow.
        client.send(r#"{"id":101,"rpc":{}}"#);
        while client.document("the end of the room")["id"] != 101 {}
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    publisher.join().unwrap();
}

#[test]
fn every_subscriber_on_every_shard_gets_every_room_in_the_order_of_its_offsets() {
    const CLIENTS: usize = 24;
    const EACH: usize = 10;
    let broker = Broker::start(OPEN);
    let rooms = rooms(30);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(broker.clients);
            rooms.iter().for_each(|room| client.subscribe(room));
            client
        })
        .collect();
    let before = broker.metrics();
    let spread = (0..3).filter(|shard| before.of_shard("sessions", *shard) > 0);
    assert!(spread.count() >= 2, "clients are on several shards");
    assert!(
        (0..3).all(|shard| before.of_shard("homes", shard) > 0),
        "homes are on all shards"
    );

    // Two services and a client publish to all rooms at once.
    let mut publishers = Vec::new();
    for service in ["a", "b"] {
        let (mut upstream, rooms) = (broker.upstream(), rooms.clone());
        publishers.push(std::thread::spawn(move || {
            for n in 0..EACH {
                for room in &rooms {
                    json_to(&mut upstream, room, &json!([service, n]).to_string());
                }
            }
        }));
    }
    let (address, names) = (broker.clients, rooms.clone());
    publishers.push(std::thread::spawn(move || {
        let mut client = Client::connect(address);
        for n in 0..EACH {
            names
                .iter()
                .for_each(|room| client.publish(room, json!(["c", n])));
        }
    }));
    publishers
        .into_iter()
        .for_each(|thread| thread.join().unwrap());

    let mut order: HashMap<String, Vec<Push>> = HashMap::new();
    for (index, client) in clients.iter_mut().enumerate() {
        let mut seen: HashMap<String, Vec<Push>> = HashMap::new();
        for _ in 0..rooms.len() * 3 * EACH {
            let push = client.push();
            let of_room = seen.entry(push.channel.clone()).or_default();
            assert_eq!(
                push.offset,
                of_room.len() as u64 + 1,
                "no gap, nothing twice"
            );
            of_room.push(push);
        }
        if index == 0 {
            order = seen;
        } else {
            assert_eq!(seen, order, "all subscribers see one order");
        }
    }
    for publications in order.values() {
        for publisher in ["a", "b", "c"] {
            let own = publications
                .iter()
                .filter(|push| push.data[0] == publisher)
                .map(|push| push.data[1].as_u64().unwrap());
            assert!(own.eq(0..EACH as u64), "a publisher's order is kept");
        }
    }
    let after = broker.metrics();
    assert_eq!(
        after.sum("publications_total"),
        (rooms.len() * 3 * EACH) as u64
    );
    assert_eq!(
        after.sum("deliveries_total"),
        (CLIENTS * rooms.len() * 3 * EACH) as u64
    );
    assert_eq!(after.sum("stale_deliveries_total"), 0);
}

#[test]
fn a_publisher_gets_its_reply_and_its_own_push_with_its_id() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    for room in rooms(6) {
        client.subscribe(&room);
        client.publish(&room, json!({"text": "a\nb", "nested": [1, null]}));
        let push = client.push();
        assert_eq!(push.data, json!({"text": "a\nb", "nested": [1, null]}));
        assert_eq!(push.publisher.as_deref(), Some(client.id.as_str()));
    }
    // Whoever only publishes gets no push.
    let mut other = Client::connect(broker.clients);
    other.publish("room:0", json!("from outside"));
    assert_eq!(client.push().publisher.as_deref(), Some(other.id.as_str()));
    assert_eq!(other.refused(json!({"rpc": {}})), 108);
}

#[test]
fn text_arrives_as_a_string_and_bytes_as_base64() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    let mut upstream = broker.upstream();
    let mut publish = |content, payload: &[u8]| {
        let message = Publication::new(content, payload, AckLevel::Sequenced);
        upstream.publish("news", &message).expect("publish");
    };
    publish(Content::Text, "say \"hé\"\nand more".as_bytes());
    publish(Content::Bytes, &[0, 1, 254, 255]);
    publish(Content::Json, b"{\n  \"pretty\": [1,\n 2]\n}");
    assert_eq!(client.push().data, json!("say \"hé\"\nand more"));
    assert_eq!(client.push().data, json!("AAH+/w=="));
    assert_eq!(client.push().data, json!({"pretty": [1, 2]}));
}

#[test]
fn what_is_kept_out_of_the_history_has_no_offset() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    let mut upstream = broker.upstream();
    json_to(&mut upstream, "news", "1");
    let mut typing = Publication::new(Content::Json, b"2", AckLevel::Sequenced);
    typing.skip_history = true;
    assert_eq!(upstream.publish("news", &typing).unwrap().offset.0, 0);
    json_to(&mut upstream, "news", "3");
    let offsets = [(); 3].map(|()| client.push().offset);
    assert_eq!(offsets, [1, 0, 2]);

    let broker = Broker::start("--shards 2 --history-count 0 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    let mut upstream = broker.upstream();
    json_to(&mut upstream, "news", "1");
    assert_eq!(client.push().offset, 0, "a room without history shows none");
}

#[test]
fn a_repeated_key_is_delivered_once() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    let mut upstream = broker.upstream();
    let mut message = Publication::new(Content::Json, b"1", AckLevel::Sequenced);
    message.key = Some([7; 16]);
    let first = upstream.publish("news", &message).unwrap();
    let again = upstream.publish("news", &message).unwrap();
    assert_eq!((first.offset, first.duplicate), (again.offset, false));
    assert!(again.duplicate && again.epoch == first.epoch);
    json_to(&mut upstream, "news", "2");
    assert_eq!(
        (client.push().data, client.push().data),
        (json!(1), json!(2))
    );
}

#[test]
fn a_broadcast_reaches_the_subscribers_of_all_its_rooms() {
    let broker = Broker::start(OPEN);
    let (names, mut client) = (rooms(30), Client::connect(broker.clients));
    names.iter().for_each(|room| client.subscribe(room));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let message = Publication::new(Content::Json, b"\"all\"", AckLevel::Sequenced);
    broker.upstream().broadcast(&names, &message).unwrap();
    let mut reached: Vec<String> = names.iter().map(|_| client.push().channel).collect();
    reached.sort();
    let mut expected = names.clone();
    expected.sort_unstable();
    assert_eq!(reached, expected);
}

#[test]
fn after_the_unsubscribe_reply_nothing_of_the_room_comes() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    let mut upstream = broker.upstream();
    for room in rooms(6) {
        client.subscribe(&room);
        json_to(&mut upstream, &room, "1");
        assert_eq!(client.push().offset, 1);
        client.unsubscribe(&room);
        json_to(&mut upstream, &room, "2");
        client.unsubscribe(&room);
        client.subscribe(&room);
        json_to(&mut upstream, &room, "3");
        assert_eq!(client.push().data, json!(3), "{room}");
    }
    broker.until("one view for each room", |metrics| {
        metrics.sum("rooms") == 6
    });
}

#[test]
fn subscribes_and_unsubscribes_of_one_frame_take_effect_in_order() {
    let broker = Broker::start(OPEN);
    let mut upstream = broker.upstream();
    for (index, room) in rooms(8).iter().enumerate() {
        let mut client = Client::connect(broker.clients);
        let mut commands = Vec::new();
        for round in 0..10 {
            let id = 1_000 + 2 * round;
            commands.push(json!({"id": id, "subscribe": {"channel": room}}).to_string());
            commands.push(json!({"id": id + 1, "unsubscribe": {"channel": room}}).to_string());
        }
        let stays = index % 2 == 0;
        if stays {
            commands.pop();
        }
        client.send(&commands.join("\n"));
        for id in 1_000..1_000 + commands.len() as u32 {
            let reply = client.reply(id);
            assert!(reply.get("error").is_none(), "{reply}");
        }
        json_to(&mut upstream, room, "\"now\"");
        if stays {
            assert_eq!(client.push().data, json!("now"));
        }
        assert_eq!(client.refused(json!({"rpc": {}})), 108);
        let expected = u64::from(stays);
        broker.until("the subscription", |metrics| {
            metrics.sum("subscriptions") == expected
        });
        drop(client);
        broker.until("nobody", |metrics| metrics.sum("connections") == 0);
    }
}

#[test]
fn a_control_ping_is_answered_with_its_payload_even_between_fragments() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    client.send_message(Message::Ping(b"hello".as_slice().into()));
    assert_eq!(client.hear("a pong"), Heard::Pong(b"hello".to_vec()));
    client.write_raw(&frame(0x01, br#"{"id":7,"#));
    client.write_raw(&frame(0x89, &[0x5a; 125]));
    assert_eq!(client.hear("a pong"), Heard::Pong(vec![0x5a; 125]));
    client.write_raw(&frame(0x80, br#""rpc":{}}"#));
    assert_eq!(client.reply(7)["error"]["code"], 108);
    // A pong that nobody asked for is allowed.
    client.write_raw(&frame(0x8a, b""));
    assert_eq!(client.refused(json!({"rpc": {}})), 108);
}
