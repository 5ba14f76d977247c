//! Subscriptions: from a command, a token or an order to a place in a view.
//!
//! A subscriber joins when this shard's view of the room is live: from then on it is sent every
//! publication. One that wants what it missed is given it by the room's home. The home's answer comes
//! through the lane that publications come through, so it reaches exactly to the view's position, and
//! what follows it is what the view gets next: no gap and no overlap, whatever was published meanwhile.

use super::conn::{SubFlags, SubRef};
use super::core::Core;
use super::identity::{Blob, Pending, Start, SubExtra, SubResult};
use super::notices::Notice;
use crate::access::{ChannelOptions, Privacy, SubscriptionClaims, TokenError};
use crate::base::reason::{CloseReason, Unsubscribed};
use crate::base::{ConnId, Epoch, EventKind, Offset, Overrides, ViewId};
use crate::limits;
use crate::mesh::HistoryRead;
use crate::room::view::{LineKind, View};
use crate::wire::client::{
    Encoding, ErrorCode, Publication, Push, Reply, Subscribe, SubscribeResult, flat,
};

/// What a subscriber was given of what it missed.
#[derive(Clone, Copy)]
struct Missed<'a> {
    recovered: bool,
    /// Flat publications.
    publications: &'a [u8],
}

impl Core {
    pub(super) fn subscribe(&mut self, slot: u32, command: u32, subscribe: Subscribe<'_>) {
        let start = match self.allowed_start(slot, command, &subscribe) {
            Ok(start) => start,
            Err(Refused::Error(code)) => return self.reply_error(slot, command, code),
            Err(Refused::BadToken) => return self.refuse_token(slot, command),
            Err(Refused::Close(reason)) => return self.close(slot, reason),
            Err(Refused::Asked(start)) => {
                let data = &subscribe.data;
                let content = self.content_of(slot, data);
                let channel = &subscribe.channel;
                let pending = Pending::Subscribe(start);
                let kind = EventKind::Subscribe;
                return self.ask_service(slot, kind, channel, pending, content, data);
            }
        };
        self.start(slot, start);
    }

    /// Everything that can be said of a subscribe before its room is asked.
    fn allowed_start(
        &self,
        slot: u32,
        command: u32,
        subscribe: &Subscribe<'_>,
    ) -> Result<Start, Refused> {
        let channel: &str = &subscribe.channel;
        let namespace = self.namespace_for_client(channel)?;
        let options = self.settings.namespaces.options(namespace);
        let Ok(filter) = &subscribe.filter else {
            return Err(ErrorCode::BadRequest.into());
        };
        if subscribe.kind != 0 || filter.is_some() && !options.allow_filter {
            return Err(ErrorCode::NotAvailable.into());
        }
        if filter.is_some() && subscribe.delta_fossil {
            // A delta starts from the publication before, which the filter may have kept away.
            return Err(ErrorCode::BadRequest.into());
        }
        self.has_place(slot, channel)?;
        let may_see = |grant| self.is_granted(slot, channel, grant);
        let may_history = may_see(options.allow_history);
        let mut start = Start {
            room: channel.into(),
            command,
            positioned: subscribe.positioned && (options.allow_positioning || may_history),
            recoverable: subscribe.recoverable && (options.allow_recovery || may_history),
            join_leave: subscribe.join_leave && may_see(options.allow_presence),
            delta: subscribe.delta_fossil,
            recover: subscribe.recover.wanted,
            strict: subscribe.flag & 2 != 0,
            epoch: Epoch::wanted(&subscribe.recover.since.epoch),
            offset: Offset(subscribe.recover.since.offset),
            filter: filter.clone(),
            ..Start::default()
        };
        if let Some(token) = &subscribe.token {
            let claims = self.verified(token)?;
            if !self.token_is_for(slot, channel, &claims) {
                return Err(CloseReason::InvalidToken.into());
            }
            if self.is_past(claims.expire_at_s) {
                return Err(ErrorCode::TokenExpired.into());
            }
            grant_claims(&mut start, claims);
            return Ok(start);
        }
        let insecure = self.settings.clients.insecure;
        match Privacy::of(channel) {
            Privacy::Private if !insecure => return Err(ErrorCode::PermissionDenied.into()),
            Privacy::UserLimited(_) if !insecure => {
                let listed = options.allow_user_limited && self.is_listed_user(slot, channel);
                return if listed {
                    Ok(start)
                } else {
                    Err(ErrorCode::PermissionDenied.into())
                };
            }
            _ => {}
        }
        if options.subscribe_hook && !insecure {
            return Err(Refused::Asked(Box::new(start)));
        }
        if !self.may_subscribe(slot, channel, options.allow_subscribe) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        Ok(start)
    }

