//! What the simulated kernel promises, operation by operation.

use super::*;
use crate::base::ConnId;
use crate::base::chunk::Chunk;
use crate::driver::Token;
use crate::driver::sockets::{Event, Sockets};
use std::time::Duration;

pub(super) const SECOND_NS: u64 = 1_000_000_000;
const ECONNREFUSED: i32 = 111;
const EPIPE: i32 = 32;
const ENFILE: i32 = 23;
const ENOBUFS: i32 = 105;
const ECANCELED: i32 = 125;
const ECONNRESET: i32 = 104;

// Operations by hand.

/// A ring with one accepted connection and nothing else pending.
struct Bench {
    world: World,
    sim: Sim,
    client: Client,
    conn: ConnId,
}

fn bench(seed: u64, faults: Faults) -> Bench {
    let world = World::new(seed, faults);
    let mut sim = world.sim(SimSetup::default());
    let client = world.connect(0);
    sim.push(Op::Accept { entry: 0 });
    let accepted = next(&world, &mut sim);
    assert_eq!(accepted.token, Token::Accept { entry: 0 });
    assert_eq!(sim.peer(0), client.address());
    let conn = ConnId {
        slot: accepted.result as u32,
        generation: 7,
    };
    assert_eq!(client.slot(), Some(conn.slot));
    Bench {
        world,
        sim,
        client,
        conn,
    }
}

impl Bench {
    fn start(&mut self, op: Op) {
        self.sim.push(op);
        self.sim.submit(Wait::No);
    }

    /// Lets everything happen and takes what completed.
    fn settle(&mut self) -> Vec<Completion> {
        self.sim.submit(Wait::UpTo(Duration::MAX));
        while self.world.advance_to_next() {}
        self.sim.invariants();
        std::iter::from_fn(|| self.sim.reap()).collect()
    }

    fn send(&mut self, bytes: &[u8]) {
        let op = Op::Send(self.conn, payload(bytes));
        self.start(op);
    }
}

/// The next completion, after as much time as it takes.
fn next(world: &World, sim: &mut Sim) -> Completion {
    sim.submit(Wait::UpTo(Duration::MAX));
    loop {
        if let Some(completion) = sim.reap() {
            return completion;
        }
        assert!(world.advance_to_next(), "nothing will ever complete");
    }
}

pub(super) fn payload(bytes: &[u8]) -> Payload {
    let chunk = Chunk::new(bytes.len());
    chunk.append(bytes);
    Payload::One(Part::new(&chunk, 0, bytes.len()))
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count)
        .map(|index| (index * 7 + index / 251) as u8)
        .collect()
}

#[test]
fn bytes_arrive_in_order_in_both_directions_whatever_the_odds() {
    for seed in 0..200 {
        let mut bench = bench(seed, Faults::unordered());
        let sent = pattern(3_000);
        bench.client.write(&sent[..1_000]);
        bench.client.write(&sent[1_000..]);
        bench.send(&sent);
        bench.start(Op::Recv(bench.conn));
        let (mut received, mut short, mut done) = (Vec::new(), 0, 0);
        while received.len() < sent.len() || done == 0 {
            let completion = next(&bench.world, &mut bench.sim);
            match completion.token {
                Token::Send(_) => {
                    assert_eq!(completion.result, 3_000);
                    done += 1;
                }
                Token::Recv(_) => {
                    if let Some(loan) = completion.loan {
                        assert_eq!(loan.len(), completion.result as usize);
                        short += usize::from(loan.len() < 64);
                        received.extend_from_slice(bench.sim.bytes(&loan));
                        bench.sim.recycle(loan);
                    }
                    if !completion.more {
                        assert!(completion.result > 0 || completion.result == -ENOBUFS);
                        bench.sim.push(Op::Recv(bench.conn));
                    }
                }
                token => panic!("{token:?} was not asked for"),
            }
        }
        bench.world.advance_by(SECOND_NS);
        assert!(received == sent, "seed {seed}");
        assert!(bench.client.read() == sent, "seed {seed}");
        assert!(short > 1 && done == 1);
    }
}

#[test]
fn a_reader_that_stops_keeps_the_send_in_flight_and_sees_its_beginning() {
    let mut faults = Faults::none();
    faults.window_bytes = 100;
    let mut bench = bench(1, faults);
    bench.client.stop_reading();
    let sent = pattern(250);
    bench.send(&sent);
    assert!(bench.settle().is_empty());
    assert_eq!(
        (bench.client.unread_bytes(), bench.client.read().len()),
        (100, 0)
    );
    bench.client.resume_reading();
    assert_eq!(
        bench.client.read(),
        sent[..100],
        "before the send completes"
    );
    let done = bench.settle();
    assert_eq!((done.len(), done[0].result), (1, 250));
    assert_eq!(bench.client.read(), sent[100..]);
}

