//! The simulated kernels of all shards, the network between them and the clients, and the clock.
//!
//! Whatever takes time is an event. When its moment comes it has its effect and posts its
//! completion at once, as a ring does whose completions are task work; operations overtake each
//! other only because their delays differ. Nothing here iterates over a hash map or reads a real
//! clock, so a seed decides everything.

use super::super::{Completion, Loan, Op, Payload, Token};
use super::SimSetup;
use super::faults::{Dice, Faults};
use super::pool::Pool;
use super::stream::{RecvOp, SendOp, Stream, checksum};
use crate::base::ConnId;
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

/// Index into [`Kernel::streams`]; streams are never removed.
pub(super) type StreamId = usize;

/// Far from zero, so that an age limit can be subtracted from it.
const START_NS: u64 = 1_000_000_000_000;

#[derive(Debug)]
pub(super) enum Event {
    /// A connection enters the backlog of its shard.
    Syn(StreamId),
    /// An armed accept takes from the backlog.
    Accept(u16),
    /// Bytes, end of stream or reset from the client reach the shard's socket.
    Arrive(StreamId, Signal),
    /// The same towards the client.
    Deliver(StreamId, Signal),
    /// The receive with this id looks at its socket.
    Recv(StreamId, u64),
    /// The send with this id moves bytes into the window.
    Transfer(StreamId, u64),
    /// The operations with these ids end unless they ended already.
    Cancel(StreamId, Option<u64>, Option<u64>),
    /// The armed accepts with these ids end unless they ended already.
    CancelAccepts(u16, Vec<u64>),
    Close(StreamId, ConnId),
    Connect(StreamId, ConnId),
    Bell(u16),
    /// An operation that may be silent is reported.
    Report(u16, Token, i32),
}

#[derive(Debug)]
pub(super) enum Signal {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// An event and its moment; the sequence number keeps equal moments in order.
#[derive(Debug)]
struct Timed {
    at_ns: u64,
    sequence: u64,
    event: Event,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ns, self.sequence).cmp(&(other.at_ns, other.sequence))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timed {}

/// One accept entry.
#[derive(Clone, Debug, Default)]
pub(super) struct AcceptEntry {
    /// Id of the armed accept.
    pub(super) waiting: Option<u64>,
    /// From push to reap: what the caller may know.
    pub(super) known: bool,
    pub(super) peer: Option<SocketAddr>,
}

/// A completion that waits to be reaped, with what moves to the caller's side then.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) completion: Completion,
    pub(super) stream: Option<StreamId>,
    /// The bytes of the buffer that the completion lends.
    pub(super) bytes: Vec<u8>,
    /// Kept until the completion is reaped, as the contract allows a kernel to read it until then.
    pub(super) payload: Option<Payload>,
}

impl Posted {
    pub(super) fn split(self) -> (Completion, Vec<u8>, Option<Payload>) {
        (self.completion, self.bytes, self.payload)
    }
}

/// One shard's ring.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) slots: Vec<Option<StreamId>>,
    /// Generation that the slot's last socket had.
    pub(super) generations: Vec<Option<u32>>,
    pub(super) free: Vec<u32>,
    pub(super) accepts: Vec<AcceptEntry>,
    pub(super) backlog: VecDeque<StreamId>,
    pub(super) accept_scheduled: bool,
    pub(super) pool: Pool,
    pub(super) completions: VecDeque<Posted>,
    pub(super) bell_rung: bool,
    pub(super) bell_listens: bool,
    /// From push to reap.
    pub(super) bell_known: bool,
    pub(super) dialled: VecDeque<StreamId>,
    /// Moment until which the shard sleeps unless something completes.
    pub(super) wake_ns: u64,
    pub(super) buffer_bytes: usize,
    pub(super) enters: u64,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) now_ns: u64,
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    pub(super) trace: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) streams: Vec<Stream>,
    events: BinaryHeap<Reverse<Timed>>,
    /// Numbers events and operations.
    sequence: u64,
}

