//! The kinds of work that are compared: each runs for a while against one target and counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{kv_client::KvClient, watch_client::WatchClient, *};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Connection, MAX_ANSWER};

/// What a run counted.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Operations answered.
    pub operations: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latency of each operation, ascending; only filled where few clients run.
    pub latencies: Vec<Duration>,
}

/// The keys that get and list find, and put overwrites.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// How many.
    pub count: u64,
    /// Bytes of each value.
    pub value_size: usize,
}

impl Keys {
    /// The key number `n`.
    pub fn key(&self, n: u64) -> Bytes {
        Bytes::from(format!("key/{n:08}"))
    }

    /// Some key.
    pub fn any(&self, rng: &mut SmallRng) -> Bytes {
        self.key(rng.random_range(0..self.count))
    }

    /// A value; its bytes do not matter, but they do not compress either.
    pub fn value(&self, rng: &mut SmallRng) -> Bytes {
        let mut value = vec![0; self.value_size];
        rng.fill(&mut value[..]);
        Bytes::from(value)
    }

    /// Writes every key once.
    pub async fn load(&self, channels: &[Connection], prefix: &str) -> anyhow::Result<()> {
        const PER_TXN: u64 = 100;
        let mut tasks = JoinSet::new();
        let parts = channels.len() as u64;
        for (part, channel) in channels.iter().enumerate() {
            let (keys, prefix, mut client) = (*self, prefix.to_owned(), KvClient::new(channel.clone()));
            let mut rng = SmallRng::seed_from_u64(part as u64);
            tasks.spawn(async move {
                let mut batch = part as u64 * PER_TXN;
                while batch < keys.count {
                    let put = |n| RequestOp {
                        request: Some(request_op::Request::RequestPut(PutRequest {
                            key: Bytes::from(format!("{prefix}{n:08}")),
                            value: keys.value(&mut rng),
                            ..Default::default()
                        })),
                    };
                    let success = (batch..(batch + PER_TXN).min(keys.count)).map(put).collect();
                    client.txn(TxnRequest { success, ..Default::default() }).await?;
                    batch += PER_TXN * parts;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// One kind of unary work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Overwrite a random key.
    Put,
    /// Read a random key, linearizable.
    Get,
    /// Read 500 keys from a random one on.
    List,
    /// Read a key, then overwrite it if nobody else did meanwhile; counts as one.
    CompareAndSet,
    /// Count every key of a prefix.
    Count(&'static str),
}

impl Work {
    /// Runs `clients` tasks spread over `channels` for `duration`.
    pub async fn run(
        self,
        channels: &[Connection],
        clients: usize,
        keys: Keys,
        duration: Duration,
    ) -> anyhow::Result<Counted> {
        let begin = Instant::now();
        let end = begin + duration;
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let mut kv = KvClient::new(channels[client % channels.len()].clone()).max_decoding_message_size(MAX_ANSWER);
            let mut rng = SmallRng::seed_from_u64(client as u64);
            let timed = clients == 1;
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                let mut operations = 0;
                while Instant::now() < end {
                    let start = Instant::now();
                    self.once(&mut kv, keys, &mut rng).await?;
                    operations += 1;
                    if timed {
                        latencies.push(start.elapsed());
                    }
                }
                anyhow::Ok((operations, latencies))
            });
        }
        let mut counted = Counted::default();
        while let Some(done) = tasks.join_next().await {
            let (operations, latencies) = done??;
            counted.operations += operations;
            counted.latencies.extend(latencies);
        }
        counted.elapsed = begin.elapsed();
        counted.latencies.sort_unstable();
        Ok(counted)
    }

    async fn once(self, kv: &mut KvClient<Connection>, keys: Keys, rng: &mut SmallRng) -> anyhow::Result<()> {
        match self {
            Work::Put => {
                let put = PutRequest { key: keys.any(rng), value: keys.value(rng), ..Default::default() };
                kv.put(put).await?;
            }
            Work::Get => {
                kv.range(RangeRequest { key: keys.any(rng), ..Default::default() }).await?;
            }
            Work::List => {
                let list =
                    RangeRequest { key: keys.any(rng), range_end: "key0".into(), limit: 500, ..Default::default() };
                kv.range(list).await?;
            }
            Work::CompareAndSet => compare_and_set(kv, keys, rng).await?,
            Work::Count(prefix) => {
                let mut range_end = prefix.as_bytes().to_vec();
                *range_end.last_mut().expect("a prefix is not empty") += 1;
                let range_end = Bytes::from(range_end);
                let request = RangeRequest { key: prefix.into(), range_end, count_only: true, ..Default::default() };
                kv.range(request).await?;
            }
        }
        Ok(())
    }
}

async fn compare_and_set(kv: &mut KvClient<Connection>, keys: Keys, rng: &mut SmallRng) -> anyhow::Result<()> {
    let key = keys.any(rng);
    let read = kv.range(RangeRequest { key: key.clone(), ..Default::default() }).await?.into_inner();
    let seen = read.kvs.first().map_or(0, |kv| kv.mod_revision);
    let compare = Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(seen)),
        ..Default::default()
    };
    let put = PutRequest { key, value: keys.value(rng), ..Default::default() };
    let success = vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }];
    kv.txn(TxnRequest { compare: vec![compare], success, ..Default::default() }).await?;
    Ok(())
}

