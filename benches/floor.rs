//! What a delivery costs at least, and what it costs with the broker around it.
//!
//! The same fan-out twice in one run: one publication of 128 bytes to 5,000 loopback sockets, by a
//! bare loop of batched io_uring sends, and by `ringcast serve --shards 1`. Both send the same bytes
//! from core 0; the receivers are the same code on one thread on core 1, and their CPU is not counted.
//! Publications go one at a time: the next when all receivers have the one before. Blocks of rounds
//! alternate, so that a change in the machine hits both; medians of the blocks are compared.
//!
//! The bare loop knows its sockets and its bytes: what the broker uses more than it is the price of
//! WebSocket, rooms, cursors and the mesh. Loopback receive processing runs in the sender's system
//! call, on both sides alike. `cargo bench --bench floor`; without `--bench` a small run that only
//! shows that it works.
#![allow(unsafe_code)]

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, opcode};
use ringcast::base::chunk::{Chunk, Part};
use ringcast::base::{ConnId, Content};
use ringcast::client::{AckLevel, Message, Upstream};
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::sockets::{Event, Sockets};
use ringcast::driver::uring::{Uring, UringSetup};
use ringcast::driver::{Payload, Wait};
use ringcast::wire::client::{Data, Encoding, Publication, Push, write_push};
use ringcast::wire::frame::{Opcode, Role, write_client_frame, write_server_header};
use ringcast::wire::message::{Assembler, Incoming};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

const ROOM: &str = "floor";
const PAYLOAD_BYTES: usize = 128;
const ROUNDS_PER_BLOCK: u32 = 10;
/// What a connection has under way while they come up.
const IN_FLIGHT_MAX: usize = 256;
/// No step takes as long unless something is broken.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Between a block and its reading: whoever finishes late has then finished.
const REST: Duration = Duration::from_millis(20);

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (sockets, blocks) = if is_bench { (5_000, 12) } else { (50, 2) };
    raise_descriptor_limit();

    let broker = Broker::start();
    let bare = Bare::start(sockets);
    let receivers = Receivers::start(sockets, bare.addr, broker.listen);
    let mut upstream =
        Upstream::connect(broker.upstream, ROOM, None).expect("broker takes upstreams");

    let (mut bare_us, mut broker_us) = (Vec::new(), Vec::new());
    let mut offset = 0;
    // The first block of each is a warm-up.
    for block in 0..=blocks {
        let mut bare_ns = 0;
        for round in 1..=ROUNDS_PER_BLOCK {
            let target = receivers.aim();
            bare_ns += bare.send(&push(offset + u64::from(round)));
            receivers.wait(target);
        }
        thread::sleep(REST);
        let before_ns = broker.cpu_ns();
        for _ in 0..ROUNDS_PER_BLOCK {
            let target = receivers.aim();
            let payload = payload();
            let message = Message::new(Content::Json, &payload, AckLevel::None);
            upstream
                .publish(ROOM, &message)
                .expect("broker takes publications");
            receivers.wait(target);
        }
        thread::sleep(REST);
        let broker_ns = broker.cpu_ns() - before_ns;
        offset += u64::from(ROUNDS_PER_BLOCK);
        if block > 0 {
            let deliveries = f64::from(sockets * ROUNDS_PER_BLOCK);
            bare_us.push(bare_ns as f64 / 1e3 / deliveries);
            broker_us.push(broker_ns as f64 / 1e3 / deliveries);
        }
    }
    report(sockets, &mut bare_us, &mut broker_us);
}

fn report(sockets: u32, bare_us: &mut [f64], broker_us: &mut [f64]) {
    let rounds = bare_us.len() as u32 * ROUNDS_PER_BLOCK;
    let frame_bytes = push(1).len();
    println!(
        "{sockets} sockets, {PAYLOAD_BYTES} bytes of payload, {frame_bytes} on the wire, {rounds} rounds each"
    );
    println!("CPU per delivery, median (lowest to highest block of {ROUNDS_PER_BLOCK} rounds):");
    let bare = print_median("bare loop", bare_us);
    let broker = print_median("broker", broker_us);
    println!("floor_ratio {:.2}", broker / bare);
}

