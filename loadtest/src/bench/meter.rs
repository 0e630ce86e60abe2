//! What is measured, while it is measured and when it is added up.

use std::{borrow::Cow, collections::BTreeMap, sync::Mutex, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tonic::Status;

/// From half a microsecond to ten minutes, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("these bounds are right")
}

/// The series of events that watchers heard of.
pub const EVENT: &str = "event";

/// How the names of series begin that have operations of another series again, told apart by what went on beside them.
pub const BESIDE: &str = "beside ";

/// How many parts a meter has, so that clients seldom meet in one.
const STRIPES: usize = 8;

/// Latencies of one kind of operation, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Latencies(pub Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(histogram())
    }
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(counts: Vec<(u64, u64)>) -> Latencies {
        let mut latencies = Latencies::default();
        counts.into_iter().for_each(|(value, count)| latencies.0.saturating_record_n(value, count));
        latencies
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Vec<(u64, u64)> {
        latencies.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Those of others too.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// What so many percent did not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(percent / 100.0))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

/// An error, by what it is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// The gRPC code.
    pub code: String,
    /// The text.
    pub text: String,
}

/// Texts may hold what differs each time; a report that has a line for each is none.
const FAILURES: usize = 100;

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        Failure { code: format!("{:?}", status.code()), text: status.message().chars().take(200).collect() }
    }
}

/// What was counted since the last time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Interval {
    /// Latencies by kind of operation; of one that was given up, how long it had waited by then.
    pub series: BTreeMap<String, Latencies>,
    /// How many of those were given up.
    pub given_up: BTreeMap<String, u64>,
    /// Operations that failed.
    #[serde(with = "failures")]
    pub failures: BTreeMap<Failure, u64>,
    /// What was counted of somebody who is not measured, by name.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Operations that were sent more than a millisecond after they were meant to be: all clients were busy waiting,
    /// or this machine was.
    pub late: u64,
}

impl Interval {
    /// Takes others' counts in.
    pub fn add(&mut self, other: &Interval) {
        for (name, latencies) in &other.series {
            self.series.entry(name.clone()).or_default().add(latencies);
        }
        for (name, count) in &other.given_up {
            *self.given_up.entry(name.clone()).or_default() += count;
        }
        for (failure, count) in &other.failures {
            self.count_failures(failure.clone(), *count);
        }
        for (name, count) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += count;
        }
        self.late += other.late;
    }

    fn count_failures(&mut self, failure: Failure, count: u64) {
        let is_known = self.failures.len() < FAILURES || self.failures.contains_key(&failure);
        let failure = if is_known { failure } else { Failure { text: "(and other texts)".to_owned(), ..failure } };
        *self.failures.entry(failure).or_default() += count;
    }

    /// Operations that were answered.
    pub fn answered(&self) -> u64 {
        self.series.keys().filter(|name| !name.starts_with(BESIDE)).map(|name| self.answered_of(name)).sum()
    }

    /// Latencies of all operations, of whatever kind; events are none.
    pub fn together(&self) -> Latencies {
        let mut all = Latencies::default();
        let operations = self.series.iter().filter(|(name, _)| !name.starts_with(BESIDE) && *name != EVENT);
        operations.for_each(|(_, latencies)| all.add(latencies));
        all
    }

    /// Operations of a kind that were answered.
    pub fn answered_of(&self, series: &str) -> u64 {
        let all = self.series.get(series).map_or(0, |latencies| latencies.0.len());
        all - self.given_up.get(series).copied().unwrap_or(0)
    }

    /// Operations that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// JSON has no keys but texts.
mod failures {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Failure;

