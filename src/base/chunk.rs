//! Append-only bytes shared by everything that sends them.
//!
//! A room's tail and a connection's replies are written once into chunks; sends in flight hold
//! ranges of them. Written bytes never change while anybody else holds the chunk: `append` writes
//! behind `len` only, and a chunk is emptied only by its sole owner. That is what lets the kernel
//! read a range while later bytes are being appended. One thread owns a chunk and its clones.

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_POOL_BYTES};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// A fixed capacity of bytes, `len` of them written. Invariant: `len ≤ capacity`.
#[derive(Debug)]
pub struct Chunk {
    bytes: Box<[Cell<u8>]>,
    len: Cell<u32>,
}

impl Chunk {
    /// An empty chunk. `capacity` is at most `u32::MAX`.
    pub fn new(capacity: usize) -> Rc<Self> {
        assert!(u32::try_from(capacity).is_ok(), "chunk positions are u32");
        Rc::new(Self {
            bytes: vec![Cell::new(0); capacity].into_boxed_slice(),
            len: Cell::new(0),
        })
    }

    /// Appends all of `source`, which must fit.
    pub fn append(&self, source: &[u8]) {
        let start = self.len();
        let target = &self.bytes[start..start + source.len()];
        for (cell, byte) in target.iter().zip(source) {
            cell.set(*byte);
        }
        self.len.set((start + source.len()) as u32);
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.len.get() as usize
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can be written at most.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that can still be appended.
    pub fn free(&self) -> usize {
        self.capacity() - self.len()
    }
}

/// A range of written bytes of a chunk: `start ≤ end ≤ chunk.len()`. Keeps the chunk alive.
#[derive(Clone, Debug)]
pub struct Part {
    chunk: Rc<Chunk>,
    start: u32,
    end: u32,
}

impl Part {
    /// The bytes `start..end` of `chunk`, which must have been written.
    pub fn new(chunk: &Rc<Chunk>, start: usize, end: usize) -> Self {
        assert!(
            start <= end && end <= chunk.len(),
            "a part covers written bytes only"
        );
        Self {
            chunk: Rc::clone(chunk),
            start: start as u32,
            end: end as u32,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes, as cells: they do not change, but the chunk behind them grows.
    pub fn cells(&self) -> &[Cell<u8>] {
        &self.chunk.bytes[self.start as usize..self.end as usize]
    }

    /// Appends a copy of the bytes to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        out.extend(self.cells().iter().map(Cell::get));
    }
}

const CLASSES: usize = (CHUNK_BYTES_MAX / CHUNK_BYTES_MIN).ilog2() as usize + 1;

/// Chunks for reuse, by size class. A released chunk may still be read by sends in flight; it is
/// handed out again only when nobody holds it.
#[derive(Debug, Default)]
pub struct ChunkPool {
    released: [VecDeque<Rc<Chunk>>; CLASSES],
    bytes: usize,
    outstanding: usize,
}

impl ChunkPool {
    /// A chunk with room for `bytes` at least. Larger than [`CHUNK_BYTES_MAX`] it has exactly that size.
    pub fn take(&mut self, bytes: usize) -> Rc<Chunk> {
        let chunk = self.find(bytes);
        self.outstanding += chunk.capacity();
        chunk
    }

    fn find(&mut self, bytes: usize) -> Rc<Chunk> {
        /// A stuck send may hold the oldest chunk for seconds: look past a few.
        const LOOKS: usize = 4;
        let Some(class) = class_of(bytes) else {
            return Chunk::new(bytes);
        };
        for _ in 0..LOOKS {
            let Some(mut chunk) = self.released[class].pop_front() else {
                break;
            };
            if let Some(sole) = Rc::get_mut(&mut chunk) {
                sole.len.set(0);
                self.bytes -= chunk.capacity();
                return chunk;
            }
            self.released[class].push_back(chunk);
        }
        Chunk::new(CHUNK_BYTES_MIN << class)
    }

    /// Takes a chunk back for reuse once its last part is gone.
    pub fn release(&mut self, chunk: Rc<Chunk>) {
        self.outstanding -= chunk.capacity();
        let fits = self.bytes + chunk.capacity() <= CHUNK_POOL_BYTES;
        if let Some(class) = class_of(chunk.capacity()).filter(|_| fits) {
            self.bytes += chunk.capacity();
            self.released[class].push_back(chunk);
        }
    }

    /// Bytes of the chunks that were taken and not released.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Bytes that wait for reuse, chunks still being read included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn class_of(bytes: usize) -> Option<usize> {
    let size = bytes.max(CHUNK_BYTES_MIN).next_power_of_two();
    (size <= CHUNK_BYTES_MAX).then(|| (size / CHUNK_BYTES_MIN).ilog2() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_keeps_its_bytes_while_the_chunk_grows() {
        let chunk = Chunk::new(64);
        chunk.append(b"first");
        let part = Part::new(&chunk, 0, 5);
        chunk.append(b"second");
        let mut out = Vec::new();
        part.copy_to(&mut out);
        assert_eq!(out, b"first");
        assert_eq!((chunk.len(), chunk.free()), (11, 53));
    }

    #[test]
    fn a_chunk_is_reused_only_when_nobody_reads_it() {
        let mut pool = ChunkPool::default();
        let chunk = pool.take(100);
        assert_eq!(chunk.capacity(), CHUNK_BYTES_MIN);
        chunk.append(b"bytes");
        let part = Part::new(&chunk, 0, 5);
        let first = Rc::as_ptr(&chunk);
        pool.release(chunk);
        assert_ne!(
            Rc::as_ptr(&pool.take(100)),
            first,
            "a send still reads the first chunk"
        );
        drop(part);
        let again = pool.take(100);
        assert_eq!((Rc::as_ptr(&again), again.len()), (first, 0));
    }

    #[test]
    fn the_pool_is_bounded_and_oversize_chunks_are_not_kept() {
        let mut pool = ChunkPool::default();
        let oversize = pool.take(CHUNK_BYTES_MAX * 2);
        assert_eq!(pool.outstanding(), CHUNK_BYTES_MAX * 2);
        pool.release(oversize);
        assert_eq!((pool.bytes(), pool.outstanding()), (0, 0));
        let count = 2 * CHUNK_POOL_BYTES / CHUNK_BYTES_MAX;
        let taken: Vec<_> = (0..count).map(|_| pool.take(CHUNK_BYTES_MAX)).collect();
        taken.into_iter().for_each(|chunk| pool.release(chunk));
        assert_eq!(pool.bytes(), CHUNK_POOL_BYTES);
    }
}
