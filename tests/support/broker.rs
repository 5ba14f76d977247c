//! A broker in this process, on ports that the kernel chose.

use super::{Metrics, PATIENCE, until};
use clap::Parser;
use ringcast::boot::{self, BootError};
use ringcast::client::Upstream;
use ringcast::config::Config;
use ringcast::config::raw::ServeFlags;
use ringcast::service::Drained;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: ServeFlags,
}

/// A running broker; it drains when dropped.
pub(crate) struct Broker {
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// Where upstream services connect.
    pub(crate) upstream: SocketAddr,
    /// Where operators connect.
    pub(crate) admin: SocketAddr,
    shutdown: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Drained, BootError>>>,
}

impl Broker {
    /// A broker with these flags of `ringcast serve`, addresses excepted.
    pub(crate) fn start(flags: &str) -> Self {
        Self::start_with(flags, |_| {})
    }

    /// As [`Broker::start`], with a configuration that is changed first.
    pub(crate) fn start_with(flags: &str, change: impl FnOnce(&mut Config)) -> Self {
        let anywhere = "serve --listen 127.0.0.1:0 --upstream 127.0.0.1:0 --admin 127.0.0.1:0";
        let words = anywhere.split(' ').chain(flags.split_whitespace());
        let mut config = Config::from_flags(Command::parse_from(words).flags, &[]).expect("flags");
        change(&mut config);
        let broker = boot::Broker::bind(config).expect("bind");
        let config = broker.config();
        let (clients, upstream, admin) = (config.listen, config.upstream, config.admin);
        let shutdown = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let flag = Arc::clone(&shutdown);
        let thread = std::thread::spawn(move || broker.run(flag, || ready.send(()).unwrap()));
        is_ready.recv_timeout(PATIENCE).expect("a broker that runs");
        Self {
            clients,
            upstream,
            admin,
            shutdown,
            thread: Some(thread),
        }
    }

    /// A connection of an upstream service.
    pub(crate) fn upstream(&self) -> Upstream {
        let mut upstream = Upstream::connect(self.upstream, "test", None).expect("upstream");
        upstream.set_timeout(PATIENCE).unwrap();
        upstream
    }

    /// The metrics of this moment.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::fetch(self.admin)
    }

    /// The first metrics of which `holds` is true.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        until(what, || Some(self.metrics()).filter(&holds))
    }

    /// Asks for the drain without waiting for it.
    pub(crate) fn ask_to_stop(&self) {
        self.shutdown.store(true, Ordering::Relaxed);
    }

    /// Drains and says how that went.
    pub(crate) fn stop(mut self) -> Drained {
        self.ask_to_stop();
        let thread = self.thread.take().expect("stopped once");
        thread
            .join()
            .expect("no panic in the service thread")
            .expect("an orderly end")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.ask_to_stop();
        let ended = thread.join();
        if !std::thread::panicking() {
            ended
                .expect("no panic in the service thread")
                .expect("an orderly end");
        }
    }
}
