//! What a run has to reach, and whether it proves that.
//!
//! A threshold names a value of the report, a relation and a limit with its unit. A percentile stands on
//! ten samples beyond it at least; one with fewer is not known, and a threshold on it makes the run
//! prove nothing. So does a generator that was itself short of CPU, where the threshold is on a time or a rate.

use crate::report::{Doubts, Report};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Kinds of values, by their units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Seconds.
    Time,
    /// Bytes.
    Bytes,
    /// A number, or a rate per second.
    Count,
}

impl Kind {
    fn unit(self) -> &'static str {
        match self {
            Self::Time => "s",
            Self::Bytes => "B",
            Self::Count => "",
        }
    }
}

/// What a generator that is itself too slow falsifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suffers {
    /// Nothing: a count, or memory.
    Nothing,
    /// What was measured while it connected.
    Connecting,
    /// What was measured while publications flowed.
    Running,
}

/// A value of the report that a threshold can be on.
struct Metric {
    name: &'static str,
    kind: Kind,
    /// What may falsify it.
    suffers: Suffers,
    read: fn(&Report) -> Option<f64>,
}

const fn time(name: &'static str, read: fn(&Report) -> Option<f64>) -> Metric {
    Metric {
        name,
        kind: Kind::Time,
        suffers: Suffers::Running,
        read,
    }
}

const fn connecting(name: &'static str, kind: Kind, read: fn(&Report) -> Option<f64>) -> Metric {
    Metric {
        name,
        kind,
        suffers: Suffers::Connecting,
        read,
    }
}

const fn rate(name: &'static str, read: fn(&Report) -> Option<f64>) -> Metric {
    Metric {
        name,
        kind: Kind::Count,
        suffers: Suffers::Running,
        read,
    }
}

const fn count(name: &'static str, read: fn(&Report) -> Option<f64>) -> Metric {
    Metric {
        name,
        kind: Kind::Count,
        suffers: Suffers::Nothing,
        read,
    }
}

const fn bytes(name: &'static str, read: fn(&Report) -> Option<f64>) -> Metric {
    Metric {
        name,
        kind: Kind::Bytes,
        suffers: Suffers::Nothing,
        read,
    }
}

/// Milliseconds of the report to the seconds of thresholds.
fn ms(value: Option<f64>) -> Option<f64> {
    value.map(|ms| ms / 1e3)
}

macro_rules! latency {
    ($report:ident, $field:ident) => {
        ms($report
            .delivery
            .as_ref()
            .and_then(|delivery| delivery.latency.$field))
    };
}

/// Of connections that came back: after a drop of `churn` and `storm`, or with a recovery.
macro_rules! back {
    ($report:ident, $field:ident) => {
        ms(match (&$report.back, &$report.recovery) {
            (Some(back), _) => back.latency.$field,
            (None, Some(recovery)) => recovery.back.$field,
            (None, None) => None,
        })
    };
}

/// Of deliveries, in `recover` too.
macro_rules! delivered {
    ($report:ident, $field:ident) => {
        delivered!($report, $field, $field)
    };
    ($report:ident, $field:ident, $in_recovery:ident) => {
        match (&$report.delivery, &$report.recovery) {
            (Some(delivery), _) => Some(delivery.$field as f64),
            (None, Some(recovery)) => Some(recovery.deliveries.$in_recovery as f64),
            (None, None) => None,
        }
    };
}

macro_rules! counted {
    ($report:ident, $part:ident, $field:ident) => {
        $report.$part.as_ref().map(|part| part.$field as f64)
    };
}

