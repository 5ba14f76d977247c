//! One client connection: what a shard keeps for it, and nothing while it is idle that it does not
//! need.

use super::identity::{Extra, SubExtra};
use crate::base::chunk::{Chunk, ChunkPool, Part};
use crate::base::{ConnId, ViewId};
use crate::limits::CONTROL_BYTES_MAX;
use crate::room::session::Session;
use crate::room::view::LineKind;
use crate::wire::client::Encoding;
use crate::wire::http::RequestHead;
use crate::wire::message::Assembler;
use std::rc::Rc;

/// Where a connection is in its life. Transitions only go down the list.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waiting for the whole upgrade request.
    Upgrading(Box<RequestHead>),
    /// WebSocket messages in both directions.
    Open {
        /// Incoming bytes become messages.
        assembler: Assembler,
        /// The client protocol.
        session: Session,
    },
    /// What is queued is sent, then the socket is closed; with `linger` only after the peer has
    /// ended too, so that unread bytes do not reset the connection before it has read our close.
    Closing {
        /// Wait for the peer's end.
        linger: bool,
        /// Finds the peer's close frame; `None` when its stream has no frames (any more).
        assembler: Option<Assembler>,
    },
    /// To be closed at the next flush, whatever is queued or in flight.
    Aborting,
    /// The socket is being closed; its slot is not free yet.
    Gone,
}

const _: () = assert!(
    size_of::<Stage>() <= 32,
    "every idle connection pays for this"
);

/// A subscription, as its connection knows it: the view and the place in the view's subscribers.
#[derive(Clone, Copy, Debug)]
pub(super) struct SubRef {
    /// The view.
    pub(super) view: ViewId,
    /// Index of the subscriber in its line; with [`SubFlags::WAITING`] the id of the subscribe command.
    pub(super) place: u32,
    /// What kind of subscription.
    pub(super) flags: SubFlags,
}

impl SubRef {
    pub(super) fn is_waiting(&self) -> bool {
        self.flags.has(SubFlags::WAITING)
    }

    /// Waits for what it missed, not for the home to know the view.
    pub(super) fn is_recovering(&self) -> bool {
        self.flags.has(SubFlags::RECOVERING)
    }
}

/// What kind of subscription; [`LineKind::BITS`] are its line's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubFlags(u32);

impl SubFlags {
    /// Not a subscriber yet: the home has not answered.
    pub(super) const WAITING: Self = Self(1 << 3);
    /// With `WAITING`: the home was asked for what was missed.
    pub(super) const RECOVERING: Self = Self(1 << 4);
    /// Its position is watched.
    pub(super) const POSITIONED: Self = Self(1 << 5);
    /// What it misses can be asked for.
    pub(super) const RECOVERABLE: Self = Self(1 << 6);
    /// Begun by the server.
    pub(super) const SERVER_SIDE: Self = Self(1 << 7);
    /// The home counts it as present.
    pub(super) const PRESENT: Self = Self(1 << 8);
    /// Recovery was asked for.
    pub(super) const WAS_RECOVERING: Self = Self(1 << 9);
    /// Error 112 rather than an unrecovered subscription.
    pub(super) const STRICT: Self = Self(1 << 10);
    /// There is a [`SubExtra`] for it.
    pub(super) const EXTRA: Self = Self(1 << 11);
    /// Services are told of its end.
    pub(super) const TOLD: Self = Self(1 << 12);

    /// A subscription of this line, nothing else.
    pub(super) fn of(kind: LineKind) -> Self {
        Self(kind.bits())
    }

    pub(super) fn kind(self) -> LineKind {
        LineKind::from_bits(self.0)
    }

    /// The same, of another line.
    #[must_use]
    pub(super) fn with_kind(self, kind: LineKind) -> Self {
        Self(self.0 & !LineKind::BITS | kind.bits())
    }

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Whether the home's answer may still be an error: such a subscriber is not present before it.
    pub(super) fn may_be_refused(self) -> bool {
        self.has(Self::RECOVERING) && self.has(Self::STRICT)
    }