#[test]
fn a_vanished_client_takes_a_window_of_bytes_and_never_says_anything() {
    let mut faults = Faults::none();
    faults.window_bytes = 100;
    let mut bench = bench(1, faults);
    bench.client.write(b"lost on the way");
    bench.client.vanish();
    bench.start(Op::Recv(bench.conn));
    bench.send(&pattern(100));
    assert_eq!(bench.settle().len(), 1, "the window takes a hundred bytes");
    bench.send(b"x");
    bench.client.close();
    assert!(bench.settle().is_empty());
    assert_eq!(bench.client.end(), None);
}

#[test]
fn a_reset_fails_the_receive_with_econnreset_and_later_sends_with_epipe() {
    let mut bench = bench(1, Faults::none());
    bench.start(Op::Recv(bench.conn));
    bench.client.reset();
    let ended = bench.settle();
    assert_eq!(
        (ended.len(), ended[0].result, ended[0].more),
        (1, -ECONNRESET, false)
    );
    bench.send(b"x");
    assert_eq!(bench.settle()[0].result, -EPIPE);
    bench.start(Op::Recv(bench.conn));
    assert_eq!(bench.settle()[0].result, 0, "the error is reported once");
}

#[test]
fn a_send_that_fails_after_it_moved_bytes_reports_a_short_count_and_the_client_sees_a_reset() {
    let mut faults = Faults::none();
    faults.window_bytes = 100;
    let mut bench = bench(1, faults);
    bench.client.stop_reading();
    bench.send(&pattern(250));
    assert!(bench.settle().is_empty());
    let mut faults = Faults::none();
    faults.send_break = 1.0;
    bench.world.set_faults(faults);
    bench.client.resume_reading();
    let done = bench.settle();
    assert_eq!((done.len(), done[0].result), (1, 100));
    assert_eq!(bench.client.end(), Some(End::Reset));
}

#[test]
fn want_of_buffers_ends_a_multishot_and_loses_nothing() {
    let mut bench = bench(1, Faults::none());
    let sent = pattern(5 * 64);
    bench.client.write(&sent);
    bench.start(Op::Recv(bench.conn));
    let completions = bench.settle();
    let results: Vec<i32> = completions.iter().map(|done| done.result).collect();
    assert_eq!(results, [64, 64, 64, 64, -ENOBUFS]);
    let more: Vec<bool> = completions.iter().map(|done| done.more).collect();
    assert_eq!(more, [true, true, true, true, false]);
    let mut received = Vec::new();
    for loan in completions.into_iter().filter_map(|done| done.loan) {
        received.extend_from_slice(bench.sim.bytes(&loan));
        bench.sim.recycle(loan);
    }
    bench.start(Op::Recv(bench.conn));
    let last = bench.settle().remove(0).loan.unwrap();
    received.extend_from_slice(bench.sim.bytes(&last));
    bench.sim.recycle(last);
    assert_eq!(received, sent);
    assert!(bench.sim.buffers_are_home());
}

#[test]
fn a_buffer_in_a_completion_that_was_not_reaped_is_neither_loaned_nor_provided() {
    let mut bench = bench(1, Faults::none());
    bench.client.write(&pattern(64));
    bench.start(Op::Recv(bench.conn));
    bench.world.advance_by(SECOND_NS);
    assert_eq!(bench.sim.counts().buffers_loaned, 0);
    assert!(!bench.sim.buffers_are_home());
    let loan = bench.sim.reap().unwrap().loan.unwrap();
    assert_eq!(bench.sim.counts().buffers_loaned, 1);
    bench.sim.recycle(loan);
    assert_eq!(bench.sim.counts().buffers_loaned, 0);
}

