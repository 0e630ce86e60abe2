use forebay_proto::{KeyRange, authpb::permission::Type};

use super::*;
use crate::{
    auth::{Caller, Rights},
    lease::{Lessor, Rules},
};

/// A store, and what it wants written.
#[derive(Default)]
struct Fixture {
    store: Store,
    ops: Vec<Op>,
}

fn permission(kind: Type, key: &'static str, range_end: &'static str) -> Permission {
    Permission { perm_type: kind as i32, key: key.into(), range_end: range_end.into() }
}

impl Fixture {
    fn add_user(&mut self, name: &str) -> Result<(), Error> {
        let request = AuthUserAddRequest { name: name.to_owned(), ..Default::default() };
        self.store.add_user(&request, &mut self.ops)
    }

    fn grant_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        self.store.grant_role(&request, &mut self.ops)
    }

    fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let request = AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
        self.store.revoke_role(&request, &mut self.ops)
    }

    fn add_role(&mut self, name: &str) -> Result<(), Error> {
        self.store.add_role(name, &mut self.ops)
    }

    fn permit(&mut self, role: &str, perm: Permission) -> Result<(), Error> {
        let request = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) };
        self.store.grant_permission(&request, &mut self.ops)
    }

    fn forbid(&mut self, role: &str, key: &'static str, end: &'static str) -> Result<(), Error> {
        let (role, key, range_end) = (role.to_owned(), key.into(), end.into());
        self.store.revoke_permission(&AuthRoleRevokePermissionRequest { role, key, range_end }, &mut self.ops)
    }

    /// root with its role, alice with role some, which reads a..c; auth on.
    fn with_people() -> Fixture {
        let mut fixture = Fixture::default();
        for user in [ROOT, "alice"] {
            fixture.add_user(user).unwrap();
        }
        fixture.grant_role(ROOT, ROOT).unwrap();
        fixture.add_role("some").unwrap();
        fixture.permit("some", permission(Type::Read, "a", "c")).unwrap();
        fixture.grant_role("alice", "some").unwrap();
        fixture.store.enable(&mut fixture.ops).unwrap();
        fixture
    }

    fn judge(&self, user: &str, judge: impl FnOnce(&Rights<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let caller = Caller::new(user, self.store.revision());
        judge(&Rights::of(&self.store, &caller).expect("auth is on"))
    }

    fn may_read(&self, user: &str, key: &'static str) -> Result<(), Error> {
        self.judge(user, |rights| rights.read(&KeyRange::Key(key.into())))
    }

    fn reread(&self) -> Store {
        let users = self.store.users.values().map(|user| user.record.clone()).collect();
        let roles = self.store.roles.values().map(|role| role.record.clone()).collect();
        Store::new(schema::Auth { enabled: self.store.enabled, revision: self.store.revision, users, roles })
    }
}

#[test]
fn a_change_is_seen_by_the_next_request() {
    let mut fixture = Fixture::with_people();
    assert_eq!(
        (fixture.may_read("alice", "b"), fixture.may_read("alice", "c")),
        (Ok(()), Err(Error::PermissionDenied))
    );
    fixture.permit("some", permission(Type::Readwrite, "c", "")).unwrap();
    assert_eq!(fixture.may_read("alice", "c"), Ok(()));
    fixture.forbid("some", "a", "c").unwrap();
    assert_eq!(
        (fixture.may_read("alice", "b"), fixture.may_read("alice", "c")),
        (Err(Error::PermissionDenied), Ok(()))
    );
    fixture.add_role("other").unwrap();
    fixture.permit("other", permission(Type::Read, "a", "c")).unwrap();
    fixture.grant_role("alice", "other").unwrap();
    assert_eq!(fixture.may_read("alice", "b"), Ok(()));
    fixture.store.delete_role("other", &mut fixture.ops).unwrap();
    assert_eq!(fixture.may_read("alice", "b"), Err(Error::PermissionDenied));
    assert_eq!(fixture.store.roles_of("alice"), Ok(vec!["some".to_owned()]));
    fixture.store.delete_user("alice", &mut fixture.ops).unwrap();
    assert_eq!(fixture.may_read("alice", "c"), Err(Error::PermissionDenied));
}

