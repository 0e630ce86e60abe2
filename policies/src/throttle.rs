//! Refusing what the upstream would refuse, before it has to: the client-side throttle of Google's SRE book.
//!
//! While the upstream accepts what it is sent, everything is sent. The more it refuses, the more is refused here, up to
//! a bound, so that its recovery is noticed. A retry budget of the same counters keeps retries a small part of the whole.

use std::time::{Duration, Instant};

/// How a [`Throttle`] behaves: Envoy's admission control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// How far back requests count.
    pub window: Duration,
    /// The part of requests that the upstream accepts when it is well.
    pub threshold: f64,
    /// Never more than this is refused.
    pub most: f64,
    /// Retries may be this part of the requests.
    pub retries: f64,
    /// Fewer requests than this in the window say nothing.
    pub least: u64,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { window: Duration::from_secs(30), threshold: 0.95, most: 0.8, retries: 0.1, least: 50 }
    }
}

/// The recent requests to one upstream.
#[derive(Debug)]
pub struct Throttle {
    admission: Admission,
    /// The window in pieces, by which it moves on.
    slots: [Slot; SLOTS],
    /// Which piece is the newest, and when it began.
    newest: Option<(usize, Instant)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u64,
    accepted: u64,
    retries: u64,
}

const SLOTS: usize = 10;

impl Throttle {
    /// Nothing was sent yet.
    pub fn new(admission: Admission) -> Throttle {
        Throttle { admission, slots: [Slot::default(); SLOTS], newest: None }
    }

    /// Whether a request may be sent. `random` is drawn from 0 to 1 for each request.
    pub fn admits(&mut self, now: Instant, random: f64) -> bool {
        random >= self.refused_part(now)
    }

    /// The part of requests that is refused now.
    pub fn refused_part(&mut self, now: Instant) -> f64 {
        let sums = self.sums(now);
        if sums.requests < self.admission.least {
            return 0.0;
        }
        let (requests, accepted) = (sums.requests as f64, sums.accepted as f64);
        let part = (requests - accepted / self.admission.threshold) / (requests + 1.0);
        part.clamp(0.0, self.admission.most)
    }

    /// A request was sent, and accepted or refused for overload. Any other error is an answer.
    pub fn record(&mut self, now: Instant, accepted: bool) {
        let slot = self.slot(now);
        slot.requests += 1;
        slot.accepted += u64::from(accepted);
    }

    /// Whether one more retry is in the budget; if so, it is counted.
    pub fn retries(&mut self, now: Instant) -> bool {
        let sums = self.sums(now);
        // A quiet upstream still deserves the retry of its only request.
        let budget = ((sums.requests as f64 * self.admission.retries) as u64).max(3);
        let within = sums.retries < budget;
        self.slot(now).retries += u64::from(within);
        within
    }

    fn sums(&mut self, now: Instant) -> Slot {
        self.slot(now);
        self.slots.iter().fold(Slot::default(), |sum, slot| Slot {
            requests: sum.requests + slot.requests,
            accepted: sum.accepted + slot.accepted,
            retries: sum.retries + slot.retries,
        })
    }

    /// The piece of the window that `now` belongs to; those that it passed on the way are empty.
    fn slot(&mut self, now: Instant) -> &mut Slot {
        let width = self.admission.window / SLOTS as u32;
        let (mut at, mut began) = *self.newest.get_or_insert((0, now));
        if now.saturating_duration_since(began) >= width * SLOTS as u32 {
            (self.slots, began) = ([Slot::default(); SLOTS], now);
        }
        while now.saturating_duration_since(began) >= width {
            (at, began) = ((at + 1) % SLOTS, began + width);
            self.slots[at] = Slot::default();
        }
        self.newest = Some((at, began));
        &mut self.slots[at]
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::testing::start;

    /// Offers 1,000 requests a second to an upstream that accepts `capacity` of them; returns what it was sent in the
    /// last second.
    fn offer(throttle: &mut Throttle, random: &mut StdRng, from: Instant, capacity: u32, seconds: u32) -> u32 {
        let mut sent = 0;
        for second in 0..seconds {
            sent = 0;
            for step in 0..1_000 {
                let now = from + Duration::from_secs(1) * second + Duration::from_millis(1) * step;
                if throttle.admits(now, random.random()) {
                    sent += 1;
                    throttle.record(now, sent <= capacity);
                }
            }
        }
        sent
    }

    #[test]
    fn a_well_upstream_is_sent_everything_and_a_sick_one_little() {
        let (begin, mut random) = (start(), StdRng::seed_from_u64(7));
        let mut throttle = Throttle::new(Admission::default());
        assert_eq!(offer(&mut throttle, &mut random, begin, 1_000, 40), 1_000);
        // The refused share of 80 % bounds what is kept away.
        let sick = offer(&mut throttle, &mut random, begin + Duration::from_secs(40), 0, 60);
        assert!((150..=250).contains(&sick), "{sick}");
        let recovered = offer(&mut throttle, &mut random, begin + Duration::from_secs(100), 1_000, 60);
        assert!(recovered >= 990, "{recovered}");
    }

    #[test]
    fn retries_are_a_tenth_of_the_requests() {
        let (begin, mut throttle) = (start(), Throttle::new(Admission::default()));
        (0..1_000).for_each(|_| throttle.record(begin, true));
        assert_eq!((0..1_000).filter(|_| throttle.retries(begin)).count(), 100);
        let later = begin + Duration::from_secs(31);
        assert_eq!((0..1_000).filter(|_| throttle.retries(later)).count(), 3);
    }
}
