//! How many requests the upstream bears at once, found out from how long they take: Netflix' Gradient2.
//!
//! A short mean of latencies is compared with a long one. While they agree, the limit grows; when requests take longer
//! than they used to, they wait for each other inside the upstream, and the limit falls until they do not.
//!
//! Three changes to the original. Requests are compared with those of about the same cost, so that a change from gets
//! to lists is not taken for overload. A long mean that rises while the limit is used up may be our own doing: then it
//! rises ten times slower, so that a long overload does not become what is usual. And the limit grows by a part of
//! itself, to be back soon after an upstream has recovered.

use std::time::{Duration, Instant};

/// How an [`AdaptiveLimit`] behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    pub initial: u32,
    /// Below this the limit never falls. Too low and an upstream that has become slower is never used again.
    pub min: u32,
    /// Above this it never rises. Too high and a sudden overload takes long to be noticed.
    pub max: u32,
    /// How much longer than usual requests may take without being taken for overload. At 1 every unevenness lowers
    /// the limit. More than 1.
    pub tolerance: f64,
    /// How much of the way to a new limit is gone at once.
    pub smoothing: f64,
    /// How long latencies are collected before they count.
    pub window: Duration,
    /// How many windows the long mean looks back.
    pub long_windows: f64,
}

impl Default for Gradient {
    fn default() -> Gradient {
        Gradient {
            initial: 40,
            min: 20,
            max: 1_000,
            tolerance: 1.05,
            smoothing: 0.2,
            window: Duration::from_millis(100),
            long_windows: 600.0,
        }
    }
}

/// What the upstream said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Served,
    /// It is overloaded, by its own word: "too many requests", or a timeout of its own.
    Overloaded,
}

/// The concurrency limit of one upstream for one kind of request.
#[derive(Debug)]
pub struct AdaptiveLimit {
    gradient: Gradient,
    /// Invariant: between the gradient's `min` and `max`.
    limit: f64,
    /// By the binary logarithm of the cost.
    classes: [CostClass; COST_CLASSES],
    window: Window,
}

/// Requests of about the same cost.
#[derive(Clone, Copy, Debug, Default)]
struct CostClass {
    /// The long mean of their latencies in nanoseconds; 0 before the first window.
    long: f64,
    /// Of this window.
    samples: u32,
    nanos: f64,
}

/// From an eighth of a unit to ten thousands of them.
const COST_CLASSES: usize = 20;

/// What was measured since the last change.
#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    samples: u32,
    in_flight_max: u32,
    overloaded: bool,
}

/// Fewer latencies than this say nothing, however long they took to come.
const SAMPLES_MIN: u32 = 10;

