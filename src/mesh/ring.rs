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
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of a record's payload in bytes, and the size of its header.
pub const ALIGN: usize = 16;

/// Bytes of the ring that a record with `payload_bytes` takes.
pub const fn record_bytes(payload_bytes: usize) -> usize {
    ALIGN + payload_bytes.next_multiple_of(ALIGN)
}

/// A ring of `capacity_bytes`: a power of two, at least 64, less than 4 GiB.
///
/// The memory is mapped and not touched, so large rings are address space only.
///
/// # Panics
/// When the process has no address space left.
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
        storage: Storage::untouched(capacity_bytes),
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
///
/// A mapping of its own, not the allocator's memory: an allocator may have asked for huge pages
/// (mimalloc does), and then the first byte of each lane costs 2 MiB, 13 GB for 6,384 lanes.
struct Storage {
    start: NonNull<u8>,
    capacity: usize,
    /// Lets loom see every access, block by block.
    #[cfg(loom)]
    watch: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: the mapping belongs to no thread; dropping it from any is fine.
unsafe impl Send for Storage {}
// SAFETY: `read` and `write` are unsafe, and their callers keep concurrent accesses disjoint.
unsafe impl Sync for Storage {}

impl Storage {
    fn untouched(capacity: usize) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // NORESERVE: most of a lane is never touched.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), capacity, protection, flags) }
            .unwrap_or_else(|error| panic!("no address space for {capacity} bytes: {error}"));
        // SAFETY: advice about the mapping made above. A kernel without huge pages refuses it,
        // and then it is not needed.
        let _ = unsafe { madvise(start, capacity, Advice::LinuxNoHugepage) };
        Self {
            start: NonNull::new(start.cast()).expect("no mapping begins at address 0"),
            capacity,
            #[cfg(loom)]
            watch: (0..capacity / ALIGN)
                .map(|_| loom::cell::UnsafeCell::new(()))
                .collect(),
        }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity
    }

    /// # Safety
    /// Nobody writes these bytes while the result lives.
    #[inline]
    unsafe fn read(&self, at: usize, bytes: usize) -> &[u8] {
        let start = self.bytes(at, bytes);
        #[cfg(loom)]
        self.watched(at, bytes).for_each(|block| block.with(|_| ()));
        // SAFETY: mapped, zeroed or written, and not being written by the caller's promise.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// # Safety
    /// Nobody else reads or writes these bytes while the result lives.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the promise is the caller's")]
    unsafe fn write(&self, at: usize, bytes: usize) -> &mut [u8] {
        let start = self.bytes(at, bytes);
        #[cfg(loom)]
        self.watched(at, bytes)
            .for_each(|block| block.with_mut(|_| ()));
        // SAFETY: mapped, zeroed or written, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start, bytes) }
    }

    #[inline]
    fn bytes(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(at + bytes <= self.capacity);
        // SAFETY: within the mapping by the assertion.
        unsafe { self.start.as_ptr().add(at) }
    }

    #[cfg(loom)]
    fn watched(&self, at: usize, bytes: usize) -> std::slice::Iter<'_, loom::cell::UnsafeCell<()>> {
        self.watch[at / ALIGN..(at + bytes).div_ceil(ALIGN)].iter()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // SAFETY: mapped in `untouched`, and no half of the ring is left.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.capacity) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn write(producer: &mut Producer, bytes: &[u8]) -> *const u8 {
        let mut grant = producer.reserve(bytes.len()).unwrap();
        grant.copy_from_slice(bytes);
        let place = grant.as_ptr();
        grant.commit(bytes.len());
        place
    }

    #[test]
    fn an_abandoned_grant_leaves_no_trace() {
        let (mut producer, mut consumer) = ring(256);
        let first = producer.reserve(100).unwrap().as_ptr();
        assert!(!producer.publish());
        assert_eq!(write(&mut producer, b"kept"), first);
        assert!(producer.publish());
        assert_eq!(*consumer.read().unwrap(), *b"kept");
        assert!(consumer.read().is_none());
    }

    #[test]
    fn what_a_commit_leaves_over_is_granted_again() {
        let (mut producer, mut consumer) = ring(256);
        for number in 0..5 {
            let mut grant = producer
                .reserve(100)
                .unwrap_or_else(|| panic!("record {number}"));
            grant[0] = number;
            grant.commit(1);
        }
        producer.publish();
        for number in 0..5 {
            assert_eq!(*consumer.read().unwrap(), [number]);
        }
    }

    #[test]
    fn a_ring_that_is_kept_empty_stays_on_its_first_bytes() {
        let (mut producer, mut consumer) = ring(1 << 20);
        let first = write(&mut producer, &[0; 1000]) as usize;
        for _ in 0..10_000 {
            producer.publish();
            while let Some(record) = consumer.read() {
                record.release();
            }
            let place = write(&mut producer, &[0; 1000]) as usize;
            assert!(place < first + limits::LANE_RESTART_BYTES + 1024);
        }
    }

    #[test]
    fn a_restart_leaves_the_whole_ring_free() {
        let (mut producer, mut consumer) = ring(1024);
        write(&mut producer, &[0; 600]);
        producer.publish();
        consumer.read().unwrap().release();
        assert_eq!(producer.free(), 1024);
        write(&mut producer, &[1; 1024 - ALIGN]);
        assert!(producer.reserve(0).is_none());
        producer.publish();
        assert_eq!(*consumer.read().unwrap(), [1; 1024 - ALIGN]);
    }

    #[test]
    fn a_record_that_is_read_is_not_free_before_its_release() {
        let (mut producer, mut consumer) = ring(64);
        write(&mut producer, &[0; 48]);
        producer.publish();
        let record = consumer.read().unwrap();
        assert!(producer.reserve(0).is_none());
        drop(record);
        assert!(producer.reserve(48).is_some());
    }

    #[test]
    #[should_panic(expected = "a record of 80 bytes in a ring of 64")]
    fn a_record_that_no_ring_could_take_is_a_bug() {
        let (mut producer, _consumer) = ring(64);
        let _ = producer.reserve(49);
    }
}
