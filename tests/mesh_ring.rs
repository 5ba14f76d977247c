//! The mesh's byte ring against a model, and between threads.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use ringcast::mesh::ring::{self, Consumer, Producer};
use std::collections::VecDeque;

const CAPACITY: usize = 1024;

#[derive(Clone, Debug)]
enum Op {
    /// Reserve the first number of bytes, commit the second; `None` abandons the grant.
    Write(usize, Option<usize>),
    Publish,
    Read,
    /// Read everything, so that the ring is empty.
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let small = (0..90_usize).prop_flat_map(|bytes| (Just(bytes), 0..=bytes));
    let large = (0..=CAPACITY - ring::ALIGN).prop_flat_map(|bytes| (Just(bytes), 0..=bytes));
    let commit = |(bytes, used)| Op::Write(bytes, Some(used));
    prop_oneof![
        8 => small.prop_map(commit),
        1 => large.prop_map(commit),
        1 => (0..200_usize).prop_map(|bytes| Op::Write(bytes, None)),
        4 => Just(Op::Publish),
        6 => Just(Op::Read),
        1 => Just(Op::Drain),
    ]
}

/// A ring and what it must behave like.
struct Pair {
    producer: Producer,
    consumer: Consumer,
    committed: VecDeque<Vec<u8>>,
    published: VecDeque<Vec<u8>>,
    next_byte: u8,
    /// Offset of the newest record's payload in the ring's memory.
    place: usize,
    first_byte: Option<usize>,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    full: usize,
    wrapped: usize,
    restarted: usize,
}

impl Pair {
    fn new() -> Self {
        let (producer, consumer) = ring::ring(CAPACITY);
        Self {
            producer,
            consumer,
            committed: VecDeque::new(),
            published: VecDeque::new(),
            next_byte: 0,
            place: 0,
            first_byte: None,
            seen: Seen::default(),
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Write(bytes, used) => self.write(bytes, used),
            Op::Publish => {
                assert_eq!(self.producer.publish(), !self.committed.is_empty());
                self.published.append(&mut self.committed);
            }
            Op::Read => self.read(),
            Op::Drain => {
                while !self.published.is_empty() {
                    self.read();
                }
                self.read();
            }
        }
    }

    fn write(&mut self, bytes: usize, used: Option<usize>) {
        let empty = self.committed.is_empty() && self.published.is_empty();
        let span = ring::record_bytes(bytes);
        let free = self.producer.free();
        let Some(mut grant) = self.producer.reserve(bytes) else {
            assert!(!empty, "an empty ring takes every record");
            assert!(span > free, "{free} bytes were free for {span}");
            self.seen.full += 1;
            return;
        };
        assert_eq!(grant.len(), bytes);
        let start = grant.as_ptr() as usize;
        assert!(start.is_multiple_of(ring::ALIGN));
        let Some(used) = used else { return };
        self.next_byte = self.next_byte.wrapping_add(1);
        grant.fill(self.next_byte);
        grant.commit(used);
        let record = vec![self.next_byte; used];
        self.committed.push_back(record);
        assert!(self.producer.free_known() + ring::record_bytes(used) >= free);

        let place = start - *self.first_byte.get_or_insert(start);
        if place < self.place {
            *(if empty {
                &mut self.seen.restarted
            } else {
                &mut self.seen.wrapped
            }) += 1;
            assert_eq!(place, 0, "a lap begins at the first byte");
        }
        self.place = place;
    }

    fn read(&mut self) {
        assert_eq!(self.consumer.is_empty(), self.published.is_empty());
        match (self.consumer.read(), self.published.pop_front()) {
            (Some(record), Some(expected)) => assert_eq!(*record, *expected),
            (None, None) => {}
            (found, expected) => panic!("read {:?}, expected {expected:?}", found.as_deref()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_queue_of_records(ops in prop::collection::vec(op(), 1..400)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.run(op);
        }
        pair.run(&Op::Publish);
        pair.run(&Op::Drain);
    }
}

#[test]
fn the_model_meets_full_wrapped_and_restarted_rings() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ops = prop::collection::vec(op(), 20_000);
    let ops = ops.new_tree(&mut runner).unwrap().current();
    let mut pair = Pair::new();
    for op in &ops {
        pair.run(op);
    }
    let Seen {
        full,
        wrapped,
        restarted,
    } = pair.seen;
    assert!(
        full > 50 && wrapped > 50 && restarted > 50,
        "{:?}",
        pair.seen
    );
}

#[test]
fn records_cross_threads_whole_and_in_order() {
    let (mut producer, mut consumer) = ring::ring(4096);
    let records = 200_000_u64;
    let writer = std::thread::spawn(move || {
        for number in 0..records {
            let bytes = 8 + (number % 61) as usize * 8;
            loop {
                if let Some(mut grant) = producer.reserve(bytes) {
                    for word in grant.chunks_exact_mut(8) {
                        word.copy_from_slice(&number.to_le_bytes());
                    }
                    grant.commit(bytes);
                    break;
                }
                producer.publish();
                std::thread::yield_now();
            }
            if number % 7 == 0 {
                producer.publish();
            }
        }
        producer.publish();
    });
    for number in 0..records {
        let record = loop {
            match consumer.read() {
                Some(record) => break record.to_vec(),
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(record.len(), 8 + (number % 61) as usize * 8);
        assert!(
            record
                .chunks_exact(8)
                .all(|word| word == number.to_le_bytes())
        );
    }
    assert!(consumer.is_empty());
    writer.join().unwrap();
}
