//! A room on a shard that has subscribers to it: who they are and what they still have to be sent.
//!
//! A publication costs one append to the tail and one mark per subscriber. A subscriber is
//! `{connection slot, cursor}`; there is no queue per subscriber. `caught_up` counts the cursors at
//! the tail's end: when it reaches the number of subscribers the tail is released.

use super::tail::{Cursor, Tail, TailLimits};
use crate::base::chunk::{ChunkPool, Part};
use crate::base::{Epoch, Offset};

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// Slot of the connection; a subscription never outlives its connection.
    pub slot: u32,
    /// What of the tail it has been sent.
    pub cursor: Cursor,
}

/// What the home knows of this view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The home has not been told of the view.
    Unannounced,
    /// The home has been told; its answer is on the way. Deliveries before it are of an earlier view.
    Awaiting,
    /// The home sends every publication after `position`.
    Live {
        /// Epoch of the room.
        epoch: Epoch,
        /// Offset of the last publication that this view has seen.
        position: Offset,
    },
}

/// What a subscriber gets in a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Everything there was.
    All,
    /// As much as fits one send; more follows.
    Some,
    /// The cursor fell off the tail: bytes are lost.
    Lost,
}

/// See the module documentation. Invariant: `caught_up` = subscribers whose cursor is at the end.
#[derive(Debug)]
pub struct View {
    room: Box<str>,
    standing: Standing,
    subscribers: Vec<Subscriber>,
    /// Connections whose subscribe command waits for the home: slot and command id.
    waiting: Vec<(u32, u32)>,
    tail: Tail,
    /// End of the tail when `turn` began: what flushes before it have offered.
    offered: Cursor,
    turn: u64,
    caught_up: u32,
    /// Whether the shard has queued a notice to the home about this view.
    pub notice_queued: bool,
}

impl View {
    /// A view that nobody knows of yet.
    pub fn new(room: &str) -> Self {
        Self {
            room: room.into(),
            standing: Standing::Unannounced,
            subscribers: Vec::new(),
            waiting: Vec::new(),
            tail: Tail::default(),
            offered: 0,
            turn: 0,
            caught_up: 0,
            notice_queued: false,
        }
    }

    /// Name of the room.
    pub fn room(&self) -> &str {
        &self.room
    }

