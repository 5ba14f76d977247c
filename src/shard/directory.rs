//! Things of a shard that are found by room name, by index, or by index and generation.

use crate::base::slab::Slab;
use crate::room::home::Home;
use crate::room::view::View;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Something of a room.
pub(super) trait Named {
    /// The room's name.
    fn room(&self) -> &str;
}

impl Named for View {
    fn room(&self) -> &str {
        self.room()
    }
}

impl Named for Home {
    fn room(&self) -> &str {
        self.room()
    }
}

/// At most one `T` per room. The name is stored once, in the value.
#[derive(Debug)]
pub(super) struct Directory<T> {
    values: Slab<T>,
    by_name: HashTable<(u32, u32)>,
    hasher: FixedState,
}

impl<T: Named> Directory<T> {
    /// Nothing, yet. `seed` is random, so that nobody can choose names that collide.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            values: Slab::new(),
            by_name: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Index and generation of the room's value.
    pub(super) fn find(&self, room: &str) -> Option<(u32, u32)> {
        let hash = self.hasher.hash_one(room);
        let found = self.by_name.find(hash, |(index, generation)| {
            self.at(*index, *generation).room() == room
        });
        found.copied()
    }

    /// Adds a value for a room that has none.
    pub(super) fn insert(&mut self, value: T) -> (u32, u32) {
        debug_assert!(self.find(value.room()).is_none(), "one value per room");
        let hash = self.hasher.hash_one(value.room());
        let id = self.values.insert_with(|_, _| value);
        let Self {
            values,
            by_name,
            hasher,
        } = self;
        by_name.insert_unique(hash, id, |(index, generation)| {
            let value = values
                .get(*index, *generation)
                .expect("the table names live values");
            hasher.hash_one(value.room())
        });
        id
    }

    /// Removes a value.
    pub(super) fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        let value = self.values.remove(index, generation)?;
        let hash = self.hasher.hash_one(value.room());
        let entry = self
            .by_name
            .find_entry(hash, |id| *id == (index, generation));
        entry.expect("a live value is in the table").remove();
        Some(value)
    }

    /// The value with this index, if its generation is still the same.
    pub(super) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        self.values.get(index, generation)
    }

    /// As [`Directory::get`], to change.
    pub(super) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        self.values.get_mut(index, generation)
    }

    /// The first value at `index` or after it.
    pub(super) fn next_from(&self, index: u32) -> Option<(u32, u32, &T)> {
        self.values.next_from(index)
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// All values.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|(_, _, value)| value)
    }

    fn at(&self, index: u32, generation: u32) -> &T {
        self.values
            .get(index, generation)
            .expect("the table names live values")
    }
}
