//! The runs with connections on rings: from the first check to the report.
//!
//! One conduct for all of them: connect and subscribe, settle, publish on a schedule while something
//! may happen to the connections, wait until everything was delivered or nothing more comes, count.

mod flow;

use crate::abuse::Attackers;
use crate::course::{Now, Phase, Recorder};
use crate::fleet::{self, Ended, Fleet, POLL, Work};
use crate::host::{self, Cpu, Reading};
use crate::options::{
    Abuse, Ack, Chat as ChatOptions, Churn, Clients, Fanout, Idle, Observe, Output, Pace, Protocol,
    Publications, Publish, Storm,
};
use crate::outlet::{Confirm, Outlet, UpstreamOutlet};
use crate::publisher::{self, Outcome, Plan};
use crate::report::{
    BackReport, ConnectReport, CpuReport, DeliveryReport, HoldReport, Latency, LoadgenReport,
    PublishReport, Report, ServerReport, WorkerReport, ranges,
};
use crate::schedule::Schedule;
use crate::slow::SlowReaders;
use crate::tally::Tally;
use crate::target;
use crate::view::View;
use crate::worker::{Chat, Totals};
use flow::Flow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long after the last expected delivery repeated ones are waited for.
const AFTERMATH: Duration = Duration::from_millis(200);
/// Members of a room of a chat, unless the options say otherwise.
const CHAT_MEMBERS: u32 = 10;
/// From the moment a schedule is made to its start, so that all workers know of it.
const LEAD_NS: u64 = 50_000_000;

/// What is done to the connections while publications flow.
#[derive(Clone, Copy, Debug, Default)]
enum Trouble {
    #[default]
    None,
    /// They live this long.
    Churn(Duration),
    /// So many of a thousand drop at the beginning of the steady phase, and have this long to be back.
    Storm(u32, Duration),
}

/// Who publishes.
enum Load<'a> {
    /// Nobody; the connections are held.
    Hold(Duration),
    /// One publisher.
    Outlet(&'a Publications, &'a Pace),
    /// The clients.
    Clients(Arc<Chat>, &'a Pace),
}

struct Conduct<'a> {
    clients: Clients,
    load: Load<'a>,
    trouble: Trouble,
    slow_readers: u32,
    slow_rate: u32,
    /// Attackers, and how long half-sent requests may last.
    attackers: Option<(u32, Duration)>,
    observe: &'a Observe,
    output: &'a Output,
}

/// Publishes to rooms, `members` clients each unless the options say otherwise, with so many slow
/// readers of a thousand unless they say otherwise.
pub(crate) fn fanout(
    options: &Fanout,
    members: Option<u32>,
    slow_permille: u32,
) -> Result<Report, String> {
    conduct_of(options, members, slow_permille).run()
}

fn conduct_of(options: &Fanout, members: Option<u32>, slow_permille: u32) -> Conduct<'_> {
    let clients = options.clients.clone();
    let clients = match members {
        Some(members) => clients.with_rooms_of(members),
        None => clients,
    };
    let slow = (u64::from(clients.connections) * u64::from(slow_permille)).div_ceil(1_000);
    Conduct {
        slow_readers: options.slow.slow_readers.unwrap_or(slow.min(1_000) as u32),
        slow_rate: options.slow.slow_rate,
        clients,
        load: Load::Outlet(&options.publications, &options.pace),
        trouble: Trouble::None,
        attackers: None,
        observe: &options.observe,
        output: &options.output,
    }
}

/// As [`fanout`], under attack.
pub(crate) fn abuse(options: &Abuse) -> Result<Report, String> {
    let mut conduct = conduct_of(&options.fanout, None, 0);
    conduct.attackers = Some((options.attackers, options.patience));
    conduct.run()
}

/// As [`fanout`], with connections that come and go.
pub(crate) fn churn(options: &Churn) -> Result<Report, String> {
    let mut conduct = conduct_of(&options.fanout, None, 0);
    conduct.trouble = Trouble::Churn(options.life);
    conduct.run()
}

