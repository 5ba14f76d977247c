//! Publishing over the upstream protocol, from a thread of its own.
//!
//! Publication n goes to room n modulo rooms. With a rate the schedule is open: publication n is due
//! at a time that does not depend on the broker, and that time is in its payload, so that a broker that
//! falls behind shows it in the latencies instead of slowing the load (no coordinated omission).
//! Without a rate each is due when it is made, as fast as the broker's credit lets them go.

use crate::host;
use crate::message::ROOM_PREFIX;
use crate::options::{Key, Publications};
use crate::payload::{Maker, Stamp};
use ringcast::base::Content;
use ringcast::client::{AckLevel, ClientError, Message, Upstream};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Publications after which answers are collected, and a rate is looked at.
const CHECK_EVERY: u64 = 256;

/// What to publish.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Run number in the payloads.
    pub(crate) run: u16,
    /// Rooms to publish to in turn.
    pub(crate) rooms: u32,
    /// Publications in all.
    pub(crate) publications: u64,
    /// Bytes of one payload.
    pub(crate) payload_bytes: usize,
    /// Publications per second, or as fast as they go.
    pub(crate) rate: Option<f64>,
    /// Publications that are due at the same time.
    pub(crate) burst: u32,
    /// Acknowledgement of each.
    pub(crate) level: AckLevel,
    /// Acknowledgement of the last, if that of each is less.
    pub(crate) last_level: AckLevel,
}

/// What others see of a running publisher, and its orders.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Publications handed to the connection.
    pub(crate) published: AtomicU64,
    /// Order: stop before the end.
    pub(crate) stop: AtomicBool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Publications handed to the connection.
    pub(crate) published: u64,
    /// Acknowledgements.
    pub(crate) acknowledged: u64,
    /// Refused publications.
    pub(crate) refused: u64,
    /// Nanoseconds from the first publication to the last acknowledgement (with acknowledgement
    /// `none`: until the broker answered a ping that followed the last publication).
    pub(crate) elapsed_ns: u64,
    /// Nanoseconds that the publication handed over latest was behind its schedule.
    pub(crate) late_ns_max: u64,
    /// Why it ended early, or the text of a refusal.
    pub(crate) error: Option<String>,
}

/// Connects to the broker.
pub(crate) fn connect(upstream: SocketAddr, key: Option<&Key>) -> Result<Upstream, ClientError> {
    let key = key.map(|key| (key.id.as_str(), key.secret.as_slice()));
    Upstream::connect(upstream, "loadgen", key)
}

/// A run number that the runs before very likely did not have.
pub(crate) fn run_number() -> u16 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u16
}

impl Plan {
    /// The plan of `options` for `rooms` rooms, without rate or acknowledgements.
    pub(crate) fn new(options: &Publications, rooms: u32) -> Self {
        Self {
            run: run_number(),
            rooms,
            publications: u64::from(options.messages) * u64::from(rooms),
            payload_bytes: options.payload,
            rate: None,
            burst: 1,
            level: AckLevel::None,
            last_level: AckLevel::None,
        }
    }
}

/// Publishes the plan.
pub(crate) fn run(plan: &Plan, upstream: Upstream, progress: &Progress) -> Outcome {
    let mut publisher = Publisher {
        plan,
        upstream,
        outcome: Outcome::default(),
        unanswered: 0,
    };
    let start_ns = host::now_ns();
    if let Err(error) = publisher.run(start_ns, progress) {
        publisher.outcome.error.get_or_insert(error.to_string());
    }
    publisher.outcome.elapsed_ns = host::now_ns() - start_ns;
    publisher.outcome
}

struct Publisher<'a> {
    plan: &'a Plan,
    upstream: Upstream,
    outcome: Outcome,
    /// Requests with an acknowledgement that has not come.
    unanswered: u64,
}

impl Publisher<'_> {
    fn run(&mut self, start_ns: u64, progress: &Progress) -> Result<(), ClientError> {
        let plan = self.plan;
        let mut maker = Maker::new(plan.payload_bytes);
        let names: Vec<String> = (0..plan.rooms)
            .map(|room| format!("{ROOM_PREFIX}{room}"))
            .collect();
        let (mut room, mut number) = (0, 1);
        for total in 0..plan.publications {
            let (due_ns, late_ns) = match plan.rate {
                Some(rate) => self.wait_until_due(start_ns, total, rate)?,
                None => (host::now_ns(), 0),
            };
            self.outcome.late_ns_max = self.outcome.late_ns_max.max(late_ns);
            let payload = maker.make(&Stamp {
                run: plan.run,
                room,
                number,
                total: total as u32,
                due_ns,
                delay_us: u32::try_from(late_ns / 1_000).unwrap_or(u32::MAX),
            });
            let is_last = total + 1 == plan.publications;
            let level = if is_last {
                plan.level.max(plan.last_level)
            } else {
                plan.level
            };
            let message = Message::new(Content::Json, payload, level);
            self.upstream.send(&names[room as usize], &message)?;
            self.unanswered += u64::from(level != AckLevel::None);
            self.outcome.published = total + 1;
            (room, number) = match room + 1 {
                next if next == plan.rooms => (0, number + 1),
                next => (next, number),
            };
            if total % CHECK_EVERY == 0 {
                progress.published.store(total + 1, Relaxed);
                self.collect_answers()?;
                if progress.stop.load(Relaxed) {
                    break;
                }
            }
        }
        self.upstream.flush()?;
        progress.published.store(self.outcome.published, Relaxed);
        self.finish()
    }

    /// Waits until publication `total` is due; what was sent before is flushed before the wait. When
    /// it was due, and how late it is.
    fn wait_until_due(
        &mut self,
        start_ns: u64,
        total: u64,
        rate: f64,
    ) -> Result<(u64, u64), ClientError> {
        let tick = total / u64::from(self.plan.burst);
        let after_s = tick as f64 * f64::from(self.plan.burst) / rate;
        let due_ns = start_ns + (after_s * 1e9) as u64;
        if due_ns > host::now_ns() {
            self.upstream.flush()?;
            let wait_ns = due_ns.saturating_sub(host::now_ns());
            std::thread::sleep(Duration::from_nanos(wait_ns));
        }
        Ok((due_ns, host::now_ns().saturating_sub(due_ns)))
    }

    fn collect_answers(&mut self) -> Result<(), ClientError> {
        while let Some(answer) = self.upstream.poll_ack()? {
            self.take_answer(answer.result);
        }
        Ok(())
    }

    fn take_answer<T>(&mut self, result: Result<T, ringcast::client::Refusal>) {
        match result {
            Ok(_) => self.outcome.acknowledged += 1,
            Err(refusal) => {
                self.outcome.refused += 1;
                let text = refusal.to_string();
                self.outcome.error.get_or_insert(text);
            }
        }
        // Refusals come at every level, so there may be more answers than were asked for.
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Waits until the broker has taken everything.
    fn finish(&mut self) -> Result<(), ClientError> {
        while self.unanswered > 0 {
            let answer = self.upstream.wait_ack()?;
            self.take_answer(answer.result);
        }
        self.upstream.ping()?;
        self.collect_answers()
    }
}
