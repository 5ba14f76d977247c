//! That the verdict of loadgen can be trusted: a sound broker passes, and each way in which a broker
//! can fail its clients is counted under its name and makes the exit code 1.

mod fake;
mod run;

use fake::{Broker, DELAY, Fault};
use run::{loadgen, report};
use serde_json::Value;
use std::process::Command;

const CONNECTIONS: u64 = 24;
const MESSAGES: u64 = 10;

/// Exit code and report of a fan-out to 24 connections in 3 rooms.
fn fanout(fault: Fault, more: &[&str]) -> (i32, Value) {
    let broker = Broker::start(fault);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let pid = std::process::id().to_string();
    let mut arguments = vec![
        "fanout",
        "--target",
        &target,
        "--upstream",
        &upstream,
        "--connections",
        "24",
        "--rooms",
        "3",
        "--messages",
        "10",
        "--payload",
        "100",
        "--settle",
        "50ms",
        "--grace",
        "2s",
        "--threads",
        "2",
        "--server-pid",
        &pid,
        "--json",
    ];
    arguments.extend(more);
    let output = loadgen(&arguments);
    (output.status.code().unwrap(), report(&output))
}

/// The delivery counts, in the order of `names`.
fn counts<const N: usize>(report: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| report["delivery"][name].as_u64().unwrap())
}

const FAULTS: [&str; 5] = ["lost", "duplicated", "reordered", "damaged", "misrouted"];