/// As [`fanout`], with connections that drop at once.
pub(crate) fn storm(options: &Storm) -> Result<Report, String> {
    let mut conduct = conduct_of(&options.fanout, None, 0);
    let permille = (options.share * 1_000.0).round().max(1.0) as u32;
    conduct.trouble = Trouble::Storm(permille, options.back_within);
    conduct.run()
}

/// Clients publish to their rooms, [`CHAT_MEMBERS`] to each unless the options say otherwise.
pub(crate) fn chat(options: &ChatOptions) -> Result<Report, String> {
    let members = match options.clients.protocol {
        // Nobody hears another.
        Protocol::Echo => 1,
        _ => CHAT_MEMBERS,
    };
    let clients = options.clients.clone().with_rooms_of(members);
    if members == 1 && clients.rooms() != clients.connections {
        return Err("of an echo server every connection is a room: leave --rooms out".to_owned());
    }
    if options.pace.rate.is_none() && options.pace.rate_steps.is_empty() {
        return Err("chat wants --rate or --rate-steps: publications per second in all".to_owned());
    }
    if !target::dialect(&clients).publishes() {
        return Err("clients of this protocol cannot publish".to_owned());
    }
    let each = u64::from(clients.connections);
    let chat = Chat {
        schedule: schedule(&options.pace, each)?,
        payload_bytes: options.payload,
    };
    Conduct {
        clients,
        load: Load::Clients(Arc::new(chat), &options.pace),
        trouble: Trouble::None,
        slow_readers: 0,
        slow_rate: 0,
        attackers: None,
        observe: &options.observe,
        output: &options.output,
    }
    .run()
}

/// Connects, subscribes and holds.
pub(crate) fn idle(options: &Idle) -> Result<Report, String> {
    Conduct {
        clients: options.clients.clone(),
        load: Load::Hold(options.hold),
        trouble: Trouble::None,
        slow_readers: 0,
        slow_rate: 0,
        attackers: None,
        observe: &options.observe,
        output: &options.output,
    }
    .run()
}

/// When publications are due; `counted` in all where no time bounds them.
pub(crate) fn schedule(pace: &Pace, counted: u64) -> Result<Schedule, String> {
    let rates = match pace.rate {
        Some(rate) => vec![rate],
        None => pace.rate_steps.clone(),
    };
    let schedule = match (pace.duration, rates.as_slice()) {
        (None, []) => Schedule::closed(counted),
        (None, [rate]) if pace.warmup.is_zero() && pace.cooldown.is_zero() => {
            Schedule::counted(counted, *rate, pace.burst)
        }
        (None, _) => return Err("phases and steps want --duration".to_owned()),
        (Some(_), []) => return Err("--duration wants --rate or --rate-steps".to_owned()),
        (Some(each), rates) => {
            Schedule::phased(pace.warmup, rates, each, pace.cooldown, pace.burst)
        }
    };
    match u32::try_from(schedule.publications()) {
        Ok(0) => Err("the schedule has no publications: raise --rate or --duration".to_owned()),
        Ok(_) => Ok(schedule),
        Err(_) => Err("publications must be below 2^32 in all".to_owned()),
    }
}

