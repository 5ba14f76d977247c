//! That a generator without CPU of its own is refused: its times say nothing of the server.

mod fake;

use fake::{Broker, Fault};
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[test]
fn a_generator_that_has_no_core_is_refused_but_its_counts_stand() {
    let broker = Broker::start(Fault::Nothing);
    let (target, upstream) = (broker.listen.to_string(), broker.upstream.to_string());
    let core = core_affinity::get_core_ids().unwrap()[0];
    let is_over = Arc::new(AtomicBool::new(false));
    let spinners: Vec<_> = (0..4)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                core_affinity::set_for_current(core);
                while !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let run = |nice: &str| {
        let output = Command::new("nice")
            .args(["-n", nice, env!("CARGO_BIN_EXE_loadgen"), "fanout"])
            .args(["--target", &target, "--upstream", &upstream])
            .args(["--connections=24", "--rate=500", "--duration=2s"])
            .args(["--settle=50ms", "--grace=20s", "--threads=1", "--json"])
            .args(["--cores", &core.id.to_string(), "--threshold=p99<100s"])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), report)
    };
    // Four threads of the usual weight leave it 2.6 % of the core, less than it needs to keep up.
    let (code, report) = run("10");
    is_over.store(true, Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
    assert_eq!(code, Some(4), "{report:#}");
    let doubts = report["verdict"]["doubts"].to_string();
    assert!(doubts.contains("loadgen was short of CPU"), "{report:#}");
    assert_eq!(report["delivery"]["lost"], 0);
    // The same run with a core of its own proves what it is asked.
    let (code, report) = run("0");
    assert_eq!(code, Some(0), "{report:#}");
}
