//! What services decide for a client, and what becomes of it. The service thread always answers: with
//! the service's word, or with an error when there was none in time.

use super::connect::Identity;
use super::core::Core;
use super::identity::{Blob, Pending, Start};
use crate::base::reason::{CloseReason, Unsubscribed};
use crate::base::{ConnId, Content, EventKind, Verdict, ViewId};
use crate::mesh::{Answer, Event, ReplyTo};
use crate::wire::client::{ErrorCode, ErrorReply, Reply};
use crate::wire::hook::{self, HookKind, HookResult};

impl Core {
    /// Asks a service what a client's command is to lead to. Commands behind it wait.
    pub(super) fn ask_service(
        &mut self,
        slot: u32,
        kind: EventKind,
        subject: &str,
        pending: Pending,
        content: Content,
        data: &[u8],
    ) {
        self.ask_service_with(slot, kind, subject, pending, "", content, data);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an event")]
    pub(super) fn ask_service_with(
        &mut self,
        slot: u32,
        kind: EventKind,
        subject: &str,
        pending: Pending,
        text: &str,
        content: Content,
        data: &[u8],
    ) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let id = conn.id;
        let serial = conn.extra().expect(pending);
        let info = std::mem::take(self.flat_info(slot, self.view_named(subject)));
        let event = Event {
            kind,
            reply: ReplyTo::Event { conn: id, serial },
            subject,
            info: &info,
            meta: b"",
            code: 0,
            text,
            content,
            data,
        };
        self.send_event(slot, event);
        self.flat = info;
    }

