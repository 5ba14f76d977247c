//! Before the first frame: who is let in, who is refused with which status, which pages there are.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use support::{Broker, Client, dial, frame, get, request, until};

/// Anonymous clients that may publish.
const OPEN: &str = "--shards 3 --allow-anonymous --allow-publish";

/// A broker that does not wait long for a refused peer to end its side.
fn start(flags: &str) -> Broker {
    Broker::start_with(flags, |config| config.timing.close_ms = 300)
}

#[test]
fn a_page_of_another_origin_is_refused_with_403() {
    let allowed = "--shards 2 --allow-anonymous --allowed-origin https://*.example.com";
    let broker = start(allowed);
    let upgrade = |origin: &str| {
        let stream = dial(broker.clients);
        let fields = [("origin", origin)];
        Client::upgrade(broker.clients, stream, "/connection/websocket", &fields).map(|_| ())
    };
    assert_eq!(upgrade("https://chat.example.com"), Ok(()));
    for origin in [
        "https://example.com.evil.net",
        "null",
        "http://chat.example.com",
    ] {
        assert_eq!(upgrade(origin).unwrap_err().0, 403, "{origin}");
    }
    broker.until("the refusals", |metrics| {
        metrics.closes("upgrade_refused") == 3
    });
    let strict = start("--shards 1 --allow-anonymous");
    let stream = dial(strict.clients);
    let fields = [("origin", "http://127.0.0.1")];
    let refused = Client::upgrade(strict.clients, stream, "/connection/websocket", &fields);
    assert_eq!(
        refused.map(|_| ()).unwrap_err().0,
        403,
        "no origin by default"
    );
}

#[test]
fn the_endpoint_has_one_path_and_one_method() {
    let broker = start(OPEN);
    let stream = dial(broker.clients);
    let refused = Client::upgrade(broker.clients, stream, "/other", &[]);
    assert_eq!(refused.map(|_| ()).unwrap_err().0, 404);
    assert_eq!(
        get(broker.clients, "/").status,
        404,
        "no page without the demo"
    );
    let post = b"POST /connection/websocket HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(request(broker.clients, post).status, 405);
    // A query does not change the path.
    let stream = dial(broker.clients);
    let path = "/connection/websocket?format=json";
    assert!(Client::upgrade(broker.clients, stream, path, &[]).is_ok());
}

#[test]
fn a_subprotocol_is_chosen_when_one_is_known() {
    let broker = start(OPEN);
    let upgrade = |protocols: Option<&str>| {
        let stream = dial(broker.clients);
        let fields: Vec<_> = protocols
            .map(|protocols| ("sec-websocket-protocol", protocols))
            .into_iter()
            .collect();
        Client::upgrade(broker.clients, stream, "/connection/websocket", &fields)
            .map(|(_, protocol)| protocol)
            .map_err(|(status, _)| status)
    };
    assert_eq!(upgrade(None), Ok(None));
    assert_eq!(
        upgrade(Some("chat, centrifuge-json")),
        Ok(Some("centrifuge-json".into()))
    );
    assert_eq!(
        upgrade(Some("centrifuge-protobuf")),
        Ok(Some("centrifuge-protobuf".into()))
    );
    assert_eq!(upgrade(Some("chat")), Err(400));
}

#[test]
fn one_connection_too_many_is_refused_with_503_and_a_time() {
    let broker = start("--shards 1 --allow-anonymous --connections-per-shard 2");
    let first = Client::connect(broker.clients);
    let mut second = Client::connect(broker.clients);
    let asked = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = request(broker.clients, asked.as_bytes());
    assert_eq!(refused.status, 503);
    assert!(
        refused.head.contains("\r\nRetry-After: 5"),
        "{}",
        refused.head
    );
    drop(first);
    broker.until("a place", |metrics| metrics.sum("connections") == 1);
    let third = Client::connect(broker.clients);
    assert_eq!(
        second.refused(json!({"rpc": {}})),
        108,
        "nobody was thrown out"
    );
    drop(third);
}

#[test]
fn the_demo_serves_its_page_and_lets_that_page_in() {
    let broker = start("--shards 2 --demo");
    let page = get(broker.clients, "/");
    assert_eq!(page.status, 200);
    assert!(
        page.head.contains("Content-Type: text/html"),
        "{}",
        page.head
    );
    assert!(page.body.starts_with("<!doctype html>"));
    assert_eq!(get(broker.clients, "/missing").status, 404);
    // Longer than any buffer of a connection.
    let script = get(broker.clients, "/centrifuge.js");
    assert!(script.head.contains("Content-Type: text/javascript"));
    assert_eq!(script.body, include_str!("../src/demo/centrifuge.js"));
    let metrics = broker.until("the pages", |metrics| metrics.closes("page_served") == 2);
    assert_eq!(metrics.closes("upgrade_refused"), 1);

    let origin = format!("http://{}", broker.clients);
    let stream = dial(broker.clients);
    let fields = [("origin", origin.as_str())];
    let upgraded = Client::upgrade(broker.clients, stream, "/connection/websocket", &fields);
    let (mut client, _) = upgraded.unwrap_or_else(|refused| panic!("{origin}: {refused:?}"));
    client.say_hello();
    client.subscribe(ringcast::demo::FIGURES_ROOM);
    let figures = client.push().data;
    assert_eq!(figures["connections"], 1, "{figures}");
}

#[test]
fn the_admin_pages_tell_health_readiness_and_what_else_there_is() {
    let broker = start(OPEN);
    let ready = until("a ready broker", || {
        Some(get(broker.admin, "/ready")).filter(|ready| ready.status == 200)
    });
    let ready: Value = serde_json::from_str(&ready.body).unwrap();
    assert_eq!(ready["status"], "ready");
    assert_eq!(get(broker.admin, "/health").status, 200);
    assert_eq!(get(broker.admin, "/other").status, 404);
    let post = b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(request(broker.admin, post).status, 405);
}

#[test]
fn commands_may_come_with_the_upgrade_in_one_segment() {
    let broker = start(OPEN);
    let mut stream = dial(broker.clients);
    let mut bytes = format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        broker.clients
    )
    .into_bytes();
    bytes.extend(frame(0x81, br#"{"id":1,"connect":{}}"#));
    bytes.extend(frame(0x81, br#"{"id":2,"subscribe":{"channel":"news"}}"#));
    bytes.extend(frame(0x88, &1000u16.to_be_bytes()));
    stream.write_all(&bytes).unwrap();
    let answer = support::read_to_end(&mut stream, "the answers and the close");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The accept key of the example in RFC 6455, section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert!(answer.contains(r#"{"id":1,"connect":{"#), "{answer}");
}
