//! A service thread between a raw upstream client and threads that play the shards.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod events;
pub(crate) mod http;
mod played;

use ringcast::base::stats::{ServiceStats, Stats};
use ringcast::base::{Epoch, NodeId, Offset, RoomHasher};
use ringcast::mesh::{Delivery, Outlets, Port, Publish, Request, mesh};
use ringcast::service::{self, ChannelFeatures, Drained, Key, ServiceSetup, UpstreamLimits};
use ringcast::wire::upstream::{Frame, HelloAuth, decode, hello_mac};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a test may choose.
pub(crate) struct Options {
    pub(crate) shards: u16,
    pub(crate) lane_bytes: usize,
    pub(crate) keys: Vec<Key>,
    pub(crate) limits: UpstreamLimits,
    pub(crate) drain_ms: u64,
    pub(crate) demo_room: Option<String>,
    /// The shards keep nothing but a count of what they take.
    pub(crate) count_only: bool,
    pub(crate) api_keys: Vec<String>,
    pub(crate) api_insecure: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 2,
            lane_bytes: ringcast::limits::LANE_BYTES,
            keys: Vec::new(),
            limits: UpstreamLimits::default(),
            drain_ms: 5_000,
            demo_room: None,
            count_only: false,
            api_keys: Vec::new(),
            api_insecure: false,
        }
    }
}

/// A publication that a shard took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) room: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) key: Option<[u8; 16]>,
    pub(crate) skip_history: bool,
}

/// What tests and shard threads share.
#[derive(Default)]
pub(crate) struct Knobs {
    pub(crate) taken: Mutex<Vec<Taken>>,
    pub(crate) taken_count: AtomicU64,
    /// Requests and orders as they came, in words; without who asked.
    pub(crate) frames: Mutex<Vec<String>>,
    /// Events to be sent.
    pub(crate) events: Mutex<Vec<events::Sent>>,
    /// Answers to them, in the order in which they came.
    pub(crate) answers: Mutex<Vec<events::Given>>,
    /// Shards take nothing while set.
    pub(crate) hold: AtomicBool,
    /// Microseconds of pause after every batch of 64 frames.
    pub(crate) pause_us: AtomicU64,
    /// Shards do not say that they have drained.
    pub(crate) never_drained: AtomicBool,
    stop: AtomicBool,
}

impl Knobs {
    fn note(&self, request: &Request<'_>) {
        self.frames.lock().unwrap().push(format!("{request:?}"));
    }
}

/// Seed of public client ids.
pub(crate) const SEED: u64 = 99;

/// Channels of the namespace `bare` offer nothing, `none` is no namespace, all others offer all.
fn features(channel: &str) -> Option<ChannelFeatures> {
    match channel.split_once(':') {
        Some(("none", _)) => None,
        Some(("bare", _)) => Some(ChannelFeatures::default()),
        _ => Some(ChannelFeatures {
            history: true,
            presence: true,
        }),
    }
}

/// A running service.
pub(crate) struct Harness {
    pub(crate) upstream: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) stats: Arc<ServiceStats>,
    pub(crate) shard_stats: Vec<Arc<Stats>>,
    pub(crate) shutdown: Arc<AtomicBool>,
    service: Option<JoinHandle<Drained>>,
    shards: Vec<JoinHandle<()>>,
}

/// Milliseconds on the clock of the shards' `last_turn_ms`.
pub(crate) fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

impl Harness {
    pub(crate) fn start(options: Options) -> Self {
        let nodes = options.shards + 1;
        let mut ports = mesh(nodes, options.lane_bytes);
        let bells: Vec<Arc<OwnedFd>> = (0..nodes).map(|_| Arc::new(bell())).collect();
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = (upstream.local_addr().unwrap(), admin.local_addr().unwrap());
        let knobs = Arc::new(Knobs::default());
        let shard_stats: Vec<Arc<Stats>> = (0..options.shards).map(|_| Arc::default()).collect();
        let stats = Arc::new(ServiceStats::default());
        let shutdown = Arc::new(AtomicBool::new(false));
        let setup = ServiceSetup {
            node_name: "node-a".to_owned(),
            upstreams: vec![upstream],
            admins: vec![admin],
            port: ports.pop().unwrap(),
            rooms: RoomHasher::new(1, options.shards),
            keys: options.keys,
            upstream_limits: options.limits,
            hook_timeout_ms: 300,
            drain_ms: options.drain_ms,
            shards: shard_stats.clone(),
            stats: Arc::clone(&stats),
            bells: bells.clone(),
            shutdown: Arc::clone(&shutdown),
            demo_room: options.demo_room,
            api_keys: options.api_keys,
            api_insecure: options.api_insecure,
            channels: Arc::new(features),
            seed: SEED,
        };
        let shards = ports
            .into_iter()
            .map(|port| {
                let shard = Shard {
                    service_bell: Arc::clone(&bells[usize::from(options.shards)]),
                    port,
                    service: NodeId(options.shards),
                    knobs: Arc::clone(&knobs),
                    count_only: options.count_only,
                    is_draining: false,
                    offsets: HashMap::new(),
                    keys: HashMap::new(),
                };
                std::thread::spawn(move || shard.run())
            })
            .collect();
        Self {
            upstream: addresses.0,
            admin: addresses.1,
            knobs,
            stats,
            shard_stats,
            shutdown,
            service: Some(std::thread::spawn(|| service::run(setup).unwrap())),
            shards,
        }
    }

