//! A worker: one thread, one ring, its share of the connections.
//!
//! The loop starts connects up to a bound, does what is due, submits and waits, and handles what came.
//! What the other threads may know of it is in [`Progress`], and a doorbell wakes it when it is to stop.
//! A connection that fails is counted and not tried again, unless it was dropped on purpose before.

mod due;
mod lost;
mod progress;

pub(crate) use progress::{Progress, Slack, Totals};

use crate::clock;
use crate::payload::Maker;
use crate::peer::{Context, Peer, Since, Stage};
use crate::rooms::room_of;
use crate::schedule::Schedule;
use crate::source::Sources;
use crate::tally::{Failure, Interval, Tally, record};
use crate::upgrade::Numbers;
use due::{Due, Dues};
use lost::Left;
use ringcast::base::ConnId;
use ringcast::base::chunk::{ChunkPool, Part};
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::sockets::{Event, Sockets};
use ringcast::driver::uring::{Uring, UringSetup};
use ringcast::driver::{Loan, Payload, Wait};
use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Connections of one worker, so that its file table stays within common descriptor limits.
pub(crate) const CONNECTIONS_PER_WORKER: u32 = 15_000;

/// How long a worker sleeps at most when nothing happens.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// Peers that left and are remembered, 48 bytes each. Of further ones only the gaps are counted.
const LEFT_MAX: usize = 1 << 20;
/// Publications of clients that are sent before the ring is looked after again.
const PUBLISH_MAX: u32 = 256;
/// How long until a connect is tried again that found no free slot, nanoseconds.
const SLOT_WAIT_NS: u64 = 1_000_000;

/// What a worker is to do.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Number of the worker in its process: its doorbell.
    pub(crate) worker: u16,
    /// Where its connections come from.
    pub(crate) sources: Sources,
    /// Core that it is pinned to.
    pub(crate) core: Option<core_affinity::CoreId>,
    /// Its connections, by their number in the run.
    pub(crate) connections: Range<u32>,
    /// Connections of the run.
    pub(crate) all_connections: u32,
    /// Rooms of the run.
    pub(crate) rooms: u32,
    /// Connections of the run that all subscribe to room 0, see [`room_of`].
    pub(crate) crowd: u32,
    /// Where the connections go.
    pub(crate) target: SocketAddrV4,
    /// Connections under way at a time.
    pub(crate) in_flight_max: u32,
    /// Time over which the connects are spread, nanoseconds.
    pub(crate) ramp_ns: u64,
    /// Mean life of a connection, nanoseconds; `None`: for ever.
    pub(crate) life_ns: Option<u64>,
    /// When clients publish: publication k of the run is due to connection k modulo all.
    pub(crate) chat: Option<Arc<Chat>>,
    /// What its peers need to know.
    pub(crate) context: Arc<Context>,
}

/// What clients publish.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chat {
    /// When.
    pub(crate) schedule: Schedule,
    /// Bytes of one payload.
    pub(crate) payload_bytes: usize,
}

/// Runs a worker until it is told to stop. What it counted goes to `results`: before its ring is torn
/// down, which takes the kernel seconds with many sockets. The error is the driver's, in the
/// operator's words.
pub(crate) fn run(
    share: Share,
    progress: &Progress,
    bells: Doorbells,
    intervals: Sender<Interval>,
    results: &Sender<Result<Tally, String>>,
) {
    let finished = set_up(share, progress, bells, intervals);
    // Nobody listens once another worker has failed.
    match finished {
        Ok(mut worker) => {
            worker.run(progress);
            let tally = std::mem::replace(&mut worker.tally, Tally::new());
            let _ = results.send(Ok(tally));
        }
        Err(error) => drop(results.send(Err(error))),
    }
}

