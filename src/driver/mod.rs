//! The kernel as the shard sees it: operations in, completions out.
//!
//! [`Driver`] is what the kernel offers: operations are pushed, a batch is submitted, completions
//! are reaped, receive buffers are recycled. [`uring::Uring`] is the real one, [`sim::Sim`] a fake
//! one with faults and virtual time. [`sockets::Sockets`] stands on either and keeps the life cycle
//! of each socket, so that the simulator tests the code that runs.

pub mod buffers;
pub mod doorbell;
pub mod probe;
pub mod sim;
pub mod sockets;
pub mod uring;

use crate::base::ConnId;
use crate::base::chunk::Part;
use std::net::SocketAddr;
use std::time::Duration;

/// Names an operation; comes back in its completions. Packs into 64 bits of `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// One-shot accept number `entry` of those kept armed.
    Accept {
        /// Index of the address storage.
        entry: u32,
    },
    /// Multishot receive.
    Recv(ConnId),
    /// The one send in flight of a connection.
    Send(ConnId),
    /// Close of the slot.
    Close(ConnId),
    /// Connect of an outgoing connection.
    Connect(ConnId),
    /// The doorbell's read.
    Bell,
    /// A doorbell rung for somebody else.
    Ring,
    /// An operation whose effect shows in others: cancel.
    Aside,
}

impl Token {
    /// Whether the operation has exactly one terminal completion; the others may have none.
    pub fn completes(self) -> bool {
        !matches!(self, Self::Ring | Self::Aside)
    }

    /// The 64 bits of `user_data`: kind (8), generation (24), slot or entry (32).
    pub fn pack(self) -> u64 {
        let of = |kind: u64, conn: ConnId| {
            kind << 56
                | u64::from(conn.generation & ConnId::GENERATION_MASK) << 32
                | u64::from(conn.slot)
        };
        match self {
            Self::Accept { entry } => u64::from(entry),
            Self::Recv(conn) => of(1, conn),
            Self::Send(conn) => of(2, conn),
            Self::Close(conn) => of(3, conn),
            Self::Connect(conn) => of(4, conn),
            Self::Bell => 5 << 56,
            Self::Ring => 6 << 56,
            Self::Aside => 7 << 56,
        }
    }

    /// The token that [`Token::pack`] made.
    pub fn unpack(user_data: u64) -> Self {
        let slot = user_data as u32;
        let conn = ConnId {
            slot,
            generation: (user_data >> 32) as u32 & ConnId::GENERATION_MASK,
        };
        match user_data >> 56 {
            0 => Self::Accept { entry: slot },
            1 => Self::Recv(conn),
            2 => Self::Send(conn),
            3 => Self::Close(conn),
            4 => Self::Connect(conn),
            5 => Self::Bell,
            6 => Self::Ring,
            7 => Self::Aside,
            kind => unreachable!("no token of kind {kind} is ever packed"),
        }
    }
}

/// An operation for the kernel.
#[derive(Debug)]
pub enum Op {
    /// Accept one connection into a free slot of the file table; result = slot.
    Accept {
        /// Which of the armed accepts.
        entry: u32,
    },
    /// Receive until end, error or want of buffers; each completion carries a buffer.
    Recv(ConnId),
    /// Send all bytes of the payload, in order, or fail.
    Send(ConnId, Payload),
    /// Cancel every operation of the slot.
    Cancel(ConnId),
    /// Free the slot.
    Close(ConnId),
    /// Connect the slot from `source` (port 0: the kernel chooses) to `target`.
    Connect {
        /// The slot to fill.
        conn: ConnId,
        /// Local address; an unspecified one lets the kernel choose.
        source: SocketAddr,
        /// Remote address.
        target: SocketAddr,
    },
    /// Wait for this thread's doorbell.
    Listen,
    /// Ring the doorbell of the node with this index.
    Ring(u16),
    /// Cancel all armed accepts.
    StopAccepting,
}

impl Op {
    /// As [`Token::completes`].
    pub fn completes(&self) -> bool {
        !matches!(self, Self::Cancel(_) | Self::Ring(_) | Self::StopAccepting)
    }
}

/// What one send covers.
#[derive(Debug)]
pub enum Payload {
    /// One contiguous range: the ordinary case.
    One(Part),
    /// Up to [`crate::limits::SEND_PARTS_MAX`] ranges, in order.
    Many(Vec<Part>),
}

impl Payload {
    /// The ranges.
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }

    /// Bytes of all ranges together.
    pub fn len(&self) -> usize {
        self.parts().iter().map(Part::len).sum()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A receive buffer on loan from the driver: must go back through [`Driver::recycle`].
#[derive(Debug)]
#[must_use = "a loaned buffer must be recycled"]
pub struct Loan {
    /// The buffer's number.
    pub(crate) buffer: u16,
    /// Bytes received into it.
    pub(crate) len: u32,
}

impl Loan {
    /// Bytes received.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was received; the kernel never hands out such a buffer.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What the kernel says of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// Non-negative result, or the negative errno.
    pub result: i32,
    /// Whether more completions of the same operation follow.
    pub more: bool,
    /// The buffer that a receive filled.
    pub loan: Option<Loan>,
}

/// How long a submit may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Only submit, and take what is there.
    No,
    /// Until something completes, or this long.
    UpTo(Duration),
}

/// Numbers that only the driver knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// System calls made to submit or wait.
    pub enters: u64,
    /// Times the completion queue overflowed.
    pub overflows: u64,
    /// Receive buffers in all.
    pub buffers: usize,
    /// Receive buffers that the kernel does not hold.
    pub buffers_loaned: usize,
}

/// A kernel.
///
/// Contract of every implementation, which [`sockets::Sockets`] rests on:
/// - each pushed operation has exactly one terminal completion (`more == false`), except
///   `Cancel`, `Ring` and `StopAccepting`, which may have none;
/// - at most one `Send` and one `Recv` per connection are pending at a time (the caller's duty);
/// - a payload stays alive until its send's completion has been reaped;
/// - `Send` completes with all bytes sent, or with fewer, or with an error: never out of order.
pub trait Driver {
    /// Nanoseconds of a monotonic clock.
    fn now_ns(&mut self) -> u64;
    /// Queues an operation for the next submit.
    fn push(&mut self, op: Op);
    /// Submits what was pushed and waits as told.
    fn submit(&mut self, wait: Wait);
    /// The next completion that is there.
    fn reap(&mut self) -> Option<Completion>;
    /// The address of the peer that the accept `entry` reported; valid until it is armed again.
    fn peer(&self, entry: u32) -> SocketAddr;
    /// The received bytes, to be unmasked in place.
    fn bytes(&mut self, loan: &Loan) -> &mut [u8];
    /// Gives a buffer back to the kernel with the next submit.
    fn recycle(&mut self, loan: Loan);
    /// A vector for [`Payload::Many`], reused from completed sends.
    fn spare_parts(&mut self) -> Vec<Part>;
    /// Takes back a vector that was not used.
    fn return_parts(&mut self, parts: Vec<Part>);
    /// Slots of the file table.
    fn slots(&self) -> u32;
    /// Counts since the start.
    fn counts(&self) -> DriverCounts;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_user_data() {
        let conn = ConnId {
            slot: u32::MAX,
            generation: ConnId::GENERATION_MASK,
        };
        for token in [
            Token::Accept { entry: 63 },
            Token::Recv(conn),
            Token::Send(conn),
            Token::Close(conn),
            Token::Connect(conn),
            Token::Bell,
            Token::Ring,
            Token::Aside,
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
