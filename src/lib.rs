//! Ringcast: an edge broker for WebSocket fan-out.
#![deny(missing_docs)]

pub mod access;
pub mod base;
pub mod boot;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod driver;
pub mod limits;
pub mod mesh;
pub mod room;
pub mod service;
pub mod shard;
pub mod wire;
