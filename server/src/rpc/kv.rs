//! The KV service.

use std::{fmt::Display, sync::Arc, time::Instant};

use forebay_edge::{
    Body, Request, Response, grpc,
    listener::{Memory, SHORT},
    range, trace,
};
use forebay_keyspace::{
    check::{self, RangeStreamError},
    eval::{self, RangeChunks, RangeResult, Response as _, TxnResult},
};
use forebay_proto::{Error, NestingError, decode_txn, etcdserverpb::*};
use futures::stream;
use http::request::Parts;
use tonic::Status;

use super::rights;
use crate::{
    apply::{self, Outcome, Tally, describe},
    member::{Deadline, Member, given_up},
    metrics::Kind,
};

pub(super) async fn range(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, range) = grpc::unary::<RangeRequest>(request, member.config().max_message_bytes()).await?;
    if !range.serializable && member.is_learner() {
        return Err(Error::NotSupportedForLearner.into());
    }
    check::range(&range)?;
    let read = Read::begin(&member, Kind::Range);
    let deadline = member.deadline(&parts.headers)?;
    if !range.serializable {
        member.linearize(deadline).await?;
    }
    let caller = member.caller(&parts, deadline).await?;
    member.auth().judge(&caller, |rights| rights.range(&range))?;
    let range = Arc::new(range);
    let span = trace::part("range");
    let result = if is_quick(&member, &range) {
        measure(&member, &range)?
    } else {
        let (member, range) = (member.clone(), range.clone());
        range::in_turn(move || measure(&member, &range)).await.map_err(given_up)??
    };
    drop(span);
    member.auth().confirm(&caller)?;
    let response = format_args!("range_response_count:{}", result.kvs.len());
    read.end("read-only range ", &describe::Range(&range), &response);
    Ok(range::respond(result, &member.header(), &Memory::of(&parts.extensions)))
}

fn is_quick(member: &Member, range: &RangeRequest) -> bool {
    range::is_quick(range, |counting| Some(evaluate(member, counting).ok()?.count))
}

fn evaluate(member: &Member, range: &RangeRequest) -> Result<RangeResult, Error> {
    member.reader().evaluate(|snapshot| eval::range(snapshot, range))
}

/// As [`evaluate`], for a client.
fn measure(member: &Member, range: &RangeRequest) -> Result<RangeResult, Error> {
    let start = Instant::now();
    let result = evaluate(member, range);
    member.metrics().range_seconds.observe(result.is_ok(), start.elapsed());
    Tally::range().count(&member.metrics().apply);
    result
}

/// A request that only reads, from its arrival on.
struct Read<'m> {
    member: &'m Member,
    kind: Kind,
    start: Instant,
    succeeded: bool,
}

impl Read<'_> {
    fn begin(member: &Member, kind: Kind) -> Read<'_> {
        Read { member, kind, start: Instant::now(), succeeded: false }
    }

    /// It is answered.
    fn end(mut self, prefix: &str, request: &dyn Display, response: &dyn Display) {
        self.succeeded = true;
        let (took, expected) = (self.start.elapsed(), self.member.config().warning_apply_duration);
        if took > expected {
            self.member.metrics().apply.slow.inc();
            tracing::warn!(
                ?took,
                "expected-duration" = ?expected,
                prefix,
                %request,
                %response,
                "apply request took too long"
            );
        }
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.member.metrics().request_seconds.observe(self.kind, self.succeeded, self.start.elapsed());
    }
}

/// The response with this result, unless it is larger than etcd sends. One that is long is written once there is memory
/// for it; its head does not wait, since whoever stands in front of us takes what has no head for work that goes on.
fn reply<R>(member: &Member, parts: &Parts, result: R) -> Result<Response, Status>
where
    R: eval::Response + Send + 'static,
{
    let header = member.header_at(result.revision());
    let len = result.encoded_len(&header);
    range::check_len(len)?;
    let write = move || {
        let mut out = grpc::frame(len);
        result.encode(&header, &mut out);
        out.freeze()
    };
    if len <= SHORT {
        return Ok(grpc::reply(write()));
    }
    let memory = Memory::of(&parts.extensions);
    let written = stream::once(async move {
        let held = memory.hold(len).await;
        let written = tokio::task::spawn_blocking(write).await.map_err(given_up)?;
        Ok(held.with(written))
    });
    Ok(grpc::respond(Body::grpc_stream(written)))
}

