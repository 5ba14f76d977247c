//! From a configuration to running threads, in an order in which every failure is still an error
//! message: limits, listeners, rings, then traffic.

use crate::access::{Namespaces, TokenSettings, TokenSetupError, TokenVerifier};
mod state;

use crate::base::stats::{ServiceStats, Stats};
use crate::base::{NodeId, RoomHasher};
use crate::config::{Config, Timing};
use crate::demo;
use crate::driver::doorbell::Doorbells;
use crate::driver::probe::SetupError;
use crate::driver::uring::{Uring, UringSetup};
use crate::limits;
use crate::mesh::{self, Port};
use crate::room::home::Home;
use crate::room::state::{Header, Saved};
use crate::service::{
    self, ChannelFeatures, ChannelLookup, Drained, Key, ServiceError, ServiceSetup, UpstreamLimits,
};
use crate::shard::settings::{ClientPolicy, Settings};
use crate::shard::{Left, Shard};
use core_affinity::CoreId;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Why the broker did not start, or did not end well.
#[derive(Debug)]
pub enum BootError {
    /// An address cannot be listened on.
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A token key cannot be used.
    Token {
        /// The section of the configuration.
        section: &'static str,
        /// Which, and why.
        error: TokenSetupError,
    },
    /// A shard has no ring.
    Ring(SetupError),
    /// The service thread has no executor.
    Service(ServiceError),
    /// The system refused something that it never refuses a healthy process.
    System(io::Error),
    /// A shard thread panicked.
    ShardPanicked,
    /// What the shards knew could not be saved.
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen {
                flag,
                address,
                error,
            } if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "--{flag} {address}: the address is in use. Find its owner with `ss -tlnp 'sport = :{}'`, \
                 or choose another port.",
                address.port()
            ),
            Self::Listen {
                flag,
                address,
                error,
            } => write!(f, "--{flag} {address}: {error}"),
            Self::Token { section, error } => write!(f, "[{section}]: {error}"),
            Self::Ring(error) => error.fmt(f),
            Self::Service(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
            Self::ShardPanicked => f.write_str("a shard thread panicked"),
            Self::State { path, error } => write!(
                f,
                "state file {}: {error}; clients will not recover over this restart",
                path.display()
            ),
        }
    }
}

impl std::error::Error for BootError {}

/// A broker whose listeners are bound and whose threads have not started.
#[derive(Debug)]
pub struct Broker {
    config: Config,
    clients: Vec<Socket>,
    upstream: TcpListener,
    admin: TcpListener,
    slots: u32,
    state: Option<state::Loaded>,
    /// What the operator should know of the state file.
    state_note: Option<String>,
}

impl Broker {
    /// Raises limits and binds all addresses; port 0 is resolved.
    pub fn bind(mut config: Config) -> Result<Self, BootError> {
        let slots = raise_descriptor_limit().min(limits::SLOTS_PER_SHARD_MAX as u64) as u32;
        let clients = client_listeners(config.listen, config.shards, config.timing.write_ms)?;
        config.bound(local_address(&clients[0]).map_err(BootError::System)?);
        let upstream = bind("upstream", config.upstream)?;
        let admin = bind("admin", config.admin)?;
        config.upstream = upstream.local_addr().map_err(BootError::System)?;
        config.admin = admin.local_addr().map_err(BootError::System)?;
        let taken = config.state_file.as_deref().map(state::take);
        let (state, state_note) = match taken.transpose() {
            Ok(state) => (state.flatten(), None),
            Err(unusable) => (None, Some(unusable.to_string())),
        };
        Ok(Self {
            config,
            clients,
            upstream,
            admin,
            slots,
            state,
            state_note,
        })
    }

    /// What the operator should know of the state file: why nothing was taken from it.
    pub fn state_note(&self) -> Option<&str> {
        self.state_note.as_deref()
    }

