//! A simulated kernel: seeded, with faults and virtual time, many shards in one thread.
//!
//! A [`World`] holds the clock, the dice and the network. Each shard stands on a [`Sim`] of that
//! world, each fake client is a [`Client`]. Time stands still while a shard takes its turn; the
//! test's scheduler moves it:
//!
//! ```text
//! let world = World::new(seed, Faults::chaotic());
//! let mut shards: Vec<_> = (0..3).map(|_| shard_on(world.sim(SimSetup::default()))).collect();
//! let client = world.connect(0);
//! client.write(b"...");
//! while !done {
//!     match world.step() {
//!         Step::Turn(node) => shards[usize::from(node)].turn(),
//!         Step::Waited => {}         // only the clock moved: look at the clients
//!         Step::Idle => break,       // nothing will ever happen again
//!     }
//! }
//! ```
//!
//! `submit` never blocks: [`Wait::UpTo`] only records until when the shard sleeps, and
//! [`World::step`] gives it no turn before that unless something completes.
//!
//! The simulation is stricter than Linux where a caller could get away with a mistake: every breach
//! of the contract of [`Driver`] panics with a message that starts with `contract:`. It is as
//! unkind as Linux otherwise: completions overtake each other between sockets, a multishot receive
//! ends when it likes, a send that fails after it moved bytes reports a short count, an accept that
//! finds the table full loses its connection.
//!
//! Never here: a real clock, a real socket, unsafe code, unordered iteration.

mod client;
mod contract;
#[cfg(test)]
mod echo;
mod faults;
mod kernel;
mod pool;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
mod world;

pub use client::{Client, client_address};
pub use faults::Faults;
pub use stream::End;
pub use world::{Step, World};

use super::{Completion, Driver, DriverCounts, Loan, Op, Payload, Wait};
use crate::base::chunk::Part;
use crate::limits::SEND_PARTS_MAX;
use std::net::SocketAddr;

/// Sizes of one simulated ring.
#[derive(Clone, Copy, Debug)]
pub struct SimSetup {
    /// Slots of the file table.
    pub slots: u32,
    /// Receive buffers.
    pub buffers: u16,
    /// Bytes of one receive buffer.
    pub buffer_bytes: usize,
}

impl Default for SimSetup {
    /// Small enough that a few clients use everything up.
    fn default() -> Self {
        Self {
            slots: 16,
            buffers: 4,
            buffer_bytes: 64,
        }
    }
}

/// The ring of one simulated shard.
#[derive(Debug)]
pub struct Sim {
    world: World,
    node: u16,
    /// Pushed and not yet submitted, in order.
    pushed: Vec<Op>,
    /// The receive buffers' memory. Filled when the completion is reaped, not before.
    memory: Vec<Box<[u8]>>,
    spare: Vec<Vec<Part>>,
    slots: u32,
}

impl Sim {
    /// A ring in `world` with index `node`; see [`World::sim`].
    fn new(world: World, node: u16, setup: &SimSetup) -> Self {
        let buffer = || vec![0; setup.buffer_bytes].into_boxed_slice();
        Self {
            world,
            node,
            pushed: Vec::new(),
            memory: (0..setup.buffers).map(|_| buffer()).collect(),
            spare: Vec::new(),
            slots: setup.slots,
        }
    }

    /// Index of this ring in its world.
    pub fn node(&self) -> u16 {
        self.node
    }

    /// The world of this ring.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Slots of the file table that hold a socket.
    pub fn occupied(&self) -> usize {
        let kernel = self.world.kernel();
        let slots = &kernel.nodes[usize::from(self.node)].slots;
        slots.iter().flatten().count()
    }

    /// Whether every receive buffer is the kernel's, or will be after the next submit.
    pub fn buffers_are_home(&self) -> bool {
        self.world.kernel().node(self.node).pool.is_home()
    }

    /// Asserts what always holds: each buffer has one holder, each occupied slot one socket, no
    /// closed socket an operation, no window more than its bytes.
    pub fn invariants(&self) {
        self.world.kernel().invariants(self.node);
    }
}

impl Driver for Sim {
    fn now_ns(&mut self) -> u64 {
        self.world.now_ns()
    }

    fn push(&mut self, op: Op) {
        self.world.kernel().admit(self.node, &op);
        self.pushed.push(op);
    }

    fn submit(&mut self, wait: Wait) {
        let mut kernel = self.world.kernel();
        kernel.node(self.node).pool.publish();
        kernel.node(self.node).enters += 1;
        for op in self.pushed.drain(..) {
            kernel.execute(self.node, op);
        }
        let now_ns = kernel.now_ns;
        kernel.advance_to(now_ns);
        let sleep_ns = match wait {
            Wait::No => 0,
            Wait::UpTo(time) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        };
        kernel.node(self.node).wake_ns = now_ns.saturating_add(sleep_ns);
    }

    fn reap(&mut self) -> Option<Completion> {
        let posted = self.world.kernel().reap(self.node)?;
        let (completion, bytes, payload) = posted.split();
        if let Some(loan) = &completion.loan {
            self.memory[usize::from(loan.buffer)][..bytes.len()].copy_from_slice(&bytes);
        }
        if let Some(Payload::Many(mut parts)) = payload {
            parts.clear();
            self.spare.push(parts);
        }
        Some(completion)
    }

    fn peer(&self, entry: u32) -> SocketAddr {
        self.world.kernel().peer(self.node, entry)
    }

    fn bytes(&mut self, loan: &Loan) -> &mut [u8] {
        self.world
            .kernel()
            .node(self.node)
            .pool
            .assert_loaned(loan.buffer);
        &mut self.memory[usize::from(loan.buffer)][..loan.len()]
    }

    fn recycle(&mut self, loan: Loan) {
        self.world
            .kernel()
            .node(self.node)
            .pool
            .recycle(loan.buffer);
        // Whoever still believes in these bytes reads nonsense.
        self.memory[usize::from(loan.buffer)].fill(0xa5);
    }

    fn spare_parts(&mut self) -> Vec<Part> {
        let fresh = || Vec::with_capacity(SEND_PARTS_MAX);
        self.spare.pop().unwrap_or_else(fresh)
    }

    fn return_parts(&mut self, mut parts: Vec<Part>) {
        parts.clear();
        self.spare.push(parts);
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn counts(&self) -> DriverCounts {
        let mut kernel = self.world.kernel();
        let node = kernel.node(self.node);
        DriverCounts {
            enters: node.enters,
            overflows: 0,
            buffers: node.pool.count(),
            buffers_loaned: node.pool.loaned(),
        }
    }
}
