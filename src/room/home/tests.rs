//! What a home promises.

use super::*;
use crate::base::Content;
use crate::limits::{MEMBERSHIP_BURST, MEMBERSHIP_PER_S};
use crate::wire::client::flat;
use crate::wire::client::{ClientInfo, Data};

const LIMITS: HomeLimits = HomeLimits {
    history: HistoryLimits {
        count: 10,
        age_ms: 100,
        bytes: 1_000,
    },
    keys: 8,
    keys_age_ms: 50,
    meta_ms: 10_000,
    read_max: 6,
    page_max: 6,
    read_bytes_max: 1_000,
};

const EPOCH: Epoch = Epoch(7);

fn home() -> Home {
    Home::new("news", EPOCH, 0)
}

/// A home with this many publications.
fn published(count: u64) -> Home {
    let mut home = home();
    for _ in 0..count {
        home.publish(&incoming(b"1", None), 0, &LIMITS);
        home.invariants(&LIMITS);
    }
    home
}

fn incoming(payload: &[u8], key: Option<u8>) -> Incoming<'_> {
    let data = Data {
        content: Content::Json,
        bytes: payload,
    };
    Incoming {
        publication: Publication {
            offset: 99,
            data,
            ..Publication::default()
        },
        key: key.map(|byte| [byte; 16]),
        skip_history: false,
        version: None,
    }
}

#[test]
fn what_is_not_newer_than_the_newest_goes_nowhere() {
    let mut home = home();
    let mut publish = |number: u64, epoch: &str| {
        let incoming = Incoming {
            version: Version::new(number, epoch),
            ..incoming(b"1", None)
        };
        home.publish(&incoming, 0, &LIMITS)
    };
    assert_eq!(publish(5, "db"), Published::Sequenced(Offset(1)));
    assert_eq!(publish(5, "db"), Published::Outdated(Offset(1)));
    assert_eq!(publish(4, "db"), Published::Outdated(Offset(1)));
    assert_eq!(
        publish(0, ""),
        Published::Sequenced(Offset(2)),
        "no version"
    );
    assert_eq!(publish(6, "db"), Published::Sequenced(Offset(3)));
    assert_eq!(publish(1, "new"), Published::Sequenced(Offset(4)));
    assert_eq!(home.history().len(), 4);
}

#[test]
fn a_version_is_remembered_as_long_as_a_position() {
    let mut home = Home::new("room", EPOCH, 0);
    let incoming = Incoming {
        skip_history: true,
        version: Version::new(1, ""),
        ..incoming(b"1", None)
    };
    home.publish(&incoming, 0, &LIMITS);
    assert!(!home.is_blank());
    assert!(!home.expire(LIMITS.meta_ms - 1, &LIMITS, 1));
    assert!(home.expire(LIMITS.meta_ms, &LIMITS, 1));
}

fn read_with(home: &mut Home, read: Read, limits: &HomeLimits) -> (bool, Vec<u64>) {
    let mut out = b"before".to_vec();
    let valid = home.read(&read, 0, limits, &mut out);
    assert!(out.starts_with(b"before"), "reads append");
    let publications = flat::publications(&out[6..]);
    (
        valid,
        publications.map(|publication| publication.offset).collect(),
    )
}

fn read(home: &mut Home, read: Read) -> (bool, Vec<u64>) {
    read_with(home, read, &LIMITS)
}

fn recover(epoch: Option<u32>, offset: u64) -> Read {
    Read::Recover {
        epoch: epoch.map(Epoch),
        offset: Offset(offset),
    }
}

fn recover_newest(epoch: Option<u32>, offset: u64) -> Read {
    Read::RecoverNewest {
        epoch: epoch.map(Epoch),
        offset: Offset(offset),
    }
}

fn page(limit: u32, since: Option<u64>, reverse: bool) -> Read {
    Read::Page {
        limit,
        since: since.map(|offset| (None, Offset(offset))),
        reverse,
    }
}

fn view(generation: u32) -> ViewId {
    let index = 1;
    ViewId { index, generation }
}

fn member(slot: u32) -> (NodeId, ConnId) {
    let generation = 0;
    (NodeId(1), ConnId { slot, generation })
}

fn info(user: &str) -> Vec<u8> {
    let mut flat = Vec::new();
    let info = ClientInfo {
        user,
        ..ClientInfo::default()
    };
    flat::push_info(&mut flat, &info);
    flat
}

