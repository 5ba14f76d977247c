//! One direction between two cores: a single-producer single-consumer byte ring with grants.
//!
//! The producer reserves contiguous bytes, fills them in place and commits what it used; the
//! consumer reads records in place and releases them. Committing is local: [`Producer::publish`]
//! makes everything committed visible with one store, so a turn's records cost one transfer of
//! the index line between the cores.
//!
//! ```text
//!           released ──┐                  ┌── published       ┌── write
//!  lap n ... free      │ visible records  │ committed records │ free ...   lap n + 1
//!                      └── read by consumer                   └── next grant
//!
//!  record:  | length u32 | kind u8 | 11 unused | payload, padded to 16 |     16-byte aligned
//! ```
//!
//! Positions are `u64` byte counts that never wrap; the place in memory is the position modulo
//! the capacity. `released <= read <= published <= write <= released + capacity`, except that a
//! restart (below) counts as released at once. A record never wraps: a *skip record* fills the
//! rest of the lap.
//!
//! **Restart.** A producer that sees the ring empty beyond [`limits::LANE_RESTART_BYTES`] goes on
//! at the first byte of the next lap, and tells the consumer the position instead of writing a
//! skip record. A ring that carries little therefore touches only its first pages, and what it
//! touches stays in the cache; its other pages are address space.
//!
//! Never blocks, never allocates after construction, never drops a record.
#![allow(unsafe_code)]

use super::sync::{AtomicU64, Ordering};
use crate::limits;
use crossbeam::utils::CachePadded;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Alignment of a record's payload in bytes, and the size of its header.
pub const ALIGN: usize = 16;

/// Bytes of the ring that a record with `payload_bytes` takes.
pub const fn record_bytes(payload_bytes: usize) -> usize {
    ALIGN + payload_bytes.next_multiple_of(ALIGN)
}