impl Conduct<'_> {
    fn run(self) -> Result<Report, String> {
        let clients = &self.clients;
        target::check(clients.target)?;
        let mut plan = None;
        if let Load::Outlet(publications, pace) = &self.load {
            if clients.protocol == Protocol::Echo {
                return Err("an echo server has no publisher: use `chat`".to_owned());
            }
            let counted = u64::from(publications.messages()) * u64::from(clients.rooms());
            let mut made = Plan::new(
                schedule(pace, counted)?,
                clients.rooms(),
                publications.payload,
            );
            made.window = publications.window;
            plan = Some(made);
            // A server that is not there is to be known before the connections come up.
            drop(target::outlet(publications, clients.rooms())?);
        }
        let work = Work {
            run: plan
                .as_ref()
                .map_or_else(publisher::run_number, |plan| plan.run),
            chat: match &self.load {
                Load::Clients(chat, _) => Some(Arc::clone(chat)),
                _ => None,
            },
            life: match self.trouble {
                Trouble::Churn(life) => Some(life),
                _ => None,
            },
        };
        let context = fleet::context(clients, &work);
        let slow = SlowReaders::connect(
            self.slow_readers,
            clients.rooms(),
            clients.target,
            &context,
            self.slow_rate,
        )?;
        let mut stage = Stage::connect(clients, &work, self.observe, self.output)?;
        let attackers = self.attack()?;

        let failed_before = stage.fleet.failed();
        let (run, marks) = stage.carry_out(&self, plan)?;
        let closed = stage.fleet.failed() - failed_before;
        std::thread::sleep(AFTERMATH);
        let abuse = attackers.map(Attackers::finish).transpose()?;
        let (tally, _, readings, course) = stage.finish(&run.totals)?;

        let mut report = readings.report(clients, &tally, &marks);
        report.course = course;
        match &self.load {
            Load::Hold(hold) => {
                report.hold = Some(HoldReport {
                    seconds: hold.as_secs_f64(),
                    pings_answered: tally.pings,
                    closed,
                });
            }
            _ => report.delivery = Some(DeliveryReport::new(&tally, marks.first_ns)),
        }
        report.publish = match (&self.load, run.outcome) {
            (Load::Clients(chat, _), _) => {
                let seconds = run.publish_ns as f64 / 1e9;
                Some(PublishReport::of_clients(chat, &tally, seconds))
            }
            (_, Some((plan, outcome))) => Some(PublishReport::new(&plan, &outcome)),
            _ => None,
        };
        report.back = (tally.dropped > 0).then(|| BackReport::new(&tally));
        report.slow_readers = match self.slow_readers {
            0 => None,
            _ => Some(slow.finish()?),
        };
        report.histogram = ranges(&tally.due_latency);
        report.histogram_from_send = ranges(&tally.sent_latency);
        report.ok = tally.is_clean()
            && tally.subscribed == u64::from(clients.connections)
            && report.publish.as_ref().is_none_or(PublishReport::is_clean)
            && abuse.is_none_or(|abuse| abuse.is_clean())
            && tally.back == tally.dropped
            && self.is_back_in_time(&tally);
        report.abuse = abuse;
        Ok(report)
    }

    /// Whether all who dropped in a storm were back in their time.
    fn is_back_in_time(&self, tally: &Tally) -> bool {
        match self.trouble {
            Trouble::Storm(_, within) => Duration::from_nanos(tally.back_latency.max()) <= within,
            _ => true,
        }
    }

    fn attack(&self) -> Result<Option<Attackers>, String> {
        let Some((count, patience)) = self.attackers else {
            return Ok(None);
        };
        let dialect = target::dialect(&self.clients);
        Attackers::start(count, self.clients.target, dialect, patience).map(Some)
    }
}

/// What was published.
struct Run {
    outcome: Option<(Plan, Outcome)>,
    totals: Totals,
    /// How long clients published, nanoseconds.
    publish_ns: u64,
}

/// A run with its connections up.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    readings: Readings,
    recorder: Recorder,
    view: View,
    server_pids: Vec<u32>,
}

/// The readings around connecting.
pub(crate) struct Readings {
    server_before: Option<Reading>,
    server_connected: Option<Reading>,
    own_before: Reading,
    own_connected: Reading,
    socket_bytes: Option<u64>,
}

/// The readings at the beginning or the end of the part that is measured.
pub(crate) struct Mark {
    at_ns: u64,
    delivered: u64,
    server: Option<Reading>,
    own: Reading,
    workers: Vec<Cpu>,
}

