//! The client against a broker's end that each test scripts itself.

use super::*;
use crate::base::Content;
use crate::client::{ErrorCode, Refusal};
use crate::limits::UPSTREAM_FRAME_MAX;
use crate::wire::upstream::{HelloAuth, decode, hello_mac_is_valid};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

const CHALLENGE: [u8; 32] = [9; 32];

/// The broker's end of one connection.
struct Broker {
    stream: TcpStream,
    bytes: Vec<u8>,
    taken: usize,
    out: Vec<u8>,
}

impl Broker {
    fn say(&mut self, frame: Frame<'_>) {
        frame.encode(&mut self.out);
    }

    fn flush(&mut self) {
        self.stream.write_all(&self.out).expect("the client reads");
        self.out.clear();
    }

    /// The next frame; `None` at the end of the stream.
    fn hear(&mut self) -> Option<Frame<'_>> {
        self.flush();
        self.bytes.drain(..self.taken);
        loop {
            let decoded = decode(&self.bytes, UPSTREAM_FRAME_MAX).expect("a valid frame");
            if let Some((_, frame_bytes)) = decoded {
                self.taken = frame_bytes;
                break;
            }
            let mut chunk = [0; 65_536];
            let count = self.stream.read(&mut chunk).expect("the client writes");
            if count == 0 {
                assert!(self.bytes.is_empty(), "the stream ends between frames");
                self.taken = 0;
                return None;
            }
            self.bytes.extend_from_slice(&chunk[..count]);
        }
        let decoded = decode(&self.bytes, UPSTREAM_FRAME_MAX).expect("as before");
        decoded.map(|(frame, _)| frame)
    }

    /// Request id and whole bytes of the next PUBLISH.
    fn hear_publish(&mut self) -> Option<(u64, u64)> {
        let (request, is_publish) = self
            .hear()
            .map(|frame| (frame.request(), matches!(frame, Frame::Publish { .. })))?;
        assert!(is_publish);
        Some((request, self.taken as u64))
    }

    fn ack(&mut self, request: u64, offset: u64) {
        self.say(Frame::Ack {
            request,
            level: AckLevel::Sequenced,
            duplicate: false,
            epoch: Epoch(5),
            offset: Offset(offset),
        });
    }

    fn refuse(&mut self, request: u64, code: ErrorCode) {
        let text = code.label();
        self.say(Frame::Error {
            request,
            code,
            text,
        });
    }
}

fn listen(script: impl FnOnce(Broker) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("its address");
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut broker = Broker {
            stream,
            bytes: Vec::new(),
            taken: 0,
            out: Vec::new(),
        };
        broker.say(Frame::Challenge {
            node: "node-1",
            challenge: &CHALLENGE,
        });
        script(broker);
    });
    (addr, thread)
}

/// A client whose opening is done, and the thread that runs the rest of the broker's script.
fn opened(
    frame_bytes_max: u32,
    credit: u64,
    script: impl FnOnce(Broker) + Send + 'static,
) -> (Upstream, JoinHandle<()>) {
    let (addr, thread) = listen(move |mut broker| {
        assert!(matches!(
            broker.hear(),
            Some(Frame::Hello {
                service: "test",
                auth: HelloAuth::None,
                ..
            })
        ));
        broker.say(Frame::Welcome {
            request: 0,
            node: "node-1",
            frame_bytes_max,
            credit,
        });
        script(broker);
    });
    let mut upstream = Upstream::connect(addr, "test", None).expect("the opening");
    upstream
        .set_timeout(Duration::from_secs(5))
        .expect("a timeout");
    (upstream, thread)
}

fn sequenced(payload: &[u8]) -> Message<'_> {
    Message::new(Content::Json, payload, AckLevel::Sequenced)
}

#[test]
fn the_challenge_is_answered_with_a_code_and_never_the_secret() {
    let (addr, thread) = listen(|mut broker| {
        let Some(Frame::Hello {
            service,
            auth: HelloAuth::Hmac { key_id, mac },
            ..
        }) = broker.hear()
        else {
            panic!("a HELLO with a code");
        };
        assert_eq!((service, key_id), ("orders", "k1"));
        assert!(hello_mac_is_valid(
            b"secret", &CHALLENGE, service, key_id, mac
        ));
        assert!(!broker.bytes.windows(6).any(|bytes| bytes == b"secret"));
        broker.refuse(0, ErrorCode::Unauthorised);
        broker.flush();
    });
    let refused = Upstream::connect(addr, "orders", Some(("k1", b"secret")));
    let Err(ClientError::Refused(refusal)) = refused else {
        panic!("refused");
    };
    assert_eq!(refusal.code, ErrorCode::Unauthorised);
    thread.join().expect("the script");
}

