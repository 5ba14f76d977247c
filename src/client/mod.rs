//! The upstream protocol from the service's side, blocking, over `std::net`.
//!
//! For `ringcast pub`, the load generator and Rust services that push. One connection, one thread:
//! [`Upstream`] buffers what is sent, keeps within the broker's credit, and matches answers to requests.
//! It never reconnects by itself; what is to happen to unanswered publications is the caller's decision.

mod connection;
mod error;
mod event;
mod incoming;
mod message;
mod query;
mod upstream;

pub use crate::wire::upstream::{AckLevel, ErrorCode, EventKind, OrderKind};
pub use error::{ClientError, Refusal};
pub use event::{Event, EventAnswer, Order};
pub use message::{Answer, Message, Receipt};
pub use query::{HistoryPage, HistoryQuery, PresentClient, Published};
pub use upstream::Upstream;