    /// Whether a connection can take one more subscription, to this channel.
    pub(super) fn has_place(&self, slot: u32, channel: &str) -> Result<(), ErrorCode> {
        let conn = self.conns.get(slot).ok_or(ErrorCode::Internal)?;
        let view = self.view_named(channel);
        if view.is_some_and(|view| conn.sub(view).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if conn.subs.len() >= self.settings.clients.channels_max {
            return Err(ErrorCode::LimitExceeded);
        }
        Ok(())
    }

    /// Starts a subscription that a service has let pass. The server may have subscribed the connection
    /// while the service was asked.
    pub(super) fn start_granted(&mut self, slot: u32, start: Start) {
        if self.is_past(start.expire_at_s) {
            return self.reply_error(slot, start.command, ErrorCode::Expired);
        }
        match self.has_place(slot, &start.room) {
            Ok(()) => self.start(slot, start),
            Err(code) => self.reply_error(slot, start.command, code),
        }
    }

    fn verified(&self, token: &str) -> Result<SubscriptionClaims, Refused> {
        let now_s = self.unix_ms() / 1_000;
        let verifier = &self.settings.subscription_tokens;
        verifier
            .verify_subscription(token, now_s)
            .map_err(|error| match error {
                TokenError::Expired => ErrorCode::TokenExpired.into(),
                TokenError::Invalid(_) => Refused::BadToken,
            })
    }

    /// Answers a token that could not be verified. A check takes a shard's time: nobody has it done for
    /// ever.
    fn refuse_token(&mut self, slot: u32, command: u32) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let extra = conn.extra();
        extra.bad_tokens += 1;
        if extra.bad_tokens > limits::BAD_TOKENS_MAX {
            return self.close(slot, CloseReason::TooManyErrors);
        }
        self.reply_error(slot, command, ErrorCode::PermissionDenied);
    }

    /// Whether a token's user, channel and connection are those that use it.
    pub(super) fn token_is_for(
        &self,
        slot: u32,
        channel: &str,
        claims: &SubscriptionClaims,
    ) -> bool {
        let Some(conn) = self.conns.get(slot) else {
            return false;
        };
        let client = claims.client.as_deref().unwrap_or_default();
        let is_this = client.is_empty() || client == self.client_id(conn.id).as_str();
        claims.user == conn.user() && claims.channel == channel && is_this
    }

    /// Whether an expiry (unix seconds, 0 for none) has passed.
    pub(super) fn is_past(&self, expire_at_s: u64) -> bool {
        let insecure = self.settings.clients.insecure;
        expire_at_s != 0 && !insecure && expire_at_s <= self.unix_ms() / 1_000
    }

    /// Starts an allowed subscription. It is replied to when the room's home has answered, at once
    /// where this shard knows enough. The home counts it as present before it hears of anything that
    /// the client asks for next.
    pub(super) fn start(&mut self, slot: u32, start: Start) {
        let Ok(namespace) = self.namespace_of(&start.room) else {
            return self.refuse_start(slot, start.command, ErrorCode::UnknownChannel);
        };
        let id = self.view_of(&start.room);
        let options = self.settings.namespaces.options(namespace);
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let flags = effective(&start, options, conn.encoding);
        let cache = options.cache_recovery;
        let wants_missed = flags.has(SubFlags::RECOVERABLE)
            && (start.recover || cache && options.auto_cache_recover);
        if conn.subs.is_empty() {
            // Most connections have one subscription and never grow.
            conn.subs.reserve_exact(1);
        }
        let flags = flags
            .with(SubFlags::WAITING, true)
            .with(SubFlags::RECOVERING, wants_missed)
            .with(SubFlags::WAS_RECOVERING, start.recover || wants_missed);
        conn.subs.push(SubRef {
            view: id,
            place: start.command,
            flags,
        });
        let since = (start.epoch, start.offset);
        if flags.has(SubFlags::EXTRA) {
            conn.extra().subs.push(SubExtra {
                view: id,
                expire_at_s: start.expire_at_s,
                chan_info: start.chan_info,
                data: start.data,
                since: start.offset,
                refreshing: false,
                filter: start.filter,
            });
        }
        let view = self
            .views
            .get_mut(id.index, id.generation)
            .expect("found or made above");
        view.namespace = namespace;
        if wants_missed {
            self.recover(slot, id, since, cache);
        } else if view.is_live() {
            // This shard sees all publications already: no need to ask the home.
            self.join(slot, id, None);
        } else {
            view.wait(slot);
            self.queue_notice(id);
        }
        if flags.has(SubFlags::PRESENT) && !flags.may_be_refused() {
            self.queue_enter(slot, id);
        }
    }

