//! This thread's place in the mesh: its lanes, the doorbells of the others, who gets which answer.
//!
//! Deliveries are taken whenever they are there and never wait for anything, which is this thread's
//! part of the mesh's deadlock rule. The requests that shards send here are events; what they lead to
//! waits in this thread's memory, bounded, and not in a lane.

use super::acks::Outcome;
use super::bell;
use super::hooks::Hooks;
use super::intake::{Desk, count};
use super::mailbox::Mailbox;
use super::queries::Queries;
use super::tasks::{self, Late, Tasks};
use crate::base::slab::Slab;
use crate::base::stats::ServiceStats;
use crate::base::{NodeId, RoomHasher};
use crate::limits;
use crate::mesh::{Delivery, LaneFull, Port, ReplyTo, Request};
use glommio::timer::sleep;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
pub(super) struct Node {
    port: RefCell<Port>,
    rooms: RoomHasher,
    /// The process's, for client ids.
    seed: u64,
    bells: Vec<Arc<OwnedFd>>,
    stats: Arc<ServiceStats>,
    /// Upstream connections past their opening.
    mailboxes: RefCell<Slab<Rc<Mailbox>>>,
    /// Events of clients, and the services that want them.
    pub(super) hooks: Hooks,
    /// Tasks that wait for answers.
    pub(super) tasks: Tasks,
    /// Shards that have said that their last connection is gone.
    drained: Cell<usize>,
}

impl Node {
    pub(super) fn new(
        port: Port,
        rooms: RoomHasher,
        bells: Vec<Arc<OwnedFd>>,
        stats: Arc<ServiceStats>,
        seed: u64,
        hooks: Hooks,
    ) -> Self {
        Self {
            seed,
            port: RefCell::new(port),
            rooms,
            bells,
            stats,
            mailboxes: RefCell::default(),
            hooks,
            tasks: Tasks::default(),
            drained: Cell::new(0),
        }
    }

    /// Enters a connection: answers for the returned index and generation go to `mailbox`.
    pub(super) fn enter(&self, mailbox: Rc<Mailbox>) -> (u32, u32) {
        let mut mailboxes = self.mailboxes.borrow_mut();
        let conn = mailboxes.insert_with(|_, _| mailbox);
        self.stats.upstream_connections.set(mailboxes.len() as u64);
        conn
    }

    /// Forgets a connection; answers that are still to come for it are dropped.
    pub(super) fn leave(&self, (index, generation): (u32, u32)) {
        self.hooks.forget((index, generation), &self.stats);
        self.flush_answers();
        let mut mailboxes = self.mailboxes.borrow_mut();
        mailboxes.remove(index, generation);
        self.stats.upstream_connections.set(mailboxes.len() as u64);
    }

    /// Upstream connections past their opening.
    pub(super) fn connections(&self) -> usize {
        self.mailboxes.borrow().len()
    }

    /// Calls `visit` for every connection past its opening.
    pub(super) fn for_each_mailbox(&self, mut visit: impl FnMut(&Mailbox)) {
        for (_, _, mailbox) in self.mailboxes.borrow().iter() {
            visit(mailbox);
        }
    }

    /// Lets `batch` work on `mailbox`'s frames with the lanes at hand, then publishes the lanes once.
    pub(super) fn batch<T>(&self, mailbox: &Mailbox, batch: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let port = &mut *self.port.borrow_mut();
        let result = batch(&mut Desk {
            outlets: &mut port.outlets,
            rooms: &self.rooms,
            acks: &mut mailbox.acks.borrow_mut(),
            queries: &mut mailbox.queries.borrow_mut(),
            out: &mut mailbox.output.borrow_mut().bytes,
            stats: &self.stats,
            hooks: &self.hooks,
            seed: self.seed,
            // This thread is the node after the shards.
            shards: port.id.0,
        });
        self.hooks.flush(&mut port.outlets);
        self.publish(port);
        result
    }

    /// Sends a request to the home of `room`.
    ///
    /// # Errors
    /// When the lane has no room now.
    pub(super) fn request(&self, room: &str, request: &Request<'_>) -> Result<(), LaneFull> {
        let mut port = self.port.borrow_mut();
        let sent = port.outlets.request(self.rooms.home(room), request);
        self.publish(&mut port);
        sent
    }

    /// Sends a delivery to `shard`.
    ///
    /// # Errors
    /// When the lane has no room now.
    pub(super) fn deliver(&self, shard: NodeId, delivery: &Delivery<'_>) -> Result<(), LaneFull> {
        let mut port = self.port.borrow_mut();
        let sent = port.outlets.deliver(shard, delivery);
        self.publish(&mut port);
        sent
    }

