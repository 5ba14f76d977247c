//! Idempotency keys that a room has seen lately, bounded in count and age.

use super::moment::Moment;
use crate::base::Offset;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A publisher's key for one publication.
pub type Key = [u8; 16];

/// Keys with the offset that their first publication got.
#[derive(Debug, Default)]
pub struct Recent {
    offsets: HashMap<Key, Offset>,
    order: VecDeque<(Moment, Key)>,
}

impl Recent {
    /// The offset of the first publication with this key, if it is remembered.
    pub fn seen(&self, key: &Key) -> Option<Offset> {
        self.offsets.get(key).copied()
    }

    /// Remembers a key that has not been seen; forgets the oldest beyond `count_max`.
    pub fn remember(&mut self, key: Key, offset: Offset, now_ms: u64, count_max: usize) {
        self.remember_aged(key, offset, Moment::now(now_ms), count_max);
    }

    pub(super) fn remember_aged(&mut self, key: Key, offset: Offset, at: Moment, count_max: usize) {
        if self.offsets.insert(key, offset).is_none() {
            self.order.push_back((at, key));
        }
        while self.order.len() > count_max {
            self.forget_oldest();
        }
    }

    /// Forgets keys older than `age_ms`.
    pub fn expire(&mut self, now_ms: u64, age_ms: u64) {
        while self
            .order
            .front()
            .is_some_and(|(at, _)| at.age_ms(now_ms) >= age_ms)
        {
            self.forget_oldest();
        }
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Age in milliseconds, key and offset of all, oldest first.
    pub(super) fn iter(&self, now_ms: u64) -> impl Iterator<Item = (u64, Key, Offset)> {
        self.order.iter().filter_map(move |(at, key)| {
            let offset = self.seen(key)?;
            Some((at.age_ms(now_ms), *key, offset))
        })
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.offsets.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_forgotten_by_age_and_by_count() {
        let mut recent = Recent::default();
        for n in 0..10u8 {
            recent.remember([n; 16], Offset(u64::from(n)), u64::from(n), 4);
        }
        assert_eq!(
            (recent.seen(&[5; 16]), recent.seen(&[6; 16])),
            (None, Some(Offset(6)))
        );
        recent.expire(17, 10);
        assert_eq!(
            (recent.seen(&[7; 16]), recent.seen(&[8; 16])),
            (None, Some(Offset(8)))
        );
        recent.expire(1_000, 10);
        assert!(recent.is_empty());
    }
}
