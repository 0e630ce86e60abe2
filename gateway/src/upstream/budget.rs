//! Bounds retries to a share of the calls, so that a failing upstream is not asked twice as much.

use std::sync::atomic::{AtomicU32, Ordering};

/// What one call earns, and what one retry costs: one retry for ten calls.
const EARNED: u32 = 1;
const COST: u32 = 10;
/// Most that is saved up: a short outage of one endpoint may cost this many retries at once.
const SAVED_MAX: u32 = 100 * COST;
/// What a fresh gateway has, since the first calls must survive a lost endpoint as well.
const INITIAL: u32 = 10 * COST;

/// Retries that may still be made.
#[derive(Debug)]
pub(super) struct RetryBudget {
    saved: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { saved: AtomicU32::new(INITIAL) }
    }
}

impl RetryBudget {
    /// A call that may be retried was made.
    pub(super) fn earn(&self) {
        // The bound is approximate under races, which is all it needs to be.
        if self.saved.load(Ordering::Relaxed) < SAVED_MAX {
            self.saved.fetch_add(EARNED, Ordering::Relaxed);
        }
    }

    /// Pays for one retry, if that is still possible.
    pub(super) fn spend(&self) -> bool {
        let pay = |saved: u32| saved.checked_sub(COST);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_ten_may_be_retried() {
        let budget = RetryBudget::default();
        while budget.spend() {}
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            retries += u32::from(budget.spend());
        }
        assert_eq!(retries, 100);
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let budget = RetryBudget::default();
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 100);
    }
}
