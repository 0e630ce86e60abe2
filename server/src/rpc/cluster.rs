//! The Cluster service.

use forebay_edge::{Request, Response, grpc};
use forebay_proto::etcdserverpb::*;
use tonic::Status;

use super::rights;
use crate::{cluster::to_wire, member::Member};

/// The Cluster service answers without a revision.
fn header(member: &Member) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: 0, ..member.header() })
}

pub(super) async fn list(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, list) = rights::unary::<MemberListRequest>(&member, request).await?;
    if list.linearizable {
        member.linearize(member.deadline(&parts.headers)?).await?;
    }
    Ok(grpc::reply_message(&MemberListResponse { header: header(&member), members: member.members() }))
}

pub(super) async fn add(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, add) = rights::unary::<MemberAddRequest>(&member, request).await?;
    let added = member.add_member(add.peer_ur_ls, add.is_learner, member.deadline(&parts.headers)?).await?;
    let added = Some(to_wire(&added));
    Ok(grpc::reply_message(&MemberAddResponse { header: header(&member), member: added, members: member.members() }))
}

pub(super) async fn remove(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, remove) = rights::unary::<MemberRemoveRequest>(&member, request).await?;
    member.remove_member(remove.id, member.deadline(&parts.headers)?).await?;
    Ok(grpc::reply_message(&MemberRemoveResponse { header: header(&member), members: member.members() }))
}

pub(super) async fn update(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, update) = rights::unary::<MemberUpdateRequest>(&member, request).await?;
    member.update_member(update.id, update.peer_ur_ls, member.deadline(&parts.headers)?).await?;
    Ok(grpc::reply_message(&MemberUpdateResponse { header: header(&member), members: member.members() }))
}

pub(super) async fn promote(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, promote) = rights::unary::<MemberPromoteRequest>(&member, request).await?;
    member.promote_member(promote.id, member.deadline(&parts.headers)?).await?;
    Ok(grpc::reply_message(&MemberPromoteResponse { header: header(&member), members: member.members() }))
}