    /// Makes a connection a subscriber with what it missed since a position, once it is known.
    fn recover(&mut self, slot: u32, id: ViewId, since: (Option<Epoch>, Offset), cache: bool) {
        let view = self.views.get_mut(id.index, id.generation);
        let view = view.expect("a subscription has its view");
        view.begin_recovery();
        let is_live = view.is_live();
        let (epoch, offset) = since;
        if !cache && self.is_up_to_date(id, epoch, offset) {
            let missed = Missed {
                recovered: true,
                publications: b"",
            };
            return self.join(slot, id, Some(missed));
        }
        if !is_live {
            self.queue_notice(id);
        }
        let read = if cache {
            HistoryRead::RecoverNewest { epoch, offset }
        } else {
            HistoryRead::Recover { epoch, offset }
        };
        if let Some(conn) = self.conns.get(slot) {
            self.notices.push_back(Notice::Read {
                conn: conn.id,
                view: id,
                read,
            });
        }
    }

    /// Whether a client that recovers has missed nothing, as far as this shard sees all publications.
    fn is_up_to_date(&self, id: ViewId, wanted: Option<Epoch>, offset: Offset) -> bool {
        let view = self.views.get(id.index, id.generation);
        let position = view.and_then(View::position);
        position.is_some_and(|(epoch, top)| {
            offset == top && wanted.is_none_or(|wanted| wanted == epoch)
        })
    }

    /// The room's view on this shard, made when it is the first to ask.
    fn view_of(&mut self, room: &str) -> ViewId {
        self.view_named(room).unwrap_or_else(|| {
            let (index, generation) = self.views.insert(View::new(room));
            ViewId { index, generation }
        })
    }

    /// Makes a connection that waited for its view a subscriber.
    pub(super) fn join_waiting(&mut self, slot: u32, id: ViewId) {
        self.join(slot, id, None);
    }

    /// The home's answer to a subscriber that asked for what it missed.
    pub(super) fn recovered(
        &mut self,
        conn: ConnId,
        id: ViewId,
        recovered: bool,
        publications: &[u8],
    ) {
        let found = self.conns.get(conn.slot).filter(|found| found.id == conn);
        let Some(sub) = found.and_then(|found| found.sub(id)).copied() else {
            return;
        };
        if !sub.is_recovering() {
            return;
        }
        if !recovered && sub.flags.has(SubFlags::STRICT) {
            self.stats.shard.recoveries_failed_total.add(1);
            return self.refuse_sub(conn.slot, id, ErrorCode::Unrecoverable);
        }
        let missed = Missed {
            recovered,
            publications,
        };
        self.join(conn.slot, id, Some(missed));
    }

