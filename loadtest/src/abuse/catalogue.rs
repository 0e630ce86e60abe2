//! What each entry of the catalogue does.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    kv_client::KvClient, lease_client::LeaseClient, request_op::Request as Op, watch_client::WatchClient,
    watch_request::RequestUnion, *,
};
use serde::Serialize;
use tokio::{io::AsyncWriteExt as _, sync::watch, task::JoinSet, time};
use tonic::{Code, Status, client::Grpc};
use tonic_prost::ProstCodec;

use super::{
    Abuse,
    floods::{self, Flood},
};
use crate::client::{Connection, MAX_ANSWER, Target};

/// Where the abuse comes from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);
const PREFIX: &str = "/registry/jobs/";
const KIB: usize = 1 << 10;

/// What the abuser got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Did {
    /// Calls that were carried out, watches and connections that were opened, frames that were sent.
    pub done: u64,
    /// Calls that were refused as too many or too large, and connections that were ended for what came on them.
    pub refused: u64,
    /// Calls that failed otherwise.
    pub failed: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) done: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Counts {
    fn count<T>(&self, answer: Result<T, Status>) -> bool {
        let counter = match &answer {
            Ok(_) => &self.done,
            Err(status) if status.code() == Code::ResourceExhausted => &self.refused,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer.is_ok()
    }

    fn did(&self) -> Did {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Did { done: read(&self.done), refused: read(&self.refused), failed: read(&self.failed) }
    }
}

/// Writes what is listed and watched.
pub async fn preload(target: &Target, size: f64) -> anyhow::Result<()> {
    let mut client = KvClient::new(target.connect(1).await?.remove(0));
    let count = scaled(size, 20_000);
    for from in (0..count).step_by(100) {
        let puts = (from..(from + 100).min(count)).map(|n| put_op(format!("{PREFIX}default/job-{n:06}"), KIB));
        client.txn(TxnRequest { success: puts.collect(), ..TxnRequest::default() }).await?;
    }
    Ok(())
}

/// So many of something, scaled.
fn scaled(size: f64, count: u32) -> usize {
    ((f64::from(count) * size) as usize).max(1)
}

/// Abuses a target, from an address of its own if there can be one, until it is told to stop.
pub async fn abuse(
    abuse: Abuse,
    target: &Target,
    size: f64,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<Did> {
    let target = &Target { source: Some(SOURCE), ..target.clone() };
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let clients = match abuse {
        Abuse::ListAll => 16,
        Abuse::WatchFlood => scaled(size, 10_000).div_ceil(100),
        Abuse::HugeTxn | Abuse::BigValues => 8,
        Abuse::LeaseChurn => 32,
        Abuse::KeySpray => 64,
        Abuse::SlowReaders => scaled(size, 64),
        Abuse::ConnectionFlood => scaled(size, 2_000),
        Abuse::OpenStreams | Abuse::RapidReset | Abuse::FrameFlood => 1,
    };
    let frames: Option<&'static [Flood]> = match abuse {
        Abuse::OpenStreams => Some(&[Flood::Streams]),
        Abuse::RapidReset => Some(&[Flood::Resets]),
        Abuse::FrameFlood => Some(&floods::FRAMES),
        _ => None,
    };
    if let Some(kinds) = frames {
        tasks.spawn(floods::flood(target.clone(), kinds, Arc::clone(&counts)));
    } else if abuse == Abuse::ConnectionFlood {
        for n in 0..clients {
            tasks.spawn(flood(target.clone(), n, Arc::clone(&counts)));
        }
    } else {
        let channels = target.connect(clients.min(16)).await?;
        for n in 0..clients {
            let (channel, counts) = (channels[n % channels.len()].clone(), Arc::clone(&counts));
            tasks.spawn(async move {
                for turn in 0u64.. {
                    let went_on = match abuse {
                        Abuse::ListAll => counts.count(list(&channel).await),
                        Abuse::WatchFlood => watches(&channel, &counts).await,
                        Abuse::HugeTxn => {
                            let key = |op| format!("{PREFIX}huge/{n}/{turn}/{op}");
                            let success = (0..128).map(|op| put_op(key(op), 8 * KIB)).collect();
                            let txn = TxnRequest { success, ..TxnRequest::default() };
                            counts.count(KvClient::new(channel.clone()).txn(txn).await)
                        }
                        Abuse::BigValues => {
                            let put = put(format!("{PREFIX}big/{n}/{}", turn % 4), 1 << 20);
                            counts.count(KvClient::new(channel.clone()).put(put).await)
                        }
                        Abuse::LeaseChurn => counts.count(churn(&channel, n, turn).await),
                        Abuse::KeySpray => {
                            let put = put(format!("{PREFIX}spray/{n}/{turn}"), 64);
                            counts.count(KvClient::new(channel.clone()).put(put).await)
                        }
                        Abuse::SlowReaders => hold(&channel, &counts).await,
                        Abuse::ConnectionFlood | Abuse::OpenStreams | Abuse::RapidReset | Abuse::FrameFlood => {
                            unreachable!("they have tasks of their own")
                        }
                    };
                    if !went_on {
                        time::sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        }
    }
    let _ = stopped.wait_for(|stopped| *stopped).await;
    tasks.shutdown().await;
    Ok(counts.did())
}

fn put(key: String, bytes: usize) -> PutRequest {
    PutRequest { key: key.into(), value: Bytes::from(vec![b'v'; bytes]), ..PutRequest::default() }
}

fn put_op(key: String, bytes: usize) -> RequestOp {
    RequestOp { request: Some(Op::RequestPut(put(key, bytes))) }
}

fn everything() -> RangeRequest {
    RangeRequest { key: PREFIX.into(), range_end: "/registry/jobs0".into(), ..RangeRequest::default() }
}

async fn list(channel: &Connection) -> Result<(), Status> {
    let mut client = KvClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    client.range(everything()).await.map(drop)
}

/// A hundred watches of everything since the first revision, on one stream, for as long as it lasts.
async fn watches(channel: &Connection, counts: &Counts) -> bool {
    let create = WatchCreateRequest {
        key: PREFIX.into(),
        range_end: "/registry/jobs0".into(),
        start_revision: 1,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::iter(std::iter::repeat_n(create, 100)), tokio_stream::pending());
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let opened = client.watch(requests).await;
    let Ok(stream) = opened else { return counts.count(opened) };
    let mut stream = stream.into_inner();
    loop {
        match stream.message().await {
            Ok(Some(answer)) if answer.created && answer.canceled => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some(answer)) if answer.created => {
                counts.done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(status) => return counts.count(Err::<(), _>(status)),
        }
    }
}

async fn churn(channel: &Connection, n: usize, turn: u64) -> Result<(), Status> {
    let mut leases = LeaseClient::new(channel.clone());
    let id = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
    let put = PutRequest { lease: id, ..put(format!("{PREFIX}churn/{n}/{turn}"), 64) };
    KvClient::new(channel.clone()).put(put).await?;
    leases.lease_revoke(LeaseRevokeRequest { id }).await.map(drop)
}

/// A list of which nothing but the head is read.
async fn hold(channel: &Connection, counts: &Counts) -> bool {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    if grpc.ready().await.is_err() {
        return counts.count(Err::<(), _>(Status::unavailable("the connection is gone")));
    }
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let codec: ProstCodec<RangeRequest, RangeResponse> = ProstCodec::default();
    let answer = grpc.server_streaming(tonic::Request::new(everything()), path, codec).await;
    match answer {
        Ok(unread) => {
            counts.done.fetch_add(1, Ordering::Relaxed);
            time::sleep(Duration::from_secs(3600)).await;
            drop(unread);
            true
        }
        Err(status) => counts.count(Err::<(), _>(status)),
    }
}

/// Half of the connections say nothing, the others begin and go away.
async fn flood(target: Target, n: usize, counts: Arc<Counts>) {
    loop {
        match target.dial().await {
            Ok(mut stream) => {
                counts.done.fetch_add(1, Ordering::Relaxed);
                if n.is_multiple_of(2) {
                    let mut byte = [0; 1];
                    // Until the server has had enough of it.
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
                } else {
                    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                }
            }
            Err(_) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}
