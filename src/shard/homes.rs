//! The rooms whose home this shard is: what is asked of them by this shard's clients, by other shards
//! and by the service thread.

use super::Left;
use super::core::Core;
use super::timers::TimerKey;
use crate::base::{ConnId, Epoch, NodeId, Offset, Verdict, ViewId};
use crate::limits::{COMMAND_OUTPUT_MAX, EVICTION_LOOKS, LANE_FRAME_OVERHEAD, READ_BYTES_MAX};
use crate::mesh::{Answer, Delivery, HistoryRead, Publish, ReplyTo};
use crate::room::home::{Home, Incoming, Published, Read};
use crate::room::state::push_home;
use crate::wire::client::{Data, Publication, Tags, flat};
use foldhash::fast::FixedState;
use std::hash::BuildHasher;

impl Core {
    /// Sequences a publication whose home is here, spreads it, and tells `asker` its place.
    pub(super) fn publish_here(&mut self, publish: &Publish<'_>, asker: NodeId) {
        let Some((index, generation)) = self.home_of(publish.room) else {
            self.stats.shard.publications_refused_total.add(1);
            if publish.reply != ReplyTo::Nobody {
                let reply = publish.reply;
                self.tell(asker, &Delivery::Refused { reply });
            }
            return;
        };
        let mut info = publish.info;
        let incoming = Incoming {
            publication: Publication {
                offset: 0,
                data: Data {
                    content: publish.content,
                    bytes: publish.payload,
                },
                info: flat::take_info(&mut info),
                tags: Tags::from_flat(publish.tags),
                delta: false,
            },
            key: publish.key,
            skip_history: publish.skip_history,
            version: publish.version,
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("found or made above");
        let (before, namespace) = (home.history_bytes(), home.namespace);
        let mut limits = self.settings.homes[usize::from(namespace)];
        if self.history_bytes > self.settings.histories_bytes && limits.history.count > 0 {
            limits.history.bytes = 0;
            self.stats.shard.histories_dropped_total.add(1);
        }
        let published = home.publish(&incoming, self.now_ms, &limits);
        self.history_bytes = self.history_bytes + home.history_bytes() - before;
        let epoch = home.epoch();
        if !std::mem::replace(&mut home.expiry_armed, true) {
            let check_ms = self.now_ms + self.home_check_ms(namespace);
            self.wheel
                .insert(check_ms, TimerKey::Home { index, generation });
        }
        let (offset, duplicate) = match published {
            Published::Sequenced(offset) => {
                self.stats.shard.publications_total.add(1);
                self.spread(index, generation, offset, publish);
                (offset, false)
            }
            Published::Duplicate(offset) => {
                self.stats.shard.duplicates_total.add(1);
                (offset, true)
            }
            Published::Outdated(offset) => {
                self.stats.shard.publications_outdated_total.add(1);
                (offset, true)
            }
        };
        if publish.reply != ReplyTo::Nobody {
            let delivery = Delivery::Published {
                reply: publish.reply,
                epoch,
                offset,
                duplicate,
            };
            self.tell(asker, &delivery);
        }
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
            self.forget_blank(index, generation);
        }
    }

