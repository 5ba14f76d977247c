//! What the user asked for.

mod file;
mod values;

pub(crate) use file::arguments as file_arguments;
pub(crate) use values::{CORES_MAX, Key, command_line, parse_duration};

use crate::schedule::Rate;
use crate::source::AddressRange;
use crate::verdict::Threshold;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;
use values::{
    parse_core, parse_key, parse_payload_bytes, parse_rate, parse_share, parse_some_share,
    read_key, rooms,
};

/// Connections of a run at most.
pub(crate) const CONNECTIONS_MAX: u32 = 4_000_000;

/// Load generator and delivery checker for Ringcast and its peers.
///
/// Exit code 0: nothing was lost, duplicated, reordered, damaged or refused, and every threshold was met.
/// 1: something was. 2: the run could not take place. 3: a threshold was missed. 4: the run proves
/// nothing, because loadgen itself was short of CPU, had too few samples for a threshold, or nobody dropped
/// where that is what it is about.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, args_override_self = true)]
pub(crate) struct Options {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The scenarios, and what is done with their reports.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect, subscribe, publish, and check every delivery
    #[command(args_override_self = true)]
    Fanout(Fanout),
    /// As `fanout`, to many small rooms: one for each 10 connections unless `--rooms` says otherwise
    #[command(args_override_self = true)]
    Rooms(Fanout),
    /// As `fanout`, with a share of clients that read slowly or never
    #[command(args_override_self = true)]
    Slow(Fanout),
    /// As `fanout`, while others attack: half-sent requests, garbage, oversize messages
    #[command(args_override_self = true)]
    Abuse(Abuse),
    /// Clients publish to their rooms, and every delivery to every member is checked
    #[command(args_override_self = true)]
    Chat(Chat),
    /// Connections come, subscribe, live for a while, close, and come again
    #[command(args_override_self = true)]
    Churn(Churn),
    /// All connections, or a share, drop at once and come back with the back-off of the SDKs
    #[command(args_override_self = true)]
    Storm(Storm),
    /// Ask for the history of rooms over HTTP again and again, instead of a subscription: for comparison.
    /// Wants a broker whose rooms keep a history
    #[command(args_override_self = true)]
    Polling(Polling),
    /// Connect, subscribe and hold: memory per connection, pings, unexpected closes
    #[command(args_override_self = true)]
    Idle(Idle),
    /// Publish to rooms without subscribers: publications per second, until the last publication to
    /// every room is acknowledged with an offset that covers all of them
    #[command(args_override_self = true)]
    Publish(Publish),
    /// Drop clients at random while publications flow, have them come back and recover, and check
    /// that each has seen every publication of its rooms exactly once. Wants a broker whose rooms
    /// force recovery, with a history of `--history` publications
    #[command(args_override_self = true)]
    Recover(Recover),
    /// Subscribe all clients to one big room and many small ones, check that presence statistics count
    /// them, and that they count nobody after all have left. Wants a broker with presence on, which
    /// clients without a user may ask for
    #[command(args_override_self = true)]
    Presence(Presence),
    /// Run the scenario of a TOML file, whose keys are the options of the command line; options
    /// after the file override it
    #[command(disable_help_flag = true)]
    Run(RunFile),
    /// Hold a part of the connections of runs that another loadgen coordinates, see --workers
    Worker(WorkerOptions),
    /// Search the largest load that still meets an objective, and say what gave first
    Capacity(Capacity),
    /// Compare the JSON reports of two runs
    Compare(Compare),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunFile {
    /// The scenario file
    pub(crate) file: PathBuf,
    /// Options of the scenario
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Options of `worker`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerOptions {
    /// Where to wait for coordinators, one run at a time. Whoever can connect decides where load goes:
    /// for a network that you trust
    #[arg(long, value_name = "ADDR", required_unless_present = "stdio")]
    pub(crate) listen: Option<SocketAddr>,
    /// Speak with the coordinator that started this process, and end with it
    #[arg(long, hide = true, conflicts_with = "listen")]
    pub(crate) stdio: bool,
    /// Cores for the threads, in turn; the default is all
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = parse_core)]
    pub(crate) cores: Vec<usize>,
    /// Source addresses of this host, as 10.0.0.10-20,10.0.1.5: connections take them in turn
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) source: Vec<AddressRange>,
}

