//! Who may connect and what they may do.

mod namespaces;
mod origin;

pub use namespaces::{
    ChannelOptions, DataFormat, Grant, NamespaceIndex, Namespaces, Privacy, is_listed,
};
pub use origin::Origins;
