//! From a connect command to an open session: token, service or nobody's leave, and the server-side
//! subscriptions that come with it. The reply waits until their rooms have answered.

use super::core::Core;
use super::identity::{Blob, Connecting, Pending, RecoverAt, Start, SubResult};
use super::notices::Notice;
use crate::access::{ConnectionClaims, OwnedData, SubscriptionOptions, TokenError};
use crate::base::reason::CloseReason;
use crate::base::{Content, Epoch, EventKind, Offset};
use crate::wire::client::{
    Connect, ConnectResult, ErrorCode, Publication, Reply, SubscribeResult, flat,
};

/// Who a connection turns out to be.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) user: Box<str>,
    pub(super) conn_info: Blob,
    pub(super) meta: Box<[u8]>,
    pub(super) expire_at_s: u64,
    pub(super) data: Blob,
    /// Server-side subscriptions.
    pub(super) subs: Vec<Start>,
}

impl Core {
    pub(super) fn connect(&mut self, slot: u32, command: u32, connect: Connect<'_>) {
        let recovers = recovers(&connect);
        let clients = self.settings.clients;
        let Some(token) = &connect.token else {
            if clients.connect_hook && !clients.insecure {
                let (content, data) = (self.content_of(slot, &connect.data), &connect.data);
                let name = connect.name.as_deref().unwrap_or_default();
                let version = connect.version.as_deref().unwrap_or_default();
                let text = format!("{}\n{}", first(name, 64), first(version, 64));
                let pending = Pending::Connect { command, recovers };
                let kind = EventKind::Connect;
                return self.ask_service_with(slot, kind, "", pending, &text, content, data);
            }
            if clients.anonymous || clients.insecure {
                return self.admit(slot, command, Identity::default(), recovers);
            }
            return self.close(slot, CloseReason::BadRequest);
        };
        let now_s = self.unix_ms() / 1_000;
        match self.settings.tokens.verify_connection(token, now_s) {
            Ok(claims) => self.admit(slot, command, Identity::from(claims), recovers),
            Err(TokenError::Expired) => self.refuse_connect(slot, command, ErrorCode::TokenExpired),
            Err(TokenError::Invalid(_)) => self.close(slot, CloseReason::InvalidToken),
        }
    }

