//! MQTT 3.1.1 over TCP: at most once without a confirmation, at least once (QoS 1) with one.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::mqtt::{connect_packet, publish_packet, take_packet};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are gathered before they are written.
const GATHERED_MAX: usize = 64 * 1024;
/// First bytes of packets (section 2.2.1).
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;

/// The connection.
pub(crate) struct MqttOutlet {
    addr: SocketAddr,
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    sent: u64,
    /// Identifiers of publications whose PUBACK has not come, and their requests.
    asked: VecDeque<(u16, u64)>,
    last_identifier: u16,
}

impl MqttOutlet {
    /// Connects to the port for MQTT over TCP.
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self, String> {
        let text = |error: std::io::Error| format!("no MQTT server at {addr}: {error}");
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
        let mut outlet = Self {
            addr,
            stream,
            out: connect_packet(&format!("loadgen-publisher-{}", std::process::id())),
            input: Vec::new(),
            sent: 0,
            asked: VecDeque::new(),
            last_identifier: 0,
        };
        outlet.flush()?;
        loop {
            match outlet.take()? {
                Some((CONNACK, body)) if body.get(1) == Some(&0) => return Ok(outlet),
                Some((CONNACK, body)) => {
                    return Err(format!(
                        "{addr}: MQTT refused, return code {:?}",
                        body.get(1)
                    ));
                }
                Some(_) => return Err(format!("what listens at {addr} is no MQTT server")),
                None => outlet.read()?,
            }
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(format!("{}: the MQTT server closed", self.addr)),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) => Err(format!("{}: {error}", self.addr)),
        }
    }

    /// The next packet that is there.
    fn take(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let taken = take_packet(&self.input).map_err(|failure| failure.to_string())?;
        let Some((first, body, packet_bytes)) = taken else {
            return Ok(None);
        };
        let packet = (first & 0xf0, body.to_vec());
        self.input.drain(..packet_bytes);
        Ok(Some(packet))
    }

    fn take_confirmation(&mut self) -> Result<Option<Confirmation>, String> {
        while let Some((first, body)) = self.take()? {
            let (PUBACK, [high, low]) = (first, body.as_slice()) else {
                continue;
            };
            let identifier = u16::from_be_bytes([*high, *low]);
            let place = self
                .asked
                .iter()
                .position(|(asked, _)| *asked == identifier);
            if let Some((_, request)) = place.and_then(|place| self.asked.remove(place)) {
                return Ok(Some(Confirmation {
                    request,
                    result: Ok(None),
                }));
            }
        }
        Ok(None)
    }
}

impl Outlet for MqttOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let request = self.sent;
        self.sent += 1;
        let identifier = (confirm != Confirm::No).then(|| {
            // 0 is no identifier (section 2.3.1).
            self.last_identifier = self.last_identifier.checked_add(1).unwrap_or(1);
            self.asked.push_back((self.last_identifier, request));
            self.last_identifier
        });
        self.out.extend(publish_packet(room, payload, identifier));
        if self.out.len() >= GATHERED_MAX {
            self.flush()?;
        }
        Ok(request)
    }

    fn flush(&mut self) -> Result<(), String> {
        let written = self.stream.write_all(&self.out);
        self.out.clear();
        written.map_err(|error| format!("{}: {error}", self.addr))
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        let text = |error: std::io::Error| error.to_string();
        self.stream.set_nonblocking(true).map_err(text)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).map_err(text)?;
        if !matches!(&peeked, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.read()?;
        }
        self.take_confirmation()
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.flush()?;
        loop {
            if let Some(confirmation) = self.take_confirmation()? {
                return Ok(confirmation);
            }
            self.read()?;
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        self.flush()
    }
}
