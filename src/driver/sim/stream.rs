//! One simulated TCP connection: the shard's socket, the client's end, and what lies between.
//!
//! State and its questions only; `kernel` and `transfer` decide when things happen. The window is
//! send buffer, network and receive buffer in one: bytes taken from a send and not yet read.

use super::super::Payload;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How a connection ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// End of stream: everything the shard sent before was received.
    Finished,
    /// The connection was reset; bytes may be lost.
    Reset,
}

/// An armed multishot receive.
#[derive(Debug)]
pub(super) struct RecvOp {
    pub(super) id: u64,
    /// Whether an event for it is under way: one at a time keeps completions in order.
    pub(super) scheduled: bool,
}

/// A send in flight. Its bytes are read when they move, never before.
#[derive(Debug)]
pub(super) struct SendOp {
    pub(super) id: u64,
    pub(super) payload: Payload,
    /// Of the payload when it was submitted.
    pub(super) checksum: u64,
    /// Bytes moved into the window: `taken ≤ payload.len()`.
    pub(super) taken: usize,
    pub(super) scheduled: bool,
}

/// What the caller may know of its socket; changes when it pushes and reaps.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The completion that names the slot was reaped.
    pub(super) announced: bool,
    /// Generation of the first operation; all others must carry the same.
    pub(super) generation: Option<u32>,
    pub(super) recv: bool,
    pub(super) send: bool,
    pub(super) connect: bool,
    pub(super) close: bool,
}

/// The client's end.
#[derive(Debug, Default)]
pub(super) struct ClientEnd {
    /// Read by the client, or ready for it.
    pub(super) received: Vec<u8>,
    /// Arrived while the client does not read.
    pub(super) held: Vec<u8>,
    pub(super) stopped: bool,
    pub(super) vanished: bool,
    /// The client wrote its end of stream, or reset.
    pub(super) finished: bool,
    pub(super) fin_seen: bool,
    pub(super) reset_seen: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) node: u16,
    pub(super) peer: SocketAddr,
    /// Slot of the file table while the socket is in it.
    pub(super) slot: Option<u32>,
    pub(super) known: Known,
    pub(super) recv: Option<RecvOp>,
    pub(super) send: Option<SendOp>,
    /// Bytes that the socket holds for the next receive.
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    /// Reported once, to whoever asks first.
    pub(super) error: Option<i32>,
    /// Nothing can be sent or received any more.
    pub(super) broken: bool,
    /// The shard closed its socket.
    pub(super) closed: bool,
    pub(super) client: ClientEnd,
    pub(super) window_bytes: usize,
    /// Invariant: bytes on their way and `client.held`, at most `window_bytes`; a vanished client's
    /// stay for ever.
    pub(super) window_used: usize,
    /// Arrival of the last thing sent, per direction: nothing arrives before what was sent earlier.
    pub(super) to_shard_ns: u64,
    pub(super) to_client_ns: u64,
}

impl Stream {
    pub(super) fn new(node: u16, peer: SocketAddr, window_bytes: usize) -> Self {
        Self {
            node,
            peer,
            slot: None,
            known: Known::default(),
            recv: None,
            send: None,
            arrived: VecDeque::new(),
            fin_arrived: false,
            error: None,
            broken: false,
            closed: false,
            client: ClientEnd::default(),
            window_bytes,
            window_used: 0,
            to_shard_ns: 0,
            to_client_ns: 0,
        }
    }

    /// Whether a receive would have something to say.
    pub(super) fn is_readable(&self) -> bool {
        !self.arrived.is_empty() || self.fin_arrived || self.broken
    }

    pub(super) fn window_free(&self) -> usize {
        self.window_bytes - self.window_used
    }

    /// Whether a send would move bytes or fail.
    pub(super) fn is_writable(&self) -> bool {
        self.window_free() > 0 || self.broken
    }

    pub(super) fn end(&self) -> Option<End> {
        if self.client.reset_seen {
            Some(End::Reset)
        } else if self.client.fin_seen && self.client.held.is_empty() {
            Some(End::Finished)
        } else {
            None
        }
    }

    pub(super) fn invariants(&self) {
        assert!(self.window_used <= self.window_bytes);
        assert!(self.client.held.len() <= self.window_used);
        if self.closed {
            assert!(
                self.recv.is_none() && self.send.is_none() && self.slot.is_none(),
                "a closed socket has no operation and no slot"
            );
        }
        if let Some(send) = &self.send {
            assert!(send.taken <= send.payload.len());
        }
    }
}

/// FNV-1a over the bytes of all ranges.
pub(super) fn checksum(payload: &Payload) -> u64 {
    let cells = payload.parts().iter().flat_map(|part| part.cells());
    cells.fold(0xcbf2_9ce4_8422_2325, |hash, cell| {
        (hash ^ u64::from(cell.get())).wrapping_mul(0x100_0000_01b3)
    })
}

/// Copies `count` bytes from `start` of the payload, as they are now.
pub(super) fn copy(payload: &Payload, start: usize, count: usize) -> Vec<u8> {
    let mut skip = start;
    let mut out = Vec::with_capacity(count);
    for part in payload.parts() {
        let from = skip.min(part.len());
        skip -= from;
        let cells = &part.cells()[from..];
        let wanted = cells.len().min(count - out.len());
        out.extend(cells[..wanted].iter().map(|cell| cell.get()));
    }
    out
}
