//! Who may connect and what they may do.

mod namespaces;
mod origin;
mod pattern;
mod tokens;

pub use namespaces::{
    ChannelOptions, DataFormat, Grant, NamespaceIndex, Namespaces, Privacy, is_listed,
};
pub use origin::{Origins, glob_matches};
pub use pattern::NamePattern;
pub use tokens::{
    ConnectionClaims, OwnedData, SubscriptionClaims, SubscriptionOptions, TokenError,
    TokenSettings, TokenSetupError, TokenVerifier, fuzz_token,
};
