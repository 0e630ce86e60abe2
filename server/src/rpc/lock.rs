//! The Lock service.

use bytes::Bytes;
use forebay_edge::{Request, Response, grpc};
use forebay_proto::{etcdserverpb::*, v3lockpb::*};
use tonic::Status;

use super::{
    caller::Caller,
    concurrency::{self, Place},
};
use crate::member::Member;

pub(super) async fn lock(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<LockRequest>(request, member.config().max_message_bytes()).await?;
    let caller = Caller::new(member, parts)?;
    let response = caller.in_time(acquire(&caller, &request)).await?;
    Ok(grpc::reply_message(&response))
}

async fn acquire(caller: &Caller, request: &LockRequest) -> Result<LockResponse, Status> {
    let lease = concurrency::session(caller, request.lease).await?;
    let prefix = concurrency::prefix(&request.name);
    let key = concurrency::key(&prefix, lease);
    let own = RangeRequest { key: key.clone(), ..Default::default() };
    let owner = || concurrency::get(concurrency::first(&prefix));
    let taken = caller
        .txn(&TxnRequest {
            compare: vec![concurrency::created_at(&key, 0)],
            success: vec![concurrency::put(&key, Bytes::new(), lease), owner()],
            failure: vec![concurrency::get(own.clone()), owner()],
        })
        .await?;
    let created = concurrency::created(&taken);
    if concurrency::found(&taken, 1).is_none_or(|owner| owner.create_revision == created) {
        return Ok(LockResponse { header: taken.header, key });
    }
    let place = Place::new(caller, key, created);
    concurrency::wait_for_those_before(caller, &prefix, created).await?;
    // The lease may have ended meanwhile, and the key with it.
    let left = caller.range(&own).await?;
    let key = place.key.clone();
    place.keep();
    match left.kvs.is_empty() {
        true => Err(Status::unknown("mutex: session is expired")),
        false => Ok(LockResponse { header: left.header, key }),
    }
}

pub(super) async fn unlock(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, request) = grpc::unary::<UnlockRequest>(request, member.config().max_message_bytes()).await?;
    let caller = Caller::new(member, parts)?;
    let delete = DeleteRangeRequest { key: request.key, ..Default::default() };
    let deleted = caller.in_time(caller.delete(&delete)).await?;
    Ok(grpc::reply_message(&UnlockResponse { header: deleted.header }))
}
