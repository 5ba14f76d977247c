//! What the operator meant: a file, the environment and flags, resolved into one [`Config`] before any
//! thread runs.
//!
//! Two stages. As typed: [`raw`] has the flags, `source.rs` knows which value counts and on which line
//! it stands. As meant: `reader.rs` turns typed values into numbers with units resolved; the calls in
//! this file, `channels.rs` and `tokens.rs` are the schema. Every error is found, not the first.

mod channels;
mod error;
pub mod raw;
mod reader;
mod source;
mod tokens;
mod units;

pub use error::{ConfigError, Place};
pub use reader::Known;

use crate::access::{Namespaces, Origins, TokenSettings};
use crate::limits;
use channels::Basis;
use raw::{ServeFlags, UpstreamKey};
use reader::{Reader, Section};
use source::{File, Sources};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A broker to start.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Path of the WebSocket endpoint.
    pub path: String,
    /// Where upstream services connect.
    pub upstream: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// Shards.
    pub shards: u16,
    /// Cores to pin shards to, used in turn.
    pub cores: Vec<usize>,
    /// Client connections of one shard; `None` for what the descriptor limit allows.
    pub connections_per_shard: Option<usize>,
    /// Channels that one shard keeps order, history and presence of.
    pub channels_per_shard: usize,
    /// What clients may do, whatever the channel.
    pub client: ClientConfig,
    /// Pages that may connect.
    pub origins: Origins,
    /// Which decisions and events of connections go to upstream services.
    pub hooks: Hooks,
    /// What connection tokens are checked with.
    pub token: TokenSettings,
    /// What subscription tokens are checked with; the same unless it has keys of its own.
    pub subscription_token: TokenSettings,
    /// Secrets of upstream services.
    pub keys: Vec<UpstreamKey>,
    /// Name of this node.
    pub node_name: String,
    /// Who may use the HTTP server API.
    pub api: ApiConfig,
    /// Bounds of histories that are not those of a namespace.
    pub history: HistoryBounds,
    /// Where positions and histories outlive a restart; `None` when they do not.
    pub state_file: Option<PathBuf>,
    /// What may be done in which channel.
    pub namespaces: Namespaces,
    /// Every name of a channel is fine: there is no file, or this is the demo.
    pub open_namespaces: bool,
    /// Serve the demo page.
    pub demo: bool,
    /// Deadlines and intervals.
    pub timing: Timing,
}

/// What clients may do, whatever the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Clients may connect without a token, as nobody.
    pub allow_anonymous: bool,
    /// For tests only: no token is needed, nothing expires and everything that is on is allowed.
    pub insecure: bool,
    /// Channels that one connection may be subscribed to.
    pub channel_limit: usize,
    /// Connections of one user; 0 for as many as there are.
    pub user_connection_limit: usize,
    /// Milliseconds that an expired connection has for its refresh.
    pub expired_close_ms: u64,
    /// Milliseconds that an expired subscription has for its refresh.
    pub expired_sub_close_ms: u64,
    /// Every connection with a user is subscribed to `#user`.
    pub personal_channel: bool,
}

/// Which decisions and events of connections go to upstream services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Connections that bring no token.
    pub connect: bool,
    /// Connections whose time is up.
    pub refresh: bool,
    /// Calls of clients; without it there are none (error 108).
    pub rpc: bool,
    /// Messages of clients that want no answer.
    pub message: bool,
    /// Connections that have ended.
    pub disconnect_events: bool,
    /// Milliseconds that a service has to answer.
    pub timeout_ms: u64,
}

/// Who may use the HTTP server API. Without keys and not insecure: nobody.
#[derive(Clone, Default)]
pub struct ApiConfig {
    /// Accepted keys.
    pub keys: Vec<String>,
    /// Anybody who reaches the admin address.
    pub insecure: bool,
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig")
            .field("keys", &self.keys.len())
            .field("insecure", &self.insecure)
            .finish()
    }
}

/// Bounds of histories that are not those of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Bytes of all histories of one shard.
    pub bytes_per_shard: usize,
    /// Publications of one answer to `history`.
    pub publications_max: usize,
    /// Publications that a recovery may give back.
    pub recovery_publications_max: usize,
}

