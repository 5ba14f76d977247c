//! The run while it goes on: a picture on a terminal, a line per second anywhere else.

use crate::course::{Phase, Point};
use crate::options::Output;
use crate::report::grouped;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};
use std::fmt::Write;
use std::io::{IsTerminal, Stderr};

/// Lines of the picture.
const LINES: u16 = 14;
/// Seconds that the picture looks back.
const POINTS_SHOWN: usize = 240;

/// Where the progress of a run is shown. Always standard error: the result goes to standard output.
pub(crate) struct View {
    connections: u64,
    /// `None`: lines.
    screen: Option<Screen>,
}

struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    points: Vec<Point>,
}

impl View {
    /// Of a run with so many connections.
    pub(crate) fn new(output: &Output, connections: u64) -> Self {
        let is_plain = output.plain || !std::io::stderr().is_terminal();
        let options = TerminalOptions {
            viewport: Viewport::Inline(LINES),
        };
        // A terminal that cannot say where its cursor is gets lines.
        let terminal = (!is_plain).then(|| {
            Terminal::with_options(CrosstermBackend::new(std::io::stderr()), options).ok()
        });
        Self {
            connections,
            screen: terminal.flatten().map(|terminal| Screen {
                terminal,
                points: Vec::new(),
            }),
        }
    }

    /// Shows a new point of the course.
    pub(crate) fn show(&mut self, point: Option<Point>) {
        let Some(point) = point else {
            return;
        };
        let Some(screen) = &mut self.screen else {
            eprintln!("{}", line(&point, self.connections));
            return;
        };
        screen.points.push(point);
        if screen.points.len() > POINTS_SHOWN {
            screen.points.remove(0);
        }
        let (points, connections) = (&screen.points, self.connections);
        // What cannot be drawn now is drawn the next time.
        let _ = screen
            .terminal
            .draw(|frame| draw(frame, points, connections));
    }

    /// Leaves the picture where it is and gives the terminal back.
    pub(crate) fn close(self) {
        if let Some(mut screen) = self.screen {
            let _ = screen.terminal.show_cursor();
            eprintln!();
        }
    }
}

fn line(point: &Point, connections: u64) -> String {
    let (all, there) = (grouped(connections), grouped(point.connections));
    let (published, delivered) = (grouped(point.published), grouped(point.delivered));
    let mut line = format!("{:>4} s  {:<9} ", point.second, point.phase.name());
    // Writing to a string cannot fail.
    let _ = match (connections, point.phase) {
        // `publish` has no clients.
        (0, _) => write!(line, "{published} published"),
        (_, Phase::Ramp) => write!(line, "{there} of {all} connections"),
        _ => write!(
            line,
            "{there} of {all} connections, {published} published, {delivered} delivered"
        ),
    };
    if let Some(ms) = point.p99_ms.or(point.max_ms) {
        let name = if point.p99_ms.is_some() { "p99" } else { "max" };
        let _ = write!(line, ", {name} {ms:.2} ms");
    }
    if point.failed > 0 {
        let _ = write!(line, ", {} FAILED", grouped(point.failed));
    }
    line
}

fn draw(frame: &mut Frame<'_>, points: &[Point], connections: u64) {
    let Some(now) = points.last() else {
        return;
    };
    let [head, gauge, upper, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(
        Line::from(vec![
            Span::styled("loadgen", title),
            Span::raw(format!("  {}  {} s", now.phase.name(), now.second)),
        ]),
        head,
    );
    let ratio = now.connections as f64 / connections.max(1) as f64;
    let label = format!(
        "{} of {} connections",
        grouped(now.connections),
        grouped(connections)
    );
    frame.render_widget(
        Gauge::default()
            .gauge_style(Style::new().fg(Color::Blue))
            .ratio(ratio.clamp(0.0, 1.0))
            .label(label),
        gauge,
    );
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]);
    let [deliveries, latency] = halves.areas(upper);
    let [publications, cores] = halves.areas(lower);
    let values = |read: fn(&Point) -> f64| points.iter().map(read).collect::<Vec<_>>();
    curve(
        frame,
        deliveries,
        &format!("delivered {}/s", grouped(now.delivered)),
        Color::Green,
        &values(|point| point.delivered as f64),
    );
    let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2}"));
    curve(
        frame,
        latency,
        &format!(
            "latency p50 {} · p99 {} · max {} ms",
            ms(now.p50_ms),
            ms(now.p99_ms),
            ms(now.max_ms)
        ),
        Color::Yellow,
        &values(|point| point.p99_ms.or(point.max_ms).unwrap_or(0.0)),
    );
    curve(
        frame,
        publications,
        &format!(
            "published {}/s, {:.1} ms late",
            grouped(now.published),
            now.schedule_lag_ms
        ),
        Color::Blue,
        &values(|point| point.published as f64),
    );
    let server = now
        .server_cores
        .map_or("-".to_owned(), |cores| format!("{cores:.2}"));
    curve(
        frame,
        cores,
        &format!("cores: server {server}, loadgen {:.2}", now.own_cores),
        Color::Magenta,
        &values(|point| point.server_cores.unwrap_or(point.own_cores)),
    );
    let failed = match now.failed {
        0 => Span::raw("no failed connection"),
        count => Span::styled(
            format!("{} connections FAILED", grouped(count)),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        ),
    };
    let memory = now.server_rss_bytes.map_or(String::new(), |bytes| {
        format!("   server {} MiB", grouped(bytes / 1_048_576))
    });
    frame.render_widget(
        Paragraph::new(Line::from(vec![failed, Span::raw(memory)])),
        foot,
    );
}

fn curve(frame: &mut Frame<'_>, area: Rect, title: &str, color: Color, values: &[f64]) {
    let width = usize::from(area.width.saturating_sub(2));
    let from = values.len().saturating_sub(width);
    // Sparklines take whole numbers.
    let scaled: Vec<u64> = values[from..]
        .iter()
        .map(|value| (value * 1_000.0) as u64)
        .collect();
    frame.render_widget(
        Sparkline::default()
            .block(Block::bordered().title(format!(" {title} ")))
            .style(Style::new().fg(color))
            .data(&scaled),
        area,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;

    fn point() -> Point {
        Point {
            second: 7,
            phase: Phase::Steady,
            connections: 9_999,
            failed: 1,
            published: 100,
            delivered: 1_000,
            p50_ms: Some(1.0),
            p99_ms: Some(2.5),
            max_ms: Some(3.0),
            ..Point::default()
        }
    }

    #[test]
    fn a_line_says_what_matters() {
        assert_eq!(
            line(&point(), 10_000),
            "   7 s  steady    9,999 of 10,000 connections, 100 published, 1,000 delivered, p99 2.50 ms, 1 FAILED"
        );
    }

    #[test]
    fn the_picture_fits_its_lines() {
        let mut terminal = Terminal::new(TestBackend::new(100, LINES)).unwrap();
        terminal
            .draw(|frame| draw(frame, &[point(), point()], 10_000))
            .unwrap();
        let text = terminal.backend().to_string();
        for word in [
            "steady  7 s",
            "9,999 of 10,000",
            "p99 2.50",
            "1 connections FAILED",
        ] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }
}
