//! What a fuzzer checks of the client protocol, callable from a plain test as well.

use super::{
    BadCommand, ClientInfo, Command, Commands, Data, Encoding, Filter, Publication, Push, Reply,
    Request, Tags, flat, write_push, write_reply,
};
use crate::base::Content;
use crate::limits::{COMMANDS_PER_MESSAGE_MAX, SUBSCRIPTIONS_PER_CONN_MAX};
use crate::wire::payload::json_payload_is_valid;
use serde_json::value::RawValue;

/// Reads `bytes` as a client message and panics when the parser breaks a promise: it ends with its
/// first error and within its bounds, it reads the same with a pause behind each command, and what it
/// reads can be written to every client. The bytes serve as a list of publications too, and as tags that
/// the filters are asked about.
pub fn fuzz_commands(encoding: Encoding, bytes: &[u8]) {
    let commands: Vec<_> = Commands::new(encoding, bytes).collect();
    assert!(!commands.is_empty(), "an empty message is an error");
    let read = commands.iter().flatten().count();
    assert!(read <= COMMANDS_PER_MESSAGE_MAX, "bounded");
    let before_last = &commands[..commands.len() - 1];
    assert!(before_last.iter().all(Result::is_ok), "an error ends it");
    check_pauses(encoding, bytes, &commands);
    for command in commands.iter().flatten() {
        check_request(encoding, &command.request);
        if let Request::Subscribe(subscribe) = &command.request
            && let Ok(Some(filter)) = &subscribe.filter
        {
            check_filter(filter, bytes);
        }
    }
    check_flat(bytes);
}

