//! What each frame of an upstream connection does once the connection is open.
//!
//! A frame is judged completely before anything is changed, so a frame that finds a lane full is left
//! in the input and tried again as it is. The one exception is BROADCAST: which rooms have been
//! served is kept here until all of them are.

use super::acks::{Acks, Answered};
use super::credit::Credit;
use super::hooks::Hooks;
use super::ordered;
use super::queries::Queries;
use crate::base::stats::ServiceStats;
use crate::base::{Content, Epoch, Offset, RoomHasher, Version, client_id};
use crate::mesh::{LaneFull, Member, Outlets, Publish, ReplyTo, Request};
use crate::wire::payload::payload_is_valid;
use crate::wire::upstream::{AckLevel, DecodeError, ErrorCode, Extras, Frame, Recovery, Rooms};

/// The part of a connection that frames change.
#[derive(Debug)]
pub(super) struct Intake {
    /// Index of the connection among those of this thread, and its generation.
    conn: (u32, u32),
    pub(super) credit: Credit,
    /// The BROADCAST at the front of the input, when a lane was full in the middle of it.
    broadcast: Option<Progress>,
    /// The frame at the front of the input had to wait, and its payload is known to be valid.
    front_is_valid: bool,
}

/// What a batch of frames works with; borrowed for the batch.
pub(super) struct Desk<'a> {
    pub(super) outlets: &'a mut Outlets,
    pub(super) rooms: &'a RoomHasher,
    pub(super) acks: &'a mut Acks,
    pub(super) queries: &'a mut Queries,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) stats: &'a ServiceStats,
    pub(super) hooks: &'a Hooks,
    /// The process's, for client ids.
    pub(super) seed: u64,
    /// Nodes below are shards.
    pub(super) shards: u16,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done with; its bytes may be consumed.
    Taken,
    /// A lane is full or too many answers are pending: leave the bytes and come again.
    Stalled,
    /// The peer was told why; nothing more is read from it.
    Close,
}

#[derive(Debug)]
struct Progress {
    ticket: u64,
    rooms_done: usize,
}

/// The fields that PUBLISH and BROADCAST share.
struct Publication<'a> {
    request: u64,
    level: AckLevel,
    content: Content,
    skip_history: bool,
    key: Option<[u8; 16]>,
    extras: Extras<'a>,
    payload: &'a [u8],
}

impl Intake {
    /// Intake of the connection `conn` (index and generation).
    pub(super) fn new(conn: (u32, u32), credit: Credit) -> Self {
        Self {
            conn,
            credit,
            broadcast: None,
            front_is_valid: false,
        }
    }

    /// Handles one frame that took `frame_bytes`.
    pub(super) fn handle(
        &mut self,
        frame: &Frame<'_>,
        frame_bytes: usize,
        desk: &mut Desk<'_>,
    ) -> Verdict {
        match *frame {
            Frame::Publish {
                request,
                room,
                level,
                content,
                skip_history,
                key,
                extras,
                payload,
            } => {
                let publication = Publication {
                    request,
                    level,
                    content,
                    skip_history,
                    key,
                    extras,
                    payload,
                };
                self.publication(&publication, frame_bytes, desk, |intake, desk| {
                    intake.publish(&publication, room, desk)
                })
            }
            Frame::Broadcast {
                request,
                level,
                content,
                skip_history,
                key,
                extras,
                rooms,
                payload,
            } => {
                let publication = Publication {
                    request,
                    level,
                    content,
                    skip_history,
                    key,
                    extras,
                    payload,
                };
                self.publication(&publication, frame_bytes, desk, |intake, desk| {
                    intake.broadcast(&publication, rooms, desk)
                })
            }
            Frame::Ping { request, body } => {
                Frame::Pong { request, body }.encode(desk.out);
                Verdict::Taken
            }
            Frame::Pong { .. } => Verdict::Taken,
            Frame::Register {
                request,
                events,
                namespaces,
                methods,
            } => {
                desk.hooks.register(self.conn, events, namespaces, methods);
                desk.confirm(request, AckLevel::None);
                Verdict::Taken
            }
            Frame::Order { .. } => ordered::order(frame, desk),
            Frame::Query {
                request,
                name,
                query,
            } => desk.query(self.conn, request, name, query),
            Frame::Answer { .. } if !desk.hooks.has_room() => Verdict::Stalled,
            Frame::Answer { request, .. } => {
                let answered = desk.hooks.answered(self.conn, frame, desk.stats);
                // Before what comes behind it, which may be about what the answer makes.
                desk.hooks.flush(desk.outlets);
                if let Err((code, text)) = answered {
                    desk.refuse(request, code, text);
                }
                Verdict::Taken
            }
            Frame::Hello { request, .. } => {
                desk.refuse(request, ErrorCode::Malformed, "HELLO after the opening");
                Verdict::Close
            }
            _ => {
                let text = "frame type that only the server sends";
                desk.refuse(frame.request(), ErrorCode::Unsupported, text);
                Verdict::Taken
            }
        }
    }

    /// Answers what could not be decoded. `is_publication` says whether its bytes count against the
    /// credit. The caller skips or closes as the error says, unless the verdict is to close.
    pub(super) fn undecodable(
        &mut self,
        error: &DecodeError,
        is_publication: bool,
        desk: &mut Desk<'_>,
    ) -> Verdict {
        if let (Recovery::Skip(bytes), true) = (error.recovery, is_publication) {
            if self.credit.check(bytes).is_err() {
                return desk.over_credit(error.request);
            }
            self.credit.take(bytes);
        }
        desk.refuse(error.request, error.code, error.text);
        match error.recovery {
            Recovery::Skip(_) => Verdict::Taken,
            Recovery::Close => Verdict::Close,
        }
    }

