//! What tokens say, in the shapes and within the bounds that the broker works with.

use super::TokenError;
use crate::base::{Content, Object, Overrides};
use crate::limits::{
    INFO_BYTES_MAX, META_BYTES_MAX, ROOM_NAME_MAX, SUBSCRIPTIONS_PER_CONN_MAX, USER_NAME_MAX,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// Bytes that a token brings, and what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedData {
    /// What they are.
    pub content: Content,
    /// The bytes; empty for none.
    pub bytes: Vec<u8>,
}

/// What a token says of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Told to others who see the subscriber in this channel.
    pub info: OwnedData,
    /// Told to the client with the reply.
    pub data: OwnedData,
    /// Options that differ from the namespace's.
    pub overrides: Overrides,
}

/// What a connection token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionClaims {
    /// The user; empty for an anonymous one.
    pub user: String,
    /// Unix time in seconds at which the connection expires; 0 for never.
    pub expire_at_s: u64,
    /// Told to others who see the client.
    pub info: OwnedData,
    /// JSON that services are told with every event of the connection, and nobody else; empty for none.
    pub meta: Vec<u8>,
    /// Channels to subscribe it to.
    pub channels: Vec<String>,
    /// Channels to subscribe it to, with options.
    pub subs: Vec<(String, SubscriptionOptions)>,
}

/// What a subscription token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// The user that it is for; empty for an anonymous one.
    pub user: String,
    /// The channel that it is for.
    pub channel: String,
    /// The only connection that it is for, if it says one.
    pub client: Option<String>,
    /// Unix time in seconds at which the subscription expires; 0 for never.
    pub expire_at_s: u64,
    /// The rest.
    pub options: SubscriptionOptions,
}

/// The claims as they were signed. Who it is and when has its type if it is there: `null` is
/// none. Other claims that are `null` are absent: libraries write an empty list like that.
#[derive(Debug, Deserialize)]
pub(super) struct RawClaims {
    #[serde(default, deserialize_with = "present")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    pub(super) exp: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    pub(super) nbf: Option<u64>,
    #[serde(rename = "iat", default, deserialize_with = "seconds")]
    _iat: Option<u64>,
    /// Expiry of what the token is for, instead of `exp`; 0 for never.
    #[serde(default, deserialize_with = "seconds")]
    pub(super) expire_at: Option<u64>,
    aud: Option<Audience>,
    pub(super) iss: Option<String>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    meta: Option<Box<RawValue>>,
    channels: Option<Vec<String>>,
    #[serde(default, deserialize_with = "subs")]
    subs: Vec<(String, Object<RawOptions>)>,
    channel: Option<String>,
    client: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct RawOptions {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

/// A claim that is there has its type: `null` is none.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(raw: D) -> Result<Option<T>, D::Error> {
    T::deserialize(raw).map(Some)
}

/// Unix time in whole seconds, never `null` either. Where all numbers are floats it may be written as
/// `1.0` or `1e9`.
fn seconds<'de, D: Deserializer<'de>>(raw: D) -> Result<Option<u64>, D::Error> {
    // Above it a float does not hold every whole number.
    const FLOAT_MAX: f64 = 9_007_199_254_740_992.0;
    let number = serde_json::Number::deserialize(raw)?;
    let is_whole = |float: &f64| float.fract() == 0.0 && (0.0..=FLOAT_MAX).contains(float);
    let float = || number.as_f64().filter(is_whole).map(|float| float as u64);
    let seconds = number.as_u64().or_else(float);
    seconds
        .map(Some)
        .ok_or_else(|| D::Error::custom("unix time in whole seconds expected"))
}

/// The subscriptions in the order in which they stand, the same channel twice included.
fn subs<'de, D: Deserializer<'de>>(raw: D) -> Result<Vec<(String, Object<RawOptions>)>, D::Error> {
    raw.deserialize_any(SubsVisitor)
}

struct SubsVisitor;

impl<'de> Visitor<'de> for SubsVisitor {
    type Value = Vec<(String, Object<RawOptions>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channels with their options")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut subs = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if subs.len() == SUBSCRIPTIONS_PER_CONN_MAX {
                return Err(A::Error::custom("too many"));
            }
            subs.push(entry);
        }
        Ok(subs)
    }
}

impl RawClaims {
    /// The claims in a token's payload.
    pub(super) fn read(payload: &[u8]) -> Result<Self, TokenError> {
        // What is passed on as it stands was never looked into; this refuses what is nested deeper than
        // JSON_DEPTH_MAX and half surrogates.
        serde_json::from_slice::<serde_json::Value>(payload)
            .and_then(|_| serde_json::from_slice(payload))
            .map(|Object(claims)| claims)
            .map_err(|_| TokenError::Invalid("claims that are no JSON or of the wrong type"))
    }

