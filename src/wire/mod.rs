//! Codecs without I/O: bytes and values in, values and bytes out.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod client;
pub mod fossil;
pub mod frame;
pub mod hook;
pub mod http;
pub mod mask;
pub mod message;
pub mod payload;
pub mod upstream;
pub mod utf8;