    /// A subscriber is present in a room whose home is here.
    pub(super) fn enter(&mut self, room: &str, member: (NodeId, ConnId), info: &[u8]) {
        let Some((index, generation)) = self.home_of(room) else {
            return;
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("found or made above");
        let announce = self.settings.namespaces.options(home.namespace).join_leave;
        self.present += usize::from(home.enter(member, info, self.now_ms, announce));
        self.push_memberships(index, generation);
    }

    /// A user's connection wants to be one of `most`.
    pub(super) fn seat(&mut self, room: &str, member: (NodeId, ConnId), most: u32, reply: ReplyTo) {
        let found = self.home_of(room);
        let home = found.and_then(|(index, generation)| self.homes.get_mut(index, generation));
        let is_free = home
            .as_ref()
            .is_some_and(|home| home.presence_stats().0 < most);
        if let Some(home) = home.filter(|_| is_free) {
            self.present += usize::from(home.enter(member, b"", self.now_ms, false));
        }
        let verdict = if is_free {
            Verdict::Result
        } else {
            Verdict::Error
        };
        let answer = Answer {
            reply,
            verdict,
            code: 0,
            text: "",
            result: b"",
        };
        self.tell(member.0, &Delivery::Answer(answer));
    }

    /// It is no longer.
    pub(super) fn depart(&mut self, room: &str, member: (NodeId, ConnId)) {
        let Some((index, generation)) = self.homes.find(room) else {
            return;
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("the directory names live homes");
        let announce = self.settings.namespaces.options(home.namespace).join_leave;
        self.present -= usize::from(home.leave(member, announce));
        self.push_memberships(index, generation);
        self.forget_blank(index, generation);
    }

    /// Spreads the joins and leaves that are due, while lanes have room for them and for whatever the
    /// caller has to send; the rest a little later.
    pub(super) fn push_memberships(&mut self, index: u32, generation: u32) {
        while self.outlets.deliveries_free() >= 2 * COMMAND_OUTPUT_MAX {
            let Some(home) = self.homes.get_mut(index, generation) else {
                return;
            };
            let dropped = home.take_memberships_dropped();
            self.stats.shard.memberships_dropped_total.add(dropped);
            let Some((joined, info)) = home.poll_membership(self.now_ms) else {
                break;
            };
            debug_assert!(info.len() < LANE_FRAME_OVERHEAD, "infos are bounded");
            let interested: Vec<(NodeId, ViewId)> = home.interested().to_vec();
            for (node, view) in interested {
                let info = &*info;
                self.tell(node, &Delivery::Membership { view, joined, info });
            }
        }
        let Some(home) = self.homes.get_mut(index, generation) else {
            return;
        };
        if let Some(due_ms) = home.membership_due_ms()
            && !std::mem::replace(&mut home.members_armed, true)
        {
            let due_ms = due_ms.max(self.now_ms + 1);
            self.wheel
                .insert(due_ms, TimerKey::Members { index, generation });
        }
    }

    /// Past publications of a room whose home is here.
    pub(super) fn read_history(
        &mut self,
        room: &str,
        read: HistoryRead,
        reply: ReplyTo,
        asker: NodeId,
    ) {
        let Some((index, generation)) = self.home_of(room) else {
            return self.tell(asker, &Delivery::Refused { reply });
        };
        let home = self
            .homes
            .get_mut(index, generation)
            .expect("found or made above");
        let read = match read {
            HistoryRead::Recover { epoch, offset } => Read::Recover { epoch, offset },
            HistoryRead::RecoverNewest { epoch, offset } => Read::RecoverNewest { epoch, offset },
            HistoryRead::Page {
                limit,
                since,
                reverse,
            } => Read::Page {
                limit,
                since: since.map(|since| (since.epoch, since.offset)),
                reverse,
            },
        };
        let limits = &self.settings.homes[usize::from(home.namespace)];
        let before = home.history_bytes();
        let mut publications = std::mem::take(&mut self.flat);
        publications.clear();
        let recovered = home.read(&read, self.now_ms, limits, &mut publications);
        self.history_bytes = self.history_bytes + home.history_bytes() - before;
        let (epoch, top) = (home.epoch(), home.top());
        self.tell(
            asker,
            &Delivery::History {
                reply,
                epoch,
                top,
                recovered,
                publications: &publications,
            },
        );
        self.flat = publications;
        self.forget_blank(index, generation);
    }

    /// Who is present in a room whose home is here.
    pub(super) fn read_presence(&mut self, room: &str, reply: ReplyTo, asker: NodeId) {
        let mut infos = std::mem::take(&mut self.flat);
        infos.clear();
        let found = self.homes.find(room);
        let home = found.and_then(|(index, generation)| self.homes.get(index, generation));
        let complete = home.is_none_or(|home| home.presence(&mut infos, READ_BYTES_MAX));
        self.tell(
            asker,
            &Delivery::Presence {
                reply,
                complete,
                infos: &infos,
            },
        );
        self.flat = infos;
    }

    /// How many clients and users are present.
    pub(super) fn count_presence(&self, room: &str) -> (u32, u32) {
        let found = self.homes.find(room);
        let home = found.and_then(|(index, generation)| self.homes.get(index, generation));
        home.map_or((0, 0), Home::presence_stats)
    }

    pub(super) fn forget_history(&mut self, room: &str) {
        if let Some((index, generation)) = self.homes.find(room)
            && let Some(home) = self.homes.get_mut(index, generation)
        {
            self.history_bytes -= home.history_bytes();
            home.forget_history();
        }
    }

    /// The rooms with subscribers on this shard whose names match.
    pub(super) fn list_rooms(&mut self, pattern: &str, reply: ReplyTo, asker: NodeId) {
        let mut rooms = std::mem::take(&mut self.flat);
        rooms.clear();
        let mut complete = true;
        for view in self.views.iter().filter(|view| view.subscribers() > 0) {
            let room = view.room();
            if !pattern.is_empty() && !crate::access::glob_matches(pattern, room) {
                continue;
            }
            if rooms.len() + room.len() + 6 > READ_BYTES_MAX {
                complete = false;
                break;
            }
            rooms.extend((room.len() as u16).to_le_bytes());
            rooms.extend(room.as_bytes());
            rooms.extend((view.subscribers() as u32).to_le_bytes());
        }
        self.tell(
            asker,
            &Delivery::Rooms {
                reply,
                complete,
                rooms: &rooms,
            },
        );
        self.flat = rooms;
    }

    /// The room's home here, made when it is the first time that anybody asks; `None` when the table
    /// is full of rooms that somebody uses.
    pub(super) fn home_of(&mut self, room: &str) -> Option<(u32, u32)> {
        if let Some(found) = self.homes.find(room) {
            return Some(found);
        }
        if self.homes.len() >= self.settings.homes_max && !self.evict() {
            return None;
        }
        let mut home = Home::new(room, self.fresh_epoch(room), self.now_ms);
        home.namespace = self.settings.namespaces.find(room).unwrap_or(0);
        Some(self.homes.insert(home))
    }

    /// The epoch of a room that nobody has published to as far as this shard remembers. A room that is
    /// forgotten before its first publication gets the same again, so its subscribers have missed
    /// nothing; once a position was forgotten, all new rooms get other epochs.
    fn fresh_epoch(&self, room: &str) -> Epoch {
        let seed = self.settings.epoch_seed ^ u64::from(self.settings.incarnation);
        let hash = FixedState::with_seed(seed).hash_one(room.as_bytes());
        Epoch((hash >> 32) as u32 | 1)
    }

    /// Forgets a home that has nothing to keep.
    pub(super) fn forget_home(&mut self, index: u32, generation: u32) {
        if let Some(home) = self.homes.remove(index, generation) {
            self.history_bytes -= home.history_bytes();
            let options = self.settings.namespaces.options(home.namespace);
            if home.top() != Offset(0) && options.has_history() {
                self.settings.incarnation = self.settings.incarnation.wrapping_add(1);
            }
        }
    }

    /// Names that clients invent must not fill the table.
    pub(super) fn forget_blank(&mut self, index: u32, generation: u32) {
        if self
            .homes
            .get(index, generation)
            .is_some_and(Home::is_blank)
        {
            self.forget_home(index, generation);
        }
    }

    /// Takes a room over from an earlier process.
    pub(super) fn adopt(&mut self, mut home: Home) {
        if self.homes.find(home.room()).is_some() {
            return;
        }
        self.history_bytes += home.history_bytes();
        home.expiry_armed = true;
        let check_ms = self.now_ms + self.home_check_ms(home.namespace);
        let (index, generation) = self.homes.insert(home);
        self.wheel
            .insert(check_ms, TimerKey::Home { index, generation });
    }

    /// What is to be known of the rooms in the next process.
    pub(super) fn leave_homes(&self) -> Left {
        let mut section = Vec::new();
        for home in self.homes.iter() {
            push_home(&mut section, home, self.now_ms);
        }
        Left {
            section,
            incarnation: self.settings.incarnation,
        }
    }

    /// Gives up a home that nobody subscribes to, the longest unused of some.
    fn evict(&mut self) -> bool {
        let mut oldest: Option<(u64, u32, u32)> = None;
        for _ in 0..EVICTION_LOOKS {
            let Some((index, generation, home)) = self.homes.next_from(self.eviction_hand) else {
                self.eviction_hand = 0;
                continue;
            };
            self.eviction_hand = index + 1;
            let idle_ms = home.idle_since_ms();
            if home.is_evictable() && oldest.is_none_or(|(other_ms, ..)| idle_ms < other_ms) {
                oldest = Some((idle_ms, index, generation));
            }
        }
        let Some((_, index, generation)) = oldest else {
            return false;
        };
        self.stats.shard.homes_evicted_total.add(1);
        self.forget_home(index, generation);
        true
    }
}
