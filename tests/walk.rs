//! One publication, hop by hop, as the architecture's walk of a message says: first by hand through
//! the parts, with the exact value at every hop, then through a running broker, whose metrics name
//! each hop it took.

mod support;

use ringcast::base::chunk::ChunkPool;
use ringcast::base::{Content, Epoch, NodeId, Offset, RoomHasher, ViewId};
use ringcast::client::Message;
use ringcast::limits;
use ringcast::mesh::{self, Delivery, Publish, ReplyTo, Request};
use ringcast::room::history::HistoryLimits;
use ringcast::room::home::{Home, HomeLimits, Incoming, Published};
use ringcast::room::tail::TailLimits;
use ringcast::room::view::{LineKind, Taken, View};
use ringcast::wire::client::{Data, Encoding, Publication, Push, write_push};
use ringcast::wire::frame::{Opcode, server_header};
use ringcast::wire::upstream::{AckLevel, Extras, Frame, decode};
use std::io::Cursor;
use support::{Broker, Client, Metrics};
use tungstenite::protocol::{Role, WebSocket};

const PAYLOAD: &[u8] = br#"{"score":[2,1]}"#;
const PUSH: &str = r#"{"push":{"channel":"match:7","pub":{"data":{"score":[2,1]},"offset":1}}}"#;

/// JSON, without deltas, joins and leaves.
const PLAIN: LineKind = LineKind {
    encoding: Encoding::Json,
    delta: false,
    members: false,
    filtered: 0,
};

/// Three nodes: home, subscriber's shard, service thread.
const HOME: NodeId = NodeId(0);
const EDGE: NodeId = NodeId(1);
const SERVICE: NodeId = NodeId(2);

const HOME_LIMITS: HomeLimits = HomeLimits {
    history: HistoryLimits {
        count: 8,
        age_ms: 1_000,
        bytes: 1_000,
    },
    keys: 8,
    keys_age_ms: 1_000,
    meta_ms: 1_000,
    read_max: 8,
    page_max: 8,
    read_bytes_max: 1_000,
};

const TAIL_LIMITS: TailLimits = TailLimits {
    bytes: limits::TAIL_BYTES,
    age_ms: limits::TAIL_AGE_MS,
};