impl AdaptiveLimit {
    /// Begins with the initial limit and without any experience.
    pub fn new(gradient: Gradient) -> AdaptiveLimit {
        AdaptiveLimit {
            gradient,
            limit: f64::from(gradient.initial),
            classes: Default::default(),
            window: Window::default(),
        }
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A request has ended. `lasted` counts from when it was forwarded, `units` are [`crate::Cost::units`], and
    /// `in_flight` is how many requests were out at the time. Watches, leases and compaction tell nothing and are left out.
    /// Returns the limit when it has changed.
    pub fn record(
        &mut self,
        now: Instant,
        lasted: Duration,
        units: u64,
        in_flight: u32,
        outcome: Outcome,
    ) -> Option<u32> {
        let window = &mut self.window;
        let since = *window.since.get_or_insert(now);
        window.in_flight_max = window.in_flight_max.max(in_flight);
        match outcome {
            Outcome::Served => {
                window.samples += 1;
                let class = (units / 64).checked_ilog2().unwrap_or(0) as usize;
                let class = &mut self.classes[class.min(COST_CLASSES - 1)];
                class.samples += 1;
                class.nanos += lasted.as_nanos() as f64;
            }
            Outcome::Overloaded => window.overloaded = true,
        }
        let ripe = window.samples >= SAMPLES_MIN || window.overloaded;
        if !ripe || now.saturating_duration_since(since) < self.gradient.window {
            return None;
        }
        let window = std::mem::take(&mut self.window);
        let before = self.limit();
        self.turn(&window);
        (self.limit() != before).then(|| self.limit())
    }

    fn turn(&mut self, window: &Window) {
        let Gradient { min, max, tolerance, smoothing, long_windows, .. } = self.gradient;
        let bounded = |limit: f64| limit.clamp(f64::from(min), f64::from(max));
        if window.overloaded {
            self.limit = bounded(self.limit * 0.9);
            return;
        }
        let used_up = f64::from(window.in_flight_max) >= self.limit / 2.0;
        // How much longer than usual requests took, each compared with its like.
        let (mut ratios, mut samples) = (0.0, 0.0);
        for class in self.classes.iter_mut().filter(|class| class.samples > 0) {
            let count = f64::from(class.samples);
            let short = (class.nanos / count).max(1.0);
            class.turn(short, used_up, long_windows);
            ratios += count * short / class.long;
            samples += count;
        }
        // A limit that is not used has not been tried.
        if !used_up {
            return;
        }
        let gradient = (tolerance * samples / ratios).clamp(0.5, 1.0);
        // Room for a few to wait inside the upstream: without them nobody would learn that it bears more. The nearer
        // latencies are to what is tolerated the less there is, or they would settle beyond it.
        let left = ((tolerance - ratios / samples) / (tolerance - 1.0)).clamp(0.0, 1.0);
        let next = self.limit * gradient + (self.limit / 20.0 + 1.0) * left;
        self.limit = bounded(self.limit * (1.0 - smoothing) + next * smoothing);
    }
}

impl CostClass {
    /// The window is over, in which requests of the class took `short`.
    fn turn(&mut self, short: f64, used_up: bool, long_windows: f64) {
        (self.samples, self.nanos) = (0, 0.0);
        if self.long == 0.0 {
            self.long = short;
        }
        let weight = if used_up && short > self.long { 0.1 / long_windows } else { 1.0 / long_windows };
        self.long += (short - self.long) * weight;
        if self.long / short > 2.0 {
            // It was slow for long and is not any more: do not take weeks to believe it.
            self.long *= 0.9;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    /// An upstream that serves `capacity` requests at once in 10 ms each; more wait for each other inside it. Latencies
    /// as if the limit was always used up. Returns the limit after each second.
    fn run(limit: &mut AdaptiveLimit, from: Instant, capacity: f64, seconds: u32) -> Vec<u32> {
        let mut now = from;
        let mut each_second = Vec::new();
        for second in 1..=seconds {
            while now < from + Duration::from_secs(1) * second {
                let in_flight = limit.limit();
                let lasted = Duration::from_secs_f64(0.010 * (f64::from(in_flight) / capacity).max(1.0));
                now += lasted / in_flight;
                limit.record(now, lasted, 125, in_flight, Outcome::Served);
            }
            each_second.push(limit.limit());
        }
        each_second
    }

    #[test]
    fn the_limit_settles_a_little_above_what_the_upstream_bears() {
        for capacity in [40.0, 100.0, 300.0] {
            let mut limit = AdaptiveLimit::new(Gradient::default());
            let limits = run(&mut limit, start(), capacity, 60);
            let settled = f64::from(*limits.last().expect("a limit"));
            assert!(settled >= capacity && settled <= capacity * 1.5 + 20.0, "{capacity}: {limits:?}");
        }
    }

    #[test]
    fn a_long_overload_does_not_become_what_is_usual() {
        let mut limit = AdaptiveLimit::new(Gradient::default());
        let first = run(&mut limit, start(), 100.0, 20);
        let later = run(&mut limit, start() + Duration::from_secs(60), 100.0, 120);
        let (first, later) = (*first.last().expect("one"), *later.last().expect("one"));
        assert!(later <= first + first / 4, "{first} after 20 s, {later} after 120 s more");
    }

    #[test]
    fn an_upstream_that_slows_down_is_given_less_and_one_that_recovers_more() {
        let mut limit = AdaptiveLimit::new(Gradient::default());
        let begin = start();
        let good = *run(&mut limit, begin, 300.0, 60).last().expect("one");
        let bad = *run(&mut limit, begin + Duration::from_secs(100), 50.0, 10).last().expect("one");
        assert!(bad < good / 2, "{good} then {bad}");
        let again = *run(&mut limit, begin + Duration::from_secs(200), 300.0, 20).last().expect("one");
        assert!(again > good * 8 / 10, "{good} then {bad} then {again}");
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let (begin, mut limit) = (start(), AdaptiveLimit::new(Gradient::default()));
        for step in 0..10_000u32 {
            limit.record(begin + Duration::from_millis(1) * step, Duration::from_millis(10), 125, 5, Outcome::Served);
        }
        assert_eq!(limit.limit(), Gradient::default().initial);
    }

    #[test]
    fn the_word_of_the_upstream_counts_at_once() {
        let (begin, mut limit) = (start(), AdaptiveLimit::new(Gradient { initial: 100, ..Gradient::default() }));
        limit.record(begin, Duration::from_millis(1), 125, 100, Outcome::Overloaded);
        let changed =
            limit.record(begin + Duration::from_millis(100), Duration::from_millis(1), 125, 100, Outcome::Served);
        assert_eq!(changed, Some(90));
    }

    #[test]
    fn lists_after_gets_are_not_taken_for_overload() {
        let (begin, mut limit) = (start(), AdaptiveLimit::new(Gradient { initial: 100, ..Gradient::default() }));
        let mut now = begin;
        for (millis, units) in [(2u64, 125u64), (300, 9_125)] {
            for _ in 0..20_000 {
                now += Duration::from_micros(100);
                limit.record(now, Duration::from_millis(millis), units, 80, Outcome::Served);
            }
        }
        assert!(limit.limit() >= 100, "{}", limit.limit());
    }
}
