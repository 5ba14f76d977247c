//! The largest load that still meets an objective.
//!
//! The load doubles until a step misses the objective, then the gap is halved until it is small. Each step
//! is a whole run of the scenario, in a process of its own, so that no step inherits the sockets or the
//! memory of the one before.

use crate::options::{Capacity, Vary, file_arguments};
use crate::report::{Report, grouped, read, write_file};
use crate::verdict::Threshold;
use serde::Serialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// One step of the search.
#[derive(Debug, Serialize)]
struct Step {
    /// Publications per second, or connections.
    load: u32,
    /// Whether the objective was met.
    met: bool,
    /// What gave, when it was not.
    gave: Vec<String>,
    /// Latency from when due, 99th percentile, milliseconds.
    p99_ms: Option<f64>,
    /// Cores that the server used.
    server_cores: Option<f64>,
}

/// The report of a search.
#[derive(Debug, Serialize)]
struct Search {
    /// What was varied.
    vary: &'static str,
    /// The objective.
    slo: Vec<String>,
    /// Largest load that met it; `None` when not even the first did.
    capacity: Option<u32>,
    /// What gave first beyond it; empty when the largest load to try still met it.
    gave_first: Vec<String>,
    /// The steps, in the order they were made.
    steps: Vec<Step>,
}

/// Searches, prints the knee, and gives the exit code: 0 when there is a load that meets the objective.
pub(crate) fn search(options: &Capacity) -> Result<u8, String> {
    if options.from > options.to {
        return Err("--from must not be above --to".to_owned());
    }
    let mut search = Search {
        vary: match options.vary {
            Vary::Rate => "rate",
            Vary::Connections => "connections",
        },
        slo: options.slo.iter().map(Threshold::to_string).collect(),
        capacity: None,
        gave_first: Vec::new(),
        steps: Vec::new(),
    };
    let (mut load, mut missed) = (options.from, None);
    loop {
        let step = run_step(options, search.vary, load)?;
        print_step(&step, search.vary);
        if step.met {
            search.capacity = Some(load);
        } else {
            missed = Some(load);
            search.gave_first = step.gave.clone();
        }
        search.steps.push(step);
        match next_load(search.capacity, missed, options) {
            Some(next) => load = next,
            None => break,
        }
    }
    match search.capacity {
        Some(load) => {
            let load = grouped(u64::from(load));
            println!("capacity     {load} {}", unit(search.vary));
        }
        None => println!("capacity     none: not even the first step met the objective"),
    }
    for gave in &search.gave_first {
        println!("gave first   {gave}");
    }
    if let Some(path) = &options.out {
        let text = serde_json::to_string_pretty(&search).expect("numbers and strings only");
        write_file(path, &text)?;
    }
    Ok(u8::from(search.capacity.is_none()) * 3)
}

/// The next load to try, given the largest that met the objective and the smallest that missed it.
fn next_load(met: Option<u32>, missed: Option<u32>, options: &Capacity) -> Option<u32> {
    match (met, missed) {
        (None, _) => None,
        (Some(met), None) if met >= options.to => None,
        (Some(met), None) => Some(met.saturating_mul(2).min(options.to)),
        (Some(met), Some(missed)) => {
            let middle = met + (missed - met) / 2;
            let is_near = f64::from(missed - met) <= options.precision * f64::from(met);
            (!is_near && middle > met).then_some(middle)
        }
    }
}

fn run_step(options: &Capacity, vary: &str, load: u32) -> Result<Step, String> {
    let (first, rest) = options
        .scenario
        .split_first()
        .ok_or("a scenario file or the name of a scenario is missing")?;
    let out = std::env::temp_dir().join(format!("loadgen-capacity-{}.json", std::process::id()));
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let option = format!("--{vary}={load}");
    let mut later = rest.to_vec();
    later.push(option.clone());
    // What a file asks for besides the objective is asked for too.
    let scenario = match Path::new(first).is_file() {
        true => file_arguments(
            &std::fs::read_to_string(first).map_err(|error| format!("{first}: {error}"))?,
            &later,
        )
        .map_err(|error| format!("{first}: {error}"))?,
        false => vec![first.clone()],
    };
    let status = Command::new(program)
        .args(scenario)
        .args(&later)
        .args(options.slo.iter().map(|slo| format!("--threshold={slo}")))
        .arg("--plain")
        .arg(format!("--out={}", out.display()))
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("a step: {error}"))?;
    if status.code().is_none_or(|code| code == 2) {
        return Err(format!("the step with {option} could not take place"));
    }
    let report = read(&out)?;
    // The file is this process's own, and nothing depends on its removal.
    let _ = std::fs::remove_file(&out);
    Ok(step(load, &report))
}