/// A ring of `capacity_bytes`: a power of two, at least 64, less than 4 GiB.
///
/// The memory is zeroed by the allocator and not touched, so large rings are address space only.
pub fn ring(capacity_bytes: usize) -> (Producer, Consumer) {
    assert!(
        capacity_bytes.is_power_of_two()
            && capacity_bytes >= 4 * ALIGN
            && u32::try_from(capacity_bytes).is_ok(),
        "a ring of {capacity_bytes} bytes"
    );
    let shared = Arc::new(Shared {
        published: CachePadded::new(Published {
            position: AtomicU64::new(0),
            restart: AtomicU64::new(0),
        }),
        released: CachePadded::new(AtomicU64::new(0)),
        storage: Storage::zeroed(capacity_bytes),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        write: 0,
        published: 0,
        released: 0,
        restart_bytes: (limits::LANE_RESTART_BYTES).min(capacity_bytes / 4),
        not_sync: PhantomData,
    };
    let consumer = Consumer {
        shared,
        read: 0,
        published: 0,
        not_sync: PhantomData,
    };
    (producer, consumer)
}

/// The writing half.
pub struct Producer {
    shared: Arc<Shared>,
    /// Where the next record starts unless it has to skip or restart.
    write: u64,
    /// What the consumer was told last; `published <= write`.
    published: u64,
    /// What the consumer was last seen to have released; never more than the truth, apart from
    /// the bytes that a restart jumped over.
    released: u64,
    /// A ring that is empty at or beyond this offset restarts.
    restart_bytes: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl Producer {
    /// Loans `payload_bytes` contiguous bytes; `None` while the consumer holds too much.
    ///
    /// The bytes hold leftovers of earlier records.
    ///
    /// # Panics
    /// When such a record could not fit even the empty ring.
    #[inline]
    pub fn reserve(&mut self, payload_bytes: usize) -> Option<WriteGrant<'_>> {
        let span = record_bytes(payload_bytes);
        assert!(
            span <= self.capacity(),
            "a record of {span} bytes in a ring of {}",
            self.capacity()
        );
        let place = self.place(span)?;
        Some(WriteGrant {
            producer: self,
            place,
            payload_bytes,
        })
    }

    /// Makes the committed records visible to the consumer. Says whether there were any.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.write == self.published {
            return false;
        }
        self.published = self.write;
        // Release: pairs with the Acquire in `Consumer::seek`; the records and a restart are
        // written before the consumer reads them.
        let published = &self.shared.published.position;
        published.store(self.write, Ordering::Release);
        true
    }

    /// Record bytes that can surely be reserved, in one record or in several of the same total,
    /// as far as known without looking at the consumer.
    ///
    /// Each commit lowers the number by at most the bytes of its record.
    #[inline]
    pub fn free_known(&self) -> usize {
        if self.is_idle() && self.offset(self.write) >= self.restart_bytes {
            return self.capacity();
        }
        let (to_lap_end, free) = self.room();
        to_lap_end.min(free).max(free.saturating_sub(to_lap_end))
    }

    /// As [`Producer::free_known`], after a look at how far the consumer is.
    pub fn free(&mut self) -> usize {
        self.look();
        self.free_known()
    }

    /// Bytes of the ring.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.shared.storage.capacity()
    }

    #[inline]
    fn place(&mut self, span: usize) -> Option<Place> {
        // One look per publish: a ring with unpublished records cannot be empty.
        if self.write == self.published && self.offset(self.write) >= self.restart_bytes {
            if self.released != self.write {
                self.look();
            }
            if self.is_idle() {
                return Some(Place::Restart(self.next_lap()));
            }
        }
        self.place_known(span).or_else(|| {
            self.look();
            match self.place_known(span) {
                None if self.is_idle() => Some(Place::Restart(self.next_lap())),
                found => found,
            }
        })
    }

    #[inline]
    fn place_known(&self, span: usize) -> Option<Place> {
        let (to_lap_end, free) = self.room();
        if span <= to_lap_end && span <= free {
            Some(Place::Here(self.write))
        } else if to_lap_end + span <= free {
            Some(Place::Skip(self.next_lap()))
        } else {
            None
        }
    }

    fn look(&mut self) {
        // Acquire: pairs with the Release in `Consumer::release`; the consumer has finished with
        // the bytes before they are written again.
        let released = self.shared.released.load(Ordering::Acquire);
        // After a restart the consumer is still before the lap's start until it reads there.
        self.released = self.released.max(released);
    }

    /// Bytes to the end of the lap, and free bytes in all.
    #[inline]
    fn room(&self) -> (usize, usize) {
        let held = (self.write - self.released) as usize;
        debug_assert!(held <= self.capacity());
        (
            self.capacity() - self.offset(self.write),
            self.capacity() - held,
        )
    }

    /// Everything written is published, read and released, as far as known.
    #[inline]
    fn is_idle(&self) -> bool {
        self.released == self.write
    }

    #[inline]
    fn next_lap(&self) -> u64 {
        next_lap(self.write, self.capacity())
    }

    #[inline]
    fn offset(&self, position: u64) -> usize {
        offset(position, self.capacity())
    }

    fn commit(&mut self, place: &Place, payload_bytes: usize) {
        let start = place.start();
        match place {
            Place::Here(_) => {}
            Place::Skip(_) => self.write_header(self.write, Kind::Skip, 0),
            Place::Restart(_) => {
                // Relaxed: published by the Release in `publish` like the records.
                let restart = &self.shared.published.restart;
                restart.store(start, Ordering::Relaxed);
                self.released = start;
            }
        }
        self.write_header(start, Kind::Record, payload_bytes);
        self.write = start + record_bytes(payload_bytes) as u64;
    }

    fn write_header(&mut self, position: u64, kind: Kind, payload_bytes: usize) {
        let at = self.offset(position);
        // SAFETY: the header lies in `write..released + capacity`, which the consumer leaves alone.
        let header = unsafe { self.shared.storage.write(at, ALIGN) };
        header[..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        header[4] = kind as u8;
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("write", &self.write)
            .field("published", &self.published)
            .field("released", &self.released)
            .finish()
    }
}

