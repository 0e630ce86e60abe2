//! The Lease service.

use forebay_edge::{Body, Request, Response, grpc};
use forebay_proto::{Error, KeyRange, etcdserverpb::*};
use tonic::{Code, Status};

use super::rights;
use crate::{
    apply::Outcome,
    auth::{Caller, Credentials},
    member::Member,
};

pub(super) async fn grant(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, mut grant) = rights::unary::<LeaseGrantRequest>(&member, request).await?;
    member.check_quota(crate::apply::LEASE_COST)?;
    if grant.id == 0 {
        // Positive, so that it reads well in hex, and unlike any other member's.
        grant.id = (member.next_request_id() & i64::MAX as u64) as i64;
    }
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { lease_grant: Some(grant), ..Default::default() };
    let Outcome::LeaseGrant(granted) = member.propose(&caller, request, deadline).await? else {
        unreachable!("a grant was proposed")
    };
    let header = Some(member.header());
    Ok(grpc::reply_message(&LeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, error: String::new() }))
}

pub(super) async fn revoke(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, revoke) = rights::unary::<LeaseRevokeRequest>(&member, request).await?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    let request = InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() };
    member.propose(&caller, request, deadline).await?;
    Ok(grpc::reply_message(&LeaseRevokeResponse { header: Some(member.header()) }))
}

pub(super) async fn time_to_live(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, query) = rights::unary::<LeaseTimeToLiveRequest>(&member, request).await?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = match query.keys {
        true => member.caller(&parts, deadline).await?,
        // That a lease is there may be told to every user.
        false => Caller::nobody(),
    };
    if query.keys {
        member.auth().judge(&caller, |rights| rights.read_lease(query.id, &member.lessor()))?;
    }
    let answer = member.time_to_live(query, deadline).await?;
    // Keys may have been attached since, or rights taken.
    if !answer.keys.is_empty() {
        let mut keys = answer.keys.iter().cloned().map(KeyRange::Key);
        member.auth().judge(&caller, |rights| keys.try_for_each(|key| rights.read(&key)))?;
    }
    Ok(grpc::reply_message(&LeaseTimeToLiveResponse { header: Some(member.header()), ..answer }))
}

pub(super) async fn leases(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, _) = rights::unary::<LeaseLeasesRequest>(&member, request).await?;
    let caller = member.caller(&parts, member.deadline(&parts.headers)?).await?;
    let leases = member.lessor().list();
    member.auth().judge(&caller, |rights| {
        let lessor = member.lessor();
        leases.iter().try_for_each(|id| rights.read_lease(*id, &lessor))
    })?;
    let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
    Ok(grpc::reply_message(&LeaseLeasesResponse { header: Some(member.header()), leases }))
}

pub(super) fn keep_alive(member: Member, request: Request) -> Response {
    let credentials = Member::credentials(&request);
    let (parts, body) = request.into_parts();
    let messages =
        grpc::Messages::<LeaseKeepAliveRequest>::new(&parts.headers, body, member.config().max_message_bytes());
    let answers = futures::stream::unfold(Some((member, credentials, messages)), |state| async move {
        let (member, credentials, mut messages) = state?;
        let next = tokio::select! {
            next = messages.next() => next,
            () = member.draining() => Err(Error::Stopped.into()),
        };
        match next {
            Ok(None) => None,
            Ok(Some(request)) => match renew(&member, &credentials, request.id).await {
                Ok(answer) => Some((Ok(grpc::encode(&answer)), Some((member, credentials, messages)))),
                Err(status) => Some((Err(status), None)),
            },
            Err(status) => {
                // A client that went away is no failure.
                if status.code() != Code::Cancelled && !member.is_draining() {
                    member.metrics().stream_failures.with_label_values(&["receive", "lease-keepalive"]).inc();
                }
                Some((Err(status), None))
            }
        }
    });
    grpc::respond(Body::grpc_stream(answers))
}

/// Renews one lease. The header is taken before, so that its revision is not newer than the renewal.
async fn renew(member: &Member, credentials: &Credentials, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let header = Some(member.header());
    let deadline = member.own_deadline();
    let caller = member.identify(credentials, deadline).await?;
    member.auth().judge(&caller, |rights| {
        rights.user()?;
        rights.write_lease(id, &member.lessor())
    })?;
    let ttl = member.renew(id, deadline).await?;
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}
