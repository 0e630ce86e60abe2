//! How much later a watcher behind a front hears of a write.
//!
//! One writer, an open loop, directly at the store; one watcher at each front, all of the same events. What is added is
//! the difference for each event between the watcher behind the front and the one at the store.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_loadtest::client::Connection;
use forebay_proto::etcdserverpb::{
    PutRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use futures::{StreamExt as _, future, stream};
use tokio::time::{self, Instant, MissedTickBehavior};
use tonic::Streaming;

use crate::{Options, fronts::Fronts, report::verdict};

const RATE: u32 = 1_000;
/// Of the first events, which open connections and fill caches.
const WARM_UP: usize = 500;
const ADDED_MAX_MS: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(options: &Options, fronts: &Fronts) -> anyhow::Result<()> {
    let count = (options.duration().as_secs_f64() * options.rounds as f64 * f64::from(RATE)) as usize + WARM_UP;
    let mut watchers = Vec::new();
    for front in &fronts.all {
        watchers.push(tokio::spawn(arrivals(watch(front.channels[0].clone()).await?, count)));
    }
    let mut due = time::interval(Duration::from_secs(1) / RATE);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..count {
        due.tick().await;
        let mut client = KvClient::new(fronts.direct().channels[1].clone());
        let put = PutRequest { key: "lat/key".into(), value: number.to_string().into(), ..Default::default() };
        tokio::spawn(async move { client.put(put).await });
    }
    let watched = time::timeout(PATIENCE, future::try_join_all(watchers)).await.context("events are missing")??;
    let arrived = watched.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let direct = &arrived[0];
    for (front, times) in fronts.all.iter().zip(&arrived).skip(1) {
        let added = direct
            .iter()
            .zip(times)
            .skip(WARM_UP)
            .map(|(direct, behind)| behind.saturating_duration_since(*direct).as_secs_f64() * 1e3);
        let mut added: Vec<f64> = added.collect();
        added.sort_by(f64::total_cmp);
        let at = |share: f64| added[((added.len() - 1) as f64 * share) as usize];
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        println!(
            "latency       {:<11} added at {RATE} events/s: {p50:.2} ms p50, {p99:.2} ms p99, {max:.2} ms max",
            front.name
        );
        if front.name == fronts.gateway().name {
            verdict("added p99 in ms", p99, ADDED_MAX_MS, false);
        }
    }
    Ok(())
}

async fn watch(connection: Connection) -> anyhow::Result<Streaming<forebay_proto::etcdserverpb::WatchResponse>> {
    let create = WatchCreateRequest { key: Bytes::from_static(b"lat/key"), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = stream::iter([create]).chain(stream::pending());
    let mut messages = WatchClient::new(connection).watch(requests).await?.into_inner();
    ensure!(messages.message().await?.is_some_and(|message| message.created), "a watch was not created");
    Ok(messages)
}

/// When each event came, by the number in its value.
async fn arrivals(
    mut messages: Streaming<forebay_proto::etcdserverpb::WatchResponse>,
    count: usize,
) -> anyhow::Result<Vec<Instant>> {
    let mut arrived: Vec<Option<Instant>> = vec![None; count];
    let mut missing = count;
    while missing > 0 {
        let message = messages.message().await?.context("a watch ended")?;
        let now = Instant::now();
        for event in message.events {
            let number: usize = std::str::from_utf8(&event.kv.context("an event has a key")?.value)?.parse()?;
            ensure!(arrived[number].replace(now).is_none(), "event {number} came twice");
            missing -= 1;
        }
    }
    Ok(arrived.into_iter().flatten().collect())
}
