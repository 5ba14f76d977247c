//! A room's recent publications, bounded by count, age and bytes.
//!
//! Publications lie end to end in one byte queue, in the flat form in which they cross lanes: reading
//! is copying, and after the first round an append allocates nothing.

use crate::base::Offset;
use crate::wire::client::{Publication, flat};
use std::collections::VecDeque;

/// Bounds of a history. A count of 0 keeps none.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Publications.
    pub count: usize,
    /// Milliseconds.
    pub age_ms: u64,
    /// Bytes, fields included.
    pub bytes: usize,
}

/// How much of a history one read may take.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Publications.
    pub count: usize,
    /// Bytes in the flat form.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    at_ms: u64,
    bytes: u32,
}

/// See the module documentation. Invariants: `bytes` holds exactly the entries' bytes, in order; offsets
/// follow each other without a gap.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    bytes: VecDeque<u8>,
    /// Where a publication is made flat.
    scratch: Vec<u8>,
}

impl History {
    /// Appends a publication and drops what exceeds the limits. One larger than all the bytes
    /// allowed is not kept, and neither is what precedes it: no history has a gap.
    pub fn append(&mut self, publication: &Publication<'_>, now_ms: u64, limits: HistoryLimits) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        flat::push_publication(&mut scratch, publication);
        self.append_flat(Offset(publication.offset), &scratch, now_ms, limits);
        self.scratch = scratch;
    }

    /// As [`History::append`], of a publication that is flat already.
    pub fn append_flat(
        &mut self,
        offset: Offset,
        publication: &[u8],
        at_ms: u64,
        limits: HistoryLimits,
    ) {
        let room_for_it = limits.bytes.saturating_sub(publication.len());
        while self.bytes.len() > room_for_it || self.entries.len() >= limits.count.max(1) {
            if !self.drop_oldest() {
                break;
            }
        }
        if publication.len() <= limits.bytes && limits.count > 0 {
            self.bytes.extend(publication);
            self.entries.push_back(Entry {
                offset,
                at_ms,
                bytes: publication.len() as u32,
            });
        }
    }

    /// Drops what is older than the age limit; an empty history keeps no memory. The reference drops a
    /// history as a whole some time after its last publication; here each publication has its own age.
    pub fn expire(&mut self, now_ms: u64, limits: HistoryLimits) {
        let old = |oldest: &Entry| oldest.at_ms + limits.age_ms <= now_ms;
        while self.entries.front().is_some_and(old) {
            self.drop_oldest();
            if self.entries.is_empty() {
                *self = Self::default();
            }
        }
    }

    /// Appends all publications after `offset` to `out`, oldest first; false, and nothing appended, when
    /// they exceed the limits or do not reach back that far. `top` is the room's newest offset.
    pub fn read_all_after(
        &self,
        offset: Offset,
        top: Offset,
        limits: ReadLimits,
        out: &mut Vec<u8>,
    ) -> bool {
        if offset >= top {
            return offset == top;
        }
        let (first, at) = self.position_after(offset);
        let wanted = self.entries.range(first..);
        let is_whole = self.entries.get(first).map(|entry| entry.offset.0) == Some(offset.0 + 1)
            && self.newest() == Some(top);
        let bytes = self.bytes.len() - at;
        if !is_whole || wanted.len() > limits.count || bytes > limits.bytes {
            return false;
        }
        self.copy(at, bytes, out);
        true
    }

    /// Appends publications after `offset` to `out`, oldest first, as many as the limits allow.
    pub fn read_after(&self, offset: Offset, limits: ReadLimits, out: &mut Vec<u8>) {
        let (first, at) = self.position_after(offset);
        let mut bytes = 0;
        for entry in self.entries.range(first..).take(limits.count) {
            if bytes + entry.bytes as usize > limits.bytes {
                break;
            }
            bytes += entry.bytes as usize;
        }
        self.copy(at, bytes, out);
    }

    /// Appends publications before `offset` to `out`, newest first, as many as the limits allow.
    pub fn read_before(&self, offset: Offset, limits: ReadLimits, out: &mut Vec<u8>) {
        let mut end = self.bytes.len();
        let (mut count, mut taken) = (0, 0);
        for entry in self.entries.iter().rev() {
            let bytes = entry.bytes as usize;
            end -= bytes;
            if entry.offset >= offset {
                continue;
            }
            if count == limits.count || taken + bytes > limits.bytes {
                break;
            }
            self.copy(end, bytes, out);
            (count, taken) = (count + 1, taken + bytes);
        }
    }

    /// Calls `visit` with offset, time and flat form of every publication, oldest first.
    pub fn for_each(&self, mut visit: impl FnMut(Offset, u64, &[u8])) {
        let (mut at, mut flat) = (0, Vec::new());
        for entry in &self.entries {
            flat.clear();
            self.copy(at, entry.bytes as usize, &mut flat);
            at += entry.bytes as usize;
            visit(entry.offset, entry.at_ms, &flat);
        }
    }

    /// Offset of the newest publication that is kept.
    pub fn newest(&self) -> Option<Offset> {
        self.entries.back().map(|entry| entry.offset)
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
        self.bytes.len()
    }

