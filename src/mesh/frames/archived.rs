//! Archived frames seen again as the borrowed enums that they were sent as.

use super::*;
use crate::base::content::ArchivedContent;
use crate::base::event::{ArchivedEventKind, ArchivedOrderKind, ArchivedVerdict};
use crate::base::ids::{ArchivedConnId, ArchivedEpoch, ArchivedViewId};
use rkyv::api::low;
use rkyv::option::ArchivedOption;

impl ArchivedRequest {
    /// Reads a record in place, checked.
    pub(in crate::mesh) fn access(bytes: &[u8]) -> &Self {
        low::access::<Self, Failure>(bytes).expect("an archive made by `Request::archive`")
    }

    /// The frame as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Request<'_> {
        match self {
            Self::Publish(publish) => Request::Publish(publish.get()),
            Self::Interest { room, view } => Request::Interest {
                room,
                view: view_id(view),
            },
            Self::Uninterest { room, view } => Request::Uninterest {
                room,
                view: view_id(view),
            },
            Self::Enter { room, conn, info } => Request::Enter {
                room,
                conn: conn_id(conn),
                info,
            },
            Self::Leave { room, conn } => Request::Leave {
                room,
                conn: conn_id(conn),
            },
            Self::Seat {
                room,
                conn,
                most,
                reply,
            } => Request::Seat {
                room,
                conn: conn_id(conn),
                most: most.to_native(),
                reply: reply.get(),
            },
            Self::History { room, read, reply } => Request::History {
                room,
                read: read.get(),
                reply: reply.get(),
            },
            Self::Presence { room, reply } => Request::Presence {
                room,
                reply: reply.get(),
            },
            Self::PresenceStats { room, reply } => Request::PresenceStats {
                room,
                reply: reply.get(),
            },
            Self::ForgetHistory { room, reply } => Request::ForgetHistory {
                room,
                reply: reply.get(),
            },
            Self::Rooms { pattern, reply } => Request::Rooms {
                pattern,
                reply: reply.get(),
            },
            Self::Event(event) => Request::Event(event.get()),
        }
    }
}

impl ArchivedPublish<'static> {
    /// The publication as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Publish<'_> {
        Publish {
            room: &self.room,
            payload: &self.payload,
            content: content(&self.content),
            skip_history: self.skip_history,
            delta: self.delta,
            key: self.key.as_ref().copied(),
            info: &self.info,
            tags: &self.tags,
            exclude: self.exclude.as_ref().map(|member| Member {
                node: member.node.to_native(),
                conn: conn_id(&member.conn),
            }),
            version: self.version.as_ref().map(|version| Version {
                epoch: version.epoch.to_native(),
                number: version.number.to_native(),
            }),
            reply: self.reply.get(),
        }
    }
}

impl ArchivedHistoryRead {
    fn get(&self) -> HistoryRead {
        match self {
            Self::Recover { epoch, offset } => HistoryRead::Recover {
                epoch: epoch_of(epoch),
                offset: Offset(offset.0.to_native()),
            },
            Self::RecoverNewest { epoch, offset } => HistoryRead::RecoverNewest {
                epoch: epoch_of(epoch),
                offset: Offset(offset.0.to_native()),
            },
            Self::Page {
                limit,
                since,
                reverse,
            } => HistoryRead::Page {
                limit: limit.to_native(),
                since: since.as_ref().map(ArchivedPosition::get),
                reverse: *reverse,
            },
        }
    }
}

impl ArchivedPosition {
    fn get(&self) -> Position {
        Position {
            epoch: epoch_of(&self.epoch),
            offset: Offset(self.offset.0.to_native()),
        }
    }
}

impl ArchivedEvent<'static> {
    /// The event as it was sent, borrowing from the lane.
    pub fn get(&self) -> Event<'_> {
        Event {
            kind: event_kind(&self.kind),
            reply: self.reply.get(),
            subject: &self.subject,
            info: &self.info,
            meta: &self.meta,
            code: self.code.to_native(),
            text: &self.text,
            content: content(&self.content),
            data: &self.data,
        }
    }
}

impl ArchivedDelivery {
    /// Reads a record in place, checked.
    pub(in crate::mesh) fn access(bytes: &[u8]) -> &Self {
        low::access::<Self, Failure>(bytes).expect("an archive made by `Delivery::archive`")
    }

