//! The auth matrix: each method of the protocol, for each kind of caller. A method that is added to the protocol fails
//! here until it has a row.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_edge::grpc;
use forebay_proto::{
    DESCRIPTORS, Error,
    etcdserverpb::*,
    v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest},
    v3lockpb,
};
use http::HeaderMap;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};

use crate::{
    auth::{log_in, people, user},
    support::{Node, compaction, delete, get, grant, metadata, put, watch_create, watching},
};

/// A request, and who may make it: in the order of [`CALLERS`] `+` for those who are let in, `e` for whom the name is
/// missing, `t` for whom the token is bad, `d` for whom permission is denied, `c` for
/// whom a stream ends without a word.
struct Row {
    request: Bytes,
    verdicts: &'static str,
}

/// Nobody; somebody with a bad token; a user without rights; one with the right to the key `b`; root.
const CALLERS: [&str; 5] = ["nobody", "a bad token", "eve", "alice", "root"];

const KEYS: &str = "etd++";
const USERS: &str = "et+++";
const ADMIN: &str = "etdd+";

fn row(request: &impl Message, verdicts: &'static str) -> Row {
    Row { request: grpc::encode(request), verdicts }
}

/// What is asked of a method.
fn rows() -> BTreeMap<&'static str, Row> {
    let always = |op| TxnRequest { success: vec![crate::support::op(op)], ..Default::default() };
    let alice = || "alice".to_owned();
    let leader = || Some(LeaderKey { name: "b".into(), key: "b/404".into(), rev: 404, lease: 404 });
    BTreeMap::from([
        ("/etcdserverpb.KV/Range", row(&get("b"), KEYS)),
        ("/etcdserverpb.KV/RangeStream", row(&get("b"), KEYS)),
        ("/etcdserverpb.KV/Put", row(&put("b", "v"), KEYS)),
        ("/etcdserverpb.KV/DeleteRange", row(&delete("b"), KEYS)),
        ("/etcdserverpb.KV/Txn", row(&always(request_op::Request::RequestPut(put("b", "v"))), KEYS)),
        ("/etcdserverpb.KV/Compact", row(&compaction(1), ADMIN)),
        ("/etcdserverpb.Watch/Watch", row(&watch_create(watching("b")), KEYS)),
        ("/etcdserverpb.Lease/LeaseGrant", row(&grant(0, 100), USERS)),
        ("/etcdserverpb.Lease/LeaseRevoke", row(&LeaseRevokeRequest { id: 404 }, USERS)),
        ("/etcdserverpb.Lease/LeaseKeepAlive", row(&LeaseKeepAliveRequest { id: 404 }, USERS)),
        ("/etcdserverpb.Lease/LeaseTimeToLive", row(&LeaseTimeToLiveRequest { id: 404, keys: true }, USERS)),
        ("/etcdserverpb.Lease/LeaseLeases", row(&LeaseLeasesRequest {}, USERS)),
        ("/etcdserverpb.Cluster/MemberList", row(&MemberListRequest { linearizable: true }, USERS)),
        ("/etcdserverpb.Cluster/MemberAdd", row(&MemberAddRequest::default(), ADMIN)),
        ("/etcdserverpb.Cluster/MemberRemove", row(&MemberRemoveRequest { id: 404 }, ADMIN)),
        ("/etcdserverpb.Cluster/MemberUpdate", row(&MemberUpdateRequest { id: 404, ..Default::default() }, ADMIN)),
        ("/etcdserverpb.Cluster/MemberPromote", row(&MemberPromoteRequest { id: 404 }, ADMIN)),
        ("/etcdserverpb.Maintenance/Alarm", row(&AlarmRequest { action: 2, member_id: 1, alarm: 1 }, ADMIN)),
        ("/etcdserverpb.Maintenance/Status", row(&StatusRequest {}, USERS)),
        ("/etcdserverpb.Maintenance/Defragment", row(&DefragmentRequest {}, ADMIN)),
        ("/etcdserverpb.Maintenance/Hash", row(&HashRequest {}, ADMIN)),
        ("/etcdserverpb.Maintenance/HashKV", row(&HashKvRequest::default(), ADMIN)),
        ("/etcdserverpb.Maintenance/Snapshot", row(&SnapshotRequest {}, ADMIN)),
        ("/etcdserverpb.Maintenance/MoveLeader", row(&MoveLeaderRequest { target_id: 404 }, ADMIN)),
        ("/etcdserverpb.Maintenance/Downgrade", row(&DowngradeRequest { action: 0, version: "x".to_owned() }, ADMIN)),
        ("/etcdserverpb.Auth/AuthEnable", row(&AuthEnableRequest {}, ADMIN)),
        // Would end the test.
        ("/etcdserverpb.Auth/AuthDisable", row(&AuthDisableRequest {}, "etdd ")),
        ("/etcdserverpb.Auth/AuthStatus", row(&AuthStatusRequest {}, "+t+++")),
        ("/etcdserverpb.Auth/Authenticate", row(&AuthenticateRequest { name: alice(), password: alice() }, "+++++")),
        ("/etcdserverpb.Auth/UserAdd", row(&user("alice", "x"), ADMIN)),
        ("/etcdserverpb.Auth/UserGet", row(&AuthUserGetRequest { name: alice() }, KEYS)),
        ("/etcdserverpb.Auth/UserList", row(&AuthUserListRequest {}, ADMIN)),
        ("/etcdserverpb.Auth/UserDelete", row(&AuthUserDeleteRequest { name: "404".to_owned() }, ADMIN)),
        ("/etcdserverpb.Auth/UserChangePassword", {
            row(&AuthUserChangePasswordRequest { name: "404".to_owned(), ..Default::default() }, ADMIN)
        }),
        ("/etcdserverpb.Auth/UserGrantRole", row(&crate::auth::grant("alice", "some"), ADMIN)),
        ("/etcdserverpb.Auth/UserRevokeRole", row(&AuthUserRevokeRoleRequest::default(), ADMIN)),
        ("/etcdserverpb.Auth/RoleAdd", row(&AuthRoleAddRequest { name: "some".to_owned() }, ADMIN)),
        ("/etcdserverpb.Auth/RoleGet", row(&AuthRoleGetRequest { role: "some".to_owned() }, KEYS)),
        ("/etcdserverpb.Auth/RoleList", row(&AuthRoleListRequest {}, ADMIN)),
        ("/etcdserverpb.Auth/RoleDelete", row(&AuthRoleDeleteRequest { role: "404".to_owned() }, ADMIN)),
        ("/etcdserverpb.Auth/RoleGrantPermission", row(&AuthRoleGrantPermissionRequest::default(), ADMIN)),
        ("/etcdserverpb.Auth/RoleRevokePermission", row(&AuthRoleRevokePermissionRequest::default(), ADMIN)),
        ("/v3lockpb.Lock/Lock", row(&v3lockpb::LockRequest { name: "b".into(), lease: 0 }, KEYS)),
        ("/v3lockpb.Lock/Unlock", row(&v3lockpb::UnlockRequest { key: "b".into() }, KEYS)),
        ("/v3electionpb.Election/Campaign", row(&CampaignRequest { name: "b".into(), ..Default::default() }, KEYS)),
        ("/v3electionpb.Election/Proclaim", row(&ProclaimRequest { leader: leader(), value: "v".into() }, KEYS)),
        ("/v3electionpb.Election/Leader", row(&LeaderRequest { name: "b".into() }, KEYS)),
        ("/v3electionpb.Election/Observe", row(&LeaderRequest { name: "b".into() }, "ccc++")),
        ("/v3electionpb.Election/Resign", row(&ResignRequest { leader: leader() }, KEYS)),
    ])
}

fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors decode");
    let of_service = |package: &str, service: &prost_types::ServiceDescriptorProto| {
        let path =
            |method: &prost_types::MethodDescriptorProto| format!("/{package}.{}/{}", service.name(), method.name());
        service.method.iter().map(path).collect::<Vec<_>>()
    };
    files
        .file
        .iter()
        .flat_map(|file| file.service.iter().flat_map(|service| of_service(file.package(), service)))
        .collect()
}

/// What the first answer says about the caller's rights.
async fn verdict(node: &Node, path: &str, who: &HeaderMap, request: &Bytes, expected: char) -> char {
    let mut metadata = who.clone();
    if path.starts_with("/v3") {
        // Whoever may wait for others does. A refusal comes when it comes.
        let patience = if expected == '+' { "500m" } else { "60S" };
        metadata.insert("grpc-timeout", http::HeaderValue::from_static(patience));
    }
    let mut call = node.open_with(path, metadata).await;
    call.send_bytes(request.clone());
    let answer = call.next_bytes().await;
    if answer.as_ref().is_err_and(|status| status.code() == Code::Ok) {
        return 'c';
    }
    let refused = match path {
        // Refused in a message, in etcd's printed form.
        "/etcdserverpb.Watch/Watch" => {
            let message = WatchResponse::decode(answer.expect("a message")).expect("a watch response");
            let of = |error: &Error| message.cancel_reason.ends_with(error.message());
            Error::ALL.iter().copied().find(of).filter(|_| message.canceled)
        }
        _ => answer.err().and_then(|status| known(&status)),
    };
    match refused {
        Some(Error::UserEmpty) => 'e',
        Some(Error::InvalidAuthToken) => 't',
        Some(Error::PermissionDenied) => 'd',
        _ => '+',
    }
}

