//! Frames from and to other threads.

use super::Left;
use super::core::Core;
use crate::base::{ConnId, Epoch, NodeId, Offset, ViewId};
use crate::limits::{
    LANE_BYTES_PER_TURN, LANE_FRAME_MAX, LANE_FRAME_OVERHEAD, LANE_FRAMES_PER_TURN,
};
use crate::mesh::{Delivery, Inlets, Publisher, ReplyTo, Request};
use crate::room::view::Standing;
use crate::wire::client::{ErrorCode, json};

impl Core {
    /// A delivery. Produces no mesh output: that is what keeps lanes from filling in a circle.
    pub(super) fn handle_delivery(&mut self, delivery: Delivery<'_>) {
        self.stats.shard.lane_frames_total.add(1);
        match delivery {
            Delivery::Publication {
                view,
                offset,
                content,
                payload,
                publisher,
            } => {
                self.deliver(view, offset, content, payload, publisher);
            }
            Delivery::Interested { view, epoch, top } => self.interested(view, epoch, top),
            Delivery::Published { reply, .. } => self.replied(reply, None),
            Delivery::Refused { reply } => self.replied(reply, Some(ErrorCode::TooManyRequests)),
            Delivery::Drain => self.start_drain(),
            Delivery::Drained => unreachable!("shards do not drain each other"),
        }
    }

    /// Deliveries of one peer. They need no room anywhere.
    pub(super) fn drain_deliveries(&mut self, peer: NodeId, inlets: &mut Inlets) -> Left {
        let mut budget = TurnBudget::new();
        while budget.is_left() {
            let Some(frame) = inlets.next_delivery(peer) else {
                return Left::Nothing;
            };
            let delivery = frame.get();
            budget.spend(match delivery {
                Delivery::Publication { payload, .. } => payload.len(),
                _ => 0,
            });
            self.handle_delivery(delivery);
        }
        Left::Work
    }

    /// Requests of one peer, while the outlets can take whatever handling one may produce.
    pub(super) fn drain_requests(&mut self, peer: NodeId, inlets: &mut Inlets) -> Left {
        let mut budget = TurnBudget::new();
        while budget.is_left() {
            if self.outlets.deliveries_free() < LANE_FRAME_MAX {
                return Left::Stalled;
            }
            let Some(frame) = inlets.next_request(peer) else {
                return Left::Nothing;
            };
            let request = frame.get();
            budget.spend(match request {
                Request::Publish(publish) => publish.payload.len(),
                _ => 0,
            });
            self.handle_request(request, peer);
        }
        Left::Work
    }

    fn handle_request(&mut self, request: Request<'_>, peer: NodeId) {
        self.stats.shard.lane_frames_total.add(1);
        match request {
            Request::Publish(publish) => self.publish_here(&publish, peer),
            Request::Interest { room, view } => {
                let (epoch, top) = self.interest(room, peer, view);
                let sent = self
                    .outlets
                    .deliver(peer, &Delivery::Interested { view, epoch, top });
                sent.expect("room was checked before the request was taken");
            }
            Request::Uninterest { room, view } => self.uninterest(room, peer, view),
        }
    }

    /// Tells homes of new and of empty views; false when lanes had no room for all.
    pub(super) fn send_notices(&mut self) -> bool {
        while let Some(id) = self.notices.front().copied() {
            if self.outlets.requests_free() < LANE_FRAME_OVERHEAD {
                return false;
            }
            self.notices.pop_front();
            let here = self.settings.node;
            let view = self
                .views
                .get_mut(id.index, id.generation)
                .expect("removed only below");
            view.notice_queued = false;
            let home = self.settings.hasher.home(view.room());
            match (view.standing(), view.is_empty()) {
                (Standing::Unannounced, false) => {
                    view.announced();
                    if home == here {
                        let room = view.room().to_owned();
                        let (epoch, top) = self.interest(&room, here, id);
                        self.interested(id, epoch, top);
                    } else {
                        let interest = Request::Interest {
                            room: view.room(),
                            view: id,
                        };
                        self.outlets
                            .request(home, &interest)
                            .expect("room was checked above");
                    }
                }
                (Standing::Unannounced, true) => {
                    self.views.remove(id.index, id.generation);
                }
                (_, true) => {
                    let view = self
                        .views
                        .remove(id.index, id.generation)
                        .expect("seen above");
                    if home == here {
                        self.uninterest(view.room(), here, id);
                    } else {
                        let uninterest = Request::Uninterest {
                            room: view.room(),
                            view: id,
                        };
                        self.outlets
                            .request(home, &uninterest)
                            .expect("room was checked above");
                    }
                }
                (_, false) => {}
            }
        }
        true
    }

    /// The home sends the view everything from now on: whoever waited for that joins.
    fn interested(&mut self, id: ViewId, epoch: Epoch, top: Offset) {
        let Some(view) = self.views.get_mut(id.index, id.generation) else {
            self.stats.shard.stale_deliveries_total.add(1);
            return;
        };
        if epoch == Epoch(0) {
            let refused = view.refused();
            return self.refuse_subscribes(id, &refused);
        }
        for (slot, command) in view.admitted(epoch, top) {
            self.join(slot, command, id);
        }
    }

    /// The home's table is full: whoever waited may try again later.
    fn refuse_subscribes(&mut self, id: ViewId, refused: &[(u32, u32)]) {
        for (slot, command) in refused.iter().copied() {
            let conn = self
                .conns
                .get_mut(slot)
                .expect("whoever waits is connected");
            conn.subs.retain(|sub| sub.view != id);
            self.reply_error(slot, command, ErrorCode::TooManyRequests);
        }
        self.queue_notice(id);
    }

    /// A client's publication has its place, or has none.
    pub(super) fn replied(&mut self, reply: ReplyTo, error: Option<ErrorCode>) {
        let ReplyTo::Client { conn, command } = reply else {
            return;
        };
        if !self.is_open(conn) {
            return;
        }
        match error {
            Some(code) => self.reply_error(conn.slot, command, code),
            None => {
                self.scratch.clear();
                json::publish_reply(&mut self.scratch, command);
                self.queue_text(conn.slot);
            }
        }
    }

    fn is_open(&self, id: ConnId) -> bool {
        self.conns
            .get(id.slot)
            .is_some_and(|conn| conn.id == id && conn.is_open())
    }
}

/// What a turn takes from one lane: frames and payload bytes.
struct TurnBudget {
    frames: usize,
    bytes: usize,
}

impl TurnBudget {
    fn new() -> Self {
        Self {
            frames: LANE_FRAMES_PER_TURN,
            bytes: LANE_BYTES_PER_TURN,
        }
    }

    fn is_left(&self) -> bool {
        self.frames > 0 && self.bytes > 0
    }

    fn spend(&mut self, payload_bytes: usize) {
        self.frames -= 1;
        self.bytes = self.bytes.saturating_sub(payload_bytes);
    }
}

/// User and client of a publisher, both empty for an upstream service.
pub(super) fn publisher_names<'a>(publisher: &Publisher<'a>) -> (&'a str, &'a str) {
    match *publisher {
        Publisher::Upstream => ("", ""),
        Publisher::Client { user, client } => (user, client),
    }
}
