//! Publishing from a thread of its own, through any [`Outlet`].
//!
//! Publication n goes to room n modulo rooms. With a rate the schedule is open: publication n is due
//! at a time that does not depend on the server, and that time is in its payload, so that a server that
//! falls behind shows it in the latencies instead of slowing the load (no coordinated omission). How much
//! later it was handed over is in the payload too: that gives the latency which a client sees that waits.
//! Without a rate each is due when it is made, as fast as the server takes them.

use crate::clock;
use crate::outlet::{Confirm, Confirmation, Outlet};
use crate::payload::{Maker, Stamp};
use crate::schedule::Schedule;
use crate::tally::{histogram, record};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Publications after which answers are collected.
const CHECK_EVERY: u64 = 256;
/// The same while none is due: a server that pings is not kept waiting for longer.
const CHECK_EVERY_NS: u64 = 1_000_000_000;

/// Nice value of the publisher's thread: the scheduler then takes it soon, and still shares the core.
const PRIORITY: i32 = -10;

/// What to publish.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Run number in the payloads.
    pub(crate) run: u16,
    /// Rooms to publish to in turn.
    pub(crate) rooms: u32,
    /// How many, and when.
    pub(crate) schedule: Schedule,
    /// When the schedule starts, nanoseconds; 0: at once.
    pub(crate) start_ns: u64,
    /// Bytes of one payload.
    pub(crate) payload_bytes: usize,
    /// Answer to each.
    pub(crate) confirm: Confirm,
    /// Publications without their answer at a time, if that is bounded.
    pub(crate) window: Option<u32>,
    /// Whether the last publication to every room is confirmed, and its place checked: a room takes
    /// publications in order, so that answers for all that went before. Not every server hands out places.
    pub(crate) settles_rooms: bool,
}

/// What others see of a running publisher.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Publications handed to the connection.
    pub(crate) published: AtomicU64,
    /// Most that one was late since this was last set to 0, nanoseconds.
    pub(crate) late_ns_max: AtomicU64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Publications handed to the connection.
    pub(crate) published: u64,
    /// Answers that it was taken.
    pub(crate) acknowledged: u64,
    /// Refused publications.
    pub(crate) refused: u64,
    /// Rooms whose last publication was confirmed with a place that covers all to the room.
    pub(crate) rooms_settled: u64,
    /// Of those, rooms with a greater place: others published to them, or did so before.
    pub(crate) rooms_shared: u64,
    /// Nanoseconds from the first publication to the last answer.
    pub(crate) elapsed_ns: u64,
    /// How much later than due each was handed over, nanoseconds.
    pub(crate) late: Histogram<u64>,
    /// Whether each waited for the answer to the one before.
    pub(crate) is_one_at_a_time: bool,
    /// Why it ended early, or the text of a refusal.
    pub(crate) error: Option<String>,
}

impl Outcome {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            published: 0,
            acknowledged: 0,
            refused: 0,
            rooms_settled: 0,
            rooms_shared: 0,
            elapsed_ns: 0,
            late: histogram(3),
            is_one_at_a_time: false,
            error: None,
        }
    }
}

/// A run number that the runs before very likely did not have.
pub(crate) fn run_number() -> u16 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u16
}

impl Plan {
    /// `schedule` to `rooms` rooms, without answers but the last.
    pub(crate) fn new(schedule: Schedule, rooms: u32, payload_bytes: usize) -> Self {
        Self {
            run: run_number(),
            rooms,
            schedule,
            start_ns: 0,
            payload_bytes,
            confirm: Confirm::No,
            window: None,
            settles_rooms: false,
        }
    }

    /// Whether the outlet can carry it out.
    pub(crate) fn check(&self, outlet: &dyn Outlet) -> Result<(), String> {
        match self.window {
            Some(window) if window > 1 && outlet.waits_for_each() => Err(format!(
                "--window {window}: this way to publish waits for the answer to each"
            )),
            _ => Ok(()),
        }
    }

    /// Publications at the end that are confirmed `Sequenced` whatever the others have.
    fn closing(&self) -> u64 {
        match self.settles_rooms {
            true => u64::from(self.rooms),
            false => 1,
        }
    }
}

/// Publishes the plan from a thread of its own.
pub(crate) fn start(
    plan: Plan,
    outlet: Box<dyn Outlet>,
    progress: &Arc<Progress>,
) -> Result<JoinHandle<Outcome>, String> {
    let theirs = Arc::clone(progress);
    std::thread::Builder::new()
        .name("publisher".to_owned())
        .spawn(move || {
            // Where it is allowed: among dozens of workers on few cores it would be late for its own schedule.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
            run(&plan, outlet, &theirs)
        })
        .map_err(|error| format!("thread: {error}"))
}

