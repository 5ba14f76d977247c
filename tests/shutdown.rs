//! How a broker process ends and starts: by signal, by kill, on a port that is taken, with a flag
//! that is wrong.

mod support;

use ringcast::base::Content;
use ringcast::client::{ClientError, Message, Upstream};
use ringcast::wire::upstream::AckLevel;
use rustix::process::Signal;
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use support::{Client, Heard, Process, get, until};

const ANYWHERE: &str =
    "--listen 127.0.0.1:0 --upstream 127.0.0.1:0 --admin 127.0.0.1:0 --allow-anonymous";

fn serve(more: &str) -> Process {
    Process::serve(&format!("{ANYWHERE} {more}"))
}

fn one(payload: &[u8]) -> Message<'_> {
    Message::new(Content::Json, payload, AckLevel::Sequenced)
}

#[test]
fn a_sigterm_closes_everybody_with_3001_and_exits_with_0() {
    let mut process = serve("--shards 3");
    let mut clients: Vec<Client> = (0..12)
        .map(|_| {
            let mut client = Client::connect(process.clients);
            client.subscribe("news");
            client
        })
        .collect();
    let mut upstream = Upstream::connect(process.upstream, "test", None).unwrap();
    upstream.publish("news", &one(b"\"last\"")).unwrap();
    // One that does not answer the close: it holds the drain until then.
    let mut silent = clients.pop().unwrap();
    process.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(
            client.push().data,
            "last",
            "what was published before is delivered"
        );
        assert_eq!(
            client.hear("the close"),
            Heard::Closed(3001, "shutdown".into())
        );
        assert_eq!(client.hear("the end"), Heard::Ended);
    }
    // New ones are not taken, while the process waits for the silent one.
    assert_eq!(get(process.admin, "/ready").status, 503);
    let refused = until("refused connects", || {
        match TcpStream::connect(process.clients) {
            Err(_) => Some(true),
            Ok(stream) => {
                let mut stream = stream;
                let read = std::io::Read::read(&mut stream, &mut [0]);
                matches!(read, Ok(0) | Err(_)).then_some(true)
            }
        }
    });
    assert!(refused);
    until("GOAWAY", || {
        let _ = upstream.poll_ack();
        upstream.goaway_ms()
    });
    assert!(matches!(
        upstream.publish("news", &one(b"1")),
        Err(ClientError::GoingAway { .. })
    ));
    assert_eq!(silent.push().data, "last");
    assert_eq!(silent.closed("the close"), (3001, "shutdown".into()));
    assert_eq!(silent.hear("the end"), Heard::Ended);
    let status = process.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    let said = process.rest_of_stderr();
    assert!(said.contains("drained"), "{said}");
    assert!(
        TcpStream::connect(process.clients).is_err(),
        "the port is free"
    );
}

#[test]
fn a_peer_that_never_answers_does_not_hold_the_process() {
    let mut process = serve("--shards 2");
    let _deaf = Client::connect(process.clients);
    process.signal(Signal::INT);
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn a_reader_that_is_stuck_does_not_hold_the_process() {
    let mut process = serve("--shards 2");
    let mut stuck = Client::connect(process.clients);
    stuck.subscribe("news");
    let mut upstream = Upstream::connect(process.upstream, "test", None).unwrap();
    let payload = format!("\"{}\"", "x".repeat(512 * 1024));
    // Far more than the kernel keeps for somebody who does not read.
    for _ in 0..40 {
        upstream.publish("news", &one(payload.as_bytes())).unwrap();
    }
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut process = serve("--shards 1");
    let _deaf = Client::connect(process.clients);
    process.signal(Signal::TERM);
    until("the drain", || {
        (get(process.admin, "/ready").status == 503).then_some(())
    });
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(1));
}

#[test]
fn a_killed_broker_can_be_started_again_at_once_on_its_ports() {
    let mut process = serve("--shards 2");
    let flags = format!(
        "--listen {} --upstream {} --admin {} --allow-anonymous --shards 2",
        process.clients, process.upstream, process.admin
    );
    for _ in 0..3 {
        let mut client = Client::connect(process.clients);
        client.subscribe("news");
        process.signal(Signal::KILL);
        process.wait();
        assert_eq!(
            client.hear("the end"),
            Heard::Ended,
            "TCP tells the clients"
        );
        process = Process::serve(&flags);
        let mut client = Client::connect(process.clients);
        client.subscribe("news");
        let mut upstream = Upstream::connect(process.upstream, "test", None).unwrap();
        upstream.publish("news", &one(b"\"again\"")).unwrap();
        assert_eq!(client.push().data, "again");
    }
}

fn failed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for flag in ["listen", "upstream", "admin"] {
        let others = ["listen", "upstream", "admin"]
            .map(|other| match other == flag {
                true => format!("--{other} {address}"),
                false => format!("--{other} 127.0.0.1:0"),
            })
            .join(" ");
        let said = failed(&Process::run(&format!("serve {others}")));
        assert!(said.contains(&format!("--{flag} {address}")), "{said}");
        assert!(said.contains("in use"), "{said}");
    }
}

#[test]
fn a_second_broker_does_not_join_the_first_ones_port() {
    let first = serve("--shards 2");
    let flags = format!(
        "serve --listen {} --upstream 127.0.0.1:0 --admin 127.0.0.1:0",
        first.clients
    );
    let said = failed(&Process::run(&flags));
    assert!(
        said.contains(&format!("--listen {}", first.clients)),
        "{said}"
    );
}

#[test]
fn a_wrong_flag_is_explained() {
    let table = [
        ("serve --sards 2", "--shards"),
        ("serve --shards many", "many"),
        ("serve --shards 0", "--shards 0: expected 1 to"),
        ("serve --listen localhost", "localhost"),
        ("serve --upstream 0.0.0.0:0", "loopback"),
        ("serve --cores 900", "--cores 900"),
        ("serve --upstream-key-file /nowhere", "/nowhere"),
        ("server", "serve"),
    ];
    for (arguments, hint) in table {
        let said = failed(&Process::run(arguments));
        assert!(said.contains(hint), "{arguments}: {said}");
    }
}

#[test]
fn pub_and_sub_reach_each_other_through_the_broker() {
    let broker = serve("--shards 2");
    let subscriber = format!("sub news --server {} --count 2", broker.clients);
    let subscriber = std::thread::spawn(move || Process::run(&subscriber));
    until("the subscriber", || {
        (broker.metrics().sum("subscriptions") == 1).then_some(())
    });
    for payload in ["{\"n\":1}", "plain"] {
        let publisher = format!("pub news {payload} --upstream {}", broker.upstream);
        let output = Process::run(&publisher);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("room news epoch"));
    }
    let output = subscriber.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"n\":1}\n\"plain\"\n"
    );
}
