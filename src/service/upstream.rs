//! One task for each upstream connection: socket to frames, frames to lanes, answers to socket.
//!
//! ```text
//!  read ──► frames ──► lanes, published once ──► answers flushed ──► read …
//!             │ full lane or too many pending answers
//!             └──► wait with growing pauses, reading nothing ──► frames …
//! ```
//!
//! While it waits the socket's receive buffer fills and TCP closes the window: the pressure of a slow
//! shard reaches the service without a frame being dropped or stored.

use super::Shared;
use super::accept::accept;
use super::credit::Credit;
use super::input::Input;
use super::intake::{Desk, Intake, Verdict};
use super::mailbox::Mailbox;
use super::opening::{self, Refusal};
use super::readable::stream_of;
use super::tick::breathe;
use crate::limits;
use crate::wire::upstream::{ErrorCode, Frame, LENGTH_BYTES, Recovery, decode};
use futures_lite::future::{self, poll_fn};
use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::timer::{Timer, sleep};
use std::cell::Cell;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Accepts upstream connections for ever; one task each.
pub(super) async fn listen(shared: Rc<Shared>, listener: TcpListener) {
    let is_loopback = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let open = Rc::new(Cell::new(0));
    let goodbyes = Rc::new(Cell::new(0));
    accept(listener, |stream| {
        shared.stats.upstream_accepts_total.add(1);
        let place = Place::take(&open, shared.upstream_limits.conns_max);
        let goodbye = match place {
            Some(_) => None,
            None => match Place::take(&goodbyes, limits::UPSTREAM_GOODBYES_MAX) {
                Some(goodbye) => Some(goodbye),
                None => return,
            },
        };
        let shared = Rc::clone(&shared);
        glommio::spawn_local(async move {
            let mut stream = stream_of(stream.into());
            match place {
                Some(_place) => serve(&shared, stream, is_loopback).await,
                None => {
                    let _goodbye = goodbye;
                    let text = "too many upstream connections";
                    say_goodbye(&shared, &mut stream, 0, ErrorCode::Overloaded, text).await;
                }
            }
        })
        .detach();
    })
    .await;
}

/// One of the connections that a listener may have; given back when dropped.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>, max: usize) -> Option<Self> {
        let is_free = open.get() < max;
        is_free.then(|| {
            open.set(open.get() + 1);
            Self(Rc::clone(open))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn serve(shared: &Shared, mut stream: TcpStream, is_loopback: bool) {
    let bounds = &shared.upstream_limits;
    let credit = Credit::new(bounds.credit_window_bytes, bounds.frame_bytes_max);
    let mut input = Input::new(LENGTH_BYTES + bounds.frame_bytes_max);
    let granted = credit.granted();
    match opening::open(shared, &mut stream, &mut input, is_loopback, granted).await {
        Ok(()) => {}
        Err(Refusal::Gone) => return,
        Err(Refusal::Error {
            request,
            code,
            text,
        }) => return say_goodbye(shared, &mut stream, request, code, text).await,
    }
    let mailbox = Rc::new(Mailbox::default());
    let conn = shared.node.enter(Rc::clone(&mailbox));
    // The drain began while WELCOME was written and may have passed over this connection.
    if shared.draining.get() {
        mailbox.send(&Frame::Goaway {
            node: &shared.node_name,
            grace_ms: 0,
        });
        mailbox.finish();
    }
    let mut connection = Connection {
        shared,
        stream,
        input,
        intake: Intake::new(conn, credit),
        mailbox,
        quiet: None,
        half_closed: None,
    };
    let ended = connection.run().await;
    shared.node.leave(conn);
    if ended == Ended::ByUs {
        linger(&mut connection.stream).await;
    }
}

/// An open connection.
struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    input: Input,
    intake: Intake,
    mailbox: Rc<Mailbox>,
    /// Since the last bytes came, while the connection is finishing.
    quiet: Option<Timer>,
    /// The peer sends nothing more; until when it is still answered.
    half_closed: Option<Timer>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The peer closed or vanished.
    ByPeer,
    /// We close; what the peer has to know is flushed.
    ByUs,
}

/// Why a batch of frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// No whole frame is left.
    Read,
    /// The frame at the front has to wait.
    Stalled,
    /// The peer was told why its connection ends.
    Close,
}