fn set_up(
    share: Share,
    progress: &Progress,
    bells: Doorbells,
    intervals: Sender<Interval>,
) -> Result<Worker, String> {
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
    while !progress.start.load(Acquire) && !progress.stop.load(Acquire) {
        std::thread::park();
    }
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), share.worker);
    let payload_bytes = share.chat.as_ref().map_or(64, |chat| chat.payload_bytes);
    Ok(Worker {
        sockets: Sockets::new(ring),
        peers: Vec::with_capacity(share.connections.len()),
        conns: Vec::with_capacity(share.connections.len()),
        next: share.connections.start,
        in_flight: 0,
        there: 0,
        started_ns: clock::now_ns(),
        now_ns: clock::now_ns(),
        left: Vec::new(),
        slots: match share.chat {
            Some(_) => vec![u32::MAX; share.connections.len()],
            None => Vec::new(),
        },
        numbers: Numbers::new(seed),
        dues: Dues::default(),
        next_publication: u64::from(share.connections.start),
        maker: Maker::new(payload_bytes),
        out: Vec::with_capacity(1024),
        chunks: ChunkPool::default(),
        tally: Tally::new(),
        intervals,
        share,
    })
}

struct Worker {
    sockets: Sockets<Uring>,
    /// By slot of the file table.
    peers: Vec<Peer>,
    /// By slot: the connection that the peer is on.
    conns: Vec<ConnId>,
    /// By connection: its slot, where clients publish. One that failed has left its slot to another.
    slots: Vec<u32>,
    /// Next connection to be started.
    next: u32,
    /// Connections started and neither subscribed nor failed.
    in_flight: u32,
    /// Connections that are subscribed.
    there: u32,
    /// When the first connect was due, nanoseconds.
    started_ns: u64,
    /// When this turn began, nanoseconds.
    now_ns: u64,
    /// Peers that left on purpose; what they missed is known when the run is over.
    left: Vec<Left>,
    numbers: Numbers,
    /// What comes later.
    dues: Dues,
    /// The next of the run's publications that is one of this worker's connections'.
    next_publication: u64,
    maker: Maker,
    /// What the peer that is being handled wants to send.
    out: Vec<u8>,
    /// Memory of sends; reused, so that answering pings allocates nothing.
    chunks: ChunkPool,
    tally: Tally,
    intervals: Sender<Interval>,
    share: Share,
}

impl Worker {
    fn run(&mut self, progress: &Progress) {
        let mut second = 0;
        while !progress.stop.load(Acquire) {
            self.drop_when_told(progress);
            let first_ns = self.start_connects();
            let publish_ns = self.publish(progress);
            self.do_what_is_due(progress);
            let wake_ns = self.dues.next_ns().min(first_ns).min(publish_ns);
            let wait_ns = wake_ns.saturating_sub(clock::now_ns());
            let wait = Duration::from_nanos(wait_ns).min(IDLE_WAIT);
            self.sockets.submit(match wait.is_zero() {
                true => Wait::No,
                false => Wait::UpTo(wait),
            });
            // Before what came is counted: a thread that had no core finds both at the same time.
            self.take_orders(progress);
            self.now_ns = clock::now_ns();
            let mut events = 0;
            while let Some(event) = self.sockets.next_event() {
                self.handle_event(event);
                events += 1;
            }
            let end_ns = clock::now_ns();
            self.tally.turn(events, end_ns - self.now_ns);
            self.now_ns = end_ns;
            let tally = &mut self.tally;
            if end_ns / 1_000_000_000 != second {
                if let Some(interval) = tally.take_interval(second) {
                    // Nobody listens any more once the course is complete.
                    let _ = self.intervals.send(interval);
                }
                second = end_ns / 1_000_000_000;
            }
            let started = self.next - self.share.connections.start;
            progress
                .settled
                .store(started - self.in_flight.min(started), Relaxed);
            progress.subscribed.store(tally.subscribed as u32, Relaxed);
            progress.there.store(self.there, Relaxed);
            progress.failed.store(tally.failed() as u32, Relaxed);
            progress.back.store(tally.back, Relaxed);
            progress.dropped.store(tally.dropped, Relaxed);
            progress.delivered.store(tally.delivered, Relaxed);
            progress.published.store(tally.published, Relaxed);
            let latency_ns_max = tally.latency_ns_max;
            progress.latency_ns_max.store(latency_ns_max, Relaxed);
        }
        if let Some(interval) = self.tally.take_interval(second) {
            let _ = self.intervals.send(interval);
        }
        if let Some(totals) = progress.totals.get() {
            self.count_lost(totals);
        }
        self.tally.enobufs = self.sockets.counts().0.enobufs;
    }