/// Watchers of one prefix; they end when it is dropped.
pub struct FanOut {
    watchers: u64,
    /// Events that arrived at any of them.
    received: Arc<AtomicU64>,
    writer: Connection,
    /// Kept open, or the streams would be half-closed.
    _requests: Vec<mpsc::Sender<WatchRequest>>,
    _tasks: JoinSet<()>,
}

impl FanOut {
    /// Opens one stream for each connection and creates the watchers on them.
    pub async fn open(channels: &[Connection], watchers: usize) -> anyhow::Result<FanOut> {
        let per_channel = watchers / channels.len();
        let received = Arc::new(AtomicU64::new(0));
        let (mut tasks, mut requests) = (JoinSet::new(), Vec::new());
        for channel in channels {
            let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
            let (sender, receiver) = mpsc::channel(per_channel);
            for _ in 0..per_channel {
                let create = WatchCreateRequest { key: "fan/".into(), range_end: "fan0".into(), ..Default::default() };
                sender
                    .send(WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) })
                    .await?;
            }
            // etcd sends the head of its response with the first message, so requests go first.
            let mut stream = client.watch(ReceiverStream::new(receiver)).await?.into_inner();
            for _ in 0..per_channel {
                anyhow::ensure!(stream.message().await?.is_some_and(|m| m.created), "a watch was not created");
            }
            requests.push(sender);
            let received = received.clone();
            tasks.spawn(async move {
                while let Ok(Some(message)) = stream.message().await {
                    received.fetch_add(message.events.len() as u64, Ordering::Relaxed);
                }
            });
        }
        let (watchers, writer) = ((per_channel * channels.len()) as u64, channels[0].clone());
        Ok(FanOut { watchers, received, writer, _requests: requests, _tasks: tasks })
    }

    /// Writes under the prefix, and counts the events that arrive.
    pub async fn run(&self, keys: Keys, duration: Duration) -> anyhow::Result<Counted> {
        let before = self.received.load(Ordering::Relaxed);
        let count = || self.received.load(Ordering::Relaxed) - before;
        let mut kv = KvClient::new(self.writer.clone());
        let mut rng = SmallRng::seed_from_u64(1);
        let begin = Instant::now();
        let mut written = 0;
        while begin.elapsed() < duration {
            // Closed loop: at most this many events are under way, so that what is measured is
            // delivery and not the growth of queues.
            const WINDOW: u64 = 16;
            while count() + WINDOW * self.watchers <= written * self.watchers {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let key = Bytes::from(format!("fan/{:04}", written % 1000));
            kv.put(PutRequest { key, value: keys.value(&mut rng), ..Default::default() }).await?;
            written += 1;
        }
        let all = written * self.watchers;
        let deadline = Instant::now() + Duration::from_secs(10);
        while count() < all {
            anyhow::ensure!(Instant::now() < deadline, "{} of {all} events arrived", count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Counted { operations: all, elapsed: begin.elapsed(), latencies: Vec::new() })
    }
}
