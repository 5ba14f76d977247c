//! `recover`: clients are dropped at random while publications flow, come back and recover, and in the
//! end each has seen every publication of its rooms exactly once, or was told what it has not and why.
//!
//! Four steps: all clients subscribe; publishing and dropping go on for a time; then nobody is dropped
//! and nothing is published until all clients are back at the end of their rooms; and a last quiet
//! moment shows what comes too often. Nothing is sampled.

mod client;
mod message;
mod report;
mod tally;
mod worker;

pub(crate) use report::RecoveryReport;

use crate::course::{Now, Phase};
use crate::fleet::POLL;
use crate::host;
use crate::options::Recover;
use crate::outlet::{Outlet, UpstreamOutlet};
use crate::publisher::{self, Outcome, Plan};
use crate::report::{LoadgenReport, PublishReport, Report, ServerReport};
use crate::schedule::Schedule;
use crate::target;
use crate::watch::Watch;
use client::Context;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tally::Tally;
use worker::{Progress, Share};

/// How long after all clients are at the end repeated publications are waited for.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Runs the scenario. The error says why there was no run.
pub(crate) fn run(options: &Recover) -> Result<Report, String> {
    let plan = plan(options)?;
    target::check(options.target)?;
    let connect = || UpstreamOutlet::connect(options.upstream, None, options.rooms);
    drop(connect()?);
    host::raise_descriptor_limit();
    let server_before = host::read_all(&options.observe.server_pid)?;
    let mut workers = Workers::start(options, plan.run)?;
    workers.wait_subscribed(options)?;

    let outlet = Box::new(connect()?);
    let (server_begin, own_begin) = (
        host::read_all(&options.observe.server_pid)?,
        host::read_own()?,
    );
    workers.order(|progress| progress.dropping.store(true, Relaxed));
    let outcome = workers.publish(&plan, outlet)?;
    workers.wait_at_end(options, outcome.published)?;
    let (server_end, own_end) = (
        host::read_all(&options.observe.server_pid)?,
        host::read_own()?,
    );
    std::thread::sleep(AFTERMATH);
    let tally = workers.finish()?;
    let course = workers.watch.finish();

    let publish = PublishReport::new(&plan, &outcome).with_rooms(&outcome);
    let recovery = RecoveryReport::new(options, &tally);
    let delivered = tally.deliveries.delivered;
    Ok(Report {
        ok: tally.is_clean() && publish.is_clean(),
        publish: Some(publish),
        recovery: Some(recovery),
        server: ServerReport::between([server_before, server_begin, server_end], delivered),
        loadgen: LoadgenReport::between(&own_begin, &own_end, delivered),
        course,
        ..Report::empty()
    })
}

fn plan(options: &Recover) -> Result<Plan, String> {
    if options.rooms_each > options.rooms {
        return Err("--rooms-each must not be above --rooms".to_owned());
    }
    let publications = (options.rate.0 * options.duration.as_secs_f64()).round() as u64;
    if publications < u64::from(options.rooms) || publications > u64::from(u32::MAX) {
        return Err("rate × duration must be at least --rooms and below 2^32".to_owned());
    }
    // As many to every room, so that the last to each can be acknowledged with its offset.
    let publications = publications.next_multiple_of(u64::from(options.rooms));
    let schedule = Schedule::counted(publications, options.rate, 1);
    let mut plan = Plan::new(schedule, options.rooms, options.payload);
    plan.settles_rooms = true;
    Ok(plan)
}

/// The running workers.
struct Workers {
    running: Vec<(Arc<Progress>, JoinHandle<io::Result<Tally>>)>,
    watch: Watch,
    /// Publications handed over.
    published: u64,
}

impl Workers {
    /// Starts them; their clients connect at once.
    fn start(options: &Recover, run: u16) -> Result<Self, String> {
        let context = Arc::new(Context {
            host: options.target.to_string(),
            path: options.path.clone(),
            run,
            history: options.history,
        });
        let each = options.clients.div_ceil(options.threads);
        let shares = (0..options.clients)
            .step_by(each as usize)
            .map(|first| Share {
                clients: first..(first + each).min(options.clients),
                rooms: options.rooms,
                rooms_each: options.rooms_each,
                target: options.target,
                drop_every_ns: (options.drop_every.as_nanos() as u64).max(1),
                context: Arc::clone(&context),
            });
        let running = shares.map(|share| {
            let progress = Arc::new(Progress::default());
            let theirs = Arc::clone(&progress);
            let thread = std::thread::Builder::new()
                .name("worker".to_owned())
                .spawn(move || worker::run(share, &theirs))
                .map_err(|error| format!("thread: {error}"))?;
            Ok((progress, thread))
        });
        Ok(Self {
            running: running.collect::<Result<_, String>>()?,
            watch: Watch::new(
                channel().1,
                host::read_own()?,
                options.clients.into(),
                &options.observe,
                &options.output,
            )?,
            published: 0,
        })
    }

