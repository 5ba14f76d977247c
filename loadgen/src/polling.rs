//! `polling`: the same updates fetched by asking for the history again and again, as clients without a
//! WebSocket do. What it costs the server, and how late the updates are, is to be compared with a push.
//!
//! Every client asks at times of its own, which do not depend on the server; a few threads with a
//! connection each ask for all of them. Every client must see every publication of its room exactly once.

use crate::clock;
use crate::course::{Now, Phase};
use crate::dialect::ROOM_PREFIX;
use crate::fleet::POLL;
use crate::host;
use crate::options::Polling;
use crate::order::{Arrival, Order};
use crate::payload::{self, PAYLOAD_BYTES_MAX};
use crate::publisher::{self, Plan};
use crate::report::{
    DeliveryReport, Latency, LoadgenReport, PublishReport, Report, ServerReport, ranges,
};
use crate::rooms::publications_of;
use crate::scenario;
use crate::tally::{Interval, Tally};
use crate::target;
use crate::upgrade::Numbers;
use crate::url::hide_secrets;
use crate::watch::Watch;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Publications that one answer may hold.
const LIMIT: u32 = 1_000;
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = LIMIT as u64 * (PAYLOAD_BYTES_MAX as u64 + 1_024);

/// What the clients asked, and got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PollingReport {
    /// Clients.
    pub(crate) clients: u32,
    /// Time between two questions of a client, milliseconds.
    pub(crate) interval_ms: f64,
    /// Questions.
    pub(crate) requests: u64,
    /// Of those, questions that brought nothing new.
    pub(crate) empty: u64,
    /// Questions without an answer, or with an error.
    pub(crate) failed: u64,
    /// Bytes of all answers.
    pub(crate) bytes: u64,
    /// The first error.
    pub(crate) error: Option<String>,
}

/// Runs the scenario. The error says why there was no run.
pub(crate) fn run(options: &Polling) -> Result<Report, String> {
    let publications = &options.publications;
    let counted = u64::from(publications.messages()) * u64::from(options.rooms);
    let schedule = scenario::schedule(&options.pace, counted)?;
    let mut plan = Plan::new(schedule, options.rooms, publications.payload);
    plan.window = publications.window;
    let outlet = target::outlet(publications, options.rooms, None)?;
    plan.check(&*outlet)?;
    let mut pollers = Vec::new();
    for index in 0..options.pollers.min(options.clients) {
        pollers.push(Poller::new(index, options, plan.run)?);
    }
    let pids = &options.observe.server_pid;
    let (server_before, own_before) = (host::read_all(pids)?, host::read_own()?);
    let (to_intervals, intervals) = channel();
    let (observe, output) = (&options.observe, &options.output);
    let mut watch = Watch::new(
        intervals,
        own_before,
        options.clients.into(),
        observe,
        output,
    )?;
    let begin_ns = clock::now_ns();
    plan.start_ns = begin_ns + options.interval.as_nanos() as u64;
    let steady = plan.schedule.steady(plan.start_ns);
    let orders = Arc::new(Orders::default());
    let threads: Vec<_> = pollers
        .into_iter()
        .map(|mut poller| {
            let orders = Arc::clone(&orders);
            poller.tally.steady_ns = steady;
            let to_intervals = to_intervals.clone();
            std::thread::spawn(move || poller.run(begin_ns, &orders, &to_intervals))
        })
        .collect();
    let progress = Arc::new(publisher::Progress::default());
    let publishing = publisher::start(plan.clone(), outlet, &progress)?;
    let (mut answered, mut changed) = (0, Instant::now());
    while !threads.iter().all(|thread| thread.is_finished()) {
        let is_published = publishing.is_finished();
        // Pairs with the pollers' acquire load: a round that begins after it asks for all there is.
        orders.is_published.store(is_published, Release);
        let now_answered = orders.answered.load(Relaxed);
        if now_answered != answered || !is_published {
            (answered, changed) = (now_answered, Instant::now());
        }
        // A client whose turn has not come is not one that is not answered.
        if changed.elapsed() > options.interval + options.pace.grace {
            orders.stop.store(true, Relaxed);
        }
        watch.tick(|| Now {
            phase: match is_published {
                false => Phase::Steady,
                true => Phase::CoolDown,
            },
            connections: options.clients.into(),
            delivered: orders.delivered.load(Relaxed),
            ..Now::of_publisher(&progress)
        });
        std::thread::sleep(POLL);
    }
    let outcome = publisher::end(publishing)?;
    let (mut tally, mut polling) = (Tally::new(), PollingReport::default());
    for thread in threads {
        let poller = thread.join().map_err(|_| "a poller panicked".to_owned())?;
        let (theirs, asked) = poller.finish(outcome.published);
        tally.merge(&theirs);
        polling.requests += asked.requests;
        polling.empty += asked.empty;
        polling.failed += asked.failed;
        polling.bytes += asked.bytes;
        polling.error = polling.error.or(asked.error);
    }
    polling.clients = options.clients;
    polling.interval_ms = options.interval.as_secs_f64() * 1e3;
    let (server_after, own_after) = (host::read_all(pids)?, host::read_own()?);
    let seconds = (clock::now_ns() - begin_ns) as f64 / 1e9;
    let publish = PublishReport::new(&plan, &outcome);
    Ok(Report {
        ok: tally.is_clean() && publish.is_clean() && polling.failed == 0,
        publish: Some(publish),
        delivery: Some(DeliveryReport::new(&tally, steady.0)),
        server: ServerReport::between(
            [server_before, server_before, server_after],
            tally.delivered,
        )
        .map(|server| ServerReport {
            run_cores: Some(server.run_cpu.seconds / seconds),
            ..server
        }),
        loadgen: LoadgenReport {
            loop_lag: Latency::new(&tally.loop_lag),
            ..LoadgenReport::between(&own_before, &own_after, tally.delivered)
        },
        histogram: ranges(&tally.due_latency),
        histogram_from_send: ranges(&tally.sent_latency),
        polling: Some(polling),
        course: watch.finish(),
        ..Report::empty()
    })
}

