//! What a service answers to an event: a JSON object, the same for every kind of event, of which each
//! kind uses its part. Empty is an object without fields.
//!
//! Field types are strict, unknown fields are skipped. The service thread reads a result before it
//! passes it on, so that its sender hears of a fault; the shard reads it again to act on it.

use crate::base::{Content, Object, Overrides, Version};
use crate::limits::{
    INFO_BYTES_MAX, MESSAGE_BYTES_MAX, META_BYTES_MAX, ROOM_NAME_MAX, SUBSCRIPTIONS_PER_CONN_MAX,
    TAGS_BYTES_MAX, USER_NAME_MAX,
};
use crate::wire::client::flat;
use crate::wire::payload::json_depth_is_allowed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// May the client connect, and as whom?
    Connect,
    /// May it subscribe?
    Subscribe,
    /// May it publish?
    Publish,
    /// The answer to a call.
    Rpc,
    /// How long does the connection live on?
    Refresh,
    /// How long does the subscription live on?
    SubRefresh,
}

/// Options of a server-side subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubOptions {
    /// Told to others who see the subscriber.
    pub info: (Content, Vec<u8>),
    /// Told to the client.
    pub data: (Content, Vec<u8>),
    /// Options that differ from the namespace's.
    pub overrides: Overrides,
}

/// A result. What a kind of event has no use for is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookResult {
    /// Connect: who it is; none for an anonymous one.
    pub user: Option<String>,
    /// Unix time in seconds at which the connection or subscription expires.
    pub expire_at_s: Option<u64>,
    /// Refresh: it has expired.
    pub expired: bool,
    /// What others see of the client or subscriber.
    pub info: (Content, Vec<u8>),
    /// Connect, refresh: JSON that services are told with every later event of the connection.
    pub meta: Vec<u8>,
    /// Connect, subscribe: for the client. Publish: instead of what it sent. Rpc: the answer.
    pub data: (Content, Vec<u8>),
    /// Connect: server-side subscriptions.
    pub channels: Vec<String>,
    /// Connect: server-side subscriptions with options.
    pub subs: Vec<(String, SubOptions)>,
    /// Publish: leave it out of the history.
    pub skip_history: bool,
    /// Publish: flat tags.
    pub tags: Vec<u8>,
    /// Publish: an idempotency key, digested.
    pub key: Option<[u8; 16]>,
    /// Publish: it may be sent as a delta.
    pub delta: bool,
    /// Publish: how new it is.
    pub version: Option<Version>,
    /// Subscribe: options that differ from the namespace's.
    pub overrides: Overrides,
}

/// Why an object is no result, in words for who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHook(pub &'static str);

impl fmt::Display for BadHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadHook {}

/// Reads a result. `kind` says what is bounded how: the answer to a call may be as long as a message.
///
/// # Errors
/// When it is not a JSON object with fields of the right types within their bounds.
pub fn parse(kind: HookKind, result: &[u8]) -> Result<HookResult, BadHook> {
    if result.is_empty() {
        return Ok(HookResult::default());
    }
    if !json_depth_is_allowed(result) {
        return Err(BadHook("the result nests too deep"));
    }
    let Object(raw): Object<Raw> = serde_json::from_slice(result)
        .map_err(|_| BadHook("the result is not a JSON object with fields of the right types"))?;
    let data_max = match kind {
        HookKind::Rpc | HookKind::Publish | HookKind::Connect | HookKind::Subscribe => {
            MESSAGE_BYTES_MAX
        }
        HookKind::Refresh | HookKind::SubRefresh => INFO_BYTES_MAX,
    };
    let user = raw.user.filter(|user| !user.is_empty());
    let is_long = user.as_ref().is_some_and(|user| user.len() > USER_NAME_MAX);
    check(!is_long, "user is above 255 bytes")?;
    let channels = raw.channels.unwrap_or_default();
    let mut subs = Vec::new();
    for (channel, Object(options)) in raw.subs.unwrap_or_default() {
        subs.push((channel, SubOptions::try_from(options)?));
    }
    let count = channels.len() + subs.len();
    check(count <= SUBSCRIPTIONS_PER_CONN_MAX, "too many channels")?;
    let named = subs.iter().map(|(channel, _)| channel).chain(&channels);
    let fit = |channel: &String| (1..=ROOM_NAME_MAX).contains(&channel.len());
    check({ named }.all(fit), "a channel is empty or above 255 bytes")?;
    Ok(HookResult {
        user,
        expire_at_s: raw.expire_at,
        expired: raw.expired.unwrap_or_default(),
        info: data(raw.info, raw.b64info, INFO_BYTES_MAX)?,
        meta: meta(raw.meta)?,
        data: data(raw.data, raw.b64data, data_max)?,
        channels,
        subs,
        skip_history: raw.skip_history.unwrap_or_default(),
        tags: tags(&raw.tags.unwrap_or_default())?,
        key: raw.idempotency_key.as_deref().and_then(key),
        delta: raw.delta.unwrap_or_default(),
        version: Version::new(
            raw.version.unwrap_or_default(),
            raw.version_epoch.as_deref().unwrap_or_default(),
        ),
        overrides: raw.overrides.unwrap_or_default(),
    })
}

#[derive(Deserialize)]
struct Raw {
    user: Option<String>,
    expire_at: Option<u64>,
    expired: Option<bool>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    meta: Option<Box<RawValue>>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Object<RawOptions>>>,
    skip_history: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    delta: Option<bool>,
    version: Option<u64>,
    version_epoch: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

#[derive(Deserialize)]
struct RawOptions {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

impl TryFrom<RawOptions> for SubOptions {
    type Error = BadHook;

