//! The server API tells who may use it, and stays within its bounds whatever peers and shards do.

mod service;

use ringcast::limits;
use serde_json::json;
use service::http::Peer;
use service::{Harness, Options};
use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn open() -> (Harness, Peer) {
    let harness = Harness::start(Options {
        api_insecure: true,
        ..Options::default()
    });
    let peer = Peer::connect(harness.admin);
    (harness, peer)
}

#[test]
fn only_who_knows_a_key_may() {
    let options = |keys: &[&str], insecure| Options {
        api_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        api_insecure: insecure,
        ..Options::default()
    };
    let status = |harness: &Harness, line: &str, fields: &[&str]| {
        let mut peer = Peer::connect(harness.admin);
        peer.send(line, fields, b"{}");
        peer.answer().status
    };
    let harness = Harness::start(options(&["k1", "k2"], false));
    for (line, fields, expected) in [
        ("POST /api/info", &["X-API-Key: k1"][..], 200),
        ("POST /api/info", &["X-API-Key: k2"], 200),
        ("POST /api/info", &["Authorization: apikey k2"], 200),
        ("POST /api/info?api_key=k1", &[], 200),
        ("POST /api/info?api_key=%6b1", &[], 200),
        ("POST /api/info", &[], 401),
        ("POST /api/info", &["X-API-Key: k"], 401),
        ("POST /api/info", &["X-API-Key:"], 401),
        ("POST /api/info", &["Authorization: Bearer k1"], 401),
        ("POST /api/info?api_key=k3", &[], 401),
        ("POST /api/nothing", &[], 401),
    ] {
        assert_eq!(
            status(&harness, line, fields),
            expected,
            "{line} {fields:?}"
        );
    }
    assert_eq!(harness.stats.api_unauthorized_total.read(), 6);
    assert_eq!(harness.stats.api_requests_total.read(), 5);
    let closed = Harness::start(options(&[], false));
    assert_eq!(status(&closed, "POST /api/info", &["X-API-Key: "]), 401);
    let open = Harness::start(options(&[], true));
    assert_eq!(status(&open, "POST /api/info", &[]), 200);
}

#[test]
fn callers_may_have_errors_as_statuses() {
    let (_harness, mut peer) = open();
    for (method, body, status, code) in [
        ("rpc", "{\"method\":\"m\"}", 400, 108),
        ("nothing", "{}", 404, 104),
        ("publish", "{\"channel\":\"none:x\",\"data\":1}", 404, 102),
        ("publish", "{}", 400, 107),
        ("publish", "{\"channel\":\"full\",\"data\":1}", 500, 100),
        (
            "history",
            "{\"channel\":\"a\",\"since\":{\"epoch\":\"x\"}}",
            416,
            112,
        ),
    ] {
        let mode = ["X-Centrifugo-Error-Mode: transport"];
        let answer = peer.call_with(method, &mode, body.as_bytes());
        assert_eq!((answer.status, answer.code()), (status, code), "{method}");
        let answer = peer.call_with(method, &[], body.as_bytes());
        assert_eq!((answer.status, answer.code()), (200, code), "{method}");
    }
}

#[test]
fn what_is_no_request_of_the_api_is_refused_in_words() {
    let (harness, mut peer) = open();
    for body in [
        &b""[..],
        b"{",
        b"nonsense",
        b"{} {}",
        b"{\"a\":\"\xff\"}",
        b"'x'",
    ] {
        let answer = peer.call_with("publish", &[], body);
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
    peer.send("GET /api/info", &[], b"");
    let answer = peer.answer();
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("\r\nallow: post\r\n"));
    let mut peer = Peer::connect(harness.admin);
    let length = format!("content-length: {}", limits::API_BODY_MAX + 1);
    write!(
        peer.0,
        "POST /api/info HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n"
    )
    .unwrap();
    // What the head announces is refused before it is sent, or once it is.
    let _ = peer.0.write_all(&vec![b' '; limits::API_BODY_MAX + 1]);
    assert_eq!(peer.answer().status, 413);
}

#[test]
fn a_body_of_the_largest_size_is_read() {
    let (_harness, mut peer) = open();
    let mut body = br#"{"channel":"a","data":1}"#.to_vec();
    body.resize(limits::API_BODY_MAX, b' ');
    assert_eq!(peer.call_with("publish", &[], &body).status, 200);
    let data = "x".repeat(limits::API_PAYLOAD_MAX - 2);
    let answer = peer.call("publish", &json!({"channel": "a", "data": data}));
    assert_eq!(answer.json()["result"]["offset"], 2);
}