static METRICS: &[Metric] = &[
    time("p50", |r| latency!(r, p50_ms)),
    time("p75", |r| latency!(r, p75_ms)),
    time("p90", |r| latency!(r, p90_ms)),
    time("p95", |r| latency!(r, p95_ms)),
    time("p99", |r| latency!(r, p99_ms)),
    time("p99.9", |r| latency!(r, p999_ms)),
    time("p99.99", |r| latency!(r, p9999_ms)),
    time("p99.999", |r| latency!(r, p99999_ms)),
    time("mean", |r| latency!(r, mean_ms)),
    time("max", |r| latency!(r, max_ms)),
    connecting("connect_p50", Kind::Time, |r| {
        ms(r.connect.as_ref()?.latency.p50_ms)
    }),
    connecting("connect_p99", Kind::Time, |r| {
        ms(r.connect.as_ref()?.latency.p99_ms)
    }),
    connecting("connect_max", Kind::Time, |r| {
        ms(r.connect.as_ref()?.latency.max_ms)
    }),
    time("back_p50", |r| back!(r, p50_ms)),
    time("back_p99", |r| back!(r, p99_ms)),
    time("back_max", |r| back!(r, max_ms)),
    count("failed", |r| {
        let failures = match (&r.connect, &r.recovery) {
            (Some(connect), _) => &connect.failures,
            (None, recovery) => &recovery.as_ref()?.failures,
        };
        Some(failures.values().sum::<u64>() as f64)
    }),
    count("subscribed", |r| counted!(r, connect, subscribed)),
    count("expected", |r| counted!(r, delivery, expected)),
    count("delivered", |r| delivered!(r, delivered)),
    count("lost", |r| delivered!(r, lost)),
    count("duplicated", |r| delivered!(r, duplicated)),
    count("reordered", |r| delivered!(r, reordered)),
    count("damaged", |r| delivered!(r, damaged, wrong)),
    count("misrouted", |r| delivered!(r, misrouted, unasked)),
    count("refused", |r| counted!(r, publish, refused)),
    rate("delivery_rate", |r| counted!(r, delivery, per_second)),
    rate("publish_rate", |r| counted!(r, publish, per_second)),
    connecting("connect_rate", Kind::Count, |r| {
        counted!(r, connect, per_second)
    }),
    bytes("rss_per_conn", |r| {
        r.server.as_ref()?.rss_per_connection_bytes
    }),
    bytes("rss", |r| counted!(r, server, rss_connected_bytes)),
    count("server_cores", |r| r.server.as_ref()?.run_cores),
    time("server_cpu_per_delivery", |r| {
        r.server.as_ref()?.run_cpu_us_each.map(|us| us / 1e6)
    }),
    time("own_user_per_delivery", |r| {
        r.loadgen.run_user_us_each.map(|us| us / 1e6)
    }),
    bytes("own_rss_per_conn", |r| r.loadgen.rss_per_connection_bytes),
];

/// How a value relates to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
}

const RELATIONS: [(&str, Relation); 5] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("==", Relation::Equal),
    ("<", Relation::Below),
    (">", Relation::Above),
];

/// A limit for a value of the report.
#[derive(Clone)]
pub(crate) struct Threshold {
    text: String,
    metric: &'static Metric,
    relation: Relation,
    /// Seconds, bytes or a number.
    limit: f64,
}

/// As it was given.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threshold({self})")
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let found = RELATIONS
            .iter()
            .filter_map(|(sign, relation)| Some((text.find(sign)?, *sign, *relation)))
            .min_by_key(|(place, sign, _)| (*place, usize::MAX - sign.len()));
        let Some((place, sign, relation)) = found else {
            return Err("a name, one of < <= > >= ==, and a limit, as 'p99<50ms'".to_owned());
        };
        let (name, limit) = (&text[..place], &text[place + sign.len()..]);
        let Some(metric) = METRICS.iter().find(|metric| metric.name == name) else {
            let names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
            return Err(format!("`{name}` is none of {}", names.join(", ")));
        };
        Ok(Self {
            limit: parse_limit(limit, metric.kind)?,
            metric,
            relation,
            text,
        })
    }
}

fn parse_limit(text: &str, kind: Kind) -> Result<f64, String> {
    let end = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (units, expected): (&[(&str, f64)], _) = match kind {
        Kind::Time => (
            &[("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)],
            "a time with its unit, as 50ms",
        ),
        Kind::Bytes => (
            &[
                ("B", 1.0),
                ("KB", 1e3),
                ("MB", 1e6),
                ("GB", 1e9),
                ("KiB", 1024.0),
                ("MiB", 1_048_576.0),
                ("GiB", 1_073_741_824.0),
            ],
            "bytes with their unit, as 1KiB",
        ),
        Kind::Count => (
            &[("", 1.0), ("k", 1e3), ("M", 1e6)],
            "a number, as 0 or 10k",
        ),
    };
    let factor = units.iter().find(|(name, _)| *name == unit);
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some((_, factor))) => Ok(number * factor),
        _ => Err(format!("`{text}` is not {expected}")),
    }
}

