//! Commands from JSON.
//!
//! Field types are strict, unknown fields are skipped, `null` is the same as absent. Objects are read by
//! hand-written visitors because derived ones would also take arrays for objects and would copy every
//! optional string. An ordinary command allocates nothing: strings without escapes are borrowed. Data that
//! nests costs one small allocation, the syntax check's stack.

mod filter;

use crate::limits::SUBSCRIPTIONS_PER_CONN_MAX;
use crate::wire::client::{BadCommand, Command, Recover, Request, StreamPosition};
use crate::wire::client::{Connect as ConnectRequest, Subscribe as SubscribeRequest};
use crate::wire::payload::json_depth_is_allowed;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Takes the first line from `message`, newline included, and reads it. One newline may end a message,
/// so nothing is left behind it; an empty line anywhere else is an error.
pub(in crate::wire::client) fn take_command<'a>(
    message: &mut &'a [u8],
) -> Result<Command<'a>, BadCommand> {
    let line = match memchr::memchr(b'\n', message) {
        Some(end) => {
            let (line, rest) = message.split_at(end);
            *message = &rest[1..];
            line
        }
        None => std::mem::take(message),
    };
    if line.is_empty() {
        return Err(BadCommand::Empty);
    }
    command(simdutf8::basic::from_utf8(line).map_err(|_| BadCommand::NotUtf8)?)
}

/// Lines of a message.
pub(in crate::wire::client) fn count(message: &[u8]) -> usize {
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    memchr::memchr_iter(b'\n', message).count() + 1
}

fn command(line: &str) -> Result<Command<'_>, BadCommand> {
    let document: Document<'_> = serde_json::from_str(line).map_err(|_| BadCommand::NotJson)?;
    let id = document.id.0;
    let request = if id == 0 {
        document.send.map_or(Ok(Request::Pong), send)
    } else {
        document.first_request()
    }?;
    Ok(Command { id, request })
}

impl<'a> Document<'a> {
    /// The first request in the order of the protocol's field numbers.
    fn first_request(self) -> Result<Request<'a>, BadCommand> {
        if let Some(fields) = self.connect {
            connect(fields)
        } else if let Some(fields) = self.subscribe {
            subscribe(fields)
        } else if let Some(fields) = self.unsubscribe {
            let channel = channel(fields.channel)?;
            Ok(Request::Unsubscribe { channel })
        } else if let Some(fields) = self.publish {
            let channel = channel(fields.channel)?;
            let data = data(fields.data)?;
            Ok(Request::Publish { channel, data })
        } else if let Some(fields) = self.presence {
            let channel = channel(fields.channel)?;
            Ok(Request::Presence { channel })
        } else if let Some(fields) = self.presence_stats {
            let channel = channel(fields.channel)?;
            Ok(Request::PresenceStats { channel })
        } else if let Some(fields) = self.history {
            history(fields)
        } else if self.ping.is_some() {
            Ok(Request::Ping)
        } else if let Some(fields) = self.send {
            send(fields)
        } else {
            self.application_request()
        }
    }

    /// The requests with the highest field numbers.
    fn application_request(self) -> Result<Request<'a>, BadCommand> {
        if let Some(fields) = self.rpc {
            let method = fields.method.0;
            let data = data(fields.data)?;
            Ok(Request::Rpc { method, data })
        } else if let Some(fields) = self.refresh {
            let token = fields.token.0;
            Ok(Request::Refresh { token })
        } else if let Some(fields) = self.sub_refresh {
            let channel = channel(fields.channel)?;
            let token = fields.token.0;
            Ok(Request::SubRefresh { channel, token })
        } else {
            Err(BadCommand::NoRequest)
        }
    }
}

