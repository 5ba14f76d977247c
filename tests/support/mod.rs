//! What the end-to-end tests share: a broker in this process or in one of its own, clients that
//! know nothing of the broker's code but its upstream client, its metrics, a bystander.
//!
//! Every wait has [`PATIENCE`] and says what it waited for.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

mod broker;
mod bystander;
mod client;
mod http;
mod metrics;
mod process;

pub(crate) use broker::Broker;
pub(crate) use bystander::Bystander;
pub(crate) use client::{Client, Heard, Push, frame, frame_with_length};
pub(crate) use http::{Response, answer, get, request};
pub(crate) use metrics::Metrics;
pub(crate) use process::Process;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Far beyond what an idle machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is there.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "still waiting after {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connection whose reads and writes are bounded.
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything until the peer ends the stream, with or without a reset.
pub(crate) fn read_to_end(stream: &mut TcpStream, what: &str) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("{what}: the connection was not closed: {error}"),
        }
    }
}

/// A reproducible pseudo-random stream (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Random bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}
