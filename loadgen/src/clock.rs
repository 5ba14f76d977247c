//! The clock of a run: every time in a payload, an order or a histogram is of it.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

/// CLOCK_MONOTONIC of this process minus that of the coordinator of the run.
static CLOCK_OFFSET_NS: AtomicI64 = AtomicI64::new(0);

/// The clock of the run: nanoseconds of CLOCK_MONOTONIC, which is also the driver's; in a worker process
/// those of its coordinator.
pub(crate) fn now_ns() -> u64 {
    monotonic_ns().wrapping_sub(CLOCK_OFFSET_NS.load(Relaxed) as u64)
}

/// From now on the clock of the run is that of a coordinator, from which this host's differs by so much.
pub(crate) fn set_offset(offset_ns: i64) {
    CLOCK_OFFSET_NS.store(offset_ns, Relaxed);
}

/// Waits until that time of the run.
pub(crate) fn sleep_until(at_ns: u64) {
    std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns())));
}

/// Nanoseconds of CLOCK_MONOTONIC of this host.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