fn print_median(name: &str, values_us: &mut [f64]) -> f64 {
    values_us.sort_by(f64::total_cmp);
    let median = values_us[values_us.len() / 2];
    let (lowest, highest) = (values_us[0], values_us[values_us.len() - 1]);
    println!("  {name:<10} {median:.3} µs ({lowest:.3} to {highest:.3})");
    median
}

/// A JSON string of exactly [`PAYLOAD_BYTES`].
fn payload() -> Vec<u8> {
    let mut payload = vec![b'x'; PAYLOAD_BYTES];
    (payload[0], payload[PAYLOAD_BYTES - 1]) = (b'"', b'"');
    payload
}

/// The frame that the broker makes of the publication with this offset.
fn push(offset: u64) -> Vec<u8> {
    let (mut push, mut frame) = (Vec::new(), Vec::new());
    let payload = payload();
    let publication = Publication {
        offset,
        data: Data {
            content: Content::Json,
            bytes: &payload,
        },
        ..Publication::default()
    };
    write_push(
        Encoding::Json,
        &mut push,
        ROOM,
        &Push::Publication(&publication),
    );
    write_server_header(&mut frame, Opcode::Text, push.len());
    frame.extend_from_slice(&push);
    frame
}

fn pin(core: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.get(core).or(cores.first()) {
        core_affinity::set_for_current(*core);
    }
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Without it the file tables' error says what is wrong.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

// ---------------------------------------------------------------------------------- bare loop ----

/// A thread with nothing but a ring and its sockets.
struct Bare {
    addr: SocketAddr,
    frames: Sender<Vec<u8>>,
    times_ns: Receiver<u64>,
}

impl Bare {
    fn start(sockets: u32) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        // Accepted sockets inherit it.
        listener.set_tcp_nodelay(true).expect("TCP_NODELAY");
        listener
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("bind");
        listener.listen(4_096).expect("listen");
        let addr = listener
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("IPv4");
        let (frames, frames_in) = channel();
        let (times_out, times_ns) = channel();
        thread::spawn(move || bare_loop(&listener, sockets, &frames_in, &times_out));
        Self {
            addr,
            frames,
            times_ns,
        }
    }

    /// Sends one frame to all: nanoseconds of CPU that it took.
    fn send(&self, frame: &[u8]) -> u64 {
        self.frames.send(frame.to_vec()).expect("bare loop runs");
        self.times_ns
            .recv_timeout(STEP_TIMEOUT)
            .expect("bare loop sends")
    }
}