    /// The configuration, with the addresses that were bound.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Client connections of one shard.
    pub fn connections_per_shard(&self) -> usize {
        let most = (self.slots as usize).saturating_sub(limits::REFUSAL_SLOTS);
        self.config.connections_per_shard.unwrap_or(most).min(most)
    }

    /// Runs until `shutdown` is set and everything is drained. The calling thread becomes the
    /// service thread. `ready` is called once all shards accept.
    pub fn run(
        mut self,
        shutdown: Arc<AtomicBool>,
        ready: impl FnOnce(),
    ) -> Result<Drained, BootError> {
        let state = self.state.take();
        let mut started = false;
        let result = self.run_with(state.as_ref(), shutdown, || {
            started = true;
            ready();
        });
        if !started && let Some(state) = state {
            state.put_back();
        }
        result
    }

    fn run_with(
        self,
        state: Option<&state::Loaded>,
        shutdown: Arc<AtomicBool>,
        ready: impl FnOnce(),
    ) -> Result<Drained, BootError> {
        let connections_max = self.connections_per_shard();
        let Self {
            config,
            clients,
            upstream,
            admin,
            slots,
            ..
        } = self;
        let nodes = config.shards + 1;
        let saved = state.and_then(state::Loaded::saved);
        let shared = shared_settings(&config, saved.as_ref().map(|saved| saved.header))?;
        let seed = random_seed().map_err(BootError::System)?;
        let hasher = RoomHasher::new(seed, config.shards);
        let bells = Doorbells::for_rings_and_service(config.shards).map_err(BootError::System)?;
        let stats: Vec<Arc<Stats>> = (0..config.shards).map(|_| Arc::default()).collect();
        let mut ports = mesh::mesh(nodes, limits::LANE_BYTES);
        let service_port = ports.pop().expect("the service thread is the last node");

        let mut shards = Vec::new();
        for ((port, listener), stats) in ports.into_iter().zip(clients).zip(&stats) {
            let settings = settings(&config, &shared, hasher, seed, port.id, connections_max);
            let core = config
                .cores
                .get(usize::from(port.id.0) % config.cores.len().max(1))
                .copied();
            let setup = UringSetup {
                listener: Some(listener),
                slots,
                bells: bells.clone(),
                node: port.id.0,
            };
            let homes = match &saved {
                Some(saved) => homes_of(saved, port.id, &settings),
                None => Vec::new(),
            };
            shards.push(start_shard(
                setup,
                port,
                settings,
                homes,
                Arc::clone(stats),
                core,
            )?);
        }
        ready();

        let drained = service::run(ServiceSetup {
            node_name: config.node_name,
            upstreams: vec![upstream],
            admins: vec![admin],
            port: service_port,
            rooms: hasher,
            keys: config
                .keys
                .into_iter()
                .map(|key| Key {
                    id: key.id,
                    secret: key.secret,
                })
                .collect(),
            upstream_limits: UpstreamLimits {
                opening_ms: config.timing.upstream_opening_ms,
                ..UpstreamLimits::default()
            },
            hook_timeout_ms: config.hooks.timeout_ms,
            drain_ms: limits::DRAIN_MS,
            shards: stats,
            stats: Arc::new(ServiceStats::default()),
            bells: bells.into_inner(),
            shutdown,
            demo_room: config.demo.then(|| demo::FIGURES_ROOM.into()),
            api_keys: config.api.keys,
            api_insecure: config.api.insecure,
            channels: channel_lookup(&shared.namespaces),
            seed,
        });
        let drained = drained.map_err(BootError::Service)?;
        if drained == Drained::Completely {
            let left: Result<Vec<Left>, _> = shards.into_iter().map(JoinHandle::join).collect();
            let left = left.map_err(|_| BootError::ShardPanicked)?;
            if let Some(path) = config.state_file {
                let header = Header {
                    epoch_seed: shared.header.epoch_seed,
                    incarnation: left.iter().map(|left| left.incarnation).max().unwrap_or(0),
                    wall_ms: clock_ms(ClockId::Realtime),
                };
                let sections = left.into_iter().map(|left| left.section).collect();
                state::write(&path, &header, sections)
                    .map_err(|error| BootError::State { path, error })?;
            }
        }
        Ok(drained)
    }
}