/// The part that is measured.
pub(crate) struct Marks {
    /// When the first publication was due, nanoseconds.
    pub(crate) first_ns: u64,
    pub(crate) begin: Mark,
    pub(crate) end: Mark,
}

impl Stage {
    /// Brings the connections up and lets them settle.
    pub(crate) fn connect(
        clients: &Clients,
        work: &Work,
        observe: &Observe,
        output: &Output,
    ) -> Result<Self, String> {
        let mut fleet = Fleet::start(clients, work)?;
        let mut recorder = Recorder::new(fleet.take_intervals(), observe)?;
        let mut view = View::new(output, u64::from(clients.connections));
        let server_before = host::read_all(&observe.server_pid)?;
        let own_before = host::read_own()?;
        fleet.begin();
        let mut tick = |fleet: &Fleet, phase| {
            let now = Now {
                phase,
                ..Now::default()
            };
            if recorder.tick(fleet, || now) {
                view.show(recorder.latest());
            }
        };
        fleet.wait_connected(clients.connect_timeout + clients.ramp, |fleet| {
            tick(fleet, Phase::Ramp);
        })?;
        // CPU of connecting is read at once, memory when buffers had time to be freed.
        let server_cpu = host::read_all(&observe.server_pid)?;
        let settled = Instant::now() + clients.settle;
        while Instant::now() < settled {
            tick(&fleet, Phase::Settle);
            std::thread::sleep(POLL);
        }
        let server_settled = host::read_all(&observe.server_pid)?;
        let server_connected = server_cpu
            .zip(server_settled)
            .map(|(cpu, settled)| Reading {
                rss_bytes: settled.rss_bytes,
                pss_bytes: settled.pss_bytes,
                ..cpu
            });
        let readings = Readings {
            server_before,
            server_connected,
            own_before,
            own_connected: host::read_own()?,
            socket_bytes: host::read_sockets().map(|(_, bytes)| bytes),
        };
        Ok(Self {
            fleet,
            readings,
            recorder,
            view,
            server_pids: observe.server_pid.clone(),
        })
    }

    /// Reads where all stand now.
    pub(crate) fn mark(&self) -> Result<Mark, String> {
        Ok(Mark {
            server: host::read_all(&self.server_pids)?,
            own: host::read_own()?,
            workers: self.fleet.cpu(),
            delivered: self.fleet.delivered(),
            at_ns: host::now_ns(),
        })
    }

    /// Ends the connections.
    pub(crate) fn finish(
        self,
        totals: &Totals,
    ) -> Result<(Tally, Ended, Readings, Vec<crate::course::Point>), String> {
        let (tally, ended) = self.fleet.finish(totals)?;
        self.view.close();
        Ok((tally, ended, self.readings, self.recorder.finish()))
    }

