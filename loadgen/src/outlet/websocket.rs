//! A client over WebSocket that publishes in the dialect of the other clients: for servers where clients
//! publish, whatever other way in they have.
//!
//! Where the path says the room, there is one connection per room. Otherwise there is one, subscribed to a
//! room of its own, because the handshake of a dialect ends with a subscription. Where the dialect has no
//! answer to a publication, one is confirmed once it was written.
//!
//! The sockets do not block: a server that echoes stops reading when nobody reads what it sends, so
//! whatever waits for a socket to take more reads from all of them meanwhile. So does a flush when nobody
//! has for a while, because servers ping, and end connections that do not answer.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::{Dialect, Line, Named, Session};
use crate::tally::Failure;
use crate::upgrade;
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Connections, where each room has one.
const ROOMS_MAX: u32 = 1_000;
/// Bytes that are gathered before they are written.
const GATHERED_MAX: usize = 64 * 1024;
/// Publications of a connection whose answer has not come: fewer than there are ids, so that none is used
/// twice.
const ASKED_MAX: usize = 60_000;
const _: () = assert!(ASKED_MAX < u16::MAX as usize - 2);
/// Time after which all connections are looked at, whatever is sent.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// Payload bytes of one message from the server: as the other clients take.
const MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// The connections.
pub(crate) struct WebSocketOutlet {
    addr: SocketAddrV4,
    dialect: Arc<dyn Dialect>,
    /// By room, or one for all.
    links: Vec<Link>,
    sent: u64,
    gathered_bytes: usize,
    /// When all connections were last looked at.
    listened: Instant,
    confirmations: VecDeque<Confirmation>,
}

impl WebSocketOutlet {
    /// Connects and logs in, for `rooms` rooms.
    pub(crate) fn connect(
        addr: SocketAddrV4,
        dialect: Arc<dyn Dialect>,
        rooms: u32,
    ) -> Result<Self, String> {
        if !dialect.publishes() {
            return Err("clients of this protocol cannot publish".to_owned());
        }
        let rooms: Vec<u32> = match path_says_room(&*dialect) {
            true if rooms > ROOMS_MAX => {
                return Err(format!(
                    "--publish-by websocket: where the path is the room each room has a connection, and \
                     {rooms} rooms are more than {ROOMS_MAX}"
                ));
            }
            true => (0..rooms).collect(),
            // Nothing is published to the room behind the last.
            false => vec![rooms],
        };
        let mut links = Vec::with_capacity(rooms.len());
        for room in rooms {
            let link = Link::connect(addr, room, &*dialect);
            links.push(link.map_err(|failure| format!("publisher at {addr}: {failure}"))?);
        }
        Ok(Self {
            addr,
            dialect,
            links,
            sent: 0,
            gathered_bytes: 0,
            listened: Instant::now(),
            confirmations: VecDeque::new(),
        })
    }

    /// Reads and writes what is possible on one connection.
    fn exchange(&mut self, index: usize) -> Result<(), String> {
        let link = &mut self.links[index];
        link.exchange(&*self.dialect)
            .and_then(|()| link.take_confirmations(&mut self.confirmations))
            .map_err(|failure| format!("publisher at {}: {failure}", self.addr))
    }

    /// As [`Self::exchange`] on all connections where something is possible within `timeout`; whether
    /// there was one.
    fn pump(&mut self, timeout: Duration) -> Result<bool, String> {
        let ready = ready(&self.links, timeout).map_err(|error| error.to_string())?;
        self.listened = Instant::now();
        for index in &ready {
            self.exchange(*index)?;
        }
        Ok(!ready.is_empty())
    }

    fn pump_or_fail(&mut self) -> Result<(), String> {
        match self.pump(TIMEOUT)? {
            true => Ok(()),
            false => Err(format!(
                "publisher at {}: {}",
                self.addr,
                Failure::Unanswered
            )),
        }
    }
}