#[test]
fn a_sound_broker_passes() {
    let (code, report) = fanout(Fault::Nothing, &[]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["ok"], true);
    let all = CONNECTIONS * MESSAGES;
    assert_eq!(counts(&report, ["expected", "delivered"]), [all, all]);
    assert_eq!(counts(&report, FAULTS), [0; 5]);
    assert_eq!(report["connect"]["subscribed"], CONNECTIONS);
    assert_eq!(report["publish"]["published"], 3 * MESSAGES);
    assert!(report["delivery"]["latency"]["max_ms"].as_f64().unwrap() > 0.0);
    assert!(report["server"]["rss_connected_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn connections_come_from_the_addresses_that_were_named() {
    let broker = Broker::start(Fault::Nothing);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let mut arguments = vec!["fanout", "--target", &target, "--upstream", &upstream];
    arguments.extend(["--connections=24", "--settle=50ms", "--threads=2", "--json"]);
    arguments.extend(["--source", "127.8.0.7-8,127.9.0.1", "--processes=2"]);
    assert_eq!(loadgen(&arguments).status.code(), Some(0));
    assert_eq!(broker.sources(), ["127.8.0.7", "127.8.0.8", "127.9.0.1"]);
}

#[test]
fn a_schedule_is_kept() {
    let (code, report) = fanout(Fault::Nothing, &["--rate", "100"]);
    assert_eq!(code, 0, "{report:#}");
    // 30 publications, the first at once.
    assert!(report["publish"]["seconds"].as_f64().unwrap() >= 0.29);
}

#[test]
fn each_fault_is_counted_under_its_name() {
    let all = CONNECTIONS * MESSAGES;
    for (fault, delivered, faults) in [
        (Fault::DropOne, all - 1, [1, 0, 0, 0, 0]),
        (Fault::DuplicateOne, all, [0, 1, 0, 0, 0]),
        (Fault::SwapTwo, all, [0, 0, 1, 0, 0]),
        // What came damaged or to the wrong room did not come.
        (Fault::DamageOne, all - 1, [1, 0, 0, 1, 0]),
        (Fault::WrongRoom, all - 1, [1, 0, 0, 0, 1]),
    ] {
        let (code, report) = fanout(fault, &[]);
        assert_eq!(code, 1, "{fault:?}: {report:#}");
        assert_eq!(counts(&report, ["delivered"]), [delivered], "{fault:?}");
        assert_eq!(counts(&report, FAULTS), faults, "{fault:?}");
    }
}

#[test]
fn one_fault_in_ten_thousand_deliveries_is_caught_on_every_count() {
    let more = ["--messages", "2500", "--rate", "1500"];
    let (code, report) = fanout(Fault::NowAndThen, &more);
    assert_eq!(code, 1, "{report:#}");
    // 60,000 deliveries: six dropped, six twice, six after the one that followed them.
    assert_eq!(counts(&report, FAULTS), [6, 6, 6, 0, 0]);
    assert_eq!(counts(&report, ["expected", "delivered"]), [60_000, 59_994]);
    // 1 of 100 publications waited for the delay, and what came after it waited with it.
    let p99_ms = report["delivery"]["latency"]["p99_ms"].as_f64().unwrap();
    assert!(p99_ms >= DELAY.as_secs_f64() * 1e3 * 0.9, "{report:#}");
}

/// Exit code and report of a storm: all 24 connections drop after a second and come again.
fn storm(fault: Fault) -> (i32, Value) {
    let broker = Broker::start(fault);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let output = loadgen(&[
        "storm",
        "--target",
        &target,
        "--upstream",
        &upstream,
        "--connections=24",
        "--rooms=3",
        "--rate=60",
        "--warmup=1s",
        "--duration=3s",
        "--settle=50ms",
        "--grace=1s",
        "--threads=2",
        "--json",
    ]);
    (output.status.code().unwrap(), report(&output))
}

#[test]
fn a_server_that_forgets_who_came_back_is_caught_although_it_confirmed_them() {
    let (code, sound) = storm(Fault::Nothing);
    assert_eq!(code, 0, "{sound:#}");
    assert_eq!(sound["back"]["back"], CONNECTIONS);
    let (code, forgotten) = storm(Fault::ForgetLater);
    assert_eq!(code, 1, "{forgotten:#}");
    assert_eq!(forgotten["back"]["back"], CONNECTIONS);
    // Back after 1 s at the latest, and 20 publications to each room in each second after that.
    let [lost] = counts(&forgotten, ["lost"]);
    assert!(lost >= CONNECTIONS * 20, "{forgotten:#}");
}

/// Report of a churn: 24 connections live 1 s on the mean, and 2 s at most.
fn churn(fault: Fault) -> (i32, Value) {
    let broker = Broker::start(fault);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let mut arguments = vec!["churn", "--target", &target, "--upstream", &upstream];
    arguments.extend(["--connections=24", "--rooms=3", "--life=1s", "--rate=60"]);
    arguments.extend(["--duration=6s", "--settle=50ms", "--threads=2", "--json"]);
    let output = loadgen(&arguments);
    (output.status.code().unwrap(), report(&output))
}

#[test]
fn a_server_that_forgets_who_comes_and_goes_is_caught_on_those_who_have_left_again() {
    let (code, sound) = churn(Fault::Nothing);
    assert_eq!(code, 0, "{sound:#}");
    assert!(sound["back"]["back"].as_u64().unwrap() > CONNECTIONS);
    // What was due right before one left may have been on its way: on a machine that stalls that is all.
    let forgotten = (0..5)
        .map(|_| churn(Fault::ForgetLater))
        .inspect(|(code, report)| assert_eq!(*code, 1, "{report:#}"))
        .map(|(_, report)| report)
        .find(|report| {
            let ms = |part: &str, name: &str| report[part][name]["max_ms"].as_f64().unwrap();
            ms("delivery", "latency") < 100.0 && ms("publish", "late") < 100.0
        })
        .expect("one of five runs without a stall of 100 ms");
    // 20 publications to each room in each second: those who are there at the end have missed 40 at most.
    let [lost] = counts(&forgotten, ["lost"]);
    assert!(lost > CONNECTIONS * 40, "{forgotten:#}");
}

#[test]
fn a_generator_that_cannot_keep_its_schedule_is_refused() {
    // 36 MB that are all due within a millisecond.
    let more = [
        "--messages=3000",
        "--rate=50000000",
        "--payload=4000",
        "--threshold=p99<100s",
        "--grace=10s",
    ];
    let (code, report) = fanout(Fault::Nothing, &more);
    assert_eq!(code, 4, "{report:#}");
    let doubts = report["verdict"]["doubts"].to_string();
    assert!(doubts.contains("the schedule was not kept"), "{doubts}");
    // That nothing was lost is true all the same.
    let (code, _) = fanout(Fault::Nothing, &["--threshold", "lost==0"]);
    assert_eq!(code, 0);
}

#[test]
fn thresholds_decide_the_exit_code() {
    let (code, report) = fanout(Fault::Nothing, &["--threshold", "max<1us"]);
    assert_eq!(code, 3, "{report:#}");
    assert_eq!(report["verdict"]["thresholds"][0]["met"], false);
    let unclear = loadgen(&["fanout", "--threshold", "p99<50"]);
    assert_eq!(unclear.status.code(), Some(2));
    let text = String::from_utf8(unclear.stderr).unwrap();
    assert!(text.contains("a time with its unit"), "{text}");
}

#[test]
fn a_percentile_without_samples_proves_nothing() {
    let (code, report) = fanout(Fault::Nothing, &["--threshold", "p99.9<100s"]);
    assert_eq!(code, 4, "{report:#}");
    assert!(report["delivery"]["latency"]["p999_ms"].is_null());
}

#[test]
fn a_scenario_file_stands_for_a_command_line_and_options_override_it() {
    let broker = Broker::start(Fault::Nothing);
    let directory = std::env::temp_dir().join(format!("loadgen-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("small.toml");
    let text = format!(
        "scenario = \"fanout\"\ntarget = \"{}\"\nupstream = \"{}\"\nconnections = 9999\nrooms = 3\n\
         messages = 10\nsettle = \"50ms\"\nthreads = 2\nthreshold = [\"lost==0\", \"delivered==240\"]\njson = true\n",
        broker.listen, broker.upstream
    );
    std::fs::write(&file, text).unwrap();
    let (out, html, hgrm) = (
        directory.join("out.json"),
        directory.join("out.html"),
        directory.join("out.hgrm"),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("run")
        .arg(&file)
        .arg("--connections=24")
        .arg(format!("--out={}", out.display()))
        .arg(format!("--html={}", html.display()))
        .arg(format!("--hgrm={}", hgrm.display()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = report(&output);
    assert_eq!(report["connect"]["connections"], 24);
    // The report does without the file.
    let command = report["command"].to_string();
    assert!(
        command.contains("--rooms=3") && !command.contains("small.toml"),
        "{command}"
    );
    assert_eq!(report["verdict"]["thresholds"][0]["met"], true);
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert!(read(&html).contains("<svg") && read(&hgrm).contains("#[Mean"));
    let compared = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .arg("compare")
        .args([&out, &out])
        .output()
        .unwrap();
    let text = String::from_utf8(compared.stdout).unwrap();
    assert!(
        text.contains("delivered") && !text.contains("WORSE"),
        "{text}"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_failed_upgrade_or_subscribe_is_named() {
    for (fault, name) in [
        (Fault::AcceptKey, "upgrade: wrong accept key"),
        (Fault::RefuseSubscribe, "subscribe command: error 103"),
    ] {
        let (code, report) = fanout(fault, &[]);
        assert_eq!(code, 1, "{report:#}");
        assert_eq!(report["connect"]["failures"][name], 1, "{report:#}");
        assert_eq!(report["connect"]["subscribed"], CONNECTIONS - 1);
        // The others were served.
        let expected = (CONNECTIONS - 1) * MESSAGES;
        assert_eq!(counts(&report, ["delivered", "lost"]), [expected, 0]);
    }
}

#[test]
fn slow_readers_are_set_apart() {
    let (code, report) = fanout(Fault::Nothing, &["--slow-readers", "4"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["delivery"]["delivered"], CONNECTIONS * MESSAGES);
    assert_eq!(report["slow_readers"]["held"], 4);
}

fn idle(fault: Fault) -> (i32, Value, u32) {
    let broker = Broker::start(fault);
    let target = broker.listen.to_string();
    let output = loadgen(&[
        "idle",
        "--target",
        &target,
        "--connections",
        "24",
        "--hold",
        "600ms",
        "--settle",
        "100ms",
        "--json",
    ]);
    (
        output.status.code().unwrap(),
        report(&output),
        broker.pongs(),
    )
}

#[test]
fn pings_are_answered_while_idle() {
    let (code, report, pongs) = idle(Fault::Ping);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["hold"]["pings_answered"], CONNECTIONS);
    assert_eq!(u64::from(pongs), CONNECTIONS);
}

#[test]
fn a_connection_that_the_server_closes_is_a_failure() {
    let (code, report, _) = idle(Fault::CloseOne);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["connect"]["subscribed"], CONNECTIONS);
    assert_eq!(
        report["connect"]["failures"]["closed by the server: 0"], 1,
        "{report:#}"
    );
}

#[test]
fn publishing_alone_counts_publications() {
    let broker = Broker::start(Fault::Nothing);
    let upstream = broker.upstream.to_string();
    for ack in ["none", "accepted", "sequenced"] {
        let output = loadgen(&[
            "publish",
            "--upstream",
            &upstream,
            "--rooms",
            "10",
            "--messages",
            "100",
            "--ack",
            ack,
            "--json",
        ]);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_eq!(report["publish"]["published"], 1_000);
        // The last to every room is acknowledged in any case.
        let acknowledged = if ack == "none" { 10 } else { 1_000 };
        assert_eq!(report["publish"]["acknowledged"], acknowledged);
        assert_eq!(report["publish"]["rooms_settled"], 10);
        assert_eq!(report["publish"]["rooms_shared"], 0);
    }
}

#[test]
fn a_publication_that_was_not_sequenced_is_found_without_acknowledgements() {
    let broker = Broker::start(Fault::SkipOne);
    let upstream = broker.upstream.to_string();
    let output = loadgen(&[
        "publish",
        "--upstream",
        &upstream,
        "--rooms",
        "10",
        "--messages",
        "100",
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["publish"]["rooms_settled"], 9);
    let error = report["publish"]["error"].as_str().unwrap();
    assert!(error.contains("room-3 is at offset 99"), "{error}");
}

#[test]
fn without_a_broker_there_is_a_clear_message_and_exit_code_2() {
    // Bound and not listening: nobody else gets the port, and a connect is refused.
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap().to_string();
    for arguments in [
        ["fanout", "--target", &address],
        ["idle", "--target", &address],
        ["publish", "--upstream", &address],
    ] {
        let output = loadgen(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains(&address) && text.contains("ringcast serve"),
            "{text}"
        );
    }
    assert_eq!(
        loadgen(&["fanout", "--connections", "0"]).status.code(),
        Some(2)
    );
}
