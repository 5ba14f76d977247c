//! MQTT 3.1.1 over TCP: at most once without a confirmation, at least once (QoS 1) with one.

use super::tcp::Tcp;
use super::{Confirm, Confirmation, Outlet};
use crate::dialect::mqtt::{connect_packet, publish_packet, take_packet};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// First bytes of packets (section 2.2.1).
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PINGRESP: u8 = 0xd0;
/// Asks for a PINGRESP (section 3.12).
const PINGREQ: [u8; 2] = [0xc0, 0];

/// The connection.
pub(crate) struct MqttOutlet {
    tcp: Tcp,
    sent: u64,
    /// Identifiers of publications whose PUBACK has not come, and their requests; the oldest first.
    asked: VecDeque<(u16, u64)>,
    confirmations: VecDeque<Confirmation>,
    last_identifier: u16,
    /// PINGREQs whose PINGRESP has not come.
    pings: u32,
}

impl MqttOutlet {
    /// Connects to the port for MQTT over TCP.
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self, String> {
        let mut outlet = Self {
            tcp: Tcp::connect("MQTT", addr)?,
            sent: 0,
            asked: VecDeque::new(),
            confirmations: VecDeque::new(),
            last_identifier: 0,
            pings: 0,
        };
        let name = format!("loadgen-publisher-{}", std::process::id());
        outlet.tcp.out.extend(connect_packet(&name));
        outlet.flush()?;
        loop {
            match outlet.take()? {
                Some((CONNACK, body)) => match body.get(1) {
                    Some(0) => return Ok(outlet),
                    code => {
                        let refused = format!("refused, return code {code:?}");
                        return Err(outlet.tcp.error(refused));
                    }
                },
                Some(_) => return Err(format!("what listens at {addr} is no MQTT server")),
                None => outlet.tcp.read()?,
            }
        }
    }

    /// The next packet that is there in whole.
    fn take(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let taken = take_packet(&self.tcp.input).map_err(|failure| self.tcp.error(failure))?;
        let Some((first, body, packet_bytes)) = taken else {
            return Ok(None);
        };
        let packet = (first & 0xf0, body.to_vec());
        self.tcp.input.drain(..packet_bytes);
        Ok(Some(packet))
    }

    fn handle_input(&mut self) -> Result<(), String> {
        while let Some((first, body)) = self.take()? {
            match (first, body.as_slice()) {
                (PUBACK, [high, low]) => self.confirm(u16::from_be_bytes([*high, *low])),
                (PINGRESP, _) => self.pings = self.pings.saturating_sub(1),
                _ => {}
            }
        }
        Ok(())
    }

    fn confirm(&mut self, identifier: u16) {
        let mut identifiers = self.asked.iter().map(|(asked, _)| *asked);
        let place = identifiers.position(|asked| asked == identifier);
        let asked = place.and_then(|place| self.asked.remove(place));
        let confirmation = asked.map(|(_, request)| Confirmation::taken(request));
        self.confirmations.extend(confirmation);
    }

    /// The identifier behind the last; waits while a publication has it that is unanswered.
    fn next_identifier(&mut self) -> Result<u16, String> {
        // 0 is no identifier (section 2.3.1).
        let identifier = self.last_identifier.checked_add(1).unwrap_or(1);
        if self.is_oldest(identifier) {
            self.tcp.flush()?;
        }
        while self.is_oldest(identifier) {
            self.tcp.read()?;
            self.handle_input()?;
        }
        self.last_identifier = identifier;
        Ok(identifier)
    }

    /// Whether the oldest unanswered publication has it. Identifiers are given in turn, so that it is the
    /// first to be met again.
    fn is_oldest(&self, identifier: u16) -> bool {
        let oldest = self.asked.front();
        oldest.is_some_and(|(oldest, _)| *oldest == identifier)
    }
}

impl Outlet for MqttOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let identifier = match confirm {
            Confirm::No => None,
            _ => Some(self.next_identifier()?),
        };
        let request = self.sent;
        self.sent += 1;
        let asked = identifier.map(|identifier| (identifier, request));
        self.asked.extend(asked);
        let packet = publish_packet(room, payload, identifier);
        self.tcp.out.extend(packet);
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
        // Answers the publications that have no answer of their own.
        self.tcp.out.extend_from_slice(&PINGREQ);
        self.pings += 1;
        self.flush()?;
        while self.pings > 0 || !self.asked.is_empty() {
            self.tcp.read()?;
            self.handle_input()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread::JoinHandle;

    /// A server that holds its answers to publications back until it has [`u16::MAX`] of them, then gives
    /// them one for one; to a PINGREQ it gives all that are left. The thread gives the identifiers.
    fn start() -> (SocketAddr, JoinHandle<Vec<u16>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            serve(stream)
        });
        (addr, thread)
    }

    fn serve(mut stream: TcpStream) -> Vec<u16> {
        let (mut input, mut buffer) = (Vec::new(), [0; 64 * 1024]);
        let (mut identifiers, mut answered) = (Vec::new(), 0);
        loop {
            let mut out = Vec::new();
            let mut used = 0;
            while let Some((first, body, packet_bytes)) = take_packet(&input[used..]).unwrap() {
                used += packet_bytes;
                match first & 0xf0 {
                    0x10 => out.extend_from_slice(&[CONNACK, 2, 0, 0]),
                    // The topic is `room-7`; at most once (QoS 0) there is no identifier.
                    0x30 if first & 0x06 != 0 => {
                        identifiers.push(u16::from_be_bytes([body[8], body[9]]));
                    }
                    _ => {}
                }
                let is_last = first == PINGREQ[0];
                let held = if is_last {
                    0
                } else {
                    usize::from(u16::MAX) - 1
                };
                while answered + held < identifiers.len() {
                    let [high, low] = identifiers[answered].to_be_bytes();
                    out.extend_from_slice(&[PUBACK, 2, high, low]);
                    answered += 1;
                }
                if is_last {
                    out.extend_from_slice(&[PINGRESP, 0]);
                }
            }
            input.drain(..used);
            stream.write_all(&out).unwrap();
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => input.extend_from_slice(&buffer[..count]),
                _ => return identifiers,
            }
        }
    }

    #[test]
    fn an_identifier_is_used_again_once_its_publication_was_answered() {
        let (addr, thread) = start();
        let mut outlet = MqttOutlet::connect(addr).unwrap();
        let count = u64::from(u16::MAX) + 10;
        for request in 0..count {
            let sent = outlet.send(7, b"\"x\"", Confirm::Taken).unwrap();
            assert_eq!(sent, request);
            assert!(outlet.asked.len() <= usize::from(u16::MAX));
        }
        outlet.settle().unwrap();
        for request in 0..count {
            let confirmation = outlet.poll().unwrap();
            assert_eq!(confirmation, Some(Confirmation::taken(request)));
        }
        assert_eq!(outlet.poll().unwrap(), None);
        drop(outlet);
        let identifiers = thread.join().unwrap();
        let expected = (1..=u16::MAX).chain(1..=10);
        assert!(identifiers.into_iter().eq(expected));
    }

    #[test]
    fn settling_waits_for_an_answer_where_publications_have_none() {
        let (addr, thread) = start();
        let mut outlet = MqttOutlet::connect(addr).unwrap();
        outlet.send(7, b"\"x\"", Confirm::No).unwrap();
        outlet.settle().unwrap();
        assert_eq!((outlet.pings, outlet.poll().unwrap()), (0, None));
        drop(outlet);
        assert!(thread.join().unwrap().is_empty());
    }
}
