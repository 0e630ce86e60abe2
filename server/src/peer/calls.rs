//! What members ask of each other beside raft: hashes of what they hold, and what only the leader knows.

use forebay_edge::{Body, Request, Response};
use forebay_keyspace::check;
use forebay_proto::{
    Error, decode_raft_request,
    etcdserverpb::{InternalRaftRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse},
    leasepb::{LeaseInternalRequest, LeaseInternalResponse},
};
use http::{HeaderValue, Method, StatusCode, header};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    client::PATIENCE,
    codec::Bounded,
    identity::{CLUSTER_ID, id_text, text_of},
    receive::Refusal,
    service::{error, greet, json, members, not_allowed},
};
use crate::{
    lease::LeaseError,
    member::Member,
    quotas::{Decided, HOLDS, PROPOSE, peer_status},
};

/// The largest request. It carries an id or a revision.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// A question about the hash of the keys at a revision; 0 is the current one.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct HashKvQuery {
    pub(crate) revision: i64,
}

/// The answer. Numbers that are 0 are left out, as Go does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct HashKvAnswer {
    pub(crate) header: HashKvHeader,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) hash_revision: i64,
}

/// What the answer says of the member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct HashKvHeader {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) revision: i64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Whether a path is answered here.
pub(super) fn knows(path: &str) -> bool {
    matches!(path, "/members/hashkv" | "/downgrade/enabled" | "/leases" | "/leases/internal" | PROPOSE | HOLDS)
        || path.starts_with("/members/promote/")
}

pub(super) async fn answer(member: &Member, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (method, allowed) = (
        request.method().clone(),
        match &path[..] {
            "/members/hashkv" | "/downgrade/enabled" => Method::GET,
            _ => Method::POST,
        },
    );
    if method != allowed {
        return not_allowed(&allowed);
    }
    match &path[..] {
        "/members/hashkv" => hash_kv(member, request).await,
        "/downgrade/enabled" => downgrade_enabled(member).await,
        "/leases" => renew(member, request).await,
        "/leases/internal" => time_to_live(member, request).await,
        PROPOSE => propose(member, request).await,
        HOLDS => Ok(json("{}\n".into())),
        path => promote(member, path.trim_start_matches("/members/promote/")).await,
    }
    .unwrap_or_else(|(status, text)| error(status, &text))
}

async fn body(request: Request) -> Result<bytes::Bytes, Refusal> {
    let read = Bounded::new(request.into_body(), PATIENCE).all(REQUEST_BYTES_MAX).await;
    read.map_err(|_| (StatusCode::BAD_REQUEST, "error reading body".into()))
}

async fn hash_kv(member: &Member, request: Request) -> Result<Response, Refusal> {
    let theirs = text_of(request.headers(), &CLUSTER_ID);
    if theirs.is_some_and(|theirs| theirs != id_text(member.cluster_id())) {
        return Err((StatusCode::PRECONDITION_FAILED, "cluster ID mismatch".into()));
    }
    let query: HashKvQuery = serde_json::from_slice(&body(request).await?)
        .map_err(|_| (StatusCode::BAD_REQUEST, "error unmarshalling request".to_owned()))?;
    let hashed = member.maintaining(move |member| Ok(member.hash_kv(query.revision)?)).await;
    // The text without the name of the server, as its store says it.
    let store_text = |message: &str| message.trim_start_matches("etcdserver: ").to_owned();
    let (hashed, revision) = hashed.map_err(|status| (StatusCode::BAD_REQUEST, store_text(status.message())))?;
    let answer = HashKvAnswer {
        header: HashKvHeader { revision },
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.revision,
    };
    Ok(json(serde_json::to_string(&answer).expect("numbers can be printed")))
}

