//! The report as one page for a browser: no script, no network, charts as inline SVG.

use super::{Latency, Report, grouped};
use crate::course::{Phase, Point};
use std::collections::BTreeSet;
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");

/// Width and height of a chart, and the space that its labels take, in user units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 12.0;

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let state = match (report.verdict.exit_code, report.verdict.valid) {
        (0, true) => ("passed", "good"),
        (0, false) => ("deliveries right, times in doubt", "doubt"),
        (4, _) => ("proves nothing", "doubt"),
        _ => ("failed", "bad"),
    };
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>loadgen report</title>\
         <style>{STYLE}</style></head><body><main>\n<h1>loadgen report \
         <span class=\"state {}\">{}</span></h1>\n<pre class=\"command\">{}</pre>\n",
        state.1,
        state.0,
        escape(&report.command.join(" "))
    );
    thresholds(&mut out, report);
    tiles(&mut out, report);
    charts(&mut out, report);
    percentiles(&mut out, report);
    let _ = write!(
        out,
        "<h2>Summary</h2>\n<pre>{}</pre>\n",
        escape(&report.to_string())
    );
    environment(&mut out, report);
    out.push_str("</main></body></html>\n");
    out
}

fn thresholds(out: &mut String, report: &Report) {
    for checked in &report.verdict.thresholds {
        let (class, word) = match checked.met {
            Some(true) => ("good", "met"),
            Some(false) => ("bad", "missed"),
            None => ("doubt", "unknown"),
        };
        let value = checked.shown();
        let _ = writeln!(
            out,
            "<p><span class=\"state {class}\">{word}</span> <code>{}</code>: {value}</p>",
            escape(&checked.threshold)
        );
    }
    for doubt in &report.verdict.doubts {
        let _ = writeln!(
            out,
            "<p><span class=\"state doubt\">doubt</span> {}</p>",
            escape(doubt)
        );
    }
}

fn tiles(out: &mut String, report: &Report) {
    let mut tiles: Vec<(&str, String)> = Vec::new();
    if let Some(connect) = &report.connect {
        let of = grouped(u64::from(connect.connections));
        tiles.push((
            "subscribed",
            format!("{} of {of}", grouped(connect.subscribed)),
        ));
    }
    if let Some(delivery) = &report.delivery {
        let wrong = [
            delivery.lost,
            delivery.duplicated,
            delivery.reordered,
            delivery.damaged,
            delivery.misrouted,
        ];
        tiles.push(("delivered", grouped(delivery.delivered)));
        tiles.push((
            "lost, twice, late, damaged, astray",
            wrong.map(grouped).join(" · "),
        ));
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
        let latency = &delivery.latency;
        tiles.push((
            "latency p50 · p99",
            format!("{} · {}", ms(latency.p50_ms), ms(latency.p99_ms)),
        ));
    }
    if let Some(server) = &report.server {
        if let Some(bytes) = server.rss_per_connection_bytes {
            tiles.push(("server memory per connection", format!("{bytes:.0} B")));
        }
        if let Some(us) = server.run_cpu_us_each {
            tiles.push(("server CPU per delivery", format!("{us:.2} µs")));
        }
    }
    out.push_str("<div class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(out, "<div><b>{value}</b><span>{name}</span></div>");
    }
    out.push_str("</div>\n");
}

struct Line<'a> {
    name: &'a str,
    color: &'a str,
    values: Vec<Option<f64>>,
}

fn charts(out: &mut String, report: &Report) {
    let course = &report.course;
    if course.len() < 2 {
        return;
    }
    let line = |name, color, read: &dyn Fn(&Point) -> Option<f64>| Line {
        name,
        color,
        values: course.iter().map(read).collect(),
    };
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    chart(
        out,
        "Latency over time, ms",
        course,
        &[
            line("p50", "#2a78d6", &|p| p.p50_ms),
            line("p99", "#eb6834", &|p| p.p99_ms),
            line("max", "#9a9890", &|p| p.max_ms),
        ],
    );
    chart(
        out,
        "Publications per second",
        course,
        &[line("published", "#2a78d6", &|p| Some(p.published as f64))],
    );
    chart(
        out,
        "Deliveries per second",
        course,
        &[line("delivered", "#1baf7a", &|p| Some(p.delivered as f64))],
    );
    chart(
        out,
        "Connections",
        course,
        &[
            line("subscribed", "#2a78d6", &|p| Some(p.connections as f64)),
            line("failed", "#e34948", &|p| Some(p.failed as f64)),
        ],
    );
    chart(
        out,
        "CPU, cores",
        course,
        &[
            line("server", "#2a78d6", &|p| p.server_cores),
            line("loadgen", "#eb6834", &|p| Some(p.own_cores)),
        ],
    );
    chart(
        out,
        "Memory, MiB",
        course,
        &[
            line("server resident", "#2a78d6", &|p| {
                p.server_rss_bytes.map(mib)
            }),
            line("buffers of all sockets", "#1baf7a", &|p| {
                p.socket_bytes.map(mib)
            }),
        ],
    );
    chart(
        out,
        "Lag of loadgen itself, ms",
        course,
        &[
            line("loop", "#4a3aa7", &|p| Some(p.loop_lag_ms)),
            line("schedule", "#eb6834", &|p| Some(p.schedule_lag_ms)),
        ],
    );
    let names: BTreeSet<&String> = course.iter().flat_map(|p| p.metrics.keys()).collect();
    for name in names {
        let values = line(name, "#2a78d6", &|p| p.metrics.get(name).copied());
        chart(out, name, course, &[values]);
    }
}

