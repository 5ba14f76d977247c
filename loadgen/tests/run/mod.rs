//! Running loadgen, and reading what it reports.

use serde_json::Value;
use std::process::{Command, Output};

/// Runs it to its end.
pub(crate) fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The report that it printed.
pub(crate) fn report(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(text)
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
}
