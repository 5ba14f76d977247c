//! The sequencer of a room: the one place where its publications get their order.

use super::history::{History, HistoryLimits, Stored};
use super::recent::{Key, Recent};
use crate::base::{ConnId, Content, Epoch, NodeId, Offset, ViewId};

/// Bounds of what a home keeps.
#[derive(Clone, Copy, Debug)]
pub struct HomeLimits {
    /// Bounds of the history.
    pub history: HistoryLimits,
    /// Idempotency keys remembered.
    pub keys: usize,
    /// Milliseconds that a key is remembered.
    pub keys_age_ms: u64,
    pub meta_ms: u64,
    pub read_max: usize,
    pub read_bytes_max: usize,
}
pub enum Read { Recover { epoch: Option<Epoch>, offset: Offset }, RecoverNewest { epoch: Option<Epoch>, offset: Offset }, Page { limit: u32, since: Option<(Option<Epoch>, Offset)>, reverse: bool } }


/// A publication on its way into the room.
pub struct Incoming<'a> { pub publication: crate::wire::client::Publication<'a>, pub key: Option<Key>, pub skip_history: bool }
/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has this offset and goes to all interested shards.
    Sequenced(Offset),
    /// Its key has been seen: the first one's offset; it goes nowhere.
    Duplicate(Offset),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Home {
    room: Box<str>,
    epoch: Epoch,
    top: Offset,
    history: History,
    recent: Option<Box<Recent>>,
    /// Shards with subscribers, each with the view that it wants deliveries for.
    interested: Vec<(NodeId, ViewId)>,
    used_ms: u64,
    /// Whether its shard looks after its expiry. Not for a home that was only subscribed to: it is
    /// forgotten with its last subscriber, however often clients come and go.
    pub expiry_armed: bool,
    pub members_armed: bool,
    pub namespace: u16,
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
            interested: Vec::new(),
            used_ms: now_ms,
            expiry_armed: false,
            members_armed: false,
            namespace: 0,
        }
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
        }
        if let (Some(key), Some(recent)) = (incoming.key, &mut self.recent) {
            recent.remember(key, offset, now_ms, limits.keys);
        }
        Published::Sequenced(offset)
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

    /// Whether it has neither subscribers nor anything that was published: forgetting it changes
    /// nothing for anybody.
    pub fn is_blank(&self) -> bool {
        self.top == Offset(0) && self.interested.is_empty() && self.recent.is_none()
    }

    pub fn enter(&mut self, _: (NodeId, ConnId), _: &[u8], _: u64, _: bool) -> bool { false }
    pub fn leave(&mut self, _: (NodeId, ConnId), _: bool) -> bool { false }
    pub fn poll_membership(&mut self, _: u64) -> Option<(bool, Box<[u8]>)> { None }
    pub fn membership_due_ms(&self) -> Option<u64> { None }
    pub fn take_memberships_dropped(&mut self) -> u64 { 0 }
    pub fn presence(&self, _: &mut Vec<u8>, _: usize) -> bool { true }
    pub fn presence_stats(&self) -> (u32, u32) { (0, 0) }
    pub fn read(&mut self, _: &Read, _: u64, _: &HomeLimits, _: &mut Vec<u8>) -> bool { false }
    pub fn forget_history(&mut self) {}
    pub fn idle_since_ms(&self) -> u64 { 0 }
    pub fn is_evictable(&self) -> bool { false }
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
    pub fn history(&mut self) -> &mut History {
        &mut self.history
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
    /// `idle_ms`, so that it may be forgotten.
    pub fn expire(&mut self, now_ms: u64, limits: &HomeLimits, idle_ms: u64) -> bool {
        self.history.expire(now_ms, limits.history);
        if let Some(recent) = &mut self.recent {
            recent.expire(now_ms, limits.keys_age_ms);
        }
        let keys = self
            .recent
            .as_ref()
            .is_some_and(|recent| !recent.is_empty());
        let idle = self.used_ms + idle_ms <= now_ms;
        idle && !keys && self.history.is_empty() && self.interested.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HomeLimits = HomeLimits {
        history: HistoryLimits {
            count: 10,
            age_ms: 100,
            bytes: 1_000,
        },
        keys: 8,
        keys_age_ms: 50,
    };

    fn incoming(payload: &[u8], key: Option<u8>) -> Incoming<'_> {
        let key = key.map(|byte| [byte; 16]);
        Incoming {
            content: Content::Json,
            payload,
            publisher: ("", ""),
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
}