fn chart(out: &mut String, title: &str, course: &[Point], lines: &[Line<'_>]) {
    let known = lines.iter().flat_map(|line| line.values.iter().flatten());
    let Some(max) = known.copied().reduce(f64::max) else {
        return;
    };
    let top = round_up(max);
    let x = |index: usize| LEFT + (WIDTH - LEFT) * index as f64 / (course.len() - 1) as f64;
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
    let _ = write!(out, "<h2>{}</h2>\n<p class=\"legend\">", escape(title));
    for line in lines {
        let _ = write!(
            out,
            "<i style=\"background:{}\"></i>{} ",
            line.color,
            escape(line.name)
        );
    }
    let _ = write!(
        out,
        "</p>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    if let Some(first) = course.iter().position(|point| point.phase == Phase::Steady) {
        let last = course
            .iter()
            .rposition(|point| point.phase == Phase::Steady);
        let (from, to) = (x(first), x(last.unwrap_or(first)));
        let _ = write!(
            out,
            "<rect class=\"steady\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            (to - from).max(1.0),
            HEIGHT - TOP - BOTTOM
        );
    }
    for quarter in 0..=4 {
        let value = top * f64::from(quarter) / 4.0;
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            y(value),
            LEFT - 8.0,
            y(value) + 4.0,
            short(value)
        );
    }
    let step = course.len().div_ceil(10).max(1);
    for index in (0..course.len()).step_by(step) {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{} s</text>",
            x(index),
            HEIGHT - 6.0,
            course[index].second
        );
    }
    for line in lines {
        let mut path = String::new();
        let mut is_open = false;
        for (index, value) in line.values.iter().enumerate() {
            if let Some(value) = value {
                let (x, y) = (x(index), y(*value));
                let _ = match is_open {
                    true => write!(path, "L{x:.1} {y:.1}"),
                    // A point that stands alone is a dot.
                    false => write!(path, "M{x:.1} {y:.1}h0"),
                };
            }
            is_open = value.is_some();
        }
        let _ = write!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" \
             stroke-linecap=\"round\" stroke-linejoin=\"round\"/>",
            line.color
        );
    }
    out.push_str("</svg>\n");
}

