//! Bad input on every port: each is closed with the right code and reason, each is counted, and a
//! bystander that is subscribed throughout gets all of its publications.

mod support;

use ringcast::base::Content;
use ringcast::client::Message as Publication;
use ringcast::limits;
use ringcast::wire::upstream::{AckLevel, ErrorCode, Extras, Frame, decode};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::{
    Broker, Bystander, Client, Heard, Random, answer, dial, frame, frame_with_length, read_to_end,
    request,
};

const OPEN: &str = "--shards 2 --allow-anonymous --allow-publish";

/// Short deadlines, so that what is held open is soon let go.
fn impatient() -> Broker {
    Broker::start_with(OPEN, |config| {
        config.timing.upgrade_ms = 500;
        config.timing.close_ms = 500;
        config.timing.upstream_opening_ms = 500;
    })
}

fn upgrade_request(address: SocketAddr, more: &str) -> Vec<u8> {
    format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

const PROTOCOL_ERROR: (u16, &str, &str) = (1002, "protocol error", "protocol_error");
const INVALID_UTF8: (u16, &str, &str) = (1007, "invalid utf-8", "invalid_utf8");
const TOO_BIG: (u16, &str, &str) = (1009, "message size limit exceeded", "message_too_big");
const BAD_REQUEST: (u16, &str, &str) = (3501, "bad request", "bad_request");

/// What, the bytes behind the upgrade, and code, reason and metric label of the close.
type Case = (&'static str, Vec<u8>, (u16, &'static str, &'static str));

fn broken_frames() -> Vec<Case> {
    let unmasked = [&[0x81, 5][..], b"hello"].concat();
    let mut masked_long = frame_with_length(0x81, 1 << 63);
    masked_long.extend([0; 64]);
    let mut control_126 = vec![0x89, 0x80 | 126, 0, 126, 1, 2, 3, 4];
    control_126.extend([0; 126]);
    let not_minimal = vec![
        0x81,
        0x80 | 126,
        0,
        5,
        0,
        0,
        0,
        0,
        b'h',
        b'e',
        b'l',
        b'l',
        b'o',
    ];
    vec![
        ("an unmasked frame", unmasked, PROTOCOL_ERROR),
        ("a length of 2^63", masked_long, PROTOCOL_ERROR),
        ("a length that is not minimal", not_minimal, PROTOCOL_ERROR),
        ("a control frame of 126 bytes", control_126, PROTOCOL_ERROR),
        ("a fragmented ping", frame(0x09, b"hi"), PROTOCOL_ERROR),
        ("a reserved bit", frame(0xc1, b"{}"), PROTOCOL_ERROR),
        ("an unknown opcode", frame(0x83, b"{}"), PROTOCOL_ERROR),
        (
            "an unknown control opcode",
            frame(0x8b, b""),
            PROTOCOL_ERROR,
        ),
        (
            "a continuation of nothing",
            frame(0x80, b"{}"),
            PROTOCOL_ERROR,
        ),
        (
            "a message inside another",
            [frame(0x01, b"{"), frame(0x81, b"}")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a close frame of one byte",
            frame(0x88, &[3]),
            PROTOCOL_ERROR,
        ),
        (
            "a close code that must not be sent",
            frame(0x88, &1005u16.to_be_bytes()),
            PROTOCOL_ERROR,
        ),
    ]
}

fn broken_messages() -> Vec<Case> {
    let euro_split = [frame(0x01, b"\"\xe2\x82"), frame(0x80, b"\x28\"")].concat();
    let cut_off = [
        frame(0x01, b"\"\xe2"),
        frame(0x00, b"\x82"),
        frame(0x80, b""),
    ]
    .concat();
    let close_text = [&1000u16.to_be_bytes()[..], b"\xff\xfe"].concat();
    let over = limits::MESSAGE_BYTES_MAX + 1;
    let half = vec![b' '; over / 2 + 1];
    let in_parts = [frame(0x01, &half), frame(0x80, &half)].concat();
    let mut flood = frame(0x01, b"");
    for _ in 0..=limits::MESSAGE_FRAGMENTS_MAX {
        flood.extend(frame(0x00, b""));
    }
    vec![
        ("invalid UTF-8", frame(0x81, b"\"\xc3\x28\""), INVALID_UTF8),
        ("invalid UTF-8 split over frames", euro_split, INVALID_UTF8),
        ("UTF-8 that is cut off", cut_off, INVALID_UTF8),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80"), INVALID_UTF8),
        (
            "a close reason that is not UTF-8",
            frame(0x88, &close_text),
            INVALID_UTF8,
        ),
        ("64 KiB + 1", frame(0x81, &vec![b' '; over]), TOO_BIG),
        ("64 KiB + 1 in two frames", in_parts, TOO_BIG),
        (
            "a length of 2^62",
            frame_with_length(0x81, 1 << 62),
            TOO_BIG,
        ),
        ("a flood of empty fragments", flood, TOO_BIG),
        (
            "an unknown command",
            frame(0x81, br#"{"id":9,"dance":{}}"#),
            BAD_REQUEST,
        ),
        ("no JSON", frame(0x81, b"\x00\x01\x02"), BAD_REQUEST),
        (
            "binary that is no text",
            frame(0x82, b"\xff\xfe\xfd"),
            BAD_REQUEST,
        ),
    ]
}

#[test]
fn every_broken_frame_and_message_has_its_close_code_and_its_counter() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    for (what, bytes, (code, reason, label)) in broken_frames().into_iter().chain(broken_messages())
    {
        let before = broker.metrics().closes(label);
        let mut client = Client::connect(broker.clients);
        client.subscribe("bystander");
        client.unsubscribe("bystander");
        client.write_raw(&bytes);
        assert_eq!(client.closed(what), (code, reason.to_owned()), "{what}");
        let counted = |metrics: &support::Metrics| metrics.closes(label) == before + 1;
        broker.until(&format!("{what}: counted as {label}"), counted);
    }
    bystander.was_undisturbed();
    broker.until("no connection left", |metrics| {
        metrics.sum("connections") == 0
    });
}

#[test]
fn broken_bytes_right_behind_the_upgrade_are_judged_like_later_ones() {
    let broker = impatient();
    for (what, bytes, (code, reason, _)) in broken_frames() {
        let mut stream = dial(broker.clients);
        let mut all = upgrade_request(broker.clients, "");
        all.extend(bytes);
        stream.write_all(&all).unwrap();
        let answer = read_to_end(&mut stream, what);
        let mut close = vec![0x88, 2 + reason.len() as u8];
        close.extend(code.to_be_bytes());
        close.extend(reason.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{what}");
        assert!(answer.ends_with(&close), "{what}: {answer:?}");
    }
}

#[test]
fn random_frames_close_their_connection_and_no_other() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let mut random = Random(7);
    for round in 0..40 {
        let mut client = Client::connect(broker.clients);
        // A first byte that is surely wrong on half of the rounds; length and mask are random.
        let mut bytes = random.bytes(8 * 1024);
        if round % 2 == 0 {
            bytes[0] |= 0x70;
        }
        let _ = client.stream().write_all(&bytes);
        let _ = client.stream().shutdown(std::net::Shutdown::Write);
        match client.hear("the end") {
            Heard::Closed(code, _) => assert!([1002, 1007, 1009, 3501].contains(&code), "{code}"),
            // The bytes were the beginning of a frame, and then the stream ended.
            Heard::Ended => {}
            other => panic!("{other:?}"),
        }
    }
    bystander.was_undisturbed();
    let metrics = broker.until("no connection left", |metrics| {
        metrics.sum("connections") == 0
    });
    assert!(metrics.closes("protocol_error") >= 20);
}

#[test]
fn what_is_not_an_upgrade_request_has_its_http_status() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let address = broker.clients;
    let upgrade = |more: &str| upgrade_request(address, more);
    let plain = |text: &str| text.as_bytes().to_vec();
    let many = "X-A: b\r\n".repeat(limits::UPGRADE_HEADERS_MAX + 1);
    let long = format!("X-Long: {}\r\n", "y".repeat(limits::UPGRADE_BYTES_MAX));
    let bad_key = String::from_utf8(upgrade("")).unwrap().replace("dGhl", "");
    let old = String::from_utf8(upgrade("")).unwrap();
    let table = [
        ("binary garbage", Random(1).bytes(512), 400),
        ("a TLS hello", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01], 400),
        ("garbage in capitals", plain("RUBBISH\r\n\r\n"), 400),
        ("bare line feeds", plain("GET / HTTP/1.1\nHost: x\n\n"), 400),
        ("a folded field", upgrade("X-A: b\r\n c\r\n"), 400),
        ("a body", upgrade("Content-Length: 5\r\n"), 400),
        (
            "a chunked body",
            upgrade("Transfer-Encoding: chunked\r\n"),
            400,
        ),
        ("a key of the wrong length", plain(&bad_key), 400),
        (
            "version 8",
            plain(&old.replace("Version: 13", "Version: 8")),
            426,
        ),
        ("HTTP/1.0", plain(&old.replace("HTTP/1.1", "HTTP/1.0")), 505),
        ("65 fields", upgrade(&many), 431),
        ("9 KiB", upgrade(&long), 431),
    ];
    let refusals = table.len() as u64;
    for (what, bytes, status) in table {
        let response = request(address, &bytes);
        assert_eq!(response.status, status, "{what}: {}", response.head);
    }
    broker.until("the refusals", |metrics| {
        metrics.closes("upgrade_refused") == refusals
    });
    bystander.was_undisturbed();
    broker.until("no connection left", |metrics| {
        metrics.sum("connections") == 0
    });
}

#[test]
fn half_a_handshake_is_closed_at_one_deadline_however_slowly_it_goes_on() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let request = upgrade_request(broker.clients, "");
    let mut held: Vec<TcpStream> = (0..20)
        .map(|sent| {
            let mut stream = dial(broker.clients);
            stream.write_all(&request[..sent]).unwrap();
            stream
        })
        .collect();
    // A byte now and then does not extend the deadline.
    let mut dripping = dial(broker.clients);
    let start = Instant::now();
    let cut = request.iter().position(|byte| {
        std::thread::sleep(Duration::from_millis(50));
        dripping.write_all(&[*byte]).is_err()
    });
    assert!(
        cut.is_some(),
        "{:?} were enough to drip the request in",
        start.elapsed()
    );
    for stream in &mut held {
        assert_eq!(read_to_end(stream, "a held handshake"), b"");
    }
    let metrics = broker.until("the timeouts", |metrics| {
        metrics.closes("upgrade_timeout") == 21
    });
    assert_eq!(metrics.closes("upgrade_refused"), 0);
    bystander.was_undisturbed();
    broker.until("no connection left", |metrics| {
        metrics.sum("connections") == 0
    });
}