#[test]
fn what_is_sequenced_is_in_the_history() {
    let mut home = home();
    for expected in 1..=30 {
        let published = home.publish(&incoming(b"1", None), 0, &LIMITS);
        assert_eq!(published, Published::Sequenced(Offset(expected)));
        assert_eq!(home.history().newest(), Some(Offset(expected)));
        home.invariants(&LIMITS);
    }
}

#[test]
fn a_repeated_key_gets_the_first_offset_within_the_window() {
    let mut home = home();
    for (key, now_ms, expected) in [
        (Some(1), 0, Published::Sequenced(Offset(1))),
        (None, 0, Published::Sequenced(Offset(2))),
        (Some(1), 49, Published::Duplicate(Offset(1))),
        (Some(1), 50, Published::Sequenced(Offset(3))),
    ] {
        assert_eq!(
            home.publish(&incoming(b"1", key), now_ms, &LIMITS),
            expected
        );
    }
}

#[test]
fn a_publication_outside_history_has_no_offset() {
    let mut home = home();
    let typing = Incoming {
        skip_history: true,
        ..incoming(b"1", None)
    };
    let published = home.publish(&typing, 0, &LIMITS);
    assert_eq!(published, Published::Sequenced(Offset(0)));
    assert_eq!((home.top(), home.history().len()), (Offset(0), 0));
    assert!(home.is_blank());
}

#[test]
fn a_room_that_keeps_no_history_counts_its_publications() {
    let mut limits = LIMITS;
    limits.history.count = 0;
    let mut home = home();
    for expected in 1..=3 {
        let published = home.publish(&incoming(b"1", None), 0, &limits);
        assert_eq!(published, Published::Sequenced(Offset(expected)));
    }
    assert_eq!((home.top(), home.history_bytes()), (Offset(3), 0));
    home.invariants(&limits);
}

/// The table of the protocol: epoch and offset asked with, recovered, publications.
#[test]
fn a_recovery_gives_everything_or_nothing() {
    // Empty: position 0 of this epoch is up to date.
    for (asked, recovered) in [
        (recover(None, 0), true),
        (recover(Some(7), 0), true),
        (recover(Some(8), 0), false),
        (recover(None, 1), false),
    ] {
        assert_eq!(read(&mut home(), asked), (recovered, vec![]), "{asked:?}");
    }
    // 14 published, 5 to 14 kept, 6 readable.
    for (asked, recovered, offsets) in [
        (recover(Some(7), 14), true, vec![]),
        (recover(None, 14), true, vec![]),
        (recover(Some(7), 13), true, vec![14]),
        (recover(Some(7), 8), true, vec![9, 10, 11, 12, 13, 14]),
        (recover(Some(7), 7), false, vec![]),
        (recover(Some(7), 3), false, vec![]),
        (recover(Some(7), 0), false, vec![]),
        (recover(Some(7), 15), false, vec![]),
        (recover(Some(7), u64::MAX), false, vec![]),
        (recover(Some(8), 14), false, vec![]),
        (recover(Some(8), 13), false, vec![]),
        (recover(Some(8), 0), false, vec![]),
    ] {
        assert_eq!(
            read(&mut published(14), asked),
            (recovered, offsets),
            "{asked:?}"
        );
    }
    // Everything forgotten: only who has missed nothing recovers.
    for (asked, recovered) in [
        (recover(Some(7), 14), true),
        (recover(Some(7), 13), false),
        (recover(Some(7), 0), false),
    ] {
        let mut home = published(14);
        home.forget_history();
        assert_eq!(home.top(), Offset(14));
        assert_eq!(read(&mut home, asked), (recovered, vec![]), "{asked:?}");
    }
    // The oldest kept is the first that is missed, or the one after it.
    let limits = HomeLimits {
        read_max: 300,
        page_max: 300,
        ..LIMITS
    };
    let all = (true, (5..=14).collect());
    assert_eq!(
        read_with(&mut published(14), recover(None, 4), &limits),
        all
    );
    let none = (false, vec![]);
    assert_eq!(
        read_with(&mut published(14), recover(None, 3), &limits),
        none
    );
}

#[test]
fn a_recovery_of_too_many_bytes_gives_nothing() {
    let each = published(1).history_bytes();
    let limits = HomeLimits {
        read_bytes_max: 2 * each,
        ..LIMITS
    };
    let mut home = published(5);
    assert_eq!(
        read_with(&mut home, recover(None, 3), &limits),
        (true, vec![4, 5])
    );
    assert_eq!(
        read_with(&mut home, recover(None, 2), &limits),
        (false, vec![])
    );
}