/// A threshold and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    /// As it was given.
    pub(crate) threshold: String,
    /// The value, in `unit`. `None` when it is not known.
    pub(crate) value: Option<f64>,
    /// `s`, `B`, or nothing for a number or a rate per second.
    pub(crate) unit: String,
    /// Whether it was met; `None` when that is not known.
    pub(crate) met: Option<bool>,
}

/// What a run is worth.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Whether nothing was lost, duplicated, reordered, damaged or refused.
    pub(crate) correct: bool,
    /// Whether times and rates are the server's: empty `doubts`.
    pub(crate) valid: bool,
    /// Why they may be the generator's.
    pub(crate) doubts: Vec<String>,
    /// The thresholds.
    pub(crate) thresholds: Vec<Checked>,
    /// The exit code of the run.
    pub(crate) exit_code: u8,
}

/// Exit codes, see the help of the command.
const INCORRECT: u8 = 1;
const MISSED: u8 = 3;
const PROVES_NOTHING: u8 = 4;

impl Verdict {
    /// Of a report whose `ok` and numbers are complete.
    pub(crate) fn new(report: &Report, thresholds: &[Threshold]) -> Self {
        let Doubts {
            run: mut doubts,
            connecting,
        } = Doubts::of(report);
        let (is_run_doubted, is_connecting_doubted) = (!doubts.is_empty(), !connecting.is_empty());
        // A generator connects as fast as it can, unless it is told not to: that alone spoils no run.
        let asks_of = |suffers| thresholds.iter().any(|one| one.metric.suffers == suffers);
        if asks_of(Suffers::Connecting) {
            doubts.extend(connecting);
        }
        let mut checked = Vec::with_capacity(thresholds.len());
        // Whatever is asked of it.
        let shows_nothing = match (&report.recovery, &report.back) {
            (Some(recovery), _) => recovery.doubt(),
            (None, Some(back)) if back.dropped == 0 => {
                Some("no connection dropped, so that nothing is shown of coming back".to_owned())
            }
            (None, _) => None,
        };
        let (mut is_missed, mut is_unproved) = (false, shows_nothing.is_some());
        doubts.extend(shows_nothing);
        for threshold in thresholds {
            let value = (threshold.metric.read)(report);
            let met = value.map(|value| threshold.relation.holds(value, threshold.limit));
            match met {
                None => {
                    is_unproved = true;
                    doubts.push(format!(
                        "{}: too few samples, or not measured",
                        threshold.text
                    ));
                }
                Some(met) => {
                    let is_doubted = match threshold.metric.suffers {
                        Suffers::Nothing => false,
                        Suffers::Connecting => is_connecting_doubted,
                        Suffers::Running => is_run_doubted,
                    };
                    is_unproved |= is_doubted;
                    is_missed |= !met && !is_doubted;
                }
            }
            checked.push(Checked {
                threshold: threshold.text.clone(),
                value,
                unit: threshold.metric.kind.unit().to_owned(),
                met,
            });
        }
        let exit_code = match (report.ok, is_missed, is_unproved) {
            (false, _, _) => INCORRECT,
            (true, true, _) => MISSED,
            (true, false, true) => PROVES_NOTHING,
            (true, false, false) => 0,
        };
        Self {
            correct: report.ok,
            valid: doubts.is_empty(),
            doubts,
            thresholds: checked,
            exit_code,
        }
    }
}

impl Checked {
    /// The value with its unit, for people.
    pub(crate) fn shown(&self) -> String {
        match (self.value, self.unit.as_str()) {
            (None, _) => "not known".to_owned(),
            (Some(seconds), "s") => format!("{:.3} ms", seconds * 1e3),
            (Some(bytes), "B") => format!("{bytes:.0} B"),
            (Some(number), _) if number.fract() == 0.0 => format!("{number}"),
            (Some(number), _) => format!("{number:.3}"),
        }
    }
}

impl Relation {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Threshold, String> {
        text.parse()
    }