/// Options of `capacity`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Capacity {
    /// Objective: thresholds that every step has to meet, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "THRESHOLD")]
    pub(crate) slo: Vec<Threshold>,
    /// What grows
    #[arg(long, default_value = "rate")]
    pub(crate) vary: Vary,
    /// The first load: publications per second, or connections
    #[arg(long, value_name = "LOAD", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) from: u32,
    /// The largest load to try
    #[arg(long, value_name = "LOAD", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) to: u32,
    /// How near the answer has to be: the search ends when the step is a smaller share of the load
    #[arg(long, default_value = "10%", value_name = "SHARE", value_parser = parse_share)]
    pub(crate) precision: f64,
    /// Write the report of the search to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// A scenario file or the name of a scenario, then its options
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) scenario: Vec<String>,
}

/// What `capacity` changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Vary {
    /// `--rate`.
    Rate,
    /// `--connections`.
    Connections,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    /// The earlier report, as written by `--out`
    pub(crate) before: PathBuf,
    /// The later one
    pub(crate) after: PathBuf,
}

/// Options of `fanout`, `rooms` and `slow`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) clients: Clients,
    #[command(flatten)]
    pub(crate) publications: Publications,
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) slow: SlowOptions,
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `abuse`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Abuse {
    #[command(flatten)]
    pub(crate) fanout: Fanout,
    /// Attackers, a quarter each: half-sent requests, garbage, oversize messages, unmasked frames
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=2_000))]
    pub(crate) attackers: u32,
    /// How long the server may take to end a half-sent request; the others have a second
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) patience: Duration,
}

/// Options of `chat`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) clients: Clients,
    /// Bytes of one payload: a JSON string, its quotes included
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = parse_payload_bytes)]
    pub(crate) payload: usize,
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `churn`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) fanout: Fanout,
    /// Mean life of a connection; the longest is twice that
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) life: Duration,
}

/// Options of `storm`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) fanout: Fanout,
    /// Share of the connections that drop
    #[arg(long, default_value = "100%", value_name = "SHARE", value_parser = parse_some_share)]
    pub(crate) share: f64,
    /// How long all may take to be back
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) back_within: Duration,
}

