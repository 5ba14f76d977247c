//! The report as a page of text.

use super::*;
use std::fmt::{self, Write};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connect) = &self.connect {
            write_connect(f, connect)?;
        }
        if let Some(publish) = &self.publish {
            write_publish(f, publish)?;
        }
        if let Some(delivery) = &self.delivery {
            write_delivery(f, delivery)?;
        }
        if let Some(hold) = &self.hold {
            writeln!(
                f,
                "hold         {:.1} s: {} pings answered, {} connections closed by the server",
                hold.seconds,
                grouped(hold.pings_answered),
                grouped(hold.closed)
            )?;
        }
        if let Some(recovery) = &self.recovery {
            write!(f, "{recovery}")?;
        }
        if let Some(presence) = &self.presence {
            let empty = match presence.empty_after_seconds {
                Some(seconds) => format!("empty {seconds:.2} s after all had left"),
                None => "NOT EMPTY after all had left".to_owned(),
            };
            writeln!(
                f,
                "presence     {} clients; {} of {} rooms right; {empty}",
                grouped(presence.clients),
                grouped(u64::from(presence.rooms_right)),
                grouped(u64::from(presence.rooms))
            )?;
        }
        if let Some(back) = &self.back {
            writeln!(
                f,
                "back         {} dropped, {} subscribed again",
                grouped(back.dropped),
                grouped(back.back)
            )?;
            for (failure, count) in &back.retries {
                writeln!(f, "  retried    {} × {failure}", grouped(*count))?;
            }
            writeln!(f, "  after      {}", back.latency)?;
        }
        if let Some(abuse) = &self.abuse {
            for (name, strikes) in abuse.kinds() {
                writeln!(
                    f,
                    "abuse        {name}: {} tried, {} ended in time, {} held, {} could not be opened",
                    grouped(strikes.tried),
                    grouped(strikes.ended),
                    grouped(strikes.held),
                    grouped(strikes.unopened)
                )?;
            }
        }
        if let Some(polling) = &self.polling {
            writeln!(
                f,
                "polling      {} clients every {:.0} ms: {} requests, {} of them empty, {} failed, {} MiB",
                grouped(u64::from(polling.clients)),
                polling.interval_ms,
                grouped(polling.requests),
                grouped(polling.empty),
                grouped(polling.failed),
                grouped(polling.bytes / 1_048_576)
            )?;
            if let Some(error) = &polling.error {
                writeln!(f, "  error      {error}")?;
            }
        }
        if let Some(slow) = &self.slow_readers {
            writeln!(f, "slow readers: {} cut, {} held", slow.cut, slow.held)?;
            if slow.cut == 0 {
                writeln!(
                    f,
                    "  WARNING    none was cut: if their kernel buffers took everything, nothing was slow; \
                     send each more, about 4 MB"
                )?;
            }
        }
        if let Some(server) = &self.server {
            write_server(f, server)?;
        }
        write_loadgen(f, self)?;
        write_verdict(f, &self.verdict)
    }
}

fn write_connect(f: &mut fmt::Formatter<'_>, connect: &ConnectReport) -> fmt::Result {
    writeln!(
        f,
        "connect      {} of {} subscribed in {:.2} s, {} per second",
        grouped(connect.subscribed),
        grouped(u64::from(connect.connections)),
        connect.seconds,
        grouped(connect.per_second as u64)
    )?;
    writeln!(f, "  each       {}", connect.latency)?;
    if connect.pings_answered > 0 {
        let pings = grouped(connect.pings_answered);
        writeln!(f, "  pings      {pings} answered in the whole run")?;
    }
    for (failure, count) in &connect.failures {
        writeln!(f, "  failed     {} × {failure}", grouped(*count))?;
    }
    Ok(())
}

fn write_publish(f: &mut fmt::Formatter<'_>, publish: &PublishReport) -> fmt::Result {
    let pace = match publish.rates.as_slice() {
        [] => "closed loop: as fast as credit allowed".to_owned(),
        rates => {
            let rates: Vec<_> = rates.iter().map(f64::to_string).collect();
            format!(
                "schedule of {} per second, at most {:.2} ms behind",
                rates.join(", then "),
                publish.late.max_ms.unwrap_or(0.0)
            )
        }
    };
    writeln!(
        f,
        "publish      {} of {} × {} bytes in {:.2} s, {} per second ({pace})",
        grouped(publish.published),
        grouped(publish.planned),
        publish.payload_bytes,
        publish.seconds,
        grouped(publish.per_second as u64)
    )?;
    if publish.acknowledged + publish.refused > 0 {
        let (acknowledged, refused) = (grouped(publish.acknowledged), grouped(publish.refused));
        writeln!(
            f,
            "  answers    {acknowledged} acknowledged, {refused} refused"
        )?;
    }
    match (publish.rooms_settled, publish.rooms_shared, &publish.error) {
        (Some(_), Some(0), None) => writeln!(
            f,
            "  proof      every room's last publication acknowledged, at the offset expected"
        )?,
        (Some(_), Some(shared), None) => writeln!(
            f,
            "  proof      every room's last publication acknowledged; {} rooms had other \
             publications too: for proof by offset start a fresh broker",
            grouped(shared)
        )?,
        _ => {}
    }
    if let Some(error) = &publish.error {
        writeln!(f, "  error      {error}")?;
    }
    Ok(())
}

