//! The sequencer of a room: the one place where its publications get their order, and the one that
//! knows what was published and who is present.

use super::history::{History, HistoryLimits, ReadLimits};
use super::presence::{Member, Presence};
use super::recent::{Key, Recent};
use crate::base::{Epoch, NodeId, Offset, ViewId};
use crate::wire::client::Publication;

/// Bounds of what a home keeps.
#[derive(Clone, Copy, Debug)]
pub struct HomeLimits {
    /// Bounds of the history.
    pub history: HistoryLimits,
    /// Idempotency keys remembered.
    pub keys: usize,
    /// Milliseconds that a key is remembered.
    pub keys_age_ms: u64,
    /// Milliseconds for which the position outlives its last use.
    pub meta_ms: u64,
    /// Publications of one recovery, and of one page.
    pub read_max: usize,
    /// Bytes of them, in the flat form.
    pub read_bytes_max: usize,
}

impl HomeLimits {
    fn read(&self) -> ReadLimits {
        ReadLimits {
            count: self.read_max,
            bytes: self.read_bytes_max,
        }
    }
}

/// A publication on its way into the room.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// What is published; its offset is not looked at.
    pub publication: Publication<'a>,
    /// Idempotency key.
    pub key: Option<Key>,
    /// Goes to the subscribers of the moment only: no offset, no history.
    pub skip_history: bool,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has this offset and goes to all interested shards.
    Sequenced(Offset),
    /// Its key has been seen: the first one's offset; it goes nowhere.
    Duplicate(Offset),
}

/// Which past publications are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// All after this position, or none.
    Recover {
        /// `None` when the client knows no epoch: any will do.
        epoch: Option<Epoch>,
        /// The last publication that the client has.
        offset: Offset,
    },
    /// The newest one, unless the client has it.
    RecoverNewest {
        /// As above.
        epoch: Option<Epoch>,
        /// As above.
        offset: Offset,
    },
    /// As many as are asked for and allowed.
    Page {
        /// Publications at most; `u32::MAX` for as many as are allowed.
        limit: u32,
        /// Excluded itself: later ones, or earlier ones with `reverse`. `None` for an end.
        since: Option<(Option<Epoch>, Offset)>,
        /// Newest first.
        reverse: bool,
    },
}

/// See the module documentation.
#[derive(Debug)]
pub struct Home {
    room: Box<str>,
    epoch: Epoch,
    top: Offset,
    history: History,
    recent: Option<Box<Recent>>,
    presence: Option<Box<Presence>>,
    /// Shards with subscribers, each with the view that it wants deliveries for.
    interested: Vec<(NodeId, ViewId)>,
    used_ms: u64,
    /// The namespace of the room, for the shard.
    pub namespace: u16,
    /// Whether its shard looks after its expiry. Not for a home that was only subscribed to: it is
    /// forgotten with its last subscriber, however often clients come and go.
    pub expiry_armed: bool,
    /// Whether its shard looks after joins and leaves that wait.
    pub members_armed: bool,
}

impl Home {
    /// A room that nobody has published to.
    pub fn new(room: &str, epoch: Epoch, now_ms: u64) -> Self {
        Self {
            room: room.into(),
            epoch,
            top: Offset(0),
            history: History::default(),
            recent: None,
            presence: None,
            interested: Vec::new(),
            used_ms: now_ms,
            namespace: 0,
            expiry_armed: false,
            members_armed: false,
        }
    }

    /// A room as it was before a restart; its history follows with [`Home::restore`].
    pub fn restored(room: &str, epoch: Epoch, top: Offset, now_ms: u64) -> Self {
        Self {
            top,
            ..Self::new(room, epoch, now_ms)
        }
    }

    /// Puts a publication of before a restart back, oldest first. Panics when it does not follow the one
    /// before it: whoever reads a saved state has looked at that.
    pub fn restore(&mut self, offset: Offset, flat: &[u8], at_ms: u64, limits: &HomeLimits) {
        let newest = self.history.newest();
        assert!(
            newest.is_none_or(|newest| newest.0 + 1 == offset.0) && offset <= self.top,
            "a saved history has no gap"
        );
        self.history
            .append_flat(offset, flat, at_ms, limits.history);
    }