    /// Ends a subscription that has not begun with an error.
    pub(super) fn refuse_sub(&mut self, slot: u32, id: ViewId, code: ErrorCode) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Some(at) = conn.subs.iter().position(|sub| sub.view == id) else {
            return;
        };
        let sub = conn.subs.swap_remove(at);
        self.leave(slot, sub, 0, "");
        self.refuse_start(slot, sub.place, code);
    }

    fn refuse_start(&mut self, slot: u32, command: u32, code: ErrorCode) {
        if command != 0 {
            return self.reply_error(slot, command, code);
        }
        self.connect_sub_failed(slot, code);
    }

    /// Makes a waiting connection a subscriber from the view's position on, and tells it so.
    fn join(&mut self, slot: u32, id: ViewId, missed: Option<Missed<'_>>) {
        let Self {
            conns,
            views,
            stats,
            ..
        } = self;
        let view = views
            .get_mut(id.index, id.generation)
            .expect("joined views are live");
        let (epoch, top) = view.position().expect("joined views are live");
        let conn = conns.get_mut(slot).expect("whoever waits is connected");
        let sub = conn.subs.iter_mut().find(|sub| sub.view == id);
        let sub = sub.expect("whoever waits knows the view");
        let (command, mut kind) = (sub.place, sub.flags.kind());
        let extra = conn.extra.as_deref_mut();
        let filter = extra.and_then(|extra| extra.sub_mut(id)?.filter.take());
        if let Some(filter) = &filter {
            let Some(filtered) = view.filtered(kind, filter.clone()) else {
                return self.refuse_sub(slot, id, ErrorCode::LimitExceeded);
            };
            kind = filtered;
        }
        let enters_now = sub.flags.has(SubFlags::PRESENT) && sub.flags.may_be_refused();
        if sub.is_recovering() {
            view.end_recovery();
        }
        sub.flags = sub
            .flags
            .with_kind(kind)
            .with(SubFlags::WAITING, false)
            .with(SubFlags::RECOVERING, false);
        let flags = sub.flags;
        let publications: Vec<Publication<'_>> = missed
            .iter()
            .flat_map(|missed| flat::publications(missed.publications))
            .filter(|publication| match &filter {
                Some(filter) => filter.matches(publication.tags),
                None => true,
            })
            .collect();
        let last = publications.last().map(|last| Offset(last.offset));
        sub.place = view.subscribe(slot, kind, last);
        let extra = conn.extra.as_deref().and_then(|extra| extra.sub(id));
        let recovered = missed.is_some_and(|missed| missed.recovered);
        if let Some(missed) = missed {
            let shard = &stats.shard;
            match missed.recovered {
                true => shard.recoveries_total.add(1),
                false => shard.recoveries_failed_total.add(1),
            }
            shard
                .recovered_publications_total
                .add(publications.len() as u64);
        }
        let is_positioned = flags.has(SubFlags::POSITIONED) || flags.has(SubFlags::RECOVERABLE);
        let cache = self
            .settings
            .namespaces
            .options(view.namespace)
            .cache_recovery;
        let since = extra.map_or(Offset(0), |extra| extra.since);
        let offset = if recovered && !cache { since } else { top };
        let expire_at_s = extra.map_or(0, |extra| extra.expire_at_s);
        let result = SubResult {
            room: view.room().into(),
            recoverable: flags.has(SubFlags::RECOVERABLE),
            positioned: is_positioned,
            epoch,
            offset: if is_positioned { offset } else { Offset(0) },
            recovered,
            was_recovering: flags.has(SubFlags::WAS_RECOVERING),
            publications: missed.map_or(&b""[..], |missed| missed.publications).into(),
            data: extra.map_or(Blob::default(), |extra| extra.data.clone()),
        };
        self.subscriptions += 1;
        if enters_now {
            self.queue_enter(slot, id);
        }
        let ttl_s = self.ttl_s(expire_at_s);
        if expire_at_s != 0 {
            self.arm_expiry(slot);
        }
        if flags.has(SubFlags::SERVER_SIDE) && self.connect_sub_joined(slot, &result) {
            return;
        }
        let epoch = result.epoch.text();
        let reply = result.as_reply(epoch.as_str(), &publications, ttl_s, kind.delta);
        if flags.has(SubFlags::SERVER_SIDE) {
            self.push(slot, &result.room, &Push::Subscribe(&reply));
            // This push has no place for what was missed.
            for publication in &publications {
                self.push(slot, &result.room, &Push::Publication(publication));
            }
        } else {
            self.reply(slot, command, &Reply::Subscribe(&reply));
        }
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, command: u32, room: &str) {
        if let Some(id) = self.view_named(room) {
            let Some(conn) = self.conns.get_mut(slot) else {
                return;
            };
            if let Some(at) = conn.subs.iter().position(|sub| sub.view == id) {
                let sub = conn.subs.swap_remove(at);
                if sub.is_waiting() && sub.place != 0 {
                    // A subscribe that is taken back before the home has answered still gets its reply.
                    let result = SubscribeResult::default();
                    self.reply(slot, sub.place, &Reply::Subscribe(&result));
                }
                let code = Unsubscribed::ByClient;
                self.leave(slot, sub, code.code(), code.reason());
            }
        }
        self.reply(slot, command, &Reply::Unsubscribe);
    }

    /// Ends a subscription from this side and tells the client, who subscribes again by itself if the
    /// code says so.
    pub(super) fn end_sub(&mut self, slot: u32, id: ViewId, why: Unsubscribed) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Some(at) = conn.subs.iter().position(|sub| sub.view == id) else {
            return;
        };
        let sub = conn.subs.swap_remove(at);
        let room = self.views.get(id.index, id.generation).map(View::room);
        let room: Box<str> = room.unwrap_or_default().into();
        if sub.is_waiting() && sub.flags.has(SubFlags::SERVER_SIDE) {
            self.leave(slot, sub, 0, "");
            return self.connect_sub_gone(slot);
        }
        if sub.is_waiting() {
            self.reply(
                slot,
                sub.place,
                &Reply::Subscribe(&SubscribeResult::default()),
            );
        }
        self.leave(slot, sub, why.code(), why.reason());
        let push = Push::Unsubscribe {
            code: why.code(),
            reason: why.reason(),
        };
        self.push(slot, &room, &push);
    }

    /// A subscriber's cursor fell off the tail: it has lost publications. One that can recover is told
    /// and comes back for them; any other connection is closed. False when it is.
    pub(super) fn lost(&mut self, slot: u32, sub: SubRef) -> bool {
        self.stats.shard.lost_cursors_total.add(1);
        let is_positioned =
            sub.flags.has(SubFlags::POSITIONED) || sub.flags.has(SubFlags::RECOVERABLE);
        if !is_positioned {
            self.close(slot, CloseReason::Slow);
            return false;
        }
        self.stats.shard.insufficient_states_total.add(1);
        if sub.flags.has(SubFlags::SERVER_SIDE) {
            self.close(slot, CloseReason::InsufficientState);
            return false;
        }
        self.end_sub(slot, sub.view, Unsubscribed::InsufficientState);
        true
    }
}

