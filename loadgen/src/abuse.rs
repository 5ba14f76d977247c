//! Attackers: clients that do what no client may, over and over, while the others are served and checked.
//!
//! One thread, plain sockets. Each attacker strikes, waits until the server ends the connection, and
//! strikes again. A server that does not end it in time holds what an attacker can pile up.

use crate::clock;
use crate::dialect::{Dialect, Session};
use crate::upgrade::{self, Numbers};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often an attacker is looked at, and a half-sent request gets its next byte.
const TURN: Duration = Duration::from_millis(100);
/// How long a server may take to refuse what is plainly wrong: by an error response, a close frame or
/// the end of the connection.
const REFUSAL: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What attackers do.
const STRIKES: [Strike; 4] = [
    Strike::HalfRequest,
    Strike::Garbage,
    Strike::Oversize,
    Strike::Unmasked,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    /// An upgrade request that comes byte by byte and never ends.
    HalfRequest,
    /// Random bytes instead of a request.
    Garbage,
    /// A frame whose header promises a gigabyte, after a good upgrade.
    Oversize,
    /// A frame without a mask, after a good upgrade (RFC 6455 section 5.1).
    Unmasked,
}

/// What became of the attacks of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Strikes {
    /// Connections on which it was tried.
    pub(crate) tried: u64,
    /// Of those, connections that the server ended in time.
    pub(crate) ended: u64,
    /// Connections that it did not end in time.
    pub(crate) held: u64,
    /// Connections that could not be opened; the server, or the host, was full.
    pub(crate) unopened: u64,
}

/// What became of the attacks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AbuseReport {
    /// Requests that never end.
    pub(crate) half_requests: Strikes,
    /// Bytes that are no request.
    pub(crate) garbage: Strikes,
    /// Frames that promise too much.
    pub(crate) oversize: Strikes,
    /// Frames without a mask.
    pub(crate) unmasked: Strikes,
}

impl AbuseReport {
    /// Kinds by their names.
    pub(crate) fn kinds(&self) -> [(&'static str, Strikes); 4] {
        [
            ("half requests", self.half_requests),
            ("garbage", self.garbage),
            ("oversize", self.oversize),
            ("unmasked", self.unmasked),
        ]
    }

    /// Whether every attack took place and was ended in time.
    pub(crate) fn is_clean(&self) -> bool {
        self.kinds()
            .iter()
            .all(|(_, strikes)| strikes.held == 0 && strikes.tried > 0)
    }

    fn of(&mut self, strike: Strike) -> &mut Strikes {
        match strike {
            Strike::HalfRequest => &mut self.half_requests,
            Strike::Garbage => &mut self.garbage,
            Strike::Oversize => &mut self.oversize,
            Strike::Unmasked => &mut self.unmasked,
        }
    }
}

/// The running attackers.
pub(crate) struct Attackers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<AbuseReport>,
}

impl Attackers {
    /// Starts `count` attackers.
    pub(crate) fn start(
        count: u32,
        target: SocketAddrV4,
        dialect: Arc<dyn Dialect>,
        patience: Duration,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("attackers".to_owned())
            .spawn(move || attack(count, target, &*dialect, patience, &theirs))
            .map_err(|error| format!("thread: {error}"))?;
        Ok(Self { stop, thread })
    }

    /// Waits until the attacks under way are decided.
    pub(crate) fn finish(self) -> Result<AbuseReport, String> {
        self.stop.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| "the attackers panicked".to_owned())
    }
}

struct Attack {
    strike: Strike,
    stream: TcpStream,
    since: Instant,
}

fn attack(
    count: u32,
    target: SocketAddrV4,
    dialect: &dyn Dialect,
    patience: Duration,
    stop: &AtomicBool,
) -> AbuseReport {
    let mut report = AbuseReport::default();
    let mut numbers = Numbers::new(clock::now_ns());
    let mut waiting: Vec<Strike> = (0..count).map(|i| STRIKES[i as usize % 4]).collect();
    let mut attacks: Vec<Attack> = Vec::new();
    while !stop.load(Relaxed) || !attacks.is_empty() {
        if !stop.load(Relaxed) {
            for strike in std::mem::take(&mut waiting) {
                match begin(strike, target, dialect, &mut numbers) {
                    Ok(stream) => {
                        report.of(strike).tried += 1;
                        attacks.push(Attack {
                            strike,
                            stream,
                            since: Instant::now(),
                        });
                    }
                    Err(_) => {
                        report.of(strike).unopened += 1;
                        waiting.push(strike);
                    }
                }
            }
        }
        std::thread::sleep(TURN);
        attacks.retain_mut(|attack| {
            let allowed = match attack.strike {
                Strike::HalfRequest => patience,
                _ => REFUSAL,
            };
            let is_ended = is_ended(attack);
            if is_ended {
                report.of(attack.strike).ended += 1;
            } else if attack.since.elapsed() > allowed {
                report.of(attack.strike).held += 1;
            } else {
                return true;
            }
            waiting.push(attack.strike);
            false
        });
    }
    report
}

fn begin(
    strike: Strike,
    target: SocketAddrV4,
    dialect: &dyn Dialect,
    numbers: &mut Numbers,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target.into(), CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    match strike {
        Strike::HalfRequest => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")?,
        Strike::Garbage => {
            let mut bytes: Vec<u8> = (0..64).flat_map(|_| numbers.next().to_ne_bytes()).collect();
            // No request begins like this: a letter could be the first of a long line.
            bytes[0] = 0;
            stream.write_all(&bytes)?;
        }
        Strike::Oversize | Strike::Unmasked => {
            upgrade(&mut stream, target, dialect, numbers.next())?;
            stream.write_all(match strike {
                // A masked text frame of 2^30 bytes; what follows are its first ones.
                Strike::Oversize => b"\x81\xff\0\0\0\0\x40\0\0\0\x01\x02\x03\x04abcdefgh",
                _ => b"\x81\x02{}",
            })?;
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn upgrade(
    stream: &mut TcpStream,
    target: SocketAddrV4,
    dialect: &dyn Dialect,
    seed: u64,
) -> std::io::Result<()> {
    let (mut path, mut out) = (Vec::new(), Vec::new());
    dialect.write_path(&Session::default(), &mut path);
    let subprotocol = dialect.subprotocol();
    upgrade::write_request(&mut out, &target.to_string(), &path, subprotocol, seed);
    stream.write_all(&out)?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&buffer[..count]),
        }
        match upgrade::check_response(&head, subprotocol, seed) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(()),
            Err(_) => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// Goes on with the attack; whether the server has refused it. What it does afterwards with a
/// connection that it has refused is its own affair: it may wait for our end.
fn is_ended(attack: &mut Attack) -> bool {
    if attack.strike == Strike::HalfRequest && attack.stream.write(b"a").is_err() {
        return true;
    }
    const CLOSE_FRAME: u8 = 0x88;
    let mut buffer = [0; 1024];
    match attack.stream.read(&mut buffer) {
        Ok(0) => true,
        Ok(count) => match attack.strike {
            Strike::HalfRequest | Strike::Garbage => buffer[..count].starts_with(b"HTTP/1.1 4"),
            Strike::Oversize | Strike::Unmasked => buffer[0] == CLOSE_FRAME,
        },
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}
