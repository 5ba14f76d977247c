//! What others see of a running worker, and its orders.

use crate::schedule::Schedule;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

/// What others see of a running worker, and its orders.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Connections whose subscribe was confirmed for the first time.
    pub(crate) subscribed: AtomicU32,
    /// Connections whose subscribe was confirmed or that failed before.
    pub(crate) settled: AtomicU32,
    /// Connections that are subscribed now.
    pub(crate) there: AtomicU32,
    /// Connections that failed at any time.
    pub(crate) failed: AtomicU32,
    /// Connections that were subscribed again.
    pub(crate) back: AtomicU64,
    /// Connections that were dropped on purpose.
    pub(crate) dropped: AtomicU64,
    /// Publications delivered.
    pub(crate) delivered: AtomicU64,
    /// Publications sent by clients.
    pub(crate) published: AtomicU64,
    /// Longest latency of a delivery, nanoseconds.
    pub(crate) latency_ns_max: AtomicU64,
    /// Thread id, once its ring is set up.
    pub(crate) tid: AtomicU32,
    /// How many each of its connections sent, once clients publish no more.
    pub(crate) sent: OnceLock<Vec<u32>>,
    /// How many deliveries there are to be in all, some time after `foretell`.
    pub(crate) expected: OnceLock<u64>,
    /// Order: start to connect. The thread is to be unparked after it.
    pub(crate) start: AtomicBool,
    /// Order: start no more connects, and count those under way as failed.
    pub(crate) stop_connecting: AtomicBool,
    /// Order: the steady phase is from here, nanoseconds.
    pub(crate) steady_from_ns: AtomicU64,
    /// Order: the steady phase is to here, nanoseconds; 0 before there is one.
    pub(crate) steady_to_ns: AtomicU64,
    /// Order: clients publish, on a schedule that starts here, nanoseconds; 0 before.
    pub(crate) publish_from_ns: AtomicU64,
    /// Order: clients publish no more, and connections live on.
    pub(crate) quiet: AtomicBool,
    /// Order: connections live as long as they are told from now on.
    pub(crate) churn: AtomicBool,
    /// Order: drop this many of the run's connections, once.
    pub(crate) drop_count: AtomicU32,
    /// Order: say what is to come of these to the connections that are there now.
    pub(crate) foretell: OnceLock<Totals>,
    /// Order: end. The worker counts what is lost, given `totals`.
    pub(crate) stop: AtomicBool,
    /// Publications of the run, set before `stop`.
    pub(crate) totals: OnceLock<Totals>,
}

/// Publications of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Totals {
    /// They went to the rooms in turn, on a schedule that started then, nanoseconds.
    InTurn {
        published: u64,
        schedule: Schedule,
        start_ns: u64,
        /// What cannot be told exactly.
        slack: Slack,
    },
    /// This many by each connection, to its room.
    ByConnection(Arc<[u32]>),
}

/// What has to be allowed for when a time is held against the schedule, nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slack {
    /// Most that a publication was handed over late.
    pub(crate) late_ns_max: u64,
    /// Longest latency of a delivery, on any connection of the run.
    pub(crate) latency_ns_max: u64,
    /// Most that the worker's clock is off the one that published.
    pub(crate) clock_error_ns: u64,
}

impl Totals {
    /// The same with another slack; where clients publish there is none.
    pub(crate) fn with_slack(&self, change: impl Fn(&mut Slack)) -> Self {
        let mut totals = self.clone();
        if let Self::InTurn { slack, .. } = &mut totals {
            change(slack);
        }
        totals
    }

    /// Whether they are those of a run: they may have come from another process.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::InTurn { schedule, .. } => schedule.is_sound(),
            Self::ByConnection(_) => true,
        }
    }

    /// Of a run without publications.
    pub(crate) fn nothing() -> Self {
        Self::InTurn {
            published: 0,
            schedule: Schedule::closed(0),
            start_ns: 0,
            slack: Slack::default(),
        }
    }
}
