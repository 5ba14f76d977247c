//! Commands from JSON.
//!
//! Field types are strict, unknown fields are skipped, `null` is the same as absent. Objects are read by
//! hand-written visitors because derived ones would also take arrays for objects and would copy every
//! optional string. An ordinary command allocates nothing: strings without escapes are borrowed.

use crate::limits::COMMANDS_PER_MESSAGE_MAX;
use crate::wire::client::{BadCommand, Command, Request};
use crate::wire::payload::json_depth_is_allowed;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The commands of one message, in their order. After the first error there are no more.
pub fn commands(message: &[u8]) -> impl Iterator<Item = Result<Command<'_>, BadCommand>> {
    let mut state = match simdutf8::basic::from_utf8(message) {
        Ok(text) => State::Rest(text.strip_suffix('\n').unwrap_or(text)),
        Err(_) => State::Bad(BadCommand::NotUtf8),
    };
    let mut count = 0;
    std::iter::from_fn(move || {
        let (line, next) = match std::mem::replace(&mut state, State::Done) {
            State::Done => return None,
            State::Bad(bad) => return Some(Err(bad)),
            State::Rest(rest) => split_line(rest),
        };
        count += 1;
        if count > COMMANDS_PER_MESSAGE_MAX {
            return Some(Err(BadCommand::TooMany));
        }
        let command = command(line);
        if command.is_ok() {
            state = next;
        }
        Some(command)
    })
}

enum State<'a> {
    /// What has not been read; a line even when it is empty.
    Rest(&'a str),
    /// Reported by the next call.
    Bad(BadCommand),
    Done,
}

fn split_line(rest: &str) -> (&str, State<'_>) {
    match memchr::memchr(b'\n', rest.as_bytes()).and_then(|end| rest.split_at_checked(end)) {
        Some((line, next)) => (line, State::Rest(next.get(1..).unwrap_or_default())),
        None => (rest, State::Done),
    }
}

fn command(line: &str) -> Result<Command<'_>, BadCommand> {
    if line.is_empty() {
        return Err(BadCommand::Empty);
    }
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
        if let Some(Connect { token, name }) = self.connect {
            let [token, name] = [token, name].map(non_empty);
            return Ok(Request::Connect { token, name });
        }
        if let Some(subscribe) = self.subscribe {
            return Ok(Request::Subscribe {
                channel: channel(subscribe.channel)?,
                token: non_empty(subscribe.token),
                recover: subscribe.recover.0,
                flag: subscribe.flag.0,
                kind: subscribe.kind.0,
            });
        }
        if let Some(unsubscribe) = self.unsubscribe {
            let channel = channel(unsubscribe.channel)?;
            return Ok(Request::Unsubscribe { channel });
        }
        if let Some(publish) = self.publish {
            return Ok(Request::Publish {
                channel: channel(publish.channel)?,
                data: data(publish.data)?,
            });
        }
        let before_send = [self.presence, self.presence_stats, self.history, self.ping];
        if before_send.contains(&Present(true)) {
            return Ok(Request::Unsupported);
        }
        if let Some(message) = self.send {
            return send(message);
        }
        if [self.rpc, self.refresh, self.sub_refresh].contains(&Present(true)) {
            return Ok(Request::Unsupported);
        }
        Err(BadCommand::NoRequest)
    }
}

