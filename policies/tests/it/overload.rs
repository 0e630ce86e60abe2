//! More than the upstream bears, from clients that do not wait for answers.

use std::time::Duration;

use forebay_policies::Policy;

use crate::model::{CAPACITY, gets, run};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the upstream serves in a second, in gets of 20 ms.
const PEAK: f64 = CAPACITY / 0.020;

/// Twenty clients with this rate together: from the beginning to 20 s at nine tenths of the peak, then ten times the
/// peak until 40 s, then at nine tenths again.
#[test]
fn ten_times_the_load_leaves_the_goodput_and_the_latency_of_what_is_admitted() {
    let policy = Policy::builtin();
    let mut loads = Vec::new();
    for client in 0..20 {
        let name = format!("c{client}");
        loads.push(gets(&name, PEAK * 0.9 / 20.0, 0, 20));
        loads.push(gets(&name, PEAK * 10.0 / 20.0, 20, 40));
        loads.push(gets(&name, PEAK * 0.9 / 20.0, 40, 60));
    }
    let results = run(&policy, &loads, 1);
    let goodput = |phase: usize, from, to| -> f64 {
        results.iter().skip(phase).step_by(3).map(|result| result.goodput(seconds(from), seconds(to))).sum()
    };
    let p99 = |phase: usize, from, to| -> Duration {
        let all = results.iter().skip(phase).step_by(3).cloned();
        let merged = all.reduce(|mut all, result| {
            all.answered.extend(result.answered);
            all
        });
        merged.expect("some").latency(0.99, seconds(from), seconds(to))
    };
    let (before, during, after) = (goodput(0, 10, 20), goodput(1, 21, 40), goodput(2, 45, 60));
    println!("goodput before {before:.0}/s, during {during:.0}/s, after {after:.0}/s of {PEAK:.0}/s");
    let (usual, overloaded, again) = (p99(0, 10, 20), p99(1, 21, 40), p99(2, 45, 60));
    println!("p99 before {usual:?}, during {overloaded:?}, after {again:?}");
    assert!(during >= PEAK * 0.9, "goodput {during} of {PEAK}");
    assert!(overloaded <= usual * 2, "p99 {overloaded:?}, usually {usual:?}");
    assert!(after >= before * 0.97 && again <= usual * 5 / 4, "back to normal 5 s after");
}
