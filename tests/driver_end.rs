//! That a ring ends at once: whatever is armed or only queued is taken back before its memory goes.

use ringcast::driver::Wait;
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::sockets::{Event, Sockets};
use ringcast::driver::uring::{Uring, UringSetup};
use std::time::{Duration, Instant};

/// A fifth of what a ring waits for operations that it cannot take back.
const AT_ONCE: Duration = Duration::from_secs(1);

fn sockets() -> (Sockets<Uring>, Doorbells) {
    let bells = Doorbells::for_rings(1).unwrap();
    let ring = Uring::new(UringSetup {
        listener: None,
        slots: 8,
        bells: bells.clone(),
        node: 0,
    })
    .unwrap();
    (Sockets::new(ring), bells)
}

fn end(sockets: Sockets<Uring>) {
    let start = Instant::now();
    drop(sockets);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn a_ring_with_an_armed_bell_ends_at_once() {
    let (mut sockets, _bells) = sockets();
    sockets.submit(Wait::No);
    end(sockets);
}

#[test]
fn a_ring_whose_bell_is_only_queued_again_ends_at_once() {
    let (mut sockets, bells) = sockets();
    bells.ring(0).unwrap();
    sockets.submit(Wait::UpTo(Duration::from_secs(5)));
    let mut is_rung = false;
    while let Some(event) = sockets.next_event() {
        is_rung |= matches!(event, Event::Bell);
    }
    assert!(is_rung);
    end(sockets);
}
