//! The sequencer of a room: the one place where its publications get their order, and where it is known
//! what was published lately and who is present.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use super::history::{History, HistoryLimits};
use super::moment::Moment;
use super::presence::{Pace, Presence};
use super::recent::{Key, Recent};
use super::state::SavedHome;
use crate::base::{ConnId, Epoch, NodeId, Offset, Version, ViewId};
use crate::wire::client::Publication;

/// Bounds of what a home keeps, and of what one read of it returns.
#[derive(Clone, Copy, Debug)]
pub struct HomeLimits {
    /// Bounds of the history.
    pub history: HistoryLimits,
    /// Idempotency keys remembered.
    pub keys: usize,
    /// Milliseconds that a key is remembered.
    pub keys_age_ms: u64,
    /// Milliseconds for which the position of a room that was published to outlives its last use.
    pub meta_ms: u64,
    /// Publications in one recovery.
    pub read_max: usize,
    /// Publications in one page.
    pub page_max: usize,
    /// Bytes of one read, flat.
    pub read_bytes_max: usize,
}

/// A publication on its way into the room.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// What is published. Its offset counts for nothing: the home gives it one.
    pub publication: Publication<'a>,
    /// Idempotency key.
    pub key: Option<Key>,
    /// Goes to the subscribers of the moment only: no offset, no history.
    pub skip_history: bool,
    /// How new it is.
    pub version: Option<Version>,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has this offset and goes to all interested shards.
    Sequenced(Offset),
    /// Its key has been seen: the first one's offset; it goes nowhere.
    Duplicate(Offset),
    /// Its version is not newer than the newest: the room's offset; it goes nowhere.
    Outdated(Offset),
}

/// Which past publications are asked for. An epoch of `None` matches any: the client knows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// All after this position, without exception, or none.
    Recover {
        /// Of the position.
        epoch: Option<Epoch>,
        /// Last publication that the client has.
        offset: Offset,
    },
    /// The newest one, unless the client has it.
    RecoverNewest {
        /// Of the position.
        epoch: Option<Epoch>,
        /// Last publication that the client has.
        offset: Offset,
    },
    /// As many as there are and as a read may return.
    Page {
        /// Publications at most.
        limit: u32,
        /// Excluded itself: later ones, or earlier ones with `reverse`.
        since: Option<(Option<Epoch>, Offset)>,
        /// Newest first.
        reverse: bool,
    },
}

