//! What a payload is, as the upstream protocol's content bits say.

use rkyv::{Archive, Serialize};

/// Content of a publication's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Archive, Serialize)]
#[repr(u8)]
pub enum Content {
    /// One JSON document, checked where it entered; goes to JSON clients as it is.
    #[default]
    Json = 0,
    /// UTF-8 text, checked where it entered; goes to JSON clients as a JSON string.
    Text = 1,
    /// Bytes; go to JSON clients as a base64 string.
    Bytes = 2,
}

impl Content {
    /// The content with the given wire value, if there is one.
    pub fn from_bits(bits: u8) -> Option<Self> {
        [Self::Json, Self::Text, Self::Bytes]
            .into_iter()
            .find(|content| *content as u8 == bits)
    }
}
