//! Each method of the protocol for each kind of caller. A method that is new in the protocol fails here until it is said
//! what to ask of it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes};
use forebay_proto::{DESCRIPTORS, etcdserverpb as pb, v3electionpb, v3lockpb};
use futures::{StreamExt as _, stream};
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use super::{auth::people, cases, requests::*};
use crate::session::{LIMIT, Session};

cases! { "rights":
    matrix: "every method without a token, with a bad one, without the right, with it, as root";
}

/// What is asked of a method.
fn requests() -> BTreeMap<&'static str, Bytes> {
    fn of(message: impl Message) -> Bytes {
        message.encode_to_vec().into()
    }
    let leader = || Some(v3electionpb::LeaderKey { name: "b".into(), key: "b/404".into(), rev: 404, lease: 404 });
    let (alice, some) = (|| "alice".to_owned(), || "some".to_owned());
    BTreeMap::from([
        ("/etcdserverpb.KV/Range", of(get("b"))),
        ("/etcdserverpb.KV/RangeStream", of(get("b"))),
        ("/etcdserverpb.KV/Put", of(put("b", "v"))),
        ("/etcdserverpb.KV/DeleteRange", of(del("b"))),
        ("/etcdserverpb.KV/Txn", of(always([put("b", "v").op()]))),
        ("/etcdserverpb.KV/Compact", of(pb::CompactionRequest { revision: 404, physical: true })),
        (
            "/etcdserverpb.Watch/Watch",
            of(pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch("b"))) }),
        ),
        ("/etcdserverpb.Lease/LeaseGrant", of(lease(0, 100))),
        ("/etcdserverpb.Lease/LeaseRevoke", of(revoke(404))),
        ("/etcdserverpb.Lease/LeaseKeepAlive", of(pb::LeaseKeepAliveRequest { id: 404 })),
        ("/etcdserverpb.Lease/LeaseTimeToLive", of(time_to_live(404))),
        ("/etcdserverpb.Lease/LeaseLeases", of(pb::LeaseLeasesRequest {})),
        ("/etcdserverpb.Cluster/MemberList", of(pb::MemberListRequest { linearizable: true })),
        (
            "/etcdserverpb.Cluster/MemberAdd",
            of(pb::MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true }),
        ),
        ("/etcdserverpb.Cluster/MemberRemove", of(pb::MemberRemoveRequest { id: 404 })),
        (
            "/etcdserverpb.Cluster/MemberUpdate",
            of(pb::MemberUpdateRequest { id: 404, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] }),
        ),
        ("/etcdserverpb.Cluster/MemberPromote", of(pb::MemberPromoteRequest { id: 404 })),
        ("/etcdserverpb.Maintenance/Alarm", of(pb::AlarmRequest { action: 2, member_id: 1, alarm: 1 })),
        ("/etcdserverpb.Maintenance/Status", of(pb::StatusRequest {})),
        ("/etcdserverpb.Maintenance/Defragment", of(pb::DefragmentRequest {})),
        ("/etcdserverpb.Maintenance/Hash", of(pb::HashRequest {})),
        ("/etcdserverpb.Maintenance/HashKV", of(pb::HashKvRequest::default())),
        ("/etcdserverpb.Maintenance/Snapshot", of(pb::SnapshotRequest {})),
        ("/etcdserverpb.Maintenance/MoveLeader", of(pb::MoveLeaderRequest { target_id: 404 })),
        ("/etcdserverpb.Maintenance/Downgrade", of(pb::DowngradeRequest { action: 0, version: "x".to_owned() })),
        ("/etcdserverpb.Auth/AuthEnable", of(pb::AuthEnableRequest {})),
        ("/etcdserverpb.Auth/AuthDisable", of(pb::AuthDisableRequest {})),
        ("/etcdserverpb.Auth/AuthStatus", of(pb::AuthStatusRequest {})),
        ("/etcdserverpb.Auth/Authenticate", of(pb::AuthenticateRequest { name: alice(), password: "no".to_owned() })),
        ("/etcdserverpb.Auth/UserAdd", of(pb::AuthUserAddRequest { name: alice(), ..Default::default() })),
        ("/etcdserverpb.Auth/UserGet", of(pb::AuthUserGetRequest { name: alice() })),
        ("/etcdserverpb.Auth/UserList", of(pb::AuthUserListRequest {})),
        ("/etcdserverpb.Auth/UserDelete", of(pb::AuthUserDeleteRequest { name: "404".to_owned() })),
        (
            "/etcdserverpb.Auth/UserChangePassword",
            of(pb::AuthUserChangePasswordRequest { name: "404".to_owned(), ..Default::default() }),
        ),
        ("/etcdserverpb.Auth/UserGrantRole", of(pb::AuthUserGrantRoleRequest { user: alice(), role: some() })),
        ("/etcdserverpb.Auth/UserRevokeRole", of(pb::AuthUserRevokeRoleRequest::default())),
        ("/etcdserverpb.Auth/RoleAdd", of(pb::AuthRoleAddRequest { name: some() })),
        ("/etcdserverpb.Auth/RoleGet", of(pb::AuthRoleGetRequest { role: some() })),
        ("/etcdserverpb.Auth/RoleList", of(pb::AuthRoleListRequest {})),
        ("/etcdserverpb.Auth/RoleDelete", of(pb::AuthRoleDeleteRequest { role: "404".to_owned() })),
        ("/etcdserverpb.Auth/RoleGrantPermission", of(pb::AuthRoleGrantPermissionRequest::default())),
        ("/etcdserverpb.Auth/RoleRevokePermission", of(pb::AuthRoleRevokePermissionRequest::default())),
        ("/v3lockpb.Lock/Lock", of(v3lockpb::LockRequest { name: "b".into(), lease: 0 })),
        ("/v3lockpb.Lock/Unlock", of(v3lockpb::UnlockRequest { key: "b".into() })),
        (
            "/v3electionpb.Election/Campaign",
            of(v3electionpb::CampaignRequest { name: "bb".into(), ..Default::default() }),
        ),
        ("/v3electionpb.Election/Proclaim", of(v3electionpb::ProclaimRequest { leader: leader(), value: "v".into() })),
        ("/v3electionpb.Election/Leader", of(v3electionpb::LeaderRequest { name: "b".into() })),
        ("/v3electionpb.Election/Observe", Bytes::new()),
        ("/v3electionpb.Election/Resign", of(v3electionpb::ResignRequest { leader: leader() })),
    ])
}

