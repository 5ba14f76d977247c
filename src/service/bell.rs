//! The doorbells: how a shard wakes this thread, and how this thread wakes a shard.
//!
//! A bell is an eventfd, which remembers a ring until it is read; so a ring between the last look at
//! the lanes and the sleep is not lost. The mesh decides who has to be rung for.

use super::Shared;
use super::readable::readable;
use super::tick::breathe;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// Takes what shards send, whenever they send it. Between deliveries the thread counts as asleep and
/// is rung for, even while other tasks run: they take deliveries themselves after each batch.
pub(super) async fn answer(shared: Rc<Shared>, bell: Arc<OwnedFd>) {
    loop {
        shared.node.awake();
        while shared.node.take_deliveries() {
            breathe().await;
        }
        if !shared.node.prepare_sleep() {
            continue;
        }
        if readable(&bell).await.is_err() {
            // No descriptor left for the wait: look again soon instead of never.
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
        silence(&bell);
    }
}

/// Rings `bell`. A bell that cannot be rung any louder (EAGAIN) rings already.
pub(super) fn ring(bell: impl AsFd) {
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

fn silence(bell: impl AsFd) {
    let _ = rustix::io::read(bell, &mut [0; 8]);
}
