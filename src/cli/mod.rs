//! The command line: `serve`, `check`, `token`, `pub`, `sub`.

mod check;
mod publish;
mod serve;
mod subscribe;
mod token;

use crate::config::raw::ServeFlags;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Exit code of a command line, configuration or environment that cannot work.
const EXIT_USAGE: u8 = 2;

/// Edge broker: holds WebSocket clients, fans out what services publish.
///
/// Without a command, serves on loopback with a demo page at http://127.0.0.1:8000/.
#[derive(Debug, Parser)]
#[command(name = "ringcast", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker
    Serve(Box<ServeFlags>),
    /// Check a configuration and report every error; takes the flags of `serve`
    Check(Box<ServeFlags>),
    /// Make and check tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Publish one message over the upstream protocol and print its place in the room
    Pub(publish::PubFlags),
    /// Subscribe to a room over WebSocket and print its publications, one a line
    Sub(subscribe::SubFlags),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        None => serve::run(ServeFlags {
            demo: true,
            ..ServeFlags::default()
        }),
        Some(Command::Serve(flags)) => serve::run(*flags),
        Some(Command::Check(flags)) => check::run(*flags),
        Some(Command::Token(command)) => token::run(command),
        Some(Command::Pub(flags)) => publish::run(&flags),
        Some(Command::Sub(flags)) => subscribe::run(&flags),
    }
}

/// Whose upstream credentials a command uses.
#[derive(Debug, Args)]
struct Credentials {
    /// Key id, when the broker has keys
    #[arg(long, value_name = "ID", requires = "secret_file")]
    key_id: Option<String>,
    /// File that holds the key's secret
    #[arg(long, value_name = "FILE", requires = "key_id")]
    secret_file: Option<std::path::PathBuf>,
}

/// The cores that this process may run on.
fn cores_here() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).collect()
}

fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("ringcast: {error}");
    ExitCode::from(EXIT_USAGE)
}
