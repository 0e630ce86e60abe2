//! What Kubernetes' API servers do to etcd, as they do it: every write a txn that compares the revision which was read
//! last, with a read if somebody was faster; lists in pages; heartbeats of nodes; pods that come and go.

use std::time::Duration;

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op, response_op,
};
use rand::{Rng as _, rngs::SmallRng};
use tonic::Status;

use super::scenario::{prefix_end, put_op, value};
use crate::client::Connection;

const PODS: &str = "/registry/pods/";
const LEASES: &str = "/registry/leases/kube-node-lease/";
/// Each API server watches each resource once.
pub const WATCHES: usize = 4;
/// Keys of a page of a list.
const PAGE: i64 = 500;
/// Pods that a client has at most; it deletes some then.
const PODS_MAX: usize = 50;
/// Bytes of a pod, and of a lease.
const POD: usize = 2048;
const LEASE: usize = 500;

/// What a stream watches.
pub fn watched(stream: usize) -> (Bytes, Bytes) {
    let prefix = [PODS, LEASES][stream % 2];
    (prefix.into(), prefix_end(prefix))
}

/// One client: a controller, a kubelet, a node.
#[derive(Debug)]
pub struct Node {
    number: usize,
    /// Names of its pods by number, and the revisions that they were seen at.
    pods: Vec<(u64, i64)>,
    born: u64,
    heartbeat_revision: i64,
}

impl Node {
    /// The node of a client.
    pub fn new(number: usize) -> Node {
        Node { number, pods: Vec::new(), born: 0, heartbeat_revision: 0 }
    }

    /// Does the next thing, and says what it was.
    pub async fn act(
        &mut self,
        client: &mut KvClient<Connection>,
        rng: &mut SmallRng,
        since_epoch: Duration,
    ) -> Result<&'static str, Status> {
        let is_full = self.pods.len() >= PODS_MAX;
        match rng.random_range(0..100) {
            0..40 => self.heartbeat(client, rng, since_epoch).await,
            40..95 if self.pods.is_empty() => self.create(client, rng, since_epoch).await,
            40..55 if is_full => self.delete(client, rng).await,
            40..55 => self.create(client, rng, since_epoch).await,
            55..65 => self.delete(client, rng).await,
            65..95 => self.update(client, rng, since_epoch).await,
            95..98 => {
                let pod = self.pods.first().map_or(0, |(pod, _)| *pod);
                client.range(RangeRequest { key: self.pod(pod), ..Default::default() }).await?;
                Ok("get")
            }
            _ => list(client).await,
        }
    }

    fn pod(&self, pod: u64) -> Bytes {
        Bytes::from(format!("{PODS}bench-{:05}/pod-{pod:08}", self.number))
    }

    async fn heartbeat(
        &mut self,
        client: &mut KvClient<Connection>,
        rng: &mut SmallRng,
        since_epoch: Duration,
    ) -> Result<&'static str, Status> {
        let key = Bytes::from(format!("{LEASES}bench-{:05}", self.number));
        let put = put_op(PutRequest { key: key.clone(), value: value(rng, LEASE, since_epoch), ..Default::default() });
        let answer = client.txn(guarded(key, self.heartbeat_revision, put)).await?.into_inner();
        self.heartbeat_revision = revision_after(&answer);
        Ok("heartbeat")
    }

    async fn create(
        &mut self,
        client: &mut KvClient<Connection>,
        rng: &mut SmallRng,
        since_epoch: Duration,
    ) -> Result<&'static str, Status> {
        self.born += 1;
        let (pod, key) = (self.born, self.pod(self.born));
        let put = put_op(PutRequest { key: key.clone(), value: value(rng, POD, since_epoch), ..Default::default() });
        let answer = client.txn(guarded(key, 0, put)).await?.into_inner();
        // One of an earlier run is taken over as it is.
        self.pods.push((pod, revision_after(&answer)));
        Ok("create")
    }

    async fn update(
        &mut self,
        client: &mut KvClient<Connection>,
        rng: &mut SmallRng,
        since_epoch: Duration,
    ) -> Result<&'static str, Status> {
        let chosen = rng.random_range(0..self.pods.len());
        let (pod, seen) = self.pods[chosen];
        let key = self.pod(pod);
        let put = put_op(PutRequest { key: key.clone(), value: value(rng, POD, since_epoch), ..Default::default() });
        let answer = client.txn(guarded(key, seen, put)).await?.into_inner();
        self.pods[chosen].1 = revision_after(&answer);
        Ok("update")
    }

    async fn delete(&mut self, client: &mut KvClient<Connection>, rng: &mut SmallRng) -> Result<&'static str, Status> {
        let chosen = rng.random_range(0..self.pods.len());
        let (pod, seen) = self.pods.swap_remove(chosen);
        let key = self.pod(pod);
        let delete =
            request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..Default::default() });
        client.txn(guarded(key, seen, RequestOp { request: Some(delete) })).await?;
        Ok("delete")
    }
}

/// Lists all pods, in pages of one revision.
async fn list(client: &mut KvClient<Connection>) -> Result<&'static str, Status> {
    let mut page = RangeRequest { key: PODS.into(), range_end: prefix_end(PODS), limit: PAGE, ..Default::default() };
    loop {
        let answer = client.range(page.clone()).await?.into_inner();
        let Some(last) = answer.kvs.last().filter(|_| answer.more) else { return Ok("list") };
        page.key = [&last.key[..], b"\0"].concat().into();
        page.revision = if page.revision > 0 { page.revision } else { answer.header.map_or(0, |h| h.revision) };
    }
}

/// Does it if the key is as it was seen, and reads it if not.
fn guarded(key: Bytes, seen: i64, op: RequestOp) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(seen)),
        ..Default::default()
    };
    let read = request_op::Request::RequestRange(RangeRequest { key, ..Default::default() });
    TxnRequest { compare: vec![compare], success: vec![op], failure: vec![RequestOp { request: Some(read) }] }
}

/// At which revision the key is now, for all that the answer says.
fn revision_after(answer: &TxnResponse) -> i64 {
    if answer.succeeded {
        return answer.header.map_or(0, |header| header.revision);
    }
    match answer.responses.first().and_then(|op| op.response.as_ref()) {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
        _ => 0,
    }
}
