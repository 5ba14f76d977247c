//! What a view promises.

use super::*;
use crate::wire::client::{Commands, Encoding, Request, Tags, flat};

const LIMITS: TailLimits = TailLimits {
    bytes: 8 * 1024,
    age_ms: 1_000,
};

fn live() -> View {
    let mut view = View::new("news");
    view.announced();
    assert!(view.admitted(Epoch(1), Offset(0)).is_empty());
    view
}

const PLAIN: LineKind = LineKind {
    encoding: Encoding::Json,
    delta: false,
    members: false,
    filtered: 0,
};

fn publish(view: &mut View, offset: u64, payload: &[u8], turn: u64, pool: &mut ChunkPool) {
    view.advance(Offset(offset));
    for at in 0..view.lines().len() {
        view.append(at, (b"<", payload), (turn, 0), LIMITS, pool);
    }
}

fn taken(view: &mut View, index: u32, pool: &mut ChunkPool) -> (Taken, Vec<u8>) {
    let (mut parts, mut bytes) = (Vec::new(), Vec::new());
    let taken = view.take(PLAIN, index, 16, &mut parts, pool);
    parts.iter().for_each(|part| part.copy_to(&mut bytes));
    view.invariants();
    (taken, bytes)
}

#[test]
fn a_subscriber_gets_what_was_published_after_it_joined_and_nothing_twice() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let early = view.subscribe(1, PLAIN, None);
    publish(&mut view, 1, b"a>", 1, &mut pool);
    let late = view.subscribe(2, PLAIN, None);
    publish(&mut view, 2, b"b>", 1, &mut pool);
    assert_eq!(
        taken(&mut view, early, &mut pool),
        (Taken::All, b"<a><b>".to_vec())
    );
    assert_eq!(taken(&mut view, early, &mut pool), (Taken::All, vec![]));
    assert!(view.lines()[0].is_lagging());
    assert_eq!(
        taken(&mut view, late, &mut pool),
        (Taken::All, b"<b>".to_vec())
    );
    assert_eq!(
        view.lines()[0].tail().held_bytes(),
        0,
        "released once nobody lags"
    );
}

#[test]
fn the_last_subscriber_takes_the_place_of_one_that_leaves() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    for slot in [10, 11, 12] {
        view.subscribe(slot, PLAIN, None);
    }
    publish(&mut view, 1, b"x", 1, &mut pool);
    assert_eq!(view.unsubscribe(PLAIN, 0, &mut pool), Some(12));
    assert_eq!(view.unsubscribe(PLAIN, 1, &mut pool), None);
    assert_eq!(taken(&mut view, 0, &mut pool).1, b"<x");
    view.unsubscribe(PLAIN, 0, &mut pool);
    assert!(view.is_empty() && view.lines()[0].tail().held_bytes() == 0);
}

#[test]
fn a_laggard_is_lost_and_the_tail_stays_bounded() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let (slow, quick) = (
        view.subscribe(1, PLAIN, None),
        view.subscribe(2, PLAIN, None),
    );
    for offset in 1..=1_000 {
        publish(&mut view, offset, &[0; 99], offset, &mut pool);
        assert_eq!(taken(&mut view, quick, &mut pool).0, Taken::All);
        assert!(
            view.lines()[0].tail().held_bytes() <= LIMITS.bytes + crate::limits::CHUNK_BYTES_MAX
        );
    }
    assert_eq!(taken(&mut view, slow, &mut pool).0, Taken::Lost);
}

#[test]
fn a_burst_within_one_turn_makes_nobody_slow() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let reader = view.subscribe(1, PLAIN, None);
    for offset in 1..=1_000 {
        publish(&mut view, offset, &[0; 99], 7, &mut pool);
    }
    let (taken, bytes) = taken(&mut view, reader, &mut pool);
    assert_eq!((taken, bytes.len()), (Taken::All, 100_000));
}

#[test]
#[should_panic(expected = "in order, without gap")]
fn a_gap_between_cores_is_a_bug_of_ours() {
    live().advance(Offset(2));
}

