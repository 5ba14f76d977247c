//! What every layer may use: identifiers, slabs, timers, reasons, counters. Nothing here knows of
//! sockets, rooms or protocols.

pub mod chunk;
pub mod client_id;
pub mod content;
pub mod event;
pub mod ids;
pub mod object;
pub mod overrides;
pub mod reason;
pub mod slab;
pub mod stats;
pub mod version;
pub mod wheel;

pub use content::Content;
pub use event::{EventKind, OrderKind, Verdict};
pub use ids::{ConnId, Epoch, NodeId, Offset, RoomHasher, ViewId};
pub use object::Object;
pub use overrides::Overrides;
pub use version::Version;
