//! Replies and pushes as JSON.
//!
//! Each function appends one document, without the newline that separates documents in a message and
//! without a WebSocket header. Zero values are left out where the protocol allows it. Nothing is
//! formatted through `fmt` and nothing is allocated but what `out` grows by.

use crate::base::Content;
use crate::wire::client::{ErrorCode, SubscribeResult};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Accepts a `connect`. `ping_s` is the interval of server pings in seconds, 0 for none; `pong` says
/// that the client has to answer them. `client` and `version` must not be empty.
pub fn connect_reply(
    out: &mut Vec<u8>,
    id: u32,
    client: &str,
    version: &str,
    ping_s: u32,
    pong: bool,
) {
    begin_reply(out, id);
    put(out, r#""connect":{"client":"#);
    put_string(out, client);
    put(out, r#","version":"#);
    put_string(out, version);
    if ping_s > 0 {
        put(out, r#","ping":"#);
        put_number(out, u64::from(ping_s));
    }
    if pong {
        put(out, r#","pong":true"#);
    }
    put(out, "}}");
}

/// Accepts a `subscribe`.
pub fn subscribe_reply(out: &mut Vec<u8>, id: u32, result: &SubscribeResult<'_>) {
    begin_reply(out, id);
    put(out, r#""subscribe":{"#);
    let fields = out.len();
    if result.recoverable {
        put(out, r#""recoverable":true,"#);
    }
    if result.positioned {
        put(out, r#""positioned":true,"#);
    }
    if !result.epoch.is_empty() {
        put(out, r#""epoch":"#);
        put_string(out, result.epoch);
        out.push(b',');
    }
    if result.offset > 0 {
        put(out, r#""offset":"#);
        put_number(out, result.offset);
        out.push(b',');
    }
    if result.recovered {
        put(out, r#""recovered":true,"#);
    }
    if result.was_recovering {
        put(out, r#""was_recovering":true,"#);
    }
    if out.len() > fields {
        // The comma after the last field.
        out.pop();
    }
    put(out, "}}");
}

/// Accepts an `unsubscribe`.
pub fn unsubscribe_reply(out: &mut Vec<u8>, id: u32) {
    begin_reply(out, id);
    put(out, r#""unsubscribe":{}}"#);
}

/// Accepts a `publish`.
pub fn publish_reply(out: &mut Vec<u8>, id: u32) {
    begin_reply(out, id);
    put(out, r#""publish":{}}"#);
}

/// Refuses a command.
pub fn error_reply(out: &mut Vec<u8>, id: u32, code: ErrorCode) {
    begin_reply(out, id);
    put(out, r#""error":{"code":"#);
    put_number(out, code as u64);
    put(out, r#","message":"#);
    put_string(out, code.message());
    if code.temporary() {
        put(out, r#","temporary":true"#);
    }
    put(out, "}}");
}

/// A publication for the subscribers of `channel`. `payload` was checked for its `content` where it
/// entered. `offset` is 0 when the room keeps no history; `info` is user and client id of the publisher
/// when it was a client.
pub fn publication_push(
    out: &mut Vec<u8>,
    channel: &str,
    content: Content,
    payload: &[u8],
    offset: u64,
    info: Option<(&str, &str)>,
) {
    out.reserve(payload.len() + channel.len() + 64);
    put(out, r#"{"push":{"channel":"#);
    put_string(out, channel);
    put(out, r#","pub":{"data":"#);
    match content {
        Content::Json => put_document(out, payload),
        Content::Text => put_text(out, payload),
        Content::Bytes => put_base64(out, payload),
    }
    if let Some((user, client)) = info {
        put(out, r#","info":{"user":"#);
        put_string(out, user);
        put(out, r#","client":"#);
        put_string(out, client);
        out.push(b'}');
    }
    if offset > 0 {
        put(out, r#","offset":"#);
        put_number(out, offset);
    }
    put(out, "}}}");
}

/// Asks for a pong.
pub fn ping(out: &mut Vec<u8>) {
    put(out, "{}");
}

fn begin_reply(out: &mut Vec<u8>, id: u32) {
    put(out, r#"{"id":"#);
    put_number(out, u64::from(id));
    out.push(b',');
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    put(out, itoa::Buffer::new().format(number));
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte");
}

/// A JSON document without its raw newlines. In a valid document they stand between tokens only.
fn put_document(out: &mut Vec<u8>, document: &[u8]) {
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', document) {
        out.extend_from_slice(&document[start..newline]);
        start = newline + 1;
    }
    out.extend_from_slice(&document[start..]);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    match simdutf8::basic::from_utf8(text) {
        Ok(text) => put_string(out, text),
        // Text is checked where it enters; a frame that SDKs can read is kept even so.
        Err(_) => put_string(out, &String::from_utf8_lossy(text)),
    }
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    let encoded_bytes =
        base64::encoded_len(bytes.len(), true).expect("payloads are far below 4 GiB");
    out.resize(start + encoded_bytes, 0);
    STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("the space is of the encoded length");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        let text = String::from_utf8(out).expect("documents are UTF-8");
        assert!(!text.contains('\n'), "one document per line: {text}");
        serde_json::from_str::<Value>(&text).expect("documents are JSON");
        text
    }

    fn data(content: Content, payload: &[u8]) -> Value {
        let text = written(|out| publication_push(out, "c", content, payload, 0, None));
        let push: Value = serde_json::from_str(&text).expect("JSON");
        push["push"]["pub"]["data"].clone()
    }

    #[test]
    fn replies_are_those_of_the_protocols_worked_examples() {
        assert_eq!(
            written(|out| connect_reply(out, 1, "2f3c\u{2026}", "edge 0.1", 25, true)),
            "{\"id\":1,\"connect\":{\"client\":\"2f3c\u{2026}\",\"version\":\"edge 0.1\",\"ping\":25,\"pong\":true}}"
        );
        assert_eq!(
            written(|out| unsubscribe_reply(out, 11)),
            r#"{"id":11,"unsubscribe":{}}"#
        );
        assert_eq!(
            written(|out| publish_reply(out, 4)),
            r#"{"id":4,"publish":{}}"#
        );
        assert_eq!(
            written(|out| error_reply(out, 3, ErrorCode::Unrecoverable)),
            r#"{"id":3,"error":{"code":112,"message":"unrecoverable position"}}"#
        );
        assert_eq!(
            written(|out| error_reply(out, 8, ErrorCode::NotAvailable)),
            r#"{"id":8,"error":{"code":108,"message":"not available"}}"#
        );
        assert_eq!(written(ping), "{}");
    }

    #[test]
    fn subscribe_replies_are_those_of_the_protocols_worked_examples() {
        let mut result = SubscribeResult::default();
        assert_eq!(
            written(|out| subscribe_reply(out, 2, &result)),
            r#"{"id":2,"subscribe":{}}"#
        );
        result = SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: "kTqWzaBe",
            offset: 12,
            ..result
        };
        assert_eq!(
            written(|out| subscribe_reply(out, 2, &result)),
            r#"{"id":2,"subscribe":{"recoverable":true,"positioned":true,"epoch":"kTqWzaBe","offset":12}}"#
        );
        result = SubscribeResult {
            epoch: "NEWEPOCH",
            offset: 40,
            was_recovering: true,
            ..result
        };
        assert_eq!(
            written(|out| subscribe_reply(out, 3, &result)),
            r#"{"id":3,"subscribe":{"recoverable":true,"positioned":true,"epoch":"NEWEPOCH","offset":40,"was_recovering":true}}"#
        );
    }

    #[test]
    fn pushes_are_those_of_the_protocols_worked_examples() {
        assert_eq!(
            written(|out| publication_push(out, "news", Content::Json, br#"{"t":"hi"}"#, 13, None)),
            r#"{"push":{"channel":"news","pub":{"data":{"t":"hi"},"offset":13}}}"#
        );
        assert_eq!(
            written(|out| publication_push(
                out,
                "chat",
                Content::Json,
                br#""yo""#,
                1,
                Some(("42", "2f3c"))
            )),
            r#"{"push":{"channel":"chat","pub":{"data":"yo","info":{"user":"42","client":"2f3c"},"offset":1}}}"#
        );
    }

    #[test]
    fn zero_values_are_left_out_except_user_and_client() {
        assert_eq!(
            written(|out| connect_reply(out, 1, "c", "v", 0, false)),
            r#"{"id":1,"connect":{"client":"c","version":"v"}}"#
        );
        assert_eq!(
            written(|out| publication_push(out, "c", Content::Json, b"1", 0, Some(("", "")))),
            r#"{"push":{"channel":"c","pub":{"data":1,"info":{"user":"","client":""}}}}"#
        );
    }

    #[test]
    fn temporary_errors_say_so() {
        assert_eq!(
            written(|out| error_reply(out, 1, ErrorCode::Internal)),
            r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#
        );
    }

    #[test]
    fn raw_newlines_of_a_payload_do_not_reach_the_line() {
        assert_eq!(
            data(Content::Json, b"\n{\n\"a\":\n[1,\r\n2]}\n"),
            json!({"a": [1, 2]})
        );
        assert_eq!(data(Content::Json, br#""a\nb""#), json!("a\nb"));
    }

    #[test]
    fn text_becomes_a_string_and_bytes_base64() {
        let text = "say \"hi\"\n\u{1}\\ gr\u{fc}n";
        assert_eq!(data(Content::Text, text.as_bytes()), json!(text));
        assert_eq!(data(Content::Text, b"a\xffb"), json!("a\u{fffd}b"));
        assert_eq!(data(Content::Bytes, b""), json!(""));
        assert_eq!(data(Content::Bytes, b"\x00\xff\x10A"), json!("AP8QQQ=="));
    }

    #[test]
    fn channels_and_ids_are_escaped() {
        let hostile = "a\",\"pub\":{}\n\u{0}";
        let text = written(|out| {
            publication_push(
                out,
                hostile,
                Content::Json,
                b"0",
                1,
                Some((hostile, hostile)),
            );
        });
        let push: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(push["push"]["channel"], json!(hostile));
        assert_eq!(push["push"]["pub"]["info"]["user"], json!(hostile));
    }

    #[test]
    fn appending_keeps_what_was_there() {
        let mut out = b"{}\n".to_vec();
        publish_reply(&mut out, u32::MAX);
        assert_eq!(out, b"{}\n{\"id\":4294967295,\"publish\":{}}");
    }
}
