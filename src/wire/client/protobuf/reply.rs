//! Replies and pushes as Protobuf.
//!
//! Each function appends one message with its length. Field numbers are those of the protocol's schema.

use super::sink::{Entry, Message, Sink, TextEntry};
use crate::wire::client::{
    ClientInfo, ConnectResult, ErrorReply, Publication, Push, Reply, SubscribeResult,
};

/// Answers command `id`.
pub fn reply(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    out.delimited(&Answer { id, reply });
}

/// Says something unasked. `channel` is left out when it is empty.
pub fn push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    out.delimited(&Unasked(&ChannelPush { channel, push }));
}

/// Asks for a pong.
pub fn ping(out: &mut Vec<u8>) {
    out.delimited(&());
}

/// `Reply` with an id.
struct Answer<'a> {
    id: u32,
    reply: &'a Reply<'a>,
}

impl Message for Answer<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.number(1, u64::from(self.id));
        match self.reply {
            Reply::Error(error) => sink.message(2, error),
            Reply::Connect(result) => sink.message(5, *result),
            Reply::Subscribe(result) => sink.message(6, *result),
            Reply::Unsubscribe => sink.message(7, &()),
            Reply::Publish => sink.message(8, &()),
            Reply::Presence(clients) => sink.message(9, &Presence(clients)),
            Reply::PresenceStats { clients, users } => {
                let (clients, users) = (*clients, *users);
                sink.message(10, &PresenceStats { clients, users });
            }
            Reply::History {
                publications,
                epoch,
                offset,
            } => sink.message(
                11,
                &History {
                    publications,
                    epoch,
                    offset: *offset,
                },
            ),
            Reply::Rpc(data) => sink.message(13, &OfData(data.bytes)),
            Reply::Refresh {
                client,
                version,
                ttl_s,
            } => sink.message(
                14,
                &Refresh {
                    client,
                    version,
                    ttl_s: *ttl_s,
                },
            ),
            Reply::SubRefresh { ttl_s } => sink.message(15, &Expiry(*ttl_s)),
        }
    }
}

/// `Reply` without an id, which holds a push.
struct Unasked<'a>(&'a ChannelPush<'a>);

impl Message for Unasked<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.message(4, self.0);
    }
}

/// `Push`.
struct ChannelPush<'a> {
    channel: &'a str,
    push: &'a Push<'a>,
}

impl Message for ChannelPush<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(2, self.channel.as_bytes());
        match self.push {
            Push::Publication(publication) => sink.message(4, *publication),
            Push::Join(info) => sink.message(5, &OfInfo(info)),
            Push::Leave(info) => sink.message(6, &OfInfo(info)),
            Push::Unsubscribe { code, reason } => {
                let code = *code;
                sink.message(7, &UnsubscribePush { code, reason });
            }
            Push::Message(data) => sink.message(8, &OfData(data.bytes)),
            Push::Subscribe(result) => sink.message(9, &SubscribePush(result)),
            Push::Refresh { ttl_s } => sink.message(12, &Expiry(*ttl_s)),
        }
    }
}

impl Message for ErrorReply<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.number(1, u64::from(self.code));
        sink.bytes(2, self.message.as_bytes());
        sink.flag(3, self.temporary);
    }
}

impl Message for ConnectResult<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.client.as_bytes());
        sink.bytes(2, self.version.as_bytes());
        sink.flag(3, self.ttl_s > 0);
        sink.number(4, u64::from(self.ttl_s));
        sink.bytes(5, self.data.bytes);
        for (channel, result) in self.subs {
            sink.message(6, &Entry(channel, result));
        }
        sink.number(7, u64::from(self.ping_s));
        sink.flag(8, self.pong);
    }
}

impl Message for SubscribeResult<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.flag(1, self.ttl_s > 0);
        sink.number(2, u64::from(self.ttl_s));
        sink.flag(3, self.recoverable);
        sink.bytes(6, self.epoch.as_bytes());
        for publication in self.publications {
            sink.message(7, publication);
        }
        sink.flag(8, self.recovered);
        sink.number(9, self.offset);
        sink.flag(10, self.positioned);
        sink.bytes(11, self.data.bytes);
        sink.flag(12, self.was_recovering);
        sink.flag(13, self.delta);
    }
}

/// The push that says less than the result of the same name, under other numbers.
struct SubscribePush<'a>(&'a SubscribeResult<'a>);

impl Message for SubscribePush<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.flag(1, self.0.recoverable);
        sink.bytes(4, self.0.epoch.as_bytes());
        sink.number(5, self.0.offset);
        sink.flag(6, self.0.positioned);
        sink.bytes(7, self.0.data.bytes);
    }
}

struct UnsubscribePush<'a> {
    code: u32,
    reason: &'a str,
}

impl Message for UnsubscribePush<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.number(2, u64::from(self.code));
        sink.bytes(3, self.reason.as_bytes());
    }
}

impl Message for Publication<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(4, self.data.bytes);
        if let Some(info) = &self.info {
            sink.message(5, info);
        }
        sink.number(6, self.offset);
        for (key, value) in self.tags.iter() {
            sink.message(7, &TextEntry(key, value));
        }
        sink.flag(8, self.delta);
    }
}

impl Message for ClientInfo<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.user.as_bytes());
        sink.bytes(2, self.client.as_bytes());
        sink.bytes(3, self.conn_info.bytes);
        sink.bytes(4, self.chan_info.bytes);
    }
}

struct Presence<'a>(&'a [ClientInfo<'a>]);

impl Message for Presence<'_> {
    fn write(&self, sink: &mut impl Sink) {
        for info in self.0 {
            sink.message(1, &Entry(info.client, info));
        }
    }
}

struct PresenceStats {
    clients: u32,
    users: u32,
}

impl Message for PresenceStats {
    fn write(&self, sink: &mut impl Sink) {
        sink.number(1, u64::from(self.clients));
        sink.number(2, u64::from(self.users));
    }
}

struct History<'a> {
    publications: &'a [Publication<'a>],
    epoch: &'a str,
    offset: u64,
}

impl Message for History<'_> {
    fn write(&self, sink: &mut impl Sink) {
        for publication in self.publications {
            sink.message(1, publication);
        }
        sink.bytes(2, self.epoch.as_bytes());
        sink.number(3, self.offset);
    }
}

struct Refresh<'a> {
    client: &'a str,
    version: &'a str,
    ttl_s: u32,
}

impl Message for Refresh<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.client.as_bytes());
        sink.bytes(2, self.version.as_bytes());
        sink.flag(3, self.ttl_s > 0);
        sink.number(4, u64::from(self.ttl_s));
    }
}

/// `SubRefreshResult` and the push `Refresh`: seconds to the next expiry.
struct Expiry(u32);

impl Message for Expiry {
    fn write(&self, sink: &mut impl Sink) {
        sink.flag(1, self.0 > 0);
        sink.number(2, u64::from(self.0));
    }
}

/// `RPCResult` and the push `Message`: nothing but data.
struct OfData<'a>(&'a [u8]);

impl Message for OfData<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.0);
    }
}

/// The pushes `Join` and `Leave`.
struct OfInfo<'a>(&'a ClientInfo<'a>);

impl Message for OfInfo<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.message(1, self.0);
    }
}

#[cfg(test)]
mod tests;
