//! Questions of services and what publications say besides their payload, over the upstream protocol.
//! Threads play the shards.

mod service;

use ringcast::base::{ConnId, Content, Epoch, Offset, client_id};
use ringcast::client::{ClientError, HistoryQuery, Message, Refusal, Upstream};
use ringcast::wire::upstream::{
    AckLevel, ErrorCode, Extras, Frame, Query, QueryResult, Rooms, sorted_tags,
};
use service::{Harness, Options, Raw, SEED, eventually};
use std::net::Shutdown;
use std::sync::atomic::Ordering::SeqCst;

fn start() -> Harness {
    Harness::start(Options::default())
}

fn client(harness: &Harness) -> Upstream {
    Upstream::connect(harness.upstream, "tests", None).expect("connected")
}

fn query<'a>(request: u64, name: &'a str, query: Query<'a>) -> Frame<'a> {
    Frame::Query {
        request,
        name,
        query,
    }
}

/// What the shards were asked, in words.
fn asked(harness: &Harness) -> Vec<String> {
    std::mem::take(&mut *harness.knobs.frames.lock().unwrap())
}

/// The request id of the next frame, which is a RESULT.
fn result(raw: &mut Raw) -> u64 {
    raw.next(|frame| match frame {
        Frame::Result { request, .. } => request,
        other => panic!("{other:?}"),
    })
}

