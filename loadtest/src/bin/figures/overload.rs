//! Ten times as much as can be served, and leases that have to be kept alive meanwhile.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_loadtest::{
    bench::{
        misuse::Misuse,
        run::{Measured, Plan},
        scenario::{Scenario, Shape},
        schedule::Rate,
    },
    client::Target,
    process::Process,
    tiers,
};

use crate::{Options, leases::Leases};

/// Objects that are stored, and that each request reads. etcd counts all that follow, which makes it slow, so that there
/// is processor left to ask ten times as often.
const STORED: u64 = 100_000;
const READ: i64 = 500;
/// Clients that find out what is served at most.
const CLIENTS: usize = 64;
/// Requests that may be under way where the pace does not wait for answers.
const UNDER_WAY: usize = 4_000;
/// An answer that comes later is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the most is measured, and the time after.
const AROUND: Duration = Duration::from_secs(10);
const SERIES: &str = "range";

/// Measures bare etcd, and a gateway in front of another.
pub(crate) async fn overload(options: &Options, etcd: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let bare = tiers::store("bare", etcd, &[], "http", scratch.path())?;
    measure("etcd", &bare, &bare, options).await?;
    drop(bare);
    let behind = tiers::store("behind", etcd, &[], "http", scratch.path())?;
    let flags = ["--mirror=off".to_owned()];
    let front = tiers::gateway("gateway", &options.forebay, behind.address, &flags, scratch.path())?;
    measure("gateway", &front, &behind, options).await
}

async fn measure(name: &str, front: &Process, store: &Process, options: &Options) -> anyhow::Result<()> {
    plan(None, AROUND).prepare(&Target::at(store.address)).await?;
    let target = Target::at(front.address);
    let leases = Leases::begin(&target, options.leases).await?;
    let most = run(&plan(None, AROUND), &target).await?;
    let peak = most.rate(SERIES);
    let beside = run(&plan(Some(10.0 * peak), options.duration()), &target).await?;
    let lost = leases.end(&Target::at(store.address)).await?;
    let after = run(&plan(Some(0.5 * peak), AROUND), &target).await?;

    let p99 = |measured: &Measured| measured.all.series.get(SERIES).cloned().unwrap_or_default().percentile(99.0);
    let normal = 2.0 * p99(&most).as_secs_f64() * 1e3;
    let back = after.timeline.get(SERIES).and_then(|points| {
        let is_bad = |point: &&forebay_loadtest::bench::run::Point| point.p99_ms > normal || point.failed > 0;
        points.iter().filter(is_bad).map(|point| point.at).next_back()
    });
    println!(
        "overload of {name}: at most {peak:.0}/s, p99 {:.1?}; at ten times that {:.0}/s served ({:.2}), {} refused or given \
         up, p99 {:.1?} ({:.2}); normal {:.0} s after; {lost} of {} leases lost",
        p99(&most),
        beside.rate(SERIES),
        beside.rate(SERIES) / peak,
        beside.all.failed(),
        p99(&beside),
        p99(&beside).as_secs_f64() / p99(&most).as_secs_f64(),
        back.unwrap_or_default(),
        options.leases,
    );
    Ok(())
}

async fn run(plan: &Plan, target: &Target) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    measured.seconds = plan.run(target, |interval| measured.tick(interval)).await?;
    Ok(measured)
}

/// Reads of parts of what is stored: as fast as they are answered, or so many a second.
fn plan(rate: Option<f64>, duration: Duration) -> Plan {
    let clients = if rate.is_some() { UNDER_WAY } else { CLIENTS };
    let shape = Shape { key_space: STORED, limit: READ, ..Shape::default() };
    Plan {
        scenario: Scenario::Range,
        shape: Arc::new(shape),
        connections: 10,
        clients,
        rate: rate.map(Rate::constant),
        warm_up: Duration::from_secs(1),
        duration,
        total: u64::MAX,
        timeout: PATIENCE,
        misuse: Misuse::default(),
        seed: 1,
        begin: None,
    }
}
