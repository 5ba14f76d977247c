//! Ringcast: an edge broker. It holds the WebSocket connections of browsers and phones, groups them
//! in rooms, and delivers what upstream services publish, to every subscriber, in order.
//!
//! One process per host. Each **shard** is a pinned thread with one io_uring, its sockets, and the
//! rooms whose home it is; nothing in it is shared or locked. The **service thread** runs what is
//! low in volume or wants async code: upstream connections and the admin listener. Threads talk
//! through the **mesh**, single-producer single-consumer byte lanes.
//!
//! # The walk of a message
//!
//! Read these in order; `tests/walk.rs` asserts the hops.
//!
//! 1. [`service`], `upstream.rs` and `intake.rs`: bytes from an upstream service become a
//!    [`mesh::Publish`].
//! 2. [`mesh::frames`]: the frame is archived straight into the lane from the service thread to
//!    `home(room)`, which [`base::RoomHasher::home`] finds.
//! 3. [`shard`], `exchange.rs`, `drain_requests`: the home shard reads the frame in place.
//! 4. [`room::home::Home::publish`]: assigns the offset, appends to the history; the home knows which
//!    shards have subscribers.
//! 5. `shard/fanout.rs`, `spread`: one [`mesh::Delivery::Publication`] for each interested shard, a
//!    direct call for this one; the acknowledgement goes back.
//! 6. `shard/fanout.rs`, `deliver`: each interested shard encodes the push once into its view's
//!    [`room::tail::Tail`] and marks the subscribers dirty.
//! 7. `shard/outbox.rs`, `flush`: at the end of the turn every dirty, idle socket gets one send that
//!    covers everything it has not been sent yet.
//! 8. [`driver::uring`]: one `io_uring_enter` submits the turn's sends and reaps completions.
//!
//! # Layers
//!
//! A file uses only layers below its own, and siblings do not see each other; `tests/layers.rs`
//! reads the `use` lines and fails otherwise.
//!
//! ```text
//! main → cli → boot
//! cli → client → wire                                the upstream protocol's other side
//! cli · config → access                              tokens are made and checked; keys are read
//! boot → config · demo · shard · service
//!        shard → room · mesh · driver · wire · access
//!        service → mesh · wire                       glommio lives here and nowhere else
//!        room → wire                                 value types
//!        wire │ mesh │ driver │ access               mutually invisible
//!        base → limits
//! ```
#![warn(missing_docs)]

pub mod access;
pub mod base;
pub mod boot;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod driver;
pub mod limits;
pub mod mesh;
pub mod room;
pub mod service;
pub mod shard;
pub mod wire;