    fn try_from(raw: RawOptions) -> Result<Self, BadHook> {
        Ok(Self {
            info: data(raw.info, raw.b64info, INFO_BYTES_MAX)?,
            data: data(raw.data, raw.b64data, INFO_BYTES_MAX)?,
            overrides: raw.overrides.unwrap_or_default(),
        })
    }
}

/// JSON as it stands, or the bytes of base64, which win.
fn data(
    json: Option<Box<RawValue>>,
    base64: Option<String>,
    bytes_max: usize,
) -> Result<(Content, Vec<u8>), BadHook> {
    let (content, bytes) = match (json, base64) {
        (_, Some(text)) if !text.is_empty() => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|_| BadHook("base64 expected"))?;
            (Content::Bytes, bytes)
        }
        (Some(json), _) => (Content::Json, json.get().as_bytes().to_vec()),
        (None, _) => (Content::Json, Vec::new()),
    };
    check(bytes.len() <= bytes_max, "info or data is too long")?;
    Ok((content, bytes))
}

/// JSON as it stands; nothing for `null`.
fn meta(json: Option<Box<RawValue>>) -> Result<Vec<u8>, BadHook> {
    let meta = json.as_deref().map_or("", RawValue::get);
    check(meta.len() <= META_BYTES_MAX, "meta is too long")?;
    Ok(meta.into())
}

fn tags(pairs: &BTreeMap<String, String>) -> Result<Vec<u8>, BadHook> {
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len() + 4)
        .sum();
    check(bytes <= TAGS_BYTES_MAX, "the tags are too long")?;
    let mut flat = Vec::with_capacity(bytes);
    for (key, value) in pairs {
        flat::push_tag(&mut flat, key, value);
    }
    Ok(flat)
}

fn key(text: &str) -> Option<[u8; 16]> {
    if text.is_empty() {
        return None;
    }
    Sha256::digest(text).first_chunk().copied()
}

fn check(holds: bool, why: &'static str) -> Result<(), BadHook> {
    if holds { Ok(()) } else { Err(BadHook(why)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result: &str) -> Result<HookResult, BadHook> {
        parse(HookKind::Connect, result.as_bytes())
    }

    #[test]
    fn everything_that_a_result_says_is_read() {
        let result = read(
            r#"{"user":"42","expire_at":9,"info":{"a":1},"b64data":"AP8=","channels":["x"],
                "subs":{"y":{"info":[2],"override":{"presence":{"value":true}}}},"skip_history":true,
                "tags":{"k":"v"},"idempotency_key":"once","delta":true,"version":3,"other":1}"#,
        )
        .unwrap();
        assert_eq!(result.user.as_deref(), Some("42"));
        assert_eq!(result.info, (Content::Json, br#"{"a":1}"#.to_vec()));
        assert_eq!(result.data, (Content::Bytes, vec![0, 255]));
        assert_eq!(result.subs[0].1.overrides.presence, Some(true));
        assert!(result.key.is_some() && result.delta && result.skip_history);
        let tags: Vec<_> = flat::Tags::from_flat(&result.tags).iter().collect();
        assert_eq!(tags, [("k", "v")]);
        assert_eq!(result.version, Version::new(3, ""));
        let empty = read(r#"{"data":[1],"b64data":""}"#).unwrap();
        assert_eq!(empty.data, (Content::Json, b"[1]".to_vec()), "no bytes");
        assert_eq!(read(""), Ok(HookResult::default()));
        assert_eq!(read("{}"), Ok(HookResult::default()));
    }

    #[test]
    fn meta_is_any_json_and_bounded_to_the_byte() {
        for kind in [HookKind::Connect, HookKind::Refresh] {
            let read = |meta: &str| {
                let result = format!(r#"{{"meta":{meta},"info":1}}"#);
                parse(kind, result.as_bytes()).map(|result| result.meta)
            };
            for meta in [r#"{"a":[1]}"#, "[2]", "0", "false", r#""x""#] {
                assert_eq!(read(meta), Ok(meta.into()));
            }
            assert_eq!(read("null"), Ok(Vec::new()), "as if it was not there");
            let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
            assert!(read(&text(META_BYTES_MAX)).is_ok());
            assert!(read(&text(META_BYTES_MAX + 1)).is_err());
        }
    }

    #[test]
    fn wrong_types_and_sizes_are_refused() {
        let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(256));
        let info = format!(r#"{{"info":"{}"}}"#, "x".repeat(INFO_BYTES_MAX));
        let tags = format!(r#"{{"tags":{{"k":"{}"}}}}"#, "x".repeat(TAGS_BYTES_MAX));
        let deep = format!(r#"{{"data":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        for wrong in [
            "[]",
            r#"["42",null,null,null,null,null,null,null,null,null,null,null,null,null,null]"#,
            r#"{"override":[true,true,true,true,true]}"#,
            r#"{"override":{"presence":[true]}}"#,
            r#"{"subs":{"y":[null,null,null,null,null]}}"#,
            "1",
            "{",
            r#"{"user":1}"#,
            r#"{"expire_at":-1}"#,
            r#"{"version":"1"}"#,
            r#"{"expired":"yes"}"#,
            r#"{"b64info":"%"}"#,
            r#"{"channels":[""]}"#,
            r#"{"tags":{"a":1}}"#,
            &long,
            &info,
            &tags,
            &deep,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
