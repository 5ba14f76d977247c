//! A histogram from process to process, without loss: its significant digits, and the ranges that hold
//! anything. Recording a range's upper end so many times gives the same range again.

use super::{histogram, record_many};
use hdrhistogram::Histogram;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes the ranges.
pub(super) fn serialize<S: Serializer>(
    histogram: &Histogram<u64>,
    to: S,
) -> Result<S::Ok, S::Error> {
    (histogram.sigfig(), crate::report::ranges(histogram)).serialize(to)
}

/// Reads the ranges.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
    let (digits, ranges): (u8, Vec<(u64, u64)>) = Deserialize::deserialize(from)?;
    if !(1..=3).contains(&digits) {
        return Err(D::Error::custom("digits of a histogram"));
    }
    let mut all = histogram(digits);
    for (ns, count) in ranges {
        record_many(&mut all, ns, count);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::Tally;
    use crate::tally::{Failure, record};

    #[test]
    fn a_tally_crosses_to_another_process_without_loss() {
        let mut tally = Tally::new();
        let mut value = 1u64;
        for _ in 0..10_000 {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            record(&mut tally.due_latency, value % 119_000_000_000);
            record(&mut tally.loop_lag, value % 50_000);
        }
        tally.fail(Failure::Closed(3_012));
        tally.fail(Failure::Connect(110));
        let text = serde_json::to_string(&tally).unwrap();
        let again: Tally = serde_json::from_str(&text).unwrap();
        assert_eq!(again.due_latency, tally.due_latency);
        assert_eq!(again.loop_lag, tally.loop_lag);
        assert_eq!(again.failures, tally.failures);
        for quantile in [0.0, 0.5, 0.99, 0.9999, 1.0] {
            let of = |tally: &Tally| tally.due_latency.value_at_quantile(quantile);
            assert_eq!(of(&again), of(&tally));
        }
    }
}
