//! What a run must have come to: `p99<20ms`, `bystander.p99.9<50ms`, `rate>1000`, `errors<0.1%`.

use std::{str::FromStr, time::Duration};

use super::{report::TargetReport, run::milliseconds};

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    text: String,
    /// Of which kind of operation; the first if it says nothing.
    series: Option<String>,
    figure: Figure,
    is_below: bool,
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// Milliseconds.
    Percentile(f64),
    Max,
    Mean,
    Rate,
    Errors,
    ErrorPercent,
}

const FORM: &str = "write p99<20ms, put.p99.9<50ms, rate>1000, errors<1 or errors<0.1%";

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Assertion, String> {
        let wrong = || format!("{text:?} is no condition; {FORM}");
        let at = text.find(['<', '>']).ok_or_else(wrong)?;
        let (left, right) = (text[..at].trim(), text[at + 1..].trim_start_matches('=').trim());
        let (series, figure) = match left.find('.').map(|dot| left.split_at(dot)) {
            // The dot of p99.9 is no separator.
            Some((series, figure)) if !series.starts_with('p') || series[1..].parse::<f64>().is_err() => {
                (Some(series.to_owned()), &figure[1..])
            }
            _ => (None, left),
        };
        let (figure, bound) = match (figure, right.strip_suffix('%')) {
            ("errors", Some(percent)) => (Figure::ErrorPercent, percent.parse().map_err(|_| wrong())?),
            ("errors", None) => (Figure::Errors, right.parse().map_err(|_| wrong())?),
            ("rate", _) => (Figure::Rate, right.trim_end_matches("/s").parse().map_err(|_| wrong())?),
            ("max", _) => (Figure::Max, duration(right).ok_or_else(wrong)?),
            ("mean", _) => (Figure::Mean, duration(right).ok_or_else(wrong)?),
            (percentile, _) => {
                let percent = percentile.strip_prefix('p').and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(wrong());
                }
                (Figure::Percentile(percent), duration(right).ok_or_else(wrong)?)
            }
        };
        let is_below = &text[at..=at] == "<";
        Ok(Assertion { text: text.to_owned(), series, figure, is_below, bound })
    }
}

/// Milliseconds.
fn duration(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

impl Assertion {
    /// Whether it holds for a target, and what was measured.
    pub fn holds(&self, report: &TargetReport) -> (bool, String) {
        let all = &report.all;
        let main = self.series.is_none().then(|| report.main_latencies());
        let series = self.series.as_deref().unwrap_or(&report.main);
        let latencies = main.as_ref().or_else(|| all.all.series.get(series));
        let latencies = latencies.filter(|latencies| !latencies.0.is_empty());
        let of = |value: Duration| Some(milliseconds(value));
        let measured = match self.figure {
            Figure::Percentile(percent) => latencies.and_then(|latencies| of(latencies.percentile(percent))),
            Figure::Max => latencies.and_then(|latencies| of(latencies.max())),
            Figure::Mean => latencies.map(|latencies| latencies.0.mean() / 1e6),
            Figure::Rate if !all.all.series.contains_key(series) => {
                latencies.map(|latencies| latencies.0.len() as f64 / all.seconds.max(1e-9))
            }
            Figure::Rate => Some(all.rate(series)),
            Figure::Errors => Some(all.all.failed() as f64),
            Figure::ErrorPercent => {
                let (answered, failed) = (all.all.answered() as f64, all.all.failed() as f64);
                Some(100.0 * failed / (answered + failed).max(1.0))
            }
        };
        // What was not measured cannot be promised.
        let Some(measured) = measured else {
            return (false, format!("{}: nothing was measured", self.text));
        };
        let holds = if self.is_below { measured < self.bound } else { measured > self.bound };
        let verdict = if holds { "holds" } else { "does not hold" };
        (holds, format!("{} {verdict}: {measured:.3}", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{meter::Interval, run::Measured};

    fn report() -> TargetReport {
        let mut interval = Interval::default();
        for n in 1..=1000 {
            interval.series.entry("put".to_owned()).or_default().record(Duration::from_micros(n * 10));
        }
        let mut measured = Measured::default();
        measured.tick(&interval);
        let mut report = TargetReport::new("a".to_owned());
        report.main = "put".to_owned();
        report.all = measured;
        report
    }

    #[test]
    fn conditions_are_held_against_what_was_measured() {
        for (text, holds) in [
            ("p99<20ms", true),
            ("p99<9.8ms", false),
            ("p99.9 > 9900us", true),
            ("put.p50<=5.1ms", true),
            ("put.p99.99<1s", true),
            ("max<5ms", false),
            ("mean<6ms", true),
            ("rate>999/s", true),
            ("rate>1001", false),
            ("errors<1", true),
            ("errors<0.1%", true),
            ("list.p50<1s", false),
        ] {
            let assertion: Assertion = text.parse().expect(text);
            let (held, said) = assertion.holds(&report());
            assert_eq!(held, holds, "{said}");
        }
    }

    #[test]
    fn where_nothing_is_named_after_the_load_all_of_it_is_meant() {
        let mut report = report();
        report.main = "k8s".to_owned();
        for (text, holds) in [("p99<20ms", true), ("max<5ms", false), ("rate>999", true), ("k8s.p99<20ms", false)] {
            let (held, said) = text.parse::<Assertion>().expect(text).holds(&report);
            assert_eq!(held, holds, "{said}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_examples() {
        for text in ["", "p99", "p99<20", "p101<1s", "rate>fast", "q<1ms"] {
            let error = text.parse::<Assertion>().expect_err(text);
            assert!(error.contains(FORM), "{error}");
        }
    }
}
