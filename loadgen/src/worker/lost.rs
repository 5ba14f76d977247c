//! What a peer has missed of the run's publications. It is told at the end, when it is known how many there
//! were, and how long any of them took.

use super::Totals;
use crate::order::Order;
use crate::peer::{Peer, Since, Stage};
use crate::rooms::{first_after, publications_of};

/// A peer that left on purpose.
pub(super) struct Left {
    pub(super) room: u32,
    pub(super) since: Since,
    /// When its subscribe was confirmed, nanoseconds.
    pub(super) since_ns: u64,
    /// When it left, nanoseconds.
    pub(super) leaves_ns: u64,
    /// What it had seen.
    pub(super) order: Order,
}

/// What was due less than this before a peer leaves may be on its way, nanoseconds; in a run with late
/// publications and long latencies more.
const ON_ITS_WAY_NS: u64 = 500_000_000;

/// Publications that are still to come to the peers that are there.
pub(super) fn still_to_come(peers: &[Peer], totals: &Totals, rooms: u32) -> u64 {
    let there = peers
        .iter()
        .filter(|peer| matches!(peer.stage(), Stage::Subscribed));
    there.map(|peer| by_peer(peer, totals, rooms)).sum()
}

/// Of a peer that is there, or failed.
pub(super) fn by_peer(peer: &Peer, totals: &Totals, rooms: u32) -> u64 {
    let room = peer.room();
    let first = match peer.since() {
        Since::Start => 1,
        Since::Later => first_for(totals, rooms, room, peer.since_ns),
    };
    peer.lost(first, |member| match totals {
        Totals::InTurn { published, .. } => publications_of(room, rooms, *published),
        Totals::ByConnection(sent) => {
            let publisher = u64::from(member) * u64::from(rooms) + u64::from(room);
            sent.get(publisher as usize).copied().unwrap_or(0)
        }
    })
}

/// Of a peer that left on purpose: of what was due shortly before that nobody can tell whether it was still
/// on its way.
pub(super) fn by_left(left: &Left, totals: &Totals, rooms: u32) -> u64 {
    let Totals::InTurn {
        schedule, slack, ..
    } = totals
    else {
        return left.order.gaps().into();
    };
    let on_its_way_ns = [
        2u64.saturating_mul(slack.latency_ns_max),
        slack.late_ns_max,
        slack.clock_error_ns,
    ];
    let on_its_way_ns = on_its_way_ns
        .into_iter()
        .fold(ON_ITS_WAY_NS, u64::saturating_add);
    let Some(until_ns) = left.leaves_ns.checked_sub(on_its_way_ns) else {
        return left.order.gaps().into();
    };
    if schedule.due_ns(0).is_none() {
        // As fast as they go: nothing was due at a time.
        return left.order.gaps().into();
    }
    let first = match left.since {
        Since::Start => 1,
        Since::Later => first_for(totals, rooms, left.room, left.since_ns),
    };
    let until = first_due(totals, rooms, left.room, until_ns) - 1;
    match first <= until {
        true => left.order.missing_from(first, until).into(),
        false => left.order.gaps().into(),
    }
}

/// The first publication to a room that one must get who was there from `since_ns` on, nanoseconds.
fn first_for(totals: &Totals, rooms: u32, room: u32, since_ns: u64) -> u32 {
    let error_ns = match totals {
        Totals::InTurn { slack, .. } => slack.clock_error_ns,
        Totals::ByConnection(_) => 0,
    };
    first_due(totals, rooms, room, since_ns.saturating_add(error_ns))
}

/// The first publication to a room, from 1, that was due later than `there_ns`, nanoseconds.
fn first_due(totals: &Totals, rooms: u32, room: u32, there_ns: u64) -> u32 {
    match totals {
        Totals::ByConnection(_) => 1,
        Totals::InTurn {
            published,
            schedule,
            start_ns,
            ..
        } => {
            let published = publications_of(room, rooms, *published);
            let Some(after_ns) = there_ns.checked_sub(*start_ns) else {
                return 1;
            };
            first_after(after_ns, schedule, room, rooms, published)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Slack;
    use super::*;
    use crate::schedule::{Rate, Schedule};

    const SECOND: u64 = 1_000_000_000;

    /// Of a peer that was there from 2 s to 10 s of a schedule with one publication a second, and has seen
    /// these; 3 s may have been on their way.
    fn lost(seen: &[u32], totals: &Totals) -> u64 {
        let there_ns = (102 * SECOND + SECOND / 2, 110 * SECOND + SECOND / 2);
        lost_of(Since::Later, there_ns, seen, totals)
    }

    fn lost_of(
        since: Since,
        (since_ns, leaves_ns): (u64, u64),
        seen: &[u32],
        totals: &Totals,
    ) -> u64 {
        let mut order = match since {
            Since::Start => Order::new(),
            Since::Later => Order::from_first(),
        };
        for number in seen {
            order.take(*number);
        }
        let left = Left {
            room: 0,
            since,
            since_ns,
            leaves_ns,
            order,
        };
        by_left(&left, totals, 1)
    }

    fn totals(schedule: Schedule) -> Totals {
        Totals::InTurn {
            published: 20,
            schedule,
            start_ns: 100 * SECOND,
            slack: Slack {
                late_ns_max: SECOND,
                latency_ns_max: SECOND * 7 / 10,
                clock_error_ns: SECOND / 10,
            },
        }
    }

    #[test]
    fn who_left_must_have_got_what_was_due_while_it_was_there_but_for_what_was_on_its_way() {
        // Publication n is due n - 1 s after the start: 4 to 8 are due from 3 s to 7 s.
        let totals = totals(Schedule::counted(20, Rate(1.0), 1));
        assert_eq!(lost(&[4, 5, 6, 7, 8], &totals), 0);
        assert_eq!(lost(&[3, 4, 5, 6, 7, 8, 9, 10], &totals), 0);
        assert_eq!(lost(&[4, 6, 7, 8], &totals), 1);
        assert_eq!(lost(&[6, 7], &totals), 3);
        assert_eq!(lost(&[], &totals), 5);
        // Publication 4 may have been due before it came, where clocks may differ by 0.6 s.
        let totals = totals.with_slack(|slack| slack.clock_error_ns = SECOND * 6 / 10);
        assert_eq!(lost(&[5, 6, 7, 8], &totals), 0);
    }

    #[test]
    fn who_left_before_the_first_publication_was_due_has_missed_nothing() {
        let totals = totals(Schedule::counted(20, Rate(1.0), 1));
        for since in [Since::Start, Since::Later] {
            // What may have been on its way ends before the start of the schedule, and on it.
            for leaves_ns in [95 * SECOND, 102 * SECOND, 103 * SECOND - 1] {
                let there_ns = (90 * SECOND, leaves_ns);
                assert_eq!(lost_of(since, there_ns, &[], &totals), 0, "{leaves_ns}");
            }
            let there_ns = (90 * SECOND, 104 * SECOND);
            assert_eq!(lost_of(since, there_ns, &[], &totals), 2);
            assert_eq!(lost_of(since, there_ns, &[1, 2], &totals), 0);
        }
    }

    #[test]
    fn a_schedule_without_times_asks_for_nothing_but_what_is_missing_between() {
        let totals = totals(Schedule::closed(20));
        assert_eq!(lost(&[], &totals), 0);
        assert_eq!(lost(&[4, 6], &totals), 1);
    }
}
