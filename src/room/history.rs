//! A room's recent publications, bounded by count, age and bytes.
//!
//! They lie end to end in one run of bytes, each in its flat form, so that reading a stretch of them is
//! one copy. Dropped ones leave a gap at the front that is closed before it is large; after the first
//! round an append allocates nothing.
//!
//! Each publication ages by itself: it goes when it is `age_ms` old, however lively the room is.

use super::moment::Moment;
use crate::base::Offset;
use crate::wire::client::Publication;
use crate::wire::client::flat;
use std::collections::VecDeque;
use std::ops::Range;

/// Bounds of a history. A count of 0 keeps none.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Publications.
    pub count: usize,
    /// Milliseconds.
    pub age_ms: u64,
    /// Bytes of the publications in their flat form: payloads, infos, tags and 21 bytes each.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Moment,
    /// Index of its first byte.
    start: usize,
}

/// See the module documentation.
///
/// Invariants: the offsets of the entries are consecutive and end with `newest`; entry after entry
/// fills `bytes` to its end, the first beginning at most a quarter of it from the front.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    newest: Offset,
}

impl History {
    /// Appends a publication, whose offset follows the newest one's, and drops what exceeds the
    /// limits. One larger than all the bytes allowed is not kept, and neither is what precedes it: no
    /// history has a gap.
    pub fn append(&mut self, publication: &Publication<'_>, now_ms: u64, limits: HistoryLimits) {
        self.append_aged(publication, Moment::now(now_ms), limits);
    }

    pub(super) fn append_aged(
        &mut self,
        publication: &Publication<'_>,
        at: Moment,
        limits: HistoryLimits,
    ) {
        let payload = publication.data.bytes.len();
        if limits.count == 0 || payload > limits.bytes {
            return self.clear();
        }
        if self.newest.0.checked_add(1) != Some(publication.offset) {
            self.clear();
        }
        self.make_room(limits.count - 1, limits.bytes - payload);
        self.newest = Offset(publication.offset);
        let start = self.bytes.len();
        self.entries.push_back(Entry { at, start });
        flat::push_publication(&mut self.bytes, publication);
        self.make_room(limits.count, limits.bytes);
    }

    /// Drops what is older than the age limit; an empty history keeps no memory.
    pub fn expire(&mut self, now_ms: u64, limits: HistoryLimits) {
        let old = |oldest: &Entry| oldest.at.age_ms(now_ms) >= limits.age_ms;
        let mut dropped = false;
        while self.entries.front().is_some_and(old) {
            self.entries.pop_front();
            dropped = true;
        }
        if dropped {
            self.close_gap();
            if self.entries.is_empty() {
                self.clear();
            }
        }
    }

    /// Drops everything, and the memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Offset of the newest publication that is kept.
    pub fn newest(&self) -> Option<Offset> {
        (!self.is_empty()).then_some(self.newest)
    }

    /// Offset of the oldest publication that is kept.
    pub fn oldest(&self) -> Option<Offset> {
        (!self.is_empty()).then(|| self.offset_at(0))
    }