    /// Does what the conduct says, until everything was delivered or nothing more comes.
    fn carry_out(
        &mut self,
        conduct: &Conduct<'_>,
        plan: Option<Plan>,
    ) -> Result<(Run, Marks), String> {
        let first_ns = host::now_ns() + LEAD_NS;
        let (steady, grace) = match &conduct.load {
            Load::Hold(hold) => {
                let end_ns = first_ns + hold.as_nanos() as u64;
                ((first_ns, end_ns), Duration::ZERO)
            }
            Load::Outlet(_, pace) => {
                let schedule = &plan.as_ref().expect("an outlet has a plan").schedule;
                (schedule.steady(first_ns), pace.grace)
            }
            Load::Clients(chat, pace) => (chat.schedule.steady(first_ns), pace.grace),
        };
        self.fleet.measure(steady);
        let progress = Arc::new(publisher::Progress::default());
        let mut publishing = match (&conduct.load, plan) {
            (Load::Outlet(publications, _), Some(mut plan)) => {
                plan.start_ns = first_ns;
                let outlet = target::outlet(publications, conduct.clients.rooms())?;
                Some((plan.clone(), start_publishing(plan, outlet, &progress)?))
            }
            _ => None,
        };
        if let Load::Clients(..) = &conduct.load {
            self.fleet.publish_from(first_ns);
        }
        if let Trouble::Churn(_) = conduct.trouble {
            self.fleet.churn();
        }

        let mut flow = Flow::new(conduct, &self.fleet, steady, grace);
        let (mut begin, mut end) = (self.mark()?, None);
        let mut is_steady = false;
        let mut outcome = None;
        loop {
            let now_ns = host::now_ns();
            if !is_steady && now_ns >= steady.0 {
                is_steady = true;
                if steady.0 > first_ns {
                    begin = self.mark()?;
                }
                if let Trouble::Storm(permille, _) = conduct.trouble {
                    self.fleet.drop_many(permille);
                }
            }
            if end.is_none() && now_ns >= steady.1 {
                end = Some(self.mark()?);
            }
            let phase = match (is_steady, end.is_some()) {
                (false, _) if steady.0 == first_ns => Phase::Settle,
                (false, _) => Phase::WarmUp,
                (true, false) => Phase::Steady,
                (true, true) => Phase::CoolDown,
            };
            let fleet = &self.fleet;
            let is_new = self.recorder.tick(fleet, || Now {
                phase,
                published: progress.published.load(Relaxed) + fleet.published(),
                late_ns: progress.late_ns_max.swap(0, Relaxed),
            });
            if is_new {
                self.view.show(self.recorder.latest());
            }
            if publishing
                .as_ref()
                .is_some_and(|(_, thread)| thread.is_finished())
                && let Some((plan, thread)) = publishing.take()
            {
                let done = thread
                    .join()
                    .map_err(|_| "the publisher panicked".to_owned())?;
                flow.published_all(&self.fleet, done.published);
                outcome = Some((plan, done));
            }
            if flow.is_over(&self.fleet, publishing.is_none())? {
                break;
            }
            self.fleet.check_alive()?;
            std::thread::sleep(POLL);
        }
        let end = match end {
            Some(end) => end,
            None => self.mark()?,
        };
        let totals = match (flow.sent, &outcome) {
            (Some(sent), _) => Totals::ByConnection(sent),
            (None, Some((plan, outcome))) => Totals::InTurn {
                published: outcome.published,
                schedule: plan.schedule.clone(),
                start_ns: first_ns,
            },
            (None, None) => Totals::InTurn {
                published: 0,
                schedule: Schedule::closed(0),
                start_ns: first_ns,
            },
        };
        let run = Run {
            outcome,
            totals,
            publish_ns: flow.publish_ns,
        };
        Ok((
            run,
            Marks {
                first_ns,
                begin,
                end,
            },
        ))
    }
}

fn start_publishing(
    plan: Plan,
    outlet: Box<dyn Outlet>,
    progress: &Arc<publisher::Progress>,
) -> Result<JoinHandle<Outcome>, String> {
    let theirs = Arc::clone(progress);
    std::thread::Builder::new()
        .name("publisher".to_owned())
        .spawn(move || publisher::run(&plan, outlet, &theirs))
        .map_err(|error| format!("thread: {error}"))
}