#[test]
fn every_question_gets_its_result() {
    let harness = start();
    let mut client = client(&harness);
    let page = client.history("news", &HistoryQuery::default()).unwrap();
    assert!(page.found);
    assert_eq!((page.epoch, page.top), (Epoch(7), Offset(3)));
    let publication = &page.publications[0];
    assert_eq!(publication.offset, Offset(1));
    assert_eq!(publication.data, br#"{"n": 1}"#);
    assert_eq!(publication.tags, [("lang".into(), "en".into())]);
    assert_eq!(publication.publisher, None);

    let present = client.presence("news").unwrap();
    assert_eq!((&*present[0].user, &*present[0].client), ("42", "c1"));
    assert_eq!(
        present[0].conn_info,
        (Content::Json, br#"{"name":"A"}"#.to_vec())
    );
    assert_eq!(client.presence_stats("news").unwrap(), (2, 1));
    client.forget_history("news").unwrap();
    // Two shards, each with the same two channels.
    let channels = client.channels("").unwrap();
    assert_eq!(channels, [("\"q".to_owned(), 2), ("both".to_owned(), 4)]);
    assert_eq!(harness.stats.upstream_queries_total.read(), 5);
}

#[test]
fn a_history_is_asked_for_as_the_service_says() {
    let harness = start();
    let mut client = client(&harness);
    let ask = |client: &mut Upstream, limit, reverse, since| {
        let query = HistoryQuery {
            limit,
            reverse,
            since,
        };
        let page = client.history("news", &query).unwrap();
        (page.found, asked(&harness).pop().unwrap())
    };
    let (found, words) = ask(&mut client, 10, true, None);
    assert!(
        found && words.contains("limit: 10, since: None, reverse: true"),
        "{words}"
    );
    let text = Epoch(7).text();
    let (found, words) = ask(&mut client, -1, false, Some((text.as_str(), Offset(2))));
    let position = "Some(Position { epoch: Some(Epoch(7)), offset: Offset(2) })";
    assert!(found && words.contains(position), "{words}");
    assert!(words.contains(&format!("limit: {}", u32::MAX)), "{words}");
    let (found, words) = ask(&mut client, 0, false, Some(("", Offset(2))));
    let position = "limit: 0, since: Some(Position { epoch: None, offset: Offset(2) })";
    assert!(found && words.contains(position), "{words}");
    for other in ["aaaaaaai", "not an epoch"] {
        let (found, _) = ask(&mut client, 1, false, Some((other, Offset(2))));
        assert!(!found, "{other}");
    }
}

#[test]
fn what_is_too_much_for_one_answer_is_said_to_be() {
    let harness = start();
    let mut client = client(&harness);
    for too_many in [
        client.presence("crowd").map(|_| ()),
        client.channels("crowd*").map(|_| ()),
    ] {
        assert!(
            matches!(too_many, Err(ClientError::TooMany)),
            "{too_many:?}"
        );
    }
    let refused = client.history("full", &HistoryQuery::default());
    let Err(ClientError::Refused(Refusal { code, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(code, ErrorCode::Overloaded);
    assert_eq!(client.presence_stats("news").unwrap(), (2, 1), "it goes on");
}

#[test]
fn a_question_comes_to_its_room_after_what_was_published_before_it() {
    let harness = start();
    let mut raw = Raw::open(harness.upstream);
    let publish = |request| Frame::Publish {
        request,
        room: "news",
        level: AckLevel::None,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras::default(),
        payload: b"1",
    };
    raw.send(&publish(1));
    raw.send(&query(2, "news", Query::PresenceStats));
    raw.send(&publish(3));
    assert_eq!(result(&mut raw), 2);
    eventually("all of them", || {
        harness.knobs.frames.lock().unwrap().len() == 3
    });
    let words = asked(&harness);
    assert!(words[1].starts_with("PresenceStats"), "{words:?}");
}

#[test]
fn more_questions_than_may_wait_are_all_answered() {
    let harness = start();
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    for request in 1..=200 {
        let asks = match request % 3 {
            0 => Query::Channels,
            1 => Query::Presence,
            _ => Query::ForgetHistory,
        };
        raw.send(&query(request, "news", asks));
    }
    eventually("the wait", || {
        harness.stats.upstream_stalls_total.read() > 0
    });
    assert_eq!(harness.stats.upstream_queries_total.read(), 16);
    harness.knobs.hold.store(false, SeqCst);
    let mut requests: Vec<u64> = (1..=200).map(|_| result(&mut raw)).collect();
    requests.sort_unstable();
    assert!(requests.into_iter().eq(1..=200));
}

#[test]
fn a_question_is_answered_though_the_service_says_nothing_more() {
    let harness = start();
    let mut raw = Raw::open(harness.upstream);
    harness.knobs.hold.store(true, SeqCst);
    raw.send(&query(1, "news", Query::PresenceStats));
    // With request id 0 nobody wants to know.
    raw.send(&query(0, "news", Query::ForgetHistory));
    raw.stream.shutdown(Shutdown::Write).unwrap();
    eventually("the questions", || {
        harness.stats.upstream_queries_total.read() == 2
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    harness.knobs.hold.store(false, SeqCst);
    raw.next(|frame| {
        let (clients, users) = (2, 1);
        let result = QueryResult::PresenceStats { clients, users };
        assert_eq!(frame, Frame::Result { request: 1, result });
    });
    raw.closed();
    let words = asked(&harness);
    assert_eq!(words.len(), 2, "{words:?}");
}

#[test]
fn a_question_about_no_room_costs_no_connection() {
    let harness = start();
    let mut raw = Raw::open(harness.upstream);
    // PRESENCE, request 7, without a name.
    raw.send_bytes(&[12, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(raw.error(), (7, ErrorCode::ForbiddenRoom));
    raw.send(&query(8, "news", Query::Presence));
    assert_eq!(result(&mut raw), 8);
    // Only the broker sends RESULT.
    raw.send(&Frame::Result {
        request: 9,
        result: QueryResult::Done,
    });
    assert_eq!(raw.error(), (9, ErrorCode::Unsupported));
}

#[test]
fn tags_deltas_and_the_client_left_out_reach_the_room() {
    let harness = start();
    let mut client = client(&harness);
    let conn = ConnId {
        slot: 3,
        generation: 2,
    };
    let id = client_id::encode(SEED, 1, conn);
    let message = Message {
        delta: true,
        exclude: id.as_str(),
        tags: &[("topic", "x"), ("lang", "en")],
        ..Message::new(Content::Json, b"[1]", AckLevel::Sequenced)
    };
    client.publish("news", &message).unwrap();
    client.broadcast(&["a", "b"], &message).unwrap();
    let tags = sorted_tags(message.tags).unwrap();
    let words = asked(&harness);
    assert_eq!(words.len(), 3, "{words:?}");
    for word in words {
        assert!(word.contains("delta: true"), "{word}");
        assert!(word.contains(&format!("tags: {tags:?}")), "{word}");
        let member = format!("exclude: Some(Member {{ node: 1, conn: {conn:?} }})");
        assert!(word.contains(&member), "{word}");
    }
    let stranger = Message {
        exclude: "0123456789abcdef0123456789abcdef",
        ..Message::new(Content::Json, b"[1]", AckLevel::Sequenced)
    };
    client.publish("news", &stranger).unwrap();
    assert!(asked(&harness)[0].contains("exclude: None"), "nobody's id");
    let twice = Message {
        tags: &[("a", "1"), ("a", "2")],
        ..stranger
    };
    let refused = client.publish("news", &twice);
    assert!(matches!(refused, Err(ClientError::BadTags)), "{refused:?}");
}

#[test]
fn tags_beyond_their_bound_cost_the_publication_and_not_the_connection() {
    let harness = start();
    let mut raw = Raw::open(harness.upstream);
    let mut tags = Vec::new();
    ringcast::wire::client::flat::push_tag(&mut tags, "k", &"x".repeat(3_000));
    let mut bytes = Vec::new();
    let rooms = ["a"];
    // A header with tags of the same length, overwritten: the encoder takes none that are too long.
    Frame::Broadcast {
        request: 7,
        level: AckLevel::Sequenced,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras {
            delta: true,
            ..Extras::default()
        },
        rooms: Rooms::new(&rooms),
        payload: b"1",
    }
    .encode(&mut bytes);
    let header = bytes.len() - 1 - 2 - 3 - 2;
    bytes[header..header + 2].copy_from_slice(&1_u16.to_le_bytes());
    bytes.splice(header + 2..header + 2, tags);
    let length = bytes.len() as u32 - 4;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    raw.send_bytes(&bytes);
    assert_eq!(raw.error(), (7, ErrorCode::TooLarge));
    raw.send(&query(8, "a", Query::PresenceStats));
    assert_eq!(result(&mut raw), 8);
    assert_eq!(harness.taken(), []);
}
