//! A client's commands, strictly in their order.
//!
//! The session decides what may come when; the files beside this one carry out. A command that a
//! service decides on keeps those behind it waiting, and so does want of lane room: they are held in
//! the connection, bounded in bytes.

use super::core::Core;
use super::identity::{Blob, Pending};
use super::notices::Extras;
use super::permissions::client_data;
use crate::base::client_id::{self, ClientId};
use crate::base::reason::CloseReason;
use crate::base::{ConnId, Content, EventKind, ViewId};
use crate::limits::{COMMAND_OUTPUT_MAX, HELD_BYTES_MAX};
use crate::mesh::{Event, Publish, ReplyTo, Request as HomeRequest};
use crate::room::session::Action;
use crate::wire::client::{
    ClientInfo, Commands, Data, ErrorCode, ErrorReply, Push, Reply, Request, flat, write_ping,
    write_push, write_reply,
};

impl Core {
    /// The commands of one message.
    pub(super) fn commands(&mut self, slot: u32, message: &[u8]) {
        if self.is_held(slot) {
            return self.hold(slot, message, false);
        }
        self.run_commands(slot, message);
    }

    fn run_commands(&mut self, slot: u32, message: &[u8]) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let (id, encoding) = (conn.id, conn.encoding);
        let mut commands = Commands::new(encoding, message);
        loop {
            if !self.may_command() {
                if !commands.rest().is_empty() {
                    self.hold(slot, commands.rest(), true);
                    self.stall(id);
                }
                return;
            }
            let command = match commands.next() {
                None => return,
                Some(Ok(command)) => command,
                Some(Err(bad)) => return self.close(slot, bad.reason()),
            };
            self.stats.shard.commands_total.add(1);
            let Some(session) = self.conns.get_mut(slot).and_then(|conn| conn.session()) else {
                return;
            };
            match session.handle(command.request) {
                Action::Ponged => self.ponged(slot),
                Action::Connect(connect) => self.connect(slot, command.id, connect),
                Action::Serve(request) => self.serve(slot, command.id, request),
                Action::Close(reason) => return self.close(slot, reason),
            }
            if self.is_waiting(slot) {
                if !commands.rest().is_empty() {
                    self.hold(slot, commands.rest(), true);
                }
                return;
            }
        }
    }

    fn serve(&mut self, slot: u32, command: u32, request: Request<'_>) {
        match request {
            Request::Subscribe(subscribe) => self.subscribe(slot, command, subscribe),
            Request::Unsubscribe { channel } => self.unsubscribe(slot, command, &channel),
            Request::Publish { channel, data } => self.publish(slot, command, &channel, &data),
            Request::Presence { channel } => self.presence(slot, command, &channel),
            Request::PresenceStats { channel } => self.presence_stats(slot, command, &channel),
            Request::History {
                channel,
                limit,
                since,
                reverse,
            } => self.history(slot, command, &channel, limit, since.as_ref(), reverse),
            Request::Rpc { method, data } => self.rpc(slot, command, &method, &data),
            Request::Refresh { token } => self.refresh(slot, command, &token),
            Request::SubRefresh { channel, token } => {
                self.sub_refresh(slot, command, &channel, &token);
            }
            Request::Send { data } => self.message(slot, &data),
            Request::Ping => self.reply_error(slot, command, ErrorCode::NotAvailable),
            Request::Pong | Request::Connect(_) => unreachable!("the session takes these"),
        }
    }

    /// Whether lanes can take whatever one command may lead to. What earlier ones left goes first, so
    /// that commands take effect in their order.
    fn may_command(&mut self) -> bool {
        self.send_notices() && self.has_room(COMMAND_OUTPUT_MAX)
    }

    /// Whether a new message has to wait behind others.
    fn is_held(&self, slot: u32) -> bool {
        let extra = self.conns.get(slot).and_then(|conn| conn.extra.as_ref());
        self.is_waiting(slot) || extra.is_some_and(|extra| !extra.held.is_empty())
    }

    /// Whether the next command has to wait for an earlier one or for lane room.
    fn is_waiting(&self, slot: u32) -> bool {
        let extra = self.conns.get(slot).and_then(|conn| conn.extra.as_ref());
        extra.is_some_and(|extra| extra.is_waiting() || extra.stalled)
    }

    /// Keeps a message, or with `front` the rest of one, until the commands before it are done.
    fn hold(&mut self, slot: u32, message: &[u8], front: bool) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.is_open()) else {
            return;
        };
        let extra = conn.extra();
        if extra.held_bytes + message.len() > HELD_BYTES_MAX {
            return self.close(slot, CloseReason::TooManyRequests);
        }
        extra.held_bytes += message.len();
        if front {
            extra.held.push_front(message.into());
        } else {
            extra.held.push_back(message.into());
        }
    }

    fn stall(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id.slot).filter(|conn| conn.is_open())
            && !std::mem::replace(&mut conn.extra().stalled, true)
        {
            self.stalled.push_back(id);
        }
    }

    /// Goes on with connections that waited for lane room; false when there is none yet for all.
    pub(super) fn resume_stalled(&mut self) -> bool {
        for _ in 0..self.stalled.len() {
            if !self.may_command() {
                return false;
            }
            let Some(id) = self.stalled.pop_front() else {
                break;
            };
            let Some(conn) = self.conns.get_mut(id.slot).filter(|conn| conn.id == id) else {
                continue;
            };
            if let Some(extra) = &mut conn.extra {
                extra.stalled = false;
            }
            self.resume(id.slot);
        }
        self.stalled.is_empty()
    }

    /// Goes on with the messages that waited for a command, in the next turn.
    pub(super) fn resume_later(&mut self, slot: u32) {
        let extra = self
            .conns
            .get(slot)
            .and_then(|conn| Some((conn.id, conn.extra.as_ref()?)));
        if let Some((id, extra)) = extra
            && !extra.held.is_empty()
        {
            self.stall(id);
        }
    }

    /// Goes on with the messages that waited for a command.
    pub(super) fn resume(&mut self, slot: u32) {
        loop {
            let Some(extra) = self
                .conns
                .get_mut(slot)
                .and_then(|conn| conn.extra.as_mut())
            else {
                return;
            };
            if extra.is_waiting() || extra.stalled {
                return;
            }
            let Some(message) = extra.held.pop_front() else {
                return;
            };
            extra.held_bytes -= message.len();
            self.run_commands(slot, &message);
        }
    }

    /// A pong came in time.
    pub(super) fn ponged(&mut self, slot: u32) {
        let ping_ms = self.now_ms + self.settings.ping_ms;
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.deadline_ms = ping_ms;
            self.arm_timer(slot, ping_ms);
        }
    }

    fn publish(&mut self, slot: u32, command: u32, channel: &str, data: &[u8]) {
        let namespace = match self.may_publish(slot, channel, data) {
            Ok(namespace) => namespace,
            Err(code) => return self.reply_error(slot, command, code),
        };
        let options = self.settings.namespaces.options(namespace);
        let Some(encoding) = self.conns.get(slot).map(|conn| conn.encoding) else {
            return;
        };
        let Some(content) = client_data(encoding, options.data_format, data) else {
            return self.reply_error(slot, command, ErrorCode::BadRequest);
        };
        if options.publish_hook && !self.settings.clients.insecure {
            let pending = Pending::Publish {
                command,
                channel: channel.into(),
                data: Blob::new(content, data),
            };
            return self.ask_service(slot, EventKind::Publish, channel, pending, content, data);
        }
        let data = Data {
            content,
            bytes: data,
        };
        self.publish_for(slot, command, channel, data, None);
    }

    /// Publishes in a client's name, with what a service has set.
    pub(super) fn publish_for(
        &mut self,
        slot: u32,
        command: u32,
        channel: &str,
        data: Data<'_>,
        extras: Option<&Extras>,
    ) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let reply = ReplyTo::Client {
            conn: conn.id,
            command,
        };
        let info = std::mem::take(self.flat_info(slot, self.view_named(channel)));
        let publish = Publish {
            room: channel,
            payload: data.bytes,
            content: data.content,
            skip_history: extras.is_some_and(|extras| extras.skip_history),
            delta: extras.is_some_and(|extras| extras.delta),
            key: extras.and_then(|extras| extras.key),
            info: &info,
            tags: extras.map_or(b"", |extras| &extras.tags),
            exclude: None,
            version: extras.and_then(|extras| extras.version),
            reply,
        };
        self.ask(channel, &HomeRequest::Publish(publish));
        self.flat = info;
    }

    fn rpc(&mut self, slot: u32, command: u32, method: &str, data: &[u8]) {
        if !self.settings.clients.rpc_hook {
            return self.reply_error(slot, command, ErrorCode::NotAvailable);
        }
        if method.len() > crate::limits::ROOM_NAME_MAX {
            return self.reply_error(slot, command, ErrorCode::BadRequest);
        }
        let content = self.content_of(slot, data);
        let pending = Pending::Rpc { command };
        self.ask_service(slot, EventKind::Rpc, method, pending, content, data);
    }

    fn message(&mut self, slot: u32, data: &[u8]) {
        if !self.settings.clients.message_hook {
            return self.close(slot, CloseReason::NotAvailable);
        }
        let content = self.content_of(slot, data);
        let info = std::mem::take(self.flat_info(slot, None));
        let event = Event {
            kind: EventKind::Message,
            reply: ReplyTo::Nobody,
            subject: "",
            info: &info,
            meta: b"",
            code: 0,
            text: "",
            content,
            data,
        };
        self.send_event(slot, event);
        self.flat = info;
    }

    /// What a client's data is, where any will do.
    pub(super) fn content_of(&self, slot: u32, data: &[u8]) -> Content {
        let encoding = self.conns.get(slot).map(|conn| conn.encoding);
        let content = client_data(encoding.unwrap_or_default(), Default::default(), data);
        content.unwrap_or(Content::Bytes)
    }

    /// The room's view on this shard, if it has one.
    pub(super) fn view_named(&self, room: &str) -> Option<ViewId> {
        let (index, generation) = self.views.find(room)?;
        Some(ViewId { index, generation })
    }

    /// Makes the flat info of a connection, as a subscriber of `view` if it is one.
    pub(super) fn flat_info(&mut self, slot: u32, view: Option<ViewId>) -> &mut Vec<u8> {
        let Self {
            conns,
            flat,
            settings,
            ..
        } = self;
        flat.clear();
        if let Some(conn) = conns.get(slot) {
            let client = client_id::encode(settings.seed, settings.node.0, conn.id);
            let extra = conn.extra.as_deref();
            let sub = view.and_then(|view| extra?.sub(view));
            flat::push_info(
                flat,
                &ClientInfo {
                    user: conn.user(),
                    client: client.as_str(),
                    conn_info: extra.map_or(Data::default(), |extra| extra.conn_info.data()),
                    chan_info: sub.map_or(Data::default(), |sub| sub.chan_info.data()),
                },
            );
        }
        flat
    }

    /// The public id of a connection of this shard.
    pub(super) fn client_id(&self, conn: ConnId) -> ClientId {
        client_id::encode(self.settings.seed, self.settings.node.0, conn)
    }

    /// Queues the answer to a command.
    pub(super) fn reply(&mut self, slot: u32, command: u32, reply: &Reply<'_>) {
        if let Some(conn) = self.conns.get(slot) {
            self.scratch.clear();
            write_reply(conn.encoding, &mut self.scratch, command, reply);
            self.queue_message(slot);
        }
    }

    /// Queues a push.
    pub(super) fn push(&mut self, slot: u32, channel: &str, push: &Push<'_>) {
        if let Some(conn) = self.conns.get(slot) {
            self.scratch.clear();
            write_push(conn.encoding, &mut self.scratch, channel, push);
            self.queue_message(slot);
        }
    }

    pub(super) fn reply_error(&mut self, slot: u32, command: u32, code: ErrorCode) {
        self.reply_refusal(slot, command, ErrorReply::from(code));
    }

    pub(super) fn reply_refusal(&mut self, slot: u32, command: u32, error: ErrorReply<'_>) {
        self.stats.shard.command_errors_total.add(1);
        self.reply(slot, command, &Reply::Error(error));
    }

    /// Sends the ping that opens the pong deadline.
    pub(super) fn ping(&mut self, slot: u32) {
        let pong_ms = self.now_ms + self.settings.pong_ms;
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Some(session) = conn.session() else {
            return;
        };
        session.pinged();
        conn.deadline_ms = pong_ms;
        self.scratch.clear();
        if conn.frame_pings {
            return self.queue_frame_ping(slot);
        }
        write_ping(conn.encoding, &mut self.scratch);
        self.queue_message(slot);
    }

    /// Closes a connection whose deadline has passed, or pings it.
    pub(super) fn deadline_passed(&mut self, slot: u32) {
        use super::conn::Stage;
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        match &conn.stage {
            Stage::Upgrading(_) => self.abort(slot, CloseReason::UpgradeTimeout),
            Stage::Open { session, .. } if !session.is_open() => {
                self.close(slot, CloseReason::Stale)
            }
            Stage::Open { session, .. } if session.is_pinged() => {
                self.close(slot, CloseReason::NoPong)
            }
            Stage::Open { .. } => self.ping(slot),
            Stage::Closing { .. } => self.abort(slot, CloseReason::PeerVanished),
            Stage::Aborting | Stage::Gone => {}
        }
    }
}
