//! A worker: one thread, one ring, its share of the connections.
//!
//! The loop starts connects up to a bound, submits and waits, and handles what came. What the other
//! threads may know of it is in [`Progress`], and a doorbell wakes it when it is to stop. A connection
//! that fails is counted and not tried again.

use crate::host;
use crate::peer::{Context, Peer, Stage};
use crate::tally::{Failure, Tally};
use crate::upgrade::Numbers;
use ringcast::base::ConnId;
use ringcast::base::chunk::{ChunkPool, Part};
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::sockets::{Event, Sockets};
use ringcast::driver::uring::{Uring, UringSetup};
use ringcast::driver::{Loan, Payload, Wait};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed};
use std::time::Duration;

/// Connections from one source address. `connect` takes ports of one parity first: beyond about
/// 14,000 to the same destination it has to search, which makes it very slow.
pub(crate) const CONNECTIONS_PER_SOURCE: u32 = 14_000;
/// Connections of one worker, so that its file table stays within common descriptor limits.
pub(crate) const CONNECTIONS_PER_WORKER: u32 = 15_000;

/// How long a worker sleeps at most when nothing happens.
const IDLE_WAIT: Duration = Duration::from_millis(250);

/// What a worker is to do.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Number of the worker: its doorbell and part of its source addresses.
    pub(crate) worker: u16,
    /// Core that it is pinned to.
    pub(crate) core: Option<core_affinity::CoreId>,
    /// Its connections, by their number in the run.
    pub(crate) connections: Range<u32>,
    /// Rooms of the run.
    pub(crate) rooms: u32,
    /// Connections of the run that all subscribe to room 0, see [`room_of`].
    pub(crate) crowd: u32,
    /// Where the connections go.
    pub(crate) target: SocketAddrV4,
    /// First two bytes of the source addresses; `None` leaves the choice to the kernel.
    pub(crate) source_base: Option<Ipv4Addr>,
    /// Connections under way at a time.
    pub(crate) in_flight_max: u32,
    /// What its peers need to know.
    pub(crate) context: Arc<Context>,
}

/// What others see of a running worker, and its orders.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Connections whose subscribe was confirmed.
    pub(crate) subscribed: AtomicU32,
    /// Connections whose subscribe was confirmed or that failed before.
    pub(crate) settled: AtomicU32,
    /// Connections that failed at any time.
    pub(crate) failed: AtomicU32,
    /// Publications delivered.
    pub(crate) delivered: AtomicU64,
    /// Thread id, once its ring is set up.
    pub(crate) tid: AtomicU32,
    /// Order: start to connect. The thread is to be unparked after it.
    pub(crate) start: AtomicBool,
    /// Order: start no more connects, and count those under way as failed.
    pub(crate) stop_connecting: AtomicBool,
    /// Order: end. The worker counts what is lost, given `published`.
    pub(crate) stop: AtomicBool,
    /// Publications of the run, set before `stop`. They went to the rooms in turn.
    pub(crate) published: AtomicU64,
}

/// Runs a worker until it is told to stop. The error is the driver's, in the operator's words.
pub(crate) fn run(share: Share, progress: &Progress, bells: Doorbells) -> Result<Tally, String> {
    if let Some(core) = share.core {
        core_affinity::set_for_current(core);
    }
    let ring = Uring::new(UringSetup {
        listener: None,
        slots: share.connections.len() as u32,
        bells,
        node: share.worker,
    })
    .map_err(|error| error.to_string())?;
    progress
        .tid
        .store(rustix::thread::gettid().as_raw_pid() as u32, Relaxed);
    while !progress.start.load(Acquire) {
        std::thread::park();
    }
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), share.worker);
    let worker = Worker {
        sockets: Sockets::new(ring),
        peers: Vec::with_capacity(share.connections.len()),
        next: share.connections.start,
        in_flight: 0,
        numbers: Numbers::new(seed),
        out: Vec::with_capacity(1024),
        chunks: ChunkPool::default(),
        tally: Tally::new(),
        share,
    };
    Ok(worker.run(progress))
}