    /// What the home knows of this view.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The subscribers, in no order.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// The tail.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Whether nobody subscribes or waits to.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.waiting.is_empty()
    }

    /// The home is being told of the view.
    pub fn announced(&mut self) {
        assert_eq!(
            self.standing,
            Standing::Unannounced,
            "a view is announced once"
        );
        self.standing = Standing::Awaiting;
    }

    /// The home's answer: returns the subscribes that waited for it.
    pub fn admitted(&mut self, epoch: Epoch, top: Offset) -> Vec<(u32, u32)> {
        assert_eq!(self.standing, Standing::Awaiting, "the home answers once");
        self.standing = Standing::Live {
            epoch,
            position: top,
        };
        std::mem::take(&mut self.waiting)
    }

    /// The home has no place for the room: returns the subscribes that waited, to be refused. Whoever
    /// asks next has the home asked again.
    pub fn refused(&mut self) -> Vec<(u32, u32)> {
        assert_eq!(self.standing, Standing::Awaiting, "the home answers once");
        self.standing = Standing::Unannounced;
        std::mem::take(&mut self.waiting)
    }

    /// Lets a subscribe command wait for the home.
    pub fn wait(&mut self, slot: u32, command: u32) {
        self.waiting.push((slot, command));
    }

    /// Whether the connection has a subscribe waiting.
    pub fn is_waiting(&self, slot: u32) -> bool {
        self.waiting.iter().any(|(waiting, _)| *waiting == slot)
    }

    /// Forgets a waiting subscribe; returns its command id.
    pub fn stop_waiting(&mut self, slot: u32) -> Option<u32> {
        let index = self
            .waiting
            .iter()
            .position(|(waiting, _)| *waiting == slot)?;
        Some(self.waiting.swap_remove(index).1)
    }

    /// Adds a subscriber that gets everything from now on; returns its index.
    pub fn subscribe(&mut self, slot: u32) -> u32 {
        assert!(
            matches!(self.standing, Standing::Live { .. }),
            "subscribers join a live view"
        );
        self.subscribers.push(Subscriber {
            slot,
            cursor: self.tail.end(),
        });
        self.caught_up += 1;
        (self.subscribers.len() - 1) as u32
    }

    /// Removes the subscriber at `index`. The last subscriber takes its index; its slot is
    /// returned, so that its connection learns the new index.
    pub fn unsubscribe(&mut self, index: u32, pool: &mut ChunkPool) -> Option<u32> {
        let gone = self.subscribers.swap_remove(index as usize);
        self.caught_up -= u32::from(gone.cursor == self.tail.end());
        self.release_when_caught_up(pool);
        self.subscribers.get(index as usize).map(|moved| moved.slot)
    }

    /// Appends an encoded push. `offset` is 0 when the publication has none; `now` is the number of
    /// the shard's turn and its time in milliseconds.
    pub fn append(
        &mut self,
        offset: Offset,
        frame: (&[u8], &[u8]),
        now: (u64, u64),
        limits: TailLimits,
        pool: &mut ChunkPool,
    ) {
        let (turn, now_ms) = now;
        let Standing::Live { position, .. } = &mut self.standing else {
            panic!("only a live view gets publications")
        };
        if offset != Offset(0) {
            assert_eq!(
                offset.0,
                position.0 + 1,
                "publications reach a view in order, without gap"
            );
            *position = offset;
        }
        if self.subscribers.is_empty() {
            return;
        }
        if self.turn != turn {
            self.turn = turn;
            self.offered = self.tail.end();
        }
        self.tail.append(frame.0, frame.1, now_ms, pool);
        self.tail.trim(limits, self.offered, now_ms, pool);
        self.caught_up = 0;
    }

    /// Hands the subscriber at `index` what it has not been sent: appends to `parts`, at most
    /// `parts_max` in all, and moves its cursor.
    pub fn take(
        &mut self,
        index: u32,
        parts_max: usize,
        parts: &mut Vec<Part>,
        pool: &mut ChunkPool,
    ) -> Taken {
        let end = self.tail.end();
        let subscriber = &mut self.subscribers[index as usize];
        if subscriber.cursor == end {
            return Taken::All;
        }
        let Some(reached) = self.tail.parts(subscriber.cursor, parts_max, parts) else {
            return Taken::Lost;
        };
        subscriber.cursor = reached;
        if reached < end {
            return Taken::Some;
        }
        self.caught_up += 1;
        self.release_when_caught_up(pool);
        Taken::All
    }

    /// Whether any subscriber lags.
    pub fn is_lagging(&self) -> bool {
        (self.caught_up as usize) < self.subscribers.len()
    }

    /// Panics unless every cursor is at or before the end, and `caught_up` counts what it should.
    /// Linear in the subscribers: for tests and the simulator.
    pub fn invariants(&self) {
        let end = self.tail.end();
        assert!(
            self.subscribers
                .iter()
                .all(|subscriber| subscriber.cursor <= end)
        );
        let caught_up = self
            .subscribers
            .iter()
            .filter(|subscriber| subscriber.cursor == end);
        assert_eq!(
            caught_up.count(),
            self.caught_up as usize,
            "caught_up of {}",
            self.room
        );
        if !self.is_lagging() {
            assert_eq!(
                self.tail.held_bytes(),
                0,
                "nobody lags, yet {} holds a tail",
                self.room
            );
        }
    }

    fn release_when_caught_up(&mut self, pool: &mut ChunkPool) {
        if !self.is_lagging() {
            self.tail.release(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TailLimits = TailLimits {
        bytes: 8 * 1024,
        age_ms: 1_000,
    };

    fn live() -> View {
        let mut view = View::new("news");
        view.announced();
        assert!(view.admitted(Epoch(1), Offset(0)).is_empty());
        view
    }

    fn taken(view: &mut View, index: u32, pool: &mut ChunkPool) -> (Taken, Vec<u8>) {
        let (mut parts, mut bytes) = (Vec::new(), Vec::new());
        let taken = view.take(index, 16, &mut parts, pool);
        parts.iter().for_each(|part| part.copy_to(&mut bytes));
        view.invariants();
        (taken, bytes)
    }

    #[test]
    fn a_subscriber_gets_what_was_published_after_it_joined_and_nothing_twice() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let early = view.subscribe(1);
        view.append(Offset(1), (b"<", b"a>"), (1, 0), LIMITS, &mut pool);
        let late = view.subscribe(2);
        view.append(Offset(2), (b"<", b"b>"), (1, 0), LIMITS, &mut pool);
        assert_eq!(
            taken(&mut view, early, &mut pool),
            (Taken::All, b"<a><b>".to_vec())
        );
        assert_eq!(taken(&mut view, early, &mut pool), (Taken::All, vec![]));
        assert!(view.is_lagging());
        assert_eq!(
            taken(&mut view, late, &mut pool),
            (Taken::All, b"<b>".to_vec())
        );
        assert_eq!(view.tail().held_bytes(), 0, "released once nobody lags");
    }

    #[test]
    fn the_last_subscriber_takes_the_place_of_one_that_leaves() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        for slot in [10, 11, 12] {
            view.subscribe(slot);
        }
        view.append(Offset(1), (b"", b"x"), (1, 0), LIMITS, &mut pool);
        assert_eq!(view.unsubscribe(0, &mut pool), Some(12));
        assert_eq!(view.unsubscribe(1, &mut pool), None);
        assert_eq!(taken(&mut view, 0, &mut pool).1, b"x");
        view.unsubscribe(0, &mut pool);
        assert!(view.is_empty() && view.tail().held_bytes() == 0);
    }

    #[test]
    fn a_laggard_is_lost_and_the_tail_stays_bounded() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let (slow, quick) = (view.subscribe(1), view.subscribe(2));
        for offset in 1..=1_000 {
            view.append(
                Offset(offset),
                (b"", &[0; 100]),
                (offset, 0),
                LIMITS,
                &mut pool,
            );
            assert_eq!(taken(&mut view, quick, &mut pool).0, Taken::All);
            assert!(view.tail().held_bytes() <= LIMITS.bytes + crate::limits::CHUNK_BYTES_MAX);
        }
        assert_eq!(taken(&mut view, slow, &mut pool).0, Taken::Lost);
    }

    #[test]
    fn a_burst_within_one_turn_makes_nobody_slow() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let reader = view.subscribe(1);
        for offset in 1..=1_000 {
            view.append(Offset(offset), (b"", &[0; 100]), (7, 0), LIMITS, &mut pool);
        }
        let (taken, bytes) = taken(&mut view, reader, &mut pool);
        assert_eq!((taken, bytes.len()), (Taken::All, 100_000));
    }

    #[test]
    #[should_panic(expected = "in order, without gap")]
    fn a_gap_between_cores_is_a_bug_of_ours() {
        let pool = &mut ChunkPool::default();
        live().append(Offset(2), (b"", b"x"), (1, 0), LIMITS, pool);
    }
}
