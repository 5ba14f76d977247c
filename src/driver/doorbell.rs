//! Doorbells: one eventfd per thread, written by whoever has work for a sleeping thread.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The doorbells of all nodes, by node index. Cloned to every thread.
#[derive(Clone, Debug)]
pub struct Doorbells(Vec<Arc<OwnedFd>>);

impl Doorbells {
    /// One doorbell per node. The last node, the service thread, reads its own without blocking;
    /// a ring waits on a blocking one (a non-blocking one would complete at once).
    pub fn new(nodes: u16) -> io::Result<Self> {
        let flags = |node| {
            let last = node + 1 == nodes;
            EventfdFlags::CLOEXEC
                | if last {
                    EventfdFlags::NONBLOCK
                } else {
                    EventfdFlags::empty()
                }
        };
        let bells = (0..nodes).map(|node| Ok(Arc::new(eventfd(0, flags(node))?)));
        Ok(Self(bells.collect::<io::Result<_>>()?))
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
