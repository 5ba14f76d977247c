//! What a client is refused or closed for, and with which code and reason.

mod support;

use ringcast::base::Content;
use ringcast::client::Message;
use ringcast::wire::upstream::AckLevel;
use serde_json::json;
use support::{Broker, Client, Heard};

/// Anonymous clients that may publish.
const OPEN: &str = "--shards 3 --allow-anonymous --allow-publish";

#[test]
fn every_refused_command_has_its_code_and_the_session_goes_on() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    let long = "x".repeat(256);
    let table = [
        (json!({"subscribe": {"channel": "news"}}), 105),
        (json!({"subscribe": {"channel": long}}), 107),
        (json!({"publish": {"channel": "news"}}), 107),
        (json!({"publish": {"channel": "news", "data": 1}}), 103),
        (json!({"subscribe": {"channel": "$private"}}), 103),
        (json!({"subscribe": {"channel": "dialog#41,42"}}), 103),
        (
            json!({"subscribe": {"channel": "other", "token": "t"}}),
            103,
        ),
        (json!({"subscribe": {"channel": "other", "type": 1}}), 108),
        (json!({"presence": {"channel": "news"}}), 108),
        (json!({"presence_stats": {"channel": "news"}}), 108),
        (json!({"history": {"channel": "news"}}), 103),
        (json!({"ping": {}}), 108),
        (json!({"rpc": {"method": "x"}}), 108),
        (
            json!({"sub_refresh": {"channel": "other", "token": "t"}}),
            103,
        ),
    ];
    let errors = table.len() as u64;
    for (command, code) in table {
        let text = command.to_string();
        assert_eq!(client.refused(command), code, "{text}");
    }
    let message = Message::new(Content::Json, b"1", AckLevel::Sequenced);
    broker
        .upstream()
        .publish("news", &message)
        .expect("publish");
    assert_eq!(client.push().data, json!(1));
    broker.until("the errors counted", |metrics| {
        metrics.sum("command_errors_total") == errors
    });
}

#[test]
fn names_that_the_operator_does_not_want_are_error_107() {
    let broker = Broker::start(
        "--allow-anonymous --allow-publish --set channels.channel_regex=^[a-z]+$ \
         --set channels.presence=true",
    );
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    for command in [
        "subscribe",
        "publish",
        "history",
        "presence",
        "presence_stats",
    ] {
        let command = json!({command: {"channel": "News!", "data": 1}});
        assert_eq!(client.refused(command.clone()), 107, "{command}");
    }
}

#[test]
fn one_subscription_too_many_is_error_106() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    for n in 0..ringcast::limits::SUBSCRIPTIONS_PER_CONN_MAX {
        client.subscribe(&format!("r{n}"));
    }
    let more = json!({"subscribe": {"channel": "more"}});
    assert_eq!(client.refused(more.clone()), 106);
    client.unsubscribe("r0");
    assert_eq!(client.command(more)["subscribe"], json!({}));
}

/// Says these messages after the upgrade and expects the close.
fn closes(broker: &Broker, messages: &[&str], code: u16, reason: &str) {
    let mut client = Client::open(broker.clients);
    for message in messages {
        client.send(message);
    }
    let closed = client.closed(&format!("{messages:?}"));
    assert_eq!(closed, (code, reason.to_owned()), "{messages:?}");
    assert_eq!(client.hear("the end"), Heard::Ended, "{messages:?}");
}