    /// Publications kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.boundary(0)
    }

    /// Number of publications up to and including `offset`: the index of the first one after it.
    pub(super) fn index_after(&self, offset: Offset) -> usize {
        let Some(oldest) = self.oldest() else {
            return 0;
        };
        let before = offset.0.saturating_add(1).saturating_sub(oldest.0);
        usize::try_from(before).map_or(self.len(), |before| before.min(self.len()))
    }

    /// The publications of a range of indices, flat, oldest first.
    pub(super) fn flat(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[self.boundary(range.start)..self.boundary(range.end)]
    }

    /// Milliseconds since each publication, oldest first.
    pub(super) fn ages_ms(&self, now_ms: u64) -> impl Iterator<Item = u64> {
        self.entries
            .iter()
            .map(move |entry| entry.at.age_ms(now_ms))
    }

    pub(super) fn invariants(&self) {
        assert!(self.entries.is_empty() == self.bytes.is_empty());
        let mut rest = self.flat(0..self.len());
        for index in 0..self.len() {
            assert_eq!(self.bytes.len() - rest.len(), self.boundary(index));
            let publication = flat::take_publication(&mut rest).expect("as many as entries");
            assert_eq!(Offset(publication.offset), self.offset_at(index));
        }
        assert!(rest.is_empty() && 4 * self.boundary(0) <= self.bytes.len());
    }

    fn offset_at(&self, index: usize) -> Offset {
        Offset(self.newest.0 - (self.len() - 1 - index) as u64)
    }

    /// Index of the first byte of the entry at `index`, or of the end behind the last one.
    fn boundary(&self, index: usize) -> usize {
        let entry = self.entries.get(index);
        entry.map_or(self.bytes.len(), |entry| entry.start)
    }

    fn make_room(&mut self, count: usize, bytes: usize) {
        while self.len() > count || self.bytes() > bytes {
            if self.entries.pop_front().is_none() {
                break;
            }
        }
        self.close_gap();
    }

    /// Moves what is kept to the front once a quarter of the bytes is dropped ones: often enough that
    /// little memory is wasted, seldom enough that a byte is moved three times in its life.
    fn close_gap(&mut self) {
        let gap = self.boundary(0);
        if 4 * gap > self.bytes.len() {
            self.bytes.drain(..gap);
            self.entries.iter_mut().for_each(|entry| entry.start -= gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Content;
    use crate::wire::client::{ClientInfo, Data, Tags};

    const LIMITS: HistoryLimits = HistoryLimits {
        count: 5,
        age_ms: 100,
        bytes: 1_000,
    };

    fn publication(offset: u64, payload: &[u8]) -> Publication<'_> {
        let data = Data {
            content: Content::Text,
            bytes: payload,
        };
        Publication {
            offset,
            data,
            ..Publication::default()
        }
    }

    fn append(history: &mut History, offset: u64, payload: &[u8], now_ms: u64) {
        history.append(&publication(offset, payload), now_ms, LIMITS);
        assert!(history.bytes() <= LIMITS.bytes && history.len() <= LIMITS.count);
        history.invariants();
    }

    fn offsets(history: &History, since: u64) -> Vec<u64> {
        let range = history.index_after(Offset(since))..history.len();
        let publications = flat::publications(history.flat(range));
        publications.map(|publication| publication.offset).collect()
    }

    #[test]
    fn it_is_bounded_by_count_age_and_bytes() {
        let mut history = History::default();
        (1..=9).for_each(|offset| append(&mut history, offset, b"payload", offset));
        assert_eq!(offsets(&history, 0), [5, 6, 7, 8, 9]);
        append(&mut history, 10, &[b'x'; 940], 10);
        assert_eq!(
            offsets(&history, 0),
            [9, 10],
            "bytes of the older ones had to go"
        );
        history.expire(109, LIMITS);
        assert_eq!(offsets(&history, 0), [10]);
        history.expire(110, LIMITS);
        assert!(history.is_empty() && history.bytes() == 0 && history.bytes.capacity() == 0);
    }

    #[test]
    fn a_publication_that_does_not_fit_leaves_no_gap() {
        // Too large by its payload; and by what the flat form adds to it.
        for payload in [2_000, 990] {
            let mut history = History::default();
            append(&mut history, 1, b"small", 1);
            append(&mut history, 2, &vec![b'x'; payload], 1);
            assert!(history.is_empty(), "{payload}");
            append(&mut history, 3, b"small", 1);
            assert_eq!(offsets(&history, 0), [3]);
        }
    }

    #[test]
    fn what_comes_out_is_what_went_in() {
        let mut history = History::default();
        let mut tags = Vec::new();
        flat::push_tag(&mut tags, "lang", "en");
        let info = ClientInfo {
            user: "user",
            client: "client",
            ..ClientInfo::default()
        };
        for offset in 1..=500u64 {
            let payload = vec![offset as u8; offset as usize % 130];
            let publication = Publication {
                info: (offset % 3 == 0).then_some(info),
                tags: Tags::from_flat(&tags),
                ..publication(offset, &payload)
            };
            history.append(&publication, 0, LIMITS);
            history.invariants();
            let newest = history.flat(history.len() - 1..history.len());
            assert!(flat::publications(newest).eq([publication]));
        }
        assert_eq!(offsets(&history, 498), [499, 500]);
        assert_eq!(offsets(&history, 500), [0; 0]);
        assert_eq!(offsets(&history, u64::MAX), [0; 0]);
    }

    #[test]
    fn after_the_first_round_an_append_allocates_nothing() {
        let mut history = History::default();
        let limits = HistoryLimits {
            count: 64,
            ..LIMITS
        };
        let mut sizes = None;
        for offset in 1..=10_000u64 {
            let payload = [0; 100];
            let length = (offset * 31 % 100) as usize;
            history.append(&publication(offset, &payload[..length]), 0, limits);
            let now = (history.bytes.capacity(), history.entries.capacity());
            if offset > 200 {
                assert_eq!(*sizes.get_or_insert(now), now);
            }
        }
        assert!(history.bytes.capacity() <= 3 * limits.bytes);
    }

    #[test]
    fn a_jump_of_offsets_begins_a_new_history() {
        let mut history = History::default();
        append(&mut history, 1, b"1", 0);
        append(&mut history, 3, b"3", 0);
        assert_eq!(offsets(&history, 0), [3]);
    }
}
