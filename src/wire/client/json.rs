//! The client protocol in JSON: one document per line.
//!
//! A message holds one or more documents separated by exactly one newline; one more may end it. No
//! document contains a raw newline, in either direction, because clients split before they parse.
//! Reading borrows from the message, writing appends to the caller's buffer.

mod command;
mod reply;
mod value;

pub(super) use command::{count, take_command};
pub use reply::{ping, push, reply};
pub use value::write_data;
