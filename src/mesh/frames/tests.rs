//! Frames through a ring and back.

use super::*;
use crate::limits;
use crate::mesh::ring;
use rkyv::api::low;

/// Archives into a ring as a lane does, and hands what is read to `check`.
fn carried(bytes_max: usize, archive: impl Fn(&mut [u8]) -> usize, check: impl Fn(&[u8])) {
    let (mut producer, mut consumer) = ring::ring(4 * 1024 * 1024);
    let mut grant = producer.reserve(bytes_max).unwrap();
    let used = archive(&mut grant);
    grant.commit(used);
    assert!(producer.publish());
    check(&consumer.read().unwrap());
}

const CONN: ConnId = ConnId {
    slot: 8,
    generation: 9,
};

fn publishes(room: &str, payload: &[u8], check: impl Fn(Request<'_>)) {
    let conn = ConnId {
        slot: u32::MAX,
        generation: 3,
    };
    let replies = [
        ReplyTo::Nobody,
        ReplyTo::Upstream {
            conn: 1,
            generation: 2,
            request: u64::MAX,
        },
        ReplyTo::Client { conn, command: 17 },
    ];
    let member = Member { node: 3, conn };
    for reply in replies {
        for info in [&b""[..], b"flat"] {
            check(Request::Publish(Publish {
                room,
                payload,
                content: Content::Text,
                skip_history: true,
                delta: info.is_empty(),
                key: payload.len().is_multiple_of(2).then_some([9; 16]),
                info,
                tags: b"tags",
                exclude: info.is_empty().then_some(member),
                version: Version::new(info.len() as u64, "db"),
                reply,
            }));
        }
    }
}

#[test]
fn a_request_is_read_as_it_was_sent() {
    let view = ViewId {
        index: 5,
        generation: 6,
    };
    let check = |frame: Request<'_>| {
        carried(
            frame.bytes_max(),
            |bytes| frame.archive(bytes),
            |bytes| assert_eq!(ArchivedRequest::access(bytes).get(), frame),
        );
    };
    check(Request::Interest { room: "a:b", view });
    check(Request::Uninterest { room: "ü", view });
    let (conn, reply) = (CONN, ReplyTo::Task { ticket: u64::MAX });
    check(Request::Enter {
        room: "a",
        conn,
        info: b"info",
    });
    check(Request::Leave { room: "a", conn });
    check(Request::Seat {
        room: "a",
        conn,
        most: 7,
        reply,
    });
    check(Request::Presence { room: "a", reply });
    check(Request::PresenceStats { room: "", reply });
    check(Request::ForgetHistory { room: "a", reply });
    check(Request::Rooms {
        pattern: "a*",
        reply,
    });
    let (epoch, offset) = (Some(Epoch(7)), Offset(u64::MAX));
    let reads = [
        HistoryRead::Recover { epoch, offset },
        HistoryRead::RecoverNewest {
            epoch: None,
            offset,
        },
        HistoryRead::Page {
            limit: 9,
            since: Some(Position { epoch, offset }),
            reverse: true,
        },
    ];
    for read in reads {
        let reply = ReplyTo::Subscriber { conn, view };
        let room = "room";
        check(Request::History { room, read, reply });
    }
    check(Request::Event(Event {
        kind: EventKind::Rpc,
        reply: ReplyTo::Event { conn, serial: 4 },
        subject: "method",
        info: b"info",
        meta: b"{}",
        code: 3000,
        text: "why",
        content: Content::Text,
        data: b"data",
    }));
    for length in 0..40 {
        publishes(&"r".repeat(length), &vec![0xff; 3 * length], check);
    }
}