/// Reading on with what was left gives the same commands, and in JSON each comes from its line.
fn check_pauses(encoding: Encoding, bytes: &[u8], expected: &[Result<Command<'_>, BadCommand>]) {
    let mut rest = bytes;
    for (index, command) in expected.iter().enumerate() {
        assert!(index == 0 || !rest.is_empty(), "more is left");
        let mut commands = Commands::new(encoding, rest);
        assert_eq!(commands.next().as_ref(), Some(command), "the same command");
        assert!(commands.rest().len() < bytes.len().max(1), "it moves on");
        if encoding == Encoding::Json && command.is_ok() {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            serde_json::from_slice::<&RawValue>(line).expect("a command comes from JSON");
        }
        rest = commands.rest();
    }
    assert!(rest.is_empty(), "all was read");
}

fn check_request(encoding: Encoding, request: &Request<'_>) {
    match request {
        Request::Connect(connect) => {
            assert!(connect.subs.len() <= SUBSCRIPTIONS_PER_CONN_MAX, "bounded");
            let mut channels: Vec<_> = connect.subs.iter().map(|(channel, _)| channel).collect();
            channels.sort_unstable();
            channels.dedup();
            assert_eq!(channels.len(), connect.subs.len(), "a channel comes once");
            channels.iter().for_each(|channel| check_channel(channel));
            check_data(encoding, "c", &connect.data);
        }
        Request::Subscribe(subscribe) => {
            check_channel(&subscribe.channel);
            check_data(encoding, &subscribe.channel, &subscribe.data);
        }
        Request::Publish { channel, data } => {
            check_channel(channel);
            check_data(encoding, channel, data);
        }
        Request::Unsubscribe { channel }
        | Request::Presence { channel }
        | Request::PresenceStats { channel }
        | Request::History { channel, .. }
        | Request::SubRefresh { channel, .. } => check_channel(channel),
        Request::Send { data } | Request::Rpc { data, .. } => check_data(encoding, "c", data),
        Request::Pong | Request::Ping | Request::Refresh { .. } => {}
    }
}

/// Tags that are said twice are the same tags, whatever they are.
fn check_filter(filter: &Filter, bytes: &[u8]) {
    let numbers = [("k", "-10.50"), ("n", "9"), ("lang", "en"), ("", "")];
    let texts = bytes
        .chunks(3)
        .filter_map(|text| std::str::from_utf8(text).ok());
    let texts: Vec<&str> = texts.take(64).collect();
    let pairs = texts.iter().zip(texts.iter().skip(1));
    let mut tags = Vec::new();
    for (key, value) in numbers.into_iter().chain(pairs.map(|(k, v)| (*k, *v))) {
        flat::push_tag(&mut tags, key, value);
    }
    for tags in [&[][..], bytes, &tags] {
        let mut again = Vec::new();
        let pairs = || Tags::from_flat(tags).iter();
        for (key, value) in pairs().chain(pairs()) {
            flat::push_tag(&mut again, key, value);
        }
        let matches = filter.matches(Tags::from_flat(tags));
        assert_eq!(matches, filter.matches(Tags::from_flat(&again)));
    }
}

fn check_channel(channel: &str) {
    assert!(!channel.is_empty(), "a channel is named");
}

/// Data of a client, published as what it is, reaches every client as one message.
fn check_data(encoding: Encoding, channel: &str, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let content = match encoding {
        Encoding::Json => Content::Json,
        Encoding::Protobuf => Content::Bytes,
    };
    assert!(
        content != Content::Json || json_payload_is_valid(bytes),
        "data is a payload"
    );
    let data = Data { content, bytes };
    let publication = Publication {
        data,
        ..Publication::default()
    };
    let mut out = Vec::new();
    write_push(
        Encoding::Json,
        &mut out,
        channel,
        &Push::Publication(&publication),
    );
    assert!(!out.contains(&b'\n'), "a push is one line");
    serde_json::from_slice::<&RawValue>(&out).expect("a push is JSON");
    out.clear();
    write_reply(Encoding::Protobuf, &mut out, 1, &Reply::Rpc(data));
    assert!(out.ends_with(bytes), "bytes go as they are");
}

/// Bytes that were never written as a list end it, and what they hold can be written again.
fn check_flat(bytes: &[u8]) {
    let publications: Vec<Publication<'_>> = flat::publications(bytes).collect();
    let infos: Vec<ClientInfo<'_>> = flat::infos(bytes).collect();
    let pairs = Tags::from_flat(bytes).iter().count();
    let shortest = [8 + 5 + 4 + 4, 2 + 2 + 5 + 5, 2 + 2];
    for (count, item_bytes) in [publications.len(), infos.len(), pairs]
        .into_iter()
        .zip(shortest)
    {
        assert!(count * item_bytes <= bytes.len(), "no item from nothing");
    }
    let mut again = Vec::new();
    for publication in &publications {
        flat::push_publication(&mut again, publication);
    }
    assert!(flat::publications(&again).eq(publications.iter().copied()));
    let mut out = Vec::new();
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let history = Reply::History {
            publications: &publications,
            epoch: "",
            offset: 0,
        };
        write_reply(encoding, &mut out, 1, &history);
        write_reply(encoding, &mut out, 1, &Reply::Presence(&infos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Checks the seeds, what is cut off from them and what is one byte away from them.
    fn check_seeds(corpus: &str, replacements: &[u8], check: impl Fn(&[u8])) -> usize {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus).expect("the corpus") {
            let mut bytes = fs::read(entry.expect("an entry").path()).expect("a seed");
            check(&bytes);
            for index in 0..bytes.len().min(400) {
                check(&bytes[..index]);
                for replacement in replacements {
                    let original = std::mem::replace(&mut bytes[index], *replacement);
                    check(&bytes);
                    bytes[index] = original;
                }
            }
            seeds += 1;
        }
        seeds
    }

    #[test]
    fn seeds_in_json_and_their_neighbours_keep_the_promises() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/commands");
        let seeds = check_seeds(corpus, b"\n\"\\{}[],:0\xff", |bytes| {
            fuzz_commands(Encoding::Json, bytes);
        });
        assert!(seeds > 30, "{seeds} seeds");
    }

    #[test]
    fn seeds_in_protobuf_and_their_neighbours_keep_the_promises() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/protobuf");
        let seeds = check_seeds(corpus, b"\x00\x01\x08\x0a\x0b\x22\x7f\x80\xff", |bytes| {
            fuzz_commands(Encoding::Protobuf, bytes);
        });
        assert!(seeds > 30, "{seeds} seeds");
    }
}
