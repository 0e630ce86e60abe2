//! Watchers beside a load: how long until they hear of what was written.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient, watch_request::RequestUnion,
};
use futures::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tonic::Streaming;

use super::{
    k8s,
    meter::{Failure, Meter},
    scenario::{Scenario, Shape, written},
};
use crate::client::{Connection, MAX_ANSWER};

/// A clock that everybody on this machine shares, in steps that an [`Instant`] can be given in too.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    since_epoch: Duration,
}

impl Clock {
    /// From now on it does not follow corrections of the machine's time.
    pub fn new() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { began: Instant::now(), since_epoch }
    }

    /// A moment after it began, as time since 1970.
    pub fn since_epoch(&self, at: Instant) -> Duration {
        self.since_epoch + at.saturating_duration_since(self.began)
    }
}

/// Streams that watch, until dropped.
#[derive(Debug)]
pub struct Watchers {
    /// Created, and not listened to yet.
    streams: Vec<Streaming<WatchResponse>>,
    // Ended when dropped.
    tasks: JoinSet<()>,
}

/// What one watcher watches, from where to where.
type Watched = (Bytes, Bytes);

fn watched(scenario: Scenario, shape: &Shape, stream: usize, watcher: usize) -> Watched {
    match scenario {
        Scenario::K8s => k8s::watched(stream),
        _ => {
            let number = (stream * shape.watchers_per_stream + watcher) as u64 % shape.watched_keys.max(1);
            (shape.key(number), Bytes::new())
        }
    }
}

impl Watchers {
    /// Creates all watchers, and returns when all are created.
    pub async fn create(scenario: Scenario, shape: &Shape, connections: &[Connection]) -> anyhow::Result<Watchers> {
        let (count, each) = match scenario {
            Scenario::K8s => (k8s::WATCHES, 1),
            _ => (shape.streams, shape.watchers_per_stream),
        };
        let mut streams = Vec::with_capacity(count);
        for number in 0..count {
            let mut client =
                WatchClient::new(connections[number % connections.len()].clone()).max_decoding_message_size(MAX_ANSWER);
            let creates: Vec<WatchRequest> = (0..each)
                .map(|watcher| {
                    let (key, range_end) = watched(scenario, shape, number, watcher);
                    let create = WatchCreateRequest { key, range_end, prev_kv: shape.prev_kv, ..Default::default() };
                    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
                })
                .collect();
            // The stream of requests stays open.
            let requests = stream::iter(creates).chain(stream::pending());
            let mut messages = client.watch(requests).await.context("a watch stream cannot be opened")?.into_inner();
            for _ in 0..each {
                let created = messages.message().await?.context("the watch stream ended")?;
                ensure!(created.created && !created.canceled, "a watch is refused: {}", created.cancel_reason);
            }
            streams.push(messages);
        }
        Ok(Watchers { streams, tasks: JoinSet::new() })
    }

    /// Records what comes from now on, if it was meant to be written after `from`.
    pub fn listen(&mut self, meter: &Arc<Meter>, clock: Clock, from: Instant) {
        let from = clock.since_epoch(from);
        for (number, mut messages) in self.streams.drain(..).enumerate() {
            let meter = Arc::clone(meter);
            self.tasks.spawn(async move {
                let ended = loop {
                    match messages.message().await {
                        Ok(Some(message)) if message.canceled => {
                            break Failure { code: "Canceled".to_owned(), text: message.cancel_reason };
                        }
                        Ok(Some(message)) => {
                            let now = clock.since_epoch(Instant::now());
                            let values =
                                message.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| &kv.value);
                            for at in values.filter_map(|value| written(value)).filter(|at| *at >= from) {
                                meter.record(number, "event", now.saturating_sub(at));
                            }
                        }
                        Ok(None) => break Failure { code: "Ok".to_owned(), text: "a watch stream ended".to_owned() },
                        Err(status) => break Failure::from(&status),
                    }
                };
                meter.fail(number, ended);
            });
        }
    }
}
