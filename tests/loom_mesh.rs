//! The mesh under loom: every interleaving of small cases, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test loom_mesh`
#![cfg(loom)]

use loom::model::Builder;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ringcast::base::ids::NodeId;
use ringcast::mesh::ring::{self, Consumer, Producer};
use ringcast::mesh::{Delivery, Port, mesh};
use std::sync::Arc;

fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// Carries one record of each size from a thread to another, `batch` of them per publish.
fn carry(capacity_bytes: usize, payloads: &'static [usize], batch: usize) {
    let (mut producer, mut consumer) = ring::ring(capacity_bytes);
    let writer = thread::spawn(move || {
        for (index, bytes) in payloads.iter().enumerate() {
            write(&mut producer, *bytes, index as u8);
            if (index + 1) % batch == 0 {
                producer.publish();
            }
        }
        producer.publish();
    });
    for (index, bytes) in payloads.iter().enumerate() {
        read(&mut consumer, *bytes, index as u8);
    }
    assert!(consumer.is_empty());
    writer.join().unwrap();
}

fn write(producer: &mut Producer, bytes: usize, value: u8) {
    loop {
        if let Some(mut grant) = producer.reserve(bytes) {
            grant.fill(value);
            grant.commit(bytes);
            return;
        }
        producer.publish();
        thread::yield_now();
    }
}

fn read(consumer: &mut Consumer, bytes: usize, value: u8) {
    loop {
        if let Some(record) = consumer.read() {
            assert_eq!(record.len(), bytes);
            assert!(record.iter().all(|byte| *byte == value));
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn records_are_written_before_they_are_read_and_read_before_they_are_overwritten() {
    model(3, || carry(64, &[16, 16, 16, 16], 1));
}

#[test]
fn a_batch_becomes_visible_at_once() {
    model(3, || carry(128, &[16, 8, 0, 16, 4], 2));
}

#[test]
fn a_lap_is_skipped_when_a_record_does_not_fit_its_rest() {
    model(3, || carry(128, &[32, 32, 32, 32], 1));
}

#[test]
fn an_empty_ring_restarts_for_a_record_of_its_whole_size() {
    model(3, || carry(64, &[16, 48, 48], 1));
}

/// Remembers a ring, as an eventfd does.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The producers each send `frames` frames to the last node, which sleeps when it finds none.
/// A lost wake-up leaves it asleep for ever, which loom reports as a deadlock.
fn sleepy(producers: u16, frames: usize, preemptions: usize) {
    model(preemptions, move || {
        let mut ports = mesh(producers + 1, 512);
        let mut sleeper = ports.pop().unwrap();
        let doorbell = Arc::new(Doorbell::default());
        let writers: Vec<_> = ports
            .into_iter()
            .map(|port| {
                let doorbell = Arc::clone(&doorbell);
                let target = sleeper.id;
                thread::spawn(move || send(port, target, frames, &doorbell))
            })
            .collect();
        let mut received = 0;
        loop {
            for source in (0..producers).map(NodeId) {
                while let Some(frame) = sleeper.inlets.next_delivery(source) {
                    assert_eq!(frame.get(), Delivery::Drained);
                    received += 1;
                }
            }
            if received == frames * usize::from(producers) {
                break;
            }
            if sleeper.inlets.prepare_sleep() {
                doorbell.wait();
                sleeper.inlets.awake();
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

fn send(mut port: Port, target: NodeId, frames: usize, doorbell: &Doorbell) {
    for _ in 0..frames {
        port.outlets.deliver(target, &Delivery::Drained).unwrap();
        port.outlets.publish(|_| doorbell.ring());
    }
}

#[test]
fn one_producer_never_loses_a_wake_up() {
    sleepy(1, 2, 4);
}

#[test]
fn two_producers_never_lose_a_wake_up() {
    sleepy(2, 1, 3);
}