struct Worker {
    sockets: Sockets<Uring>,
    /// By slot of the file table.
    peers: Vec<Peer>,
    /// Next connection to be started.
    next: u32,
    /// Connections started and neither subscribed nor failed.
    in_flight: u32,
    numbers: Numbers,
    /// What the peer that is being handled wants to send.
    out: Vec<u8>,
    /// Memory of sends; reused, so that answering pings allocates nothing.
    chunks: ChunkPool,
    tally: Tally,
    share: Share,
}

impl Worker {
    fn run(mut self, progress: &Progress) -> Tally {
        while !progress.stop.load(Acquire) {
            if progress.stop_connecting.load(Relaxed) {
                self.stop_connecting();
            }
            self.start_connects();
            self.sockets.submit(Wait::UpTo(IDLE_WAIT));
            while let Some(event) = self.sockets.next_event() {
                self.handle_event(event);
            }
            let tally = &self.tally;
            let started = self.next - self.share.connections.start;
            progress.settled.store(started - self.in_flight, Relaxed);
            progress.subscribed.store(tally.subscribed as u32, Relaxed);
            progress.failed.store(tally.failed() as u32, Relaxed);
            progress.delivered.store(tally.delivered, Relaxed);
        }
        self.finish(progress.published.load(Relaxed))
    }

    fn start_connects(&mut self) {
        while self.in_flight < self.share.in_flight_max && self.next < self.share.connections.end {
            let source = self.source(self.next);
            let conn = self
                .sockets
                .connect(source.into(), self.share.target.into())
                .expect("the table has a slot for each connection");
            if self.tally.first_connect_ns.is_none() {
                self.tally.first_connect_ns = Some(host::now_ns());
            }
            let room = room_of(self.next, self.share.rooms, self.share.crowd);
            let peer = Peer::new(room, self.numbers.next());
            match self.peers.get_mut(conn.slot as usize) {
                // The slot of a connection that failed; publishing has not begun.
                Some(gone) => *gone = peer,
                None => self.peers.push(peer),
            }
            self.next += 1;
            self.in_flight += 1;
        }
    }

    fn source(&self, connection: u32) -> SocketAddrV4 {
        let Some(base) = self.share.source_base else {
            return SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        };
        let group = (connection - self.share.connections.start) / CONNECTIONS_PER_SOURCE;
        let [a, b, _, _] = base.octets();
        SocketAddrV4::new(
            Ipv4Addr::new(a, b, 1 + self.share.worker as u8, 1 + group as u8),
            0,
        )
    }

