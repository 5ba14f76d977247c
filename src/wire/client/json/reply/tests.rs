//! Replies in JSON: worked documents, bounds and what is refused.

use super::*;
use crate::wire::client::flat::push_tag;
use crate::wire::client::{Data, ErrorCode};
use serde_json::{Value, json};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    let text = String::from_utf8(out).expect("documents are UTF-8");
    assert!(!text.contains('\n'), "one document per line: {text}");
    serde_json::from_str::<Value>(&text).expect("documents are JSON");
    text
}

fn replied(id: u32, value: &Reply<'_>) -> String {
    written(|out| reply(out, id, value))
}

fn pushed(channel: &str, value: &Push<'_>) -> String {
    written(|out| push(out, channel, value))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn data(content: Content, bytes: &[u8]) -> Data<'_> {
    Data { content, bytes }
}

fn json_data(text: &str) -> Data<'_> {
    data(Content::Json, text.as_bytes())
}

fn publication(text: &str, offset: u64) -> Publication<'_> {
    Publication {
        offset,
        data: json_data(text),
        ..Publication::default()
    }
}

fn client(user: &'static str, client: &'static str) -> ClientInfo<'static> {
    ClientInfo {
        user,
        client,
        ..ClientInfo::default()
    }
}

/// What a payload is to a JSON subscriber.
fn seen(content: Content, payload: &[u8], delta: bool) -> Value {
    let publication = Publication {
        data: data(content, payload),
        delta,
        ..Publication::default()
    };
    let push = parsed(&pushed("c", &Push::Publication(&publication)));
    push["push"]["pub"]["data"].clone()
}

fn position() -> SubscribeResult<'static> {
    SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: "kTqWzaBe",
        offset: 12,
        ..SubscribeResult::default()
    }
}

#[test]
fn connect_replies_are_those_of_the_protocols_worked_examples() {
    let result = ConnectResult {
        client: "2f3c\u{2026}",
        version: "edge 0.1",
        ping_s: 25,
        pong: true,
        ..ConnectResult::default()
    };
    assert_eq!(
        replied(1, &Reply::Connect(&result)),
        "{\"id\":1,\"connect\":{\"client\":\"2f3c\u{2026}\",\"version\":\"edge 0.1\",\"ping\":25,\"pong\":true}}"
    );
    let subs = [
        (
            "#42",
            SubscribeResult {
                offset: 7,
                ..position()
            },
        ),
        ("x", SubscribeResult::default()),
    ];
    let result = ConnectResult {
        ttl_s: 3590,
        data: json_data("[1]"),
        subs: &subs,
        ..result
    };
    assert_eq!(
        replied(1, &Reply::Connect(&result)),
        concat!(
            "{\"id\":1,\"connect\":{\"client\":\"2f3c\u{2026}\",\"version\":\"edge 0.1\",\"expires\":true,\"ttl\":3590,",
            r##""data":[1],"subs":{"#42":{"recoverable":true,"positioned":true,"epoch":"kTqWzaBe","offset":7},"x":{}},"##,
            r#""ping":25,"pong":true}}"#
        )
    );
}