/// What came of it, when the thread has ended.
pub(crate) fn end(thread: JoinHandle<Outcome>) -> Result<Outcome, String> {
    thread
        .join()
        .map_err(|_| "the publisher panicked".to_owned())
}

/// Publishes the plan.
fn run(plan: &Plan, outlet: Box<dyn Outlet>, progress: &Progress) -> Outcome {
    let mut publisher = Publisher {
        plan,
        outlet,
        outcome: Outcome::new(),
        unanswered: 0,
        closing_request: None,
        settled: vec![false; plan.rooms as usize],
    };
    publisher.outcome.is_one_at_a_time = publisher.outlet.waits_for_each();
    // A schedule that is behind from its beginning is so for all: others count from its start too.
    let start_ns = match plan.start_ns {
        0 => clock::now_ns(),
        at_ns => at_ns,
    };
    if let Err(error) = publisher.run(start_ns, progress) {
        publisher.outcome.error.get_or_insert(error);
    }
    let outcome = &mut publisher.outcome;
    if outcome.elapsed_ns == 0 {
        outcome.elapsed_ns = clock::now_ns().saturating_sub(start_ns);
    }
    if plan.settles_rooms && outcome.rooms_settled < u64::from(plan.rooms) {
        let missing = u64::from(plan.rooms) - outcome.rooms_settled;
        outcome.error.get_or_insert(format!(
            "{missing} rooms without a confirmation of their last publication"
        ));
    }
    publisher.outcome
}

struct Publisher<'a> {
    plan: &'a Plan,
    outlet: Box<dyn Outlet>,
    outcome: Outcome,
    /// Requests with an answer that has not come.
    unanswered: u64,
    /// Request of the first of the closing publications; the others follow it.
    closing_request: Option<u64>,
    /// By room: whether its last publication was confirmed.
    settled: Vec<bool>,
}

