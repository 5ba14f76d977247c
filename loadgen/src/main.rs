//! Load generator and delivery checker for Ringcast.
//!
//! One process holds all client connections, on rings of the broker's own driver, and publishes over
//! the upstream protocol. Every upgrade is verified and every delivery is checked: nothing is sampled.
//! Both ends of the load run on one host; the report says whether this end was short of CPU.

mod fleet;
mod host;
mod message;
mod options;
mod order;
mod payload;
mod peer;
mod presence;
mod publisher;
mod recover;
mod report;
mod scenario;
mod slow;
mod tally;
mod upgrade;
mod worker;

use clap::Parser;
use options::{Command, Options};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (result, json) = match Options::parse().command {
        Command::Fanout(fanout) => (scenario::fanout(&fanout), fanout.clients.json),
        Command::Idle(idle) => (scenario::idle(&idle), idle.clients.json),
        Command::Publish(publish) => (scenario::publish(&publish), publish.json),
        Command::Presence(options) => (presence::run(&options), options.clients.json),
        Command::Recover(recover) => (recover::run(&recover), recover.json),
    };
    match result {
        Ok(report) => {
            report.print(json);
            ExitCode::from(u8::from(!report.ok))
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(2)
        }
    }
}
