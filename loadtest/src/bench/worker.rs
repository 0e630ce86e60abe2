//! One client of a flow: what it does with each request that it is handed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    lease_client::LeaseClient,
    request_op,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    k8s::Node,
    raw,
    scenario::{Action, Shape, prefix_end, put_op, value},
    watchers::watchers_of,
};
use crate::client::{Connection, MAX_ANSWER};

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// Seconds of the leases that are renewed.
const TTL: i64 = 60;

/// A client, with what it remembers.
#[derive(Debug)]
pub struct Worker {
    shape: Arc<Shape>,
    connection: Connection,
    /// Those of all clients: a replay chooses by who sent a request.
    connections: Arc<[Connection]>,
    kv: KvClient<Connection>,
    rng: SmallRng,
    /// How many it has done, and how many clients there are: together they go through the keys.
    done: u64,
    number: u64,
    clients: u64,
    lease: Option<Lease>,
    node: Node,
    /// How many watchers hear of what it wrote last.
    pub heard_by: u64,
}

/// A lease and the stream that renews it.
#[derive(Debug)]
struct Lease {
    id: i64,
    renewals: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Worker {
    /// Client `number` of so many, on the connection of that place.
    pub fn new(
        shape: &Arc<Shape>,
        connections: &Arc<[Connection]>,
        place: usize,
        seed: u64,
        (number, clients): (usize, usize),
    ) -> Worker {
        let connection = connections[place % connections.len()].clone();
        Worker {
            shape: Arc::clone(shape),
            kv: KvClient::new(connection.clone()).max_decoding_message_size(MAX_ANSWER),
            connection,
            connections: Arc::clone(connections),
            rng: SmallRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            done: 0,
            number: number as u64,
            clients: clients as u64,
            lease: None,
            node: Node::new(number),
            heard_by: 0,
        }
    }

    /// Does it once, as request `slot` of its flow; returns what it turned out to be, if that is not what its flow is
    /// named after.
    pub async fn act(
        &mut self,
        action: Action,
        slot: u64,
        since_epoch: Duration,
    ) -> Result<Option<&'static str>, Status> {
        self.done += 1;
        match action {
            Action::Put => {
                let key = self.key(self.shape.key_space);
                self.put(key, since_epoch).await?;
            }
            Action::PutWatched => {
                let number = self.some(self.shape.watched_keys);
                self.heard_by = watchers_of(&self.shape, number);
                self.put(self.shape.key(number), since_epoch).await?;
            }
            Action::Range => {
                let request = self.range();
                raw::call(&self.connection, RANGE, &request).await?;
            }
            Action::RangeStream => {
                let request = self.range();
                raw::call(&self.connection, RANGE_STREAM, &request).await?;
            }
            Action::List => {
                let (key, range_end) = self.shape.all();
                let request = RangeRequest { key, range_end, ..self.range() };
                raw::call(&self.connection, RANGE, &request).await?;
            }
            Action::TxnPut => {
                let success = self.puts(since_epoch);
                raw::call(&self.connection, TXN, &TxnRequest { success, ..Default::default() }).await?;
            }
            Action::TxnMixed => {
                let reads = self.shape.read_write_ratio / (1.0 + self.shape.read_write_ratio);
                let success = if self.rng.random_bool(reads.clamp(0.0, 1.0)) {
                    vec![RequestOp { request: Some(request_op::Request::RequestRange(self.range())) }]
                } else {
                    self.puts(since_epoch)
                };
                raw::call(&self.connection, TXN, &TxnRequest { success, ..Default::default() }).await?;
            }
            Action::KeepAlive => self.keep_alive().await?,
            Action::Stm => self.transact(since_epoch).await?,
            Action::Replay => {
                let recording = Arc::clone(self.shape.recording.as_ref().expect("invariant: a replay has a recording"));
                return recording.send(slot, &self.connections, &mut self.rng, since_epoch).await.map(Some);
            }
            Action::K8s => return self.node.act(&mut self.kv, &mut self.rng, since_epoch).await.map(Some),
        }
        Ok(None)
    }

    fn key(&mut self, space: u64) -> Bytes {
        let number = self.some(space);
        self.shape.key(number)
    }

