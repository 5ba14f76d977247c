//! A worker: one thread, its share of the clients, and what happens to them.
//!
//! Plain sockets with epoll and not the driver's ring: a ring's multishot receive cannot stop reading,
//! which is what a half-open client does, and its sockets cannot be told to reset.

use super::client::{Client, Context};
use super::tally::{DropKind, Tally};
use crate::clock;
use crate::rooms::publications_of;
use crate::tally::Failure;
use crate::upgrade::Numbers;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use socket2::{Domain, Socket, Type};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed};
use std::time::Duration;

/// How long a worker sleeps at most, and how often it looks at its orders.
const TURN: Duration = Duration::from_millis(20);
/// First connects are spread over this time for each 1,000 clients.
const FIRST_CONNECTS_NS: u64 = 500_000_000;
/// Back-off before a reconnect, nanoseconds: as an SDK's first attempts.
const BACK_OFF_NS: Range<u64> = 50_000_000..500_000_000;
/// One drop in so many comes soon after the connect began, within this many nanoseconds.
const SOON_ONE_IN: u64 = 8;
const SOON_NS: Range<u64> = 0..1_000_000;
/// How long a client waits until all its rooms are confirmed, nanoseconds.
const ANSWER_NS: u64 = 10_000_000_000;
/// How long a half-open socket stays, nanoseconds.
const HALF_OPEN_NS: Range<u64> = 1_000_000_000..8_000_000_000;
/// How long a socket stays after its close frame, nanoseconds.
const CLOSING_NS: Range<u64> = 100_000_000..1_000_000_000;

const EVENTS_MAX: usize = 256;

/// What a worker is to do.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Its clients, by their number in the run.
    pub(super) clients: Range<u32>,
    /// Rooms of the run.
    pub(super) rooms: u32,
    /// Rooms of each client.
    pub(super) rooms_each: u32,
    /// Where the connections go.
    pub(super) target: SocketAddrV4,
    /// Mean time from a connect to the drop, nanoseconds.
    pub(super) drop_every_ns: u64,
    /// What its clients need to know.
    pub(super) context: Arc<Context>,
}

/// What others see of a running worker, and its orders.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Clients that are subscribed to all their rooms.
    pub(super) back: AtomicU32,
    /// Clients that are at the end of all their rooms, once `quiet`.
    pub(super) at_end: AtomicU32,
    /// Clients dropped.
    pub(super) drops: AtomicU64,
    /// Publications delivered.
    pub(super) delivered: AtomicU64,
    /// Order: drop clients from now on.
    pub(super) dropping: AtomicBool,
    /// Order: drop no more, and see whether clients come to the end of their rooms.
    pub(super) quiet: AtomicBool,
    /// Order: end.
    pub(super) stop: AtomicBool,
    /// Publications of the run, set before `quiet`. They went to the rooms in turn.
    pub(super) published: AtomicU64,
}

/// Something to do at its time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Client connects.
    Connect { index: usize },
    /// Client is dropped, if the connection is still this one.
    Drop { index: usize, connection: u32 },
    /// Client has all its rooms, or the connection is a failed one.
    Answered { index: usize, connection: u32 },
    /// The socket in this slot of the parked ones is closed.
    Unpark { slot: usize },
}

/// A client and its socket.
struct Seat {
    client: Client,
    link: Option<Link>,
    /// Number of its connection, from 1; 0 before the first.
    connection: u32,
    is_back: bool,
    drops: u32,
}

/// The socket of a client.
struct Link {
    socket: Socket,
    is_connected: bool,
    /// Whether all rooms were confirmed on it.
    was_back: bool,
    /// When its connect began, nanoseconds.
    since_ns: u64,
    /// Bytes that the socket did not take.
    unsent: Vec<u8>,
}

