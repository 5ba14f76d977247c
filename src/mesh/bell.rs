//! Who sleeps: one flag per node, so that a doorbell is rung only for a node that needs it.
//!
//! ```text
//!  producer                                 consumer
//!  P1 publish index    (Release)            C1 sleeping = true      (Relaxed)
//!  P2 fence            (SeqCst)             C2 fence                (SeqCst)
//!  P3 read sleeping    (Relaxed)            C3 read every index     (Acquire)
//!  P4 if set: exchange for false; if        C4 sleep only if all lanes are empty,
//!     that succeeds, ring the doorbell         else sleeping = false
//! ```
//!
//! **No wake-up is lost.** The two fences have one place each in the order of all SeqCst fences.
//! If P2 precedes C2, then C3 sees the index stored at P1 and the consumer does not sleep. If C2
//! precedes P2, then P3 sees the flag set at C1 or a later value of it. A later value is `true`
//! again, or `false` stored by another producer's exchange, which rings, or `false` stored by the
//! consumer because it is awake, and then it passes C1 to C3 again before it sleeps, where the
//! same argument holds. A producer that read `false` because another one rang may still be
//! invisible to the consumer that this ring woke: the consumer sleeps again only through a new
//! C1 and C2, and P3 having read a value older than that C1 means that P2 precedes that C2.
//!
//! The doorbell itself (an eventfd or what the node sleeps on) must remember a ring that comes
//! between C4 and the sleep. A ring may also come late, at a node that is awake already.

use super::sync::{AtomicBool, Ordering, fence};
use crate::base::ids::NodeId;
use crossbeam::utils::CachePadded;
use std::sync::Arc;

/// The sleeping flags of all nodes. Clones share them.
#[derive(Clone, Debug)]
pub struct Bells {
    /// By node; each on a cache line of its own, because each is read by all other nodes.
    sleeping: Arc<[CachePadded<AtomicBool>]>,
}

impl Bells {
    /// Flags for the nodes `0..nodes`, all awake.
    pub fn new(nodes: u16) -> Self {
        Self {
            sleeping: (0..nodes)
                .map(|_| CachePadded::new(AtomicBool::new(false)))
                .collect(),
        }
    }

    /// Consumer, C1 and C2: announces that `node` is about to sleep. It must look at all its
    /// inlets after this and before it sleeps.
    pub fn announce_sleep(&self, node: NodeId) {
        // Relaxed: ordered by the fence.
        self.flag(node).store(true, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `order`, see the module's proof.
        fence(Ordering::SeqCst);
    }

    /// Consumer: `node` does not sleep, or no longer.
    pub fn awake(&self, node: NodeId) {
        // Relaxed: a producer that still sees the old value rings once more than needed.
        self.flag(node).store(false, Ordering::Relaxed);
    }

    /// Producer, P2: after the indices of all lanes have been published, before the flags of
    /// their consumers are read. One fence serves any number of lanes.
    pub fn order(&self) {
        // SeqCst: pairs with the fence in `announce_sleep`, see the module's proof.
        fence(Ordering::SeqCst);
    }

    /// Producer, P3 and P4: says whether the caller has to ring for `node`. Of several producers
    /// that find it asleep, one is told so.
    pub fn claim(&self, node: NodeId) -> bool {
        let flag = self.flag(node);
        // Relaxed: ordered by the fence. The plain read keeps the line shared while the node is
        // awake; the exchange picks one producer and leaves a cleared flag alone.
        let (sleeps, awake, order) = (true, false, Ordering::Relaxed);
        flag.load(order) && flag.compare_exchange(sleeps, awake, order, order).is_ok()
    }

    fn flag(&self, node: NodeId) -> &AtomicBool {
        &self.sleeping[usize::from(node.0)]
    }
}
