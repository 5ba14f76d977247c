//! Values of JSON documents: appended to a buffer, without `fmt` and without allocations but the
//! buffer's growth.

use crate::base::Content;
use crate::wire::client::Data;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Appends text that is JSON as it stands.
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends a comma unless the object or list that was opened last is still empty. No value ends in an
/// opening bracket.
pub(super) fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Begins a field; `key` comes with its quotes and its colon.
pub(super) fn put_key(out: &mut Vec<u8>, key: &str) {
    separate(out);
    put(out, key);
}

/// A field with a number, unless it is zero.
pub(super) fn put_number_field(out: &mut Vec<u8>, key: &str, number: u64) {
    if number > 0 {
        put_key(out, key);
        put_number(out, number);
    }
}

/// A field with a string, unless it is empty.
pub(super) fn put_string_field(out: &mut Vec<u8>, key: &str, text: &str) {
    if !text.is_empty() {
        put_key(out, key);
        put_string(out, text);
    }
}

/// A field that says `true`, unless it is not.
pub(super) fn put_flag(out: &mut Vec<u8>, key: &str, flag: bool) {
    if flag {
        put_key(out, key);
        put(out, "true");
    }
}

/// A field with data, unless there is none.
pub(super) fn put_data_field(out: &mut Vec<u8>, key: &str, data: Data<'_>) {
    if data.bytes.is_empty() {
        return;
    }
    put_key(out, key);
    write_data(out, data);
}

/// Appends data as JSON clients see it: a document, a string, or base64 in a string.
pub fn write_data(out: &mut Vec<u8>, data: Data<'_>) {
    match data.content {
        Content::Json => put_document(out, data.bytes),
        Content::Text => put_text(out, data.bytes),
        Content::Bytes => put_base64(out, data.bytes),
    }
}

/// A number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    put(out, itoa::Buffer::new().format(number));
}

/// A string.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
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
