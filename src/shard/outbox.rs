//! The flush at the end of a turn: every dirty, idle socket gets one send covering everything it
//! has not been sent yet, its own replies first.

use super::Shard;
use super::conn::{Conn, Stage, SubRef};
use super::core::Core;
use crate::base::chunk::Part;
use crate::driver::{Driver, Payload};
use crate::limits::SEND_PARTS_MAX;
use crate::room::view::Taken;

/// Parts of rooms in one send; one is left for the connection's own replies.
const ROOM_PARTS_MAX: usize = SEND_PARTS_MAX - 1;

/// What a connection's flush comes to.
enum Outcome {
    /// The parts are to be sent.
    Send,
    /// Nothing to send.
    Idle,
    /// The socket is to be closed.
    Close,
    /// The cursor of a subscription fell off its tail: it reads too slowly.
    Lost(SubRef),
}

impl<D: Driver> Shard<D> {
    pub(super) fn flush(&mut self) {
        let slots = self.core.dirty.take(std::mem::take(&mut self.flushing));
        let mut parts = self.sockets.spare_parts();
        for slot in &slots {
            self.flush_conn(*slot, &mut parts);
        }
        self.sockets.return_parts(parts);
        self.flushing = slots;
    }

    fn flush_conn(&mut self, slot: u32, parts: &mut Vec<Part>) {
        let Some(conn) = self.core.conns.get_mut(slot) else {
            return;
        };
        let id = conn.id;
        if !self.sockets.is_idle(id) && !matches!(conn.stage, Stage::Aborting) {
            conn.backlog = true;
            return;
        }
        loop {
            parts.clear();
            match self.core.collect(slot, parts) {
                Outcome::Send => {
                    let payload = if parts.len() == 1 {
                        Payload::One(parts.pop().expect("one part"))
                    } else {
                        Payload::Many(std::mem::replace(parts, self.sockets.spare_parts()))
                    };
                    self.core.sending(slot, payload.len());
                    self.sockets.send(id, payload);
                }
                Outcome::Idle => {}
                Outcome::Close => {
                    self.core.gone(slot);
                    self.sockets.close(id);
                }
                // Nothing is in flight, so what it is told follows what was sent.
                Outcome::Lost(sub) => {
                    if self.core.lost(slot, sub) {
                        continue;
                    }
                }
            }
            return;
        }
    }
}

impl Core {
    /// Gathers what an idle socket has to be sent.
    fn collect(&mut self, slot: u32, parts: &mut Vec<Part>) -> Outcome {
        let Self {
            conns,
            views,
            pool,
            controls,
            ..
        } = self;
        let conn = conns.get_mut(slot).expect("dirty connections exist");
        match conn.stage {
            Stage::Aborting => return Outcome::Close,
            Stage::Gone => return Outcome::Idle,
            Stage::Upgrading(_) | Stage::Open { .. } | Stage::Closing { .. } => {}
        }
        let mut cut = None;
        // Pushes wait for the reply to `connect`.
        let subs = if conn.is_connected() {
            &conn.subs[..]
        } else {
            &[]
        };
        for (at, sub) in subs.iter().enumerate() {
            if sub.is_waiting() {
                continue;
            }
            let view = views.get_mut(sub.view.index, sub.view.generation);
            let view = view.expect("a subscription keeps its view");
            match view.take(sub.flags.kind(), sub.place, ROOM_PARTS_MAX, parts, pool) {
                Taken::All => {}
                Taken::Some => {
                    cut = Some(at);
                    break;
                }
                // What other rooms gave is sent all the same; then this one is looked at again.
                Taken::Lost if parts.is_empty() => return Outcome::Lost(*sub),
                Taken::Lost => {
                    cut = Some(at);
                    break;
                }
            }
        }
        if let Some(at) = cut {
            conn.backlog = true;
            // The next send begins where this one ends: no room waits behind busier ones for ever.
            conn.subs.rotate_left(at);
        }
        if let Some(control) = conn.control.take(controls) {
            parts.insert(0, control);
        }
        match (parts.is_empty(), &conn.stage) {
            (false, _) => Outcome::Send,
            (true, Stage::Closing { linger: false, .. }) => Outcome::Close,
            (true, _) => Outcome::Idle,
        }
    }

    /// A send starts.
    fn sending(&mut self, slot: u32, bytes: usize) {
        self.stats.shard.sends_total.add(1);
        self.stats.shard.sent_bytes_total.add(bytes as u64);
        let write_ms = self.now_ms + self.settings.write_ms;
        let conn = self
            .conns
            .get_mut(slot)
            .expect("sends are of live connections");
        conn.sending_since_ms = self.now_ms.max(1);
        self.arm_timer(slot, write_ms);
    }

    /// The socket is being closed: nothing more happens on the connection.
    fn gone(&mut self, slot: u32) {
        let Self {
            conns, controls, ..
        } = self;
        let conn: &mut Conn = conns
            .get_mut(slot)
            .expect("closed sockets have connections");
        conn.control.clear(controls);
        conn.stage = Stage::Gone;
        conn.timer_ms = u64::MAX;
    }
}
