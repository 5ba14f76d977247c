//! What the operator meant: flags checked, units resolved, every error found before any thread runs.

pub mod raw;

use crate::access::Origins;
use crate::limits;
use crate::room::history::HistoryLimits;
use raw::{ServeFlags, UpstreamKey};
use std::fmt;
use std::net::SocketAddr;

/// A broker to start.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where upstream services connect.
    pub upstream: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// Shards.
    pub shards: u16,
    /// Cores to pin shards to, used in turn.
    pub cores: Vec<usize>,
    /// Clients may connect without a token.
    pub allow_anonymous: bool,
    /// Clients may publish.
    pub allow_publish: bool,
    /// Pages that may connect.
    pub origins: Origins,
    /// Secrets of upstream services.
    pub keys: Vec<UpstreamKey>,
    /// Name of this node.
    pub node_name: String,
    /// Client connections of one shard; `None` for what the descriptor limit allows.
    pub connections_per_shard: Option<usize>,
    /// Bounds of each room's history.
    pub history: HistoryLimits,
    /// Serve the demo page.
    pub demo: bool,
    /// Deadlines and intervals; no flag changes them.
    pub timing: Timing,
}

/// Deadlines and intervals in milliseconds. The defaults are those of `limits.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From accept to a complete upgrade request.
    pub upgrade_ms: u64,
    /// From the upgrade to a successful connect.
    pub stale_ms: u64,
    /// Between pings.
    pub ping_ms: u64,
    /// For the answer to a ping.
    pub pong_ms: u64,
    /// For a send in flight.
    pub write_ms: u64,
    /// For a peer's answer to our close.
    pub close_ms: u64,
    /// For challenge, hello and welcome of an upstream connection together.
    pub upstream_opening_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            upgrade_ms: limits::UPGRADE_DEADLINE_MS,
            stale_ms: limits::STALE_DEADLINE_MS,
            ping_ms: limits::PING_INTERVAL_MS,
            pong_ms: limits::PONG_DEADLINE_MS,
            write_ms: limits::WRITE_TIMEOUT_MS,
            close_ms: limits::CLOSE_DEADLINE_MS,
            upstream_opening_ms: limits::UPSTREAM_OPENING_MS,
        }
    }
}

/// A setting that cannot be used: which, what it was, what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--{} {}: expected {}",
            self.flag, self.value, self.expected
        )
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks the flags on a host with `cores_here` cores. All errors are returned, not the first.
    pub fn from_flags(flags: ServeFlags, cores_here: &[usize]) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let cores = cores(flags.cores.as_deref(), cores_here, &mut errors);
        let shards = shards(flags.shards, cores.len(), &mut errors);
        if flags.history_count > HISTORY_COUNT_MAX {
            errors.push(ConfigError {
                flag: "history-count",
                value: flags.history_count.to_string(),
                expected: format!("at most {HISTORY_COUNT_MAX}"),
            });
        }
        let keys = keys(&flags, &mut errors);
        if keys.is_empty() && !flags.upstream.ip().is_loopback() {
            errors.push(ConfigError {
                flag: "upstream",
                value: flags.upstream.to_string(),
                expected:
                    "a loopback address, or keys (--upstream-key-file): without a key anybody \
                           who reaches the port could publish"
                        .into(),
            });
        }
        let mut origins = flags.allowed_origins;
        if flags.demo {
            origins.extend(demo_origins(flags.listen));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            listen: flags.listen,
            upstream: flags.upstream,
            admin: flags.admin,
            shards,
            cores,
            allow_anonymous: flags.allow_anonymous || flags.demo,
            allow_publish: flags.allow_publish || flags.demo,
            origins: Origins::new(origins),
            keys,
            node_name: flags.node_name,
            connections_per_shard: flags.connections_per_shard,
            history: HistoryLimits {
                count: flags.history_count,
                age_ms: flags.history_age_s * 1_000,
                bytes: flags.history_bytes,
            },
            demo: flags.demo,
            timing: Timing::default(),
        })
    }

    /// Notes the address that was bound for clients; the demo's page comes from there.
    pub fn bound(&mut self, listen: SocketAddr) {
        self.listen = listen;
        if self.demo {
            self.origins.add(demo_origins(listen));
        }
    }
}

