//! That several processes, on one host or on several, make one run: every connection in one of them, one
//! start, one clock, and one report in which no fault of any of them is missing.

mod fake;
mod ringcast;
mod run;

use fake::{Broker, Fault};
use ringcast::{Ringcast, free_address};
use run::{loadgen, report};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code and report of a fan-out to 24 connections in 3 rooms.
fn fanout(broker: &Broker, more: &[&str]) -> (i32, Value) {
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let mut arguments = vec!["fanout", "--target", &target, "--upstream", &upstream];
    arguments.extend(["--connections=24", "--rooms=3", "--messages=10"]);
    arguments.extend(["--settle=50ms", "--grace=1s", "--threads=2", "--json"]);
    arguments.extend(more);
    let output = loadgen(&arguments);
    (output.status.code().unwrap(), report(&output))
}

/// `loadgen worker --listen`; killed with the test.
struct Worker {
    child: Child,
    addr: String,
}

impl Worker {
    fn start() -> Self {
        Self::by(&mut Command::new(env!("CARGO_BIN_EXE_loadgen"))).unwrap()
    }

    /// With a monotonic clock that is 1,000 s ahead; `None` where that is not allowed.
    fn ahead() -> Option<Self> {
        Self::by(
            Command::new("unshare")
                .args(["--time", "--monotonic=1000", "--boottime=1000"])
                .arg(env!("CARGO_BIN_EXE_loadgen")),
        )
    }

