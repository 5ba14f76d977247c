//! Which connections of a shard belong to a user.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Slots of the connected clients of each user. Anonymous ones are not kept.
#[derive(Debug)]
pub(super) struct Users {
    slots: HashMap<Box<str>, Vec<u32>, FixedState>,
}

impl Users {
    /// Nobody. `seed` is random, so that nobody can choose names that collide.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    /// A user's connection has connected.
    pub(super) fn insert(&mut self, user: &str, slot: u32) {
        if user.is_empty() {
            return;
        }
        let slots = match self.slots.get_mut(user) {
            Some(slots) => slots,
            None => self.slots.entry(user.into()).or_default(),
        };
        if slots.is_empty() {
            // Most users have one connection.
            slots.reserve_exact(1);
        }
        slots.push(slot);
    }

    /// A user's connection is gone; nothing when it had not connected.
    pub(super) fn remove(&mut self, user: &str, slot: u32) {
        let Some(slots) = self.slots.get_mut(user) else {
            return;
        };
        slots.retain(|other| *other != slot);
        if slots.is_empty() {
            self.slots.remove(user);
        }
    }

    /// The user's connections.
    pub(super) fn slots(&self, user: &str) -> &[u32] {
        self.slots.get(user).map_or(&[], Vec::as_slice)
    }

    /// Users with connections.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_while_it_has_connections() {
        let mut users = Users::new(1);
        users.insert("42", 7);
        users.insert("42", 8);
        users.insert("", 9);
        users.remove("42", 7);
        users.remove("other", 7);
        assert_eq!((users.slots("42"), users.slots("").len()), (&[8][..], 0));
        users.remove("42", 8);
        assert!(users.slots("42").is_empty() && users.slots.is_empty());
    }
}
