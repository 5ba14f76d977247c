//! A room on a shard that has subscribers to it: who they are and what they still have to be sent.
//!
//! Subscribers that see the same bytes share a **line**: the same encoding, deltas or not, joins and
//! leaves or not. Each line in use has a tail. A publication costs one append for each line and one
//! mark for each subscriber. A subscriber is `{connection slot, cursor}`; there is no queue per
//! subscriber. `caught_up` counts the cursors at the tail's end: when it reaches the number of
//! subscribers the tail is released.

use super::tail::{Cursor, Tail, TailLimits};
use crate::base::chunk::{ChunkPool, Part};
use crate::base::{Content, Epoch, Offset};
use crate::wire::client::{Data, Encoding};

/// What subscribers of one line have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineKind {
    /// How their connections write the protocol.
    pub encoding: Encoding,
    /// They take deltas.
    pub delta: bool,
    /// They are told of joins and leaves.
    pub members: bool,
}

impl LineKind {
    /// As a number below 8, to be kept with a subscription.
    pub fn bits(self) -> u16 {
        u16::from(self.encoding == Encoding::Protobuf)
            | u16::from(self.delta) << 1
            | u16::from(self.members) << 2
    }

    /// The kind that [`LineKind::bits`] made the lowest three bits from.
    pub fn from_bits(bits: u16) -> Self {
        let encoding = match bits & 1 {
            0 => Encoding::Json,
            _ => Encoding::Protobuf,
        };
        Self {
            encoding,
            delta: bits & 2 != 0,
            members: bits & 4 != 0,
        }
    }
}

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// What of the tail it has been sent.
    pub cursor: Cursor,
    /// Slot of the connection; a subscription never outlives its connection.
    pub slot: u32,
    /// It takes deltas and has nothing yet that one could start from.
    pub fresh: bool,
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

/// The publication before, which the next delta starts from.
#[derive(Debug)]
pub struct Previous {
    /// Its offset; 0 when it had none.
    pub offset: Offset,
    content: Content,
    payload: Vec<u8>,
}

impl Previous {
    /// Its payload.
    pub fn data(&self) -> Data<'_> {
        Data {
            content: self.content,
            bytes: &self.payload,
        }
    }
}

/// The subscribers of one kind and their tail. Invariant: `caught_up` = subscribers whose cursor is at
/// the end.
#[derive(Debug)]
pub struct Line {
    kind: LineKind,
    subscribers: Vec<Subscriber>,
    tail: Tail,
    /// End of the tail when `turn` began: what flushes before it have offered.
    offered: Cursor,
    turn: u64,
    caught_up: u32,
    fresh: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub struct View {
    room: Box<str>,
    standing: Standing,
    lines: Vec<Line>,
    /// Slots of connections whose subscribe waits for the home to know the view.
    waiting: Vec<u32>,
    /// Connections whose subscribe waits for what they missed.
    recovering: u32,
    previous: Option<Box<Previous>>,
    /// Whether the shard has queued a notice to the home about this view.
    pub notice_queued: bool,
    /// The namespace of the room, for the shard.
    pub namespace: u16,
}

impl View {
    /// A view that nobody knows of yet.
    pub fn new(room: &str) -> Self {
        Self {
            room: room.into(),
            standing: Standing::Unannounced,
            lines: Vec::new(),
            waiting: Vec::new(),
            recovering: 0,
            previous: None,
            notice_queued: false,
            namespace: 0,
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

    /// Whether the shard sees all that is published.
    pub fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live { .. })
    }

    /// Epoch and position of a live view.
    pub fn position(&self) -> Option<(Epoch, Offset)> {
        match self.standing {
            Standing::Live { epoch, position } => Some((epoch, position)),
            Standing::Unannounced | Standing::Awaiting => None,
        }
    }

    /// The lines, those without subscribers included. The order does not change.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.lines.iter().map(|line| line.subscribers.len()).sum()
    }

    /// The line of this kind.
    pub fn line(&self, kind: LineKind) -> Option<&Line> {
        self.lines.iter().find(|line| line.kind == kind)
    }

