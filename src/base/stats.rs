//! Counters that one thread writes and the service thread reads.
//!
//! Each counter has a single writer, so an increment is a plain load and store (Relaxed): no locked
//! instruction on the data path. Readers may see counters of one turn apart from each other.

use super::reason::CloseReason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer. Counters grow; gauges are set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets the value. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value as last written.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $kind:ident $field:ident,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: Counter,)+
        }

        impl $name {
            /// Every counter: its metric name, whether it is a gauge, its help text, its value.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, bool, &'static str, u64)) {
                $(visit(
                    stringify!($field),
                    counters!(@gauge $kind),
                    concat!($($doc),+).trim_ascii(),
                    self.$field.read(),
                );)+
            }
        }
    };
    (@gauge gauge) => { true };
    (@gauge counter) => { false };
}

counters! {
    /// What a shard exports.
    ShardStats {
        /// Client connections open, in any state.
        gauge connections,
        /// Client connections that have completed `connect`.
        gauge sessions,
        /// Users with such connections; anonymous ones are none.
        gauge users,
        /// Rooms with subscribers on this shard.
        gauge rooms,
        /// Rooms whose home this shard is.
        gauge homes,
        /// Subscriptions of this shard's connections.
        gauge subscriptions,
        /// Connections accepted.
        counter accepts_total,
        /// Accepts that the kernel refused.
        counter accept_errors_total,
        /// WebSocket upgrades completed.
        counter upgrades_total,
        /// Publications sequenced by this shard's homes.
        counter publications_total,
        /// Publications to a new room that the full room table had no place for. Their publisher is
        /// told at the level sequenced.
        counter publications_refused_total,
        /// Publications that repeated an idempotency key.
        counter duplicates_total,
        /// Publications whose version was not newer than the newest of their room.
        counter publications_outdated_total,
        /// Publications put on a socket, one for each subscriber.
        counter deliveries_total,
        /// Publications that subscribers were not sent because their filter does not match the tags, one
        /// for each subscriber.
        counter filtered_total,
        /// Bytes received from clients.
        counter received_bytes_total,
        /// Bytes sent to clients.
        counter sent_bytes_total,
        /// Send operations submitted.
        counter sends_total,
        /// Client commands handled.
        counter commands_total,
        /// Error replies to client commands.
        counter command_errors_total,
        /// Recoveries that gave everything that was missed.
        counter recoveries_total,
        /// Recoveries refused, because not everything that was missed could be given.
        counter recoveries_failed_total,
        /// Publications given by recoveries.
        counter recovered_publications_total,
        /// Subscriptions told of insufficient state, because their cursor fell off the tail.
        counter insufficient_states_total,
        /// Clients present in the rooms whose home this shard is.
        gauge present_clients,
        /// Join and leave pushes that a storm did not leave room for.
        counter memberships_dropped_total,
        /// Events sent to the service thread.
        counter events_sent_total,
        /// Homes given up for new rooms, because the table was full.
        counter homes_evicted_total,
        /// Frames taken from lanes.
        counter lane_frames_total,
        /// Deliveries for a view that is gone.
        counter stale_deliveries_total,
        /// Subscriptions whose cursor fell off the tail.
        counter lost_cursors_total,
        /// Publications that took their room's history away, for want of history bytes.
        counter histories_dropped_total,
        /// Bytes held by tails.
        gauge tail_bytes,
        /// Payload bytes held by histories.
        gauge history_bytes,
        /// Turns of the loop.
        counter turns_total,
        /// Milliseconds of the monotonic clock at the last turn.
        gauge last_turn_ms,
        /// Calls of io_uring_enter.
        counter ring_enters_total,
        /// Completions reaped.
        counter ring_completions_total,
        /// Completions of connections that are gone.
        counter stale_completions_total,
        /// Receives that found no buffer.
        counter enobufs_total,
        /// Times that the completion queue overflowed into the kernel's list.
        counter completion_overflows_total,
        /// Connections parked until receive buffers come back.
        gauge parked_connections,
        /// Receive buffers out of the kernel's hands.
        gauge buffers_loaned,
        /// Doorbells rung for sleeping threads.
        counter doorbells_total,
        /// Turns in which reading from clients waited for lane space.
        counter lane_stalls_total,
        /// Nanoseconds spent in turns, waiting excluded.
        counter turn_busy_ns_total,
    }
}

counters! {
    /// What the service thread exports.
    ServiceStats {
        /// Upstream connections past their opening.
        gauge upstream_connections,
        /// Upstream connections accepted.
        counter upstream_accepts_total,
        /// Frames received from upstream services.
        counter upstream_frames_total,
        /// Bytes received from upstream services.
        counter upstream_bytes_total,
        /// PUBLISH frames and rooms of BROADCAST frames passed on.
        counter upstream_publications_total,
        /// Acknowledgements sent.
        counter upstream_acks_total,
        /// ERROR frames sent.
        counter upstream_errors_total,
        /// Questions of upstream services passed on.
        counter upstream_queries_total,
        /// Times that a full lane made an upstream connection wait.
        counter upstream_stalls_total,
        /// Events that shards have sent.
        counter events_total,
        /// Events that services have answered.
        counter event_answers_total,
        /// Events that no service has answered in time.
        counter event_timeouts_total,
        /// Events that wanted an answer and that no service takes.
        counter events_unhandled_total,
        /// Events that no service wanted to be told of, or took.
        counter events_dropped_total,
        /// Answers to events that no client can be given.
        counter event_answers_invalid_total,
        /// Events whose service went away before it answered.
        counter events_abandoned_total,
        /// Answers to events that are answered already, or to none.
        counter late_answers_total,
        /// Admin connections that ended without a whole request and its answer.
        counter admin_errors_total,
        /// Requests of the server API with a valid key.
        counter api_requests_total,
        /// Those answered with an error, and commands of a batch that were.
        counter api_errors_total,
        /// Requests of the server API without a valid key.
        counter api_unauthorized_total,
    }
}

/// Upper bounds of the turn-duration histogram, in microseconds; the last bucket has none.
pub const TURN_BUCKETS_US: [u64; 12] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000,
];

/// The statistics of one shard: counters, closes by reason, turn durations.
#[derive(Debug, Default)]
pub struct Stats {
    /// Counters and gauges.
    pub shard: ShardStats,
    /// Closed connections, by [`CloseReason`].
    pub closes: [Counter; CloseReason::ALL.len()],
    /// Turns whose busy time fell into each bucket of [`TURN_BUCKETS_US`]; not cumulative.
    pub turns: [Counter; TURN_BUCKETS_US.len() + 1],
}

impl Stats {
    /// Counts a closed connection.
    pub fn closed(&self, reason: CloseReason) {
        self.closes[reason as usize].add(1);
    }

    /// Counts a turn that was busy for `busy_ns` nanoseconds.
    pub fn turn(&self, busy_ns: u64) {
        let us = busy_ns / 1_000;
        let bucket = TURN_BUCKETS_US
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(TURN_BUCKETS_US.len());
        self.turns[bucket].add(1);
        self.shard.turn_busy_ns_total.add(busy_ns);
    }
}
