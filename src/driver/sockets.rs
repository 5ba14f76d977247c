//! The life cycle of a shard's sockets on top of a [`Driver`].
//!
//! Per slot: at most one multishot receive and one send in flight. A slot ends in one order only:
//! cancel, wait for the terminal completion of each of its operations, free the slot, report
//! [`Event::Closed`]. No shutdown: io_uring runs it on a worker thread that looks the slot up when
//! it gets there, which may be after the slot has a new owner. Until then its [`ConnId`] stays the same; afterwards the generation
//! moves on and completions that still carry the old one are counted and dropped.

use super::{Completion, Driver, DriverCounts, Loan, Op, Payload, Token, Wait};
use crate::base::ConnId;
use crate::base::chunk::Part;
use crate::limits::ACCEPTS_ARMED;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What happened to a socket.
#[derive(Debug)]
pub enum Event {
    /// A connection came in; its receive is armed.
    Accepted {
        /// Its name from now on.
        conn: ConnId,
        /// Its address.
        peer: SocketAddr,
    },
    /// An outgoing connection is there; its receive is armed.
    Connected {
        /// As returned by [`Sockets::connect`].
        conn: ConnId,
    },
    /// An outgoing connection failed; [`Event::Closed`] follows when its slot is free again.
    ConnectFailed {
        /// As returned by [`Sockets::connect`].
        conn: ConnId,
        /// Positive errno.
        errno: i32,
    },
    /// Bytes came in. The loan must be recycled.
    Received {
        /// The socket.
        conn: ConnId,
        /// The buffer.
        loan: Loan,
    },
    /// Nothing more will come in: end of stream, or a positive errno.
    Ended {
        /// The socket.
        conn: ConnId,
        /// `None` at end of stream.
        errno: Option<i32>,
    },
    /// The send in flight is done.
    Sent {
        /// The socket.
        conn: ConnId,
    },
    /// The send in flight failed or was short; the stream is broken. Positive errno, 0 when short.
    SendFailed {
        /// The socket.
        conn: ConnId,
        /// Positive errno, or 0 for a short send.
        errno: i32,
    },
    /// All operations of the socket ended and its slot is free.
    Closed {
        /// The socket that was.
        conn: ConnId,
    },
    /// Another thread rang.
    Bell,
}

impl Event {
    /// Whether it is part of what a peer sent: these of one socket keep their order.
    pub fn is_inbound(&self) -> bool {
        matches!(self, Self::Received { .. } | Self::Ended { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecvState {
    Idle,
    Armed,
    /// Ended for want of buffers; armed again when buffers come back.
    Parked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Vacant,
    /// Connect is pending.
    Connecting,
    Open,
    /// Waiting for the terminal completions of receive and send.
    Ending,
    /// Waiting for the completion of the close.
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    phase: Phase,
    recv: RecvState,
    sending: bool,
    send_bytes: u32,
}

const _: () = assert!(
    size_of::<Slot>() == 12,
    "one small record per slot of the table"
);

const VACANT: Slot = Slot {
    generation: 0,
    phase: Phase::Vacant,
    recv: RecvState::Idle,
    sending: false,
    send_bytes: 0,
};

impl Slot {
    /// Whether an operation has to end before the close.
    fn is_busy(&self) -> bool {
        self.recv == RecvState::Armed || self.sending
    }
}

/// Counts of a shard's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketCounts {
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Completions for a connection that is gone.
    pub stale: u64,
    /// Receives that ended for want of buffers.
    pub enobufs: u64,
    /// Completions reaped.
    pub completions: u64,
}

/// The sockets of one shard.
#[derive(Debug)]
pub struct Sockets<D: Driver> {
    driver: D,
    slots: Vec<Slot>,
    open: usize,
    parked: VecDeque<ConnId>,
    /// Accepts that are armed. `open + armed ≤ slots`: the kernel drops a connection for which it
    /// finds no slot, and leaves one that nobody accepts in the backlog.
    armed: usize,
    /// Accepts to arm again once a slot is free.
    starved_accepts: Vec<u32>,
    accepting: bool,
    vacant: Vec<u32>,
    counts: SocketCounts,
}

/// Takes back what is armed, one connection at a time: a driver that has to take back everything at once
/// goes through all of it for each.
impl<D: Driver> Drop for Sockets<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (index, slot) in (0..).zip(&self.slots) {
            if slot.phase == Phase::Open && slot.is_busy() {
                self.driver.push(Op::Cancel(ConnId {
                    slot: index,
                    generation: slot.generation,
                }));
            }
        }
    }
}

impl<D: Driver> Sockets<D> {
    /// Sockets on `driver`, none yet; the doorbell is armed.
    pub fn new(mut driver: D) -> Self {
        driver.push(Op::Listen);
        // Address space for the whole table: growing by copies would touch twice the memory.
        let slots = Vec::with_capacity(driver.slots() as usize);
        Self {
            driver,
            slots,
            open: 0,
            parked: VecDeque::new(),
            armed: 0,
            starved_accepts: Vec::new(),
            accepting: false,
            vacant: Vec::new(),
            counts: SocketCounts::default(),
        }
    }

