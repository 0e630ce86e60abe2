//! A gateway whose member is killed and comes back: no watcher loses, repeats or reorders an event, and no read is older
//! than what was acknowledged before it began.
//!
//! Watchers resume as etcd's client does: at the revision behind the last that they saw. Each read is checked while it
//! is made, against the writes that were acknowledged when it was sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use forebay_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use futures::stream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::{
    cases::requests::{get, put},
    session,
    target::{Kind, Target},
};

const WATCHERS: usize = 4;
const READERS: usize = 2;
/// The keys that are written in turn.
const KEYS: usize = 5;
/// How long the member serves, and how long it is away.
const UP: Duration = Duration::from_millis(1200);
const DOWN: Duration = Duration::from_millis(300);
/// How long everything may take to come to the end.
const LIMIT: Duration = Duration::from_secs(60);

/// What all of them know.
#[derive(Debug, Default)]
struct Known {
    /// By revision: key and number of each acknowledged write.
    acknowledged: Mutex<BTreeMap<i64, (String, u64)>>,
    /// The last acknowledged revision.
    revision: AtomicI64,
    reads: AtomicUsize,
    done: AtomicBool,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    /// Acknowledged writes that every watcher saw.
    pub writes: usize,
    /// Linearizable reads.
    pub reads: usize,
}

/// Kills the member so many times under writers, readers and watchers.
pub async fn run(kind: Kind, cycles: usize) -> anyhow::Result<Checked> {
    let mut target = Target::start(kind, &[]).await?;
    let known = Arc::new(Known::default());
    let channel = session::connect(&target).await?;
    let writer = tokio::spawn(write(channel.clone(), Arc::clone(&known)));
    let readers: Vec<_> = (0..READERS).map(|_| tokio::spawn(read(channel.clone(), Arc::clone(&known)))).collect();
    let watchers: Vec<_> = (0..WATCHERS).map(|_| tokio::spawn(watch(channel.clone(), Arc::clone(&known)))).collect();
    for _ in 0..cycles {
        sleep(UP).await;
        target.kill();
        sleep(DOWN).await;
        target.restart().await?;
    }
    sleep(UP).await;
    known.done.store(true, Ordering::SeqCst);
    timeout(LIMIT, writer).await.context("the writer does not end")??;
    for reader in readers {
        timeout(LIMIT, reader).await.context("a reader does not end")???;
    }
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(timeout(LIMIT, watcher).await.context("a watcher never sees the last write")???);
    }
    let acknowledged = known.acknowledged.lock().expect("nothing panics under this lock");
    for events in &seen {
        let wrong = acknowledged.iter().find(|(revision, write)| events.get(revision) != Some(write));
        ensure!(wrong.is_none(), "a watcher did not see {wrong:?} as it was acknowledged");
        // Writes that nobody answered may be there, and then for all.
        let last = known.revision.load(Ordering::SeqCst);
        let all = |events: &BTreeMap<i64, (String, u64)>| events.range(..=last).map(|(at, _)| *at).collect::<Vec<_>>();
        ensure!(all(events) == all(&seen[0]), "two watchers saw different revisions");
    }
    Ok(Checked { writes: acknowledged.len(), reads: known.reads.load(Ordering::SeqCst) })
}

fn key(number: u64) -> String {
    format!("flaps/{}", number % KEYS as u64)
}

async fn write(channel: Channel, known: Arc<Known>) {
    let mut client = KvClient::new(channel);
    for number in 1.. {
        let last = known.done.load(Ordering::SeqCst);
        let written = timeout(Duration::from_secs(3), client.put(put(key(number), number.to_string()))).await;
        if let Ok(Ok(response)) = written {
            let revision = response.into_inner().header.map_or(0, |header| header.revision);
            let mut acknowledged = known.acknowledged.lock().expect("nothing panics under this lock");
            acknowledged.insert(revision, (key(number), number));
            known.revision.fetch_max(revision, Ordering::SeqCst);
            // The end is a write that was acknowledged.
            if last {
                return;
            }
        } else {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn read(channel: Channel, known: Arc<Known>) -> anyhow::Result<()> {
    let mut client = KvClient::new(channel);
    let mut number = 0;
    while !known.done.load(Ordering::SeqCst) {
        number += 1;
        let (before, newest) = {
            let acknowledged = known.acknowledged.lock().expect("nothing panics under this lock");
            let of_key = acknowledged.iter().rev().find(|(_, (of, _))| *of == key(number));
            (known.revision.load(Ordering::SeqCst), of_key.map(|(_, (_, newest))| *newest))
        };
        match timeout(Duration::from_secs(3), client.range(get(key(number)))).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                ensure!(revision >= before, "a read at revision {revision}, sent after {before} was acknowledged");
                let found = response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).parse::<u64>());
                let found = found.transpose()?;
                ensure!(found >= newest, "{} read {found:?}, sent after {newest:?} was acknowledged", key(number));
                known.reads.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(())
}

/// Returns what it saw once that is everything that was acknowledged.
async fn watch(channel: Channel, known: Arc<Known>) -> anyhow::Result<BTreeMap<i64, (String, u64)>> {
    let mut client = WatchClient::new(channel);
    let mut seen = BTreeMap::new();
    let mut next = 1;
    loop {
        let create = WatchCreateRequest {
            key: "flaps/".into(),
            range_end: "flaps0".into(),
            start_revision: next,
            ..Default::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open.
        let requests = stream::StreamExt::chain(stream::iter([request]), stream::pending());
        let opened = timeout(Duration::from_secs(5), client.watch(requests)).await;
        let Ok(Ok(responses)) = opened else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut responses = responses.into_inner();
        loop {
            let is_last = || known.done.load(Ordering::SeqCst) && next > known.revision.load(Ordering::SeqCst);
            let response = match timeout(Duration::from_millis(200), responses.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None) | Err(_)) => break,
                // Quiet: the last write may have been seen, or never be acknowledged.
                Err(_) if is_last() => return Ok(seen),
                Err(_) => continue,
            };
            ensure!(!response.canceled, "cancelled: {response:?}");
            let mut last = 0;
            for event in response.events {
                let kv = event.kv.context("an event has a key")?;
                ensure!(kv.mod_revision >= next, "revision {} after {}", kv.mod_revision, next - 1);
                let number = String::from_utf8_lossy(&kv.value).parse()?;
                let write = (String::from_utf8_lossy(&kv.key).into_owned(), number);
                ensure!(seen.insert(kv.mod_revision, write).is_none(), "revision {} came twice", kv.mod_revision);
                last = kv.mod_revision;
            }
            next = next.max(last + 1);
        }
    }
}
