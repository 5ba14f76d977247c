//! The Python client against the running broker, with and without keys.

mod support;

use serde_json::json;
use std::process::{Command, Output};
use support::{Broker, Client};

/// Runs the client's checks; `None`, visibly, when there is no Python to run them with.
fn checks(broker: &Broker, key: &[&str]) -> Option<Output> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/test_broker.py");
    let upstream = broker.upstream.to_string();
    match Command::new("python3")
        .arg(script)
        .arg(upstream)
        .args(key)
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("LEFT OUT: the Python client, because python3 cannot be run ({error})");
            None
        }
    }
}

fn passed(output: &Output) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("all checks passed"),
        "{out}{err}"
    );
}

#[test]
fn what_python_publishes_reaches_subscribers_in_order() {
    let broker = Broker::start("--shards 2 --allow-anonymous");
    let mut client = Client::connect(broker.clients);
    client.subscribe("python");
    let Some(output) = checks(&broker, &[]) else {
        return;
    };
    passed(&output);
    let expected = [
        json!({"n": 1}),
        json!({"n": 2}),
        json!("three"),
        json!("AP8="),
        json!({"n": 5}),
    ];
    for (index, data) in expected.into_iter().enumerate() {
        let push = client.push();
        assert_eq!((push.offset, push.data), (index as u64 + 1, data));
    }
}

#[test]
fn python_proves_that_it_has_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "scores s3cret\n").unwrap();
    let flags = format!("--shards 1 --upstream-key-file {}", keys.display());
    let broker = Broker::start(&flags);
    if let Some(output) = checks(&broker, &["scores", "s3cret"]) {
        passed(&output);
    }
}