#[test]
fn the_roles_of_a_user_cover_a_range_together() {
    let mut fixture = Fixture::with_people();
    fixture.add_role("other").unwrap();
    fixture.permit("other", permission(Type::Read, "c", "e")).unwrap();
    fixture.grant_role("alice", "other").unwrap();
    let range = KeyRange::Range("b".into(), "d".into());
    assert_eq!(fixture.judge("alice", |rights| rights.read(&range)), Ok(()));
    assert_eq!(fixture.judge("alice", |rights| rights.write(&range)), Err(Error::PermissionDenied));
    assert_eq!(fixture.judge(ROOT, |rights| rights.write(&KeyRange::all())), Ok(()));
}

#[test]
fn what_would_lock_everybody_out_is_refused_while_auth_is_on() {
    let mut fixture = Fixture::default();
    assert_eq!(fixture.store.enable(&mut fixture.ops), Err(Error::RootUserNotExist));
    fixture.add_user(ROOT).unwrap();
    assert_eq!(fixture.store.enable(&mut fixture.ops), Err(Error::RootRoleNotExist));
    let mut fixture = Fixture::with_people();
    fixture.add_role(ROOT).unwrap();
    assert_eq!(fixture.store.delete_user(ROOT, &mut fixture.ops), Err(Error::InvalidAuthMgmt));
    assert_eq!(fixture.revoke_role(ROOT, ROOT), Err(Error::InvalidAuthMgmt));
    assert_eq!(fixture.store.delete_role(ROOT, &mut fixture.ops), Err(Error::InvalidAuthMgmt));
    fixture.store.disable(&mut fixture.ops);
    assert_eq!(fixture.revoke_role(ROOT, ROOT), Ok(()));
    assert_eq!(fixture.store.delete_user(ROOT, &mut fixture.ops), Ok(()));
}

#[test]
fn every_change_counts_once_and_what_changes_nothing_does_not() {
    let mut fixture = Fixture::with_people();
    let revision = |fixture: &Fixture| fixture.store.revision();
    let before = revision(&fixture);
    fixture.store.enable(&mut fixture.ops).unwrap();
    fixture.grant_role("alice", "some").unwrap();
    assert_eq!(fixture.add_user("alice"), Err(Error::UserAlreadyExist));
    assert_eq!(revision(&fixture), before);
    fixture.ops.clear();
    fixture.store.disable(&mut fixture.ops);
    assert_eq!((revision(&fixture), fixture.ops.len()), (before + 1, 2));
    fixture.store.disable(&mut fixture.ops);
    assert_eq!(revision(&fixture), before + 1);
}

#[test]
fn of_permissions_that_begin_alike_the_first_alone_is_changed_in_place() {
    let mut fixture = Fixture::with_people();
    fixture.permit("some", permission(Type::Read, "a", "b")).unwrap();
    fixture.permit("some", permission(Type::Write, "a", "b")).unwrap();
    fixture.permit("some", permission(Type::Write, "a", "c")).unwrap();
    let expected =
        [permission(Type::Write, "a", "c"), permission(Type::Read, "a", "b"), permission(Type::Write, "a", "b")];
    assert_eq!(fixture.store.permissions_of("some").unwrap(), expected);
    assert_eq!(fixture.forbid("some", "a", "b"), Ok(()));
    assert_eq!(fixture.store.permissions_of("some").unwrap(), expected[..1]);
}

#[test]
fn a_caller_of_an_older_revision_may_do_nothing_with_keys() {
    let fixture = Fixture::with_people();
    let judge = |caller: &Caller| {
        let rights = Rights::of(&fixture.store, caller).unwrap();
        [rights.read(&KeyRange::Key("b".into())), rights.user(), rights.admin()]
    };
    let current = fixture.store.revision();
    assert_eq!(judge(&Caller::nobody()), [Err(Error::UserEmpty); 3]);
    let old = Caller::new("alice", current - 1);
    assert_eq!(judge(&old), [Err(Error::AuthOldRevision), Ok(()), Err(Error::PermissionDenied)]);
    assert_eq!(judge(&Caller::new("alice", current))[0], Ok(()));
    let gone = Caller::new("gone", current);
    assert_eq!(judge(&gone), [Err(Error::PermissionDenied), Ok(()), Err(Error::UserNotFound)]);
    // As in etcd, root may manage as of an older revision, and read only as of this one.
    assert_eq!(judge(&Caller::new(ROOT, current - 1)), [Err(Error::AuthOldRevision), Ok(()), Ok(())]);
}

