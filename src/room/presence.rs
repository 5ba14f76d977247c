//! Who is present in a room, and the joins and leaves that are still to be told.
//!
//! Presence is exact at every moment. Its announcements are not: a whole shard's clients may come and go
//! in one turn, and each of them would be told to all the others. So a [`Pace`] bounds how many go out,
//! what exceeds it waits in order, a join and a leave of one client that both still wait say nothing
//! and go, and of too many that wait the oldest is dropped.

use crate::base::{ConnId, NodeId};
use crate::limits::{MEMBERSHIP_BURST, MEMBERSHIP_PER_S, MEMBERSHIP_WAITING_MAX};
use crate::wire::client::flat;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A connection of any shard.
pub(super) type Member = (NodeId, ConnId);

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Presence {
    infos: HashMap<Member, Box<[u8]>>,
    infos_bytes: usize,
    /// Connections of each user.
    users: HashMap<Box<str>, u32>,
    waiting: Waiting,
}

impl Presence {
    /// Whether the member is newly present; else its info is replaced.
    pub(super) fn enter(&mut self, member: Member, info: &[u8], announce: bool) -> bool {
        let before = self.infos.insert(member, info.into());
        self.infos_bytes += info.len();
        match self.users.get_mut(user(info)) {
            Some(count) => *count += 1,
            None => drop(self.users.insert(user(info).into(), 1)),
        }
        if let Some(before) = before {
            self.forget(&before);
            return false;
        }
        if self.waiting.cancel(&member).is_none() && announce {
            self.waiting.push(member, None);
        }
        true
    }

    /// Whether the member was present.
    pub(super) fn leave(&mut self, member: Member, announce: bool) -> bool {
        let Some(info) = self.infos.remove(&member) else {
            return false;
        };
        self.forget(&info);
        if self.waiting.cancel(&member).is_none() && announce {
            self.waiting.push(member, Some(info));
        }
        if self.infos.len() < self.infos.capacity() / 8 {
            self.infos.shrink_to(2 * self.infos.len());
            self.users.shrink_to(2 * self.users.len());
        }
        true
    }

    /// Whether somebody joined and the info, or who left; the oldest that waits.
    pub(super) fn take_waiting(&mut self) -> Option<(bool, Box<[u8]>)> {
        let (member, left) = self.waiting.pop()?;
        match left {
            Some(info) => Some((false, info)),
            // Its leave would have cancelled the join, so it is present.
            None => Some((true, self.infos.get(&member)?.clone())),
        }
    }

    /// Nobody is there to be told.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting = Waiting::default();
    }

    /// Appends all infos, or nothing and says false when they exceed `bytes_max`.
    pub(super) fn list(&self, out: &mut Vec<u8>, bytes_max: usize) -> bool {
        let fits = self.infos_bytes <= bytes_max;
        if fits {
            out.reserve(self.infos_bytes);
            self.infos
                .values()
                .for_each(|info| out.extend_from_slice(info));
        }
        fits
    }

    pub(super) fn members(&self) -> usize {
        self.infos.len()
    }

    /// Distinct users; all anonymous clients are one.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.live() > 0
    }

    pub(super) fn dropped(&mut self) -> u64 {
        std::mem::take(&mut self.waiting.dropped)
    }

    pub(super) fn invariants(&self) {
        let bytes: usize = self.infos.values().map(|info| info.len()).sum();
        let users: usize = self.users.values().map(|count| *count as usize).sum();
        assert_eq!((bytes, users), (self.infos_bytes, self.infos.len()));
        assert!(self.users.values().all(|count| *count > 0));
        self.waiting.invariants();
        for (member, number) in &self.waiting.numbers {
            let joined = self
                .waiting
                .at(*number)
                .is_some_and(|(_, left)| left.is_none());
            assert_eq!(joined, self.infos.contains_key(member));
        }
    }

    /// An info that is no longer there.
    fn forget(&mut self, info: &[u8]) {
        self.infos_bytes -= info.len();
        let user = user(info);
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }
}

fn user(mut info: &[u8]) -> &str {
    flat::take_info(&mut info).map_or("", |info| info.user)
}

/// Who joined, or who left with the info that was theirs.
type Announcement = (Member, Option<Box<[u8]>>);

/// Announcements in order, at most one of a member. A cancelled one leaves a hole; holes never outnumber
/// the rest by much.
#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Option<Announcement>>,
    /// Number of the announcement of each member; the front of the queue has `first`.
    numbers: HashMap<Member, u64>,
    first: u64,
    dropped: u64,
}

