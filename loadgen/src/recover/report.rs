//! What a recovery run found, as JSON and as lines of text.

use super::tally::{Deliveries, Drops, Recoveries, Tally};
use crate::options::Recover;
use crate::report::{Latency, grouped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Drops and recoveries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecoveryReport {
    /// Clients.
    pub(crate) clients: u32,
    /// Rooms.
    pub(crate) rooms: u32,
    /// Rooms of each client.
    pub(crate) rooms_each: u32,
    /// Clients dropped, by how.
    pub(crate) drops: Drops,
    /// Clients that were never dropped; there must be none.
    pub(crate) never_dropped: u64,
    /// Times that a client came back and had all its rooms again.
    pub(crate) reconnects: u64,
    /// Connections that ended before they had all rooms.
    pub(crate) cut_short: u64,
    /// Clients that were not back at the end of their rooms when the run ended.
    pub(crate) behind: u64,
    /// Subscriptions that asked for what they missed, by the answer.
    pub(crate) recoveries: Recoveries,
    /// Subscriptions that the server ended for insufficient state; they recovered on the same
    /// connection.
    pub(crate) insufficient_state: u64,
    /// Publications, by how they came.
    pub(crate) deliveries: Deliveries,
    /// Connections that failed although no client had ended them, by why.
    pub(crate) failures: BTreeMap<String, u64>,
    /// From the start of a reconnect until all rooms had answered.
    pub(crate) back: Latency,
}

impl RecoveryReport {
    /// Of all workers.
    pub(super) fn new(options: &Recover, tally: &Tally) -> Self {
        let failures = tally.failures.iter();
        Self {
            clients: options.clients,
            rooms: options.rooms,
            rooms_each: options.rooms_each,
            drops: tally.drops,
            never_dropped: tally.never_dropped,
            reconnects: tally.reconnects,
            cut_short: tally.cut_short,
            behind: tally.behind,
            recoveries: tally.recoveries,
            insufficient_state: tally.insufficient,
            deliveries: tally.deliveries,
            failures: failures
                .map(|(failure, count)| (failure.to_string(), *count))
                .collect(),
            back: Latency::new(&tally.back),
        }
    }

    /// Why the run shows nothing, if that is so: everybody is to be dropped, in every way, and to miss
    /// something.
    pub(crate) fn doubt(&self) -> Option<String> {
        let drops = &self.drops;
        let kinds = [drops.reset, drops.close_frame, drops.half_open];
        let is_telling =
            self.never_dropped == 0 && !kinds.contains(&0) && self.deliveries.recovered > 0;
        (!is_telling).then(|| {
            format!(
                "recover shows nothing of a client that was not dropped, nor of a way to drop that did not happen: \
                 {} of {} clients were never dropped; {} drops by reset, {} by close frame, {} half-open; {} \
                 publications recovered; take a longer --duration or a shorter --drop-every",
                grouped(self.never_dropped),
                grouped(u64::from(self.clients)),
                grouped(drops.reset),
                grouped(drops.close_frame),
                grouped(drops.half_open),
                grouped(self.deliveries.recovered)
            )
        })
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (drops, answers, came) = (&self.drops, &self.recoveries, &self.deliveries);
        writeln!(
            f,
            "drops        {} by reset, {} by close frame, {} half-open; {} of {} clients never",
            grouped(drops.reset),
            grouped(drops.close_frame),
            grouped(drops.half_open),
            grouped(self.never_dropped),
            grouped(u64::from(self.clients))
        )?;
        writeln!(
            f,
            "reconnects   {}, {} cut short; {} clients not at the end",
            grouped(self.reconnects),
            grouped(self.cut_short),
            grouped(self.behind)
        )?;
        for (failure, count) in &self.failures {
            writeln!(f, "  failed     {} × {failure}", grouped(*count))?;
        }
        let back = &self.back;
        writeln!(f, "  back       {back}")?;
        writeln!(
            f,
            "recoveries   {} recovered, {} beyond the history, {} unexplained, {} to another epoch, \
             {} contradicting; {} ended for insufficient state",
            grouped(answers.recovered),
            grouped(answers.beyond_history),
            grouped(answers.unexplained),
            grouped(answers.other_epoch),
            grouped(answers.contradicting),
            grouped(self.insufficient_state)
        )?;
        writeln!(
            f,
            "deliver      {}, {} of them recovered; {} missing as told",
            grouped(came.delivered),
            grouped(came.recovered),
            grouped(came.told_missing)
        )?;
        writeln!(
            f,
            "  check      {} lost, {} duplicated, {} reordered, {} wrong, {} unasked",
            grouped(came.lost),
            grouped(came.duplicated),
            grouped(came.reordered),
            grouped(came.wrong),
            grouped(came.unasked)
        )
    }
}
