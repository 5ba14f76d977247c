//! A room on a shard that has subscribers to it: who they are and what they still have to be sent.
//!
//! Subscribers that see the same bytes share a **line**: the same encoding, deltas or not, joins and
//! leaves or not, the same filter or none. Each line in use has a tail. A publication costs one append
//! for each line and one mark for each subscriber. A subscriber is `{connection slot, cursor}`; there is
//! no queue per subscriber. `caught_up` counts the cursors at the tail's end: when it reaches the number of
//! subscribers the tail is released.

mod line;
#[cfg(test)]
mod tests;

pub use line::{Line, LineKind, Subscriber};

use super::tail::TailLimits;
use crate::base::chunk::{ChunkPool, Part};
use crate::base::{Content, Epoch, Offset};
use crate::limits::FILTERS_PER_VIEW_MAX;
use crate::wire::client::{Data, Filter};

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
        self.place(kind).and_then(|at| self.lines.get(at))
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

    /// The kind of the line that is like `kind` and has this filter; `None` when the view has too many
    /// filters. The line is its first subscriber's, and may become another filter's after its last one's.
    pub fn filtered(&mut self, kind: LineKind, filter: Box<Filter>) -> Option<LineKind> {
        let of_place = |at: usize| LineKind {
            filtered: at as u16 + 1,
            ..kind
        };
        let is_same = |(at, line): (usize, &Line)| {
            line.kind == of_place(at) && line.filter.as_ref() == Some(&filter)
        };
        if let Some(at) = self.lines.iter().enumerate().position(is_same) {
            return Some(of_place(at));
        }
        let is_free = |line: &Line| line.filter.is_some() && line.subscribers.is_empty();
        let at = match self.lines.iter().position(is_free) {
            Some(at) => {
                self.lines[at] = Line::new(of_place(at));
                at
            }
            None => {
                let filters = self.lines.iter().filter(|line| line.filter.is_some());
                if filters.count() >= FILTERS_PER_VIEW_MAX {
                    return None;
                }
                let at = self.lines.len();
                self.lines.push(Line::new(of_place(at)));
                at
            }
        };
        self.lines[at].filter = Some(filter);
        Some(of_place(at))
    }

    /// Adds a subscriber that gets everything from now on; returns its index in its line. `since` is
    /// the offset of the last publication that it has been given, if it has been given any.
    pub fn subscribe(&mut self, slot: u32, kind: LineKind, since: Option<Offset>) -> u32 {
        assert!(self.is_live(), "subscribers join a live view");
        let previous = self.previous.as_ref().map(|previous| previous.offset);
        let fresh = kind.delta && (since.is_none() || since != previous);
        let line = match self.place(kind) {
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

    /// Where the line of this kind is.
    fn place(&self, kind: LineKind) -> Option<usize> {
        match kind.filtered {
            0 => self.lines.iter().position(|line| line.kind == kind),
            place => Some(usize::from(place) - 1),
        }
    }

    fn line_mut(&mut self, kind: LineKind) -> &mut Line {
        let at = self.place(kind).expect("a subscriber has a line");
        let line = &mut self.lines[at];
        debug_assert_eq!(
            line.kind, kind,
            "a line is one kind's while it has subscribers"
        );
        line
    }
}
