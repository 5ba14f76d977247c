//! What reads have cut and what comes in fragments, gathered on the heap until it is whole.

use crate::limits::MESSAGE_FRAGMENTS_MAX;
use crate::wire::frame::{
    Expected, FrameError, FrameHeader, HEADER_BYTES_MAX, Opcode, Role, decode_header,
};
use crate::wire::{mask, utf8};

/// A frame or message of which bytes are missing.
#[derive(Debug, Default)]
pub(super) struct Partial {
    reading: Reading,
    /// The open message: begun and not finished.
    pub(super) message: Option<OpenMessage>,
    /// Payload of the control frame that is being read.
    control: Vec<u8>,
    /// Payload that was handed out last.
    pub(super) finished: Vec<u8>,
}

/// Which part of a frame comes next.
#[derive(Debug)]
enum Reading {
    /// A header of which `have` bytes are there.
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        have: usize,
    },
    /// Payload, of which `received` bytes, at most `header.payload_bytes`, are there.
    Payload {
        header: FrameHeader,
        received: usize,
    },
}

impl Default for Reading {
    fn default() -> Self {
        Self::Header {
            bytes: [0; HEADER_BYTES_MAX],
            have: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct OpenMessage {
    opcode: Opcode,
    /// Frames so far, empty ones included.
    fragments: u32,
    pub(super) payload: Vec<u8>,
    /// Bytes of `payload` known to be whole UTF-8 characters; at most three fewer than there are.
    /// Stays 0 in a binary message.
    utf8_checked: usize,
}

impl Partial {
    /// Whether no byte of a next frame is there.
    pub(super) fn at_frame_start(&self) -> bool {
        matches!(self.reading, Reading::Header { have: 0, .. })
    }

    /// Whether neither a frame nor a message is open.
    pub(super) fn is_idle(&self) -> bool {
        self.at_frame_start() && self.message.is_none()
    }

    /// Reads on until a message or control frame is in `finished`, which is then its opcode, or
    /// until the input is used up.
    pub(super) fn gather(
        &mut self,
        input: &mut &mut [u8],
        role: Role,
        message_max: usize,
    ) -> Result<Option<Opcode>, FrameError> {
        loop {
            match &mut self.reading {
                Reading::Header { bytes, have } => {
                    let expected = expected(role, self.message.as_ref(), message_max);
                    let Some(header) = gather_header(bytes, have, input, &expected)? else {
                        return Ok(None);
                    };
                    self.open(&header)?;
                    self.reading = Reading::Payload {
                        header,
                        received: 0,
                    };
                }
                Reading::Payload { header, received } => {
                    let missing = header.payload_bytes - *received;
                    let part = take(input, missing.min(input.len()));
                    if let Some(key) = header.mask {
                        mask::apply(part, key, *received);
                    }
                    *received += part.len();
                    let header = *header;
                    let is_whole = missing == part.len();
                    self.append(&header, part)?;
                    if !is_whole {
                        return Ok(None);
                    }
                    self.reading = Reading::default();
                    if let Some(opcode) = self.finish(&header)? {
                        return Ok(Some(opcode));
                    }
                }
            }
        }
    }

    /// A frame begins.
    fn open(&mut self, header: &FrameHeader) -> Result<(), FrameError> {
        if header.opcode.is_control() {
            return Ok(());
        }
        let message = self.message.get_or_insert_with(|| OpenMessage {
            opcode: header.opcode,
            fragments: 0,
            payload: Vec::new(),
            utf8_checked: 0,
        });
        message.fragments += 1;
        if message.fragments > MESSAGE_FRAGMENTS_MAX {
            return Err(FrameError::TooBig);
        }
        Ok(())
    }

    /// Payload of the current frame has come in, unmasked.
    fn append(&mut self, header: &FrameHeader, part: &[u8]) -> Result<(), FrameError> {
        match &mut self.message {
            Some(message) if !header.opcode.is_control() => message.append(part),
            _ => {
                self.control.extend_from_slice(part);
                Ok(())
            }
        }
    }

    /// The current frame is whole; the opcode of what it completes, if it does.
    fn finish(&mut self, header: &FrameHeader) -> Result<Option<Opcode>, FrameError> {
        if header.opcode.is_control() {
            self.finished = std::mem::take(&mut self.control);
            return Ok(Some(header.opcode));
        }
        if !header.fin {
            return Ok(None);
        }
        let Some(message) = self.message.take() else {
            return Ok(None);
        };
        if message.opcode == Opcode::Text && message.utf8_checked != message.payload.len() {
            return Err(FrameError::InvalidUtf8);
        }
        self.finished = message.payload;
        Ok(Some(message.opcode))
    }
}

impl OpenMessage {
    fn append(&mut self, part: &[u8]) -> Result<(), FrameError> {
        self.payload.extend_from_slice(part);
        if self.opcode == Opcode::Text {
            let unchecked = &self.payload[self.utf8_checked..];
            let whole = utf8::checked_prefix(unchecked).map_err(|_| FrameError::InvalidUtf8)?;
            self.utf8_checked += whole;
        }
        Ok(())
    }
}

/// What the next header is held against.
pub(super) fn expected(role: Role, message: Option<&OpenMessage>, message_max: usize) -> Expected {
    let used = message.map_or(0, |message| message.payload.len());
    Expected {
        role,
        in_message: message.is_some(),
        payload_max: message_max.saturating_sub(used),
    }
}

/// Adds to `bytes`, of which `have` are there, what the header still needs.
fn gather_header(
    bytes: &mut [u8; HEADER_BYTES_MAX],
    have: &mut usize,
    input: &mut &mut [u8],
    expected: &Expected,
) -> Result<Option<FrameHeader>, FrameError> {
    let before = *have;
    let added = input.len().min(HEADER_BYTES_MAX - before);
    bytes[before..before + added].copy_from_slice(&input[..added]);
    match decode_header(&bytes[..before + added], expected)? {
        // Without this input the header was incomplete, so it ends behind `before`.
        Some((header, header_bytes)) => {
            take(input, header_bytes - before);
            Ok(Some(header))
        }
        None => {
            take(input, added);
            *have += added;
            Ok(None)
        }
    }
}

/// Cuts `count` bytes off the front; `count` is at most the length.
pub(super) fn take<'i>(input: &mut &'i mut [u8], count: usize) -> &'i mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(count);
    *input = rest;
    front
}
