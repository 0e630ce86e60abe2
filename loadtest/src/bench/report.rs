//! What was measured, in the forms that people and programs read.

mod hgrm;
mod html;
mod text;

use serde::Serialize;
use serde_json::{Value, json};

pub use self::{hgrm::hgrm, html::html, text::text};
use super::{
    meter::Latencies,
    run::{Measured, Plan, milliseconds},
};
use crate::check;

/// The percentiles that are reported.
pub const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// The whole of it.
#[derive(Debug)]
pub struct Report {
    /// What was run, in a sentence.
    pub load: String,
    /// By the order in which they were named; the others are compared with the first.
    pub targets: Vec<TargetReport>,
}

/// What one target did.
#[derive(Debug)]
pub struct TargetReport {
    /// As it was named.
    pub name: String,
    /// The kind of operation that a condition means which names none.
    pub main: String,
    /// Each turn.
    pub rounds: Vec<Measured>,
    /// All turns together.
    pub all: Measured,
    /// Of each turn, whether what was seen can have happened, if that was asked.
    pub checks: Vec<check::Report>,
}

impl TargetReport {
    /// Whether nothing was seen that cannot have happened.
    pub fn is_consistent(&self) -> bool {
        self.checks.iter().all(|check| check.violations.is_empty())
    }

    /// Of the operations that a condition means which names none. A load of many kinds of operation has none that it is
    /// named after: all of them are meant.
    pub fn main_latencies(&self) -> Latencies {
        let all = &self.all.all;
        all.series.get(&self.main).cloned().unwrap_or_else(|| all.together())
    }

    /// Of a target that has not run yet.
    pub fn new(name: String) -> TargetReport {
        TargetReport { name, main: String::new(), rounds: Vec::new(), all: Measured::default(), checks: Vec::new() }
    }

    fn add_up(&mut self, main: &str) {
        self.main = main.to_owned();
        let mut all = Measured::default();
        for round in &self.rounds {
            for (name, points) in &round.timeline {
                // What little comes after the last whole second is none, and would look like a server that stopped.
                let is_whole = |point: &&super::run::Point| point.at < round.seconds + 0.5 || point.at <= 1.0;
                let points = points.iter().filter(is_whole);
                let shifted = points.map(|point| super::run::Point { at: point.at + all.seconds, ..*point });
                all.timeline.entry(name.clone()).or_default().extend(shifted);
            }
            all.seconds += round.seconds;
            all.all.add(&round.all);
        }
        self.all = all;
    }
}

/// How a figure of a target compares with the first target's, turn by turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// Turns in which one of both had no such figure, because nothing was answered; without any other, the three above
    /// are no numbers.
    pub without: usize,
}

impl Ratio {
    fn of(values: impl Iterator<Item = f64>) -> Option<Ratio> {
        let (mut values, without): (Vec<f64>, Vec<f64>) = values.partition(|value| value.is_finite());
        if values.is_empty() && without.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number there are two in the middle.
        let median = f64::midpoint(at(last / 2), at(values.len() / 2));
        Some(Ratio { median, min: at(0), max: at(last), without: without.len() })
    }
}

/// `x1.50 (1.20 to 1.80)`, and how many turns have no such figure.
impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ratio { median, min, max, without } = self;
        if median.is_nan() {
            return write!(f, "- (no turn was answered)");
        }
        write!(f, "x{median:.2} ({min:.2} to {max:.2})")?;
        if *without > 0 {
            write!(f, " and {without} turns without an answer")?;
        }
        Ok(())
    }
}

impl Report {
    /// Of all turns of all targets.
    pub fn new(plan: &Plan, mut targets: Vec<TargetReport>) -> Report {
        let flows = plan.scenario.flows(&plan.shape, plan.clients);
        let main = flows.first().map_or("", |flow| flow.series);
        targets.iter_mut().for_each(|target| target.add_up(main));
        Report { load: plan.describe(), targets }
    }