#[test]
fn a_publication_waits_for_its_own_answer() {
    let (mut upstream, thread) = opened(1 << 20, 1 << 20, |mut broker| {
        let (first, _) = broker.hear_publish().expect("a publication");
        let (second, _) = broker.hear_publish().expect("a publication");
        broker.ack(first, 41);
        broker.refuse(second, ErrorCode::InvalidPayload);
        let (third, _) = broker.hear_publish().expect("a publication");
        broker.ack(third, 42);
        assert!(broker.hear().is_none());
    });
    let first = upstream.send("r", &sequenced(b"1")).expect("sent");
    let refused = upstream.publish("r", &sequenced(b"{"));
    assert!(matches!(
        refused,
        Err(ClientError::Refused(Refusal {
            code: ErrorCode::InvalidPayload,
            ..
        }))
    ));
    let receipt = upstream.publish("r", &sequenced(b"2")).expect("a receipt");
    assert_eq!((receipt.epoch, receipt.offset), (Epoch(5), Offset(42)));
    let kept = upstream.poll_ack().expect("alive").expect("an answer");
    assert_eq!(kept.request, first);
    assert_eq!(kept.result.map(|receipt| receipt.offset), Ok(Offset(41)));
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn what_is_sent_stays_within_the_credit() {
    const COUNT: u64 = 3_000;
    let credit = 10_000;
    let (mut upstream, thread) = opened(1_000, credit, move |mut broker| {
        let (mut total, mut heard) = (credit, 0);
        for _ in 0..COUNT {
            let (_, bytes) = broker.hear_publish().expect("a publication");
            heard += bytes;
            assert!(heard <= total, "{heard} of {total}");
            // Grants late and unevenly.
            if total - heard < 500 {
                total += 7_001;
                broker.say(Frame::Credit { total });
                // An older total changes nothing.
                broker.say(Frame::Credit { total: credit });
            }
        }
        assert!(broker.hear().is_none());
    });
    let payload = [b'1'; 300];
    for _ in 0..COUNT {
        let message = Message::new(Content::Json, &payload, AckLevel::None);
        upstream.send("room", &message).expect("sent");
    }
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn without_credit_a_send_times_out_and_sends_nothing() {
    let (mut upstream, thread) = opened(1_000, 30, |mut broker| {
        assert!(broker.hear().is_none());
    });
    let patience = Duration::from_millis(50);
    upstream.set_timeout(patience).expect("a timeout");
    let refused = upstream.send("room", &sequenced(b"0123456789ab"));
    assert!(matches!(refused, Err(ClientError::Timeout)));
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn pipelined_answers_are_collected_while_the_broker_does_not_read() {
    const COUNT: u64 = 100_000;
    let (mut upstream, thread) = opened(1 << 20, u64::MAX / 2, |mut broker| {
        // Answers each publication before it takes the next, and reads nothing while it writes into a
        // small buffer.
        let socket = socket2::SockRef::from(&broker.stream);
        socket.set_send_buffer_size(4_096).expect("a small buffer");
        for offset in 1..=COUNT {
            let (request, _) = broker.hear_publish().expect("a publication");
            broker.ack(request, offset);
        }
        assert!(broker.hear().is_none());
    });
    let payload = [b'1'; 100];
    for _ in 0..COUNT {
        upstream.send("r", &sequenced(&payload)).expect("sent");
    }
    for offset in 1..=COUNT {
        let answer = upstream.wait_ack().expect("an answer");
        let receipt = answer.result.expect("an acknowledgement");
        assert_eq!(receipt.offset, Offset(offset));
    }
    assert_eq!(upstream.poll_ack().expect("alive"), None);
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn a_broadcast_carries_its_rooms_and_key() {
    let (mut upstream, thread) = opened(1 << 20, 1 << 20, |mut broker| {
        let Some(Frame::Broadcast {
            request,
            rooms,
            key: Some([3, ..]),
            content: Content::Text,
            skip_history: true,
            payload: b"hi",
            ..
        }) = broker.hear()
        else {
            panic!("a broadcast");
        };
        assert!(rooms.iter().eq(["a", "b"]));
        broker.ack(request, 0);
        assert!(broker.hear().is_none());
    });
    let message = Message {
        skip_history: true,
        key: Some([3; 16]),
        ..Message::new(Content::Text, b"hi", AckLevel::Accepted)
    };
    upstream
        .broadcast(&["a", "b"], &message)
        .expect("a receipt");
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn pings_go_both_ways() {
    let (mut upstream, thread) = opened(1 << 20, 1 << 20, |mut broker| {
        let request = broker.hear().expect("a ping").request();
        broker.say(Frame::Ping {
            request: 77,
            body: b"you?",
        });
        broker.flush();
        thread::sleep(Duration::from_millis(20));
        broker.say(Frame::Pong { request, body: b"" });
        let pong = Frame::Pong {
            request: 77,
            body: b"you?",
        };
        assert_eq!(broker.hear(), Some(pong));
        assert!(broker.hear().is_none());
    });
    assert!(upstream.ping().expect("a pong") >= Duration::from_millis(20));
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn after_goaway_nothing_new_is_sent_and_answers_still_come() {
    let (mut upstream, thread) = opened(1 << 20, 1 << 20, |mut broker| {
        let (request, _) = broker.hear_publish().expect("a publication");
        broker.say(Frame::Goaway {
            node: "node-1",
            grace_ms: 2_000,
        });
        broker.flush();
        thread::sleep(Duration::from_millis(20));
        broker.ack(request, 1);
        assert!(broker.hear().is_none());
    });
    upstream.send("r", &sequenced(b"1")).expect("sent");
    upstream.flush().expect("flushed");
    while upstream.goaway_ms().is_none() {
        assert_eq!(upstream.poll_ack().expect("alive"), None);
    }
    let refused = upstream.send("r", &sequenced(b"2"));
    assert!(matches!(
        refused,
        Err(ClientError::GoingAway { grace_ms: 2_000 })
    ));
    assert!(upstream.wait_ack().expect("an answer").result.is_ok());
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn answers_that_came_before_the_end_are_not_lost_with_it() {
    let (mut upstream, thread) = opened(1 << 20, 1 << 20, |mut broker| {
        let (request, _) = broker.hear_publish().expect("a publication");
        broker.ack(request, 1);
        broker.refuse(0, ErrorCode::OverCredit);
        broker.flush();
    });
    upstream.publish("r", &sequenced(b"1")).expect("a receipt");
    assert!(matches!(
        upstream.wait_ack(),
        Err(ClientError::Refused(Refusal {
            code: ErrorCode::OverCredit,
            ..
        }))
    ));
    assert!(matches!(upstream.wait_ack(), Err(ClientError::Closed)));
    thread.join().expect("the script");
}

#[test]
fn what_the_broker_would_refuse_is_refused_here() {
    let (mut upstream, thread) = opened(100, 1 << 20, |mut broker| {
        assert!(broker.hear().is_none());
    });
    let payload = [b'1'; 100];
    let long_name = "n".repeat(256);
    let message = sequenced(&payload[..1]);
    assert!(matches!(
        upstream.publish("r", &sequenced(&payload)),
        Err(ClientError::TooLarge { .. })
    ));
    for room in ["", &long_name] {
        let refused = upstream.publish(room, &message);
        assert!(matches!(refused, Err(ClientError::BadRoom)));
        let refused = upstream.broadcast(&["a", room], &message);
        assert!(matches!(refused, Err(ClientError::BadRoom)));
    }
    for rooms in [0, BROADCAST_ROOMS_MAX + 1] {
        let refused = upstream.broadcast(&vec!["r"; rooms], &message);
        assert!(matches!(refused, Err(ClientError::BadRoomCount)));
    }
    assert!(matches!(
        Upstream::connect("127.0.0.1:1", "", None),
        Err(ClientError::BadName)
    ));
    upstream.close().expect("closed");
    thread.join().expect("the script");
}

#[test]
fn a_frame_out_of_place_or_out_of_shape_ends_the_connection() {
    let mut out_of_place = Vec::new();
    Frame::Challenge {
        node: "",
        challenge: &CHALLENGE,
    }
    .encode(&mut out_of_place);
    for bytes in [out_of_place, vec![3, 0, 0, 0]] {
        let (mut upstream, thread) = opened(1 << 20, 1 << 20, move |mut broker| {
            broker.hear().expect("a ping");
            broker.out.extend_from_slice(&bytes);
            broker.flush();
        });
        assert!(matches!(
            upstream.ping(),
            Err(ClientError::UnexpectedFrame | ClientError::BadFrame(_))
        ));
        thread.join().expect("the script");
    }
}
