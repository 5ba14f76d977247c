//! The publication header of PUBLISH and BROADCAST: what is said of a publication besides its payload.
//!
//! It is there, announced by a flag bit, only when it says something. Tags stand in ascending order of
//! their keys' bytes, so that a header has one byte form and no key comes twice.

use super::ErrorCode;
use super::body::{Fault, malformed, unsupported};
use super::names::split;
use crate::limits::{TAGS_BYTES_MAX, USER_NAME_MAX, VERSION_EPOCH_MAX};
use crate::wire::client::flat::{self, Tags};

const DELTA: u8 = 0b01;
const EXCLUDE: u8 = 0b10;
const VERSION: u8 = 0b100;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras<'a> {
    /// Subscribers that take deltas may be sent one.
    pub delta: bool,
    /// Public id of a client that is not sent the publication, at most [`USER_NAME_MAX`] bytes; empty for
    /// none.
    pub exclude: &'a str,
    /// How new it is, by the publisher's count; 0 for not counted.
    pub version: u64,
    /// What the version counts in, at most [`VERSION_EPOCH_MAX`] bytes; empty without version.
    pub version_epoch: &'a str,
    /// Tags as [`sorted_tags`] makes them.
    pub tags: Tags<'a>,
}

impl<'a> Extras<'a> {
    /// Whether nothing is said, and no header is sent.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends the header; nothing when it says nothing. Panics beyond the bounds.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        assert!(self.exclude.len() <= USER_NAME_MAX, "excluded client");
        assert!(self.tags.as_flat().len() <= TAGS_BYTES_MAX, "tags");
        assert!(
            self.version_epoch.len() <= VERSION_EPOCH_MAX,
            "version epoch"
        );
        let (excludes, counts) = (!self.exclude.is_empty(), self.version > 0);
        let bit = |holds, bit| if holds { bit } else { 0 };
        out.push(bit(self.delta, DELTA) | bit(excludes, EXCLUDE) | bit(counts, VERSION));
        if excludes {
            out.push(self.exclude.len() as u8);
            out.extend_from_slice(self.exclude.as_bytes());
        }
        if counts {
            out.extend_from_slice(&self.version.to_le_bytes());
            out.push(self.version_epoch.len() as u8);
            out.extend_from_slice(self.version_epoch.as_bytes());
        }
        out.extend_from_slice(&(self.tags.iter().count() as u16).to_le_bytes());
        out.extend_from_slice(self.tags.as_flat());
    }

    /// Takes a header from the front of `body`; the rest follows it.
    pub(super) fn take(body: &'a [u8]) -> Result<(Self, &'a [u8]), Fault> {
        let cut = malformed("body ends in the publication header");
        let (options, mut rest) = body.split_first().ok_or(cut)?;
        if options & !(DELTA | EXCLUDE | VERSION) != 0 {
            return Err(unsupported("option of the publication header is not known"));
        }
        let mut exclude = "";
        if options & EXCLUDE != 0 {
            (exclude, rest) = short_text(rest).ok_or(cut)??;
            if exclude.is_empty() {
                return Err(malformed("excluded client is empty"));
            }
        }
        let (mut version, mut version_epoch) = (0, "");
        if options & VERSION != 0 {
            let (number, after) = rest.split_first_chunk().ok_or(cut)?;
            version = u64::from_le_bytes(*number);
            (version_epoch, rest) = short_text(after).ok_or(cut)??;
            if version == 0 {
                return Err(malformed("version is 0"));
            }
        }
        let (count, list) = rest.split_first_chunk::<2>().ok_or(cut)?;
        let mut rest = list;
        let mut last = None;
        for _ in 0..u16::from_le_bytes(*count) {
            let (key, after) = split(rest).ok_or(cut)?;
            let (value, after) = split(after).ok_or(cut)?;
            let (key, _) = (text(key)?, text(value)?);
            if last.is_some_and(|last| last >= key) {
                return Err(malformed("keys of tags do not ascend"));
            }
            (last, rest) = (Some(key), after);
        }
        let bytes = list.len() - rest.len();
        if bytes > TAGS_BYTES_MAX {
            return Err(Fault(ErrorCode::TooLarge, "tags are above 2048 bytes"));
        }
        let extras = Self {
            delta: options & DELTA != 0,
            exclude,
            version,
            version_epoch,
            tags: Tags::from_flat(list.get(..bytes).unwrap_or_default()),
        };
        if extras.is_empty() {
            return Err(malformed("publication header says nothing"));
        }
        Ok((extras, rest))
    }
}

/// Tags in the order and form that [`Extras`] has them; `None` when a key comes twice or they are above
/// [`TAGS_BYTES_MAX`] bytes.
pub fn sorted_tags(pairs: &[(&str, &str)]) -> Option<Vec<u8>> {
    let bytes = pairs.iter().map(|(key, value)| key.len() + value.len() + 4);
    if bytes.sum::<usize>() > TAGS_BYTES_MAX {
        return None;
    }
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    let mut flat = Vec::new();
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 && pairs[index - 1].0 == *key {
            return None;
        }
        flat::push_tag(&mut flat, key, value);
    }
    Some(flat)
}

/// A text with its length in a byte before it, and what follows it; `None` when it is cut.
fn short_text(bytes: &[u8]) -> Option<Result<(&str, &[u8]), Fault>> {
    let (length, after) = bytes.split_first()?;
    let (name, after) = after.split_at_checked(usize::from(*length))?;
    Some(text(name).map(|name| (name, after)))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(extras: &Extras<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        extras.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_header_reads_back_and_a_cut_one_does_not() {
        let tags = sorted_tags(&[("topic", "x"), ("lang", "en"), ("", "")]).unwrap();
        let full = Extras {
            delta: true,
            exclude: "c1",
            version: 7,
            version_epoch: "db",
            tags: Tags::from_flat(&tags),
        };
        let only_delta = Extras {
            delta: true,
            ..Extras::default()
        };
        for extras in [full, only_delta] {
            let mut bytes = encoded(&extras);
            let length = bytes.len();
            bytes.extend(b"payload");
            let (read, rest) = Extras::take(&bytes).ok().unwrap();
            assert_eq!((read, rest), (extras, &b"payload"[..]));
            for cut in 0..length {
                assert!(Extras::take(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert!(encoded(&Extras::default()).is_empty());
    }

    #[test]
    fn keys_come_once_and_in_order() {
        let tags = sorted_tags(&[("b", "2"), ("a", "1")]).unwrap();
        let read: Vec<_> = Tags::from_flat(&tags).iter().collect();
        assert_eq!(read, [("a", "1"), ("b", "2")]);
        assert_eq!(sorted_tags(&[("a", "1"), ("a", "2")]), None);
        assert_eq!(sorted_tags(&[("a", &"x".repeat(TAGS_BYTES_MAX))]), None);
        let mut twice = vec![0, 2, 0];
        flat::push_tag(&mut twice, "a", "");
        flat::push_tag(&mut twice, "a", "");
        let fault = Extras::take(&twice).err().unwrap();
        assert_eq!(fault.0, ErrorCode::Malformed);
    }
}
