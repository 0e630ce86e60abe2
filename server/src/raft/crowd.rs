//! When a batch is worth waiting for.
//!
//! A batch costs a sync, and for each connection that it answers a wake-up and a write on both sides. When many write
//! at once, few large batches therefore serve all of them sooner than many small ones; the batches that form by
//! themselves while the disk is busy are smaller than is best where the disk is fast. Databases know this as a commit
//! delay. Here it depends on how many are seen to write: whoever writes alone, or among a few, is never kept waiting.

use std::time::{Duration, Instant};

/// Writers at once below which waiting gains nothing.
const CROWD_MIN: usize = 32;
/// How long a batch may be waited for. It ends a wait that was based on writers who have gone.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// Those who write at the same time, as far as their batches show.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    size: usize,
    last_batch: usize,
    /// When the first of the next batch was seen.
    since: Option<Instant>,
}

impl Crowd {
    /// How many more proposals to wait for, and until when, now that `waiting` are there; `None` if these are enough.
    ///
    /// Half of the crowd is enough: while its batch is on the way to disk and back, the other half gathers.
    pub(super) fn worth_waiting(&mut self, waiting: usize, now: Instant) -> Option<(usize, Instant)> {
        if waiting == 0 {
            return None;
        }
        let until = *self.since.get_or_insert(now) + WAIT_MAX;
        let seen = self.last_batch + waiting;
        let enough = self.size.max(seen) / 2;
        (enough >= CROWD_MIN / 2 && waiting < enough && now < until).then(|| (enough - waiting, until))
    }

    /// A batch leaves, if there is anything in it.
    pub(super) fn leaves(&mut self, batch: usize) {
        if batch == 0 {
            return;
        }
        let seen = self.last_batch + batch;
        // Those who came are believed at once, those who went only after a few batches.
        self.size = if seen >= self.size { seen } else { self.size - (self.size - seen).div_ceil(8) };
        (self.last_batch, self.since) = (batch, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the same number write in a closed loop; returns the sizes of the batches.
    fn batches(crowd: &mut Crowd, writers: usize, first: usize) -> Vec<usize> {
        let now = Instant::now();
        let mut waiting = first;
        let mut sizes = Vec::new();
        for _ in 0..64 {
            // Everybody who is not waiting comes, one after the other, for as long as that is waited for.
            while crowd.worth_waiting(waiting, now).is_some() && waiting < writers {
                waiting += 1;
            }
            crowd.leaves(waiting);
            sizes.push(waiting);
            // A few come while the batch is on its way.
            waiting = (writers - waiting).clamp(1, 8);
        }
        sizes
    }

    #[test]
    fn half_of_a_crowd_makes_a_batch() {
        let sizes = batches(&mut Crowd::default(), 100, 60);
        assert!(sizes[32..].iter().all(|size| (20..=60).contains(size)), "{sizes:?}");
    }

    #[test]
    fn a_few_are_never_kept_waiting() {
        let mut crowd = Crowd::default();
        let now = Instant::now();
        for waiting in [1, 1, 2, 7, 15, 1, 15, 16, 3] {
            assert_eq!(crowd.worth_waiting(waiting, now), None);
            crowd.leaves(waiting);
        }
    }

    #[test]
    fn a_crowd_that_has_gone_is_forgotten_and_delays_nobody_for_long() {
        let mut crowd = Crowd::default();
        crowd.leaves(1000);
        let now = Instant::now();
        let (missing, until) = crowd.worth_waiting(1, now).expect("a crowd was there");
        assert!(missing > 400 && until == now + WAIT_MAX);
        assert_eq!(crowd.worth_waiting(1, until), None, "the wait has an end");
        let waits = (0..100).filter(|_| {
            let waits = crowd.worth_waiting(1, now).is_some();
            crowd.leaves(1);
            waits
        });
        assert!(waits.count() < 40);
        assert_eq!(crowd.worth_waiting(1, now), None);
    }
}
