//! Acknowledgements of one upstream connection: in the order of its requests.
//!
//! Every acknowledged request has a ticket, counted from 0, and a place in one queue. The shards are
//! told the ticket and answer with it; an ACK leaves when everything before it has left. The protocol
//! promises the order per room only, but one queue also keeps it between levels and between PUBLISH
//! and BROADCAST, which lanes alone do not.
//!
//! `first ticket ≤ ticket of a pending request < first ticket + pending.len()`, and the front of the
//! queue is never settled. The queue is bounded by [`limits::UPSTREAM_PENDING_MAX`]: beyond it no
//! request is taken.

use crate::base::{Epoch, Offset};
use crate::limits;
use crate::wire::upstream::{AckLevel, ErrorCode, Frame};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Ticket of the front of `pending`.
    first: u64,
    pending: VecDeque<Pending>,
}

/// What a home answered for one room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// It has its place in the room.
    Published {
        epoch: Epoch,
        offset: Offset,
        duplicate: bool,
    },
    /// The home could not take it.
    Refused,
}

/// ACK and ERROR frames that a step wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) acks: u64,
    pub(super) errors: u64,
}

#[derive(Debug)]
struct Pending {
    request: u64,
    level: AckLevel,
    /// Rooms of the request: one answer each.
    rooms: u32,
    /// Rooms that have not answered.
    rooms_open: u32,
    /// Rooms that had seen the idempotency key.
    duplicates: u32,
    refused: bool,
    epoch: Epoch,
    offset: Offset,
}

impl Acks {
    /// Whether no request waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether another request may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.pending.len() < limits::UPSTREAM_PENDING_MAX
    }

    /// The ticket of the request that [`Acks::expect`] will be called for next.
    pub(super) fn next_ticket(&self) -> u64 {
        self.first + self.pending.len() as u64
    }

    /// Notes a request that waits for the answers of `rooms` rooms; none for a request that is
    /// complete and waits for its turn only.
    pub(super) fn expect(
        &mut self,
        request: u64,
        level: AckLevel,
        rooms: u32,
        out: &mut Vec<u8>,
    ) -> Answered {
        self.pending.push_back(Pending {
            request,
            level,
            rooms,
            rooms_open: rooms,
            duplicates: 0,
            refused: false,
            epoch: Epoch(0),
            offset: Offset(0),
        });
        self.leave(out)
    }

    /// Notes one room's answer to the request with `ticket` and writes every ACK that may leave.
    pub(super) fn settle(&mut self, ticket: u64, outcome: Outcome, out: &mut Vec<u8>) -> Answered {
        let entry = ticket
            .checked_sub(self.first)
            .and_then(|index| self.pending.get_mut(usize::try_from(index).ok()?));
        let Some(entry) = entry else {
            debug_assert!(false, "an answer to a request that is not pending");
            return Answered::default();
        };
        debug_assert!(entry.rooms_open > 0, "more answers than rooms");
        entry.rooms_open = entry.rooms_open.saturating_sub(1);
        match outcome {
            Outcome::Refused => entry.refused = true,
            Outcome::Published {
                epoch,
                offset,
                duplicate,
            } => {
                entry.duplicates += u32::from(duplicate);
                // The answer to BROADCAST has no place: its rooms have one each.
                if entry.rooms == 1 {
                    (entry.epoch, entry.offset) = (epoch, offset);
                }
            }
        }
        self.leave(out)
    }

    fn leave(&mut self, out: &mut Vec<u8>) -> Answered {
        let mut answered = Answered::default();
        while let Some(entry) = self.pending.pop_front_if(|entry| entry.rooms_open == 0) {
            self.first += 1;
            if entry.refused {
                answered.errors += 1;
                Frame::Error {
                    request: entry.request,
                    code: ErrorCode::Overloaded,
                    text: "the room's shard could not take it",
                }
                .encode(out);
            } else if entry.request != 0 {
                answered.acks += 1;
                Frame::Ack {
                    request: entry.request,
                    level: entry.level,
                    duplicate: entry.rooms > 0 && entry.duplicates == entry.rooms,
                    epoch: entry.epoch,
                    offset: entry.offset,
                }
                .encode(out);
            }
        }
        answered
    }
}