pub(super) async fn range_stream(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, range) = grpc::unary::<RangeRequest>(request, member.config().max_message_bytes()).await?;
    check::range_stream(&range).map_err(|refused| match refused {
        RangeStreamError::Range(error) => error.into(),
        RangeStreamError::Order | RangeStreamError::Filters => Status::unimplemented(refused.to_string()),
    })?;
    let deadline = member.deadline(&parts.headers)?;
    if !range.serializable {
        member.linearize(deadline).await?;
    }
    let caller = member.caller(&parts, deadline).await?;
    member.auth().judge(&caller, |rights| rights.range(&range))?;
    let auth = member.clone();
    let chunks = RangeChunks::new(member.reader().clone(), range, member.config().max_request_bytes)
        .map(move |chunk| chunk.and_then(|chunk| auth.auth().confirm(&caller).map(|()| chunk)));
    Ok(range::respond_stream(chunks, move || member.header(), None, Memory::of(&parts.extensions)))
}

pub(super) async fn put(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, put) = grpc::unary::<PutRequest>(request, member.config().max_message_bytes()).await?;
    member.check_quota(apply::put_cost(&put))?;
    check::put(&put)?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { put: Some(put), ..Default::default() };
    let Outcome::Put(result) = member.propose(&caller, request, deadline).await? else {
        unreachable!("a put was proposed")
    };
    reply(&member, &parts, result)
}

pub(super) async fn delete_range(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, delete) = grpc::unary::<DeleteRangeRequest>(request, member.config().max_message_bytes()).await?;
    check::delete_range(&delete)?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { delete_range: Some(delete), ..Default::default() };
    let Outcome::DeleteRange(result) = member.propose(&caller, request, deadline).await? else {
        unreachable!("a deletion was proposed")
    };
    reply(&member, &parts, result)
}

pub(super) async fn txn(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, bytes) = grpc::unary_bytes(request, member.config().max_message_bytes()).await?;
    let txn = decode_txn(bytes).map_err(|error| match error {
        // A txn has as many levels as operations at most, so etcd refuses it for those.
        NestingError::TooDeep(_) => Error::TooManyOps.into(),
        error => grpc::malformed(error),
    })?;
    if let cost @ 1.. = apply::txn_cost(&txn) {
        member.check_quota(cost)?;
    }
    check::txn(&txn, member.config().max_txn_ops)?;
    let deadline = member.deadline(&parts.headers)?;
    if eval::is_read_only(&txn) {
        return read(member, &parts, txn, deadline).await;
    }
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { txn: Some(txn), ..Default::default() };
    let Outcome::Txn(result) = member.propose(&caller, request, deadline).await? else {
        unreachable!("a txn was proposed")
    };
    reply(&member, &parts, result)
}

async fn read(member: Member, parts: &Parts, txn: TxnRequest, deadline: Deadline) -> Result<Response, Status> {
    let read = Read::begin(&member, Kind::ReadonlyTxn);
    if !eval::is_serializable(&txn) {
        member.linearize(deadline).await?;
    }
    let caller = member.caller(parts, deadline).await?;
    member.auth().judge(&caller, |rights| rights.txn(&txn, &member.lessor()))?;
    let txn = Arc::new(txn);
    let (reading, asked) = (member.clone(), txn.clone());
    let evaluate = move || -> Result<TxnResult, Error> {
        let result = reading.reader().evaluate(|snapshot| eval::txn_read(snapshot, &asked))?;
        Tally::txn(&asked, &result).count(&reading.metrics().apply);
        Ok(result)
    };
    let evaluated = match eval::ranges(&txn).all(|range| is_quick(&member, range)) {
        // Many that are quick are not.
        true => tokio::task::spawn_blocking(evaluate).await,
        false => range::in_turn(evaluate).await,
    };
    let result = evaluated.map_err(given_up)??;
    member.auth().confirm(&caller)?;
    let size = format_args!("size:{}", result.encoded_len(&member.header_at(result.revision())));
    read.end("read-only txn ", &describe::Txn(&txn), &size);
    reply(&member, parts, result)
}

pub(super) async fn compact(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, compaction) = rights::unary::<CompactionRequest>(&member, request).await?;
    let physical = compaction.physical;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
    let Outcome::Compact(finished) = member.propose(&caller, request, deadline).await? else {
        unreachable!("a compaction was proposed")
    };
    if physical {
        // Removing may take longer than a request waits for raft; only the caller's patience ends it.
        finished.await.map_err(|_| Error::Stopped)?;
    }
    Ok(grpc::reply_message(&CompactionResponse { header: Some(member.header()) }))
}
