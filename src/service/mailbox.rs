//! What other tasks leave for an upstream connection's task: answers to be sent, wishes, a waker.
//!
//! The output is one buffer, flushed once per turn of the connection's task. It is bounded by what
//! may be pending (publications are answered by one small frame each, few questions wait at one time)
//! because the task reads nothing while more than [`limits::UPSTREAM_OUTPUT_BYTES`] wait for the socket.

use super::acks::{Acks, Answered, Outcome};
use super::queries::Queries;
use crate::limits;
use crate::mesh::Delivery;
use crate::wire::upstream::Frame;
use futures_lite::io::AsyncWrite;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) acks: RefCell<Acks>,
    pub(super) queries: RefCell<Queries>,
    pub(super) output: RefCell<Output>,
    /// The connection is to end once its output is flushed.
    pub(super) close: Cell<bool>,
    /// The connection is to end once the peer is owed nothing and has nothing more to say.
    pub(super) finishing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    /// Passes a home's answer on and wakes the connection when that made a frame for it.
    pub(super) fn settle(&self, ticket: u64, outcome: Outcome) -> Answered {
        let mut output = self.output.borrow_mut();
        let answered = self
            .acks
            .borrow_mut()
            .settle(ticket, outcome, &mut output.bytes);
        if answered != Answered::default() {
            self.wake();
        }
        answered
    }

    /// Passes a shard's answer to a question on, as [`Mailbox::settle`] does that to a publication.
    pub(super) fn answer(&self, ticket: u64, delivery: &Delivery<'_>) -> Answered {
        let mut output = self.output.borrow_mut();
        let mut queries = self.queries.borrow_mut();
        let answered = queries.settle(ticket, delivery, &mut output.bytes);
        if answered != Answered::default() {
            self.wake();
        }
        answered
    }

    /// Whether everything that the peer asked for is answered.
    pub(super) fn owes_nothing(&self) -> bool {
        self.acks.borrow().is_empty() && self.queries.borrow().is_empty()
    }

    /// Sends `frame` as soon as the connection's task runs.
    pub(super) fn send(&self, frame: &Frame<'_>) {
        frame.encode(&mut self.output.borrow_mut().bytes);
        self.wake();
    }

    /// Ends the connection when what it was sent is flushed.
    pub(super) fn close(&self) {
        self.close.set(true);
        self.wake();
    }

    /// Ends the connection when everything that the peer sent is taken and answered.
    pub(super) fn finish(&self) {
        self.finishing.set(true);
        self.wake();
    }

    /// Notes whom to wake; called by the connection's task before it looks at the rest.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Frames that wait for the socket: `bytes[sent..]`, `sent ≤ bytes.len()`.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    /// Writes to `stream` what it takes. Ready when nothing is left.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => self.sent += bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.compact();
                    return Poll::Pending;
                }
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(limits::UPSTREAM_OUTPUT_BYTES);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether so much waits that nothing more should be asked for.
    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() - self.sent > limits::UPSTREAM_OUTPUT_BYTES
    }

    /// Drops what was sent once it is the larger part, so that a socket that takes a little at a time
    /// costs neither a growing buffer nor a move for each write.
    fn compact(&mut self) {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
