//! One connection to the broker.
//!
//! [`Upstream::publish`] waits for its acknowledgement; [`Upstream::send`] does not and may be called
//! many times before [`Upstream::poll_ack`] collects the answers. Frames are gathered and written 64 KiB
//! at a time. Nothing is sent beyond the broker's credit: without credit, `send` writes what is gathered
//! and waits for more.

use super::connection::Connection;
use super::query::{self, Told};
use super::{
    Answer, ClientError, Event, EventAnswer, HistoryPage, HistoryQuery, Message, Order,
    PresentClient, Receipt,
};
use crate::base::{Epoch, Offset};
use crate::limits::{
    BROADCAST_ROOMS_MAX, CLIENT_BUFFER_BYTES, CLIENT_TIMEOUT_MS, ROOM_NAME_MAX, UPSTREAM_NAME_MAX,
};
use crate::wire::upstream::{AckLevel, EventKind, Frame, LENGTH_BYTES, Names, Query, Rooms};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

/// A connection to the broker. Dropping it discards what was not flushed; see [`Upstream::close`].
pub struct Upstream {
    conn: Connection,
    /// What `length` of a frame may be.
    frame_bytes_max: usize,
    /// Bytes of publications encoded since WELCOME; at most the credit.
    published_bytes: u64,
    last_request: u64,
}

impl Upstream {
    /// Connects to the first address that answers and introduces itself as `service`. `key` is key id
    /// and secret; without it the broker must allow anonymous services.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; [`ClientError::Refused`] when the broker does not accept the service.
    pub fn connect(
        addr: impl ToSocketAddrs,
        service: &str,
        key: Option<(&str, &[u8])>,
    ) -> Result<Self, ClientError> {
        let name_ok = |name: &str| (1..=UPSTREAM_NAME_MAX).contains(&name.len());
        if !name_ok(service) || key.is_some_and(|(key_id, _)| !name_ok(key_id)) {
            return Err(ClientError::BadName);
        }
        let mut conn = Connection::dial(addr)?;
        let frame_bytes_max = conn.open(service, key)?;
        conn.set_timeout(Duration::from_millis(CLIENT_TIMEOUT_MS))?;
        Ok(Self {
            conn,
            frame_bytes_max,
            published_bytes: 0,
            last_request: 0,
        })
    }