    /// Sets the flag and waits for the end.
    pub(crate) fn drain(mut self) -> Drained {
        self.shutdown.store(true, SeqCst);
        let service = self.service.take().unwrap();
        service.join().unwrap()
    }

    /// Has shards send events.
    pub(crate) fn send_events(&self, sent: impl IntoIterator<Item = events::Sent>) {
        self.knobs.events.lock().unwrap().extend(sent);
    }

    /// The answers to events, once there are `count`.
    pub(crate) fn answers(&self, count: usize) -> Vec<events::Given> {
        let answers = &self.knobs.answers;
        eventually("the answers", || answers.lock().unwrap().len() >= count);
        std::mem::take(&mut *answers.lock().unwrap())
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.knobs.taken.lock().unwrap().clone()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.shutdown.store(true, SeqCst);
        self.knobs.hold.store(false, SeqCst);
        self.knobs.never_drained.store(false, SeqCst);
        if let Some(service) = self.service.take() {
            let _ = service.join();
        }
        self.knobs.stop.store(true, SeqCst);
        for shard in self.shards.drain(..) {
            let _ = shard.join();
        }
    }
}

fn bell() -> OwnedFd {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

/// Plays a shard: gives offsets, knows keys, refuses rooms whose name begins with `full`.
struct Shard {
    port: Port,
    service: NodeId,
    service_bell: Arc<OwnedFd>,
    knobs: Arc<Knobs>,
    count_only: bool,
    is_draining: bool,
    offsets: HashMap<String, u64>,
    keys: HashMap<(String, [u8; 16]), u64>,
}

impl Shard {
    fn run(mut self) {
        while !self.knobs.stop.load(SeqCst) {
            let mut is_idle = true;
            let may_take = !self.knobs.hold.load(SeqCst);
            for _ in 0..if may_take { 64 } else { 0 } {
                if self.port.outlets.deliveries_free() < 1024 {
                    break;
                }
                let Self {
                    port: Port {
                        inlets, outlets, ..
                    },
                    service,
                    knobs,
                    offsets,
                    keys,
                    count_only,
                    ..
                } = &mut self;
                let Some(frame) = inlets.next_request(*service) else {
                    break;
                };
                is_idle = false;
                let request = frame.get();
                let Request::Publish(publish) = request else {
                    played::answer(&request, knobs, outlets, *service);
                    continue;
                };
                if *count_only {
                    knobs.taken_count.fetch_add(1, SeqCst);
                } else {
                    take(&publish, knobs, offsets, keys, outlets, *service);
                }
            }
            self.take_orders();
            let (shard, outlets) = (self.port.id, &mut self.port.outlets);
            events::send(&self.knobs, shard, outlets, self.service);
            let bell = &self.service_bell;
            self.port.outlets.publish(|_| {
                rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap();
            });
            let pause_us = self.knobs.pause_us.load(SeqCst);
            if pause_us > 0 || is_idle {
                std::thread::sleep(Duration::from_micros(pause_us.max(50)));
            }
        }
    }

    fn take_orders(&mut self) {
        while let Some(frame) = self.port.inlets.next_delivery(self.service) {
            let delivery = frame.get();
            if let Delivery::Order(order) = delivery {
                let words = format!("{}: {order:?}", self.port.id.0);
                self.knobs.frames.lock().unwrap().push(words);
                continue;
            }
            if let Delivery::Answer(answer) = delivery {
                events::note(&self.knobs, self.port.id, &answer);
                continue;
            }
            assert_eq!(delivery, Delivery::Drain);
            self.is_draining = true;
        }
        if self.is_draining && !self.knobs.never_drained.load(SeqCst) {
            self.is_draining = false;
            let outlets = &mut self.port.outlets;
            outlets.deliver(self.service, &Delivery::Drained).unwrap();
        }
    }
}

fn take(
    publish: &Publish<'_>,
    knobs: &Knobs,
    offsets: &mut HashMap<String, u64>,
    keys: &mut HashMap<(String, [u8; 16]), u64>,
    outlets: &mut Outlets,
    service: NodeId,
) {
    let room = publish.room.to_owned();
    knobs.taken_count.fetch_add(1, SeqCst);
    knobs.taken.lock().unwrap().push(Taken {
        room: room.clone(),
        payload: publish.payload.to_vec(),
        key: publish.key,
        skip_history: publish.skip_history,
    });
    let reply = publish.reply;
    knobs.note(&Request::Publish(Publish {
        reply: ringcast::mesh::ReplyTo::Nobody,
        ..*publish
    }));
    if room.starts_with("silent") {
        return;
    }
    if room.starts_with("full") {
        outlets
            .deliver(service, &Delivery::Refused { reply })
            .unwrap();
        return;
    }
    let known = publish
        .key
        .and_then(|key| keys.get(&(room.clone(), key)).copied());
    let offset = known.unwrap_or_else(|| {
        let next = offsets.entry(room.clone()).or_insert(0);
        *next += 1;
        *next
    });
    if let Some(key) = publish.key {
        keys.insert((room, key), offset);
    }
    let published = Delivery::Published {
        reply,
        epoch: Epoch(7),
        offset: Offset(offset),
        duplicate: known.is_some(),
    };
    if reply != ringcast::mesh::ReplyTo::Nobody {
        outlets.deliver(service, &published).unwrap();
    }
}

/// Waits until `is_so`, at most ten seconds.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never came about: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An upstream client that sends what it is told to, right or wrong.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
    consumed: usize,
    /// The latest total that WELCOME or CREDIT announced.
    pub(crate) credit: u64,
}

