//! The upstream listener keeps what `docs/upstream-protocol.md` promises.

mod service;

use ringcast::base::{Content, Epoch, Offset};
use ringcast::service::{Drained, Key, UpstreamLimits};
use ringcast::wire::upstream::{AckLevel, ErrorCode, Extras, Frame, HelloAuth, Rooms};
use service::{Harness, Options, Raw, Taken, eventually};
use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn publish<'a>(request: u64, room: &'a str, level: AckLevel, payload: &'a [u8]) -> Frame<'a> {
    Frame::Publish {
        request,
        room,
        level,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras::default(),
        payload,
    }
}

fn ack(raw: &mut Raw) -> (u64, AckLevel, bool, Epoch, Offset) {
    raw.next(|frame| match frame {
        Frame::Ack {
            request,
            level,
            duplicate,
            epoch,
            offset,
        } => (request, level, duplicate, epoch, offset),
        other => panic!("{other:?}"),
    })
}

fn with_key() -> Options {
    Options {
        keys: vec![Key {
            id: "k1".to_owned(),
            secret: b"secret".to_vec(),
        }],
        ..Options::default()
    }
}

#[test]
fn a_service_that_proves_its_key_is_welcome() {
    let harness = Harness::start(with_key());
    let mut raw = Raw::connect(harness.upstream);
    let challenge = raw.challenge();
    raw.hello_with(&challenge, "k1", b"secret");
    assert_eq!(
        raw.welcome() as usize,
        UpstreamLimits::default().frame_bytes_max
    );
    assert_eq!(raw.credit, UpstreamLimits::default().credit_window_bytes);
    raw.send(&publish(1, "room", AckLevel::Sequenced, b"1"));
    assert_eq!(ack(&mut raw).0, 1);
    let again = Raw::connect(harness.upstream).challenge();
    assert_ne!(challenge, again, "a recorded HELLO is worth nothing");
}

#[test]
fn a_service_that_does_not_prove_a_key_is_refused() {
    let harness = Harness::start(with_key());
    for (key_id, secret) in [("k1", b"wrong!"), ("k2", b"secret")] {
        let mut raw = Raw::connect(harness.upstream);
        let challenge = raw.challenge();
        raw.hello_with(&challenge, key_id, secret);
        assert_eq!(raw.error(), (99, ErrorCode::Unauthorised));
        raw.closed();
    }
    let mut raw = Raw::connect(harness.upstream);
    raw.challenge();
    raw.hello("tests", HelloAuth::None);
    assert_eq!(raw.error(), (99, ErrorCode::Unauthorised));
    raw.closed();
    let mut raw = Raw::connect(harness.upstream);
    raw.challenge();
    raw.send(&publish(1, "room", AckLevel::None, b"1"));
    assert_eq!(raw.error().1, ErrorCode::Unauthorised);
    raw.closed();
    assert_eq!(harness.taken(), []);
}