    /// How long a call waits for the broker without a sign of life; 30 s at first. Not zero.
    ///
    /// # Errors
    ///
    /// [`ClientError::Io`] for zero.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        self.conn.set_timeout(timeout)
    }

    /// Publishes to one room and waits for the acknowledgement. At [`AckLevel::None`] there is none and
    /// the call returns when the frame is written.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn publish(&mut self, room: &str, message: &Message<'_>) -> Result<Receipt, ClientError> {
        let request = self.send(room, message)?;
        self.receipt(request, message.level)
    }

    /// Publishes to 1 to 1,024 rooms and waits for the one acknowledgement, as [`Upstream::publish`].
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn broadcast(
        &mut self,
        rooms: &[&str],
        message: &Message<'_>,
    ) -> Result<Receipt, ClientError> {
        let request = self.send_broadcast(rooms, message)?;
        self.receipt(request, message.level)
    }

    /// Publishes to one room without waiting for the answer: the request id that the answer will have.
    /// The frame may stay in the buffer until [`Upstream::flush`]. Answers are kept until collected.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; it may also be about an earlier frame.
    pub fn send(&mut self, room: &str, message: &Message<'_>) -> Result<u64, ClientError> {
        check_room(room)?;
        let tags = message.tags()?;
        let request = self.begin()?;
        let start = self.conn.out.len();
        Frame::Publish {
            request,
            room,
            level: message.level,
            content: message.content,
            skip_history: message.skip_history,
            key: message.key,
            extras: message.extras(&tags),
            payload: message.payload,
        }
        .encode(&mut self.conn.out);
        self.commit(start)?;
        Ok(request)
    }

    /// As [`Upstream::send`], to 1 to 1,024 rooms.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; it may also be about an earlier frame.
    pub fn send_broadcast(
        &mut self,
        rooms: &[&str],
        message: &Message<'_>,
    ) -> Result<u64, ClientError> {
        if !(1..=BROADCAST_ROOMS_MAX).contains(&rooms.len()) {
            return Err(ClientError::BadRoomCount);
        }
        rooms.iter().try_for_each(|room| check_room(room))?;
        let tags = message.tags()?;
        let request = self.begin()?;
        let start = self.conn.out.len();
        Frame::Broadcast {
            request,
            level: message.level,
            content: message.content,
            skip_history: message.skip_history,
            key: message.key,
            extras: message.extras(&tags),
            rooms: Rooms::new(rooms),
            payload: message.payload,
        }
        .encode(&mut self.conn.out);
        self.commit(start)?;
        Ok(request)
    }

    /// The next answer that has come in, without waiting. Flush first, or there may be nothing to answer.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] of the connection. Answers that came before it are returned first.
    pub fn poll_ack(&mut self) -> Result<Option<Answer>, ClientError> {
        if self.conn.heard.answers.is_empty() {
            self.conn.take_arrived()?;
        }
        Ok(self.conn.heard.answers.pop_front())
    }

    /// The next answer, waiting for it. Flushes first.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; [`ClientError::Timeout`] when there is nothing left to be answered.
    pub fn wait_ack(&mut self) -> Result<Answer, ClientError> {
        self.flush()?;
        loop {
            if let Some(answer) = self.conn.heard.answers.pop_front() {
                return Ok(answer);
            }
            self.conn.wait()?;
        }
    }

    /// Registers for events of clients: of these kinds, of channels in these namespaces (none for all, the
    /// empty name for channels without one) and of calls of these methods (none for all). Replaces what
    /// was registered before. Waits for the broker's word; answers to earlier requests stay to be
    /// collected.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn register(
        &mut self,
        kinds: &[EventKind],
        namespaces: &[&str],
        methods: &[&str],
    ) -> Result<(), ClientError> {
        let request = self.begin()?;
        let (namespaces, methods) = (Names::list(namespaces), Names::list(methods));
        let list = |bytes| Names::take(bytes).ok_or(ClientError::BadName);
        Frame::Register {
            request,
            events: kinds.iter().fold(0, |bits, kind| bits | kind.bit()),
            namespaces: list(&namespaces)?.0,
            methods: list(&methods)?.0,
        }
        .encode(&mut self.conn.out);
        self.receipt(request, AckLevel::Accepted).map(|_| ())
    }

    /// Has something done to the connections of a user, or to one of them. Returns when it is queued for
    /// them.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn order(&mut self, order: &Order<'_>) -> Result<(), ClientError> {
        let request = self.begin()?;
        order.frame(request).encode(&mut self.conn.out);
        self.receipt(request, AckLevel::Accepted).map(|_| ())
    }

    /// Past publications of a room.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn history(
        &mut self,
        room: &str,
        query: &HistoryQuery<'_>,
    ) -> Result<HistoryPage, ClientError> {
        match self.ask(room, query.query()?)? {
            Told::History(page) => Ok(page),
            _ => Err(ClientError::UnexpectedFrame),
        }
    }

    /// Who is present in a room.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; [`ClientError::TooMany`] when they are too many for one answer.
    pub fn presence(&mut self, room: &str) -> Result<Vec<PresentClient>, ClientError> {
        match self.ask(room, Query::Presence)? {
            Told::Presence(clients) => clients.ok_or(ClientError::TooMany),
            _ => Err(ClientError::UnexpectedFrame),
        }
    }

    /// How many connections and distinct users are present in a room.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn presence_stats(&mut self, room: &str) -> Result<(u32, u32), ClientError> {
        match self.ask(room, Query::PresenceStats)? {
            Told::PresenceStats { clients, users } => Ok((clients, users)),
            _ => Err(ClientError::UnexpectedFrame),
        }
    }

    /// Drops a room's history; its position stays.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`].
    pub fn forget_history(&mut self, room: &str) -> Result<(), ClientError> {
        match self.ask(room, Query::ForgetHistory)? {
            Told::Done => Ok(()),
            _ => Err(ClientError::UnexpectedFrame),
        }
    }

    /// The channels with subscribers whose names match a glob (empty for all), and how many each has.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; [`ClientError::TooMany`] when they are too many for one answer.
    pub fn channels(&mut self, pattern: &str) -> Result<Vec<(String, u32)>, ClientError> {
        match self.ask(pattern, Query::Channels)? {
            Told::Channels(channels) => channels.ok_or(ClientError::TooMany),
            _ => Err(ClientError::UnexpectedFrame),
        }
    }

    /// The next event, waiting for it. Flushes first, so that earlier answers to events are on their way.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]; [`ClientError::Timeout`] when none came in time.
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        self.flush()?;
        loop {
            if let Some(event) = self.conn.heard.events.pop_front() {
                return Ok(event);
            }
            self.conn.wait()?;
        }
    }

    /// Answers an event. Written at the next [`Upstream::next_event`] or [`Upstream::flush`].
    pub fn answer(&mut self, event: &Event, answer: EventAnswer<'_>) {
        if event.request != 0 {
            answer.frame(event.request).encode(&mut self.conn.out);
        }
    }

    /// Writes everything that was sent.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] of the connection.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.conn.flush()
    }

    /// Asks for a sign of life: the time that it took. Flushes first.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] of the connection.
    pub fn ping(&mut self) -> Result<Duration, ClientError> {
        self.last_request += 1;
        let request = self.last_request;
        let body = &[];
        Frame::Ping { request, body }.encode(&mut self.conn.out);
        let began = Instant::now();
        self.flush()?;
        while self.conn.heard.pong != Some(request) {
            self.conn.wait()?;
        }
        Ok(began.elapsed())
    }

    /// Milliseconds of grace, once the broker has said that it goes down. New publications are then
    /// refused here; answers to the earlier ones still come.
    pub fn goaway_ms(&self) -> Option<u32> {
        self.conn.heard.goaway_ms
    }

    /// Bytes of publications that the broker will take now without granting more.
    pub fn credit_left(&self) -> u64 {
        self.conn.heard.credit - self.published_bytes
    }

    /// Flushes, says that nothing follows and waits for the broker to have read it all.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] of the connection.
    pub fn close(mut self) -> Result<(), ClientError> {
        self.flush()?;
        self.conn.finish()
    }

    /// Asks, and waits for the answer.
    fn ask(&mut self, name: &str, query: Query<'_>) -> Result<Told, ClientError> {
        query::check_name(name, query)?;
        let request = self.begin()?;
        let question = Frame::Query {
            request,
            name,
            query,
        };
        question.encode(&mut self.conn.out);
        self.flush()?;
        loop {
            let told = &mut self.conn.heard.told;
            if let Some(index) = told.iter().position(|(of, _)| *of == request) {
                return Ok(told.swap_remove(index).1);
            }
            if let Some(answer) = self.take_answer(request) {
                answer?;
                return Err(ClientError::UnexpectedFrame);
            }
            self.conn.wait()?;
        }
    }

    /// The answer to a request, if it has come.
    fn take_answer(&mut self, request: u64) -> Option<Result<Receipt, ClientError>> {
        let answers = &mut self.conn.heard.answers;
        let index = answers
            .iter()
            .rposition(|answer| answer.request == request)?;
        let answer = answers.remove(index)?;
        Some(answer.result.map_err(ClientError::Refused))
    }

    /// The request id of a new publication.
    fn begin(&mut self) -> Result<u64, ClientError> {
        if let Some(grace_ms) = self.conn.heard.goaway_ms {
            return Err(ClientError::GoingAway { grace_ms });
        }
        self.last_request += 1;
        Ok(self.last_request)
    }

    /// Makes the frame at `out[start..]` part of what is sent, once there is credit for it.
    fn commit(&mut self, start: usize) -> Result<(), ClientError> {
        let frame_bytes = self.conn.out.len() - start;
        if frame_bytes - LENGTH_BYTES > self.frame_bytes_max {
            self.conn.out.truncate(start);
            return Err(ClientError::TooLarge {
                frame_bytes,
                frame_bytes_max: self.frame_bytes_max,
            });
        }
        if self.credit_left() < frame_bytes as u64 {
            let frame = self.conn.out.split_off(start);
            self.wait_credit(frame_bytes as u64)?;
            self.conn.out.extend_from_slice(&frame);
        }
        self.published_bytes += frame_bytes as u64;
        if self.conn.out.len() >= CLIENT_BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn wait_credit(&mut self, bytes: u64) -> Result<(), ClientError> {
        self.flush()?;
        while self.credit_left() < bytes {
            if let Some(grace_ms) = self.conn.heard.goaway_ms {
                return Err(ClientError::GoingAway { grace_ms });
            }
            self.conn.wait()?;
        }
        Ok(())
    }

    fn receipt(&mut self, request: u64, level: AckLevel) -> Result<Receipt, ClientError> {
        self.flush()?;
        if level == AckLevel::None {
            return Ok(Receipt {
                level,
                duplicate: false,
                epoch: Epoch(0),
                offset: Offset(0),
            });
        }
        loop {
            if let Some(answer) = self.take_answer(request) {
                return answer;
            }
            self.conn.wait()?;
        }
    }
}

fn check_room(room: &str) -> Result<(), ClientError> {
    if (1..=ROOM_NAME_MAX).contains(&room.len()) {
        Ok(())
    } else {
        Err(ClientError::BadRoom)
    }
}

#[cfg(test)]
mod tests;
