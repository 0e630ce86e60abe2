//! One limit for several gateways: how much of it each may use until the next round.
//!
//! Each gateway tells its demand through the upstream and reads those of the others; each computes the same shares from
//! the same numbers. A gateway without demand keeps a small share, so that a first request need not wait for a round.

/// The part of an equal share that a gateway has without asking, in hundredths.
const IDLE_PART: u64 = 10;

/// Divides `total` among gateways by their demands. The shares sum up to exactly `total`: demands that fit are met,
/// others get what is fair, and what nobody asks for is divided equally.
pub fn divide(total: u64, demands: &[u64]) -> Vec<u64> {
    if demands.is_empty() {
        return Vec::new();
    }
    let count = demands.len() as u64;
    let idle =
        u64::try_from(u128::from(total / count) * u128::from(IDLE_PART) / 100).expect("invariant: a part is less");
    let mut shares = vec![idle; demands.len()];
    let mut left = total - idle * count;
    let missing = |shares: &[u64], at: usize| demands[at].saturating_sub(shares[at]);
    // The least demand first: whoever wants less than an equal part leaves the rest to the others.
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|at| (demands[*at], *at));
    for (nth, at) in order.iter().enumerate() {
        let given = missing(&shares, *at).min(left / (count - nth as u64));
        shares[*at] += given;
        left -= given;
    }
    // What is not asked for, and what does not divide, first to those who ask most.
    let (each, mut odd) = (left / count, left % count);
    for at in order.into_iter().rev() {
        let extra = u64::from(odd > 0);
        shares[at] += each + extra;
        odd -= extra;
    }
    shares
}

/// What a gateway may use while it cannot reach the upstream, or its share has run out: an equal part. `gateways` is how
/// many there were when it was last known.
pub fn alone(total: u64, gateways: u64) -> u64 {
    total / gateways.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_sum_up_and_are_fair(total in 0u64..1_000_000, demands in prop::collection::vec(0u64..400_000, 1..9)) {
            let shares = divide(total, &demands);
            prop_assert_eq!(shares.iter().sum::<u64>(), total);
            let equal = total / demands.len() as u64;
            for (share, demand) in shares.iter().zip(&demands) {
                // Nobody gets less than it asks for or nearly an equal part, whichever is less.
                prop_assert!(*share >= (*demand).min(equal * 9 / 10), "{share} of {demand}: {shares:?}");
                prop_assert!(*share >= equal / 10);
            }
            for (a, b) in [(0, 1), (1, 0)] {
                if demands.len() > 1 && demands[a] <= demands[b] {
                    prop_assert!(shares[a] <= shares[b] + 1, "{demands:?} {shares:?}");
                }
            }
        }

        #[test]
        fn demands_that_fit_are_met(demands in prop::collection::vec(100u64..400_000, 1..9)) {
            let total = demands.iter().sum::<u64>();
            let total = total + total / 10;
            for (share, demand) in divide(total, &demands).iter().zip(&demands) {
                prop_assert!(share >= demand);
            }
        }
    }

    #[test]
    fn the_busy_get_what_the_idle_do_not_ask_for() {
        assert_eq!(divide(200, &[1_000, 0, 0, 0]), [185, 5, 5, 5]);
        assert_eq!(divide(200, &[1_000, 1_000, 0, 0]), [95, 95, 5, 5]);
        assert_eq!(divide(200, &[0, 0, 0, 0]), [50, 50, 50, 50]);
        assert_eq!(divide(200, &[]), Vec::<u64>::new());
        assert_eq!((alone(200, 4), alone(200, 0)), (50, 200));
    }
}