    /// Whether nobody subscribes or waits to.
    pub fn is_empty(&self) -> bool {
        let nobody = self.lines.iter().all(|line| line.subscribers.is_empty());
        nobody && self.waiting.is_empty() && self.recovering == 0
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

    /// The home's answer: returns the connections that waited for it.
    pub fn admitted(&mut self, epoch: Epoch, top: Offset) -> Vec<u32> {
        assert_eq!(self.standing, Standing::Awaiting, "the home answers once");
        self.standing = Standing::Live {
            epoch,
            position: top,
        };
        std::mem::take(&mut self.waiting)
    }

    /// The home has no place for the room: returns the connections that waited, to be refused. Whoever
    /// asks next has the home asked again.
    pub fn refused(&mut self) -> Vec<u32> {
        assert_eq!(self.standing, Standing::Awaiting, "the home answers once");
        self.standing = Standing::Unannounced;
        std::mem::take(&mut self.waiting)
    }

    /// Lets a subscribe wait for the home to know the view.
    pub fn wait(&mut self, slot: u32) {
        self.waiting.push(slot);
    }

    /// Whether the connection has a subscribe waiting for that.
    pub fn is_waiting(&self, slot: u32) -> bool {
        self.waiting.contains(&slot)
    }

    /// Forgets a waiting subscribe.
    pub fn stop_waiting(&mut self, slot: u32) {
        if let Some(index) = self.waiting.iter().position(|waiting| *waiting == slot) {
            self.waiting.swap_remove(index);
        }
    }

    /// A subscribe waits for what it missed.
    pub fn begin_recovery(&mut self) {
        self.recovering += 1;
    }

    /// It does not any more.
    pub fn end_recovery(&mut self) {
        self.recovering -= 1;
    }

    /// Adds a subscriber that gets everything from now on; returns its index in its line. `since` is
    /// the offset of the last publication that it has been given, if it has been given any.
    pub fn subscribe(&mut self, slot: u32, kind: LineKind, since: Option<Offset>) -> u32 {
        assert!(self.is_live(), "subscribers join a live view");
        let previous = self.previous.as_ref().map(|previous| previous.offset);
        let fresh = kind.delta && (since.is_none() || since != previous);
        let line = match self.lines.iter_mut().position(|line| line.kind == kind) {
            Some(at) => &mut self.lines[at],
            None => {
                // Most rooms have one line and never a second.
                self.lines.reserve_exact(1);
                self.lines.push(Line::new(kind));
                self.lines.last_mut().expect("pushed just now")
            }
        };
        line.subscribers.push(Subscriber {
            slot,
            cursor: line.tail.end(),
            fresh,
        });
        line.caught_up += 1;
        line.fresh += u32::from(fresh);
        (line.subscribers.len() - 1) as u32
    }

    /// Removes the subscriber at `index` of its line. The line's last subscriber takes its index; its
    /// slot is returned, so that its connection learns the new index.
    pub fn unsubscribe(&mut self, kind: LineKind, index: u32, pool: &mut ChunkPool) -> Option<u32> {
        let line = self.line_mut(kind);
        let gone = line.subscribers.swap_remove(index as usize);
        line.caught_up -= u32::from(gone.cursor == line.tail.end());
        line.fresh -= u32::from(gone.fresh);
        line.release_when_caught_up(pool);
        line.subscribers.get(index as usize).map(|moved| moved.slot)
    }

    /// A publication comes. `offset` is 0 when it has none.
    pub fn advance(&mut self, offset: Offset) {
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
    }

    /// Appends an encoded push to the line at `at`; `now` is the number of the shard's turn and its
    /// time in milliseconds.
    pub fn append(
        &mut self,
        at: usize,
        frame: (&[u8], &[u8]),
        now: (u64, u64),
        limits: TailLimits,
        pool: &mut ChunkPool,
    ) {
        let (turn, now_ms) = now;
        let line = &mut self.lines[at];
        if line.subscribers.is_empty() {
            return;
        }
        if line.turn != turn {
            line.turn = turn;
            line.offered = line.tail.end();
        }
        line.tail.append(frame.0, frame.1, now_ms, pool);
        line.tail.trim(limits, line.offered, now_ms, pool);
        line.caught_up = 0;
    }

    /// Hands the subscriber at `index` what it has not been sent: appends to `parts`, at most
    /// `parts_max` in all, and moves its cursor.
    pub fn take(
        &mut self,
        kind: LineKind,
        index: u32,
        parts_max: usize,
        parts: &mut Vec<Part>,
        pool: &mut ChunkPool,
    ) -> Taken {
        let line = self.line_mut(kind);
        let end = line.tail.end();
        let subscriber = &mut line.subscribers[index as usize];
        if subscriber.cursor == end {
            return Taken::All;
        }
        let Some(reached) = line.tail.parts(subscriber.cursor, parts_max, parts) else {
            return Taken::Lost;
        };
        subscriber.cursor = reached;
        if reached < end {
            return Taken::Some;
        }
        line.caught_up += 1;
        line.release_when_caught_up(pool);
        Taken::All
    }

    /// The subscriber at `index`, which had everything before the newest push, is not sent that.
    pub fn pass_over(&mut self, kind: LineKind, index: u32, pool: &mut ChunkPool) {
        let line = self.line_mut(kind);
        let subscriber = &mut line.subscribers[index as usize];
        if subscriber.cursor != line.tail.end() {
            subscriber.cursor = line.tail.end();
            line.caught_up += 1;
        }
        line.release_when_caught_up(pool);
    }

    /// As [`View::pass_over`], of a publication that the subscriber never gets: a delta cannot start
    /// from it there.
    pub fn leave_out(&mut self, kind: LineKind, index: u32, pool: &mut ChunkPool) {
        self.pass_over(kind, index, pool);
        let line = self.line_mut(kind);
        let subscriber = &mut line.subscribers[index as usize];
        line.fresh += u32::from(kind.delta && !subscriber.fresh);
        subscriber.fresh = kind.delta;
    }

    /// All subscribers of the line at `at` have the publication that the next delta starts from.
    pub fn ripen_all(&mut self, at: usize) {
        let line = &mut self.lines[at];
        if std::mem::take(&mut line.fresh) > 0 {
            line.subscribers
                .iter_mut()
                .for_each(|subscriber| subscriber.fresh = false);
        }
    }

    /// What the next delta starts from.
    pub fn previous(&self) -> Option<&Previous> {
        self.previous.as_deref()
    }

    /// Keeps a publication for the next delta, while anybody takes deltas.
    pub fn remember(&mut self, offset: Offset, data: Data<'_>) {
        let mut lines = self.lines.iter();
        if !lines.any(|line| line.kind.delta && !line.subscribers.is_empty()) {
            self.previous = None;
            return;
        }
        let previous = self.previous.get_or_insert_with(|| {
            Box::new(Previous {
                offset,
                content: data.content,
                payload: Vec::new(),
            })
        });
        previous.offset = offset;
        previous.content = data.content;
        previous.payload.clear();
        previous.payload.extend_from_slice(data.bytes);
    }

    /// Panics unless every cursor is at or before the end, and `caught_up` counts what it should.
    /// Linear in the subscribers: for tests and the simulator.
    pub fn invariants(&self) {
        self.lines
            .iter()
            .for_each(|line| line.invariants(&self.room));
    }

    fn line_mut(&mut self, kind: LineKind) -> &mut Line {
        let line = self.lines.iter_mut().find(|line| line.kind == kind);
        line.expect("a subscriber has a line")
    }
}

impl Line {
    fn new(kind: LineKind) -> Self {
        Self {
            kind,
            subscribers: Vec::new(),
            tail: Tail::default(),
            offered: 0,
            turn: 0,
            caught_up: 0,
            fresh: 0,
        }
    }

