//! What a shard is besides its sockets: connections, rooms, timers, outgoing lanes.
//!
//! The core does no I/O. What it wants of a socket it writes into the connection and marks the
//! connection dirty; the flush at the end of the turn carries it out.

use super::conn::{Conn, Stage, SubFlags, SubRef};
use super::connect::seats_of;
use super::directory::Directory;
use super::dirty::Dirty;
use super::fanout::Encoded;
use super::notices::Notice;
use super::settings::Settings;
use super::timers::TimerKey;
use super::users::Users;
use crate::access::NamespaceIndex;
use crate::base::chunk::ChunkPool;
use crate::base::reason::CloseReason;
use crate::base::slab::PagedMap;
use crate::base::stats::Stats;
use crate::base::wheel::Wheel;
use crate::base::{ConnId, NodeId};
use crate::limits::LANE_FRAME_MAX;
use crate::mesh::{Delivery, Outlets};
use crate::room::home::{Home, HomeLimits};
use crate::room::view::View;
use crate::wire::frame::{self, Role};
use crate::wire::message::Assembler;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) outlets: Outlets,
    pub(super) stats: Arc<Stats>,
    pub(super) conns: PagedMap<Conn>,
    pub(super) views: Directory<View>,
    pub(super) homes: Directory<Home>,
    pub(super) dirty: Dirty,
    /// Chunks of tails.
    pub(super) pool: ChunkPool,
    /// Chunks of replies: what clients leave unread must not count against the rooms.
    pub(super) controls: ChunkPool,
    pub(super) wheel: Wheel<TimerKey>,
    /// What homes and the service thread have to be told as soon as lanes have room.
    pub(super) notices: VecDeque<Notice>,
    /// Connections whose commands wait for lane room.
    pub(super) stalled: VecDeque<ConnId>,
    /// Connections by user.
    pub(super) users: Users,
    /// Where replies are encoded before they are copied to where they are sent from.
    pub(super) scratch: Vec<u8>,
    /// Where infos and lists for frames between threads are made.
    pub(super) flat: Vec<u8>,
    /// A publication in all encodings in use.
    pub(super) encoded: Encoded,
    pub(super) now_ms: u64,
    /// Turns so far.
    pub(super) turn: u64,
    /// Slots below have been closed by the drain.
    drained_slots: u32,
    pub(super) history_bytes: usize,
    pub(super) subscriptions: usize,
    pub(super) sessions: usize,
    /// Clients present in this shard's homes.
    pub(super) present: usize,
    /// Where the search for a home to give up goes on.
    pub(super) eviction_hand: u32,
    drain: Drain,
    random: u64,
}