fn known(status: &Status) -> Option<Error> {
    Error::ALL.iter().copied().find(|error| error.message() == status.message())
}

#[tokio::test]
async fn each_method_lets_in_whom_it_should_and_nobody_else() {
    let rows = rows();
    let methods = methods();
    for path in rows.keys() {
        assert!(methods.iter().any(|method| method == path), "{path} is no method");
    }
    let node = Node::start().await;
    people(&node).await;
    let mut callers = vec![HeaderMap::new(), metadata("token", b"AAAAAAAAAAAAAAAA.1")];
    for name in ["eve", "alice", "root"] {
        callers.push(log_in(&node, name).await);
    }
    let mut wrong = Vec::new();
    for path in &methods {
        let Row { request, verdicts } = rows.get(&path[..]).unwrap_or_else(|| panic!("{path} has no row"));
        for ((who, name), expected) in
            callers.iter().zip(CALLERS).zip(verdicts.chars()).filter(|(_, verdict)| *verdict != ' ')
        {
            let found = verdict(&node, path, who, request, expected).await;
            if found != expected {
                wrong.push(format!("{path} for {name}: {found}, and not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn whoever_called_before_auth_came_on_is_judged_when_the_message_is_there() {
    let node = Node::start().await;
    let mut calls = Vec::new();
    for (path, row) in rows() {
        let is_table =
            ["KV/Compact", "Lease/", "Cluster/", "Maintenance/", "Quotas/"].iter().any(|of| path.contains(of));
        if is_table && path != "/etcdserverpb.Lease/LeaseKeepAlive" {
            calls.push((path, row.request, node.open(path).await));
        }
    }
    assert!(calls.len() > 15, "{}", calls.len());
    people(&node).await;
    for (path, request, mut call) in calls {
        call.send_bytes(request);
        let status = call.next_bytes().await.expect_err(path);
        assert_eq!(known(&status), Some(Error::UserEmpty), "{path}: {status}");
    }
}

#[tokio::test]
async fn no_alarm_opens_what_auth_has_closed() {
    let node = Node::start().await;
    people(&node).await;
    let (root, eve) = (log_in(&node, "root").await, log_in(&node, "eve").await);
    let rows = rows();
    for alarm in [AlarmType::Nospace, AlarmType::Corrupt] {
        let raise = AlarmRequest { action: 1, member_id: node.member.id(), alarm: alarm as i32 };
        node.call_with::<AlarmResponse>("/etcdserverpb.Maintenance/Alarm", root.clone(), &raise).await.unwrap();
        for path in [
            "/etcdserverpb.KV/DeleteRange",
            "/etcdserverpb.KV/Txn",
            "/etcdserverpb.KV/Range",
            "/etcdserverpb.Auth/AuthDisable",
        ] {
            let request = rows[path].request.clone();
            let answer = node.send_bytes(path, eve.clone(), request).await.expect_err(path);
            let expected = [Error::PermissionDenied, Error::Corrupt, Error::NoSpace];
            assert!(known(&answer).is_some_and(|error| expected.contains(&error)), "{path}: {answer}");
        }
    }
}
