//! The run while it goes on: a line per second, or a picture on a terminal.

use crate::course::{Phase, Point};
use crate::options::Output;
use crate::report::grouped;
use std::fmt::Write;

/// Where the progress of a run is shown.
pub(crate) struct View {
    connections: u64,
}

impl View {
    /// Of a run with so many connections.
    pub(crate) fn new(_output: &Output, connections: u64) -> Self {
        Self { connections }
    }

    /// Shows a new point of the course.
    pub(crate) fn show(&mut self, point: Option<Point>) {
        if let Some(point) = point {
            eprintln!("{}", line(&point, self.connections));
        }
    }

    /// Gives the terminal back.
    pub(crate) fn close(self) {}
}

fn line(point: &Point, connections: u64) -> String {
    let mut line = format!(
        "{:>4} s  {:<9} {} of {} connections",
        point.second,
        point.phase.name(),
        grouped(point.connections),
        grouped(connections)
    );
    if point.phase != Phase::Ramp {
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            ", {} published, {} delivered",
            grouped(point.published),
            grouped(point.delivered)
        );
    }
    if let Some(ms) = point.p99_ms.or(point.max_ms) {
        let name = if point.p99_ms.is_some() { "p99" } else { "max" };
        let _ = write!(line, ", {name} {ms:.2} ms");
    }
    if point.failed > 0 {
        let _ = write!(line, ", {} FAILED", grouped(point.failed));
    }
    line
}
