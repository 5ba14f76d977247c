//! One pinned thread: one kernel ring, its sockets, the rooms whose home it is. One loop.
//!
//! [`Shard::turn`] is the loop's body, always in this order: reap completions, drain lanes, advance
//! timers, flush outboxes, publish lanes and ring doorbells, submit (and wait when there is nothing
//! to do). Only this file and `outbox.rs` touch the sockets; everything else works on `Core`,
//! which knows rooms and connections but no driver.

mod commands;
mod conn;
mod connect;
mod core;
mod directory;
mod dirty;
mod events;
mod exchange;
mod expiry;
mod fanout;
mod homes;
mod identity;
mod ingress;
mod notices;
mod orders;
mod outbox;
mod permissions;
mod queries;
pub mod settings;
mod subscribe;
mod timers;
mod users;

use self::core::Core;
use crate::base::stats::Stats;
use crate::driver::sockets::{Event, Sockets};
use crate::driver::{Driver, Wait};
use crate::limits::{COMMAND_OUTPUT_MAX, COMPLETIONS_PER_TURN, IDLE_WAIT_MS};
use crate::mesh::{Inlets, Port};
use crate::room::home::Home;
use settings::Settings;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// See the module documentation.
#[derive(Debug)]
pub struct Shard<D: Driver> {
    sockets: Sockets<D>,
    inlets: Inlets,
    core: Core,
    /// Events that wait until lanes have room for what handling them may produce.
    deferred: VecDeque<Event>,
    flushing: Vec<u32>,
    accepting: bool,
    sleeping: bool,
}

/// Whether the shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There will be more to do.
    Continue,
    /// Drained: the last connection is gone and the service thread has been told.
    Finished,
}

/// What a drained shard leaves for the next process.
#[derive(Debug, Default)]
pub struct Left {
    /// Its homes, as a section of the state file.
    pub section: Vec<u8>,
    /// As [`Settings::incarnation`], by now.
    pub incarnation: u32,
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Undone {
    /// Nothing: the shard may sleep.
    Nothing,
    /// Something that waits for lane space, of which nobody tells.
    Stalled,
    /// Something that only the turn's budget kept waiting.
    Work,
}

impl<D: Driver> Shard<D> {
    /// A shard on `driver`, accepting from its first turn.
    pub fn new(driver: D, port: Port, settings: Settings, stats: Arc<Stats>) -> Self {
        let mut sockets = Sockets::new(driver);
        let now_ns = sockets.now_ns();
        sockets.start_accepting();
        Self {
            sockets,
            inlets: port.inlets,
            core: Core::new(settings, port.outlets, stats, now_ns / 1_000_000),
            deferred: VecDeque::new(),
            flushing: Vec::new(),
            accepting: true,
            sleeping: false,
        }
    }

    /// Takes rooms over from an earlier process.
    pub fn adopt(&mut self, homes: Vec<Home>) {
        homes.into_iter().for_each(|home| self.core.adopt(home));
    }

    /// What is to be known of its rooms in the next process.
    pub fn leave(self) -> Left {
        self.core.leave_homes()
    }

    /// Turns until the shard is drained.
    pub fn run(&mut self) {
        while self.turn() == Turn::Continue {}
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> Turn {
        let start_ns = self.sockets.now_ns();
        if std::mem::take(&mut self.sleeping) {
            self.inlets.awake();
        }
        self.core.begin_turn(start_ns / 1_000_000);

        let left = self.reap().max(self.drain_lanes());
        self.core.advance_timers();
        self.flush();
        self.publish();

        let busy_ns = self.sockets.now_ns() - start_ns;
        self.export(busy_ns);
        if self.core.finished() {
            self.sockets.submit(Wait::No);
            return Turn::Finished;
        }
        let wait = self.wait(left);
        self.sockets.submit(wait);
        Turn::Continue
    }

    fn reap(&mut self) -> Undone {
        let resumed = self.core.resume_stalled();
        let left = if resumed {
            Undone::Nothing
        } else {
            Undone::Stalled
        };
        left.max(self.reap_events())
    }

    fn reap_events(&mut self) -> Undone {
        while let Some(event) = self.deferred.pop_front() {
            if !self.may_receive() {
                self.deferred.push_front(event);
                break;
            }
            self.handle(event);
        }
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(event) = self.sockets.next_event() else {
                return if self.deferred.is_empty() {
                    Undone::Nothing
                } else {
                    Undone::Stalled
                };
            };
            // What came in waits for lane space in its order; the rest passes it.
            if event.is_inbound() && (!self.deferred.is_empty() || !self.may_receive()) {
                self.deferred.push_back(event);
            } else {
                self.handle(event);
            }
        }
        Undone::Work
    }

