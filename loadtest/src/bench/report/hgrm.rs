//! The percentile table that HdrHistogram's plotter and other tools read.

use std::fmt::Write as _;

use crate::bench::meter::Latencies;

/// In milliseconds, five steps to each halving of what is left.
pub fn hgrm(latencies: &Latencies) -> String {
    let histogram = &latencies.0;
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut below = 0;
    for step in histogram.iter_quantiles(5) {
        below += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        let _ = write!(text, "{value:>12.3} {quantile:>2.12} {below:>10}");
        let _ = if quantile < 1.0 { writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let (mean, deviation) = (histogram.mean() / 1e6, histogram.stdev() / 1e6);
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let (max, count) = (histogram.max() as f64 / 1e6, histogram.len());
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {count:>12}]");
    let (buckets, distinct) = (histogram.buckets(), histogram.distinct_values());
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {distinct:>12}]");
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_table_ascends_to_the_last_value() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|n| latencies.record(Duration::from_micros(n)));
        let text = hgrm(&latencies);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().expect("a number")).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        let last = rows.last().expect("there are rows");
        assert_eq!((last[1], last[2]), (1.0, 10_000.0));
        assert!((9.99..10.01).contains(&last[0]), "{last:?}");
    }
}
