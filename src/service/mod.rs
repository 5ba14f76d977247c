//! The service thread: what is low in volume or wants async code, on one glommio executor.
//!
//! It takes publications from upstream services over TCP, checks and authenticates them and puts
//! them into the lane of the room's home; it serves the admin listener with the server API; it leads the drain. It never
//! touches a client socket and holds no room. Everything is a task of one thread, so state is shared
//! by `Rc` and `RefCell`, and no borrow is held across an await.
//!
//! ```text
//!  upstream TCP ─► opening ─► upstream ─► intake ──┐ request lanes ─► shards
//!                                 ▲                node
//!                              mailbox ◄── acks ◄──┘ delivery lanes ◄─ shards (rings our bell)
//!  admin TCP ───► admin ─► metrics ◄── statistics of the shards
//!                   └───► api ─► tasks, orders ─► lanes
//! ```
//!
//! Nothing polls: an idle service thread sleeps in the kernel until a socket, the doorbell or the
//! heartbeat ([`limits::SERVICE_TICK_MS`], looks at the shutdown flag) wakes it.

mod accept;
mod acks;
mod admin;
mod api;
mod bell;
mod credit;
mod demo;
mod drain;
mod hooks;
mod input;
mod intake;
mod mailbox;
mod metrics;
mod node;
mod opening;
mod ordered;
mod orders;
mod queries;
mod readable;
mod tasks;
mod tick;
mod upstream;

use crate::base::RoomHasher;
use crate::base::stats::{ServiceStats, Stats};
use crate::limits;
use crate::mesh::Port;
use glommio::{LocalExecutorBuilder, Placement};
use node::Node;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::fmt;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use api::ChannelFeatures;
pub use drain::Drained;

/// Says what a channel offers; `None` for a channel of an unknown namespace.
pub type ChannelLookup = Arc<dyn Fn(&str) -> Option<ChannelFeatures> + Send + Sync>;

/// Everything the service thread is given. Listeners are bound by the caller, so that a taken port is
/// an error before any thread runs.
pub struct ServiceSetup {
    /// Name of this node, in CHALLENGE, WELCOME and GOAWAY; at most
    /// [`limits::UPSTREAM_NAME_MAX`] bytes.
    pub node_name: String,
    /// Where upstream services connect.
    pub upstreams: Vec<TcpListener>,
    /// Where operators connect.
    pub admins: Vec<TcpListener>,
    /// This thread's ends of the lanes; its id is the number of shards.
    pub port: Port,
    /// Finds a room's home.
    pub rooms: RoomHasher,
    /// Secrets of upstream services. While there is none, services that connect over loopback
    /// need no proof, and all others are refused.
    pub keys: Vec<Key>,
    /// Bounds of upstream connections.
    pub upstream_limits: UpstreamLimits,
    /// Milliseconds that a service has to answer an event.
    pub hook_timeout_ms: u64,
    /// Milliseconds that a drain may take.
    pub drain_ms: u64,
    /// What the shards export, by shard.
    pub shards: Vec<Arc<Stats>>,
    /// What this thread exports.
    pub stats: Arc<ServiceStats>,
    /// An eventfd for each node, by node id: the own one is read, the others are written. They are
    /// non-blocking.
    pub bells: Vec<Arc<OwnedFd>>,
    /// Set when the process is to end.
    pub shutdown: Arc<AtomicBool>,
    /// Room that is sent the demo page's figures every second.
    pub demo_room: Option<String>,
    /// Accepted keys of the server API. Without any and not insecure, nobody may use it.
    pub api_keys: Vec<String>,
    /// Everybody who reaches the admin listener may use it.
    pub api_insecure: bool,
    /// What channels offer.
    pub channels: ChannelLookup,
    /// The seed of the shards' public client ids.
    pub seed: u64,
}

impl fmt::Debug for ServiceSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceSetup")
            .field("node_name", &self.node_name)
            .field("upstreams", &self.upstreams)
            .field("admins", &self.admins)
            .finish_non_exhaustive()
    }
}