    fn stop_connecting(&mut self) {
        for _ in self.next..self.share.connections.end {
            self.tally.fail(Failure::Unanswered);
        }
        self.next = self.share.connections.end;
        if self.in_flight == 0 {
            return;
        }
        for peer in &mut self.peers {
            if is_under_way(peer.stage()) {
                // Its socket is closed when it is heard of again.
                peer.end();
                self.in_flight -= 1;
                self.tally.fail(Failure::Unanswered);
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected { conn } => self.handle_connected(conn),
            Event::ConnectFailed { conn, errno } => self.fail(conn, Failure::Connect(errno)),
            Event::Received { conn, loan } => self.handle_received(conn, loan),
            Event::Ended { conn, errno: None } => self.fail(conn, Failure::Ended),
            Event::Ended {
                conn,
                errno: Some(errno),
            } => self.fail(conn, Failure::Receive(errno)),
            Event::Sent { conn } => {
                if let Some(kept) = self.peers[conn.slot as usize].take_kept() {
                    self.send(conn, &kept);
                }
            }
            Event::SendFailed { conn, errno } => self.fail(conn, Failure::Send(errno)),
            Event::Closed { .. } | Event::Bell => {}
            Event::Accepted { .. } => unreachable!("a ring without listener accepts nothing"),
        }
    }

    fn handle_connected(&mut self, conn: ConnId) {
        let peer = &mut self.peers[conn.slot as usize];
        if let Stage::Gone { .. } = peer.stage() {
            self.sockets.close(conn);
            return;
        }
        self.out.clear();
        peer.handle_connected(&self.share.context, &mut self.out);
        self.send_out(conn);
    }

    fn handle_received(&mut self, conn: ConnId, loan: Loan) {
        let peer = &mut self.peers[conn.slot as usize];
        let was_under_way = is_under_way(peer.stage());
        let now_ns = host::now_ns();
        self.tally.received_bytes += loan.len() as u64;
        self.out.clear();
        let handled = match peer.stage() {
            Stage::Gone { .. } => {
                self.sockets.recycle(loan);
                self.sockets.close(conn);
                return;
            }
            _ => peer.handle_bytes(
                self.sockets.bytes(&loan),
                now_ns,
                &self.share.context,
                &mut self.tally,
                &mut self.out,
            ),
        };
        let is_subscribed = matches!(peer.stage(), Stage::Subscribed);
        self.sockets.recycle(loan);
        if was_under_way && is_subscribed {
            self.in_flight -= 1;
            self.tally.subscribed += 1;
            self.tally.last_subscribed_ns = Some(now_ns);
        }
        match handled {
            Ok(()) => self.send_out(conn),
            Err(failure) => self.fail(conn, failure),
        }
    }

    /// Counts the failure, once, and closes.
    fn fail(&mut self, conn: ConnId, failure: Failure) {
        let before = self.peers[conn.slot as usize].end();
        if is_under_way(&before) {
            self.in_flight -= 1;
        }
        if !matches!(before, Stage::Gone { .. }) {
            self.tally.fail(failure);
        }
        self.sockets.close(conn);
    }

    fn send_out(&mut self, conn: ConnId) {
        if self.out.is_empty() {
            return;
        }
        let out = std::mem::take(&mut self.out);
        if self.sockets.is_idle(conn) {
            self.send(conn, &out);
        } else {
            self.peers[conn.slot as usize].keep(&out);
        }
        self.out = out;
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let chunk = self.chunks.take(bytes.len());
        chunk.append(bytes);
        let part = Part::new(&chunk, 0, bytes.len());
        self.sockets.send(conn, Payload::One(part));
        self.chunks.release(chunk);
    }

    /// Counts what was lost of `published` publications, which went to the rooms in turn.
    fn finish(mut self, published: u64) -> Tally {
        for peer in &self.peers {
            self.tally.lost += peer.lost(publications_of(peer.room(), self.share.rooms, published));
        }
        self.tally.enobufs = self.sockets.counts().0.enobufs;
        self.tally
    }
}

/// The room of a connection: in turn, after a crowd that is all in room 0 and leaves the other rooms
/// to the others.
pub(crate) fn room_of(connection: u32, rooms: u32, crowd: u32) -> u32 {
    match crowd {
        0 => connection % rooms,
        _ if connection < crowd => 0,
        _ => 1 + (connection - crowd) % (rooms - 1),
    }
}

/// Publications of one room, when `published` went to `rooms` rooms in turn, room 0 first.
pub(crate) fn publications_of(room: u32, rooms: u32, published: u64) -> u32 {
    let (each, more) = (published / u64::from(rooms), published % u64::from(rooms));
    each as u32 + u32::from(u64::from(room) < more)
}

fn is_under_way(stage: &Stage) -> bool {
    matches!(
        stage,
        Stage::Connecting | Stage::Upgrading(_) | Stage::Joining { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_a_room_of_its_own() {
        let rooms = |crowd| -> Vec<u32> { (0..5).map(|i| room_of(i, 3, crowd)).collect() };
        assert_eq!(rooms(0), [0, 1, 2, 0, 1]);
        assert_eq!(rooms(2), [0, 0, 1, 2, 1]);
    }

    #[test]
    fn publications_in_turn_reach_the_first_rooms_first() {
        let of = |published| -> Vec<u32> {
            (0..3)
                .map(|room| publications_of(room, 3, published))
                .collect()
        };
        let expected = [[0, 0, 0], [1, 1, 0], [2, 2, 2]];
        assert_eq!([of(0), of(2), of(6)], expected);
    }
}
