//! What the operator typed: flags, variables, lists and files of keys, nothing of it judged.

use super::source::FlagValue;
use crate::limits;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Flags of `ringcast serve` and `ringcast check`. Each but `demo` and `config` stands for a setting
/// of the file, so none has a default here.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(
    after_help = "Flags override the environment, the environment overrides the file. Every setting \
    SECTION.KEY of the file can be given as RINGCAST_SECTION_KEY; docs/configuration.md has them all."
)]
pub struct ServeFlags {
    /// Configuration file (TOML); RINGCAST_CONFIG names it as well
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Any setting of the configuration file, such as client.ping_interval=10s; repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,

    /// Address for WebSocket clients [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Address for upstream services (binary protocol); loopback unless there are keys [default:
    /// 127.0.0.1:8001]
    #[arg(long, value_name = "ADDR")]
    pub upstream: Option<String>,

    /// Address for /health, /ready, /metrics and the server API [default: 127.0.0.1:8002]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,

    /// Shards: one thread and one ring each [default: one per core]. May exceed the cores: the
    /// descriptor limit bounds the connections of one shard, not of the process
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,

    /// Cores to pin the shards to, in turn, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,

    /// Let clients connect without a token
    #[arg(long)]
    pub allow_anonymous: bool,

    /// Let all clients publish to channels without a namespace
    #[arg(long)]
    pub allow_publish: bool,

    /// Origin of web pages that may connect, with * as a wildcard; repeatable. None: no page may
    #[arg(long = "allowed-origin", value_name = "PATTERN")]
    pub allowed_origins: Vec<String>,

    /// File with the secrets of upstream services, one `id secret` a line
    #[arg(long, value_name = "FILE")]
    pub upstream_key_file: Option<String>,

    /// Name of this node, told to upstream services [default: ringcast]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Client connections of one shard; one more gets 503 [default: what the descriptor limit allows]
    #[arg(long, value_name = "N")]
    pub connections_per_shard: Option<String>,

    /// Publications that each channel without a namespace keeps; 0 for none [default without a
    /// file: 64]
    #[arg(long, value_name = "N")]
    pub history_count: Option<String>,

    /// Seconds that such a publication is kept [default without a file: 120]
    #[arg(long, value_name = "SECONDS")]
    pub history_age_s: Option<String>,

    /// Bytes of publications that such a channel keeps [default: 65536]
    #[arg(long, value_name = "BYTES")]
    pub history_bytes: Option<String>,

    /// Serve the demo page on the client address, and let everybody do everything
    #[arg(long)]
    pub demo: bool,
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a `=` is missing")?;
    match name.contains('.') {
        true => Ok((name.trim().into(), value.into())),
        false => Err("the name is not SECTION.KEY"),
    }
}

impl ServeFlags {
    /// The flags as values of settings; `--set` comes last and so counts most.
    pub(super) fn values(&self) -> Vec<FlagValue> {
        let origins = self.allowed_origins.join(",");
        let yes = |is_given: bool| is_given.then_some("true");
        let mut values: Vec<FlagValue> = [
            ("listen", "listen.client", self.listen.as_deref()),
            ("upstream", "listen.upstream", self.upstream.as_deref()),
            ("admin", "listen.admin", self.admin.as_deref()),
            ("shards", "shards.count", self.shards.as_deref()),
            ("cores", "shards.cores", self.cores.as_deref()),
            (
                "connections-per-shard",
                "shards.connections_per_shard",
                self.connections_per_shard.as_deref(),
            ),
            (
                "allow-anonymous",
                "client.allow_anonymous",
                yes(self.allow_anonymous),
            ),
            (
                "allow-publish",
                "channels.allow_publish_for_client",
                yes(self.allow_publish),
            ),
            (
                "allow-publish",
                "channels.allow_publish_for_anonymous",
                yes(self.allow_publish),
            ),
            (
                "allowed-origin",
                "client.allowed_origins",
                (!self.allowed_origins.is_empty()).then_some(origins.as_str()),
            ),
            (
                "upstream-key-file",
                "upstream.key_file",
                self.upstream_key_file.as_deref(),
            ),
            ("node-name", "upstream.node_name", self.node_name.as_deref()),
            (
                "history-count",
                "channels.history_size",
                self.history_count.as_deref(),
            ),
            (
                "history-age-s",
                "channels.history_ttl",
                self.history_age_s.as_deref(),
            ),
            (
                "history-bytes",
                "channels.history_bytes",
                self.history_bytes.as_deref(),
            ),
        ]
        .into_iter()
        .filter_map(|(flag, setting, text)| Some(value(flag, setting, text?)))
        .collect();
        self.without_history(&mut values);
        values.extend(self.set.iter().map(|(name, text)| FlagValue {
            setting: name.clone(),
            flag: "set",
            given: format!("{name}={text}"),
            text: text.clone(),
        }));
        values
    }

    /// One of the two flags being 0 is enough to say that there is no history.
    fn without_history(&self, values: &mut Vec<FlagValue>) {
        let is_zero = |text: &Option<String>| text.as_deref() == Some("0");
        if is_zero(&self.history_count) || is_zero(&self.history_age_s) {
            values.push(value("history-count", "channels.history_size", "0"));
            values.push(value("history-age-s", "channels.history_ttl", "0"));
        }
    }
}

fn value(flag: &'static str, setting: &str, text: &str) -> FlagValue {
    FlagValue {
        setting: setting.into(),
        flag,
        given: text.into(),
        text: match flag {
            "history-age-s" => format!("{text}s"),
            _ => text.into(),
        },
    }
}

/// The variables of this process that may be settings. Others of the same prefix are not complained
/// of: they may belong to other programs, and orchestrators make some from the names of services.
pub(super) fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .filter(|(name, _)| name.starts_with("RINGCAST_"))
        .collect()
}

fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
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
    fn the_last_word_is_that_of_set() {
        let flags = ServeFlags {
            listen: Some("127.0.0.1:1".into()),
            set: vec![setting("listen.client=127.0.0.1:2").unwrap()],
            ..ServeFlags::default()
        };
        let values = flags.values();
        let texts: Vec<_> = values.iter().map(|value| value.text.as_str()).collect();
        assert_eq!(texts, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert!(setting("listen").is_err() && setting("a=b").is_err());
    }

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