#[test]
fn subscribe_replies_are_those_of_the_protocols_worked_examples() {
    let mut result = SubscribeResult::default();
    assert_eq!(
        replied(2, &Reply::Subscribe(&result)),
        r#"{"id":2,"subscribe":{}}"#
    );
    result = position();
    assert_eq!(
        replied(2, &Reply::Subscribe(&result)),
        r#"{"id":2,"subscribe":{"recoverable":true,"positioned":true,"epoch":"kTqWzaBe","offset":12}}"#
    );
    let missed = [
        publication(r#"{"t":"a"}"#, 14),
        publication(r#"{"t":"b"}"#, 15),
    ];
    result = SubscribeResult {
        offset: 13,
        recovered: true,
        was_recovering: true,
        publications: &missed,
        ..result
    };
    assert_eq!(
        replied(3, &Reply::Subscribe(&result)),
        concat!(
            r#"{"id":3,"subscribe":{"recoverable":true,"positioned":true,"epoch":"kTqWzaBe","offset":13,"recovered":true,"#,
            r#""was_recovering":true,"publications":[{"data":{"t":"a"},"offset":14},{"data":{"t":"b"},"offset":15}]}}"#
        )
    );
    result = SubscribeResult {
        epoch: "NEWEPOCH",
        offset: 40,
        recovered: false,
        publications: &[],
        ..result
    };
    assert_eq!(
        replied(3, &Reply::Subscribe(&result)),
        r#"{"id":3,"subscribe":{"recoverable":true,"positioned":true,"epoch":"NEWEPOCH","offset":40,"was_recovering":true}}"#
    );
}

#[test]
fn the_other_replies_are_those_of_the_protocols_worked_examples() {
    let newest_first = [publication(r#""b""#, 2), publication(r#""a""#, 1)];
    let cases: [(u32, Reply<'_>, &str); 11] = [
        (
            3,
            Reply::Error(ErrorCode::Unrecoverable.into()),
            r#"{"id":3,"error":{"code":112,"message":"unrecoverable position"}}"#,
        ),
        (4, Reply::Publish, r#"{"id":4,"publish":{}}"#),
        (
            5,
            Reply::Presence(&[client("42", "2f3c")]),
            r#"{"id":5,"presence":{"presence":{"2f3c":{"user":"42","client":"2f3c"}}}}"#,
        ),
        (
            6,
            Reply::PresenceStats {
                clients: 1,
                users: 1,
            },
            r#"{"id":6,"presence_stats":{"num_clients":1,"num_users":1}}"#,
        ),
        (
            7,
            Reply::History {
                publications: &newest_first,
                epoch: "kTqWzaBe",
                offset: 2,
            },
            r#"{"id":7,"history":{"publications":[{"data":"b","offset":2},{"data":"a","offset":1}],"epoch":"kTqWzaBe","offset":2}}"#,
        ),
        (
            8,
            Reply::Rpc(json_data(r#"{"sum":1}"#)),
            r#"{"id":8,"rpc":{"data":{"sum":1}}}"#,
        ),
        (8, Reply::Rpc(Data::default()), r#"{"id":8,"rpc":{}}"#),
        (
            9,
            Reply::Refresh {
                client: "2f3c",
                version: "edge 0.1",
                ttl_s: 3600,
            },
            r#"{"id":9,"refresh":{"client":"2f3c","version":"edge 0.1","expires":true,"ttl":3600}}"#,
        ),
        (
            10,
            Reply::SubRefresh { ttl_s: 600 },
            r#"{"id":10,"sub_refresh":{"expires":true,"ttl":600}}"#,
        ),
        (
            10,
            Reply::SubRefresh { ttl_s: 0 },
            r#"{"id":10,"sub_refresh":{}}"#,
        ),
        (11, Reply::Unsubscribe, r#"{"id":11,"unsubscribe":{}}"#),
    ];
    for (id, reply, expected) in cases {
        assert_eq!(replied(id, &reply), expected);
    }
    assert_eq!(written(ping), "{}");
}

#[test]
fn pushes_are_those_of_the_protocols_worked_examples() {
    let plain = publication(r#"{"t":"hi"}"#, 13);
    let mut tags = Vec::new();
    push_tag(&mut tags, "lang", "en");
    let full = Publication {
        info: Some(client("42", "2f3c")),
        tags: Tags::from_flat(&tags),
        ..publication(r#""yo""#, 1)
    };
    let joined = ClientInfo {
        conn_info: json_data("{\"a\":\n1}"),
        chan_info: data(Content::Bytes, &[0]),
        ..client("7", "91aa")
    };
    let subscription = SubscribeResult {
        offset: 7,
        ..position()
    };
    let cases: [(&str, Push<'_>, &str); 9] = [
        (
            "news",
            Push::Publication(&plain),
            r#"{"push":{"channel":"news","pub":{"data":{"t":"hi"},"offset":13}}}"#,
        ),
        (
            "chat",
            Push::Publication(&full),
            r#"{"push":{"channel":"chat","pub":{"data":"yo","info":{"user":"42","client":"2f3c"},"offset":1,"tags":{"lang":"en"}}}}"#,
        ),
        (
            "chat",
            Push::Join(&joined),
            r#"{"push":{"channel":"chat","join":{"info":{"user":"7","client":"91aa","conn_info":{"a":1},"chan_info":"AA=="}}}}"#,
        ),
        (
            "chat",
            Push::Leave(&client("7", "91aa")),
            r#"{"push":{"channel":"chat","leave":{"info":{"user":"7","client":"91aa"}}}}"#,
        ),
        (
            "chat",
            Push::Unsubscribe {
                code: 2500,
                reason: "insufficient state",
            },
            r#"{"push":{"channel":"chat","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
        ),
        (
            "#42",
            Push::Subscribe(&subscription),
            r##"{"push":{"channel":"#42","subscribe":{"recoverable":true,"positioned":true,"epoch":"kTqWzaBe","offset":7}}}"##,
        ),
        (
            "",
            Push::Message(json_data(r#"{"hello":1}"#)),
            r#"{"push":{"message":{"data":{"hello":1}}}}"#,
        ),
        (
            "",
            Push::Refresh { ttl_s: 60 },
            r#"{"push":{"refresh":{"expires":true,"ttl":60}}}"#,
        ),
        ("", Push::Refresh { ttl_s: 0 }, r#"{"push":{"refresh":{}}}"#),
    ];
    for (channel, push, expected) in cases {
        assert_eq!(pushed(channel, &push), expected);
    }
}

#[test]
fn zero_values_are_left_out_except_those_that_clients_want() {
    let result = ConnectResult {
        client: "c",
        version: "v",
        ..ConnectResult::default()
    };
    assert_eq!(
        replied(1, &Reply::Connect(&result)),
        r#"{"id":1,"connect":{"client":"c","version":"v"}}"#
    );
    let anonymous = Publication {
        info: Some(ClientInfo::default()),
        ..publication("1", 0)
    };
    assert_eq!(
        pushed("c", &Push::Publication(&anonymous)),
        r#"{"push":{"channel":"c","pub":{"data":1,"info":{"user":"","client":""}}}}"#
    );
    assert_eq!(
        replied(1, &Reply::Presence(&[])),
        r#"{"id":1,"presence":{"presence":{}}}"#
    );
    let nobody = Reply::PresenceStats {
        clients: 0,
        users: 0,
    };
    assert_eq!(
        replied(1, &nobody),
        r#"{"id":1,"presence_stats":{"num_clients":0,"num_users":0}}"#
    );
    let nothing = Reply::History {
        publications: &[],
        epoch: "",
        offset: 0,
    };
    assert_eq!(
        replied(1, &nothing),
        r#"{"id":1,"history":{"publications":[],"epoch":"","offset":0}}"#
    );
}

#[test]
fn temporary_errors_say_so_and_applications_have_codes_of_their_own() {
    assert_eq!(
        replied(1, &Reply::Error(ErrorCode::Internal.into())),
        r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
    let own = ErrorReply {
        code: 1999,
        message: "no \"more\"",
        temporary: false,
    };
    assert_eq!(
        replied(1, &Reply::Error(own)),
        r#"{"id":1,"error":{"code":1999,"message":"no \"more\""}}"#
    );
}

#[test]
fn raw_newlines_of_a_payload_do_not_reach_the_line() {
    assert_eq!(
        seen(Content::Json, b"\n{\n\"a\":\n[1,\r\n2]}\n", false),
        json!({"a": [1, 2]})
    );
    assert_eq!(seen(Content::Json, br#""a\nb""#, false), json!("a\nb"));
}

#[test]
fn text_becomes_a_string_and_bytes_base64() {
    let text = "say \"hi\"\n\u{1}\\ gr\u{fc}n";
    assert_eq!(seen(Content::Text, text.as_bytes(), false), json!(text));
    assert_eq!(seen(Content::Text, b"a\xffb", false), json!("a\u{fffd}b"));
    assert_eq!(
        seen(Content::Bytes, b"\x00\xff\x10A", false),
        json!("AP8QQQ==")
    );
    assert_eq!(seen(Content::Bytes, b"", false), json!(""));
}

#[test]
fn with_deltas_documents_and_patches_are_strings() {
    let patch = "q\n6:{\"n\":2h@6,3:!\"}A3dNp;";
    assert_eq!(seen(Content::Text, patch.as_bytes(), true), json!(patch));
    let publications = [
        publication("{\"n\":\n1}", 1),
        Publication {
            data: Data {
                content: Content::Text,
                bytes: patch.as_bytes(),
            },
            delta: true,
            ..publication("", 2)
        },
    ];
    let result = SubscribeResult {
        publications: &publications,
        delta: true,
        ..SubscribeResult::default()
    };
    let reply = parsed(&replied(1, &Reply::Subscribe(&result)));
    assert_eq!(
        reply["subscribe"],
        json!({
            "publications": [
                {"data": "{\"n\":1}", "offset": 1},
                {"data": patch, "offset": 2, "delta": true},
            ],
            "delta": true,
        })
    );
}

#[test]
fn names_and_tags_are_escaped() {
    let hostile = "a\",\"pub\":{}\n\u{0}";
    let mut tags = Vec::new();
    push_tag(&mut tags, hostile, hostile);
    push_tag(&mut tags, "{", "[");
    let publication = Publication {
        info: Some(client(hostile, hostile)),
        tags: Tags::from_flat(&tags),
        ..publication("0", 1)
    };
    let push = parsed(&pushed(hostile, &Push::Publication(&publication)));
    assert_eq!(push["push"]["channel"], json!(hostile));
    assert_eq!(push["push"]["pub"]["info"]["user"], json!(hostile));
    assert_eq!(
        push["push"]["pub"]["tags"],
        json!({hostile: hostile, "{": "["})
    );
    let presence = [client("u", hostile), client("u", "")];
    let reply = parsed(&replied(1, &Reply::Presence(&presence)));
    assert_eq!(
        reply["presence"]["presence"][hostile]["client"],
        json!(hostile)
    );
    assert_eq!(reply["presence"]["presence"][""]["user"], json!("u"));
}

#[test]
fn appending_keeps_what_was_there() {
    let mut out = b"{}\n".to_vec();
    reply(&mut out, u32::MAX, &Reply::Publish);
    assert_eq!(out, b"{}\n{\"id\":4294967295,\"publish\":{}}");
}

#[test]
fn a_publication_is_written_without_allocations() {
    let mut tags = Vec::new();
    push_tag(&mut tags, "lang", "en");
    let publication = Publication {
        info: Some(client("42", "2f3c")),
        tags: Tags::from_flat(&tags),
        ..publication("{\"a\":\n\"text\"}", 1)
    };
    let mut out = Vec::with_capacity(4096);
    let allocations = allocation_counter::measure(|| {
        for content in [Content::Json, Content::Text, Content::Bytes] {
            let mut publication = publication;
            publication.data.content = content;
            push(&mut out, "room", &Push::Publication(&publication));
        }
    });
    assert_eq!(allocations.count_total, 0);
}
