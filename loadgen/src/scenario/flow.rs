//! When a run is over.

use super::{Conduct, Load, Trouble};
use crate::clock;
use crate::fleet::Fleet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where deliveries cannot be foretold, because connections come and go: as long as nothing more may
/// come after the last publication until that counts as all.
const QUIET: Duration = Duration::from_secs(1);

/// Whether a run is over: everything that can be foretold was delivered, or nothing more comes.
pub(super) struct Flow {
    trouble: Trouble,
    /// Where nothing is published, holding ends here, nanoseconds.
    end_ns: Option<u64>,
    begin_ns: u64,
    /// When the steady phase begins, and with it a storm, nanoseconds.
    steady_ns: u64,
    planned: u64,
    grace: Duration,
    expected: Option<u64>,
    delivered: u64,
    changed: Instant,
    is_quiet: bool,
    /// How many publications each connection sent, once that is known.
    pub(super) sent: Option<Arc<[u32]>>,
    /// How long clients published, nanoseconds.
    pub(super) publish_ns: u64,
    is_chat: bool,
}

impl Flow {
    /// Of what the conduct says.
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
            planned: match &conduct.load {
                Load::Clients(chat, _) => chat.schedule.publications(),
                _ => 0,
            },
            grace,
            expected: None,
            delivered: fleet.counts().delivered,
            changed: Instant::now(),
            is_quiet: false,
            sent: None,
            publish_ns: 0,
            is_chat: matches!(conduct.load, Load::Clients(..)),
        }
    }

    /// One publisher has published all it will.
    pub(super) fn published_all(&mut self, fleet: &Fleet, published: u64) {
        self.changed = Instant::now();
        if let Trouble::None = self.trouble {
            self.expected = Some(fleet.expected_in_turn(published));
        }
    }

    /// Whether nothing more is to be waited for; `is_published`: the one publisher has ended, if there is one.
    pub(super) fn is_over(&mut self, fleet: &Fleet, is_published: bool) -> Result<bool, String> {
        if let Some(end_ns) = self.end_ns {
            return Ok(clock::now_ns() >= end_ns);
        }
        let counts = fleet.counts();
        let delivered = counts.delivered;
        if delivered != self.delivered {
            (self.delivered, self.changed) = (delivered, Instant::now());
        }
        if !is_published {
            self.changed = Instant::now();
            return Ok(false);
        }
        if self.is_chat && self.sent.is_none() {
            let is_stuck = self.changed.elapsed() > self.grace;
            if counts.published < self.planned && !is_stuck {
                return Ok(false);
            }
            self.publish_ns = clock::now_ns().saturating_sub(self.begin_ns);
            let sent = fleet.quieten()?;
            self.expected = Some(fleet.expected(&sent));
            self.sent = Some(sent);
        }
        if let Some(expected) = self.expected {
            return Ok(delivered >= expected || self.changed.elapsed() > self.grace);
        }
        let is_there = match self.trouble {
            Trouble::Storm(_, within) => {
                counts.back >= counts.dropped
                    || self.steady_ns + (within.as_nanos() as u64) < clock::now_ns()
            }
            _ => {
                if !std::mem::replace(&mut self.is_quiet, true) {
                    fleet.quieten()?;
                }
                counts.back >= counts.dropped
            }
        };
        let quiet = match is_there {
            true => QUIET,
            false => self.grace,
        };
        Ok(self.changed.elapsed() > quiet)
    }
}
