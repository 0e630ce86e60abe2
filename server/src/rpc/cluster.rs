//! The Cluster service. Membership changes come with the cluster; until then they are refused by name.

use forebay_edge::{Request, Response, grpc};
use forebay_proto::etcdserverpb::{MemberListRequest, MemberListResponse};
use tonic::Status;

use crate::member::Member;

pub(super) async fn list(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, list) = grpc::unary::<MemberListRequest>(request, member.config().max_message_bytes()).await?;
    if list.linearizable {
        member.linearize(member.deadline(&parts.headers)?).await?;
    }
    // The Cluster service answers without a revision.
    let header = Some(forebay_proto::etcdserverpb::ResponseHeader { revision: 0, ..member.header() });
    Ok(grpc::reply_message(&MemberListResponse { header, members: member.members() }))
}
