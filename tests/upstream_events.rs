//! Events reach the services that want them, and every event that wants an answer gets one. Threads play
//! the shards; `tests/hooks.rs` has the whole broker.

mod service;

use ringcast::wire::upstream::{ErrorCode, EventKind, Frame, Names, Verdict};
use service::events::{Given, Sent, info};
use service::{Harness, Options, Raw, eventually};
use std::sync::atomic::Ordering::SeqCst;

fn start() -> Harness {
    Harness::start(Options::default())
}

/// A service that has registered for events of these kinds.
fn registered(
    harness: &Harness,
    kinds: &[EventKind],
    namespaces: &[&str],
    methods: &[&str],
) -> Raw {
    let mut raw = Raw::open(harness.upstream);
    register(&mut raw, kinds, namespaces, methods);
    raw
}

fn register(raw: &mut Raw, kinds: &[EventKind], namespaces: &[&str], methods: &[&str]) {
    let (namespaces, methods) = (Names::list(namespaces), Names::list(methods));
    raw.send(&Frame::Register {
        request: 50,
        events: kinds.iter().fold(0, |bits, kind| bits | kind.bit()),
        namespaces: Names::take(&namespaces).unwrap().0,
        methods: Names::take(&methods).unwrap().0,
    });
    raw.next(|frame| assert!(matches!(frame, Frame::Ack { request: 50, .. }), "{frame:?}"));
}

/// The request id, kind and subject of the next frame, which is an EVENT.
fn event(raw: &mut Raw) -> (u64, EventKind, String) {
    raw.next(|frame| match frame {
        Frame::Event {
            request,
            kind,
            subject,
            ..
        } => (request, kind, subject.to_owned()),
        other => panic!("{other:?}"),
    })
}

fn answer(raw: &mut Raw, request: u64, verdict: Verdict, code: u32, text: &str, result: &str) {
    raw.send(&Frame::Answer {
        request,
        verdict,
        code,
        text,
        result: result.as_bytes(),
    });
}

fn grant(raw: &mut Raw, request: u64) {
    answer(raw, request, Verdict::Result, 0, "", "");
}

/// What a shard is told for want of an answer.
fn without(serial: u32) -> Given {
    Given {
        shard: 0,
        serial,
        verdict: Verdict::TemporaryError,
        code: 100,
        text: "internal server error".into(),
        result: String::new(),
    }
}

fn error(serial: u32, code: u32, text: &str) -> Given {
    Given {
        verdict: Verdict::Error,
        code,
        text: text.into(),
        ..without(serial)
    }
}

