//! One client of one target: it sends requests and writes down every answer.
//!
//! A method returns the response, or `None` for an error: both are in the record, and that is where
//! they are judged.

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use forebay_proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient,
};
use forebay_proto::{
    v3electionpb::{self, election_client::ElectionClient},
    v3lockpb::{self, lock_client::LockClient},
};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    outcome::{Names, Step, describe, object, outcome},
    streams::{KeepAliveStream, WatchStream},
    target::Target,
};

/// How long one answer may take.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A connection to a target and the record of what it answered.
#[derive(Debug)]
pub struct Session {
    /// The connection, for requests that are not recorded.
    pub channel: Channel,
    /// What stands for this run's ids.
    pub names: Names,
    /// The target's addresses, for requests that are not gRPC.
    pub client: std::net::SocketAddr,
    /// Everything recorded so far.
    pub steps: Vec<Step>,
    metadata: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    leases: usize,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident: $client:ident.$call:ident($request:ty) -> $response:ty;)*) => {
        impl Session {
            $(
                $(#[$doc])*
                pub async fn $method(&mut self, request: $request) -> Option<$response> {
                    let mut client = $client::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
                    let prepared = self.prepare(request.clone());
                    let answer = within(async move { client.$call(prepared).await }).await;
                    self.record(stringify!($method), &request, &answer);
                    answer.ok()
                }
            )*
        }
    };
}

