//! The metrics endpoint of a server, in Prometheus' text format, as far as the course of a run needs it:
//! each family summed over its labels. Histograms and summaries are left out, but for their counts.

use crate::course::Point;
use crate::url::hide_secrets;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Families kept when none were named.
const FAMILIES_MAX: usize = 40;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_millis(500);

/// An endpoint.
pub(crate) struct Endpoint {
    agent: ureq::Agent,
    url: String,
    wanted: BTreeSet<String>,
}

impl Endpoint {
    /// The endpoint at `url`, and the families to keep. The error says why it cannot be read.
    pub(crate) fn new(url: &str, wanted: &[String]) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .build();
        let endpoint = Self {
            agent: config.into(),
            url: url.to_owned(),
            wanted: wanted.iter().cloned().collect(),
        };
        let url = hide_secrets(url);
        let text = endpoint
            .fetch()
            .map_err(|error| format!("--prometheus {url}: {error}"))?;
        let families = sums(&text);
        match endpoint
            .wanted
            .iter()
            .find(|name| !families.contains_key(*name))
        {
            Some(name) => Err(format!("--metric {name}: {url} has no such family")),
            None => Ok(endpoint),
        }
    }

    /// What it says now; nothing when it does not answer in time.
    pub(crate) fn read(&mut self) -> BTreeMap<String, f64> {
        let mut families = self.fetch().map(|text| sums(&text)).unwrap_or_default();
        if !self.wanted.is_empty() {
            families.retain(|name, _| self.wanted.contains(name));
        }
        families
    }

    /// Leaves out what never changed, and what is too much, unless it was asked for by name.
    pub(crate) fn keep_what_matters(&self, points: &mut [Point]) {
        if !self.wanted.is_empty() {
            return;
        }
        let mut changing = BTreeSet::new();
        for pair in points.windows(2) {
            for (name, value) in &pair[1].metrics {
                if pair[0]
                    .metrics
                    .get(name)
                    .is_some_and(|before| before != value)
                {
                    changing.insert(name.clone());
                }
            }
        }
        let kept: BTreeSet<String> = changing.into_iter().take(FAMILIES_MAX).collect();
        for point in points {
            point.metrics.retain(|name, _| kept.contains(name));
        }
    }

    fn fetch(&self) -> Result<String, ureq::Error> {
        let mut response = self.agent.get(&self.url).call()?;
        let body = response.body_mut().with_config();
        body.limit(ANSWER_BYTES_MAX).read_to_string()
    }
}

/// Each family's sum over its labels.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    // Histograms and summaries: what they have besides a count is no sum over labels.
    let mut spread = BTreeSet::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_ascii_whitespace();
            if let (Some("TYPE"), Some(name), Some("histogram" | "gaugehistogram" | "summary")) =
                (words.next(), words.next(), words.next())
            {
                spread.insert(name);
            }
            continue;
        }
        let name_end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(name_end);
        // Label values may hold anything but an unescaped quote; the last brace ends the labels.
        let (labels, rest) = rest
            .rfind('}')
            .map_or(("", rest), |end| rest.split_at(end + 1));
        let value = rest.split_ascii_whitespace().next();
        let base = ["_bucket", "_sum", ""].iter().find_map(|end| {
            let base = name.strip_suffix(end)?;
            spread.contains(base).then_some(base)
        });
        let has_bounds = ["le=\"", "vmrange=\""]
            .iter()
            .any(|label| labels.contains(label));
        // Servers may leave the types out.
        let is_part = base.is_some() || name.ends_with("_bucket") && has_bounds;
        let Some(Ok(value)) = value.map(str::parse::<f64>) else {
            continue;
        };
        if !is_part && value.is_finite() {
            *sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_summed_over_their_labels() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1} 5\"} 2\na{x=\"2\"} 3.5 1700000000\nb 7\n\
                    # TYPE c histogram\nc_bucket{le=\"1\"} 4\nc_sum 9\nc_count 4\nd NaN\n\nbroken\n\
                    # TYPE e summary\ne{quantile=\"0.5\"} 3\ne_sum 8\ne_count 6\nwait_sum 2\nf_bucket{le=\"1\"} 4";
        let sums = sums(text);
        let all: Vec<_> = sums
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        let expected = [("a", 5.5), ("b", 7.0), ("c_count", 4.0), ("e_count", 6.0)];
        assert_eq!(all[..4], expected);
        assert_eq!(all[4..], [("wait_sum", 2.0)]);
    }

    #[test]
    fn an_endpoint_that_does_not_answer_is_named() {
        let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", unused.local_addr().unwrap());
        let error = Endpoint::new(&url, &[]).err().unwrap();
        assert!(error.contains(&url), "{error}");
    }
}
