//! Clients recover over a restart: what a drained broker saves, the next one knows.

mod support;

use ringcast::base::Content;
use ringcast::client::{Message, Upstream};
use ringcast::wire::upstream::AckLevel;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use support::{Client, Process};

fn serve(state: &Path, shards: u16) -> Process {
    Process::serve(&format!(
        "--listen 127.0.0.1:0 --upstream 127.0.0.1:0 --admin 127.0.0.1:0 --allow-anonymous \
         --shards {shards} --set channels.force_recovery=true --set state.file={}",
        state.display()
    ))
}

fn publish(process: &Process, room: &str, numbers: std::ops::RangeInclusive<u64>) {
    let mut upstream = Upstream::connect(process.upstream, "test", None).unwrap();
    for number in numbers {
        let payload = number.to_string();
        let message = Message::new(Content::Json, payload.as_bytes(), AckLevel::Sequenced);
        upstream.publish(room, &message).unwrap();
    }
}

fn subscribe(process: &Process, room: &str) -> Value {
    let mut client = Client::connect(process.clients);
    client.command(json!({"subscribe": {"channel": room}}))["subscribe"].clone()
}

fn recover(process: &Process, room: &str, epoch: &Value, offset: u64) -> Value {
    let mut client = Client::connect(process.clients);
    let position = json!({"channel": room, "recover": true, "epoch": epoch, "offset": offset});
    client.command(json!({ "subscribe": position }))["subscribe"].clone()
}

fn stop(mut process: Process) -> String {
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    process.rest_of_stderr()
}

fn data(reply: &Value) -> Vec<u64> {
    let publications = reply["publications"].as_array();
    let publications = publications.map(Vec::as_slice).unwrap_or_default();
    publications
        .iter()
        .map(|one| one["data"].as_u64().unwrap())
        .collect()
}

#[test]
fn clients_recover_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let process = serve(&state, 2);
    publish(&process, "news", 1..=5);
    let news = subscribe(&process, "news");
    let quiet = subscribe(&process, "quiet");
    assert_eq!(news["offset"], 5);
    stop(process);
    assert!(state.exists(), "written at the end of the drain");

    // Another number of shards: rooms have other homes.
    let process = serve(&state, 3);
    assert!(!state.exists(), "used once");
    let back = recover(&process, "news", &news["epoch"], 2);
    assert_eq!(
        (&back["recovered"], data(&back)),
        (&json!(true), vec![3, 4, 5]),
        "{back}"
    );
    let still = recover(&process, "quiet", &quiet["epoch"], 0);
    assert_eq!(
        still["recovered"], true,
        "nobody has published: nothing was missed"
    );
    publish(&process, "news", 6..=6);
    let back = recover(&process, "news", &news["epoch"], 5);
    assert_eq!(data(&back), [6], "offsets go on");
    stop(process);

    let process = serve(&state, 1);
    assert_eq!(data(&recover(&process, "news", &news["epoch"], 4)), [5, 6]);
}

#[test]
fn a_killed_broker_leaves_no_state_that_would_lie() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let process = serve(&state, 2);
    publish(&process, "news", 1..=3);
    let news = subscribe(&process, "news");
    stop(process);
    let mut process = serve(&state, 2);
    publish(&process, "news", 4..=6);
    process.signal(Signal::KILL);
    process.wait();
    let process = serve(&state, 2);
    publish(&process, "news", 1..=6);
    let back = recover(&process, "news", &news["epoch"], 5);
    assert_eq!(back.get("recovered"), None, "another history: {back}");
    assert_eq!(back["was_recovering"], true);
}

#[test]
fn a_torn_or_foreign_file_is_refused_by_name_and_the_broker_starts_empty() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let process = serve(&state, 2);
    publish(&process, "news", 1..=5);
    let news = subscribe(&process, "news");
    stop(process);
    let whole = std::fs::read(&state).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, why) in [
        (&whole[..whole.len() / 2], "torn"),
        (b"#!/bin/sh\necho not a state file\n", "not a state file"),
        (&flipped, "damaged"),
        (b"", "torn"),
    ] {
        std::fs::write(&state, bytes).unwrap();
        let process = serve(&state, 2);
        let back = recover(&process, "news", &news["epoch"], 2);
        assert_eq!(back.get("recovered"), None, "{why}: {back}");
        let aside = folder.path().join("state.refused");
        assert_eq!(std::fs::read(&aside).unwrap(), bytes, "kept for a look");
        let noted = process.noted();
        assert!(
            noted.contains(why) && noted.contains("starting empty"),
            "{why}: {noted}"
        );
        stop(process);
        std::fs::remove_file(&state).unwrap();
    }
}