    /// Index of the first entry after `offset`, and where its bytes begin.
    fn position_after(&self, offset: Offset) -> (usize, usize) {
        let first = self.entries.partition_point(|entry| entry.offset <= offset);
        let later = self.entries.range(first..);
        let bytes: usize = later.map(|entry| entry.bytes as usize).sum();
        (first, self.bytes.len() - bytes)
    }

    fn copy(&self, at: usize, bytes: usize, out: &mut Vec<u8>) {
        let (front, back) = self.bytes.as_slices();
        let middle = front.len();
        let end = at + bytes;
        out.extend_from_slice(&front[at.min(middle)..end.min(middle)]);
        out.extend_from_slice(&back[at.max(middle) - middle..end.max(middle) - middle]);
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else {
            return false;
        };
        self.bytes.drain(..oldest.bytes as usize);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Content;
    use crate::wire::client::{ClientInfo, Data};

    const LIMITS: HistoryLimits = HistoryLimits {
        count: 5,
        age_ms: 100,
        bytes: 1_000,
    };
    const ALL: ReadLimits = ReadLimits {
        count: usize::MAX,
        bytes: usize::MAX,
    };

    fn publication(offset: u64, payload: &[u8]) -> Publication<'_> {
        Publication {
            offset,
            data: Data {
                content: Content::Json,
                bytes: payload,
            },
            info: offset.is_multiple_of(2).then_some(ClientInfo {
                user: "user",
                client: "client",
                ..ClientInfo::default()
            }),
            ..Publication::default()
        }
    }

    fn append(history: &mut History, offset: u64, payload: &[u8], now_ms: u64) {
        history.append(&publication(offset, payload), now_ms, LIMITS);
        assert!(history.bytes() <= LIMITS.bytes && history.len() <= LIMITS.count);
    }

    fn offsets(flat: &[u8]) -> Vec<u64> {
        flat::publications(flat)
            .map(|publication| publication.offset)
            .collect()
    }

    fn after(history: &History, offset: u64) -> Vec<u64> {
        let mut out = Vec::new();
        history.read_after(Offset(offset), ALL, &mut out);
        offsets(&out)
    }

    #[test]
    fn it_is_bounded_by_count_age_and_bytes() {
        let mut history = History::default();
        (1..=9).for_each(|offset| append(&mut history, offset, b"payload", offset));
        assert_eq!(after(&history, 0), [5, 6, 7, 8, 9]);
        append(&mut history, 10, &[b'x'; 900], 10);
        assert_eq!(after(&history, 0), [9, 10], "older ones had to go");
        history.expire(110, LIMITS);
        assert!(history.is_empty() && history.bytes() == 0);
    }

    #[test]
    fn a_publication_that_does_not_fit_leaves_no_gap() {
        let mut history = History::default();
        append(&mut history, 1, b"small", 1);
        append(&mut history, 2, &[b'x'; 2_000], 1);
        append(&mut history, 3, b"small", 1);
        assert_eq!(after(&history, 0), [3]);
    }

    #[test]
    fn what_comes_out_is_what_went_in() {
        let mut history = History::default();
        for offset in 1..=500u64 {
            let payload = vec![offset as u8; offset as usize % 150];
            append(&mut history, offset, &payload, offset);
        }
        let mut out = Vec::new();
        history.read_before(Offset(501), ALL, &mut out);
        let mut expected = 501;
        for read in flat::publications(&out) {
            expected -= 1;
            let payload = vec![expected as u8; expected as usize % 150];
            assert_eq!(read, publication(expected, &payload));
        }
        assert_eq!(expected, 496);
    }

    #[test]
    fn a_whole_read_gives_all_or_nothing() {
        let mut history = History::default();
        (1..=9).for_each(|offset| append(&mut history, offset, b"1", 0));
        let read = |since: u64, top: u64, limits| {
            let mut out = Vec::new();
            let whole = history.read_all_after(Offset(since), Offset(top), limits, &mut out);
            assert!(whole || out.is_empty(), "never a part");
            whole.then(|| offsets(&out))
        };
        assert_eq!(read(4, 9, ALL), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(read(9, 9, ALL), Some(vec![]));
        assert_eq!(read(3, 9, ALL), None, "4 is gone");
        assert_eq!(read(10, 9, ALL), None, "the future is not ours");
        assert_eq!(read(8, 10, ALL), None, "10 was not kept");
        let two = ReadLimits { count: 2, ..ALL };
        assert_eq!((read(7, 9, two), read(6, 9, two)), (Some(vec![8, 9]), None));
        let few = ReadLimits { bytes: 40, ..ALL };
        assert_eq!((read(8, 9, few).is_some(), read(4, 9, few)), (true, None));
    }

    #[test]
    fn pages_go_both_ways_within_the_limits() {
        let mut history = History::default();
        (1..=5).for_each(|offset| append(&mut history, offset, b"1", 0));
        let two = ReadLimits { count: 2, ..ALL };
        let (mut forward, mut back) = (Vec::new(), Vec::new());
        history.read_after(Offset(1), two, &mut forward);
        history.read_before(Offset(5), two, &mut back);
        assert_eq!(
            (offsets(&forward), offsets(&back)),
            (vec![2, 3], vec![4, 3])
        );
    }
}