#[test]
fn cancel_gives_each_pending_operation_exactly_one_terminal_completion() {
    for seed in 0..300 {
        let mut faults = Faults::chaotic();
        faults.accept_error = 0.0;
        let mut bench = bench(seed, faults);
        bench.client.stop_reading();
        bench.client.write(&pattern(40));
        bench.sim.push(Op::Recv(bench.conn));
        bench
            .sim
            .push(Op::Send(bench.conn, payload(&pattern(2_000))));
        if seed % 2 == 0 {
            bench.sim.submit(Wait::No);
            bench.world.advance_by(bench.world.random(400_000));
        }
        bench.sim.push(Op::Cancel(bench.conn));
        let (mut recvs, mut sends, mut cancelled) = (0, 0, 0);
        for done in bench.settle() {
            cancelled += usize::from(done.result == -ECANCELED);
            match done.token {
                Token::Recv(_) => recvs += usize::from(!done.more),
                Token::Send(_) => sends += usize::from(!done.more),
                token => assert_eq!(token, Token::Aside),
            }
            if let Some(loan) = done.loan {
                bench.sim.recycle(loan);
            }
        }
        assert_eq!((recvs, sends), (1, 1), "seed {seed}");
        assert!(cancelled <= 2);
        bench.start(Op::Close(bench.conn));
        let closed = bench.settle();
        let closes = closed
            .iter()
            .filter(|done| matches!(done.token, Token::Close(_)));
        assert_eq!(
            (closes.count(), bench.sim.occupied()),
            (1, 0),
            "seed {seed}"
        );
    }
}

#[test]
fn nothing_is_cancelled_that_nobody_cancelled() {
    let mut bench = bench(3, Faults::chaotic());
    bench.start(Op::Recv(bench.conn));
    bench.client.write(&pattern(100));
    let completions = bench.settle();
    assert!(completions.iter().all(|done| done.result != -ECANCELED));
}

#[test]
fn a_full_table_fails_accepts_with_enfile_until_a_close_completes() {
    let world = World::new(1, Faults::none());
    let setup = SimSetup {
        slots: 1,
        ..SimSetup::default()
    };
    let mut sim = world.sim(setup);
    let clients = [world.connect(0), world.connect(0), world.connect(0)];
    sim.push(Op::Accept { entry: 0 });
    assert_eq!(next(&world, &mut sim).result, 0);
    sim.push(Op::Accept { entry: 0 });
    assert_eq!(next(&world, &mut sim).result, -ENFILE);
    world.advance_by(SECOND_NS);
    let lost = clients.iter().filter(|client| client.end().is_some());
    assert_eq!(lost.count(), 1, "the connection that found no slot");
    sim.push(Op::Close(ConnId {
        slot: 0,
        generation: 0,
    }));
    assert!(matches!(next(&world, &mut sim).token, Token::Close(_)));
    sim.push(Op::Accept { entry: 0 });
    assert_eq!(next(&world, &mut sim).result, 0);
}

#[test]
fn stopping_ends_every_armed_accept_once() {
    let world = World::new(5, Faults::unordered());
    let mut sim = world.sim(SimSetup::default());
    for entry in 0..4 {
        sim.push(Op::Accept { entry });
    }
    world.connect(0);
    sim.push(Op::StopAccepting);
    sim.submit(Wait::UpTo(Duration::MAX));
    while world.advance_to_next() {}
    let mut entries: Vec<u32> = std::iter::from_fn(|| sim.reap())
        .filter_map(|done| match done.token {
            Token::Accept { entry } => Some(entry),
            _ => None,
        })
        .collect();
    entries.sort_unstable();
    assert_eq!(entries, [0, 1, 2, 3]);
}

#[test]
fn closing_lets_what_was_sent_arrive_before_the_end_of_stream() {
    let mut bench = bench(9, Faults::unordered());
    bench.send(&pattern(300));
    assert_eq!(next(&bench.world, &mut bench.sim).result, 300);
    bench.start(Op::Close(bench.conn));
    bench.settle();
    assert_eq!(bench.client.read(), pattern(300));
    assert_eq!(bench.client.end(), Some(End::Finished));
}

#[test]
fn a_doorbell_wakes_a_sleeping_shard_and_rings_before_listening_are_kept() {
    let world = World::new(1, Faults::none());
    let mut shards = [(); 2].map(|()| world.sim(SimSetup::default()));
    shards[0].push(Op::Ring(1));
    shards[0].push(Op::Ring(1));
    for shard in &mut shards {
        shard.submit(Wait::UpTo(Duration::MAX));
    }
    assert_eq!(world.step(), Step::Idle);
    shards[1].push(Op::Listen);
    assert_eq!(next(&world, &mut shards[1]).token, Token::Bell);
    shards[1].push(Op::Listen);
    shards[1].submit(Wait::UpTo(Duration::MAX));
    assert_eq!(world.step(), Step::Idle, "two rings are one");
    world.ring(1);
    world.advance_by(SECOND_NS);
    assert_eq!(world.step(), Step::Turn(1));
    assert_eq!(shards[1].reap().unwrap().token, Token::Bell);
}

