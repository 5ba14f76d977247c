//! A client's commands: the session decides, this file carries out.

use super::conn::{Stage, SubRef};
use super::core::Core;
use crate::base::reason::CloseReason;
use crate::base::{Content, ViewId};
use crate::limits::COMMANDS_PER_MESSAGE_MAX;
use crate::mesh::{Publish, Publisher, ReplyTo, Request};
use crate::room::session::Action;
use crate::room::view::{Standing, View};
use crate::wire::client::{ErrorCode, SubscribeResult, json};

const _: () = assert!(
    COMMANDS_PER_MESSAGE_MAX >= 256,
    "SDKs put all their subscribes in one frame"
);

impl Core {
    /// The commands of one message, strictly in their order.
    pub(super) fn commands(&mut self, slot: u32, message: &[u8]) {
        for command in json::commands(message) {
            let command = match command {
                Ok(command) => command,
                Err(bad) => return self.close(slot, bad.reason()),
            };
            self.stats.shard.commands_total.add(1);
            let Some(conn) = self.conns.get_mut(slot) else {
                return;
            };
            let subscriptions = conn.subs.len();
            let Stage::Open { session, .. } = &mut conn.stage else {
                return;
            };
            let action = session.handle(command.request, self.settings.policy, subscriptions);
            self.act(slot, command.id, action);
        }
    }

    fn act(&mut self, slot: u32, command: u32, action: Action<'_>) {
        match action {
            Action::Ponged => self.ponged(slot),
            Action::Connect => self.connect(slot, command),
            Action::Subscribe(room) => self.subscribe(slot, command, &room),
            Action::Unsubscribe(room) => self.unsubscribe(slot, command, &room),
            Action::Publish(room, data) => self.publish_for(slot, command, &room, data),
            Action::Refuse(code) => self.reply_error(slot, command, code),
            Action::Close(reason) => self.close(slot, reason),
        }
    }

