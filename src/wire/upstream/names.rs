//! Lists of names, as REGISTER has them.

use crate::limits::{HOOK_NAMES_MAX, UPSTREAM_NAME_MAX};

/// A list of names: at most [`HOOK_NAMES_MAX`], each at most [`UPSTREAM_NAME_MAX`] bytes, possibly empty.
/// On the wire a count u16, then a length u16 and the name for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Names<'a> {
    /// Writes the list as it goes on the wire; [`Names::take`] reads it back. Panics beyond the bounds.
    pub fn list(names: &[&str]) -> Vec<u8> {
        assert!(names.len() <= HOOK_NAMES_MAX, "names");
        let mut bytes = (names.len() as u16).to_le_bytes().to_vec();
        for name in names {
            assert!(name.len() <= UPSTREAM_NAME_MAX, "name");
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes
    }

    /// Takes a list from the front of `bytes`; `None` when there is no whole one within the bounds.
    pub fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (count, mut rest) = bytes.split_first_chunk::<2>()?;
        let count = usize::from(u16::from_le_bytes(*count));
        if count > HOOK_NAMES_MAX {
            return None;
        }
        for _ in 0..count {
            let (name, after) = split(rest)?;
            if name.len() > UPSTREAM_NAME_MAX || std::str::from_utf8(name).is_err() {
                return None;
            }
            rest = after;
        }
        let (list, rest) = bytes.split_at_checked(bytes.len() - rest.len())?;
        Some((Self(list), rest))
    }

    /// The names.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.0.get(2..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (name, after) = split(rest)?;
            rest = after;
            std::str::from_utf8(name).ok()
        })
    }

    /// As it goes on the wire.
    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// What stands behind a length of two bytes, and what follows it.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_a_cut_one_does_not() {
        for names in [&[][..], &["", "chat", "n\u{e4}me"]] {
            let mut bytes = Names::list(names);
            let length = bytes.len();
            bytes.push(7);
            let (list, rest) = Names::take(&bytes).unwrap();
            assert!(list.iter().eq(names.iter().copied()));
            assert_eq!(rest, [7]);
            for cut in 0..length {
                assert!(Names::take(&bytes[..cut]).is_none());
            }
        }
        let many = vec![0; 2 * (HOOK_NAMES_MAX + 2)];
        let mut bytes = (HOOK_NAMES_MAX as u16 + 1).to_le_bytes().to_vec();
        bytes.extend(many);
        assert!(Names::take(&bytes).is_none());
        assert!(Names::take(&[1, 0, 1, 0, 0xff]).is_none(), "not UTF-8");
    }
}
