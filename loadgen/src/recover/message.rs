//! What the server says in one JSON line, with the offsets and epochs that recovery is checked by.

use crate::dialect::Named;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// One line.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// To be answered with `{}`.
    Ping,
    /// A publication to the room with this name.
    Publication(Named, Publication<'a>),
    /// The subscription to the room was ended with this code.
    Unsubscribed(Named, u32),
    /// The connect command was accepted.
    Connected,
    /// The subscribe command with this id was accepted.
    Subscribed(u32, Subscription<'a>),
    /// The command with this id was refused with this code.
    Refused(u32, u32),
    /// Nothing that is expected here.
    Unknown,
}

/// A publication, live or recovered.
#[derive(Debug, Deserialize)]
pub(super) struct Publication<'a> {
    /// The payload.
    #[serde(borrow)]
    pub(super) data: &'a RawValue,
    /// Its offset; 0 when the room keeps no history.
    #[serde(default)]
    pub(super) offset: u64,
}

/// Where a subscription begins.
#[derive(Debug, Deserialize)]
pub(super) struct Subscription<'a> {
    /// Whether missed publications can be asked for.
    #[serde(default)]
    pub(super) recoverable: bool,
    /// Which sequence of offsets.
    #[serde(default)]
    pub(super) epoch: String,
    /// The room's latest offset, or the one asked for when everything after it is here.
    #[serde(default)]
    pub(super) offset: u64,
    /// Whether nothing was missed, given `publications`.
    #[serde(default)]
    pub(super) recovered: bool,
    /// Whether the command asked for what was missed.
    #[serde(default)]
    pub(super) was_recovering: bool,
    /// What was missed.
    #[serde(borrow, default)]
    pub(super) publications: Vec<Publication<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: u32,
    error: Option<Code>,
    connect: Option<IgnoredAny>,
    #[serde(borrow)]
    subscribe: Option<Subscription<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Code {
    code: u32,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(default)]
    channel: String,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
    unsubscribe: Option<Code>,
}

/// Reads one line.
pub(super) fn read(line: &[u8]) -> Message<'_> {
    if line == b"{}" {
        return Message::Ping;
    }
    let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
        return Message::Unknown;
    };
    if let Some(push) = line.push {
        let room = Named::new(push.channel.as_bytes());
        return match (push.publication, push.unsubscribe) {
            (Some(publication), None) => Message::Publication(room, publication),
            (None, Some(end)) => Message::Unsubscribed(room, end.code),
            _ => Message::Unknown,
        };
    }
    match (line.error, line.connect, line.subscribe) {
        (Some(refusal), None, None) => Message::Refused(line.id, refusal.code),
        (None, Some(_), None) => Message::Connected,
        (None, None, Some(subscription)) => Message::Subscribed(line.id, subscription),
        _ => Message::Unknown,
    }
}
