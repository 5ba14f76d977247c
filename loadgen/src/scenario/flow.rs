//! When a run is over.

use super::{Conduct, Load, Trouble};
use crate::clock;
use crate::fleet::Fleet;
use crate::worker::Totals;
use std::time::{Duration, Instant};

/// Where connections come and go: as long as nothing may come after the last publication until what is
/// still to come is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// Whether a run is over: what is due to those who are there was delivered, or nothing more comes.
pub(super) struct Flow {
    trouble: Trouble,
    /// Where nothing is published, holding ends here, nanoseconds.
    end_ns: Option<u64>,
    begin_ns: u64,
    /// When a storm begins, nanoseconds.
    steady_ns: u64,
    /// Where clients publish.
    chat: Option<ChatPlan>,
    grace: Duration,
    /// Publications of the run, once nobody publishes any more.
    totals: Option<Totals>,
    /// Deliveries that there are to be.
    expected: Option<u64>,
    delivered: u64,
    changed: Instant,
    is_quiet: bool,
    /// How long clients published, nanoseconds.
    pub(super) publish_ns: u64,
}

struct ChatPlan {
    publications: u64,
    /// When the last of them is due, nanoseconds.
    last_due_ns: u64,
}

impl Flow {
    /// Of what the conduct says; the first publication is due at `first_ns`.
    pub(super) fn new(
        conduct: &Conduct<'_>,
        fleet: &Fleet,
        first_ns: u64,
        steady: (u64, u64),
        grace: Duration,
    ) -> Self {
        let end_ns = matches!(conduct.load, Load::Hold(_)).then_some(steady.1);
        Self {
            trouble: conduct.trouble,
            end_ns,
            begin_ns: first_ns,
            steady_ns: steady.0,
            chat: match &conduct.load {
                Load::Clients(chat, _) => Some(ChatPlan {
                    publications: chat.schedule.publications(),
                    last_due_ns: first_ns + chat.schedule.last_due_ns().unwrap_or(0),
                }),
                _ => None,
            },
            grace,
            totals: None,
            expected: None,
            delivered: fleet.counts().delivered,
            changed: Instant::now(),
            is_quiet: false,
            publish_ns: 0,
        }
    }

    /// The one publisher has published all it will.
    pub(super) fn published_all(&mut self, totals: Totals) {
        self.changed = Instant::now();
        self.totals = Some(totals);
    }

    /// Publications of the run, when it is over.
    pub(super) fn into_totals(self) -> Totals {
        self.totals.unwrap_or_else(Totals::nothing)
    }

    /// Whether nothing more is to be waited for.
    pub(super) fn is_over(&mut self, fleet: &Fleet) -> Result<bool, String> {
        if let Some(end_ns) = self.end_ns {
            return Ok(clock::now_ns() >= end_ns);
        }
        let delivered = fleet.counts().delivered;
        if delivered != self.delivered {
            (self.delivered, self.changed) = (delivered, Instant::now());
        }
        if self.totals.is_none() && !self.end_chat(fleet)? {
            return Ok(false);
        }
        if self.expected.is_none() && self.is_settled(fleet)? {
            let totals = self.totals.as_ref().expect("nobody publishes any more");
            self.expected = Some(fleet.foretell(totals)?);
        }
        let is_all = self.expected.is_some_and(|expected| delivered >= expected);
        Ok(is_all || self.changed.elapsed() > self.grace)
    }

    /// Ends the publishing of clients when all is published, or no more comes of it. Whether it has ended.
    fn end_chat(&mut self, fleet: &Fleet) -> Result<bool, String> {
        let Some(chat) = &self.chat else {
            return Ok(false);
        };
        let counts = fleet.counts();
        // One that failed does not publish, and is not waited for.
        let overdue_ns = clock::now_ns().saturating_sub(chat.last_due_ns);
        let is_late = Duration::from_nanos(overdue_ns).min(self.changed.elapsed()) > self.grace;
        if counts.published < chat.publications && counts.there > 0 && !is_late {
            return Ok(false);
        }
        self.publish_ns = clock::now_ns().saturating_sub(self.begin_ns);
        self.totals = Some(Totals::ByConnection(fleet.quieten()?));
        self.changed = Instant::now();
        Ok(true)
    }

    /// Whether it can be told what is still to come: nobody comes or goes any more.
    fn is_settled(&mut self, fleet: &Fleet) -> Result<bool, String> {
        let is_back = match self.trouble {
            Trouble::None => return Ok(true),
            Trouble::Storm(_, within) => {
                let counts = fleet.counts();
                let is_in_time = clock::now_ns() <= self.steady_ns + within.as_nanos() as u64;
                if counts.back < counts.dropped && is_in_time {
                    // However long nothing comes: they have the time that they were given.
                    self.changed = Instant::now();
                }
                counts.back >= counts.dropped || !is_in_time
            }
            Trouble::Churn(_) => {
                if !std::mem::replace(&mut self.is_quiet, true) {
                    fleet.quieten()?;
                }
                let counts = fleet.counts();
                counts.back >= counts.dropped
            }
        };
        // What was on its way to them from before they came back is delivered, and not foretold.
        Ok(is_back && self.changed.elapsed() > QUIET.min(self.grace))
    }
}