/// Holes that are never worth closing.
const HOLES_MIN: usize = 64;

impl Waiting {
    fn push(&mut self, member: Member, left: Option<Box<[u8]>>) {
        if self.live() >= MEMBERSHIP_WAITING_MAX && self.pop().is_some() {
            self.dropped += 1;
        }
        self.numbers
            .insert(member, self.first + self.queue.len() as u64);
        self.queue.push_back(Some((member, left)));
    }

    fn pop(&mut self) -> Option<Announcement> {
        while let Some(front) = self.queue.pop_front() {
            self.first += 1;
            if let Some((member, left)) = front {
                self.numbers.remove(&member);
                if self.numbers.is_empty() {
                    self.release();
                }
                return Some((member, left));
            }
        }
        None
    }

    fn cancel(&mut self, member: &Member) -> Option<Announcement> {
        let number = self.numbers.remove(member)?;
        let index = (number - self.first) as usize;
        let cancelled = self.queue.get_mut(index)?.take();
        if self.queue.len() > 2 * self.live() + HOLES_MIN {
            self.close_holes();
        }
        cancelled
    }

    /// As much work as there were cancellations since the last time.
    fn close_holes(&mut self) {
        self.queue.retain(Option::is_some);
        for (index, announcement) in self.queue.iter().enumerate() {
            if let Some((member, _)) = announcement {
                self.numbers.insert(*member, self.first + index as u64);
            }
        }
    }

    /// After a storm nothing is left of its memory.
    fn release(&mut self) {
        self.queue = VecDeque::new();
        self.numbers = HashMap::new();
    }

    fn live(&self) -> usize {
        self.numbers.len()
    }

    fn at(&self, number: u64) -> Option<&Announcement> {
        self.queue.get((number - self.first) as usize)?.as_ref()
    }

    fn invariants(&self) {
        assert!(self.live() <= MEMBERSHIP_WAITING_MAX);
        assert!(self.queue.len() <= 2 * self.live() + HOLES_MIN + MEMBERSHIP_WAITING_MAX);
        assert_eq!(self.queue.iter().flatten().count(), self.live());
        for (member, number) in &self.numbers {
            assert_eq!(self.at(*number).map(|(found, _)| found), Some(member));
        }
    }
}

/// A token bucket in one number: [`MEMBERSHIP_BURST`] at once, [`MEMBERSHIP_PER_S`] over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When the bucket will be full again, in microseconds on the shard's clock.
    full_at_us: u64,
}

const TOKEN_US: u64 = 1_000_000 / MEMBERSHIP_PER_S;