    /// Keeps [`ACCEPTS_ARMED`] accepts armed from now on, or as many as there are slots.
    pub fn start_accepting(&mut self) {
        self.accepting = true;
        for entry in 0..ACCEPTS_ARMED as u32 {
            self.arm_accept(entry);
        }
    }

    /// Cancels the armed accepts. Connections that the kernel has accepted already still come.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
        self.starved_accepts.clear();
        self.driver.push(Op::StopAccepting);
    }

    /// Opens a connection in a slot of its own; `None` when the table is full. Never mixed with
    /// accepting: accepts let the kernel choose slots.
    pub fn connect(&mut self, source: SocketAddr, target: SocketAddr) -> Option<ConnId> {
        assert!(!self.accepting, "a ring either accepts or connects");
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if (self.slots.len() as u32) < self.driver.slots() => self.slots.len() as u32,
            None => return None,
        };
        let conn = self.occupy(index, Phase::Connecting);
        self.driver.push(Op::Connect {
            conn,
            source,
            target,
        });
        Some(conn)
    }

    /// Starts the send of `payload`. The socket must be open and have none in flight.
    pub fn send(&mut self, conn: ConnId, payload: Payload) {
        let bytes = payload.len() as u32;
        let slot = self.slot_mut(conn).expect("sends go to live connections");
        assert!(!slot.sending, "one send in flight per socket");
        assert!(slot.phase == Phase::Open, "no send after close");
        slot.sending = true;
        slot.send_bytes = bytes;
        self.driver.push(Op::Send(conn, payload));
    }

    /// Whether a send may be started.
    pub fn is_idle(&self, conn: ConnId) -> bool {
        self.slot(conn)
            .is_some_and(|slot| slot.phase == Phase::Open && !slot.sending)
    }

    /// Ends the connection; [`Event::Closed`] follows. Bytes already sent still reach the peer.
    pub fn close(&mut self, conn: ConnId) {
        let Some(slot) = self.slot_mut(conn) else {
            return;
        };
        if slot.phase != Phase::Open {
            return;
        }
        slot.phase = Phase::Ending;
        if slot.recv == RecvState::Parked {
            slot.recv = RecvState::Idle;
        }
        if slot.is_busy() {
            self.driver.push(Op::Cancel(conn));
        }
        self.close_when_quiet(conn);
    }

    /// Submits this turn's operations, then waits as told.
    pub fn submit(&mut self, wait: Wait) {
        self.rearm_parked();
        self.driver.submit(wait);
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let completion = self.driver.reap()?;
            self.counts.completions += 1;
            if let Some(event) = self.complete(completion) {
                return Some(event);
            }
        }
    }

    /// The received bytes.
    pub fn bytes(&mut self, loan: &Loan) -> &mut [u8] {
        self.driver.bytes(loan)
    }

    /// Gives a received buffer back.
    pub fn recycle(&mut self, loan: Loan) {
        self.driver.recycle(loan);
    }

    /// A vector for the parts of a send.
    pub fn spare_parts(&mut self) -> Vec<Part> {
        self.driver.spare_parts()
    }

    /// Takes back a vector that was not used.
    pub fn return_parts(&mut self, parts: Vec<Part>) {
        self.driver.return_parts(parts);
    }

    /// Rings the doorbell of a node.
    pub fn ring(&mut self, node: u16) {
        self.driver.push(Op::Ring(node));
    }

    /// Nanoseconds of the driver's clock.
    pub fn now_ns(&mut self) -> u64 {
        self.driver.now_ns()
    }

    /// Sockets that are not vacant.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Slots of the table.
    pub fn capacity(&self) -> usize {
        self.driver.slots() as usize
    }

    /// Connections waiting for receive buffers.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Counts of the sockets and of the driver.
    pub fn counts(&self) -> (SocketCounts, DriverCounts) {
        (self.counts, self.driver.counts())
    }

    /// The driver, for tests that steer a simulated one.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    fn complete(&mut self, completion: Completion) -> Option<Event> {
        let Completion {
            token,
            result,
            more,
            loan,
        } = completion;
        match token {
            Token::Accept { entry } => self.accepted(entry, result),
            Token::Recv(conn) => self.received(conn, result, more, loan),
            Token::Send(conn) => self.sent(conn, result),
            Token::Close(conn) => self.closed(conn),
            Token::Connect(conn) => self.connected(conn, result),
            Token::Bell => {
                self.driver.push(Op::Listen);
                Some(Event::Bell)
            }
            Token::Ring | Token::Aside => None,
        }
    }

    fn accepted(&mut self, entry: u32, result: i32) -> Option<Event> {
        self.armed -= 1;
        let Ok(index) = u32::try_from(result) else {
            if self.accepting {
                self.counts.accept_errors += 1;
                match -result {
                    // No free slot, or no memory: try again when a socket has been closed.
                    ENFILE | EMFILE | ENOMEM if self.open > 0 => {
                        self.starved_accepts.push(entry);
                    }
                    _ => self.arm_accept(entry),
                }
            }
            return None;
        };
        let peer = self.driver.peer(entry);
        let conn = self.occupy(index, Phase::Open);
        self.arm_recv(conn);
        if self.accepting {
            self.arm_accept(entry);
        }
        Some(Event::Accepted { conn, peer })
    }

    fn connected(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let slot = self
            .slot_mut(conn)
            .expect("a connecting slot is kept until its completion");
        assert_eq!(slot.phase, Phase::Connecting);
        if result < 0 {
            // The slot may hold a socket that could not connect: free it before its reuse.
            slot.phase = Phase::Closing;
            self.driver.push(Op::Close(conn));
            return Some(Event::ConnectFailed {
                conn,
                errno: -result,
            });
        }
        slot.phase = Phase::Open;
        self.arm_recv(conn);
        Some(Event::Connected { conn })
    }

    fn received(
        &mut self,
        conn: ConnId,
        result: i32,
        more: bool,
        loan: Option<Loan>,
    ) -> Option<Event> {
        let Some(slot) = self.slot_mut(conn) else {
            self.counts.stale += 1;
            if let Some(loan) = loan {
                self.driver.recycle(loan);
            }
            return None;
        };
        if !more {
            slot.recv = RecvState::Idle;
        }
        if slot.phase == Phase::Ending {
            if let Some(loan) = loan {
                self.driver.recycle(loan);
            }
            self.close_when_quiet(conn);
            return None;
        }
        assert_eq!(
            slot.phase,
            Phase::Open,
            "receives belong to open connections"
        );
        if let Some(loan) = loan {
            if !more {
                self.arm_recv(conn);
            }
            return Some(Event::Received { conn, loan });
        }
        match -result {
            0 => Some(Event::Ended { conn, errno: None }),
            ENOBUFS => {
                slot.recv = RecvState::Parked;
                self.counts.enobufs += 1;
                self.parked.push_back(conn);
                None
            }
            errno => Some(Event::Ended {
                conn,
                errno: Some(errno),
            }),
        }
    }

    fn sent(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let Some(slot) = self.slot_mut(conn) else {
            self.counts.stale += 1;
            return None;
        };
        assert!(slot.sending, "a send completes once");
        slot.sending = false;
        if slot.phase == Phase::Ending {
            self.close_when_quiet(conn);
            return None;
        }
        match u32::try_from(result) {
            Ok(bytes) if bytes == slot.send_bytes => Some(Event::Sent { conn }),
            Ok(_) => Some(Event::SendFailed { conn, errno: 0 }),
            Err(_) => Some(Event::SendFailed {
                conn,
                errno: -result,
            }),
        }
    }

    fn closed(&mut self, conn: ConnId) -> Option<Event> {
        let slot = self
            .slot_mut(conn)
            .expect("a closing slot is kept until its completion");
        assert_eq!(slot.phase, Phase::Closing);
        slot.phase = Phase::Vacant;
        slot.generation = (slot.generation + 1) & ConnId::GENERATION_MASK;
        self.open -= 1;
        if self.accepting {
            // The slot is the kernel's to choose again.
            if let Some(entry) = self.starved_accepts.pop() {
                self.arm_accept(entry);
            }
        } else {
            self.vacant.push(conn.slot);
        }
        Some(Event::Closed { conn })
    }

    fn close_when_quiet(&mut self, conn: ConnId) {
        let slot = self.slot_mut(conn).expect("only live connections end");
        if slot.phase == Phase::Ending && slot.recv == RecvState::Idle && !slot.sending {
            slot.phase = Phase::Closing;
            self.driver.push(Op::Close(conn));
        }
    }

    fn occupy(&mut self, index: u32, phase: Phase) -> ConnId {
        if self.slots.len() <= index as usize {
            self.slots.resize(index as usize + 1, VACANT);
        }
        let slot = &mut self.slots[index as usize];
        assert_eq!(
            slot.phase,
            Phase::Vacant,
            "slot {index} was handed out twice"
        );
        *slot = Slot {
            phase,
            generation: slot.generation,
            ..VACANT
        };
        self.open += 1;
        ConnId {
            slot: index,
            generation: slot.generation,
        }
    }

    fn arm_accept(&mut self, entry: u32) {
        if self.open + self.armed < self.capacity() {
            self.armed += 1;
            self.driver.push(Op::Accept { entry });
        } else {
            self.starved_accepts.push(entry);
        }
    }

    fn arm_recv(&mut self, conn: ConnId) {
        let slot = self
            .slot_mut(conn)
            .expect("receives are armed on live connections");
        assert_eq!(slot.recv, RecvState::Idle, "one receive per socket");
        slot.recv = RecvState::Armed;
        self.driver.push(Op::Recv(conn));
    }

    /// Arms as many parked receives as there may be buffers for.
    fn rearm_parked(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let counts = self.driver.counts();
        let free = counts.buffers - counts.buffers_loaned;
        for _ in 0..free.min(self.parked.len()) {
            let conn = self.parked.pop_front().expect("counted above");
            if let Some(slot) = self
                .slot_mut(conn)
                .filter(|slot| slot.recv == RecvState::Parked)
            {
                slot.recv = RecvState::Idle;
                self.arm_recv(conn);
            }
        }
    }

    fn slot(&self, conn: ConnId) -> Option<&Slot> {
        self.slots
            .get(conn.slot as usize)
            .filter(|slot| live(slot, conn))
    }

    fn slot_mut(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots
            .get_mut(conn.slot as usize)
            .filter(|slot| live(slot, conn))
    }
}

fn live(slot: &Slot, conn: ConnId) -> bool {
    slot.phase != Phase::Vacant && slot.generation == conn.generation
}

const ENOMEM: i32 = Errno::NOMEM.raw_os_error();
const ENFILE: i32 = Errno::NFILE.raw_os_error();
const EMFILE: i32 = Errno::MFILE.raw_os_error();
const ENOBUFS: i32 = Errno::NOBUFS.raw_os_error();
