//! What every layer may use: identifiers, slabs, timers, reasons, counters. Nothing here knows of
//! sockets, rooms or protocols.

pub mod chunk;
pub mod client_id;
pub mod content;
pub mod ids;
pub mod reason;
pub mod slab;
pub mod stats;
pub mod wheel;

pub use content::Content;
pub use ids::{ConnId, Epoch, NodeId, Offset, RoomHasher, ViewId};
