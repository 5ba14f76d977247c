//! Frames from and to other threads.

use super::Undone;
use super::core::Core;
use crate::base::{Epoch, NodeId, Offset, ViewId};
use crate::limits::{LANE_BYTES_PER_TURN, LANE_FRAME_MAX, LANE_FRAMES_PER_TURN};
use crate::mesh::{Delivery, Inlets, ReplyTo, Request};
use crate::wire::client::{ErrorCode, Reply};

impl Core {
    /// A delivery. Produces no mesh output: that is what keeps lanes from filling in a circle.
    pub(super) fn handle_delivery(&mut self, delivery: Delivery<'_>) {
        match delivery {
            Delivery::Publication { view, .. } => self.deliver(view, &delivery),
            Delivery::Membership { view, joined, info } => {
                self.deliver_membership(view, joined, info);
            }
            Delivery::Interested { view, epoch, top } => self.interested(view, epoch, top),
            Delivery::Published { reply, .. } => self.published(reply),
            Delivery::Refused { reply } => self.refused(reply),
            Delivery::History {
                reply,
                epoch,
                top,
                recovered,
                publications,
            } => match reply {
                ReplyTo::Subscriber { conn, view } => {
                    self.recovered(conn, view, recovered, publications);
                }
                ReplyTo::Client { conn, command } => {
                    let position = (epoch, top);
                    self.history_given((conn, command), position, recovered, publications);
                }
                _ => {}
            },
            Delivery::Presence {
                reply: ReplyTo::Client { conn, command },
                complete,
                infos,
            } => self.presence_given((conn, command), complete, infos),
            Delivery::PresenceStats {
                reply: ReplyTo::Client { conn, command },
                clients,
                users,
            } => self.presence_counted((conn, command), clients, users),
            Delivery::Answer(answer) => {
                if let ReplyTo::Event { conn, serial } = answer.reply {
                    self.answered(conn, serial, &answer);
                }
            }
            Delivery::Order(order) => self.order(&order),
            Delivery::Drain => self.start_drain(),
            Delivery::Presence { .. }
            | Delivery::PresenceStats { .. }
            | Delivery::Done { .. }
            | Delivery::Rooms { .. }
            | Delivery::Drained => {
                unreachable!("shards ask for these only in a client's name, if at all")
            }
        }
    }

    /// Deliveries of one peer. They need no room anywhere.
    pub(super) fn drain_deliveries(&mut self, peer: NodeId, inlets: &mut Inlets) -> Undone {
        let mut budget = TurnBudget::new();
        while budget.is_left() {
            let Some(frame) = inlets.next_delivery(peer) else {
                return Undone::Nothing;
            };
            let delivery = frame.get();
            budget.spend(match delivery {
                Delivery::Publication { payload, .. } => payload.len(),
                _ => 0,
            });
            self.stats.shard.lane_frames_total.add(1);
            self.handle_delivery(delivery);
        }
        Undone::Work
    }

    /// Requests of one peer, while the outlets can take whatever handling one may produce.
    pub(super) fn drain_requests(&mut self, peer: NodeId, inlets: &mut Inlets) -> Undone {
        let mut budget = TurnBudget::new();
        while budget.is_left() {
            if self.outlets.deliveries_free() < LANE_FRAME_MAX {
                return Undone::Stalled;
            }
            let Some(frame) = inlets.next_request(peer) else {
                return Undone::Nothing;
            };
            let request = frame.get();
            budget.spend(match request {
                Request::Publish(publish) => publish.payload.len(),
                _ => 0,
            });
            self.stats.shard.lane_frames_total.add(1);
            self.handle_request(request, peer);
        }
        Undone::Work
    }

    /// A request of another thread or of this shard's own clients.
    pub(super) fn handle_request(&mut self, request: Request<'_>, asker: NodeId) {
        match request {
            Request::Publish(publish) => self.publish_here(&publish, asker),
            Request::Interest { room, view } => {
                let (epoch, top) = self.interest(room, asker, view);
                self.tell(asker, &Delivery::Interested { view, epoch, top });
            }
            Request::Uninterest { room, view } => self.uninterest(room, asker, view),
            Request::Enter { room, conn, info } => self.enter(room, (asker, conn), info),
            Request::Leave { room, conn } => self.depart(room, (asker, conn)),
            Request::Seat {
                room,
                conn,
                most,
                reply,
            } => self.seat(room, (asker, conn), most, reply),
            Request::History { room, read, reply } => self.read_history(room, read, reply, asker),
            Request::Presence { room, reply } => self.read_presence(room, reply, asker),
            Request::PresenceStats { room, reply } => {
                let (clients, users) = self.count_presence(room);
                self.tell(
                    asker,
                    &Delivery::PresenceStats {
                        reply,
                        clients,
                        users,
                    },
                );
            }
            Request::ForgetHistory { room, reply } => {
                self.forget_history(room);
                self.tell(asker, &Delivery::Done { reply });
            }
            Request::Rooms { pattern, reply } => self.list_rooms(pattern, reply, asker),
            Request::Event(_) => unreachable!("events go to the service thread"),
        }
    }

    /// Sends a delivery, or handles it when it is for this shard. Room was checked before the request
    /// was taken.
    pub(super) fn tell(&mut self, asker: NodeId, delivery: &Delivery<'_>) {
        if asker == self.settings.node {
            return self.handle_delivery(*delivery);
        }
        let sent = self.outlets.deliver(asker, delivery);
        sent.expect("requests are taken only while delivery lanes have room");
    }

    /// The home sends the view everything from now on: whoever waited for that joins.
    fn interested(&mut self, id: ViewId, epoch: Epoch, top: Offset) {
        let Some(view) = self.views.get_mut(id.index, id.generation) else {
            self.stats.shard.stale_deliveries_total.add(1);
            return;
        };
        if epoch == Epoch(0) {
            let refused = view.refused();
            for slot in refused {
                self.refuse_sub(slot, id, ErrorCode::TooManyRequests);
            }
            return self.queue_notice(id);
        }
        for slot in view.admitted(epoch, top) {
            self.join_waiting(slot, id);
        }
    }

    /// A client's publication has its place.
    fn published(&mut self, reply: ReplyTo) {
        if let ReplyTo::Client { conn, command } = reply
            && self.is_open(conn)
        {
            self.reply(conn.slot, command, &Reply::Publish);
        }
    }

    /// The home's room table is full.
    fn refused(&mut self, reply: ReplyTo) {
        match reply {
            ReplyTo::Client { conn, command } if self.is_open(conn) => {
                self.reply_error(conn.slot, command, ErrorCode::TooManyRequests);
            }
            ReplyTo::Subscriber { conn, view } if self.is_open(conn) => {
                self.refuse_sub(conn.slot, view, ErrorCode::TooManyRequests);
            }
            _ => {}
        }
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
