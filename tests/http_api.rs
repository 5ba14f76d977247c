//! The server API keeps what Centrifugo's promises: who may, what each method does and says, and what
//! happens when something is missing, too much or too slow.

mod service;

use ringcast::base::{ConnId, Content, Epoch, Offset, client_id};
use ringcast::limits;
use ringcast::mesh::{HistoryRead, Member, Order, OrderKind, Position, Publish, ReplyTo, Request};
use ringcast::wire::client::flat;
use serde_json::{Value, json};
use service::{Harness, Options, SEED};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const CONN: ConnId = ConnId {
    slot: 3,
    generation: 5,
};

/// A connection that requests are sent over, one after another.
struct Peer(TcpStream);

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The code of the error.
    #[track_caller]
    fn code(&self) -> u64 {
        let code = self.json()["error"]["code"].as_u64();
        code.unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

impl Peer {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let timeout = Some(Duration::from_secs(15));
        stream.set_read_timeout(timeout).unwrap();
        Self(stream)
    }

    fn send(&mut self, line: &str, fields: &[&str], body: &[u8]) {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}content-length: {length}\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
        self.0.write_all(body).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("an answer");
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: String::from_utf8(body).unwrap(),
        }
    }

    fn call(&mut self, method: &str, body: &Value) -> Answer {
        self.call_with(method, &[], body.to_string().as_bytes())
    }

    fn call_with(&mut self, method: &str, fields: &[&str], body: &[u8]) -> Answer {
        self.send(&format!("POST /api/{method}"), fields, body);
        self.answer()
    }

    /// Whether the service has closed.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

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
        "tags": {"lang": "en"}, "exclude_client": client(), "unheard_of": 1, "version": 0,
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
        (json!({"channel": "news", "data": 1, "version": 3}), 108),
        (
            json!({"channel": "news", "data": 1, "version_epoch": "e"}),
            108,
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
    });
    assert_eq!(peer.call("subscribe", &body).json(), nothing);
    let expected = Order {
        room: "news",
        info: br#"{"a":1}"#,
        content: Content::Bytes,
        data: &[0, 255],
        expire_at_s: 77,
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
            json!({"user": "42", "channel": "a", "override": {"presence": {"value": true}}}),
            108,
        ),
        (
            "subscribe",
            json!({"user": "42", "channel": "a", "recover_since": {"offset": 1}}),
            108,
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