    fn ponged(&mut self, slot: u32) {
        let ping_ms = self.now_ms + self.settings.ping_ms;
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.deadline_ms = ping_ms;
            self.arm_timer(slot, ping_ms);
        }
    }

    fn connect(&mut self, slot: u32, command: u32) {
        // The first ping comes at a random point of the interval's second half: clients that
        // connected together are not pinged together.
        let half = self.settings.ping_ms / 2;
        let ping_ms = self.now_ms + half + self.random() % (half + 1);
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        conn.deadline_ms = ping_ms;
        let id = conn.id;
        self.sessions += 1;
        self.arm_timer(slot, ping_ms);
        let client = self.client_id(id);
        self.scratch.clear();
        let ping_s = (self.settings.ping_ms / 1_000) as u32;
        json::connect_reply(
            &mut self.scratch,
            command,
            client.as_str(),
            self.settings.version,
            ping_s,
            true,
        );
        self.queue_text(slot);
    }

    fn subscribe(&mut self, slot: u32, command: u32, room: &str) {
        let id = self.view_of(room);
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if conn.subs.iter().any(|sub| sub.view == id) {
            return self.reply_error(slot, command, ErrorCode::AlreadySubscribed);
        }
        if conn.subs.is_empty() {
            // Most connections have one subscription and never grow.
            conn.subs.reserve_exact(1);
        }
        conn.subs.push(SubRef {
            view: id,
            index: SubRef::WAITING,
        });
        let view = self
            .views
            .get_mut(id.index, id.generation)
            .expect("found or made above");
        if matches!(view.standing(), Standing::Live { .. }) {
            // This shard sees all publications already: no need to ask the home.
            self.join(slot, command, id);
        } else {
            view.wait(slot, command);
            self.queue_notice(id);
        }
    }

    /// The room's view on this shard, made when it is the first to ask.
    fn view_of(&mut self, room: &str) -> ViewId {
        let (index, generation) = self
            .views
            .find(room)
            .unwrap_or_else(|| self.views.insert(View::new(room)));
        ViewId { index, generation }
    }

    /// Makes a connection whose subscribe was waiting a subscriber, and replies.
    pub(super) fn join(&mut self, slot: u32, command: u32, id: ViewId) {
        let view = self
            .views
            .get_mut(id.index, id.generation)
            .expect("joined views are live");
        let index = view.subscribe(slot);
        let conn = self
            .conns
            .get_mut(slot)
            .expect("whoever waits is connected");
        let sub = conn.subs.iter_mut().find(|sub| sub.view == id);
        sub.expect("whoever waits knows the view").index = index;
        self.subscriptions += 1;
        self.scratch.clear();
        json::subscribe_reply(&mut self.scratch, command, &SubscribeResult::default());
        self.queue_text(slot);
    }

    fn unsubscribe(&mut self, slot: u32, command: u32, room: &str) {
        if let Some((index, generation)) = self.views.find(room) {
            let id = ViewId { index, generation };
            let Some(conn) = self.conns.get_mut(slot) else {
                return;
            };
            if let Some(at) = conn.subs.iter().position(|sub| sub.view == id) {
                let sub = conn.subs.swap_remove(at);
                self.answer_waiting(slot, sub);
                self.leave(slot, sub);
            }
        }
        self.scratch.clear();
        json::unsubscribe_reply(&mut self.scratch, command);
        self.queue_text(slot);
    }

    /// A subscribe that is taken back before the home has answered still gets its reply.
    fn answer_waiting(&mut self, slot: u32, sub: SubRef) {
        if sub.index != SubRef::WAITING {
            return;
        }
        let view = self
            .views
            .get_mut(sub.view.index, sub.view.generation)
            .expect("subscribed above");
        if let Some(waiting) = view.stop_waiting(slot) {
            self.scratch.clear();
            json::subscribe_reply(&mut self.scratch, waiting, &SubscribeResult::default());
            self.queue_text(slot);
        }
    }

    fn publish_for(&mut self, slot: u32, command: u32, room: &str, data: &str) {
        // Commands take effect in their order: homes hear of earlier subscribes before this.
        self.send_notices();
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let reply = match command {
            0 => ReplyTo::Nobody,
            command => ReplyTo::Client {
                conn: conn.id,
                command,
            },
        };
        let client = client_id(self.settings.seed, self.settings.node.0, conn.id);
        let publish = Publish {
            room,
            payload: data.as_bytes(),
            content: Content::Json,
            skip_history: false,
            key: None,
            publisher: Publisher::Client {
                user: "",
                client: client.as_str(),
            },
            reply,
        };
        let (home, here) = (self.settings.hasher.home(room), self.settings.node);
        if home == here {
            self.publish_here(&publish, here);
        } else {
            let sent = self.outlets.request(home, &Request::Publish(publish));
            sent.expect("bytes are only read while lanes have room for what they lead to");
        }
    }

    pub(super) fn reply_error(&mut self, slot: u32, command: u32, code: ErrorCode) {
        self.stats.shard.command_errors_total.add(1);
        self.scratch.clear();
        json::error_reply(&mut self.scratch, command, code);
        self.queue_text(slot);
    }

    /// Sends the ping that opens the pong deadline.
    pub(super) fn ping(&mut self, slot: u32) {
        let pong_ms = self.now_ms + self.settings.pong_ms;
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Stage::Open { session, .. } = &mut conn.stage else {
            return;
        };
        session.pinged();
        conn.deadline_ms = pong_ms;
        self.scratch.clear();
        json::ping(&mut self.scratch);
        self.queue_text(slot);
    }

    /// Closes a connection whose deadline has passed, or pings it.
    pub(super) fn deadline_passed(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else {
            return;
        };
        match &conn.stage {
            Stage::Upgrading(_) => self.abort(slot, CloseReason::UpgradeTimeout),
            Stage::Open { session, .. } if !session.is_open() => {
                self.close(slot, CloseReason::Stale)
            }
            Stage::Open { session, .. } if session.is_pinged() => {
                self.close(slot, CloseReason::NoPong)
            }
            Stage::Open { .. } => self.ping(slot),
            Stage::Closing { .. } => self.abort(slot, CloseReason::PeerVanished),
            Stage::Aborting | Stage::Gone => {}
        }
    }

    fn client_id(&self, conn: crate::base::ConnId) -> ClientId {
        client_id(self.settings.seed, self.settings.node.0, conn)
    }
}

/// The public name of a connection: 32 hexadecimal digits, not kept but computed when needed.
#[derive(Clone, Copy)]
struct ClientId([u8; 32]);

impl ClientId {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits")
    }
}

/// Distinct for every connection of the process (slot, generation and shard are in it) and without
/// meaning outside: a permutation of them under the process's seed.
fn client_id(seed: u64, node: u16, conn: crate::base::ConnId) -> ClientId {
    use std::hash::BuildHasher;
    let hash =
        |salt: u64| foldhash::quality::FixedState::with_seed(seed ^ salt).hash_one((node, conn));
    let mut digits = [0; 32];
    let words = [hash(1), hash(2)];
    for (index, digit) in digits.iter_mut().enumerate() {
        let nibble = words[index / 16] >> (4 * (index % 16)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    ClientId(digits)
}