impl Publisher<'_> {
    fn run(&mut self, start_ns: u64, progress: &Progress) -> Result<(), String> {
        let plan = self.plan;
        let publications = plan.schedule.publications();
        let mut maker = Maker::new(plan.payload_bytes);
        let (mut room, mut number) = (0, 1);
        self.wait_until(start_ns)?;
        for total in 0..publications {
            let after_ns = plan.schedule.due_ns(total);
            let due_ns = after_ns.map_or_else(clock::now_ns, |after_ns| start_ns + after_ns);
            self.wait_until(due_ns)?;
            self.wait_for_window()?;
            let late_ns = clock::now_ns().saturating_sub(due_ns);
            record(&mut self.outcome.late, late_ns);
            progress.late_ns_max.fetch_max(late_ns, Relaxed);
            let payload = maker.make(&Stamp {
                run: plan.run,
                room,
                number,
                publisher: 0,
                due_ns,
                delay_us: u32::try_from(late_ns / 1_000).unwrap_or(u32::MAX),
            });
            let is_closing = total + plan.closing() >= publications;
            let confirm = match (is_closing, plan.confirm, plan.window) {
                (true, _, _) => Confirm::Sequenced,
                (false, Confirm::No, Some(_)) => Confirm::Taken,
                (false, confirm, _) => confirm,
            };
            let request = self.outlet.send(room, payload, confirm)?;
            if is_closing {
                self.closing_request.get_or_insert(request);
            }
            self.unanswered += u64::from(confirm != Confirm::No);
            self.outcome.published = total + 1;
            (room, number) = match room + 1 {
                next if next == plan.rooms => (0, number + 1),
                next => (next, number),
            };
            progress.published.store(total + 1, Relaxed);
            if total % CHECK_EVERY == 0 {
                self.collect_answers()?;
            }
        }
        self.outlet.flush()?;
        progress.published.store(self.outcome.published, Relaxed);
        self.finish(start_ns)
    }

    /// Waits until `due_ns`; what was sent before is flushed before the wait.
    fn wait_until(&mut self, due_ns: u64) -> Result<(), String> {
        if due_ns <= clock::now_ns() {
            return Ok(());
        }
        self.outlet.flush()?;
        loop {
            let wait_ns = due_ns.saturating_sub(clock::now_ns());
            std::thread::sleep(Duration::from_nanos(wait_ns.min(CHECK_EVERY_NS)));
            if wait_ns <= CHECK_EVERY_NS {
                return Ok(());
            }
            self.collect_answers()?;
        }
    }

    /// Waits until another publication may be without its answer.
    fn wait_for_window(&mut self) -> Result<(), String> {
        while self
            .plan
            .window
            .is_some_and(|window| self.unanswered >= u64::from(window))
        {
            let answer = self.outlet.wait()?;
            self.take_answer(answer);
        }
        Ok(())
    }

    fn collect_answers(&mut self) -> Result<(), String> {
        while let Some(answer) = self.outlet.poll()? {
            self.take_answer(answer);
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: Confirmation) {
        match answer.result {
            Ok(place) => {
                self.outcome.acknowledged += 1;
                self.settle(answer.request, place);
            }
            Err(refusal) => {
                self.outcome.refused += 1;
                self.outcome.error.get_or_insert(refusal);
            }
        }
        // Refusals come for every publication, so there may be more answers than were asked for.
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Checks the answer to a room's last publication: a place below the number of publications to
    /// the room means that some have none.
    fn settle(&mut self, request: u64, place: Option<u64>) {
        let (true, Some(first)) = (self.plan.settles_rooms, self.closing_request) else {
            return;
        };
        // The plan ends with one publication to each room, from room 0.
        let Some(room) = request.checked_sub(first) else {
            return;
        };
        let Some(settled) = self.settled.get_mut(room as usize) else {
            return;
        };
        let published = self.plan.schedule.publications() / u64::from(self.plan.rooms);
        let place = place.unwrap_or(0);
        if place < published {
            self.outcome.error.get_or_insert(format!(
                "{}{room} is at offset {place} after {published} publications",
                crate::dialect::ROOM_PREFIX
            ));
        } else if !std::mem::replace(settled, true) {
            self.outcome.rooms_settled += 1;
            self.outcome.rooms_shared += u64::from(place > published);
        }
    }

    /// Waits for the last answer, which stops the clock, then for refusals that may follow.
    fn finish(&mut self, start_ns: u64) -> Result<(), String> {
        while self.unanswered > 0 {
            let answer = self.outlet.wait()?;
            self.take_answer(answer);
        }
        self.outcome.elapsed_ns = clock::now_ns() - start_ns;
        self.outlet.settle()?;
        self.collect_answers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use std::collections::VecDeque;

    /// A server that confirms and hands out no places, as most do.
    #[derive(Default)]
    struct WithoutPlaces {
        sent: u64,
        answers: VecDeque<u64>,
        /// Times that it was listened to.
        polls: Arc<AtomicU64>,
    }

    impl Outlet for WithoutPlaces {
        fn send(&mut self, _: u32, _: &[u8], confirm: Confirm) -> Result<u64, String> {
            if confirm != Confirm::No {
                self.answers.push_back(self.sent);
            }
            self.sent += 1;
            Ok(self.sent - 1)
        }

        fn flush(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn poll(&mut self) -> Result<Option<Confirmation>, String> {
            self.polls.fetch_add(1, Relaxed);
            Ok(self.answers.pop_front().map(|request| Confirmation {
                request,
                result: Ok(None),
            }))
        }

        fn wait(&mut self) -> Result<Confirmation, String> {
            self.poll()?.ok_or_else(|| "nothing was asked".to_owned())
        }

        fn settle(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    fn publish(rooms: u32, settles_rooms: bool) -> Outcome {
        let mut plan = Plan::new(Schedule::closed(6), rooms, 64);
        plan.settles_rooms = settles_rooms;
        run(&plan, Box::<WithoutPlaces>::default(), &Progress::default())
    }

    #[test]
    fn a_server_is_listened_to_while_no_publication_is_due() {
        let outlet = WithoutPlaces::default();
        let polls = Arc::clone(&outlet.polls);
        let mut plan = Plan::new(Schedule::closed(1), 1, 64);
        plan.start_ns = clock::now_ns() + 60 * CHECK_EVERY_NS;
        std::thread::spawn(move || run(&plan, Box::new(outlet), &Progress::default()));
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while polls.load(Relaxed) < 2 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn places_are_asked_for_where_they_are_wanted_and_not_for_a_single_room() {
        for rooms in [1, 2] {
            let outcome = publish(rooms, false);
            assert_eq!((outcome.published, outcome.error), (6, None));
            let error = publish(rooms, true).error.unwrap();
            assert!(error.contains("at offset 0"), "{error}");
        }
    }
}
