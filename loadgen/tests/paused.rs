//! That a server which stops for a second shows in the latencies from when publications were due, and
//! that a client which waits for each answer would not have seen it: the coordinated omission of a closed
//! loop, with the real broker and a real SIGSTOP.

mod ringcast;

use ringcast::Ringcast;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_paused_server_shows_in_the_corrected_percentiles_only() {
    let broker = Ringcast::start(&[]);
    let loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([
            "fanout",
            "--target",
            &broker.listen,
            "--upstream",
            &broker.upstream,
        ])
        .args(["--connections", "10", "--rate", "500", "--duration", "5s"])
        .args([
            "--settle",
            "100ms",
            "--window",
            "1",
            "--threads",
            "1",
            "--json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    signal(&broker.child, "-STOP");
    std::thread::sleep(Duration::from_secs(1));
    signal(&broker.child, "-CONT");
    let output = loadgen.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let delivery = &report["delivery"];
    assert_eq!(
        (&delivery["delivered"], &delivery["lost"]),
        (&25_000.into(), &0.into())
    );
    // A fifth of the publications were due while it stood still, so a tenth waited half a second.
    let ms = |latency: &str, quantile: &str| delivery[latency][quantile].as_f64().unwrap();
    let (corrected, uncorrected) = (ms("latency", "p95_ms"), ms("latency_from_send", "p95_ms"));
    assert!(corrected > 500.0, "{delivery:#}");
    assert!(uncorrected < 250.0, "{delivery:#}");
    // The one that was on its way has waited all the same: for most of the second, wherever it was handed over.
    assert!(ms("latency_from_send", "max_ms") > 500.0, "{delivery:#}");
}