/// See the module documentation.
///
/// Invariant: a history that is not empty ends with the publication at `top`.
#[derive(Debug)]
pub struct Home {
    room: Box<str>,
    epoch: Epoch,
    top: Offset,
    history: History,
    recent: Option<Box<Recent>>,
    /// The newest version that a publication had. Kept as long as the position.
    version: Option<Box<Version>>,
    /// Shards with subscribers, each with the view that it wants deliveries for.
    interested: Vec<(NodeId, ViewId)>,
    presence: Option<Box<Presence>>,
    /// Outlives `presence`, so that coming and going alone fills no bucket.
    pace: Pace,
    used: Moment,
    /// Index of the room's namespace, for its shard; 0 until the shard says otherwise.
    pub namespace: u16,
    /// Whether its shard looks after its expiry. Not for a home that was only subscribed to: it is
    /// forgotten with its last subscriber, however often clients come and go.
    pub expiry_armed: bool,
    /// Whether its shard looks after the announcements that wait.
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
            version: None,
            interested: Vec::new(),
            presence: None,
            pace: Pace::default(),
            used: Moment::now(now_ms),
            namespace: 0,
            expiry_armed: false,
            members_armed: false,
        }
    }

    /// A room as it was `down_ms` milliseconds ago, less what has grown too old since.
    pub fn restore(saved: &SavedHome<'_>, down_ms: u64, now_ms: u64, limits: &HomeLimits) -> Self {
        let before = |age_ms: u64| Moment::before(now_ms, age_ms.saturating_add(down_ms));
        let mut home = Self::new(saved.room, saved.epoch, now_ms);
        home.top = saved.top;
        home.used = before(saved.idle_ms);
        home.version = saved.version.map(Box::new);
        for (age_ms, publication) in saved.publications() {
            let history = &mut home.history;
            history.append_aged(&publication, before(age_ms), limits.history);
        }
        for (age_ms, key, offset) in saved.keys() {
            let recent = home.recent.get_or_insert_default();
            recent.remember_aged(key, offset, before(age_ms), limits.keys);
        }
        home.drop_old(now_ms, limits);
        home
    }

    /// Gives a publication its place: offset, history, key. A publication without history has no
    /// offset (0): an offset promises that it can be asked for again.
    pub fn publish(
        &mut self,
        incoming: &Incoming<'_>,
        now_ms: u64,
        limits: &HomeLimits,
    ) -> Published {
        self.used = Moment::now(now_ms);
        if let Some(key) = incoming.key {
            let recent = self.recent.get_or_insert_default();
            recent.expire(now_ms, limits.keys_age_ms);
            if let Some(offset) = recent.seen(&key) {
                return Published::Duplicate(offset);
            }
        }
        if let Some(version) = incoming.version {
            match &mut self.version {
                Some(last) if !version.is_newer_than(**last) => {
                    return Published::Outdated(self.top);
                }
                Some(last) => **last = version,
                None => self.version = Some(Box::new(version)),
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

    /// Appends the publications asked for, flat, in the order asked for.
    ///
    /// True means that the position asked with is one of this history. For the two that recover it
    /// means also that the client has everything once it has them; nothing is appended otherwise. A
    /// page ends before it would exceed a bound, so a first publication that exceeds it by itself
    /// leaves it empty.
    pub fn read(
        &mut self,
        read: &Read,
        now_ms: u64,
        limits: &HomeLimits,
        out: &mut Vec<u8>,
    ) -> bool {
        self.used = Moment::now(now_ms);
        self.history.expire(now_ms, limits.history);
        match *read {
            Read::Recover { epoch, offset } => self.recover(epoch, offset, limits, out),
            Read::RecoverNewest { epoch, offset } => {
                self.recover_newest(epoch, offset, limits, out)
            }
            Read::Page {
                limit,
                since,
                reverse,
            } => {
                let valid = since.is_none_or(|(epoch, _)| self.is_epoch(epoch));
                if valid {
                    let count = usize::try_from(limit)
                        .map_or(limits.page_max, |limit| limit.min(limits.page_max));
                    let since = since.map(|(_, offset)| offset);
                    self.page(count, limits.read_bytes_max, since, reverse, out);
                }
                valid
            }
        }
    }

    fn recover(
        &self,
        epoch: Option<Epoch>,
        offset: Offset,
        limits: &HomeLimits,
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.is_epoch(epoch) || offset > self.top {
            return false;
        }
        let missed = self.top.0 - offset.0;
        let start = self.history.index_after(offset);
        let range = start..self.history.len();
        let publications = self.history.flat(range.clone());
        let complete = range.len() as u64 == missed
            && range.len() <= limits.read_max
            && publications.len() <= limits.read_bytes_max;
        if complete {
            out.extend_from_slice(publications);
        }
        complete
    }

    fn recover_newest(
        &self,
        epoch: Option<Epoch>,
        offset: Offset,
        limits: &HomeLimits,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(newest) = self.history.len().checked_sub(1) else {
            return self.is_epoch(epoch) && offset == self.top;
        };
        if epoch == Some(self.epoch) && offset == self.top {
            return true;
        }
        let publication = self.history.flat(newest..newest + 1);
        let fits = publication.len() <= limits.read_bytes_max;
        if fits {
            out.extend_from_slice(publication);
        }
        fits
    }

    fn page(
        &self,
        count: usize,
        bytes_max: usize,
        since: Option<Offset>,
        reverse: bool,
        out: &mut Vec<u8>,
    ) {
        let kept = self.history.len();
        let before = |offset: Offset| match offset.0.checked_sub(1) {
            Some(earlier) => self.history.index_after(Offset(earlier)),
            None => 0,
        };
        let indices = if reverse {
            0..since.map_or(kept, before)
        } else {
            since.map_or(0, |offset| self.history.index_after(offset))..kept
        };
        let mut bytes = 0;
        for step in 0..indices.len().min(count) {
            let index = if reverse {
                indices.end - 1 - step
            } else {
                indices.start + step
            };
            let publication = self.history.flat(index..index + 1);
            bytes += publication.len();
            if bytes > bytes_max {
                return;
            }
            out.extend_from_slice(publication);
        }
    }

    fn is_epoch(&self, epoch: Option<Epoch>) -> bool {
        epoch.is_none_or(|epoch| epoch == self.epoch)
    }

    /// Drops the history. The position stays: whoever missed something of it cannot recover.
    pub fn forget_history(&mut self) {
        self.history.clear();
    }

    /// A shard has subscribers from now on: every later publication goes to `view`. Returns the
    /// position that it starts from.
    pub fn interest(&mut self, shard: NodeId, view: ViewId, now_ms: u64) -> (Epoch, Offset) {
        self.used = Moment::now(now_ms);
        match self.interested.iter_mut().find(|(node, _)| *node == shard) {
            Some((_, current)) => *current = view,
            None => self.interested.push((shard, view)),
        }
        (self.epoch, self.top)
    }

    /// A shard has no subscribers any more, unless it has announced a later view since.
    pub fn uninterest(&mut self, shard: NodeId, view: ViewId) {
        self.interested.retain(|entry| *entry != (shard, view));
        if self.interested.is_empty()
            && let Some(presence) = &mut self.presence
        {
            presence.forget_waiting();
            self.release_presence();
        }
    }

    /// A subscriber is present; `info` is its flat client info. Returns whether it is so newly; else
    /// its info is replaced and nothing is announced.
    pub fn enter(
        &mut self,
        member: (NodeId, ConnId),
        info: &[u8],
        now_ms: u64,
        announce: bool,
    ) -> bool {
        self.used = Moment::now(now_ms);
        let presence = self.presence.get_or_insert_default();
        presence.enter(member, info, announce)
    }

    /// A subscriber is present no longer. Returns whether it was.
    pub fn leave(&mut self, member: (NodeId, ConnId), announce: bool) -> bool {
        let Some(presence) = &mut self.presence else {
            return false;
        };
        let left = presence.leave(member, announce);
        self.release_presence();
        left
    }

    /// The next join (true) or leave to push now, with the client's flat info; `None` when none waits
    /// or no more may go out yet.
    pub fn poll_membership(&mut self, now_ms: u64) -> Option<(bool, Box<[u8]>)> {
        let presence = self
            .presence
            .as_mut()
            .filter(|presence| presence.is_waiting())?;
        if !self.pace.take(now_ms) {
            return None;
        }
        let announcement = presence.take_waiting();
        self.release_presence();
        announcement
    }

    /// When to poll again, on the shard's clock, if something waits; past when it is due already.
    pub fn membership_due_ms(&self) -> Option<u64> {
        let waiting = self
            .presence
            .as_ref()
            .is_some_and(|presence| presence.is_waiting());
        waiting.then(|| self.pace.due_ms())
    }

    /// Announcements dropped since the last call, because too many waited.
    pub fn take_memberships_dropped(&mut self) -> u64 {
        let presence = self.presence.as_mut();
        presence.map_or(0, |presence| presence.dropped())
    }

    /// Appends the flat infos of all who are present, or nothing and says false when they exceed
    /// `bytes_max`.
    pub fn presence(&self, out: &mut Vec<u8>, bytes_max: usize) -> bool {
        let presence = self.presence.as_ref();
        presence.is_none_or(|presence| presence.list(out, bytes_max))
    }

    /// Clients present and distinct users among them; all anonymous clients are one user.
    pub fn presence_stats(&self) -> (u32, u32) {
        let presence = self.presence.as_ref();
        presence.map_or((0, 0), |presence| {
            (presence.members() as u32, presence.users() as u32)
        })
    }

    /// A room without presence keeps nothing for it.
    fn release_presence(&mut self) {
        let done = |presence: &mut Box<Presence>| presence.members() == 0 && !presence.is_waiting();
        self.presence.take_if(done);
    }

    /// Whether it has neither subscribers nor anything that was published: forgetting it changes
    /// nothing for anybody.
    pub fn is_blank(&self) -> bool {
        let nothing_came = self.top == Offset(0) && self.version.is_none();
        nothing_came && self.recent.is_none() && self.is_evictable()
    }

    /// Whether nobody subscribes and nobody is present: forgetting it costs recoveries at most.
    pub fn is_evictable(&self) -> bool {
        self.interested.is_empty() && self.presence_stats().0 == 0
    }

    /// When it was last used, on the shard's clock; 0 when that was before the process began.
    pub fn idle_since_ms(&self) -> u64 {
        self.used.at_ms()
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

    /// Bytes of the history.
    pub fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// The history.
    pub fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.version.as_deref().copied()
    }

    pub(super) fn recent(&self) -> Option<&Recent> {
        self.recent.as_deref()
    }

    /// Milliseconds since its last use.
    pub(super) fn idle_ms(&self, now_ms: u64) -> u64 {
        if self.is_evictable() {
            self.used.age_ms(now_ms)
        } else {
            0
        }
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
        self.history.invariants();
        if let Some(presence) = &self.presence {
            presence.invariants();
        }
    }

    /// Drops what is too old; true when the home may be forgotten. That is when nobody subscribes or is
    /// present, nothing is kept, and nobody has used it for `idle_ms`, or for the far longer
    /// [`HomeLimits::meta_ms`] when it has a position or a version: those outlive the publications. Rooms
    /// that keep no history show no position to anybody.
    pub fn expire(&mut self, now_ms: u64, limits: &HomeLimits, idle_ms: u64) -> bool {
        self.drop_old(now_ms, limits);
        if !self.is_evictable() {
            self.used = Moment::now(now_ms);
            return false;
        }
        let has_position = self.top > Offset(0) && limits.history.count > 0;
        let idle_max_ms = if has_position || self.version.is_some() {
            limits.meta_ms
        } else {
            idle_ms
        };
        let keeps_nothing = self.history.is_empty() && self.recent.is_none();
        keeps_nothing && self.used.age_ms(now_ms) >= idle_max_ms
    }

    fn drop_old(&mut self, now_ms: u64, limits: &HomeLimits) {
        self.history.expire(now_ms, limits.history);
        self.recent.take_if(|recent| {
            recent.expire(now_ms, limits.keys_age_ms);
            recent.is_empty()
        });
    }
}
