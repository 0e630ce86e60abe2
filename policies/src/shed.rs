//! Whom to refuse first when waiting does not help any more: WeChat's DAGOR.
//!
//! Every request has a rank: its class, and within the class the cohort of its flow. The shedder lets ranks up to a
//! cursor in. While requests wait too long in the queues the cursor is lowered so that 5 % less gets in; otherwise it
//! is raised by 1 %. Whole cohorts are refused, so the calls of one client succeed or fail together, and which cohort
//! is refused first changes every hour.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

/// How many classes there are; class 0 is the last to be refused.
pub const CLASSES: usize = 16;
/// How many cohorts a class has.
pub const COHORTS: usize = 128;

/// A round ends after this time, or after so many requests.
const ROUND: Duration = Duration::from_secs(1);
const ROUND_REQUESTS: u64 = 2_000;

/// Lets in what the upstream has time for, the most important first.
#[derive(Debug)]
pub struct Shedder {
    /// A mean wait beyond this is overload.
    wait_max: Duration,
    /// Ranks up to this get in.
    cursor: usize,
    /// Requests of this round by rank, whether they got in or not.
    arrived: Vec<u64>,
    round: Round,
}

#[derive(Debug, Default)]
struct Round {
    since: Option<Instant>,
    arrived: u64,
    admitted: u64,
    waited: u64,
    wait_nanos: u128,
}

/// The cohort of a flow in the hour of `hour`, counted from anywhere.
pub fn cohort(flow: u64, hour: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    (flow, hour).hash(&mut hasher);
    (hasher.finish() % COHORTS as u64) as usize
}

impl Shedder {
    /// Lets everything in. A mean wait beyond `wait_max` is overload; DAGOR has 20 ms. With less, clients that wait for
    /// their answers before they ask again are refused where patience would have served them.
    pub fn new(wait_max: Duration) -> Shedder {
        let arrived = vec![0; CLASSES * COHORTS];
        Shedder { wait_max, cursor: CLASSES * COHORTS - 1, arrived, round: Round::default() }
    }

    /// Whether a request of this class, 0 the most important, and [`cohort`] gets in.
    pub fn admits(&mut self, now: Instant, class: usize, cohort: usize) -> bool {
        self.round.since.get_or_insert(now);
        let rank = class.min(CLASSES - 1) * COHORTS + cohort.min(COHORTS - 1);
        self.arrived[rank] += 1;
        self.round.arrived += 1;
        let admitted = rank <= self.cursor;
        self.round.admitted += u64::from(admitted);
        self.turn(now);
        admitted
    }

    /// A request that got in has waited this long for its seat.
    pub fn record(&mut self, now: Instant, wait: Duration) {
        self.round.since.get_or_insert(now);
        self.round.waited += 1;
        self.round.wait_nanos += wait.as_nanos();
        self.turn(now);
    }

    /// Whether anything is refused.
    pub fn is_shedding(&self) -> bool {
        self.cursor < CLASSES * COHORTS - 1
    }

    fn turn(&mut self, now: Instant) {
        let since = self.round.since.unwrap_or(now);
        if now.saturating_duration_since(since) < ROUND && self.round.arrived < ROUND_REQUESTS {
            return;
        }
        let round = std::mem::take(&mut self.round);
        let overloaded = round.waited > 0 && round.wait_nanos / u128::from(round.waited) > self.wait_max.as_nanos();
        // 5 % less than got in, or 1 % more than it.
        if overloaded {
            let due = round.admitted * 95 / 100;
            let mut admitted = round.admitted;
            while admitted > due && self.cursor >= COHORTS {
                admitted -= self.arrived[self.cursor];
                self.cursor -= 1;
            }
        } else {
            let due = round.admitted + (round.arrived / 100).max(1);
            let mut admitted = round.admitted;
            while admitted < due && self.is_shedding() {
                self.cursor += 1;
                admitted += self.arrived[self.cursor];
            }
        }
        self.arrived.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::testing::start;

    /// 1,000 requests a second, a tenth of class 0, the rest of class 2, against an upstream that serves `capacity` a
    /// second and lets the rest wait. Returns what got in of each in the last second.
    fn offer(shedder: &mut Shedder, from: Instant, capacity: f64, seconds: u32) -> (u32, u32) {
        let mut random = StdRng::seed_from_u64(11);
        let (mut backlog, mut important, mut others) = (0.0f64, 0, 0);
        for step in 0..seconds * 1_000 {
            if step % 1_000 == 0 {
                (important, others) = (0, 0);
            }
            let now = from + Duration::from_millis(1) * step;
            backlog = (backlog - capacity / 1_000.0).max(0.0);
            let class = if random.random_range(0..10) == 0 { 0 } else { 2 };
            if shedder.admits(now, class, random.random_range(0..COHORTS)) {
                *(if class == 0 { &mut important } else { &mut others }) += 1;
                shedder.record(now, Duration::from_secs_f64(backlog / capacity));
                // The queues hold no more than this.
                backlog = (backlog + 1.0).min(200.0);
            }
        }
        (important, others)
    }

    #[test]
    fn the_less_important_is_refused_first_and_comes_back() {
        let (begin, mut shedder) = (start(), Shedder::new(Duration::from_millis(20)));
        let (important, others) = offer(&mut shedder, begin, 500.0, 60);
        assert!(important >= 80, "{important} of about 100 of the important");
        assert!((300..=500).contains(&others), "{others} of about 900");
        offer(&mut shedder, begin + Duration::from_secs(60), 2_000.0, 120);
        assert!(!shedder.is_shedding());
    }

    #[test]
    fn the_most_important_class_is_never_refused() {
        let (begin, mut shedder) = (start(), Shedder::new(Duration::from_millis(20)));
        offer(&mut shedder, begin, 10.0, 60);
        assert!((0..COHORTS).all(|cohort| shedder.admits(begin + Duration::from_secs(60), 0, cohort)));
    }

    #[test]
    fn another_hour_refuses_others_first() {
        let cohorts: Vec<usize> = (0..24).map(|hour| cohort(42, hour)).collect();
        assert!(cohorts.iter().any(|cohort| *cohort != cohorts[0]));
        assert!(cohorts.iter().all(|cohort| *cohort < COHORTS));
    }
}