/// A secret that upstream services share with the broker.
#[derive(Clone)]
pub struct Key {
    /// Which one it is; 1 to [`limits::UPSTREAM_NAME_MAX`] bytes.
    pub id: String,
    /// The secret.
    pub secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Bounds of upstream connections.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// Largest `length` of a frame in bytes, at most [`limits::UPSTREAM_FRAME_MAX`].
    pub frame_bytes_max: usize,
    /// Bytes of publications that a connection may have outstanding.
    pub credit_window_bytes: u64,
    /// Milliseconds for challenge, hello and welcome together.
    pub opening_ms: u64,
    /// Connections at one time, those in their opening included.
    pub conns_max: usize,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: limits::UPSTREAM_FRAME_MAX,
            credit_window_bytes: limits::UPSTREAM_CREDIT_WINDOW,
            opening_ms: limits::UPSTREAM_OPENING_MS,
            conns_max: limits::UPSTREAM_CONNS_MAX,
        }
    }
}

/// Why the service thread could not run.
#[derive(Debug)]
pub enum ServiceError {
    /// glommio could not set up its rings.
    Executor(glommio::GlommioError<()>),
    /// A listener could not be made non-blocking.
    Listener(std::io::Error),
    /// There is no descriptor for the heartbeat's timer.
    Heartbeat(std::io::Error),
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executor(error) => write!(f, "service thread's executor: {error}"),
            Self::Listener(error) => write!(f, "service thread's listener: {error}"),
            Self::Heartbeat(error) => write!(f, "service thread's heartbeat: {error}"),
        }
    }
}

impl std::error::Error for ServiceError {}

/// What the tasks of the service thread share.
struct Shared {
    node: Node,
    api: api::Api,
    node_name: String,
    keys: Vec<Key>,
    upstream_limits: UpstreamLimits,
    shards: Vec<Arc<Stats>>,
    stats: Arc<ServiceStats>,
    /// Set at the beginning of the drain, before anything else is done.
    draining: Cell<bool>,
}

impl Shared {
    /// Milliseconds on the clock of the shards' `last_turn_ms`.
    fn now_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
    }
}

/// Runs the service on the calling thread until it has drained, and says how that went.
///
/// # Errors
/// When the executor cannot be made. Nothing has been accepted then.
pub fn run(setup: ServiceSetup) -> Result<Drained, ServiceError> {
    for listener in setup.upstreams.iter().chain(&setup.admins) {
        listener
            .set_nonblocking(true)
            .map_err(ServiceError::Listener)?;
    }
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("service")
        // glommio's buffers for DMA files, locked memory; unused so far.
        .io_memory(64 * 1024)
        .preempt_timer(tick::PREEMPT)
        .make()
        .map_err(ServiceError::Executor)?;
    let heartbeat = tick::Heartbeat::new().map_err(ServiceError::Heartbeat)?;
    Ok(executor.run(serve(setup, heartbeat)))
}

async fn serve(setup: ServiceSetup, heartbeat: tick::Heartbeat) -> Drained {
    let bell = Arc::clone(&setup.bells[usize::from(setup.port.id.0)]);
    let shared = Rc::new(Shared {
        api: api::Api::new(&setup),
        node: Node::new(
            setup.port,
            setup.rooms,
            setup.bells,
            Arc::clone(&setup.stats),
            setup.seed,
            hooks::Hooks::new(Duration::from_millis(setup.hook_timeout_ms)),
        ),
        node_name: setup.node_name,
        keys: setup.keys,
        upstream_limits: setup.upstream_limits,
        shards: setup.shards,
        stats: setup.stats,
        draining: Cell::new(false),
    });
    glommio::spawn_local(bell::answer(Rc::clone(&shared), bell)).detach();
    glommio::spawn_local(hooks::watch(Rc::clone(&shared))).detach();
    if let Some(room) = setup.demo_room {
        glommio::spawn_local(demo::publish_figures(Rc::clone(&shared), room)).detach();
    }
    for listener in setup.admins {
        glommio::spawn_local(admin::listen(Rc::clone(&shared), listener)).detach();
    }
    let upstreams = setup
        .upstreams
        .into_iter()
        .map(|listener| glommio::spawn_local(upstream::listen(Rc::clone(&shared), listener)))
        .collect();
    drain::requested(&setup.shutdown, &heartbeat).await;
    drain::drain(&shared, upstreams, setup.drain_ms).await
}
