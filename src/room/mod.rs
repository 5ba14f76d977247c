//! Rooms without sockets: state machines that take values and time and return values.
//!
//! A room has one [`home::Home`] in the process, its sequencer, which keeps its [`history`] and who is
//! present, and outlives the process in a [`state`] file. It has one [`view::View`] on every
//! shard that has subscribers. The view's [`tail::Tail`] holds the encoded bytes that its
//! subscribers still have to be sent; a subscriber is a cursor into it. [`session::Session`] is one
//! client's side of the client protocol.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod history;
pub mod home;
mod moment;
mod presence;
pub mod recent;
pub mod session;
pub mod state;
pub mod tail;
pub mod view;