    /// Whether the lanes can take whatever one receive may lead to. Earlier notices go first: the
    /// room is for the receive's own.
    fn may_receive(&mut self) -> bool {
        self.core.send_notices() && self.core.has_room(COMMAND_OUTPUT_MAX)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { conn, peer: _ } => {
                let full = self.sockets.open() > self.core.settings.connections_max;
                self.core.accepted(conn, full);
            }
            Event::Received { conn, loan } => {
                self.core.received(conn, self.sockets.bytes(&loan));
                self.sockets.recycle(loan);
            }
            Event::Ended { conn, errno: _ } => self.core.ended(conn),
            Event::Sent { conn } => self.core.sent(conn),
            Event::SendFailed { conn, errno: _ } => self.core.send_failed(conn),
            Event::Closed { conn } => self.core.closed(conn),
            Event::Bell => {}
            Event::Connected { .. } | Event::ConnectFailed { .. } => {
                unreachable!("a shard opens no connections")
            }
        }
    }

    /// Handles frames of other threads, up to a turn's share of each lane: sockets have theirs.
    fn drain_lanes(&mut self) -> Undone {
        let mut left = Undone::Nothing;
        for peer in self.inlets.peers() {
            left = left.max(self.core.drain_deliveries(peer, &mut self.inlets));
        }
        for peer in self.inlets.peers() {
            left = left.max(self.core.drain_requests(peer, &mut self.inlets));
        }
        let told = self.core.send_notices();
        left.max(if told {
            Undone::Nothing
        } else {
            Undone::Stalled
        })
    }

    fn publish(&mut self) {
        if self.accepting && self.core.draining() {
            self.accepting = false;
            self.sockets.stop_accepting();
        }
        let Self { core, sockets, .. } = self;
        let stats = Arc::clone(&core.stats);
        core.outlets.publish(|node| {
            stats.shard.doorbells_total.add(1);
            sockets.ring(node.0);
        });
    }

    fn wait(&mut self, left: Undone) -> Wait {
        if left == Undone::Work || !self.core.dirty.is_empty() {
            return Wait::No;
        }
        if left == Undone::Stalled {
            // Lanes do not ring when they have room again: look soon.
            return Wait::UpTo(Duration::from_millis(1));
        }
        if !self.inlets.prepare_sleep() {
            return Wait::No;
        }
        self.sleeping = true;
        Wait::UpTo(Duration::from_millis(self.core.timer_wait_ms(IDLE_WAIT_MS)))
    }

    fn export(&mut self, busy_ns: u64) {
        let (sockets, driver) = self.sockets.counts();
        self.core.export();
        let shard = &self.core.stats.shard;
        shard.accept_errors_total.set(sockets.accept_errors);
        shard.ring_enters_total.set(driver.enters);
        shard.ring_completions_total.set(sockets.completions);
        shard.stale_completions_total.set(sockets.stale);
        shard.enobufs_total.set(sockets.enobufs);
        shard.completion_overflows_total.set(driver.overflows);
        shard.parked_connections.set(self.sockets.parked() as u64);
        shard.buffers_loaned.set(driver.buffers_loaned as u64);
        if !self.deferred.is_empty() {
            shard.lane_stalls_total.add(1);
        }
        self.core.stats.turn(busy_ns);
    }

    /// The driver, for tests that steer a simulated one.
    pub fn driver_mut(&mut self) -> &mut D {
        self.sockets.driver_mut()
    }

    /// Panics unless the invariants that can be seen from one shard hold. Linear in connections
    /// and rooms: for tests and the simulator.
    pub fn invariants(&self) {
        let received = |event: &&Event| matches!(event, Event::Received { .. });
        let deferred = self.deferred.iter().filter(received).count();
        assert_eq!(
            self.sockets.counts().1.buffers_loaned,
            deferred,
            "every buffer is back after a turn"
        );
        self.core.invariants();
    }
}
