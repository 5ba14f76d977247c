//! Doorbells: one eventfd per thread, written by whoever has work for a sleeping thread.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The doorbells of all nodes, by node index. Cloned to every thread.
#[derive(Clone, Debug)]
pub struct Doorbells(Arc<[OwnedFd]>);

impl Doorbells {
    /// One doorbell per node.
    pub fn new(nodes: usize) -> io::Result<Self> {
        let bells: io::Result<Vec<OwnedFd>> = (0..nodes)
            .map(|_| Ok(eventfd(0, EventfdFlags::CLOEXEC)?))
            .collect();
        Ok(Self(bells?.into()))
    }

    /// The descriptor of a node's doorbell.
    pub fn fd(&self, node: u16) -> &OwnedFd {
        &self.0[usize::from(node)]
    }

    /// Rings from a thread without a ring of its own.
    pub fn ring(&self, node: u16) {
        // The counter cannot overflow with one write per sleep; EINTR is retried by rustix's caller
        // contract only for blocking calls, and an eventfd write below its maximum never blocks.
        let _ = rustix::io::write(self.fd(node), &1u64.to_ne_bytes());
    }
}
