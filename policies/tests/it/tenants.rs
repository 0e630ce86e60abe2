//! One client that takes what it can get, among others that do not.

use std::time::Duration;

use forebay_policies::{Expected, Policy, prefix};

use crate::model::{Load, Result, gets, run};

const VICTIMS: usize = 20;

fn victims() -> Vec<Load> {
    // A quarter of what the upstream bears, all together.
    (0..VICTIMS).map(|victim| gets(&format!("v{victim}"), 12.5, 0, 30)).collect()
}

/// What is looked at: when the abuser, who comes at 5 s, has been there for a while.
fn span() -> (Duration, Duration) {
    (Duration::from_secs(8), Duration::from_secs(30))
}

fn p99(results: &[Result]) -> Duration {
    let mut all = Result::default();
    results.iter().for_each(|result| all.answered.extend(&result.answered));
    all.latency(0.99, span().0, span().1)
}

/// Jain's index of what everybody got of what it asked for: 1 when all got the same part.
fn fairness(results: &[Result]) -> f64 {
    let parts: Vec<f64> = results.iter().map(|result| result.answered.len() as f64 / result.sent as f64).collect();
    let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), part| (sum + part, squares + part * part));
    sum * sum / (parts.len() as f64 * squares)
}

/// Runs the victims beside an abuser, and says what came of both, victims first. Their p99 stays within 1.2 times of
/// what it is when they are alone, and they get equal parts.
fn unharmed_beside(abuser: Load, seed: u64) -> Vec<Result> {
    let policy = Policy::builtin();
    let alone = run(&policy, &victims(), seed);
    let mut loads = victims();
    loads.push(abuser);
    let beside = run(&policy, &loads, seed);
    let (usual, now) = (p99(&alone), p99(&beside[..VICTIMS]));
    let fairness = fairness(&beside[..VICTIMS]);
    println!(
        "p99 alone {usual:?}, beside {now:?}; fairness {fairness:.4}; abuser {} of {}",
        beside[VICTIMS].answered.len(),
        beside[VICTIMS].sent
    );
    assert!(now <= usual * 6 / 5, "p99 {now:?}, alone {usual:?}");
    assert!(fairness >= 0.95, "{fairness}");
    beside
}

#[test]
fn victims_of_a_flood_of_gets_do_not_notice_it() {
    for seed in [2, 12, 22] {
        let beside = unharmed_beside(gets("abuser", 1_250.0 * 4.0, 5, 30), seed);
        let refused: u64 = beside[..VICTIMS].iter().map(|victim| victim.refused).sum();
        assert!(refused < 20, "{refused} requests of victims were refused");
    }
}

#[test]
fn victims_of_a_flood_of_lists_do_not_notice_it() {
    let lists = Load {
        keys: vec![prefix::range(b"/registry/jobs/")],
        expected: Expected { objects: 50_000, object_bytes: 1_100 },
        service: Duration::from_millis(300),
        ..gets("abuser", 1_250.0, 5, 30)
    };
    let beside = unharmed_beside(lists, 3);
    assert!(beside[VICTIMS].answered.len() > 10, "the abuser gets something too");
}
