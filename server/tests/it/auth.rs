//! Users, what becomes of them, and how they show who they are.

use std::time::{Duration, Instant};

use forebay_edge::{grpc, listener::Peer, tls::Tls};
use forebay_proto::{
    Error,
    authpb::{Permission, UserAddOptions},
    etcdserverpb::*,
};
use forebay_server::{Config, JwtOptions, TokenKind};
use futures::future::join_all;
use http::HeaderMap;
use prost::Message as _;
use tonic::Code;

use crate::support::{Call, LIMIT, Node, error, get, leased, metadata, put, refusal, watch_create, watching};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const REVOKE_ROLE: &str = "/etcdserverpb.Auth/UserRevokeRole";
const ADD_USER: &str = "/etcdserverpb.Auth/UserAdd";
const CHANGE_PASSWORD: &str = "/etcdserverpb.Auth/UserChangePassword";

pub fn user(name: &str, password: &str) -> AuthUserAddRequest {
    AuthUserAddRequest { name: name.to_owned(), password: password.to_owned(), ..Default::default() }
}

pub fn grant(user: &str, role: &str) -> AuthUserGrantRoleRequest {
    AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }
}

/// `kind`: 0 reads, 1 writes, 2 does both.
pub fn permit(role: &str, kind: i32, key: &'static str, range_end: &'static str) -> AuthRoleGrantPermissionRequest {
    let perm = Permission { perm_type: kind, key: key.into(), range_end: range_end.into() };
    AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }
}

/// root, alice who reads and writes a..c, and eve who may do nothing with keys; auth on.
pub async fn people(node: &Node) {
    for name in ["root", "alice", "eve"] {
        node.user_add(user(name, name)).await.unwrap();
    }
    node.user_grant_role(grant("root", "root")).await.unwrap();
    node.role_add(AuthRoleAddRequest { name: "some".to_owned() }).await.unwrap();
    node.role_grant_permission(permit("some", 2, "a", "c")).await.unwrap();
    node.user_grant_role(grant("alice", "some")).await.unwrap();
    node.auth_enable(AuthEnableRequest {}).await.unwrap();
}

/// Logs in, with the name for a password.
pub async fn log_in(node: &Node, name: &str) -> HeaderMap {
    let request = AuthenticateRequest { name: name.to_owned(), password: name.to_owned() };
    let token = node.authenticate(request).await.unwrap().token;
    metadata("token", token.as_bytes())
}

/// What a read of a key comes to.
async fn read(node: &Node, who: &HeaderMap, key: &str) -> Result<i64, (Code, String)> {
    let answer = node.call_with::<RangeResponse>(RANGE, who.clone(), &get(key)).await;
    answer.map(|answer| answer.count).map_err(|status| (status.code(), status.message().to_owned()))
}

fn denied() -> Result<i64, (Code, String)> {
    Err(error(Error::PermissionDenied))
}

#[tokio::test]
async fn a_user_may_do_what_its_roles_say_and_nobody_else_anything() {
    let node = Node::start().await;
    people(&node).await;
    let alice = log_in(&node, "alice").await;
    let put = |key: &str| put(key, "v");
    node.call_with::<PutResponse>(PUT, alice.clone(), &put("a")).await.unwrap();
    assert_eq!(
        refusal(node.call_with::<PutResponse>(PUT, alice.clone(), &put("c")).await),
        error(Error::PermissionDenied)
    );
    assert_eq!((read(&node, &alice, "a").await, read(&node, &alice, "c").await), (Ok(1), denied()));
    assert_eq!(read(&node, &HeaderMap::new(), "a").await, Err(error(Error::UserEmpty)));
    assert_eq!(read(&node, &metadata("token", b"nobodys.1"), "a").await, Err(error(Error::InvalidAuthToken)));
    let bearer = metadata("authorization", &[b"Bearer ", alice["token"].as_bytes()].concat());
    assert_eq!(read(&node, &bearer, "a").await, Ok(1));
}

/// The hash of all keys, as root is told it.
async fn hash_kv(node: &Node) -> u32 {
    let (path, root) = ("/etcdserverpb.Maintenance/HashKV", log_in(node, "root").await);
    node.call_with::<HashKvResponse>(path, root, &HashKvRequest::default()).await.unwrap().hash
}

#[tokio::test]
async fn users_outlive_a_crash_and_tokens_do_not() {
    let node = Node::start().await;
    people(&node).await;
    let hash = hash_kv(&node).await;
    let alice = log_in(&node, "alice").await;
    let node = node.crashed().await;
    // Its entry is applied again, so a token may outlive a crash; a restart from the file forgets it.
    let node = node.restart().await;
    assert_eq!(read(&node, &alice, "a").await, Err(error(Error::InvalidAuthToken)));
    assert_eq!(read(&node, &log_in(&node, "alice").await, "c").await, denied());
    assert_eq!(hash_kv(&node).await, hash, "users are not among the keys");
}

