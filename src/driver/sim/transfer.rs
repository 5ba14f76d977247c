//! Bytes in motion: client to socket to receive buffer, send to window to client, and the ways in
//! which that ends.

use super::super::{Payload, Token};
use super::kernel::{Event, Kernel, Signal, StreamId};
use super::stream::{checksum, copy};
use crate::base::ConnId;
use rustix::io::Errno;

impl Kernel {
    // Client to shard.

    /// Sends what a client wrote, in segments.
    pub(super) fn write(&mut self, id: StreamId, bytes: &[u8]) {
        let client = &self.streams[id].client;
        assert!(
            !client.finished,
            "a client writes nothing after its end of stream"
        );
        if client.vanished || client.reset_seen {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = rest.len().min(self.faults.segment_bytes_max);
            let (segment, after) = rest.split_at(self.dice.share(self.faults.partial, most));
            self.send_to_shard(id, Signal::Bytes(segment.to_vec()));
            rest = after;
        }
    }

    /// Sends something that arrives after everything sent before.
    pub(super) fn send_to_shard(&mut self, id: StreamId, signal: Signal) {
        let at_ns = (self.now_ns + self.hop_ns()).max(self.streams[id].to_shard_ns);
        self.streams[id].to_shard_ns = at_ns;
        self.schedule(at_ns, Event::Arrive(id, signal));
    }

    pub(super) fn arrive(&mut self, id: StreamId, signal: Signal) {
        let stream = &mut self.streams[id];
        if stream.broken || stream.client.vanished {
            return;
        }
        if stream.closed {
            if self.dice.chance(self.faults.reset_on_unread) {
                self.reset_client(id);
            }
            return;
        }
        let breaks =
            matches!(signal, Signal::Bytes(_)) && self.dice.chance(self.faults.arrival_break);
        let stream = &mut self.streams[id];
        match signal {
            _ if breaks => self.break_stream(id, ECONNRESET),
            Signal::Bytes(bytes) => stream.arrived.extend(bytes),
            Signal::Fin => stream.fin_arrived = true,
            Signal::Reset => self.break_stream(id, ECONNRESET),
        }
        self.wake_recv(id);
    }

    /// Schedules the receive if there is one and something for it.
    pub(super) fn wake_recv(&mut self, id: StreamId) {
        let stream = &mut self.streams[id];
        let readable = stream.is_readable();
        let Some(recv) = stream.recv.as_mut().filter(|op| readable && !op.scheduled) else {
            return;
        };
        recv.scheduled = true;
        let event = Event::Recv(id, recv.id);
        self.start(event);
    }

    pub(super) fn receive(&mut self, id: StreamId, op: u64) {
        let stream = &mut self.streams[id];
        let Some(recv) = stream.recv.as_mut().filter(|recv| recv.id == op) else {
            return;
        };
        recv.scheduled = false;
        let node = stream.node;
        if stream.arrived.is_empty() {
            let errno = stream.error.take().unwrap_or(0);
            return self.end_recv(id, -errno);
        }
        let starves = self.dice.chance(self.faults.no_buffers);
        let buffer_bytes = self.node(node).buffer_bytes;
        let buffer = if starves {
            None
        } else {
            self.node(node).pool.fill()
        };
        let Some(buffer) = buffer else {
            return self.end_recv(id, -ENOBUFS);
        };
        let most = self.streams[id].arrived.len().min(buffer_bytes);
        let count = self.dice.share(self.faults.partial, most);
        let more = !self.dice.chance(self.faults.multishot_end);
        let bytes: Vec<u8> = self.streams[id].arrived.drain(..count).collect();
        let token = Token::Recv(self.conn(id));
        if !more {
            self.streams[id].recv = None;
        }
        let result = (token, count as i32, more);
        self.post_full(node, Some(id), result, Some((buffer, bytes)), None);
        self.wake_recv(id);
    }

    fn end_recv(&mut self, id: StreamId, result: i32) {
        let token = Token::Recv(self.conn(id));
        let stream = &mut self.streams[id];
        stream.recv = None;
        let node = stream.node;
        self.post(node, Some(id), token, result);
    }

    // Shard to client.

    /// Schedules the send if there is one and it can move or fail.
    pub(super) fn wake_send(&mut self, id: StreamId) {
        let stream = &mut self.streams[id];
        let writable = stream.is_writable();
        let wakes = |taken: usize, payload: &Payload| writable || taken == payload.len();
        let send = stream.send.as_mut();
        let Some(send) = send.filter(|op| !op.scheduled && wakes(op.taken, &op.payload)) else {
            return;
        };
        send.scheduled = true;
        let event = Event::Transfer(id, send.id);
        self.start(event);
    }

