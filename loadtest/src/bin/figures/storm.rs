//! The storm of the talk: everybody lists everything, again and again.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_loadtest::{
    bench::{
        misuse::Misuse,
        run::{Measured, Plan},
        scenario::{BYSTANDER, Scenario, Shape},
    },
    client::Target,
    process::Process,
    tiers,
};

use crate::Options;

/// Who list.
const CLIENTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures bare etcd, and a gateway in front of another.
pub(crate) async fn storm(options: &Options, etcd: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let bare = tiers::store("bare", etcd, &[], "http", scratch.path())?;
    measure("etcd", &bare, &bare, options).await?;
    drop(bare);
    let behind = tiers::store("behind", etcd, &[], "http", scratch.path())?;
    let flags = [format!("--memory-limit={}", options.memory_limit)];
    let front = tiers::gateway("gateway", &options.forebay, behind.address, &flags, scratch.path())?;
    measure("gateway", &front, &behind, options).await
}

async fn measure(name: &str, front: &Process, store: &Process, options: &Options) -> anyhow::Result<()> {
    let plan = Plan {
        scenario: Scenario::Storm,
        shape: Arc::new(Shape { objects: options.stored, ..Shape::default() }),
        connections: CLIENTS,
        clients: CLIENTS,
        rate: None,
        warm_up: Duration::ZERO,
        duration: options.duration(),
        total: u64::MAX,
        timeout: PATIENCE,
        misuse: Misuse::default(),
        seed: 1,
        begin: None,
    };
    plan.prepare(&Target::at(store.address)).await?;
    let before = [front.rss()?, store.rss()?];
    let mut measured = Measured::default();
    measured.seconds = plan.run(&Target::at(front.address), |interval| measured.tick(interval)).await?;
    let is_there = front.rss().is_ok() && store.rss().is_ok();
    let bystander = measured.all.series.get(BYSTANDER).cloned().unwrap_or_default();
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "storm of {} objects on {name}: {:.1} lists/s, {} refused or given up; bystander's puts {:.0}/s, p50 {:.1?}, p99 \
         {:.1?}; resident {} MiB and at most {}, store {} and {}{}",
        options.stored,
        measured.rate("list"),
        measured.all.failed(),
        measured.rate(BYSTANDER),
        bystander.percentile(50.0),
        bystander.percentile(99.0),
        mib(before[0]),
        mib(front.rss_max().unwrap_or_default()),
        mib(before[1]),
        mib(store.rss_max().unwrap_or_default()),
        if is_there { "" } else { ", and it DIED" },
    );
    Ok(())
}
