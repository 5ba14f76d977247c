//! MQTT 3.1.1 over TCP: at most once without a confirmation, at least once (QoS 1) with one.

use super::tcp::Tcp;
use super::{Confirm, Confirmation, Outlet};
use crate::dialect::mqtt::{connect_packet, publish_packet, take_packet};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// First bytes of packets (section 2.2.1).
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;

/// The connection.
pub(crate) struct MqttOutlet {
    tcp: Tcp,
    sent: u64,
    /// Identifiers of publications whose PUBACK has not come, and their requests.
    asked: VecDeque<(u16, u64)>,
    confirmations: VecDeque<Confirmation>,
    last_identifier: u16,
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
            let (PUBACK, [high, low]) = (first, body.as_slice()) else {
                continue;
            };
            let identifier = u16::from_be_bytes([*high, *low]);
            let place = self
                .asked
                .iter()
                .position(|(asked, _)| *asked == identifier);
            let asked = place.and_then(|place| self.asked.remove(place));
            let confirmation = asked.map(|(_, request)| Confirmation::taken(request));
            self.confirmations.extend(confirmation);
        }
        Ok(())
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
        self.flush()
    }
}