impl Pace {
    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let there = self.due_ms() <= now_ms;
        if there {
            self.full_at_us = self.full_at_us.max(now_ms.saturating_mul(1_000)) + TOKEN_US;
        }
        there
    }

    /// When there is a token, on the shard's clock; 0 or past when there is one already.
    pub(super) fn due_ms(self) -> u64 {
        let rest_us = (MEMBERSHIP_BURST - 1) * TOKEN_US;
        self.full_at_us.saturating_sub(rest_us).div_ceil(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::ClientInfo;

    fn member(slot: u32) -> Member {
        let generation = 0;
        (NodeId(1), ConnId { slot, generation })
    }

    fn info(user: &str, client: &str) -> Vec<u8> {
        let mut flat = Vec::new();
        let info = ClientInfo {
            user,
            client,
            ..ClientInfo::default()
        };
        flat::push_info(&mut flat, &info);
        flat
    }

    fn clients(presence: &Presence) -> Vec<String> {
        let mut list = Vec::new();
        assert!(presence.list(&mut list, usize::MAX));
        let mut clients: Vec<_> = flat::infos(&list)
            .map(|info| info.client.to_owned())
            .collect();
        clients.sort();
        clients
    }

    #[test]
    fn everybody_who_is_present_is_listed_once_and_users_are_counted() {
        let mut presence = Presence::default();
        for (slot, user) in [(1, "anna"), (2, "anna"), (3, "ben"), (4, ""), (5, "")] {
            assert!(presence.enter(member(slot), &info(user, &slot.to_string()), false));
            presence.invariants();
        }
        assert_eq!((presence.members(), presence.users()), (5, 3));
        assert!(!presence.enter(member(3), &info("cleo", "three"), false));
        assert!(presence.leave(member(1), false) && !presence.leave(member(1), false));
        presence.invariants();
        assert_eq!(clients(&presence), ["2", "4", "5", "three"]);
        assert_eq!((presence.members(), presence.users()), (4, 3));
        assert!(!presence.is_waiting(), "nothing was to be announced");
    }

    #[test]
    fn a_list_that_is_too_long_is_not_cut() {
        let mut presence = Presence::default();
        presence.enter(member(1), &info("anna", "1"), false);
        presence.enter(member(2), &info("ben", "2"), false);
        let bytes = info("anna", "1").len() + info("ben", "2").len();
        let mut out = Vec::new();
        assert!(!presence.list(&mut out, bytes - 1) && out.is_empty());
        assert!(presence.list(&mut out, bytes) && out.len() == bytes);
    }

    fn waiting(presence: &mut Presence) -> Vec<(bool, String)> {
        std::iter::from_fn(|| presence.take_waiting())
            .map(|(joined, info)| {
                let info = flat::take_info(&mut &*info).expect("an info");
                (joined, info.client.to_owned())
            })
            .collect()
    }

    #[test]
    fn what_waits_keeps_its_order_and_opposites_cancel() {
        let mut presence = Presence::default();
        for slot in 1..=4 {
            presence.enter(member(slot), &info("", &slot.to_string()), true);
        }
        presence.enter(member(1), &info("", "one"), true);
        presence.leave(member(3), true);
        presence.invariants();
        let join = |client: &str| (true, client.to_owned());
        let leave = |client: &str| (false, client.to_owned());
        assert_eq!(waiting(&mut presence), [join("one"), join("2"), join("4")]);
        presence.leave(member(2), true);
        presence.leave(member(4), true);
        presence.enter(member(2), &info("", "2"), true);
        presence.leave(member(1), true);
        presence.invariants();
        assert_eq!(waiting(&mut presence), [leave("4"), leave("one")]);
        assert!(!presence.is_waiting() && presence.take_waiting().is_none());
        assert_eq!(clients(&presence), ["2"]);
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_dropped_and_counted() {
        let mut presence = Presence::default();
        let count = MEMBERSHIP_WAITING_MAX as u32 + 10;
        for slot in 0..count {
            presence.enter(member(slot), &info("", &slot.to_string()), true);
        }
        presence.invariants();
        assert_eq!((presence.dropped(), presence.dropped()), (10, 0));
        assert_eq!(presence.members(), count as usize, "presence is exact");
        let first = presence.take_waiting().expect("one waits");
        assert_eq!(flat::take_info(&mut &*first.1).unwrap().client, "10");
    }

    #[test]
    fn clients_that_flap_leave_no_holes_behind() {
        let mut presence = Presence::default();
        presence.enter(member(0), &info("", "0"), true);
        for _ in 0..100_000 {
            presence.enter(member(1), &info("", "1"), true);
            presence.leave(member(1), true);
        }
        presence.invariants();
        assert!(presence.waiting.queue.len() <= HOLES_MIN + 3);
        assert_eq!(waiting(&mut presence), [(true, "0".to_owned())]);
    }

    #[test]
    fn a_mass_leave_takes_time_in_proportion_and_leaves_no_memory() {
        // Two hundred thousand would take minutes if each cost what there are.
        let mut presence = Presence::default();
        let started = std::time::Instant::now();
        for slot in 0..200_000 {
            presence.enter(member(slot), &info("anna", "c"), true);
        }
        for slot in 0..200_000 {
            assert!(presence.leave(member(slot), true));
        }
        assert!(started.elapsed().as_secs() < 10);
        presence.invariants();
        assert_eq!((presence.members(), presence.users()), (0, 0));
        waiting(&mut presence);
        assert_eq!(presence.waiting.queue.capacity(), 0);
        assert!(presence.infos.capacity() < 100);
    }

    #[test]
    fn the_pace_is_a_burst_and_then_a_rate() {
        let mut pace = Pace::default();
        let take_all = |pace: &mut Pace, now_ms| (0..).take_while(|_| pace.take(now_ms)).count();
        assert_eq!(take_all(&mut pace, 5_000), MEMBERSHIP_BURST as usize);
        assert_eq!(pace.due_ms(), 5_001);
        let mut taken = 0;
        for now_ms in 5_001..=6_000 {
            taken += take_all(&mut pace, now_ms);
        }
        assert_eq!(taken, MEMBERSHIP_PER_S as usize);
        assert_eq!(take_all(&mut pace, 600_000), MEMBERSHIP_BURST as usize);
    }
}