struct Worker {
    epoll: OwnedFd,
    seats: Vec<Seat>,
    /// Sockets that are neither read nor closed.
    parked: Vec<Option<Socket>>,
    free_slots: Vec<usize>,
    dues: BinaryHeap<Reverse<(u64, Due)>>,
    numbers: Numbers,
    is_dropping: bool,
    input: Box<[u8]>,
    /// What the client that is being handled wants to send.
    out: Vec<u8>,
    tally: Tally,
    share: Share,
}

/// Runs a worker until it is told to stop. The error is the operating system's.
pub(super) fn run(share: Share, progress: &Progress) -> io::Result<Tally> {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let seats = share.clients.clone().map(|number| Seat {
        client: Client::new(rooms_of(number, share.rooms, share.rooms_each)),
        link: None,
        connection: 0,
        is_back: false,
        drops: 0,
    });
    let mut worker = Worker {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        seats: seats.collect(),
        parked: Vec::new(),
        free_slots: Vec::new(),
        dues: BinaryHeap::new(),
        numbers: Numbers::new(seed),
        is_dropping: false,
        input: vec![0; 64 * 1024].into_boxed_slice(),
        out: Vec::new(),
        tally: Tally::new(),
        share,
    };
    worker.run(progress)?;
    Ok(worker.tally)
}

/// The rooms of a client: spread over all, and not the same for all clients with one in common.
pub(super) fn rooms_of(client: u32, rooms: u32, rooms_each: u32) -> impl Iterator<Item = u32> {
    // Steps are small enough that no room comes twice.
    let step = 1 + client / rooms % (rooms / rooms_each);
    (0..rooms_each).map(move |turn| (client + turn * step) % rooms)
}