#[test]
fn a_shard_that_does_not_answer_is_an_error_in_time() {
    let (harness, mut peer) = open();
    let begin = Instant::now();
    let mut others: Vec<Peer> = (0..4).map(|_| Peer::connect(harness.admin)).collect();
    peer.call("info", &json!({}));
    peer.send(
        "POST /api/publish",
        &[],
        br#"{"channel":"silent","data":1}"#,
    );
    others[0].send("POST /api/history", &[], br#"{"channel":"silent"}"#);
    let batch = br#"{"commands":[{"publish":{"channel":"silent","data":1}},{"publish":{"channel":"late","data":1}},{"info":{}}]}"#;
    others[1].send("POST /api/batch", &[], batch);
    // Meanwhile others are served.
    let answer = others[3].call("publish", &json!({"channel": "a", "data": 1}));
    assert_eq!(answer.json()["result"]["offset"], 1);
    assert!(begin.elapsed() < Duration::from_secs(3));
    assert_eq!(peer.answer().code(), 100);
    assert_eq!(others[0].answer().code(), 100);
    let replies = others[1].answer().json();
    assert_eq!(replies["result"]["replies"][0]["error"]["code"], 100);
    // What comes too late to be waited for is not begun.
    assert_eq!(replies["result"]["replies"][1]["error"]["code"], 100);
    assert!(harness.taken().iter().all(|taken| taken.room != "late"));
    assert!(replies["result"]["replies"][2]["info"].is_object());
    let waited = begin.elapsed();
    let deadline = Duration::from_millis(limits::API_DEADLINE_MS);
    assert!(
        waited >= deadline && waited < deadline + Duration::from_secs(3),
        "{waited:?}"
    );
}

#[test]
fn a_lane_that_stays_full_is_an_error_in_time_and_one_that_empties_is_not() {
    let harness = Harness::start(Options {
        api_insecure: true,
        lane_bytes: 64 * 1024,
        shards: 1,
        ..Options::default()
    });
    harness.knobs.hold.store(true, SeqCst);
    let payload = "x".repeat(10_000);
    let body = json!({"channel": "a", "data": payload}).to_string();
    let mut peers: Vec<Peer> = (0..12).map(|_| Peer::connect(harness.admin)).collect();
    for peer in &mut peers {
        peer.send("POST /api/publish", &[], body.as_bytes());
    }
    std::thread::sleep(Duration::from_millis(500));
    harness.knobs.hold.store(false, SeqCst);
    let mut offsets: Vec<u64> = peers
        .iter_mut()
        .map(|peer| peer.answer().json()["result"]["offset"].as_u64().unwrap())
        .collect();
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(1..=12));
    harness.knobs.hold.store(true, SeqCst);
    for peer in &mut peers {
        peer.send("POST /api/publish", &[], body.as_bytes());
    }
    for peer in &mut peers {
        assert_eq!(peer.answer().code(), 100);
    }
}

#[test]
fn requests_of_many_connections_each_get_their_own_answer() {
    let (harness, _) = open();
    let address = harness.admin;
    let threads: Vec<_> = (0..16)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut peer = Peer::connect(address);
                for round in 1..=50 {
                    let channel = format!("room-{thread}");
                    let body = json!({"channel": channel, "data": round});
                    let answer = peer.call("publish", &body).json();
                    assert_eq!(answer["result"]["offset"], round, "{answer}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(harness.stats.api_requests_total.read(), 16 * 50);
    assert_eq!(harness.stats.api_errors_total.read(), 0);
}

#[test]
fn probes_find_a_place_beside_idle_connections() {
    let (harness, _) = open();
    let crowd: Vec<Peer> = (0..limits::ADMIN_CONNS_CROWDED)
        .map(|_| {
            let mut peer = Peer::connect(harness.admin);
            let answer = peer.call("info", &json!({}));
            assert!(!answer.head.contains("connection: close"));
            peer
        })
        .collect();
    let mut one_more = Peer::connect(harness.admin);
    let answer = one_more.call("info", &json!({}));
    assert!(answer.head.contains("\r\nconnection: close\r\n"));
    assert!(one_more.is_closed());
    let mut probe = Peer::connect(harness.admin);
    probe.send("GET /metrics", &[], b"");
    assert_eq!(probe.answer().status, 200);
    assert!(probe.is_closed());
    drop(crowd);
}