    #[must_use]
    pub(super) fn with(self, flag: Self, on: bool) -> Self {
        if on {
            Self(self.0 | flag.0)
        } else {
            Self(self.0 & !flag.0)
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Conn {
    /// Slot and generation.
    pub(super) id: ConnId,
    /// Something is to be sent once the send in flight is done.
    pub(super) backlog: bool,
    /// How it writes the client protocol.
    pub(super) encoding: Encoding,
    /// Pings are WebSocket control frames.
    pub(super) frame_pings: bool,
    /// Where it is in its life.
    pub(super) stage: Stage,
    /// Subscriptions, waiting ones included.
    pub(super) subs: Vec<SubRef>,
    /// What only some connections have.
    pub(super) extra: Option<Box<Extra>>,
    /// Replies and pushes for this connection only; sent before room traffic.
    pub(super) control: Control,
    /// When the stage must have moved on: upgrade, connect, ping, pong, close.
    pub(super) deadline_ms: u64,
    /// When the send in flight started; 0 while there is none.
    pub(super) sending_since_ms: u64,
    /// The earliest entry in the timer wheel that is for this connection.
    pub(super) timer_ms: u64,
}

const _: () = assert!(
    size_of::<Conn>() <= 128,
    "every idle connection pays for this"
);

impl Conn {
    /// A connection that has just been accepted.
    pub(super) fn new(id: ConnId, deadline_ms: u64) -> Self {
        Self {
            id,
            backlog: false,
            encoding: Encoding::Json,
            frame_pings: false,
            stage: Stage::Upgrading(Box::new(RequestHead::new())),
            subs: Vec::new(),
            extra: None,
            control: Control::default(),
            deadline_ms,
            sending_since_ms: 0,
            timer_ms: u64::MAX,
        }
    }

    /// Whether it takes part in rooms.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// Its session, while it takes part in rooms.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.stage {
            Stage::Open { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Whether `connect` has been answered, so that pushes may follow.
    pub(super) fn is_connected(&self) -> bool {
        matches!(&self.stage, Stage::Open { session, .. } if session.is_open())
    }

    /// The user; empty for an anonymous one.
    pub(super) fn user(&self) -> &str {
        self.extra.as_ref().map_or("", |extra| &extra.user)
    }

    /// What is kept of it for services only; empty for nothing.
    pub(super) fn meta(&self) -> &[u8] {
        self.extra.as_ref().map_or(b"", |extra| &extra.meta)
    }

    /// Its subscription to the room of a view.
    pub(super) fn sub(&self, view: ViewId) -> Option<&SubRef> {
        self.subs.iter().find(|sub| sub.view == view)
    }

    /// What is kept of the subscription to the room of a view, made when there is none.
    pub(super) fn sub_extra(&mut self, view: ViewId) -> &mut SubExtra {
        let subs = &mut self.extra().subs;
        let at = subs.iter().position(|sub| sub.view == view);
        let at = at.unwrap_or_else(|| {
            subs.push(SubExtra {
                view,
                ..SubExtra::default()
            });
            subs.len() - 1
        });
        &mut subs[at]
    }

    /// What only some connections have, made when there is none.
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

/// Bytes for one connection, in a chunk of its own while there are any.
#[derive(Debug, Default)]
pub(super) struct Control {
    chunk: Option<Rc<Chunk>>,
}

/// The control buffer is full: the peer does not read its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControlFull;

impl Control {
    /// Appends bytes that must be sent together with nothing between them.
    pub(super) fn append(&mut self, bytes: &[u8], pool: &mut ChunkPool) -> Result<(), ControlFull> {
        let Some(chunk) = self
            .chunk
            .as_ref()
            .filter(|chunk| chunk.free() >= bytes.len())
            .filter(|chunk| chunk.len() + bytes.len() <= CONTROL_BYTES_MAX)
        else {
            return self.grow(bytes, pool);
        };
        chunk.append(bytes);
        Ok(())
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.chunk.as_ref().map_or(0, |chunk| chunk.len())
    }

    /// What has not been handed to a send yet; it counts as handed over now.
    pub(super) fn take(&mut self, pool: &mut ChunkPool) -> Option<Part> {
        let chunk = self.chunk.take()?;
        let part = Part::new(&chunk, 0, chunk.len());
        pool.release(chunk);
        Some(part)
    }

    /// Drops what waits.
    pub(super) fn clear(&mut self, pool: &mut ChunkPool) {
        self.take(pool);
    }

    fn grow(&mut self, bytes: &[u8], pool: &mut ChunkPool) -> Result<(), ControlFull> {
        let waiting = self.chunk.as_ref().map_or(0, |chunk| chunk.len());
        if waiting + bytes.len() > CONTROL_BYTES_MAX {
            return Err(ControlFull);
        }
        let larger = pool.take((2 * waiting + bytes.len()).min(CONTROL_BYTES_MAX));
        if let Some(part) = self.take(pool) {
            let mut copy = Vec::with_capacity(part.len());
            part.copy_to(&mut copy);
            larger.append(&copy);
        }
        larger.append(bytes);
        self.chunk = Some(larger);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_keep_their_order_and_are_bounded() {
        let (mut control, mut pool, mut expected) =
            (Control::default(), ChunkPool::default(), vec![]);
        for n in 0..600u32 {
            let bytes = vec![n as u8; (n % 300) as usize];
            control.append(&bytes, &mut pool).unwrap();
            expected.extend(bytes);
        }
        let mut out = Vec::new();
        control.take(&mut pool).unwrap().copy_to(&mut out);
        assert_eq!(out, expected);
        assert!(control.take(&mut pool).is_none() && pool.outstanding() == 0);
        assert_eq!(
            control.append(&vec![0; CONTROL_BYTES_MAX + 1], &mut pool),
            Err(ControlFull)
        );
    }
}