impl Worker {
    fn run(&mut self, progress: &Progress) -> io::Result<()> {
        let spread_ns = (FIRST_CONNECTS_NS * self.seats.len() as u64 / 1_000).max(1);
        for index in 0..self.seats.len() {
            self.in_time(0..spread_ns, Due::Connect { index });
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !progress.stop.load(Acquire) {
            self.take_orders(progress);
            self.wait(&mut events)?;
            for event in events.drain(..) {
                self.handle_event(event);
            }
            let now_ns = clock::now_ns();
            while let Some(Reverse((due_ns, _))) = self.dues.peek()
                && *due_ns <= now_ns
            {
                if let Some(Reverse((_, due))) = self.dues.pop() {
                    self.handle_due(due)?;
                }
            }
            let back = self.seats.iter().filter(|seat| seat.is_back).count();
            progress.back.store(back as u32, Relaxed);
            let drops = self.tally.drops;
            let drops = drops.reset + drops.close_frame + drops.half_open;
            progress.drops.store(drops, Relaxed);
            let delivered = self.tally.deliveries.delivered;
            progress.delivered.store(delivered, Relaxed);
        }
        self.finish(progress.published.load(Relaxed));
        Ok(())
    }

    fn take_orders(&mut self, progress: &Progress) {
        let is_quiet = progress.quiet.load(Acquire);
        let was_dropping = self.is_dropping;
        self.is_dropping = progress.dropping.load(Relaxed) && !is_quiet;
        if self.is_dropping && !was_dropping {
            for index in 0..self.seats.len() {
                self.plan_drop(index);
            }
        }
        if is_quiet {
            let published = progress.published.load(Relaxed);
            let at_end = self.at_end(published).count();
            progress.at_end.store(at_end as u32, Relaxed);
        }
    }

    fn at_end(&self, published: u64) -> impl Iterator<Item = &Seat> {
        let rooms = self.share.rooms;
        let each = move |room| publications_of(room, rooms, published);
        self.seats
            .iter()
            .filter(move |seat| seat.is_back && seat.client.is_at_end(each))
    }

    /// Counts what is missing of `published` publications, which went to the rooms in turn.
    fn finish(&mut self, published: u64) {
        let rooms = self.share.rooms;
        let each = |room| publications_of(room, rooms, published);
        let lost = self.seats.iter().map(|seat| seat.client.lost(each));
        let lost: u64 = lost.sum();
        let behind = self.seats.len() - self.at_end(published).count();
        let never = self.seats.iter().filter(|seat| seat.drops == 0).count();
        self.tally.deliveries.lost = lost;
        self.tally.behind = behind as u64;
        self.tally.never_dropped = never as u64;
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let next_ns = self.dues.peek().map_or(u64::MAX, |due| due.0.0);
        let wait_ns = next_ns.saturating_sub(clock::now_ns());
        let wait = Duration::from_nanos(wait_ns).min(TURN);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let room = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, room, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn handle_due(&mut self, due: Due) -> io::Result<()> {
        match due {
            Due::Connect { index } => self.connect(index)?,
            Due::Drop { index, connection } if self.is_dropping => {
                if self.seats[index].connection == connection && self.seats[index].link.is_some() {
                    self.drop_client(index);
                }
            }
            Due::Drop { .. } => {}
            Due::Answered { index, connection } => {
                let seat = &self.seats[index];
                let is_waiting = seat.link.is_some() && !seat.is_back;
                if seat.connection == connection && is_waiting {
                    self.fail(index, Failure::Unanswered);
                }
            }
            Due::Unpark { slot } => {
                self.parked[slot] = None;
                self.free_slots.push(slot);
            }
        }
        Ok(())
    }

    fn in_time(&mut self, after_ns: Range<u64>, due: Due) {
        let random_ns = self.numbers.next() % (after_ns.end - after_ns.start);
        let at_ns = clock::now_ns() + after_ns.start + random_ns;
        self.dues.push(Reverse((at_ns, due)));
    }

    /// A drop comes at any time, and now and then so soon that it hits the connect or the recovery.
    fn plan_drop(&mut self, index: usize) {
        let connection = self.seats[index].connection;
        let after_ns = match self.numbers.next() % SOON_ONE_IN {
            0 => SOON_NS,
            _ => 0..2 * self.share.drop_every_ns,
        };
        self.in_time(after_ns, Due::Drop { index, connection });
    }

    fn connect(&mut self, index: usize) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        // However it ends, it leaves no port behind that waits: there are hundreds per second.
        socket.set_linger(Some(Duration::ZERO))?;
        let seat = &mut self.seats[index];
        seat.connection += 1;
        let connection = seat.connection;
        let began = socket.connect(&self.share.target.into());
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let name = EventData::new_u64(u64::from(connection) << 32 | index as u64);
        epoll::add(&self.epoll, &socket, name, both)?;
        seat.link = Some(Link {
            socket,
            is_connected: false,
            was_back: false,
            since_ns: clock::now_ns(),
            unsent: Vec::new(),
        });
        match began {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                self.fail(index, Failure::Connect(error.raw_os_error().unwrap_or(0)));
            }
            _ => {
                self.in_time(
                    ANSWER_NS..ANSWER_NS + 1,
                    Due::Answered { index, connection },
                );
                if self.is_dropping {
                    self.plan_drop(index);
                }
            }
        }
        Ok(())
    }

    /// Has the client come back after a back-off.
    fn plan_connect(&mut self, index: usize) {
        self.in_time(BACK_OFF_NS, Due::Connect { index });
    }

    /// Takes the socket of a client away from it.
    fn take_link(&mut self, index: usize) -> Option<Link> {
        let seat = &mut self.seats[index];
        if seat.link.as_ref().is_some_and(|link| !link.was_back) {
            self.tally.cut_short += 1;
        }
        seat.is_back = false;
        seat.client.leave();
        seat.link.take()
    }

