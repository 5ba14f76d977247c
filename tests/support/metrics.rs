//! `/metrics`, read as an operator's scraper reads it.

use super::http;
use std::collections::HashMap;
use std::net::SocketAddr;

/// The samples of one scrape, by name and labels.
#[derive(Debug)]
pub(crate) struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// Scrapes.
    pub(crate) fn fetch(admin: SocketAddr) -> Self {
        let response = http::get(admin, "/metrics");
        assert_eq!(response.status, 200, "/metrics");
        let samples = response.body.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            let name = name.strip_prefix("ringcast_").expect("our prefix");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// The sum of a metric over all shards, or its value when it has no labels.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let of_name = self.0.iter().filter(|(sample, _)| {
            sample
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        let values: Vec<f64> = of_name.map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "no metric {name}");
        values.iter().sum::<f64>() as u64
    }

    /// The value of one shard.
    pub(crate) fn of_shard(&self, name: &str, shard: usize) -> u64 {
        let sample = format!("{name}{{shard=\"{shard}\"}}");
        let value = self.0.get(&sample);
        *value.unwrap_or_else(|| panic!("no metric {sample}")) as u64
    }

    /// Closed connections of one reason.
    pub(crate) fn closes(&self, reason: &str) -> u64 {
        let label = format!("reason=\"{reason}\"");
        let of_reason = self
            .0
            .iter()
            .filter(|(sample, _)| sample.starts_with("closes_total{") && sample.contains(&label));
        let counts: Vec<f64> = of_reason.map(|(_, count)| *count).collect();
        assert!(!counts.is_empty(), "no close reason {reason}");
        counts.iter().sum::<f64>() as u64
    }
}