    /// Gives a publication its place: offset, history, key. A publication without history has no
    /// offset (0): an offset promises that it can be asked for again.
    pub fn publish(
        &mut self,
        incoming: &Incoming<'_>,
        now_ms: u64,
        limits: &HomeLimits,
    ) -> Published {
        self.used_ms = now_ms;
        if let Some(key) = incoming.key {
            let recent = self.recent.get_or_insert_default();
            recent.expire(now_ms, limits.keys_age_ms);
            if let Some(offset) = recent.seen(&key) {
                return Published::Duplicate(offset);
            }
        }
        let mut offset = Offset(0);
        if !incoming.skip_history {
            self.top.0 += 1;
            offset = self.top;
            self.history.expire(now_ms, limits.history);
            let publication = Publication {
                offset: offset.0,
                ..incoming.publication
            };
            self.history.append(&publication, now_ms, limits.history);
        }
        if let (Some(key), Some(recent)) = (incoming.key, &mut self.recent) {
            recent.remember(key, offset, now_ms, limits.keys);
        }
        Published::Sequenced(offset)
    }

    /// Appends past publications to `out`, flat, and says whether the position asked for is one of this
    /// history that can be served; else nothing is appended. Never a part of what was missed.
    pub fn read(
        &mut self,
        read: &Read,
        now_ms: u64,
        limits: &HomeLimits,
        out: &mut Vec<u8>,
    ) -> bool {
        self.used_ms = now_ms;
        self.history.expire(now_ms, limits.history);
        let is_ours = |epoch: Option<Epoch>| epoch.is_none_or(|epoch| epoch == self.epoch);
        match *read {
            Read::Recover { epoch, offset } => {
                is_ours(epoch)
                    && self
                        .history
                        .read_all_after(offset, self.top, limits.read(), out)
            }
            Read::RecoverNewest { epoch, offset } => {
                let is_current = is_ours(epoch) && offset == self.top;
                if is_current && (epoch.is_some() || offset != Offset(0)) {
                    return true;
                }
                let newest = self.history.newest().filter(|newest| *newest == self.top);
                let Some(newest) = newest else {
                    return is_current;
                };
                let before = Offset(newest.0 - 1);
                self.history
                    .read_all_after(before, self.top, limits.read(), out)
            }
            Read::Page {
                limit,
                since,
                reverse,
            } => {
                if since.is_some_and(|(epoch, _)| !is_ours(epoch)) {
                    return false;
                }
                let bounds = ReadLimits {
                    count: limits.read_max.min(limit as usize),
                    bytes: limits.read_bytes_max,
                };
                let since = since.map(|(_, offset)| offset);
                if reverse {
                    let end = since.unwrap_or(Offset(u64::MAX));
                    self.history.read_before(end, bounds, out);
                } else {
                    let start = since.unwrap_or(Offset(0));
                    self.history.read_after(start, bounds, out);
                }
                true
            }
        }
    }

    /// Drops the history; the position stays.
    pub fn forget_history(&mut self) {
        self.history = History::default();
    }

    /// A shard has subscribers from now on: every later publication goes to `view`. Returns the
    /// position that it starts from.
    pub fn interest(&mut self, shard: NodeId, view: ViewId, now_ms: u64) -> (Epoch, Offset) {
        self.used_ms = now_ms;
        match self.interested.iter_mut().find(|(node, _)| *node == shard) {
            Some((_, current)) => *current = view,
            None => self.interested.push((shard, view)),
        }
        (self.epoch, self.top)
    }

    /// A shard has no subscribers any more, unless it has announced a later view since.
    pub fn uninterest(&mut self, shard: NodeId, view: ViewId) {
        self.interested.retain(|entry| *entry != (shard, view));
    }

    /// A subscriber is present; `info` is its flat client info. Whether it was not before.
    pub fn enter(&mut self, member: Member, info: &[u8], now_ms: u64, announce: bool) -> bool {
        self.used_ms = now_ms;
        let presence = self.presence.get_or_insert_default();
        presence.enter(member, info, announce)
    }

