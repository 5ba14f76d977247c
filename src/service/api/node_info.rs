//! `info`: this process in numbers, from what its shards export.

use crate::base::stats::ShardStats;
use crate::service::Shared;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// One node: a process is a whole node, there is no cluster.
///
/// A user or a channel counts once for each shard that has connections or subscribers of it.
pub(super) fn info(shared: &Shared) -> Vec<u8> {
    let sum = |read: fn(&ShardStats) -> u64| -> u64 {
        let shards = shared.shards.iter();
        shards.map(|stats| read(&stats.shard)).sum()
    };
    let node = json!({
        "uid": uid(shared.api.seed),
        "name": shared.node_name,
        "version": env!("CARGO_PKG_VERSION"),
        "num_clients": sum(|shard| shard.sessions.read()),
        "num_users": sum(|shard| shard.users.read()),
        "num_channels": sum(|shard| shard.rooms.read()),
        "num_subs": sum(|shard| shard.subscriptions.read()),
        "uptime": shared.api.started.elapsed().as_secs(),
    });
    json!({"nodes": [node]}).to_string().into_bytes()
}

/// Another one for each run of the process. The seed itself stays inside.
fn uid(seed: u64) -> String {
    let mut digest = Sha256::new();
    digest.update(b"node uid");
    digest.update(seed.to_le_bytes());
    let digest = digest.finalize();
    digest.iter().take(16).fold(String::new(), |mut uid, byte| {
        // Writing to a string does not fail.
        let _ = write!(uid, "{byte:02x}");
        uid
    })
}
