//! Who is in a room, and the joins and leaves that its subscribers are told of.
//!
//! The list is always exact. Announcements are bounded: so many at once and so many a second; what
//! exceeds that waits in order, a join and a leave of one member that both still wait cancel each
//! other, and when too many wait the oldest is dropped and counted. A storm of joins then costs its
//! room a bounded rate of pushes.

use crate::base::{ConnId, NodeId};
use crate::limits::{MEMBERSHIP_BURST, MEMBERSHIP_PER_S, MEMBERSHIP_WAITING_MAX};
use crate::wire::client::flat;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A connection of any shard.
pub type Member = (NodeId, ConnId);

/// A join or a leave that subscribers are to be told of.
#[derive(Debug)]
struct Announcement {
    member: Member,
    joined: bool,
    /// `None` once a later one has cancelled it.
    info: Option<Box<[u8]>>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Presence {
    /// Flat client infos.
    members: HashMap<Member, Box<[u8]>>,
    /// Members of each user; anonymous ones count as one user.
    users: HashMap<Box<str>, u32>,
    waiting: VecDeque<Announcement>,
    /// Number of the first of `waiting`, and where each member's last one is.
    first: u64,
    last: HashMap<Member, u64>,
    /// Thousandths of announcements that may be made now, as of `at_ms`.
    tokens_milli: u64,
    at_ms: u64,
    started: bool,
    dropped: u64,
}

impl Presence {
    /// A member is there; a second time its info is replaced. Whether it was not there before.
    pub fn enter(&mut self, member: Member, info: &[u8], announce: bool) -> bool {
        let before = self.members.insert(member, info.into());
        let is_new = before.is_none();
        if let Some(before) = before {
            self.count_user(&before, -1);
        }
        self.count_user(info, 1);
        if is_new && announce {
            self.announce(member, true, info.into());
        }
        is_new
    }

    /// A member is gone. Whether it was there.
    pub fn leave(&mut self, member: Member, announce: bool) -> bool {
        let Some(info) = self.members.remove(&member) else {
            return false;
        };
        self.count_user(&info, -1);
        if announce {
            self.announce(member, false, info);
        }
        true
    }

    /// The next announcement that may be made now: whether it is a join, and the flat info.
    pub fn poll(&mut self, now_ms: u64) -> Option<(bool, Box<[u8]>)> {
        self.refill(now_ms);
        while let Some(next) = self.waiting.front_mut() {
            let Some(info) = next.info.take() else {
                self.pop();
                continue;
            };
            if self.tokens_milli < 1_000 {
                next.info = Some(info);
                return None;
            }
            self.tokens_milli -= 1_000;
            let joined = next.joined;
            self.pop();
            return Some((joined, info));
        }
        None
    }

    /// When to poll again; `None` when nothing waits.
    pub fn due_ms(&self) -> Option<u64> {
        if self.waiting.is_empty() {
            return None;
        }
        let missing_milli = 1_000_u64.saturating_sub(self.tokens_milli);
        Some(self.at_ms + missing_milli.div_ceil(MEMBERSHIP_PER_S))
    }

    /// Announcements dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Appends the flat infos of all members; nothing and false when they exceed `bytes_max`.
    pub fn list(&self, out: &mut Vec<u8>, bytes_max: usize) -> bool {
        let bytes: usize = self.members.values().map(|info| info.len()).sum();
        if bytes > bytes_max {
            return false;
        }
        for info in self.members.values() {
            out.extend_from_slice(info);
        }
        true
    }

    /// Members and distinct users.
    pub fn counts(&self) -> (u32, u32) {
        (self.members.len() as u32, self.users.len() as u32)
    }

    /// Whether nobody is there and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.waiting.is_empty()
    }

    fn announce(&mut self, member: Member, joined: bool, info: Box<[u8]>) {
        if let Some(number) = self.last.remove(&member) {
            let earlier = self.waiting.get_mut((number - self.first) as usize);
            if let Some(earlier) = earlier.filter(|earlier| earlier.joined != joined) {
                earlier.info = None;
                return;
            }
        }
        if self.waiting.len() >= MEMBERSHIP_WAITING_MAX {
            let is_lost = self
                .waiting
                .front()
                .is_some_and(|oldest| oldest.info.is_some());
            self.dropped += u64::from(is_lost);
            self.pop();
        }
        self.last
            .insert(member, self.first + self.waiting.len() as u64);
        self.waiting.push_back(Announcement {
            member,
            joined,
            info: Some(info),
        });
    }

