//! One client connection: what a shard keeps for it, and nothing while it is idle that it does not
//! need.

use crate::base::chunk::{Chunk, ChunkPool, Part};
use crate::base::{ConnId, ViewId};
use crate::limits::CONTROL_BYTES_MAX;
use crate::room::session::Session;
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
    /// Index of the subscriber; [`SubRef::WAITING`] while the home has not answered.
    pub(super) index: u32,
}

impl SubRef {
    /// Not a subscriber yet.
    pub(super) const WAITING: u32 = u32::MAX;
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Conn {
    /// Slot and generation.
    pub(super) id: ConnId,
    /// Something is to be sent once the send in flight is done.
    pub(super) backlog: bool,
    /// Where it is in its life.
    pub(super) stage: Stage,
    /// Subscriptions, waiting ones included.
    pub(super) subs: Vec<SubRef>,
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
            stage: Stage::Upgrading(Box::new(RequestHead::new())),
            subs: Vec::new(),
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