impl Outlet for WebSocketOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let index = match self.links.len() {
            1 => 0,
            _ => room as usize,
        };
        if self.links[index].asked.len() >= ASKED_MAX {
            self.flush()?;
            while self.links[index].asked.len() >= ASKED_MAX {
                self.pump_or_fail()?;
            }
        }
        let request = self.sent;
        self.sent += 1;
        self.gathered_bytes += payload.len();
        self.links[index].publish(room, payload, (request, confirm), &*self.dialect);
        if self.gathered_bytes >= GATHERED_MAX {
            self.flush()?;
        }
        Ok(request)
    }

    fn flush(&mut self) -> Result<(), String> {
        for index in 0..self.links.len() {
            if self.links[index].is_unsent() {
                self.exchange(index)?;
            }
        }
        while self.links.iter().any(Link::is_unsent) {
            self.pump_or_fail()?;
        }
        self.gathered_bytes = 0;
        if self.listened.elapsed() >= LISTEN_EVERY {
            self.pump(Duration::ZERO)?;
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        if self.confirmations.is_empty() {
            self.pump(Duration::ZERO)?;
        }
        Ok(self.confirmations.pop_front())
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.flush()?;
        loop {
            if let Some(confirmation) = self.confirmations.pop_front() {
                return Ok(confirmation);
            }
            self.pump_or_fail()?;
        }
    }

    /// Until all answers have come, and a pong on each connection: the server has read what went before.
    fn settle(&mut self) -> Result<(), String> {
        for link in &mut self.links {
            link.ping();
        }
        self.flush()?;
        while self.links.iter().any(Link::is_unsettled) {
            self.pump_or_fail()?;
        }
        Ok(())
    }
}

impl Drop for WebSocketOutlet {
    fn drop(&mut self) {
        let normal = 1000u16.to_be_bytes();
        for link in &mut self.links {
            link.hearing.send(Opcode::Close, &normal);
            // Nobody is left to hear of an error.
            let _ = link.write();
        }
    }
}

fn path_says_room(dialect: &dyn Dialect) -> bool {
    let path = |room| {
        let mut path = Vec::new();
        let session = Session {
            room,
            ..Session::default()
        };
        dialect.write_path(&session, &mut path);
        path
    };
    path(0) != path(1)
}

/// Indexes of the connections that have input, or take output that waits, within `timeout`.
fn ready(links: &[Link], timeout: Duration) -> io::Result<Vec<usize>> {
    let mut all: Vec<_> = links
        .iter()
        .map(|link| {
            let events = match link.is_unsent() {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            PollFd::new(&link.stream, events)
        })
        .collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs() as _,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut all, Some(&timeout)))?;
    let indexes = (0..).zip(&all);
    let ready = indexes.filter(|(_, fd)| !fd.revents().is_empty());
    Ok(ready.map(|(index, _)| index).collect())
}

/// One connection.
struct Link {
    stream: TcpStream,
    session: Session,
    assembler: Assembler,
    hearing: Hearing,
    /// Publications that the server answers and has not, in their order.
    asked: VecDeque<Asked>,
    /// Requests that are confirmed once all was written.
    unwritten: Vec<u64>,
    /// Pings without their pong.
    pings: u32,
}

/// A publication that waits for its answer.
struct Asked {
    /// As the dialect numbered it.
    id: u64,
    request: u64,
    confirm: Confirm,
}

impl Link {
    /// Connects and waits until the handshakes are done.
    fn connect(addr: SocketAddrV4, room: u32, dialect: &dyn Dialect) -> Result<Self, Failure> {
        let refused = |error: io::Error| Failure::Connect(error.raw_os_error().unwrap_or(0));
        let stream =
            TcpStream::connect_timeout(&SocketAddr::from(addr), TIMEOUT).map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        stream.set_nonblocking(true).map_err(refused)?;
        let seed = RandomState::new().hash_one(room);
        let mut link = Self {
            stream,
            session: Session {
                room,
                // Where connections have names, the others have theirs from 0.
                connection: u32::MAX - room,
                ..Session::default()
            },
            assembler: Assembler::with_message_max(Role::Client, MESSAGE_BYTES_MAX),
            hearing: Hearing {
                out: Vec::new(),
                mask: (seed as u32).to_ne_bytes(),
                is_subscribed: false,
                answers: Vec::new(),
            },
            asked: VecDeque::new(),
            unwritten: Vec::new(),
            pings: 0,
        };
        link.upgrade(&addr.to_string(), seed, dialect)?;
        while !link.hearing.is_subscribed {
            link.await_ready()?;
            link.exchange(dialect)?;
        }
        Ok(link)
    }

