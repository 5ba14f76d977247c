//! Received bytes become an upgrade, then messages, then commands.

use super::conn::Stage;
use super::core::Core;
use super::fanout::opcode;
use crate::base::ConnId;
use crate::base::reason::CloseReason;
use crate::limits::{CONTROL_BYTES_CROWDED, CONTROLS_BYTES_PER_SHARD};
use crate::room::session::{Action, Session};
use crate::wire::client::{Encoding, Request};
use crate::wire::frame::{Opcode, Role, server_header};
use crate::wire::http::{self, HeadStep, Refusal, Upgrade};
use crate::wire::message::{Assembler, Incoming};

impl Core {
    /// Bytes of a connection, in the order in which it sent them. Unmasks them in place.
    pub(super) fn received(&mut self, id: ConnId, bytes: &mut [u8]) {
        self.stats
            .shard
            .received_bytes_total
            .add(bytes.len() as u64);
        let Some(conn) = self.conns.get_mut(id.slot).filter(|conn| conn.id == id) else {
            return;
        };
        match &mut conn.stage {
            Stage::Upgrading(head) => {
                let (used, step) = head.feed(bytes);
                if self.upgrade(id.slot, step) {
                    self.messages(id.slot, &mut bytes[used..]);
                }
            }
            Stage::Open { .. } => self.messages(id.slot, bytes),
            Stage::Closing { .. } => self.await_close(id.slot, bytes),
            Stage::Aborting | Stage::Gone => {}
        }
    }

    /// Acts on the request; true when the connection speaks WebSocket from now on.
    fn upgrade(&mut self, slot: u32, step: HeadStep) -> bool {
        match step {
            HeadStep::More => false,
            HeadStep::Refuse(refusal, detail) => self.refuse_unread(slot, refusal, detail),
            HeadStep::Get { path } => self.serve_page(slot, &path),
            HeadStep::Upgrade(upgrade) if upgrade.path != self.settings.path => self.refuse(
                slot,
                Refusal::NotFound,
                "the WebSocket endpoint has another path",
            ),
            HeadStep::Upgrade(upgrade)
                if !self.settings.origins.allow(upgrade.origin.as_deref()) =>
            {
                self.refuse(
                    slot,
                    Refusal::Forbidden,
                    "this origin is not among the allowed ones",
                )
            }
            HeadStep::Upgrade(upgrade) => self.accept_upgrade(slot, &upgrade),
        }
    }

    fn accept_upgrade(&mut self, slot: u32, upgrade: &Upgrade) -> bool {
        let Some((encoding, subprotocol)) = negotiated(upgrade) else {
            let detail = "offer the subprotocol centrifuge-json, centrifuge-protobuf or none";
            return self.refuse(slot, Refusal::BadRequest, detail);
        };
        self.scratch.clear();
        http::write_switching_protocols(&mut self.scratch, &upgrade.accept, subprotocol);
        self.stats.shard.upgrades_total.add(1);
        let deadline_ms = self.now_ms + self.settings.stale_ms;
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        conn.stage = Stage::Open {
            assembler: Assembler::new(Role::Server),
            session: Session::new(),
        };
        conn.encoding = encoding;
        conn.frame_pings = query_has(upgrade, "cf_ws_frame_ping_pong", "true");
        conn.deadline_ms = deadline_ms;
        self.arm_timer(slot, deadline_ms);
        self.queue_scratch(slot)
    }

    fn serve_page(&mut self, slot: u32, path: &str) -> bool {
        let Some(page) = self.settings.pages.iter().find(|page| page.path == path) else {
            return self.refuse(
                slot,
                Refusal::NotFound,
                "only the WebSocket endpoint is served here",
            );
        };
        self.scratch.clear();
        http::write_page(&mut self.scratch, page.content_type, page.body);
        self.finish(slot, CloseReason::PageServed, false)
    }

    /// Refuses a request that has been read whole.
    fn refuse(&mut self, slot: u32, refusal: Refusal, detail: &str) -> bool {
        self.scratch.clear();
        http::write_refusal(&mut self.scratch, refusal, detail);
        self.finish(slot, CloseReason::UpgradeRefused, false)
    }

    /// Refuses a request of which more may be on its way: closing on unread bytes would reset the
    /// connection and take the answer with it.
    fn refuse_unread(&mut self, slot: u32, refusal: Refusal, detail: &str) -> bool {
        self.scratch.clear();
        http::write_refusal(&mut self.scratch, refusal, detail);
        self.finish(slot, CloseReason::UpgradeRefused, true)
    }

    /// Tells a connection that there is no room for it, without waiting for its request.
    pub(super) fn refuse_overloaded(&mut self, slot: u32) {
        self.refuse_unread(
            slot,
            Refusal::Overloaded,
            "this server has all the connections it may have",
        );
    }

    /// Sends the HTTP response in the scratch buffer as the last bytes of the connection.
    fn finish(&mut self, slot: u32, reason: CloseReason, linger: bool) -> bool {
        self.stats.closed(reason);
        let deadline_ms = self.now_ms + self.settings.linger_ms;
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        conn.stage = Stage::Closing {
            linger,
            assembler: None,
        };
        conn.deadline_ms = deadline_ms;
        self.arm_timer(slot, deadline_ms);
        self.queue_scratch(slot);
        false
    }

