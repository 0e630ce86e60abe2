//! Load of a known shape, and how long it really took.
//!
//! A [`Plan`](run::Plan) runs against one target: its clients take requests from a [`pace`] that follows a
//! [`schedule`], whatever the answers do, and a [`meter`] counts from when each was meant to be sent. [`compare`]
//! lets several targets take turns in one run, because figures of two runs of one machine do not belong together.

pub mod assertion;
pub mod fleet;
mod k8s;
pub mod meter;
pub mod misuse;
pub mod pace;
mod raw;
pub mod replay;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod view;
mod watchers;
mod worker;

use anyhow::Context as _;

use self::{
    fleet::Fleet,
    report::{Report, TargetReport},
    run::{Measured, Plan},
    view::View,
};
use crate::{
    check,
    client::Target,
    history::{Recording, Setup},
};

/// Runs a plan against each target, so many times in turns. With `checked`, a history is recorded beside the load, and
/// checked.
pub async fn compare(
    plan: &Plan,
    targets: &[Target],
    rounds: usize,
    fleet: Option<&Fleet>,
    checked: Option<&Setup>,
    view: &mut View,
) -> anyhow::Result<Report> {
    for target in targets {
        view.say(&format!("preparing {}", target.name()));
        plan.prepare(target).await.with_context(|| format!("preparing {}", target.name()))?;
    }
    let mut reports: Vec<TargetReport> = targets.iter().map(|target| TargetReport::new(target.name())).collect();
    for round in 0..rounds {
        for (place, (target, report)) in targets.iter().zip(&mut reports).enumerate() {
            view.begin(&target.name(), round, rounds, plan.duration);
            let recording = match checked {
                Some(setup) => Some(Recording::begin(setup.clone(), &target.connect(4).await?).await?),
                None => None,
            };
            let mut measured = Measured::default();
            let tick = |interval: &meter::Interval| {
                measured.tick(interval);
                view.tick(&measured, interval);
            };
            let seconds = match fleet {
                Some(fleet) => fleet.run(plan, place, tick),
                None => plan.run(target, tick).await,
            };
            measured.seconds = seconds.with_context(|| target.name())?;
            report.rounds.push(measured);
            if let Some(recording) = recording {
                view.say(&format!("checking the history of {}", target.name()));
                report.checks.push(check::check(&recording.end().await));
            }
        }
    }
    view.end();
    Ok(Report::new(plan, reports))
}
