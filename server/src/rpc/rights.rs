//! What each method needs while auth is on. What is not in this table is not served.

use forebay_edge::{Request, grpc};
use http::request::Parts;
use prost::Message;
use tonic::Status;

use crate::{
    auth::Credentials,
    member::{Deadline, Member},
};

/// What somebody must have to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: who logs in is nobody yet, and who looks after machines knows no users.
    Nothing,
    /// To be some user. The method may ask for more, once it has read what is wanted.
    User,
    /// Role root.
    Admin,
    /// Rights to the keys that the request names. Apply judges what it carries out, the method what it answers itself.
    Keys,
    /// What apply says, by whom the request is about.
    Apply,
}

/// The table.
pub(super) fn need(path: &str) -> Option<Need> {
    Some(match path {
        "/etcdserverpb.KV/Range" => Need::Keys,
        "/etcdserverpb.KV/RangeStream" => Need::Keys,
        "/etcdserverpb.KV/Put" => Need::Keys,
        "/etcdserverpb.KV/DeleteRange" => Need::Keys,
        "/etcdserverpb.KV/Txn" => Need::Keys,
        "/etcdserverpb.KV/Compact" => Need::Admin,
        "/etcdserverpb.Watch/Watch" => Need::Keys,
        "/etcdserverpb.Lease/LeaseGrant" => Need::User,
        "/etcdserverpb.Lease/LeaseRevoke" => Need::User,
        "/etcdserverpb.Lease/LeaseKeepAlive" => Need::Keys,
        "/etcdserverpb.Lease/LeaseTimeToLive" => Need::User,
        "/etcdserverpb.Lease/LeaseLeases" => Need::User,
        "/etcdserverpb.Cluster/MemberList" => Need::User,
        "/etcdserverpb.Cluster/MemberAdd" => Need::Admin,
        "/etcdserverpb.Cluster/MemberRemove" => Need::Admin,
        "/etcdserverpb.Cluster/MemberUpdate" => Need::Admin,
        "/etcdserverpb.Cluster/MemberPromote" => Need::Admin,
        "/etcdserverpb.Maintenance/Alarm" => Need::User,
        "/etcdserverpb.Maintenance/Status" => Need::User,
        "/etcdserverpb.Maintenance/Defragment" => Need::Admin,
        "/etcdserverpb.Maintenance/Hash" => Need::Admin,
        "/etcdserverpb.Maintenance/HashKV" => Need::Admin,
        "/etcdserverpb.Maintenance/Snapshot" => Need::Admin,
        "/etcdserverpb.Maintenance/MoveLeader" => Need::Admin,
        "/etcdserverpb.Maintenance/Downgrade" => Need::Admin,
        "/etcdserverpb.Auth/Authenticate" => Need::Nothing,
        "/etcdserverpb.Auth/AuthEnable" => Need::Apply,
        "/etcdserverpb.Auth/AuthDisable" => Need::Apply,
        "/etcdserverpb.Auth/AuthStatus" => Need::Apply,
        "/etcdserverpb.Auth/UserAdd" => Need::Apply,
        "/etcdserverpb.Auth/UserGet" => Need::Apply,
        "/etcdserverpb.Auth/UserList" => Need::Apply,
        "/etcdserverpb.Auth/UserDelete" => Need::Apply,
        "/etcdserverpb.Auth/UserChangePassword" => Need::Apply,
        "/etcdserverpb.Auth/UserGrantRole" => Need::Apply,
        "/etcdserverpb.Auth/UserRevokeRole" => Need::Apply,
        "/etcdserverpb.Auth/RoleAdd" => Need::Apply,
        "/etcdserverpb.Auth/RoleGet" => Need::Apply,
        "/etcdserverpb.Auth/RoleList" => Need::Apply,
        "/etcdserverpb.Auth/RoleDelete" => Need::Apply,
        "/etcdserverpb.Auth/RoleGrantPermission" => Need::Apply,
        "/etcdserverpb.Auth/RoleRevokePermission" => Need::Apply,
        "/v3lockpb.Lock/Lock" => Need::Keys,
        "/v3lockpb.Lock/Unlock" => Need::Keys,
        "/v3electionpb.Election/Campaign" => Need::Keys,
        "/v3electionpb.Election/Proclaim" => Need::Keys,
        "/v3electionpb.Election/Leader" => Need::Keys,
        "/v3electionpb.Election/Observe" => Need::Keys,
        "/v3electionpb.Election/Resign" => Need::Keys,
        // It limits everybody, and tells how much everybody has.
        forebay_proto::quotas::HOLD => Need::Admin,
        "/grpc.health.v1.Health/Check" => Need::Nothing,
        "/grpc.health.v1.Health/Watch" => Need::Nothing,
        _ => return None,
    })
}

/// Lets a caller in, or not.
pub(super) async fn admit(
    member: &Member,
    need: Need,
    credentials: &Credentials,
    deadline: Deadline,
) -> Result<(), Status> {
    let caller = member.identify(credentials, deadline).await?;
    Ok(member.auth().judge(&caller, |rights| match need {
        Need::Admin => rights.admin(),
        Need::User => rights.user(),
        Need::Nothing | Need::Keys | Need::Apply => Ok(()),
    })?)
}

/// Reads the message of a call that needs a user or role root, and judges its caller once more: auth may have come on,
/// or a right have gone, while the message was awaited.
pub(super) async fn unary<M: Message + Default>(member: &Member, request: Request) -> Result<(Parts, M), Status> {
    let (parts, message) = grpc::unary(request, member.config().max_message_bytes()).await?;
    if let Some(need) = need(parts.uri.path()).filter(|_| member.auth().is_enabled()) {
        let credentials = Credentials::of(&parts.headers, &parts.extensions);
        admit(member, need, &credentials, member.deadline(&parts.headers)?).await?;
    }
    Ok((parts, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::DESCRIPTORS;
    use prost_types::FileDescriptorSet;

    #[test]
    fn every_method_of_the_protocol_has_its_verdict() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors decode");
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(need(&path).is_some(), "{path} is served to nobody before it is said what it needs");
                }
            }
        }
    }
}
