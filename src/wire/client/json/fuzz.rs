//! What a fuzzer checks of the JSON commands, callable from a plain test as well.

use super::{commands, publication_push};
use crate::base::Content;
use crate::limits::COMMANDS_PER_MESSAGE_MAX;
use crate::wire::client::Request;
use crate::wire::payload::json_payload_is_valid;
use serde_json::value::RawValue;

/// Reads `bytes` as a client message and panics when the parser breaks a promise: it ends, it ends with
/// its first error, each command comes from a line that is JSON, its channel is named, and data that a
/// client publishes makes a push that is one line of JSON.
pub fn fuzz_commands(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut ended = false;
    for (index, command) in commands(bytes).enumerate() {
        assert!(!ended, "nothing follows an error");
        assert!(index <= COMMANDS_PER_MESSAGE_MAX, "bounded");
        let line = lines.next().expect("a line per command");
        let Ok(command) = command else {
            ended = true;
            continue;
        };
        serde_json::from_slice::<&RawValue>(line).expect("a command comes from JSON");
        match command.request {
            Request::Subscribe { channel, .. } | Request::Unsubscribe { channel } => {
                assert!(!channel.is_empty(), "a channel is named");
            }
            Request::Publish { channel, data } if !data.is_empty() => check_data(&channel, data),
            Request::Send { data } if !data.is_empty() => check_data("c", data),
            _ => {}
        }
    }
    assert!(ended || lines.all(<[u8]>::is_empty), "every line was read");
}

fn check_data(channel: &str, data: &str) {
    assert!(!channel.is_empty(), "a channel is named");
    assert!(json_payload_is_valid(data.as_bytes()), "data is a payload");
    let mut push = Vec::new();
    publication_push(&mut push, channel, Content::Json, data.as_bytes(), 1, None);
    assert!(!push.contains(&b'\n'), "a push is one line");
    serde_json::from_slice::<&RawValue>(&push).expect("a push is JSON");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_seeds_and_what_is_one_byte_away_from_them_keep_the_promises() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/commands");
        let mut seeds = 0;
        for entry in fs::read_dir(corpus).expect("the corpus") {
            let mut bytes = fs::read(entry.expect("an entry").path()).expect("a seed");
            fuzz_commands(&bytes);
            for index in 0..bytes.len().min(400) {
                fuzz_commands(&bytes[..index]);
                for replacement in *b"\n\"\\{}[],:0\xff" {
                    let original = std::mem::replace(&mut bytes[index], replacement);
                    fuzz_commands(&bytes);
                    bytes[index] = original;
                }
            }
            seeds += 1;
        }
        assert!(seeds > 15, "{seeds} seeds");
    }
}
