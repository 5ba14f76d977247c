//! The mesh: everything that crosses cores, and nothing else does.
//!
//! For every ordered pair of nodes (the shards and the service thread) there are two lanes, each
//! a [`ring`] of [`frames`]: one for requests, one for deliveries. [`lanes`] bundles a node's ends
//! of them into its port; [`bell`] knows who sleeps.
//!
//! **Why no cycle of full lanes can stop the nodes.** Two rules, kept by the callers:
//!
//! 1. A node always drains its deliveries, and handling a delivery produces no mesh output.
//! 2. A node takes a request, or bytes from a socket that may become requests, only while its
//!    outlets have room for all that handling it may produce.
//!
//! By rule 1 delivery lanes empty whatever else happens. By rule 2 handling a request waits only
//! for room in delivery lanes, since its output is deliveries, and so request lanes empty too.
//! Requests themselves come from outside, where waiting is what TCP and credits are for: the
//! pressure travels to the peer, and no frame is dropped between cores.
//!
//! A lane does not ring back when it has room again. A node that waits for room must look again
//! by itself, so it does not sleep without a time limit.
//!
//! Two frames of one lane arrive in the order in which they were sent. Between lanes, and so
//! between a request and a delivery of the same pair, there is no order.

pub mod bell;
pub mod frames;
pub mod lanes;
pub mod ring;

pub use frames::{
    Answer, ArchivedDelivery, ArchivedRequest, Delivery, Event, HistoryRead, Member, Order,
    Position, Publish, ReplyTo, Request,
};
pub use lanes::{Frame, Inlets, LaneFull, Outlets, Port, mesh};

/// The atomics of the mesh, exchanged for loom's where loom checks it.
mod sync {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    #[cfg(not(loom))]
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}
