//! The end of the process, in the order in which it hurts nobody.
//!
//! 1. `/ready` says 503, so that balancers send no one new.
//! 2. Upstream listeners close; open connections are told GOAWAY and may finish.
//! 3. Every shard is told to close its clients and says when the last one is gone.
//! 4. Upstream connections are closed, after what they were still owed: shards that have drained still
//!    serve their rooms.
//! 5. Every shard is told once more, and ends.
//!
//! A deadline bounds the whole: a shard that does not answer does not hold the process.

use super::Shared;
use super::mailbox::Mailbox;
use super::tick::Heartbeat;
use crate::base::NodeId;
use crate::limits;
use crate::mesh::Delivery;
use crate::wire::upstream::Frame;
use glommio::Task;
use glommio::timer::sleep;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every shard has closed its last connection.
    Completely,
    /// Time was up before.
    DeadlinePassed,
}

/// Pause between two looks at what the drain waits for.
const LOOK_MS: u64 = 5;

/// Completes when the flag is set, at most a heartbeat later. The flag is set in a signal handler, which
/// may do little more; looking at it ten times a second costs nothing that can be measured.
pub(super) async fn requested(shutdown: &AtomicBool, heartbeat: &Heartbeat) {
    // Relaxed: the flag guards no other memory.
    while !shutdown.load(Ordering::Relaxed) {
        heartbeat.beat().await;
    }
}

/// Drains, see the module. `listeners` are the tasks that accept upstream connections.
pub(super) async fn drain(shared: &Shared, listeners: Vec<Task<()>>, drain_ms: u64) -> Drained {
    let deadline = Instant::now() + Duration::from_millis(drain_ms);
    shared.draining.set(true);
    for listener in listeners {
        listener.cancel().await;
    }
    shared.node.for_each_mailbox(|mailbox| {
        mailbox.send(&Frame::Goaway {
            node: &shared.node_name,
            grace_ms: u32::try_from(drain_ms).unwrap_or(u32::MAX),
        });
    });
    let told = tell_shards(shared, deadline).await;
    let drained = told && until(deadline, || shared.node.is_drained()).await;
    close_upstreams(shared).await;
    let moment = Instant::now() + Duration::from_millis(limits::UPSTREAM_LINGER_MS);
    tell_shards(shared, moment).await;
    if drained {
        Drained::Completely
    } else {
        Drained::DeadlinePassed
    }
}

/// Sends the order to every shard, waiting for lanes that are full.
async fn tell_shards(shared: &Shared, deadline: Instant) -> bool {
    let mut left: Vec<NodeId> = shared.node.shards().collect();
    until(deadline, || {
        left.retain(|shard| shared.node.deliver(*shard, &Delivery::Drain).is_err());
        left.is_empty()
    })
    .await
}

/// Ends what is left of the upstream connections. They get a moment to be read to their end and for
/// their last answers even when the deadline has passed.
async fn close_upstreams(shared: &Shared) {
    shared.node.for_each_mailbox(Mailbox::finish);
    let moment = Instant::now() + Duration::from_millis(limits::UPSTREAM_LINGER_MS);
    until(moment, || shared.node.connections() == 0).await;
    shared.node.for_each_mailbox(Mailbox::close);
}

/// Waits until `is_done` says so; `false` when the deadline comes first.
async fn until(deadline: Instant, mut is_done: impl FnMut() -> bool) -> bool {
    loop {
        if is_done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