    /// Answers `connect` with an error: the connection is of no use any more, and is told nothing of
    /// the subscriptions that it was to have.
    pub(super) fn refuse_connect(&mut self, slot: u32, command: u32, code: ErrorCode) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if let Some(extra) = &mut conn.extra {
            extra.connecting = None;
        }
        if let Some(session) = conn.session() {
            session.failed();
        }
        for sub in std::mem::take(&mut conn.subs) {
            self.leave(slot, sub, 0, "");
        }
        self.reply_error(slot, command, code);
    }

    /// Lets a connection in as `identity`, if its user may have one more.
    pub(super) fn admit(
        &mut self,
        slot: u32,
        command: u32,
        identity: Identity,
        recovers: Vec<RecoverAt>,
    ) {
        if self.is_past(identity.expire_at_s) {
            return self.refuse_connect(slot, command, ErrorCode::Expired);
        }
        let most = self.settings.clients.user_connections_max;
        if most == 0 || identity.user.is_empty() {
            return self.admit_seated(slot, command, identity, recovers);
        }
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let (id, room) = (conn.id, seats_of(&identity.user));
        let extra = conn.extra();
        extra.user.clone_from(&identity.user);
        let serial = extra.expect(Pending::Seat {
            command,
            identity: Box::new(identity),
            recovers,
        });
        self.notices.push_back(Notice::Seat {
            conn: id,
            serial,
            room,
        });
    }

    /// Makes the server-side subscriptions of a connection that may stay.
    pub(super) fn admit_seated(
        &mut self,
        slot: u32,
        command: u32,
        mut identity: Identity,
        recovers: Vec<RecoverAt>,
    ) {
        if self.settings.clients.personal_channel && !identity.user.is_empty() {
            identity.subs.push(Start {
                room: format!("#{}", identity.user).into(),
                ..Start::default()
            });
        }
        if identity.subs.len() > self.settings.clients.channels_max {
            return self.close(slot, CloseReason::ChannelLimit);
        }
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let is_plain = identity.user.is_empty()
            && identity.conn_info.is_empty()
            && identity.meta.is_empty()
            && identity.expire_at_s == 0
            && identity.subs.is_empty()
            && identity.data.is_empty();
        if is_plain {
            return self.connected(slot, command, &Blob::default(), &[]);
        }
        let extra = conn.extra();
        extra.user = identity.user;
        extra.conn_info = identity.conn_info;
        extra.meta = identity.meta;
        extra.expire_at_s = identity.expire_at_s;
        extra.connecting = Some(Box::new(Connecting {
            command,
            left: identity.subs.len(),
            data: identity.data,
            results: Vec::new(),
        }));
        for mut start in identity.subs {
            let recover = recovers.iter().find(|recover| recover.room == start.room);
            if let Some(recover) = recover {
                start.recover = true;
                (start.epoch, start.offset) = (recover.epoch, recover.offset);
            }
            start.server_side = true;
            // Whoever may be subscribed by the server may recover, where there is a history.
            start.recoverable = true;
            start.positioned = true;
            self.start_server_side(slot, start);
            if self.connecting(slot).is_none() {
                // One of them cannot begin.
                return;
            }
        }
        self.finish_connect(slot);
    }

    /// Starts a server-side subscription, unless the connection has the channel already.
    pub(super) fn start_server_side(&mut self, slot: u32, start: Start) {
        let view = self.view_named(&start.room);
        let conn = self.conns.get(slot).filter(|conn| conn.is_open());
        match conn {
            None => {}
            Some(conn) if view.is_some_and(|view| conn.sub(view).is_some()) => {
                self.connect_sub_settled(slot);
            }
            Some(_) => self.start(slot, start),
        }
    }

    /// A server-side subscription has begun. True when the connect reply will tell of it.
    pub(super) fn connect_sub_joined(&mut self, slot: u32, result: &SubResult) -> bool {
        let Some(connecting) = self.connecting(slot) else {
            return false;
        };
        connecting.results.push(result.clone());
        self.connect_sub_settled(slot);
        self.finish_connect(slot);
        true
    }

    /// A server-side subscription cannot begin: neither can the connection.
    pub(super) fn connect_sub_failed(&mut self, slot: u32, code: ErrorCode) {
        if let Some(connecting) = self.connecting(slot) {
            let command = connecting.command;
            self.refuse_connect(slot, command, code);
        }
    }

    /// A server-side subscription was taken back before it began.
    pub(super) fn connect_sub_gone(&mut self, slot: u32) {
        self.connect_sub_settled(slot);
        self.finish_connect(slot);
    }

    fn connect_sub_settled(&mut self, slot: u32) {
        if let Some(connecting) = self.connecting(slot) {
            connecting.left -= 1;
        }
    }

    fn connecting(&mut self, slot: u32) -> Option<&mut Connecting> {
        let extra = self.conns.get_mut(slot)?.extra.as_mut()?;
        extra.connecting.as_deref_mut()
    }

    /// Replies to `connect` once nothing is waited for any more.
    fn finish_connect(&mut self, slot: u32) {
        let is_done = self
            .connecting(slot)
            .is_some_and(|connecting| connecting.left == 0);
        if !is_done {
            return;
        }
        let extra = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut());
        let Some(connecting) = extra.and_then(|extra| extra.connecting.take()) else {
            return;
        };
        self.connected(
            slot,
            connecting.command,
            &connecting.data,
            &connecting.results,
        );
        self.dirty.mark(slot);
        self.arm_expiry(slot);
        // Whoever replied may be in the middle of something: what was held goes on in the next turn.
        self.resume_later(slot);
    }

    /// Opens the session and says so.
    fn connected(&mut self, slot: u32, command: u32, data: &Blob, results: &[SubResult]) {
        // The first ping comes at a random point of the interval's second half: clients that
        // connected together are not pinged together.
        let half = self.settings.ping_ms / 2;
        let ping_ms = self.now_ms + half + self.random() % (half + 1);
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Some(session) = conn.session() else {
            return;
        };
        session.connected();
        conn.deadline_ms = ping_ms;
        let (id, is_app_ping) = (conn.id, !conn.frame_pings);
        let expire_at_s = conn.extra.as_ref().map_or(0, |extra| extra.expire_at_s);
        if let Some(extra) = &conn.extra {
            self.users.insert(&extra.user, slot);
        }
        self.sessions += 1;
        self.arm_timer(slot, ping_ms);
        let publications: Vec<Vec<Publication<'_>>> = results
            .iter()
            .map(|result| flat::publications(&result.publications).collect())
            .collect();
        let epochs: Vec<_> = results.iter().map(|result| result.epoch.text()).collect();
        let subs: Vec<(&str, SubscribeResult<'_>)> = results
            .iter()
            .zip(&publications)
            .zip(&epochs)
            .map(|((result, publications), epoch)| {
                let reply = result.as_reply(epoch.as_str(), publications, 0, false);
                (&*result.room, reply)
            })
            .collect();
        let client = self.client_id(id);
        let result = ConnectResult {
            client: client.as_str(),
            version: self.settings.version,
            ttl_s: self.told_ttl_s(expire_at_s),
            data: data.data(),
            subs: &subs,
            ping_s: if is_app_ping {
                (self.settings.ping_ms / 1_000) as u32
            } else {
                0
            },
            pong: is_app_ping,
        };
        self.reply(slot, command, &Reply::Connect(&result));
    }

    /// What a connection is told of its expiry: one that a service refreshes does not refresh itself.
    pub(super) fn told_ttl_s(&self, expire_at_s: u64) -> u32 {
        match self.settings.clients.refresh_hook {
            true => 0,
            false => self.ttl_s(expire_at_s),
        }
    }

    /// Seconds until an expiry (unix seconds), at least 1; 0 for none.
    pub(super) fn ttl_s(&self, expire_at_s: u64) -> u32 {
        if expire_at_s == 0 || self.settings.clients.insecure {
            return 0;
        }
        let left_s = expire_at_s.saturating_sub(self.unix_ms() / 1_000).max(1);
        u32::try_from(left_s).unwrap_or(u32::MAX)
    }
}

