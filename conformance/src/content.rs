//! Everything that a member has, by its API; and writing something of every kind.

use forebay_proto::{
    etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmType, AuthRoleListRequest, AuthUserListRequest, CompactionRequest,
        DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest,
        LeaseTimeToLiveRequest, Member, MemberListRequest, MemberUpdateRequest, PutRequest, RangeRequest, RequestOp,
        StatusRequest, TxnRequest, alarm_request::AlarmAction, auth_client::AuthClient, cluster_client::ClusterClient,
        kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op,
    },
    mvccpb::KeyValue,
};

use tonic::transport::Channel;

use crate::{session, target::Target};

/// What a member has.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Keys that are not deleted.
    pub keys: Vec<KeyValue>,
    /// The last revision.
    pub revision: i64,
    /// The hash of the whole history.
    pub hash: u32,
    /// Leases: id, granted TTL, and keys.
    pub leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    /// The members.
    pub members: Vec<Member>,
    /// Raised alarms.
    pub alarms: Vec<AlarmMember>,
}

/// How far raft is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The term.
    pub term: u64,
    /// The last index.
    pub index: u64,
}

/// Asks a member for everything.
pub async fn content(target: &Target) -> anyhow::Result<Content> {
    let channel = session::connect(target).await?;
    let everything = RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    let answer = KvClient::new(channel.clone()).range(everything).await?.into_inner();
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let hash = maintenance.hash_kv(HashKvRequest::default()).await?.into_inner().hash;
    let alarms = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms;
    let mut client = LeaseClient::new(channel.clone());
    let mut leases = Vec::new();
    for lease in client.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases {
        let ask = LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let lease = client.lease_time_to_live(ask).await?.into_inner();
        let mut keys: Vec<Vec<u8>> = lease.keys.iter().map(|key| key.to_vec()).collect();
        keys.sort_unstable();
        leases.push((lease.id, lease.granted_ttl, keys));
    }
    leases.sort_unstable();
    let members = ClusterClient::new(channel).member_list(MemberListRequest::default()).await?.into_inner().members;
    let revision = answer.header.unwrap_or_default().revision;
    Ok(Content { keys: answer.kvs, revision, hash, leases, members, alarms })
}

/// Names of users and roles; `None` where auth is not served.
pub async fn identities(target: &Target) -> anyhow::Result<Option<(Vec<String>, Vec<String>)>> {
    let mut auth = AuthClient::new(session::connect(target).await?);
    match auth.user_list(AuthUserListRequest {}).await {
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
        users => {
            let roles = auth.role_list(AuthRoleListRequest {}).await?.into_inner().roles;
            Ok(Some((users?.into_inner().users, roles)))
        }
    }
}

/// Asks a member how far it is.
pub async fn progress(target: &Target) -> anyhow::Result<Progress> {
    let mut maintenance = MaintenanceClient::new(session::connect(target).await?);
    let status = maintenance.status(StatusRequest {}).await?.into_inner();
    Ok(Progress { term: status.raft_term, index: status.raft_index })
}

fn put(key: String, lease: i64) -> PutRequest {
    PutRequest { value: format!("value of {key}").into(), key: key.into(), lease, ..Default::default() }
}

/// Writes something of every kind, and leaves an alarm raised. `round` keeps the keys of different rounds apart.
pub async fn write(target: &Target, round: &str) -> anyhow::Result<()> {
    let channel = session::connect(target).await?;
    disarm(channel.clone()).await?;
    let mut kv = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel.clone());
    let granted = leases.lease_grant(LeaseGrantRequest { ttl: 3600, id: 0 }).await?.into_inner();
    let revoked = leases.lease_grant(LeaseGrantRequest { ttl: 3600, id: 0 }).await?.into_inner();
    kv.put(put(format!("{round}/revoked"), revoked.id)).await?;
    leases.lease_revoke(LeaseRevokeRequest { id: revoked.id }).await?;
    for n in 0..20 {
        kv.put(put(format!("{round}/{:02}", n % 13), if n % 5 == 0 { granted.id } else { 0 })).await?;
    }
    let ops = ["x", "y"]
        .map(|key| RequestOp { request: Some(request_op::Request::RequestPut(put(format!("{round}/txn/{key}"), 0))) });
    kv.txn(TxnRequest { success: ops.to_vec(), ..Default::default() }).await?;
    let deleted = kv
        .delete_range(DeleteRangeRequest { key: format!("{round}/03").into(), ..Default::default() })
        .await?
        .into_inner();
    let revision = deleted.header.unwrap_or_default().revision - 10;
    kv.compact(CompactionRequest { revision, physical: true }).await?;
    kv.put(put(format!("{round}/last"), 0)).await?;
    // An entry that changes the membership, and leaves it as it is.
    let mut cluster = ClusterClient::new(channel.clone());
    let members = cluster.member_list(MemberListRequest::default()).await?.into_inner().members;
    for Member { id, peer_ur_ls, .. } in members {
        cluster.member_update(MemberUpdateRequest { id, peer_ur_ls }).await?;
    }
    let mut maintenance = MaintenanceClient::new(channel);
    let member_id = maintenance.status(StatusRequest {}).await?.into_inner().header.unwrap_or_default().member_id;
    let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Nospace as i32);
    maintenance.alarm(AlarmRequest { action, member_id, alarm }).await?;
    Ok(())
}

/// Ends every alarm, also those of members that a restore left behind.
async fn disarm(channel: Channel) -> anyhow::Result<()> {
    let mut maintenance = MaintenanceClient::new(channel);
    for AlarmMember { member_id, alarm } in maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms {
        maintenance.alarm(AlarmRequest { action: AlarmAction::Deactivate as i32, member_id, alarm }).await?;
    }
    Ok(())
}
