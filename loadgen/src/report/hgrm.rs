//! The spectrum of the latencies in HdrHistogram's percentile format, which its plotters read.

use std::fmt::Write;

/// Milliseconds, percentile, samples up to there, 1 / (1 − percentile); of ranges with their counts.
pub(super) fn spectrum(ranges: &[(u64, u64)]) -> String {
    let total: u64 = ranges.iter().map(|(_, count)| count).sum();
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let (mut below, mut sum, mut squares) = (0, 0.0, 0.0);
    for (value_ns, count) in ranges {
        let ms = *value_ns as f64 / 1e6;
        below += count;
        sum += ms * *count as f64;
        squares += ms * ms * *count as f64;
        let share = below as f64 / total as f64;
        let beyond = match below == total {
            true => "inf".to_owned(),
            false => format!("{:.2}", 1.0 / (1.0 - share)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{ms:>12.3} {share:>14.9} {below:>10} {beyond:>14}");
    }
    let count = total.max(1) as f64;
    let mean = sum / count;
    let deviation = (squares / count - mean * mean).max(0.0).sqrt();
    let max = ranges
        .last()
        .map_or(0.0, |(value_ns, _)| *value_ns as f64 / 1e6);
    let _ = writeln!(
        text,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]\n\
         #[Max     = {max:>12.3}, Total count    = {total:>12}]"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_the_spectrum() {
        let text = spectrum(&[(1_000_000, 90), (2_000_000, 9), (5_000_000, 1)]);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["1.000", "0.900000000", "90", "10.00"]
        );
        assert!(lines[2].ends_with("inf") && lines[4].contains("100]"));
    }
}
