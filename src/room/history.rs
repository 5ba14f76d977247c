//! A room's recent publications, bounded by count, age and bytes.
//!
//! Payloads lie end to end in one byte queue: after the first round an append allocates nothing.

use crate::base::{Content, Offset};
use std::collections::VecDeque;

/// Bounds of a history. A count of 0 keeps none.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Publications.
    pub count: usize,
    /// Milliseconds.
    pub age_ms: u64,
    /// Bytes of payloads and publishers.
    pub bytes: usize,
}

/// A publication as history stores and returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Its offset.
    pub offset: Offset,
    /// What the payload is.
    pub content: Content,
    /// The payload.
    pub payload: &'a [u8],
    /// User and connection id of a client that published; empty for an upstream service.
    pub publisher: (&'a str, &'a str),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    at_ms: u64,
    payload: u32,
    user: u16,
    client: u16,
    content: Content,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.payload as usize + usize::from(self.user) + usize::from(self.client)
    }
}

/// See the module documentation. Invariant: `bytes` holds exactly the entries' bytes, in order.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    bytes: VecDeque<u8>,
}

impl History {
    /// Appends a publication and drops what exceeds the limits. One larger than all the bytes
    /// allowed is not kept, and neither is what precedes it: no history has a gap.
    pub fn append(&mut self, stored: &Stored<'_>, now_ms: u64, limits: HistoryLimits) {
        let (user, client) = stored.publisher;
        let entry = Entry {
            offset: stored.offset,
            at_ms: now_ms,
            payload: stored.payload.len() as u32,
            user: user.len() as u16,
            client: client.len() as u16,
            content: stored.content,
        };
        let room_for_it = limits.bytes.saturating_sub(entry.bytes());
        while self.bytes.len() > room_for_it || self.entries.len() >= limits.count.max(1) {
            if !self.drop_oldest() {
                break;
            }
        }
        if entry.bytes() <= limits.bytes && limits.count > 0 {
            self.bytes.extend(stored.payload);
            self.bytes.extend(user.as_bytes());
            self.bytes.extend(client.as_bytes());
            self.entries.push_back(entry);
        }
    }

    /// Drops what is older than the age limit; an empty history keeps no memory.
    pub fn expire(&mut self, now_ms: u64, limits: HistoryLimits) {
        let old = |oldest: &Entry| oldest.at_ms + limits.age_ms <= now_ms;
        while self.entries.front().is_some_and(old) {
            self.drop_oldest();
            if self.entries.is_empty() {
                *self = Self::default();
            }
        }
    }

    /// Visits all publications after `offset`, oldest first.
    pub fn since(&mut self, offset: Offset, mut visit: impl FnMut(Stored<'_>)) {
        let bytes = &*self.bytes.make_contiguous();
        let mut at = 0;
        for entry in &self.entries {
            let (payload, rest) = bytes[at..at + entry.bytes()].split_at(entry.payload as usize);
            let (user, client) = rest.split_at(usize::from(entry.user));
            at += entry.bytes();
            if entry.offset > offset {
                let text = |bytes| std::str::from_utf8(bytes).expect("stored from str");
                visit(Stored {
                    offset: entry.offset,
                    content: entry.content,
                    payload,
                    publisher: (text(user), text(client)),
                });
            }
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

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else {
            return false;
        };
        self.bytes.drain(..oldest.bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits {
        count: 5,
        age_ms: 100,
        bytes: 1_000,
    };

    fn append(history: &mut History, offset: u64, payload: &[u8], now_ms: u64) {
        let publisher = ("user", "client");
        let stored = Stored {
            offset: Offset(offset),
            content: Content::Json,
            payload,
            publisher,
        };
        history.append(&stored, now_ms, LIMITS);
        assert!(history.bytes() <= LIMITS.bytes && history.len() <= LIMITS.count);
    }

    fn offsets(history: &mut History, since: u64) -> Vec<u64> {
        let mut offsets = Vec::new();
        history.since(Offset(since), |stored| offsets.push(stored.offset.0));
        offsets
    }

    #[test]
    fn it_is_bounded_by_count_age_and_bytes() {
        let mut history = History::default();
        (1..=9).for_each(|offset| append(&mut history, offset, b"payload", offset));
        assert_eq!(offsets(&mut history, 0), [5, 6, 7, 8, 9]);
        append(&mut history, 10, &[b'x'; 960], 10);
        assert_eq!(
            offsets(&mut history, 0),
            [9, 10],
            "bytes of the older ones had to go"
        );
        history.expire(110, LIMITS);
        assert!(history.is_empty() && history.bytes() == 0);
    }

    #[test]
    fn a_publication_that_does_not_fit_leaves_no_gap() {
        let mut history = History::default();
        append(&mut history, 1, b"small", 1);
        append(&mut history, 2, &[b'x'; 2_000], 1);
        append(&mut history, 3, b"small", 1);
        assert_eq!(offsets(&mut history, 0), [3]);
    }

    #[test]
    fn what_comes_out_is_what_went_in() {
        let mut history = History::default();
        for offset in 1..=500u64 {
            append(
                &mut history,
                offset,
                &vec![offset as u8; offset as usize % 190],
                offset,
            );
        }
        history.since(Offset(498), |stored| {
            assert_eq!(
                stored.payload,
                vec![stored.offset.0 as u8; stored.offset.0 as usize % 190]
            );
            assert_eq!(stored.publisher, ("user", "client"));
        });
        assert_eq!(offsets(&mut history, 498), [499, 500]);
    }
}