/// What the pollers are told, and what others see of them.
#[derive(Default)]
struct Orders {
    /// Nothing more is published: a round that begins now and brings nothing new is the last one.
    is_published: AtomicBool,
    /// End now: no answers come any more.
    stop: AtomicBool,
    /// What all clients have got until now.
    delivered: AtomicU64,
    /// Questions with an answer.
    answered: AtomicU64,
}

/// A client: where it is in its room.
struct Client {
    room: u32,
    offset: u64,
    epoch: String,
    order: Order,
    /// When its first question is due, nanoseconds after the beginning.
    phase_ns: u64,
}

/// A thread that asks for its share of the clients.
struct Poller {
    agent: ureq::Agent,
    url: String,
    /// The same without secrets.
    shown_url: String,
    key: Option<String>,
    run: u16,
    interval_ns: u64,
    rooms: u32,
    clients: Vec<Client>,
    tally: Tally,
    report: PollingReport,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<History<'a>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct History<'a> {
    #[serde(borrow, default)]
    publications: Vec<Publication<'a>>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    message: String,
}

impl Poller {
    /// Asks where the rooms stand. The error is the first question's.
    fn new(index: u32, options: &Polling, run: u16) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .http_status_as_error(false)
            .build();
        let mut numbers = Numbers::new(u64::from(index));
        let interval_ns = (options.interval.as_nanos() as u64).max(1);
        let clients = (index..options.clients).step_by(options.pollers as usize);
        let url = format!("{}/history", options.api.trim_end_matches('/'));
        let mut poller = Self {
            agent: config.into(),
            shown_url: hide_secrets(&url),
            url,
            key: options.publications.api_key.clone(),
            run,
            interval_ns,
            rooms: options.rooms,
            clients: Vec::new(),
            tally: Tally::new(),
            report: PollingReport::default(),
        };
        for number in clients {
            let room = number % options.rooms;
            let body = format!("{{\"channel\":\"{ROOM_PREFIX}{room}\",\"limit\":0}}");
            let text = poller.ask(&body)?;
            let history = read(&text)?;
            poller.clients.push(Client {
                room,
                offset: history.offset,
                epoch: history.epoch,
                order: Order::new(),
                phase_ns: numbers.next() % interval_ns,
            });
        }
        poller.clients.sort_by_key(|client| client.phase_ns);
        Ok(poller)
    }