    /// The frame as it was sent, borrowing from the lane.
    #[inline]
    pub fn get(&self) -> Delivery<'_> {
        match self {
            Self::Publication {
                view,
                offset,
                content: kind,
                delta,
                payload,
                info,
                tags,
                exclude,
            } => Delivery::Publication {
                view: view_id(view),
                offset: Offset(offset.0.to_native()),
                content: content(kind),
                delta: *delta,
                payload,
                info,
                tags,
                exclude: exclude.as_ref().map(conn_id),
            },
            Self::Membership { view, joined, info } => Delivery::Membership {
                view: view_id(view),
                joined: *joined,
                info,
            },
            Self::Interested { view, epoch, top } => Delivery::Interested {
                view: view_id(view),
                epoch: Epoch(epoch.0.to_native()),
                top: Offset(top.0.to_native()),
            },
            Self::Published {
                reply,
                epoch,
                offset,
                duplicate,
            } => Delivery::Published {
                reply: reply.get(),
                epoch: Epoch(epoch.0.to_native()),
                offset: Offset(offset.0.to_native()),
                duplicate: *duplicate,
            },
            Self::Refused { reply } => Delivery::Refused { reply: reply.get() },
            Self::History {
                reply,
                epoch,
                top,
                recovered,
                publications,
            } => Delivery::History {
                reply: reply.get(),
                epoch: Epoch(epoch.0.to_native()),
                top: Offset(top.0.to_native()),
                recovered: *recovered,
                publications,
            },
            Self::Presence {
                reply,
                complete,
                infos,
            } => Delivery::Presence {
                reply: reply.get(),
                complete: *complete,
                infos,
            },
            Self::PresenceStats {
                reply,
                clients,
                users,
            } => Delivery::PresenceStats {
                reply: reply.get(),
                clients: clients.to_native(),
                users: users.to_native(),
            },
            Self::Done { reply } => Delivery::Done { reply: reply.get() },
            Self::Rooms {
                reply,
                complete,
                rooms,
            } => Delivery::Rooms {
                reply: reply.get(),
                complete: *complete,
                rooms,
            },
            Self::Answer(answer) => Delivery::Answer(answer.get()),
            Self::Order(order) => Delivery::Order(order.get()),
            Self::Drain => Delivery::Drain,
            Self::Drained => Delivery::Drained,
        }
    }
}

impl ArchivedAnswer<'static> {
    fn get(&self) -> Answer<'_> {
        Answer {
            reply: self.reply.get(),
            verdict: match self.verdict {
                ArchivedVerdict::Result => Verdict::Result,
                ArchivedVerdict::Error => Verdict::Error,
                ArchivedVerdict::TemporaryError => Verdict::TemporaryError,
                ArchivedVerdict::Disconnect => Verdict::Disconnect,
            },
            code: self.code.to_native(),
            text: &self.text,
            result: &self.result,
        }
    }
}

impl ArchivedOrder<'static> {
    fn get(&self) -> Order<'_> {
        Order {
            kind: match self.kind {
                ArchivedOrderKind::Disconnect => OrderKind::Disconnect,
                ArchivedOrderKind::Subscribe => OrderKind::Subscribe,
                ArchivedOrderKind::Unsubscribe => OrderKind::Unsubscribe,
                ArchivedOrderKind::Refresh => OrderKind::Refresh,
                ArchivedOrderKind::Expire => OrderKind::Expire,
                ArchivedOrderKind::Message => OrderKind::Message,
            },
            user: &self.user,
            client: self.client.as_ref().map(conn_id),
            room: &self.room,
            code: self.code.to_native(),
            text: &self.text,
            expire_at_s: self.expire_at_s.to_native(),
            since: self.since.as_ref().map(ArchivedPosition::get),
            overrides: self.overrides.to_native(),
            info_content: content(&self.info_content),
            info: &self.info,
            content: content(&self.content),
            data: &self.data,
        }
    }
}

impl ArchivedReplyTo {
    /// The address, by value.
    #[inline]
    pub fn get(&self) -> ReplyTo {
        match self {
            Self::Nobody => ReplyTo::Nobody,
            Self::Upstream {
                conn,
                generation,
                request,
            } => ReplyTo::Upstream {
                conn: conn.to_native(),
                generation: generation.to_native(),
                request: request.to_native(),
            },
            Self::Task { ticket } => ReplyTo::Task {
                ticket: ticket.to_native(),
            },
            Self::Client { conn, command } => ReplyTo::Client {
                conn: conn_id(conn),
                command: command.to_native(),
            },
            Self::Subscriber { conn, view } => ReplyTo::Subscriber {
                conn: conn_id(conn),
                view: view_id(view),
            },
            Self::Event { conn, serial } => ReplyTo::Event {
                conn: conn_id(conn),
                serial: serial.to_native(),
            },
        }
    }
}

fn epoch_of(epoch: &ArchivedOption<ArchivedEpoch>) -> Option<Epoch> {
    epoch.as_ref().map(|epoch| Epoch(epoch.0.to_native()))
}

fn view_id(view: &ArchivedViewId) -> ViewId {
    ViewId {
        index: view.index.to_native(),
        generation: view.generation.to_native(),
    }
}

fn conn_id(conn: &ArchivedConnId) -> ConnId {
    ConnId {
        slot: conn.slot.to_native(),
        generation: conn.generation.to_native(),
    }
}

fn content(content: &ArchivedContent) -> Content {
    match content {
        ArchivedContent::Json => Content::Json,
        ArchivedContent::Text => Content::Text,
        ArchivedContent::Bytes => Content::Bytes,
    }
}

fn event_kind(kind: &ArchivedEventKind) -> EventKind {
    match kind {
        ArchivedEventKind::Connect => EventKind::Connect,
        ArchivedEventKind::Subscribe => EventKind::Subscribe,
        ArchivedEventKind::Publish => EventKind::Publish,
        ArchivedEventKind::Rpc => EventKind::Rpc,
        ArchivedEventKind::Refresh => EventKind::Refresh,
        ArchivedEventKind::SubRefresh => EventKind::SubRefresh,
        ArchivedEventKind::Message => EventKind::Message,
        ArchivedEventKind::Disconnect => EventKind::Disconnect,
        ArchivedEventKind::Unsubscribe => EventKind::Unsubscribe,
    }
}