fn connect(fields: Connect<'_>) -> Result<Request<'_>, BadCommand> {
    if fields.subs.read > SUBSCRIPTIONS_PER_CONN_MAX {
        return Err(BadCommand::TooMany);
    }
    let subs = fields.subs.by_channel;
    if subs.iter().any(|(channel, _)| channel.is_empty()) {
        return Err(BadCommand::NoChannel);
    }
    Ok(Request::Connect(ConnectRequest {
        token: non_empty(fields.token),
        data: data(fields.data)?,
        subs,
        name: non_empty(fields.name),
        version: non_empty(fields.version),
    }))
}

fn subscribe(fields: Subscribe<'_>) -> Result<Request<'_>, BadCommand> {
    Ok(Request::Subscribe(SubscribeRequest {
        channel: channel(fields.channel)?,
        token: non_empty(fields.token),
        recover: recover(fields.recover.0, fields.offset.0, fields.epoch),
        data: data(fields.data)?,
        positioned: fields.positioned.0,
        recoverable: fields.recoverable.0,
        join_leave: fields.join_leave.0,
        delta_fossil: fields.delta.0 == "fossil",
        filter: filter::filter(fields.filter.0),
        flag: fields.flag.0,
        kind: fields.kind.0,
    }))
}

fn recover(wanted: bool, offset: u64, Text(epoch): Text<'_>) -> Recover<'_> {
    let since = StreamPosition { offset, epoch };
    Recover { wanted, since }
}

fn history(fields: History<'_>) -> Result<Request<'_>, BadCommand> {
    Ok(Request::History {
        channel: channel(fields.channel)?,
        limit: fields.limit.0,
        since: fields.since.map(|since| StreamPosition {
            offset: since.offset.0,
            epoch: since.epoch.0,
        }),
        reverse: fields.reverse.0,
    })
}

fn send(fields: Message<'_>) -> Result<Request<'_>, BadCommand> {
    data(fields.data).map(|data| Request::Send { data })
}

fn channel(Text(channel): Text<'_>) -> Result<Cow<'_, str>, BadCommand> {
    if channel.is_empty() {
        return Err(BadCommand::NoChannel);
    }
    Ok(channel)
}

fn data(Data(data): Data<'_>) -> Result<Cow<'_, [u8]>, BadCommand> {
    if !json_depth_is_allowed(data.as_bytes()) {
        return Err(BadCommand::TooDeep);
    }
    Ok(Cow::Borrowed(data.as_bytes()))
}

fn non_empty(Text(text): Text<'_>) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(text)
}

/// Declares an object and reads it from a JSON object only; of a repeated field the last counts.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident $key:literal: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name<'a> {
            $($field: $type,)*
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields<'a>(PhantomData<&'a str>);
                impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                        let mut object = $name::default();
                        while let Some(Text(key)) = map.next_key()? {
                            match key.as_ref() {
                                $($key => object.$field = map.next_value()?,)*
                                _ => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Fields(PhantomData))
            }
        }
    };
}

object! {
    /// One line: the envelope of a command.
    Document {
        id "id": OrZero<u32>,
        connect "connect": Option<Connect<'a>>,
        subscribe "subscribe": Option<Subscribe<'a>>,
        unsubscribe "unsubscribe": Option<OfChannel<'a>>,
        publish "publish": Option<Publish<'a>>,
        presence "presence": Option<OfChannel<'a>>,
        presence_stats "presence_stats": Option<OfChannel<'a>>,
        history "history": Option<History<'a>>,
        ping "ping": Option<AnyObject>,
        send "send": Option<Message<'a>>,
        rpc "rpc": Option<Rpc<'a>>,
        refresh "refresh": Option<Refresh<'a>>,
        sub_refresh "sub_refresh": Option<SubRefresh<'a>>,
    }
}

object! {
    Connect {
        token "token": Text<'a>,
        data "data": Data<'a>,
        subs "subs": Subs<'a>,
        name "name": Text<'a>,
        version "version": Text<'a>,
    }
}

object! {
    /// Also the position of a server-side subscription in `connect`.
    Subscribe {
        channel "channel": Text<'a>,
        token "token": Text<'a>,
        recover "recover": OrZero<bool>,
        epoch "epoch": Text<'a>,
        offset "offset": OrZero<u64>,
        data "data": Data<'a>,
        positioned "positioned": OrZero<bool>,
        recoverable "recoverable": OrZero<bool>,
        join_leave "join_leave": OrZero<bool>,
        delta "delta": Text<'a>,
        filter "tf": Data<'a>,
        flag "flag": OrZero<i64>,
        kind "type": OrZero<i32>,
    }
}

object! {
    /// A request that has nothing but a channel.
    OfChannel { channel "channel": Text<'a>, }
}

object! {
    Publish { channel "channel": Text<'a>, data "data": Data<'a>, }
}

object! {
    History {
        channel "channel": Text<'a>,
        limit "limit": OrZero<i32>,
        since "since": Option<Since<'a>>,
        reverse "reverse": OrZero<bool>,
    }
}

object! {
    Since { offset "offset": OrZero<u64>, epoch "epoch": Text<'a>, }
}

object! {
    Message { data "data": Data<'a>, }
}

object! {
    Rpc { method "method": Text<'a>, data "data": Data<'a>, }
}

object! {
    Refresh { token "token": Text<'a>, }
}

object! {
    SubRefresh { channel "channel": Text<'a>, token "token": Text<'a>, }
}

/// Positions by channel; of a repeated channel the last counts. Once too many were read, repeated ones
/// included, no more are kept.
#[derive(Default)]
struct Subs<'a> {
    by_channel: Vec<(Cow<'a, str>, Recover<'a>)>,
    read: usize,
}

impl<'a> Subs<'a> {
    fn insert(&mut self, channel: Cow<'a, str>, position: Recover<'a>) {
        self.read += 1;
        if self.read > SUBSCRIPTIONS_PER_CONN_MAX {
            return;
        }
        let mut known = self.by_channel.iter_mut();
        match known.find(|(known, _)| *known == channel) {
            Some(known) => known.1 = position,
            None => self.by_channel.push((channel, position)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Subs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Channels<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Channels<'a> {
            type Value = Subs<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut subs = Subs::default();
                while let Some((Text(channel), fields)) = map.next_entry()? {
                    let fields: Subscribe<'_> = fields;
                    let position = recover(fields.recover.0, fields.offset.0, fields.epoch);
                    subs.insert(channel, position);
                }
                Ok(subs)
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Subs::default())
            }
        }
        deserializer.deserialize_any(Channels(PhantomData))
    }
}

/// A string, borrowed when it has no escapes; `null` is the empty string.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for AnyText<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(AnyText(PhantomData))
    }
}

/// The raw text of a JSON value; empty only when the field is missing, since `null` is a value.
#[derive(Default)]
struct Data<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Self(raw.get()))
    }
}

/// A number or flag; `null` is its zero.
#[derive(Default)]
struct OrZero<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrZero<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|value| Self(value.unwrap_or_default()))
    }
}

/// An object whose fields do not matter.
struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyFields;
        impl<'de> Visitor<'de> for AnyFields {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }
        deserializer.deserialize_map(AnyFields).map(|()| Self)
    }
}

#[cfg(test)]
mod tests;
