//! The Auth service, and what it does to the others.

use forebay_proto::{
    authpb::{Permission, UserAddOptions},
    etcdserverpb as pb,
};

use super::{cases, maintenance::settle, requests::*};
use crate::{session::Session, streams::Shape};

cases! { "auth":
    users: "adding, listing, granting, deleting";
    roles: "adding, listing, permissions, deleting";
    enable_and_disable: "what is needed, what it changes";
    without_a_token: "every service without a token while auth is on";
    with_a_bad_token: "a token that nobody gave";
    passwords: "wrong, empty, changed, forbidden, too long";
    key_permissions: "reads and writes inside and outside of a user's ranges";
    range_stream_permissions: "the same for RangeStream";
    admin_only: "what only root may do";
    watch_permissions: "a watch that may not be";
    lease_permissions: "leases and the keys on them";
    management_rules: "what may not be taken from root";
    revisions: "which changes raise the auth revision";
}

/// A token that nobody gave. Its number is a raft index that has been: for a later one a member would wait.
const NOBODYS: &[u8] = b"AAAAAAAAAAAAAAAA.1";

fn user(name: &str, password: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest { name: name.to_owned(), password: password.to_owned(), ..Default::default() }
}

fn role(name: &str) -> pb::AuthRoleAddRequest {
    pb::AuthRoleAddRequest { name: name.to_owned() }
}

fn give(user: &str, role: &str) -> pb::AuthUserGrantRoleRequest {
    pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }
}

/// `kind`: 0 reads, 1 writes, 2 does both.
fn permit(role: &str, kind: i32, key: &'static str, end: &'static str) -> pb::AuthRoleGrantPermissionRequest {
    let perm = Permission { perm_type: kind, key: key.into(), range_end: end.into() };
    pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }
}

/// root with role root, alice who reads a..c and writes b..d, and eve who may do nothing with keys.
pub(super) async fn people(s: &mut Session) {
    s.user_add(user("root", "toor")).await;
    s.role_add(role("root")).await;
    s.user_grant_role(give("root", "root")).await;
    s.user_add(user("alice", "secret")).await;
    s.user_add(user("eve", "secret")).await;
    s.role_add(role("some")).await;
    s.role_grant_permission(permit("some", 0, "a", "c")).await;
    s.role_grant_permission(permit("some", 1, "b", "d")).await;
    s.user_grant_role(give("alice", "some")).await;
    for key in ["a", "b", "c", "d"] {
        s.put(put(key, key)).await;
    }
    s.auth_enable(pb::AuthEnableRequest {}).await;
}

async fn users(s: &mut Session) -> anyhow::Result<()> {
    let get_user = |name: &str| pb::AuthUserGetRequest { name: name.to_owned() };
    s.user_list(pb::AuthUserListRequest {}).await;
    s.user_add(user("", "x")).await;
    s.user_add(user("bob", "x")).await;
    s.user_add(user("bob", "y")).await;
    s.user_add(user("alice", "")).await;
    let options = Some(UserAddOptions { no_password: true });
    s.user_add(pb::AuthUserAddRequest { options, ..user("certificate", "") }).await;
    s.user_list(pb::AuthUserListRequest {}).await;
    s.user_get(get_user("bob")).await;
    s.user_get(get_user("nobody")).await;
    s.user_grant_role(give("bob", "no role")).await;
    s.role_add(role("r2")).await;
    s.role_add(role("r1")).await;
    s.user_grant_role(give("nobody", "r1")).await;
    s.user_grant_role(give("bob", "r2")).await;
    s.user_grant_role(give("bob", "r1")).await;
    s.user_grant_role(give("bob", "r1")).await;
    s.user_get(get_user("bob")).await;
    let take = |user: &str, role: &str| pb::AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
    s.user_revoke_role(take("bob", "r1")).await;
    s.user_revoke_role(take("bob", "r1")).await;
    s.user_revoke_role(take("nobody", "r1")).await;
    s.user_get(get_user("bob")).await;
    for name in ["bob", "bob", "nobody"] {
        s.user_delete(pb::AuthUserDeleteRequest { name: name.to_owned() }).await;
    }
    s.user_list(pb::AuthUserListRequest {}).await;
    Ok(())
}

async fn roles(s: &mut Session) -> anyhow::Result<()> {
    let get_role = |role: &str| pb::AuthRoleGetRequest { role: role.to_owned() };
    s.role_get(get_role("root")).await;
    s.role_add(role("")).await;
    s.role_add(role("r")).await;
    s.role_add(role("r")).await;
    s.role_add(role("root")).await;
    s.role_get(get_role("root")).await;
    s.role_list(pb::AuthRoleListRequest {}).await;
    for (kind, key, end) in [
        (0, "b", ""),
        (1, "b", ""),
        (2, "a", "c"),
        (0, "x", FROM),
        (0, "", FROM),
        (0, "", ""),
        (0, "c", "a"),
        (0, "c", "c"),
        (9, "k", ""),
    ] {
        s.role_grant_permission(permit("r", kind, key, end)).await;
    }
    s.role_grant_permission(permit("nobody", 0, "a", "")).await;
    s.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: None }).await;
    s.role_get(get_role("r")).await;
    for (role, key, end) in [("r", "b", ""), ("r", "b", ""), ("r", "a", "b"), ("r", "a", "c"), ("nobody", "a", "")] {
        let (role, key, range_end) = (role.to_owned(), key.into(), end.into());
        s.role_revoke_permission(pb::AuthRoleRevokePermissionRequest { role, key, range_end }).await;
    }
    s.role_get(get_role("r")).await;
    s.user_add(user("bob", "x")).await;
    s.user_grant_role(give("bob", "r")).await;
    for name in ["r", "r", "root"] {
        s.role_delete(pb::AuthRoleDeleteRequest { role: name.to_owned() }).await;
    }
    s.user_get(pb::AuthUserGetRequest { name: "bob".to_owned() }).await;
    s.role_list(pb::AuthRoleListRequest {}).await;
    Ok(())
}