/// Latencies over the nines of their percentile.
fn percentiles(out: &mut String, report: &Report) {
    let Some(delivery) = &report.delivery else {
        return;
    };
    let curves = [
        ("from when due", "#eb6834", &report.histogram),
        ("from when sent", "#2a78d6", &report.histogram_from_send),
    ];
    let total: u64 = report.histogram.iter().map(|(_, count)| count).sum();
    if total > 0 {
        let nines = (total as f64).log10().ceil().clamp(1.0, 7.0);
        let ends = curves.iter().filter_map(|(_, _, ranges)| ranges.last());
        let top = round_up(ends.map(|(ns, _)| *ns as f64 / 1e6).fold(0.0, f64::max));
        let x = |beyond: f64| LEFT + (WIDTH - LEFT) * (-beyond.log10()).clamp(0.0, nines) / nines;
        let y = |ms: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - ms / top);
        out.push_str("<h2>Percentile spectrum, ms</h2>\n<p class=\"legend\">");
        for (name, color, _) in &curves {
            let _ = write!(out, "<i style=\"background:{color}\"></i>{name} ");
        }
        let _ = write!(
            out,
            "</p>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"percentiles\">"
        );
        for quarter in 0..=4 {
            let ms = top * f64::from(quarter) / 4.0;
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
                 <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
                y(ms),
                LEFT - 8.0,
                y(ms) + 4.0,
                short(ms)
            );
        }
        for nine in 0..=nines as i32 {
            let beyond = 10f64.powi(-nine);
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.*} %</text>",
                x(beyond).clamp(LEFT + 16.0, WIDTH - 32.0),
                HEIGHT - 6.0,
                (nine - 2).max(0) as usize,
                100.0 * (1.0 - beyond)
            );
        }
        for (_, color, ranges) in &curves {
            let all: u64 = ranges.iter().map(|(_, count)| count).sum();
            let (mut path, mut below, mut letter) = (String::new(), 0, 'M');
            for (ns, count) in ranges.iter() {
                let beyond = (all - below) as f64 / all as f64;
                let _ = write!(path, "{letter}{:.1} {:.1}", x(beyond), y(*ns as f64 / 1e6));
                letter = 'L';
                below += count;
            }
            let _ = write!(
                out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"
            );
        }
        out.push_str("</svg>\n");
    }
    out.push_str(
        "<table><tr><th>latency, ms</th><th>samples</th><th>p50</th><th>p90</th><th>p95</th>\
         <th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th></tr>\n",
    );
    row(out, "from when due", &delivery.latency);
    row(out, "from when sent", &delivery.latency_from_send);
    if let Some(connect) = &report.connect {
        row(out, "connect", &connect.latency);
    }
    row(out, "loadgen's loop", &report.loadgen.loop_lag);
    out.push_str("</table>\n");
}

fn row(out: &mut String, name: &str, latency: &Latency) {
    let _ = write!(
        out,
        "<tr><td>{name}</td><td>{}</td>",
        grouped(latency.samples)
    );
    for ms in [
        latency.p50_ms,
        latency.p90_ms,
        latency.p95_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.p9999_ms,
        latency.max_ms,
    ] {
        match ms {
            Some(ms) => {
                let _ = write!(out, "<td>{ms:.3}</td>");
            }
            None => out.push_str("<td>-</td>"),
        }
    }
    out.push_str("</tr>\n");
}

fn environment(out: &mut String, report: &Report) {
    let here = &report.environment;
    let mut rows = vec![
        ("loadgen", here.loadgen.clone()),
        ("kernel", here.kernel.clone()),
        ("cpu", format!("{} ({} cores)", here.cpu, here.cores)),
        (
            "memory",
            format!("{} MiB", grouped(here.memory_bytes / 1_048_576)),
        ),
        (
            "governor",
            here.governor.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        (
            "descriptor limit",
            here.descriptors_max.map_or("none".to_owned(), grouped),
        ),
        ("mitigations", here.mitigations.join("; ")),
    ];
    rows.extend(
        here.settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    let processes = report.loadgen.processes.iter();
    rows.extend(processes.map(|process| (process.name.as_str(), process.to_string())));
    out.push_str("<h2>Environment</h2>\n<table class=\"env\">");
    for (name, value) in rows {
        let (name, value) = (escape(name), escape(&value));
        let _ = writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>");
    }
    out.push_str("</table>\n");
}

/// The next number of the form 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= value * 0.999_999);
    factor.unwrap_or(10.0) * power
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e4 => format!("{} k", v / 1e3),
        v => format!("{}", (v * 1_000.0).round() / 1_000.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::DeliveryReport;

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let mut report = Report::empty();
        report.command = vec!["loadgen".to_owned(), "<script>".to_owned()];
        report.delivery = Some(DeliveryReport::default());
        report.histogram = vec![(1_000_000, 90), (9_000_000, 10)];
        report.course = vec![Point::default(), Point::default()];
        let page = page(&report);
        for word in ["http:", "https:", "<script", "src=", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("Percentile spectrum"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_second_between_two_without_a_value_is_drawn_and_a_metric_needs_no_last_one() {
        let mut course = vec![Point::default(); 4];
        course[1].max_ms = Some(7.0);
        course[1].metrics.insert("once".to_owned(), 3.0);
        let mut report = Report::empty();
        report.course = course;
        let page = page(&report);
        assert!(page.contains("<h2>once</h2>"), "{page}");
        let path = |title: &str| {
            let chart = &page[page.find(title).unwrap()..];
            let path = &chart[chart.find("<path d=\"M").unwrap() + 9..];
            path[..path.find('"').unwrap()].to_owned()
        };
        assert!(path("<h2>once</h2>").ends_with("h0"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (37.0, 50.0),
            (740.0, 1_000.0),
        ] {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}");
        }
    }
}
