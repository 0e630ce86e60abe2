//! Histories recorded through two gateways at once, while what is behind them fails, and checked.
//!
//! Clients of both gateways, and of what is behind them, read, write and watch the same few keys. Whatever happens
//! meanwhile, what they saw must be explained by one order of all writes, and every watch must have kept its promises.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use forebay_loadtest::{
    check::{self, Report},
    client::{Connection, Target as Client},
    history::{Recording, Setup},
};
use forebay_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient, watch_request::RequestUnion,
};
use futures::{StreamExt as _, stream};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::{
    cluster::Cluster,
    gateways::Gateway,
    target::{Kind, Target},
};

/// How long everything is well between two faults, and how long a fault lasts.
const WELL: Duration = Duration::from_millis(1500);
const ILL: Duration = Duration::from_millis(400);

/// How long a watch that cannot go on may take to say so.
const TOLD: Duration = Duration::from_secs(20);

async fn connections(urls: &[String]) -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for url in urls {
        let client = Client {
            endpoints: vec![url.clone()],
            tls: None,
            user: None,
            dial_timeout: Duration::from_secs(5),
            source: None,
        };
        all.extend(client.connect(1).await?);
    }
    Ok(all)
}

async fn two_gateways(upstream: &[String]) -> anyhow::Result<[Gateway; 2]> {
    let (one, other) = tokio::join!(Gateway::start(upstream, &[]), Gateway::start(upstream, &[]));
    Ok([one?, other?])
}

fn urls(gateways: &[Gateway]) -> Vec<String> {
    gateways.iter().map(|gateway| format!("http://{}", gateway.client)).collect()
}

/// What is recorded: nobody else writes, so that every revision has to be explained.
fn setup(seed: u64) -> Setup {
    Setup { seed, exclusive: true, compacts: true, timeout: Duration::from_secs(2), ..Setup::default() }
}

async fn checked(recording: Recording) -> anyhow::Result<Report> {
    let history = recording.end().await;
    let report = check::check(&history);
    ensure!(report.violations.is_empty(), "{}", report.summary());
    Ok(report)
}

/// One member that is killed and comes back, so many times, and then is restored from a snapshot that was taken
/// before: its revisions go back, and happen again with other content.
pub async fn with_a_restore(kind: Kind, cycles: usize, seed: u64) -> anyhow::Result<Vec<Report>> {
    let mut target = Target::start(kind, &[]).await?;
    let gateways = two_gateways(&[target.url()]).await?;
    // First what is behind them: it is what says how it was at the beginning.
    let all = [vec![target.url()], urls(&gateways)].concat();
    let mut reports = Vec::new();
    let recording = Recording::begin(setup(seed), &connections(&all).await?).await?;
    sleep(WELL).await;
    let snapshot = target.dir().join("snapshot.db");
    target.save(&snapshot).await?;
    for _ in 0..cycles {
        sleep(WELL).await;
        target.kill();
        sleep(ILL).await;
        target.restart().await?;
    }
    sleep(WELL).await;
    reports.push(checked(recording).await?);

    let mut watches = Vec::new();
    for gateway in &gateways {
        watches.push(watch(gateway).await?);
    }
    target.restore(&snapshot).await?;
    // At once: whatever the gateways still hold is of a time that never was.
    let recording = Recording::begin(setup(seed + 1), &connections(&all).await?).await?;
    for mut messages in watches {
        // It may be told that it ended, or lose its stream; what it must not get is events.
        let ended = timeout(TOLD, messages.next()).await.context("a watch from before goes on in silence")?;
        if let Some(Ok(message)) = ended {
            ensure!(message.canceled, "a watch from before the restore got {message:?}");
        }
    }
    sleep(WELL * 2).await;
    reports.push(checked(recording).await?);
    Ok(reports)
}

/// A watch of all keys that were written, which is up to date.
async fn watch(gateway: &Gateway) -> anyhow::Result<Streaming<WatchResponse>> {
    let connection = connections(&urls(std::slice::from_ref(gateway))).await?.remove(0);
    let create = WatchCreateRequest { key: "check/".into(), range_end: "check0".into(), ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = stream::iter([request]).chain(stream::pending());
    let mut messages = WatchClient::new(connection).watch(requests).await?.into_inner();
    ensure!(messages.message().await?.is_some_and(|message| message.created), "a watch is created");
    Ok(messages)
}

/// Three members, whose leader is killed and comes back, so many times.
pub async fn with_leaders_killed(kind: Kind, cycles: usize, seed: u64) -> anyhow::Result<Report> {
    let mut cluster = Cluster::start(&[kind; 3], &[]).await?;
    let upstream: Vec<String> = cluster.members.iter().map(|node| node.url()).collect();
    let gateways = two_gateways(&upstream).await?;
    let recording = Recording::begin(setup(seed), &connections(&urls(&gateways)).await?).await?;
    for cycle in 0..cycles {
        sleep(WELL).await;
        let leader = cluster.leader().await?;
        if cycle % 2 == 0 {
            cluster.kill(leader);
            sleep(ILL * 4).await;
            cluster.restart_as(leader, kind).await?;
        } else {
            cluster.move_leader((leader + 1) % 3).await?;
        }
    }
    sleep(WELL).await;
    checked(recording).await
}
