//! Commands from Protobuf.
//!
//! The structs are the protocol's schema with the fields that mean something here; others are skipped.
//! A length is compared with what is there before anything is allocated for it, and nesting is bounded
//! by `prost`. A command takes memory in proportion to its bytes.

mod filter;

use crate::limits::SUBSCRIPTIONS_PER_CONN_MAX;
use crate::wire::client::{BadCommand, Command, Recover, Request, StreamPosition};
use crate::wire::client::{Connect as ConnectRequest, Subscribe as SubscribeRequest};
use prost::{Message, decode_length_delimiter};
use std::borrow::Cow;

/// Takes one length and as many bytes from the front of `message` and reads them.
pub(in crate::wire::client) fn take_command<'a>(
    message: &mut &'a [u8],
) -> Result<Command<'a>, BadCommand> {
    let bytes = take_delimited(message).ok_or(BadCommand::NotProtobuf)?;
    let document = schema::Command::decode(bytes).map_err(|_| BadCommand::NotProtobuf)?;
    let id = document.id;
    let request = if id == 0 {
        document.send.map_or(Request::Pong, send)
    } else {
        first_request(document)?
    };
    Ok(Command { id, request })
}

/// Commands of a message, up to the first one that is cut off.
pub(in crate::wire::client) fn count(mut message: &[u8]) -> usize {
    std::iter::from_fn(|| take_delimited(&mut message)).count()
}

fn take_delimited<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = decode_length_delimiter(&mut *message).ok()?;
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

/// The first request in the order of the field numbers.
fn first_request(command: schema::Command) -> Result<Request<'static>, BadCommand> {
    if let Some(fields) = command.connect {
        connect(fields)
    } else if let Some(fields) = command.subscribe {
        subscribe(fields)
    } else if let Some(fields) = command.unsubscribe {
        let channel = channel(fields.channel)?;
        Ok(Request::Unsubscribe { channel })
    } else if let Some(fields) = command.publish {
        let channel = channel(fields.channel)?;
        let data = fields.data.into();
        Ok(Request::Publish { channel, data })
    } else if let Some(fields) = command.presence {
        let channel = channel(fields.channel)?;
        Ok(Request::Presence { channel })
    } else if let Some(fields) = command.presence_stats {
        let channel = channel(fields.channel)?;
        Ok(Request::PresenceStats { channel })
    } else if let Some(fields) = command.history {
        history(fields)
    } else if command.ping.is_some() {
        Ok(Request::Ping)
    } else if let Some(fields) = command.send {
        Ok(send(fields))
    } else if let Some(fields) = command.rpc {
        let method = fields.method.into();
        let data = fields.data.into();
        Ok(Request::Rpc { method, data })
    } else if let Some(fields) = command.refresh {
        let token = fields.token.into();
        Ok(Request::Refresh { token })
    } else if let Some(fields) = command.sub_refresh {
        let channel = channel(fields.channel)?;
        let token = fields.token.into();
        Ok(Request::SubRefresh { channel, token })
    } else {
        Err(BadCommand::NoRequest)
    }
}

fn connect(fields: schema::Connect) -> Result<Request<'static>, BadCommand> {
    Ok(Request::Connect(ConnectRequest {
        token: non_empty(fields.token),
        data: fields.data.into(),
        subs: subs(&fields.subs)?,
        name: non_empty(fields.name),
        version: non_empty(fields.version),
    }))
}

/// Positions by channel; of a repeated channel the last counts.
fn subs(entries: &[Vec<u8>]) -> Result<Vec<(Cow<'static, str>, Recover<'static>)>, BadCommand> {
    if entries.len() > SUBSCRIPTIONS_PER_CONN_MAX {
        return Err(BadCommand::TooMany);
    }
    let mut subs: Vec<(Cow<'static, str>, Recover<'static>)> = Vec::new();
    for entry in entries {
        let entry = schema::Sub::decode(entry.as_slice()).map_err(|_| BadCommand::NotProtobuf)?;
        let channel = channel(entry.channel)?;
        let fields = entry.request.unwrap_or_default();
        let recover = recover(fields.recover, fields.offset, fields.epoch);
        match subs.iter_mut().find(|(known, _)| *known == channel) {
            Some(known) => known.1 = recover,
            None => subs.push((channel, recover)),
        }
    }
    Ok(subs)
}

fn subscribe(fields: schema::Subscribe) -> Result<Request<'static>, BadCommand> {
    Ok(Request::Subscribe(SubscribeRequest {
        channel: channel(fields.channel)?,
        token: non_empty(fields.token),
        recover: recover(fields.recover, fields.offset, fields.epoch),
        data: fields.data.into(),
        positioned: fields.positioned,
        recoverable: fields.recoverable,
        join_leave: fields.join_leave,
        delta_fossil: fields.delta == "fossil",
        filter: filter::filter(&fields.filter),
        flag: fields.flag,
        kind: fields.kind,
    }))
}