    /// The number of the next key.
    fn some(&mut self, space: u64) -> u64 {
        let space = space.max(1);
        if self.shape.sequential {
            (self.number + (self.done - 1) * self.clients) % space
        } else {
            self.rng.random_range(0..space)
        }
    }

    async fn put(&mut self, key: Bytes, since_epoch: Duration) -> Result<(), Status> {
        let value = value(&mut self.rng, self.shape.value_size, since_epoch);
        raw::call(&self.connection, PUT, &PutRequest { key, value, ..Default::default() }).await
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = match &self.shape.range {
            Some(range) => range.clone(),
            // With a limit, also what follows.
            None if self.shape.limit > 0 => (self.key(self.shape.key_space), prefix_end(&self.shape.prefix)),
            None => (self.key(self.shape.key_space), Bytes::new()),
        };
        RangeRequest {
            key,
            range_end,
            limit: self.shape.limit,
            serializable: self.shape.serializable,
            keys_only: self.shape.keys_only,
            count_only: self.shape.count_only,
            ..Default::default()
        }
    }

    /// Puts of keys that follow each other: a txn may put each once.
    fn puts(&mut self, since_epoch: Duration) -> Vec<RequestOp> {
        let space = self.shape.key_space.max(1);
        let first = self.rng.random_range(0..space);
        let count = (self.shape.txn_ops as u64).clamp(1, space);
        let put = |number| {
            let value = value(&mut self.rng, self.shape.value_size, since_epoch);
            put_op(PutRequest { key: self.shape.key((first + number) % space), value, ..Default::default() })
        };
        (0..count).map(put).collect()
    }

    async fn keep_alive(&mut self) -> Result<(), Status> {
        // Taken out, so that one whose stream broke is not used again.
        let mut lease = match self.lease.take() {
            Some(lease) => lease,
            None => Lease::grant(&self.connection).await?,
        };
        let gone = || Status::unavailable("the stream of renewals ended");
        lease.renewals.send(LeaseKeepAliveRequest { id: lease.id }).await.map_err(|_| gone())?;
        let answer = lease.answers.message().await?.ok_or_else(gone)?;
        if answer.ttl <= 0 {
            return Err(Status::not_found("the lease has expired"));
        }
        self.lease = Some(lease);
        Ok(())
    }

    /// Reads keys, and writes some of them if all are as they were read. Again, until nobody is faster.
    async fn transact(&mut self, since_epoch: Duration) -> Result<(), Status> {
        let keys: std::collections::BTreeSet<Bytes> =
            (0..self.shape.keys_per_txn.max(1)).map(|_| self.key(self.shape.key_space)).collect();
        loop {
            let mut compare = Vec::new();
            for key in &keys {
                let answer = self.kv.range(RangeRequest { key: key.clone(), ..Default::default() }).await?.into_inner();
                compare.push(Compare {
                    result: CompareResult::Equal as i32,
                    target: CompareTarget::Mod as i32,
                    key: key.clone(),
                    target_union: Some(TargetUnion::ModRevision(answer.kvs.first().map_or(0, |kv| kv.mod_revision))),
                    ..Default::default()
                });
            }
            let mut success = Vec::new();
            for key in &keys {
                if self.rng.random_range(0..100) < self.shape.write_percent {
                    let value = value(&mut self.rng, self.shape.value_size, since_epoch);
                    success.push(put_op(PutRequest { key: key.clone(), value, ..Default::default() }));
                }
            }
            let answer = self.kv.txn(TxnRequest { compare, success, failure: Vec::new() }).await?.into_inner();
            if answer.succeeded {
                return Ok(());
            }
        }
    }
}

impl Lease {
    async fn grant(connection: &Connection) -> Result<Lease, Status> {
        let mut client = LeaseClient::new(connection.clone());
        let id = client.lease_grant(LeaseGrantRequest { ttl: TTL, id: 0 }).await?.into_inner().id;
        let (renewals, requests) = mpsc::channel(1);
        // etcd sends the head of its response with the first answer, so a request goes first.
        renewals.try_send(LeaseKeepAliveRequest { id }).map_err(|error| Status::internal(error.to_string()))?;
        let mut answers = client.lease_keep_alive(ReceiverStream::new(requests)).await?.into_inner();
        answers.message().await?;
        Ok(Lease { id, renewals, answers })
    }
}
