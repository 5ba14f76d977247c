//! The real kernel: one io_uring with a registered file table.
//!
//! Kernel floor 6.1: DEFER_TASKRUN and SINGLE_ISSUER (6.1), multishot receive (6.0), provided
//! buffer rings (5.19), direct descriptors with automatic slots (5.19). Accepted sockets never
//! become process descriptors.
//!
//! Soundness of what the kernel reads and writes behind the borrow checker's back:
//! - a send's [`Payload`] is owned by `in_flight` until its terminal completion is reaped;
//! - addresses of accepts and connects live in boxes until their completions;
//! - message headers and vectors are read when the entry is submitted (IORING_FEAT_SUBMIT_STABLE,
//!   checked at the start), and the arena that holds them is reused only after a submit;
//! - `drop` cancels everything and waits for it before any of this memory is freed.
#![allow(unsafe_code)]

use super::buffers::{BufferRing, RECV_GROUP};
use super::doorbell::Doorbells;
use super::probe::SetupError;
use super::{Completion, Driver, DriverCounts, Op, Payload, Token, Wait};
use crate::base::ConnId;
use crate::base::chunk::Part;
use crate::limits::{
    ACCEPTS_ARMED, COMPLETION_ENTRIES, COMPLETIONS_PER_TURN, RECV_BUFFER_BYTES, RECV_BUFFERS,
    SEND_PARTS_MAX, SUBMISSION_ENTRIES,
};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockAddr, SockAddrStorage, Socket};
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;
/// Kernel 6.15: waiting does not count as iowait, so an idle host does not look busy.
const ENTER_NO_IOWAIT: u32 = 128;
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// Message headers prepared between two submits.
const ARENA_MESSAGES: usize = 512;

static RING_ONCE: u64 = 1;
static TRUE: libc::c_int = 1;

/// What a ring needs to know.
#[derive(Debug)]
pub struct UringSetup {
    /// Where connections come in; `None` for a ring that only connects.
    pub listener: Option<Socket>,
    /// Slots of the file table, at most RLIMIT_NOFILE.
    pub slots: u32,
    /// Doorbells of all nodes.
    pub bells: Doorbells,
    /// Index of this thread's own doorbell.
    pub node: u16,
}

/// One io_uring, its file table and its receive buffers. Must stay on the thread that made it
/// (IORING_SETUP_SINGLE_ISSUER).
#[derive(Debug)]
pub struct Uring {
    // Declared first: the ring is torn down before the memory below is freed.
    ring: Ring,
    buffers: ManuallyDrop<BufferRing>,
    in_flight: Vec<Option<Payload>>,
    connects: HashMap<u32, Box<(SockAddr, SockAddr)>>,
    peers: Box<[Peer]>,
    arena: Arena,
    bell_count: ManuallyDrop<Box<u64>>,
    spare: Vec<Vec<Part>>,
    reaped: Vec<cqueue::Entry>,
    reaped_next: usize,
    setup: UringSetup,
    enter_flags: u32,
    enters: u64,
    overflows: u64,
    /// Operations whose terminal completion has not been reaped.
    pending: usize,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IoUring")
    }
}

/// Address of one armed accept, written by the kernel.
#[derive(Debug)]
struct Peer {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// Message headers and vectors of the sends pushed since the last submit.
struct Arena {
    headers: Box<[libc::msghdr]>,
    vectors: Box<[libc::iovec]>,
    used: usize,
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("used", &self.used).finish()
    }
}

/// `struct io_uring_getevents_arg` of the kernel.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

