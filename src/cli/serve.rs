//! `ringcast serve`.

use super::fail;
use crate::boot::Broker;
use crate::config::Config;
use crate::config::raw::ServeFlags;
use crate::service::Drained;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Exit code after a second signal: not everything was closed in order.
const EXIT_CUT_SHORT: i32 = 1;

pub(super) fn run(flags: ServeFlags) -> ExitCode {
    let config = match Config::from_flags(flags, &super::cores_here()) {
        Ok(config) => config,
        Err(errors) => {
            errors
                .iter()
                .for_each(|error| eprintln!("ringcast: {error}"));
            return ExitCode::from(super::EXIT_USAGE);
        }
    };
    let broker = match Broker::bind(config) {
        Ok(broker) => broker,
        Err(error) => return fail(error),
    };
    let shutdown = match on_signal() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(error),
    };
    if let Some(note) = broker.state_note() {
        eprintln!("ringcast: {note}");
    }
    let banner = banner(&broker);
    match broker.run(shutdown, || eprintln!("{banner}")) {
        Ok(Drained::Completely) => {
            eprintln!("ringcast: drained, all connections closed");
            ExitCode::SUCCESS
        }
        Ok(Drained::DeadlinePassed) => {
            eprintln!("ringcast: the drain deadline passed, remaining connections were cut");
            ExitCode::SUCCESS
        }
        Err(error) => fail(error),
    }
}

/// The first SIGTERM or SIGINT drains, the second ends the process at once.
fn on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let shutdown = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the second signal finds the flag that the first has set.
        flag::register_conditional_shutdown(signal, EXIT_CUT_SHORT, Arc::clone(&shutdown))?;
        flag::register(signal, Arc::clone(&shutdown))?;
    }
    Ok(shutdown)
}

fn banner(broker: &Broker) -> String {
    let config = broker.config();
    let mut lines = vec![
        format!("ringcast {} is serving", env!("CARGO_PKG_VERSION")),
        format!("  clients   ws://{}{}", config.listen, config.path),
        format!("  upstream  {}", config.upstream),
        format!("  admin     http://{}/health /ready /metrics", config.admin),
        format!(
            "  shards    {} on cores {:?}, up to {} connections each",
            config.shards,
            config.cores,
            broker.connections_per_shard()
        ),
    ];
    if config.demo {
        lines.insert(
            1,
            format!(
                "  demo      http://{}/ (open it in two tabs)",
                config.listen
            ),
        );
    }
    if config.client.insecure {
        let note = "client.insecure is on: everybody who reaches the address may do everything";
        lines.push(format!("  note      {note}"));
    }
    if !config.lets_clients_in() {
        let note = "no client can connect: no --allow-anonymous, no token keys, no connect hook";
        lines.push(format!("  note      {note}"));
    }
    lines.join("\n")
}