    /// A subscriber is not present any more. Whether it was.
    pub fn leave(&mut self, member: Member, announce: bool) -> bool {
        let presence = self.presence.as_mut();
        presence.is_some_and(|presence| presence.leave(member, announce))
    }

    /// The next join or leave that subscribers are to be told of now: whether it is a join, and the flat
    /// info of the client.
    pub fn poll_membership(&mut self, now_ms: u64) -> Option<(bool, Box<[u8]>)> {
        let presence = self.presence.as_mut()?;
        let next = presence.poll(now_ms);
        if presence.is_idle() {
            self.presence = None;
        }
        next
    }

    /// When to look again for joins and leaves; `None` when none waits.
    pub fn membership_due_ms(&self) -> Option<u64> {
        self.presence.as_ref()?.due_ms()
    }

    /// Joins and leaves that were dropped since the last call, because too many waited.
    pub fn take_memberships_dropped(&mut self) -> u64 {
        let presence = self.presence.as_mut();
        presence.map_or(0, |presence| presence.take_dropped())
    }

    /// Appends the flat infos of all who are present; nothing and false when they exceed `bytes_max`.
    pub fn presence(&self, out: &mut Vec<u8>, bytes_max: usize) -> bool {
        let presence = self.presence.as_ref();
        presence.is_none_or(|presence| presence.list(out, bytes_max))
    }

    /// Clients and distinct users that are present.
    pub fn presence_stats(&self) -> (u32, u32) {
        self.presence
            .as_ref()
            .map_or((0, 0), |presence| presence.counts())
    }

    /// Whether it has neither subscribers nor anything that was published: forgetting it changes
    /// nothing for anybody.
    pub fn is_blank(&self) -> bool {
        self.top == Offset(0)
            && self.interested.is_empty()
            && self.recent.is_none()
            && self.presence.is_none()
    }

    /// Whether nobody subscribes: it may be forgotten for want of room, if need be.
    pub fn is_evictable(&self) -> bool {
        self.interested.is_empty() && self.presence.is_none()
    }

    /// When it was last published to, subscribed to or read.
    pub fn idle_since_ms(&self) -> u64 {
        self.used_ms
    }

    /// The shards with subscribers.
    pub fn interested(&self) -> &[(NodeId, ViewId)] {
        &self.interested
    }

    /// Name of the room.
    pub fn room(&self) -> &str {
        &self.room
    }

    /// Incarnation of the room.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Offset of the newest publication.
    pub fn top(&self) -> Offset {
        self.top
    }

    /// The history.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Bytes of the history.
    pub fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// Panics unless the history ends with the newest publication and keeps to its bounds: what was
    /// acknowledged as sequenced is there, and nothing is there that should not be. For tests and
    /// the simulator.
    pub fn invariants(&self, limits: &HomeLimits) {
        let newest = self.history.newest();
        assert!(
            newest.is_none_or(|newest| newest == self.top),
            "history of {}",
            self.room
        );
        assert!(self.history.len() <= limits.history.count);
        assert!(self.history.bytes() <= limits.history.bytes);
    }

    /// Drops what is too old; true when the home has nothing left to keep and has been idle for
    /// `idle_ms`, or for as long as positions are kept if it has one, so that it may be forgotten.
    pub fn expire(&mut self, now_ms: u64, limits: &HomeLimits, idle_ms: u64) -> bool {
        self.history.expire(now_ms, limits.history);
        if let Some(recent) = &mut self.recent {
            recent.expire(now_ms, limits.keys_age_ms);
        }
        let keys = self
            .recent
            .as_ref()
            .is_some_and(|recent| !recent.is_empty());
        let kept_ms = match self.top {
            Offset(0) => idle_ms,
            // Without a history nobody knows offsets: there is no position to keep.
            _ if limits.history.count == 0 => idle_ms,
            _ => idle_ms.max(limits.meta_ms),
        };
        let idle = self.used_ms.saturating_add(kept_ms) <= now_ms;
        idle && !keys && self.history.is_empty() && self.is_evictable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Content;
    use crate::wire::client::{Data, flat};

    const LIMITS: HomeLimits = HomeLimits {
        history: HistoryLimits {
            count: 10,
            age_ms: 100,
            bytes: 1_000,
        },
        keys: 8,
        keys_age_ms: 50,
        meta_ms: 100,
        read_max: 5,
        read_bytes_max: 1_000,
    };

    fn incoming(payload: &[u8], key: Option<u8>) -> Incoming<'_> {
        let key = key.map(|byte| [byte; 16]);
        let data = Data {
            content: Content::Json,
            bytes: payload,
        };
        Incoming {
            publication: Publication {
                data,
                ..Publication::default()
            },
            key,
            skip_history: false,
        }
    }