async fn downgrade_enabled(member: &Member) -> Result<Response, Refusal> {
    member.linearize(member.own_deadline()).await.map_err(|status| {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("failed linearized read: {}", status.message()))
    })?;
    let mut response = Response::new(Body::full(member.downgrade_target().is_some().to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Decodes what another member asks its leader.
async fn decode<M: Message + Default>(request: Request) -> Result<M, Refusal> {
    let body = body(request).await?;
    M::decode(body).map_err(|_| (StatusCode::BAD_REQUEST, "error unmarshalling request".into()))
}

fn protobuf(message: &impl Message) -> Response {
    let mut response = Response::new(Body::full(message.encode_to_vec()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    response
}

fn refuse_lease(refused: LeaseError) -> Refusal {
    let status = match refused {
        LeaseError::Unknown => StatusCode::NOT_FOUND,
        LeaseError::Behind => StatusCode::REQUEST_TIMEOUT,
        LeaseError::Elsewhere => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, refused.to_string())
}

async fn renew(member: &Member, request: Request) -> Result<Response, Refusal> {
    let LeaseKeepAliveRequest { id } = decode(request).await?;
    let ttl = member.renew_here(id).await.map_err(refuse_lease)?;
    Ok(protobuf(&LeaseKeepAliveResponse { id, ttl, header: None }))
}

async fn time_to_live(member: &Member, request: Request) -> Result<Response, Refusal> {
    let query: LeaseInternalRequest = decode(request).await?;
    let query = query.lease_time_to_live_request.unwrap_or_default();
    let answer = member.time_to_live_here(&query).await.map_err(refuse_lease)?;
    Ok(protobuf(&LeaseInternalResponse { lease_time_to_live_response: Some(answer) }))
}

/// Decides about what another member of ours was asked to write, and proposes it.
async fn propose(member: &Member, request: Request) -> Result<Response, Refusal> {
    greet(&member.0.peers, request.headers())?;
    let (most, most_ops) = (member.config().max_request_bytes, member.config().max_txn_ops);
    let bad = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
    let data = Bounded::new(request.into_body(), PATIENCE).all(most).await.map_err(|_| bad("error reading body"))?;
    let request = decode_raft_request(data.clone()).map_err(|_| bad("error unmarshalling request"))?;
    let id = forwarded(&request, most_ops).map_err(|text| bad(&text))?;
    match member.propose_for_peer(&request, id, data).await {
        Ok(Decided::Proposed) => Ok(json("{}\n".into())),
        Ok(Decided::NotHere) => Err((StatusCode::CONFLICT, "not decided here".into())),
        Err(status) => Err((peer_status(&status), status.message().to_owned())),
    }
}

/// The id of a request that a member may ask its leader to propose: nothing but a put or a txn, which that member has
/// checked. What is in the log is carried out by all members, and one that cannot be carried out ends them.
fn forwarded(request: &InternalRaftRequest, max_ops: usize) -> Result<u64, String> {
    let id = request.header.as_ref().map(|header| header.id).filter(|id| *id != 0).ok_or("a request has an id")?;
    let InternalRaftRequest { header, put, txn, .. } = request;
    let rest = InternalRaftRequest { header: header.clone(), put: put.clone(), txn: txn.clone(), ..Default::default() };
    let checked = match (put, txn) {
        (Some(put), None) if rest == *request => check::put(put),
        (None, Some(txn)) if rest == *request => check::txn(txn, max_ops),
        _ => return Err("neither a put nor a txn".into()),
    };
    checked.map(|()| id).map_err(|error| error.message().into())
}

async fn promote(member: &Member, id: &str) -> Result<Response, Refusal> {
    let not_found = || (StatusCode::NOT_FOUND, format!("member {id} not found in cluster"));
    let id: u64 = id.parse().map_err(|_| not_found())?;
    match member.promote_member(id, member.own_deadline()).await {
        Ok(()) => Ok(json(members(member))),
        Err(status) if status.message() == Error::MemberNotFound.message() => {
            Err((StatusCode::NOT_FOUND, "membership: ID not found".into()))
        }
        Err(status) if status.message() == Error::MemberNotLearner.message() => {
            Err((StatusCode::PRECONDITION_FAILED, "membership: can only promote a learner member".into()))
        }
        Err(status) if status.message() == Error::LearnerNotReady.message() => {
            Err((StatusCode::PRECONDITION_FAILED, Error::LearnerNotReady.message().into()))
        }
        Err(status) => {
            tracing::warn!(member_id = id_text(id), error = status.message(), "failed to promote a member");
            let mut response = json("{\"message\":\"Internal Server Error\"}".into());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestHeader, TxnRequest};

    #[test]
    fn nothing_but_a_checked_put_or_txn_is_proposed_for_another_member() {
        let header = Some(RequestHeader { id: 7, ..RequestHeader::default() });
        let put = Some(PutRequest { key: "k".into(), ..PutRequest::default() });
        let fine = InternalRaftRequest { header, put, ..InternalRaftRequest::default() };
        assert_eq!(forwarded(&fine, 1), Ok(7));
        let txn = Some(TxnRequest::default());
        assert_eq!(forwarded(&InternalRaftRequest { put: None, txn: txn.clone(), ..fine.clone() }, 1), Ok(7));

        let refused = |request: InternalRaftRequest| assert!(forwarded(&request, 1).is_err(), "{request:?}");
        refused(InternalRaftRequest { put: None, ..fine.clone() });
        refused(InternalRaftRequest { txn, ..fine.clone() });
        refused(InternalRaftRequest { put: Some(PutRequest::default()), ..fine.clone() });
        refused(InternalRaftRequest { delete_range: Some(DeleteRangeRequest::default()), ..fine.clone() });
        refused(InternalRaftRequest { header: Some(RequestHeader::default()), ..fine.clone() });
        refused(InternalRaftRequest { header: None, id: 7, ..fine });
    }
}
