//! The encoded bytes of a room's recent publications, for all subscribers of one encoding.
//!
//! Positions count every byte ever appended. `start ≤ cursor ≤ end` holds for every subscriber that
//! has not lost anything; what a subscriber still has to be sent is `cursor..end`. Frames are whole
//! within one chunk. When nobody lags the chunks go back to the pool; when somebody does, the tail
//! is bounded in bytes and age, and a cursor before `start` has lost data.

use crate::base::chunk::{Chunk, ChunkPool, Part};
use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use std::collections::VecDeque;
use std::rc::Rc;

/// Position of a byte in a tail.
pub type Cursor = u64;

/// What a tail may hold for subscribers that lag.
#[derive(Clone, Copy, Debug)]
pub struct TailLimits {
    /// Bytes; the newest chunk is kept whatever its size.
    pub bytes: usize,
    /// Milliseconds since the oldest chunk got its last byte.
    pub age_ms: u64,
}

#[derive(Debug)]
struct Segment {
    /// Position of the chunk's first byte.
    base: Cursor,
    chunk: Rc<Chunk>,
    appended_ms: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Tail {
    segments: VecDeque<Segment>,
    end: Cursor,
}

impl Tail {
    /// Position of the oldest byte held; `end` when nothing is.
    pub fn start(&self) -> Cursor {
        self.segments
            .front()
            .map_or(self.end, |segment| segment.base)
    }

    /// Position behind the newest byte.
    pub fn end(&self) -> Cursor {
        self.end
    }

    /// Bytes that the tail's chunks occupy.
    pub fn held_bytes(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.chunk.capacity())
            .sum()
    }

    /// Appends one frame, header and body.
    pub fn append(&mut self, header: &[u8], body: &[u8], now_ms: u64, pool: &mut ChunkPool) {
        let bytes = header.len() + body.len();
        if self
            .segments
            .back()
            .is_none_or(|newest| newest.chunk.free() < bytes)
        {
            // Chunks grow with the backlog: a quiet room holds little, a burst has few parts.
            let grown = CHUNK_BYTES_MIN << (2 * self.segments.len()).min(16);
            let chunk = pool.take(bytes.max(grown.min(CHUNK_BYTES_MAX)));
            self.segments.push_back(Segment {
                base: self.end,
                chunk,
                appended_ms: now_ms,
            });
        }
        let newest = self
            .segments
            .back_mut()
            .expect("pushed above when there was none");
        newest.chunk.append(header);
        newest.chunk.append(body);
        newest.appended_ms = now_ms;
        self.end += bytes as u64;
        self.invariants();
    }

    /// Appends the parts of `cursor..end` to `parts` while it has fewer than `parts_max`; returns
    /// the cursor behind them, or `None` when the cursor fell off the tail.
    pub fn parts(&self, cursor: Cursor, parts_max: usize, parts: &mut Vec<Part>) -> Option<Cursor> {
        if cursor < self.start() {
            return None;
        }
        assert!(cursor <= self.end, "a cursor never runs ahead of its tail");
        let first = self
            .segments
            .partition_point(|segment| segment.end() <= cursor);
        let mut reached = cursor;
        for segment in self.segments.iter().skip(first) {
            if parts.len() == parts_max {
                break;
            }
            let from = (reached - segment.base) as usize;
            parts.push(Part::new(&segment.chunk, from, segment.chunk.len()));
            reached = segment.end();
        }
        Some(reached)
    }

    /// Lets everything go: no subscriber lags.
    pub fn release(&mut self, pool: &mut ChunkPool) {
        for segment in self.segments.drain(..) {
            pool.release(segment.chunk);
        }
        self.invariants();
    }

