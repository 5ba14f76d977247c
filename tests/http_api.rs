//! Each method of the server API does and says what Centrifugo's does.

mod service;

use ringcast::base::{ConnId, Content, Epoch, Offset, OrderKind, Overrides, Version, client_id};
use ringcast::limits;
use ringcast::mesh::{HistoryRead, Member, Order, Position, Publish, ReplyTo, Request};
use ringcast::wire::client::flat;
use serde_json::json;
use service::http::Peer;
use service::{Harness, Options, SEED};

const CONN: ConnId = ConnId {
    slot: 3,
    generation: 5,
};

fn open() -> (Harness, Peer) {
    let harness = Harness::start(Options {
        api_insecure: true,
        ..Options::default()
    });
    let peer = Peer::connect(harness.admin);
    (harness, peer)
}

/// The frames that shards took since the last call.
fn frames(harness: &Harness) -> Vec<String> {
    std::mem::take(&mut harness.knobs.frames.lock().unwrap())
}

/// Waits for `count` frames: orders are not answered.
fn frames_of(harness: &Harness, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    service::eventually("the frames", || {
        found.extend(frames(harness));
        found.len() >= count
    });
    found.sort();
    found
}

fn publish<'a>(room: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        room,
        payload,
        content: Content::Json,
        skip_history: false,
        delta: false,
        key: None,
        info: b"",
        tags: b"",
        exclude: None,
        version: None,
        reply: ReplyTo::Nobody,
    }
}

fn order(kind: OrderKind) -> Order<'static> {
    Order {
        kind,
        user: "42",
        client: None,
        room: "",
        code: 0,
        text: "",
        expire_at_s: 0,
        since: None,
        overrides: 0,
        info_content: Content::Json,
        info: b"",
        content: Content::Json,
        data: b"",
    }
}

/// The order as both shards are given it.
fn at_both(order: &Order<'_>) -> Vec<String> {
    (0..2).map(|shard| format!("{shard}: {order:?}")).collect()
}

fn client() -> String {
    client_id::encode(SEED, 1, CONN).as_str().to_owned()
}