/// Why a subscription does not start now.
enum Refused {
    /// The client is told.
    Error(ErrorCode),
    /// Its token cannot be verified.
    BadToken,
    /// The connection is closed.
    Close(CloseReason),
    /// A service decides.
    Asked(Box<Start>),
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<CloseReason> for Refused {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

/// What a subscription is, by what was asked for and what its channel's options allow.
fn effective(start: &Start, options: &ChannelOptions, encoding: Encoding) -> SubFlags {
    let Overrides {
        presence,
        join_leave,
        force_push_join_leave,
        force_recovery,
        force_positioning,
    } = start.overrides;
    let has_history = options.has_history();
    let emits = join_leave.unwrap_or(options.join_leave);
    let forced = force_push_join_leave.unwrap_or(options.force_push_join_leave);
    let kind = LineKind {
        encoding,
        delta: start.delta && options.allow_delta,
        members: emits && (forced || start.join_leave),
        filtered: 0,
    };
    let recoverable = start.recoverable || force_recovery.unwrap_or(options.force_recovery);
    let positioned = start.positioned || force_positioning.unwrap_or(options.force_positioning);
    let present = presence.unwrap_or(options.presence) || emits;
    let extra = start.expire_at_s != 0
        || start.offset != Offset(0)
        || !start.chan_info.is_empty()
        || !start.data.is_empty()
        || start.filter.is_some();
    SubFlags::of(kind)
        .with(SubFlags::RECOVERABLE, recoverable && has_history)
        .with(SubFlags::POSITIONED, positioned && has_history)
        .with(SubFlags::SERVER_SIDE, start.server_side)
        .with(SubFlags::STRICT, start.strict)
        .with(SubFlags::PRESENT, present)
        .with(SubFlags::TOLD, options.unsubscribe_events)
        .with(SubFlags::EXTRA, extra)
}

fn grant_claims(start: &mut Start, claims: SubscriptionClaims) {
    start.expire_at_s = claims.expire_at_s;
    start.set_options(claims.options);
}

impl SubResult {
    /// As it stands in a reply.
    pub(super) fn as_reply<'a>(
        &'a self,
        epoch: &'a str,
        publications: &'a [Publication<'a>],
        ttl_s: u32,
        delta: bool,
    ) -> SubscribeResult<'a> {
        SubscribeResult {
            ttl_s,
            recoverable: self.recoverable,
            positioned: self.positioned,
            epoch: if self.positioned { epoch } else { "" },
            offset: self.offset.0,
            recovered: self.recovered,
            was_recovering: self.was_recovering,
            publications,
            data: self.data.data(),
            delta,
        }
    }
}
