//! Questions of services: each goes to the home of its room or to every shard, and is answered by RESULT.
//!
//! A question has a ticket, as an acknowledged publication has one, told apart by its highest bit. Answers
//! leave in the order in which they come. They are large, so few questions wait at one time and none is
//! taken while many bytes wait for the socket.

use super::acks::Answered;
use super::intake::{Desk, Verdict};
use crate::base::{Epoch, NodeId};
use crate::limits::{
    LANE_FRAME_OVERHEAD, UPSTREAM_OUTPUT_BYTES, UPSTREAM_QUERIES_MAX, UPSTREAM_RESULT_MAX,
};
use crate::mesh::{Delivery, HistoryRead, Position, ReplyTo, Request};
use crate::wire::upstream::{ErrorCode, Frame, LENGTH_MIN, Query, QueryResult, take_channel};
use std::collections::BTreeMap;

/// Set in the tickets of questions, which no count of publications reaches.
const TICKET: u64 = 1 << 63;

/// The questions of one connection that wait for answers.
#[derive(Debug, Default)]
pub(super) struct Queries {
    asked: u64,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    request: u64,
    /// Shards that have not answered.
    open: u16,
    channels: Channels,
}

/// Channels of the shards that have answered, with their subscribers.
#[derive(Debug, Default)]
struct Channels {
    subscribers: BTreeMap<Box<str>, u32>,
    /// Of the list that they make.
    bytes: usize,
    /// They are too many for one answer.
    is_cut: bool,
}

impl Queries {
    /// Whether no question waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The ticket in what a delivery answers, when it answers a question: connection and ticket.
    pub(super) fn ticket_of(delivery: &Delivery<'_>) -> Option<((u32, u32), u64)> {
        let (Delivery::History { reply, .. }
        | Delivery::Presence { reply, .. }
        | Delivery::PresenceStats { reply, .. }
        | Delivery::Done { reply }
        | Delivery::Rooms { reply, .. }
        | Delivery::Refused { reply }) = *delivery
        else {
            return None;
        };
        match reply {
            ReplyTo::Upstream {
                conn,
                generation,
                request,
            } if request & TICKET != 0 => Some(((conn, generation), request)),
            _ => None,
        }
    }

    /// Notes a shard's answer; the last one of a question becomes its RESULT.
    pub(super) fn settle(
        &mut self,
        ticket: u64,
        delivery: &Delivery<'_>,
        out: &mut Vec<u8>,
    ) -> Answered {
        let found = self.waiting.iter().position(|entry| entry.ticket == ticket);
        let Some(index) = found else {
            debug_assert!(false, "an answer to a question that does not wait");
            return Answered::default();
        };
        let entry = &mut self.waiting[index];
        if let Delivery::Rooms {
            complete, rooms, ..
        } = *delivery
        {
            entry.channels.add(complete, rooms);
        }
        entry.open = entry.open.saturating_sub(1);
        if entry.open > 0 {
            return Answered::default();
        }
        let Waiting {
            request, channels, ..
        } = self.waiting.swap_remove(index);
        if matches!(delivery, Delivery::Refused { .. }) {
            Frame::Error {
                request,
                code: ErrorCode::Overloaded,
                text: "the room's shard could not take it",
            }
            .encode(out);
            return Answered { acks: 0, errors: 1 };
        }
        let list = channels.list();
        if request != 0
            && let Some(result) = result(delivery, channels.is_cut, &list)
        {
            Frame::Result { request, result }.encode(out);
        }
        Answered { acks: 1, errors: 0 }
    }

    fn expect(&mut self, ticket: u64, request: u64, shards: u16) {
        self.asked += 1;
        self.waiting.push(Waiting {
            ticket,
            request,
            open: shards,
            channels: Channels::default(),
        });
    }
}

impl Desk<'_> {
    /// Asks what a frame of connection `conn` (index and generation) asks.
    pub(super) fn query(
        &mut self,
        conn: (u32, u32),
        request: u64,
        name: &str,
        query: Query<'_>,
    ) -> Verdict {
        let is_busy = self.queries.waiting.len() >= UPSTREAM_QUERIES_MAX;
        if is_busy || self.out.len() > UPSTREAM_OUTPUT_BYTES {
            return Verdict::Stalled;
        }
        let ticket = TICKET | self.queries.asked;
        let reply = ReplyTo::Upstream {
            conn: conn.0,
            generation: conn.1,
            request: ticket,
        };
        let shards = match question(name, query, reply) {
            Request::Rooms { .. }
                if self.outlets.requests_free() < name.len() + LANE_FRAME_OVERHEAD =>
            {
                return Verdict::Stalled;
            }
            question @ Request::Rooms { .. } => {
                for shard in 0..self.shards {
                    let sent = self.outlets.request(NodeId(shard), &question);
                    sent.expect("room was checked above");
                }
                self.shards
            }
            question => {
                let home = self.rooms.home(name);
                if self.outlets.request(home, &question).is_err() {
                    return Verdict::Stalled;
                }
                1
            }
        };
        self.queries.expect(ticket, request, shards);
        self.stats.upstream_queries_total.add(1);
        Verdict::Taken
    }
}