fn write_delivery(f: &mut fmt::Formatter<'_>, delivery: &DeliveryReport) -> fmt::Result {
    writeln!(
        f,
        "deliver      {} of {}; {} per second in the {:.2} s that are measured",
        grouped(delivery.delivered),
        grouped(delivery.expected),
        grouped(delivery.per_second as u64),
        delivery.seconds
    )?;
    writeln!(
        f,
        "  check      {} lost, {} duplicated, {} reordered, {} damaged, {} misrouted",
        grouped(delivery.lost),
        grouped(delivery.duplicated),
        grouped(delivery.reordered),
        grouped(delivery.damaged),
        grouped(delivery.misrouted)
    )?;
    if delivery.foreign > 0 {
        let foreign = grouped(delivery.foreign);
        writeln!(
            f,
            "  foreign    {foreign} from other publishers, not counted"
        )?;
    }
    for (name, latency) in [
        ("latency", &delivery.latency),
        ("from send", &delivery.latency_from_send),
    ] {
        writeln!(f, "  {name:<10} {latency}")?;
    }
    Ok(())
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerReport) -> fmt::Result {
    for (name, cpu, us_each) in [
        ("connect", &server.connect_cpu, server.connect_cpu_us_each),
        ("run", &server.run_cpu, server.run_cpu_us_each),
    ] {
        // Scenarios without a part of their own for connecting have nothing there.
        if cpu.seconds == 0.0 {
            continue;
        }
        let each = us_each.map_or(String::new(), |us| format!(", {us:.2} µs each"));
        writeln!(
            f,
            "server cpu   {name}: {:.2} s ({:.2} user, {:.2} system){each}",
            cpu.seconds, cpu.user_seconds, cpu.system_seconds
        )?;
    }
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    write!(
        f,
        "server rss   {:.1} MiB before, {:.1} connected, {:.1} at the end",
        mib(server.rss_before_bytes),
        mib(server.rss_connected_bytes),
        mib(server.rss_after_bytes)
    )?;
    match server.rss_per_connection_bytes {
        Some(bytes) => writeln!(f, ", {bytes:.0} bytes per connection"),
        None => writeln!(f),
    }
}

fn write_loadgen(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let loadgen = &report.loadgen;
    let each = loadgen
        .run_cpu_us_each
        .map_or(String::new(), |us| format!(", {us:.2} µs each"));
    let user = loadgen
        .run_user_us_each
        .map_or(String::new(), |us| format!(", {us:.2} µs of it user"));
    writeln!(
        f,
        "loadgen cpu  run: {:.2} s{each}{user}",
        loadgen.run_cpu_seconds
    )?;
    if loadgen.workers.is_empty() {
        return Ok(());
    }
    let mut shares = String::new();
    for worker in &loadgen.workers {
        write!(
            shares,
            " {:.0}+{:.0}%",
            worker.busy * 100.0,
            worker.starved * 100.0
        )?;
    }
    let verdict = match Doubts::of(report).run.is_empty() {
        true => "loadgen was not the bottleneck",
        false => "latencies are partly loadgen's own, see the doubts",
    };
    writeln!(f, "  workers    busy + starved:{shares}; {verdict}")?;
    if let Some(bytes) = loadgen.rss_per_connection_bytes {
        writeln!(f, "  rss        {bytes:.0} bytes per connection")?;
    }
    for process in &loadgen.processes {
        writeln!(f, "  {}: {process}", process.name)?;
    }
    Ok(())
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ms) in [
            ("p50", self.p50_ms),
            ("p90", self.p90_ms),
            ("p95", self.p95_ms),
            ("p99", self.p99_ms),
            ("p99.9", self.p999_ms),
            ("p99.99", self.p9999_ms),
        ] {
            if let Some(ms) = ms {
                write!(f, "{name} {ms:.2} · ")?;
            }
        }
        match self.max_ms {
            Some(ms) => write!(f, "max {ms:.2} ms"),
            None => f.write_str("no samples"),
        }
    }
}

fn write_verdict(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    for checked in &verdict.thresholds {
        let state = match checked.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "UNKNOWN",
        };
        let value = checked.shown();
        writeln!(f, "threshold    {} {state}: {value}", checked.threshold)?;
    }
    for doubt in &verdict.doubts {
        writeln!(f, "doubt        {doubt}")?;
    }
    let text = match (verdict.exit_code, verdict.valid) {
        (0, true) => "passed",
        (0, false) => "every delivery was right; times and rates are not to be trusted",
        (1, _) => "FAILED: deliveries or connections went wrong",
        (3, _) => "FAILED: a threshold was missed",
        _ => "PROVES NOTHING: see the doubts",
    };
    writeln!(f, "verdict      {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