async fn enable_and_disable(s: &mut Session) -> anyhow::Result<()> {
    s.auth_status(pb::AuthStatusRequest {}).await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    s.log_in("root", "toor").await;
    s.auth_enable(pb::AuthEnableRequest {}).await;
    s.user_add(user("root", "toor")).await;
    s.auth_enable(pb::AuthEnableRequest {}).await;
    s.user_grant_role(give("root", "root")).await;
    s.auth_enable(pb::AuthEnableRequest {}).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    s.log_in("root", "toor").await;
    s.auth_enable(pb::AuthEnableRequest {}).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    s.put(put("a", "a token that is no more")).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    Ok(())
}

/// One request of every service.
async fn everything(s: &mut Session) {
    s.range(get("a")).await;
    s.range(pb::RangeRequest { serializable: true, ..get("a") }).await;
    s.put(put("b", "1")).await;
    s.delete(del("b")).await;
    s.txn(always([])).await;
    s.txn(always([get("a").op()])).await;
    s.txn(always([put("b", "").op()])).await;
    s.compact(pb::CompactionRequest { revision: 2, physical: true }).await;
    s.grant(lease(5, 100)).await;
    s.keep_alive().renew(s, 5).await;
    s.time_to_live(pb::LeaseTimeToLiveRequest { id: 5, keys: false }).await;
    s.leases(pb::LeaseLeasesRequest {}).await;
    s.revoke(revoke(5)).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    s.member_remove(pb::MemberRemoveRequest { id: 404 }).await;
    s.member_promote(pb::MemberPromoteRequest { id: 404 }).await;
    s.alarm(pb::AlarmRequest::default()).await;
    s.alarm(pb::AlarmRequest { action: 2, member_id: 1, alarm: 1 }).await;
    s.status().await;
    s.hash().await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.defragment(pb::DefragmentRequest {}).await;
    s.move_leader(pb::MoveLeaderRequest { target_id: 404 }).await;
    s.downgrade(pb::DowngradeRequest { action: 0, version: "3.6.0".to_owned() }).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    s.user_list(pb::AuthUserListRequest {}).await;
    s.user_get(pb::AuthUserGetRequest { name: "root".to_owned() }).await;
    s.user_get(pb::AuthUserGetRequest { name: "alice".to_owned() }).await;
    s.role_list(pb::AuthRoleListRequest {}).await;
    s.role_get(pb::AuthRoleGetRequest { role: "some".to_owned() }).await;
    s.role_get(pb::AuthRoleGetRequest { role: "root".to_owned() }).await;
    s.user_add(user("new", "x")).await;
    s.role_add(role("new")).await;
    s.auth_enable(pb::AuthEnableRequest {}).await;
}

async fn without_a_token(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    everything(s).await;
    s.snapshot().await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    Ok(())
}

async fn with_a_bad_token(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    s.metadata("token", NOBODYS);
    everything(s).await;
    s.snapshot().await;
    s.log_in("alice", "secret").await;
    Ok(())
}

async fn passwords(s: &mut Session) -> anyhow::Result<()> {
    let change = |name: &str, password: &str| pb::AuthUserChangePasswordRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        hashed_password: String::new(),
    };
    s.user_add(user("empty", "")).await;
    let options = Some(UserAddOptions { no_password: true });
    s.user_add(pb::AuthUserAddRequest { options, ..user("certificate", "") }).await;
    s.user_add(user("long", &"x".repeat(73))).await;
    s.user_add(user("just right", &"x".repeat(72))).await;
    people(s).await;
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "secret"),
        ("", ""),
        ("certificate", ""),
        ("certificate", "x"),
        ("empty", ""),
        ("empty", "x"),
        ("alice", "secret"),
    ] {
        s.log_in(name, password).await;
    }
    s.range(get("a")).await;
    s.user_change_password(change("alice", "mine")).await;
    s.log_in("root", "toor").await;
    s.user_change_password(change("alice", "changed")).await;
    s.user_change_password(change("nobody", "changed")).await;
    s.user_change_password(change("alice", &"x".repeat(73))).await;
    s.without_metadata("token");
    s.log_in("alice", "secret").await;
    s.log_in("alice", "changed").await;
    s.range(get("a")).await;
    Ok(())
}

