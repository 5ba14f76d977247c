//! Which connections have something to send: one bit and one list entry each, however often marked.

/// Slots marked since the last flush, each once, in the order of their first mark.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    bits: Vec<u64>,
    slots: Vec<u32>,
}

impl Dirty {
    /// Marks a slot. A whole room is marked without touching its connections.
    #[inline]
    pub(super) fn mark(&mut self, slot: u32) {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.slots.push(slot);
        }
    }

    /// Takes the marked slots, leaving `empty` (cleared) in their place for the next turn.
    pub(super) fn take(&mut self, mut empty: Vec<u32>) -> Vec<u32> {
        empty.clear();
        for slot in &self.slots {
            self.bits[*slot as usize / 64] &= !(1 << (slot % 64));
        }
        std::mem::replace(&mut self.slots, empty)
    }

    /// Whether nothing is marked.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_once_however_often_it_was_marked() {
        let mut dirty = Dirty::default();
        for slot in [5, 700, 5, 64, 63, 700] {
            dirty.mark(slot);
        }
        assert_eq!(dirty.take(Vec::new()), [5, 700, 64, 63]);
        assert!(dirty.is_empty());
        dirty.mark(700);
        assert_eq!(dirty.take(Vec::new()), [700]);
    }
}
