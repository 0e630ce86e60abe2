//! The Quotas service: which quotas the cluster holds. It is ours, and no etcd has it.

use forebay_edge::{Request, Response, grpc};
use forebay_proto::quotas::{HoldRequest, HoldResponse};
use tonic::Status;

use super::rights;
use crate::member::Member;

pub(super) async fn hold(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, asked) = rights::unary::<HoldRequest>(&member, request).await?;
    let deadline = member.deadline(&parts.headers)?;
    let held = member.holds_quotas().await;
    if held && !asked.quotas.is_empty() {
        let caller = member.caller(&parts, deadline).await?;
        member.hold(&caller, &asked.policy, asked.quotas, deadline).await?;
    }
    let quotas = member.recorded(&asked.policy);
    let (header, usage) = (Some(member.header()), member.quota_usage());
    Ok(grpc::reply_message(&HoldResponse { header, held, quotas, usage }))
}