async fn key_permissions(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    s.log_in("alice", "secret").await;
    for (key, end) in [("a", ""), ("b", ""), ("c", ""), ("a", "b"), ("a", "c"), ("a", "cc"), ("a", FROM), (FROM, FROM)]
    {
        s.range(range(key, end)).await;
        s.range(pb::RangeRequest { serializable: true, count_only: true, ..range(key, end) }).await;
        s.delete(del_range(key, end)).await;
        s.txn(always([range(key, end).op()])).await;
    }
    for key in ["a", "b", "c", "d"] {
        s.put(put(key, "alice")).await;
        s.put(pb::PutRequest { prev_kv: true, ..put(key, "alice") }).await;
        s.delete(pb::DeleteRangeRequest { prev_kv: true, ..del(key) }).await;
        s.txn(always([put(key, "in a txn").op()])).await;
        s.txn(txn([], [], [put(key, "untaken").op()])).await;
        s.txn(always([txn([], [], [get(key).op()]).op()])).await;
        let version = pb::compare::TargetUnion::Version(0);
        s.txn(txn([compare(key, pb::compare::CompareResult::Equal, version)], [], [])).await;
    }
    Ok(())
}

async fn range_stream_permissions(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    s.range_stream(get("a")).await;
    s.log_in("alice", "secret").await;
    s.range_stream(range("a", "c")).await;
    s.range_stream(range("a", "d")).await;
    Ok(())
}

async fn admin_only(s: &mut Session) -> anyhow::Result<()> {
    settle(s).await?;
    people(s).await;
    s.log_in("alice", "secret").await;
    everything(s).await;
    s.snapshot().await;
    s.log_in("root", "toor").await;
    everything(s).await;
    Ok(())
}

async fn watch_permissions(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    s.record_watch("no token", &stream, Shape::Messages);
    s.metadata("token", NOBODYS);
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    s.record_watch("a bad token", &stream, Shape::Messages);
    s.without_metadata("token");
    s.log_in("alice", "secret").await;
    let mut stream = s.watch();
    for (key, end) in [("d", ""), ("a", ""), ("a", "d"), ("", FROM), ("a", "c"), ("a", FROM), ("c", "a")] {
        stream.create(watch_range(key, end)).await;
    }
    s.put(put("b", "seen")).await;
    stream.until_events(1, 1).await;
    stream.settle().await;
    s.record_watch("alice", &stream, Shape::Messages);
    Ok(())
}

async fn lease_permissions(s: &mut Session) -> anyhow::Result<()> {
    people(s).await;
    s.log_in("root", "toor").await;
    s.grant(lease(5, 1000)).await;
    s.grant(lease(6, 1000)).await;
    s.put(pb::PutRequest { lease: 5, ..put("d", "root's") }).await;
    s.put(pb::PutRequest { lease: 6, ..put("b", "alice may") }).await;
    s.log_in("alice", "secret").await;
    for id in [5, 6] {
        s.time_to_live(time_to_live(id)).await;
        s.time_to_live(pb::LeaseTimeToLiveRequest { id, keys: false }).await;
        s.keep_alive().renew(s, id).await;
        s.put(pb::PutRequest { lease: id, ..put("c", "attached") }).await;
    }
    s.leases(pb::LeaseLeasesRequest {}).await;
    for id in [5, 6] {
        s.revoke(revoke(id)).await;
    }
    s.grant(lease(7, 1000)).await;
    Ok(())
}

async fn management_rules(s: &mut Session) -> anyhow::Result<()> {
    let delete_root = pb::AuthUserDeleteRequest { name: "root".to_owned() };
    let take_root = pb::AuthUserRevokeRoleRequest { name: "root".to_owned(), role: "root".to_owned() };
    people(s).await;
    s.log_in("root", "toor").await;
    s.user_delete(delete_root.clone()).await;
    s.user_revoke_role(take_root.clone()).await;
    s.role_delete(pb::AuthRoleDeleteRequest { role: "root".to_owned() }).await;
    s.user_delete(pb::AuthUserDeleteRequest { name: "alice".to_owned() }).await;
    s.role_delete(pb::AuthRoleDeleteRequest { role: "some".to_owned() }).await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    s.user_revoke_role(take_root).await;
    s.user_delete(delete_root).await;
    s.user_list(pb::AuthUserListRequest {}).await;
    Ok(())
}

async fn revisions(s: &mut Session) -> anyhow::Result<()> {
    let ask = pb::AuthStatusRequest {};
    s.auth_status(ask).await;
    s.user_add(user("bob", "x")).await;
    s.auth_status(ask).await;
    s.user_add(user("bob", "x")).await;
    s.auth_status(ask).await;
    s.role_add(role("r")).await;
    s.role_grant_permission(permit("r", 0, "a", "")).await;
    s.auth_status(ask).await;
    s.user_grant_role(give("bob", "r")).await;
    s.auth_status(ask).await;
    people(s).await;
    s.log_in("root", "toor").await;
    s.auth_status(ask).await;
    s.auth_disable(pb::AuthDisableRequest {}).await;
    s.auth_status(ask).await;
    Ok(())
}
