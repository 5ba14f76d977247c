//! The socket of one connection, and what the broker has said on it.
//!
//! Frames to be sent gather in `out`; what comes in is taken apart into [`Heard`]. While the broker does
//! not read, what it says is taken in, so that two full sockets never wait for each other.

use super::error::would_block;
use super::incoming::Incoming;
use super::query::Told;
use super::{Answer, ClientError, Event, Receipt, Refusal};
use crate::limits::{CLIENT_BUFFER_BYTES, CLIENT_WRITE_SLICE_MS, UPSTREAM_OPENING_MS};
use crate::wire::upstream::{Frame, HelloAuth, hello_mac};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

pub(super) struct Connection {
    stream: TcpStream,
    incoming: Incoming,
    /// Encoded, not yet written.
    pub(super) out: Vec<u8>,
    pub(super) heard: Heard,
    /// What went wrong after something had come in; reported by the next wait, so that answers that came
    /// before the end are not lost with it.
    failure: Option<ClientError>,
    timeout: Duration,
}

/// What the broker has said.
#[derive(Default)]
pub(super) struct Heard {
    /// Total bytes of publications that it takes.
    pub(super) credit: u64,
    /// Not yet collected, in the order of arrival.
    pub(super) answers: VecDeque<Answer>,
    /// Not yet collected, in the order of arrival.
    pub(super) events: VecDeque<Event>,
    /// Answers to questions, by request id, not yet collected.
    pub(super) told: Vec<(u64, Told)>,
    /// Request id of the newest PONG.
    pub(super) pong: Option<u64>,
    /// Grace of GOAWAY, once it came.
    pub(super) goaway_ms: Option<u32>,
    /// Its own PINGs, to be answered: request id and body.
    pings: Vec<(u64, Vec<u8>)>,
}

impl Connection {
    /// Connects to the first address that answers.
    pub(super) fn dial(addr: impl ToSocketAddrs) -> Result<Self, ClientError> {
        let timeout = Duration::from_millis(UPSTREAM_OPENING_MS);
        let stream = connect_any(addr, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(Duration::from_millis(CLIENT_WRITE_SLICE_MS)))?;
        Ok(Self {
            stream,
            incoming: Incoming::new(),
            out: Vec::with_capacity(2 * CLIENT_BUFFER_BYTES),
            heard: Heard::default(),
            failure: None,
            timeout,
        })
    }

    /// The opening. Returns the largest `length` that the broker takes.
    pub(super) fn open(
        &mut self,
        service: &str,
        key: Option<(&str, &[u8])>,
    ) -> Result<usize, ClientError> {
        let challenge = self.wait_opening(|frame| match *frame {
            Frame::Challenge { challenge, .. } => Some(*challenge),
            _ => None,
        })?;
        let mac =
            key.map(|(key_id, secret)| (key_id, hello_mac(secret, &challenge, service, key_id)));
        let auth = match &mac {
            None => HelloAuth::None,
            Some((key_id, mac)) => HelloAuth::Hmac { key_id, mac },
        };
        let request = 0;
        Frame::Hello {
            request,
            service,
            auth,
        }
        .encode(&mut self.out);
        self.flush()?;
        let (frame_bytes_max, credit) = self.wait_opening(|frame| match *frame {
            Frame::Welcome {
                frame_bytes_max,
                credit,
                ..
            } => Some((frame_bytes_max as usize, credit)),
            _ => None,
        })?;
        self.heard.credit = credit;
        self.take_frames()?;
        Ok(frame_bytes_max)
    }