#[test]
fn a_client_that_sends_one_byte_at_a_time_works() {
    let broker = Broker::start(OPEN);
    let mut stream = dial(broker.clients);
    let mut bytes = upgrade_request(broker.clients, "");
    let hello = br#"{"id":1,"connect":{}}"#;
    bytes.extend(frame(0x81, hello));
    let subscribe = "{\"id\":2,\"subscribe\":{\"channel\":\"h\u{e9}\"}}".as_bytes();
    // A frame for each byte of the message, so that characters are split over frames too.
    for (index, byte) in subscribe.iter().enumerate() {
        let last = index + 1 == subscribe.len();
        let first = u8::from(index == 0) | if last { 0x80 } else { 0 };
        bytes.extend(frame(first, &[*byte]));
    }
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
    }
    broker.until("the subscription", |metrics| {
        metrics.sum("subscriptions") == 1
    });
    let message = Publication::new(Content::Json, b"[1]", AckLevel::Sequenced);
    broker.upstream().publish("h\u{e9}", &message).unwrap();
    let expected = "{\"push\":{\"channel\":\"h\u{e9}\",\"pub\":{\"data\":[1],\"offset\":1}}}";
    let (mut heard, mut buffer) = (Vec::new(), [0; 256]);
    while !heard.ends_with(expected.as_bytes()) {
        let read = stream.read(&mut buffer).expect("the push");
        assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..read]);
    }
}

