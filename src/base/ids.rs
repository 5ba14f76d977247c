//! Identifiers. Newtypes, so that a slot is never taken for an offset.

use foldhash::fast::FixedState;
use rkyv::{Archive, Serialize};
use std::fmt;
use std::hash::BuildHasher;

/// A thread of the mesh: shards are `0..shards`, the service thread is `shards`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// A connection: its slot in the ring's file table and the generation of that slot.
///
/// The slot is reused, the pair is not (until the 24-bit generation wraps): a completion that
/// carries an old generation belongs to a connection that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct ConnId {
    /// Index into the ring's registered file table and into the shard's connection slab.
    pub slot: u32,
    /// Counts the uses of the slot; 24 bits.
    pub generation: u32,
}

impl ConnId {
    /// The bits of `generation` that are kept.
    pub const GENERATION_MASK: u32 = (1 << 24) - 1;
}

/// A view of a room on one shard: index and generation, as [`ConnId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct ViewId {
    /// Index into the shard's views.
    pub index: u32,
    /// Counts the uses of the index.
    pub generation: u32,
}

/// Position of a publication in its room: 1 is the first, 0 means none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize)]
pub struct Offset(pub u64);

/// Incarnation of a room's history: offsets of different epochs are not comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Archive, Serialize)]
pub struct Epoch(pub u32);

/// An epoch as clients see it: 8 letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochText([u8; 8]);

impl EpochText {
    /// The letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("letters")
    }
}

impl Epoch {
    /// Its letters: one for each nibble from `a` on, the most significant first.
    pub fn text(self) -> EpochText {
        let mut letters = [0; 8];
        for (index, letter) in letters.iter_mut().enumerate() {
            *letter = b'a' + (self.0 >> (28 - 4 * index) & 0xf) as u8;
        }
        EpochText(letters)
    }

    /// The epoch with these letters; `None` when they are not those of one.
    pub fn from_text(text: &str) -> Option<Self> {
        let is_letter = |byte: u8| (b'a'..=b'p').contains(&byte);
        if text.len() != 8 || !text.bytes().all(is_letter) {
            return None;
        }
        let nibbles = text.bytes().map(|byte| u32::from(byte - b'a'));
        Some(Self(nibbles.fold(0, |epoch, nibble| epoch << 4 | nibble)))
    }

    /// The epoch that a client or service names: `None`, which matches any, when it says nothing; one
    /// that no room ever has when it is none of ours.
    pub fn wanted(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from_text(text).unwrap_or(Self(0)))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Finds the home of a room. All threads of a process share the seed; it is random, so that nobody
/// outside can choose names that land on one shard.
#[derive(Clone, Copy, Debug)]
pub struct RoomHasher {
    seed: u64,
    shards: u16,
}

impl RoomHasher {
    /// A hasher for `shards` shards (at least 1).
    pub fn new(seed: u64, shards: u16) -> Self {
        assert!(shards > 0, "a process has at least one shard");
        Self { seed, shards }
    }

    /// The shard whose room `name` is: `hash(name) % shards`.
    pub fn home(&self, name: &str) -> NodeId {
        let hash = FixedState::with_seed(self.seed).hash_one(name.as_bytes());
        NodeId((hash % u64::from(self.shards)) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back_from_its_letters() {
        for epoch in [0, 1, 0x0123_4567, 0x89ab_cdef, u32::MAX] {
            let text = Epoch(epoch).text();
            assert_eq!(Epoch::from_text(text.as_str()), Some(Epoch(epoch)));
        }
        assert_eq!(Epoch(0x0f).text().as_str(), "aaaaaaap");
        for other in [
            "",
            "_",
            "aaaaaaaq",
            "AAAAAAAA",
            "aaaaaaaaa",
            "aaaaaaa\u{e4}",
        ] {
            assert_eq!(Epoch::from_text(other), None, "{other}");
            let wanted = Epoch::wanted(other);
            assert_eq!(wanted, (!other.is_empty()).then_some(Epoch(0)));
        }
    }
}