/// How far the shard is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    Serving,
    /// Connections are being closed.
    Closing,
    /// All gone; the service thread has to be told.
    Empty,
    /// It has been told; requests are still served.
    Told,
    /// Nothing more will come.
    Finished,
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        outlets: Outlets,
        stats: Arc<Stats>,
        now_ms: u64,
    ) -> Self {
        let random = settings.seed ^ (u64::from(settings.node.0) << 32);
        Self {
            outlets,
            stats,
            conns: PagedMap::new(),
            views: Directory::new(settings.seed.rotate_left(17)),
            homes: Directory::new(settings.seed.rotate_left(31)),
            dirty: Dirty::default(),
            pool: ChunkPool::default(),
            controls: ChunkPool::default(),
            wheel: Wheel::new(now_ms),
            notices: VecDeque::new(),
            stalled: VecDeque::new(),
            users: Users::new(settings.seed.rotate_left(43)),
            scratch: Vec::new(),
            flat: Vec::new(),
            encoded: Encoded::default(),
            now_ms,
            turn: 0,
            drained_slots: 0,
            history_bytes: 0,
            subscriptions: 0,
            sessions: 0,
            present: 0,
            eviction_hand: 0,
            drain: Drain::Serving,
            random,
            settings,
        }
    }

    pub(super) fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms.max(self.now_ms);
        self.turn += 1;
        if self.drain == Drain::Closing {
            self.close_some();
        }
        if self.drain == Drain::Empty && self.outlets.deliveries_free() >= LANE_FRAME_MAX {
            let service = NodeId(self.settings.shards);
            self.outlets
                .deliver(service, &Delivery::Drained)
                .expect("room was checked above");
            self.drain = Drain::Told;
        }
    }

    /// A connection came in. `full` when it is one too many: it is told so once it has asked.
    pub(super) fn accepted(&mut self, id: ConnId, full: bool) {
        self.stats.shard.accepts_total.add(1);
        let deadline_ms = self.now_ms + self.settings.upgrade_ms;
        self.conns.insert(id.slot, Conn::new(id, deadline_ms));
        self.arm_timer(id.slot, deadline_ms);
        if full {
            self.refuse_overloaded(id.slot);
        } else if self.draining() {
            self.abort(id.slot, CloseReason::Shutdown);
        }
    }

    /// The peer has ended its side, or the stream is broken.
    pub(super) fn ended(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot).filter(|conn| conn.id == id) else {
            return;
        };
        match conn.stage {
            Stage::Closing { ref mut linger, .. } => {
                *linger = false;
                self.dirty.mark(id.slot);
            }
            Stage::Upgrading(_) | Stage::Open { .. } => {
                self.abort(id.slot, CloseReason::PeerVanished)
            }
            Stage::Aborting | Stage::Gone => {}
        }
    }

    /// The send in flight is done.
    pub(super) fn sent(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.slot) else {
            return;
        };
        conn.sending_since_ms = 0;
        if std::mem::take(&mut conn.backlog) || !conn.is_open() {
            self.dirty.mark(id.slot);
        }
    }

    /// The send in flight failed: bytes are missing, so nothing more may follow.
    pub(super) fn send_failed(&mut self, id: ConnId) {
        self.abort(id.slot, CloseReason::WriteError);
    }

    /// The socket is gone and its slot is free.
    pub(super) fn closed(&mut self, id: ConnId) {
        let conn = self
            .conns
            .remove(id.slot)
            .expect("a socket has a connection until it is closed");
        assert!(matches!(conn.stage, Stage::Gone) && conn.subs.is_empty());
    }

    /// Closes with a close frame where there can be one: what is queued is sent first.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason) {
        let Some(code) = reason.code() else {
            return self.abort(slot, reason);
        };
        self.close_with(slot, reason, code, reason.text());
    }

    /// As [`Core::close`], with the code and the text that the frame carries. When the peer has closed
    /// first, the socket is closed as soon as the frame is sent.
    pub(super) fn close_with(&mut self, slot: u32, reason: CloseReason, code: u16, text: &str) {
        let linger = reason != CloseReason::PeerClosed;
        if !self.leave_rooms(slot, reason, code, text) {
            return;
        }
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if !conn.is_open() {
            conn.stage = Stage::Aborting;
            self.dirty.mark(slot);
            return;
        }
        self.scratch.clear();
        frame::write_close(&mut self.scratch, code, text);
        let queued = conn.control.append(&self.scratch, &mut self.controls);
        // After a broken rule the peer's stream has no frames any more; only its end counts.
        let frames = !matches!(code, 1002 | 1007 | 1009);
        conn.stage = match queued {
            Ok(()) => {
                let assembler = frames.then(|| Assembler::new(Role::Server));
                Stage::Closing { linger, assembler }
            }
            Err(_) => Stage::Aborting,
        };
        let patience_ms = if frames {
            self.settings.close_ms
        } else {
            self.settings.linger_ms
        };
        conn.deadline_ms = self.now_ms + patience_ms;
        let deadline_ms = conn.deadline_ms;
        self.arm_timer(slot, deadline_ms);
        self.dirty.mark(slot);
    }

    /// Closes at once, without a word.
    pub(super) fn abort(&mut self, slot: u32, reason: CloseReason) {
        let closing = self
            .conns
            .get_mut(slot)
            .filter(|conn| matches!(conn.stage, Stage::Closing { .. }));
        // 3000 is what the protocol calls an end without a close frame.
        let code = reason.code().unwrap_or(3000);
        if closing.is_none() && !self.leave_rooms(slot, reason, code, reason.text()) {
            return;
        }
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        conn.stage = Stage::Aborting;
        self.dirty.mark(slot);
    }

    /// Counts the close and ends all subscriptions; false when the connection is closing already.
    fn leave_rooms(&mut self, slot: u32, reason: CloseReason, code: u16, text: &str) -> bool {
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        let was_connected = match &conn.stage {
            Stage::Upgrading(_) => false,
            Stage::Open { session, .. } => session.is_open(),
            Stage::Closing { .. } | Stage::Aborting | Stage::Gone => return false,
        };
        self.sessions -= usize::from(was_connected);
        self.stats.closed(reason);
        for sub in std::mem::take(&mut conn.subs) {
            self.leave(slot, sub, u32::from(code), text);
        }
        if was_connected && self.settings.clients.disconnect_events {
            self.queue_disconnected(slot, u32::from(code), text);
        }
        if let Some(conn) = self.conns.get_mut(slot)
            && let Some(extra) = conn.extra.take()
        {
            let conn = conn.id;
            self.users.remove(&extra.user, slot);
            if extra.seated {
                self.notices.push_back(Notice::Leave {
                    conn,
                    room: seats_of(&extra.user),
                });
            }
        }
        true
    }

    /// Ends one subscription whose `SubRef` the connection has given up. `code` and `text` say why to
    /// services that want to know.
    pub(super) fn leave(&mut self, slot: u32, sub: SubRef, code: u32, text: &str) {
        if sub.flags.has(SubFlags::PRESENT) {
            self.queue_left(slot, sub.view);
        }
        if sub.flags.has(SubFlags::TOLD) && !sub.is_waiting() {
            self.queue_unsubscribed(slot, sub.view, code, text);
        }
        let view = self.views.get_mut(sub.view.index, sub.view.generation);
        let view = view.expect("a subscription keeps its view");
        if sub.is_recovering() {
            view.end_recovery();
        } else if sub.is_waiting() {
            view.stop_waiting(slot);
        } else {
            self.subscriptions -= 1;
            let kind = sub.flags.kind();
            if let Some(moved) = view.unsubscribe(kind, sub.place, &mut self.pool) {
                let conn = self
                    .conns
                    .get_mut(moved)
                    .expect("a subscriber has a connection");
                let moved = conn.subs.iter_mut().find(|other| other.view == sub.view);
                moved.expect("a subscriber knows its view").place = sub.place;
            }
        }
        if let Some(extra) = self
            .conns
            .get_mut(slot)
            .and_then(|conn| conn.extra.as_mut())
        {
            extra.subs.retain(|other| other.view != sub.view);
        }
        let view = self.views.get(sub.view.index, sub.view.generation);
        if view.is_some_and(View::is_empty) {
            self.queue_notice(sub.view);
        }
    }

    /// Closes every connection with 3001, some each turn; no new ones are kept. The second call, once
    /// the service thread has nothing left to send here, ends the shard.
    pub(super) fn start_drain(&mut self) {
        self.drain = match self.drain {
            Drain::Serving => Drain::Closing,
            Drain::Told => Drain::Finished,
            other => other,
        };
    }

    pub(super) fn draining(&self) -> bool {
        self.drain != Drain::Serving
    }

    pub(super) fn finished(&self) -> bool {
        self.drain == Drain::Finished
    }

    /// Closes the connections of a slice of the slots, so that a turn stays short. One pass is
    /// enough: whatever is accepted later is aborted at once.
    fn close_some(&mut self) {
        const SLOTS_PER_TURN: u32 = 1_024;
        let end = self
            .conns
            .end()
            .min(self.drained_slots.saturating_add(SLOTS_PER_TURN));
        for slot in self.drained_slots..end {
            self.close(slot, CloseReason::Shutdown);
        }
        self.drained_slots = end;
        if self.conns.is_empty() {
            self.drain = Drain::Empty;
        }
    }

    /// Unix time in milliseconds.
    pub(super) fn unix_ms(&self) -> u64 {
        self.settings.unix_at_zero_ms + self.now_ms
    }

    /// Bounds of the homes of a namespace.
    pub(super) fn home_limits(&self, namespace: NamespaceIndex) -> &HomeLimits {
        &self.settings.homes[usize::from(namespace)]
    }

    /// Whether every lane could take `bytes` of requests and of deliveries.
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        self.outlets.requests_free() >= bytes && self.outlets.deliveries_free() >= bytes
    }

    /// A pseudo-random number (splitmix64): phases and identifiers, nothing secret.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn export(&self) {
        let shard = &self.stats.shard;
        shard.connections.set(self.conns.len() as u64);
        shard.sessions.set(self.sessions as u64);
        shard.users.set(self.users.len() as u64);
        shard.rooms.set(self.views.len() as u64);
        shard.homes.set(self.homes.len() as u64);
        shard.subscriptions.set(self.subscriptions as u64);
        shard.tail_bytes.set(self.pool.outstanding() as u64);
        shard.history_bytes.set(self.history_bytes as u64);
        shard.present_clients.set(self.present as u64);
        shard.last_turn_ms.set(self.now_ms);
        shard.turns_total.add(1);
    }

    /// Panics unless connections and views agree. For tests and the simulator.
    pub(super) fn invariants(&self) {
        let mut subscriptions = 0;
        for (slot, conn) in self.conns.iter() {
            for sub in &conn.subs {
                let view = self
                    .views
                    .get(sub.view.index, sub.view.generation)
                    .expect("view of a subscription");
                if sub.is_waiting() {
                    assert!(sub.is_recovering() || view.is_waiting(slot));
                    continue;
                }
                subscriptions += 1;
                let line = view.line(sub.flags.kind()).expect("line of a subscriber");
                let subscriber = line.subscribers()[sub.place as usize];
                assert_eq!(
                    subscriber.slot, slot,
                    "subscription and subscriber name each other"
                );
                // Pushes wait for the connect reply.
                let told =
                    conn.backlog || subscriber.cursor == line.tail().end() || !conn.is_connected();
                assert!(
                    told,
                    "what a socket has not been sent waits for its send in flight"
                );
            }
        }
        assert_eq!(subscriptions, self.subscriptions);
        let subscribers: usize = self.views.iter().map(View::subscribers).sum();
        assert_eq!(
            subscribers, subscriptions,
            "no subscriber without a connection"
        );
        self.views.iter().for_each(View::invariants);
        for home in self.homes.iter() {
            home.invariants(self.home_limits(home.namespace));
        }
        let present: usize = self
            .homes
            .iter()
            .map(|home| home.presence_stats().0 as usize)
            .sum();
        assert_eq!(present, self.present);
        let history: usize = self.homes.iter().map(Home::history_bytes).sum();
        assert_eq!(history, self.history_bytes);
    }
}
