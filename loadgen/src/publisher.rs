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
use ringcast::client::{AckLevel, Answer, ClientError, Message, Receipt, Upstream};
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
    /// Publications at the end that are acknowledged `Sequenced` whatever the level of the others.
    /// With one for every room (see [`Plan::settle_every_room`]) their offsets are checked too.
    pub(crate) closing: u64,
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
    /// Rooms whose last publication was acknowledged with an offset that covers all to the room.
    pub(crate) rooms_settled: u64,
    /// Of those, rooms with a greater offset: others published to them, or did so before.
    pub(crate) rooms_shared: u64,
    /// Nanoseconds from the first publication to the last acknowledgement.
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
            closing: 1,
        }
    }

    /// Has the last publication to every room acknowledged with its offset. A room takes publications
    /// in order, so that answers for all that went before.
    pub(crate) fn settle_every_room(&mut self) {
        self.closing = u64::from(self.rooms);
    }

    /// Whether the offsets of the closing publications are checked.
    pub(crate) fn settles_every_room(&self) -> bool {
        self.closing == u64::from(self.rooms)
    }
}

/// Publishes the plan.
pub(crate) fn run(plan: &Plan, upstream: Upstream, progress: &Progress) -> Outcome {
    let mut publisher = Publisher {
        plan,
        upstream,
        outcome: Outcome::default(),
        unanswered: 0,
        closing_request: None,
        settled: vec![false; plan.rooms as usize],
    };
    let start_ns = host::now_ns();
    if let Err(error) = publisher.run(start_ns, progress) {
        publisher.outcome.error.get_or_insert(error.to_string());
    }
    let outcome = &mut publisher.outcome;
    if outcome.elapsed_ns == 0 {
        outcome.elapsed_ns = host::now_ns() - start_ns;
    }
    if plan.settles_every_room() && outcome.rooms_settled < u64::from(plan.rooms) {
        let missing = u64::from(plan.rooms) - outcome.rooms_settled;
        outcome.error.get_or_insert(format!(
            "{missing} rooms without an acknowledgement of their last publication"
        ));
    }
    publisher.outcome
}

struct Publisher<'a> {
    plan: &'a Plan,
    upstream: Upstream,
    outcome: Outcome,
    /// Requests with an acknowledgement that has not come.
    unanswered: u64,
    /// Request of the first of the closing publications; the others follow it.
    closing_request: Option<u64>,
    /// By room: whether its last publication was acknowledged.
    settled: Vec<bool>,
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
            let is_closing = total + plan.closing >= plan.publications;
            let level = if is_closing {
                AckLevel::Sequenced
            } else {
                plan.level
            };
            let message = Message::new(Content::Json, payload, level);
            let request = self.upstream.send(&names[room as usize], &message)?;
            if is_closing {
                self.closing_request.get_or_insert(request);
            }
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
        self.finish(start_ns)
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
            self.take_answer(answer);
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: Answer) {
        match answer.result {
            Ok(receipt) => {
                self.outcome.acknowledged += 1;
                self.settle(answer.request, &receipt);
            }
            Err(refusal) => {
                self.outcome.refused += 1;
                let text = refusal.to_string();
                self.outcome.error.get_or_insert(text);
            }
        }
        // Refusals come at every level, so there may be more answers than were asked for.
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Checks the acknowledgement of a room's last publication: an offset below the number of
    /// publications to the room means that some were not sequenced.
    fn settle(&mut self, request: u64, receipt: &Receipt) {
        let (true, Some(first)) = (self.plan.settles_every_room(), self.closing_request) else {
            return;
        };
        // The plan ends with one publication to each room, from room 0.
        let Some(room) = request.checked_sub(first) else {
            return;
        };
        let Some(settled) = self.settled.get_mut(room as usize) else {
            return;
        };
        let published = self.plan.publications / u64::from(self.plan.rooms);
        let offset = receipt.offset.0;
        if receipt.level != AckLevel::Sequenced || offset < published {
            self.outcome.error.get_or_insert(format!(
                "{ROOM_PREFIX}{room} is at offset {offset} after {published} publications"
            ));
        } else if !std::mem::replace(settled, true) {
            self.outcome.rooms_settled += 1;
            self.outcome.rooms_shared += u64::from(offset > published);
        }
    }

    /// Waits for the last acknowledgement, which stops the clock, then for refusals that may follow.
    fn finish(&mut self, start_ns: u64) -> Result<(), ClientError> {
        while self.unanswered > 0 {
            let answer = self.upstream.wait_ack()?;
            self.take_answer(answer);
        }
        self.outcome.elapsed_ns = host::now_ns() - start_ns;
        self.upstream.ping()?;
        self.collect_answers()
    }
}