fn bare_loop(listener: &Socket, sockets: u32, frames: &Receiver<Vec<u8>>, times_ns: &Sender<u64>) {
    pin(0);
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(32_768)
        .build(8_192)
        .expect("io_uring");
    ring.submitter()
        .register_files_sparse(sockets)
        .expect("file table");
    for _ in 0..sockets {
        let accept = opcode::Accept::new(
            Fd(listener.as_raw_fd()),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
        .file_index(Some(DestinationSlot::auto_target()))
        .build();
        // SAFETY: the entry names no memory.
        unsafe { ring.submission().push(&accept) }.expect("the queue is empty");
        ring.submit_and_wait(1).expect("enter");
        let result = ring.completion().next().expect("waited for one").result();
        assert!(result >= 0, "accept failed: {result}");
    }
    for frame in frames {
        let started_ns = thread_cpu_ns();
        send_to_all(&mut ring, sockets, &frame);
        times_ns
            .send(thread_cpu_ns() - started_ns)
            .expect("main waits");
    }
}

/// One batch of sends, and all their completions. `frame` outlives the operations: this returns after
/// the completion of the last.
fn send_to_all(ring: &mut IoUring, sockets: u32, frame: &[u8]) {
    for slot in 0..sockets {
        let send = opcode::Send::new(Fixed(slot), frame.as_ptr(), frame.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the kernel reads `frame` until the completion, which is waited for below.
        unsafe { ring.submission().push(&send) }.expect("the queue holds them all");
    }
    let mut pending = sockets as usize;
    while pending > 0 {
        ring.submit_and_wait(pending).expect("enter");
        for completion in ring.completion() {
            assert_eq!(
                completion.result(),
                frame.len() as i32,
                "a send failed or was short"
            );
            pending -= 1;
        }
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// ------------------------------------------------------------------------------------- broker ----

/// The release binary, with one shard on core 0.
struct Broker {
    process: Child,
    listen: SocketAddr,
    upstream: SocketAddr,
}

impl Broker {
    fn start() -> Self {
        let [listen, upstream, admin] = [(); 3].map(|()| free_addr());
        let process = Command::new(env!("CARGO_BIN_EXE_ringcast"))
            .args([
                "serve",
                "--shards",
                "1",
                "--cores",
                "0",
                "--allow-anonymous",
            ])
            .args([
                "--listen",
                &listen.to_string(),
                "--upstream",
                &upstream.to_string(),
            ])
            .args(["--admin", &admin.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary was built with this bench");
        let broker = Self {
            process,
            listen,
            upstream,
        };
        let started = Instant::now();
        while Upstream::connect(upstream, ROOM, None).is_err() {
            assert!(
                started.elapsed() < STEP_TIMEOUT,
                "the broker does not come up"
            );
            thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    /// CPU time of all threads, nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.process.id());
        let of_thread = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_ascii_whitespace().next()?.parse().ok()
        };
        std::fs::read_dir(tasks)
            .expect("the broker runs")
            .filter_map(of_thread)
            .sum()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

// ---------------------------------------------------------------------------------- receivers ----

/// The thread that has the other ends of both fan-outs.
struct Receivers {
    sockets: u32,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Sockets that are ready to be sent to.
    ready: AtomicU64,
    /// Messages received.
    messages: AtomicU64,
    /// Count of messages at which the main thread is woken.
    target: AtomicU64,
    stop: AtomicBool,
}

impl Receivers {
    fn start(sockets: u32, bare: SocketAddr, broker: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, main) = (Arc::clone(&shared), thread::current());
        let thread =
            thread::spawn(move || Reception::new(sockets, [bare, broker], theirs, main).run());
        let receivers = Self {
            sockets,
            shared,
            thread: Some(thread),
        };
        let started = Instant::now();
        while receivers.shared.ready.load(Relaxed) < 2 * u64::from(sockets) {
            assert!(
                started.elapsed() < STEP_TIMEOUT,
                "the sockets do not come up"
            );
            thread::sleep(Duration::from_millis(5));
        }
        receivers
    }

    /// Sets the target of one more round, before it begins.
    fn aim(&self) -> u64 {
        let target = self.shared.target.load(Relaxed) + u64::from(self.sockets);
        self.shared.target.store(target, Relaxed);
        target
    }

    /// Waits until `target` messages have come, and no more.
    fn wait(&self, target: u64) {
        let started = Instant::now();
        while self.shared.messages.load(Relaxed) < target {
            assert!(started.elapsed() < STEP_TIMEOUT, "a delivery is missing");
            // A target that was reached before it was looked at wakes nobody.
            thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(
            self.shared.messages.load(Relaxed),
            target,
            "a delivery came twice"
        );
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // Before the broker goes, whose end would be a failure to them.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a receiver waits for.
enum Stage {
    Connecting,
    Upgrading,
    Joining,
    Ready,
}

struct Reception {
    shared: Arc<Shared>,
    main: Thread,
    sockets: Sockets<Uring>,
    /// By slot: the first half is the bare loop's, the second the broker's.
    peers: Vec<(Stage, Assembler)>,
    each: usize,
    targets: [SocketAddr; 2],
}

impl Reception {
    fn new(each: u32, targets: [SocketAddr; 2], shared: Arc<Shared>, main: Thread) -> Self {
        pin(1);
        let setup = UringSetup {
            listener: None,
            slots: 2 * each,
            bells: Doorbells::for_rings(1).expect("eventfd"),
            node: 0,
        };
        let ring = Uring::new(setup).unwrap_or_else(|error| panic!("{error}"));
        Self {
            shared,
            main,
            sockets: Sockets::new(ring),
            peers: Vec::new(),
            each: each as usize,
            targets,
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Relaxed) {
            let under_way = |reception: &Self| {
                reception.peers.len() - reception.shared.ready.load(Relaxed) as usize
            };
            while self.peers.len() < 2 * self.each && under_way(&self) < IN_FLIGHT_MAX {
                let target = self.targets[usize::from(self.peers.len() >= self.each)];
                let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let conn = self
                    .sockets
                    .connect(source, target)
                    .expect("a slot for each");
                assert_eq!(conn.slot as usize, self.peers.len());
                self.peers
                    .push((Stage::Connecting, Assembler::new(Role::Client)));
            }
            self.sockets.submit(Wait::UpTo(Duration::from_millis(50)));
            while let Some(event) = self.sockets.next_event() {
                self.handle(event);
            }
            let messages = self.shared.messages.load(Relaxed);
            if messages > 0 && messages == self.shared.target.load(Relaxed) {
                self.main.unpark();
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { conn } if (conn.slot as usize) < self.each => {
                self.peers[conn.slot as usize].0 = Stage::Ready;
                self.shared.ready.fetch_add(1, Relaxed);
            }
            Event::Connected { conn } => {
                self.peers[conn.slot as usize].0 = Stage::Upgrading;
                self.send(
                    conn,
                    b"GET /connection/websocket HTTP/1.1\r\nHost: floor\r\n\
                    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                );
            }
            Event::Received { conn, loan } => {
                let mut answer = Vec::new();
                let input = self.sockets.bytes(&loan);
                let peer = &mut self.peers[conn.slot as usize];
                receive(peer, input, &self.shared, &mut answer);
                self.sockets.recycle(loan);
                if !answer.is_empty() {
                    self.send(conn, &answer);
                }
            }
            Event::Sent { .. } | Event::Bell => {}
            failed => panic!("a receiver failed: {failed:?}"),
        }
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let chunk = Chunk::new(bytes.len());
        chunk.append(bytes);
        self.sockets
            .send(conn, Payload::One(Part::new(&chunk, 0, bytes.len())));
    }
}

/// Takes what came in and appends what is to be answered.
fn receive(peer: &mut (Stage, Assembler), input: &mut [u8], shared: &Shared, answer: &mut Vec<u8>) {
    let mask = [1, 2, 3, 4];
    let (stage, assembler) = peer;
    let mut input = input;
    if let Stage::Upgrading = stage {
        // The head comes in one piece, with nothing behind it.
        assert!(
            input.starts_with(b"HTTP/1.1 101") && input.ends_with(b"\r\n\r\n"),
            "no upgrade"
        );
        *stage = Stage::Joining;
        let commands = format!(
            "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{ROOM}\"}}}}"
        );
        write_client_frame(answer, Opcode::Text, mask, commands.as_bytes());
        return;
    }
    while let Some(incoming) = assembler.next(&mut input).expect("frames are sound") {
        let Incoming::Message { payload, .. } = incoming else {
            panic!("neither side sends control frames here");
        };
        if payload == b"{}" {
            write_client_frame(answer, Opcode::Text, mask, b"{}");
        } else if let Stage::Joining = stage {
            if payload.windows(11).any(|text| text == b"\"subscribe\"") {
                *stage = Stage::Ready;
                shared.ready.fetch_add(1, Relaxed);
            }
        } else {
            shared.messages.fetch_add(1, Relaxed);
        }
    }
}
