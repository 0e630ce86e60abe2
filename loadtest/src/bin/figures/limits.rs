//! How exactly a quota and a rate are held.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use forebay_loadtest::{
    client::{Connection, Target},
    tiers,
};
use forebay_proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tokio::task::JoinSet;
use tonic::Code;

use crate::Options;

const GATEWAYS: usize = 4;
/// In which the burst of the rule is used up.
const WARM_UP: Duration = Duration::from_secs(3);
/// Requests a second of the rule.
const RATE: u32 = 200;

/// The flag that names a policy.
fn policy(scratch: &Path, spec: &str) -> anyhow::Result<[String; 1]> {
    let path = scratch.join("policy.yaml");
    let head = "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: figures}\nspec:\n";
    fs::write(&path, format!("{head}{spec}"))?;
    Ok([format!("--policy={}", path.display())])
}

/// New keys until the quota refuses, by many at once.
pub(crate) async fn quota(options: &Options, program: &Path, command: &[&str], name: &str) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let spec = format!("  quotas:\n    - {{name: few, prefix: /q/, hard: {{objects: {}}}}}\n", options.objects);
    let policy = policy(scratch.path(), &spec)?;
    let store = tiers::store("store", program, command, "http", scratch.path())?;
    let mut gateways = Vec::new();
    for n in 0..GATEWAYS {
        gateways.push(tiers::gateway(&format!("g{n}"), &options.forebay, store.address, &policy, scratch.path())?);
    }
    // A cluster of ours is told of the quotas.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut channels = Vec::new();
    for gateway in &gateways {
        channels.extend(Target::at(gateway.address).connect(2).await?);
    }
    let began = Instant::now();
    let mut writing = JoinSet::new();
    for writer in 0..options.writers {
        writing.spawn(fill(channels.clone(), writer));
    }
    let mut acknowledged = 0;
    while let Some(done) = writing.join_next().await {
        acknowledged += done??;
    }
    let lasted = began.elapsed();
    let mut direct = KvClient::new(Target::at(store.address).connect(1).await?.remove(0));
    let range =
        RangeRequest { key: "/q/".into(), range_end: "/q0".into(), count_only: true, ..RangeRequest::default() };
    let stored = direct.range(range).await?.into_inner().count;
    println!(
        "quota of {} before {name}: {} writers x {GATEWAYS} gateways: {stored} stored, {acknowledged} acknowledged, {:.0}/s",
        options.objects,
        options.writers,
        stored as f64 / lasted.as_secs_f64()
    );
    ensure!(stored.cast_unsigned() == options.objects, "the quota was not held exactly");
    Ok(())
}

async fn fill(channels: Vec<Connection>, writer: usize) -> anyhow::Result<u64> {
    let mut acknowledged = 0;
    for n in 0.. {
        let mut client = KvClient::new(channels[(writer + n) % channels.len()].clone());
        let put = PutRequest { key: format!("/q/{writer}/{n}").into(), value: "v".into(), ..PutRequest::default() };
        match client.put(put).await {
            Ok(_) => acknowledged += 1,
            Err(status) if status.code() == Code::ResourceExhausted && status.message().contains("quota") => break,
            // Not now: the gateway was busy.
            Err(status) if status.code() == Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(acknowledged)
}

/// Many who ask for more than a rule allows, and what passes.
pub(crate) async fn rate(options: &Options) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let spec = format!(
        "  flowRules:\n    - {{name: rule, matchingPrecedence: 1, mode: Enforce, match: {{rpcs: [Put]}}, priorityLevel: \
         catch-all, onLimit: Reject, limits: {{requests: {RATE}/s}}}}\n"
    );
    let policy = policy(scratch.path(), &spec)?;
    let store = tiers::store("store", &options.forebay, &["server"], "http", scratch.path())?;
    let gateway = tiers::gateway("gateway", &options.forebay, store.address, &policy, scratch.path())?;
    let channels = Target::at(gateway.address).connect(2).await?;
    let mut asking = JoinSet::new();
    for n in 0..8 {
        let (mut client, seconds) = (KvClient::new(channels[n % 2].clone()), options.duration());
        asking.spawn(async move {
            // The burst is not part of the rate, and is over when the measuring begins.
            let (begin, end) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + seconds);
            let (mut passed, mut asked) = (0u64, 0u64);
            while Instant::now() < end {
                let put = PutRequest { key: format!("/r/{n}").into(), ..PutRequest::default() };
                let is_served = client.put(put).await.is_ok();
                if Instant::now() >= begin {
                    asked += 1;
                    passed += u64::from(is_served);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (passed, asked)
        });
    }
    let (mut passed, mut asked) = (0, 0);
    while let Some(done) = asking.join_next().await {
        let (more, of) = done?;
        (passed, asked) = (passed + more, asked + of);
    }
    let held = passed as f64 / options.duration().as_secs_f64();
    println!(
        "rule of {RATE}/s: {held:.1}/s passed ({:+.2} %), of {:.0}/s asked",
        (held / f64::from(RATE) - 1.0) * 100.0,
        asked as f64 / options.duration().as_secs_f64()
    );
    Ok(())
}
