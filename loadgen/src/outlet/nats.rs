//! NATS over TCP. A PING behind a publication is answered once the server has handled both: that confirms.

use super::tcp::Tcp;
use super::{Confirm, Confirmation, Outlet};
use crate::dialect::ROOM_PREFIX;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The connection.
pub(crate) struct NatsOutlet {
    tcp: Tcp,
    sent: u64,
    /// PINGs whose PONG has not come, in their order: with the request that it confirms.
    asked: VecDeque<Option<u64>>,
    confirmations: VecDeque<Confirmation>,
}

impl NatsOutlet {
    /// Connects to the port for clients.
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self, String> {
        let mut outlet = Self {
            tcp: Tcp::connect("NATS", addr)?,
            sent: 0,
            asked: VecDeque::new(),
            confirmations: VecDeque::new(),
        };
        let greeting = loop {
            match outlet.take_line() {
                Some(line) => break line,
                None => outlet.tcp.read()?,
            }
        };
        if !greeting.starts_with("INFO") {
            return Err(format!("what listens at {addr} is no NATS server"));
        }
        outlet.tcp.out.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"name\":\"loadgen\"}\r\n",
        );
        Ok(outlet)
    }

    /// The next line that is there in whole.
    fn take_line(&mut self) -> Option<String> {
        let input = &mut self.tcp.input;
        let end = input.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(&input[..end]).trim_end().to_owned();
        input.drain(..=end);
        Some(line)
    }

    fn handle_input(&mut self) -> Result<(), String> {
        while let Some(line) = self.take_line() {
            if line == "PONG" {
                let request = self.asked.pop_front().flatten();
                self.confirmations.extend(request.map(Confirmation::taken));
            }
            if line == "PING" {
                self.tcp.out.extend_from_slice(b"PONG\r\n");
                self.tcp.flush()?;
            }
            if let Some(error) = line.strip_prefix("-ERR") {
                return Err(self.tcp.error(format_args!("refused:{error}")));
            }
        }
        Ok(())
    }
}

impl Outlet for NatsOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let out = &mut self.tcp.out;
        let head = format!("PUB {ROOM_PREFIX}{room} {}\r\n", payload.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        let request = self.sent;
        self.sent += 1;
        if confirm != Confirm::No {
            out.extend_from_slice(b"PING\r\n");
            self.asked.push_back(Some(request));
        }
        self.tcp.flush_much()?;
        Ok(request)
    }

    fn flush(&mut self) -> Result<(), String> {
        self.tcp.flush()
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        while self.tcp.read_ready()? {
            self.handle_input()?;
        }
        Ok(self.confirmations.pop_front())
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.flush()?;
        loop {
            if let Some(confirmation) = self.confirmations.pop_front() {
                return Ok(confirmation);
            }
            self.tcp.read()?;
            self.handle_input()?;
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        self.tcp.out.extend_from_slice(b"PING\r\n");
        self.asked.push_back(None);
        self.flush()?;
        // Its PONG is the last.
        while !self.asked.is_empty() {
            self.tcp.read()?;
            self.handle_input()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    #[test]
    fn settling_waits_for_the_last_answer_and_keeps_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"INFO {}\r\n").unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut seen = Vec::new();
            for line in lines.map_while(Result::ok) {
                if line == "PING" {
                    stream.write_all(b"PING\r\nPONG\r\n").unwrap();
                }
                seen.push(line);
            }
            seen
        });
        let mut outlet = NatsOutlet::connect(addr).unwrap();
        outlet.send(7, b"\"a\"", Confirm::Taken).unwrap();
        outlet.send(7, b"\"b\"", Confirm::No).unwrap();
        outlet.settle().unwrap();
        assert_eq!(outlet.poll().unwrap(), Some(Confirmation::taken(0)));
        assert_eq!(outlet.poll().unwrap(), None);
        drop(outlet);
        let seen = thread.join().unwrap();
        let expected = [
            "PUB room-7 3",
            "\"a\"",
            "PING",
            "PUB room-7 3",
            "\"b\"",
            "PING",
        ];
        assert_eq!(seen[1..7], expected);
        assert_eq!(seen[7..], ["PONG", "PONG"]);
    }
}
