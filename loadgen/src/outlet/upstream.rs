//! Ringcast's binary protocol for upstream services.

use super::{Confirm, Confirmation, Outlet};
use crate::dialect::ROOM_PREFIX;
use crate::options::Key;
use ringcast::base::Content;
use ringcast::client::{AckLevel, Answer, Message, Upstream};
use std::net::SocketAddr;

/// The connection, and the names of the rooms.
pub(crate) struct UpstreamOutlet {
    upstream: Upstream,
    names: Vec<String>,
}

impl UpstreamOutlet {
    /// Connects, for `rooms` rooms.
    pub(crate) fn connect(addr: SocketAddr, key: Option<&Key>, rooms: u32) -> Result<Self, String> {
        let key = key.map(|key| (key.id.as_str(), key.secret.as_slice()));
        let upstream = Upstream::connect(addr, "loadgen", key).map_err(|error| {
            format!(
                "no broker for upstreams at {addr}: {error}\n\
                 start one with `ringcast serve --upstream {addr}`, or name another address"
            )
        })?;
        Ok(Self {
            upstream,
            names: (0..rooms)
                .map(|room| format!("{ROOM_PREFIX}{room}"))
                .collect(),
        })
    }
}

impl Outlet for UpstreamOutlet {
    fn send(&mut self, room: u32, payload: &[u8], confirm: Confirm) -> Result<u64, String> {
        let level = match confirm {
            Confirm::No => AckLevel::None,
            Confirm::Taken => AckLevel::Accepted,
            Confirm::Sequenced => AckLevel::Sequenced,
        };
        let message = Message::new(Content::Json, payload, level);
        let name = &self.names[room as usize];
        self.upstream.send(name, &message).map_err(text)
    }

    fn flush(&mut self) -> Result<(), String> {
        self.upstream.flush().map_err(text)
    }

    fn poll(&mut self) -> Result<Option<Confirmation>, String> {
        let answer = self.upstream.poll_ack().map_err(text)?;
        Ok(answer.map(confirmation))
    }

    fn wait(&mut self) -> Result<Confirmation, String> {
        self.upstream.wait_ack().map(confirmation).map_err(text)
    }

    fn settle(&mut self) -> Result<(), String> {
        self.upstream.ping().map(|_| ()).map_err(text)
    }
}

fn confirmation(answer: Answer) -> Confirmation {
    let place = |receipt: &ringcast::client::Receipt| match receipt.level {
        AckLevel::Sequenced => Some(receipt.offset.0),
        _ => None,
    };
    Confirmation {
        request: answer.request,
        result: match answer.result {
            Ok(receipt) => Ok(place(&receipt)),
            Err(refusal) => Err(refusal.to_string()),
        },
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
