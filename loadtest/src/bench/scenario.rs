//! The kinds of load, and what each is made of.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, kv_client::KvClient, request_op};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;

use super::replay::Recording;
use crate::client::Connection;

/// What the load is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Puts.
    Put,
    /// Ranges, unary.
    Range,
    /// Ranges by RangeStream.
    RangeStream,
    /// Txns of puts.
    TxnPut,
    /// Txns, some of ranges and some of puts.
    TxnMixed,
    /// Puts of few keys that very many watchers watch.
    Watch,
    /// The same with few watchers, for the time until they hear of it.
    WatchLatency,
    /// Renewals of leases.
    LeaseKeepAlive,
    /// Reads, and writes if nothing was changed since.
    Stm,
    /// What Kubernetes' API servers do.
    K8s,
    /// Everybody lists everything, while somebody else goes on with their work.
    Storm,
    /// One thing after the other that a client can do to a control plane, while somebody else goes on with their work.
    Abuse,
    /// What a tap recorded.
    Replay,
}

/// All of them, by the names that they have on the command line.
pub const SCENARIOS: [(&str, Scenario); 13] = [
    ("put", Scenario::Put),
    ("range", Scenario::Range),
    ("range-stream", Scenario::RangeStream),
    ("txn-put", Scenario::TxnPut),
    ("txn-mixed", Scenario::TxnMixed),
    ("watch", Scenario::Watch),
    ("watch-latency", Scenario::WatchLatency),
    ("lease-keepalive", Scenario::LeaseKeepAlive),
    ("stm", Scenario::Stm),
    ("k8s", Scenario::K8s),
    ("storm", Scenario::Storm),
    ("abuse", Scenario::Abuse),
    ("replay", Scenario::Replay),
];

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let found = SCENARIOS.iter().find(|(name, _)| *name == text);
        found.map(|(_, scenario)| *scenario).ok_or_else(|| format!("there is no scenario {text:?}"))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = SCENARIOS.iter().find(|(_, scenario)| scenario == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

/// The sizes of things.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What all keys begin with.
    pub prefix: String,
    /// Bytes of a key, its prefix included; it is longer if its number does not fit.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// How many keys there are.
    pub key_space: u64,
    /// One key after the other, and not some key.
    pub sequential: bool,
    /// What ranges read, from where to where; if nothing is said some key, and with a limit what follows it.
    pub range: Option<(Bytes, Bytes)>,
    /// How many keys a range answers at most.
    pub limit: i64,
    /// Whether ranges take what the member has.
    pub serializable: bool,
    /// Whether ranges answer keys alone.
    pub keys_only: bool,
    /// Whether ranges answer how many keys there are.
    pub count_only: bool,
    /// Puts of a txn.
    pub txn_ops: usize,
    /// Ranges for each put, in mixed txns.
    pub read_write_ratio: f64,
    /// Streams that watch.
    pub streams: usize,
    /// Watchers of each.
    pub watchers_per_stream: usize,
    /// How many keys are watched.
    pub watched_keys: u64,
    /// Whether watchers want previous values.
    pub prev_kv: bool,
    /// Keys that a transaction of `stm` reads.
    pub keys_per_txn: usize,
    /// How many percent of them it writes.
    pub write_percent: u32,
    /// Objects that a storm lists.
    pub objects: u64,
    /// Puts a second of those whom a storm or abuse should not disturb.
    pub bystander_rate: f64,
    /// What is replayed.
    pub recording: Option<Arc<Recording>>,
}

impl Default for Shape {
    /// As `forebay bench` has it where nothing is said.
    fn default() -> Shape {
        Shape {
            prefix: "bench/".to_owned(),
            key_size: 16,
            value_size: 256,
            key_space: 10_000,
            sequential: false,
            range: None,
            limit: 0,
            serializable: false,
            keys_only: false,
            count_only: false,
            txn_ops: 10,
            read_write_ratio: 1.0,
            streams: 10,
            watchers_per_stream: 0,
            watched_keys: 1,
            prev_kv: false,
            keys_per_txn: 1,
            write_percent: 50,
            objects: 10_000,
            bystander_rate: 200.0,
            recording: None,
        }
    }
}

impl Shape {
    /// The key of a number.
    pub fn key(&self, number: u64) -> Bytes {
        let width = self.key_size.saturating_sub(self.prefix.len());
        Bytes::from(format!("{}{number:0width$}", self.prefix))
    }

    /// Every key under the prefix.
    pub fn all(&self) -> (Bytes, Bytes) {
        (Bytes::from(self.prefix.clone()), prefix_end(&self.prefix))
    }
}

/// The end of the range of keys that begin so.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}

