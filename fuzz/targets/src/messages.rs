//! The messages of etcd's wire and files, each with what can be asked of every one of them.

use forebay_proto::{
    authpb, etcdserverpb, leasepb, membershippb, mvccpb, raftpb, snappb, v3electionpb, v3lockpb, walpb,
};
use prost::Message;

/// The two messages of a gRPC method.
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) request: Kind,
    pub(crate) response: Kind,
}

/// Reads a message, in the form that the name says, and encodes it; `None` if the bytes are no such message.
type Rewrite = fn(&[u8]) -> Option<Vec<u8>>;

/// One type of message.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// From an encoding, of which a message has many, into the one that is written.
    pub(crate) canonical: Rewrite,
    /// From JSON, by another implementation of the mapping than ours.
    pub(crate) from_json: Rewrite,
}

macro_rules! methods {
    ($($path:literal: $request:ty, $response:ty;)*) => {
        const METHODS: &[Method] = &[$(Method {
            path: $path,
            request: Kind { canonical: canonical::<$request>, from_json: from_json::<$request> },
            response: Kind { canonical: canonical::<$response>, from_json: from_json::<$response> },
        },)*];
    };
}

methods! {
    "/etcdserverpb.KV/Range": etcdserverpb::RangeRequest, etcdserverpb::RangeResponse;
    "/etcdserverpb.KV/RangeStream": etcdserverpb::RangeRequest, etcdserverpb::RangeStreamResponse;
    "/etcdserverpb.KV/Put": etcdserverpb::PutRequest, etcdserverpb::PutResponse;
    "/etcdserverpb.KV/DeleteRange": etcdserverpb::DeleteRangeRequest, etcdserverpb::DeleteRangeResponse;
    "/etcdserverpb.KV/Txn": etcdserverpb::TxnRequest, etcdserverpb::TxnResponse;
    "/etcdserverpb.KV/Compact": etcdserverpb::CompactionRequest, etcdserverpb::CompactionResponse;
    "/etcdserverpb.Watch/Watch": etcdserverpb::WatchRequest, etcdserverpb::WatchResponse;
    "/etcdserverpb.Lease/LeaseGrant": etcdserverpb::LeaseGrantRequest, etcdserverpb::LeaseGrantResponse;
    "/etcdserverpb.Lease/LeaseRevoke": etcdserverpb::LeaseRevokeRequest, etcdserverpb::LeaseRevokeResponse;
    "/etcdserverpb.Lease/LeaseKeepAlive": etcdserverpb::LeaseKeepAliveRequest, etcdserverpb::LeaseKeepAliveResponse;
    "/etcdserverpb.Lease/LeaseTimeToLive": etcdserverpb::LeaseTimeToLiveRequest, etcdserverpb::LeaseTimeToLiveResponse;
    "/etcdserverpb.Lease/LeaseLeases": etcdserverpb::LeaseLeasesRequest, etcdserverpb::LeaseLeasesResponse;
    "/etcdserverpb.Cluster/MemberAdd": etcdserverpb::MemberAddRequest, etcdserverpb::MemberAddResponse;
    "/etcdserverpb.Cluster/MemberRemove": etcdserverpb::MemberRemoveRequest, etcdserverpb::MemberRemoveResponse;
    "/etcdserverpb.Cluster/MemberUpdate": etcdserverpb::MemberUpdateRequest, etcdserverpb::MemberUpdateResponse;
    "/etcdserverpb.Cluster/MemberList": etcdserverpb::MemberListRequest, etcdserverpb::MemberListResponse;
    "/etcdserverpb.Cluster/MemberPromote": etcdserverpb::MemberPromoteRequest, etcdserverpb::MemberPromoteResponse;
    "/etcdserverpb.Maintenance/Alarm": etcdserverpb::AlarmRequest, etcdserverpb::AlarmResponse;
    "/etcdserverpb.Maintenance/Status": etcdserverpb::StatusRequest, etcdserverpb::StatusResponse;
    "/etcdserverpb.Maintenance/Defragment": etcdserverpb::DefragmentRequest, etcdserverpb::DefragmentResponse;
    "/etcdserverpb.Maintenance/Hash": etcdserverpb::HashRequest, etcdserverpb::HashResponse;
    "/etcdserverpb.Maintenance/HashKV": etcdserverpb::HashKvRequest, etcdserverpb::HashKvResponse;
    "/etcdserverpb.Maintenance/Snapshot": etcdserverpb::SnapshotRequest, etcdserverpb::SnapshotResponse;
    "/etcdserverpb.Maintenance/MoveLeader": etcdserverpb::MoveLeaderRequest, etcdserverpb::MoveLeaderResponse;
    "/etcdserverpb.Maintenance/Downgrade": etcdserverpb::DowngradeRequest, etcdserverpb::DowngradeResponse;
    "/etcdserverpb.Auth/AuthEnable": etcdserverpb::AuthEnableRequest, etcdserverpb::AuthEnableResponse;
    "/etcdserverpb.Auth/AuthDisable": etcdserverpb::AuthDisableRequest, etcdserverpb::AuthDisableResponse;
    "/etcdserverpb.Auth/AuthStatus": etcdserverpb::AuthStatusRequest, etcdserverpb::AuthStatusResponse;
    "/etcdserverpb.Auth/Authenticate": etcdserverpb::AuthenticateRequest, etcdserverpb::AuthenticateResponse;
    "/etcdserverpb.Auth/UserAdd": etcdserverpb::AuthUserAddRequest, etcdserverpb::AuthUserAddResponse;
    "/etcdserverpb.Auth/UserGet": etcdserverpb::AuthUserGetRequest, etcdserverpb::AuthUserGetResponse;
    "/etcdserverpb.Auth/UserList": etcdserverpb::AuthUserListRequest, etcdserverpb::AuthUserListResponse;
    "/etcdserverpb.Auth/UserDelete": etcdserverpb::AuthUserDeleteRequest, etcdserverpb::AuthUserDeleteResponse;
    "/etcdserverpb.Auth/UserChangePassword": etcdserverpb::AuthUserChangePasswordRequest, etcdserverpb::AuthUserChangePasswordResponse;
    "/etcdserverpb.Auth/UserGrantRole": etcdserverpb::AuthUserGrantRoleRequest, etcdserverpb::AuthUserGrantRoleResponse;
    "/etcdserverpb.Auth/UserRevokeRole": etcdserverpb::AuthUserRevokeRoleRequest, etcdserverpb::AuthUserRevokeRoleResponse;
    "/etcdserverpb.Auth/RoleAdd": etcdserverpb::AuthRoleAddRequest, etcdserverpb::AuthRoleAddResponse;
    "/etcdserverpb.Auth/RoleGet": etcdserverpb::AuthRoleGetRequest, etcdserverpb::AuthRoleGetResponse;
    "/etcdserverpb.Auth/RoleList": etcdserverpb::AuthRoleListRequest, etcdserverpb::AuthRoleListResponse;
    "/etcdserverpb.Auth/RoleDelete": etcdserverpb::AuthRoleDeleteRequest, etcdserverpb::AuthRoleDeleteResponse;
    "/etcdserverpb.Auth/RoleGrantPermission": etcdserverpb::AuthRoleGrantPermissionRequest, etcdserverpb::AuthRoleGrantPermissionResponse;
    "/etcdserverpb.Auth/RoleRevokePermission": etcdserverpb::AuthRoleRevokePermissionRequest, etcdserverpb::AuthRoleRevokePermissionResponse;
    "/v3lockpb.Lock/Lock": v3lockpb::LockRequest, v3lockpb::LockResponse;
    "/v3lockpb.Lock/Unlock": v3lockpb::UnlockRequest, v3lockpb::UnlockResponse;
    "/v3electionpb.Election/Campaign": v3electionpb::CampaignRequest, v3electionpb::CampaignResponse;
    "/v3electionpb.Election/Proclaim": v3electionpb::ProclaimRequest, v3electionpb::ProclaimResponse;
    "/v3electionpb.Election/Leader": v3electionpb::LeaderRequest, v3electionpb::LeaderResponse;
    "/v3electionpb.Election/Observe": v3electionpb::LeaderRequest, v3electionpb::LeaderResponse;
    "/v3electionpb.Election/Resign": v3electionpb::ResignRequest, v3electionpb::ResignResponse;
}