impl Uring {
    /// A ring on the calling thread. The error names the closed gate and how to open it.
    pub fn new(setup: UringSetup) -> Result<Self, SetupError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .dontfork()
            .build(SUBMISSION_ENTRIES)
            .map_err(SetupError::ring)?;
        let features = ring.params();
        if !features.is_feature_submit_stable() || !features.is_feature_nodrop() {
            return Err(SetupError::KernelTooOld);
        }
        let no_iowait = if features.is_feature_no_iowait() {
            ENTER_NO_IOWAIT
        } else {
            0
        };
        let ring = Ring(ring);
        ring.0
            .submitter()
            .register_files_sparse(setup.slots)
            .map_err(|e| SetupError::table(e, setup.slots))?;
        let buffers = BufferRing::register(
            &ring.0.submitter(),
            RECV_BUFFERS as u16,
            RECV_BUFFER_BYTES as u32,
        )
        .map_err(SetupError::buffers)?;
        // SAFETY: all-zero bytes are a valid socket address of no family.
        let nowhere: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let peer = || Peer {
            storage: nowhere,
            len: 0,
        };
        Ok(Self {
            ring,
            buffers: ManuallyDrop::new(buffers),
            // Address space for every slot: growing by copies would touch twice the memory.
            in_flight: Vec::with_capacity(setup.slots as usize),
            connects: HashMap::new(),
            peers: (0..ACCEPTS_ARMED).map(|_| peer()).collect(),
            arena: Arena::new(),
            bell_count: ManuallyDrop::new(Box::new(0)),
            spare: Vec::new(),
            reaped: Vec::with_capacity(COMPLETIONS_PER_TURN),
            reaped_next: 0,
            setup,
            enter_flags: ENTER_GETEVENTS | ENTER_EXT_ARG | no_iowait,
            enters: 0,
            overflows: 0,
            pending: 0,
        })
    }

    /// Queues an entry, submitting first when the queue is full.
    fn queue(&mut self, entry: squeue::Entry) {
        // SAFETY: every caller passes an entry whose memory lives as the module doc says.
        while unsafe { self.ring.0.submission().push(&entry) }.is_err() {
            self.enter(0, None);
        }
    }

    fn enter(&mut self, min_complete: u32, wait: Option<Duration>) {
        let submitted = self.ring.0.submission().len() as u32;
        let timespec = wait.map(Timespec::from);
        let arg = GetEventsArg {
            sigmask: 0,
            sigmask_bytes: 0,
            min_wait_us: 0,
            timespec: timespec
                .as_ref()
                .map_or(0, |timespec| ptr::from_ref(timespec) as u64),
        };
        self.enters += 1;
        // SAFETY: `arg` has the layout that EXT_ARG asks for, and its timespec outlives the call.
        let result = unsafe {
            self.ring
                .0
                .submitter()
                .enter(submitted, min_complete, self.enter_flags, Some(&arg))
        };
        match result.map_err(|error| Errno::from_io_error(&error)) {
            // The wait ended without a completion.
            Ok(_) | Err(Some(Errno::TIME | Errno::INTR)) => {}
            // The completion queue overflowed: make room, the caller submits again.
            Err(Some(Errno::BUSY | Errno::AGAIN)) => {
                self.overflows += 1;
                self.reaped.extend(self.ring.0.completion());
            }
            Err(errno) => panic!("io_uring_enter refuses a well-formed call: {errno:?}"),
        }
        if self.ring.0.submission().is_empty() {
            self.arena.used = 0;
        }
    }

    fn push_accept(&mut self, entry: u32) {
        let listener = self
            .setup
            .listener
            .as_ref()
            .expect("only a listening ring accepts");
        let peer = &mut self.peers[entry as usize];
        peer.len = size_of_val(&peer.storage) as libc::socklen_t;
        let sqe = opcode::Accept::new(
            Fd(listener.as_raw_fd()),
            ptr::from_mut(&mut peer.storage).cast(),
            &mut peer.len,
        )
        .file_index(Some(DestinationSlot::auto_target()))
        .build();
        self.queue(sqe.user_data(Token::Accept { entry }.pack()));
    }

    fn push_send(&mut self, conn: ConnId, payload: Payload) {
        let sqe = match &payload {
            Payload::One(part) => {
                let cells = part.cells();
                opcode::Send::new(Fixed(conn.slot), cells.as_ptr().cast(), cells.len() as u32)
                    .flags(SEND_FLAGS)
                    .build()
            }
            Payload::Many(parts) => {
                // The queue must take the entry without a submit in between: that frees the arena.
                while self.arena.used == ARENA_MESSAGES || self.ring.0.submission().is_full() {
                    self.enter(0, None);
                }
                let header = self.arena.message(parts);
                opcode::SendMsg::new(Fixed(conn.slot), header)
                    .flags(SEND_FLAGS as u32)
                    .build()
            }
        };
        self.queue(sqe.user_data(Token::Send(conn).pack()));
        let slot = conn.slot as usize;
        if self.in_flight.len() <= slot {
            self.in_flight.resize_with(slot + 1, || None);
        }
        let before = self.in_flight[slot].replace(payload);
        assert!(before.is_none(), "one send in flight per socket");
    }

    fn push_connect(&mut self, conn: ConnId, source: SocketAddr, target: SocketAddr) {
        let addresses = Box::new((SockAddr::from(source), SockAddr::from(target)));
        let (family, slot) = (i32::from(addresses.1.family()), Fixed(conn.slot));
        let (source_addr, target_addr) = (&addresses.0, &addresses.1);
        let destination =
            DestinationSlot::try_from_slot_target(conn.slot).expect("slots are small");
        let aside = Token::Aside.pack();
        let chain = [
            opcode::Socket::new(family, libc::SOCK_STREAM, libc::IPPROTO_TCP)
                .file_index(Some(destination))
                .build(),
            opcode::SetSockOpt::new(
                slot,
                libc::IPPROTO_IP as u32,
                libc::IP_BIND_ADDRESS_NO_PORT as u32,
                ptr::from_ref(&TRUE).cast(),
                size_of_val(&TRUE) as u32,
            )
            .build(),
            opcode::Bind::new(slot, source_addr.as_ptr().cast(), source_addr.len()).build(),
        ];
        let connect = opcode::Connect::new(slot, target_addr.as_ptr().cast(), target_addr.len());
        let connect = connect.build().user_data(Token::Connect(conn).pack());
        // A chain is only a chain within one submit.
        if SUBMISSION_ENTRIES as usize - self.ring.0.submission().len() < chain.len() + 1 {
            self.enter(0, None);
        }
        let whole = source.ip() != Ipv4Addr::UNSPECIFIED;
        for (index, sqe) in chain.into_iter().enumerate() {
            if index == 0 || whole {
                let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                self.queue(sqe.flags(flags).user_data(aside));
            }
        }
        self.queue(connect);
        self.connects.insert(conn.slot, addresses);
    }

    fn fill_reaped(&mut self) {
        self.reaped.clear();
        self.reaped_next = 0;
        self.reaped
            .extend(self.ring.0.completion().take(COMPLETIONS_PER_TURN));
    }
}