    /// Every kind of operation that anybody did.
    fn series(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.targets.iter().flat_map(|target| target.all.all.series.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A figure of a target as a multiple of the first target's, in each turn.
    fn ratio(&self, target: usize, figure: impl Fn(&Measured) -> f64) -> Option<Ratio> {
        let (base, other) = (&self.targets[0].rounds, &self.targets[target].rounds);
        Ratio::of(base.iter().zip(other).map(|(base, other)| figure(other) / figure(base)))
    }

    fn latency_ratio(&self, target: usize, series: &str, percent: f64) -> Option<Ratio> {
        self.ratio(target, |measured| {
            let latencies = measured.all.series.get(series);
            latencies.map_or(f64::NAN, |latencies| milliseconds(latencies.percentile(percent)))
        })
    }

    fn rate_ratio(&self, target: usize, series: &str) -> Option<Ratio> {
        self.ratio(target, |measured| measured.rate(series))
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let targets = self.targets.iter().enumerate().map(|(place, target)| {
            let series = target.all.all.series.iter().map(|(name, latencies)| {
                let percentiles = PERCENTILES.map(|p| (format!("p{p}"), json!(milliseconds(latencies.percentile(p)))));
                let mut figures = json!({
                    "operations": target.all.all.answered_of(name),
                    "givenUp": target.all.all.given_up.get(name).copied().unwrap_or(0),
                    "perSecond": target.all.rate(name),
                    "meanMs": latencies.0.mean() / 1e6,
                    "maxMs": milliseconds(latencies.max()),
                    "percentilesMs": percentiles.into_iter().collect::<serde_json::Map<_, _>>(),
                    "timeline": target.all.timeline.get(name),
                });
                if place > 0 {
                    figures["ratios"] = json!({
                        "rate": self.rate_ratio(place, name),
                        "p50": self.latency_ratio(place, name, 50.0),
                        "p99": self.latency_ratio(place, name, 99.0),
                    });
                }
                (name.clone(), figures)
            });
            let failures = target
                .all
                .all
                .failures
                .iter()
                .map(|(failure, count)| json!({"code": failure.code, "text": failure.text, "count": count}));
            json!({
                "target": target.name,
                "seconds": target.all.seconds,
                "rounds": target.rounds.len(),
                "series": series.collect::<serde_json::Map<_, _>>(),
                "errors": failures.collect::<Vec<_>>(),
                "counts": target.all.all.counts,
                "sentLate": target.all.all.late,
                "checks": target.checks.iter().map(|check| json!({
                    "operations": check.operations,
                    "events": check.events,
                    "violations": check.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })
        });
        json!({"load": self.load, "targets": targets.collect::<Vec<_>>()})
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::meter::{Failure, Interval};

    /// Two targets, the second twice as slow, in three turns of two seconds.
    pub fn report() -> Report {
        let measured = |factor: u64| {
            let mut measured = Measured::default();
            for _ in 0..2 {
                let mut interval = Interval::default();
                for n in 1..=500 {
                    let latency = Duration::from_micros(n * 10 * factor);
                    interval.series.entry("put".to_owned()).or_default().record(latency);
                }
                let failure = Failure { code: "Unavailable".to_owned(), text: "<no> leader & more".to_owned() };
                interval.failures.insert(failure, 3);
                measured.tick(&interval);
            }
            measured
        };
        let target = |name: &str, factor| {
            let mut target = TargetReport::new(name.to_owned());
            target.rounds = (0..3).map(|_| measured(factor)).collect();
            target.add_up("put");
            target
        };
        Report { load: "put, 500/s".to_owned(), targets: vec![target("a:1", 1), target("b:2", 2)] }
    }

    #[test]
    fn turns_are_added_up_and_compared_turn_by_turn() {
        let report = report();
        let all = &report.targets[1].all;
        assert_eq!((all.seconds, all.all.answered(), all.all.failed()), (6.0, 3000, 18));
        assert_eq!(all.timeline["put"].last().map(|point| point.at), Some(6.0));
        let ratio = report.latency_ratio(1, "put", 50.0).expect("both ran");
        assert!((1.98..2.02).contains(&ratio.median) && ratio.min <= ratio.max, "{ratio:?}");
        assert_eq!(report.rate_ratio(1, "put").map(|ratio| ratio.median), Some(1.0));
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two_and_a_turn_without_an_answer_is_told() {
        let shown = |values: &[f64]| Ratio::of(values.iter().copied()).map(|ratio| ratio.to_string());
        assert_eq!(shown(&[3.0, 1.0]).as_deref(), Some("x2.00 (1.00 to 3.00)"));
        assert_eq!(shown(&[3.0, 1.0, 2.5]).as_deref(), Some("x2.50 (1.00 to 3.00)"));
        let some = shown(&[1.0, f64::INFINITY, f64::NAN]);
        assert_eq!(some.as_deref(), Some("x1.00 (1.00 to 1.00) and 2 turns without an answer"));
        assert_eq!(shown(&[f64::NAN]).as_deref(), Some("- (no turn was answered)"));
        assert_eq!(shown(&[]), None);
    }

    #[test]
    fn programs_find_every_figure() {
        let json = report().json();
        let put = &json["targets"][1]["series"]["put"];
        assert_eq!(put["operations"], 3000);
        assert_eq!(put["perSecond"], 500.0);
        assert!(put["percentilesMs"]["p99.99"].as_f64().is_some_and(|ms| ms > 9.9));
        assert_eq!(put["timeline"].as_array().map(Vec::len), Some(6));
        assert!(put["ratios"]["p99"]["median"].is_f64() && json["targets"][0]["series"]["put"].get("ratios").is_none());
        assert_eq!(json["targets"][0]["errors"][0]["count"], 18);
    }
}