    /// The answer to an event.
    pub(super) fn answered(&mut self, conn: ConnId, serial: u32, answer: &Answer<'_>) {
        if !self.is_open(conn) {
            return;
        }
        let slot = conn.slot;
        let extra = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut());
        let Some(pending) = extra.and_then(|extra| extra.settle(serial)) else {
            return;
        };
        if let Pending::Seat {
            command,
            identity,
            recovers,
        } = pending
        {
            match answer.verdict {
                Verdict::Result => self.admit_seated(slot, command, *identity, recovers),
                _ => self.close(slot, CloseReason::ConnectionLimit),
            }
            return self.resume_later(slot);
        }
        match answer.verdict {
            Verdict::Result => self.granted(slot, pending, answer.result),
            Verdict::Error | Verdict::TemporaryError => {
                let error = ErrorReply {
                    code: answer.code,
                    message: answer.text,
                    temporary: answer.verdict == Verdict::TemporaryError,
                };
                self.denied(slot, pending, error);
            }
            Verdict::Disconnect => {
                let code = u16::try_from(answer.code).unwrap_or(3503);
                self.close_with(slot, CloseReason::Ordered, code, answer.text);
            }
        }
        self.resume_later(slot);
    }

    fn granted(&mut self, slot: u32, pending: Pending, result: &[u8]) {
        let Ok(result) = hook::parse(pending.kind(), result) else {
            // The service thread has read it before.
            return self.denied(slot, pending, ErrorReply::from(ErrorCode::Internal));
        };
        match pending {
            Pending::Connect { command, recovers } => {
                self.admit(slot, command, Identity::from(result), recovers);
            }
            Pending::Subscribe(mut start) => {
                start.set_result(result);
                self.start_granted(slot, *start);
            }
            Pending::Publish {
                command,
                channel,
                data,
            } => self.publish_granted(slot, command, channel, data, result),
            Pending::Seat { .. } => unreachable!("settled by the caller"),
            Pending::Rpc { command } => {
                let data = Blob::from(result.data);
                self.reply(slot, command, &Reply::Rpc(data.data()));
            }
            Pending::Refresh { command } => self.refreshed(slot, command, &result),
            Pending::SubRefresh { view } => self.sub_refreshed(slot, view, &result),
        }
    }

    fn denied(&mut self, slot: u32, pending: Pending, error: ErrorReply<'_>) {
        match pending {
            Pending::Connect { command, .. } => {
                if let Some(session) = self.conns.get_mut(slot).and_then(|conn| conn.session()) {
                    session.failed();
                }
                self.reply_refusal(slot, command, error);
            }
            Pending::Subscribe(start) => self.reply_refusal(slot, start.command, error),
            Pending::Publish { command, .. } | Pending::Rpc { command } => {
                self.reply_refusal(slot, command, error);
            }
            Pending::Refresh { command } if command != 0 => {
                self.reply_refusal(slot, command, error);
            }
            Pending::Seat { .. } => unreachable!("settled by the caller"),
            // Nobody asked, and the expiry stands: the grace runs on.
            Pending::Refresh { .. } | Pending::SubRefresh { .. } => {}
        }
    }

    /// Publishes what a service has let pass. Lanes may be full by now: the connection waits for them
    /// as for any command.
    fn publish_granted(
        &mut self,
        slot: u32,
        command: u32,
        channel: Box<str>,
        data: Blob,
        result: HookResult,
    ) {
        let HookResult {
            data: changed,
            skip_history,
            tags,
            key,
            delta,
            version,
            ..
        } = result;
        let data = if changed.1.is_empty() {
            data
        } else {
            Blob::from(changed)
        };
        self.publish_later(
            slot,
            command,
            &channel,
            data,
            super::notices::Extras {
                skip_history,
                tags: tags.into(),
                key,
                delta,
                version,
            },
        );
    }

    /// The connection lives on, or has expired.
    pub(super) fn refreshed(&mut self, slot: u32, command: u32, result: &HookResult) {
        let Some(extra) = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut())
        else {
            return;
        };
        if result.expired {
            return self.close(slot, CloseReason::Expired);
        }
        extra.expire_at_s = result.expire_at_s.unwrap_or(0);
        if !result.info.1.is_empty() {
            extra.conn_info = Blob::from(result.info.clone());
        }
        if !result.meta.is_empty() {
            extra.meta = result.meta.as_slice().into();
        }
        self.arm_expiry(slot);
        if command != 0 {
            self.refresh_reply(slot, command);
        }
    }

    fn sub_refreshed(&mut self, slot: u32, view: ViewId, result: &HookResult) {
        if result.expired {
            return self.expire_sub(slot, view);
        }
        let extra = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut());
        let Some(sub) = extra.and_then(|extra| extra.sub_mut(view)) else {
            return;
        };
        sub.refreshing = false;
        sub.expire_at_s = result.expire_at_s.unwrap_or(0);
        if !result.info.1.is_empty() {
            sub.chan_info = Blob::from(result.info.clone());
        }
        self.arm_expiry(slot);
    }

    /// A subscription has expired: it ends, or with a server-side one the connection does.
    pub(super) fn expire_sub(&mut self, slot: u32, view: ViewId) {
        use super::conn::SubFlags;
        let sub = self.conns.get(slot).and_then(|conn| conn.sub(view));
        match sub {
            None => {}
            Some(sub) if sub.flags.has(SubFlags::SERVER_SIDE) => {
                self.close(slot, CloseReason::SubscriptionExpired);
            }
            Some(_) => self.end_sub(slot, view, Unsubscribed::Expired),
        }
    }
}

impl Pending {
    fn kind(&self) -> HookKind {
        match self {
            Self::Connect { .. } | Self::Seat { .. } => HookKind::Connect,
            Self::Subscribe(_) => HookKind::Subscribe,
            Self::Publish { .. } => HookKind::Publish,
            Self::Rpc { .. } => HookKind::Rpc,
            Self::Refresh { .. } => HookKind::Refresh,
            Self::SubRefresh { .. } => HookKind::SubRefresh,
        }
    }
}

impl From<HookResult> for Identity {
    fn from(result: HookResult) -> Self {
        let channels = result.channels.into_iter().map(|channel| Start {
            room: channel.into(),
            ..Start::default()
        });
        let subs = result.subs.into_iter().map(|(channel, options)| Start {
            room: channel.into(),
            chan_info: Blob::from(options.info),
            data: Blob::from(options.data),
            overrides: options.overrides,
            ..Start::default()
        });
        Self {
            user: result.user.unwrap_or_default().into(),
            conn_info: Blob::from(result.info),
            meta: result.meta.into(),
            expire_at_s: result.expire_at_s.unwrap_or(0),
            data: Blob::from(result.data),
            subs: subs.chain(channels).collect(),
        }
    }
}

impl Start {
    fn set_result(&mut self, result: HookResult) {
        self.expire_at_s = result.expire_at_s.unwrap_or(0);
        self.chan_info = Blob::from(result.info);
        self.data = Blob::from(result.data);
        self.overrides = result.overrides;
    }
}
