//! The Election service.

use bytes::Bytes;
use forebay_edge::{Body, Request, Response, grpc, listener::Memory};
use forebay_proto::{
    Error,
    etcdserverpb::*,
    mvccpb::{Event, KeyValue, event::EventType},
    v3electionpb::*,
};
use prost::Message as _;
use tonic::{Code, Status};

use super::{
    caller::{Caller, Watcher},
    concurrency::{self, Place},
};
use crate::member::Member;

pub(super) async fn campaign(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<CampaignRequest>(request, member.config().max_message_bytes()).await?;
    let caller = Caller::new(member, parts)?;
    let response = caller.in_time(win(&caller, request)).await?;
    Ok(grpc::reply_message(&response))
}

async fn win(caller: &Caller, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let lease = concurrency::session(caller, request.lease).await?;
    let prefix = concurrency::prefix(&request.name);
    let key = concurrency::key(&prefix, lease);
    let own = RangeRequest { key: key.clone(), ..Default::default() };
    let stood = caller
        .txn(&TxnRequest {
            compare: vec![concurrency::created_at(&key, 0)],
            success: vec![concurrency::put(&key, request.value.clone(), lease)],
            failure: vec![concurrency::get(own)],
        })
        .await?;
    let created = concurrency::created(&stood);
    let place = Place::new(caller, key.clone(), created);
    let leader = LeaderKey { name: request.name, key, rev: created, lease };
    if let Some(before) = concurrency::found(&stood, 0)
        && before.value != request.value
    {
        put_value(caller, &leader, request.value).await?;
    }
    let waited = concurrency::wait_for_those_before(caller, &prefix, created).await;
    // Only who gives up waiting gives the place up: a failure leaves it to the lease, as in etcd.
    place.keep();
    waited?;
    Ok(CampaignResponse { header: stood.header, leader: Some(leader) })
}

pub(super) async fn proclaim(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<ProclaimRequest>(request, member.config().max_message_bytes()).await?;
    let caller = Caller::new(member, parts)?;
    let mut leader = request.leader.ok_or_else(no_leader_named)?;
    let proclaimed = async {
        leader.lease = concurrency::session(&caller, leader.lease).await?;
        put_value(&caller, &leader, request.value).await
    };
    let header = caller.in_time(proclaimed).await?;
    Ok(grpc::reply_message(&ProclaimResponse { header }))
}

/// Replaces the value of a leader's key, if it still has it.
async fn put_value(caller: &Caller, leader: &LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
    let answer = caller
        .txn(&TxnRequest {
            compare: vec![concurrency::created_at(&leader.key, leader.rev)],
            success: vec![concurrency::put(&leader.key, value, leader.lease)],
            failure: Vec::new(),
        })
        .await?;
    match answer.succeeded {
        true => Ok(answer.header),
        false => Err(Status::unknown("election: not leader")),
    }
}

pub(super) async fn resign(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<ResignRequest>(request, member.config().max_message_bytes()).await?;
    let caller = Caller::new(member, parts)?;
    let leader = request.leader.ok_or_else(no_leader_named)?;
    let delete = concurrency::delete(&leader.key, leader.rev);
    let answer = caller.in_time(caller.txn(&delete)).await?;
    Ok(grpc::reply_message(&ResignResponse { header: answer.header }))
}

fn no_leader_named() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

pub(super) async fn leader(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<LeaderRequest>(request, member.config().max_message_bytes()).await?;
    let memory = Memory::of(&parts.extensions);
    let caller = Caller::new(member, parts)?;
    let first = concurrency::first(&concurrency::prefix(&request.name));
    let found = caller.in_time(caller.range(&first)).await?;
    let kv = found.kvs.into_iter().next().ok_or_else(|| Status::unknown("election: no leader"))?;
    let response = LeaderResponse { header: found.header, kv: Some(kv) };
    let held = memory.try_hold(response.encoded_len())?;
    Ok(grpc::reply_message(&response).map(|body| body.holding(held)))
}

pub(super) async fn observe(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<LeaderRequest>(request, member.config().max_message_bytes()).await?;
    let memory = Memory::of(&parts.extensions);
    let caller = Caller::new(member.clone(), parts)?;
    let observer = Observer { caller, prefix: concurrency::prefix(&request.name), leader: None, news: Vec::new() };
    let news = futures::stream::try_unfold((member, observer), move |(member, mut observer)| {
        let memory = memory.clone();
        async move {
            let caller = observer.caller.clone();
            match caller.in_time(observer.next()).await {
                Ok(response) => {
                    let held = memory.hold(response.encoded_len()).await;
                    Ok(Some((held.with(grpc::encode(&response)), (member, observer))))
                }
                Err(status) if status.code() == Code::DeadlineExceeded => Err(status),
                Err(_) if member.is_draining() => Err(Error::Stopped.into()),
                // etcd ends the stream without a word when a step of its own fails.
                Err(_) => Ok(None),
            }
        }
    });
    Ok(grpc::respond(Body::grpc_stream(news)))
}

/// Somebody who is told of each leader and of each value.
struct Observer {
    caller: Caller,
    prefix: Bytes,
    /// What happens to the leader's key, while there is one.
    leader: Option<Watcher>,
    /// What is still to be told, the newest first.
    news: Vec<LeaderResponse>,
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(response) = self.news.pop() {
                return Ok(response);
            }
            let Some(watcher) = &mut self.leader else { return self.find().await };
            let WatchResponse { header, events, .. } = watcher.next().await?;
            let values = events.iter().take_while(|event| event.r#type() != EventType::Delete).count();
            if values < events.len() {
                self.leader = None;
            }
            let told = |event: Event| LeaderResponse { header, kv: event.kv };
            self.news = events.into_iter().take(values).map(told).rev().collect();
        }
    }

    /// The leader that there is, or the first that there will be.
    async fn find(&mut self) -> Result<LeaderResponse, Status> {
        let found = self.caller.range(&concurrency::first(&self.prefix)).await?;
        let mut header = found.header.unwrap_or_default();
        let kv = match found.kvs.into_iter().next() {
            Some(kv) => kv,
            None => {
                let kv = self.first_put(header.revision).await?;
                header.revision = kv.mod_revision;
                kv
            }
        };
        let (key, start_revision) = (kv.key.clone(), header.revision + 1);
        self.leader = Some(self.caller.watch(WatchCreateRequest { key, start_revision, ..Default::default() }).await);
        Ok(LeaderResponse { header: Some(header), kv: Some(kv) })
    }

    /// The first key under the prefix that is put at this revision or later.
    async fn first_put(&mut self, start_revision: i64) -> Result<KeyValue, Status> {
        let range_end = concurrency::end(&self.prefix);
        let create = WatchCreateRequest { key: self.prefix.clone(), range_end, start_revision, ..Default::default() };
        let mut watcher = self.caller.watch(create).await;
        loop {
            let events = watcher.next().await?.events;
            if let Some(put) = events.into_iter().find(|event| event.r#type() == EventType::Put) {
                return Ok(put.kv.expect("an event has a record"));
            }
        }
    }
}