fn send(message: Message<'_>) -> Result<Request<'_>, BadCommand> {
    data(message.data).map(|data| Request::Send { data })
}

fn channel(Text(channel): Text<'_>) -> Result<Cow<'_, str>, BadCommand> {
    if channel.is_empty() {
        return Err(BadCommand::NoChannel);
    }
    Ok(channel)
}

fn data(Data(data): Data<'_>) -> Result<&str, BadCommand> {
    if !json_depth_is_allowed(data.as_bytes()) {
        return Err(BadCommand::TooDeep);
    }
    Ok(data)
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
        unsubscribe "unsubscribe": Option<Unsubscribe<'a>>,
        publish "publish": Option<Publish<'a>>,
        presence "presence": Present,
        presence_stats "presence_stats": Present,
        history "history": Present,
        ping "ping": Present,
        send "send": Option<Message<'a>>,
        rpc "rpc": Present,
        refresh "refresh": Present,
        sub_refresh "sub_refresh": Present,
    }
}

object! {
    Connect { token "token": Text<'a>, name "name": Text<'a>, }
}

object! {
    Subscribe {
        channel "channel": Text<'a>,
        token "token": Text<'a>,
        recover "recover": OrZero<bool>,
        flag "flag": OrZero<i64>,
        kind "type": OrZero<i32>,
    }
}

object! {
    Unsubscribe { channel "channel": Text<'a>, }
}

object! {
    Publish { channel "channel": Text<'a>, data "data": Data<'a>, }
}

object! {
    Message { data "data": Data<'a>, }
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

/// Whether a request is there whose fields do not matter.
#[derive(Clone, Copy, Default, PartialEq)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<IgnoredAny>::deserialize(deserializer).map(|value| Self(value.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &str) -> Vec<Result<Command<'_>, BadCommand>> {
        commands(message.as_bytes()).collect()
    }

    fn one(message: &str) -> Result<Command<'_>, BadCommand> {
        let mut all = all(message);
        assert_eq!(all.len(), 1, "{message}");
        all.remove(0)
    }

    fn request(message: &str) -> Request<'_> {
        one(message).expect(message).request
    }

    fn subscribe(channel: &str) -> Request<'_> {
        Request::Subscribe {
            channel: channel.into(),
            token: None,
            recover: false,
            flag: 0,
            kind: 0,
        }
    }

    #[test]
    fn the_first_frame_of_an_sdk_is_read_in_order() {
        let message = concat!(
            r#"{"connect":{"token":"tok","name":"js"},"id":1}"#,
            "\n",
            r#"{"subscribe":{"channel":"news","flag":1},"id":2}"#,
        );
        let connect = Request::Connect {
            token: Some("tok".into()),
            name: Some("js".into()),
        };
        let subscribe = Request::Subscribe {
            channel: "news".into(),
            token: None,
            recover: false,
            flag: 1,
            kind: 0,
        };
        let expected = [(1, connect), (2, subscribe)]
            .map(|(id, request)| Ok(Command { id, request }))
            .to_vec();
        assert_eq!(all(message), expected);
        assert_eq!(all(&format!("{message}\n")), expected);
    }

    #[test]
    fn ordinary_strings_are_borrowed_and_escapes_are_resolved() {
        let Request::Subscribe { channel, .. } = request(r#"{"id":2,"subscribe":{"channel":"a"}}"#)
        else {
            panic!("a subscribe");
        };
        assert!(matches!(channel, Cow::Borrowed("a")));
        assert_eq!(
            request(r#"{"id":2,"subscribe":{"channel":"\u00e4\n"}}"#),
            subscribe("\u{e4}\n")
        );
    }

    #[test]
    fn every_field_of_the_offered_requests_is_read() {
        assert_eq!(
            request(
                r#"{"id":3,"subscribe":{"channel":"n","token":"t","recover":true,"epoch":"e","offset":13,"flag":3,"type":4,"tf":{"nodes":[{}]}}}"#
            ),
            Request::Subscribe {
                channel: "n".into(),
                token: Some("t".into()),
                recover: true,
                flag: 3,
                kind: 4,
            }
        );
        assert_eq!(
            request(r#"{"id":4,"publish":{"channel":"chat","data": {"x": [1, "a"]} }}"#),
            Request::Publish {
                channel: "chat".into(),
                data: r#"{"x": [1, "a"]}"#,
            }
        );
        assert_eq!(
            request(r#"{"id":11,"unsubscribe":{"channel":"news"}}"#),
            Request::Unsubscribe {
                channel: "news".into()
            }
        );
        assert_eq!(
            one(r#"{"send":{"data":{"typing":true}}}"#),
            Ok(Command {
                id: 0,
                request: Request::Send {
                    data: r#"{"typing":true}"#
                }
            })
        );
    }

    #[test]
    fn null_data_is_data_and_missing_data_is_empty() {
        for (fields, expected) in [(r#","data":null"#, "null"), ("", "")] {
            let message = format!(r#"{{"id":1,"publish":{{"channel":"c"{fields}}}}}"#);
            let Request::Publish { data, .. } = request(&message) else {
                panic!("a publish");
            };
            assert_eq!(data, expected);
        }
    }

    #[test]
    fn without_id_and_send_a_command_is_a_pong_whatever_it_carries() {
        for message in [
            "{}",
            r#"{"id":0}"#,
            r#"{"id":null,"send":null}"#,
            r#"{"subscribe":{"channel":"news"}}"#,
            r#"{"rpc":{}}"#,
        ] {
            let expected = Command {
                id: 0,
                request: Request::Pong,
            };
            assert_eq!(one(message), Ok(expected), "{message}");
        }
    }

    #[test]
    fn of_several_requests_the_first_by_field_number_counts() {
        assert_eq!(
            request(
                r#"{"id":1,"send":{"data":1},"rpc":{},"publish":{"channel":"b","data":1},"subscribe":{"channel":"a"}}"#
            ),
            subscribe("a")
        );
        assert_eq!(
            request(r#"{"id":1,"send":{"data":1},"history":{"channel":"a"}}"#),
            Request::Unsupported
        );
        assert_eq!(
            request(r#"{"id":1,"rpc":{},"send":{"data":1}}"#),
            Request::Send { data: "1" }
        );
    }

    #[test]
    fn requests_that_are_not_offered_are_told_from_unknown_ones() {
        for name in [
            "presence",
            "presence_stats",
            "history",
            "ping",
            "rpc",
            "refresh",
            "sub_refresh",
        ] {
            let message = format!(r#"{{"id":5,"{name}":{{"channel":"c","since":{{}}}}}}"#);
            assert_eq!(request(&message), Request::Unsupported, "{name}");
        }
        assert_eq!(one(r#"{"id":5}"#), Err(BadCommand::NoRequest));
        assert_eq!(one(r#"{"id":5,"dance":{}}"#), Err(BadCommand::NoRequest));
    }

    #[test]
    fn a_channel_must_be_named() {
        for message in [
            r#"{"id":1,"subscribe":{}}"#,
            r#"{"id":1,"subscribe":{"channel":""}}"#,
            r#"{"id":1,"unsubscribe":{"channel":null}}"#,
            r#"{"id":1,"publish":{"data":1}}"#,
        ] {
            assert_eq!(one(message), Err(BadCommand::NoChannel), "{message}");
        }
    }

    #[test]
    fn what_is_not_a_command_object_is_refused() {
        for message in [
            "null",
            "[]",
            "1",
            "{",
            "{}{}",
            " ",
            "{\"id\":1,}",
            r#"[1,{"token":"t"}]"#,
            r#"{"id":-1}"#,
            r#"{"id":4294967296}"#,
            r#"{"id":"1"}"#,
            r#"{"id":1.5}"#,
            r#"{"id":1,"subscribe":["news"]}"#,
            r#"{"id":1,"subscribe":"news"}"#,
            r#"{"id":1,"subscribe":{"channel":7}}"#,
            r#"{"id":1,"publish":{"channel":"c","data":}}"#,
        ] {
            assert_eq!(one(message), Err(BadCommand::NotJson), "{message}");
        }
        let not_utf8 = b"{\"x\":\"\xff\"}";
        assert!(commands(not_utf8).eq([Err(BadCommand::NotUtf8)]));
    }

    #[test]
    fn an_empty_line_is_refused_except_one_at_the_end() {
        let pong = || {
            Ok(Command {
                id: 0,
                request: Request::Pong,
            })
        };
        assert_eq!(all(""), [Err(BadCommand::Empty)]);
        assert_eq!(all("\n"), [Err(BadCommand::Empty)]);
        assert_eq!(all("{}\n"), [pong()]);
        assert_eq!(all("{}\n\n"), [pong(), Err(BadCommand::Empty)]);
        assert_eq!(all("{}\n\n{}"), [pong(), Err(BadCommand::Empty)]);
        assert_eq!(all("\n{}"), [Err(BadCommand::Empty)]);
        assert_eq!(all("{}\r\n{}"), [pong(), pong()]);
    }

    #[test]
    fn a_message_holds_a_bounded_number_of_commands() {
        let full = "{}\n".repeat(COMMANDS_PER_MESSAGE_MAX);
        assert!(all(&full).iter().all(Result::is_ok));
        let message = format!("{full}{{}}");
        let over = all(&message);
        assert_eq!(over.len(), COMMANDS_PER_MESSAGE_MAX + 1);
        assert_eq!(over.last(), Some(&Err(BadCommand::TooMany)));
    }

    #[test]
    fn depth_bombs_are_refused_or_skipped_without_the_stack() {
        let bomb = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
        let data = format!(r#"{{"id":1,"publish":{{"channel":"c","data":{bomb}}}}}"#);
        assert_eq!(one(&data), Err(BadCommand::TooDeep));
        let unknown = format!(r#"{{"id":1,"later":{bomb},"subscribe":{{"channel":"c"}}}}"#);
        assert_eq!(request(&unknown), subscribe("c"));
    }
}