    #[test]
    fn a_threshold_has_a_name_a_relation_and_a_limit_with_its_unit() {
        let threshold = parse("p99.9 <= 50ms").unwrap();
        assert_eq!(threshold.metric.name, "p99.9");
        assert_eq!(threshold.relation, Relation::AtMost);
        assert!((threshold.limit - 0.05).abs() < 1e-12);
        assert_eq!(parse("rss_per_conn<1KiB").unwrap().limit, 1024.0);
        assert_eq!(parse("delivery_rate>10k").unwrap().limit, 10_000.0);
        assert_eq!(parse("lost==0").unwrap().relation, Relation::Equal);
    }

    #[test]
    fn a_threshold_that_means_nothing_is_refused_with_what_was_expected() {
        for (text, fault) in [
            ("p99", "p99<50ms"),
            ("p98<5ms", "none of p50"),
            ("p99<50", "a time with its unit"),
            ("lost==0ms", "a number"),
            ("rss<1", "bytes with their unit"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    fn report(p99_ms: Option<f64>) -> Report {
        let mut report = Report::empty();
        report.ok = true;
        let mut delivery = crate::report::DeliveryReport::default();
        delivery.latency.p99_ms = p99_ms;
        report.delivery = Some(delivery);
        report
    }

    fn exit_code(report: &Report, texts: &[&str]) -> u8 {
        let thresholds: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
        Verdict::new(report, &thresholds).exit_code
    }

    #[test]
    fn a_missed_threshold_an_unknown_one_and_a_fault_have_exit_codes_of_their_own() {
        let mut measured = report(Some(40.0));
        assert_eq!(exit_code(&measured, &["p99<50ms", "lost==0"]), 0);
        assert_eq!(exit_code(&measured, &["p99<30ms"]), 3);
        assert_eq!(exit_code(&report(None), &["p99<50ms"]), 4);
        measured.ok = false;
        assert_eq!(exit_code(&measured, &["p99<30ms"]), 1);
    }

    #[test]
    fn a_storm_without_a_drop_shows_nothing() {
        let mut calm = report(Some(40.0));
        calm.back = Some(crate::report::BackReport::default());
        assert_eq!(exit_code(&calm, &["lost==0"]), 4);
        calm.back.as_mut().unwrap().dropped = 1;
        assert_eq!(exit_code(&calm, &["lost==0"]), 0);
    }

    #[test]
    fn a_value_is_shown_with_its_unit() {
        let shown = |text: &str, measured: &Report| {
            Verdict::new(measured, &[parse(text).unwrap()]).thresholds[0].shown()
        };
        let measured = report(Some(40.25));
        assert_eq!(shown("p99<50ms", &measured), "40.250 ms");
        assert_eq!(shown("lost==0", &measured), "0");
        assert_eq!(shown("rss<1GiB", &measured), "not known");
    }

    #[test]
    fn a_saturated_generator_proves_no_time_but_still_a_count() {
        let mut measured = report(Some(40.0));
        measured.loadgen.workers = vec![crate::report::WorkerReport {
            busy: 0.6,
            starved: 0.39,
        }];
        assert_eq!(exit_code(&measured, &["p99<50ms"]), 4);
        // Nor that it was missed.
        assert_eq!(exit_code(&measured, &["p99<30ms"]), 4);
        assert_eq!(exit_code(&measured, &["lost==0"]), 0);
        assert_eq!(exit_code(&measured, &["p99<30ms", "lost==1"]), 3);
        assert!(!Verdict::new(&measured, &[]).valid);
    }

    #[test]
    fn a_generator_that_was_saturated_while_it_connected_proves_nothing_of_that_alone() {
        let mut measured = report(Some(40.0));
        measured.connect = Some(crate::report::ConnectReport {
            latency: crate::report::Latency {
                p99_ms: Some(40.0),
                ..Default::default()
            },
            ..Default::default()
        });
        measured.loadgen.connecting_workers = vec![crate::report::WorkerReport {
            busy: 0.6,
            starved: 0.39,
        }];
        assert_eq!(exit_code(&measured, &["connect_p99<50ms"]), 4);
        assert_eq!(exit_code(&measured, &["p99<50ms"]), 0);
        assert!(Verdict::new(&measured, &[]).valid);
    }
}