    /// What PUBLISH and BROADCAST have in common: credit, level, payload; then `queue`.
    fn publication(
        &mut self,
        publication: &Publication<'_>,
        frame_bytes: usize,
        desk: &mut Desk<'_>,
        queue: impl FnOnce(&mut Self, &mut Desk<'_>) -> Result<(), LaneFull>,
    ) -> Verdict {
        let request = publication.request;
        if self.credit.check(frame_bytes).is_err() {
            return desk.over_credit(request);
        }
        if publication.level == AckLevel::Replicated {
            let text = "this node has no cluster engine";
            desk.refuse(request, ErrorCode::LevelUnavailable, text);
        } else if !self.front_is_valid
            && !payload_is_valid(publication.content, publication.payload)
        {
            let text = "the payload is not what the content bits say";
            desk.refuse(request, ErrorCode::InvalidPayload, text);
        } else if !desk.acks.has_room() || queue(self, desk).is_err() {
            self.front_is_valid = true;
            return Verdict::Stalled;
        }
        self.front_is_valid = false;
        self.credit.take(frame_bytes);
        Verdict::Taken
    }

    fn publish(
        &mut self,
        publication: &Publication<'_>,
        room: &str,
        desk: &mut Desk<'_>,
    ) -> Result<(), LaneFull> {
        let reply = self.reply_to(publication.level, desk.acks.next_ticket());
        desk.queue(publication, room, reply)?;
        match publication.level {
            AckLevel::None => {}
            AckLevel::Sequenced => desk.expect(publication, 1),
            AckLevel::Accepted | AckLevel::Replicated => desk.expect(publication, 0),
        }
        Ok(())
    }

    fn broadcast(
        &mut self,
        publication: &Publication<'_>,
        rooms: Rooms<'_>,
        desk: &mut Desk<'_>,
    ) -> Result<(), LaneFull> {
        let ticket = desk.acks.next_ticket();
        let progress = self.broadcast.get_or_insert_with(|| {
            // Expected before the first room is queued: answers may come while the rest waits.
            if publication.level == AckLevel::Sequenced {
                desk.expect(publication, rooms.count() as u32);
            }
            Progress {
                ticket,
                rooms_done: 0,
            }
        });
        let (ticket, rooms_done) = (progress.ticket, progress.rooms_done);
        let reply = self.reply_to(publication.level, ticket);
        for (index, room) in rooms.iter().enumerate().skip(rooms_done) {
            if let Err(full) = desk.queue(publication, room, reply) {
                self.broadcast = Some(Progress {
                    ticket,
                    rooms_done: index,
                });
                return Err(full);
            }
        }
        self.broadcast = None;
        if publication.level == AckLevel::Accepted {
            desk.expect(publication, 0);
        }
        Ok(())
    }

    fn reply_to(&self, level: AckLevel, ticket: u64) -> ReplyTo {
        match level {
            AckLevel::Sequenced => ReplyTo::Upstream {
                conn: self.conn.0,
                generation: self.conn.1,
                request: ticket,
            },
            _ => ReplyTo::Nobody,
        }
    }
}

impl Desk<'_> {
    /// Archives the publication into the lane of the room's home.
    fn queue(
        &mut self,
        publication: &Publication<'_>,
        room: &str,
        reply: ReplyTo,
    ) -> Result<(), LaneFull> {
        let request = Request::Publish(Publish {
            skip_history: publication.skip_history,
            key: publication.key,
            delta: publication.extras.delta,
            tags: publication.extras.tags.as_flat(),
            exclude: self.member(publication.extras.exclude),
            version: Version::new(publication.extras.version, publication.extras.version_epoch),
            reply,
            ..Publish::plain(room, publication.content, publication.payload)
        });
        self.outlets.request(self.rooms.home(room), &request)?;
        self.stats.upstream_publications_total.add(1);
        Ok(())
    }

    /// The connection of a client's public id. One that is not here is sent nothing anyway.
    fn member(&self, client: &str) -> Option<Member> {
        let (node, conn) = client_id::decode(self.seed, client)?;
        Some(Member { node, conn })
    }

    fn expect(&mut self, publication: &Publication<'_>, rooms: u32) {
        let answered = self
            .acks
            .expect(publication.request, publication.level, rooms, self.out);
        count(self.stats, answered);
    }

    /// Answers a request that has no place in a room.
    pub(super) fn confirm(&mut self, request: u64, level: AckLevel) {
        if request != 0 {
            Frame::Ack {
                request,
                level,
                duplicate: false,
                epoch: Epoch(0),
                offset: Offset(0),
            }
            .encode(self.out);
        }
    }

    pub(super) fn refuse(&mut self, request: u64, code: ErrorCode, text: &str) {
        Frame::Error {
            request,
            code,
            text,
        }
        .encode(self.out);
        self.stats.upstream_errors_total.add(1);
    }

    fn over_credit(&mut self, request: u64) -> Verdict {
        self.refuse(
            request,
            ErrorCode::OverCredit,
            "more bytes than the credit allows",
        );
        Verdict::Close
    }
}

/// Adds answers to the statistics.
pub(super) fn count(stats: &ServiceStats, answered: Answered) {
    stats.upstream_acks_total.add(answered.acks);
    stats.upstream_errors_total.add(answered.errors);
}
