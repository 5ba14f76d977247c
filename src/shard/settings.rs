//! What a shard is told at its start: resolved values, no file and no flag.

use crate::access::{ChannelOptions, Namespaces, Origins, TokenVerifier};
use crate::base::{NodeId, RoomHasher};
use crate::limits;
use crate::room::history::HistoryLimits;
use crate::room::home::HomeLimits;
use crate::room::tail::TailLimits;
use std::sync::Arc;

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

/// What clients may do, apart from what their channels' options say.
#[derive(Clone, Copy, Debug)]
pub struct ClientPolicy {
    /// Connect without a token.
    pub anonymous: bool,
    /// Everything without a token; a token that is given is verified all the same. For tests.
    pub insecure: bool,
    /// Subscriptions of a connection.
    pub channels_max: usize,
    /// Connections of one user; 0 for as many as there are.
    pub user_connections_max: u32,
    /// Subscribe each user to `#user`.
    pub personal_channel: bool,
    /// A service decides on connections without a token.
    pub connect_hook: bool,
    /// A service refreshes connections that are about to expire.
    pub refresh_hook: bool,
    /// Services answer calls.
    pub rpc_hook: bool,
    /// Services are told of messages.
    pub message_hook: bool,
    /// Services are told of closed connections.
    pub disconnect_events: bool,
    /// Milliseconds that an expired connection has to refresh.
    pub expired_close_ms: u64,
    /// Milliseconds that an expired subscription has to refresh.
    pub expired_sub_close_ms: u64,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            anonymous: false,
            insecure: false,
            channels_max: limits::SUBSCRIPTIONS_PER_CONN_MAX,
            user_connections_max: 0,
            personal_channel: false,
            connect_hook: false,
            refresh_hook: false,
            rpc_hook: false,
            message_hook: false,
            disconnect_events: false,
            expired_close_ms: limits::EXPIRED_CLOSE_MS,
            expired_sub_close_ms: limits::EXPIRED_SUB_CLOSE_MS,
        }
    }
}

/// Bounds of the homes of a namespace.
pub fn home_limits(options: &ChannelOptions) -> HomeLimits {
    HomeLimits {
        history: HistoryLimits {
            count: if options.has_history() {
                options.history_count
            } else {
                0
            },
            age_ms: options.history_age_ms,
            bytes: options.history_bytes,
        },
        keys: limits::IDEMPOTENCY_KEYS_MAX,
        keys_age_ms: limits::IDEMPOTENCY_AGE_MS,
        meta_ms: options.history_meta_ms,
        read_max: limits::RECOVERY_PUBLICATIONS,
        page_max: limits::HISTORY_PUBLICATIONS,
        read_bytes_max: limits::READ_BYTES_MAX,
    }
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
    pub clients: ClientPolicy,
    /// Options of channels.
    pub namespaces: Arc<Namespaces>,
    /// Bounds of homes, by namespace.
    pub homes: Arc<[HomeLimits]>,
    /// Verifies connection tokens.
    pub tokens: Arc<TokenVerifier>,
    /// Verifies subscription tokens.
    pub subscription_tokens: Arc<TokenVerifier>,
    /// Unix time in milliseconds when the driver's clock was at 0.
    pub unix_at_zero_ms: u64,
    /// Makes epochs, with `incarnation`; survives a restart with the state file.
    pub epoch_seed: u64,
    /// Counts how often a room's position was forgotten; as `epoch_seed`.
    pub incarnation: u32,
    /// Client connections of this shard; one more is refused with 503.
    pub connections_max: usize,
    /// Rooms whose home this shard may be.
    pub homes_max: usize,
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
    /// Lets everybody do everything in every channel.
    pub fn allow_everything(&mut self) {
        self.clients.anonymous = true;
        let everything = Namespaces::open(ChannelOptions::everything());
        self.set_namespaces(Arc::new(everything));
    }

    /// Bounds what recoveries and pages of history give; after [`Settings::set_namespaces`].
    pub fn set_read_limits(&mut self, recovery_max: usize, page_max: usize) {
        let bounded = self.homes.iter().map(|limits| HomeLimits {
            read_max: recovery_max,
            page_max,
            ..*limits
        });
        self.homes = bounded.collect();
    }

    /// Sets the options of channels and the bounds of homes that follow from them.
    pub fn set_namespaces(&mut self, namespaces: Arc<Namespaces>) {
        self.homes = namespaces.iter().map(home_limits).collect();
        self.namespaces = namespaces;
    }

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
            clients: ClientPolicy::default(),
            namespaces: Arc::default(),
            homes: Arc::new([home_limits(&ChannelOptions::default())]),
            tokens: Arc::default(),
            subscription_tokens: Arc::default(),
            unix_at_zero_ms: 0,
            epoch_seed: seed.rotate_left(7),
            incarnation: 0,
            connections_max: usize::MAX,
            homes_max: limits::HOMES_PER_SHARD_MAX,
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