/// What all shards are given the same.
struct SharedSettings {
    namespaces: Arc<Namespaces>,
    tokens: Arc<TokenVerifier>,
    subscription_tokens: Arc<TokenVerifier>,
    unix_at_zero_ms: u64,
    /// Of the state file, or new.
    header: Header,
}

fn shared_settings(config: &Config, saved: Option<Header>) -> Result<SharedSettings, BootError> {
    let verifier = |section: &'static str, settings: &TokenSettings| {
        TokenVerifier::new(settings)
            .map(Arc::new)
            .map_err(|error| BootError::Token { section, error })
    };
    Ok(SharedSettings {
        namespaces: Arc::new(config.namespaces.clone()),
        tokens: verifier("token", &config.token)?,
        subscription_tokens: verifier("subscription_token", &config.subscription_token)?,
        unix_at_zero_ms: unix_at_zero_ms(),
        header: match saved {
            Some(header) => header,
            None => Header {
                epoch_seed: random_seed().map_err(BootError::System)?,
                incarnation: 0,
                wall_ms: 0,
            },
        },
    })
}

/// The saved rooms whose home `node` is in this process.
fn homes_of(saved: &Saved<'_>, node: NodeId, settings: &Settings) -> Vec<Home> {
    let now_ms = clock_ms(ClockId::Monotonic);
    let down_ms = clock_ms(ClockId::Realtime).saturating_sub(saved.header.wall_ms);
    let here = saved.homes.iter();
    here.filter(|home| settings.hasher.home(home.room) == node)
        .map(|home| {
            let namespace = settings.namespaces.find(home.room).unwrap_or(0);
            let limits = &settings.homes[usize::from(namespace)];
            let mut home = Home::restore(home, down_ms, now_ms, limits);
            home.namespace = namespace;
            home
        })
        .collect()
}

