//! What is published, and what comes back.

use super::{ClientError, Refusal};
use crate::base::{Content, Epoch, Offset};
use crate::limits::{USER_NAME_MAX, VERSION_EPOCH_MAX};
use crate::wire::client::Tags;
use crate::wire::upstream::{AckLevel, Extras, sorted_tags};

/// What is published, to whichever rooms.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// What the payload is; the broker refuses JSON and text that is not.
    pub content: Content,
    /// When to acknowledge.
    pub level: AckLevel,
    /// Keep it out of the history.
    pub skip_history: bool,
    /// Idempotency key: repeat it when a publication is sent again after a lost connection.
    pub key: Option<[u8; 16]>,
    /// Subscribers that take deltas may be sent one.
    pub delta: bool,
    /// Public id of a client that is not sent it; empty for none.
    pub exclude: &'a str,
    /// How new it is, by a count of your own: rooms take nothing that is not newer than what they have.
    /// 0 for not counted.
    pub version: u64,
    /// What the version counts in: versions compare within one. Empty where one count is all there is.
    pub version_epoch: &'a str,
    /// Key and value pairs that subscribers see, each key once.
    pub tags: &'a [(&'a str, &'a str)],
}

impl<'a> Message<'a> {
    /// A message without key that is acknowledged at `level`.
    pub fn new(content: Content, payload: &'a [u8], level: AckLevel) -> Self {
        Self {
            payload,
            content,
            level,
            skip_history: false,
            key: None,
            delta: false,
            exclude: "",
            version: 0,
            version_epoch: "",
            tags: &[],
        }
    }

    /// The tags in the form that [`Message::extras`] takes them.
    pub(super) fn tags(&self) -> Result<Vec<u8>, ClientError> {
        if self.exclude.len() > USER_NAME_MAX || self.version_epoch.len() > VERSION_EPOCH_MAX {
            return Err(ClientError::BadTags);
        }
        sorted_tags(self.tags).ok_or(ClientError::BadTags)
    }

    pub(super) fn extras<'b>(&'b self, tags: &'b [u8]) -> Extras<'b> {
        Extras {
            delta: self.delta,
            exclude: self.exclude,
            version: self.version,
            version_epoch: if self.version == 0 {
                ""
            } else {
                self.version_epoch
            },
            tags: Tags::from_flat(tags),
        }
    }
}

/// The broker's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The level reached; [`AckLevel::None`] when none was asked for.
    pub level: AckLevel,
    /// It went nowhere: the key was seen before, epoch and offset are those of the first time; or the
    /// version was not new, they are the room's.
    pub duplicate: bool,
    /// Incarnation of the room's history; 0 below [`AckLevel::Sequenced`] and for broadcasts.
    pub epoch: Epoch,
    /// Position in the room; 0 below [`AckLevel::Sequenced`] and for broadcasts.
    pub offset: Offset,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What [`super::Upstream::send`] returned.
    pub request: u64,
    /// Acknowledgement or refusal.
    pub result: Result<Receipt, Refusal>,
}