impl Kernel {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now_ns: START_NS,
            dice: Dice::new(seed),
            faults,
            trace: seed,
            nodes: Vec::new(),
            streams: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub(super) fn add_node(&mut self, setup: &SimSetup) -> u16 {
        let slots = setup.slots as usize;
        self.nodes.push(Node {
            slots: vec![None; slots],
            generations: vec![None; slots],
            free: (0..setup.slots).rev().collect(),
            accepts: Vec::new(),
            backlog: VecDeque::new(),
            accept_scheduled: false,
            pool: Pool::new(setup.buffers),
            completions: VecDeque::new(),
            bell_rung: false,
            bell_listens: false,
            bell_known: false,
            dialled: VecDeque::new(),
            wake_ns: 0,
            buffer_bytes: setup.buffer_bytes,
            enters: 0,
        });
        (self.nodes.len() - 1) as u16
    }

    pub(super) fn node(&mut self, node: u16) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    pub(super) fn occupant(&mut self, node: u16, slot: u32) -> Option<StreamId> {
        let slots = &self.node(node).slots;
        *slots
            .get(slot as usize)
            .unwrap_or_else(|| panic!("contract: the table has no slot {slot}"))
    }

    // Execution: what a submit starts.

    /// Starts an operation that was admitted.
    pub(super) fn execute(&mut self, node: u16, op: Op) {
        match op {
            Op::Accept { entry } => {
                let id = self.next_sequence();
                self.node(node).accepts[entry as usize].waiting = Some(id);
                self.wake_accept(node);
            }
            Op::Recv(conn) => {
                let (stream, id) = (self.socket(node, conn), self.next_sequence());
                let scheduled = false;
                self.streams[stream].recv = Some(RecvOp { id, scheduled });
                self.wake_recv(stream);
            }
            Op::Send(conn, payload) => self.execute_send(node, conn, payload),
            Op::Cancel(conn) => {
                let id = self.socket(node, conn);
                let stream = &self.streams[id];
                let recv = stream.recv.as_ref().map(|op| op.id);
                let send = stream.send.as_ref().map(|op| op.id);
                let none = recv.is_none() && send.is_none();
                self.start(Event::Cancel(id, recv, send));
                self.report(node, Token::Aside, if none { -ENOENT } else { 0 });
            }
            Op::Close(conn) => {
                let event = Event::Close(self.socket(node, conn), conn);
                self.start(event);
            }
            Op::Connect { conn, .. } => {
                let event = Event::Connect(self.socket(node, conn), conn);
                self.start(event);
            }
            Op::Listen => {
                self.node(node).bell_listens = true;
                self.answer_bell(node);
            }
            Op::Ring(target) => {
                self.start(Event::Bell(target));
                self.report(node, Token::Ring, 8);
            }
            Op::StopAccepting => {
                let accepts = self.node(node).accepts.iter();
                let ids = accepts.filter_map(|entry| entry.waiting).collect();
                self.start(Event::CancelAccepts(node, ids));
                self.report(node, Token::Aside, 0);
            }
        }
    }

    fn execute_send(&mut self, node: u16, conn: ConnId, payload: Payload) {
        let parts = payload.parts().len();
        assert!(
            parts <= crate::limits::SEND_PARTS_MAX,
            "contract: a send of {parts} parts"
        );
        let (stream, id) = (self.socket(node, conn), self.next_sequence());
        self.streams[stream].send = Some(SendOp {
            id,
            checksum: checksum(&payload),
            payload,
            taken: 0,
            scheduled: false,
        });
        self.wake_send(stream);
    }

    /// The socket of an admitted operation.
    fn socket(&mut self, node: u16, conn: ConnId) -> StreamId {
        self.occupant(node, conn.slot)
            .expect("an admitted operation keeps its slot until it ends")
    }

    // The clock and the events.

    /// Schedules the effect of an operation.
    pub(super) fn start(&mut self, event: Event) {
        let inline = self.dice.chance(self.faults.inline);
        let delay_ns = if inline { 0 } else { self.hop_ns() };
        self.schedule(self.now_ns + delay_ns, event);
    }