impl Driver for Uring {
    fn now_ns(&mut self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    fn push(&mut self, op: Op) {
        let quiet = squeue::Flags::SKIP_SUCCESS;
        self.pending += usize::from(op.completes());
        match op {
            Op::Accept { entry } => self.push_accept(entry),
            Op::Recv(conn) => {
                let sqe = opcode::RecvMulti::new(Fixed(conn.slot), RECV_GROUP).build();
                self.queue(sqe.user_data(Token::Recv(conn).pack()));
            }
            Op::Send(conn, payload) => self.push_send(conn, payload),
            Op::Cancel(conn) => {
                // By token the kernel looks into one bucket of its table; by slot it would go through
                // the operations of all connections.
                let is_sending = matches!(self.in_flight.get(conn.slot as usize), Some(Some(_)));
                let send = is_sending.then_some(Token::Send(conn));
                for token in [Some(Token::Recv(conn)), send].into_iter().flatten() {
                    let one = CancelBuilder::user_data(token.pack());
                    let sqe = opcode::AsyncCancel2::new(one).build();
                    self.queue(sqe.flags(quiet).user_data(Token::Aside.pack()));
                }
            }
            Op::Close(conn) => {
                let sqe = opcode::Close::new(Fixed(conn.slot)).build();
                self.queue(sqe.user_data(Token::Close(conn).pack()));
            }
            Op::Connect {
                conn,
                source,
                target,
            } => self.push_connect(conn, source, target),
            Op::Listen => {
                let bell = Fd(self.setup.bells.fd(self.setup.node).as_raw_fd());
                let sqe = opcode::Read::new(bell, ptr::from_mut(&mut **self.bell_count).cast(), 8)
                    .build();
                self.queue(sqe.user_data(Token::Bell.pack()));
            }
            Op::Ring(node) => {
                let bell = Fd(self.setup.bells.fd(node).as_raw_fd());
                let sqe = opcode::Write::new(bell, ptr::from_ref(&RING_ONCE).cast(), 8).build();
                self.queue(sqe.flags(quiet).user_data(Token::Ring.pack()));
            }
            Op::StopAccepting => {
                if let Some(listener) = &self.setup.listener {
                    let every = CancelBuilder::fd(Fd(listener.as_raw_fd())).all();
                    let sqe = opcode::AsyncCancel2::new(every).build();
                    self.queue(sqe.flags(quiet).user_data(Token::Aside.pack()));
                }
            }
        }
    }

    fn submit(&mut self, wait: Wait) {
        self.buffers.publish();
        match wait {
            Wait::No => self.enter(0, None),
            // Completions that were taken early must not be slept on.
            Wait::UpTo(_) if self.reaped_next < self.reaped.len() => self.enter(0, None),
            Wait::UpTo(time) => self.enter(1, Some(time)),
        }
    }

    fn reap(&mut self) -> Option<Completion> {
        if self.reaped_next == self.reaped.len() {
            self.fill_reaped();
        }
        let entry = self.reaped.get(self.reaped_next)?.clone();
        self.reaped_next += 1;
        let token = Token::unpack(entry.user_data());
        let result = entry.result();
        let more = cqueue::more(entry.flags());
        self.pending -= usize::from(!more && token.completes());
        let mut loan = None;
        match token {
            Token::Send(conn) => {
                if let Some(Payload::Many(parts)) = self.in_flight[conn.slot as usize].take() {
                    self.return_parts(parts);
                }
            }
            Token::Recv(_) => {
                let buffer = cqueue::buffer_select(entry.flags());
                loan = buffer.map(|buffer| self.buffers.loan(buffer, result.max(0) as u32));
            }
            Token::Connect(conn) => {
                self.connects.remove(&conn.slot);
            }
            _ => {}
        }
        if let Some(empty) = loan.take_if(|loan| loan.is_empty()) {
            self.buffers.recycle(empty);
        }
        Some(Completion {
            token,
            result,
            more,
            loan,
        })
    }

    fn peer(&self, entry: u32) -> SocketAddr {
        let peer = &self.peers[entry as usize];
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_storage` is what the storage stands for, and the kernel wrote `len`
        // bytes of a socket address into it.
        let address = unsafe {
            *storage.view_as::<libc::sockaddr_storage>() = peer.storage;
            SockAddr::new(storage, peer.len)
        };
        address
            .as_socket()
            .unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into())
    }

    fn bytes(&mut self, loan: &super::Loan) -> &mut [u8] {
        self.buffers.bytes(loan)
    }

    fn recycle(&mut self, loan: super::Loan) {
        self.buffers.recycle(loan);
    }

    fn spare_parts(&mut self) -> Vec<Part> {
        self.spare
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(SEND_PARTS_MAX))
    }

    fn return_parts(&mut self, mut parts: Vec<Part>) {
        parts.clear();
        self.spare.push(parts);
    }

    fn slots(&self) -> u32 {
        self.setup.slots
    }

    fn counts(&self) -> DriverCounts {
        DriverCounts {
            enters: self.enters,
            overflows: self.overflows,
            buffers: self.buffers.count(),
            buffers_loaned: self.buffers.loaned(),
        }
    }
}

impl Arena {
    fn new() -> Self {
        // SAFETY: all-zero bytes are a valid msghdr and iovec: null pointers and zero lengths.
        let (header, vector) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            headers: vec![header; ARENA_MESSAGES].into(),
            vectors: vec![vector; ARENA_MESSAGES * SEND_PARTS_MAX].into(),
            used: 0,
        }
    }

    /// A header over `parts`, valid until the next submit.
    fn message(&mut self, parts: &[Part]) -> *const libc::msghdr {
        assert!(self.used < ARENA_MESSAGES && parts.len() <= SEND_PARTS_MAX);
        let vectors = &mut self.vectors[self.used * SEND_PARTS_MAX..][..parts.len()];
        for (vector, part) in vectors.iter_mut().zip(parts) {
            let cells = part.cells();
            vector.iov_base = cells.as_ptr().cast_mut().cast();
            vector.iov_len = cells.len();
        }
        let header = &mut self.headers[self.used];
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len();
        self.used += 1;
        header
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let start = Instant::now();
        let limit = Some(Timespec::from(PATIENCE));
        // What is only queued would be submitted after the cancel, and stay.
        self.enter(0, None);
        let submitter = self.ring.0.submitter();
        // Refused when nothing is pending; what counts is what is pending afterwards.
        let _ = submitter.register_sync_cancel(limit, CancelBuilder::any());
        while self.pending > 0 && start.elapsed() < PATIENCE {
            self.enter(1, Some(Duration::from_millis(10)));
            while let Some(completion) = self.reap() {
                if let Some(loan) = completion.loan {
                    self.buffers.recycle(loan);
                }
            }
        }
        if self.pending > 0 {
            // The kernel may still use what these own: leaking is the only safe end.
            std::mem::forget(std::mem::take(&mut self.in_flight));
            std::mem::forget(std::mem::take(&mut self.connects));
            std::mem::forget(std::mem::take(&mut self.peers));
            return;
        }
        // SAFETY: dropped once, here, and not used afterwards; no operation is pending, so the
        // kernel neither reads nor writes them.
        unsafe {
            ManuallyDrop::drop(&mut self.buffers);
            ManuallyDrop::drop(&mut self.bell_count);
        }
    }
}
