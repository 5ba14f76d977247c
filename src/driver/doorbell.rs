//! Doorbells: one eventfd per thread, written by whoever has work for a sleeping thread.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The doorbells of all nodes, by node index. Cloned to every thread.
#[derive(Clone, Debug)]
pub struct Doorbells(Vec<Arc<OwnedFd>>);

impl Doorbells {
    /// One doorbell for each of `rings` threads that wait for theirs on a ring.
    pub fn for_rings(rings: u16) -> io::Result<Self> {
        // Blocking: a ring waits on such a descriptor; a non-blocking read would complete at once.
        let bells = (0..rings).map(|_| Ok(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)));
        Ok(Self(bells.collect::<io::Result<_>>()?))
    }

    /// As [`Doorbells::for_rings`], and one more that its thread reads without blocking.
    pub fn for_rings_and_service(rings: u16) -> io::Result<Self> {
        let mut bells = Self::for_rings(rings)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        bells.0.push(Arc::new(eventfd(0, flags)?));
        Ok(bells)
    }

    /// Rings from a thread that has no ring of its own.
    pub fn ring(&self, node: u16) -> io::Result<()> {
        rustix::io::write(self.fd(node), &1u64.to_ne_bytes())?;
        Ok(())
    }

    /// The descriptor of a node's doorbell.
    pub fn fd(&self, node: u16) -> &OwnedFd {
        &self.0[usize::from(node)]
    }

    /// The descriptors, by node index.
    pub fn into_inner(self) -> Vec<Arc<OwnedFd>> {
        self.0
    }
}
