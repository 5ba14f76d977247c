//! The public name of a connection: 32 hexadecimal digits that say to this process, and to nobody else,
//! which connection it is. Nothing has to be kept for that.
//!
//! The first half is a permutation of shard, slot and generation under the process's seed (a Feistel
//! network over two 32-bit words), the second a keyed hash of it, so that a made-up name is not taken
//! for a connection. Neither is a secret: whoever sees a presence list knows names.

use super::ids::ConnId;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;

const SLOT_BITS: u32 = 24;
const ROUNDS: u64 = 4;

const _: () = assert!(
    crate::limits::SLOTS_PER_SHARD_MAX <= 1 << SLOT_BITS,
    "a slot has its bits in the name"
);

/// A name in text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId([u8; 32]);

impl ClientId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits")
    }
}

/// The name of a connection of shard `node` in the process with this seed.
pub fn encode(seed: u64, node: u16, conn: ConnId) -> ClientId {
    let generation = u64::from(conn.generation & ConnId::GENERATION_MASK);
    let slot = u64::from(conn.slot & ((1 << SLOT_BITS) - 1));
    let packed = u64::from(node) << 48 | slot << 24 | generation;
    let mut halves = [(packed >> 32) as u32, packed as u32];
    for round in 0..ROUNDS {
        halves = [halves[1], halves[0] ^ mix(seed, round, halves[1])];
    }
    let name = u64::from(halves[0]) << 32 | u64::from(halves[1]);
    let mut digits = [0; 32];
    for (index, digit) in digits.iter_mut().enumerate() {
        let word = if index < 16 { name } else { check(seed, name) };
        let nibble = word >> (60 - 4 * (index % 16)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    ClientId(digits)
}

/// Shard and connection of a name; `None` when this process has not made it.
pub fn decode(seed: u64, text: &str) -> Option<(u16, ConnId)> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 32 || !text.bytes().all(is_hex) {
        return None;
    }
    let (name, checked) = text.split_at(16);
    let name = u64::from_str_radix(name, 16).ok()?;
    if u64::from_str_radix(checked, 16).ok()? != check(seed, name) {
        return None;
    }
    let mut halves = [(name >> 32) as u32, name as u32];
    for round in (0..ROUNDS).rev() {
        halves = [halves[1] ^ mix(seed, round, halves[0]), halves[0]];
    }
    let packed = u64::from(halves[0]) << 32 | u64::from(halves[1]);
    let conn = ConnId {
        slot: (packed >> 24) as u32 & ((1 << SLOT_BITS) - 1),
        generation: packed as u32 & ConnId::GENERATION_MASK,
    };
    Some(((packed >> 48) as u16, conn))
}

fn mix(seed: u64, round: u64, half: u32) -> u32 {
    FixedState::with_seed(seed ^ round << 56).hash_one(half) as u32
}

fn check(seed: u64, name: u64) -> u64 {
    FixedState::with_seed(seed.rotate_left(29)).hash_one(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn conn(slot: u32, generation: u32) -> ConnId {
        ConnId { slot, generation }
    }

    #[test]
    fn a_name_leads_back_to_its_connection() {
        let mut names = HashSet::new();
        for node in [0, 1, 255] {
            for slot in [0, 1, 4_097, (1 << 20) - 1] {
                for generation in [0, 9, ConnId::GENERATION_MASK] {
                    let id = encode(7, node, conn(slot, generation));
                    assert_eq!(decode(7, id.as_str()), Some((node, conn(slot, generation))));
                    assert!(names.insert(id.as_str().to_owned()));
                }
            }
        }
    }

    #[test]
    fn names_that_this_process_has_not_made_are_refused() {
        let id = encode(7, 1, conn(2, 3));
        assert_eq!(decode(8, id.as_str()), None);
        let mut digits = id.as_str().to_owned().into_bytes();
        digits[3] ^= 1;
        let changed = String::from_utf8(digits).unwrap();
        assert_eq!(decode(7, &changed), None);
        for text in ["", "x", &"+".repeat(32), &"f".repeat(32), &"ü".repeat(16)] {
            assert_eq!(decode(7, text), None, "{text}");
        }
    }
}
