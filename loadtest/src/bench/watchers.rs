//! Watchers beside a load: how long until they hear of what was written.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
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
    meter::{EVENT, Failure, Meter},
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

/// How many parts the events that are waited for have, so that streams seldom meet in one.
const STRIPES: usize = 16;

/// Events of puts that were answered, until every watcher has them. A put is known by when it was meant to be written,
/// which its value holds; those of other processes are not known here.
#[derive(Debug, Default)]
pub struct Expected {
    stripes: [Mutex<HashMap<Duration, Awaited>>; STRIPES],
}

#[derive(Debug, Default)]
struct Awaited {
    /// How many watchers are to hear of it; unknown before it is answered, and for ever if it is not.
    due: Option<u64>,
    came: u64,
}

impl Expected {
    /// A put is about to be sent; its events may come before its answer.
    pub fn sent(&self, at: Duration) {
        self.stripe(at, |awaited| {
            awaited.entry(at).or_default();
        });
    }

    /// It was answered, and so many watch its key.
    pub fn answered(&self, at: Duration, watchers: u64) {
        self.change(at, |awaited| *awaited.due.get_or_insert(0) += watchers);
    }

    fn came(&self, at: Duration) {
        self.change(at, |awaited| awaited.came += 1);
    }

    fn change(&self, at: Duration, change: impl FnOnce(&mut Awaited)) {
        self.stripe(at, |all| {
            if let Some(awaited) = all.get_mut(&at) {
                change(awaited);
                if awaited.due.is_some_and(|due| due <= awaited.came) {
                    all.remove(&at);
                }
            }
        });
    }

    /// The puts whose events did not all come, and how many are missing.
    pub fn missing(&self) -> Vec<(Duration, u64)> {
        let mut missing = Vec::new();
        for stripe in &self.stripes {
            let stripe = stripe.lock().expect("nothing panics under this lock");
            let due = stripe.iter().filter_map(|(at, awaited)| Some((*at, awaited.due?.saturating_sub(awaited.came))));
            missing.extend(due.filter(|(_, count)| *count > 0));
        }
        missing
    }

    fn stripe(&self, at: Duration, change: impl FnOnce(&mut HashMap<Duration, Awaited>)) {
        let stripe = (at.as_micros() % STRIPES as u128) as usize;
        change(&mut self.stripes[stripe].lock().expect("nothing panics under this lock"));
    }
}

/// How many watch a key, by its number: as [`watched`] gives the keys out.
pub fn watchers_of(shape: &Shape, key: u64) -> u64 {
    let (all, keys) = ((shape.streams * shape.watchers_per_stream) as u64, shape.watched_keys.max(1));
    all / keys + u64::from(key < all % keys)
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
    pub fn listen(&mut self, meter: &Arc<Meter>, expected: &Arc<Expected>, clock: Clock, from: Instant) {
        let from = clock.since_epoch(from);
        for (number, mut messages) in self.streams.drain(..).enumerate() {
            let (meter, expected) = (Arc::clone(meter), Arc::clone(expected));
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
                                meter.record(number, EVENT, now.saturating_sub(at));
                                expected.came(at);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_every_event_of_an_answered_put_that_did_not_come() {
        let (expected, at) = (Expected::default(), Duration::from_nanos);
        for put in 1..=4 {
            expected.sent(at(put));
        }
        // All events of the first come, some before its answer; one of two of the second, none of the third; the
        // fourth is never answered, and the fifth is another process's.
        expected.came(at(1));
        for put in 1..=3 {
            expected.answered(at(put), 2);
        }
        for put in [1, 2, 4, 5] {
            expected.came(at(put));
        }
        let mut missing = expected.missing();
        missing.sort_unstable();
        assert_eq!(missing, [(at(2), 1), (at(3), 2)]);
    }
}