/// Publishes to rooms without subscribers.
pub(crate) fn publish(options: &Publish) -> Result<Report, String> {
    let publications = &options.publications;
    let counted = u64::from(publications.messages()) * u64::from(options.rooms);
    if u32::try_from(counted).is_err() {
        return Err("rooms × messages must be below 2^32".to_owned());
    }
    let mut plan = Plan::new(
        Schedule::closed(counted),
        options.rooms,
        publications.payload,
    );
    plan.confirm = match options.ack {
        Ack::None => Confirm::No,
        Ack::Accepted => Confirm::Taken,
        Ack::Sequenced => Confirm::Sequenced,
    };
    plan.settles_rooms = true;
    let outlet = UpstreamOutlet::connect(publications.upstream, publications.key(), options.rooms)?;
    let progress = publisher::Progress::default();
    let pids = &options.observe.server_pid;
    let server_before = host::read_all(pids)?;
    let own_before = host::read_own()?;
    let outcome = publisher::run(&plan, Box::new(outlet), &progress);
    let server_after = host::read_all(pids)?;
    let own_after = host::read_own()?;

    let own = CpuReport::between(&own_before, &own_after);
    let server = server_before.zip(server_after).map(|(before, after)| {
        let run_cpu = CpuReport::between(&before, &after);
        ServerReport {
            run_cpu,
            run_cpu_us_each: run_cpu.us_each(outcome.published),
            rss_before_bytes: before.rss_bytes,
            rss_connected_bytes: before.rss_bytes,
            rss_after_bytes: after.rss_bytes,
            ..ServerReport::default()
        }
    });
    let report = PublishReport::new(&plan, &outcome).with_rooms(&outcome);
    Ok(Report {
        ok: report.is_clean(),
        publish: Some(report),
        server,
        loadgen: LoadgenReport {
            run_cpu_seconds: own.seconds,
            run_cpu_us_each: own.us_each(outcome.published),
            rss_bytes: own_after.rss_bytes,
            bottleneck: own.seconds * 1e9 > 0.9 * outcome.elapsed_ns as f64,
            ..LoadgenReport::default()
        },
        ..Report::empty()
    })
}

impl Readings {
    /// The parts of a report that every run with connections has.
    pub(crate) fn report(&self, clients: &Clients, tally: &Tally, marks: &Marks) -> Report {
        let (begin, end) = (&marks.begin, &marks.end);
        let seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
        let each = end.delivered.saturating_sub(begin.delivered);
        let workers: Vec<_> = end
            .workers
            .iter()
            .zip(&begin.workers)
            .map(|(after, before)| WorkerReport::new(after.since(*before), seconds))
            .collect();
        let own = CpuReport::between(&begin.own, &end.own);
        Report {
            connect: Some(ConnectReport::new(clients.connections, tally)),
            server: self.server(tally, marks, each, seconds),
            loadgen: LoadgenReport {
                run_cpu_seconds: own.seconds,
                run_cpu_us_each: own.us_each(each),
                run_user_us_each: (each > 0).then(|| own.user_seconds * 1e6 / each as f64),
                loop_lag: Latency::new(&tally.loop_lag),
                bottleneck: workers.iter().any(|worker| worker.is_saturated()),
                workers,
                rss_bytes: self.own_connected.rss_bytes,
                rss_per_connection_bytes: per_connection(
                    &self.own_before,
                    &self.own_connected,
                    tally,
                ),
                enobufs: tally.enobufs,
            },
            ..Report::empty()
        }
    }

    fn server(
        &self,
        tally: &Tally,
        marks: &Marks,
        each: u64,
        seconds: f64,
    ) -> Option<ServerReport> {
        let (first, connected) = self.server_before.zip(self.server_connected)?;
        let (begin, end) = marks.begin.server.zip(marks.end.server)?;
        let connect_cpu = CpuReport::between(&first, &connected);
        let run_cpu = CpuReport::between(&begin, &end);
        Some(ServerReport {
            connect_cpu,
            run_cpu,
            connect_cpu_us_each: connect_cpu.us_each(tally.subscribed),
            run_cpu_us_each: run_cpu.us_each(each),
            run_cores: (seconds > 0.0).then(|| run_cpu.seconds / seconds),
            socket_bytes: self.socket_bytes,
            rss_before_bytes: first.rss_bytes,
            rss_connected_bytes: connected.rss_bytes,
            pss_connected_bytes: connected.pss_bytes,
            rss_after_bytes: end.rss_bytes,
            rss_per_connection_bytes: per_connection(&first, &connected, tally),
        })
    }
}

fn per_connection(before: &Reading, after: &Reading, tally: &Tally) -> Option<f64> {
    let growth = after.rss_bytes as f64 - before.rss_bytes as f64;
    (tally.subscribed > 0).then(|| growth / tally.subscribed as f64)
}