fn question<'a>(room: &'a str, query: Query<'_>, reply: ReplyTo) -> Request<'a> {
    match query {
        Query::History {
            limit,
            reverse,
            since,
        } => {
            let since = since.map(|(epoch, offset)| Position {
                epoch: Epoch::wanted(epoch),
                offset,
            });
            let read = HistoryRead::Page {
                // Negative: as many as the home gives.
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
                since,
                reverse,
            };
            Request::History { room, read, reply }
        }
        Query::Presence => Request::Presence { room, reply },
        Query::PresenceStats => Request::PresenceStats { room, reply },
        Query::ForgetHistory => Request::ForgetHistory { room, reply },
        Query::Channels => Request::Rooms {
            pattern: room,
            reply,
        },
    }
}

fn result<'a>(
    delivery: &Delivery<'a>,
    is_cut: bool,
    channels: &'a [u8],
) -> Option<QueryResult<'a>> {
    Some(match *delivery {
        Delivery::History {
            epoch,
            top,
            recovered: found,
            publications,
            ..
        } => QueryResult::History {
            found,
            epoch,
            top,
            publications,
        },
        Delivery::Presence {
            complete, infos, ..
        } => QueryResult::Presence {
            complete,
            clients: infos,
        },
        Delivery::PresenceStats { clients, users, .. } => {
            QueryResult::PresenceStats { clients, users }
        }
        Delivery::Done { .. } => QueryResult::Done,
        Delivery::Rooms { .. } => QueryResult::Channels {
            complete: !is_cut,
            channels,
        },
        _ => return None,
    })
}

impl Channels {
    /// Bytes of the list in the largest RESULT.
    const BYTES_MAX: usize = UPSTREAM_RESULT_MAX - LENGTH_MIN - QueryResult::HEAD_BYTES;

    /// Adds what one shard said.
    fn add(&mut self, complete: bool, mut rooms: &[u8]) {
        while let Some((name, subscribers)) = take_channel(&mut rooms) {
            if let Some(sum) = self.subscribers.get_mut(name) {
                *sum = sum.saturating_add(subscribers);
                continue;
            }
            self.bytes += name.len() + 6;
            if self.is_cut || self.bytes > Self::BYTES_MAX {
                break;
            }
            self.subscribers.insert(name.into(), subscribers);
        }
        if !complete || self.bytes > Self::BYTES_MAX {
            self.is_cut = true;
            self.subscribers = BTreeMap::new();
        }
    }

    /// As it goes on the wire, by name.
    fn list(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (name, subscribers) in &self.subscribers {
            list.extend_from_slice(&(name.len() as u16).to_le_bytes());
            list.extend_from_slice(name.as_bytes());
            list.extend_from_slice(&subscribers.to_le_bytes());
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_several_shards_are_one_list() {
        let mut channels = Channels::default();
        channels.add(true, b"\x01\0b\x02\0\0\0\x01\0a\x01\0\0\0");
        channels.add(true, b"\x01\0b\x03\0\0\0");
        assert_eq!(channels.list(), b"\x01\0a\x01\0\0\0\x01\0b\x05\0\0\0");
        channels.add(false, b"");
        assert!(channels.is_cut && channels.list().is_empty());
        channels.add(true, b"\x01\0c\x01\0\0\0");
        assert!(channels.list().is_empty(), "what is cut stays cut");
    }

    #[test]
    fn channels_beyond_the_largest_result_are_cut() {
        let mut channels = Channels::default();
        for shard in 0..UPSTREAM_RESULT_MAX / 1_000 + 1 {
            let mut rooms = Vec::new();
            for room in 0..4 {
                let name = format!("{shard:0>123}-{room:0>120}");
                rooms.extend((name.len() as u16).to_le_bytes());
                rooms.extend(name.as_bytes());
                rooms.extend(1_u32.to_le_bytes());
            }
            channels.add(true, &rooms);
            assert!(channels.list().len() <= Channels::BYTES_MAX);
        }
        assert!(channels.is_cut);
    }
}
