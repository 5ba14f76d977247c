//! Services decide what clients may do, and are told what happens to them: events over the upstream
//! protocol, against a running broker.

mod support;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringcast::base::Content;
use ringcast::client::{
    AckLevel, Event, EventAnswer, EventKind, Message, Order, OrderKind, Upstream,
};
use ringcast::limits::META_BYTES_MAX;
use serde_json::{Value, json};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Broker, Client, PATIENCE};

const ALL: [EventKind; 9] = EventKind::ALL;

/// A service that answers as `decide` says and passes on what it was asked.
struct Service {
    events: Receiver<Event>,
    _thread: JoinHandle<()>,
}

impl Service {
    fn start(
        broker: &Broker,
        kinds: &[EventKind],
        namespaces: &[&str],
        methods: &[&str],
        decide: impl FnMut(&Event) -> Option<String> + Send + 'static,
    ) -> Self {
        let mut upstream = broker.upstream();
        upstream
            .register(kinds, namespaces, methods)
            .expect("registered");
        let (pass_on, events) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(&mut upstream, decide, &pass_on));
        Self {
            events,
            _thread: thread,
        }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }
}

fn serve(
    upstream: &mut Upstream,
    mut decide: impl FnMut(&Event) -> Option<String>,
    pass_on: &mpsc::Sender<Event>,
) {
    while let Ok(event) = upstream.next_event() {
        if let Some(answer) = decide(&event) {
            // A result, or `error CODE TEXT`, or `close CODE TEXT`.
            let words: Vec<&str> = answer.splitn(3, ' ').collect();
            let number = |text: &str| text.parse().expect("a code");
            let answer = match words[..] {
                ["error", code, text] => EventAnswer::Error {
                    code: number(code),
                    text,
                    temporary: false,
                },
                ["close", code, text] => EventAnswer::Disconnect {
                    code: number(code),
                    text,
                },
                _ => EventAnswer::Result(answer.as_bytes()),
            };
            upstream.answer(&event, answer);
        }
        if pass_on.send(event).is_err() {
            return;
        }
    }
}

fn broker(more: &str) -> Broker {
    Broker::start(&format!(
        "--shards 2 --set client.connect_hook=true --set client.rpc_hook=true \
         --set client.message_hook=true --set client.disconnect_events=true \
         --set client.hook_timeout=300ms --set channels.subscribe_hook=true \
         --set channels.publish_hook=true --set channels.unsubscribe_events=true \
         --set channels.history_size=10 --set channels.history_ttl=1m {more}"
    ))
}

fn connect(broker: &Broker, data: Value) -> (Client, Value) {
    connect_with(broker, json!({"data": data, "name": "js", "version": "5"}))
}

fn connect_with(broker: &Broker, connect: Value) -> (Client, Value) {
    let mut client = Client::open(broker.clients);
    let reply = client.command(json!({"connect": connect}));
    client.id = reply["connect"]["client"]
        .as_str()
        .unwrap_or_default()
        .into();
    (client, reply)
}

const SECRET: &str = "the-secret-of-these-tests";

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// JSON of so many bytes.
fn json_of(bytes: usize) -> Value {
    "x".repeat(bytes - 2).into()
}