fn recover(wanted: bool, offset: u64, epoch: String) -> Recover<'static> {
    let epoch = epoch.into();
    let since = StreamPosition { offset, epoch };
    Recover { wanted, since }
}

fn history(fields: schema::History) -> Result<Request<'static>, BadCommand> {
    Ok(Request::History {
        channel: channel(fields.channel)?,
        limit: fields.limit,
        since: fields.since.map(|since| StreamPosition {
            offset: since.offset,
            epoch: since.epoch.into(),
        }),
        reverse: fields.reverse,
    })
}

fn send(fields: schema::OfData) -> Request<'static> {
    let data = fields.data.into();
    Request::Send { data }
}

fn channel(channel: String) -> Result<Cow<'static, str>, BadCommand> {
    if channel.is_empty() {
        return Err(BadCommand::NoChannel);
    }
    Ok(channel.into())
}

fn non_empty(text: String) -> Option<Cow<'static, str>> {
    (!text.is_empty()).then_some(text.into())
}

/// Messages of the protocol's schema.
mod schema {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Command {
        #[prost(uint32, tag = "1")]
        pub(super) id: u32,
        #[prost(message, optional, tag = "4")]
        pub(super) connect: Option<Connect>,
        #[prost(message, optional, tag = "5")]
        pub(super) subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "6")]
        pub(super) unsubscribe: Option<OfChannel>,
        #[prost(message, optional, tag = "7")]
        pub(super) publish: Option<Publish>,
        #[prost(message, optional, tag = "8")]
        pub(super) presence: Option<OfChannel>,
        #[prost(message, optional, tag = "9")]
        pub(super) presence_stats: Option<OfChannel>,
        #[prost(message, optional, tag = "10")]
        pub(super) history: Option<History>,
        #[prost(message, optional, tag = "11")]
        pub(super) ping: Option<Empty>,
        #[prost(message, optional, tag = "12")]
        pub(super) send: Option<OfData>,
        #[prost(message, optional, tag = "13")]
        pub(super) rpc: Option<Rpc>,
        #[prost(message, optional, tag = "14")]
        pub(super) refresh: Option<Refresh>,
        #[prost(message, optional, tag = "15")]
        pub(super) sub_refresh: Option<SubRefresh>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Connect {
        #[prost(string, tag = "1")]
        pub(super) token: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) data: Vec<u8>,
        /// Entries of a map, each a [`Sub`]: read one by one, so that a message of many empty ones
        /// does not take many times its size.
        #[prost(bytes = "vec", repeated, tag = "3")]
        pub(super) subs: Vec<Vec<u8>>,
        #[prost(string, tag = "4")]
        pub(super) name: String,
        #[prost(string, tag = "5")]
        pub(super) version: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Sub {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
        #[prost(message, optional, tag = "2")]
        pub(super) request: Option<Subscribe>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Subscribe {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
        #[prost(string, tag = "2")]
        pub(super) token: String,
        #[prost(bool, tag = "3")]
        pub(super) recover: bool,
        #[prost(string, tag = "6")]
        pub(super) epoch: String,
        #[prost(uint64, tag = "7")]
        pub(super) offset: u64,
        #[prost(bytes = "vec", tag = "8")]
        pub(super) data: Vec<u8>,
        #[prost(bool, tag = "9")]
        pub(super) positioned: bool,
        #[prost(bool, tag = "10")]
        pub(super) recoverable: bool,
        #[prost(bool, tag = "11")]
        pub(super) join_leave: bool,
        #[prost(string, tag = "12")]
        pub(super) delta: String,
        /// A tree of nodes, read by [`super::filter`].
        #[prost(bytes = "vec", tag = "13")]
        pub(super) filter: Vec<u8>,
        #[prost(int64, tag = "14")]
        pub(super) flag: i64,
        #[prost(int32, tag = "15")]
        pub(super) kind: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfChannel {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Publish {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct History {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
        #[prost(int32, tag = "7")]
        pub(super) limit: i32,
        #[prost(message, optional, tag = "8")]
        pub(super) since: Option<StreamPosition>,
        #[prost(bool, tag = "9")]
        pub(super) reverse: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct StreamPosition {
        #[prost(uint64, tag = "1")]
        pub(super) offset: u64,
        #[prost(string, tag = "2")]
        pub(super) epoch: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfData {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Rpc {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) data: Vec<u8>,
        #[prost(string, tag = "2")]
        pub(super) method: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Refresh {
        #[prost(string, tag = "1")]
        pub(super) token: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct SubRefresh {
        #[prost(string, tag = "1")]
        pub(super) channel: String,
        #[prost(string, tag = "2")]
        pub(super) token: String,
    }

    /// A message whose fields do not matter.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Empty {}
}

#[cfg(test)]
mod tests;