/// Options of `polling`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Polling {
    /// The server's HTTP API
    #[arg(long, default_value = "http://127.0.0.1:8002/api", value_name = "URL")]
    pub(crate) api: String,
    /// Clients; client i asks for room i modulo rooms
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Rooms
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = rooms())]
    pub(crate) rooms: u32,
    /// Time between two questions of a client
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) interval: Duration,
    /// Threads that ask, with a connection each
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) pollers: u32,
    #[command(flatten)]
    pub(crate) publications: Publications,
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
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
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
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
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `recover`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Recover {
    /// Where the server listens for clients
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
    pub(crate) rate: Rate,
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
    pub(crate) threads: u32,
    /// Give up when no client has come up, or to the end of its rooms, for this long
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Duration,
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
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
    #[command(flatten)]
    pub(crate) observe: Observe,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Who connects, where and how.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Connections")]
pub(crate) struct Clients {
    /// Where the server listens for clients
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub(crate) target: SocketAddrV4,
    /// Path of the WebSocket endpoint; the default is the protocol's
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// What the server speaks
    #[arg(long, default_value = "centrifugo-json")]
    pub(crate) protocol: Protocol,
    /// Connections in all
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(crate) connections: u32,
    /// Rooms; connection i subscribes to room i modulo N [default: 1]
    #[arg(long, value_name = "N", value_parser = rooms())]
    rooms: Option<u32>,
    /// Connections that all subscribe to room 0; the others then to the other rooms in turn.
    #[arg(skip)]
    pub(crate) crowd: u32,
    /// Worker threads of a process, one ring each; the default is one per core, or as many as the
    /// descriptor limit asks for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) threads: Option<u32>,
    /// Cores for the threads, in turn; the default is all. Worker processes on other hosts have a list
    /// of their own
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        value_parser = parse_core,
        conflicts_with = "workers"
    )]
    pub(crate) cores: Vec<usize>,
    /// Processes on this host that share the connections; this one then publishes and adds up
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) processes: u32,
    /// Worker processes on other hosts that share the connections, each started there with
    /// `loadgen worker --listen`
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HOST:PORT",
        conflicts_with = "processes"
    )]
    pub(crate) workers: Vec<String>,
    /// Source addresses, as 10.0.0.10-20,10.0.1.5: connections take them in turn. The default is as many of
    /// 127.0.0.0/8 as are wanted for a loopback target, and the kernel's choice for any other. Worker processes
    /// on other hosts have a list of their own
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        conflicts_with = "workers"
    )]
    pub(crate) source: Vec<AddressRange>,
    /// Connections that one worker has under way at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: u32,
    /// Spread the connects evenly over this time; without it they follow each other as fast as
    /// `--in-flight` allows
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ramp: Duration,
    /// Give up when no connection has come up for this long
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Quiet time between connecting and publishing; the server's memory is read at its end
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) settle: Duration,
}

impl Clients {
    /// Rooms of the run.
    pub(crate) fn rooms(&self) -> u32 {
        self.rooms.unwrap_or(1)
    }

    /// With this number of rooms, whatever was asked for.
    pub(crate) fn with_rooms(mut self, rooms: u32) -> Self {
        self.rooms = Some(rooms);
        self
    }

    /// With one room for each `members` connections, unless the user said how many.
    pub(crate) fn with_rooms_of(mut self, members: u32) -> Self {
        self.rooms.get_or_insert(self.connections.div_ceil(members));
        self
    }
}

/// Protocols of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// Centrifugo client protocol in JSON: Ringcast, Centrifugo.
    CentrifugoJson,
    /// The same in Protobuf.
    CentrifugoProtobuf,
    /// The path is the room, `{room}` in it or its end, and messages are bare payloads.
    Topic,
    /// What a connection sends comes back to it; for `chat`, where every connection is then a room.
    Echo,
    /// NATS over WebSocket.
    Nats,
    /// MQTT 3.1.1 over WebSocket.
    Mqtt,
    /// Socket.IO 4, with an application that knows the events `subscribe`, `publish` and `publication`.
    SocketIo,
}

/// Who publishes what.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Publications")]
pub(crate) struct Publications {
    /// How publications get to the server
    #[arg(long, default_value = "upstream")]
    pub(crate) publish_by: PublishBy,
    /// Where Ringcast listens for upstream services
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR")]
    pub(crate) upstream: SocketAddr,
    /// Where publications go otherwise: an address, or a URL as http://127.0.0.1:8002/api
    #[arg(long, value_name = "ADDR|URL")]
    publish_to: Option<String>,
    /// Key of the HTTP API. Other users of the host can read a command line
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Publications to each room [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    messages: Option<u32>,
    /// Bytes of one payload: a JSON string, its quotes included
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = parse_payload_bytes)]
    pub(crate) payload: usize,
    /// Publications without their confirmation at a time; without it they do not wait for each other.
    /// What waits for its turn has its latency counted from when it was due
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) window: Option<u32>,
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

    /// Whether nothing was asked for that only other ways have.
    pub(crate) fn is_upstream_alone(&self) -> bool {
        self.publish_by == PublishBy::Upstream
            && self.publish_to.is_none()
            && self.api_key.is_none()
            && self.window.is_none()
    }

    /// Where publications go, unless to Ringcast's upstream address.
    pub(crate) fn publish_to(&self) -> Result<&str, String> {
        let to = self.publish_to.as_deref();
        to.ok_or_else(|| "--publish-to is missing: where publications go".to_owned())
    }

    /// The same as an address.
    pub(crate) fn publish_addr(&self) -> Result<SocketAddr, String> {
        let to = self.publish_to()?;
        to.parse()
            .map_err(|_| "--publish-to: not an address, as 127.0.0.1:4222".to_owned())
    }

    /// Publications to each room, where no time bounds them.
    pub(crate) fn messages(&self) -> u32 {
        self.messages.unwrap_or(20)
    }
}

