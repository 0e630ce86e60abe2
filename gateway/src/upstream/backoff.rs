//! How long to wait between attempts to connect.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(50);
/// Short enough that clients are served again within a second of when a member is back.
const LONGEST: Duration = Duration::from_millis(500);
const FACTOR: f64 = 1.6;

/// Growing pauses with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: i32,
}

impl Backoff {
    /// The pause before the next attempt, ±20 % so that gateways do not knock in step.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let pause = FIRST.mul_f64(FACTOR.powi(self.failures.min(16))).min(LONGEST);
        self.failures += 1;
        pause.mul_f64(rng.random_range(0.8..1.2))
    }

    /// A connection worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..30).map(|_| backoff.next(&mut rng)).collect();
        assert!(pauses[0] <= FIRST.mul_f64(1.2), "{:?}", pauses[0]);
        assert!(pauses[4] > pauses[0] * 3, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST.mul_f64(1.2)), "{pauses:?}");
        assert!(pauses[29] >= LONGEST.mul_f64(0.8), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next(&mut rng) <= FIRST.mul_f64(1.2));
    }
}
