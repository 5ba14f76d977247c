//! What clients ask of a room's home, and the answers.

use super::core::Core;
use crate::base::{ConnId, Epoch, Offset};
use crate::mesh::{HistoryRead, Position, ReplyTo, Request};
use crate::wire::client::{ErrorCode, Publication, Reply, StreamPosition, flat};

impl Core {
    pub(super) fn presence(&mut self, slot: u32, command: u32, channel: &str) {
        if let Some(reply) = self.may_see_presence(slot, command, channel) {
            let room = channel;
            self.ask(room, &Request::Presence { room, reply });
        }
    }

    pub(super) fn presence_stats(&mut self, slot: u32, command: u32, channel: &str) {
        if let Some(reply) = self.may_see_presence(slot, command, channel) {
            let room = channel;
            self.ask(room, &Request::PresenceStats { room, reply });
        }
    }

    pub(super) fn history(
        &mut self,
        slot: u32,
        command: u32,
        channel: &str,
        limit: i32,
        since: Option<&StreamPosition<'_>>,
        reverse: bool,
    ) {
        let allowed = self.namespace_for_client(channel).and_then(|namespace| {
            let options = self.settings.namespaces.options(namespace);
            self.may_ask(slot, channel, options.has_history(), options.allow_history)
        });
        if let Err(code) = allowed {
            return self.reply_error(slot, command, code);
        }
        if reverse && since.is_some_and(|since| since.offset == 0) {
            return self.reply_error(slot, command, ErrorCode::BadRequest);
        }
        let read = HistoryRead::Page {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            since: since.map(|since| Position {
                epoch: Epoch::wanted(&since.epoch),
                offset: Offset(since.offset),
            }),
            reverse,
        };
        let Some(reply) = self.reply_to(slot, command) else {
            return;
        };
        let room = channel;
        self.ask(room, &Request::History { room, read, reply });
    }

    fn may_see_presence(&mut self, slot: u32, command: u32, channel: &str) -> Option<ReplyTo> {
        let allowed = self.namespace_for_client(channel).and_then(|namespace| {
            let options = self.settings.namespaces.options(namespace);
            self.may_ask(slot, channel, options.presence, options.allow_presence)
        });
        match allowed {
            Ok(()) => self.reply_to(slot, command),
            Err(code) => {
                self.reply_error(slot, command, code);
                None
            }
        }
    }

    fn reply_to(&self, slot: u32, command: u32) -> Option<ReplyTo> {
        let conn = self.conns.get(slot)?.id;
        Some(ReplyTo::Client { conn, command })
    }

    /// Past publications for a `history` command.
    pub(super) fn history_given(
        &mut self,
        to: (ConnId, u32),
        position: (Epoch, Offset),
        valid: bool,
        publications: &[u8],
    ) {
        let (conn, command) = to;
        if !self.is_open(conn) {
            return;
        }
        if !valid {
            return self.reply_error(conn.slot, command, ErrorCode::Unrecoverable);
        }
        let (epoch, top) = position;
        let epoch = epoch.text();
        let publications: Vec<Publication<'_>> = flat::publications(publications).collect();
        let reply = Reply::History {
            publications: &publications,
            epoch: epoch.as_str(),
            offset: top.0,
        };
        self.reply(conn.slot, command, &reply);
    }

    /// Who is present, for a `presence` command.
    pub(super) fn presence_given(&mut self, to: (ConnId, u32), complete: bool, infos: &[u8]) {
        let (conn, command) = to;
        if !self.is_open(conn) {
            return;
        }
        if !complete {
            return self.reply_error(conn.slot, command, ErrorCode::LimitExceeded);
        }
        let infos: Vec<_> = flat::infos(infos).collect();
        self.reply(conn.slot, command, &Reply::Presence(&infos));
    }

    /// How many are present, for a `presence_stats` command.
    pub(super) fn presence_counted(&mut self, to: (ConnId, u32), clients: u32, users: u32) {
        let (conn, command) = to;
        if self.is_open(conn) {
            self.reply(conn.slot, command, &Reply::PresenceStats { clients, users });
        }
    }

    /// Whether this very connection still takes part.
    pub(super) fn is_open(&self, id: ConnId) -> bool {
        self.conns
            .get(id.slot)
            .is_some_and(|conn| conn.id == id && conn.is_open())
    }
}
