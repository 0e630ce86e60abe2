//! The client that does nothing wrong.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_proto::etcdserverpb::{kv_client::KvClient, lease_client::LeaseClient, *};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{self, Instant},
};
use tonic::transport::Channel;

use crate::client::connect_from;

/// Where it comes from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const LEASES: i64 = 20;
const TTL: i64 = 5;
/// An answer that comes later is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it noticed in a span of time. Latencies are in microseconds and count from when a request was due, so a server
/// that stalls is charged for everything that was due meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Felt {
    pub answered: u64,
    pub failed: u64,
    pub p50_micros: u64,
    pub p99_micros: u64,
    pub max_micros: u64,
}

struct Counted {
    latencies: Histogram<u64>,
    failed: u64,
}

pub(super) struct Bystander {
    counted: Arc<std::sync::Mutex<Counted>>,
    lost: Arc<AtomicU64>,
    tasks: JoinSet<()>,
    leases: Vec<i64>,
    channel: Channel,
}

impl Bystander {
    pub(super) async fn start(address: SocketAddr, rate: u32) -> anyhow::Result<Bystander> {
        let channels = connect_from(SOURCE, address, 3).await?;
        let counted = Counted { latencies: Histogram::new_with_max(60_000_000, 3)?, failed: 0 };
        let counted = Arc::new(std::sync::Mutex::new(counted));
        let lost = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(put(channels[0].clone(), rate, Arc::clone(&counted)));
        let mut leases = Vec::new();
        for _ in 0..LEASES {
            let grant = LeaseGrantRequest { ttl: TTL, id: 0 };
            let id = LeaseClient::new(channels[1].clone()).lease_grant(grant).await?.into_inner().id;
            leases.push(id);
            tasks.spawn(keep_alive(channels[1].clone(), id, Arc::clone(&lost)));
        }
        Ok(Bystander { counted, lost, tasks, leases, channel: channels[2].clone() })
    }

    /// What was noticed since the last turn.
    pub(super) fn turn(&self) -> Felt {
        let mut counted = self.counted.lock().expect("nobody panics with it");
        let latencies = &counted.latencies;
        let felt = Felt {
            answered: latencies.len(),
            failed: counted.failed,
            p50_micros: latencies.value_at_quantile(0.5),
            p99_micros: latencies.value_at_quantile(0.99),
            max_micros: latencies.max(),
        };
        counted.latencies.clear();
        counted.failed = 0;
        felt
    }

    /// Ends it; returns how many leases were lost.
    pub(super) async fn stop(mut self) -> u64 {
        self.tasks.abort_all();
        let mut lost = 0;
        for id in &self.leases {
            let asked = LeaseTimeToLiveRequest { id: *id, keys: false };
            let mut client = LeaseClient::new(self.channel.clone());
            let answer = time::timeout(PATIENCE, client.lease_time_to_live(asked)).await;
            let lives = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.into_inner().ttl > 0));
            lost += u64::from(!lives);
        }
        lost.max(self.lost.load(Ordering::Relaxed))
    }
}

async fn put(channel: Channel, rate: u32, counted: Arc<std::sync::Mutex<Counted>>) {
    let mut ticks = time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Burst);
    let open = Arc::new(Mutex::new(JoinSet::new()));
    for n in 0u64.. {
        let due: Instant = ticks.tick().await;
        let (channel, counted) = (channel.clone(), Arc::clone(&counted));
        let mut open = open.lock().await;
        while open.try_join_next().is_some() {}
        open.spawn(async move {
            let key = format!("/registry/leases/kube-system/bystander-{}", n % 100).into();
            let put = PutRequest { key, value: vec![b'v'; 100].into(), ..PutRequest::default() };
            let answer = time::timeout(PATIENCE, KvClient::new(channel).put(put)).await;
            let mut counted = counted.lock().expect("nobody panics with it");
            match answer {
                Ok(Ok(_)) => counted.latencies.saturating_record(due.elapsed().as_micros() as u64),
                _ => counted.failed += 1,
            }
        });
    }
}

/// As clients of etcd do: every third of the TTL, on a stream of its own.
async fn keep_alive(channel: Channel, id: i64, lost: Arc<AtomicU64>) {
    let every = Duration::from_millis(TTL.unsigned_abs() * 1000 / 3);
    loop {
        let pings = tokio_stream::StreamExt::throttle(
            tokio_stream::iter(std::iter::repeat(LeaseKeepAliveRequest { id })),
            every,
        );
        let opened = LeaseClient::new(channel.clone()).lease_keep_alive(pings).await;
        if let Ok(answers) = opened {
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                if answer.ttl <= 0 {
                    lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        time::sleep(Duration::from_millis(500)).await;
    }
}
