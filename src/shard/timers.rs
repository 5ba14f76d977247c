//! Deadlines: one wheel entry per connection most of the time, checked when it comes due.

use super::conn::Stage;
use super::core::Core;
use crate::access::NamespaceIndex;
use crate::base::ConnId;
use crate::base::reason::CloseReason;

/// What a wheel entry is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimerKey {
    /// Deadlines of a connection.
    Conn(ConnId),
    /// Expiry of what a home keeps, and of the home.
    Home {
        /// Index in the directory.
        index: u32,
        /// Its generation.
        generation: u32,
    },
    /// Joins and leaves that a home holds back.
    Members {
        /// Index in the directory.
        index: u32,
        /// Its generation.
        generation: u32,
    },
}

impl Core {
    /// Wakes for this connection at `at_ms` or before. A later deadline needs no entry of its own:
    /// the earlier one looks again.
    pub(super) fn arm_timer(&mut self, slot: u32, at_ms: u64) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if at_ms < conn.timer_ms {
            conn.timer_ms = at_ms;
            self.wheel.insert(at_ms, TimerKey::Conn(conn.id));
        }
    }

    pub(super) fn advance_timers(&mut self) {
        let mut due = Vec::new();
        self.wheel.advance(self.now_ms, &mut due);
        for key in due {
            match key {
                TimerKey::Conn(id) => self.conn_timer(id),
                TimerKey::Home { index, generation } => self.home_timer(index, generation),
                TimerKey::Members { index, generation } => {
                    if let Some(home) = self.homes.get_mut(index, generation) {
                        home.members_armed = false;
                    }
                    self.push_memberships(index, generation);
                    self.forget_blank(index, generation);
                }
            }
        }
    }

    pub(super) fn timer_wait_ms(&self, max_ms: u64) -> u64 {
        self.wheel.wait_ms(self.now_ms, max_ms)
    }

    fn conn_timer(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot) else {
            return;
        };
        // An entry of an earlier connection, or one that an earlier deadline has overtaken.
        if conn.id != id || conn.timer_ms > self.now_ms {
            return;
        }
        conn.timer_ms = u64::MAX;
        let write_ms = self.settings.write_ms;
        let stuck = conn.sending_since_ms != 0 && conn.sending_since_ms + write_ms <= self.now_ms;
        if stuck {
            return self.abort(id.slot, CloseReason::Slow);
        }
        let has_extra = conn.extra.is_some();
        if conn.deadline_ms <= self.now_ms {
            self.deadline_passed(id.slot);
        }
        if has_extra {
            self.expire(id.slot);
        }
        let Some(conn) = self.conns.get(id.slot) else {
            return;
        };
        if matches!(conn.stage, Stage::Aborting | Stage::Gone) {
            return;
        }
        let write_at = match conn.sending_since_ms {
            0 => u64::MAX,
            since => since + write_ms,
        };
        let deadline_ms = conn.deadline_ms.min(write_at);
        let expiry_ms = self.next_expiry_ms(id.slot).unwrap_or(u64::MAX);
        self.arm_timer(id.slot, deadline_ms.min(expiry_ms));
    }

    /// Milliseconds between two looks at what a home keeps.
    pub(super) fn home_check_ms(&self, namespace: NamespaceIndex) -> u64 {
        let history_ms = self.home_limits(namespace).history.age_ms.max(1_000);
        self.settings.home_idle_ms.min(history_ms)
    }

    fn home_timer(&mut self, index: u32, generation: u32) {
        let Some(home) = self.homes.get_mut(index, generation) else {
            return;
        };
        let (before, namespace) = (home.history_bytes(), home.namespace);
        let limits = &self.settings.homes[usize::from(namespace)];
        let forgotten = home.expire(self.now_ms, limits, self.settings.home_idle_ms);
        self.history_bytes = self.history_bytes + home.history_bytes() - before;
        if forgotten {
            self.forget_home(index, generation);
        } else {
            let check_ms = self.now_ms + self.home_check_ms(namespace);
            self.wheel
                .insert(check_ms, TimerKey::Home { index, generation });
        }
    }
}