#[test]
fn a_publication_walks_through_the_parts() {
    let mut ports = mesh::mesh(3, limits::LANE_BYTES);
    let mut service = ports.pop().unwrap();
    let mut edge = ports.pop().unwrap();
    let mut home_port = ports.pop().unwrap();
    let mut pool = ChunkPool::default();

    // Before: the subscriber's shard has a view, and the home knows it.
    let mut view = View::new("match:7");
    let view_id = ViewId {
        index: 5,
        generation: 1,
    };
    let mut home = Home::new("match:7", Epoch(9), 0);
    view.announced();
    let (epoch, top) = home.interest(EDGE, view_id, 0);
    assert!(view.admitted(epoch, top).is_empty());
    let subscriber = view.subscribe(41, PLAIN, None);

    // 1. Bytes of an upstream service become a publication.
    let mut bytes = Vec::new();
    let sent = Frame::Publish {
        request: 3,
        room: "match:7",
        level: AckLevel::Sequenced,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras::default(),
        payload: PAYLOAD,
    };
    sent.encode(&mut bytes);
    let (received, used) = decode(&bytes, limits::UPSTREAM_FRAME_MAX).unwrap().unwrap();
    assert_eq!((received, used), (sent, bytes.len()));
    let Frame::Publish {
        room,
        content,
        payload,
        ..
    } = received
    else {
        unreachable!("compared above")
    };

    // 2. One frame is archived into the lane from the service thread to the home.
    let reply = ReplyTo::Upstream {
        conn: 1,
        generation: 2,
        request: 3,
    };
    let publish = Publish {
        reply,
        ..Publish::plain(room, content, payload)
    };
    service
        .outlets
        .request(HOME, &Request::Publish(publish))
        .unwrap();
    assert!(
        home_port.inlets.next_request(SERVICE).is_none(),
        "not visible yet"
    );
    service.outlets.publish(|_| {});

    // 3. The home reads it in place.
    let frame = home_port.inlets.next_request(SERVICE).expect("published");
    let Request::Publish(publish) = frame.get() else {
        panic!("a publish request")
    };
    assert_eq!((publish.room, publish.payload), ("match:7", PAYLOAD));

    // 4. The home gives it its place, keeps it, and says who wants it.
    let data = Data {
        content: publish.content,
        bytes: publish.payload,
    };
    let incoming = Incoming {
        publication: Publication {
            data,
            ..Publication::default()
        },
        key: publish.key,
        skip_history: publish.skip_history,
        version: publish.version,
    };
    let published = home.publish(&incoming, 10, &HOME_LIMITS);
    assert_eq!(published, Published::Sequenced(Offset(1)));
    assert_eq!(
        home.history().newest(),
        Some(Offset(1)),
        "kept before it is acknowledged"
    );
    assert_eq!(home.interested(), [(EDGE, view_id)]);

    // 5. One delivery for the interested shard; the acknowledgement goes back.
    let delivery = Delivery::Publication {
        view: view_id,
        offset: Offset(1),
        content: publish.content,
        delta: publish.delta,
        payload: publish.payload,
        info: publish.info,
        tags: publish.tags,
        exclude: None,
    };
    home_port.outlets.deliver(EDGE, &delivery).unwrap();
    let acknowledgement = Delivery::Published {
        reply: publish.reply,
        epoch: home.epoch(),
        offset: Offset(1),
        duplicate: false,
    };
    home_port
        .outlets
        .deliver(SERVICE, &acknowledgement)
        .unwrap();
    drop(frame);
    home_port.outlets.publish(|_| {});
    let back = service
        .inlets
        .next_delivery(HOME)
        .expect("the acknowledgement");
    assert_eq!(back.get(), acknowledgement);

    // 6. The subscriber's shard encodes the push once, into the tail.
    let frame = edge.inlets.next_delivery(HOME).expect("the publication");
    let Delivery::Publication {
        view: target,
        offset,
        content,
        payload,
        ..
    } = frame.get()
    else {
        panic!("a publication")
    };
    assert_eq!((target, offset), (view_id, Offset(1)));
    let mut push = Vec::new();
    let publication = Publication {
        offset: offset.0,
        data: Data {
            content,
            bytes: payload,
        },
        ..Publication::default()
    };
    let pushed = Push::Publication(&publication);
    write_push(Encoding::Json, &mut push, view.room(), &pushed);
    assert_eq!(push, PUSH.as_bytes());
    let (header, header_bytes) = server_header(Opcode::Text, push.len());
    let encoded = (&header[..header_bytes], push.as_slice());
    view.advance(offset);
    view.append(0, encoded, (1, 11), TAIL_LIMITS, &mut pool);
    assert!(
        view.lines()[0].is_lagging(),
        "the subscriber has something to be sent"
    );

    // 7. The flush takes everything that the subscriber has not been sent; the tail is let go.
    let mut parts = Vec::new();
    let taken = view.take(
        PLAIN,
        subscriber,
        limits::SEND_PARTS_MAX,
        &mut parts,
        &mut pool,
    );
    assert_eq!((taken, parts.len()), (Taken::All, 1));
    assert_eq!(view.lines()[0].tail().held_bytes(), 0);
    view.invariants();

    // 8. What the kernel is given is a WebSocket message to anybody who can read one.
    let mut wire = Vec::new();
    parts[0].copy_to(&mut wire);
    let mut client = WebSocket::from_raw_socket(Cursor::new(wire), Role::Client, None);
    assert_eq!(client.read().unwrap().to_text().unwrap(), PUSH);
    assert_eq!(view.lines()[0].subscribers()[0].slot, 41);
}

#[test]
fn every_thread_of_a_process_finds_the_same_home() {
    let (service, shard) = (RoomHasher::new(4, 7), RoomHasher::new(4, 7));
    for n in 0..1_000 {
        let room = format!("room:{n}");
        assert_eq!(service.home(&room), shard.home(&room));
    }
}

/// The shard of which a metric grew.
fn grown(before: &Metrics, after: &Metrics, name: &str, shards: usize) -> Vec<usize> {
    (0..shards)
        .filter(|shard| after.of_shard(name, *shard) > before.of_shard(name, *shard))
        .collect()
}

