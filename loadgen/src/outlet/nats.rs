//! NATS over TCP. A PING behind a publication is answered once the server has handled both: that confirms.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::ROOM_PREFIX;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are gathered before they are written.
const GATHERED_MAX: usize = 64 * 1024;

/// The connection.
pub(crate) struct NatsOutlet {
    addr: SocketAddr,
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
    sent: u64,
    /// Requests whose PONG has not come, in their order.
    asked: VecDeque<u64>,
    line: String,
}

impl NatsOutlet {
    /// Connects to the port for clients.
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("no NATS server at {addr}: {error}");
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
        let mut outlet = Self {
            addr,
            reader: BufReader::new(stream),
            out: Vec::new(),
            sent: 0,
            asked: VecDeque::new(),
            line: String::new(),
        };
        if !outlet.read_line()?.starts_with("INFO") {
            return Err(format!("what listens at {addr} is no NATS server"));
        }
        outlet.out.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"name\":\"loadgen\"}\r\n",
        );
        Ok(outlet)
    }

    fn read_line(&mut self) -> Result<&str, String> {
        self.line.clear();
        match self.reader.read_line(&mut self.line) {
            Ok(0) => Err(format!("{}: the NATS server closed", self.addr)),
            Ok(_) => Ok(self.line.trim_end()),
            Err(error) => Err(format!("{}: {error}", self.addr)),
        }
    }

    /// Takes the next line; the request that it confirms, if it does.
    fn take_line(&mut self) -> Result<Option<Confirmation>, String> {
        let line = self.read_line()?.to_owned();
        if line == "PONG" {
            let request = self.asked.pop_front();
            return Ok(request.map(|request| Confirmation {
                request,
                result: Ok(None),
            }));
        }
        if line == "PING" {
            self.out.extend_from_slice(b"PONG\r\n");
            self.flush()?;
        }
        match line.strip_prefix("-ERR") {
            Some(error) => Err(format!("{}: NATS refused:{error}", self.addr)),
            None => Ok(None),
        }
    }

    /// Whether a line, or its beginning, is there.
    fn has_input(&mut self) -> Result<bool, String> {
        if !self.reader.buffer().is_empty() {
            return Ok(true);
        }
        let stream = self.reader.get_ref();
        let text = |error: std::io::Error| error.to_string();
        stream.set_nonblocking(true).map_err(text)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).map_err(text)?;
        match peeked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            // An end or an error is told by the read.
            _ => Ok(true),
        }
    }
}

impl Outlet for NatsOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let head = format!("PUB {ROOM_PREFIX}{room} {}\r\n", payload.len());
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(payload);
        self.out.extend_from_slice(b"\r\n");
        let request = self.sent;
        self.sent += 1;
        if confirm != Confirm::No {
            self.out.extend_from_slice(b"PING\r\n");
            self.asked.push_back(request);
        }
        if self.out.len() >= GATHERED_MAX {
            self.flush()?;
        }
        Ok(request)
    }

    fn flush(&mut self) -> Result<(), String> {
        let written = self.reader.get_ref().write_all(&self.out);
        self.out.clear();
        written.map_err(|error| format!("{}: {error}", self.addr))
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        while self.has_input()? {
            if let Some(confirmation) = self.take_line()? {
                return Ok(Some(confirmation));
            }
        }
        Ok(None)
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.flush()?;
        loop {
            if let Some(confirmation) = self.take_line()? {
                return Ok(confirmation);
            }
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        self.flush()
    }
}