    fn pop(&mut self) {
        let Some(oldest) = self.waiting.pop_front() else {
            return;
        };
        if self.last.get(&oldest.member) == Some(&self.first) {
            self.last.remove(&oldest.member);
        }
        self.first += 1;
        if self.waiting.is_empty() {
            // What a storm needed is given back.
            self.waiting = VecDeque::new();
            self.last = HashMap::new();
        }
    }

    fn refill(&mut self, now_ms: u64) {
        let full_milli = 1_000 * MEMBERSHIP_BURST;
        if !std::mem::replace(&mut self.started, true) {
            self.tokens_milli = full_milli;
        }
        let gained_milli = now_ms
            .saturating_sub(self.at_ms)
            .saturating_mul(MEMBERSHIP_PER_S);
        self.tokens_milli = self
            .tokens_milli
            .saturating_add(gained_milli)
            .min(full_milli);
        self.at_ms = now_ms.max(self.at_ms);
    }

    fn count_user(&mut self, mut info: &[u8], by: i32) {
        let Some(info) = flat::take_info(&mut info) else {
            return;
        };
        if by > 0 {
            match self.users.get_mut(info.user) {
                Some(count) => *count += 1,
                None => {
                    self.users.insert(info.user.into(), 1);
                }
            }
            return;
        }
        if let Some(count) = self.users.get_mut(info.user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(info.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::ClientInfo;

    fn member(slot: u32) -> Member {
        (
            NodeId(slot as u16 % 3),
            ConnId {
                slot,
                generation: 0,
            },
        )
    }

    fn info(user: &str) -> Vec<u8> {
        let mut flat = Vec::new();
        flat::push_info(
            &mut flat,
            &ClientInfo {
                user,
                client: "c",
                ..ClientInfo::default()
            },
        );
        flat
    }

    #[test]
    fn members_and_users_are_counted_exactly() {
        let mut presence = Presence::default();
        for slot in 0..6 {
            assert!(presence.enter(member(slot), &info(&format!("u{}", slot / 2)), false));
        }
        assert!(
            !presence.enter(member(0), &info("other"), false),
            "replaced"
        );
        assert_eq!(presence.counts(), (6, 4));
        let mut list = Vec::new();
        assert!(presence.list(&mut list, 10_000));
        assert_eq!(flat::infos(&list).count(), 6);
        assert!(!presence.list(&mut list, 10), "too many for the answer");
        for slot in 0..6 {
            assert!(presence.leave(member(slot), false));
        }
        assert!(!presence.leave(member(0), false));
        assert!(presence.counts() == (0, 0) && presence.is_idle());
    }

    #[test]
    fn joins_and_leaves_are_announced_in_their_order() {
        let mut presence = Presence::default();
        presence.enter(member(1), &info("a"), true);
        assert_eq!(presence.poll(5), Some((true, info("a").into())));
        presence.leave(member(1), true);
        assert_eq!(presence.poll(5), Some((false, info("a").into())));
        assert_eq!((presence.poll(5), presence.due_ms()), (None, None));
    }

    #[test]
    fn a_storm_is_announced_at_a_bounded_rate_and_nothing_is_announced_twice() {
        let mut presence = Presence::default();
        let count = 3 * MEMBERSHIP_BURST as u32;
        for slot in 0..count {
            presence.enter(member(slot), &info("a"), true);
        }
        let mut announced = 0;
        while presence.poll(1_000).is_some() {
            announced += 1;
        }
        assert_eq!(announced, MEMBERSHIP_BURST);
        let due_ms = presence.due_ms().unwrap();
        assert!((1_000..=1_000 + 1_000 / MEMBERSHIP_PER_S + 1).contains(&due_ms));
        // Those that leave before they were announced are never heard of.
        for slot in 0..count {
            presence.leave(member(slot), true);
        }
        let mut now_ms = due_ms;
        while let Some(due_ms) = presence.due_ms() {
            now_ms = now_ms.max(due_ms);
            while let Some((joined, _)) = presence.poll(now_ms) {
                assert!(!joined, "only the announced ones are announced as gone");
                announced += 1;
            }
        }
        assert_eq!(announced, 2 * MEMBERSHIP_BURST);
        assert!(presence.is_idle() && presence.take_dropped() == 0);
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let mut presence = Presence::default();
        for slot in 0..MEMBERSHIP_WAITING_MAX as u32 + 10 {
            presence.enter(member(slot), &info("a"), true);
        }
        assert_eq!(presence.take_dropped(), 10);
        assert_eq!(presence.counts().0 as usize, MEMBERSHIP_WAITING_MAX + 10);
    }
}
