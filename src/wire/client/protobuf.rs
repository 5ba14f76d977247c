//! The client protocol in Protobuf: messages one behind the other, each behind its length.
//!
//! ```text
//! message  (length varint, Command from clients or Reply to them)*
//! ```
//!
//! Length 0 is a ping or a pong. Which request or result a message is, the presence of its sub-message
//! says, so an empty one is written as well.

mod command;
mod reply;
mod sink;

pub(super) use command::{count, take_command};
pub use reply::{ping, push, reply};