#[test]
fn a_sleeping_shard_has_its_turn_when_its_time_is_over() {
    let world = World::new(1, Faults::none());
    let mut sim = world.sim(SimSetup::default());
    sim.submit(Wait::UpTo(Duration::from_millis(250)));
    let start_ns = world.now_ns();
    assert_eq!(world.next_deadline(), Some(start_ns + 250_000_000));
    assert_eq!((world.step(), world.step()), (Step::Waited, Step::Turn(0)));
    assert!(sim.now_ns() >= start_ns + 250_000_000);
}

#[test]
fn an_outgoing_connection_is_refused_or_has_a_far_end() {
    for refused in [0.0, 1.0] {
        let mut faults = Faults::none();
        faults.connect_refused = refused;
        let world = World::new(1, faults);
        let mut sockets = Sockets::new(world.sim(SimSetup::default()));
        let anywhere = client_address(0);
        let conn = sockets.connect(anywhere, anywhere).unwrap();
        sockets.submit(Wait::No);
        let event = sockets.next_event().unwrap();
        if refused == 0.0 {
            assert!(matches!(event, Event::Connected { conn: of } if of == conn));
            world.take_dialled(0).unwrap().write(b"hello");
            sockets.submit(Wait::No);
            world.advance_by(SECOND_NS);
            let Some(Event::Received { loan, .. }) = sockets.next_event() else {
                panic!("the far end wrote");
            };
            assert_eq!(sockets.bytes(&loan), b"hello");
            sockets.recycle(loan);
        } else {
            let Event::ConnectFailed { errno, .. } = event else {
                panic!("the connection is refused");
            };
            assert_eq!(errno, ECONNREFUSED);
            assert!(world.take_dialled(0).is_none());
        }
    }
}

// Contract.

#[test]
#[should_panic(expected = "contract: second send in flight")]
fn a_second_send_in_flight_is_a_broken_contract() {
    let mut bench = bench(1, Faults::none());
    bench.send(b"one");
    bench.send(b"two");
}

#[test]
#[should_panic(expected = "contract: receive armed twice")]
fn a_second_receive_is_a_broken_contract() {
    let mut bench = bench(1, Faults::none());
    bench.start(Op::Recv(bench.conn));
    bench.start(Op::Recv(bench.conn));
}

#[test]
#[should_panic(expected = "while an operation is pending")]
fn a_close_before_the_receive_was_reaped_is_a_broken_contract() {
    let mut bench = bench(1, Faults::none());
    bench.start(Op::Recv(bench.conn));
    bench.start(Op::Cancel(bench.conn));
    bench.start(Op::Close(bench.conn));
}

#[test]
#[should_panic(expected = "is vacant")]
fn an_operation_on_a_vacant_slot_is_a_broken_contract() {
    let mut bench = bench(1, Faults::none());
    bench.start(Op::Close(bench.conn));
    bench.settle();
    bench.start(Op::Recv(bench.conn));
}

#[test]
#[should_panic(expected = "is gone")]
fn an_operation_for_a_socket_whose_slot_has_a_new_one_is_a_broken_contract() {
    let mut bench = bench(1, Faults::none());
    bench.start(Op::Close(bench.conn));
    bench.settle();
    // Every free slot is taken, so one of the new sockets has the old slot.
    for entry in 0..16 {
        bench.world.connect(0);
        bench.sim.push(Op::Accept { entry });
    }
    bench.sim.submit(Wait::No);
    bench.world.advance_by(SECOND_NS);
    bench.start(Op::Recv(bench.conn));
}

#[test]
#[should_panic(expected = "reuses the generation")]
fn a_generation_that_did_not_move_on_is_a_broken_contract() {
    let mut faults = Faults::none();
    faults.accept_error = 0.0;
    let world = World::new(1, faults);
    let mut sim = world.sim(SimSetup {
        slots: 1,
        ..SimSetup::default()
    });
    let conn = ConnId {
        slot: 0,
        generation: 0,
    };
    for _ in 0..2 {
        world.connect(0);
        sim.push(Op::Accept { entry: 0 });
        assert_eq!(next(&world, &mut sim).result, 0);
        sim.push(Op::Close(conn));
        next(&world, &mut sim);
    }
}

#[test]
#[should_panic(expected = "changed in flight")]
fn a_payload_that_changes_in_flight_is_a_broken_contract() {
    let mut faults = Faults::none();
    faults.window_bytes = 4;
    let mut bench = bench(1, faults);
    let chunk = Chunk::new(8);
    chunk.append(b"a tail..");
    let part = Part::new(&chunk, 0, 8);
    bench.start(Op::Send(bench.conn, Payload::One(part.clone())));
    part.cells()[7].set(b'!');
    bench.settle();
}