#[test]
fn pings_without_end_are_answered_or_the_connection_ends() {
    let broker = Broker::start(OPEN);
    let bystander = Bystander::start(&broker);
    let mut client = Client::connect(broker.clients);
    let burst = frame(0x89, b"?").repeat(2_000);
    client.write_raw(&burst);
    for _ in 0..2_000 {
        assert_eq!(client.hear("a pong"), Heard::Pong(b"?".to_vec()));
    }
    assert_eq!(client.refused(json!({"rpc": {}})), 108);
    bystander.was_undisturbed();
}

/// Reads frames of the upstream protocol until the peer ends the stream: codes and request ids of
/// its ERROR frames.
fn errors(stream: &mut TcpStream, what: &str) -> Vec<(u64, ErrorCode)> {
    let bytes = read_to_end(stream, what);
    let (mut rest, mut errors) = (bytes.as_slice(), Vec::new());
    while let Some((frame, used)) = decode(rest, limits::UPSTREAM_FRAME_MAX).expect("a frame") {
        if let Frame::Error { request, code, .. } = frame {
            errors.push((request, code));
        }
        rest = &rest[used..];
    }
    assert_eq!(rest, b"", "{what}: whole frames");
    errors
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn hello() -> Vec<u8> {
    encoded(&Frame::Hello {
        request: 1,
        service: "test",
        auth: ringcast::wire::upstream::HelloAuth::None,
    })
}

fn publish(request: u64, payload: &[u8]) -> Vec<u8> {
    encoded(&Frame::Publish {
        request,
        room: "news",
        level: AckLevel::Accepted,
        content: Content::Json,
        skip_history: false,
        key: None,
        extras: Extras::default(),
        payload,
    })
}

#[test]
fn bad_openings_of_upstream_connections_are_told_why_and_closed() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let mut long = hello();
    long[..4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let mut version = hello();
    let magic = version
        .windows(4)
        .position(|bytes| bytes == b"RCST")
        .unwrap();
    version[magic + 4] = 9;
    let mut magicless = hello();
    magicless[magic] = b'X';
    let unproven = encoded(&Frame::Hello {
        request: 1,
        service: "test",
        auth: ringcast::wire::upstream::HelloAuth::Hmac {
            key_id: "nobody",
            mac: &[0; 32],
        },
    });
    let mut http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    http.extend([b'x'; 100]);
    let table = [
        ("random bytes", Random(3).bytes(4096), None),
        ("HTTP", http, None),
        ("a length of 2^31", long, None),
        ("another version", version, Some(ErrorCode::Unsupported)),
        ("no magic", magicless, Some(ErrorCode::Malformed)),
        (
            "a key that is not known",
            unproven,
            Some(ErrorCode::Unauthorised),
        ),
        (
            "a publication first",
            publish(1, b"1"),
            Some(ErrorCode::Unauthorised),
        ),
        (
            "half a hello held open",
            hello()[..20].to_vec(),
            Some(ErrorCode::Unauthorised),
        ),
        ("silence", Vec::new(), Some(ErrorCode::Unauthorised)),
    ];
    for (index, (what, bytes, code)) in table.into_iter().enumerate() {
        let mut stream = dial(broker.upstream);
        stream.write_all(&bytes).unwrap();
        let told: Vec<ErrorCode> = errors(&mut stream, what)
            .into_iter()
            .map(|(_, code)| code)
            .collect();
        match code {
            Some(code) => assert_eq!(told, [code], "{what}"),
            None => assert!(
                told.len() == 1 && told[0].closes() || told == [ErrorCode::TooLarge],
                "{what}: {told:?}"
            ),
        }
        let counted = index as u64 + 1;
        broker.until(what, |metrics| {
            metrics.sum("upstream_errors_total") == counted
        });
    }
    bystander.was_undisturbed();
}

#[test]
fn bad_frames_of_an_open_upstream_connection_are_refused_one_by_one() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let errors_before = broker.metrics().sum("upstream_errors_total");
    let mut unknown = publish(2, b"1");
    unknown[4] = 0x7e;
    let mut bad_room = publish(5, b"1");
    let room = bad_room
        .windows(4)
        .position(|bytes| bytes == b"news")
        .unwrap();
    bad_room[room] = 0xff;
    let mut replicated = publish(6, b"1");
    replicated[5] |= 3;
    let mut stream = dial(broker.upstream);
    let mut bytes = hello();
    for frame in [
        unknown,
        publish(3, b"{not json"),
        publish(4, b"1"),
        bad_room,
        replicated,
        publish(7, b"{\"a\":\n1}"),
    ] {
        bytes.extend(frame);
    }
    stream.write_all(&bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let told = errors(&mut stream, "refused frames");
    let expected = [
        (2, ErrorCode::Unsupported),
        (3, ErrorCode::InvalidPayload),
        (5, ErrorCode::Malformed),
        (6, ErrorCode::LevelUnavailable),
    ];
    // Malformed closes; what follows it is not looked at.
    let closing = expected.iter().position(|(_, code)| code.closes());
    let expected = &expected[..closing.map_or(expected.len(), |at| at + 1)];
    assert_eq!(told, expected);
    let count = expected.len() as u64;
    broker.until("the errors counted", |metrics| {
        metrics.sum("upstream_errors_total") == errors_before + count
    });
    bystander.was_undisturbed();
}

#[test]
fn an_upstream_frame_beyond_the_limit_is_refused_before_it_is_stored() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let mut stream = dial(broker.upstream);
    stream.write_all(&hello()).unwrap();
    let mut header = publish(9, b"1");
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    stream.write_all(&header).unwrap();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let told = errors(&mut stream, "a frame of 4 GiB");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        matches!(told[0].1, ErrorCode::TooLarge | ErrorCode::OverCredit),
        "{told:?}"
    );
    bystander.was_undisturbed();
}