unary! {
    /// KV.Range.
    range: KvClient.range(pb::RangeRequest) -> pb::RangeResponse;
    /// KV.Put.
    put: KvClient.put(pb::PutRequest) -> pb::PutResponse;
    /// KV.DeleteRange.
    delete: KvClient.delete_range(pb::DeleteRangeRequest) -> pb::DeleteRangeResponse;
    /// KV.Txn.
    txn: KvClient.txn(pb::TxnRequest) -> pb::TxnResponse;
    /// KV.Compact.
    compact: KvClient.compact(pb::CompactionRequest) -> pb::CompactionResponse;
    /// Lease.LeaseRevoke.
    revoke: LeaseClient.lease_revoke(pb::LeaseRevokeRequest) -> pb::LeaseRevokeResponse;
    /// Lease.LeaseLeases.
    leases: LeaseClient.lease_leases(pb::LeaseLeasesRequest) -> pb::LeaseLeasesResponse;
    /// Cluster.MemberList.
    member_list: ClusterClient.member_list(pb::MemberListRequest) -> pb::MemberListResponse;
    /// Cluster.MemberAdd.
    member_add: ClusterClient.member_add(pb::MemberAddRequest) -> pb::MemberAddResponse;
    /// Cluster.MemberRemove.
    member_remove: ClusterClient.member_remove(pb::MemberRemoveRequest) -> pb::MemberRemoveResponse;
    /// Cluster.MemberUpdate.
    member_update: ClusterClient.member_update(pb::MemberUpdateRequest) -> pb::MemberUpdateResponse;
    /// Cluster.MemberPromote.
    member_promote: ClusterClient.member_promote(pb::MemberPromoteRequest) -> pb::MemberPromoteResponse;
    /// Maintenance.Alarm.
    alarm: MaintenanceClient.alarm(pb::AlarmRequest) -> pb::AlarmResponse;
    /// Maintenance.HashKV.
    hash_kv: MaintenanceClient.hash_kv(pb::HashKvRequest) -> pb::HashKvResponse;
    /// Maintenance.Defragment.
    defragment: MaintenanceClient.defragment(pb::DefragmentRequest) -> pb::DefragmentResponse;
    /// Maintenance.MoveLeader.
    move_leader: MaintenanceClient.move_leader(pb::MoveLeaderRequest) -> pb::MoveLeaderResponse;
    /// Maintenance.Downgrade.
    downgrade: MaintenanceClient.downgrade(pb::DowngradeRequest) -> pb::DowngradeResponse;
    /// Auth.AuthEnable.
    auth_enable: AuthClient.auth_enable(pb::AuthEnableRequest) -> pb::AuthEnableResponse;
    /// Auth.AuthDisable.
    auth_disable: AuthClient.auth_disable(pb::AuthDisableRequest) -> pb::AuthDisableResponse;
    /// Auth.AuthStatus.
    auth_status: AuthClient.auth_status(pb::AuthStatusRequest) -> pb::AuthStatusResponse;
    /// Auth.UserAdd.
    user_add: AuthClient.user_add(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse;
    /// Auth.UserGet.
    user_get: AuthClient.user_get(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse;
    /// Auth.UserList.
    user_list: AuthClient.user_list(pb::AuthUserListRequest) -> pb::AuthUserListResponse;
    /// Auth.UserDelete.
    user_delete: AuthClient.user_delete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse;
    /// Auth.UserChangePassword.
    user_change_password: AuthClient.user_change_password(pb::AuthUserChangePasswordRequest)
        -> pb::AuthUserChangePasswordResponse;
    /// Auth.UserGrantRole.
    user_grant_role: AuthClient.user_grant_role(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse;
    /// Auth.UserRevokeRole.
    user_revoke_role: AuthClient.user_revoke_role(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse;
    /// Auth.RoleAdd.
    role_add: AuthClient.role_add(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse;
    /// Auth.RoleGet.
    role_get: AuthClient.role_get(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse;
    /// Auth.RoleList.
    role_list: AuthClient.role_list(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse;
    /// Auth.RoleDelete.
    role_delete: AuthClient.role_delete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse;
    /// Auth.RoleGrantPermission.
    role_grant_permission: AuthClient.role_grant_permission(pb::AuthRoleGrantPermissionRequest)
        -> pb::AuthRoleGrantPermissionResponse;
    /// Auth.RoleRevokePermission.
    role_revoke_permission: AuthClient.role_revoke_permission(pb::AuthRoleRevokePermissionRequest)
        -> pb::AuthRoleRevokePermissionResponse;
    /// Lock.Lock.
    lock: LockClient.lock(v3lockpb::LockRequest) -> v3lockpb::LockResponse;
    /// Lock.Unlock.
    unlock: LockClient.unlock(v3lockpb::UnlockRequest) -> v3lockpb::UnlockResponse;
    /// Election.Campaign.
    campaign: ElectionClient.campaign(v3electionpb::CampaignRequest) -> v3electionpb::CampaignResponse;
    /// Election.Proclaim.
    proclaim: ElectionClient.proclaim(v3electionpb::ProclaimRequest) -> v3electionpb::ProclaimResponse;
    /// Election.Leader.
    election_leader: ElectionClient.leader(v3electionpb::LeaderRequest) -> v3electionpb::LeaderResponse;
    /// Election.Resign.
    resign: ElectionClient.resign(v3electionpb::ResignRequest) -> v3electionpb::ResignResponse;
}

impl Session {
    /// Connects and learns what this run calls its cluster, its members and its term.
    pub async fn open(target: &Target) -> anyhow::Result<Session> {
        let channel = connect(target).await?;
        let members = ClusterClient::new(channel.clone()).member_list(pb::MemberListRequest::default()).await?;
        let members = members.into_inner();
        let header = members.header.context("MemberList answers with a header")?;
        let mut names = Names::default();
        names.id(header.cluster_id, "cluster");
        for (index, member) in members.members.iter().enumerate() {
            names.id(member.id, format!("member {index}"));
        }
        // A gateway may answer under an identity of its own.
        names.id(header.member_id, "answering member");
        names.term(header.raft_term);
        for (address, name) in
            [(target.client, "client address"), (target.member, "client address"), (target.peer, "peer address")]
        {
            names.text(&address.to_string(), name);
        }
        let (steps, metadata) = Default::default();
        Ok(Session { channel, names, client: target.client, steps, metadata, leases: 0 })
    }

    /// Sends this metadata with every request from now on.
    pub fn metadata(&mut self, name: &'static str, value: &[u8]) {
        self.metadata.retain(|(own, _)| own != name);
        let value = MetadataValue::try_from(value).expect("metadata has no control characters");
        self.metadata.push((MetadataKey::from_static(name), value));
    }

    /// Sends this metadata no more.
    pub fn without_metadata(&mut self, name: &str) {
        self.metadata.retain(|(own, _)| own != name);
    }

    /// A request with the session's metadata.
    pub fn prepare<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        for (name, value) in &self.metadata {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        request
    }

    /// Writes down a request and its answer.
    pub fn record<R>(&mut self, method: &str, request: &(impl Serialize + std::fmt::Debug), answer: &Result<R, Status>)
    where
        R: Serialize,
    {
        let call = describe(&self.names, method, request);
        self.steps.push(Step { call, outcome: outcome(&self.names, answer.as_ref()) });
    }

    /// Writes down something that was observed otherwise.
    pub fn note(&mut self, what: impl Into<String>, outcome: Value) {
        self.steps.push(Step { call: what.into(), outcome });
    }

    /// Lease.LeaseGrant. An id that the server chose is called `lease 1`, `lease 2` and so on.
    pub async fn grant(&mut self, request: pb::LeaseGrantRequest) -> Option<pb::LeaseGrantResponse> {
        let mut client = LeaseClient::new(self.channel.clone());
        let prepared = self.prepare(request);
        let answer = within(async move { client.lease_grant(prepared).await }).await;
        if let Ok(granted) = &answer
            && request.id == 0
        {
            self.leases += 1;
            let sign = if granted.id > 0 { "lease" } else { "non-positive lease" };
            self.names.id(granted.id, format!("{sign} {}", self.leases));
        }
        self.record("grant", &request, &answer);
        answer.ok()
    }

    /// Lease.LeaseTimeToLive. How much of a TTL is left depends on when one asks, so what is recorded
    /// is whether it is the granted TTL, a little less, or neither.
    pub async fn time_to_live(&mut self, request: pb::LeaseTimeToLiveRequest) -> Option<pb::LeaseTimeToLiveResponse> {
        let mut client = LeaseClient::new(self.channel.clone());
        let prepared = self.prepare(request);
        let answer = within(async move { client.lease_time_to_live(prepared).await }).await;
        let mut tree = outcome(&self.names, answer.as_ref());
        if let Ok(lease) = &answer
            && lease.granted_ttl > 0
        {
            tree["TTL"] = match lease.granted_ttl - lease.ttl {
                0 => json!("granted"),
                1..=5 => json!("just below granted"),
                _ => json!(lease.ttl),
            };
        }
        let call = describe(&self.names, "time_to_live", &request);
        self.note(call, tree);
        answer.ok()
    }

    /// Maintenance.Status. Sizes and indices are recorded by how they relate.
    pub async fn status(&mut self) -> Option<pb::StatusResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let mut answer = within(client.status(self.prepare(pb::StatusRequest {}))).await;
        // A member proposes on its own too (its name, its storage version): an entry can be on its way for a moment.
        for _ in 0..50 {
            if !answer.as_ref().is_ok_and(|status| status.raft_applied_index != status.raft_index) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = within(client.status(self.prepare(pb::StatusRequest {}))).await;
        }
        let mut tree = outcome(&self.names, answer.as_ref());
        if let Ok(status) = &answer {
            let parts: Vec<Option<u64>> = status.version.split('.').map(|part| part.parse().ok()).collect();
            tree["version"] = json!(if parts.len() == 3 && !parts.contains(&None) { "three numbers" } else { "odd" });
            // Go's printer puts one or two spaces between fields, by the build.
            // Alarms come in the order of a Go map.
            let words = |error: &String| error.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut errors: Vec<String> = status.errors.iter().map(words).collect();
            errors.sort();
            tree["errors"] = errors.iter().map(|error| json!(self.names.in_text(error))).collect();
            tree["dbSize"] = json!(if status.db_size > 0 { "positive" } else { "not positive" });
            tree["dbSizeInUse"] =
                json!(if (1..=status.db_size).contains(&status.db_size_in_use) { "within dbSize" } else { "odd" });
            tree["raftIndex"] = json!(if status.raft_index > 0 { "positive" } else { "zero" });
            tree["raftAppliedIndex"] =
                json!(if status.raft_applied_index == status.raft_index { "raftIndex" } else { "another" });
        }
        self.note("status", tree);
        answer.ok()
    }

    /// Maintenance.Hash. The hash covers this run's ids, so only the rest is compared.
    pub async fn hash(&mut self) -> Option<pb::HashResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let prepared = self.prepare(pb::HashRequest {});
        let answer = within(async move { client.hash(prepared).await }).await;
        let mut tree = outcome(&self.names, answer.as_ref());
        if tree.get("hash").is_some() {
            tree["hash"] = json!("a hash");
        }
        self.note("hash", tree);
        answer.ok()
    }

    /// KV.RangeStream, all of its messages.
    pub async fn range_stream(&mut self, request: pb::RangeRequest) -> Vec<pb::RangeStreamResponse> {
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let prepared = self.prepare(request.clone());
        let (messages, end) = collect(async move { client.range_stream(prepared).await }).await;
        let trees = messages.iter().map(|message| self.names.tree(message)).collect();
        let call = describe(&self.names, "range_stream", &request);
        self.note(call, object([("messages", Value::Array(trees)), ("end", self.end(&end))]));
        messages
    }

    /// Maintenance.Snapshot, as the rules it keeps; the database itself holds this run's ids.
    pub async fn snapshot(&mut self) -> Vec<pb::SnapshotResponse> {
        let mut client = MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let prepared = self.prepare(pb::SnapshotRequest {});
        let (messages, end) = collect(async move { client.snapshot(prepared).await }).await;
        let total: usize = messages.iter().map(|message| message.blob.len()).sum();
        let mut left = (total as u64).saturating_sub(messages.last().map_or(0, |last| last.blob.len() as u64));
        let counts_down = messages.iter().rev().skip(1).rev().all(|message| {
            left -= message.blob.len() as u64;
            message.remaining_bytes == left
        });
        let rules = json!({
            "remaining_bytes counts down to 0": counts_down,
            "largest blob": messages.iter().map(|message| message.blob.len()).max(),
            "last blob": messages.last().map(|message| (message.blob.len(), message.remaining_bytes)),
            "versions": messages.iter().map(|message| message.version.as_str()).collect::<std::collections::BTreeSet<_>>(),
            "headers": messages.iter().filter(|message| message.header.is_some()).count(),
            "whole pages": (total.saturating_sub(32)).is_multiple_of(4096),
            "end": self.end(&end),
        });
        self.note("snapshot", rules);
        messages
    }

    /// Auth.Authenticate; the token is not recorded. Later requests carry it.
    pub async fn log_in(&mut self, name: &str, password: &str) -> Option<pb::AuthenticateResponse> {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let mut client = AuthClient::new(self.channel.clone());
        let prepared = self.prepare(request.clone());
        let answer = within(async move { client.authenticate(prepared).await }).await;
        let mut tree = outcome(&self.names, answer.as_ref());
        if let Ok(given) = &answer {
            let (letters, index) = given.token.split_once('.').unwrap_or_default();
            let simple = letters.len() >= 16
                && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
                && index.parse::<u64>().is_ok();
            tree["token"] = json!(if simple { "at least 16 letters, a dot and a number" } else { "odd" });
            self.metadata("token", given.token.as_bytes());
        }
        let call = describe(&self.names, "authenticate", &request);
        self.note(call, tree);
        answer.ok()
    }

    /// KV.Range without a record.
    pub async fn range_quietly(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let prepared = self.prepare(request);
        within(async move { client.range(prepared).await }).await
    }

    /// Any unary method by its path, for methods and services that the protocol does not have.
    pub async fn unary(&mut self, path: &'static str, request: pb::RangeRequest) {
        let channel = self.channel.clone();
        let prepared = self.prepare(request.clone());
        let answer: Result<pb::RangeResponse, Status> = within(async move {
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::default();
            client.unary(prepared, tonic::codegen::http::uri::PathAndQuery::from_static(path), codec).await
        })
        .await;
        self.record(path, &request, &answer);
    }

    /// Opens a Watch stream with the session's metadata.
    pub fn watch(&self) -> WatchStream {
        WatchStream::open(self)
    }

    /// Opens a LeaseKeepAlive stream.
    pub fn keep_alive(&self) -> KeepAliveStream {
        KeepAliveStream::open(self)
    }

    /// The current revision, not recorded.
    pub async fn revision(&self) -> anyhow::Result<i64> {
        let request = pb::RangeRequest { key: "\0".into(), ..Default::default() };
        let response = KvClient::new(self.channel.clone()).range(self.prepare(request)).await?.into_inner();
        Ok(response.header.context("Range answers with a header")?.revision)
    }

    fn end(&self, end: &Result<(), Status>) -> Value {
        match end {
            Ok(()) => json!("ok"),
            Err(status) => outcome(&self.names, Err::<&(), _>(status)),
        }
    }
}

/// A connection for every message that etcd can send.
pub async fn connect(target: &Target) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(target.url())?.connect_timeout(Duration::from_secs(5));
    endpoint.connect().await.with_context(|| format!("no connection to {}", target.kind))
}

async fn within<R>(answer: impl Future<Output = Result<tonic::Response<R>, Status>>) -> Result<R, Status> {
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::new(Code::Unknown, format!("conformance: no answer in {LIMIT:?}"))),
    }
}

async fn collect<R>(
    answer: impl Future<Output = Result<tonic::Response<tonic::Streaming<R>>, Status>>,
) -> (Vec<R>, Result<(), Status>) {
    let mut messages = Vec::new();
    let mut stream = match within(answer).await {
        Ok(stream) => stream,
        Err(status) => return (messages, Err(status)),
    };
    loop {
        match tokio::time::timeout(LIMIT, stream.message()).await {
            Ok(Ok(Some(message))) => messages.push(message),
            Ok(Ok(None)) => return (messages, Ok(())),
            Ok(Err(status)) => return (messages, Err(status)),
            Err(_) => return (messages, Err(Status::unknown(format!("conformance: no message in {LIMIT:?}")))),
        }
    }
}