    pub(super) fn transfer(&mut self, id: StreamId, op: u64) {
        if self.streams[id]
            .send
            .as_ref()
            .is_none_or(|send| send.id != op)
        {
            return;
        }
        let stream = &self.streams[id];
        if !stream.broken && self.dice.chance(self.faults.send_break) {
            self.break_stream(id, EPIPE);
        }
        let stream = &mut self.streams[id];
        if stream.broken {
            let errno = stream.error.take().unwrap_or(EPIPE);
            return self.end_send(id, -errno);
        }
        let free = stream.window_free();
        let send = stream.send.as_mut().expect("its id was compared");
        send.scheduled = false;
        let (taken, rest) = (send.taken, send.payload.len() - send.taken);
        if free.min(rest) > 0 {
            let count = self.dice.share(self.faults.partial, free.min(rest));
            let stream = &mut self.streams[id];
            let send = stream.send.as_mut().expect("its id was compared");
            let bytes = copy(&send.payload, taken, count);
            send.taken += count;
            stream.window_used += count;
            self.send_to_client(id, Signal::Bytes(bytes));
            if count < rest {
                return self.wake_send(id);
            }
        } else if rest > 0 {
            return;
        }
        self.end_send(id, (taken + rest) as i32);
    }

    /// Ends the send with `result`; a failed one that moved bytes reports their number instead.
    fn end_send(&mut self, id: StreamId, result: i32) {
        let token = Token::Send(self.conn(id));
        let stream = &mut self.streams[id];
        let send = stream.send.take().expect("only a pending send ends");
        assert_eq!(
            checksum(&send.payload),
            send.checksum,
            "contract: the payload of {token:?} changed in flight"
        );
        let result = if send.taken > 0 {
            send.taken as i32
        } else {
            result
        };
        let node = stream.node;
        self.post_full(
            node,
            Some(id),
            (token, result, false),
            None,
            Some(send.payload),
        );
    }

    /// Sends something that the client sees after everything sent before.
    pub(super) fn send_to_client(&mut self, id: StreamId, signal: Signal) {
        let at_ns = (self.now_ns + self.hop_ns()).max(self.streams[id].to_client_ns);
        self.streams[id].to_client_ns = at_ns;
        self.schedule(at_ns, Event::Deliver(id, signal));
    }

    /// A reset overtakes the bytes that are on their way.
    pub(super) fn reset_client(&mut self, id: StreamId) {
        let at_ns = self.now_ns + self.hop_ns();
        self.schedule(at_ns, Event::Deliver(id, Signal::Reset));
    }

    pub(super) fn deliver(&mut self, id: StreamId, signal: Signal) {
        let client = &mut self.streams[id].client;
        if client.vanished || client.reset_seen {
            return;
        }
        let bytes = match signal {
            Signal::Bytes(bytes) => bytes,
            Signal::Fin => {
                client.fin_seen = true;
                return self.note(&[id as u64, 1]);
            }
            Signal::Reset => {
                client.reset_seen = true;
                return self.note(&[id as u64, 2]);
            }
        };
        if client.stopped {
            client.held.extend(bytes);
        } else {
            client.received.extend(&bytes);
            self.streams[id].window_used -= bytes.len();
            self.note(&[id as u64, 3, bytes.len() as u64]);
            self.wake_send(id);
        }
    }

    /// The client reads again: what it left in its window comes first.
    pub(super) fn resume(&mut self, id: StreamId) {
        let stream = &mut self.streams[id];
        if stream.client.vanished {
            return;
        }
        stream.client.stopped = false;
        stream.window_used -= stream.client.held.len();
        let held = std::mem::take(&mut stream.client.held);
        stream.client.received.extend(held);
        self.wake_send(id);
    }

    // The ends of a connection.

    /// The connection dies: the client sees a reset, the shard an error in whatever it does next.
    pub(super) fn break_stream(&mut self, id: StreamId, errno: i32) {
        let stream = &mut self.streams[id];
        if stream.broken {
            return;
        }
        stream.broken = true;
        stream.error = Some(errno);
        self.reset_client(id);
        self.wake_recv(id);
        self.wake_send(id);
    }

    pub(super) fn cancel(&mut self, id: StreamId, recv: Option<u64>, send: Option<u64>) {
        let stream = &self.streams[id];
        let recv_pending = stream.recv.as_ref().map(|op| op.id);
        let send_pending = stream.send.as_ref().map(|op| op.id);
        if recv.is_some() && recv == recv_pending {
            self.end_recv(id, -ECANCELED);
        }
        if send.is_some() && send == send_pending {
            self.end_send(id, -ECANCELED);
        }
    }

    /// The caller's name of a socket that has operations.
    fn conn(&self, id: StreamId) -> ConnId {
        let stream = &self.streams[id];
        ConnId {
            slot: stream
                .slot
                .expect("a socket with operations is in the table"),
            generation: stream
                .known
                .generation
                .expect("its first operation named it"),
        }
    }
}

const EPIPE: i32 = Errno::PIPE.raw_os_error();
const ENOBUFS: i32 = Errno::NOBUFS.raw_os_error();
const ECANCELED: i32 = Errno::CANCELED.raw_os_error();
const ECONNRESET: i32 = Errno::CONNRESET.raw_os_error();
