//! The client protocol in JSON: one document per line.
//!
//! A message holds one or more documents separated by exactly one newline; one more may end it. No
//! document contains a raw newline, in either direction, because clients split before they parse.
//! Reading borrows from the message, writing appends to the caller's buffer.

mod command;
mod fuzz;
mod reply;

pub use command::commands;
pub use fuzz::fuzz_commands;
pub use reply::{
    connect_reply, error_reply, ping, publication_push, publish_reply, subscribe_reply,
    unsubscribe_reply,
};
