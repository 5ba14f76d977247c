//! What the user asked for.

use crate::payload::{PAYLOAD_BYTES_MIN, ROOMS_MAX};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ringcast::wire::upstream::AckLevel;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Load generator and delivery checker for Ringcast.
///
/// Exit code 0: nothing was lost, duplicated, reordered, damaged or refused. 1: something was.
/// 2: the run could not take place.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub(crate) struct Options {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect, subscribe, publish, and check every delivery
    Fanout(Fanout),
    /// Connect, subscribe and hold: memory per connection, pings, unexpected closes
    Idle(Idle),
    /// Publish to rooms without subscribers: publications per second, until the last publication to
    /// every room is acknowledged with an offset that covers all of them
    Publish(Publish),
    /// Drop clients at random while publications flow, have them come back and recover, and check
    /// that each has seen every publication of its rooms exactly once. Wants a broker whose rooms
    /// force recovery, with a history of `--history` publications
    Recover(Recover),
    /// Subscribe all clients to one big room and many small ones, check that presence statistics count
    /// them, and that they count nobody after all have left. Wants a broker with presence on, which
    /// clients without a user may ask for
    Presence(Presence),
}

/// Options of `fanout`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) clients: Clients,
    #[command(flatten)]
    pub(crate) publications: Publications,
    /// Publications per second in all, on a schedule that does not wait for the broker; without it
    /// as fast as the broker's credit allows
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Publications that are due at the same time; the rate stays the same
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    /// Clients that subscribe, then never read; they are not expected to get anything
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub(crate) slow_readers: u32,
    /// Give up when nothing has been delivered for this long
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Duration,
}

/// Options of `idle`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) clients: Clients,
    /// How long to hold the connections
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) hold: Duration,
    /// Accepted, so that one set of options serves `fanout` and `idle`; nothing is published
    #[arg(long, hide = true, value_name = "ADDR")]
    pub(crate) upstream: Option<SocketAddr>,
}

/// Options of `publish`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) publications: Publications,
    /// Rooms to publish to, in turn
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = rooms())]
    pub(crate) rooms: u32,
    /// Acknowledgement to ask for on every publication; the last to every room is always
    /// acknowledged `sequenced`, and that stops the clock
    #[arg(long, default_value = "none")]
    pub(crate) ack: Ack,
    /// Process to read CPU time and memory of
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `recover`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Recover {
    /// Where the broker listens for clients
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub(crate) target: SocketAddrV4,
    /// Path of the WebSocket endpoint
    #[arg(long, default_value = "/connection/websocket", value_name = "PATH")]
    pub(crate) path: String,
    /// Where the broker listens for upstream services
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR")]
    pub(crate) upstream: SocketAddr,
    /// Clients
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) clients: u32,
    /// Rooms
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = rooms())]
    pub(crate) rooms: u32,
    /// Rooms of each client
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rooms_each: u32,
    /// Publications per second in all, on a schedule that does not wait for the broker
    #[arg(long, default_value = "1000", value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// Bytes of one payload: a JSON string, its quotes included
    #[arg(long, default_value = "128", value_name = "BYTES", value_parser = parse_payload_bytes)]
    pub(crate) payload: usize,
    /// How long to publish and to drop clients
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Mean time from a client's connect to its drop, the longest being twice that; one drop in eight
    /// comes within a millisecond instead
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) drop_every: Duration,
    /// Publications that the history of a room holds: a client that is no further behind must recover
    #[arg(long, default_value_t = 300, value_name = "N")]
    pub(crate) history: u64,
    /// Worker threads
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Give up when no client has come up, or to the end of its rooms, for this long
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Duration,
    /// Process to read CPU time and memory of
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `presence`; `--rooms` is not looked at.
#[derive(Clone, Debug, Args)]
pub(crate) struct Presence {
    #[command(flatten)]
    pub(crate) clients: Clients,
    /// Clients of the big room
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub(crate) big_room: u32,
    /// Small rooms, in turn for the other clients
    #[arg(long, default_value_t = 800, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) small_rooms: u32,
}

