//! A publication's way through the home shard and every shard with subscribers.

use super::core::Core;
use super::exchange::publisher_names;
use super::timers::TimerKey;
use crate::base::{Content, Epoch, NodeId, Offset, ViewId};
use crate::mesh::{Delivery, Publish, Publisher, ReplyTo};
use crate::room::home::{Home, Incoming, Published};
use crate::room::tail::TailLimits;
use crate::room::view::Standing;
use crate::wire::client::{ErrorCode, json};
use crate::wire::frame::{Opcode, server_header};

impl Core {
    /// Sequences a publication whose home is here, spreads it, and tells `asker` its place.
    pub(super) fn publish_here(&mut self, publish: &Publish<'_>, asker: NodeId) {
        let Some((index, generation)) = self.home_of(publish.room) else {
            self.stats.shard.publications_refused_total.add(1);
            return self.answer(asker, publish.reply, None);
        };
        let incoming = Incoming {
            content: publish.content,
            payload: publish.payload,
            publisher: publisher_names(&publish.publisher),
            key: publish.key,
            skip_history: publish.skip_history,
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("found or made above");
        let before = home.history_bytes();
        let mut limits = self.settings.home;
        if self.history_bytes > self.settings.histories_bytes && limits.history.count > 0 {
            limits.history.bytes = 0;
            self.stats.shard.histories_dropped_total.add(1);
        }
        let published = home.publish(&incoming, self.now_ms, &limits);
        self.history_bytes = self.history_bytes + home.history_bytes() - before;
        let epoch = home.epoch();
        if !std::mem::replace(&mut home.expiry_armed, true) {
            let check_ms = self.now_ms + self.home_check_ms();
            self.wheel
                .insert(check_ms, TimerKey::Home { index, generation });
        }
        match published {
            Published::Sequenced(offset) => {
                self.stats.shard.publications_total.add(1);
                self.spread(index, generation, offset, publish);
                self.answer(asker, publish.reply, Some((epoch, offset, false)));
            }
            Published::Duplicate(offset) => {
                self.stats.shard.duplicates_total.add(1);
                self.answer(asker, publish.reply, Some((epoch, offset, true)));
            }
        }
    }

    /// One delivery for each interested shard; this one's own view is called directly.
    fn spread(&mut self, index: u32, generation: u32, offset: Offset, publish: &Publish<'_>) {
        let Publish {
            content,
            payload,
            publisher,
            ..
        } = *publish;
        let home = self
            .homes
            .get(index, generation)
            .expect("sequenced just now");
        let mut local = None;
        for (node, view) in home.interested().iter().copied() {
            if node == self.settings.node {
                local = Some(view);
                continue;
            }
            let delivery = Delivery::Publication {
                view,
                offset,
                content,
                payload,
                publisher,
            };
            let sent = self.outlets.deliver(node, &delivery);
            sent.expect("publications are taken only while delivery lanes have room");
        }
        if let Some(view) = local {
            self.deliver(view, offset, content, payload, publisher);
        }
    }

    /// Encodes a publication once and marks every local subscriber.
    pub(super) fn deliver(
        &mut self,
        id: ViewId,
        offset: Offset,
        content: Content,
        payload: &[u8],
        publisher: Publisher<'_>,
    ) {
        let view = self.views.get_mut(id.index, id.generation);
        let Some(view) = view.filter(|view| matches!(view.standing(), Standing::Live { .. }))
        else {
            self.stats.shard.stale_deliveries_total.add(1);
            return;
        };
        let info = match publisher {
            Publisher::Upstream => None,
            Publisher::Client { user, client } => Some((user, client)),
        };
        let shown = if self.settings.home.history.count > 0 {
            offset.0
        } else {
            0
        };
        self.scratch.clear();
        json::publication_push(
            &mut self.scratch,
            view.room(),
            content,
            payload,
            shown,
            info,
        );
        let (header, len) = server_header(Opcode::Text, self.scratch.len());

        let crowded = self.pool.outstanding() > self.settings.tails_bytes;
        let limits = if crowded {
            TailLimits {
                bytes: 0,
                ..self.settings.tail
            }
        } else {
            self.settings.tail
        };
        view.append(
            offset,
            (&header[..len], &self.scratch),
            (self.turn, self.now_ms),
            limits,
            &mut self.pool,
        );
        for subscriber in view.subscribers() {
            self.dirty.mark(subscriber.slot);
        }
        self.stats
            .shard
            .deliveries_total
            .add(view.subscribers().len() as u64);
    }

    /// A shard has subscribers of a room whose home is here. Epoch 0 when the room table is full.
    pub(super) fn interest(&mut self, room: &str, shard: NodeId, view: ViewId) -> (Epoch, Offset) {
        let Some((index, generation)) = self.home_of(room) else {
            return (Epoch(0), Offset(0));
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("found or made above");
        home.interest(shard, view, self.now_ms)
    }

    pub(super) fn uninterest(&mut self, room: &str, shard: NodeId, view: ViewId) {
        if let Some((index, generation)) = self.homes.find(room) {
            let home = self
                .homes
                .get_mut(index, generation)
                .expect("the directory names live homes");
            home.uninterest(shard, view);
            // Names that clients invent must not fill the table.
            if home.is_blank() {
                self.homes.remove(index, generation);
            }
        }
    }

    /// The room's home, made when it is new; `None` when there are too many.
    fn home_of(&mut self, room: &str) -> Option<(u32, u32)> {
        if let Some(id) = self.homes.find(room) {
            return Some(id);
        }
        if self.homes.len() >= self.settings.homes_max {
            return None;
        }
        let epoch = Epoch(self.random() as u32 | 1);
        Some(self.homes.insert(Home::new(room, epoch, self.now_ms)))
    }

    fn answer(&mut self, asker: NodeId, reply: ReplyTo, place: Option<(Epoch, Offset, bool)>) {
        if reply == ReplyTo::Nobody {
            return;
        }
        if asker == self.settings.node {
            let error = place.is_none().then_some(ErrorCode::TooManyRequests);
            return self.replied(reply, error);
        }
        let delivery = match place {
            Some((epoch, offset, duplicate)) => Delivery::Published {
                reply,
                epoch,
                offset,
                duplicate,
            },
            None => Delivery::Refused { reply },
        };
        let sent = self.outlets.deliver(asker, &delivery);
        sent.expect("publications are taken only while delivery lanes have room");
    }
}
