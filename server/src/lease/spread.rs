//! Leases that would all end at once after a change of leaders end one after the other: each costs an entry of the log.

use std::time::Duration;

/// Revokes that a leader carries out in a second.
const REVOKES_PER_SECOND: usize = 1000;
/// Fewer than that, so that leases which end in between are not late.
const ENDS_PER_SECOND: usize = REVOKES_PER_SECOND * 3 / 4;

/// How much later each lease is to end, given how long each still runs, ascending. etcd's rule.
pub(super) fn delays(ends: impl ExactSizeIterator<Item = Duration>) -> Vec<Duration> {
    if ends.len() < REVOKES_PER_SECOND {
        return vec![Duration::ZERO; ends.len()];
    }
    let (mut base, mut next, mut count) = (Duration::ZERO, None, 0);
    let delay = |left: Duration| {
        if next.is_none_or(|next| left > next) {
            (base, next, count) = (left, Some(left + Duration::from_secs(1)), 1);
            return Duration::ZERO;
        }
        count += 1;
        if count <= ENDS_PER_SECOND {
            return Duration::ZERO;
        }
        // A lease that ends some way into the window is late by that much less.
        let late = Duration::from_secs(1).mul_f64(count as f64 / ENDS_PER_SECOND as f64);
        let delay = late.saturating_sub(left - base);
        next = Some(base + delay);
        delay
    };
    ends.map(delay).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_leases_are_not_delayed() {
        assert!(delays(vec![Duration::from_secs(10); 999].into_iter()).iter().all(Duration::is_zero));
    }

    #[test]
    fn no_second_ends_more_than_can_be_revoked_in_it() {
        let ends: Vec<_> = (0..10_000).map(|n| Duration::from_secs(10 + n / 5000)).collect();
        let mut by_second = [0; 60];
        for (end, delay) in ends.iter().zip(delays(ends.iter().copied())) {
            by_second[(*end + delay).as_secs() as usize] += 1;
        }
        assert!(by_second.iter().all(|count| *count <= 2 * REVOKES_PER_SECOND), "{by_second:?}");
    }
}
