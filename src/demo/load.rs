//! Who is on stage: an API server that writes at a steady pace, and a controller that lists too much.

use std::time::{Duration, Instant};

use forebay_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, kv_client::KvClient,
    lease_client::LeaseClient, request_op::Request,
};
use tokio::task::JoinSet;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

/// What is listed.
const JOBS: &str = "/registry/jobs/";
/// Puts in one txn; etcd's limit is 128.
const BATCH: u64 = 100;
/// A write that takes longer has failed for its client.
const PATIENCE: Duration = Duration::from_secs(5);
/// The lease that a leader keeps alive.
const LEASE_SECONDS: i64 = 3;

/// What the API server felt.
pub(super) struct Felt {
    /// Of all writes, from the moment when they were due; one that failed counts as its client's patience at least.
    pub(super) latencies: Vec<Duration>,
    pub(super) failed: usize,
    pub(super) lease_kept: bool,
}

async fn connect(at: &str, agent: &'static str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(at.to_owned())?.user_agent(agent)?.connect().await?)
}

/// Writes what will be listed.
pub(super) async fn fill(at: &str, objects: u64, bytes: u64) -> anyhow::Result<()> {
    let channel = connect(at, "demo-setup").await?;
    let value = vec![b'x'; usize::try_from(bytes)?];
    let mut writers = JoinSet::new();
    for first in (0..objects).step_by(BATCH as usize) {
        let put = |number: u64| PutRequest {
            key: format!("{JOBS}default/backup-{number:08}").into(),
            value: value.clone().into(),
            ..Default::default()
        };
        let puts = (first..objects.min(first + BATCH))
            .map(|number| RequestOp { request: Some(Request::RequestPut(put(number))) });
        let txn = TxnRequest { success: puts.collect(), ..Default::default() };
        let mut kv = KvClient::new(channel.clone());
        writers.spawn(async move { kv.txn(txn).await.map(drop) });
        if writers.len() >= 16 {
            writers.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

/// Writes `rate` times a second, whatever becomes of the writes before, and keeps a lease alive.
pub(super) async fn api_server(at: &str, rate: u64, duration: Duration) -> anyhow::Result<Felt> {
    let channel = connect(at, "kube-apiserver").await?;
    let lease = tokio::spawn(keep_lease(channel.clone(), duration));
    let mut writes = JoinSet::new();
    let began = Instant::now();
    for number in 0..(duration.as_secs_f64() * rate as f64) as u32 {
        let due = began + Duration::from_secs_f64(f64::from(number) / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let mut kv = KvClient::new(channel.clone());
        let key = format!("/registry/pods/default/pod-{:04}", number % 1000);
        let put = PutRequest { key: key.into(), value: vec![b'y'; 512].into(), ..Default::default() };
        writes.spawn(async move {
            let written = tokio::time::timeout(PATIENCE, kv.put(put)).await;
            // From when it was due: a writer that could not even begin has waited as well.
            match written {
                Ok(Ok(_)) => (true, due.elapsed()),
                _ => (false, due.elapsed().max(PATIENCE)),
            }
        });
    }
    let outcomes = writes.join_all().await;
    let failed = outcomes.iter().filter(|(is_written, _)| !is_written).count();
    let latencies = outcomes.into_iter().map(|(_, latency)| latency).collect();
    Ok(Felt { failed, latencies, lease_kept: lease.await?.unwrap_or(false) })
}

/// Renews a lease every second, as those who hold leader elections do; whether it was never lost.
async fn keep_lease(channel: Channel, duration: Duration) -> anyhow::Result<bool> {
    let mut leases = LeaseClient::new(channel);
    let id = leases.lease_grant(LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 }).await?.into_inner().id;
    let until = Instant::now() + duration;
    while Instant::now() < until {
        let renewal = tokio_stream::once(LeaseKeepAliveRequest { id });
        let answer = leases.lease_keep_alive(renewal).await?.into_inner().message().await?;
        if answer.is_none_or(|answer| answer.ttl <= 0) {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(true)
}

/// Lists everything from several clients, each again as soon as it was answered. How many lists were answered, and
/// how many refused.
pub(super) async fn storm(at: &str, listers: u64, duration: Duration) -> anyhow::Result<(usize, usize)> {
    let until = Instant::now() + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..listers {
        let channel = connect(at, "cronjob-controller").await?;
        tasks.spawn(async move {
            let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
            let (mut answered, mut refused) = (0, 0);
            while Instant::now() < until {
                let end = format!("{}0", &JOBS[..JOBS.len() - 1]);
                let list = RangeRequest { key: JOBS.into(), range_end: end.into(), ..Default::default() };
                match tokio::time::timeout_at(until.into(), kv.range(list)).await {
                    Ok(Ok(_)) => answered += 1,
                    Ok(Err(status)) => {
                        refused += usize::from(status.code() == Code::ResourceExhausted);
                        // A client without any pause would only measure how fast it can be refused.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(_elapsed) => {}
                }
            }
            (answered, refused)
        });
    }
    let outcomes = tasks.join_all().await;
    Ok(outcomes.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)))
}
