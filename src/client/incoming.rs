//! Bytes from the broker, cut into frames.
//!
//! A buffer of bounded size: it grows for a frame that is larger than acknowledgements are, which only
//! events and answers to questions are, up to what the broker's frames may have.

use super::ClientError;
use crate::limits::{UPSTREAM_ANSWER_MAX, UPSTREAM_RESULT_MAX};
use crate::wire::upstream::{Frame, LENGTH_BYTES, decode};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;

/// `start ≤ end ≤ bytes.len()`; `bytes[start..end]` has been received and not been taken.
pub(super) struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; 4 * (UPSTREAM_ANSWER_MAX + LENGTH_BYTES)].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// The next frame that is there in full.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, ClientError> {
        let received = &self.bytes[self.start..self.end];
        let decoded = decode(received, UPSTREAM_RESULT_MAX).map_err(ClientError::BadFrame)?;
        Ok(decoded.map(|(frame, frame_bytes)| {
            self.start += frame_bytes;
            frame
        }))
    }

    /// Waits for bytes, as long as the stream's read timeout allows. Call after [`Incoming::next`] found
    /// no frame: then there is space.
    pub(super) fn fill(&mut self, stream: &TcpStream) -> Result<(), ClientError> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.bytes.len() {
            let mut larger = std::mem::take(&mut self.bytes).into_vec();
            larger.resize((2 * larger.len()).min(2 * UPSTREAM_RESULT_MAX), 0);
            self.bytes = larger.into_boxed_slice();
        }
        loop {
            return match (&mut &*stream).read(&mut self.bytes[self.end..]) {
                Ok(0) => Err(ClientError::Closed),
                Ok(count) => {
                    self.end += count;
                    Ok(())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Takes bytes if there are any; says whether there were.
    pub(super) fn try_fill(&mut self, stream: &TcpStream) -> Result<bool, ClientError> {
        stream.set_nonblocking(true)?;
        let filled = self.fill(stream);
        stream.set_nonblocking(false)?;
        match filled {
            Ok(()) => Ok(true),
            Err(ClientError::Timeout) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