    #[test]
    fn what_is_sequenced_is_in_the_history() {
        let mut home = Home::new("news", Epoch(7), 0);
        for expected in 1..=30 {
            let published = home.publish(&incoming(b"1", None), 0, &LIMITS);
            assert_eq!(published, Published::Sequenced(Offset(expected)));
            assert_eq!(home.history().newest(), Some(Offset(expected)));
        }
    }

    #[test]
    fn a_repeated_key_gets_the_first_offset_within_the_window() {
        let mut home = Home::new("news", Epoch(7), 0);
        assert_eq!(
            home.publish(&incoming(b"1", Some(1)), 0, &LIMITS),
            Published::Sequenced(Offset(1))
        );
        assert_eq!(
            home.publish(&incoming(b"2", None), 0, &LIMITS),
            Published::Sequenced(Offset(2))
        );
        assert_eq!(
            home.publish(&incoming(b"1", Some(1)), 49, &LIMITS),
            Published::Duplicate(Offset(1))
        );
        assert_eq!(
            home.publish(&incoming(b"1", Some(1)), 50, &LIMITS),
            Published::Sequenced(Offset(3))
        );
    }

    #[test]
    fn a_publication_outside_history_has_no_offset() {
        let mut home = Home::new("news", Epoch(7), 0);
        let typing = Incoming {
            skip_history: true,
            ..incoming(b"1", None)
        };
        assert_eq!(
            home.publish(&typing, 0, &LIMITS),
            Published::Sequenced(Offset(0))
        );
        assert_eq!((home.top(), home.history().len()), (Offset(0), 0));
    }

    #[test]
    fn a_late_uninterest_does_not_silence_a_newer_view() {
        let (mut home, shard) = (Home::new("news", Epoch(7), 0), NodeId(3));
        let (old, new) = (
            ViewId {
                index: 1,
                generation: 0,
            },
            ViewId {
                index: 1,
                generation: 1,
            },
        );
        home.interest(shard, old, 0);
        home.interest(shard, new, 0);
        home.uninterest(shard, old);
        assert_eq!(home.interested(), [(shard, new)]);
    }

    #[test]
    fn a_home_is_forgotten_only_when_it_keeps_nothing() {
        let mut home = Home::new("news", Epoch(7), 0);
        home.publish(&incoming(b"1", Some(1)), 10, &LIMITS);
        assert!(!home.expire(59, &LIMITS, 10), "key and history");
        assert!(!home.expire(109, &LIMITS, 10), "history");
        assert!(home.expire(110, &LIMITS, 10));
        home.interest(
            NodeId(0),
            ViewId {
                index: 0,
                generation: 0,
            },
            110,
        );
        assert!(!home.expire(1_000, &LIMITS, 10), "somebody subscribes");
    }

    fn filled(count: u64) -> Home {
        let mut home = Home::new("news", Epoch(7), 0);
        for _ in 0..count {
            home.publish(&incoming(b"1", None), 0, &LIMITS);
        }
        home
    }

    fn read(home: &mut Home, read: Read) -> Option<Vec<u64>> {
        let mut out = Vec::new();
        let served = home.read(&read, 0, &LIMITS, &mut out);
        assert!(served || out.is_empty(), "never a part");
        served.then(|| flat::publications(&out).map(|one| one.offset).collect())
    }