    fn drop_client(&mut self, index: usize) {
        let kind = match self.numbers.next() % 3 {
            0 => DropKind::Reset,
            1 => DropKind::CloseFrame,
            _ => DropKind::HalfOpen,
        };
        self.tally.count_drop(kind);
        let seat = &mut self.seats[index];
        seat.drops += 1;
        self.out.clear();
        seat.client.write_close(&mut self.out);
        let Some(link) = self.take_link(index) else {
            return;
        };
        match kind {
            // Closed with a linger time of zero, which sends the reset.
            DropKind::Reset => {}
            DropKind::CloseFrame => {
                // One that is lost because the socket is full or broken is a half-open client.
                let _ = (&link.socket).write(&self.out);
                let _ = link.socket.shutdown(std::net::Shutdown::Write);
                self.park(link.socket, CLOSING_NS);
            }
            DropKind::HalfOpen => self.park(link.socket, HALF_OPEN_NS),
        }
        self.plan_connect(index);
    }

    /// Neither reads from the socket nor closes it for a while.
    fn park(&mut self, socket: Socket, for_ns: Range<u64>) {
        // A socket that cannot be taken out is one whose events nobody looks at.
        let _ = epoll::delete(&self.epoll, &socket);
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.parked.push(None);
            self.parked.len() - 1
        });
        self.parked[slot] = Some(socket);
        self.in_time(for_ns, Due::Unpark { slot });
    }

    /// The server's fault, or the host's.
    fn fail(&mut self, index: usize, failure: Failure) {
        self.tally.fail(failure);
        self.take_link(index);
        self.plan_connect(index);
    }

    fn handle_event(&mut self, event: epoll::Event) {
        let name = event.data.u64();
        let (index, connection) = ((name & 0xffff_ffff) as usize, (name >> 32) as u32);
        let Some(seat) = self.seats.get(index) else {
            return;
        };
        if seat.connection != connection || seat.link.is_none() {
            return;
        }
        if let Err(failure) = self.serve(index) {
            self.fail(index, failure);
        }
    }

    /// Does all that the socket allows: events come once for each change.
    fn serve(&mut self, index: usize) -> Result<(), Failure> {
        let seat = &mut self.seats[index];
        let Some(link) = &mut seat.link else {
            return Ok(());
        };
        self.out.clear();
        if !link.is_connected {
            if let Ok(Some(error)) = link.socket.take_error() {
                return Err(Failure::Connect(error.raw_os_error().unwrap_or(0)));
            }
            if link.socket.peer_addr().is_err() {
                return Ok(());
            }
            link.is_connected = true;
            let seed = self.numbers.next();
            seat.client
                .handle_connected(seed, &self.share.context, &mut self.out);
        }
        loop {
            let count = match (&link.socket).read(&mut self.input) {
                Ok(0) => return Err(Failure::Ended),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Receive(error.raw_os_error().unwrap_or(0))),
            };
            seat.client.handle_bytes(
                &mut self.input[..count],
                &self.share.context,
                &mut self.tally,
                &mut self.out,
            )?;
        }
        link.send(&self.out)?;
        let is_back = seat.client.is_back();
        if is_back && !link.was_back && seat.connection > 1 {
            self.tally.reconnects += 1;
            let took_ns = clock::now_ns().saturating_sub(link.since_ns);
            self.tally.back.saturating_record(took_ns);
        }
        link.was_back |= is_back;
        seat.is_back = is_back;
        Ok(())
    }
}

impl Link {
    /// Sends, after what could not be sent before, and keeps what the socket does not take.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.unsent.extend_from_slice(bytes);
        while !self.unsent.is_empty() {
            match (&self.socket).write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Send(error.raw_os_error().unwrap_or(0))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_client_has_its_rooms_once_each_and_every_room_has_clients() {
        for (rooms, rooms_each) in [(200, 2), (20, 3), (2, 2), (1, 1), (7, 5)] {
            let mut all = BTreeSet::new();
            for client in 0..500 {
                let own: BTreeSet<u32> = rooms_of(client, rooms, rooms_each).collect();
                assert_eq!(own.len() as u32, rooms_each, "{client} of {rooms}");
                all.extend(own);
            }
            assert_eq!(all.len() as u32, rooms);
        }
    }
}