#[test]
fn a_service_says_who_a_client_is_and_what_it_may_do() {
    let broker = broker("");
    let service = Service::start(&broker, &ALL, &[], &[], |event| {
        Some(match (event.kind, &*event.subject) {
            (EventKind::Connect, _) if event.data == b"\"stranger\"" => "close 4501 not you".into(),
            (EventKind::Connect, _) => {
                r#"{"user":"42","info":{"n":"Ann"},"data":{"hello":1},"channels":["mine"]}"#.into()
            }
            (EventKind::Subscribe, "secret") => "error 403 members only".into(),
            (EventKind::Subscribe, _) => r#"{"info":{"seat":7},"data":[1]}"#.into(),
            (EventKind::Publish, _) if event.data == b"\"bad\"" => {
                "error 406 mind your words".into()
            }
            (EventKind::Publish, _) => r#"{"data":{"said":true},"tags":{"lang":"en"}}"#.into(),
            (EventKind::Rpc, "sum") => r#"{"data":{"sum":3}}"#.into(),
            (EventKind::Rpc, _) => "error 104 method not found".into(),
            _ => String::new(),
        })
    });
    let (mut client, reply) = connect(&broker, json!("it is me"));
    let asked = service.next();
    assert_eq!((asked.kind, &*asked.text), (EventKind::Connect, "js\n5"));
    assert_eq!(asked.data, b"\"it is me\"");
    assert_eq!(reply["connect"]["data"], json!({"hello": 1}), "{reply}");
    assert!(reply["connect"]["subs"].get("mine").is_some(), "{reply}");

    let subscribe = client.command(json!({"subscribe": {"channel": "room", "data": {"a": 1}}}));
    assert_eq!(subscribe["subscribe"]["data"], json!([1]), "{subscribe}");
    let asked = service.next();
    assert_eq!(
        (&*asked.subject, &*asked.user, &*asked.client),
        ("room", "42", &*client.id)
    );
    assert_eq!(
        client.refused(json!({"subscribe": {"channel": "secret"}})),
        403
    );
    service.next();

    client.publish("room", json!("hi"));
    let asked = service.next();
    assert_eq!(
        (asked.kind, &asked.chan_info[..]),
        (EventKind::Publish, &br#"{"seat":7}"#[..])
    );
    let publication = client.document("the publication")["push"]["pub"].clone();
    assert_eq!(
        publication["data"],
        json!({"said": true}),
        "as the service changed it"
    );
    assert_eq!(publication["tags"], json!({"lang": "en"}));
    assert_eq!(publication["info"]["chan_info"], json!({"seat": 7}));
    let bad = json!({"publish": {"channel": "room", "data": "bad"}});
    assert_eq!(client.refused(bad), 406);
    service.next();

    let reply = client.command(json!({"rpc": {"method": "sum", "data": {"a": 1}}}));
    assert_eq!(reply["rpc"]["data"], json!({"sum": 3}));
    assert_eq!(service.next().subject, "sum");
    assert_eq!(client.refused(json!({"rpc": {"method": "other"}})), 104);
    service.next();

    client.send(&json!({"send": {"data": {"typing": true}}}).to_string());
    let told = service.next();
    assert_eq!((told.kind, told.request), (EventKind::Message, 0));
    assert_eq!(told.data, br#"{"typing":true}"#);
    client.unsubscribe("room");
    let told = service.next();
    assert_eq!(
        (told.kind, &*told.subject),
        (EventKind::Unsubscribe, "room")
    );
    client.close(None);
    client.closed("the close handshake");
    let kinds = [service.next(), service.next()].map(|told| (told.kind, told.code));
    assert_eq!(
        kinds,
        [
            (EventKind::Unsubscribe, 1000),
            (EventKind::Disconnect, 1000)
        ]
    );

    let mut stranger = Client::open(broker.clients);
    stranger.send(&json!({"id": 1, "connect": {"data": "stranger"}}).to_string());
    assert_eq!(stranger.closed("a stranger"), (4501, "not you".into()));
}

#[test]
fn without_a_service_or_its_answer_a_client_gets_an_error_and_never_waits_for_ever() {
    let broker = broker("");
    let (_, reply) = connect(&broker, json!(1));
    let error = json!({"code": 100, "message": "internal server error", "temporary": true});
    assert_eq!(reply["error"], error, "nobody registered");

    let service = Service::start(&broker, &ALL, &[], &["sum"], |event| match event.kind {
        EventKind::Connect => Some(r#"{"user":"42"}"#.into()),
        EventKind::Publish => Some(r#"{"tags":1}"#.into()),
        _ => None,
    });
    let (mut client, reply) = connect(&broker, json!(1));
    assert!(reply.get("connect").is_some(), "{reply}");
    assert_eq!(service.next().kind, EventKind::Connect);
    let start = Instant::now();
    assert_eq!(
        client.refused(json!({"subscribe": {"channel": "room"}})),
        100,
        "no answer"
    );
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "it was waited for"
    );
    assert_eq!(client.refused(json!({"rpc": {"method": "other"}})), 104);
    let bad = json!({"publish": {"channel": "room", "data": 1}});
    assert_eq!(client.refused(bad), 100, "an answer that is none");
    broker.until("the outcomes counted", |metrics| {
        let count = |name| metrics.sum(name);
        (
            count("event_timeouts_total"),
            count("events_unhandled_total"),
        ) == (1, 2)
    });
}

#[test]
fn commands_behind_one_that_a_service_decides_on_keep_their_order() {
    let broker =
        broker("--set channels.presence=true --set channels.allow_presence_for_subscriber=true");
    let _service = Service::start(&broker, &ALL, &[], &[], |event| {
        std::thread::sleep(Duration::from_millis(30));
        Some(if event.kind == EventKind::Connect {
            r#"{"user":"42"}"#.into()
        } else {
            String::new()
        })
    });
    let mut client = Client::open(broker.clients);
    let frame = [
        json!({"id": 1, "connect": {}}),
        json!({"id": 2, "subscribe": {"channel": "a"}}),
        json!({"id": 3, "presence_stats": {"channel": "a"}}),
        json!({"id": 4, "unsubscribe": {"channel": "a"}}),
        json!({"id": 5, "subscribe": {"channel": "a"}}),
        json!({"id": 6, "presence_stats": {"channel": "a"}}),
    ];
    let lines: Vec<String> = frame.iter().map(Value::to_string).collect();
    client.send(&lines.join("\n"));
    // Replies of homes on other shards may come behind later ones; effects keep the order.
    let mut replies = std::collections::BTreeMap::new();
    while replies.len() < 6 {
        let reply = client.document("a reply");
        assert!(reply.get("error").is_none(), "{reply}");
        replies.insert(reply["id"].as_u64(), reply);
    }
    for id in [3, 6] {
        let reply = &replies[&Some(id)];
        assert_eq!(reply["presence_stats"]["num_clients"], 1, "{reply}");
    }
}

#[test]
fn a_service_gives_orders_to_the_connections_of_a_user() {
    let broker = broker("--set channels.publish_hook=false --set channels.subscribe_hook=false");
    let _service = Service::start(&broker, &[EventKind::Connect], &[], &[], |event| {
        let user = String::from_utf8_lossy(&event.data).into_owned();
        Some(json!({"user": user.trim_matches('"')}).to_string())
    });
    let mut upstream = broker.upstream();
    let mut clients: Vec<Client> = (0..4).map(|_| connect(&broker, json!("42")).0).collect();
    let (mut bystander, _) = connect(&broker, json!("43"));
    upstream
        .order(&Order {
            data: br#"{"hello":1}"#,
            ..Order::new(OrderKind::Message, "42")
        })
        .unwrap();
    for client in &mut clients {
        let push = client.document("the message");
        assert_eq!(push["push"], json!({"message": {"data": {"hello": 1}}}));
    }
    let subscribe = Order {
        channel: "team",
        data: b"[1]",
        ..Order::new(OrderKind::Subscribe, "42")
    };
    upstream.order(&subscribe).unwrap();
    for client in &mut clients {
        let push = client.document("the subscription");
        assert_eq!(push["push"]["channel"], "team");
        assert_eq!(push["push"]["subscribe"]["data"], json!([1]), "{push}");
    }
    let message = Message::new(Content::Json, b"7", AckLevel::Sequenced);
    upstream.publish("team", &message).unwrap();
    for client in &mut clients {
        assert_eq!(client.push().data, 7);
    }
    let refresh = Order {
        expire_at_s: 4_102_444_800,
        client: &clients[0].id.clone(),
        ..Order::new(OrderKind::Refresh, "42")
    };
    upstream.order(&refresh).unwrap();
    let push = clients[0].document("the new expiry")["push"]["refresh"].clone();
    assert_eq!(push["expires"], true, "{push}");
    assert!(push["ttl"].as_u64() > Some(1_000_000), "{push}");
    let unsubscribe = Order {
        channel: "team",
        client: &clients[0].id.clone(),
        ..Order::new(OrderKind::Unsubscribe, "42")
    };
    upstream.order(&unsubscribe).unwrap();
    let ended = json!({"code": 2000, "reason": "server unsubscribe"});
    let push = clients[0].document("the end of the subscription");
    assert_eq!(
        push["push"],
        json!({"channel": "team", "unsubscribe": ended})
    );
    upstream.publish("team", &message).unwrap();
    assert_eq!(clients[1].push().data, 7, "the others stay");
    let disconnect = Order {
        close: (4_501, "not you"),
        ..Order::new(OrderKind::Disconnect, "42")
    };
    upstream.order(&disconnect).unwrap();
    for client in &mut clients {
        assert_eq!(client.closed("an order"), (4501, "not you".into()));
    }
    assert_eq!(
        bystander.refused(json!({"ping": {}})),
        108,
        "nobody else is touched"
    );
    for wrong in [
        Order::new(OrderKind::Message, ""),
        Order::new(OrderKind::Message, "42"),
        Order::new(OrderKind::Subscribe, "42"),
        Order {
            channel: "team",
            close: (4_501, "not you"),
            ..Order::new(OrderKind::Disconnect, "42")
        },
        Order {
            close: (1_000, "bye"),
            ..Order::new(OrderKind::Disconnect, "42")
        },
    ] {
        assert!(upstream.order(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_channel_that_the_server_gave_meanwhile_is_not_subscribed_twice() {
    let broker = broker("");
    let mut orders = broker.upstream();
    let _service = Service::start(&broker, &ALL, &[], &[], move |event| match event.kind {
        EventKind::Connect => Some(r#"{"user":"42"}"#.into()),
        EventKind::Subscribe => {
            let order = Order {
                channel: "room",
                ..Order::new(OrderKind::Subscribe, "42")
            };
            orders.order(&order).expect("carried out before the answer");
            Some(String::new())
        }
        _ => Some(String::new()),
    });
    let (mut client, _) = connect(&broker, json!(1));
    client.send(&json!({"id": 9, "subscribe": {"channel": "room"}}).to_string());
    // The room's home may be another shard: the push can come behind the refusal.
    let (first, second) = (client.document("one"), client.document("another"));
    let (push, reply) = match first.get("push") {
        Some(_) => (first, second),
        None => (second, first),
    };
    assert_eq!(push["push"]["channel"], "room", "{push}");
    assert!(push["push"].get("subscribe").is_some(), "{push}");
    assert_eq!(reply["error"]["code"], 105, "{reply}");
    let message = Message::new(Content::Json, b"7", AckLevel::Sequenced);
    broker.upstream().publish("room", &message).unwrap();
    assert_eq!(client.push().data, 7);
    client.unsubscribe("room");
    broker.until("the room left", |metrics| metrics.sum("subscriptions") == 0);
    assert_eq!(client.refused(json!({"ping": {}})), 108, "and 7 came once");
}

#[test]
fn an_order_behind_an_answer_finds_what_the_answer_made() {
    let broker = broker("--set channels.unsubscribe_events=false");
    let mut upstream = broker.upstream();
    upstream.register(&[EventKind::Connect], &[], &[]).unwrap();
    let greeter = std::thread::spawn(move || {
        for _ in 0..20 {
            let event = upstream.next_event().expect("a question");
            let user = String::from_utf8_lossy(&event.data).replace('"', "");
            let answer = json!({"user": user}).to_string();
            // Both leave in one write.
            upstream.answer(&event, EventAnswer::Result(answer.as_bytes()));
            let order = Order {
                data: br#""welcome""#,
                ..Order::new(OrderKind::Message, &user)
            };
            upstream.order(&order).expect("an order");
        }
    });
    for number in 0..20 {
        let (mut client, reply) = connect(&broker, json!(format!("user-{number}")));
        assert!(reply.get("connect").is_some(), "{reply}");
        let push = client.document("the message");
        assert_eq!(push["push"], json!({"message": {"data": "welcome"}}));
    }
    greeter.join().expect("a greeter");
}

#[test]
fn a_service_that_goes_away_leaves_nobody_waiting_and_another_takes_over() {
    let broker = broker("--set client.hook_timeout=5s");
    let mut upstream = broker.upstream();
    upstream.register(&[EventKind::Connect], &[], &[]).unwrap();
    let mut client = Client::open(broker.clients);
    client.send(r#"{"id":1,"connect":{}}"#);
    upstream.next_event().expect("the question");
    let start = Instant::now();
    drop(upstream);
    assert_eq!(client.document("an answer")["error"]["code"], 100);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "long before the timeout"
    );
    let first = Service::start(&broker, &[EventKind::Connect], &[], &[], |_| {
        Some(String::new())
    });
    let second = Service::start(&broker, &[EventKind::Connect], &[], &[], |_| {
        Some(String::new())
    });
    for _ in 0..4 {
        let (_, reply) = connect(&broker, json!(1));
        assert!(reply.get("connect").is_some(), "{reply}");
    }
    for service in [first, second] {
        service.next();
        service.next();
    }
}

#[test]
fn an_expired_connection_is_prolonged_by_its_service_or_closed() {
    let broker = broker("--set client.refresh_hook=true --set client.expired_close_delay=1s");
    let service = Service::start(&broker, &ALL, &[], &[], move |event| {
        Some(match (event.kind, &*event.user) {
            (EventKind::Connect, _) => {
                let user = String::from_utf8_lossy(&event.data).into_owned();
                json!({"user": user.trim_matches('"'), "expire_at": now_s() + 1}).to_string()
            }
            (EventKind::Refresh, "kept") => json!({"expire_at": now_s() + 600}).to_string(),
            (EventKind::Refresh, _) => json!({"expired": true}).to_string(),
            _ => String::new(),
        })
    });
    let (mut kept, reply) = connect(&broker, json!("kept"));
    assert_eq!(
        reply["connect"].get("expires"),
        None,
        "the client has nothing to do"
    );
    let (mut gone, _) = connect(&broker, json!("gone"));
    assert_eq!(
        gone.closed("an expired connection"),
        (3005, "connection expired".into())
    );
    let refreshes = std::iter::from_fn(|| Some(service.next()));
    let users: Vec<String> = refreshes
        .filter(|event| event.kind == EventKind::Refresh)
        .take(2)
        .map(|event| event.user)
        .collect();
    assert!(users.contains(&"kept".into()) && users.contains(&"gone".into()));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(kept.refused(json!({"ping": {}})), 108, "it lives on");
}

#[test]
fn meta_of_a_token_goes_with_every_event_of_its_connection_and_no_client_sees_it() {
    let broker = broker(&format!(
        "--set token.hmac_secrets={SECRET} --set channels.presence=true \
         --set channels.allow_presence_for_subscriber=true --set channels.join_leave=true \
         --set channels.force_push_join_leave=true --set channels.allow_history_for_subscriber=true"
    ));
    let service = Service::start(&broker, &ALL, &[], &[], |_| Some(String::new()));
    let (mut witness, reply) = connect(&broker, json!(1));
    let asked = service.next();
    assert_eq!(
        (asked.kind, &*asked.meta),
        (EventKind::Connect, &b""[..]),
        "nobody has said anything yet"
    );
    // All that clients are sent, but the last words of whoever leaves.
    let mut seen = vec![reply];
    seen.push(witness.command(json!({"subscribe": {"channel": "room"}})));
    let asked = service.next();
    assert_eq!((asked.kind, &*asked.meta), (EventKind::Subscribe, &b""[..]));
    seen.push(witness.document("the own join"));

    let claims = json!({
        "sub": "42", "info": {"name": "Ann"}, "meta": {"only-for": ["services", 7]},
        "channels": ["given"],
    });
    let (mut client, reply) = connect_with(&broker, json!({"token": token(&claims)}));
    seen.push(reply);
    seen.push(client.command(json!({"subscribe": {"channel": "room"}})));
    seen.push(witness.document("the join"));
    seen.push(client.command(json!({"publish": {"channel": "room", "data": "hi"}})));
    seen.push(witness.document("the publication"));
    seen.push(client.command(json!({"rpc": {"method": "sum"}})));
    client.send(&json!({"send": {"data": 1}}).to_string());
    for question in ["presence", "history"] {
        seen.push(witness.command(json!({question: {"channel": "room", "limit": 10}})));
    }
    seen.push(client.command(json!({"unsubscribe": {"channel": "room"}})));
    seen.push(witness.document("the leave"));
    client.close(None);
    while let support::Heard::Document(document) = client.hear("the rest") {
        seen.push(document);
    }
    let expected = [
        EventKind::Subscribe,
        EventKind::Publish,
        EventKind::Rpc,
        EventKind::Message,
        EventKind::Unsubscribe,
        // Of the channel that came with the token.
        EventKind::Unsubscribe,
        EventKind::Disconnect,
    ];
    for kind in expected {
        let event = service.next();
        assert_eq!((event.kind, &*event.user), (kind, "42"));
        let meta = String::from_utf8_lossy(&event.meta);
        assert_eq!(meta, r#"{"only-for":["services",7]}"#, "{kind:?}");
    }
    let seen = Value::from(seen).to_string();
    assert!(seen.matches("Ann").count() >= 5, "info is seen: {seen}");
    assert!(!seen.contains("only-for"), "{seen}");
}

#[test]
fn a_refresh_token_replaces_meta_and_one_without_leaves_it() {
    let broker = broker(&format!("--set token.hmac_secrets={SECRET}"));
    let service = Service::start(&broker, &ALL, &[], &[], |_| Some(String::new()));
    let in_an_hour = now_s() + 3_600;
    let mut claims = json!({"sub": "42", "exp": in_an_hour, "meta": json_of(META_BYTES_MAX)});
    let (mut client, _) = connect_with(&broker, json!({"token": token(&claims)}));
    let meta = |client: &mut Client| {
        client.command(json!({"rpc": {"method": "sum"}}));
        String::from_utf8(service.next().meta).expect("JSON")
    };
    assert_eq!(meta(&mut client), json_of(META_BYTES_MAX).to_string());
    for (new, expected) in [
        (json!([1]), "[1]"),
        (Value::Null, "[1]"),
        (json!(false), "false"),
    ] {
        claims["meta"] = new;
        let reply = client.command(json!({"refresh": {"token": token(&claims)}}));
        assert!(reply.get("refresh").is_some(), "{reply}");
        assert_eq!(meta(&mut client), expected);
    }
    claims["meta"] = json_of(META_BYTES_MAX + 1);
    let too_long = json!({"token": token(&claims)});
    client.send(&json!({"id": 99, "refresh": too_long}).to_string());
    assert_eq!(client.closed("meta that is too long").0, 3500);
    let mut client = Client::open(broker.clients);
    client.send(&json!({"id": 1, "connect": too_long}).to_string());
    assert_eq!(client.closed("meta that is too long").0, 3500);
}

#[test]
fn meta_of_a_service_is_kept_and_a_refresh_replaces_it() {
    let broker = broker("--set client.refresh_hook=true --set client.expired_close_delay=5s");
    let service = Service::start(&broker, &ALL, &[], &[], |event| {
        let soon = now_s() + 1;
        Some(match (event.kind, &*event.data, &*event.meta) {
            (EventKind::Connect, b"1", _) => {
                json!({"user": "42", "meta": [1], "expire_at": soon}).to_string()
            }
            // Nothing of a connection but its meta.
            (EventKind::Connect, b"2", _) => json!({"meta": "x"}).to_string(),
            (EventKind::Connect, ..) => json!({"meta": json_of(META_BYTES_MAX + 1)}).to_string(),
            (EventKind::Refresh, _, b"[1]") => json!({"meta": [2], "expire_at": soon}).to_string(),
            (EventKind::Refresh, ..) => json!({"expire_at": soon + 600}).to_string(),
            _ => String::new(),
        })
    });
    let (mut client, reply) = connect(&broker, json!(1));
    assert!(reply.get("connect").is_some(), "{reply}");
    for (kind, meta) in [
        (EventKind::Connect, ""),
        (EventKind::Refresh, "[1]"),
        (EventKind::Refresh, "[2]"),
    ] {
        let event = service.next();
        let found = String::from_utf8_lossy(&event.meta);
        assert_eq!((event.kind, &*found), (kind, meta));
    }
    client.command(json!({"rpc": {"method": "sum"}}));
    assert_eq!(service.next().meta, b"[2]", "unchanged by the last refresh");

    let (mut client, reply) = connect(&broker, json!(2));
    assert!(reply.get("connect").is_some(), "{reply}");
    service.next();
    client.command(json!({"rpc": {"method": "sum"}}));
    assert_eq!(service.next().meta, br#""x""#);

    let (_, reply) = connect(&broker, json!(3));
    assert_eq!(reply["error"]["code"], 100, "no answer that can be used");
    broker.until("the answer counted as invalid", |metrics| {
        metrics.sum("event_answers_invalid_total") == 1
    });
}