    /// After what came before was counted: nobody can tell what a peer has missed otherwise.
    fn drop_when_told(&mut self, progress: &Progress) {
        let count = progress.drop_count.swap(0, Relaxed);
        if count > 0 {
            self.drop_many(count);
        }
    }

    fn take_orders(&mut self, progress: &Progress) {
        if progress.stop_connecting.swap(false, Relaxed) {
            self.stop_connecting();
        }
        let steady_to_ns = progress.steady_to_ns.load(Acquire);
        if steady_to_ns > 0 {
            self.tally.steady_ns = (progress.steady_from_ns.load(Relaxed), steady_to_ns);
        }
        if progress.churn.load(Relaxed)
            && let Some(life_ns) = self.share.life_ns.take()
        {
            self.dues.life_ns = Some(life_ns);
            for slot in 0..self.peers.len() {
                if matches!(self.peers[slot].stage(), Stage::Subscribed) {
                    self.plan_leave(self.conns[slot], life_ns);
                }
            }
        }
        if progress.quiet.load(Relaxed) && progress.sent.get().is_none() {
            self.next_publication = u64::MAX;
            self.dues.life_ns = None;
            self.dues.clear_leaves();
            let mut sent = vec![0; self.share.connections.len()];
            for peer in &self.peers {
                let index = peer.connection() - self.share.connections.start;
                sent[index as usize] = peer.sent();
            }
            let _ = progress.sent.set(sent);
        }
        if let Some(totals) = progress.foretell.get()
            && progress.expected.get().is_none()
        {
            let more = lost::still_to_come(&self.peers, totals, self.share.rooms);
            let _ = progress.expected.set(self.tally.delivered + more);
        }
    }

    /// Starts the connects that are due and may be under way. When the next is due.
    fn start_connects(&mut self) -> u64 {
        while self.next < self.share.connections.end {
            let index = u64::from(self.next - self.share.connections.start);
            let after_ns = self.share.ramp_ns * index / self.share.connections.len() as u64;
            let due_ns = self.started_ns + after_ns;
            if due_ns > self.now_ns {
                return due_ns;
            }
            if self.in_flight >= self.share.in_flight_max {
                return u64::MAX;
            }
            let since_ns = match self.share.ramp_ns {
                0 => clock::now_ns(),
                _ => due_ns,
            };
            let connection = self.next;
            self.next += 1;
            let is_started = self.connect(connection, since_ns, Since::Start);
            assert!(is_started, "the table has a slot for each connection");
        }
        u64::MAX
    }

