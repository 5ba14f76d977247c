//! What does it cost to carry a 128-byte record from one core to another?
//!
//! The mesh's ring, published once per batch as a shard does once per turn, against queues of
//! 128-byte values. Budget: 50 ns a record. Both threads spin; on a machine with fewer than two
//! free cores the numbers mean little.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use ringcast::base::Content;
use ringcast::limits;
use ringcast::mesh::{Publish, Request, mesh, ring};
use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 128;
const BATCH: u64 = 64;
const QUEUE_RECORDS: usize = 4096;
const RING_BYTES: usize = 1 << 20;

/// Carries a number of records and says how long it took.
type Contender = fn(u64) -> Duration;

type Record = [u8; RECORD_BYTES];

/// Runs `produce` and `consume` on two threads until `records` have crossed.
fn crossing(
    records: u64,
    mut produce: impl FnMut(u64) + Send,
    mut consume: impl FnMut() -> bool + Send,
) -> Duration {
    thread::scope(|scope| {
        let start = Instant::now();
        let consumer = scope.spawn(move || {
            let mut received = 0;
            while received < records {
                if consume() {
                    received += 1;
                } else {
                    spin_loop();
                }
            }
        });
        for number in 0..records {
            produce(number);
        }
        consumer.join().expect("the consumer returns");
        start.elapsed()
    })
}

fn mesh_ring(records: u64) -> Duration {
    let (mut producer, mut consumer) = ring::ring(RING_BYTES);
    let record: Record = [7; RECORD_BYTES];
    crossing(
        records,
        move |number| {
            loop {
                if let Some(mut grant) = producer.reserve(RECORD_BYTES) {
                    grant.copy_from_slice(black_box(&record));
                    grant.commit(RECORD_BYTES);
                    break;
                }
                producer.publish();
                spin_loop();
            }
            if number % BATCH == BATCH - 1 || number + 1 == records {
                producer.publish();
            }
        },
        move || match consumer.read() {
            Some(record) => {
                black_box(&record[..]);
                true
            }
            None => false,
        },
    )
}

fn rtrb_ring(records: u64) -> Duration {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Record>::new(QUEUE_RECORDS);
    let record: Record = [7; RECORD_BYTES];
    crossing(
        records,
        move |_| {
            while producer.push(*black_box(&record)).is_err() {
                spin_loop();
            }
        },
        move || consumer.pop().map(black_box).is_ok(),
    )
}

fn array_queue(records: u64) -> Duration {
    let queue = ArrayQueue::<Record>::new(QUEUE_RECORDS);
    let record: Record = [7; RECORD_BYTES];
    crossing(
        records,
        |_| {
            while queue.push(*black_box(&record)).is_err() {
                spin_loop();
            }
        },
        || queue.pop().map(black_box).is_some(),
    )
}

fn channel(records: u64) -> Duration {
    let (sender, receiver) = crossbeam::channel::bounded::<Record>(QUEUE_RECORDS);
    let record: Record = [7; RECORD_BYTES];
    crossing(
        records,
        move |_| {
            while sender.try_send(*black_box(&record)).is_err() {
                spin_loop();
            }
        },
        move || receiver.try_recv().map(black_box).is_ok(),
    )
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("128-byte records between two threads");
    group.throughput(Throughput::Elements(1));
    let contenders: [(&str, Contender); 4] = [
        ("mesh ring", mesh_ring),
        ("rtrb", rtrb_ring),
        ("crossbeam ArrayQueue", array_queue),
        ("crossbeam channel", channel),
    ];
    for (name, run) in contenders {
        group.bench_function(name, |bencher| bencher.iter_custom(run));
    }
    group.finish();
}

/// A publication of 128 bytes on one thread: archived into a lane, published, checked, released.
fn frame(criterion: &mut Criterion) {
    let mut ports = mesh(2, limits::LANE_BYTES);
    let (mut far, mut near) = (ports.pop().expect("two"), ports.pop().expect("two"));
    let request = Request::Publish(Publish::plain(
        "room:4711",
        Content::Json,
        &[b'x'; RECORD_BYTES],
    ));
    criterion.bench_function("frame archived, published, read, released", |bencher| {
        bencher.iter(|| {
            near.outlets
                .request(far.id, black_box(&request))
                .expect("room");
            near.outlets.publish(|_| {});
            let frame = far.inlets.next_request(near.id).expect("published");
            black_box(frame.get());
        });
    });
}

criterion_group!(benches, bench, frame);
criterion_main!(benches);
