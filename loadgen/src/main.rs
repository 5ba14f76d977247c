//! Load generator and delivery checker for Ringcast and its peers.
//!
//! One process, or several, hold all client connections, on rings of the broker's own driver, and one
//! publishes. Every upgrade is verified and every delivery is checked: nothing is sampled. Both ends of the load may run on
//! one host; the report says whether this end was short of CPU.

mod abuse;
mod capacity;
mod clock;
mod course;
mod dialect;
mod environment;
mod fleet;
mod host;
mod options;
mod order;
mod outlet;
mod payload;
mod peer;
mod polling;
mod presence;
mod prometheus;
mod publisher;
mod recover;
mod report;
mod rooms;
mod scenario;
mod schedule;
mod slow;
mod source;
mod tally;
mod target;
mod upgrade;
mod url;
mod verdict;
mod view;
mod watch;
mod worker;

use clap::Parser;
use options::{Command, Options, Output, RunFile};
use report::Report;
use std::io::Write;
use std::process::ExitCode;
use verdict::Verdict;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a run that could not take place.
const NO_RUN: u8 = 2;
/// Slow readers of a thousand connections in `slow`, unless the options say otherwise.
const SLOW_PERMILLE: u32 = 50;
/// Connections of a room in `rooms`, unless the options say otherwise.
const ROOM_MEMBERS: u32 = 10;

fn main() -> ExitCode {
    let executed = execute(Options::parse().command, std::env::args().collect());
    let code = executed.unwrap_or_else(|error| {
        eprintln!("loadgen: {error}");
        NO_RUN
    });
    fleet::join_processes();
    ExitCode::from(code)
}

/// Does what `command` says, which `arguments` stand for.
fn execute(command: Command, arguments: Vec<String>) -> Result<u8, String> {
    match command {
        Command::Run(file) => {
            let (command, arguments) = read_scenario(&file)?;
            execute(command, arguments)
        }
        Command::Capacity(options) => capacity::search(&options),
        Command::Worker(options) => fleet::serve(&options),
        Command::Compare(options) => {
            let (before, after) = (
                report::read(&options.before)?,
                report::read(&options.after)?,
            );
            // A reader that has seen enough closes the pipe.
            let _ = write!(std::io::stdout(), "{}", report::compare(&before, &after));
            Ok(0)
        }
        command => {
            let mut report = run(&command)?;
            report.command = options::command_line(arguments.into_iter());
            if let Some(output) = output(&command) {
                report.publish(output)?;
            }
            Ok(report.verdict.exit_code)
        }
    }
}

/// Runs a scenario. The error says why there was no run.
fn run(command: &Command) -> Result<Report, String> {
    let mut report = match command {
        Command::Fanout(options) => scenario::fanout(options, None, 0),
        Command::Rooms(options) => scenario::fanout(options, Some(ROOM_MEMBERS), 0),
        Command::Slow(options) => scenario::fanout(options, None, SLOW_PERMILLE),
        Command::Abuse(options) => scenario::abuse(options),
        Command::Chat(options) => scenario::chat(options),
        Command::Churn(options) => scenario::churn(options),
        Command::Storm(options) => scenario::storm(options),
        Command::Idle(options) => scenario::idle(options),
        Command::Polling(options) => polling::run(options),
        Command::Publish(options) => scenario::publish(options),
        Command::Recover(options) => recover::run(options),
        Command::Presence(options) => presence::run(options),
        Command::Run(_) | Command::Worker(_) | Command::Capacity(_) | Command::Compare(_) => {
            Err("no scenario".to_owned())
        }
    }?;
    let thresholds = output(command).map_or(&[][..], |output| &output.threshold);
    report.verdict = Verdict::new(&report, thresholds);
    Ok(report)
}

/// What becomes of the report of a scenario.
fn output(command: &Command) -> Option<&Output> {
    Some(match command {
        Command::Fanout(options) | Command::Rooms(options) | Command::Slow(options) => {
            &options.output
        }
        Command::Abuse(options) => &options.fanout.output,
        Command::Churn(options) => &options.fanout.output,
        Command::Storm(options) => &options.fanout.output,
        Command::Chat(options) => &options.output,
        Command::Idle(options) => &options.output,
        Command::Polling(options) => &options.output,
        Command::Publish(options) => &options.output,
        Command::Recover(options) => &options.output,
        Command::Presence(options) => &options.output,
        Command::Run(_) | Command::Worker(_) | Command::Capacity(_) | Command::Compare(_) => {
            return None;
        }
    })
}

/// The scenario that a file and the options after it stand for, and the command line that does the same
/// without the file. A mistake in either is clap's to tell, and ends the program.
fn read_scenario(file: &RunFile) -> Result<(Command, Vec<String>), String> {
    let name = file.file.display();
    let text = std::fs::read_to_string(&file.file).map_err(|error| format!("{name}: {error}"))?;
    let arguments = options::file_arguments(&text, &file.options)
        .map_err(|error| format!("{name}: {error}"))?;
    let all: Vec<_> = std::iter::once("loadgen".to_owned())
        .chain(arguments)
        .chain(file.options.iter().cloned())
        .collect();
    match Options::parse_from(&all).command {
        Command::Run(_) | Command::Worker(_) | Command::Capacity(_) | Command::Compare(_) => {
            Err(format!("{name}: `scenario` must name a scenario"))
        }
        command => Ok((command, all)),
    }
}