    #[test]
    fn recovery_gives_all_that_was_missed_or_says_that_it_cannot() {
        let recover = |epoch: Option<u32>, offset| Read::Recover {
            epoch: epoch.map(Epoch),
            offset: Offset(offset),
        };
        // Ten publications of which all are kept; at most five are given.
        let mut home = filled(10);
        for (wanted, given) in [
            (recover(Some(7), 10), Some(vec![])),
            (recover(None, 10), Some(vec![])),
            (recover(Some(7), 8), Some(vec![9, 10])),
            (recover(Some(7), 5), Some(vec![6, 7, 8, 9, 10])),
            (recover(Some(7), 4), None),
            (recover(Some(8), 8), None),
            (recover(Some(0), 10), None),
            (recover(Some(7), 11), None),
        ] {
            assert_eq!(read(&mut home, wanted), given, "{wanted:?}");
        }
        let mut empty = filled(0);
        assert_eq!(read(&mut empty, recover(None, 0)), Some(vec![]));
        assert_eq!(read(&mut empty, recover(Some(7), 0)), Some(vec![]));
        assert_eq!(read(&mut empty, recover(None, 1)), None);
        let mut forgotten = filled(3);
        forgotten.forget_history();
        assert_eq!(read(&mut forgotten, recover(Some(7), 3)), Some(vec![]));
        assert_eq!(read(&mut forgotten, recover(Some(7), 2)), None);
        assert_eq!(forgotten.top(), Offset(3), "the position stays");
    }

    #[test]
    fn a_cache_gives_the_newest_to_whoever_does_not_have_it() {
        let recover = |epoch: Option<u32>, offset| Read::RecoverNewest {
            epoch: epoch.map(Epoch),
            offset: Offset(offset),
        };
        let mut home = filled(10);
        for (wanted, given) in [
            (recover(Some(7), 10), Some(vec![])),
            (recover(Some(7), 3), Some(vec![10])),
            (recover(Some(8), 10), Some(vec![10])),
            (recover(None, 0), Some(vec![10])),
        ] {
            assert_eq!(read(&mut home, wanted), given, "{wanted:?}");
        }
        home.forget_history();
        assert_eq!(read(&mut home, recover(Some(7), 9)), None);
        assert_eq!(read(&mut home, recover(Some(7), 10)), Some(vec![]));
        assert_eq!(read(&mut filled(0), recover(None, 0)), Some(vec![]));
    }

    #[test]
    fn pages_are_those_that_were_asked_for() {
        let page = |limit, since: Option<(Option<u32>, u64)>, reverse| Read::Page {
            limit,
            since: since.map(|(epoch, offset)| (epoch.map(Epoch), Offset(offset))),
            reverse,
        };
        let mut home = filled(10);
        for (wanted, given) in [
            (page(0, None, false), Some(vec![])),
            (page(2, None, false), Some(vec![1, 2])),
            (page(2, None, true), Some(vec![10, 9])),
            (page(u32::MAX, None, false), Some(vec![1, 2, 3, 4, 5])),
            (page(2, Some((Some(7), 4)), false), Some(vec![5, 6])),
            (page(2, Some((None, 4)), true), Some(vec![3, 2])),
            (page(2, Some((Some(8), 4)), false), None),
        ] {
            assert_eq!(read(&mut home, wanted), given, "{wanted:?}");
        }
    }

    #[test]
    fn a_home_with_somebody_present_is_kept() {
        let mut home = Home::new("news", Epoch(7), 0);
        let member = (
            NodeId(1),
            crate::base::ConnId {
                slot: 1,
                generation: 0,
            },
        );
        assert!(home.enter(member, b"", 0, false) && !home.is_blank());
        assert!(!home.expire(1_000_000, &LIMITS, 10));
        assert!(home.leave(member, false));
        assert_eq!((home.poll_membership(0), home.is_blank()), (None, true));
    }

    #[test]
    fn a_position_outlives_the_history() {
        let mut home = filled(1);
        assert!(!home.expire(99, &LIMITS, 10), "the history is there");
        let limits = HomeLimits {
            meta_ms: 500,
            ..LIMITS
        };
        assert!(!home.expire(499, &limits, 10), "its position is kept");
        assert!(home.expire(500, &limits, 10));
    }
}