/// What browsers send as the origin of a page at this address.
fn demo_origins(listen: SocketAddr) -> [String; 2] {
    [
        format!("http://{listen}"),
        format!("http://localhost:{}", listen.port()),
    ]
}

const HISTORY_COUNT_MAX: usize = 1_000_000;

fn cores(list: Option<&str>, here: &[usize], errors: &mut Vec<ConfigError>) -> Vec<usize> {
    let Some(list) = list else {
        return here.to_vec();
    };
    let parsed = raw::core_list(list);
    match parsed {
        Some(cores) if cores.iter().all(|core| here.contains(core)) => cores,
        _ => {
            errors.push(ConfigError {
                flag: "cores",
                value: list.into(),
                expected: format!("numbers and ranges of {here:?}, such as 0,2-3"),
            });
            Vec::new()
        }
    }
}

fn shards(shards: Option<usize>, cores: usize, errors: &mut Vec<ConfigError>) -> u16 {
    let shards = shards.unwrap_or(cores.max(1));
    if shards == 0 || shards > limits::SHARDS_MAX {
        errors.push(ConfigError {
            flag: "shards",
            value: shards.to_string(),
            expected: format!("1 to {}", limits::SHARDS_MAX),
        });
        return 1;
    }
    shards as u16
}

fn keys(flags: &ServeFlags, errors: &mut Vec<ConfigError>) -> Vec<UpstreamKey> {
    let Some(path) = &flags.upstream_key_file else {
        return Vec::new();
    };
    let mut fail = |expected: String| {
        errors.push(ConfigError {
            flag: "upstream-key-file",
            value: path.display().to_string(),
            expected,
        });
    };
    match std::fs::read_to_string(path) {
        Err(error) => fail(format!("a readable file ({error})")),
        Ok(text) => match raw::key_file(&text) {
            Ok(keys) if keys.is_empty() => fail("at least one line `id secret`".into()),
            Ok(keys) => return keys,
            Err(line) => fail(format!("lines `id secret`; line {line} is not one")),
        },
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: ServeFlags,
    }

    fn config(arguments: &str) -> Result<Config, Vec<ConfigError>> {
        let words = std::iter::once("serve").chain(arguments.split_whitespace());
        Config::from_flags(Command::parse_from(words).flags, &[0, 1, 2, 3])
    }

    #[test]
    fn every_error_is_reported_with_flag_value_and_what_was_expected() {
        let errors = config("--shards 0 --cores 9 --upstream 0.0.0.0:1 --history-count 9999999")
            .unwrap_err();
        let flags: Vec<_> = errors.iter().map(|error| error.flag).collect();
        assert_eq!(flags, ["cores", "shards", "history-count", "upstream"]);
        assert!(
            errors[1]
                .to_string()
                .contains("--shards 0: expected 1 to 255")
        );
    }

    #[test]
    fn nothing_is_open_unless_it_is_asked_for() {
        let config = config("").unwrap();
        assert!(!config.allow_anonymous && !config.allow_publish && !config.demo);
        assert!(!config.origins.allow(Some("http://127.0.0.1:8000")));
        assert_eq!((config.shards, config.cores.len()), (4, 4));
    }

    #[test]
    fn the_demo_lets_its_own_page_in_and_no_other() {
        let config = config("--demo --listen 127.0.0.1:9").unwrap();
        assert!(config.allow_anonymous && config.allow_publish);
        assert!(config.origins.allow(Some("http://127.0.0.1:9")));
        assert!(!config.origins.allow(Some("http://example.com")));
    }
}