#[test]
fn the_opening_has_one_deadline_for_all_its_steps() {
    let harness = Harness::start(Options {
        limits: UpstreamLimits {
            opening_ms: 300,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    let mut raw = Raw::connect(harness.upstream);
    let since = Instant::now();
    raw.challenge();
    let mut hello = Vec::new();
    let frame = Frame::Hello {
        request: 1,
        service: "tests",
        auth: HelloAuth::None,
    };
    frame.encode(&mut hello);
    // A byte now and then does not move the deadline.
    for byte in &hello[..4] {
        raw.send_bytes(&[*byte]);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(raw.error(), (0, ErrorCode::Unauthorised));
    raw.closed();
    let took = since.elapsed();
    assert!(
        took >= Duration::from_millis(290) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[test]
fn noise_before_the_welcome_is_answered_and_closed() {
    let harness = Harness::start(Options::default());
    for (noise, code) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], ErrorCode::Malformed),
        (&[0xff; 64], ErrorCode::Malformed),
        (
            &[12, 0, 0, 0, 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ErrorCode::Unsupported,
        ),
    ] {
        let mut raw = Raw::connect(harness.upstream);
        raw.challenge();
        raw.send_bytes(noise);
        assert_eq!(raw.error().1, code);
        raw.closed();
    }
    Raw::open(harness.upstream);
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let harness = Harness::start(Options {
        limits: UpstreamLimits {
            conns_max: 1,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    let first = Raw::open(harness.upstream);
    let mut second = Raw::connect(harness.upstream);
    assert_eq!(second.error(), (0, ErrorCode::Overloaded));
    second.closed();
    drop(first);
    eventually("the place is free again", || {
        harness.stats.upstream_connections.read() == 0
    });
    Raw::open(harness.upstream);
}

#[test]
fn not_every_connection_beyond_the_limit_is_told() {
    let harness = Harness::start(Options {
        limits: UpstreamLimits {
            conns_max: 0,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    let most = ringcast::limits::UPSTREAM_GOODBYES_MAX;
    let raws: Vec<Raw> = (0..2 * most)
        .map(|_| Raw::connect(harness.upstream))
        .collect();
    let mut told = 0;
    for mut raw in raws {
        if raw.fill() {
            assert_eq!(raw.error(), (0, ErrorCode::Overloaded));
            told += 1;
        }
    }
    assert!(told >= most && told < 2 * most, "{told} were told");
}

#[test]
fn each_level_is_acknowledged_as_its_name_says() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    raw.send(&publish(1, "room", AckLevel::None, b"1"));
    raw.send(&publish(2, "room", AckLevel::Accepted, b"2"));
    raw.send(&publish(3, "room", AckLevel::Sequenced, b"3"));
    raw.send(&publish(4, "room", AckLevel::Replicated, b"4"));
    raw.send(&publish(0, "room", AckLevel::Sequenced, b"5"));
    raw.send(&publish(6, "room", AckLevel::Sequenced, b"6"));
    let none = (false, Epoch(0), Offset(0));
    assert_eq!(
        ack(&mut raw),
        (2, AckLevel::Accepted, none.0, none.1, none.2)
    );
    let mut answers = Vec::new();
    // The refusal need not wait for the shard.
    for _ in 0..3 {
        answers.push(raw.next(|frame| match frame {
            Frame::Ack {
                request,
                offset,
                epoch,
                ..
            } => (request, Ok((epoch, offset))),
            Frame::Error { request, code, .. } => (request, Err(code)),
            other => panic!("{other:?}"),
        }));
    }
    answers.sort_by_key(|answer| answer.0);
    let sequenced = |offset| Ok((Epoch(7), Offset(offset)));
    assert_eq!(
        answers,
        [
            (3, sequenced(3)),
            (4, Err(ErrorCode::LevelUnavailable)),
            (6, sequenced(5))
        ]
    );
    let payloads: Vec<_> = harness
        .taken()
        .into_iter()
        .map(|taken| taken.payload)
        .collect();
    assert_eq!(payloads, [b"1", b"2", b"3", b"5", b"6"]);
}

#[test]
fn acknowledgements_come_in_the_order_of_the_requests() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    for request in 1..=300 {
        let level = [AckLevel::Sequenced, AckLevel::Accepted][usize::from(request % 3 == 0)];
        raw.send(&publish(
            request,
            ["a", "b", "c"][request as usize % 3],
            level,
            b"{}",
        ));
    }
    harness.knobs.hold.store(false, SeqCst);
    let requests: Vec<u64> = (0..300).map(|_| ack(&mut raw).0).collect();
    assert_eq!(requests, (1..=300).collect::<Vec<_>>());
}

#[test]
fn a_broadcast_has_one_acknowledgement_when_every_room_has_answered() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    let names: Vec<String> = (0..100).map(|index| format!("room-{index}")).collect();
    let rooms: Vec<&str> = names.iter().map(String::as_str).collect();
    let broadcast = |request, level| Frame::Broadcast {
        request,
        level,
        content: Content::Json,
        skip_history: true,
        key: Some([9; 16]),
        extras: Extras::default(),
        rooms: Rooms::new(&rooms),
        payload: b"[1]",
    };
    harness.knobs.hold.store(true, SeqCst);
    raw.send(&broadcast(1, AckLevel::Sequenced));
    raw.send(&broadcast(2, AckLevel::Accepted));
    raw.stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let early = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ack(&mut raw)));
    assert!(
        early.is_err(),
        "acknowledged before the rooms answered: {early:?}"
    );
    raw.stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    harness.knobs.hold.store(false, SeqCst);
    let nowhere = (Epoch(0), Offset(0));
    assert_eq!(
        ack(&mut raw),
        (1, AckLevel::Sequenced, false, nowhere.0, nowhere.1)
    );
    assert_eq!(
        ack(&mut raw),
        (2, AckLevel::Accepted, false, nowhere.0, nowhere.1)
    );
    raw.send(&broadcast(3, AckLevel::Sequenced));
    assert_eq!(
        ack(&mut raw),
        (3, AckLevel::Sequenced, true, nowhere.0, nowhere.1)
    );
    let taken = harness.taken();
    assert_eq!(taken.len(), 300);
    for name in &names {
        assert_eq!(taken.iter().filter(|taken| taken.room == *name).count(), 3);
    }
}

#[test]
fn an_idempotency_key_reaches_the_home_and_its_answer_the_service() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    let frame = |request| Frame::Publish {
        request,
        room: "room",
        level: AckLevel::Sequenced,
        content: Content::Text,
        skip_history: true,
        key: Some([5; 16]),
        extras: Extras::default(),
        payload: b"not JSON",
    };
    raw.send(&frame(1));
    assert_eq!(
        ack(&mut raw),
        (1, AckLevel::Sequenced, false, Epoch(7), Offset(1))
    );
    raw.send(&frame(2));
    assert_eq!(
        ack(&mut raw),
        (2, AckLevel::Sequenced, true, Epoch(7), Offset(1))
    );
    let expected = Taken {
        room: "room".to_owned(),
        payload: b"not JSON".to_vec(),
        key: Some([5; 16]),
        skip_history: true,
    };
    assert_eq!(harness.taken(), [expected.clone(), expected]);
}

#[test]
fn a_refused_frame_harms_no_other() {
    let limits = UpstreamLimits {
        frame_bytes_max: 2_000,
        ..UpstreamLimits::default()
    };
    let harness = Harness::start(Options {
        limits,
        ..Options::default()
    });
    let mut raw = Raw::open(harness.upstream);
    let mut unknown = Vec::new();
    publish(3, "room", AckLevel::None, b"{}").encode(&mut unknown);
    unknown[4] = 0x33;
    let long = format!("\"{}\"", "x".repeat(5_000));
    raw.send(&publish(1, "room", AckLevel::Accepted, b"{\"a\":"));
    raw.send(&publish(2, "room", AckLevel::Accepted, long.as_bytes()));
    raw.send_bytes(&unknown);
    raw.send(&Frame::Credit { total: 1 });
    raw.send(&publish(5, "full", AckLevel::Sequenced, b"{}"));
    raw.send(&publish(6, "room", AckLevel::Sequenced, b"{}"));
    raw.send(&Frame::Ping {
        request: 7,
        body: b"still there?",
    });
    let mut answers = Vec::new();
    for _ in 0..7 {
        answers.push(raw.next(|frame| match frame {
            Frame::Error { request, code, .. } => (request, Some(code)),
            Frame::Ack { request, .. } => (request, None),
            Frame::Pong { request, body } => {
                assert_eq!(body, b"still there?");
                (request, None)
            }
            other => panic!("{other:?}"),
        }));
    }
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(
        answers,
        [
            (0, Some(ErrorCode::Unsupported)),
            (1, Some(ErrorCode::InvalidPayload)),
            (2, Some(ErrorCode::TooLarge)),
            (3, Some(ErrorCode::Unsupported)),
            (5, Some(ErrorCode::Overloaded)),
            (6, None),
            (7, None),
        ]
    );
}

#[test]
fn malformed_bytes_close_the_connection_and_only_that() {
    let harness = Harness::start(Options::default());
    let mut other = Raw::open(harness.upstream);
    for (bytes, code) in [
        (vec![0xff; 32], ErrorCode::Malformed),
        (vec![3, 0, 0, 0], ErrorCode::Malformed),
    ] {
        let mut raw = Raw::open(harness.upstream);
        raw.send_bytes(&bytes);
        assert_eq!(raw.error().1, code);
        raw.closed();
    }
    other.send(&publish(1, "room", AckLevel::Sequenced, b"{}"));
    assert_eq!(ack(&mut other).0, 1);
}

#[test]
fn a_service_that_overruns_its_credit_is_closed() {
    let harness = Harness::start(Options {
        limits: UpstreamLimits {
            credit_window_bytes: 8_000,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    let mut raw = Raw::open(harness.upstream);
    let mut frames = Vec::new();
    while frames.len() < 200_000 {
        publish(0, "room", AckLevel::None, b"{}").encode(&mut frames);
    }
    // One write: what is read of it at once exceeds the credit by far.
    raw.send_bytes(&frames);
    assert_eq!(raw.error(), (0, ErrorCode::OverCredit));
    raw.closed();
    // A length beyond the credit and any frame is not waited for.
    let mut raw = Raw::open(harness.upstream);
    let mut header = 2_000_000_000_u32.to_le_bytes().to_vec();
    header.extend_from_slice(&[2, 0, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    raw.send_bytes(&header);
    assert_eq!(raw.error(), (8, ErrorCode::OverCredit));
    raw.closed();
    Raw::open(harness.upstream);
}

#[test]
fn a_full_lane_stalls_its_publishers_and_loses_and_reorders_nothing() {
    const COUNT: u64 = 100_000;
    let harness = Harness::start(Options {
        shards: 1,
        lane_bytes: 64 * 1024,
        limits: UpstreamLimits {
            frame_bytes_max: 16 * 1024,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    harness.knobs.pause_us.store(200, SeqCst);
    let mut raw = Raw::open(harness.upstream);
    let mut writer = raw.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        for request in 1..=COUNT {
            let level = if request % 1_000 == 0 {
                AckLevel::Sequenced
            } else {
                AckLevel::None
            };
            let payload = request.to_string();
            publish(request, "room", level, payload.as_bytes()).encode(&mut bytes);
            // All within the credit of 4 MiB.
            if bytes.len() > 32 * 1024 {
                writer.write_all(&bytes).unwrap();
                bytes.clear();
            }
        }
        writer.write_all(&bytes).unwrap();
    });
    for expected in 1..=COUNT / 1_000 {
        let (request, _, _, _, offset) = ack(&mut raw);
        assert_eq!(
            (request, offset),
            (expected * 1_000, Offset(expected * 1_000))
        );
    }
    sender.join().unwrap();
    assert!(
        harness.stats.upstream_stalls_total.read() > 0,
        "the lane was never full"
    );
    let taken = harness.taken();
    assert_eq!(taken.len() as u64, COUNT);
    for (index, taken) in taken.iter().enumerate() {
        assert_eq!(taken.payload, (index + 1).to_string().as_bytes());
    }
}

#[test]
fn a_broadcast_that_finds_a_lane_full_reaches_each_room_once() {
    let harness = Harness::start(Options {
        shards: 1,
        lane_bytes: 16 * 1024,
        ..Options::default()
    });
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    let names: Vec<String> = (0..500).map(|index| format!("room-{index}")).collect();
    let rooms: Vec<&str> = names.iter().map(String::as_str).collect();
    raw.send(&Frame::Broadcast {
        request: 1,
        level: AckLevel::Sequenced,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras::default(),
        rooms: Rooms::new(&rooms),
        payload: b"{}",
    });
    eventually("the lane is full", || {
        harness.stats.upstream_stalls_total.read() > 0
    });
    harness.knobs.hold.store(false, SeqCst);
    assert_eq!(ack(&mut raw).0, 1);
    let taken: Vec<String> = harness
        .taken()
        .into_iter()
        .map(|taken| taken.room)
        .collect();
    assert_eq!(taken, names);
}

#[test]
fn a_service_may_send_as_much_as_its_credit_grows() {
    let harness = Harness::start(Options {
        limits: UpstreamLimits {
            credit_window_bytes: 10_000,
            ..UpstreamLimits::default()
        },
        ..Options::default()
    });
    let mut raw = Raw::open(harness.upstream);
    let mut frame = Vec::new();
    publish(
        0,
        "room",
        AckLevel::None,
        b"{\"some\":\"payload of a usual size\"}",
    )
    .encode(&mut frame);
    let mut sent = 0;
    for _ in 0..5_000 {
        while sent + frame.len() as u64 > raw.credit {
            let before = raw.credit;
            raw.read_credit();
            assert!(
                raw.credit >= before + 2_500,
                "granted by quarters of the window"
            );
        }
        raw.send_bytes(&frame);
        sent += frame.len() as u64;
    }
    eventually("all are taken", || {
        harness.knobs.taken_count.load(SeqCst) == 5_000
    });
}

#[test]
fn a_drain_says_goaway_refuses_newcomers_and_waits_for_the_shards() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    let address = harness.upstream;
    harness.knobs.never_drained.store(true, SeqCst);
    harness.shutdown.store(true, SeqCst);
    raw.next(|frame| match frame {
        Frame::Goaway {
            node: "node-a",
            grace_ms,
        } => assert_eq!(grace_ms, 5_000),
        other => panic!("{other:?}"),
    });
    raw.send(&publish(1, "room", AckLevel::Sequenced, b"{}"));
    assert_eq!(ack(&mut raw).0, 1, "what was begun may be finished");
    eventually("nobody listens", || {
        std::net::TcpStream::connect(address).is_err()
    });
}

#[test]
fn a_drain_ends_when_every_shard_has_drained_and_connections_are_closed() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    let since = Instant::now();
    assert_eq!(harness.drain(), Drained::Completely);
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    raw.next(|frame| assert!(matches!(frame, Frame::Goaway { .. }), "{frame:?}"));
    raw.closed();
}

#[test]
fn a_drain_answers_what_was_sent_before_it() {
    let harness = Harness::start(Options {
        lane_bytes: 16 * 1024,
        ..Options::default()
    });
    let mut raw = Raw::open(harness.upstream);
    // The shards say at once that they have drained; the lanes are too short for all that was sent.
    harness.knobs.hold.store(true, SeqCst);
    for request in 1..=2_000 {
        raw.send(&publish(request, "room", AckLevel::Sequenced, b"{}"));
    }
    harness.shutdown.store(true, SeqCst);
    raw.next(|frame| assert!(matches!(frame, Frame::Goaway { .. }), "{frame:?}"));
    std::thread::sleep(Duration::from_millis(100));
    harness.knobs.hold.store(false, SeqCst);
    for request in 1..=2_000 {
        assert_eq!(ack(&mut raw).0, request);
    }
    raw.closed();
}

#[test]
fn a_drain_gives_up_on_answers_that_do_not_come() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    raw.send(&publish(1, "room", AckLevel::Sequenced, b"{}"));
    let since = Instant::now();
    assert_eq!(harness.drain(), Drained::Completely);
    let took = since.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn a_drain_that_begins_during_the_opening_refuses_the_hello() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::connect(harness.upstream);
    raw.challenge();
    harness.knobs.never_drained.store(true, SeqCst);
    harness.shutdown.store(true, SeqCst);
    eventually("nobody listens", || {
        std::net::TcpStream::connect(harness.upstream).is_err()
    });
    raw.hello("tests", HelloAuth::None);
    assert_eq!(raw.error(), (99, ErrorCode::Draining));
    raw.closed();
}

#[test]
fn a_service_that_has_sent_everything_still_gets_its_answers() {
    let harness = Harness::start(Options::default());
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    raw.send(&publish(1, "room", AckLevel::Sequenced, b"{}"));
    raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    harness.knobs.hold.store(false, SeqCst);
    assert_eq!(ack(&mut raw).0, 1);
    raw.closed();
    eventually("the connection is forgotten", || {
        harness.stats.upstream_connections.read() == 0
    });
}

#[test]
fn a_shard_that_never_drains_does_not_hold_the_process() {
    let harness = Harness::start(Options {
        drain_ms: 300,
        ..Options::default()
    });
    harness.knobs.never_drained.store(true, SeqCst);
    let since = Instant::now();
    assert_eq!(harness.drain(), Drained::DeadlinePassed);
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn the_demo_room_is_sent_its_figures_every_second() {
    let harness = Harness::start(Options {
        demo_room: Some("demo".to_owned()),
        ..Options::default()
    });
    harness.shard_stats[0].shard.connections.set(3);
    eventually("two seconds' figures", || harness.taken().len() >= 2);
    let taken = &harness.taken()[1];
    assert_eq!((taken.room.as_str(), taken.skip_history), ("demo", true));
    let figures: serde_json::Value = serde_json::from_slice(&taken.payload).unwrap();
    assert_eq!(figures["connections"], 3);
    assert!(figures["publications_per_s"].is_u64() && figures["deliveries_per_s"].is_u64());
}