impl Raw {
    /// Connects, says nothing yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self {
            stream,
            input: Vec::new(),
            consumed: 0,
            credit: 0,
        }
    }

    /// Connects and opens without a key.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        raw.challenge();
        raw.hello("tests", HelloAuth::None);
        raw.welcome();
        raw
    }

    pub(crate) fn challenge(&mut self) -> [u8; 32] {
        self.next(|frame| match frame {
            Frame::Challenge {
                node: "node-a",
                challenge,
            } => *challenge,
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn hello(&mut self, service: &str, auth: HelloAuth<'_>) {
        self.send(&Frame::Hello {
            request: 99,
            service,
            auth,
        });
    }

    pub(crate) fn hello_with(&mut self, challenge: &[u8; 32], key_id: &str, secret: &[u8]) {
        let mac = hello_mac(secret, challenge, "tests", key_id);
        self.hello("tests", HelloAuth::Hmac { key_id, mac: &mac });
    }

    /// WELCOME's largest length.
    pub(crate) fn welcome(&mut self) -> u32 {
        let (frame_bytes_max, credit) = self.next(|frame| match frame {
            Frame::Welcome {
                request: 99,
                node: "node-a",
                frame_bytes_max,
                credit,
            } => (frame_bytes_max, credit),
            other => panic!("{other:?}"),
        });
        self.credit = credit;
        frame_bytes_max
    }

    pub(crate) fn send(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame that is not CREDIT.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(Frame<'_>) -> T) -> T {
        loop {
            match decode(&self.input[self.consumed..], usize::MAX).unwrap() {
                Some((Frame::Credit { total }, bytes)) => {
                    assert!(total > self.credit, "credit never shrinks");
                    self.credit = total;
                    self.consumed += bytes;
                }
                Some((frame, bytes)) => {
                    let result = read(frame);
                    self.consumed += bytes;
                    return result;
                }
                None => assert!(self.fill(), "the connection was closed instead"),
            }
        }
    }

    /// Reads one frame, which is CREDIT.
    pub(crate) fn read_credit(&mut self) {
        loop {
            match decode(&self.input[self.consumed..], usize::MAX).unwrap() {
                Some((Frame::Credit { total }, bytes)) => {
                    self.credit = total;
                    self.consumed += bytes;
                    return;
                }
                Some((other, _)) => panic!("{other:?}"),
                None => assert!(self.fill(), "the connection was closed instead"),
            }
        }
    }

    /// The request and code of the next frame, which is an ERROR.
    pub(crate) fn error(&mut self) -> (u64, ringcast::wire::upstream::ErrorCode) {
        self.next(|frame| match frame {
            Frame::Error {
                request,
                code,
                text,
            } => {
                assert!(!text.is_empty());
                (request, code)
            }
            other => panic!("{other:?}"),
        })
    }

    /// Asserts that the service closes and sends nothing more.
    pub(crate) fn closed(&mut self) {
        let rest = self.input.len() - self.consumed;
        assert_eq!(rest, 0, "more frames before the close");
        assert!(!self.fill(), "{:?}", &self.input[self.consumed..]);
    }

    /// Reads more; `false` at the end of the stream.
    pub(crate) fn fill(&mut self) -> bool {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let mut chunk = vec![0; 64 * 1024];
        let bytes = self.stream.read(&mut chunk).expect("the service is silent");
        self.input.extend_from_slice(&chunk[..bytes]);
        bytes > 0
    }
}