#[tokio::test]
async fn a_token_ends_with_its_password() {
    let node = Node::start().await;
    people(&node).await;
    let (root, alice) = (log_in(&node, "root").await, log_in(&node, "alice").await);
    assert_eq!(read(&node, &alice, "a").await, Ok(0));
    let change =
        AuthUserChangePasswordRequest { name: "alice".to_owned(), password: "new".to_owned(), ..Default::default() };
    node.call_with::<AuthUserChangePasswordResponse>(CHANGE_PASSWORD, root.clone(), &change).await.unwrap();
    assert_eq!(read(&node, &alice, "a").await, Err(error(Error::InvalidAuthToken)));
    assert_eq!(read(&node, &root, "a").await, Ok(0), "the tokens of others go on");
}

#[tokio::test]
async fn a_token_expires_when_it_is_not_used() {
    let node = Node::with(|config| config.auth_token = TokenKind::Simple(Duration::from_millis(300))).await;
    people(&node).await;
    let alice = log_in(&node, "alice").await;
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(400)).await;
        match read(&node, &alice, "a").await {
            Err(refused) => return assert_eq!(refused, error(Error::InvalidAuthToken)),
            // A machine that is busy may have slept less than it thinks.
            Ok(_) => continue,
        }
    }
    panic!("a token lasts for ever");
}

#[tokio::test]
async fn a_watch_ends_when_its_user_may_not_see_its_keys_any_more() {
    let node = Node::start().await;
    people(&node).await;
    let (root, alice) = (log_in(&node, "root").await, log_in(&node, "alice").await);
    let open = async |who: &HeaderMap, key: &str| -> Call {
        let mut watch = node.open_with(WATCH, who.clone()).await;
        watch.send(&watch_create(watching(key)));
        let created = watch.next::<WatchResponse>().await.unwrap();
        assert!(created.created && !created.canceled, "{created:?}");
        watch
    };
    let (mut hers, mut roots) = (open(&alice, "a").await, open(&root, "a").await);
    // A change that takes nothing from her.
    node.call_with::<AuthRoleAddResponse>(
        "/etcdserverpb.Auth/RoleAdd",
        root.clone(),
        &AuthRoleAddRequest { name: "r".to_owned() },
    )
    .await
    .unwrap();
    node.call_with::<PutResponse>(PUT, root.clone(), &put("a", "1")).await.unwrap();
    assert_eq!(hers.events().await.events.len(), 1);
    let take = AuthUserRevokeRoleRequest { name: "alice".to_owned(), role: "some".to_owned() };
    node.call_with::<AuthUserRevokeRoleResponse>(REVOKE_ROLE, root.clone(), &take).await.unwrap();
    node.call_with::<PutResponse>(PUT, root.clone(), &put("a", "2")).await.unwrap();
    assert_eq!(refusal(hers.next::<WatchResponse>().await), error(Error::PermissionDenied));
    assert_eq!(roots.events().await.events.len(), 1);
}

#[tokio::test]
async fn a_watch_of_nobody_ends_when_auth_is_enabled() {
    let node = Node::start().await;
    let mut watch = node.watcher(watching("a")).await;
    people(&node).await;
    assert_eq!(refusal(watch.next::<WatchResponse>().await), error(Error::UserEmpty));
}