#[test]
fn a_publication_walks_through_a_running_broker() {
    const SHARDS: usize = 2;
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    let metrics = broker.until("the session", |metrics| metrics.sum("sessions") == 1);
    let edge = (0..SHARDS).find(|shard| metrics.of_shard("sessions", *shard) == 1);
    let edge = edge.expect("its shard");
    let mut upstream = broker.upstream();
    let message = Message::new(Content::Json, PAYLOAD, AckLevel::Sequenced);

    let mut seen = [false; 2];
    for n in 0.. {
        if seen == [true; 2] {
            break;
        }
        assert!(n < 100, "rooms have homes on both shards");
        // As long as the name in PUSH, which is compared in bytes.
        let room = format!("walk:{n:02}");
        client.subscribe(&room);
        let before = settled(&broker);
        let receipt = upstream.publish(&room, &message).unwrap();
        let push = client.push();
        assert_eq!((push.offset, receipt.offset), (1, Offset(1)));
        let after = settled(&broker);
        let home = grown(&before, &after, "publications_total", SHARDS);
        let [home] = home[..] else {
            panic!("one home: {home:?}")
        };
        let delta = |name: &str| after.sum(name) - before.sum(name);
        let at = |name: &str, shard| after.of_shard(name, shard) - before.of_shard(name, shard);

        // 1. The service thread decodes one frame into one publication, and acknowledges it.
        assert_eq!(delta("upstream_frames_total"), 1);
        assert_eq!(delta("upstream_publications_total"), 1);
        assert_eq!(delta("upstream_acks_total"), 1);
        // 2., 3. The home takes one frame from its lane; another shard takes one more for it, and
        // the home's own shard is called directly.
        let remote = home != edge;
        assert_eq!(at("lane_frames_total", home), 1);
        assert_eq!(delta("lane_frames_total"), 1 + u64::from(remote));
        // 4. It is sequenced once and kept.
        assert_eq!(delta("publications_total"), 1);
        assert_eq!(delta("duplicates_total"), 0);
        assert!(at("history_bytes", home) >= PAYLOAD.len() as u64);
        // 5., 6. One subscriber on one shard.
        assert_eq!(
            (delta("deliveries_total"), at("deliveries_total", edge)),
            (1, 1)
        );
        assert_eq!(delta("stale_deliveries_total"), 0);
        // 7., 8. One send of exactly the push and its header.
        assert_eq!((delta("sends_total"), at("sends_total", edge)), (1, 1));
        assert_eq!(delta("sent_bytes_total"), 2 + PUSH.len() as u64);
        assert!(at("ring_enters_total", edge) >= 1);
        assert_eq!(after.sum("tail_bytes"), 0, "nobody lags");
        seen[usize::from(remote)] = true;
    }
}

/// Metrics when nothing more is on the way: the counters of work are the same twice.
fn settled(broker: &Broker) -> Metrics {
    let work = |metrics: &Metrics| {
        [
            "lane_frames_total",
            "sends_total",
            "upstream_acks_total",
            "publications_total",
        ]
        .map(|name| metrics.sum(name))
    };
    let mut last = broker.metrics();
    support::until("a quiet broker", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = broker.metrics();
        let quiet = work(&now) == work(&last);
        let before = std::mem::replace(&mut last, now);
        quiet.then_some(before)
    })
}

#[test]
fn a_burst_costs_one_send_per_socket_and_turn() {
    const SOCKETS: u64 = 50;
    const BURST: u64 = 200;
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut clients: Vec<Client> = (0..SOCKETS)
        .map(|_| {
            let mut client = Client::connect(broker.clients);
            client.subscribe("burst");
            client
        })
        .collect();
    let mut upstream = broker.upstream();
    let before = settled(&broker);
    let message = Message::new(Content::Json, PAYLOAD, AckLevel::None);
    for _ in 0..BURST {
        upstream.send("burst", &message).unwrap();
    }
    upstream.flush().unwrap();
    for client in &mut clients {
        for offset in 1..=BURST {
            assert_eq!(client.push().offset, offset);
        }
    }
    let after = settled(&broker);
    let delta = |name: &str| after.sum(name) - before.sum(name);
    assert_eq!(delta("deliveries_total"), SOCKETS * BURST);
    // The burst comes in a few reads; each is at most one turn of the home, and of the others.
    let sends = delta("sends_total");
    assert!(
        sends <= SOCKETS * BURST / 10,
        "{sends} sends for a burst of {BURST} to {SOCKETS} sockets"
    );
}