/// Deadlines and intervals in milliseconds. The defaults are those of `limits.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From accept to a complete upgrade request; not configurable.
    pub upgrade_ms: u64,
    /// From the upgrade to a successful connect.
    pub stale_ms: u64,
    /// Between pings.
    pub ping_ms: u64,
    /// For the answer to a ping.
    pub pong_ms: u64,
    /// For a send in flight.
    pub write_ms: u64,
    /// For a peer's answer to our close; not configurable.
    pub close_ms: u64,
    /// For challenge, hello and welcome of an upstream connection together; not configurable.
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

impl Config {
    /// Resolves the flags, the environment of this process and the file that they name, on a host
    /// with `cores_here` cores. All errors are returned: those of the file in the order of its lines,
    /// then those of the environment and of the flags.
    pub fn from_flags(flags: ServeFlags, cores_here: &[usize]) -> Result<Self, Vec<ConfigError>> {
        Self::resolve(&flags, &raw::environment(), cores_here)
    }

    /// As [`Config::from_flags`], with the variables of some environment.
    pub fn resolve(
        flags: &ServeFlags,
        environment: &[(String, String)],
        cores_here: &[usize],
    ) -> Result<Self, Vec<ConfigError>> {
        let path = file_path(flags, environment);
        let text = path.as_ref().map(|(path, place)| {
            std::fs::read_to_string(path).map_err(|error| ConfigError {
                place: place.clone(),
                key: "config".into(),
                value: path.display().to_string(),
                expected: format!("a readable text file ({error})"),
            })
        });
        let text = text.transpose().map_err(|error| vec![error])?;
        let path = path.as_ref().map(|(path, _)| path.as_path());
        let file = path.zip(text.as_deref());
        let (config, errors, _) = resolve_text(flags, environment, cores_here, file);
        match errors.is_empty() {
            true => Ok(config),
            false => Err(errors),
        }
    }

    /// Notes the address that was bound for clients; the demo's page comes from there.
    pub fn bound(&mut self, listen: SocketAddr) {
        self.listen = listen;
        if self.demo {
            self.origins.add(demo_origins(listen));
        }
    }

    /// Whether any client can connect: with a token, without one, or because a service says so.
    pub fn lets_clients_in(&self) -> bool {
        let without_token = self.client.allow_anonymous || self.client.insecure;
        without_token || self.hooks.connect || tokens::has_keys(&self.token)
    }
}

/// Every setting of the file, with type, range and default.
pub fn known_settings() -> Vec<Known> {
    let file = Some((Path::new("ringcast.toml"), ""));
    let (_, _, known) = resolve_text(&ServeFlags::default(), &[], &[], file);
    known
}

/// The file that is named by the flag or else by the environment, and which of the two it was.
fn file_path(flags: &ServeFlags, environment: &[(String, String)]) -> Option<(PathBuf, Place)> {
    const VARIABLE: &str = "RINGCAST_CONFIG";
    let flag = flags.config.clone();
    let flag = flag.map(|path| (path, Place::Flag("config")));
    flag.or_else(|| {
        let mut variables = environment.iter();
        let (_, path) = variables.find(|(name, _)| name == VARIABLE)?;
        Some((path.into(), Place::Environment(VARIABLE.into())))
    })
}

fn resolve_text(
    flags: &ServeFlags,
    environment: &[(String, String)],
    cores_here: &[usize],
    file: Option<(&Path, &str)>,
) -> (Config, Vec<ConfigError>, Vec<Known>) {
    let mut errors = Vec::new();
    let shown = file.map(|(path, _)| path.display().to_string());
    let folder = file.and_then(|(path, _)| path.parent());
    let text = shown.as_deref().zip(file.map(|(_, text)| text));
    let sources = Sources {
        flags: flags.values(),
        environment,
        file: text.map(|(path, text)| File::parse(path, text, &mut errors)),
    };
    let basis = match (flags.demo, file) {
        (true, _) => Basis::Demo,
        (false, None) => Basis::Open,
        (false, Some(_)) => Basis::Denied,
    };
    let mut reader = Reader::new(sources, folder.unwrap_or(Path::new("")), errors);
    let config = read(&mut reader, basis, cores_here);
    let (errors, known) = reader.finish();
    (config, errors, known)
}

