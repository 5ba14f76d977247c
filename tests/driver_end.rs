//! That a ring ends at once: whatever is armed or only queued is taken back before its memory goes.

use ringcast::driver::Wait;
use ringcast::driver::doorbell::Doorbells;
use ringcast::driver::sockets::{Event, Sockets};
use ringcast::driver::uring::{Uring, UringSetup};
use std::io::Write;
use std::time::{Duration, Instant};

/// A fifth of what a ring waits for operations that it cannot take back.
const CLOSES: usize = 5_000;
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

/// Connections that are closed while their peers send, and never close themselves.
#[test]
fn a_close_ends_a_connection_whose_peer_sends_on_and_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 4_096).unwrap();
    let target = listener.local_addr().unwrap();
    let peers = std::thread::spawn(move || {
        let mut streams: Vec<std::net::TcpStream> = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(b"0123456789");
            streams.push(stream);
            for stream in streams.iter_mut().rev().take(16) {
                let _ = stream.write(b"x");
            }
            if streams.len() == CLOSES {
                return streams;
            }
        }
        streams
    });
    let bells = Doorbells::for_rings(1).unwrap();
    let ring = Uring::new(UringSetup {
        listener: None,
        slots: CLOSES as u32,
        bells,
        node: 0,
    })
    .unwrap();
    let mut sockets = Sockets::new(ring);
    let source = "127.0.0.1:0".parse().unwrap();
    let (mut started, mut closed, begin) = (0, 0, Instant::now());
    let mut later = Vec::new();
    while closed < CLOSES {
        while started < CLOSES && started - closed < 1_000 {
            sockets.connect(source, target).unwrap();
            started += 1;
        }
        for conn in later.drain(..) {
            sockets.close(conn);
        }
        sockets.submit(Wait::UpTo(Duration::from_millis(10)));
        while let Some(event) = sockets.next_event() {
            match event {
                Event::Connected { conn } => match conn.slot % 3 {
                    0 => sockets.close(conn),
                    1 => later.push(conn),
                    _ => {}
                },
                Event::Received { conn, loan } => {
                    sockets.recycle(loan);
                    sockets.close(conn);
                }
                Event::Closed { .. } => closed += 1,
                _ => {}
            }
        }
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{closed} of {CLOSES} closed"
        );
    }
    drop(peers.join().unwrap());
}