    /// Sends a request to the home of `room`, waiting while the lane is full.
    ///
    /// # Errors
    /// [`Late`] when it is full until the deadline.
    pub(super) async fn request_in_time(
        &self,
        room: &str,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<(), Late> {
        self.request_shard_in_time(self.rooms.home(room), request, deadline)
            .await
    }

    /// As [`Node::request_in_time`], to a shard itself.
    pub(super) async fn request_shard_in_time(
        &self,
        shard: NodeId,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<(), Late> {
        in_time(deadline, || {
            let mut port = self.port.borrow_mut();
            let sent = port.outlets.request(shard, request);
            self.publish(&mut port);
            sent
        })
        .await
    }

    /// Sends a delivery to `shard`, waiting while the lane is full.
    ///
    /// # Errors
    /// [`Late`] when it is full until the deadline.
    pub(super) async fn deliver_in_time(
        &self,
        shard: NodeId,
        delivery: &Delivery<'_>,
        deadline: Instant,
    ) -> Result<(), Late> {
        in_time(deadline, || self.deliver(shard, delivery)).await
    }

    /// Whether there is a shard of this number.
    pub(super) fn is_shard(&self, shard: NodeId) -> bool {
        self.shards().any(|other| other == shard)
    }

    /// The shards.
    pub(super) fn shards(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.port.borrow().inlets.peers()
    }

    /// Whether every shard has drained.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.get() >= self.shards().count()
    }

    /// Takes what shards have sent, a bounded number of frames from each. Whether there may be more.
    pub(super) fn take_deliveries(&self) -> bool {
        let mut port = self.port.borrow_mut();
        let mailboxes = self.mailboxes.borrow();
        let mut is_more = false;
        for shard in port.inlets.peers() {
            let mut taken = 0;
            while taken < limits::LANE_FRAMES_PER_TURN {
                let Some(frame) = port.inlets.next_delivery(shard) else {
                    break;
                };
                taken += 1;
                self.take_delivery(frame.get(), &mailboxes);
            }
            is_more |= taken == limits::LANE_FRAMES_PER_TURN;
            let mut taken = 0;
            while taken < limits::LANE_FRAMES_PER_TURN
                && self.hooks.has_room()
                && let Some(frame) = port.inlets.next_request(shard)
            {
                taken += 1;
                match frame.get() {
                    Request::Event(event) => {
                        self.hooks.event(shard, &event, &mailboxes, &self.stats);
                    }
                    other => debug_assert!(false, "a request that is no event: {other:?}"),
                }
            }
            is_more |= taken == limits::LANE_FRAMES_PER_TURN || !self.hooks.has_room();
        }
        self.hooks.flush(&mut port.outlets);
        self.publish(&mut port);
        is_more || self.hooks.is_waiting()
    }

    /// Answers events whose time is up.
    pub(super) fn expire_events(&self) {
        self.hooks.expire(Instant::now(), &self.stats);
        self.flush_answers();
    }

    fn flush_answers(&self) {
        let mut port = self.port.borrow_mut();
        self.hooks.flush(&mut port.outlets);
        self.publish(&mut port);
    }

    /// Whether the thread may sleep; from then on it is rung for. See [`crate::mesh::Inlets`].
    pub(super) fn prepare_sleep(&self) -> bool {
        self.port.borrow_mut().inlets.prepare_sleep()
    }

    /// Ends what [`Node::prepare_sleep`] announced.
    pub(super) fn awake(&self) {
        self.port.borrow_mut().inlets.awake();
    }

    fn take_delivery(&self, delivery: Delivery<'_>, mailboxes: &Slab<Rc<Mailbox>>) {
        if let Some((ticket, outcome)) = tasks::Outcome::of(&delivery) {
            return self.tasks.settle(ticket, outcome);
        }
        if let Some(((conn, generation), ticket)) = Queries::ticket_of(&delivery) {
            if let Some(mailbox) = mailboxes.get(conn, generation) {
                let answered = mailbox.answer(ticket, &delivery);
                self.stats.upstream_errors_total.add(answered.errors);
            }
            return;
        }
        let (reply, outcome) = match delivery {
            Delivery::Published {
                reply,
                epoch,
                offset,
                duplicate,
            } => {
                let outcome = Outcome::Published {
                    epoch,
                    offset,
                    duplicate,
                };
                (reply, outcome)
            }
            Delivery::Refused { reply } => (reply, Outcome::Refused),
            Delivery::Drained => {
                self.drained.set(self.drained.get() + 1);
                return;
            }
            _ => {
                debug_assert!(false, "a delivery that is not for the service thread");
                return;
            }
        };
        if let ReplyTo::Upstream {
            conn,
            generation,
            request: ticket,
        } = reply
            && let Some(mailbox) = mailboxes.get(conn, generation)
        {
            count(&self.stats, mailbox.settle(ticket, outcome));
        }
    }

    fn publish(&self, port: &mut Port) {
        port.outlets
            .publish(|node| bell::ring(&*self.bells[usize::from(node.0)]));
    }
}

/// Tries until there is room, with pauses that grow: a lane is full for a turn of its shard, or for long.
async fn in_time(
    deadline: Instant,
    mut send: impl FnMut() -> Result<(), LaneFull>,
) -> Result<(), Late> {
    let mut pause_us = limits::UPSTREAM_PAUSE_US_MIN;
    while send().is_err() {
        if Instant::now() >= deadline {
            return Err(Late);
        }
        sleep(Duration::from_micros(pause_us)).await;
        pause_us = (2 * pause_us).min(limits::UPSTREAM_PAUSE_US_MAX);
    }
    Ok(())
}