fn clock_ms(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// What the server API may ask of a channel.
fn channel_lookup(namespaces: &Arc<Namespaces>) -> ChannelLookup {
    let namespaces = Arc::clone(namespaces);
    Arc::new(move |channel| {
        let options = namespaces.options(namespaces.find(channel)?);
        Some(ChannelFeatures {
            history: options.has_history(),
            presence: options.presence,
        })
    })
}

/// Unix time in milliseconds when the monotonic clock, which the shards live by, was at 0.
fn unix_at_zero_ms() -> u64 {
    clock_ms(ClockId::Realtime).saturating_sub(clock_ms(ClockId::Monotonic))
}

fn client_policy(config: &Config) -> ClientPolicy {
    let (client, hooks) = (&config.client, &config.hooks);
    ClientPolicy {
        anonymous: client.allow_anonymous,
        insecure: client.insecure,
        channels_max: client.channel_limit,
        user_connections_max: u32::try_from(client.user_connection_limit).unwrap_or(u32::MAX),
        personal_channel: client.personal_channel,
        connect_hook: hooks.connect,
        refresh_hook: hooks.refresh,
        rpc_hook: hooks.rpc,
        message_hook: hooks.message,
        disconnect_events: hooks.disconnect_events,
        expired_close_ms: client.expired_close_ms,
        expired_sub_close_ms: client.expired_sub_close_ms,
    }
}

fn settings(
    config: &Config,
    shared: &SharedSettings,
    hasher: RoomHasher,
    seed: u64,
    node: NodeId,
    connections_max: usize,
) -> Settings {
    let mut settings = Settings::new(node, hasher, config.shards, seed);
    settings.pages = if config.demo { demo::PAGES } else { &[] };
    settings.origins = config.origins.clone();
    settings.path.clone_from(&config.path);
    settings.clients = client_policy(config);
    // A copy for each shard: patterns have working memory that is not to be shared.
    settings.set_namespaces(Arc::new((*shared.namespaces).clone()));
    let history = &config.history;
    settings.set_read_limits(history.recovery_publications_max, history.publications_max);
    settings.tokens = Arc::clone(&shared.tokens);
    settings.subscription_tokens = Arc::clone(&shared.subscription_tokens);
    settings.unix_at_zero_ms = shared.unix_at_zero_ms;
    settings.epoch_seed = shared.header.epoch_seed;
    settings.incarnation = shared.header.incarnation;
    settings.histories_bytes = config.history.bytes_per_shard;
    settings.homes_max = config.channels_per_shard;
    settings.connections_max = connections_max;
    let Timing {
        upgrade_ms,
        stale_ms,
        ping_ms,
        pong_ms,
        write_ms,
        close_ms,
        upstream_opening_ms: _,
    } = config.timing;
    Settings {
        upgrade_ms,
        stale_ms,
        ping_ms,
        pong_ms,
        write_ms,
        close_ms,
        ..settings
    }
}

/// Starts a shard thread and waits until its ring is set up: a ring belongs to the thread that
/// made it, so its errors come back from there.
fn start_shard(
    setup: UringSetup,
    port: Port,
    settings: Settings,
    homes: Vec<Home>,
    stats: Arc<Stats>,
    core: Option<usize>,
) -> Result<JoinHandle<Left>, BootError> {
    let (report, reported) = mpsc::channel();
    let thread = thread::Builder::new().name(format!("shard-{}", port.id.0));
    let thread = thread.spawn(move || {
        if let Some(id) = core {
            core_affinity::set_for_current(CoreId { id });
        }
        match Uring::new(setup) {
            Ok(uring) => {
                let mut shard = Shard::new(uring, port, settings, stats);
                shard.adopt(homes);
                report.send(Ok(())).ok();
                shard.run();
                shard.leave()
            }
            Err(error) => {
                report.send(Err(error)).ok();
                Left::default()
            }
        }
    });
    let thread = thread.map_err(BootError::System)?;
    reported
        .recv()
        .map_err(|_| BootError::ShardPanicked)?
        .map_err(BootError::Ring)?;
    Ok(thread)
}

/// One listener per shard on the same address; the kernel spreads connections over them.
fn client_listeners(
    address: SocketAddr,
    shards: u16,
    write_ms: u64,
) -> Result<Vec<Socket>, BootError> {
    let listen = |error| BootError::Listen {
        flag: "listen",
        address,
        error,
    };
    // Reuse of the port lets a second broker join silently: ask first whether it is free.
    drop(bind("listen", address)?);
    let first = client_listener(address, write_ms).map_err(listen)?;
    let resolved = local_address(&first).map_err(listen)?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(client_listener(resolved, write_ms).map_err(listen)?);
    }
    Ok(listeners)
}

/// Options that accepted sockets inherit are set here, once.
fn client_listener(address: SocketAddr, write_ms: u64) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // The broker batches by itself: what it sends is to leave now.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    socket.set_tcp_keepalive(&keepalive.with_interval(Duration::from_secs(15)))?;
    // A peer that does not acknowledge is gone, whatever TCP's own patience: well after the write
    // timeout, which tells more, and not before a lost packet has had its retransmissions.
    let unacknowledged_ms = 3 * write_ms.max(limits::WRITE_TIMEOUT_MS);
    socket.set_tcp_user_timeout(Some(Duration::from_millis(unacknowledged_ms)))?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(socket)
}

/// A listener, tried again for a moment: the ring of a killed predecessor frees its port a little
/// after the process is gone.
fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, BootError> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let start = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                return Err(BootError::Listen {
                    flag,
                    address,
                    error,
                });
            }
        }
    }
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))
}

/// Lifts the soft limit to the hard one and returns it: it bounds the file table of each ring.
fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused: the soft limit stays, and is what counts.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn random_seed() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
