//! WebSocket messages out of received bytes: frames reassembled, control frames in between.
//!
//! A frame that lies whole in the received bytes is unmasked in place and handed out as a slice of
//! them; nothing is copied and nothing is allocated. Only what a read has cut, and messages in
//! fragments, are gathered on the heap, and that memory is freed with the message. Buffers grow by
//! the bytes that arrived, never by a length that the peer declared.
//!
//! The same bytes give the same messages and the same error however reads cut them. Time and rates
//! are not known here: how many frames a peer may send in a second is the caller's business.

use crate::limits::{MESSAGE_BYTES_MAX, MESSAGE_FRAGMENTS_MAX};
use crate::wire::frame::{
    Expected, FrameError, FrameHeader, HEADER_BYTES_MAX, Opcode, Role, Violation,
    close_code_is_valid, decode_header,
};
use crate::wire::{mask, utf8};

/// What a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message, fragments joined. Text has been checked to be UTF-8.
    Message {
        /// [`Opcode::Text`] or [`Opcode::Binary`].
        opcode: Opcode,
        /// The message.
        payload: &'a [u8],
    },
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// Answer to a ping, or unsolicited.
    Pong(&'a [u8]),
    /// The peer closes; whatever follows it is not to be read.
    Close {
        /// Close code, valid in a frame; `None` when the frame has no payload.
        code: Option<u16>,
        /// Why, in the peer's words; at most 123 bytes.
        reason: &'a str,
    },
}

/// Turns one connection's bytes into messages.
#[derive(Debug)]
pub struct Assembler {
    role: Role,
    /// Payload bytes of a message, all fragments together.
    message_max: u32,
    /// Present while a frame or message is incomplete, and until the call after it is complete.
    partial: Option<Box<Partial>>,
}

const _: () = assert!(
    size_of::<Assembler>() <= 48,
    "an idle connection pays for this"
);

impl Assembler {
    /// An assembler of messages of up to [`MESSAGE_BYTES_MAX`] bytes.
    pub fn new(role: Role) -> Self {
        Self::with_message_max(role, MESSAGE_BYTES_MAX as u32)
    }

    /// An assembler of messages of up to `message_max` bytes, for a peer that we chose ourselves.
    pub fn with_message_max(role: Role, message_max: u32) -> Self {
        Self {
            role,
            message_max,
            partial: None,
        }
    }

    /// Whether nothing is incomplete, so that nothing is on the heap.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes bytes off the front of `input` up to the end of the next message or control frame, and
    /// unmasks them in place. `None` when all input is used and more is needed.
    ///
    /// To be called until it gives `None`. After an error or [`Incoming::Close`] the stream has no
    /// meaning any more and the assembler is to be dropped.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Incoming<'a>>, FrameError> {
        self.release_finished();
        if self.at_frame_start() {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some((opcode, payload)) = self.next_in_place(input)? {
                return incoming(opcode, payload).map(Some);
            }
        }
        let (role, message_max) = (self.role, self.message_max as usize);
        let partial = self.partial.get_or_insert_default();
        match partial.gather(input, role, message_max)? {
            Some(Opcode::Text) => Ok(Some(Incoming::Message {
                // Checked as it came in.
                opcode: Opcode::Text,
                payload: &partial.finished,
            })),
            Some(opcode) => incoming(opcode, &partial.finished).map(Some),
            None => Ok(None),
        }
    }

    /// The next frame without its header, when it lies whole in `input` and needs nothing else.
    fn next_in_place<'i>(
        &self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<(Opcode, &'i [u8])>, FrameError> {
        let message = self
            .partial
            .as_ref()
            .and_then(|partial| partial.message.as_ref());
        let expected = expected(self.role, message, self.message_max as usize);
        let Some((header, header_bytes)) = decode_header(input, &expected)? else {
            return Ok(None);
        };
        let is_alone = header.fin && header.opcode != Opcode::Continuation;
        if !is_alone || input.len() - header_bytes < header.payload_bytes {
            return Ok(None);
        }
        take(input, header_bytes);
        let payload = take(input, header.payload_bytes);
        if let Some(key) = header.mask {
            mask::apply(payload, key, 0);
        }
        Ok(Some((header.opcode, payload)))
    }

    fn at_frame_start(&self) -> bool {
        self.partial
            .as_ref()
            .is_none_or(|partial| matches!(partial.reading, Reading::Header { have: 0, .. }))
    }

    /// Gives back the memory of what the call before handed out.
    fn release_finished(&mut self) {
        let at_frame_start = self.at_frame_start();
        if let Some(partial) = &mut self.partial {
            if at_frame_start && partial.message.is_none() {
                self.partial = None;
            } else {
                partial.finished = Vec::new();
            }
        }
    }
}

/// A frame or message of which bytes are missing.
#[derive(Debug, Default)]
struct Partial {
    reading: Reading,
    /// The open message: begun and not finished.
    message: Option<OpenMessage>,
    /// Payload of the control frame that is being read.
    control: Vec<u8>,
    /// Payload that was handed out last.
    finished: Vec<u8>,
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
struct OpenMessage {
    opcode: Opcode,
    /// Frames so far, empty ones included.
    fragments: u32,
    payload: Vec<u8>,
    /// Bytes of `payload` known to be whole UTF-8 characters; at most three fewer than there are.
    /// Stays 0 in a binary message.
    utf8_checked: usize,
}

impl Partial {
    /// Reads on until a message or control frame is in `finished`, which is then its opcode, or
    /// until the input is used up.
    fn gather(
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
fn expected(role: Role, message: Option<&OpenMessage>, message_max: usize) -> Expected {
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

/// A whole frame's payload as what it means.
fn incoming(opcode: Opcode, payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    match opcode {
        Opcode::Ping => Ok(Incoming::Ping(payload)),
        Opcode::Pong => Ok(Incoming::Pong(payload)),
        Opcode::Close => close(payload),
        Opcode::Text | Opcode::Binary | Opcode::Continuation => {
            if opcode == Opcode::Text && utf8::check(payload).is_err() {
                return Err(FrameError::InvalidUtf8);
            }
            Ok(Incoming::Message { opcode, payload })
        }
    }
}

/// The payload of a close frame (RFC 6455 section 5.5.1).
fn close(payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Incoming::Close {
                code: None,
                reason: "",
            }),
            _ => Err(FrameError::Protocol(Violation::CloseTooShort)),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !close_code_is_valid(code) {
        return Err(FrameError::Protocol(Violation::CloseCode));
    }
    let reason = utf8::check(reason).map_err(|_| FrameError::InvalidUtf8)?;
    Ok(Incoming::Close {
        code: Some(code),
        reason,
    })
}

/// Cuts `count` bytes off the front; `count` is at most the length.
fn take<'i>(input: &mut &'i mut [u8], count: usize) -> &'i mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(count);
    *input = rest;
    front
}