    fn connect(&mut self, connection: u32, since_ns: u64, since: Since) -> bool {
        let index = connection - self.share.connections.start;
        let source = self.share.sources.of(connection, index);
        let Some(conn) = self
            .sockets
            .connect(source.into(), self.share.target.into())
        else {
            return false;
        };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = conn.slot;
        }
        self.tally.first_connect_ns.get_or_insert(since_ns);
        let room = room_of(connection, self.share.rooms, self.share.crowd);
        let publishers = self.share.context.publishers;
        let mut peer = Peer::new(connection, room, self.numbers.next(), since, publishers);
        peer.since_ns = since_ns;
        match self.peers.get_mut(conn.slot as usize) {
            // The slot of a connection that is gone and was counted.
            Some(gone) => {
                self.tally.lost += match gone.stage() {
                    // Whatever it missed cannot be told any more than what was missing then.
                    Stage::Gone { misses: true } => gone.gaps(),
                    _ => 0,
                };
                *gone = peer;
                self.conns[conn.slot as usize] = conn;
            }
            None => {
                self.peers.push(peer);
                self.conns.push(conn);
            }
        }
        self.in_flight += 1;
        true
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
            if peer.is_under_way() && peer.since() == Since::Start {
                // Its socket is closed when it is heard of again.
                peer.end();
                self.in_flight -= 1;
                self.tally.fail(Failure::Unanswered);
            }
        }
    }

    /// Sends the publications of clients that are due. When the next one is due.
    fn publish(&mut self, progress: &Progress) -> u64 {
        let Some(chat) = &self.share.chat else {
            return u64::MAX;
        };
        let chat = Arc::clone(chat);
        let start_ns = progress.publish_from_ns.load(Relaxed);
        let all = u64::from(self.share.all_connections);
        let mut count = 0;
        while start_ns > 0 && self.next_publication < chat.schedule.publications() {
            let due_ns = start_ns + chat.schedule.due_ns(self.next_publication).unwrap_or(0);
            let now_ns = clock::now_ns();
            if due_ns > now_ns || count == PUBLISH_MAX {
                return due_ns;
            }
            count += 1;
            let connection = (self.next_publication % all) as u32;
            self.publish_one(connection, due_ns, now_ns);
            self.next_publication += match connection + 1 == self.share.connections.end {
                true => all - self.share.connections.len() as u64 + 1,
                false => 1,
            };
        }
        u64::MAX
    }

    fn publish_one(&mut self, connection: u32, due_ns: u64, now_ns: u64) {
        let index = (connection - self.share.connections.start) as usize;
        let slot = self.slots[index] as usize;
        // One that failed, or never came up, has nothing to publish.
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        if peer.connection() != connection {
            return;
        }
        self.out.clear();
        let context = &self.share.context;
        let member = connection / self.share.rooms;
        let to = (&mut self.tally, &mut self.out);
        if peer.publish(due_ns, now_ns, member, context, &mut self.maker, to) {
            self.send_out(self.conns[slot]);
        }
    }

    fn do_what_is_due(&mut self, progress: &Progress) {
        let is_quiet = progress.quiet.load(Relaxed);
        while let Some((_, due)) = self.dues.pop(self.now_ns) {
            match due {
                Due::Leave { conn } if !is_quiet => self.leave(conn),
                Due::Leave { .. } => {}
                Due::Connect {
                    connection,
                    attempt,
                    since_ns,
                } => {
                    if !self.connect(connection, since_ns, Since::Later) {
                        let at_ns = self.now_ns + SLOT_WAIT_NS;
                        self.dues.push(
                            at_ns,
                            Due::Connect {
                                connection,
                                attempt,
                                since_ns,
                            },
                        );
                    } else if attempt > 0 {
                        self.dues.attempts.insert(connection, attempt);
                    }
                }
            }
        }
    }

    fn plan_leave(&mut self, conn: ConnId, life_ns: u64) {
        let at_ns = self.now_ns + self.numbers.next() % (2 * life_ns).max(1);
        self.dues.push(at_ns, Due::Leave { conn });
    }

    /// One connection closes as an application would, and comes again at once.
    fn leave(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.conns[slot] != conn || !matches!(self.peers[slot].stage(), Stage::Subscribed) {
            return;
        }
        self.out.clear();
        self.peers[slot].write_close(&mut self.out);
        if self.sockets.is_idle(conn) {
            self.send_out(conn);
        }
        let connection = self.drop_one(conn);
        let since_ns = self.now_ns;
        self.dues.push(
            since_ns,
            Due::Connect {
                connection,
                attempt: 0,
                since_ns,
            },
        );
    }

    /// Takes the peer of a subscribed connection out, and closes. The number of the connection.
    fn drop_one(&mut self, conn: ConnId) -> u32 {
        let peer = &mut self.peers[conn.slot as usize];
        match peer.take_order() {
            Some(order) if self.left.len() < LEFT_MAX => self.left.push(Left {
                room: peer.room(),
                since: peer.since(),
                since_ns: peer.since_ns,
                leaves_ns: self.now_ns,
                order,
            }),
            _ => self.tally.lost += peer.gaps(),
        }
        peer.drop_out();
        self.tally.dropped += 1;
        self.there -= 1;
        let connection = peer.connection();
        self.sockets.close(conn);
        connection
    }

    /// So many connections of the run break off, all at once.
    fn drop_many(&mut self, count: u32) {
        self.now_ns = clock::now_ns();
        let all = self.share.all_connections;
        for slot in 0..self.peers.len() {
            let is_hit = is_among(self.peers[slot].connection(), count, all);
            if is_hit && matches!(self.peers[slot].stage(), Stage::Subscribed) {
                let connection = self.drop_one(self.conns[slot]);
                self.plan_reconnect(connection, 0, self.now_ns);
            }
        }
    }

    fn plan_reconnect(&mut self, connection: u32, attempt: u32, since_ns: u64) {
        let at_ns = self.now_ns + due::back_off_ns(attempt, self.numbers.next());
        self.dues.push(
            at_ns,
            Due::Connect {
                connection,
                attempt: attempt + 1,
                since_ns,
            },
        );
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
        let was_under_way = peer.is_under_way();
        let now_ns = clock::now_ns();
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
        self.sockets.recycle(loan);
        if was_under_way && matches!(self.peers[conn.slot as usize].stage(), Stage::Subscribed) {
            self.handle_subscribed(conn, now_ns);
        }
        match handled {
            Ok(()) => self.send_out(conn),
            Err(failure) => self.fail(conn, failure),
        }
    }

    fn handle_subscribed(&mut self, conn: ConnId, now_ns: u64) {
        let peer = &mut self.peers[conn.slot as usize];
        let took_ns = now_ns.saturating_sub(peer.since_ns);
        peer.since_ns = now_ns;
        self.in_flight -= 1;
        self.there += 1;
        match peer.since() {
            Since::Start => {
                self.tally.subscribed += 1;
                self.tally.last_subscribed_ns = Some(now_ns);
                record(&mut self.tally.connect_latency, took_ns);
            }
            Since::Later => {
                self.tally.back += 1;
                record(&mut self.tally.back_latency, took_ns);
                self.tally.back_ns_max = self.tally.back_ns_max.max(took_ns);
                self.dues.attempts.remove(&peer.connection());
            }
        }
        if let Some(life_ns) = self.dues.life_ns {
            self.plan_leave(conn, life_ns);
        }
    }

    /// Counts the failure, once, and closes. One that had dropped tries again.
    fn fail(&mut self, conn: ConnId, failure: Failure) {
        let peer = &mut self.peers[conn.slot as usize];
        let was_under_way = peer.is_under_way();
        let since = peer.since();
        let before = peer.end();
        self.in_flight -= u32::from(was_under_way);
        self.there -= u32::from(matches!(before, Stage::Subscribed));
        if !matches!(before, Stage::Gone { .. }) {
            let peer = &self.peers[conn.slot as usize];
            let (connection, since_ns) = (peer.connection(), peer.since_ns);
            if was_under_way && since == Since::Later {
                *self.tally.retries.entry(failure).or_default() += 1;
                let attempt = self.dues.attempts.get(&connection).copied().unwrap_or(1);
                self.plan_reconnect(connection, attempt, since_ns);
            } else {
                self.tally.fail(failure);
            }
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

    fn count_lost(&mut self, totals: &Totals) {
        let rooms = self.share.rooms;
        for left in &self.left {
            self.tally.lost += lost::by_left(left, totals, rooms);
        }
        for peer in &self.peers {
            self.tally.lost += lost::by_peer(peer, totals, rooms);
        }
    }
}

/// Whether a connection is among `count` of `all`, spread over the rooms: of all connections exactly so many are.
fn is_among(connection: u32, count: u32, all: u32) -> bool {
    // A prime above all numbers of connections: what it makes of them modulo `all` is each place once.
    const PRIME: u64 = 2_654_435_761;
    u64::from(connection) * PRIME % u64::from(all) < u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_among_some_as_there_are_to_be() {
        for (count, all) in [(1, 20), (7, 20), (20, 20), (500, 1_000), (333, 4_321)] {
            let among = (0..all).filter(|connection| is_among(*connection, count, all));
            assert_eq!(among.count() as u32, count, "{count} of {all}");
        }
        // Half of those of 10 rooms are not all of 5 rooms.
        let of_room =
            |room: u32| (0..100u32).filter(move |turn| is_among(turn * 10 + room, 500, 1_000));
        assert!((0..10).all(|room| (30..70).contains(&of_room(room).count())));
    }
}