    /// What its subscribers have in common.
    pub fn kind(&self) -> LineKind {
        self.kind
    }

    /// The subscribers, in no order.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// The tail.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Whether a delta would find anybody without what it starts from.
    pub fn has_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// Whether any subscriber lags.
    pub fn is_lagging(&self) -> bool {
        (self.caught_up as usize) < self.subscribers.len()
    }

    fn invariants(&self, room: &str) {
        let end = self.tail.end();
        let subscribers = self.subscribers.iter();
        assert!(subscribers.clone().all(|one| one.cursor <= end));
        let caught_up = subscribers.clone().filter(|one| one.cursor == end);
        assert_eq!(
            caught_up.count(),
            self.caught_up as usize,
            "caught_up of {room}"
        );
        let fresh = subscribers.filter(|one| one.fresh).count();
        assert_eq!(fresh, self.fresh as usize, "fresh of {room}");
        if !self.is_lagging() {
            assert_eq!(
                self.tail.held_bytes(),
                0,
                "nobody lags, yet {room} holds a tail"
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

    const PLAIN: LineKind = LineKind {
        encoding: Encoding::Json,
        delta: false,
        members: false,
    };

    fn publish(view: &mut View, offset: u64, payload: &[u8], turn: u64, pool: &mut ChunkPool) {
        view.advance(Offset(offset));
        for at in 0..view.lines().len() {
            view.append(at, (b"<", payload), (turn, 0), LIMITS, pool);
        }
    }

    fn taken(view: &mut View, index: u32, pool: &mut ChunkPool) -> (Taken, Vec<u8>) {
        let (mut parts, mut bytes) = (Vec::new(), Vec::new());
        let taken = view.take(PLAIN, index, 16, &mut parts, pool);
        parts.iter().for_each(|part| part.copy_to(&mut bytes));
        view.invariants();
        (taken, bytes)
    }

    #[test]
    fn a_subscriber_gets_what_was_published_after_it_joined_and_nothing_twice() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let early = view.subscribe(1, PLAIN, None);
        publish(&mut view, 1, b"a>", 1, &mut pool);
        let late = view.subscribe(2, PLAIN, None);
        publish(&mut view, 2, b"b>", 1, &mut pool);
        assert_eq!(
            taken(&mut view, early, &mut pool),
            (Taken::All, b"<a><b>".to_vec())
        );
        assert_eq!(taken(&mut view, early, &mut pool), (Taken::All, vec![]));
        assert!(view.lines()[0].is_lagging());
        assert_eq!(
            taken(&mut view, late, &mut pool),
            (Taken::All, b"<b>".to_vec())
        );
        assert_eq!(
            view.lines()[0].tail().held_bytes(),
            0,
            "released once nobody lags"
        );
    }

    #[test]
    fn the_last_subscriber_takes_the_place_of_one_that_leaves() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        for slot in [10, 11, 12] {
            view.subscribe(slot, PLAIN, None);
        }
        publish(&mut view, 1, b"x", 1, &mut pool);
        assert_eq!(view.unsubscribe(PLAIN, 0, &mut pool), Some(12));
        assert_eq!(view.unsubscribe(PLAIN, 1, &mut pool), None);
        assert_eq!(taken(&mut view, 0, &mut pool).1, b"<x");
        view.unsubscribe(PLAIN, 0, &mut pool);
        assert!(view.is_empty() && view.lines()[0].tail().held_bytes() == 0);
    }

    #[test]
    fn a_laggard_is_lost_and_the_tail_stays_bounded() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let (slow, quick) = (
            view.subscribe(1, PLAIN, None),
            view.subscribe(2, PLAIN, None),
        );
        for offset in 1..=1_000 {
            publish(&mut view, offset, &[0; 99], offset, &mut pool);
            assert_eq!(taken(&mut view, quick, &mut pool).0, Taken::All);
            assert!(
                view.lines()[0].tail().held_bytes()
                    <= LIMITS.bytes + crate::limits::CHUNK_BYTES_MAX
            );
        }
        assert_eq!(taken(&mut view, slow, &mut pool).0, Taken::Lost);
    }

