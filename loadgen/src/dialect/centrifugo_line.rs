//! What the server says in one JSON line of the client protocol.
//!
//! The two lines that come by the million, a publication and a ping, are recognised by comparing
//! bytes; any other form that the protocol allows is parsed with serde.

use super::Named;
use memchr::memchr;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// To be answered with `{}`.
    Ping,
    /// A publication.
    Publication {
        /// Its room, as its channel says.
        room: Named,
        /// The payload.
        data: &'a [u8],
    },
    /// Answer to the command with this id.
    Reply {
        /// Id of the command.
        id: u32,
        /// What it answers.
        body: Body,
    },
    /// A push that is not a publication.
    OtherPush,
    /// Nothing that the protocol knows.
    Unknown,
}

/// The part of a reply that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The connect command was accepted.
    Connected,
    /// The subscribe command was accepted.
    Subscribed,
    /// The publish command was accepted.
    Published,
    /// The command was refused with this code.
    Error(u32),
    /// Anything else.
    Other,
}

/// The lines of a message, one at least.
pub(super) fn lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(message.strip_suffix(b"\n").unwrap_or(message));
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let Some(end) = memchr(b'\n', bytes) else {
            return Some(bytes);
        };
        rest = Some(&bytes[end + 1..]);
        Some(&bytes[..end])
    })
}

/// Reads one line.
pub(super) fn read(line: &[u8]) -> Message<'_> {
    if line == b"{}" {
        return Message::Ping;
    }
    read_quickly(line).unwrap_or_else(|| read_fully(line))
}

/// A publication as `{"push":{"channel":"room-N","pub":{"data":"…"` without escapes in the data.
fn read_quickly(line: &[u8]) -> Option<Message<'_>> {
    let rest = line.strip_prefix(br#"{"push":{"channel":""#)?;
    let (channel, rest) = split_at_quote(rest)?;
    let data = rest.strip_prefix(br#","pub":{"data":"#)?;
    let (inner, after) = split_at_quote(data.strip_prefix(b"\"")?)?;
    if memchr(b'\\', inner).is_some() || !after.starts_with(b",\"") && after != b"}}}" {
        return None;
    }
    Some(Message::Publication {
        room: Named::new(channel),
        data: &data[..inner.len() + 2],
    })
}

fn split_at_quote(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let quote = memchr(b'"', bytes)?;
    Some((&bytes[..quote], &bytes[quote + 1..]))
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: u32,
    error: Option<Refusal>,
    connect: Option<Connected>,
    subscribe: Option<IgnoredAny>,
    publish: Option<IgnoredAny>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
}

#[derive(Deserialize)]
struct Connected {
    client: String,
    version: String,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default)]
    channel: String,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

fn read_fully(line: &[u8]) -> Message<'_> {
    let Ok(parsed) = serde_json::from_slice::<Line<'_>>(line) else {
        return Message::Unknown;
    };
    if let Some(push) = parsed.push {
        return match push.publication {
            Some(publication) => Message::Publication {
                room: Named::new(push.channel.as_bytes()),
                data: publication.data.get().as_bytes(),
            },
            None => Message::OtherPush,
        };
    }
    let body = match (
        parsed.error,
        parsed.connect,
        parsed.subscribe,
        parsed.publish,
    ) {
        (Some(refusal), None, None, None) => Body::Error(refusal.code),
        (None, Some(connected), None, None) => {
            // Clients in use insist on both.
            let is_named = !connected.client.is_empty() && !connected.version.is_empty();
            if is_named {
                Body::Connected
            } else {
                Body::Other
            }
        }
        (None, None, Some(_), None) => Body::Subscribed,
        (None, None, None, Some(_)) => Body::Published,
        _ => Body::Other,
    };
    match parsed.id {
        0 => Message::Unknown,
        id => Message::Reply { id, body },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_a_line_at_least_and_an_end_after_the_last_is_none() {
        let of = |text: &'static str| lines(text.as_bytes()).count();
        assert_eq!(
            [of("a"), of("a\nb"), of("a\nb\n"), of(""), of("\n\n")],
            [1, 2, 2, 1, 2]
        );
    }

    #[test]
    fn the_quick_way_and_the_full_way_read_the_same() {
        let lines = [
            r#"{"push":{"channel":"room-7","pub":{"data":"abc"}}}"#,
            r#"{"push":{"channel":"room-7","pub":{"data":"abc","offset":12}}}"#,
        ];
        for line in lines {
            let quick = read_quickly(line.as_bytes()).unwrap();
            assert_eq!(quick, read_fully(line.as_bytes()));
            let data = &b"\"abc\""[..];
            assert_eq!(
                quick,
                Message::Publication {
                    room: Named::Room(7),
                    data
                }
            );
        }
    }

    #[test]
    fn other_forms_of_a_publication_are_read_too() {
        let spaced = br#"{ "push": {"pub": {"offset": 3, "data": "a\"b"}, "channel": "room-12"} }"#;
        let data = &br#""a\"b""#[..];
        let room = Named::Room(12);
        assert_eq!(read(spaced), Message::Publication { room, data });
        let other = br#"{"push":{"channel":"news","pub":{"data":{"a":1}}}}"#;
        let data = &br#"{"a":1}"#[..];
        assert_eq!(
            read(other),
            Message::Publication {
                room: Named::Other,
                data
            }
        );
    }

    #[test]
    fn replies_are_told_apart() {
        let reply = |line: &'static str| match read(line.as_bytes()) {
            Message::Reply { id, body } => (id, body),
            other => panic!("{line} is {other:?}"),
        };
        let connected = r#"{"id":1,"connect":{"client":"c","version":"v","ping":25,"pong":true}}"#;
        assert_eq!(reply(connected), (1, Body::Connected));
        assert_eq!(reply(r#"{"id":2,"subscribe":{}}"#), (2, Body::Subscribed));
        let refused = r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        assert_eq!(reply(refused), (2, Body::Error(103)));
        let nameless = r#"{"id":1,"connect":{"client":"","version":"v"}}"#;
        assert_eq!(reply(nameless), (1, Body::Other));
    }

    #[test]
    fn what_the_protocol_does_not_know_is_unknown() {
        assert_eq!(read(b"{}"), Message::Ping);
        for line in [
            "",
            "x",
            "[]",
            "{\"push\":",
            r#"{"connect":{"client":"a","version":"b"}}"#,
        ] {
            assert_eq!(read(line.as_bytes()), Message::Unknown, "{line}");
        }
        let left = br#"{"push":{"channel":"room-1","leave":{"info":{}}}}"#;
        assert_eq!(read(left), Message::OtherPush);
    }
}
