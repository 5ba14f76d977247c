//! What ways over a TCP connection have in common: output is gathered, input is kept until it is whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take nothing: more than a pause that is to show in the latencies.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are gathered before they are written.
const GATHERED_MAX: usize = 64 * 1024;

/// The connection.
pub(super) struct Tcp {
    /// What the server speaks; for errors.
    protocol: &'static str,
    addr: SocketAddr,
    stream: TcpStream,
    /// Bytes to be written.
    pub(super) out: Vec<u8>,
    /// Bytes that came; their user takes them off the front.
    pub(super) input: Vec<u8>,
}

impl Tcp {
    /// Connects to a server that speaks `protocol`.
    pub(super) fn connect(protocol: &'static str, addr: SocketAddr) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("no {protocol} server at {addr}: {error}");
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
        stream
            .set_write_timeout(Some(WRITE_TIMEOUT))
            .map_err(text)?;
        Ok(Self {
            protocol,
            addr,
            stream,
            out: Vec::new(),
            input: Vec::new(),
        })
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        let written = self.stream.write_all(&self.out);
        self.out.clear();
        written.map_err(|error| match error.kind() {
            // As the timeout of a write tells itself.
            ErrorKind::WouldBlock => self.error(format_args!(
                "it has taken nothing for {} s",
                WRITE_TIMEOUT.as_secs()
            )),
            _ => self.error(error),
        })
    }

    /// As [`Self::flush`], once there is much.
    pub(super) fn flush_much(&mut self) -> Result<(), String> {
        match self.out.len() >= GATHERED_MAX {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Waits for input.
    pub(super) fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(self.error("closed by the server")),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            // As the timeout of a read tells itself.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(self.error("no answer in time"))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Reads if input is there; whether it was.
    pub(super) fn read_ready(&mut self) -> Result<bool, String> {
        let peeked = self.stream.set_nonblocking(true);
        let peeked = peeked.and_then(|()| self.stream.peek(&mut [0]));
        let blocking = self.stream.set_nonblocking(false);
        blocking.map_err(|error| self.error(error))?;
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            // An end or an error is told by the read.
            _ => self.read().map(|()| true),
        }
    }

    /// What went wrong, with where it did.
    pub(super) fn error(&self, error: impl std::fmt::Display) -> String {
        format!("{} server at {}: {error}", self.protocol, self.addr)
    }
}
