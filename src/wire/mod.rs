//! Codecs without I/O: bytes and values in, values and bytes out.

pub mod client;
pub mod frame;
pub mod http;
pub mod mask;
pub mod message;
pub mod payload;
pub mod upstream;
