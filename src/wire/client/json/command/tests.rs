//! Commands in JSON: worked documents, bounds and what is refused.

use super::*;
use crate::wire::client::{BadFilter, Commands, Encoding};

fn one(message: &str) -> Result<Command<'_>, BadCommand> {
    let mut all: Vec<_> = Commands::new(Encoding::Json, message.as_bytes()).collect();
    assert_eq!(all.len(), 1, "{message}");
    all.remove(0)
}

fn request(message: &str) -> Request<'_> {
    one(message).expect(message).request
}

fn bytes(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn subscribe(channel: &str) -> SubscribeRequest<'_> {
    SubscribeRequest {
        channel: channel.into(),
        ..SubscribeRequest::default()
    }
}

#[test]
fn the_first_frame_of_an_sdk_is_read_in_order() {
    let message = concat!(
        r#"{"connect":{"token":"tok","name":"js"},"id":1}"#,
        "\n",
        r#"{"subscribe":{"channel":"news","flag":1},"id":2}"#,
    );
    let connect = Request::Connect(ConnectRequest {
        token: Some("tok".into()),
        name: Some("js".into()),
        ..ConnectRequest::default()
    });
    let subscribe = Request::Subscribe(SubscribeRequest {
        flag: 1,
        ..subscribe("news")
    });
    let expected = [(1, connect), (2, subscribe)]
        .map(|(id, request)| Ok(Command { id, request }))
        .to_vec();
    for message in [message.to_owned(), format!("{message}\n")] {
        let read: Vec<_> = Commands::new(Encoding::Json, message.as_bytes()).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn ordinary_strings_are_borrowed_and_escapes_are_resolved() {
    let Request::Subscribe(SubscribeRequest { channel, .. }) =
        request(r#"{"id":2,"subscribe":{"channel":"a"}}"#)
    else {
        panic!("a subscribe");
    };
    assert!(matches!(channel, Cow::Borrowed("a")));
    assert_eq!(
        request(r#"{"id":2,"subscribe":{"channel":"\u00e4\n"}}"#),
        Request::Subscribe(subscribe("\u{e4}\n"))
    );
}

#[test]
fn reading_an_ordinary_command_allocates_nothing() {
    let message = concat!(
        r#"{"id":1,"connect":{"token":"tok","name":"js","data":{"a":1}}}"#,
        "\n",
        r#"{"id":2,"subscribe":{"channel":"c","recover":true,"epoch":"e","offset":3,"tf":{"op":""}}}"#,
        "\n",
        r#"{"id":3,"publish":{"channel":"c","data":{"text":"a\nb"}}}"#,
        "\n",
        r#"{"id":4,"history":{"channel":"c","since":{"offset":1,"epoch":"e"}}}"#,
        "\n{}\n",
    );
    let allocations = allocation_counter::measure(|| {
        let commands = Commands::new(Encoding::Json, message.as_bytes());
        assert_eq!(commands.filter(Result::is_ok).count(), 5);
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn every_field_of_connect_is_read() {
    assert_eq!(
        request(
            r##"{"id":1,"connect":{"token":"t","data":[1],"name":"js","version":"5","headers":{"a":"b"},"flag":1,"subs":{"#42":{"recover":true,"epoch":"e","offset":7},"x":{}}}}"##
        ),
        Request::Connect(ConnectRequest {
            token: Some("t".into()),
            data: bytes("[1]"),
            subs: vec![
                ("#42".into(), recover(true, 7, Text("e".into()))),
                ("x".into(), Recover::default()),
            ],
            name: Some("js".into()),
            version: Some("5".into()),
        })
    );
}

#[test]
fn every_field_of_subscribe_is_read() {
    assert_eq!(
        request(
            r#"{"id":3,"subscribe":{"channel":"n","token":"t","recover":true,"epoch":"e","offset":13,"data":{},"positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","flag":3,"type":4,"tf":{"nodes":[{}]}}}"#
        ),
        Request::Subscribe(SubscribeRequest {
            channel: "n".into(),
            token: Some("t".into()),
            recover: recover(true, 13, Text("e".into())),
            data: bytes("{}"),
            positioned: true,
            recoverable: true,
            join_leave: true,
            delta_fossil: true,
            filter: Err(BadFilter::Comparison),
            flag: 3,
            kind: 4,
        })
    );
    let other_delta = request(r#"{"id":3,"subscribe":{"channel":"n","delta":"other"}}"#);
    assert_eq!(other_delta, Request::Subscribe(subscribe("n")));
}

#[test]
fn every_field_of_the_other_requests_is_read() {
    let channel = || Cow::Borrowed("c");
    let token = || Cow::Borrowed("t");
    let cases = [
        (
            r#"{"id":4,"publish":{"channel":"c","data": {"x": [1, "a"]} }}"#,
            Request::Publish {
                channel: channel(),
                data: bytes(r#"{"x": [1, "a"]}"#),
            },
        ),
        (
            r#"{"id":4,"unsubscribe":{"channel":"c"}}"#,
            Request::Unsubscribe { channel: channel() },
        ),
        (
            r#"{"id":4,"presence":{"channel":"c"}}"#,
            Request::Presence { channel: channel() },
        ),
        (
            r#"{"id":4,"presence_stats":{"channel":"c"}}"#,
            Request::PresenceStats { channel: channel() },
        ),
        (
            r#"{"id":4,"history":{"channel":"c","limit":-2,"since":{"offset":18446744073709551615,"epoch":"e"},"reverse":true}}"#,
            Request::History {
                channel: channel(),
                limit: -2,
                since: Some(StreamPosition {
                    offset: u64::MAX,
                    epoch: "e".into(),
                }),
                reverse: true,
            },
        ),
        (
            r#"{"id":4,"history":{"channel":"c","since":null}}"#,
            Request::History {
                channel: channel(),
                limit: 0,
                since: None,
                reverse: false,
            },
        ),
        (r#"{"id":4,"ping":{}}"#, Request::Ping),
        (
            r#"{"id":4,"rpc":{"method":"sum","data":{"a":1}}}"#,
            Request::Rpc {
                method: "sum".into(),
                data: bytes(r#"{"a":1}"#),
            },
        ),
        (
            r#"{"id":4,"rpc":{}}"#,
            Request::Rpc {
                method: "".into(),
                data: bytes(""),
            },
        ),
        (
            r#"{"id":4,"refresh":{"token":"t"}}"#,
            Request::Refresh { token: token() },
        ),
        (
            r#"{"id":4,"sub_refresh":{"channel":"c","token":"t"}}"#,
            Request::SubRefresh {
                channel: channel(),
                token: token(),
            },
        ),
    ];
    for (message, request) in cases {
        assert_eq!(one(message), Ok(Command { id: 4, request }), "{message}");
    }
    let data = bytes(r#"{"typing":true}"#);
    let request = Request::Send { data };
    let send = one(r#"{"send":{"data":{"typing":true}}}"#);
    assert_eq!(send, Ok(Command { id: 0, request }));
}

#[test]
fn null_data_is_data_and_missing_data_is_empty() {
    for (fields, expected) in [(r#","data":null"#, "null"), ("", "")] {
        let message = format!(r#"{{"id":1,"publish":{{"channel":"c"{fields}}}}}"#);
        let Request::Publish { data, .. } = request(&message) else {
            panic!("a publish");
        };
        assert_eq!(data, bytes(expected));
    }
}

#[test]
fn without_id_and_send_a_command_is_a_pong_whatever_it_carries() {
    for message in [
        "{}",
        r#"{"id":0}"#,
        r#"{"id":null,"send":null}"#,
        r#"{"subscribe":{"channel":"news"}}"#,
        r#"{"rpc":{}}"#,
    ] {
        let expected = Command {
            id: 0,
            request: Request::Pong,
        };
        assert_eq!(one(message), Ok(expected), "{message}");
    }
}

#[test]
fn of_several_requests_the_first_by_field_number_counts() {
    assert_eq!(
        request(
            r#"{"id":1,"send":{"data":1},"rpc":{},"publish":{"channel":"b","data":1},"subscribe":{"channel":"a"}}"#
        ),
        Request::Subscribe(subscribe("a"))
    );
    assert_eq!(
        request(r#"{"id":1,"send":{"data":1},"presence":{"channel":"a"}}"#),
        Request::Presence {
            channel: "a".into()
        }
    );
    assert_eq!(
        request(r#"{"id":1,"rpc":{},"send":{"data":1}}"#),
        Request::Send { data: bytes("1") }
    );
}

#[test]
fn an_id_needs_a_known_request() {
    assert_eq!(one(r#"{"id":5}"#), Err(BadCommand::NoRequest));
    assert_eq!(one(r#"{"id":5,"dance":{}}"#), Err(BadCommand::NoRequest));
    assert_eq!(one(r#"{"id":5,"rpc":null}"#), Err(BadCommand::NoRequest));
}

#[test]
fn of_a_repeated_field_the_last_counts() {
    assert_eq!(
        request(r#"{"id":1,"id":1,"subscribe":{"channel":"a","channel":"b"}}"#),
        Request::Subscribe(subscribe("b"))
    );
    let Request::Connect(connect) =
        request(r#"{"id":1,"connect":{"subs":{"a":{"offset":1},"a":{"offset":2}}}}"#)
    else {
        panic!("a connect");
    };
    let last = recover(false, 2, Text::default());
    assert_eq!(connect.subs, [("a".into(), last)]);
}

#[test]
fn a_channel_must_be_named() {
    for message in [
        r#"{"id":1,"connect":{"subs":{"":{}}}}"#,
        r#"{"id":1,"subscribe":{}}"#,
        r#"{"id":1,"subscribe":{"channel":""}}"#,
        r#"{"id":1,"unsubscribe":{"channel":null}}"#,
        r#"{"id":1,"publish":{"data":1}}"#,
        r#"{"id":1,"presence":{}}"#,
        r#"{"id":1,"presence_stats":{}}"#,
        r#"{"id":1,"history":{"limit":1}}"#,
        r#"{"id":1,"sub_refresh":{"token":"t"}}"#,
    ] {
        assert_eq!(one(message), Err(BadCommand::NoChannel), "{message}");
    }
}

#[test]
fn what_is_not_a_command_object_is_refused() {
    for message in [
        "null",
        "[]",
        "1",
        "{",
        "{}{}",
        " ",
        "{\"id\":1,}",
        r#"[1,{"token":"t"}]"#,
        r#"{"id":-1}"#,
        r#"{"id":4294967296}"#,
        r#"{"id":"1"}"#,
        r#"{"id":1.5}"#,
        r#"{"id":1,"subscribe":["news"]}"#,
        r#"{"id":1,"subscribe":"news"}"#,
        r#"{"id":1,"subscribe":{"channel":7}}"#,
        r#"{"id":1,"subscribe":{"channel":"c","offset":-1}}"#,
        r#"{"id":1,"connect":{"subs":[]}}"#,
        r#"{"id":1,"connect":{"subs":{"c":1}}}"#,
        r#"{"id":1,"history":{"channel":"c","since":[1,"e"]}}"#,
        r#"{"id":1,"history":{"channel":"c","limit":2147483648}}"#,
        r#"{"id":1,"ping":[]}"#,
        r#"{"id":1,"publish":{"channel":"c","data":}}"#,
    ] {
        assert_eq!(one(message), Err(BadCommand::NotJson), "{message}");
    }
    let not_utf8 = b"{\"x\":\"\xff\"}";
    assert!(Commands::new(Encoding::Json, not_utf8).eq([Err(BadCommand::NotUtf8)]));
}

#[test]
fn positions_of_server_side_subscriptions_are_bounded() {
    let message = |subs: usize| {
        let subs: Vec<_> = (0..subs).map(|sub| format!(r#""c{sub}":{{}}"#)).collect();
        format!(r#"{{"id":1,"connect":{{"subs":{{{}}}}}}}"#, subs.join(","))
    };
    assert!(one(&message(SUBSCRIPTIONS_PER_CONN_MAX)).is_ok());
    for over in [
        SUBSCRIPTIONS_PER_CONN_MAX + 1,
        3 * SUBSCRIPTIONS_PER_CONN_MAX,
    ] {
        assert_eq!(one(&message(over)), Err(BadCommand::TooMany));
        let same = format!(
            r#"{{"id":1,"connect":{{"subs":{{{}"c":{{}}}}}}}}"#,
            r#""c":{},"#.repeat(over)
        );
        assert_eq!(one(&same), Err(BadCommand::TooMany), "repeated ones count");
    }
}

#[test]
fn depth_bombs_are_refused_or_skipped_without_the_stack() {
    let bomb = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for request in ["publish", "connect", "subscribe", "rpc", "send"] {
        let data = format!(r#"{{"id":1,"{request}":{{"channel":"c","data":{bomb}}}}}"#);
        assert_eq!(one(&data), Err(BadCommand::TooDeep), "{request}");
    }
    let unknown = format!(r#"{{"id":1,"later":{bomb},"subscribe":{{"channel":"c"}}}}"#);
    assert_eq!(request(&unknown), Request::Subscribe(subscribe("c")));
}