#[test]
fn every_key_of_a_txn_is_asked_for_however_deep_it_stands() {
    use forebay_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request};
    let fixture = Fixture::with_people();
    let op = |request| RequestOp { request: Some(request) };
    let range = |key: &'static str| op(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() }));
    let put = op(Request::RequestPut(PutRequest { key: "b".into(), ..Default::default() }));
    let nest = |txn| op(Request::RequestTxn(txn));
    let success = |ops| TxnRequest { success: ops, ..Default::default() };
    let failure = |ops| TxnRequest { failure: ops, ..Default::default() };
    let compare = |key: &'static str| Compare { key: key.into(), ..Default::default() };
    let judge = |txn: &TxnRequest| {
        fixture.judge("alice", |rights| rights.txn(txn, &Lessor::new(Rules { min_ttl: 1, ..Rules::default() })))
    };
    assert_eq!(judge(&success(vec![range("a"), nest(failure(vec![range("b")]))])), Ok(()));
    for txn in [
        success(vec![range("a"), range("c")]),
        failure(vec![range("c")]),
        success(vec![put]),
        success(vec![nest(success(vec![nest(failure(vec![range("c")]))]))]),
        failure(vec![nest(TxnRequest { compare: vec![compare("c")], ..Default::default() })]),
        TxnRequest { compare: vec![compare("a"), compare("c")], ..Default::default() },
    ] {
        assert_eq!(judge(&txn), Err(Error::PermissionDenied), "{txn:?}");
    }
}

#[test]
fn whoever_may_not_write_the_keys_of_a_lease_may_not_touch_it() {
    use forebay_proto::etcdserverpb::PutRequest;
    let mut fixture = Fixture::with_people();
    fixture.permit("some", permission(Type::Write, "a", "c")).unwrap();
    let mut lessor = Lessor::new(Rules { min_ttl: 1, ..Rules::default() });
    let now = std::time::Instant::now();
    for (id, key) in [(1, "a"), (2, "z")] {
        lessor.grant(id, 100, now).unwrap();
        lessor.attach(id, key.as_bytes());
    }
    let put = |lease| PutRequest { key: "b".into(), lease, ..Default::default() };
    let judge = |user: &str, lease| {
        fixture.judge(user, |rights| rights.put(&put(lease), &lessor).and_then(|()| rights.write_lease(lease, &lessor)))
    };
    assert_eq!((judge("alice", 1), judge("alice", 2)), (Ok(()), Err(Error::PermissionDenied)));
    assert_eq!((judge("alice", 3), judge(ROOT, 2)), (Ok(()), Ok(())));
    let prev = PutRequest { key: "b".into(), prev_kv: true, ..Default::default() };
    fixture.forbid("some", "a", "c").unwrap();
    fixture.permit("some", permission(Type::Write, "a", "c")).unwrap();
    assert_eq!(fixture.judge("alice", |rights| rights.put(&prev, &lessor)), Err(Error::PermissionDenied));
}

#[test]
fn everybody_may_ask_about_themselves() {
    let fixture = Fixture::with_people();
    let about = |user: &'static str, name: &'static str| fixture.judge(user, |rights| rights.about_user(name));
    assert_eq!((about("alice", "alice"), about("alice", ROOT)), (Ok(()), Err(Error::PermissionDenied)));
    assert_eq!(about(ROOT, "alice"), Ok(()));
    let role = |user: &'static str, role: &'static str| fixture.judge(user, |rights| rights.about_role(role));
    assert_eq!((role("alice", "some"), role("alice", ROOT)), (Ok(()), Err(Error::PermissionDenied)));
}

#[test]
fn what_is_read_back_from_the_file_judges_alike() {
    let fixture = Fixture::with_people();
    let store = fixture.reread();
    let caller = Caller::new("alice", store.revision());
    let rights = Rights::of(&store, &caller).unwrap();
    assert_eq!(rights.read(&KeyRange::Key("b".into())), Ok(()));
    assert_eq!(rights.read(&KeyRange::Key("c".into())), Err(Error::PermissionDenied));
}