#[test]
fn an_event_and_its_answer_are_passed_on_whole() {
    let harness = start();
    let mut raw = registered(&harness, &EventKind::ALL, &[], &[]);
    harness.send_events([Sent {
        shard: 1,
        code: 7,
        text: "js\n5".into(),
        meta: r#"{"shop":7}"#,
        ..Sent::asking(EventKind::Subscribe, 11, "chat:1")
    }]);
    let request = raw.next(|frame| {
        let Frame::Event { request, .. } = frame else {
            panic!("{frame:?}");
        };
        assert!(request > 0);
        let expected = Frame::Event {
            request,
            subject: "chat:1",
            kind: EventKind::Subscribe,
            content: ringcast::base::Content::Json,
            deadline_ms: 300,
            code: 7,
            text: "js\n5",
            info: &info(),
            meta: br#"{"shop":7}"#,
            data: b"[1]",
        };
        assert_eq!(frame, expected);
        request
    });
    answer(&mut raw, request, Verdict::Result, 0, "", r#"{"data":[2]}"#);
    let given = Given {
        shard: 1,
        verdict: Verdict::Result,
        code: 0,
        text: String::new(),
        result: r#"{"data":[2]}"#.into(),
        ..without(11)
    };
    assert_eq!(harness.answers(1), [given]);

    for (serial, verdict, code) in [
        (12, Verdict::Error, 403),
        (13, Verdict::TemporaryError, 503),
        (14, Verdict::Disconnect, 4_501),
    ] {
        harness.send_events([Sent::asking(EventKind::Publish, serial, "chat:1")]);
        let (request, ..) = event(&mut raw);
        answer(&mut raw, request, verdict, code, "not you", "");
        let given = Given {
            verdict,
            code,
            text: "not you".into(),
            ..without(serial)
        };
        assert_eq!(harness.answers(1), [given]);
    }
    assert_eq!(harness.stats.event_answers_total.read(), 4);
}

#[test]
fn without_a_service_for_it_an_event_is_answered_with_the_documented_error() {
    let harness = start();
    harness.send_events([
        Sent::asking(EventKind::Connect, 1, ""),
        Sent::asking(EventKind::Rpc, 2, "sum"),
        Sent::telling(EventKind::Disconnect, ""),
    ]);
    let expected = [without(1), error(2, 108, "not available")];
    assert_eq!(harness.answers(2), expected);
    eventually("the told one counted", || {
        harness.stats.events_dropped_total.read() == 1
    });
    assert_eq!(harness.stats.events_unhandled_total.read(), 2);

    let _raw = registered(&harness, &[EventKind::Rpc], &["chat"], &["sum"]);
    harness.send_events([
        Sent::asking(EventKind::Rpc, 3, "other"),
        Sent::asking(EventKind::Subscribe, 4, "chat:1"),
    ]);
    let expected = [error(3, 104, "method not found"), without(4)];
    assert_eq!(harness.answers(2), expected);
}

#[test]
fn namespaces_and_methods_choose_and_the_latest_registration_counts() {
    let harness = start();
    let mut chat = registered(&harness, &EventKind::ALL, &["chat"], &["sum"]);
    let mut bare = registered(&harness, &EventKind::ALL, &[""], &[]);
    harness.send_events([
        Sent::asking(EventKind::Subscribe, 1, "chat:1"),
        Sent::asking(EventKind::Publish, 2, "$chat:2"),
        Sent::asking(EventKind::SubRefresh, 3, "plain"),
        Sent::asking(EventKind::Rpc, 4, "other"),
        Sent::telling(EventKind::Unsubscribe, "chat:1"),
    ]);
    assert_eq!(event(&mut chat).2, "chat:1");
    assert_eq!(event(&mut chat).2, "$chat:2");
    let told = event(&mut chat);
    assert_eq!((told.0, told.1), (0, EventKind::Unsubscribe), "only told");
    assert_eq!(event(&mut bare).2, "plain");
    assert_eq!(event(&mut bare).2, "other");
    register(&mut chat, &[EventKind::Subscribe], &["news"], &[]);
    harness.send_events([
        Sent::asking(EventKind::Subscribe, 5, "chat:1"),
        Sent::asking(EventKind::Subscribe, 6, "news:1"),
    ]);
    assert_eq!(event(&mut chat).2, "news:1");
    let answers = harness.answers(1);
    assert!(answers.contains(&without(5)), "{answers:?}");
}

#[test]
fn services_are_asked_in_turn_whatever_else_others_are_asked() {
    let harness = start();
    let mut connects = registered(&harness, &[EventKind::Connect], &[], &[]);
    let mut calls = [
        registered(&harness, &[EventKind::Rpc], &[], &[]),
        registered(&harness, &[EventKind::Rpc], &[], &[]),
    ];
    for round in 0..6 {
        harness.send_events([
            Sent::asking(EventKind::Connect, 2 * round, ""),
            Sent::asking(EventKind::Rpc, 2 * round + 1, "sum"),
        ]);
        let (request, ..) = event(&mut connects);
        grant(&mut connects, request);
        let raw = &mut calls[round as usize % 2];
        let (request, kind, _) = event(raw);
        assert_eq!(kind, EventKind::Rpc);
        grant(raw, request);
        harness.answers(2);
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_is_done_without_and_ignored_later() {
    let harness = start();
    let mut raw = registered(&harness, &[EventKind::Connect], &[], &[]);
    harness.send_events([Sent::asking(EventKind::Connect, 1, "")]);
    let (request, ..) = event(&mut raw);
    assert_eq!(harness.answers(1), [without(1)]);
    assert_eq!(harness.stats.event_timeouts_total.read(), 1);
    grant(&mut raw, request);
    grant(&mut raw, 12_345);
    eventually("late answers counted", || {
        harness.stats.late_answers_total.read() == 2
    });
    assert!(harness.knobs.answers.lock().unwrap().is_empty());
    // Another connection's request id is nobody else's to answer.
    let mut other = Raw::open(harness.upstream);
    harness.send_events([Sent::asking(EventKind::Connect, 2, "")]);
    let (request, ..) = event(&mut raw);
    grant(&mut other, request);
    eventually("a stranger's answer counted", || {
        harness.stats.late_answers_total.read() == 3
    });
    grant(&mut raw, request);
    assert_eq!(harness.answers(1)[0].verdict, Verdict::Result);
}

#[test]
fn a_service_that_goes_away_leaves_its_events_answered() {
    let harness = start();
    let mut raw = registered(&harness, &[EventKind::Connect], &[], &[]);
    harness.send_events((1..=3).map(|serial| Sent::asking(EventKind::Connect, serial, "")));
    for _ in 0..3 {
        event(&mut raw);
    }
    drop(raw);
    let mut answers = harness.answers(3);
    answers.sort_by_key(|given| given.serial);
    assert_eq!(answers, [without(1), without(2), without(3)]);
    let stats = &harness.stats;
    let counts = (
        stats.events_abandoned_total.read(),
        stats.event_timeouts_total.read(),
    );
    assert_eq!(counts, (3, 0), "gone, not late");
}

#[test]
fn an_answer_that_no_client_can_be_given_is_refused_and_the_client_gets_an_error() {
    let harness = start();
    let mut raw = registered(&harness, &EventKind::ALL, &[], &[]);
    let long = "x".repeat(124);
    let wrong = [
        (Verdict::Result, 0, "", "[]"),
        (Verdict::Result, 0, "", r#"{"info":1,"b64info":"%"}"#),
        (Verdict::Result, 0, "", r#"{"expire_at":"soon"}"#),
        (Verdict::Error, 99, "no", ""),
        (Verdict::Error, 2_000, "no", ""),
        (Verdict::TemporaryError, 403, "", ""),
        (Verdict::Disconnect, 1_000, "away", ""),
        (Verdict::Disconnect, 5_000, "away", ""),
        (Verdict::Disconnect, 4_000, "", ""),
        (Verdict::Disconnect, 4_000, r#"{"code":1}"#, ""),
        (Verdict::Disconnect, 4_000, &long, ""),
    ];
    for (serial, (verdict, code, text, result)) in wrong.into_iter().enumerate() {
        let serial = serial as u32;
        harness.send_events([Sent::asking(EventKind::Subscribe, serial, "room")]);
        let (request, ..) = event(&mut raw);
        answer(&mut raw, request, verdict, code, text, result);
        assert_eq!(raw.error(), (request, ErrorCode::InvalidPayload), "{text}");
        assert_eq!(harness.answers(1), [without(serial)], "{text}");
    }
    let counted = harness.stats.event_answers_invalid_total.read();
    assert_eq!(counted, wrong.len() as u64);
}

#[test]
fn a_registration_beyond_its_bounds_closes_the_connection() {
    let harness = start();
    let names = |count: u16, length: u16| {
        let mut list = count.to_le_bytes().to_vec();
        for _ in 0..count {
            list.extend(length.to_le_bytes());
            list.resize(list.len() + usize::from(length), b'x');
        }
        list
    };
    for lists in [
        [names(257, 1), names(0, 0)],
        [names(0, 0), names(257, 1)],
        [names(1, 256), names(0, 0)],
    ] {
        let body = [1_u32.to_le_bytes().to_vec(), lists.concat()].concat();
        let mut bytes = (12 + body.len() as u32).to_le_bytes().to_vec();
        bytes.extend([4, 0, 0, 0]);
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(body);
        let mut raw = Raw::open(harness.upstream);
        raw.send_bytes(&bytes);
        assert_eq!(raw.error(), (7, ErrorCode::Malformed));
        raw.closed();
    }
    let longest = ["x".repeat(255)];
    let names: Vec<&str> = longest.iter().map(String::as_str).collect();
    registered(&harness, &EventKind::ALL, &vec![names[0]; 256], &[]);
}

#[test]
fn a_service_that_does_not_read_is_passed_over_and_its_calls_are_not_called_unknown() {
    let harness = start();
    let kinds = [EventKind::Message, EventKind::Rpc];
    let stuck = registered(&harness, &kinds, &[], &["sum"]);
    let large = || Sent {
        data: format!("\"{}\"", "x".repeat(60_000)).into_bytes(),
        ..Sent::telling(EventKind::Message, "")
    };
    // Until socket and output are full: of a whole round nothing is taken.
    let stats = &harness.stats;
    eventually("a round that finds no taker", || {
        let (events, dropped) = (stats.events_total.read(), stats.events_dropped_total.read());
        harness.send_events((0..20).map(|_| large()));
        eventually("the round", || stats.events_total.read() == events + 20);
        stats.events_dropped_total.read() == dropped + 20
    });
    harness.send_events([Sent::asking(EventKind::Rpc, 1, "sum")]);
    assert_eq!(harness.answers(1), [without(1)], "for now");
    let counts = (
        stats.events_unhandled_total.read(),
        stats.event_timeouts_total.read(),
    );
    assert_eq!(counts, (1, 0), "passed over, not asked");
    let mut other = registered(&harness, &[EventKind::Rpc], &[], &[]);
    harness.send_events([Sent::asking(EventKind::Rpc, 2, "sum")]);
    let (request, ..) = event(&mut other);
    grant(&mut other, request);
    assert_eq!(harness.answers(1)[0].verdict, Verdict::Result);
    drop(stuck);
}

#[test]
fn answers_wait_for_lanes_and_none_is_lost() {
    let harness = Harness::start(Options {
        shards: 1,
        ..Options::default()
    });
    let mut raw = registered(&harness, &[EventKind::Rpc], &[], &[]);
    let count = 200;
    // Answers of 60 kB each: far more than a lane holds, to a shard that takes its time.
    harness.knobs.pause_us.store(20_000, SeqCst);
    let result = format!(r#"{{"data":"{}"}}"#, "x".repeat(60_000));
    for serial in 0..count {
        harness.send_events([Sent::asking(EventKind::Rpc, serial, "sum")]);
    }
    for _ in 0..count {
        let (request, ..) = event(&mut raw);
        answer(&mut raw, request, Verdict::Result, 0, "", &result);
    }
    let mut serials: Vec<u32> = harness
        .answers(count as usize)
        .iter()
        .map(|given| given.serial)
        .collect();
    serials.sort_unstable();
    assert!(serials.into_iter().eq(0..count), "each once");
}