    /// Lets go what exceeds the limits, oldest first; nothing behind `offered`, which is what a flush
    /// has had the chance to send: a burst within one turn makes nobody slow.
    pub fn trim(&mut self, limits: TailLimits, offered: Cursor, now_ms: u64, pool: &mut ChunkPool) {
        let mut held = self.held_bytes();
        while self.segments.len() > 1 {
            let oldest = &self.segments[0];
            if oldest.end() > offered {
                break;
            }
            if held <= limits.bytes && now_ms < oldest.appended_ms + limits.age_ms {
                break;
            }
            held -= oldest.chunk.capacity();
            let oldest = self.segments.pop_front().expect("there are two at least");
            pool.release(oldest.chunk);
        }
        self.invariants();
    }

    /// `start ≤ end`, segments are contiguous and reach `end`.
    fn invariants(&self) {
        debug_assert!(self.start() <= self.end);
        debug_assert!(
            self.segments
                .back()
                .is_none_or(|newest| newest.end() == self.end)
        );
        debug_assert!(
            self.segments
                .iter()
                .zip(self.segments.iter().skip(1))
                .all(|(a, b)| a.end() == b.base)
        );
    }
}

impl Segment {
    fn end(&self) -> Cursor {
        self.base + self.chunk.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tail: &Tail, cursor: Cursor) -> Option<(Vec<u8>, Cursor)> {
        let mut parts = Vec::new();
        let end = tail.parts(cursor, usize::MAX, &mut parts)?;
        let mut bytes = Vec::new();
        parts.iter().for_each(|part| part.copy_to(&mut bytes));
        Some((bytes, end))
    }

    #[test]
    fn any_cursor_reads_exactly_what_follows_it() {
        let (mut tail, mut pool, mut all) = (Tail::default(), ChunkPool::default(), Vec::new());
        for n in 0..200u8 {
            tail.append(&[n], &vec![n; usize::from(n) * 3], 0, &mut pool);
            all.extend(vec![n; usize::from(n) * 3 + 1]);
        }
        for cursor in (0..=all.len()).step_by(97) {
            assert_eq!(
                read(&tail, cursor as u64),
                Some((all[cursor..].to_vec(), all.len() as u64))
            );
        }
    }

    #[test]
    fn a_limited_read_continues_where_it_stopped() {
        let (mut tail, mut pool) = (Tail::default(), ChunkPool::default());
        for _ in 0..10 {
            tail.append(&[], &[7; CHUNK_BYTES_MAX], 0, &mut pool);
        }
        let mut parts = Vec::new();
        let reached = tail.parts(0, 4, &mut parts).unwrap();
        assert_eq!((parts.len(), reached), (4, 4 * CHUNK_BYTES_MAX as u64));
    }

    #[test]
    fn a_cursor_that_fell_off_is_told_and_never_reads_later_bytes() {
        let (mut tail, mut pool) = (Tail::default(), ChunkPool::default());
        for now_ms in 0..100 {
            tail.append(&[], &[1; 1_000], now_ms, &mut pool);
        }
        let end = tail.end();
        tail.trim(
            TailLimits {
                bytes: 40_000,
                age_ms: u64::MAX / 2,
            },
            end,
            100,
            &mut pool,
        );
        assert!(tail.held_bytes() <= CHUNK_BYTES_MAX && tail.start() > 0);
        assert_eq!(read(&tail, 0), None);
        assert!(read(&tail, tail.start()).is_some());
        let end = tail.end();
        tail.trim(
            TailLimits {
                bytes: usize::MAX,
                age_ms: 10,
            },
            end,
            10_000,
            &mut pool,
        );
        assert_eq!(tail.segments.len(), 1, "the newest chunk stays");
    }

    #[test]
    fn a_released_tail_holds_nothing_and_goes_on() {
        let (mut tail, mut pool) = (Tail::default(), ChunkPool::default());
        tail.append(b"h", b"one", 0, &mut pool);
        tail.release(&mut pool);
        assert_eq!((tail.start(), tail.end(), tail.held_bytes()), (4, 4, 0));
        tail.append(b"h", b"two", 0, &mut pool);
        assert_eq!(read(&tail, 4), Some((b"htwo".to_vec(), 8)));
    }
}