#[test]
fn what_has_grown_too_old_cannot_be_recovered() {
    let mut home = published(3);
    let mut out = Vec::new();
    assert!(home.read(&recover(None, 0), 99, &LIMITS, &mut out) && !out.is_empty());
    out.clear();
    assert!(!home.read(&recover(None, 0), 100, &LIMITS, &mut out) && out.is_empty());
    assert!(home.read(&recover(None, 3), 100, &LIMITS, &mut out));
    assert_eq!((home.top(), home.epoch()), (Offset(3), EPOCH));
}

#[test]
fn a_cache_gives_the_newest_to_everybody_who_has_not_got_it() {
    for (asked, recovered) in [
        (recover_newest(Some(7), 0), true),
        (recover_newest(None, 0), true),
        (recover_newest(Some(8), 0), false),
        (recover_newest(Some(7), 1), false),
    ] {
        assert_eq!(read(&mut home(), asked), (recovered, vec![]), "{asked:?}");
    }
    for (asked, offsets) in [
        (recover_newest(Some(7), 14), vec![]),
        (recover_newest(Some(7), 13), vec![14]),
        (recover_newest(Some(7), 0), vec![14]),
        (recover_newest(Some(7), 99), vec![14]),
        (recover_newest(Some(8), 14), vec![14]),
        (recover_newest(None, 14), vec![14]),
    ] {
        assert_eq!(
            read(&mut published(14), asked),
            (true, offsets),
            "{asked:?}"
        );
    }
    let mut home = published(14);
    home.forget_history();
    assert_eq!(read(&mut home, recover_newest(Some(7), 14)), (true, vec![]));
    assert_eq!(
        read(&mut home, recover_newest(Some(7), 13)),
        (false, vec![])
    );
    assert_eq!(
        read(&mut home, recover_newest(Some(8), 14)),
        (false, vec![])
    );
}

#[test]
fn a_page_excludes_where_it_starts_and_ends_at_its_bounds() {
    // 14 published, 5 to 14 kept, 6 readable.
    for (asked, offsets) in [
        (page(0, None, false), vec![]),
        (page(0, Some(3), true), vec![]),
        (page(2, None, false), vec![5, 6]),
        (page(2, None, true), vec![14, 13]),
        (page(u32::MAX, None, false), vec![5, 6, 7, 8, 9, 10]),
        (page(u32::MAX, None, true), vec![14, 13, 12, 11, 10, 9]),
        (page(7, None, true), vec![14, 13, 12, 11, 10, 9]),
        (page(2, Some(6), false), vec![7, 8]),
        (page(2, Some(8), true), vec![7, 6]),
        (page(9, Some(12), false), vec![13, 14]),
        (page(9, Some(7), true), vec![6, 5]),
        (page(9, Some(14), false), vec![]),
        (page(9, Some(5), true), vec![]),
        (page(9, Some(0), true), vec![]),
        (page(1, Some(0), false), vec![5]),
        (page(1, Some(2), false), vec![5]),
        (page(2, Some(100), true), vec![14, 13]),
        (page(2, Some(u64::MAX), false), vec![]),
        (page(2, Some(u64::MAX), true), vec![14, 13]),
    ] {
        assert_eq!(
            read(&mut published(14), asked),
            (true, offsets),
            "{asked:?}"
        );
        assert_eq!(read(&mut home(), asked), (true, vec![]), "{asked:?}");
    }
    let of_epoch = |epoch| Read::Page {
        limit: 1,
        since: Some((Some(Epoch(epoch)), Offset(13))),
        reverse: false,
    };
    assert_eq!(read(&mut published(14), of_epoch(7)), (true, vec![14]));
    assert_eq!(read(&mut published(14), of_epoch(8)), (false, vec![]));
}

#[test]
fn a_page_stops_before_it_has_too_many_bytes() {
    let each = published(1).history_bytes();
    for (bytes, count) in [(0, 0), (each - 1, 0), (each, 1), (3 * each - 1, 2)] {
        let limits = HomeLimits {
            read_bytes_max: bytes,
            ..LIMITS
        };
        for reverse in [false, true] {
            let (valid, offsets) =
                read_with(&mut published(5), page(u32::MAX, None, reverse), &limits);
            assert!(valid && offsets.len() == count, "{bytes} {offsets:?}");
        }
    }
}

#[test]
fn a_late_uninterest_does_not_silence_a_newer_view() {
    let (mut home, shard) = (home(), NodeId(3));
    home.interest(shard, view(0), 0);
    home.interest(shard, view(1), 0);
    home.uninterest(shard, view(0));
    assert_eq!(home.interested(), [(shard, view(1))]);
}

