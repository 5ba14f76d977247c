//! The receive buffer of an upstream connection.
//!
//! `start ≤ end ≤ buffer.len()`: unread bytes lie in `start..end`, the socket writes behind `end`. What is
//! unread moves to the front before a read; that is at most one partial frame. The buffer grows for
//! a frame that does not fit, up to the largest that is allowed, and shrinks when it was taken.

use crate::limits;

/// See the module.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes at the beginning of what comes next that belong to a refused frame.
    skip: usize,
    /// Bytes of the largest whole frame.
    frame_bytes_max: usize,
}

impl Input {
    /// An empty buffer for frames of at most `frame_bytes_max` bytes, length field included.
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self {
            buffer: vec![0; limits::UPSTREAM_READ_BYTES],
            start: 0,
            end: 0,
            skip: 0,
            frame_bytes_max,
        }
    }

    /// What has arrived and was not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes `bytes` from the front of the unread.
    pub(super) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "more than has arrived");
        self.start += bytes;
    }

    /// Discards `bytes` from the front of the unread and of what is still to come.
    pub(super) fn skip(&mut self, bytes: usize) {
        let here = bytes.min(self.end - self.start);
        self.start += here;
        self.skip += bytes - here;
    }

    /// Where the next read goes; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let larger = (2 * self.buffer.len()).min(self.frame_bytes_max.max(self.end + 1));
            self.buffer.resize(larger, 0);
        } else if self.end == 0 && self.buffer.len() > limits::UPSTREAM_READ_BYTES {
            self.buffer.truncate(limits::UPSTREAM_READ_BYTES);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.end..]
    }

    /// Notes that a read put `bytes` into [`Input::space`].
    pub(super) fn filled(&mut self, bytes: usize) {
        assert!(
            bytes <= self.buffer.len() - self.end,
            "more than there was space"
        );
        self.end += bytes;
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(input: &mut Input, bytes: &[u8]) {
        input.space()[..bytes.len()].copy_from_slice(bytes);
        input.filled(bytes.len());
    }

    #[test]
    fn bytes_of_a_refused_frame_are_discarded_wherever_the_reads_end() {
        let mut input = Input::new(1_000);
        receive(&mut input, b"xxx");
        input.skip(5);
        assert_eq!(input.unread(), b"");
        receive(&mut input, b"x");
        assert_eq!(input.unread(), b"");
        receive(&mut input, b"xabc");
        assert_eq!(input.unread(), b"abc");
        input.skip(1);
        assert_eq!(input.unread(), b"bc");
    }

    #[test]
    fn the_buffer_holds_the_largest_frame_and_gives_the_memory_back() {
        let frame_bytes_max = 3 * limits::UPSTREAM_READ_BYTES + 7;
        let mut input = Input::new(frame_bytes_max);
        while input.unread().len() < frame_bytes_max {
            let space = input.space();
            let bytes = space.len();
            space.fill(1);
            input.filled(bytes);
        }
        assert_eq!(input.unread().len(), frame_bytes_max);
        input.consume(frame_bytes_max);
        assert_eq!(input.space().len(), limits::UPSTREAM_READ_BYTES);
    }
}