    /// Nanoseconds that something takes which is not inline; at least 1.
    pub(super) fn hop_ns(&mut self) -> u64 {
        let lags = self.dice.chance(self.faults.lag);
        let max = if lags {
            self.faults.lag_ns_max
        } else {
            self.faults.delay_ns_max
        };
        1 + self.dice.below(max.max(1))
    }

    pub(super) fn schedule(&mut self, at_ns: u64, event: Event) {
        let sequence = self.next_sequence();
        self.events.push(Reverse(Timed {
            at_ns,
            sequence,
            event,
        }));
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn next_event_ns(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(timed)| timed.at_ns)
    }

    /// Lets everything happen until `until_ns` and sets the clock to it.
    pub(super) fn advance_to(&mut self, until_ns: u64) {
        while self.next_event_ns().is_some_and(|at_ns| at_ns <= until_ns) {
            let Reverse(timed) = self.events.pop().expect("it was peeked at");
            self.now_ns = self.now_ns.max(timed.at_ns);
            self.fire(timed.event);
        }
        self.now_ns = self.now_ns.max(until_ns);
    }

    fn fire(&mut self, event: Event) {
        match event {
            Event::Syn(stream) => {
                let node = self.streams[stream].node;
                self.node(node).backlog.push_back(stream);
                self.wake_accept(node);
            }
            Event::Accept(node) => self.accept(node),
            Event::Arrive(stream, signal) => self.arrive(stream, signal),
            Event::Deliver(stream, signal) => self.deliver(stream, signal),
            Event::Recv(stream, id) => self.receive(stream, id),
            Event::Transfer(stream, id) => self.transfer(stream, id),
            Event::Cancel(stream, recv, send) => self.cancel(stream, recv, send),
            Event::CancelAccepts(node, ids) => self.cancel_accepts(node, &ids),
            Event::Close(stream, conn) => self.close(stream, conn),
            Event::Connect(stream, conn) => self.connect(stream, conn),
            Event::Bell(node) => self.ring(node),
            Event::Report(node, token, result) => self.post(node, None, token, result),
        }
    }

    // Completions.

    /// Perhaps reports an operation that may be silent.
    fn report(&mut self, node: u16, token: Token, result: i32) {
        if self.dice.chance(self.faults.aside) {
            self.start(Event::Report(node, token, result));
        }
    }

    /// Posts a terminal completion without a buffer or payload.
    pub(super) fn post(&mut self, node: u16, stream: Option<StreamId>, token: Token, result: i32) {
        self.post_full(node, stream, (token, result, false), None, None);
    }

    pub(super) fn post_full(
        &mut self,
        node: u16,
        stream: Option<StreamId>,
        (token, result, more): (Token, i32, bool),
        filled: Option<(u16, Vec<u8>)>,
        payload: Option<Payload>,
    ) {
        self.note(&[u64::from(node), token.pack(), result as u64, more.into()]);
        let (buffer, bytes) = filled.unzip();
        let bytes = bytes.unwrap_or_default();
        let len = bytes.len() as u32;
        let completion = Completion {
            token,
            result,
            more,
            loan: buffer.map(|buffer| Loan { buffer, len }),
        };
        self.node(node).completions.push_back(Posted {
            completion,
            stream,
            bytes,
            payload,
        });
    }

    /// Adds to the trace, with the moment.
    pub(super) fn note(&mut self, words: &[u64]) {
        for word in std::iter::once(&self.now_ns).chain(words) {
            self.trace = (self.trace.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    pub(super) fn invariants(&self, node: u16) {
        let state = &self.nodes[usize::from(node)];
        state.pool.invariants();
        let occupied = state.slots.iter().flatten().count();
        assert_eq!(occupied + state.free.len(), state.slots.len());
        for (slot, stream) in state.slots.iter().enumerate() {
            let Some(stream) = stream else { continue };
            let stream = &self.streams[*stream];
            assert_eq!((stream.node, stream.slot), (node, Some(slot as u32)));
        }
        for stream in self.streams.iter().filter(|stream| stream.node == node) {
            stream.invariants();
        }
    }
}

const ENOENT: i32 = Errno::NOENT.raw_os_error();