#[test]
fn random_bytes_behind_the_hello_disturb_nobody() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let mut random = Random(11);
    for _ in 0..20 {
        let mut stream = dial(broker.upstream);
        let mut bytes = hello();
        bytes.extend(random.bytes(2048));
        stream.write_all(&bytes).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        errors(&mut stream, "random frames");
    }
    bystander.was_undisturbed();
    // Those of the bystander are gone too.
    broker.until("no upstream left", |metrics| {
        metrics.sum("upstream_connections") == 0
    });
}

#[test]
fn bad_input_on_the_admin_port_is_answered_or_closed_and_counted() {
    let broker = impatient();
    let bystander = Bystander::start(&broker);
    let long = format!(
        "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X-A: b\r\n".repeat(1_000));
    let table = [
        ("binary garbage", Random(5).bytes(512), 400),
        ("garbage in capitals", b"RUBBISH\r\n\r\n".to_vec(), 400),
        (
            "a version that is none",
            b"GET / HTTP/9.9\r\n\r\n".to_vec(),
            400,
        ),
        ("a request of 1 MiB", long.into_bytes(), 431),
        ("1,000 fields", many.into_bytes(), 431),
    ];
    // Held open, to be closed by the deadline of ten seconds.
    let mut held = dial(broker.admin);
    held.write_all(b"GET /metrics HT").unwrap();
    let held = std::thread::spawn(move || read_to_end(&mut held, "half a request"));
    for (index, (what, bytes, status)) in table.into_iter().enumerate() {
        let mut stream = dial(broker.admin);
        // The answer may come, and the connection close, before all of it is written.
        let _ = stream.write_all(&bytes);
        assert_eq!(answer(&mut stream).status, status, "{what}");
        let counted = index as u64 + 1;
        broker.until(what, |metrics| metrics.sum("admin_errors_total") == counted);
    }
    assert_eq!(held.join().unwrap(), b"", "half a request gets no answer");
    broker.until("the deadline counted", |metrics| {
        metrics.sum("admin_errors_total") == 6
    });
    bystander.was_undisturbed();
}
