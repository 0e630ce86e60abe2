//! Runs cases on the reference and on a target and reports where they differ.

use std::fmt::Write as _;

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::{
    allowed::{self, Allowed},
    cases::{self, Case},
    diff::{Difference, differences},
    outcome::Step,
    session::Session,
    target::{Kind, Target},
};

/// How many cases run at a time: most of a case is waiting for two processes to start.
const WIDTH: usize = 6;

/// What became of one case.
#[derive(Debug)]
pub struct Verdict {
    /// The case.
    pub case: &'static str,
    /// Every step with a difference that is not allowed.
    pub failures: Vec<String>,
    /// The allowances that were needed.
    pub allowed: Vec<&'static Allowed>,
}

/// Runs every case whose name contains `$CASE` (or all of them) and returns a report of the failures; empty when
/// the target is like the reference.
pub async fn run_all(kind: Kind) -> anyhow::Result<String> {
    let filter = std::env::var("CASE").unwrap_or_default();
    let chosen: Vec<&Case> = cases::all().into_iter().filter(|case| case.name.contains(&filter)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no case has {filter:?} in its name");
    let verdicts: Vec<anyhow::Result<Verdict>> =
        stream::iter(chosen).map(|case| run(kind, case)).buffer_unordered(WIDTH).collect().await;
    let mut report = String::new();
    let (mut failed, mut steps) = (0, 0);
    for verdict in &verdicts {
        match verdict {
            Ok(verdict) if verdict.failures.is_empty() => {}
            Ok(verdict) => {
                failed += 1;
                steps += verdict.failures.len();
                writeln!(report, "case {} ({}):", verdict.case, cases::about(verdict.case))?;
                verdict.failures.iter().try_for_each(|failure| writeln!(report, "  {failure}"))?;
            }
            Err(error) => {
                failed += 1;
                writeln!(report, "{error:#}")?;
            }
        }
    }
    if failed > 0 {
        let of = verdicts.len();
        writeln!(
            report,
            "{failed} of {of} cases ({steps} steps) are not as on {} when run on {kind}",
            Kind::REFERENCE
        )?;
        writeln!(report, "one alone: CASE=<name> cargo test -p forebay-conformance cases")?;
    }
    Ok(report)
}

/// Runs one case on both and compares.
pub async fn run(kind: Kind, case: &'static Case) -> anyhow::Result<Verdict> {
    let (reference, target) = tokio::join!(record(Kind::REFERENCE, case), record(kind, case));
    let reference = reference.with_context(|| format!("case {} on {}", case.name, Kind::REFERENCE))?;
    // A target that cannot run the case at all differs in a step of its own.
    let failed = |error: anyhow::Error| {
        vec![Step { call: "the case itself".to_owned(), outcome: json!({ "failed": format!("{error:#}") }) }]
    };
    let target = target.unwrap_or_else(failed);
    let (failures, allowed) = judge(kind, case.name, &reference, &target);
    Ok(Verdict { case: case.name, failures, allowed })
}

async fn record(kind: Kind, case: &Case) -> anyhow::Result<Vec<Step>> {
    let target = Target::start(kind, case.args).await?;
    let mut session = Session::open(&target).await?;
    tokio::time::timeout(cases::LIMIT, (case.run)(&mut session)).await.context("the case does not end")??;
    Ok(session.steps)
}

/// The differences of two records that are not allowed, as text, and the allowances used.
pub fn judge(kind: Kind, case: &str, reference: &[Step], target: &[Step]) -> (Vec<String>, Vec<&'static Allowed>) {
    let (mut failures, mut used) = (Vec::new(), Vec::new());
    for index in 0..reference.len().max(target.len()) {
        let (ours, theirs) = (target.get(index), reference.get(index));
        let tree = |step: Option<&Step>| step.map_or(json!("no such step"), |step| step.outcome.clone());
        let call = theirs.or(ours).map_or("", |step| &step.call);
        for Difference { path, reference, target } in differences(&tree(theirs), &tree(ours)) {
            let difference = Difference { path: format!("{index}.{path}"), reference, target };
            match allowed::reason(kind, case, &difference) {
                Some(allowed) => used.push(allowed),
                None => failures.push(format!("{call}\n    {difference}")),
            }
        }
    }
    (failures, used)
}

/// A handle on both sides of a comparison, for tests that drive them in lock-step.
#[derive(Debug)]
pub struct Pair {
    /// The reference and its client.
    pub reference: (Target, Session),
    /// The target and its client.
    pub target: (Target, Session),
}

impl Pair {
    /// Starts both.
    pub async fn start(kind: Kind, args: &[&str]) -> anyhow::Result<Pair> {
        let open = async |kind| {
            let target = Target::start(kind, args).await?;
            let session = Session::open(&target).await?;
            anyhow::Ok((target, session))
        };
        let (reference, target) = tokio::join!(open(Kind::REFERENCE), open(kind));
        Ok(Pair { reference: reference?, target: target? })
    }
}