    #[test]
    fn a_burst_within_one_turn_makes_nobody_slow() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let reader = view.subscribe(1, PLAIN, None);
        for offset in 1..=1_000 {
            publish(&mut view, offset, &[0; 99], 7, &mut pool);
        }
        let (taken, bytes) = taken(&mut view, reader, &mut pool);
        assert_eq!((taken, bytes.len()), (Taken::All, 100_000));
    }

    #[test]
    #[should_panic(expected = "in order, without gap")]
    fn a_gap_between_cores_is_a_bug_of_ours() {
        live().advance(Offset(2));
    }

    #[test]
    fn each_kind_of_subscriber_reads_its_own_line() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let members = LineKind {
            members: true,
            ..PLAIN
        };
        assert_eq!(LineKind::from_bits(members.bits() | 0x100), members);
        view.subscribe(1, PLAIN, None);
        view.subscribe(2, members, None);
        view.append(1, (b"", b"join"), (1, 0), LIMITS, &mut pool);
        assert_eq!(taken(&mut view, 0, &mut pool), (Taken::All, vec![]));
        let mut parts = Vec::new();
        assert_eq!(view.take(members, 0, 16, &mut parts, &mut pool), Taken::All);
        assert_eq!(parts.iter().map(Part::len).sum::<usize>(), 4);
        view.unsubscribe(members, 0, &mut pool);
        assert_eq!(view.subscribers(), 1);
        view.invariants();
    }

    #[test]
    fn a_delta_reaches_only_who_has_what_it_starts_from() {
        let (mut view, mut pool) = (live(), ChunkPool::default());
        let delta = LineKind {
            delta: true,
            ..PLAIN
        };
        view.subscribe(1, delta, None);
        assert!(view.lines()[0].has_fresh(), "it has nothing yet");
        view.advance(Offset(1));
        view.append(0, (b"", b"full"), (1, 0), LIMITS, &mut pool);
        view.ripen_all(0);
        let data = Data {
            content: Content::Json,
            bytes: b"1",
        };
        view.remember(Offset(1), data);
        assert_eq!(view.previous().map(Previous::data), Some(data));
        view.subscribe(2, delta, Some(Offset(1)));
        assert!(!view.lines()[0].has_fresh(), "recovered up to the base");
        let late = view.subscribe(3, delta, Some(Offset(0)));
        assert!(view.lines()[0].has_fresh());
        view.pass_over(delta, late, &mut pool);
        view.ripen_all(0);
        assert!(!view.lines()[0].has_fresh());
        view.leave_out(delta, late, &mut pool);
        view.leave_out(delta, late, &mut pool);
        assert!(view.lines()[0].has_fresh(), "it has not got the base");
        view.invariants();
        for _ in 0..3 {
            view.unsubscribe(delta, 0, &mut pool);
        }
        view.remember(Offset(2), data);
        assert!(view.previous().is_none(), "nobody takes deltas any more");
    }
}