#[test]
fn a_delivery_is_read_as_it_was_sent() {
    let view = ViewId {
        index: 5,
        generation: 6,
    };
    let reply = ReplyTo::Nobody;
    let (epoch, offset) = (Epoch(77), Offset(u64::MAX));
    let frames = [
        Delivery::Publication {
            view,
            offset,
            content: Content::Bytes,
            delta: true,
            payload: b"\x00\x01",
            info: b"info",
            tags: b"",
            exclude: Some(CONN),
        },
        Delivery::Interested {
            view,
            epoch,
            top: offset,
        },
        Delivery::Published {
            reply,
            epoch,
            offset,
            duplicate: true,
        },
        Delivery::Refused { reply },
        Delivery::Membership {
            view,
            joined: true,
            info: b"info",
        },
        Delivery::History {
            reply,
            epoch,
            top: offset,
            recovered: true,
            publications: b"flat",
        },
        Delivery::Presence {
            reply,
            complete: true,
            infos: b"flat",
        },
        Delivery::PresenceStats {
            reply,
            clients: 3,
            users: 2,
        },
        Delivery::Done { reply },
        Delivery::Rooms {
            reply,
            complete: false,
            rooms: b"",
        },
        Delivery::Answer(Answer {
            reply,
            verdict: Verdict::Disconnect,
            code: 4_000,
            text: "go",
            result: b"{}",
        }),
        Delivery::Order(Order {
            kind: OrderKind::Subscribe,
            user: "u",
            client: Some(CONN),
            room: "a",
            code: 1,
            text: "t",
            expire_at_s: 9,
            since: Some(Position {
                epoch: Some(Epoch(3)),
                offset: Offset(4),
            }),
            overrides: 5,
            info_content: Content::Json,
            info: b"{}",
            content: Content::Bytes,
            data: b"\x00",
        }),
        Delivery::Drain,
        Delivery::Drained,
    ];
    for frame in frames {
        carried(
            frame.bytes_max(),
            |bytes| frame.archive(bytes),
            |bytes| assert_eq!(ArchivedDelivery::access(bytes).get(), frame),
        );
    }
}

#[test]
fn the_largest_names_stay_within_the_frame_overhead() {
    let room = "r".repeat(limits::ROOM_NAME_MAX);
    let info = vec![0; limits::FLAT_INFO_MAX];
    let tags = vec![0; limits::TAGS_BYTES_MAX];
    for payload_bytes in [0, 1, 15, 16, 17, limits::UPSTREAM_FRAME_MAX] {
        let payload = vec![0; payload_bytes];
        let request = Request::Publish(Publish {
            room: &room,
            payload: &payload,
            content: Content::Json,
            skip_history: false,
            delta: false,
            key: Some([0; 16]),
            info: &info,
            tags: &tags,
            exclude: None,
            version: Version::new(1, ""),
            reply: ReplyTo::Nobody,
        });
        let delivery = Delivery::Publication {
            view: ViewId {
                index: 0,
                generation: 0,
            },
            offset: Offset(1),
            content: Content::Json,
            delta: false,
            payload: &payload,
            info: &info,
            tags: &tags,
            exclude: None,
        };
        let event = Request::Event(Event {
            kind: EventKind::Unsubscribe,
            reply: ReplyTo::Nobody,
            subject: &room,
            info: &info,
            meta: &[0; limits::META_BYTES_MAX],
            code: 3000,
            text: &room[..limits::CONTROL_PAYLOAD_MAX],
            content: Content::Json,
            data: &payload,
        });
        let requests = [request, event].map(|request| request.bytes_max());
        for bytes_max in [requests[0], requests[1], delivery.bytes_max()] {
            let taken = ring::record_bytes(bytes_max);
            assert!(taken <= payload_bytes + limits::LANE_FRAME_OVERHEAD);
        }
    }
    let largest_root = size_of::<ArchivedRequest>().max(size_of::<ArchivedDelivery>());
    assert!(largest_root <= 160, "{largest_root} bytes for every frame");
}

#[test]
fn bytes_that_are_no_archive_are_refused_by_the_check() {
    let garbage = rkyv::util::Align([0xff_u8; 128]);
    let found = low::access::<ArchivedRequest, Failure>(&garbage[..]);
    assert!(found.is_err());
}