    fn wait_subscribed(&mut self, options: &Recover) -> Result<(), String> {
        let wanted = u64::from(options.clients);
        let back = |progress: &Progress| u64::from(progress.back.load(Relaxed));
        if self.wait(Phase::Ramp, wanted, options.grace, back)? {
            return Ok(());
        }
        let why = self.finish()?;
        let why = why
            .failures
            .iter()
            .map(|(failure, count)| format!("{count} × {failure}"));
        let why: Vec<_> = why.collect();
        Err(format!(
            "not all clients could subscribe ({}); are the rooms recoverable?",
            why.join(", ")
        ))
    }

    /// Publishes the plan while the workers drop clients.
    fn publish(&mut self, plan: &Plan, outlet: Box<dyn Outlet>) -> Result<Outcome, String> {
        let progress = Arc::new(publisher::Progress::default());
        let publishing = publisher::start(plan.clone(), outlet, &progress)?;
        while !publishing.is_finished() {
            self.check_alive()?;
            self.tick(Phase::Steady, &progress);
            std::thread::sleep(POLL);
        }
        self.published = progress.published.load(Relaxed);
        publisher::end(publishing)
    }

    fn tick(&mut self, phase: Phase, progress: &publisher::Progress) {
        let (delivered, back) = (
            self.sum(|progress| progress.delivered.load(Relaxed)),
            self.sum(|progress| u64::from(progress.back.load(Relaxed))),
        );
        self.watch.tick(|| Now {
            phase,
            connections: back,
            delivered,
            ..Now::of_publisher(progress)
        });
    }

    /// Has the workers drop nobody any more and waits until all clients are at the end of their rooms,
    /// or no more come there.
    fn wait_at_end(&mut self, options: &Recover, published: u64) -> Result<(), String> {
        self.order(|progress| {
            progress.published.store(published, Relaxed);
            // Pairs with the worker's acquire load: it sees `published`.
            progress.quiet.store(true, Release);
        });
        let at_end = |progress: &Progress| u64::from(progress.at_end.load(Relaxed));
        self.wait(
            Phase::CoolDown,
            u64::from(options.clients),
            options.grace,
            at_end,
        )?;
        Ok(())
    }

    /// Waits until `count` is `wanted`; whether it came to that before it stood still for `grace`.
    fn wait(
        &mut self,
        phase: Phase,
        wanted: u64,
        grace: Duration,
        count: impl Fn(&Progress) -> u64,
    ) -> Result<bool, String> {
        let (mut last, mut changed) = (0, Instant::now());
        let published = publisher::Progress::default();
        published.published.store(self.published, Relaxed);
        loop {
            let now = self.sum(&count);
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            if now == wanted || changed.elapsed() > grace {
                return Ok(now == wanted);
            }
            self.check_alive()?;
            self.tick(phase, &published);
            std::thread::sleep(POLL);
        }
    }

    fn order(&self, give: impl Fn(&Progress)) {
        self.running.iter().for_each(|(progress, _)| give(progress));
    }

    fn sum(&self, count: impl Fn(&Progress) -> u64) -> u64 {
        self.running
            .iter()
            .map(|(progress, _)| count(progress))
            .sum()
    }

    /// Workers end by themselves only when they cannot run.
    fn check_alive(&mut self) -> Result<(), String> {
        match self.running.iter().any(|(_, thread)| thread.is_finished()) {
            false => Ok(()),
            true => self.finish().map(|_| ()),
        }
    }

    /// Stops the workers and adds them up.
    fn finish(&mut self) -> Result<Tally, String> {
        self.order(|progress| progress.stop.store(true, Release));
        let mut all = Tally::new();
        for (_, thread) in self.running.drain(..) {
            let result = thread.join().map_err(|_| "a worker panicked".to_owned())?;
            all.merge(&result.map_err(|error| format!("a worker: {error}"))?);
        }
        Ok(all)
    }
}