#[test]
fn what_breaks_the_protocol_is_closed_with_3501() {
    let broker = Broker::start(OPEN);
    let hello = r#"{"id":1,"connect":{}}"#;
    let too_many = vec![r#"{"id":9,"rpc":{}}"#; 1_025].join("\n");
    let table: &[&[&str]] = &[
        &[r#"{"id":1,"subscribe":{"channel":"news"}}"#],
        &["{}"],
        &[hello, hello],
        &[hello, "{}"],
        &[hello, ""],
        &[hello, "\n"],
        &[hello, "{\"id\":2,\"rpc\":{}}\n\n{\"id\":3,\"rpc\":{}}"],
        &[hello, "{\"id\":2,\"rpc\":{}}\n\n"],
        &[hello, "not json"],
        &[hello, "[1]"],
        &[hello, r#"{"id":"2","rpc":{}}"#],
        &[hello, r#"{"id":2}"#],
        &[hello, r#"{"id":2,"dance":{}}"#],
        &[hello, r#"{"id":2,"subscribe":{}}"#],
        &[hello, r#"{"id":2,"subscribe":{"channel":""}}"#],
        &[hello, r#"{"id":2,"subscribe":{"channel":7}}"#],
        &[hello, &too_many],
    ];
    for messages in table {
        closes(&broker, messages, 3501, "bad request");
    }
    let count = table.len() as u64;
    let metrics = broker.until("the closes", |metrics| {
        metrics.closes("bad_request") == count
    });
    assert_eq!(metrics.sum("connections"), 0);
}

#[test]
fn commands_before_a_bad_one_are_answered_and_those_behind_it_are_not() {
    let broker = Broker::start(OPEN);
    let mut client = Client::open(broker.clients);
    client.send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"rpc\":{}}\nrubbish\n{\"id\":3,\"rpc\":{}}");
    assert!(client.document("connect").get("connect").is_some());
    assert_eq!(client.document("rpc")["id"], 2);
    let closed = client.hear("the close");
    assert_eq!(closed, Heard::Closed(3501, "bad request".into()));
}

#[test]
fn tokens_that_nobody_can_check_are_closed_with_3500() {
    let broker = Broker::start(OPEN);
    let connect = r#"{"id":1,"connect":{"token":"abc"}}"#;
    closes(&broker, &[connect], 3500, "invalid token");
    // An empty token is no token.
    let mut client = Client::open(broker.clients);
    let reply = client.command(json!({"connect": {"token": ""}}));
    assert!(reply.get("connect").is_some(), "{reply}");
}

#[test]
fn nobody_connects_without_a_token_unless_the_operator_allows_it() {
    let broker = Broker::start("--shards 1");
    closes(&broker, &[r#"{"id":1,"connect":{}}"#], 3501, "bad request");
}

#[test]
fn a_message_to_an_application_that_is_not_there_is_closed_with_3508() {
    let broker = Broker::start(OPEN);
    let hello = r#"{"id":1,"connect":{}}"#;
    for send in [r#"{"send":{"data":1}}"#, r#"{"id":2,"send":{"data":1}}"#] {
        closes(&broker, &[hello, send], 3508, "not available");
    }
    broker.until("the closes", |metrics| metrics.closes("not_available") == 2);
}

#[test]
fn a_session_that_is_not_opened_in_time_is_closed_with_3502() {
    let broker = Broker::start_with(OPEN, |config| config.timing.stale_ms = 300);
    closes(&broker, &[], 3502, "stale");
    let mut open = Client::connect(broker.clients);
    broker.until("the close", |metrics| metrics.closes("stale") == 1);
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(
        open.refused(json!({"rpc": {}})),
        108,
        "an open session is not stale"
    );
}

#[test]
fn an_unanswered_ping_is_closed_with_3012_and_an_answered_one_is_not() {
    let broker = Broker::start_with(OPEN, |config| {
        config.timing.ping_ms = 1_000;
        config.timing.pong_ms = 700;
    });
    let mut alive = Client::open(broker.clients);
    assert_eq!(alive.say_hello()["connect"]["ping"], 1);
    let alive = std::thread::spawn(move || {
        for _ in 0..4 {
            assert_eq!(alive.hear("a ping"), Heard::Document(json!({})));
            alive.send("{}");
        }
        assert_eq!(alive.refused(json!({"rpc": {}})), 108);
    });
    let mut silent = Client::connect(broker.clients);
    assert_eq!(silent.hear("a ping"), Heard::Document(json!({})));
    let closed = silent.hear("the close");
    assert_eq!(closed, Heard::Closed(3012, "no pong".into()));
    alive.join().expect("answered pings");
    broker.until("the close", |metrics| metrics.closes("no_pong") == 1);
}

#[test]
fn a_close_of_the_client_is_answered_with_its_code() {
    use tungstenite::protocol::CloseFrame;
    let broker = Broker::start(OPEN);
    for code in [1000, 1001, 3000, 4999] {
        let mut client = Client::connect(broker.clients);
        client.subscribe("news");
        client.close(Some(CloseFrame {
            code: code.into(),
            reason: "bye".into(),
        }));
        let (answer, reason) = client.closed("the answer");
        assert_eq!(answer, code);
        assert!(!reason.is_empty(), "a close has a reason");
        assert_eq!(
            client.hear("the end"),
            Heard::Ended,
            "the server ends the stream"
        );
    }
    // JavaScript closes without a code.
    let mut client = Client::connect(broker.clients);
    client.close(None);
    client.closed("the answer");
    assert_eq!(client.hear("the end"), Heard::Ended);
    let metrics = broker.until("five closes", |metrics| metrics.closes("peer_closed") == 5);
    assert_eq!(metrics.sum("subscriptions"), 0);
    broker.until("no connection", |metrics| metrics.sum("connections") == 0);
}

#[test]
fn a_close_of_the_server_is_completed_by_the_client() {
    let broker = Broker::start(OPEN);
    let mut client = Client::connect(broker.clients);
    client.subscribe("news");
    broker.ask_to_stop();
    assert_eq!(client.closed("the drain"), (3001, "shutdown".into()));
    assert_eq!(
        client.hear("the end"),
        Heard::Ended,
        "the server ends the stream"
    );
    assert_eq!(broker.stop(), ringcast::service::Drained::Completely);
}