/// Bytes on loan from a [`Producer`]. Dropped without a commit it leaves no trace.
#[must_use = "a grant that is not committed is abandoned"]
pub struct WriteGrant<'a> {
    producer: &'a mut Producer,
    place: Place,
    payload_bytes: usize,
}

impl WriteGrant<'_> {
    /// Makes a record of the first `used_bytes` of the grant and gives the rest back.
    ///
    /// # Panics
    /// When `used_bytes` exceeds the grant.
    #[inline]
    pub fn commit(self, used_bytes: usize) {
        assert!(used_bytes <= self.payload_bytes, "more than was granted");
        self.producer.commit(&self.place, used_bytes);
    }

    fn payload_at(&self) -> usize {
        self.producer.offset(self.place.start()) + ALIGN
    }
}

impl Deref for WriteGrant<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let storage = &self.producer.shared.storage;
        // SAFETY: `place` found these bytes outside `released..write`, which is all the consumer
        // reads, and the grant holds the only producer.
        unsafe { storage.read(self.payload_at(), self.payload_bytes) }
    }
}

impl DerefMut for WriteGrant<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let storage = &self.producer.shared.storage;
        // SAFETY: as in `deref`; `&mut self` excludes other references through this grant.
        unsafe { storage.write(self.payload_at(), self.payload_bytes) }
    }
}

/// Where a record goes.
enum Place {
    /// Behind the last one.
    Here(u64),
    /// At the start of the next lap, after a skip record.
    Skip(u64),
    /// At the start of the next lap, and nothing before it is in use.
    Restart(u64),
}

impl Place {
    fn start(&self) -> u64 {
        let (Self::Here(start) | Self::Skip(start) | Self::Restart(start)) = *self;
        start
    }
}

/// The reading half.
pub struct Consumer {
    shared: Arc<Shared>,
    /// The next record to read; also what was released.
    read: u64,
    /// What the producer was last seen to have published; `read <= published`.
    published: u64,
    not_sync: PhantomData<Cell<()>>,
}

impl Consumer {
    /// Loans the oldest published record; `None` when there is none.
    #[inline]
    pub fn read(&mut self) -> Option<ReadGrant<'_>> {
        let payload_bytes = self.seek()?;
        Some(ReadGrant {
            consumer: self,
            payload_bytes,
        })
    }

    /// Says whether nothing published is left to read.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        !self.look()
    }

    /// Moves to the next record and says how long it is.
    #[inline]
    fn seek(&mut self) -> Option<usize> {
        if !self.look() {
            return None;
        }
        let (kind, payload_bytes) = self.header();
        if kind != Kind::Skip as u8 {
            return Some(payload_bytes);
        }
        self.read = next_lap(self.read, self.shared.storage.capacity());
        // A skip record is committed together with the record that needed it.
        debug_assert!(self.read < self.published);
        Some(self.header().1)
    }

    /// Says whether there is something to read, after a look at the producer if need be.
    #[inline]
    fn look(&mut self) -> bool {
        if self.read == self.published {
            // Acquire: pairs with the Release in `Producer::publish`.
            self.published = self.shared.published.position.load(Ordering::Acquire);
            if self.read == self.published {
                return false;
            }
            // Relaxed: the Acquire above makes a restart that precedes these records visible. No
            // later one can be: the producer restarts after it saw all of them released.
            let restart = self.shared.published.restart.load(Ordering::Relaxed);
            self.read = self.read.max(restart);
        }
        debug_assert!(self.read < self.published);
        true
    }

    #[inline]
    fn header(&self) -> (u8, usize) {
        let at = offset(self.read, self.shared.storage.capacity());
        // SAFETY: a header lies at `read < published`, and the producer leaves it alone until it
        // is released.
        let header = unsafe { self.shared.storage.read(at, ALIGN) };
        let payload_bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        (header[4], payload_bytes as usize)
    }

    #[inline]
    fn release(&mut self, payload_bytes: usize) {
        self.read += record_bytes(payload_bytes) as u64;
        // Release: pairs with the Acquire in `Producer::look`; the record is read before its bytes
        // are written again.
        self.shared.released.store(self.read, Ordering::Release);
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("read", &self.read)
            .field("published", &self.published)
            .finish()
    }
}