/// What a client of a flow does with each request that it is handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes a key.
    Put,
    /// Writes one of the keys that are watched.
    PutWatched,
    /// Reads.
    Range,
    /// Reads by RangeStream.
    RangeStream,
    /// Reads all keys.
    List,
    /// Writes several keys.
    TxnPut,
    /// Reads or writes in a txn.
    TxnMixed,
    /// Renews a lease.
    KeepAlive,
    /// See [`Scenario::Stm`].
    Stm,
    /// One of the things that API servers do.
    K8s,
    /// What was recorded at that place.
    Replay,
}

/// The series of those whom a load should not disturb.
pub const BYSTANDER: &str = "bystander";
/// Leases that a bystander of abuse keeps alive, and how many renewals a second.
const LEASES: usize = 20;
const KEEPALIVES: f64 = 12.0;

/// A part of a load that has a pace of its own.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What its clients do.
    pub action: Action,
    /// The name of what is measured.
    pub series: &'static str,
    /// How many clients it has.
    pub clients: usize,
    /// A pace that is not the run's.
    pub own_rate: Option<f64>,
}

impl Scenario {
    /// The flows of this load.
    pub fn flows(self, shape: &Shape, clients: usize) -> Vec<Flow> {
        let flow = |action, series| vec![Flow { action, series, clients, own_rate: None }];
        let bystander =
            Flow { action: Action::Put, series: BYSTANDER, clients: 20, own_rate: Some(shape.bystander_rate) };
        match self {
            Scenario::Put => flow(Action::Put, "put"),
            Scenario::Range => flow(Action::Range, "range"),
            Scenario::RangeStream => flow(Action::RangeStream, "range-stream"),
            Scenario::TxnPut => flow(Action::TxnPut, "txn-put"),
            Scenario::TxnMixed => flow(Action::TxnMixed, "txn-mixed"),
            Scenario::Watch | Scenario::WatchLatency => flow(Action::PutWatched, "put"),
            Scenario::LeaseKeepAlive => flow(Action::KeepAlive, "keepalive"),
            Scenario::Stm => flow(Action::Stm, "stm"),
            Scenario::K8s => flow(Action::K8s, "k8s"),
            Scenario::Storm => vec![Flow { action: Action::List, series: "list", clients, own_rate: None }, bystander],
            Scenario::Abuse => {
                let (action, own_rate) = (Action::KeepAlive, Some(KEEPALIVES));
                vec![bystander, Flow { action, series: "keepalive", clients: LEASES, own_rate }]
            }
            Scenario::Replay => flow(Action::Replay, "replay"),
        }
    }

    /// Whether watchers watch while the load runs.
    pub fn watches(self) -> bool {
        matches!(self, Scenario::Watch | Scenario::WatchLatency | Scenario::K8s)
    }

    /// How many keys have to be there before it begins.
    pub fn preload(self, shape: &Shape) -> u64 {
        match self {
            Scenario::Range | Scenario::RangeStream if shape.range.is_some() => 0,
            Scenario::Range | Scenario::RangeStream | Scenario::TxnMixed => shape.key_space,
            Scenario::Storm => shape.objects,
            _ => 0,
        }
    }
}

/// How many puts a txn of the preload has, at most; etcd takes 128.
const PER_TXN: u64 = 100;
/// And how many bytes.
const BYTES_PER_TXN: u64 = 512 << 10;
/// How many tasks load at once.
const LOADERS: u64 = 16;

/// Writes the first keys, each once.
pub async fn load(connections: &[Connection], shape: &Arc<Shape>, count: u64) -> anyhow::Result<()> {
    let per_txn = (BYTES_PER_TXN / (shape.value_size as u64 + 100)).clamp(1, PER_TXN);
    let mut tasks = JoinSet::new();
    for part in 0..LOADERS {
        let mut client = KvClient::new(connections[part as usize % connections.len()].clone());
        let (shape, mut rng) = (Arc::clone(shape), SmallRng::seed_from_u64(part));
        tasks.spawn(async move {
            let mut batch = part * per_txn;
            while batch < count {
                let put = |number| {
                    let value = value(&mut rng, shape.value_size, Duration::ZERO);
                    put_op(PutRequest { key: shape.key(number), value, ..Default::default() })
                };
                let success = (batch..(batch + per_txn).min(count)).map(put).collect();
                client.txn(TxnRequest { success, ..Default::default() }).await?;
                batch += per_txn * LOADERS;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A put within a txn.
pub fn put_op(put: PutRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

/// Bytes that do not compress, behind the time that they were meant to be written.
pub fn value(rng: &mut SmallRng, size: usize, since_epoch: Duration) -> Bytes {
    let mut value = vec![0; size];
    rng.fill(&mut value[..]);
    if let Some(front) = value.get_mut(..8) {
        front.copy_from_slice(&(since_epoch.as_nanos() as u64).to_be_bytes());
    }
    Bytes::from(value)
}

/// When a value was meant to be written.
pub fn written(value: &[u8]) -> Option<Duration> {
    let nanos = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    (nanos > 0).then(|| Duration::from_nanos(nanos))
}
