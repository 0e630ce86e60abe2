//! Runs cases on the reference and on a target and reports where they differ.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    allowed,
    cases::{self, Case},
    diff::{Difference, differences},
    outcome::Step,
    session::Session,
    target::{Kind, Target},
};

/// How many cases run at a time: most of a case is waiting for two processes to start.
const WIDTH: usize = 6;

/// How many differences of one case are printed, unless `$CASE` chooses it.
const PRINTED: usize = 6;

/// What became of all cases.
#[derive(Debug, Default)]
pub struct Report {
    /// The failures, for people; empty when the target is like the reference.
    pub text: String,
    /// The texts of every error that the reference gave.
    pub errors: BTreeSet<String>,
}

/// What became of one case.
#[derive(Debug)]
struct Verdict {
    case: &'static Case,
    /// Every difference that is not allowed.
    failures: Vec<String>,
    errors: BTreeSet<String>,
}

/// Runs every case whose name contains `$CASE`, or all of them.
pub async fn run_all(kind: Kind) -> anyhow::Result<Report> {
    let filter = std::env::var("CASE").unwrap_or_default();
    let printed = if filter.is_empty() { PRINTED } else { usize::MAX };
    let chosen: Vec<&Case> = cases::all().into_iter().filter(|case| case.name.contains(&filter)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no case has {filter:?} in its name");
    let all = chosen.len();
    let verdicts: Vec<anyhow::Result<Verdict>> =
        stream::iter(chosen).map(|case| run(kind, case)).buffer_unordered(WIDTH).collect().await;
    let mut report = Report::default();
    let mut failed = 0;
    for verdict in verdicts {
        let Verdict { case, failures, errors } = verdict?;
        report.errors.extend(errors);
        if failures.is_empty() {
            continue;
        }
        failed += 1;
        writeln!(report.text, "case {} ({}):", case.name, case.about)?;
        for failure in failures.iter().take(printed) {
            writeln!(report.text, "  {failure}")?;
        }
        if failures.len() > printed {
            writeln!(report.text, "  and {} more; all with CASE={}", failures.len() - printed, case.name)?;
        }
    }
    if failed > 0 {
        writeln!(report.text, "{failed} of {all} cases are not on {kind} as on {}", Kind::REFERENCE)?;
        writeln!(report.text, "one alone: CASE=<name> cargo test -p forebay-conformance cases")?;
    }
    Ok(report)
}

/// Runs one case on both and compares. Fails only when the reference does not run.
async fn run(kind: Kind, case: &'static Case) -> anyhow::Result<Verdict> {
    let (reference, target) = tokio::join!(record(Kind::REFERENCE, case), record(kind, case));
    let reference = reference.with_context(|| format!("case {} on {}", case.name, Kind::REFERENCE))?;
    let mut errors = BTreeSet::new();
    reference.iter().for_each(|step| error_texts(&step.outcome, &mut errors));
    let failures = match target {
        Ok(target) => judge(kind, case.name, &reference, &target),
        // Not to run at all is a difference like another, and may be allowed like another.
        Err(error) => {
            let target = Some(json!(format!("{error:#}")));
            let difference = Difference { path: "run".to_owned(), reference: None, target };
            let allowed = allowed::reason(kind, case.name, &difference);
            if allowed.is_some() { Vec::new() } else { vec![format!("does not run: {error:#}")] }
        }
    };
    Ok(Verdict { case, failures, errors })
}

async fn record(kind: Kind, case: &Case) -> anyhow::Result<Vec<Step>> {
    let target = Target::start(kind, case.args).await?;
    let mut session = Session::open(&target).await?;
    tokio::time::timeout(cases::LIMIT, (case.run)(&mut session)).await.context("the case does not end")??;
    Ok(session.steps)
}

/// The differences of two records that are not allowed, as text.
pub fn judge(kind: Kind, case: &str, reference: &[Step], target: &[Step]) -> Vec<String> {
    let mut failures = Vec::new();
    for index in 0..reference.len().max(target.len()) {
        let (ours, theirs) = (target.get(index), reference.get(index));
        let tree = |step: Option<&Step>| step.map_or(json!("no such step"), |step| step.outcome.clone());
        let call = theirs.or(ours).map_or("", |step| &step.call);
        for Difference { path, reference, target } in differences(&tree(theirs), &tree(ours)) {
            let difference = Difference { path: format!("{index}.{path}"), reference, target };
            if allowed::reason(kind, case, &difference).is_none() {
                failures.push(format!("{call}\n    {difference}"));
            }
        }
    }
    failures
}

/// The texts of errors, wherever they stand in an outcome.
fn error_texts(outcome: &Value, found: &mut BTreeSet<String>) {
    match outcome {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "message" || name == "cancel_reason" => {
                        found.insert(text.clone());
                    }
                    value => error_texts(value, found),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| error_texts(element, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Both sides of a comparison, for tests that drive them in lock-step.
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
