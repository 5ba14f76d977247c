//! What the operator typed.

use crate::limits;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags of `ringcast serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeFlags {
    /// Address for WebSocket clients
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Address for upstream services (binary protocol); loopback unless there are keys
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001")]
    pub upstream: SocketAddr,

    /// Address for /health, /ready and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8002")]
    pub admin: SocketAddr,

    /// Shards: one thread and one ring each [default: one per core]. May exceed the cores: the
    /// descriptor limit bounds the connections of one shard, not of the process
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,

    /// Cores to pin the shards to, in turn, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,

    /// Let clients connect without a token
    #[arg(long)]
    pub allow_anonymous: bool,

    /// Let clients publish to rooms
    #[arg(long)]
    pub allow_publish: bool,

    /// Origin of web pages that may connect, with * as a wildcard; repeatable. None: no page may
    #[arg(long = "allowed-origin", value_name = "PATTERN")]
    pub allowed_origins: Vec<String>,

    /// File with the secrets of upstream services, one `id secret` a line
    #[arg(long, value_name = "FILE")]
    pub upstream_key_file: Option<PathBuf>,

    /// Name of this node, told to upstream services
    #[arg(long, value_name = "NAME", default_value = "ringcast")]
    pub node_name: String,

    /// Client connections of one shard; one more gets 503 [default: what the descriptor limit allows]
    #[arg(long, value_name = "N")]
    pub connections_per_shard: Option<usize>,

    /// Publications that each room keeps; 0 for none
    #[arg(long, value_name = "N", default_value_t = limits::HISTORY_COUNT)]
    pub history_count: usize,

    /// Seconds that a publication is kept
    #[arg(long, value_name = "SECONDS", default_value_t = limits::HISTORY_AGE_MS / 1_000)]
    pub history_age_s: u64,

    /// Payload bytes that each room keeps
    #[arg(long, value_name = "BYTES", default_value_t = limits::HISTORY_BYTES)]
    pub history_bytes: usize,

    /// Serve the demo page on the client address, and let it connect and publish
    #[arg(long)]
    pub demo: bool,
}

/// A secret that upstream services share with the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamKey {
    /// Which one it is.
    pub id: String,
    /// The secret.
    pub secret: Vec<u8>,
}

impl fmt::Debug for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Numbers and ranges, such as `0,2-3`. `None` when it is something else.
pub(super) fn core_list(list: &str) -> Option<Vec<usize>> {
    const CORES_MAX: usize = 4_096;
    let mut cores = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CORES_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// Lines `id secret`; empty ones and those that start with `#` are passed over. The error is the
/// number of the first line that is neither.
pub(super) fn key_file(text: &str) -> Result<Vec<UpstreamKey>, usize> {
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, secret) = line.split_once(char::is_whitespace).ok_or(index + 1)?;
        if id.len() > limits::UPSTREAM_NAME_MAX {
            return Err(index + 1);
        }
        keys.push(UpstreamKey {
            id: id.into(),
            secret: secret.trim().as_bytes().to_vec(),
        });
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_numbers_and_ranges() {
        assert_eq!(core_list("0,2-4, 7"), Some(vec![0, 2, 3, 4, 7]));
        for wrong in ["", "a", "3-1", "1-", "0-99999999999"] {
            assert_eq!(core_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_file_names_its_wrong_line() {
        let keys = key_file("# services\nchat  s3cret\n\nscores other secret\n").unwrap();
        assert_eq!(
            keys[0],
            UpstreamKey {
                id: "chat".into(),
                secret: b"s3cret".to_vec()
            }
        );
        assert_eq!(keys[1].secret, b"other secret");
        assert_eq!(key_file("chat s3cret\nlonely\n"), Err(2));
    }
}
