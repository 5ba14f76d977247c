//! Clients that subscribe and then read nothing.
//!
//! Plain blocking sockets, because a ring's multishot receive would read. Their receive buffers are as
//! small as the kernel makes them, so that the server soon has nowhere to put what it sends. What the
//! server did about each is looked up at the end.

use crate::message::{self, Body, Message, ROOM_PREFIX};
use crate::tally::Failure;
use crate::upgrade::{self, Numbers};
use ringcast::wire::frame::{Opcode, Role, write_client_frame};
use ringcast::wire::message::{Assembler, Incoming};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

const RECEIVE_BUFFER_BYTES: usize = 2 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Clients that read nothing.
#[derive(Debug)]
pub(crate) struct SlowReaders(Vec<TcpStream>);

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct SlowOutcome {
    /// Slow readers in all.
    pub(crate) readers: u32,
    /// Those that the server has cut off.
    pub(crate) cut: u32,
    /// Those that it still holds.
    pub(crate) held: u32,
}

impl SlowReaders {
    /// Connects and subscribes `count` clients; reader i to room i modulo `rooms`.
    pub(crate) fn connect(
        count: u32,
        rooms: u32,
        target: SocketAddrV4,
        path: &str,
    ) -> Result<Self, String> {
        let mut numbers = Numbers::new(crate::host::now_ns());
        let readers = (0..count).map(|index| {
            subscribe(target, path, index % rooms, numbers.next())
                .map_err(|error| format!("slow reader {index}: {error}"))
        });
        Ok(Self(readers.collect::<Result<_, _>>()?))
    }

    /// Reads what waits, to see whom the server has cut off.
    pub(crate) fn finish(self) -> SlowOutcome {
        let mut outcome = SlowOutcome::default();
        for mut stream in self.0 {
            outcome.readers += 1;
            if is_cut(&mut stream) {
                outcome.cut += 1;
            } else {
                outcome.held += 1;
            }
        }
        outcome
    }
}

fn subscribe(
    target: SocketAddrV4,
    path: &str,
    room: u32,
    seed: u64,
) -> Result<TcpStream, Box<dyn std::error::Error>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Before the connect: it decides which window the handshake offers.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.connect(&target.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut out = Vec::new();
    upgrade::write_request(&mut out, &target.to_string(), path, seed);
    stream.write_all(&out)?;
    let mut input = Vec::new();
    let head_bytes = loop {
        read_some(&mut stream, &mut input)?;
        if let Some(bytes) = upgrade::check_response(&input, seed).map_err(text)? {
            break bytes;
        }
    };
    input.drain(..head_bytes);
    let commands = format!(
        "{{\"id\":1,\"connect\":{{\"name\":\"slow\"}}}}\n\
         {{\"id\":2,\"subscribe\":{{\"channel\":\"{ROOM_PREFIX}{room}\"}}}}"
    );
    out.clear();
    write_client_frame(
        &mut out,
        Opcode::Text,
        (seed as u32).to_ne_bytes(),
        commands.as_bytes(),
    );
    stream.write_all(&out)?;
    let mut assembler = Assembler::new(Role::Client);
    while !is_subscribed(&mut assembler, &mut input)? {
        input.clear();
        read_some(&mut stream, &mut input)?;
    }
    Ok(stream)
}

fn read_some(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<(), std::io::Error> {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => {
            input.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}

fn is_subscribed(assembler: &mut Assembler, input: &mut [u8]) -> Result<bool, String> {
    let mut input = input;
    while let Some(incoming) = assembler
        .next(&mut input)
        .map_err(|_| text(Failure::Frame))?
    {
        let Incoming::Message { payload, .. } = incoming else {
            continue;
        };
        for line in payload.split(|byte| *byte == b'\n') {
            match message::read(line) {
                Message::Reply {
                    id: 2,
                    body: Body::Subscribed,
                } => return Ok(true),
                Message::Reply {
                    body: Body::Error(code),
                    ..
                } => {
                    return Err(text(Failure::SubscribeRefused(code)));
                }
                _ => {}
            }
        }
    }
    Ok(false)
}

fn text(failure: Failure) -> String {
    failure.to_string()
}

/// Reads until nothing more is there: whether the stream's end, or an error, was behind it. What the
/// server had not yet got rid of comes in while we read, so an end may need a moment.
fn is_cut(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 16 * 1024];
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