/// Ways to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishBy {
    /// Ringcast's binary protocol for upstream services, at `--upstream`.
    Upstream,
    /// The HTTP API of Ringcast or Centrifugo, at `--publish-to`.
    HttpApi,
    /// NATS over TCP, at `--publish-to`.
    Nats,
    /// MQTT 3.1.1 over TCP, at `--publish-to`.
    Mqtt,
    /// HTTP POST to the URL of `--publish-to`, in which `{room}` stands for the name of the room: nchan.
    Nchan,
    /// A client over WebSocket at `--target`, in its `--protocol`: for servers where clients publish.
    #[value(name = "websocket")]
    WebSocket,
}

/// When publications are due.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Pace")]
pub(crate) struct Pace {
    /// Publications per second in all, on a schedule that does not wait for the server; without it
    /// as fast as the server takes them
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(crate) rate: Option<Rate>,
    /// Several rates, one after the other, each for `--duration`
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = parse_rate, conflicts_with = "rate")]
    pub(crate) rate_steps: Vec<Rate>,
    /// Publish for this long instead of `--messages` to each room: the steady phase
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Publish for this long before the steady phase; checked, not measured
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Publish for this long after the steady phase; checked, not measured
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) cooldown: Duration,
    /// Publications that are due at the same time; the rate stays the same
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    /// Give up when nothing has been delivered for this long
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) grace: Duration,
}

/// Clients that do not keep up.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Slow readers")]
pub(crate) struct SlowOptions {
    /// Clients that subscribe and then read slowly or never; they are not expected to get anything.
    /// In `slow` the default is one for each 20 connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub(crate) slow_readers: Option<u32>,
    /// Bytes that each of them reads per second
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub(crate) slow_rate: u32,
}

/// What is looked at besides the deliveries.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Observation")]
pub(crate) struct Observe {
    /// Processes of the server, to read CPU time and memory of
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pub(crate) server_pid: Vec<u32>,
    /// Prometheus endpoint of the server, read every second, as http://127.0.0.1:8002/metrics
    #[arg(long, value_name = "URL")]
    pub(crate) prometheus: Option<String>,
    /// Families of that endpoint to keep, each summed over its labels; the default is every counter
    /// and gauge that changes, up to 40
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        requires = "prometheus"
    )]
    pub(crate) metric: Vec<String>,
}

/// What becomes of the result.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Result")]
pub(crate) struct Output {
    /// What the run must reach, as 'p99<50ms', 'lost==0', 'rss_per_conn<1KiB'; may be given several times
    #[arg(long, value_name = "THRESHOLD")]
    pub(crate) threshold: Vec<Threshold>,
    /// Print one JSON object instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the report to this file, as a page that opens without a network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the spectrum of the latencies to this file, in HdrHistogram's percentile format
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Plain lines of progress, even on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_payload_too_small_for_its_fields_is_refused() {
        let parse = |bytes| Options::try_parse_from(["loadgen", "fanout", "--payload", bytes]);
        assert!(parse("63").is_err());
        assert!(parse("64").is_ok());
    }

    #[test]
    fn the_last_of_two_options_counts() {
        let both = ["loadgen", "idle", "--connections=5", "--connections", "7"];
        match Options::try_parse_from(both).unwrap().command {
            Command::Idle(idle) => assert_eq!(idle.clients.connections, 7),
            other => panic!("{other:?}"),
        }
    }
}