    /// How long a call waits for a sign of life.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.timeout = timeout;
        Ok(())
    }

    /// Writes everything in `out`.
    pub(super) fn flush(&mut self) -> Result<(), ClientError> {
        let mut written = 0;
        let result = self.write_out(&mut written);
        self.out.drain(..written);
        result
    }

    /// Waits until something has come in, and takes it.
    pub(super) fn wait(&mut self) -> Result<(), ClientError> {
        self.report_failure()?;
        self.incoming.fill(&self.stream)?;
        self.take_frames()?;
        // Answers to the broker's own pings.
        if let Err(error) = self.flush() {
            self.failure = Some(error);
        }
        Ok(())
    }

    /// Takes what has come in, without waiting.
    pub(super) fn take_arrived(&mut self) -> Result<(), ClientError> {
        self.report_failure()?;
        let mut any = false;
        loop {
            match self.incoming.try_fill(&self.stream) {
                Ok(true) => self.take_frames()?,
                Ok(false) => return Ok(()),
                Err(error) if any => {
                    self.failure = Some(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            any = true;
        }
    }

    /// Says that nothing follows and waits for the broker to close: it has read everything then.
    /// Reports what went wrong before that.
    pub(super) fn finish(mut self) -> Result<(), ClientError> {
        self.stream.shutdown(Shutdown::Write)?;
        loop {
            match self.incoming.fill(&self.stream) {
                Ok(()) => self.take_frames()?,
                Err(ClientError::Closed) => return self.report_failure(),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next frame of the opening, which must be the one that `take` takes.
    fn wait_opening<T>(
        &mut self,
        take: impl Fn(&Frame<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        loop {
            match self.incoming.next()? {
                None => {}
                Some(Frame::Error { code, text, .. }) => {
                    let text = text.to_owned();
                    return Err(ClientError::Refused(Refusal { code, text }));
                }
                Some(frame) => return take(&frame).ok_or(ClientError::UnexpectedFrame),
            }
            self.incoming.fill(&self.stream)?;
        }
    }

    /// Writes until nothing is left; `written` says how much went out, also when it fails.
    fn write_out(&mut self, written: &mut usize) -> Result<(), ClientError> {
        let mut progress = Instant::now();
        while *written < self.out.len() {
            match (&self.stream).write(&self.out[*written..]) {
                Ok(count) => {
                    *written += count;
                    progress = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if would_block(&error) && progress.elapsed() < self.timeout => {
                    self.take_arrived()?;
                }
                Err(error) => {
                    // What the broker said before it closed tells more than a broken pipe.
                    self.take_arrived()?;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn report_failure(&mut self) -> Result<(), ClientError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Takes the frames that are there in full.
    fn take_frames(&mut self) -> Result<(), ClientError> {
        let mut any = false;
        loop {
            let taken = match self.incoming.next() {
                Ok(None) => break,
                Ok(Some(frame)) => self.heard.take(frame),
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => any = true,
                Err(error) if any => {
                    self.failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        for (request, body) in self.heard.pings.drain(..) {
            let body = &body;
            Frame::Pong { request, body }.encode(&mut self.out);
        }
        Ok(())
    }
}

impl Heard {
    fn take(&mut self, frame: Frame<'_>) -> Result<(), ClientError> {
        match frame {
            Frame::Ack {
                request,
                level,
                duplicate,
                epoch,
                offset,
            } => self.answers.push_back(Answer {
                request,
                result: Ok(Receipt {
                    level,
                    duplicate,
                    epoch,
                    offset,
                }),
            }),
            Frame::Error {
                request,
                code,
                text,
            } => {
                let text = text.to_owned();
                let refusal = Refusal { code, text };
                if request == 0 || code.closes() {
                    return Err(ClientError::Refused(refusal));
                }
                let result = Err(refusal);
                self.answers.push_back(Answer { request, result });
            }
            Frame::Credit { total } => self.credit = self.credit.max(total),
            Frame::Goaway { grace_ms, .. } => self.goaway_ms = Some(grace_ms),
            Frame::Pong { request, .. } => self.pong = Some(request),
            Frame::Ping { request, body } => self.pings.push((request, body.to_vec())),
            Frame::Result { request, result } => self.told.push((request, Told::of(result))),
            Frame::Event { .. } => self.events.push_back(Event::from_frame(&frame)?),
            Frame::Challenge { .. }
            | Frame::Welcome { .. }
            | Frame::Register { .. }
            | Frame::Answer { .. }
            | Frame::Order { .. }
            | Frame::Query { .. }
            | Frame::Hello { .. }
            | Frame::Publish { .. }
            | Frame::Broadcast { .. } => return Err(ClientError::UnexpectedFrame),
        }
        Ok(())
    }
}

fn connect_any(addr: impl ToSocketAddrs, timeout: Duration) -> Result<TcpStream, ClientError> {
    let mut failure = None;
    for addr in addr.to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.map_or_else(
        || ClientError::Io(ErrorKind::AddrNotAvailable.into()),
        ClientError::Io,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::upstream::ErrorCode;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn a_refusal_that_came_with_the_last_answers_is_reported_by_finish() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let conn = Connection::dial(listener.local_addr().expect("its address")).expect("dialled");
        let (mut broker, _) = listener.accept().expect("the client");
        let mut bytes = Vec::new();
        Frame::Credit { total: 1 }.encode(&mut bytes);
        Frame::Error {
            request: 0,
            code: ErrorCode::OverCredit,
            text: "over credit",
        }
        .encode(&mut bytes);
        broker.write_all(&bytes).expect("there is space");
        let broker = std::thread::spawn(move || {
            let _ = broker.read_to_end(&mut Vec::new());
        });
        let finished = conn.finish();
        assert!(
            matches!(
                finished,
                Err(ClientError::Refused(Refusal {
                    code: ErrorCode::OverCredit,
                    ..
                }))
            ),
            "{finished:?}"
        );
        broker.join().expect("no panic");
    }
}
