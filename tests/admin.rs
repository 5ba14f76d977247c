//! The admin listener tells operators the truth, in the forms they expect.

mod service;

use ringcast::base::reason::CloseReason;
use service::{Harness, Options, Raw, eventually};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: admin\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// Every shard has just made a turn.
fn turn(harness: &Harness) {
    for stats in &harness.shard_stats {
        stats.shard.last_turn_ms.set(service::now_ms());
        stats.shard.turns_total.add(1);
    }
}

#[test]
fn a_process_is_ready_when_every_shard_has_started() {
    let harness = Harness::start(Options::default());
    let answer = request(harness.admin, "GET", "/ready");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reasons"][0], "shard 0 has not started");
    turn(&harness);
    let answer = request(harness.admin, "GET", "/ready");
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("ready"))
    );
    assert_eq!(answer.json()["node"], "node-a");
}

#[test]
fn a_shard_that_makes_no_turns_is_reported_by_its_number() {
    let harness = Harness::start(Options::default());
    turn(&harness);
    let answer = request(harness.admin, "GET", "/health");
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("ok"))
    );
    std::thread::sleep(Duration::from_millis(ringcast::limits::STALL_MS + 50));
    harness.shard_stats[0]
        .shard
        .last_turn_ms
        .set(service::now_ms());
    let answer = request(harness.admin, "GET", "/health");
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (503, Some("stalled"))
    );
    let reasons = answer.json()["reasons"].clone();
    assert_eq!(reasons.as_array().unwrap().len(), 1);
    assert!(
        reasons[0]
            .as_str()
            .unwrap()
            .starts_with("shard 1 has made no turn for ")
    );
    assert_eq!(request(harness.admin, "GET", "/ready").status, 503);
}

#[test]
fn a_draining_process_is_healthy_and_not_ready() {
    let harness = Harness::start(Options::default());
    turn(&harness);
    harness.knobs.never_drained.store(true, SeqCst);
    harness.shutdown.store(true, SeqCst);
    let mut answer = request(harness.admin, "GET", "/ready");
    eventually("not ready", || {
        answer = request(harness.admin, "GET", "/ready");
        answer.status == 503
    });
    assert_eq!(answer.json()["reasons"][0], "draining");
    assert_eq!(request(harness.admin, "GET", "/health").status, 200);
}

#[test]
fn what_is_not_there_is_refused_in_words() {
    let harness = Harness::start(Options::default());
    let answer = request(harness.admin, "GET", "/metric");
    assert_eq!(
        (answer.status, answer.body.contains("/metrics")),
        (404, true)
    );
    let answer = request(harness.admin, "POST", "/ready");
    assert_eq!(
        (answer.status, answer.body.contains("use GET")),
        (405, true)
    );
    assert!(answer.head.contains("\r\nallow: get, head"));
    let answer = request(harness.admin, "HEAD", "/metrics");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let mut noise = TcpStream::connect(harness.admin).unwrap();
    noise.write_all(&[0xff; 4096]).unwrap();
    let mut rest = Vec::new();
    let _ = noise.read_to_end(&mut rest);
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
        "{rest:?}"
    );
    assert_eq!(request(harness.admin, "GET", "/health").status, 200);
}

#[test]
fn an_idle_peer_does_not_keep_others_from_the_metrics() {
    let harness = Harness::start(Options::default());
    let _idle: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(harness.admin).unwrap())
        .collect();
    assert_eq!(request(harness.admin, "GET", "/metrics").status, 200);
}

/// What `promtool check metrics` finds fault with, apart from the choice of names.
fn lint(page: &str) -> HashMap<String, f64> {
    let (mut samples, mut kinds, mut helped) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help has a text");
            assert!(!help.trim().is_empty(), "{line}");
            assert!(
                helped.insert(name.to_owned(), ()).is_none(),
                "two blocks of {name}"
            );
            family = name.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family, "HELP and TYPE stand together");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            for unit in [
                "_ms",
                "_us",
                "_ns",
                "_ms_total",
                "_ns_total",
                "_kb",
                "_milliseconds",
            ] {
                assert!(!name.ends_with(unit), "{name}: not a base unit");
            }
            kinds.insert(name.to_owned(), kind.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let name = series.split('{').next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|stem| kinds.get(*stem).is_some_and(|kind| kind == "histogram"));
        assert_eq!(
            of_histogram.unwrap_or(name),
            family,
            "samples stand in their block"
        );
        assert!(
            samples
                .insert(series.to_owned(), value.parse().unwrap())
                .is_none(),
            "{series}"
        );
    }
    samples
}

#[test]
fn metrics_are_the_shards_statistics_in_base_units() {
    let harness = Harness::start(Options::default());
    turn(&harness);
    let stats = &harness.shard_stats[1];
    stats.shard.deliveries_total.add(7);
    stats.shard.connections.set(3);
    stats.closed(CloseReason::NoPong);
    stats.turn(30_000);
    stats.turn(2_000_000_000);
    let answer = request(harness.admin, "GET", "/metrics");
    assert!(
        answer
            .head
            .contains("\r\ncontent-type: text/plain; version=0.0.4")
    );
    let samples = lint(&answer.body);
    for (series, value) in [
        ("ringcast_deliveries_total{shard=\"1\"}", 7.0),
        ("ringcast_deliveries_total{shard=\"0\"}", 0.0),
        ("ringcast_connections{shard=\"1\"}", 3.0),
        ("ringcast_closes_total{shard=\"1\",reason=\"no_pong\"}", 1.0),
        ("ringcast_closes_total{shard=\"0\",reason=\"no_pong\"}", 0.0),
        (
            "ringcast_turn_duration_seconds_bucket{shard=\"1\",le=\"0.000025\"}",
            0.0,
        ),
        (
            "ringcast_turn_duration_seconds_bucket{shard=\"1\",le=\"0.00005\"}",
            1.0,
        ),
        (
            "ringcast_turn_duration_seconds_bucket{shard=\"1\",le=\"0.25\"}",
            1.0,
        ),
        (
            "ringcast_turn_duration_seconds_bucket{shard=\"1\",le=\"+Inf\"}",
            2.0,
        ),
        ("ringcast_turn_duration_seconds_count{shard=\"1\"}", 2.0),
        ("ringcast_turn_duration_seconds_sum{shard=\"1\"}", 2.00003),
        ("ringcast_turn_busy_seconds_total{shard=\"1\"}", 2.00003),
        ("ringcast_upstream_connections", 0.0),
        ("ringcast_draining", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(samples["ringcast_turn_age_seconds{shard=\"0\"}"] < 5.0);
}

#[test]
fn metrics_count_what_upstream_services_do() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    raw.send(&ringcast::wire::upstream::Frame::Ping {
        request: 1,
        body: b"",
    });
    raw.next(|_| ());
    let samples = lint(&request(harness.admin, "GET", "/metrics").body);
    assert_eq!(samples["ringcast_upstream_connections"], 1.0);
    assert_eq!(samples["ringcast_upstream_accepts_total"], 1.0);
    assert_eq!(samples["ringcast_upstream_frames_total"], 1.0);
    assert_eq!(samples["ringcast_upstream_bytes_total"], 16.0);
    drop(raw);
    eventually("the connection is gone", || {
        harness.stats.upstream_connections.read() == 0
    });
}