#[test]
fn each_kind_of_subscriber_reads_its_own_line() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let members = LineKind {
        members: true,
        ..PLAIN
    };
    let all = LineKind {
        filtered: 300,
        ..members
    };
    for kind in [members, all] {
        let bits = kind.bits();
        assert_eq!(bits & !LineKind::BITS, 0);
        assert_eq!(LineKind::from_bits(bits | 0x100), kind);
    }
    view.subscribe(1, PLAIN, None);
    view.subscribe(2, members, None);
    view.append(1, (b"", b"join"), (1, 0), LIMITS, &mut pool);
    assert_eq!(taken(&mut view, 0, &mut pool), (Taken::All, vec![]));
    let mut parts = Vec::new();
    assert_eq!(view.take(members, 0, 16, &mut parts, &mut pool), Taken::All);
    assert_eq!(parts.iter().map(Part::len).sum::<usize>(), 4);
    view.unsubscribe(members, 0, &mut pool);
    assert_eq!(view.subscribers(), 1);
    view.invariants();
}

#[test]
fn a_delta_reaches_only_who_has_what_it_starts_from() {
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let delta = LineKind {
        delta: true,
        ..PLAIN
    };
    view.subscribe(1, delta, None);
    assert!(view.lines()[0].has_fresh(), "it has nothing yet");
    view.advance(Offset(1));
    view.append(0, (b"", b"full"), (1, 0), LIMITS, &mut pool);
    view.ripen_all(0);
    let data = Data {
        content: Content::Json,
        bytes: b"1",
    };
    view.remember(Offset(1), data);
    assert_eq!(view.previous().map(Previous::data), Some(data));
    view.subscribe(2, delta, Some(Offset(1)));
    assert!(!view.lines()[0].has_fresh(), "recovered up to the base");
    let late = view.subscribe(3, delta, Some(Offset(0)));
    assert!(view.lines()[0].has_fresh());
    view.pass_over(delta, late, &mut pool);
    view.ripen_all(0);
    assert!(!view.lines()[0].has_fresh());
    view.leave_out(delta, late, &mut pool);
    view.leave_out(delta, late, &mut pool);
    assert!(view.lines()[0].has_fresh(), "it has not got the base");
    view.invariants();
    for _ in 0..3 {
        view.unsubscribe(delta, 0, &mut pool);
    }
    view.remember(Offset(2), data);
    assert!(view.previous().is_none(), "nobody takes deltas any more");
}

#[test]
fn a_filter_has_a_line_of_its_own_while_anybody_has_it() {
    let filter = |value: &str| {
        let filter = format!(r#"{{"key":"k","cmp":"eq","val":"{value}"}}"#);
        let text = format!(r#"{{"id":1,"subscribe":{{"channel":"c","tf":{filter}}}}}"#);
        let mut commands = Commands::new(Encoding::Json, text.as_bytes());
        let command = commands.next().expect("a command").expect("a good one");
        match command.request {
            Request::Subscribe(subscribe) => subscribe.filter.expect("good").expect("there"),
            other => panic!("{other:?}"),
        }
    };
    let (mut view, mut pool) = (live(), ChunkPool::default());
    let one = view.filtered(PLAIN, filter("1")).expect("a place");
    let first = view.subscribe(1, one, None);
    assert_eq!(view.filtered(PLAIN, filter("1")), Some(one), "shared");
    let two = view.filtered(PLAIN, filter("2")).expect("a place");
    view.subscribe(2, two, None);
    assert_ne!(one, two);
    view.subscribe(3, PLAIN, None);
    let mut tags = Vec::new();
    flat::push_tag(&mut tags, "k", "1");
    let wants = |view: &View| -> Vec<bool> {
        let lines = view.lines().iter();
        lines
            .map(|line| line.wants(Tags::from_flat(&tags)))
            .collect()
    };
    assert_eq!(wants(&view), [true, false, true]);
    view.unsubscribe(one, first, &mut pool);
    assert_eq!(view.filtered(PLAIN, filter("3")), Some(one), "used again");
    view.subscribe(1, one, None);
    assert_eq!(wants(&view), [false, false, true]);
    view.invariants();
}