/// The schema. Where something is wrong the default stands in, so that the rest is looked at as well.
fn read(reader: &mut Reader<'_>, basis: Basis, cores_here: &[usize]) -> Config {
    let demo = basis == Basis::Demo;
    let Listen {
        client: listen,
        upstream,
        admin,
        path,
    } = listen(&mut reader.section("listen"));
    let shards = shards(&mut reader.section("shards"), cores_here);
    let mut section = reader.section("client");
    let mut client = client(&mut section);
    client.allow_anonymous |= demo;
    let mut origins = section.strings("allowed_origins", "list of patterns");
    if demo {
        origins.extend(demo_origins(listen));
    }
    let timing = timing(&mut section);
    let hooks = hooks(&mut section, timing);
    let (token, subscription_token) = tokens::tokens(reader);
    let (keys, node_name) = upstream_services(&mut reader.section("upstream"));
    let api = api(&mut reader.section("api"), admin);
    if keys.is_empty() && !upstream.ip().is_loopback() {
        reader.section("listen").refuse(
            "upstream",
            "a loopback address, or keys (upstream.key_file): without a key anybody who reaches \
             the port could publish",
        );
    }
    let history = history(&mut reader.section("history"));
    let state_file = reader.section("state").path("file");
    let (namespaces, open_namespaces) = channels::namespaces(reader, basis);
    Config {
        listen,
        path,
        upstream,
        admin,
        shards: shards.count,
        cores: shards.cores,
        connections_per_shard: shards.connections,
        channels_per_shard: shards.channels,
        client,
        origins: Origins::new(origins),
        hooks,
        token,
        subscription_token,
        keys,
        node_name,
        api,
        history,
        state_file,
        namespaces,
        open_namespaces,
        demo,
        timing,
    }
}

/// What browsers send as the origin of a page at this address.
fn demo_origins(listen: SocketAddr) -> [String; 2] {
    [
        format!("http://{listen}"),
        format!("http://localhost:{}", listen.port()),
    ]
}

struct Listen {
    client: SocketAddr,
    upstream: SocketAddr,
    admin: SocketAddr,
    path: String,
}

fn listen(section: &mut Section<'_, '_>) -> Listen {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    const PATH: &str = "/connection/websocket";
    let is_path = |text: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        text.starts_with('/') && text.len() <= 255 && text.bytes().all(is_allowed)
    };
    let expected = "path of a URL, such as \"/connection/websocket\"";
    let listen = Listen {
        client: section.address("client", loopback(8000)),
        upstream: section.address("upstream", loopback(8001)),
        admin: section.address("admin", loopback(8002)),
        path: section
            .string("path", expected, &format!("{PATH:?}"), is_path)
            .unwrap_or(PATH.into()),
    };
    let is_taken = |by: SocketAddr, one: SocketAddr| by == one && one.port() != 0;
    if is_taken(listen.client, listen.upstream) {
        section.refuse("upstream", "another address than that of listen.client");
    }
    if is_taken(listen.client, listen.admin) || is_taken(listen.upstream, listen.admin) {
        let expected = "another address than those of listen.client and listen.upstream";
        section.refuse("admin", expected);
    }
    listen
}

struct Shards {
    count: u16,
    cores: Vec<usize>,
    /// Each; `None` for what the descriptor limit allows.
    connections: Option<usize>,
    /// Each.
    channels: usize,
}

fn shards(section: &mut Section<'_, '_>, cores_here: &[usize]) -> Shards {
    let is_here = |text: &str| {
        let cores = raw::core_list(text);
        cores.is_some_and(|cores| cores.iter().all(|core| cores_here.contains(core)))
    };
    let expected = "list of this host's cores, such as \"0,2-3\"";
    let cores = section.string("cores", expected, "all", is_here);
    let cores = cores.and_then(|text| raw::core_list(&text));
    let cores = cores.unwrap_or_else(|| cores_here.to_vec());
    let count = section.integer_or("count", 1..=limits::SHARDS_MAX as u64, "one per core");
    let count = count.unwrap_or(cores.len().clamp(1, limits::SHARDS_MAX) as u64);
    let connections = section.integer_or(
        "connections_per_shard",
        1..=limits::SLOTS_PER_SHARD_MAX as u64,
        "what the descriptor limit allows",
    );
    let channels_max = limits::HOMES_PER_SHARD_MAX as u64;
    Shards {
        count: count as u16,
        cores,
        connections: connections.map(|most| most as usize),
        channels: section.integer("channels_per_shard", 1..=channels_max, channels_max) as usize,
    }
}