    /// Asks round after round, until all that was published has been asked for.
    fn run(mut self, begin_ns: u64, orders: &Orders, intervals: &Sender<Interval>) -> Self {
        let (mut round_ns, mut second) = (begin_ns, begin_ns / 1_000_000_000);
        loop {
            let is_published = orders.is_published.load(Acquire);
            let before = self.tally.delivered;
            for index in 0..self.clients.len() {
                if orders.stop.load(Relaxed) {
                    return self;
                }
                let due_ns = round_ns + self.clients[index].phase_ns;
                let wait_ns = due_ns.saturating_sub(clock::now_ns());
                std::thread::sleep(Duration::from_nanos(wait_ns));
                // How late the question is: this thread may be busy with others.
                let now_ns = clock::now_ns();
                self.tally.turn(1, now_ns - due_ns);
                if now_ns / 1_000_000_000 != second {
                    if let Some(interval) = self.tally.take_interval(second) {
                        // Nobody listens any more once the course is complete.
                        let _ = intervals.send(interval);
                    }
                    second = now_ns / 1_000_000_000;
                }
                let delivered = self.tally.delivered;
                match self.poll(index) {
                    Ok(()) => drop(orders.answered.fetch_add(1, Relaxed)),
                    Err(error) => {
                        self.report.failed += 1;
                        self.report.error.get_or_insert(error);
                    }
                }
                let more = self.tally.delivered - delivered;
                orders.delivered.fetch_add(more, Relaxed);
            }
            if is_published && self.tally.delivered == before {
                return self;
            }
            round_ns += self.interval_ns;
        }
    }

    /// Counts what is missing of `published` publications, which went to the rooms in turn.
    fn finish(mut self, published: u64) -> (Tally, PollingReport) {
        for client in &self.clients {
            let published = publications_of(client.room, self.rooms, published);
            self.tally.lost += u64::from(client.order.missing(published));
        }
        (self.tally, self.report)
    }

    fn poll(&mut self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let body = format!(
            "{{\"channel\":\"{ROOM_PREFIX}{}\",\"limit\":{LIMIT},\"since\":{{\"offset\":{},\"epoch\":\"{}\"}}}}",
            client.room, client.offset, client.epoch
        );
        let text = self.ask(&body)?;
        let now_ns = clock::now_ns();
        self.report.requests += 1;
        self.report.bytes += text.len() as u64;
        let history = read(&text)?;
        self.report.empty += u64::from(history.publications.is_empty());
        let client = &mut self.clients[index];
        for publication in &history.publications {
            client.offset = client.offset.max(publication.offset);
            let Ok(stamp) = payload::read(publication.data.get().as_bytes()) else {
                self.tally.damaged += 1;
                continue;
            };
            if stamp.run != self.run {
                self.tally.foreign += 1;
            } else if stamp.room != client.room {
                self.tally.misrouted += 1;
            } else {
                match client.order.take(stamp.number) {
                    Arrival::New => self.tally.deliver(&stamp, now_ns),
                    Arrival::Late => {
                        self.tally.reordered += 1;
                        self.tally.deliver(&stamp, now_ns);
                    }
                    Arrival::Repeated => self.tally.duplicated += 1,
                }
            }
        }
        Ok(())
    }

    fn ask(&self, body: &str) -> Result<String, String> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let text = |error: ureq::Error| format!("{}: {error}", self.shown_url);
        let mut response = request.send(body).map_err(text)?;
        match response.status().as_u16() {
            200 => response
                .body_mut()
                .with_config()
                .limit(ANSWER_BYTES_MAX)
                .read_to_string()
                .map_err(text),
            status => Err(format!("{} answered with status {status}", self.shown_url)),
        }
    }
}

fn read(text: &str) -> Result<History<'_>, String> {
    let answer: Answer<'_> =
        serde_json::from_str(text).map_err(|error| format!("no answer of the API: {error}"))?;
    match (answer.result, answer.error) {
        (Some(history), _) => Ok(history),
        (None, Some(refusal)) => Err(format!(
            "history: error {}: {}; has the channel a history?",
            refusal.code, refusal.message
        )),
        (None, None) => Err("no answer of the API: neither result nor error".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_publications_or_a_reason() {
        let history =
            read(r#"{"result":{"publications":[{"data":"x","offset":7}],"offset":7,"epoch":"e"}}"#);
        let history = history.unwrap();
        assert_eq!((history.publications.len(), history.offset), (1, 7));
        let refused = read(r#"{"error":{"code":108,"message":"not available"}}"#);
        assert!(refused.err().unwrap().contains("error 108"));
        assert!(read("{}").is_err() && read("<html>").is_err());
    }
}
