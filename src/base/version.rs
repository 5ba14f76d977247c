//! Versions that publishers give to publications.

use rkyv::{Archive, Serialize};
use sha2::{Digest, Sha256};

/// How new the state is that a publication carries, by its publisher's own count. A room takes only
/// what is newer than the newest that it has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Version {
    /// Digest of the publisher's name for what it counts in: numbers of another one do not compare.
    pub epoch: u64,
    /// Above 0.
    pub number: u64,
}

impl Version {
    /// A version; `None` for number 0, which says nothing.
    pub fn new(number: u64, epoch: &str) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let digest = Sha256::digest(epoch);
        let first = digest.first_chunk().expect("32 bytes begin with 8");
        Some(Self {
            epoch: u64::from_le_bytes(*first),
            number,
        })
    }

    /// Whether a publication of this version is worth spreading after one of version `last`.
    pub fn is_newer_than(self, last: Self) -> bool {
        self.epoch != last.epoch || self.number > last.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_within_one_epoch() {
        let version = |number, epoch| Version::new(number, epoch).unwrap();
        assert!(version(2, "").is_newer_than(version(1, "")));
        assert!(!version(2, "").is_newer_than(version(2, "")));
        assert!(!version(1, "a").is_newer_than(version(2, "a")));
        assert!(
            version(1, "b").is_newer_than(version(2, "a")),
            "a new count"
        );
        assert_eq!(Version::new(0, "a"), None);
    }
}
