//! A token bucket as a generic cell rate algorithm: one instant says how full it is.
//!
//! `governor` has the same algorithm, but reads a clock of its own and cannot charge what is known only afterwards: its
//! cells do not go into debt and are not given back. Settling a cost needs both.

use std::time::{Duration, Instant};

use crate::units::Rate;

/// A rate and how much may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub rate: Rate,
    /// At least 1.
    pub burst: u64,
}

impl Pace {
    /// The most that one request is charged: a full bucket and the debt it may leave.
    fn at_once(self, cost: u64) -> u64 {
        cost.min(self.burst.saturating_mul(2))
    }
}

/// How full a bucket is. A new one is full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// When it is full again if nothing more is taken.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Instant) -> Bucket {
        Bucket { full_at: now }
    }

    /// How long until `cost` may be taken; zero if it may now. What costs more than a burst needs a full bucket.
    pub fn wait(&self, now: Instant, pace: Pace, cost: u64) -> Duration {
        let needed = pace.rate.time_for(cost.min(pace.burst));
        let missing = self.full_at.saturating_duration_since(now);
        (missing + needed).saturating_sub(pace.rate.time_for(pace.burst))
    }

    /// Takes `cost`, whether it may be taken or not. What is taken early is a reservation: whoever took it has to let
    /// the [wait](Bucket::wait) of before pass.
    pub fn take(&mut self, now: Instant, pace: Pace, cost: u64) {
        let cost = pace.rate.time_for(pace.at_once(cost));
        self.full_at = self.full_at.max(now) + cost;
    }

    /// Corrects what was taken for `predicted` to `actual`. Debt ends at one burst below empty, so that one mistake
    /// does not shut a client out for long.
    pub fn settle(&mut self, now: Instant, pace: Pace, predicted: u64, actual: u64) {
        let taken = pace.at_once(predicted);
        if actual > taken {
            let deepest = now + pace.rate.time_for(pace.burst) * 2;
            let charged = self.full_at.max(now) + pace.rate.time_for(pace.at_once(actual - taken));
            // Reservations may reach beyond the deepest debt, and they stand.
            self.full_at = charged.min(deepest.max(self.full_at));
        } else {
            let back = pace.rate.time_for(taken - actual);
            self.full_at = self.full_at.checked_sub(back).unwrap_or(now).max(now);
        }
    }

    /// Whether the bucket is full: then it holds nothing that a new one would not.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// What may be taken now; negative in debt.
    pub fn level(&self, now: Instant, pace: Pace) -> i64 {
        let missing = self.full_at.saturating_duration_since(now).as_nanos();
        let missing = missing * u128::from(pace.rate.amount()) / pace.rate.period().as_nanos();
        let burst = i64::try_from(pace.burst).unwrap_or(i64::MAX);
        burst.saturating_sub(i64::try_from(missing).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::start;

    fn pace(amount: u64, burst: u64) -> Pace {
        Pace { rate: Rate::per_second(amount), burst }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (start, pace) = (start(), pace(10, 5));
        let mut bucket = Bucket::new(start);
        for _ in 0..5 {
            assert_eq!(bucket.wait(start, pace, 1), Duration::ZERO);
            bucket.take(start, pace, 1);
        }
        assert_eq!(bucket.wait(start, pace, 1), Duration::from_millis(100));
        assert_eq!(bucket.level(start, pace), 0);
        assert_eq!(bucket.wait(start + Duration::from_millis(100), pace, 1), Duration::ZERO);
    }

    #[test]
    fn reservations_queue_up_behind_each_other() {
        let (start, pace) = (start(), pace(10, 1));
        let mut bucket = Bucket::new(start);
        let waits: Vec<u128> = (0..30)
            .map(|_| {
                let wait = bucket.wait(start, pace, 1);
                bucket.take(start, pace, 1);
                wait.as_millis()
            })
            .collect();
        assert_eq!(waits, (0..30).map(|at| at * 100).collect::<Vec<_>>());
    }

    #[test]
    fn more_than_a_burst_needs_a_full_bucket_and_leaves_debt_of_one_burst_at_most() {
        let (start, pace) = (start(), pace(100, 50));
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.wait(start, pace, 1_000_000), Duration::ZERO);
        bucket.take(start, pace, 1_000_000);
        assert_eq!(bucket.level(start, pace), -50);
        assert_eq!(bucket.wait(start, pace, 1_000_000), Duration::from_secs(1));
        bucket.settle(start, pace, 1_000_000, 30);
        assert_eq!(bucket.level(start, pace), 20);
        bucket.settle(start, pace, 30, u64::MAX);
        assert_eq!(bucket.level(start, pace), -50);
    }

    proptest! {
        /// Greedy arrivals at random times: what passes is the burst and the rate over the time, to 2 %.
        #[test]
        fn a_rate_is_held(rate in 5u64..5_000, burst in 2u64..50, steps in prop::collection::vec(1u64..2_000, 300)) {
            let (start, pace) = (start(), pace(rate, burst));
            let mut bucket = Bucket::new(start);
            let (mut now, mut passed) = (start, 0u64);
            for step in steps {
                // With what is left of one that could not be taken yet, the bucket must not overflow between arrivals.
                now += pace.rate.time_for(burst - 1).min(Duration::from_micros(step * 1_000));
                while bucket.wait(now, pace, 1).is_zero() {
                    bucket.take(now, pace, 1);
                    passed += 1;
                }
            }
            let due = (now - start).as_secs_f64() * rate as f64 + burst as f64;
            prop_assert!((passed as f64) <= due * 1.0001 + 1.0, "{passed} of {due}");
            prop_assert!((passed as f64) >= due * 0.98 - 2.0, "{passed} of {due}");
        }

        /// Whatever is predicted, settling leaves what the truth would have left, as long as debt is not forgiven.
        #[test]
        fn settling_makes_the_prediction_irrelevant(predicted in 0u64..200, actual in 0u64..200) {
            let (start, pace) = (start(), pace(1_000, 100));
            let mut bucket = Bucket::new(start);
            bucket.take(start, pace, predicted);
            bucket.settle(start, pace, predicted, actual);
            prop_assert_eq!(bucket.level(start, pace), 100 - actual as i64);
        }
    }
}
