//! A run while it goes on: a point of its course every second, shown as it comes.

use crate::course::{Now, Point, Recorder};
use crate::host::Reading;
use crate::options::{Observe, Output};
use crate::tally::Interval;
use crate::view::View;
use std::sync::mpsc::Receiver;

/// Who watches.
pub(crate) struct Watch {
    recorder: Recorder,
    view: View,
}

impl Watch {
    /// Watches a run of so many connections, 0 if it has none; loadgen has used `own` until now. The error
    /// is of an endpoint that cannot be read.
    pub(crate) fn new(
        intervals: Receiver<Interval>,
        own: Reading,
        connections: u64,
        observe: &Observe,
        output: &Output,
    ) -> Result<Self, String> {
        Ok(Self {
            recorder: Recorder::new(intervals, own, observe)?,
            view: View::new(output, connections),
        })
    }

    /// To be called often.
    pub(crate) fn tick(&mut self, now: impl FnOnce() -> Now) {
        if self.recorder.tick(now) {
            self.view.show(self.recorder.latest());
        }
    }

    /// The course.
    pub(crate) fn finish(self) -> Vec<Point> {
        self.view.close();
        self.recorder.finish()
    }
}