/// What the connections of a user are counted in: the presence of a room whose name no client can use.
pub(super) fn seats_of(user: &str) -> Box<str> {
    format!("\0{user}").into()
}

fn recovers(connect: &Connect<'_>) -> Vec<RecoverAt> {
    let wanted = connect.subs.iter().filter(|(_, recover)| recover.wanted);
    wanted
        .map(|(channel, recover)| RecoverAt {
            room: (&**channel).into(),
            epoch: Epoch::wanted(&recover.since.epoch),
            offset: Offset(recover.since.offset),
        })
        .collect()
}

/// The first `count` characters.
fn first(text: &str, count: usize) -> &str {
    text.char_indices()
        .nth(count)
        .map_or(text, |(at, _)| &text[..at])
}

impl From<ConnectionClaims> for Identity {
    fn from(claims: ConnectionClaims) -> Self {
        let channels = claims.channels.into_iter().map(|channel| Start {
            room: channel.into(),
            ..Start::default()
        });
        let subs = claims.subs.into_iter().map(|(channel, options)| {
            let mut start = Start {
                room: channel.into(),
                ..Start::default()
            };
            start.set_options(options);
            start
        });
        Self {
            user: claims.user.into(),
            conn_info: Blob::from(claims.info),
            meta: claims.meta.into(),
            expire_at_s: claims.expire_at_s,
            data: Blob::default(),
            subs: subs.chain(channels).collect(),
        }
    }
}

impl Start {
    /// What a token says of a subscription.
    pub(super) fn set_options(&mut self, options: SubscriptionOptions) {
        self.chan_info = Blob::from(options.info);
        self.data = Blob::from(options.data);
        self.overrides = options.overrides;
    }
}

impl From<OwnedData> for Blob {
    fn from(data: OwnedData) -> Self {
        Self::new(data.content, &data.bytes)
    }
}

impl From<(Content, Vec<u8>)> for Blob {
    fn from((content, bytes): (Content, Vec<u8>)) -> Self {
        Self::new(content, &bytes)
    }
}