/// What stands in files and between members, beside the methods' messages.
const OTHERS: &[Rewrite] = &[
    canonical::<authpb::Role>,
    canonical::<authpb::User>,
    canonical::<etcdserverpb::InternalRaftRequest>,
    canonical::<etcdserverpb::Metadata>,
    canonical::<leasepb::Lease>,
    canonical::<leasepb::LeaseInternalRequest>,
    canonical::<membershippb::ClusterMemberAttrSetRequest>,
    canonical::<mvccpb::KeyValue>,
    canonical::<raftpb::ConfChange>,
    canonical::<raftpb::ConfChangeV2>,
    canonical::<raftpb::Entry>,
    canonical::<raftpb::HardState>,
    canonical::<raftpb::Message>,
    canonical::<raftpb::Snapshot>,
    canonical::<snappb::Snapshot>,
    canonical::<walpb::Record>,
    canonical::<walpb::Snapshot>,
];

impl Method {
    pub(crate) fn find(path: &str) -> &'static Method {
        METHODS.iter().find(|method| method.path == path).unwrap_or_else(|| panic!("{path} is not in the table"))
    }
}

/// What is read from a message is what is read from it again once it was written.
///
/// Input: the number of the type, then the bytes of the message.
pub fn proto_messages(data: &[u8]) {
    let Some((number, bytes)) = data.split_first() else { return };
    let kinds = METHODS.iter().flat_map(|method| [method.request.canonical, method.response.canonical]);
    let canonical = kinds.chain(OTHERS.iter().copied()).cycle().nth((*number).into()).expect("the cycle has no end");
    if let Some(written) = canonical(bytes) {
        assert_eq!(canonical(&written).as_ref(), Some(&written));
    }
}

fn canonical<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<Vec<u8>> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    let again = M::decode(&written[..]).expect("what prost writes it reads");
    assert_eq!(again, message);
    Some(written)
}

fn from_json<M: Message + serde::de::DeserializeOwned>(json: &[u8]) -> Option<Vec<u8>> {
    serde_json::from_slice::<M>(json).ok().map(|message| message.encode_to_vec())
}