impl Connection<'_> {
    async fn run(&mut self) -> Ended {
        let mut pause_us = limits::UPSTREAM_PAUSE_US_MIN;
        loop {
            let unread = self.input.unread().len();
            let batch = self.take_frames();
            self.shared.node.take_deliveries();
            if self.input.unread().len() < unread {
                pause_us = limits::UPSTREAM_PAUSE_US_MIN;
            }
            let waited = match batch {
                Batch::Read => self.receive().await,
                Batch::Stalled => {
                    if pause_us == limits::UPSTREAM_PAUSE_US_MIN {
                        self.shared.stats.upstream_stalls_total.add(1);
                    }
                    let waited = self.pause(pause_us).await;
                    pause_us = (2 * pause_us).min(limits::UPSTREAM_PAUSE_US_MAX);
                    waited
                }
                Batch::Close => {
                    self.mailbox.close();
                    // A peer that does not read is not told why.
                    let deadline = sleep(Duration::from_millis(limits::UPSTREAM_LINGER_MS));
                    future::or(self.receive(), async {
                        deadline.await;
                        Err(Ended::ByPeer)
                    })
                    .await
                }
            };
            if let Err(ended) = waited {
                return ended;
            }
        }
    }

    /// Takes every whole frame of the input and grants credit for them. Synchronous: lanes are
    /// published once, and no other task runs in between.
    fn take_frames(&mut self) -> Batch {
        let Self {
            shared,
            input,
            intake,
            mailbox,
            ..
        } = self;
        let frame_bytes_max = shared.upstream_limits.frame_bytes_max;
        shared.node.batch(mailbox, |desk| {
            let batch = loop {
                if let Some(batch) = take_frame(input, intake, desk, frame_bytes_max) {
                    break batch;
                }
            };
            if batch != Batch::Close
                && let Some(total) = intake.credit.grant()
            {
                Frame::Credit { total }.encode(desk.out);
            }
            batch
        })
    }

    /// Flushes answers until the peer has sent something.
    async fn receive(&mut self) -> Result<(), Ended> {
        let space = self.input.space().len();
        let bytes = poll_fn(|cx| self.poll_receive(cx)).await?;
        self.quiet = None;
        self.input.filled(bytes);
        self.shared.stats.upstream_bytes_total.add(bytes as u64);
        // After a read that emptied the socket the next one waits for the ring anyway. A peer that
        // always has more to send must not keep the others waiting.
        if bytes == space {
            breathe().await;
        }
        Ok(())
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Ended>> {
        let is_flushed = self.poll_answer(cx)?.is_ready();
        if self.half_closed.is_some() {
            return self.poll_half_closed(cx, is_flushed).map(Err);
        }
        if self.mailbox.close.get() || !is_flushed && self.mailbox.output.borrow().is_long() {
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_read(cx, self.input.space()) {
            Poll::Pending if self.mailbox.finishing.get() => {
                self.poll_finished(cx, is_flushed).map(Err)
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => {
                let linger = Duration::from_millis(limits::UPSTREAM_LINGER_MS);
                self.half_closed = Some(Timer::new(linger));
                self.poll_half_closed(cx, is_flushed).map(Err)
            }
            Poll::Ready(Ok(bytes)) => Poll::Ready(Ok(bytes)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Ended::ByPeer)),
        }
    }

    /// Ready when the peer, which sends nothing more, is owed nothing or was answered for long enough.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> Poll<Ended> {
        if is_flushed && self.mailbox.owes_nothing() {
            return Poll::Ready(Ended::ByPeer);
        }
        match &mut self.half_closed {
            Some(deadline) => Pin::new(deadline).poll(cx).map(|_| Ended::ByPeer),
            None => Poll::Pending,
        }
    }

    /// Ready when the peer has been silent for a moment and is owed nothing. Whoever asked for the end
    /// bounds the wait.
    fn poll_finished(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> Poll<Ended> {
        let moment = Duration::from_millis(limits::UPSTREAM_QUIET_MS);
        let quiet = self.quiet.get_or_insert_with(|| Timer::new(moment));
        let is_quiet = Pin::new(quiet).poll(cx).is_ready();
        if is_quiet && is_flushed && self.mailbox.owes_nothing() {
            return Poll::Ready(Ended::ByUs);
        }
        Poll::Pending
    }

    /// Writes answers. An error when the connection is over.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        self.mailbox.register(cx);
        let mut output = self.mailbox.output.borrow_mut();
        match output.poll_flush(cx, &mut self.stream) {
            Poll::Ready(Err(_)) => Err(Ended::ByPeer),
            Poll::Ready(Ok(())) if self.mailbox.close.get() => Err(Ended::ByUs),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Waits for room in a lane or among the pending answers, flushing answers meanwhile. A lane does
    /// not say when it has room again, so this looks again after `pause_us`.
    async fn pause(&mut self, pause_us: u64) -> Result<(), Ended> {
        let mut timer = Timer::new(Duration::from_micros(pause_us));
        poll_fn(|cx| {
            let _ = self.poll_answer(cx)?;
            Pin::new(&mut timer).poll(cx).map(|_| Ok(()))
        })
        .await
    }
}

/// Takes the frame at the front of the input; says so when the batch ends with it.
fn take_frame(
    input: &mut Input,
    intake: &mut Intake,
    desk: &mut Desk<'_>,
    frame_bytes_max: usize,
) -> Option<Batch> {
    match decode(input.unread(), frame_bytes_max) {
        Ok(None) => Some(Batch::Read),
        Ok(Some((frame, frame_bytes))) => match intake.handle(&frame, frame_bytes, desk) {
            Verdict::Taken => {
                input.consume(frame_bytes);
                desk.stats.upstream_frames_total.add(1);
                None
            }
            Verdict::Stalled => Some(Batch::Stalled),
            Verdict::Close => Some(Batch::Close),
        },
        Err(error) => {
            let is_publication = is_publication(input.unread());
            desk.stats.upstream_frames_total.add(1);
            match (
                intake.undecodable(&error, is_publication, desk),
                error.recovery,
            ) {
                (Verdict::Taken, Recovery::Skip(bytes)) => {
                    input.skip(bytes);
                    None
                }
                _ => Some(Batch::Close),
            }
        }
    }
}

/// Whether the header at the front of `input` is of PUBLISH or BROADCAST, whose bytes count against
/// the credit even when the frame is refused.
fn is_publication(input: &[u8]) -> bool {
    matches!(input.get(LENGTH_BYTES), Some(0x02 | 0x03))
}

/// Answers with an ERROR frame and closes.
async fn say_goodbye(
    shared: &Shared,
    stream: &mut TcpStream,
    request: u64,
    code: ErrorCode,
    text: &str,
) {
    shared.stats.upstream_errors_total.add(1);
    let mut bytes = Vec::new();
    Frame::Error {
        request,
        code,
        text,
    }
    .encode(&mut bytes);
    // The frame is small and the socket's buffer empty; a peer for which this waits is not told.
    let told = future::or(async { stream.write_all(&bytes).await.is_ok() }, async {
        sleep(Duration::from_millis(limits::UPSTREAM_LINGER_MS)).await;
        false
    });
    if told.await {
        linger(stream).await;
    }
}

/// Ends our side and reads the peer's to its end, for a bounded time: closing a socket that holds
/// unread bytes resets the connection, and the peer would lose the frame that says why.
async fn linger(stream: &mut TcpStream) {
    let drained = async {
        if stream.shutdown(std::net::Shutdown::Write).await.is_ok() {
            let mut discarded = vec![0; 16 * 1024];
            while stream
                .read(&mut discarded)
                .await
                .is_ok_and(|bytes| bytes > 0)
            {}
        }
    };
    let deadline = sleep(Duration::from_millis(limits::UPSTREAM_LINGER_MS));
    future::or(drained, deadline).await;
}
