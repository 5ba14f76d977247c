//! `/metrics`: the statistics of all threads in the Prometheus text format, version 0.0.4.
//!
//! Names and help come from the counters' declarations; a field in nanoseconds or milliseconds is
//! exported in seconds, the base unit that Prometheus asks for. Every family is written as one block,
//! its samples labelled by shard.

use super::Shared;
use super::admin::turn_age_ms;
use crate::base::reason::CloseReason;
use crate::base::stats::{ServiceStats, Stats, TURN_BUCKETS_US};
use std::fmt::{Display, Write};
use std::sync::Arc;

/// Content type of [`write()`]'s text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
pub(super) fn write(shared: &Shared) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    shard_counters(&mut page, &shared.shards, shared.now_ms());
    closes(&mut page, &shared.shards);
    turns(&mut page, &shared.shards);
    service_counters(&mut page, &shared.stats);
    page.family("draining", "gauge", "Whether the process is going down.");
    page.sample("draining", "", u64::from(shared.draining.get()));
    page.family(
        "build_info",
        "gauge",
        "Constant 1, labelled with the version.",
    );
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    page.sample("build_info", version, 1);
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let Self(page) = self;
        // Writing to a string does not fail.
        let _ = writeln!(page, "# HELP ringcast_{name} {help}");
        let _ = writeln!(page, "# TYPE ringcast_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let Self(page) = self;
        let _ = if labels.is_empty() {
            writeln!(page, "ringcast_{name} {value}")
        } else {
            writeln!(page, "ringcast_{name}{{{labels}}} {value}")
        };
    }

    fn sample_of_shard(&mut self, name: &str, shard: usize, value: impl Display) {
        self.sample(name, &format!("shard=\"{shard}\""), value);
    }
}

/// One field of the statistics.
struct Field {
    name: &'static str,
    is_gauge: bool,
    help: &'static str,
    value: u64,
}

fn fields(
    for_each: impl FnOnce(&mut dyn FnMut(&'static str, bool, &'static str, u64)),
) -> Vec<Field> {
    let mut fields = Vec::new();
    for_each(&mut |name, is_gauge, help, value| {
        fields.push(Field {
            name,
            is_gauge,
            help,
            value,
        });
    });
    fields
}

fn shard_counters(page: &mut Page, shards: &[Arc<Stats>], now_ms: u64) {
    let by_shard: Vec<Vec<Field>> = shards
        .iter()
        .map(|stats| fields(|visit| stats.shard.for_each(visit)))
        .collect();
    let Some(first) = by_shard.first() else {
        return;
    };
    for (index, field) in first.iter().enumerate() {
        if field.name == "last_turn_ms" {
            let help = "Seconds since the shard's last turn.";
            page.family("turn_age_seconds", "gauge", help);
            for (shard, stats) in shards.iter().enumerate() {
                let age_ms = turn_age_ms(&stats.shard, now_ms);
                page.sample_of_shard("turn_age_seconds", shard, age_ms as f64 / 1e3);
            }
            continue;
        }
        let kind = if field.is_gauge { "gauge" } else { "counter" };
        match field.name.strip_suffix("_ns_total") {
            Some(stem) => {
                let name = format!("{stem}_seconds_total");
                page.family(&name, kind, &field.help.replace("Nanoseconds", "Seconds"));
                for (shard, fields) in by_shard.iter().enumerate() {
                    page.sample_of_shard(&name, shard, fields[index].value as f64 / 1e9);
                }
            }
            None => {
                page.family(field.name, kind, field.help);
                for (shard, fields) in by_shard.iter().enumerate() {
                    page.sample_of_shard(field.name, shard, fields[index].value);
                }
            }
        }
    }
}

fn closes(page: &mut Page, shards: &[Arc<Stats>]) {
    page.family(
        "closes_total",
        "counter",
        "Closed client connections, by reason.",
    );
    for (shard, stats) in shards.iter().enumerate() {
        for (reason, count) in CloseReason::ALL.iter().zip(&stats.closes) {
            let labels = format!("shard=\"{shard}\",reason=\"{}\"", reason.label());
            page.sample("closes_total", &labels, count.read());
        }
    }
}

fn turns(page: &mut Page, shards: &[Arc<Stats>]) {
    let help = "Busy time of a turn of the shard's loop, waiting excluded.";
    page.family("turn_duration_seconds", "histogram", help);
    for (shard, stats) in shards.iter().enumerate() {
        let mut total = 0;
        let bounds = TURN_BUCKETS_US
            .iter()
            .map(|us| (*us as f64 / 1e6).to_string());
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&stats.turns) {
            total += count.read();
            let labels = format!("shard=\"{shard}\",le=\"{bound}\"");
            page.sample("turn_duration_seconds_bucket", &labels, total);
        }
        let busy_s = stats.shard.turn_busy_ns_total.read() as f64 / 1e9;
        page.sample_of_shard("turn_duration_seconds_sum", shard, busy_s);
        page.sample_of_shard("turn_duration_seconds_count", shard, total);
    }
}

fn service_counters(page: &mut Page, stats: &ServiceStats) {
    for field in fields(|visit| stats.for_each(visit)) {
        let kind = if field.is_gauge { "gauge" } else { "counter" };
        page.family(field.name, kind, field.help);
        page.sample(field.name, "", field.value);
    }
}