/// Who connects, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct Clients {
    /// Where the broker listens for clients
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub(crate) target: SocketAddrV4,
    /// Path of the WebSocket endpoint
    #[arg(long, default_value = "/connection/websocket", value_name = "PATH")]
    pub(crate) path: String,
    /// Connections in all
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) connections: u32,
    /// Rooms; connection i subscribes to room i modulo N
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = rooms())]
    pub(crate) rooms: u32,
    /// Connections that all subscribe to room 0; the others then to the other rooms in turn.
    #[arg(skip)]
    pub(crate) crowd: u32,
    /// Worker threads, one ring each; the default is one per core, or as many as the descriptor
    /// limit asks for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) workers: Option<u32>,
    /// Cores for the workers, in turn; the default is all
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) cores: Vec<usize>,
    /// First two bytes of the source addresses; the others are worker and group of connections.
    /// The default is 127.0.0.0 for a loopback target, and no choice for any other
    #[arg(long, value_name = "IPV4")]
    pub(crate) source_base: Option<Ipv4Addr>,
    /// Connections that one worker has under way at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: u32,
    /// Give up when no connection has come up for this long
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Quiet time between connecting and publishing; the server's memory is read at its end
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) settle: Duration,
    /// Process to read CPU time and memory of
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is published.
#[derive(Clone, Debug, Args)]
pub(crate) struct Publications {
    /// Where the broker listens for upstream services
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR")]
    pub(crate) upstream: SocketAddr,
    /// Publications to each room
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// Bytes of one payload: a JSON string, its quotes included
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = parse_payload_bytes)]
    pub(crate) payload: usize,
    /// Key id and secret for the broker, when it asks for one. Other users of the host can read a
    /// command line: prefer --key-file
    #[arg(long, value_name = "ID:SECRET", value_parser = parse_key, conflicts_with = "key_file")]
    key: Option<Key>,
    /// File with a line `id secret`: key id and secret for the broker
    #[arg(long, value_name = "FILE", value_parser = read_key)]
    key_file: Option<Key>,
}

impl Publications {
    /// The key, however it was given.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key_file.as_ref().or(self.key.as_ref())
    }
}

/// How this service proves who it is.
#[derive(Clone)]
pub(crate) struct Key {
    /// Which secret.
    pub(crate) id: String,
    /// The secret.
    pub(crate) secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The command line without the secret, for reports.
pub(crate) fn command_line(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_key = false;
    arguments
        .map(|argument| {
            let (name, key) = match argument.strip_prefix("--key=") {
                Some(key) => ("--key=", key),
                None if is_key => ("", argument.as_str()),
                None => {
                    is_key = argument == "--key";
                    return argument;
                }
            };
            is_key = false;
            let id = key.split_once(':').map_or("", |(id, _)| id);
            format!("{name}{id}:…")
        })
        .collect()
}

/// Acknowledgement levels, by their names on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ack {
    /// No acknowledgement.
    None,
    /// Queued on the node.
    Accepted,
    /// Has its offset and is in the room's history.
    Sequenced,
}

impl Ack {
    /// The protocol's level.
    pub(crate) fn level(self) -> AckLevel {
        match self {
            Self::None => AckLevel::None,
            Self::Accepted => AckLevel::Accepted,
            Self::Sequenced => AckLevel::Sequenced,
        }
    }
}

fn rooms() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(ROOMS_MAX))
}

fn parse_payload_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (PAYLOAD_BYTES_MIN..=512 * 1024).contains(&bytes) => Ok(bytes),
        _ => Err(format!("between {PAYLOAD_BYTES_MIN} and 524288 bytes")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate < 1e9 => Ok(rate),
        _ => Err("publications per second, above 0".to_owned()),
    }
}

fn parse_key(text: &str) -> Result<Key, String> {
    match text.split_once(':') {
        Some((id, secret)) if !id.is_empty() && !secret.is_empty() => Ok(Key {
            id: id.to_owned(),
            secret: secret.as_bytes().to_vec(),
        }),
        _ => Err("key id, colon, secret".to_owned()),
    }
}

fn read_key(path: &str) -> Result<Key, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(id), Some(secret), None) => Ok(Key {
            id: id.to_owned(),
            secret: secret.as_bytes().to_vec(),
        }),
        _ => Err("not one line: key id, space, secret".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit_s = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("a number and ms, s, m or h".to_owned()),
    };
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() && number * unit_s < 1e6 => {
            Ok(Duration::from_secs_f64(number * unit_s))
        }
        _ => Err("a number and ms, s, m or h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_secret_is_in_no_report() {
        let line = |arguments: &[&str]| command_line(arguments.iter().map(|&a| a.to_owned()));
        assert_eq!(
            line(&["loadgen", "--key", "id:secret", "--json"]),
            ["loadgen", "--key", "id:…", "--json"]
        );
        assert_eq!(line(&["--key=id:secret"]), ["--key=id:…"]);
        let key = parse_key("id:secret").unwrap();
        assert!(!format!("{key:?}").contains("secret"));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1d", "1e9h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_payload_too_small_for_its_fields_is_refused() {
        let parse = |bytes| Options::try_parse_from(["loadgen", "fanout", "--payload", bytes]);
        assert!(parse("63").is_err());
        assert!(parse("64").is_ok());
    }
}
