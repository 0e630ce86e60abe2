//! What both halves came to, side by side.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::observe::bytes;

/// One half.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) writes: usize,
    pub(super) failed: usize,
    pub(super) lease_kept: bool,
    /// Of all writes, those that failed too; sorted.
    pub(super) latencies: Vec<Duration>,
    pub(super) lists_answered: usize,
    pub(super) lists_refused: usize,
    pub(super) seconds: f64,
    pub(super) memory_peak: u64,
}

impl Outcome {
    fn quantile(&self, share: f64) -> Duration {
        let at = (self.latencies.len() as f64 * share).ceil() as usize;
        self.latencies
            .get(at.saturating_sub(1).min(self.latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    fn json(&self) -> Value {
        let milliseconds = |share| self.quantile(share).as_secs_f64() * 1e3;
        json!({
            "writes": self.writes,
            "failedWrites": self.failed,
            "leaseKept": self.lease_kept,
            "writeP50Ms": milliseconds(0.5),
            "writeP99Ms": milliseconds(0.99),
            "writeMaxMs": milliseconds(1.0),
            "listsAnswered": self.lists_answered,
            "listsRefused": self.lists_refused,
            "seconds": self.seconds,
            "memoryPeakBytes": self.memory_peak,
        })
    }
}

/// Both halves.
pub(super) struct Verdict {
    /// At a member.
    pub(super) bare: Outcome,
    /// Through a gateway with a policy.
    pub(super) guarded: Outcome,
}

impl Verdict {
    pub(super) fn json(&self) -> Value {
        json!({"bare": self.bare.json(), "guarded": self.guarded.json(), "verdict": self.sentence()})
    }

    /// How many times shorter this share of the writes got.
    fn gain(&self, share: f64) -> f64 {
        let took = |outcome: &Outcome| outcome.quantile(share).as_secs_f64();
        took(&self.bare) / took(&self.guarded).max(1e-6)
    }

    fn sentence(&self) -> String {
        match (self.gain(0.99), self.gain(0.5)) {
            (gain, _) if gain >= 1.5 => {
                format!("with the policy, 99 % of the API server's writes took {gain:.1} times less long")
            }
            (rarest, gain) if rarest > 0.8 && gain >= 1.5 => {
                format!("with the policy, half of the API server's writes took {gain:.1} times less long")
            }
            (gain, _) if gain > 0.8 => {
                "the storm was too small for this machine to be felt; try --objects or --listers".to_owned()
            }
            _ => "this machine is too small or too busy for the storm, the cluster and the gateway together".to_owned(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bare, guarded) = (&self.bare, &self.guarded);
        let milliseconds = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
        let rate = |count: usize, outcome: &Outcome| format!("{:.1}/s", count as f64 / outcome.seconds.max(0.001));
        let kept = |outcome: &Outcome| if outcome.lease_kept { "kept" } else { "LOST" }.to_owned();
        writeln!(f, "\n{:<34}{:>16}{:>16}", "", "at a member", "with a policy")?;
        let rows = [
            ("API server: writes", rate(bare.writes, bare), rate(guarded.writes, guarded)),
            ("  that failed", bare.failed.to_string(), guarded.failed.to_string()),
            ("  half of them within", milliseconds(bare.quantile(0.5)), milliseconds(guarded.quantile(0.5))),
            ("  99 % of them within", milliseconds(bare.quantile(0.99)), milliseconds(guarded.quantile(0.99))),
            ("  slowest", milliseconds(bare.quantile(1.0)), milliseconds(guarded.quantile(1.0))),
            ("  its lease", kept(bare), kept(guarded)),
            ("Storm: lists answered", rate(bare.lists_answered, bare), rate(guarded.lists_answered, guarded)),
            ("  refused, after a wait", bare.lists_refused.to_string(), guarded.lists_refused.to_string()),
            ("Most memory, all processes", bytes(bare.memory_peak as f64), bytes(guarded.memory_peak as f64)),
        ];
        for (name, bare, guarded) in rows {
            writeln!(f, "{name:<34}{bare:>16}{guarded:>16}")?;
        }
        writeln!(f, "\n{}", self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(milliseconds: u64) -> Outcome {
        let latencies = (1..=100).map(|share| Duration::from_millis(milliseconds * share / 100)).collect();
        Outcome { writes: 100, latencies, seconds: 2.0, lease_kept: true, ..Outcome::default() }
    }

    #[test]
    fn the_table_tells_both_halves_and_the_sentence_what_it_means() {
        let verdict = Verdict { bare: outcome(1000), guarded: outcome(10) };
        let page = verdict.to_string();
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("99 % of them within 990.0 ms 9.0 ms"), "{page}");
        assert!(page.contains("110.0 times less long"), "{page}");
        assert_eq!(verdict.json()["guarded"]["writeP99Ms"], 9.0);
        let calm = Verdict { bare: outcome(10), guarded: outcome(10) };
        assert!(calm.sentence().contains("too small for this machine to be felt"));
        // The slowest are as slow as before, and most are not.
        let mut mostly = outcome(1000);
        mostly.latencies = [vec![Duration::from_millis(50); 90], vec![Duration::from_secs(1); 10]].concat();
        let mostly = Verdict { bare: outcome(1000), guarded: mostly };
        assert!(mostly.sentence().contains("half of the API server's writes took 10.0 times"), "{mostly}");
        let busy = Verdict { bare: outcome(10), guarded: outcome(100) };
        assert!(busy.sentence().contains("too busy"));
        assert_eq!(Outcome::default().quantile(0.99), Duration::ZERO);
    }
}
