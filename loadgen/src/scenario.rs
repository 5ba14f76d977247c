//! The runs with connections on rings: from the first check to the report.
//!
//! One conduct for all of them: connect and subscribe, settle, publish on a schedule while something
//! may happen to the connections, wait until everything was delivered or nothing more comes, count.

mod flow;
mod publish;
mod stage;

pub(crate) use publish::publish;
pub(crate) use stage::{Marks, Stage};

use crate::abuse::Attackers;
use crate::clock;
use crate::course::{Now, Phase};
use crate::fleet::{self, POLL, Work};
use crate::options::{
    Abuse, Chat as ChatOptions, Churn, Clients, Fanout, Idle, Observe, Output, Pace, Protocol,
    Publications, Storm,
};
use crate::publisher::{self, Outcome, Plan};
use crate::report::{BackReport, DeliveryReport, HoldReport, PublishReport, Report, ranges};
use crate::schedule::Schedule;
use crate::slow::SlowReaders;
use crate::tally::Tally;
use crate::target;
use crate::worker::{Chat, Slack, Totals};
use flow::Flow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long after the last expected delivery repeated ones are waited for.
const AFTERMATH: Duration = Duration::from_millis(200);
/// Members of a room of a chat, unless the options say otherwise.
const CHAT_MEMBERS: u32 = 10;

/// What is done to the connections while publications flow.
#[derive(Clone, Copy, Debug, Default)]
enum Trouble {
    #[default]
    None,
    /// They live this long.
    Churn(Duration),
    /// So many drop at the beginning of the steady phase, and have this long to be back.
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
    let count = (options.share * f64::from(conduct.clients.connections)).round();
    conduct.trouble = Trouble::Storm((count as u32).max(1), options.back_within);
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
        (None, []) if pace.burst > 1 => return Err("--burst wants --rate".to_owned()),
        (None, []) if pace.warmup.is_zero() && pace.cooldown.is_zero() => Schedule::closed(counted),
        (None, [rate]) if pace.warmup.is_zero() && pace.cooldown.is_zero() => {
            Schedule::counted(counted, *rate, pace.burst)
        }
        (None, _) => return Err("phases and steps want --rate and --duration".to_owned()),
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
            // A server that is not there is to be known before the connections come up.
            let outlet = target::outlet(publications, clients.rooms(), Some(clients))?;
            made.check(&*outlet)?;
            plan = Some(made);
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

        let failed_before = stage.fleet.counts().failed;
        let (run, marks) = stage.carry_out(&self, plan)?;
        let closed = stage.fleet.counts().failed - failed_before;
        std::thread::sleep(AFTERMATH);
        let abuse = attackers.map(Attackers::finish).transpose()?;
        let mut ending = stage.finish(&run.totals)?;
        let mut report = ending.report(clients, &marks);
        let tally = &ending.finished.tally;

        match &self.load {
            Load::Hold(hold) => {
                report.hold = Some(HoldReport {
                    seconds: hold.as_secs_f64(),
                    pings_answered: tally.pings,
                    closed,
                });
            }
            _ => report.delivery = Some(DeliveryReport::new(tally, marks.steady_ns)),
        }
        report.publish = match (&self.load, run.outcome) {
            (Load::Clients(chat, _), _) => {
                let seconds = run.publish_ns as f64 / 1e9;
                Some(PublishReport::of_clients(chat, tally, seconds))
            }
            (_, Some((plan, outcome))) => Some(PublishReport::new(&plan, &outcome)),
            _ => None,
        };
        report.back = match self.trouble {
            Trouble::None => None,
            _ => Some(BackReport::new(tally)),
        };
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
            && self.is_back_in_time(tally);
        report.abuse = abuse;
        Ok(report)
    }

    /// Whether all who dropped in a storm were back in their time.
    fn is_back_in_time(&self, tally: &Tally) -> bool {
        match self.trouble {
            Trouble::Storm(_, within) => Duration::from_nanos(tally.back_ns_max) <= within,
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

impl Stage {
    /// Does what the conduct says, until everything was delivered or nothing more comes.
    fn carry_out(
        &mut self,
        conduct: &Conduct<'_>,
        plan: Option<Plan>,
    ) -> Result<(Run, Marks), String> {
        let outlet = match &conduct.load {
            Load::Outlet(publications, _) => Some(target::outlet(
                publications,
                conduct.clients.rooms(),
                Some(&conduct.clients),
            )?),
            _ => None,
        };
        let first_ns = clock::now_ns() + self.fleet.lead_ns();
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
        let mut publishing = match (outlet, plan) {
            (Some(outlet), Some(mut plan)) => {
                plan.start_ns = first_ns;
                Some((plan.clone(), publisher::start(plan, outlet, &progress)?))
            }
            _ => None,
        };
        if let Load::Clients(..) = &conduct.load {
            self.fleet.publish_from(first_ns);
        }
        if let Trouble::Churn(_) = conduct.trouble {
            self.fleet.churn();
        }

        let mut flow = Flow::new(conduct, &self.fleet, first_ns, steady, grace);
        let (mut begin, mut end) = (self.mark()?, None);
        let mut is_steady = false;
        let mut outcome = None;
        loop {
            let now_ns = clock::now_ns();
            if !is_steady && now_ns >= steady.0 {
                is_steady = true;
                if steady.0 > first_ns {
                    begin = self.mark()?;
                }
                if let Trouble::Storm(count, _) = conduct.trouble {
                    self.fleet.drop_many(count);
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
            self.watch.tick(|| {
                let now = Now::of(fleet, phase);
                Now {
                    published: now.published + progress.published.load(Relaxed),
                    late_ns: progress.late_ns_max.swap(0, Relaxed),
                    ..now
                }
            });
            if publishing
                .as_ref()
                .is_some_and(|(_, thread)| thread.is_finished())
                && let Some((plan, thread)) = publishing.take()
            {
                let done = publisher::end(thread)?;
                flow.published_all(Totals::InTurn {
                    published: done.published,
                    schedule: plan.schedule.clone(),
                    start_ns: first_ns,
                    slack: Slack {
                        late_ns_max: done.late.max(),
                        ..Slack::default()
                    },
                });
                outcome = Some((plan, done));
            }
            if flow.is_over(&self.fleet)? {
                break;
            }
            self.fleet.check()?;
            std::thread::sleep(POLL);
        }
        let over = self.mark()?;
        let end = end.unwrap_or_else(|| over.clone());
        let latency_ns_max = self.fleet.counts().latency_ns_max;
        let run = Run {
            outcome,
            publish_ns: flow.publish_ns,
            totals: flow
                .into_totals()
                .with_slack(|slack| slack.latency_ns_max = latency_ns_max),
        };
        Ok((
            run,
            Marks {
                steady_ns: steady.0,
                begin,
                end,
                over,
            },
        ))
    }
}