async fn matrix(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    let requests = requests();
    for who in ["nobody", "a bad token", "eve", "alice", "root"] {
        s.without_metadata("token");
        match who {
            "nobody" => {}
            "a bad token" => s.metadata("token", b"AAAAAAAAAAAAAAAA.1"),
            name => drop(s.log_in(name, if name == "root" { "toor" } else { "secret" }).await),
        }
        for path in methods()? {
            let request = requests.get(&path[..]).with_context(|| format!("it is not said what to ask of {path}"))?;
            // Of these one waits whoever asks, two would wait for alice, and one would end the case.
            let last = path.rsplit('/').next().unwrap_or_default();
            if last == "Observe" || who == "root" && ["Lock", "Campaign", "AuthDisable"].contains(&last) {
                continue;
            }
            let answer = first_answer(s, &path, request.clone()).await;
            s.note(format!("{path} as {who}"), verdict(&path, answer));
        }
    }
    Ok(())
}

/// Success as such, a refusal with its text.
fn verdict(path: &str, answer: Result<Bytes, Status>) -> Value {
    let refused = |code: Code, text: &str| json!({ "error": { "code": format!("{code:?}"), "message": text } });
    match answer {
        Ok(message) if path == "/etcdserverpb.Watch/Watch" => {
            let reason = pb::WatchResponse::decode(message).map(|response| response.cancel_reason);
            json!({ "cancel_reason": reason.unwrap_or_else(|error| error.to_string()) })
        }
        Ok(_) => json!("ok"),
        Err(status) => refused(status.code(), status.message()),
    }
}

/// The first message of an answer, or the status in its place.
async fn first_answer(s: &Session, path: &str, request: Bytes) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(s.channel.clone()).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).expect("a path");
    let is_duplex = ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"].contains(&path.path());
    let answered = tokio::time::timeout(LIMIT, async {
        let mut answers = if is_duplex {
            // It stays open, so that its end is not the answer.
            let messages = stream::once(async { request }).chain(stream::pending());
            client.streaming(s.prepare(messages), path, Raw).await?.into_inner()
        } else {
            client.server_streaming(s.prepare(request), path, Raw).await?.into_inner()
        };
        answers.message().await?.ok_or_else(|| Status::unknown("conformance: an answer without a message"))
    });
    answered.await.unwrap_or_else(|_| Err(Status::unknown(format!("conformance: no answer in {LIMIT:?}"))))
}

/// The path of every method of every service.
fn methods() -> anyhow::Result<Vec<String>> {
    let files = FileDescriptorSet::decode(DESCRIPTORS)?;
    let mut paths = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())));
        }
    }
    Ok(paths)
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
