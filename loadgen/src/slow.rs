//! Clients that subscribe and then read nothing, or little.
//!
//! Plain blocking sockets, because a ring's multishot receive would read. Their receive buffers are as
//! small as the kernel makes them, so that the server soon has nowhere to put what it sends. What the
//! server did about each is looked up at the end.

use crate::clock;
use crate::peer::{Context, Peer, Publishers, Since};
use crate::tally::{Failure, Tally};
use crate::upgrade::Numbers;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const RECEIVE_BUFFER_BYTES: usize = 2 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Named apart from the connections that are counted, and from a publisher.
const FIRST_NAME: u32 = 1 << 31;

/// How often slow readers read.
const TURN: Duration = Duration::from_millis(100);

/// Clients that read nothing, or little.
#[derive(Debug)]
pub(crate) struct SlowReaders {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<SlowOutcome>,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SlowOutcome {
    /// Slow readers in all.
    pub(crate) readers: u32,
    /// Those that the server has cut off.
    pub(crate) cut: u32,
    /// Those that it still holds.
    pub(crate) held: u32,
}

impl SlowReaders {
    /// Connects and subscribes `count` clients; reader i to room i modulo `rooms`. Each then reads
    /// `bytes_per_second`.
    pub(crate) fn connect(
        count: u32,
        rooms: u32,
        target: SocketAddrV4,
        context: &Context,
        bytes_per_second: u32,
    ) -> Result<Self, String> {
        let mut numbers = Numbers::new(clock::now_ns());
        let readers = (0..count).map(|index| {
            let name = FIRST_NAME + index;
            let seed = numbers.next();
            let peer = Peer::new(name, index % rooms, seed, Since::Later, Publishers::One);
            subscribe(target, context, peer)
                .map_err(|error| format!("slow reader {index}: {error}"))
        });
        let streams: Vec<_> = readers.collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("slow-readers".to_owned())
            .spawn(move || read_slowly(streams, bytes_per_second, &theirs))
            .map_err(|error| format!("thread: {error}"))?;
        Ok(Self { stop, thread })
    }

    /// Reads what waits, to see whom the server has cut off.
    pub(crate) fn finish(self) -> Result<SlowOutcome, String> {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        self.thread
            .join()
            .map_err(|_| "the slow readers panicked".to_owned())
    }
}

fn read_slowly(streams: Vec<TcpStream>, bytes_per_second: u32, stop: &AtomicBool) -> SlowOutcome {
    let mut bytes = vec![0; (bytes_per_second / 10) as usize];
    while !stop.load(Relaxed) {
        if !bytes.is_empty() {
            for mut stream in &streams {
                let _ = stream.set_nonblocking(true);
                // Whoever was cut off is counted at the end.
                let _ = stream.read(&mut bytes);
            }
        }
        std::thread::park_timeout(TURN);
    }
    let mut outcome = SlowOutcome::default();
    for mut stream in streams {
        outcome.readers += 1;
        if is_cut(&mut stream) {
            outcome.cut += 1;
        } else {
            outcome.held += 1;
        }
    }
    outcome
}

fn subscribe(
    target: SocketAddrV4,
    context: &Context,
    mut peer: Peer,
) -> Result<TcpStream, Box<dyn std::error::Error>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Before the connect: it decides which window the handshake offers.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.connect(&target.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let (mut out, mut buffer) = (Vec::new(), [0; 1024]);
    let mut tally = Tally::new();
    peer.handle_connected(context, &mut out);
    while peer.is_under_way() {
        stream.write_all(&out)?;
        out.clear();
        let input = match stream.read(&mut buffer)? {
            0 => return Err(Failure::Ended.to_string().into()),
            count => &mut buffer[..count],
        };
        peer.handle_bytes(input, 0, context, &mut tally, &mut out)
            .map_err(|failure| failure.to_string())?;
    }
    stream.write_all(&out)?;
    Ok(stream)
}

/// Reads until nothing more is there: whether the stream's end, or an error, was behind it. What the
/// server had not yet got rid of comes in while we read, so an end may need a moment.
fn is_cut(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 16 * 1024];
    // One that read slowly did not wait.
    let _ = stream.set_nonblocking(false);
    // A timeout cannot fail to be set unless it is zero.
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let deadline = std::time::Instant::now() + Duration::from_millis(500);
    while std::time::Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    false
}