    pub fn serialize<S: Serializer>(failures: &BTreeMap<Failure, u64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(failures)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Failure, u64>, D::Error> {
        Ok(Vec::<(Failure, u64)>::deserialize(from)?.into_iter().collect())
    }
}

/// What all clients of a run record into.
#[derive(Debug, Default)]
pub struct Meter {
    stripes: [Mutex<Stripe>; STRIPES],
}

#[derive(Debug, Default)]
struct Stripe {
    series: BTreeMap<Cow<'static, str>, Latencies>,
    rest: Interval,
}

impl Meter {
    /// An operation was answered.
    pub fn record(&self, client: usize, series: impl Into<Cow<'static, str>>, latency: Duration) {
        let series = series.into();
        self.stripe(client, |stripe| stripe.series.entry(series).or_default().record(latency));
    }

    /// An operation failed.
    pub fn fail(&self, client: usize, failure: Failure) {
        self.stripe(client, |stripe| stripe.rest.count_failures(failure, 1));
    }

    /// An operation failed because nobody waits for it any longer. It has lasted so long at least, and counts as that:
    /// percentiles of those alone that were answered would be best where nothing is.
    pub fn give_up(&self, client: usize, series: &'static str, age: Duration, failure: Failure) {
        self.record(client, series, age);
        self.stripe(client, |stripe| {
            *stripe.rest.given_up.entry(series.to_owned()).or_default() += 1;
            stripe.rest.count_failures(failure, 1);
        });
    }

    /// Somebody who is not measured did so many things.
    pub fn count(&self, name: &str, count: u64) {
        self.stripe(0, |stripe| *stripe.rest.counts.entry(name.to_owned()).or_default() += count);
    }

    /// An operation was sent late.
    pub fn late(&self, client: usize) {
        self.stripe(client, |stripe| stripe.rest.late += 1);
    }

    fn stripe(&self, client: usize, change: impl FnOnce(&mut Stripe)) {
        change(&mut self.stripes[client % STRIPES].lock().expect("nothing panics under this lock"));
    }

    /// Everything since the last time.
    pub fn drain(&self) -> Interval {
        let mut all = Interval::default();
        for stripe in &self.stripes {
            let stripe = std::mem::take(&mut *stripe.lock().expect("nothing panics under this lock"));
            all.add(&stripe.rest);
            for (name, latencies) in stripe.series {
                all.series.entry(name.into_owned()).or_default().add(&latencies);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_drained_once_and_survives_the_way_between_processes() {
        let meter = Meter::default();
        for client in 0..100 {
            meter.record(client, "put", Duration::from_micros(100 + client as u64));
            meter.fail(client, Failure::from(&Status::unavailable("gone")));
        }
        let drained = meter.drain();
        assert_eq!((drained.answered(), drained.failed()), (100, 100));
        assert_eq!((meter.drain().answered(), drained.failures.len()), (0, 1));
        let text = serde_json::to_string(&drained).expect("an interval can be written");
        let again: Interval = serde_json::from_str(&text).expect("and read");
        assert_eq!(again.series["put"].0, drained.series["put"].0);
        assert_eq!(again.failures, drained.failures);
    }

    #[test]
    fn what_is_given_up_is_a_failure_and_as_slow_as_it_has_become() {
        let meter = Meter::default();
        meter.record(1, "put", Duration::from_millis(1));
        let failure = Failure { code: "(none)".to_owned(), text: "no answer".to_owned() };
        meter.give_up(1, "put", Duration::from_secs(9), failure);
        let mut all = Interval::default();
        all.add(&meter.drain());
        assert_eq!((all.answered(), all.answered_of("put"), all.failed()), (1, 1, 1));
        assert!(all.series["put"].percentile(99.0) >= Duration::from_secs(8), "{:?}", all.series["put"].max());
    }

    #[test]
    fn texts_that_never_repeat_do_not_fill_memory() {
        let mut interval = Interval::default();
        for n in 0..10_000 {
            interval.count_failures(Failure { code: "Unknown".to_owned(), text: format!("request {n}") }, 1);
        }
        assert_eq!((interval.failed(), interval.failures.len()), (10_000, FAILURES + 1));
    }
}
