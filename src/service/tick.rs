//! The executor's heartbeat, and how a task lets the executor look at its rings.
//!
//! glommio 0.9 looks at its rings when no task is runnable or when its preemption timer has fired. If
//! that timer fires in the moment between being armed and the first task being run (a thread that the
//! kernel put aside for that long), no task is run, and the executor goes to sleep with runnable
//! tasks: it wakes at the next completion, if there ever is one. Hence three rules here. The timer is
//! so long that it does not fire ([`PREEMPT`]); a task that goes on for ever calls [`breathe`], which
//! lets the rings be looked at without it; and the heartbeat is a timerfd, a completion that comes
//! whatever the executor believes about its timers, so that even then nothing waits for long.

use super::readable::readable;
use crate::limits;
use glommio::timer::Timer;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The executor's preemption timer; see the module.
pub(super) const PREEMPT: Duration = Duration::from_secs(60);

/// Comes every [`limits::SERVICE_TICK_MS`].
pub(super) struct Heartbeat(OwnedFd);

impl Heartbeat {
    /// A heartbeat whose first beat comes after one interval.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec::try_from(Duration::from_millis(limits::SERVICE_TICK_MS))
            .expect("a tenth of a second is a time");
        let setting = Itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(Self(timer))
    }

    /// Completes at the next beat.
    pub(super) async fn beat(&self) {
        if readable(&self.0).await.is_err() {
            // No descriptor left for the wait; a timer serves as well, for this once.
            Timer::new(Duration::from_millis(limits::SERVICE_TICK_MS)).await;
        }
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// Goes on after the executor has looked at its rings once, and the other tasks have run.
pub(super) async fn breathe() {
    Timer::new(Duration::from_micros(1)).await;
}
