//! Writing Protobuf in one pass over borrowed values.
//!
//! A length stands before the message that it measures. So each message is described once, as calls
//! to a [`Sink`], and goes first to a sink that counts, then to the buffer. Nothing is allocated but
//! what the buffer grows by, and lengths cannot disagree with what is written.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Where the fields of messages go.
pub(super) trait Sink: Sized {
    /// The tag of a field.
    fn key(&mut self, field: u32, wire_type: WireType);
    /// A number of one to ten bytes.
    fn varint(&mut self, number: u64);
    /// Bytes as they are.
    fn raw(&mut self, bytes: &[u8]);
    /// The fields of a message whose length the sink has taken.
    fn body(&mut self, message: &impl Message, length: usize);

    /// A number, unless it is zero.
    fn number(&mut self, field: u32, number: u64) {
        if number > 0 {
            self.key(field, WireType::Varint);
            self.varint(number);
        }
    }

    /// A flag, unless it is not set.
    fn flag(&mut self, field: u32, flag: bool) {
        self.number(field, u64::from(flag));
    }

    /// A string or bytes, unless empty.
    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.key(field, WireType::LengthDelimited);
            self.varint(bytes.len() as u64);
            self.raw(bytes);
        }
    }

    /// A message, also when it is empty.
    fn message(&mut self, field: u32, message: &impl Message) {
        self.key(field, WireType::LengthDelimited);
        self.delimited(message);
    }

    /// A message behind its length.
    fn delimited(&mut self, message: &impl Message) {
        let mut length = Length(0);
        message.write(&mut length);
        self.varint(length.0 as u64);
        self.body(message, length.0);
    }
}

/// A value that is written as a Protobuf message.
pub(super) trait Message {
    /// Writes every field, the same ones each time.
    fn write(&self, sink: &mut impl Sink);
}

/// The empty message.
impl Message for () {
    fn write(&self, _: &mut impl Sink) {}
}

/// An entry of a map from strings to messages.
pub(super) struct Entry<'a, T>(pub(super) &'a str, pub(super) &'a T);

impl<T: Message> Message for Entry<'_, T> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.0.as_bytes());
        sink.message(2, self.1);
    }
}

/// An entry of a map from strings to strings.
pub(super) struct TextEntry<'a>(pub(super) &'a str, pub(super) &'a str);

impl Message for TextEntry<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.bytes(1, self.0.as_bytes());
        sink.bytes(2, self.1.as_bytes());
    }
}

impl Sink for Vec<u8> {
    fn key(&mut self, field: u32, wire_type: WireType) {
        encode_key(field, wire_type, self);
    }

    fn varint(&mut self, number: u64) {
        encode_varint(number, self);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn body(&mut self, message: &impl Message, length: usize) {
        self.reserve(length);
        message.write(self);
    }
}

/// Counts bytes and keeps none.
struct Length(usize);

impl Sink for Length {
    fn key(&mut self, field: u32, _: WireType) {
        self.0 += key_len(field);
    }

    fn varint(&mut self, number: u64) {
        self.0 += encoded_len_varint(number);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn body(&mut self, _: &impl Message, length: usize) {
        self.0 += length;
    }
}