fn step(load: u32, report: &Report) -> Step {
    let mut gave: Vec<String> = report
        .verdict
        .thresholds
        .iter()
        .filter(|checked| checked.met == Some(false))
        .map(|checked| format!("{} missed: {}", checked.threshold, checked.shown()))
        .collect();
    if !report.ok && gave.is_empty() {
        gave = what_went_wrong(report);
    }
    if report.verdict.exit_code == 4 {
        gave.extend(report.verdict.doubts.iter().cloned());
    }
    Step {
        load,
        met: report.verdict.exit_code == 0,
        gave,
        p99_ms: report.delivery.as_ref().and_then(|d| d.latency.p99_ms),
        server_cores: report.server.as_ref().and_then(|server| server.run_cores),
    }
}

/// Of a run that is not right although no threshold of the objective says so.
fn what_went_wrong(report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(connect) = &report.connect {
        let failures = connect.failures.iter();
        wrong.extend(failures.map(|(why, count)| format!("{} × {why}", grouped(*count))));
    }
    if let Some(delivery) = &report.delivery {
        for (name, count) in [
            ("lost", delivery.lost),
            ("duplicated", delivery.duplicated),
            ("reordered", delivery.reordered),
            ("damaged", delivery.damaged),
            ("misrouted", delivery.misrouted),
        ] {
            wrong.extend((count > 0).then(|| format!("{} {name}", grouped(count))));
        }
    }
    let error = report
        .publish
        .as_ref()
        .and_then(|publish| publish.error.clone());
    wrong.extend(error);
    if wrong.is_empty() {
        wrong.push("not everything was published, or not all came back".to_owned());
    }
    wrong
}

/// What a load is counted in.
fn unit(vary: &str) -> &str {
    match vary {
        "rate" => "publications per second",
        other => other,
    }
}

fn print_step(step: &Step, vary: &str) {
    let p99 = step
        .p99_ms
        .map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
    let cores = step
        .server_cores
        .map_or(String::new(), |cores| format!(", server {cores:.2} cores"));
    let state = if step.met { "met" } else { "missed" };
    println!(
        "step         {} {}: {state}, p99 {p99}{cores}",
        grouped(u64::from(step.load)),
        unit(vary)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    fn options(from: &str, to: &str) -> Capacity {
        let all = [
            "loadgen",
            "capacity",
            "--slo",
            "p99<50ms,lost==0",
            "--from",
            from,
            "--to",
            to,
            "fanout",
            "--connections",
            "7",
        ];
        match Options::try_parse_from(all).unwrap().command {
            Command::Capacity(options) => options,
            other => panic!("{other:?}"),
        }
    }

    /// The loads that are tried when everything up to `limit` meets the objective.
    fn loads(limit: u32) -> Vec<u32> {
        let options = options("100", "1000");
        let (mut met, mut missed, mut loads) = (None, None, vec![options.from]);
        loop {
            let load = *loads.last().unwrap();
            match load <= limit {
                true => met = Some(load),
                false => missed = Some(load),
            }
            match next_load(met, missed, &options) {
                Some(next) => loads.push(next),
                None => return loads,
            }
        }
    }

    #[test]
    fn the_search_doubles_and_then_halves_the_gap() {
        assert_eq!(loads(50), [100]);
        assert_eq!(loads(5_000), [100, 200, 400, 800, 1_000]);
        assert_eq!(loads(510), [100, 200, 400, 800, 600, 500, 550]);
    }

    #[test]
    fn what_gave_is_told_although_no_threshold_asks_for_it() {
        let mut report = Report::empty();
        report.verdict.exit_code = 1;
        report.delivery = Some(crate::report::DeliveryReport {
            duplicated: 2,
            ..Default::default()
        });
        report.connect = Some(crate::report::ConnectReport {
            failures: [("closed by the server: 3008".to_owned(), 7)].into(),
            ..Default::default()
        });
        assert_eq!(
            step(10, &report).gave,
            ["7 × closed by the server: 3008", "2 duplicated"]
        );
    }

    #[test]
    fn an_objective_has_several_thresholds_and_the_scenario_keeps_its_options() {
        let options = options("1", "2");
        assert_eq!((options.slo.len(), options.scenario.len()), (2, 3));
    }
}
