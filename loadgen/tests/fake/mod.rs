//! A broker in miniature, with one fault on purpose: threads, blocking sockets, tungstenite.
//!
//! It shares the upstream codec with the real one and nothing else. The fault hits the first
//! subscriber only, so that the counts to be expected are exact.

use ringcast::base::{Epoch, Offset};
use ringcast::limits::UPSTREAM_FRAME_MAX;
use ringcast::wire::upstream::{AckLevel, Frame, decode};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tungstenite::{Message, WebSocket};

/// What the broker does wrong with the third publication of its first subscriber, or otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    DropOne,
    DuplicateOne,
    SwapTwo,
    DamageOne,
    WrongRoom,
    CloseOne,
    /// One publication to room 3 is not sequenced.
    SkipOne,
    /// Not a fault: a ping after the subscribe, whose pong is counted.
    Ping,
    /// The upgrade of the first connection is answered with another's accept key.
    AcceptKey,
    /// The first subscribe command is refused.
    RefuseSubscribe,
    /// Who subscribes when publications have begun is confirmed and gets nothing.
    ForgetLater,
    /// Of every 10,000 deliveries one is dropped, one comes twice and two are swapped; and 1 of 100
    /// publications is late by [`DELAY`].
    NowAndThen,
    /// Not a fault: from publication [`LATE_FROM`] on they come [`LATE`] later, although they are confirmed.
    LateEnd,
}

/// How late [`Fault::NowAndThen`] is.
pub(crate) const DELAY: std::time::Duration = std::time::Duration::from_millis(30);

/// The first publication that is late with [`Fault::LateEnd`], and by how much.
const LATE_FROM: u32 = 170;
const LATE: std::time::Duration = std::time::Duration::from_secs(2);

/// The running broker; its threads end with the test.
pub(crate) struct Broker {
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    subscribers: Mutex<Vec<Subscriber>>,
    upgrades: AtomicU32,
    pongs: AtomicU32,
    deliveries: AtomicU32,
    publications: AtomicU32,
    /// Publications that are late: room and payload.
    late: Mutex<Vec<(String, String)>>,
    /// Addresses that clients came from.
    sources: Mutex<std::collections::BTreeSet<std::net::IpAddr>>,
}

struct Subscriber {
    channel: String,
    socket: WebSocket<TcpStream>,
    sent: u32,
    held: Option<Message>,
}

impl Broker {
    pub(crate) fn start(fault: Fault) -> Self {
        let (clients, upstreams) = (bind(), bind());
        let broker = Self {
            listen: clients.local_addr().unwrap(),
            upstream: upstreams.local_addr().unwrap(),
            shared: Arc::new(Shared {
                fault,
                subscribers: Mutex::default(),
                upgrades: AtomicU32::new(0),
                pongs: AtomicU32::new(0),
                deliveries: AtomicU32::new(0),
                publications: AtomicU32::new(0),
                late: Mutex::default(),
                sources: Mutex::default(),
            }),
        };
        serve(clients, &broker.shared, |stream, shared| {
            // A connection that is closed before its upgrade is the caller's check for a listener.
            let _ = serve_client(stream, shared);
        });
        serve(upstreams, &broker.shared, |stream, shared| {
            let _ = serve_upstream(stream, shared);
        });
        if fault == Fault::LateEnd {
            let shared = Arc::clone(&broker.shared);
            std::thread::spawn(move || deliver_late(&shared));
        }
        broker
    }

    /// Addresses that clients came from, as text.
    #[allow(dead_code, reason = "not every test that has a fake looks at them")]
    pub(crate) fn sources(&self) -> Vec<String> {
        let sources = self.shared.sources.lock().unwrap();
        sources.iter().map(ToString::to_string).collect()
    }

    #[allow(dead_code, reason = "not every test that has a fake counts pongs")]
    pub(crate) fn pongs(&self) -> u32 {
        self.shared.pongs.load(Relaxed)
    }
}

fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn serve(listener: TcpListener, shared: &Arc<Shared>, each: fn(TcpStream, &Shared)) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || each(stream, &shared));
        }
    });
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn serve_client(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    // Tells a connection from a check for a listener.
    if stream.peek(&mut [0])? == 0 {
        return Ok(());
    }
    let source = stream.peer_addr()?.ip();
    shared.sources.lock().unwrap().insert(source);
    let is_first = shared.upgrades.fetch_add(1, Relaxed) == 0;
    if is_first && shared.fault == Fault::AcceptKey {
        let _ = stream.read(&mut [0; 1024])?;
        stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        let _ = stream.read(&mut [0; 1024])?;
        return Ok(());
    }
    let mut socket = tungstenite::accept(stream)?;
    let commands = socket.read()?.into_text()?;
    let mut channel = String::new();
    let mut replies = Vec::new();
    for line in commands.split('\n') {
        let command: Value = serde_json::from_str(line)?;
        let id = &command["id"];
        if command["connect"].is_object() {
            replies.push(format!(
                r#"{{"id":{id},"connect":{{"client":"c","version":"fake","ping":25,"pong":true}}}}"#
            ));
        } else if is_first && shared.fault == Fault::RefuseSubscribe {
            replies.push(format!(
                r#"{{"id":{id},"error":{{"code":103,"message":"permission denied"}}}}"#
            ));
        } else {
            channel = command["subscribe"]["channel"].as_str().unwrap().to_owned();
            replies.push(format!(r#"{{"id":{id},"subscribe":{{}}}}"#));
        }
    }
    let mut subscribers = shared.subscribers.lock().unwrap();
    socket.send(Message::text(replies.join("\n")))?;
    if shared.fault == Fault::Ping {
        socket.send(Message::text("{}"))?;
        if socket.read()?.into_text()? == "{}" {
            shared.pongs.fetch_add(1, Relaxed);
        }
    }
    if shared.fault == Fault::CloseOne && subscribers.is_empty() {
        // Late enough that the connection counts as subscribed.
        std::thread::sleep(std::time::Duration::from_millis(200));
        socket.close(None)?;
        socket.flush()?;
    }
    if shared.fault == Fault::ForgetLater && shared.publications.load(Relaxed) > 0 {
        // Held open, so that nothing but the silence can be noticed.
        drop(subscribers);
        let _ = socket.read();
        return Ok(());
    }
    subscribers.push(Subscriber {
        channel,
        socket,
        sent: 0,
        held: None,
    });
    Ok(())
}

fn serve_upstream(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut out = Vec::new();
    let (node, challenge) = ("fake", &[7; 32]);
    Frame::Challenge { node, challenge }.encode(&mut out);
    let mut input = Vec::new();
    let (mut tops, mut skip) = (HashMap::new(), true);
    loop {
        stream.write_all(&out)?;
        out.clear();
        let mut buffer = [0; 16 * 1024];
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..count]);
        let mut used = 0;
        while let Ok(Some((frame, frame_bytes))) = decode(&input[used..], UPSTREAM_FRAME_MAX) {
            used += frame_bytes;
            answer(&frame, shared, (&mut tops, &mut skip), &mut out);
        }
        input.drain(..used);
    }
}

fn answer(
    frame: &Frame<'_>,
    shared: &Shared,
    (tops, skip): (&mut HashMap<String, u64>, &mut bool),
    out: &mut Vec<u8>,
) {
    match *frame {
        Frame::Hello { request, .. } => Frame::Welcome {
            request,
            node: "fake",
            frame_bytes_max: UPSTREAM_FRAME_MAX as u32,
            credit: u64::MAX,
        }
        .encode(out),
        Frame::Publish {
            request,
            room,
            level,
            payload,
            ..
        } => {
            publish(shared, room, std::str::from_utf8(payload).unwrap());
            let top = tops.entry(room.to_owned()).or_default();
            let is_first = *top == 0;
            *top += 1;
            // Position 1 twice.
            let is_hit = shared.fault == Fault::SkipOne && room == "room-3" && is_first;
            *top -= u64::from(is_hit && std::mem::take(skip));
            if level != AckLevel::None {
                Frame::Ack {
                    request,
                    level,
                    duplicate: false,
                    epoch: Epoch(1),
                    offset: Offset(*top),
                }
                .encode(out);
            }
        }
        Frame::Ping { request, body } => Frame::Pong { request, body }.encode(out),
        _ => panic!("no client sends {frame:?}"),
    }
}

/// What happens to the delivery with this number.
fn now_and_then(number: u32) -> Fault {
    match number % 10_000 {
        2_000 => Fault::DropOne,
        5_000 => Fault::DuplicateOne,
        8_000 => Fault::SwapTwo,
        _ => Fault::Nothing,
    }
}

fn publish(shared: &Shared, room: &str, payload: &str) {
    let number = shared.publications.fetch_add(1, Relaxed);
    if shared.fault == Fault::LateEnd && number >= LATE_FROM {
        let late = (room.to_owned(), payload.to_owned());
        shared.late.lock().unwrap().push(late);
        return;
    }
    if shared.fault == Fault::NowAndThen && number % 100 == 50 {
        std::thread::sleep(DELAY);
    }
    deliver(shared, room, payload);
}

/// Delivers what is late, all at once, [`LATE`] after the first of it.
fn deliver_late(shared: &Shared) {
    while shared.late.lock().unwrap().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(LATE);
    let late = std::mem::take(&mut *shared.late.lock().unwrap());
    for (room, payload) in late {
        deliver(shared, &room, &payload);
    }
}

fn deliver(shared: &Shared, room: &str, payload: &str) {
    let mut subscribers = shared.subscribers.lock().unwrap();
    for (index, subscriber) in subscribers.iter_mut().enumerate() {
        if subscriber.channel != room {
            continue;
        }
        subscriber.sent += 1;
        let is_hit = index == 0 && subscriber.sent == 3;
        let number = shared.deliveries.fetch_add(1, Relaxed);
        let fault = match shared.fault {
            Fault::NowAndThen => now_and_then(number),
            fault if is_hit => fault,
            _ => Fault::Nothing,
        };
        let channel = if fault == Fault::WrongRoom {
            "room-77"
        } else {
            room
        };
        let mut payload = payload.to_owned();
        if fault == Fault::DamageOne {
            payload.replace_range(80..81, "?");
        }
        let push = Message::text(format!(
            r#"{{"push":{{"channel":"{channel}","pub":{{"data":{payload},"offset":7}}}}}}"#
        ));
        let before = subscriber.held.take();
        match fault {
            Fault::DropOne => continue,
            Fault::SwapTwo => {
                subscriber.held = Some(push);
                continue;
            }
            Fault::DuplicateOne => {
                let _ = subscriber.socket.send(push.clone());
            }
            _ => {}
        }
        // A closed subscriber gets nothing.
        let _ = subscriber.socket.send(push);
        if let Some(before) = before {
            let _ = subscriber.socket.send(before);
        }
    }
}
