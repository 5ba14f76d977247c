//! Connections and subscriptions that live until a time, and the commands that prolong them.

use super::core::Core;
use super::identity::Blob;
use crate::access::TokenError;
use crate::base::ViewId;
use crate::base::reason::CloseReason;
use crate::wire::client::{ErrorCode, Reply};

/// What an expiry that has passed leads to.
enum Overdue {
    /// The grace has passed as well.
    Over,
    /// A service is to be asked.
    Ask,
    /// The client still has time.
    Waits,
}

impl Core {
    /// Wakes for the next expiry of a connection.
    pub(super) fn arm_expiry(&mut self, slot: u32) {
        let Some(at_ms) = self.next_expiry_ms(slot) else {
            return;
        };
        self.arm_timer(slot, at_ms);
    }

    /// When the connection has to be looked at for an expiry, on the shard's clock.
    pub(super) fn next_expiry_ms(&self, slot: u32) -> Option<u64> {
        let clients = &self.settings.clients;
        let extra = self.conns.get(slot)?.extra.as_ref()?;
        let at_s = extra.next_expiry_s();
        if at_s == u64::MAX || clients.insecure {
            return None;
        }
        let at_ms = at_s
            .saturating_mul(1_000)
            .saturating_sub(self.settings.unix_at_zero_ms);
        // At the expiry itself services are asked; after the grace the client's time is over.
        let grace_ms = clients.expired_close_ms.min(clients.expired_sub_close_ms);
        Some(if at_ms > self.now_ms {
            at_ms
        } else {
            at_ms.saturating_add(grace_ms).max(self.now_ms + 250)
        })
    }

    /// Looks at the expiries of a connection whose timer has come due.
    pub(super) fn expire(&mut self, slot: u32) {
        let now_ms = self.unix_ms();
        let Some(conn) = self.conns.get(slot).filter(|conn| conn.is_open()) else {
            return;
        };
        let Some(extra) = conn.extra.as_ref() else {
            return;
        };
        let clients = self.settings.clients;
        if clients.insecure {
            return;
        }
        let is_asking = extra.is_refreshing();
        match overdue(extra.expire_at_s, now_ms, clients.expired_close_ms) {
            Overdue::Over => return self.close(slot, CloseReason::Expired),
            Overdue::Ask if clients.refresh_hook && !is_asking => self.queue_refresh(slot, None),
            Overdue::Ask | Overdue::Waits => {}
        }
        self.expire_subs(slot, now_ms);
    }

    fn expire_subs(&mut self, slot: u32, now_ms: u64) {
        let Some(extra) = self.conns.get(slot).and_then(|conn| conn.extra.as_ref()) else {
            return;
        };
        let grace_ms = self.settings.clients.expired_sub_close_ms;
        let due: Vec<(ViewId, bool, Overdue)> = extra
            .subs
            .iter()
            .map(|sub| {
                let overdue = overdue(sub.expire_at_s, now_ms, grace_ms);
                (sub.view, sub.refreshing, overdue)
            })
            .collect();
        for (view, refreshing, overdue) in due {
            match overdue {
                Overdue::Over => self.expire_sub(slot, view),
                Overdue::Ask if !refreshing && self.is_refreshed_by_service(view) => {
                    self.mark_refreshing(slot, view);
                    self.queue_refresh(slot, Some(view));
                }
                Overdue::Ask | Overdue::Waits => {}
            }
        }
    }

    fn is_refreshed_by_service(&self, view: ViewId) -> bool {
        let view = self.views.get(view.index, view.generation);
        view.is_some_and(|view| {
            let options = self.settings.namespaces.options(view.namespace);
            options.sub_refresh_hook
        })
    }

    fn mark_refreshing(&mut self, slot: u32, view: ViewId) {
        let extra = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut());
        if let Some(sub) = extra.and_then(|extra| extra.sub_mut(view)) {
            sub.refreshing = true;
        }
    }

    /// A new connection token.
    pub(super) fn refresh(&mut self, slot: u32, command: u32, token: &str) {
        let now_s = self.unix_ms() / 1_000;
        let claims = match self.settings.tokens.verify_connection(token, now_s) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return self.close(slot, CloseReason::Expired),
            Err(TokenError::Invalid(_)) => return self.close(slot, CloseReason::InvalidToken),
        };
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if claims.user != conn.user() {
            return self.close(slot, CloseReason::InvalidToken);
        }
        let extra = conn.extra();
        extra.expire_at_s = claims.expire_at_s;
        extra.conn_info = Blob::from(claims.info);
        if !claims.meta.is_empty() {
            extra.meta = claims.meta.into();
        }
        if self.is_past(claims.expire_at_s) {
            return self.close(slot, CloseReason::Expired);
        }
        self.arm_expiry(slot);
        self.refresh_reply(slot, command);
    }

    pub(super) fn refresh_reply(&mut self, slot: u32, command: u32) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let expire_at_s = conn.extra.as_ref().map_or(0, |extra| extra.expire_at_s);
        let client = self.client_id(conn.id);
        let reply = Reply::Refresh {
            client: client.as_str(),
            version: self.settings.version,
            ttl_s: self.ttl_s(expire_at_s),
        };
        self.reply(slot, command, &reply);
    }

    /// A new subscription token.
    pub(super) fn sub_refresh(&mut self, slot: u32, command: u32, channel: &str, token: &str) {
        let view = self.view_named(channel);
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        let sub = view.and_then(|view| conn.sub(view)).copied();
        let Some(sub) = sub.filter(|sub| !sub.is_waiting()) else {
            return self.reply_error(slot, command, ErrorCode::PermissionDenied);
        };
        if self.is_refreshed_by_service(sub.view) {
            return self.close(slot, CloseReason::BadRequest);
        }
        let now_s = self.unix_ms() / 1_000;
        let verifier = &self.settings.subscription_tokens;
        let claims = match verifier.verify_subscription(token, now_s) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return self.reply_error(slot, command, ErrorCode::Expired),
            Err(TokenError::Invalid(_)) => return self.close(slot, CloseReason::InvalidToken),
        };
        if !self.token_is_for(slot, channel, &claims) {
            return self.close(slot, CloseReason::InvalidToken);
        }
        if self.is_past(claims.expire_at_s) {
            return self.reply_error(slot, command, ErrorCode::Expired);
        }
        let expire_at_s = claims.expire_at_s;
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let kept = conn.sub_extra(sub.view);
        kept.expire_at_s = expire_at_s;
        kept.chan_info = Blob::from(claims.options.info);
        self.arm_expiry(slot);
        let ttl_s = self.ttl_s(expire_at_s);
        self.reply(slot, command, &Reply::SubRefresh { ttl_s });
    }
}

fn overdue(expire_at_s: u64, now_ms: u64, grace_ms: u64) -> Overdue {
    let at_ms = expire_at_s.saturating_mul(1_000);
    if expire_at_s == 0 || now_ms < at_ms {
        Overdue::Waits
    } else if now_ms >= at_ms.saturating_add(grace_ms) {
        Overdue::Over
    } else {
        Overdue::Ask
    }
}