    fn upgrade(&mut self, host: &str, seed: u64, dialect: &dyn Dialect) -> Result<(), Failure> {
        let mut path = Vec::new();
        dialect.write_path(&self.session, &mut path);
        let subprotocol = dialect.subprotocol();
        upgrade::write_request(&mut self.hearing.out, host, &path, subprotocol, seed);
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        let head_bytes = loop {
            self.write()?;
            self.await_ready()?;
            head.extend_from_slice(match self.receive(&mut buffer)? {
                Some(input) => input,
                None => continue,
            });
            if let Some(head_bytes) = upgrade::check_response(&head, subprotocol, seed)? {
                break head_bytes;
            }
        };
        dialect.handle_open(&mut self.session, &mut self.hearing);
        self.handle_frames(&mut head[head_bytes..], dialect)?;
        self.write()
    }

    fn await_ready(&self) -> Result<(), Failure> {
        match ready(std::slice::from_ref(self), TIMEOUT) {
            Ok(ready) if ready.is_empty() => Err(Failure::Unanswered),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Receive(error.raw_os_error().unwrap_or(0))),
        }
    }

    fn publish(
        &mut self,
        room: u32,
        payload: &[u8],
        (request, confirm): (u64, Confirm),
        dialect: &dyn Dialect,
    ) {
        self.session.room = room;
        dialect.publish(&mut self.session, payload, &mut self.hearing);
        if dialect.confirms() {
            // Whether or not it is to be confirmed: it may be refused.
            let id = u64::from(self.session.last_id);
            self.asked.push_back(Asked {
                id,
                request,
                confirm,
            });
        } else if confirm != Confirm::No {
            self.unwritten.push(request);
        }
    }

    fn ping(&mut self) {
        self.pings += 1;
        self.hearing.send(Opcode::Ping, b"");
    }

    /// Reads what is there, so that the reason of an end is known before a write fails; then writes.
    fn exchange(&mut self, dialect: &dyn Dialect) -> Result<(), Failure> {
        let mut buffer = [0; 16 * 1024];
        while let Some(input) = self.receive(&mut buffer)? {
            self.handle_frames(input, dialect)?;
        }
        self.write()
    }

    /// What came in; `None` when nothing is there.
    fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<&'a mut [u8]>, Failure> {
        match self.stream.read(buffer) {
            Ok(0) => Err(Failure::Ended),
            Ok(count) => Ok(Some(&mut buffer[..count])),
            Err(error) if is_for_later(&error) => Ok(None),
            Err(error) => Err(Failure::Receive(error.raw_os_error().unwrap_or(0))),
        }
    }

    fn handle_frames(
        &mut self,
        mut input: &mut [u8],
        dialect: &dyn Dialect,
    ) -> Result<(), Failure> {
        while let Some(incoming) = self.assembler.next(&mut input)? {
            match incoming {
                Incoming::Message { opcode, payload } => {
                    let (session, hearing) = (&mut self.session, &mut self.hearing);
                    dialect.handle_message(session, opcode, payload, hearing)?;
                }
                Incoming::Ping(payload) => self.hearing.send(Opcode::Pong, payload),
                Incoming::Pong(_) => self.pings = self.pings.saturating_sub(1),
                Incoming::Close { code, .. } => return Err(Failure::Closed(code.unwrap_or(0))),
            }
        }
        Ok(())
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<(), Failure> {
        let out = &mut self.hearing.out;
        let mut written = 0;
        while written < out.len() {
            match self.stream.write(&out[written..]) {
                Ok(count) => written += count,
                Err(error) if is_for_later(&error) => break,
                Err(error) => return Err(Failure::Send(error.raw_os_error().unwrap_or(0))),
            }
        }
        out.drain(..written);
        Ok(())
    }

    fn take_confirmations(&mut self, to: &mut VecDeque<Confirmation>) -> Result<(), Failure> {
        if self.hearing.out.is_empty() {
            to.extend(self.unwritten.drain(..).map(Confirmation::taken));
        }
        for (id, refusal) in self.hearing.answers.drain(..) {
            // Answers come in order, or nearly so.
            let place = self.asked.iter().position(|asked| asked.id == id);
            let asked = place.and_then(|place| self.asked.remove(place));
            let asked = asked.ok_or(Failure::Message)?;
            let result = refusal.map_or(Ok(None), |code| Err(format!("error {code}")));
            if asked.confirm != Confirm::No || result.is_err() {
                let request = asked.request;
                to.push_back(Confirmation { request, result });
            }
        }
        Ok(())
    }

    fn is_unsent(&self) -> bool {
        !self.hearing.out.is_empty()
    }

    fn is_unsettled(&self) -> bool {
        self.pings > 0 || !self.asked.is_empty()
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A connection as its dialect sees it.
struct Hearing {
    /// Bytes to be written.
    out: Vec<u8>,
    mask: [u8; 4],
    is_subscribed: bool,
    /// Ids of answered publications, and the codes of refusals.
    answers: Vec<(u64, Option<u32>)>,
}

impl Line for Hearing {
    fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        write_client_frame(&mut self.out, opcode, self.mask, payload);
    }

    fn subscribed(&mut self) {
        self.is_subscribed = true;
    }

    fn publication(&mut self, _: Named, _: &[u8]) {
        // The subscribers check what comes.
    }

    fn published(&mut self, id: u64, refusal: Option<u32>) {
        self.answers.push((id, refusal));
    }

    fn pinged(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{CentrifugoJson, Topic};
    use std::net::TcpListener;
    use std::sync::Mutex;
    use std::thread::JoinHandle;
    use tungstenite::handshake::server::{Request, Response};
    use tungstenite::{Message, WebSocket};

    /// Serves so many connections, each in a thread; what the threads give.
    fn server<T: Send + 'static>(
        connections: usize,
        each: fn(WebSocket<TcpStream>, String) -> T,
    ) -> (SocketAddrV4, JoinHandle<Vec<T>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(addr) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4");
        };
        let thread = std::thread::spawn(move || {
            let streams = listener.incoming().take(connections).map(Result::unwrap);
            let threads: Vec<_> = streams
                .map(|stream| {
                    std::thread::spawn(move || {
                        let path = Mutex::new(String::new());
                        #[expect(clippy::result_large_err, reason = "as tungstenite wants it")]
                        let note = |request: &Request, response: Response| {
                            *path.lock().unwrap() = request.uri().to_string();
                            Ok(response)
                        };
                        let socket = tungstenite::accept_hdr(stream, note).unwrap();
                        each(socket, path.into_inner().unwrap())
                    })
                })
                .collect();
            let joined = threads.into_iter().map(JoinHandle::join);
            joined.map(Result::unwrap).collect()
        });
        (addr, thread)
    }

    /// The text messages until the client closes.
    fn texts(socket: &mut WebSocket<TcpStream>, each: fn(&mut WebSocket<TcpStream>, &str)) {
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                each(socket, &text);
            }
        }
    }

    fn answer(socket: &mut WebSocket<TcpStream>, text: &str) {
        socket.send(Message::text(text)).unwrap();
    }

    fn centrifugo(mut socket: WebSocket<TcpStream>, _: String) {
        texts(&mut socket, |socket, text| {
            let last = text.lines().last().unwrap();
            let command: serde_json::Value = serde_json::from_str(last).unwrap();
            let id = &command["id"];
            if command["subscribe"]["channel"] == "room-4" {
                let connected = r#"{"id":1,"connect":{"client":"c","version":"v"}}"#;
                answer(
                    socket,
                    &format!("{connected}\n{{\"id\":{id},\"subscribe\":{{}}}}"),
                );
                answer(socket, "{}");
            } else if command["publish"]["channel"] == "room-3" {
                let error = r#""error":{"code":103,"message":"permission denied"}"#;
                answer(socket, &format!("{{\"id\":{id},{error}}}"));
            } else if command["publish"].is_object() {
                socket.send(Message::Ping("are you there".into())).unwrap();
                answer(socket, &format!("{{\"id\":{id},\"publish\":{{}}}}"));
            }
        });
    }

    #[test]
    fn answers_are_told_by_their_request_and_refusals_without_being_asked_for() {
        let (addr, thread) = server(1, centrifugo);
        let dialect = Arc::new(CentrifugoJson::new("/connection/websocket"));
        let mut outlet = WebSocketOutlet::connect(addr, dialect, 4).unwrap();
        for (room, confirm) in [(0, Confirm::No), (3, Confirm::No), (1, Confirm::Taken)] {
            outlet.send(room, b"\"x\"", confirm).unwrap();
        }
        let refused = outlet.wait().unwrap();
        assert_eq!(refused.request, 1);
        assert_eq!(refused.result, Err("error 103".to_owned()));
        let taken = outlet.wait().unwrap();
        assert_eq!((taken.request, taken.result), (2, Ok(None)));
        outlet.settle().unwrap();
        assert_eq!(outlet.poll().unwrap(), None);
        drop(outlet);
        thread.join().unwrap();
    }

    /// Echoes, and gives path and bytes of all messages.
    fn topic(mut socket: WebSocket<TcpStream>, path: String) -> (String, usize) {
        let mut bytes = 0;
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message {
                bytes += text.len();
                socket.send(Message::Text(text)).unwrap();
            }
        }
        (path, bytes)
    }

    #[test]
    fn each_room_has_a_connection_where_the_path_says_it() {
        let (addr, thread) = server(3, topic);
        let dialect = Arc::new(Topic::new("/"));
        let mut outlet = WebSocketOutlet::connect(addr, dialect, 3).unwrap();
        outlet.send(2, b"\"abc\"", Confirm::Taken).unwrap();
        outlet.send(1, b"\"x\"", Confirm::No).unwrap();
        let taken = outlet.wait().unwrap();
        assert_eq!((taken.request, taken.result), (0, Ok(None)));
        outlet.settle().unwrap();
        drop(outlet);
        let mut served = thread.join().unwrap();
        served.sort();
        let expected = [("/room-0", 0), ("/room-1", 3), ("/room-2", 5)];
        assert_eq!(
            served,
            expected.map(|(path, bytes)| (path.to_owned(), bytes))
        );
    }

    #[test]
    fn a_server_that_reads_no_more_than_it_is_rid_of_gets_everything() {
        let (addr, thread) = server(1, topic);
        let mut outlet = WebSocketOutlet::connect(addr, Arc::new(Topic::new("/")), 1).unwrap();
        let payload = vec![b'x'; 64 * 1024];
        // More than the sockets hold on both ways.
        for _ in 0..1_000 {
            outlet.send(0, &payload, Confirm::No).unwrap();
        }
        outlet.settle().unwrap();
        drop(outlet);
        let bytes = 1_000 * payload.len();
        assert_eq!(thread.join().unwrap(), [("/room-0".to_owned(), bytes)]);
    }

    #[test]
    fn too_many_rooms_and_a_server_that_is_none_are_refused_with_their_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(addr) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4");
        };
        let connect = |rooms| {
            let outlet = WebSocketOutlet::connect(addr, Arc::new(Topic::new("/")), rooms);
            outlet.err().unwrap()
        };
        assert!(connect(1_001).contains("1001 rooms are more than 1000"));
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
        });
        let error = connect(1);
        assert!(error.ends_with("upgrade: status 404"), "{error}");
        thread.join().unwrap();
    }
}
