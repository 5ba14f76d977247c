//! That a run is over when everything came, or when nothing more comes for as long as it may take: not before.

mod fake;
mod ringcast;
mod run;

use fake::{Broker, Fault};
use ringcast::Ringcast;
use run::{loadgen, report};

#[test]
fn clients_that_publish_more_rarely_than_the_grace_are_not_cut_off() {
    let broker = Ringcast::start(&["--allow-publish"]);
    let output = loadgen(&[
        "chat",
        "--connections=10",
        "--rate=1",
        "--duration=3s",
        "--grace=200ms",
        "--settle=50ms",
        "--target",
        &broker.listen,
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["publish"]["published"], 3);
    assert_eq!(report["delivery"]["delivered"], 3 * 10);
}

#[test]
fn a_server_that_stalls_at_the_end_has_the_grace_also_where_connections_come_and_go() {
    let broker = Broker::start(Fault::LateEnd);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let output = loadgen(&[
        "churn",
        "--connections=24",
        "--rooms=3",
        "--life=1s",
        "--rate=60",
        "--duration=3s",
        "--settle=50ms",
        "--target",
        &target,
        "--upstream",
        &upstream,
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    // The last ten came, 8 to each room.
    assert!(report["delivery"]["latency"]["max_ms"].as_f64().unwrap() > 1_500.0);
}

#[test]
fn a_recovery_that_drops_too_few_proves_nothing_and_is_not_called_wrong() {
    let broker = Ringcast::start(&[
        "--set",
        "channels.force_recovery=true",
        "--set",
        "channels.history_size=300",
    ]);
    let output = loadgen(&[
        "recover",
        "--clients=20",
        "--rooms=4",
        "--rate=100",
        "--duration=1s",
        "--drop-every=60s",
        "--threshold=lost==0",
        "--target",
        &broker.listen,
        "--upstream",
        &broker.upstream,
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(4), "{report:#}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["verdict"]["thresholds"][0]["met"], true);
    let doubts = report["verdict"]["doubts"].to_string();
    assert!(doubts.contains("--drop-every"), "{doubts}");
}

#[test]
fn polling_asks_until_it_has_all_however_far_behind_it_is() {
    let broker = Ringcast::start(&[
        "--set",
        "api.insecure=true",
        "--set",
        "channels.history_size=5000",
        "--set",
        "channels.history_bytes=1048576",
    ]);
    let api = format!("http://{}/api", broker.admin);
    // 2,000 in half a second, of which an answer of the broker holds 300: seven questions, a second apart.
    let output = loadgen(&[
        "polling",
        "--clients=4",
        "--rooms=1",
        "--rate=4000",
        "--duration=500ms",
        "--payload=64",
        "--interval=1s",
        "--api",
        &api,
        "--upstream",
        &broker.upstream,
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["delivery"]["delivered"], 4 * 2_000);
}
