//! What was measured, as lines of a table.

use std::time::Duration;

use anyhow::Context as _;
use forebay_loadtest::work::Counted;

use crate::targets::Target;

/// One measured run.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Operations a second.
    rate: f64,
    /// CPU time of the target for each operation, in microseconds.
    own_us: f64,
    /// The same of what the target forwards to.
    upstream_us: f64,
    p50_us: f64,
}

impl Figures {
    /// What was counted, and the CPU time that it took the target and what it forwards to.
    pub fn of(counted: &Counted, own: Duration, upstream: Duration) -> Figures {
        let operations = counted.operations as f64;
        let each = |total: Duration| total.as_secs_f64() * 1e6 / operations;
        let p50 = counted.latencies.get(counted.latencies.len() / 2).copied().unwrap_or_default();
        Figures {
            rate: operations / counted.elapsed.as_secs_f64(),
            own_us: each(own),
            upstream_us: each(upstream),
            p50_us: p50.as_secs_f64() * 1e6,
        }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn cpu_us(&self) -> f64 {
        self.own_us + self.upstream_us
    }
}

/// Runs some work against a target.
pub async fn measured(target: &Target, run: impl Future<Output = anyhow::Result<Counted>>) -> anyhow::Result<Figures> {
    let before = target.cpu()?;
    let counted = run.await.with_context(|| target.name)?;
    let after = target.cpu()?;
    Ok(Figures::of(&counted, after.0 - before.0, after.1 - before.1))
}

/// Prints a line for each target that ran: medians of its rounds, and the medians of what each round was as a multiple
/// of the base's run in that round. CPU as a multiple includes that of the upstream.
pub fn print(work: &str, targets: &[Target], rounds: &[Vec<Option<Figures>>]) {
    for (index, target) in targets.iter().enumerate() {
        let all = |of: fn(&Figures) -> f64| median(rounds.iter().filter_map(|round| round[index].as_ref().map(of)));
        let (Some(rate), Some(own)) = (all(|f| f.rate), all(|f| f.own_us)) else { continue };
        print!("{work:<14} {:<11} {rate:>11.0} /s {own:>9.2} us CPU", target.name);
        if let Some(upstream) = all(|f| f.upstream_us).filter(|upstream| *upstream > 0.0) {
            print!(" + {upstream:.2} upstream");
        }
        if let Some(p50) = all(|f| f.p50_us).filter(|p50| *p50 > 0.0) {
            print!(" {p50:>8.0} us p50");
        }
        for base_name in target.bases {
            let Some(base) = targets.iter().position(|target| target.name == *base_name) else { continue };
            let multiple = |of: fn(&Figures) -> f64| {
                median(rounds.iter().filter_map(|round| Some(of(round[index].as_ref()?) / of(round[base].as_ref()?))))
            };
            if let (Some(rate), Some(cpu)) = (multiple(|f| f.rate), multiple(Figures::cpu_us)) {
                print!("   x {base_name}: rate {rate:.2} cpu {cpu:.3}");
            }
        }
        println!();
    }
}

/// The one in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
