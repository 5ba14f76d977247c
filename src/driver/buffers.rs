//! Memory that the kernel writes: the ring of provided receive buffers.
//!
//! One allocation of `count` buffers, and the ring of entries that hands them to the kernel
//! (`IORING_REGISTER_PBUF_RING`, kernel 5.19; allocated here rather than mapped from the kernel).
//! A buffer is either the kernel's or on loan; [`Loan`] is the proof of the second and is neither
//! `Clone` nor `Copy`, so a buffer is never read while the kernel may write it.
#![allow(unsafe_code)]

use super::Loan;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffer group of the receive buffers; each ring has one.
pub const RECV_GROUP: u16 = 0;

const PAGE: usize = 4096;

/// Receive buffers and the ring that provides them.
///
/// Invariant: `loaned + provided = count`; a buffer's bytes are touched by us only while loaned.
#[derive(Debug)]
pub struct BufferRing {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    /// Entries written so far; the kernel's tail follows at [`BufferRing::publish`].
    tail: u16,
    loaned: usize,
}

impl BufferRing {
    /// Allocates `count` (a power of two) buffers of `buffer_bytes`, touches their memory, so that
    /// it is claimed now and not under load, and registers them.
    pub fn register(submitter: &Submitter<'_>, count: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks positions");
        let mut ring = Self {
            entries: allocate(entries_layout(count)).cast(),
            memory: allocate(memory_layout(count, buffer_bytes)),
            count,
            buffer_bytes,
            tail: 0,
            loaned: usize::from(count),
        };
        for buffer in 0..count {
            ring.slice(buffer, buffer_bytes).fill(0);
            ring.provide(buffer);
        }
        ring.publish();
        // SAFETY: `entries` is page aligned, holds `count` entries and lives until `self` is
        // dropped, which the owner does after the ring has been torn down.
        unsafe {
            submitter.register_buf_ring_with_flags(
                ring.entries.as_ptr() as u64,
                count,
                RECV_GROUP,
                0,
            )?;
        }
        Ok(ring)
    }

    /// The loan of a buffer that a completion named: `len` bytes were received into it.
    pub fn loan(&mut self, buffer: u16, len: u32) -> Loan {
        assert!(
            buffer < self.count && len <= self.buffer_bytes,
            "the kernel names our buffers"
        );
        self.loaned += 1;
        assert!(
            self.loaned <= usize::from(self.count),
            "a buffer was loaned twice"
        );
        Loan { buffer, len }
    }

    /// The received bytes of a loan.
    pub fn bytes(&mut self, loan: &Loan) -> &mut [u8] {
        self.slice(loan.buffer, loan.len)
    }

    /// Takes a loan back; the kernel sees it at the next [`BufferRing::publish`].
    pub fn recycle(&mut self, loan: Loan) {
        self.provide(loan.buffer);
    }

    /// Shows recycled buffers to the kernel.
    pub fn publish(&mut self) {
        // SAFETY: `entries` points to initialised entries; the tail overlays the first one's
        // reserved field and the kernel reads it as a 16-bit word, so an atomic store is sound.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        // Release pairs with the kernel's acquire load of the tail: entries are visible before it.
        tail.store(self.tail, Ordering::Release);
    }

    /// Buffers in all.
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Buffers that the kernel does not hold.
    pub fn loaned(&self) -> usize {
        self.loaned
    }

    fn provide(&mut self, buffer: u16) {
        self.loaned -= 1;
        let address = self.slice(buffer, 0).as_ptr() as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: index < count, and the kernel does not read an entry behind the published tail.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn slice(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        let start = usize::from(buffer) * self.buffer_bytes as usize;
        // SAFETY: start + len lies within `memory`, which is initialised (zeroed at allocation);
        // the buffer is on loan or not yet provided, so the kernel does not write it, and
        // `&mut self` excludes a second slice.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(start), len as usize) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts and are not used after this.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(
                self.memory.as_ptr(),
                memory_layout(self.count, self.buffer_bytes),
            );
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    let bytes = usize::from(count) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE).expect("at most half a MiB, aligned to a page")
}

fn memory_layout(count: u16, buffer_bytes: u32) -> Layout {
    let bytes = usize::from(count) * buffer_bytes as usize;
    Layout::from_size_align(bytes, PAGE).expect("bounded by limits.rs")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0);
    // SAFETY: the layout has a size above zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
