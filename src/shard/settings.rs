//! What a shard is told at its start: resolved values, no file and no flag.

use crate::access::Origins;
use crate::base::{NodeId, RoomHasher};
use crate::limits;
use crate::room::history::HistoryLimits;
use crate::room::home::HomeLimits;
use crate::room::session::Policy;
use crate::room::tail::TailLimits;

/// A page served to browsers on the client listener.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Path, matched exactly.
    pub path: &'static str,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: &'static [u8],
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This shard.
    pub node: NodeId,
    /// Shards of the process; the service thread is the node after them.
    pub shards: u16,
    /// Finds the home of a room.
    pub hasher: RoomHasher,
    /// Random of this process: client ids, epochs, ping phases.
    pub seed: u64,
    /// Version in connect replies.
    pub version: &'static str,
    /// Path of the WebSocket endpoint.
    pub path: String,
    /// Pages to serve.
    pub pages: &'static [Page],
    /// Origins of web pages that may connect.
    pub origins: Origins,
    /// What clients may do.
    pub policy: Policy,
    /// Client connections of this shard; one more is refused with 503.
    pub connections_max: usize,
    /// Rooms whose home this shard may be.
    pub homes_max: usize,
    /// Bounds of homes.
    pub home: HomeLimits,
    /// Bytes of all histories of this shard.
    pub histories_bytes: usize,
    /// Milliseconds after which an idle home is forgotten.
    pub home_idle_ms: u64,
    /// Bounds of a room's tail.
    pub tail: TailLimits,
    /// Bytes of all tails of this shard.
    pub tails_bytes: usize,
    /// Milliseconds from accept to upgrade.
    pub upgrade_ms: u64,
    /// Milliseconds from upgrade to connect.
    pub stale_ms: u64,
    /// Milliseconds between pings.
    pub ping_ms: u64,
    /// Milliseconds for a pong.
    pub pong_ms: u64,
    /// Milliseconds that a send may be in flight.
    pub write_ms: u64,
    /// Milliseconds for a peer to answer our close.
    pub close_ms: u64,
    /// Milliseconds for which a refused or broken connection is still read.
    pub linger_ms: u64,
}

impl Settings {
    /// The defaults of `limits.rs` for one shard of `shards`: nothing allowed, no pages.
    pub fn new(node: NodeId, hasher: RoomHasher, shards: u16, seed: u64) -> Self {
        Self {
            node,
            shards,
            hasher,
            seed,
            version: concat!("ringcast ", env!("CARGO_PKG_VERSION")),
            path: "/connection/websocket".into(),
            pages: &[],
            origins: Origins::default(),
            policy: Policy::default(),
            connections_max: usize::MAX,
            homes_max: limits::HOMES_PER_SHARD_MAX,
            home: HomeLimits {
                history: HistoryLimits {
                    count: limits::HISTORY_COUNT,
                    age_ms: limits::HISTORY_AGE_MS,
                    bytes: limits::HISTORY_BYTES,
                },
                keys: limits::IDEMPOTENCY_KEYS_MAX,
                keys_age_ms: limits::IDEMPOTENCY_AGE_MS,
            },
            histories_bytes: limits::HISTORIES_BYTES_PER_SHARD,
            home_idle_ms: limits::HOME_IDLE_MS,
            tail: TailLimits {
                bytes: limits::TAIL_BYTES,
                age_ms: limits::TAIL_AGE_MS,
            },
            tails_bytes: limits::TAILS_BYTES_PER_SHARD,
            upgrade_ms: limits::UPGRADE_DEADLINE_MS,
            stale_ms: limits::STALE_DEADLINE_MS,
            ping_ms: limits::PING_INTERVAL_MS,
            pong_ms: limits::PONG_DEADLINE_MS,
            write_ms: limits::WRITE_TIMEOUT_MS,
            close_ms: limits::CLOSE_DEADLINE_MS,
            linger_ms: limits::LINGER_MS,
        }
    }
}
