//! What the codecs cost per byte and per frame. A connection sends a handful of short frames, so
//! the small cases decide; a mask at 64 KiB shows the speed of the memory.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringcast::wire::frame::{
    Expected, Opcode, Role, decode_header, server_header, write_client_frame,
};
use ringcast::wire::http::{HeadStep, RequestHead};
use ringcast::wire::mask;
use ringcast::wire::message::Assembler;
use std::hint::black_box;

const KEY: [u8; 4] = [0x12, 0xa4, 0x5f, 0x00];

fn header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    for payload_bytes in [100, 1_000, 65_536] {
        group.bench_with_input(
            BenchmarkId::new("encode", payload_bytes),
            &payload_bytes,
            |bencher, &bytes| bencher.iter(|| server_header(Opcode::Text, black_box(bytes))),
        );
        let mut frame = Vec::new();
        write_client_frame(&mut frame, Opcode::Text, KEY, &vec![0; payload_bytes]);
        let expected = Expected {
            role: Role::Server,
            in_message: false,
            payload_max: 65_536,
        };
        group.bench_with_input(
            BenchmarkId::new("decode", payload_bytes),
            &frame,
            |bencher, frame| bencher.iter(|| decode_header(black_box(frame), &expected)),
        );
    }
}

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for length in [16, 60, 125, 1_024, 65_536] {
        group.throughput(Throughput::Bytes(length as u64));
        for offset in [0, 1, 6] {
            let mut payload = vec![7; length + offset];
            group.bench_function(
                BenchmarkId::new(format!("offset_{offset}"), length),
                |bencher| {
                    bencher.iter(|| mask::apply(black_box(&mut payload[offset..]), KEY, 0));
                },
            );
        }
    }
}

/// One receive buffer full of small commands, whole and cut in the middle.
fn assembler(criterion: &mut Criterion) {
    let payload = br#"{"id":12,"publish":{"channel":"room:1","data":{"t":"hello"}}}"#;
    let mut stream = Vec::new();
    let mut frames = 0;
    while stream.len() + payload.len() + 6 <= 4_096 {
        write_client_frame(&mut stream, Opcode::Text, KEY, payload);
        frames += 1;
    }
    let mut group = criterion.benchmark_group("assembler");
    group.throughput(Throughput::Elements(frames));
    for (name, cut) in [
        ("4_KiB_of_small_frames", 0),
        ("the_same_in_two_reads", 2_000),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || stream.clone(),
                |stream| {
                    let mut assembler = Assembler::new(Role::Server);
                    let (first, second) = stream.split_at_mut(cut);
                    let mut messages = 0;
                    for mut input in [first, second] {
                        while let Ok(Some(incoming)) = assembler.next(&mut input) {
                            black_box(incoming);
                            messages += 1;
                        }
                    }
                    assert_eq!(messages, frames);
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// A browser's request, in one read and in two.
fn upgrade(criterion: &mut Criterion) {
    let request = b"GET /connection/websocket HTTP/1.1\r\nHost: edge.example.com\r\n\
        Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
        Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\n\
        Origin: https://www.example.com\r\nSec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut group = criterion.benchmark_group("upgrade");
    group.throughput(Throughput::Elements(1));
    for (name, cut) in [("one_read", 0), ("two_reads", 200)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut head = RequestHead::new();
                let (first, second) = black_box(request).split_at(cut);
                head.feed(first);
                let (_, step) = head.feed(second);
                assert!(matches!(step, HeadStep::Upgrade(_)));
                step
            });
        });
    }
}

criterion_group!(benches, header, mask, assembler, upgrade);
criterion_main!(benches);
