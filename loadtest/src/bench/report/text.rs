//! The report that people read first.

use std::fmt::Write as _;

use super::{PERCENTILES, Report};
use crate::bench::run::milliseconds;

/// Columns of the names, unless one is longer.
const WIDTH: usize = 14;

/// Lines for a terminal of 100 columns or so.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.load);
    let width = report.series().into_iter().map(str::len).max().unwrap_or(0).max(WIDTH);
    for (place, target) in report.targets.iter().enumerate() {
        let all = &target.all;
        let _ = writeln!(text, "\n{}", target.name);
        for (name, latencies) in &all.all.series {
            let _ = writeln!(
                text,
                "  {name:<width$} {:>10} ok {:>12.1}/s   mean {:.3} ms  max {:.3} ms",
                all.all.answered_of(name),
                all.rate(name),
                latencies.0.mean() / 1e6,
                milliseconds(latencies.max()),
            );
            let percentiles = PERCENTILES.map(|p| format!("p{p} {:.3}", milliseconds(latencies.percentile(p))));
            let _ = writeln!(text, "  {:<width$} {} ms", "", percentiles.join("  "));
        }
        let (answered, failed) = (all.all.answered(), all.all.failed());
        let share = 100.0 * failed as f64 / (answered + failed).max(1) as f64;
        let _ = writeln!(text, "  {:<width$} {failed:>10} ({share:.3} %)", "errors");
        for (failure, count) in &all.all.failures {
            let _ = writeln!(text, "  {:<width$} {count:>10} x {}: {}", "", failure.code, failure.text);
        }
        for (name, count) in &all.all.counts {
            let _ = writeln!(text, "  {:<width$} {count:>10} {name}", "counted");
        }
        if all.all.late > 0 {
            let _ = writeln!(
                text,
                "  {:<width$} {:>10} were sent over 1 ms after they were meant to be: clients or this machine were busy",
                "late", all.all.late
            );
        }
        for check in &target.checks {
            let _ = writeln!(text, "  {:<width$} {}", "history", check.summary());
        }
        if place > 0 {
            let base = &report.targets[0].name;
            for name in report.series() {
                let figures = [
                    ("rate", report.rate_ratio(place, name)),
                    ("p50", report.latency_ratio(place, name, 50.0)),
                    ("p99", report.latency_ratio(place, name, 99.0)),
                ];
                let figures: Vec<String> =
                    figures.iter().filter_map(|(figure, ratio)| Some(format!("{figure} {}", (*ratio)?))).collect();
                if !figures.is_empty() {
                    let _ = writeln!(text, "  {name:<width$} as multiples of {base}: {}", figures.join("  "));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn percentiles_errors_and_ratios_are_told() {
        let text = text(&report());
        for part in ["p99.99 ", "18 x Unavailable: <no> leader & more", "as multiples of a:1: rate x1.00", "p50 x2.0"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