    /// Handles every whole message in `bytes`.
    fn messages(&mut self, slot: u32, mut bytes: &mut [u8]) {
        let Some(Stage::Open { assembler, .. }) =
            self.conns.get_mut(slot).map(|conn| &mut conn.stage)
        else {
            return;
        };
        // The assembler is taken out for as long as its messages are handled: they borrow from it.
        let mut taken = std::mem::replace(assembler, Assembler::new(Role::Server));
        loop {
            match taken.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Incoming::Message { opcode: _, payload })) => self.commands(slot, payload),
                Ok(Some(Incoming::Ping(payload))) => self.pong(slot, payload),
                Ok(Some(Incoming::Pong(_))) => self.frame_pong(slot),
                Ok(Some(Incoming::Close { code, reason: _ })) => {
                    let reason = CloseReason::PeerClosed;
                    return self.close_with(slot, reason, code.unwrap_or(1000), reason.text());
                }
                Err(error) => return self.close(slot, error.reason()),
            }
            match self.conns.get_mut(slot).map(|conn| &mut conn.stage) {
                Some(Stage::Open { .. }) => {}
                Some(Stage::Closing {
                    assembler: Some(assembler),
                    ..
                }) => {
                    *assembler = taken;
                    return self.await_close(slot, bytes);
                }
                _ => return,
            }
        }
        if let Some(Stage::Open { assembler, .. }) =
            self.conns.get_mut(slot).map(|conn| &mut conn.stage)
        {
            *assembler = taken;
        }
    }

    fn pong(&mut self, slot: u32, payload: &[u8]) {
        let (header, len) = server_header(Opcode::Pong, payload.len());
        self.scratch.clear();
        self.scratch.extend_from_slice(&header[..len]);
        self.scratch.extend_from_slice(payload);
        self.queue_scratch(slot);
    }

    /// A pong control frame: the answer to our ping when that was a control frame too.
    fn frame_pong(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.frame_pings) else {
            return;
        };
        let session = conn.session().filter(|session| session.is_pinged());
        if session.is_some_and(|session| session.handle(Request::Pong) == Action::Ponged) {
            self.ponged(slot);
        }
    }

    /// Queues a ping control frame.
    pub(super) fn queue_frame_ping(&mut self, slot: u32) {
        let (header, len) = server_header(Opcode::Ping, 0);
        self.scratch.clear();
        self.scratch.extend_from_slice(&header[..len]);
        self.queue_scratch(slot);
    }

    /// Looks for the peer's close frame after ours; everything before it is dropped.
    fn await_close(&mut self, slot: u32, mut bytes: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Stage::Closing { linger, assembler } = &mut conn.stage else {
            return;
        };
        let Some(frames) = assembler else { return };
        loop {
            match frames.next(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Incoming::Close { .. })) => {
                    *linger = false;
                    break self.dirty.mark(slot);
                }
                Ok(Some(_)) => {}
                Err(_) => break *assembler = None,
            }
        }
    }

    /// Queues the bytes in the scratch buffer for one connection; false when it does not read them.
    pub(super) fn queue_scratch(&mut self, slot: u32) -> bool {
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        let crowded = self.controls.outstanding() > CONTROLS_BYTES_PER_SHARD
            && conn.control.len() > CONTROL_BYTES_CROWDED;
        let mut full = || {
            conn.control
                .append(&self.scratch, &mut self.controls)
                .is_err()
        };
        if crowded || full() {
            self.abort(slot, CloseReason::Slow);
            return false;
        }
        self.dirty.mark(slot);
        true
    }

    /// As [`Core::queue_scratch`], as the payload of one frame of the connection's encoding.
    pub(super) fn queue_message(&mut self, slot: u32) -> bool {
        let encoding = self.conns.get(slot).map(|conn| conn.encoding);
        let opcode = opcode(encoding.unwrap_or_default());
        let (header, len) = server_header(opcode, self.scratch.len());
        self.scratch.splice(0..0, header[..len].iter().copied());
        self.queue_scratch(slot)
    }
}

/// The encoding that the client asks for, and the subprotocol to confirm; `None` when it offers only
/// others. A query asks for Protobuf without a subprotocol.
fn negotiated(upgrade: &Upgrade) -> Option<(Encoding, Option<&'static str>)> {
    if upgrade.protocols.is_empty() {
        let protobuf = query_has(upgrade, "format", "protobuf")
            || query_has(upgrade, "cf_protocol", "protobuf");
        let encoding = if protobuf {
            Encoding::Protobuf
        } else {
            Encoding::Json
        };
        return Some((encoding, None));
    }
    let offered = upgrade.protocols.iter();
    let mut known = offered.filter_map(|protocol| {
        [Encoding::Json, Encoding::Protobuf]
            .into_iter()
            .find(|encoding| encoding.subprotocol() == protocol)
    });
    known
        .next()
        .map(|encoding| (encoding, Some(encoding.subprotocol())))
}

fn query_has(upgrade: &Upgrade, name: &str, value: &str) -> bool {
    let mut pairs = upgrade.query.as_deref().unwrap_or_default().split('&');
    pairs.any(|pair| pair.split_once('=') == Some((name, value)))
}