    fn by(command: &mut Command) -> Option<Self> {
        let addr = free_address();
        let mut child = command
            .args(["worker", "--listen", &addr])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        // What else it says is read, so that it never waits for us.
        std::thread::spawn(move || errors.read_to_end(&mut Vec::new()));
        let worker = Self { child, addr };
        line.contains("waits for runs").then_some(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn processes_of_one_host_share_the_connections_and_add_up() {
    let broker = Broker::start(Fault::Nothing);
    let (code, report) = fanout(&broker, &["--processes", "3"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["delivery"]["delivered"], 240);
    assert_eq!(report["delivery"]["latency"]["samples"], 240);
    assert_eq!(report["connect"]["subscribed"], 24);
    let processes = report["loadgen"]["processes"].as_array().unwrap();
    let connections: Vec<_> = processes.iter().map(|each| &each["connections"]).collect();
    assert_eq!(connections, [8, 8, 8]);
    assert!(processes.iter().all(|each| each["clock"].is_null()));
    assert_eq!(report["loadgen"]["workers"].as_array().unwrap().len(), 6);
}

#[test]
fn a_fault_that_one_process_sees_is_in_the_report_of_all() {
    for (fault, name) in [
        (Fault::DropOne, "lost"),
        (Fault::DuplicateOne, "duplicated"),
        (Fault::SwapTwo, "reordered"),
        (Fault::DamageOne, "damaged"),
        (Fault::WrongRoom, "misrouted"),
    ] {
        let broker = Broker::start(fault);
        let (code, report) = fanout(&broker, &["--processes", "2"]);
        assert_eq!(code, 1, "{fault:?}: {report:#}");
        assert_eq!(report["delivery"][name], 1, "{fault:?}: {report:#}");
    }
    let broker = Broker::start(Fault::CloseOne);
    let (code, report) = fanout(&broker, &["--processes", "2"]);
    assert_eq!(code, 1, "{report:#}");
    let failures = report["connect"]["failures"].as_object().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
}

#[test]
fn a_worker_whose_clock_is_ahead_measures_the_same_latency() {
    let Some(ahead) = Worker::ahead() else {
        eprintln!("LEFT OUT: no time namespace may be made here");
        return;
    };
    let beside = Worker::start();
    let broker = Broker::start(Fault::Nothing);
    let workers = format!("{},{}", beside.addr, ahead.addr);
    let more = ["--workers", &workers, "--rate", "60", "--threshold=lost==0"];
    let (code, report) = fanout(&broker, &more);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["delivery"]["delivered"], 240);
    // Off by 1,000 s, a latency would be 0 or as long as a histogram takes.
    let ms = |quantile: &str| report["delivery"]["latency"][quantile].as_f64().unwrap();
    assert!(ms("p50_ms") > 0.0 && ms("max_ms") < 1_000.0, "{report:#}");
    let processes = &report["loadgen"]["processes"];
    assert!(processes[0]["clock"].is_null(), "{processes:#}");
    let clock = &processes[1]["clock"];
    let (offset_ms, error_ms) = (
        clock["offset_ms"].as_f64().unwrap(),
        clock["error_ms"].as_f64().unwrap(),
    );
    assert!(error_ms > 0.0 && error_ms < 1_000.0, "{clock:#}");
    assert!((offset_ms - 1e6).abs() <= error_ms, "{clock:#}");
}

#[test]
fn clients_of_several_processes_publish_to_each_other_and_come_and_go() {
    let broker = Ringcast::start(&["--allow-publish"]);
    let to = [
        "--target",
        &broker.listen,
        "--settle=50ms",
        "--processes=2",
        "--json",
    ];
    let chat = ["chat", "--connections=60", "--rate=300", "--duration=2s"];
    let output = loadgen(&[&chat[..], &to].concat());
    let chatted = report(&output);
    assert_eq!(output.status.code(), Some(0), "{chatted:#}");
    // Rooms of 10, connection i in room i modulo 6: members in both processes.
    assert_eq!(chatted["delivery"]["delivered"], 600 * 10);

    for scenario in [
        &["churn", "--life=500ms", "--connections=60", "--rooms=6"][..],
        &["storm", "--share=50%", "--connections=60", "--rooms=6"],
    ] {
        let pace = [
            "--rate=120",
            "--duration=2s",
            "--upstream",
            &broker.upstream,
        ];
        let output = loadgen(&[scenario, &pace, &to].concat());
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        let back = &report["back"];
        assert!(back["dropped"].as_u64().unwrap() > 10, "{back:#}");
        assert_eq!(back["back"], back["dropped"], "{back:#}");
    }
}

#[test]
fn a_worker_that_dies_ends_the_run_by_its_name() {
    let mut worker = Worker::start();
    let broker = Broker::start(Fault::Nothing);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let mut arguments = vec!["fanout", "--target", &target, "--upstream", &upstream];
    arguments.extend(["--connections=24", "--rate=10", "--duration=60s"]);
    arguments.extend(["--workers", &worker.addr]);
    let run = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    worker.child.kill().unwrap();
    let killed = Instant::now();
    let output = run.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(10));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap();
    let name = format!("loadgen: worker {}", worker.addr);
    assert!(
        last.starts_with(&name) && last.contains("it ended"),
        "{text}"
    );
}

#[test]
fn what_is_no_coordinator_is_told_so_and_the_next_run_finds_the_worker_well() {
    let worker = Worker::start();
    let answer = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&worker.addr).unwrap();
        stream.write_all(bytes).unwrap();
        let mut text = String::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_string(&mut text);
        text
    };
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "no request"),
        (b"\"probe\"\n", "must be hello"),
        (b"{\"hello\":{\"version\":\"0.0.0\"}}\n", "not 0.0.0"),
    ] {
        let text = answer(bytes);
        assert!(text.contains("failed") && text.contains(expected), "{text}");
    }
    // One that goes in the middle of the greeting.
    drop(TcpStream::connect(&worker.addr).unwrap());
    let broker = Broker::start(Fault::Nothing);
    let (code, report) = fanout(&broker, &["--workers", &worker.addr]);
    assert_eq!(code, 0, "{report:#}");
}

#[test]
fn a_run_that_is_broken_off_before_it_begins_leaves_nobody_waiting() {
    let broker = Broker::start(Fault::Nothing);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let worker = Worker::start();
    for more in ["--processes=2", &format!("--workers={}", worker.addr)] {
        let mut arguments = vec!["fanout", "--target", &target, "--upstream", &upstream];
        arguments.extend(["--connections=24", "--server-pid=4000000000", more]);
        let mut run = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while run.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                run.kill().unwrap();
                panic!("it waits for ever with {more}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("--server-pid 4000000000"), "{text}");
    }
    let (code, report) = fanout(&broker, &["--workers", &worker.addr]);
    assert_eq!(code, 0, "{report:#}");
}

#[test]
fn a_worker_that_is_not_there_is_named_with_what_to_do() {
    let (addr, broker) = (free_address(), Broker::start(Fault::Nothing));
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let output = loadgen(&[
        "fanout",
        "--target",
        &target,
        "--upstream",
        &upstream,
        "--connections=24",
        "--workers",
        &addr,
    ]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&addr) && text.contains("loadgen worker --listen"),
        "{text}"
    );
}