    /// Whether `aud` is or contains `audience`.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            None => false,
            Some(Audience::One(one)) => one == audience,
            Some(Audience::Several(several)) => several.iter().any(|one| one == audience),
        }
    }

    fn user(&self) -> Result<String, TokenError> {
        let user = self.sub.clone().unwrap_or_default();
        within(user.len() <= USER_NAME_MAX, "the user's name is too long")?;
        Ok(user)
    }
}

/// All but the expiry, which depends on the time.
impl TryFrom<&RawClaims> for ConnectionClaims {
    type Error = TokenError;

    fn try_from(claims: &RawClaims) -> Result<Self, TokenError> {
        within(
            claims.channel.is_none(),
            "a connection token has no channel",
        )?;
        let subs: Result<Vec<_>, TokenError> = (claims.subs.iter())
            .map(|(channel, Object(raw))| {
                Ok((channel.clone(), SubscriptionOptions::try_from(raw)?))
            })
            .collect();
        let subs = subs?;
        let channels = claims.channels.as_deref().unwrap_or_default();
        let count = channels.len() + subs.len();
        within(count <= SUBSCRIPTIONS_PER_CONN_MAX, "too many channels")?;
        let mut names: HashSet<&str> = HashSet::new();
        for (channel, _) in &subs {
            within(is_channel(channel), "a channel's name is empty or too long")?;
            within(names.insert(channel), "a channel is twice in subs")?;
        }
        let mut plain = Vec::new();
        for channel in channels {
            within(is_channel(channel), "a channel's name is empty or too long")?;
            // One subscription is enough, and the one with options says more.
            if names.insert(channel) {
                plain.push(channel.clone());
            }
        }
        let meta = claims.meta.as_deref().map_or("", RawValue::get);
        within(meta.len() <= META_BYTES_MAX, "meta is too long")?;
        Ok(Self {
            user: claims.user()?,
            expire_at_s: 0,
            info: data(claims.info.as_deref(), claims.b64info.as_deref())?,
            meta: meta.into(),
            channels: plain,
            subs,
        })
    }
}

/// All but the expiry, which depends on the time.
impl TryFrom<&RawClaims> for SubscriptionClaims {
    type Error = TokenError;

    fn try_from(claims: &RawClaims) -> Result<Self, TokenError> {
        let channel = claims.channel.clone().unwrap_or_default();
        within(is_channel(&channel), "a subscription token has a channel")?;
        let client = claims.client.as_deref().unwrap_or_default();
        within(client.len() <= USER_NAME_MAX, "the client id is too long")?;
        Ok(Self {
            user: claims.user()?,
            channel,
            client: claims.client.clone(),
            expire_at_s: 0,
            options: SubscriptionOptions {
                info: data(claims.info.as_deref(), claims.b64info.as_deref())?,
                data: data(claims.data.as_deref(), claims.b64data.as_deref())?,
                overrides: claims.overrides.unwrap_or_default(),
            },
        })
    }
}

impl TryFrom<&RawOptions> for SubscriptionOptions {
    type Error = TokenError;

    fn try_from(raw: &RawOptions) -> Result<Self, TokenError> {
        Ok(Self {
            info: data(raw.info.as_deref(), raw.b64info.as_deref())?,
            data: data(raw.data.as_deref(), raw.b64data.as_deref())?,
            overrides: raw.overrides.unwrap_or_default(),
        })
    }
}

fn is_channel(name: &str) -> bool {
    (1..=ROOM_NAME_MAX).contains(&name.len())
}

/// JSON as it stands, or the bytes of base64, which win.
fn data(json: Option<&RawValue>, base64: Option<&str>) -> Result<OwnedData, TokenError> {
    let data = match (json, base64) {
        (_, Some(text)) if !text.is_empty() => OwnedData {
            content: Content::Bytes,
            bytes: STANDARD
                .decode(text)
                .map_err(|_| TokenError::Invalid("base64 expected"))?,
        },
        (Some(json), _) => OwnedData {
            content: Content::Json,
            bytes: json.get().as_bytes().to_vec(),
        },
        (None, _) => OwnedData::default(),
    };
    within(
        data.bytes.len() <= INFO_BYTES_MAX,
        "info or data is too long",
    )?;
    Ok(data)
}

fn within(fits: bool, why: &'static str) -> Result<(), TokenError> {
    if fits {
        Ok(())
    } else {
        Err(TokenError::Invalid(why))
    }
}