#[tokio::test]
async fn a_watch_that_may_not_be_is_created_and_cancelled_at_once() {
    let node = Node::start().await;
    people(&node).await;
    for (who, text) in [
        (HeaderMap::new(), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (metadata("token", b"x.1"), "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
        (log_in(&node, "alice").await, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
    ] {
        let mut watch = node.open_with(WATCH, who).await;
        watch.send(&watch_create(watching("c")));
        let refused = watch.next::<WatchResponse>().await.unwrap();
        assert_eq!((refused.created, refused.canceled, &refused.cancel_reason[..]), (true, true, text));
    }
}

#[tokio::test]
async fn a_lease_runs_out_whoever_has_keys_on_it() {
    let node = Node::start().await;
    people(&node).await;
    let root = log_in(&node, "root").await;
    let lease = crate::support::grant(7, 1);
    node.call_with::<LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", root.clone(), &lease).await.unwrap();
    node.call_with::<PutResponse>(PUT, root.clone(), &leased("z", 7)).await.unwrap();
    let began = Instant::now();
    while read(&node, &root, "z").await != Ok(0) {
        assert!(began.elapsed() < LIMIT, "the key of an expired lease is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads as whoever has a certificate with this name.
async fn read_over(node: &Node, name: Option<&str>, headers: HeaderMap, key: &str) -> Result<i64, (Code, String)> {
    let tls = Tls { common_name: name.map(str::to_owned) };
    let mut call = node.open_over(Some(tls), RANGE, headers).await;
    call.send(&get(key));
    call.half_close();
    let answer = call.next::<RangeResponse>().await;
    answer.map(|answer| answer.count).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_certificate_names_a_user_where_clients_have_to_show_one() {
    let node = Node::with(|config| config.client_cert_auth = true).await;
    people(&node).await;
    let none = HeaderMap::new;
    assert_eq!(read_over(&node, Some("alice"), none(), "a").await, Ok(0));
    assert_eq!(read_over(&node, Some("alice"), none(), "c").await, denied());
    assert_eq!(read_over(&node, Some("nobody"), none(), "a").await, denied());
    assert_eq!(read_over(&node, None, none(), "a").await, Err(error(Error::UserEmpty)));
    // A token counts before it, even one that is none; and a certificate that comes with JSON is not its sender's.
    assert_eq!(read_over(&node, Some("root"), log_in(&node, "eve").await, "a").await, denied());
    let bad = metadata("token", b"x.1");
    assert_eq!(read_over(&node, Some("root"), bad, "a").await, Err(error(Error::InvalidAuthToken)));
    let json = metadata("grpcgateway-accept", b"*/*");
    assert_eq!(read_over(&node, Some("root"), json, "a").await, Err(error(Error::UserEmpty)));

    let node = Node::start().await;
    people(&node).await;
    assert_eq!(read_over(&node, Some("root"), none(), "a").await, Err(error(Error::UserEmpty)));
}

#[tokio::test]
async fn a_signed_token_is_good_until_users_or_roles_change() {
    let keys = tempfile::tempdir().unwrap();
    let secret = keys.path().join("secret");
    std::fs::write(&secret, "shared by all members").unwrap();
    let options = JwtOptions {
        method: "HS256".to_owned(),
        public_key: None,
        private_key: Some(secret),
        ttl: Duration::from_secs(300),
    };
    let signed = |config: &mut Config| config.auth_token = TokenKind::Jwt(options.clone());
    let node = Node::with(signed).await;
    people(&node).await;
    let (root, alice) = (log_in(&node, "root").await, log_in(&node, "alice").await);
    assert_eq!(alice["token"].as_bytes().iter().filter(|byte| **byte == b'.').count(), 2);
    assert_eq!((read(&node, &alice, "a").await, read(&node, &alice, "c").await), (Ok(0), denied()));
    let node = node.restart_with(signed).await;
    assert_eq!(read(&node, &alice, "a").await, Ok(0), "nobody has to remember it");
    let add = AuthRoleAddRequest { name: "r".to_owned() };
    node.call_with::<AuthRoleAddResponse>("/etcdserverpb.Auth/RoleAdd", root, &add).await.unwrap();
    assert_eq!(read(&node, &alice, "a").await, Err(error(Error::AuthOldRevision)));
    assert_eq!(read(&node, &log_in(&node, "alice").await, "a").await, Ok(0));
}

#[tokio::test]
async fn passwords_are_refused_for_the_reasons_of_etcd() {
    let node = Node::start().await;
    let unknown = |text: &str| (Code::Unknown, text.to_owned());
    assert_eq!(
        refusal(node.user_add(user("long", &"x".repeat(73))).await),
        unknown("bcrypt: password length exceeds 72 bytes")
    );
    let options = Some(UserAddOptions { no_password: true });
    node.user_add(AuthUserAddRequest { options, ..user("certificate", "") }).await.unwrap();
    people(&node).await;
    let root = log_in(&node, "root").await;
    let no_password = unknown("auth: authentication failed, password was given for no password user");
    let change = AuthUserChangePasswordRequest {
        name: "alice".to_owned(),
        hashed_password: "not base64".to_owned(),
        ..Default::default()
    };
    let changed = node.call_with::<AuthUserChangePasswordResponse>(CHANGE_PASSWORD, root, &change).await;
    assert_eq!(refusal(changed), no_password);
    for (name, password, expected) in [
        ("alice", "wrong", error(Error::AuthFailed)),
        ("nobody", "alice", error(Error::AuthFailed)),
        ("", "", error(Error::AuthFailed)),
        ("certificate", "", no_password),
    ] {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        assert_eq!(refusal(node.authenticate(request).await), expected, "{name}");
    }
}

#[tokio::test]
async fn nobody_has_hashes_computed_for_them_whom_apply_would_refuse() {
    // So slow that the test would not end.
    let node = Node::with(|config| config.bcrypt_cost = 4).await;
    people(&node).await;
    let node = node.restart_with(|config| config.bcrypt_cost = 31).await;
    assert_eq!(refusal(node.user_add(user("x", "x")).await), error(Error::UserEmpty));
    let eve = log_in(&node, "eve").await;
    let request = user("x", "x");
    let added = node.call_with::<AuthUserAddResponse>("/etcdserverpb.Auth/UserAdd", eve, &request).await;
    assert_eq!(refusal(added), error(Error::PermissionDenied));
}

#[tokio::test]
async fn no_password_and_no_token_stands_in_the_log_of_a_member() {
    let node = Node::start().await;
    let password = "correct horse battery staple";
    node.user_add(user("clear", password)).await.unwrap();
    people(&node).await;
    let request = AuthenticateRequest { name: "clear".to_owned(), password: password.to_owned() };
    let framed = grpc::encode(&request);
    assert!(AuthenticateRequest::decode(&framed[grpc::PREFIX..]).is_ok());
    node.authenticate(request).await.unwrap();
    let wal = node.path().join("member/wal");
    for file in std::fs::read_dir(wal).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(password.len()).any(|window| window == password.as_bytes()));
    }
}

/// Tries to log in from an address.
async fn log_in_from(node: &Node, address: [u8; 4], name: String, password: &str) -> Result<String, String> {
    let mut extensions = http::Extensions::new();
    extensions.insert(Peer { address: (address, 1).into() });
    let mut call = node.open_as(extensions, "/etcdserverpb.Auth/Authenticate", HeaderMap::new()).await;
    call.send(&AuthenticateRequest { name, password: password.to_owned() });
    call.half_close();
    let answer = call.only().await.map_err(|status| status.message().to_owned())?;
    Ok(AuthenticateResponse::decode(answer).expect("an answer").token)
}

#[tokio::test]
async fn h10_who_guesses_is_held_back_and_nobody_beside_notices() {
    const THERE: [u8; 4] = [192, 0, 2, 1];
    const ELSEWHERE: [u8; 4] = [192, 0, 2, 2];
    let node = Node::start().await;
    people(&node).await;
    let alice = log_in(&node, "alice").await;
    // One who is there, one who is not, and another one each time.
    let name = |n| match n % 3 {
        0 => "alice".to_owned(),
        1 => "nobody".to_owned(),
        _ => format!("name-{n}"),
    };
    let flood = join_all((0..600).map(|n| log_in_from(&node, THERE, name(n), "guess")));
    let beside = async {
        for n in 0..50 {
            node.call_with::<PutResponse>(PUT, alice.clone(), &put("a", &n.to_string())).await.unwrap();
        }
        let own = log_in_from(&node, ELSEWHERE, "alice".to_owned(), "alice");
        tokio::time::timeout(LIMIT, own).await.expect("others have their turns").expect("from elsewhere one may")
    };
    let began = Instant::now();
    let (answers, token) = tokio::join!(flood, beside);
    let seconds = began.elapsed().as_secs() as usize + 1;
    let of = |error: Error| answers.iter().filter(|answer| *answer.as_ref().unwrap_err() == error.message()).count();
    let (failed, held_back) = (of(Error::AuthFailed), of(Error::TooManyRequests));
    assert_eq!(failed + held_back, 600, "who is not there is refused in the same words");
    // Of two names 50 each, of all together 250, what is given back meanwhile, and what was being tried just then.
    assert!((200..250 + 25 * seconds + 25).contains(&failed), "{failed} guesses were tried in {seconds} s");
    for token in [metadata("token", token.as_bytes()), alice] {
        assert_eq!(read(&node, &token, "a").await, Ok(1), "tokens are good all the while");
    }
}

#[tokio::test]
async fn a_new_password_has_the_least_length_that_was_set_and_an_old_one_stays_good() {
    let node = Node::with(|config| config.bcrypt_cost = 4).await;
    people(&node).await;
    let node = node.restart_with(|config| config.password_min_length = 8).await;
    let root = log_in(&node, "root").await;
    let refused = (Code::InvalidArgument, "forebay: passwords have at least 8 characters here".to_owned());
    for short in ["", "passwor"] {
        let add = node.call_with::<AuthUserAddResponse>(ADD_USER, root.clone(), &user("bob", short)).await;
        assert_eq!(refusal(add), refused);
        let change =
            AuthUserChangePasswordRequest { name: "alice".into(), password: short.into(), ..Default::default() };
        let change = node.call_with::<AuthUserChangePasswordResponse>(CHANGE_PASSWORD, root.clone(), &change).await;
        assert_eq!(refusal(change), refused);
    }
    // Characters, and not bytes; and who has no password needs none.
    node.call_with::<AuthUserAddResponse>(ADD_USER, root.clone(), &user("bob", "pässwörd")).await.unwrap();
    let without = AuthUserAddRequest { options: Some(UserAddOptions { no_password: true }), ..user("carol", "") };
    node.call_with::<AuthUserAddResponse>(ADD_USER, root, &without).await.unwrap();
}
