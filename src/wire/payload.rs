//! Whether a payload is what its content bits say, decided once, where it enters.
//!
//! A payload that is not one JSON document would break the frame of every JSON client it reached, and
//! one that nests deeper than a client's parser can go would break that client. So both are refused at
//! the door; nothing behind it checks again. Nothing here changes a payload.

use crate::base::Content;
use crate::limits::JSON_DEPTH_MAX;
use serde::de::IgnoredAny;

/// Whether `payload` is valid for `content`: a JSON document, UTF-8, or anything.
pub fn payload_is_valid(content: Content, payload: &[u8]) -> bool {
    match content {
        Content::Json => json_payload_is_valid(payload),
        Content::Text => simdutf8::basic::from_utf8(payload).is_ok(),
        Content::Bytes => true,
    }
}

/// Whether `payload` is exactly one JSON document (RFC 8259) in UTF-8, white space around it allowed,
/// that nests at most [`JSON_DEPTH_MAX`] deep.
pub fn json_payload_is_valid(payload: &[u8]) -> bool {
    let Ok(text) = simdutf8::basic::from_utf8(payload) else {
        return false;
    };
    serde_json::from_str::<IgnoredAny>(text).is_ok() && json_depth_is_allowed(payload)
}

/// Whether `payload` is a valid JSON document as in [`json_payload_is_valid`] and an object.
pub fn json_payload_is_object(payload: &[u8]) -> bool {
    payload.trim_ascii_start().first() == Some(&b'{') && json_payload_is_valid(payload)
}

/// Whether a valid JSON document nests at most [`JSON_DEPTH_MAX`] deep. The syntax check itself keeps
/// its place on the heap and takes any depth, so this is where the depth is bounded.
pub fn json_depth_is_allowed(document: &[u8]) -> bool {
    // Each level costs two brackets, so a short document needs no look.
    if document.len() <= 2 * JSON_DEPTH_MAX {
        return true;
    }
    let mut depth = 0_usize;
    let mut bytes = document.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    true
}

/// Moves past a string whose opening quote was taken.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        [vec![b'['; depth], vec![b']'; depth]].concat()
    }

    #[test]
    fn one_json_document_is_valid_and_nothing_else_is() {
        for valid in [
            "{}",
            "null",
            "0",
            "\"x\"",
            " [1,\n2] ",
            "1e999",
            "\"\\ud800\"",
            "{\"a\":{\"b\":[true]}}",
        ] {
            assert!(json_payload_is_valid(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "",
            " ",
            "{",
            "{} {}",
            "nul",
            "'x'",
            "[1,]",
            "01",
            "\"\u{1}\"",
            "\"\\x\"",
        ] {
            assert!(!json_payload_is_valid(invalid.as_bytes()), "{invalid}");
        }
        assert!(!json_payload_is_valid(b"\"\xff\""));
    }

    #[test]
    fn an_object_is_told_from_other_documents() {
        for object in ["{}", " \n{\"a\":[1]} "] {
            assert!(json_payload_is_object(object.as_bytes()), "{object}");
        }
        for other in ["", "[{}]", "\"{}\"", "null", "{", "{}{}", "\u{c}{}"] {
            assert!(!json_payload_is_object(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
        assert!(json_payload_is_valid(&nested(JSON_DEPTH_MAX)));
        assert!(!json_payload_is_valid(&nested(JSON_DEPTH_MAX + 1)));
        assert!(!json_payload_is_valid(&nested(500_000)));
        let text = format!("\"{}\\\"{}\"", "[".repeat(500), "{".repeat(500));
        assert!(json_payload_is_valid(text.as_bytes()));
        let wide = format!("[{}0]", "[],".repeat(1_000));
        assert!(json_payload_is_valid(wide.as_bytes()));
    }

    #[test]
    fn text_is_utf_8_and_bytes_are_anything() {
        assert!(payload_is_valid(Content::Text, "gr\u{fc}n".as_bytes()));
        assert!(!payload_is_valid(Content::Text, b"\xc3\x28"));
        assert!(payload_is_valid(Content::Bytes, b"\xc3\x28"));
        assert!(!payload_is_valid(Content::Json, b"hi"));
    }
}