#[test]
fn a_publication_reaches_its_home_as_it_was_written_and_its_place_is_told() {
    let (harness, mut peer) = open();
    let body = br#"{"channel":"news","data":{ "a":1.50 }}"#;
    let answer = peer.call_with("publish", &[], body);
    assert_eq!(answer.status, 200);
    let epoch = Epoch(7).text();
    let place = json!({"result": {"offset": 1, "epoch": epoch.as_str()}});
    assert_eq!(answer.json(), place);
    let frame = Request::Publish(publish("news", br#"{ "a":1.50 }"#));
    assert_eq!(frames(&harness), [format!("{frame:?}")]);

    let mut tags = Vec::new();
    flat::push_tag(&mut tags, "lang", "en");
    let body = json!({
        "channel": "bare:x", "b64data": "AP8=", "skip_history": true, "delta": true,
        "tags": {"lang": "en"}, "exclude_client": client(), "unheard_of": 1, "version": 3, "version_epoch": "db",
    });
    assert_eq!(peer.call("publish", &body).json(), json!({"result": {}}));
    let frame = Request::Publish(Publish {
        content: Content::Bytes,
        skip_history: true,
        delta: true,
        tags: &tags,
        exclude: Some(Member {
            node: 1,
            conn: CONN,
        }),
        version: Version::new(3, "db"),
        ..publish("bare:x", &[0, 255])
    });
    assert_eq!(frames(&harness), [format!("{frame:?}")]);
}

#[test]
fn a_repeated_idempotency_key_gives_the_first_place() {
    let (_harness, mut peer) = open();
    let body =
        json!({"channel": "news", "data": 1, "idempotency_key": "a key of any length at all"});
    let first = peer.call("publish", &body).json();
    assert_eq!(peer.call("publish", &body).json(), first);
    let other = json!({"channel": "news", "data": 1, "idempotency_key": "another"});
    assert_eq!(peer.call("publish", &other).json()["result"]["offset"], 2);
}

#[test]
fn a_publication_that_cannot_be_is_refused_with_its_code() {
    let (harness, mut peer) = open();
    let long = "r".repeat(limits::ROOM_NAME_MAX + 1);
    let large = "x".repeat(limits::API_PAYLOAD_MAX);
    for (body, code) in [
        (json!({"channel": "news"}), 107),
        (json!({"channel": "news", "b64data": ""}), 107),
        (json!({"channel": "news", "b64data": "%"}), 107),
        (
            json!({"channel": "news", "data": 1, "b64data": "AA=="}),
            107,
        ),
        (json!({"channel": "news", "data": large}), 107),
        (json!({"channel": "news", "data": 1, "tags": {"a": 1}}), 107),
        (json!({"channel": "news", "data": 1, "delta": "yes"}), 107),
        (json!({"channel": 7, "data": 1}), 107),
        (json!({"data": 1}), 107),
        (json!({"channel": long, "data": 1}), 107),
        (json!([]), 107),
        (json!({"channel": "none:x", "data": 1}), 102),
        (json!({"channel": "news", "data": 1, "version": -1}), 107),
        (
            json!({"channel": "news", "data": 1, "version": 1, "version_epoch": long}),
            107,
        ),
        (json!({"channel": "full", "data": 1}), 100),
    ] {
        let answer = peer.call("publish", &body);
        assert_eq!((answer.status, answer.code()), (200, code), "{answer:?}");
    }
    let (opening, closing) = ("[".repeat(200), "]".repeat(200));
    let deep = format!("{{\"channel\":\"news\",\"data\":{opening}{closing}}}");
    let answer = peer.call_with("publish", &[], deep.as_bytes());
    assert_eq!(answer.code(), 107);
    assert!(answer.body.contains("data: at most 128 levels"));
    let message = peer.call(
        "publish",
        &json!({"channel": "news", "data": 1, "delta": "yes"}),
    );
    let message = message.json()["error"]["message"].clone();
    assert_eq!(message, "bad request: delta: boolean expected");
    assert_eq!(frames(&harness).len(), 1, "only the full room was asked");
    assert!(harness.stats.api_errors_total.read() >= 15);
}

#[test]
fn a_broadcast_is_answered_for_each_channel_in_order() {
    let (harness, mut peer) = open();
    let body = json!({"channels": ["a", "none:x", "bare:y", "b", "a"], "data": {}});
    let answer = peer.call("broadcast", &body).json();
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(responses.len(), 5);
    assert_eq!(responses[0]["result"]["offset"], 1);
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!(responses[2], json!({"result": {}}));
    assert_eq!(responses[3]["result"]["offset"], 1);
    assert_eq!(responses[4]["result"]["offset"], 2);
    assert_eq!(frames(&harness).len(), 4);
    for channels in [
        json!([]),
        json!("a"),
        json!(["a", 1]),
        json!(vec!["a"; 1_025]),
    ] {
        let answer = peer.call("broadcast", &json!({"channels": channels, "data": {}}));
        assert_eq!(answer.code(), 107);
    }
    assert_eq!(frames(&harness).len(), 0);
    let channels: Vec<String> = (0..1_024).map(|index| format!("c{index}")).collect();
    let answer = peer.call("broadcast", &json!({"channels": channels, "data": {}}));
    let answer = answer.json();
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert!(
        responses
            .iter()
            .all(|response| response["result"]["offset"] == 1)
    );
}

#[test]
fn orders_for_a_user_reach_every_shard_and_those_for_a_client_its_own() {
    let (harness, mut peer) = open();
    let nothing = json!({"result": {}});
    let body = json!({
        "user": "42", "channel": "news", "info": {"a": 1}, "b64data": "AP8=", "expire_at": 77,
        "recover_since": {"offset": 4, "epoch": Epoch(7).text().as_str()},
        "override": {"presence": {"value": true}},
    });
    assert_eq!(peer.call("subscribe", &body).json(), nothing);
    let expected = Order {
        room: "news",
        info: br#"{"a":1}"#,
        content: Content::Bytes,
        data: &[0, 255],
        expire_at_s: 77,
        since: Some(Position {
            epoch: Some(Epoch(7)),
            offset: Offset(4),
        }),
        overrides: Overrides {
            presence: Some(true),
            ..Overrides::default()
        }
        .bits(),
        ..order(OrderKind::Subscribe)
    };
    assert_eq!(frames_of(&harness, 2), at_both(&expected));

    let body = json!({"user": "42", "channel": "news"});
    assert_eq!(peer.call("unsubscribe", &body).json(), nothing);
    let expected = Order {
        room: "news",
        ..order(OrderKind::Unsubscribe)
    };
    assert_eq!(frames_of(&harness, 2), at_both(&expected));

    let body = json!({"user": "42", "client": client(), "expire_at": 78, "info": null});
    assert_eq!(peer.call("refresh", &body).json(), nothing);
    let expected = Order {
        client: Some(CONN),
        expire_at_s: 78,
        ..order(OrderKind::Refresh)
    };
    assert_eq!(frames_of(&harness, 1), [format!("1: {expected:?}")]);

    let body = json!({"client": client(), "expired": true});
    assert_eq!(peer.call("refresh", &body).json(), nothing);
    let expected = Order {
        user: "",
        client: Some(CONN),
        ..order(OrderKind::Expire)
    };
    assert_eq!(frames_of(&harness, 1), [format!("1: {expected:?}")]);

    let stranger = client_id::encode(SEED + 1, 1, CONN);
    let body = json!({"client": stranger.as_str()});
    assert_eq!(peer.call("disconnect", &body).json(), nothing);
    assert_eq!(frames(&harness).len(), 0);
}

#[test]
fn a_disconnect_has_a_code_and_a_reason_that_sdks_understand() {
    let (harness, mut peer) = open();
    assert_eq!(
        peer.call("disconnect", &json!({"user": "42"})).json(),
        json!({"result": {}})
    );
    let expected = Order {
        code: 3503,
        text: "force disconnect",
        ..order(OrderKind::Disconnect)
    };
    assert_eq!(frames_of(&harness, 2), at_both(&expected));
    let spared = client();
    let body = json!({
        "user": "42", "disconnect": {"code": 4000, "reason": "bye"},
        "whitelist": [&spared, "of nobody"],
    });
    assert_eq!(peer.call("disconnect", &body).json(), json!({"result": {}}));
    let expected = Order {
        code: 4000,
        text: "bye",
        room: &spared,
        ..order(OrderKind::Disconnect)
    };
    assert_eq!(frames_of(&harness, 2), at_both(&expected));
    for close in [
        json!({"code": 2999}),
        json!({"code": 5000}),
        json!({"code": "4000"}),
        json!({"reason": ""}),
        json!({"reason": "123"}),
        json!({"reason": "{}"}),
        json!({"reason": "r".repeat(124)}),
        json!(4000),
    ] {
        let answer = peer.call("disconnect", &json!({"user": "42", "disconnect": close}));
        assert_eq!(answer.code(), 107, "{close}");
    }
    assert_eq!(frames(&harness).len(), 0);
}

#[test]
fn orders_that_cannot_be_carried_out_are_refused() {
    let (harness, mut peer) = open();
    let long = "u".repeat(limits::USER_NAME_MAX + 1);
    let info = "i".repeat(limits::INFO_BYTES_MAX);
    for (method, body, code) in [
        ("disconnect", json!({}), 107),
        ("disconnect", json!({"user": ""}), 107),
        ("disconnect", json!({"user": long}), 107),
        ("disconnect", json!({"user": "42", "session": "s"}), 108),
        (
            "disconnect",
            json!({"user": "42", "whitelist": vec!["c"; 65]}),
            107,
        ),
        ("subscribe", json!({"user": "42"}), 107),
        ("subscribe", json!({"user": "42", "channel": "none:x"}), 102),
        (
            "subscribe",
            json!({"user": "42", "channel": "a", "info": info}),
            107,
        ),
        (
            "subscribe",
            json!({"user": "42", "channel": "a", "expire_at": -1}),
            107,
        ),
        (
            "subscribe",
            json!({"user": "42", "channel": "a", "override": {"presence": true}}),
            107,
        ),
        (
            "subscribe",
            json!({"user": "42", "channel": "a", "recover_since": {"offset": "1"}}),
            107,
        ),
        ("unsubscribe", json!({"user": "42"}), 107),
        ("unsubscribe", json!({"channel": "a"}), 107),
        ("refresh", json!({"user": "42", "expired": 1}), 107),
    ] {
        let answer = peer.call(method, &body);
        assert_eq!(answer.code(), code, "{method} {body}");
    }
    assert_eq!(frames(&harness).len(), 0);
}

#[test]
fn presence_is_told_as_clients_see_it() {
    let (harness, mut peer) = open();
    let channel = json!({"channel": "news"});
    let info = json!({"user": "42", "client": "c1", "conn_info": {"name": "A"}});
    let expected = json!({"result": {"presence": {"c1": info}}});
    assert_eq!(peer.call("presence", &channel).json(), expected);
    let expected = json!({"result": {"num_clients": 2, "num_users": 1}});
    assert_eq!(peer.call("presence_stats", &channel).json(), expected);
    let (room, reply) = ("news", ReplyTo::Nobody);
    let expected = [
        format!("{:?}", Request::Presence { room, reply }),
        format!("{:?}", Request::PresenceStats { room, reply }),
    ];
    assert_eq!(frames(&harness), expected);
    for method in ["presence", "presence_stats"] {
        assert_eq!(peer.call(method, &json!({"channel": "bare:x"})).code(), 108);
        assert_eq!(peer.call(method, &json!({"channel": "none:x"})).code(), 102);
        assert_eq!(peer.call(method, &json!({})).code(), 107);
    }
    assert_eq!(
        peer.call("presence", &json!({"channel": "crowd"})).code(),
        106
    );
}

#[test]
fn history_is_asked_for_by_limit_place_and_direction() {
    let (harness, mut peer) = open();
    let epoch = Epoch(7).text();
    let body = json!({"channel": "news", "limit": -1});
    let expected = json!({"result": {
        "publications": [{"data": {"n": 1}, "offset": 1, "tags": {"lang": "en"}}],
        "epoch": epoch.as_str(), "offset": 3,
    }});
    assert_eq!(peer.call("history", &body).json(), expected);
    let since = json!({"offset": 9, "epoch": epoch.as_str()});
    let body = json!({"channel": "news", "limit": 5, "since": since, "reverse": true});
    assert_eq!(peer.call("history", &body).status, 200);
    assert_eq!(
        peer.call("history", &json!({"channel": "news"})).status,
        200
    );
    let page = |limit, since, reverse| {
        let request = Request::History {
            room: "news",
            read: HistoryRead::Page {
                limit,
                since,
                reverse,
            },
            reply: ReplyTo::Nobody,
        };
        format!("{request:?}")
    };
    let since = Position {
        epoch: Some(Epoch(7)),
        offset: Offset(9),
    };
    let expected = [
        page(u32::MAX, None, false),
        page(5, Some(since), true),
        page(0, None, false),
    ];
    assert_eq!(frames(&harness), expected);
    for (body, code) in [
        (
            json!({"channel": "news", "since": {"offset": 1, "epoch": "other"}}),
            112,
        ),
        (
            json!({"channel": "news", "since": {"offset": 0}, "reverse": true}),
            107,
        ),
        (json!({"channel": "news", "limit": "5"}), 107),
        (json!({"channel": "news", "since": {"offset": -1}}), 107),
        (json!({"channel": "bare:x"}), 108),
        (json!({"channel": "none:x"}), 102),
    ] {
        assert_eq!(peer.call("history", &body).code(), code, "{body}");
    }
}

#[test]
fn a_history_is_removed_at_its_home() {
    let (harness, mut peer) = open();
    let answer = peer.call("history_remove", &json!({"channel": "news"}));
    assert_eq!(answer.json(), json!({"result": {}}));
    let request = Request::ForgetHistory {
        room: "news",
        reply: ReplyTo::Nobody,
    };
    assert_eq!(frames(&harness), [format!("{request:?}")]);
    let answer = peer.call("history_remove", &json!({"channel": "bare:x"}));
    assert_eq!(answer.code(), 108);
}

#[test]
fn channels_of_all_shards_are_one_list() {
    let (harness, mut peer) = open();
    let answer = peer.call("channels", &json!({"pattern": "b*"}));
    let expected = json!({"channels": {"both": {"num_clients": 4}, "\"q": {"num_clients": 2}}});
    assert_eq!(answer.json()["result"], expected);
    let request = Request::Rooms {
        pattern: "b*",
        reply: ReplyTo::Nobody,
    };
    assert_eq!(frames(&harness), vec![format!("{request:?}"); 2]);
    assert_eq!(peer.call("channels", &json!({})).status, 200);
    assert_eq!(
        peer.call("channels", &json!({"pattern": "crowd"})).code(),
        106
    );
    assert_eq!(
        peer.call("channels", &json!({"pattern": "p".repeat(256)}))
            .code(),
        107
    );
}

#[test]
fn info_is_what_the_shards_export() {
    let (harness, mut peer) = open();
    for (index, stats) in harness.shard_stats.iter().enumerate() {
        stats.shard.sessions.set(2 + index as u64);
        stats.shard.users.set(1);
        stats.shard.rooms.set(4);
        stats.shard.subscriptions.set(8);
    }
    let answer = peer.call("info", &json!({})).json();
    let node = &answer["result"]["nodes"][0];
    assert_eq!(
        (&node["name"], &node["num_clients"]),
        (&json!("node-a"), &json!(5))
    );
    assert_eq!(
        (&node["num_users"], &node["num_channels"]),
        (&json!(2), &json!(8))
    );
    assert_eq!(node["num_subs"], 16);
    assert_eq!(node["uid"].as_str().unwrap().len(), 32);
    assert!(node["uptime"].is_u64() && node["version"].is_string());
}

#[test]
fn a_batch_is_carried_out_in_order_and_answered_in_order() {
    let (harness, mut peer) = open();
    let body = json!({"parallel": true, "commands": [
        {"publish": {"channel": "a", "data": 1}},
        {"publish": {"channel": "a", "data": 2}},
        {"presence_stats": {"channel": "bare:x"}},
        {"nothing": {}},
        {"batch": {"commands": []}},
        {"publish": {}, "history": {}},
        {"publish": 7},
        7,
        {"broadcast": {"channels": ["a"], "data": 3}},
    ]});
    let answer = peer.call("batch", &body).json();
    let replies = answer["result"]["replies"].as_array().unwrap();
    let codes: Vec<_> = replies
        .iter()
        .map(|reply| reply["error"]["code"].as_u64())
        .collect();
    let (bad, none, unknown) = (Some(107), None, Some(104));
    let expected = [none, none, Some(108), unknown, unknown, bad, bad, bad, none];
    assert_eq!(codes, expected, "{answer}");
    assert_eq!(replies[0]["publish"]["offset"], 1);
    assert_eq!(replies[1]["publish"]["offset"], 2);
    let responses = &replies[8]["broadcast"]["responses"];
    assert_eq!(responses[0]["result"]["offset"], 3);
    assert_eq!(frames(&harness).len(), 3);
    let many = vec![json!({"info": {}}); limits::API_COMMANDS_MAX + 1];
    assert_eq!(peer.call("batch", &json!({"commands": many})).code(), 107);
    let empty = peer.call("batch", &json!({})).json();
    assert_eq!(empty, json!({"result": {"replies": []}}));
}