/// A record on loan from a [`Consumer`]. Released when dropped.
#[must_use = "a record is released, and so lost, when its grant is dropped"]
pub struct ReadGrant<'a> {
    consumer: &'a mut Consumer,
    payload_bytes: usize,
}

impl ReadGrant<'_> {
    /// Gives the record's bytes back to the producer. The same as dropping the grant, in words.
    pub fn release(self) {}
}

impl Deref for ReadGrant<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let storage = &self.consumer.shared.storage;
        let at = offset(self.consumer.read, storage.capacity()) + ALIGN;
        // SAFETY: the record lies in `read..published`, which the producer leaves alone until the
        // grant is dropped, and the grant holds the only consumer.
        unsafe { storage.read(at, self.payload_bytes) }
    }
}

impl Drop for ReadGrant<'_> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.release(self.payload_bytes);
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Record = 1,
    Skip = 2,
}

struct Shared {
    /// Written by the producer only; a line of its own, so that a release does not take it away.
    published: CachePadded<Published>,
    /// Written by the consumer only: everything before it may be overwritten.
    released: CachePadded<AtomicU64>,
    storage: Storage,
}

struct Published {
    /// Everything before it may be read.
    position: AtomicU64,
    /// Where the producer last restarted: a consumer before it goes on there.
    restart: AtomicU64,
}

#[inline]
fn offset(position: u64, capacity: usize) -> usize {
    position as usize & (capacity - 1)
}

#[inline]
fn next_lap(position: u64, capacity: usize) -> u64 {
    (position | (capacity as u64 - 1)) + 1
}

/// The bytes of a ring. Which half may touch which bytes is decided by the positions.
struct Storage {
    blocks: Box<[Block]>,
    /// Lets loom see every access, block by block.
    #[cfg(loom)]
    watch: Vec<loom::cell::UnsafeCell<()>>,
}

#[repr(C, align(16))]
struct Block(UnsafeCell<[u8; ALIGN]>);

// SAFETY: `read` and `write` are unsafe, and their callers keep concurrent accesses disjoint.
unsafe impl Sync for Storage {}

impl Storage {
    fn zeroed(capacity_bytes: usize) -> Self {
        let blocks = Box::<[Block]>::new_zeroed_slice(capacity_bytes / ALIGN);
        Self {
            // SAFETY: zero bytes are valid for an array of bytes.
            blocks: unsafe { blocks.assume_init() },
            #[cfg(loom)]
            watch: (0..capacity_bytes / ALIGN)
                .map(|_| loom::cell::UnsafeCell::new(()))
                .collect(),
        }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.blocks.len() * ALIGN
    }

    /// # Safety
    /// Nobody writes these bytes while the result lives.
    #[inline]
    unsafe fn read(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(at + bytes <= self.capacity());
        #[cfg(loom)]
        self.watched(at, bytes).for_each(|block| block.with(|_| ()));
        let start = self.blocks.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: in bounds by the assertion, initialised, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// # Safety
    /// Nobody else reads or writes these bytes while the result lives.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "that is what the cells are for")]
    unsafe fn write(&self, at: usize, bytes: usize) -> &mut [u8] {
        assert!(at + bytes <= self.capacity());
        #[cfg(loom)]
        self.watched(at, bytes)
            .for_each(|block| block.with_mut(|_| ()));
        let start = self.blocks.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: in bounds by the assertion, inside `UnsafeCell`s, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start.cast_mut(), bytes) }
    }

    #[cfg(loom)]
    fn watched(&self, at: usize, bytes: usize) -> std::slice::Iter<'_, loom::cell::UnsafeCell<()>> {
        self.watch[at / ALIGN..(at + bytes).div_ceil(ALIGN)].iter()
    }
}