fn client(section: &mut Section<'_, '_>) -> ClientConfig {
    let channels_max = limits::SUBSCRIPTIONS_PER_CONN_MAX as u64;
    ClientConfig {
        allow_anonymous: section.boolean("allow_anonymous", false),
        insecure: section.boolean("insecure", false),
        channel_limit: section.integer("channel_limit", 1..=channels_max, channels_max) as usize,
        user_connection_limit: section.integer(
            "user_connection_limit",
            0..=limits::USER_CONNECTIONS_MAX,
            0,
        ) as usize,
        expired_close_ms: section.duration(
            "expired_close_delay",
            0..=3_600_000,
            limits::EXPIRED_CLOSE_MS,
        ),
        expired_sub_close_ms: section.duration(
            "expired_sub_close_delay",
            0..=3_600_000,
            limits::EXPIRED_SUB_CLOSE_MS,
        ),
        personal_channel: section.boolean("subscribe_to_user_personal_channel", false),
    }
}

fn timing(section: &mut Section<'_, '_>) -> Timing {
    let timing = Timing {
        ping_ms: section.duration("ping_interval", 1_000..=3_600_000, limits::PING_INTERVAL_MS),
        pong_ms: section.duration("pong_timeout", 100..=600_000, limits::PONG_DEADLINE_MS),
        stale_ms: section.duration("stale_delay", 100..=600_000, limits::STALE_DEADLINE_MS),
        write_ms: section.duration("write_timeout", 100..=600_000, limits::WRITE_TIMEOUT_MS),
        ..Timing::default()
    };
    if timing.pong_ms >= timing.ping_ms {
        section.refuse("pong_timeout", "less than client.ping_interval");
    }
    timing
}

fn hooks(section: &mut Section<'_, '_>, timing: Timing) -> Hooks {
    let hooks = Hooks {
        connect: section.boolean("connect_hook", false),
        refresh: section.boolean("refresh_hook", false),
        rpc: section.boolean("rpc_hook", false),
        message: section.boolean("message_hook", false),
        disconnect_events: section.boolean("disconnect_events", false),
        timeout_ms: section.duration(
            "hook_timeout",
            50..=limits::HOOK_TIMEOUT_MS_MAX,
            limits::HOOK_TIMEOUT_MS,
        ),
    };
    if hooks.timeout_ms >= timing.pong_ms {
        section.refuse("hook_timeout", "less than client.pong_timeout");
    }
    hooks
}

fn upstream_services(section: &mut Section<'_, '_>) -> (Vec<UpstreamKey>, String) {
    let keys = match section.text_of("key_file").as_deref().map(raw::key_file) {
        None => Vec::new(),
        Some(Ok(keys)) => {
            if keys.is_empty() {
                section.refuse("key_file", "at least one line `id secret`");
            }
            keys
        }
        Some(Err(line)) => {
            let expected = format!("lines `id secret`; line {line} is not one");
            section.refuse("key_file", &expected);
            Vec::new()
        }
    };
    let expected = format!("1 to {} bytes", limits::UPSTREAM_NAME_MAX);
    let is_name = |text: &str| (1..=limits::UPSTREAM_NAME_MAX).contains(&text.len());
    let name = section.string("node_name", &expected, "\"ringcast\"", is_name);
    (keys, name.unwrap_or("ringcast".into()))
}

fn api(section: &mut Section<'_, '_>, admin: SocketAddr) -> ApiConfig {
    let mut keys = section.strings("keys", "list of keys");
    if let Some(text) = section.text_of("key_file") {
        let lines = text.lines().map(str::trim);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            section.refuse("key_file", "a file with at least one key, one a line");
        }
        keys.extend(lines.into_iter().map(str::to_owned));
    }
    let insecure = section.boolean("insecure", false);
    if insecure && !admin.ip().is_loopback() {
        let expected = "false, because listen.admin is no loopback address";
        section.refuse("insecure", expected);
    }
    ApiConfig { keys, insecure }
}

fn history(section: &mut Section<'_, '_>) -> HistoryBounds {
    let answers = 1..=limits::ANSWER_PUBLICATIONS_MAX as u64;
    HistoryBounds {
        bytes_per_shard: section.size(
            "bytes_per_shard",
            1 << 20..=1 << 40,
            limits::HISTORIES_BYTES_PER_SHARD as u64,
        ) as usize,
        publications_max: section.integer(
            "history_max_publications",
            answers.clone(),
            limits::HISTORY_PUBLICATIONS as u64,
        ) as usize,
        recovery_publications_max: section.integer(
            "recovery_max_publications",
            answers,
            limits::RECOVERY_PUBLICATIONS as u64,
        ) as usize,
    }
}

#[cfg(test)]
mod tests;