#[test]
fn a_home_is_forgotten_only_when_it_keeps_nothing() {
    let mut limits = LIMITS;
    let mut home = home();
    home.publish(&incoming(b"1", Some(1)), 10, &limits);
    assert!(!home.expire(109, &limits, 10), "history");
    assert_eq!((home.history().len(), home.idle_since_ms()), (1, 10));
    assert!(!home.expire(110, &limits, 10) && home.history().is_empty());
    assert!(!home.expire(10_009, &limits, 10), "its position");
    home.interest(NodeId(0), view(0), 10_009);
    assert!(
        !home.is_evictable() && !home.expire(90_000, &limits, 10),
        "somebody subscribes"
    );
    home.uninterest(NodeId(0), view(0));
    home.enter(member(1), &info(""), 90_000, false);
    assert!(
        !home.is_evictable() && !home.expire(95_000, &limits, 10),
        "somebody is present"
    );
    home.leave(member(1), false);
    assert!(
        home.is_evictable() && !home.expire(104_999, &limits, 10),
        "used until then"
    );
    assert!(home.expire(105_000, &limits, 10));
    limits.history.count = 0;
    assert!(home.expire(95_010, &limits, 10), "no history, no position");
}

#[test]
fn a_home_that_nobody_published_to_is_forgotten_after_its_idle_time() {
    let mut home = home();
    home.interest(NodeId(0), view(0), 5);
    assert!(!home.is_blank());
    home.uninterest(NodeId(0), view(0));
    assert!(home.is_blank() && !home.expire(14, &LIMITS, 10) && home.expire(15, &LIMITS, 10));
    let typing = Incoming {
        skip_history: true,
        ..incoming(b"1", Some(1))
    };
    home.publish(&typing, 20, &LIMITS);
    assert!(
        !home.is_blank() && !home.expire(69, &LIMITS, 10),
        "its key is remembered"
    );
    assert!(home.expire(70, &LIMITS, 10) && home.is_blank());
}

#[test]
fn joins_and_leaves_come_in_order_at_the_pace_that_is_allowed() {
    let mut home = home();
    home.interest(NodeId(1), view(0), 0);
    assert_eq!(home.membership_due_ms(), None);
    let count = 10_000;
    for slot in 0..count {
        assert!(home.enter(member(slot), &info(&slot.to_string()), 1_000, true));
    }
    assert!(
        !home.enter(member(0), &info("0"), 1_000, true),
        "it is there already"
    );
    assert_eq!(home.presence_stats(), (count, count));
    let (mut now_ms, mut told) = (1_000, 0);
    while let Some(due_ms) = home.membership_due_ms() {
        now_ms = now_ms.max(due_ms);
        while let Some((joined, flat)) = home.poll_membership(now_ms) {
            assert!(joined && *flat == *info(&told.to_string()));
            told += 1;
        }
        let allowed = MEMBERSHIP_BURST + MEMBERSHIP_PER_S * (now_ms - 1_000) / 1_000;
        assert!(u64::from(told) <= allowed, "{told} at {now_ms}");
    }
    assert_eq!(told, count);
    assert!(
        now_ms <= 1_000 + 1_000 * u64::from(count) / MEMBERSHIP_PER_S,
        "{now_ms}"
    );
    home.invariants(&LIMITS);
}

#[test]
fn coming_and_going_fills_no_bucket() {
    let mut home = home();
    home.interest(NodeId(1), view(0), 0);
    let mut told = 0;
    for _ in 0..10_000 {
        home.enter(member(1), &info("anna"), 5, true);
        told += u64::from(home.poll_membership(5).is_some());
        home.leave(member(1), true);
        told += u64::from(home.poll_membership(5).is_some());
    }
    assert_eq!(told, MEMBERSHIP_BURST);
    assert!(home.presence.is_none(), "nothing is kept for nobody");
}

#[test]
fn nothing_waits_for_a_room_without_subscribers() {
    let mut home = home();
    home.interest(NodeId(1), view(0), 0);
    home.enter(member(1), &info("anna"), 5, true);
    assert!(home.poll_membership(5).is_some());
    home.leave(member(1), true);
    assert!(home.membership_due_ms().is_some());
    home.uninterest(NodeId(1), view(0));
    assert_eq!(home.membership_due_ms(), None);
    assert!(home.is_blank() && home.presence.is_none());
}
