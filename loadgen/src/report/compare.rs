//! Two runs side by side.

use super::Report;
use std::fmt::Write;

/// Relative change below which two values count as the same, in the noise of shared machines.
const SAME: f64 = 0.05;

struct Row {
    name: &'static str,
    unit: &'static str,
    /// Whether less is better; `None` where neither is.
    less_is_better: Option<bool>,
    read: fn(&Report) -> Option<f64>,
}

const fn row(
    name: &'static str,
    unit: &'static str,
    less_is_better: Option<bool>,
    read: fn(&Report) -> Option<f64>,
) -> Row {
    Row {
        name,
        unit,
        less_is_better,
        read,
    }
}

static ROWS: &[Row] = &[
    row("connections subscribed", "", Some(false), |r| {
        Some(r.connect.as_ref()?.subscribed as f64)
    }),
    row("connections failed", "", Some(true), |r| {
        Some(r.connect.as_ref()?.failures.values().sum::<u64>() as f64)
    }),
    row("connects per second", "/s", Some(false), |r| {
        Some(r.connect.as_ref()?.per_second)
    }),
    row("connect p99", "ms", Some(true), |r| {
        r.connect.as_ref()?.latency.p99_ms
    }),
    row("published", "", None, |r| {
        Some(r.publish.as_ref()?.published as f64)
    }),
    row("refused", "", Some(true), |r| {
        Some(r.publish.as_ref()?.refused as f64)
    }),
    row("published per second", "/s", Some(false), |r| {
        Some(r.publish.as_ref()?.per_second)
    }),
    row("delivered", "", None, |r| {
        Some(r.delivery.as_ref()?.delivered as f64)
    }),
    row("delivered per second", "/s", Some(false), |r| {
        Some(r.delivery.as_ref()?.per_second)
    }),
    row("lost", "", Some(true), |r| {
        Some(r.delivery.as_ref()?.lost as f64)
    }),
    row("duplicated", "", Some(true), |r| {
        Some(r.delivery.as_ref()?.duplicated as f64)
    }),
    row("reordered", "", Some(true), |r| {
        Some(r.delivery.as_ref()?.reordered as f64)
    }),
    row("damaged", "", Some(true), |r| {
        Some(r.delivery.as_ref()?.damaged as f64)
    }),
    row("misrouted", "", Some(true), |r| {
        Some(r.delivery.as_ref()?.misrouted as f64)
    }),
    row("latency p50", "ms", Some(true), |r| {
        r.delivery.as_ref()?.latency.p50_ms
    }),
    row("latency p90", "ms", Some(true), |r| {
        r.delivery.as_ref()?.latency.p90_ms
    }),
    row("latency p99", "ms", Some(true), |r| {
        r.delivery.as_ref()?.latency.p99_ms
    }),
    row("latency p99.9", "ms", Some(true), |r| {
        r.delivery.as_ref()?.latency.p999_ms
    }),
    row("latency max", "ms", Some(true), |r| {
        r.delivery.as_ref()?.latency.max_ms
    }),
    row("back p99", "ms", Some(true), |r| {
        r.back.as_ref()?.latency.p99_ms
    }),
    row("server CPU per delivery", "us", Some(true), |r| {
        r.server.as_ref()?.run_cpu_us_each
    }),
    row("server memory per connection", "B", Some(true), |r| {
        r.server.as_ref()?.rss_per_connection_bytes
    }),
    row("loadgen user CPU per delivery", "us", Some(true), |r| {
        r.loadgen.run_user_us_each
    }),
];

/// A table of what both reports have.
pub(crate) fn compare(before: &Report, after: &Report) -> String {
    let mut text = format!(
        "{:<31} {:>14} {:>14} {:>9}\n",
        "", "before", "after", "ratio"
    );
    for row in ROWS {
        let (Some(old), Some(new)) = ((row.read)(before), (row.read)(after)) else {
            continue;
        };
        let ratio = match (old == new, old == 0.0) {
            (true, _) => "1.000".to_owned(),
            (false, true) => "-".to_owned(),
            (false, false) => format!("{:.3}", new / old),
        };
        let is_same = (new - old).abs() <= SAME * old.abs();
        let note = match row.less_is_better {
            None => "",
            Some(_) if is_same => "",
            Some(less) if less == (new < old) => "  better",
            Some(_) => "  WORSE",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<31} {:>14} {:>14} {ratio:>9}{note}",
            row.name,
            number(old, row.unit),
            number(new, row.unit)
        );
    }
    let (old, new) = (before.verdict.exit_code, after.verdict.exit_code);
    if old != new {
        let _ = writeln!(text, "not the same verdict: exit code {old} / {new}");
    }
    for (name, report) in [("before", before), ("after", after)] {
        for doubt in &report.verdict.doubts {
            let _ = writeln!(text, "doubt ({name}): {doubt}");
        }
    }
    let (old, new) = (&before.environment, &after.environment);
    for (what, old, new) in [
        ("kernel", &old.kernel, &new.kernel),
        ("cpu", &old.cpu, &new.cpu),
        ("loadgen", &old.loadgen, &new.loadgen),
    ] {
        if old != new {
            let _ = writeln!(text, "not the same {what}: {old} / {new}");
        }
    }
    text
}

fn number(value: f64, unit: &str) -> String {
    let digits = if unit.is_empty() || value >= 1_000.0 {
        0
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DeliveryReport;

    fn report(p99_ms: f64, lost: u64) -> Report {
        let mut delivery = DeliveryReport::default();
        delivery.latency.p99_ms = Some(p99_ms);
        delivery.lost = lost;
        Report {
            delivery: Some(delivery),
            ..Report::empty()
        }
    }

    #[test]
    fn what_changed_for_the_worse_is_named() {
        let text = compare(&report(10.0, 0), &report(12.0, 3));
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("latency p99").ends_with("1.200  WORSE"), "{text}");
        assert!(line("lost").ends_with("WORSE"));
        assert!(compare(&report(10.0, 0), &report(5.0, 0)).contains("0.500  better"));
        assert!(!compare(&report(10.0, 0), &report(10.2, 0)).contains("WORSE"));
        let mut doubled = report(10.0, 0);
        doubled.delivery.as_mut().unwrap().duplicated = 1;
        doubled.verdict.exit_code = 1;
        let text = compare(&report(10.0, 0), &doubled);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.ends_with("WORSE"))
            .collect();
        assert!(matches!(lines[..], [line] if line.starts_with("duplicated")));
        assert!(text.contains("exit code 0 / 1"), "{text}");
    }
}
