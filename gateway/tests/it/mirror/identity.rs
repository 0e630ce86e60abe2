//! No byte of the mirror reaches whom the upstream would refuse.

use forebay_gateway::mirror::{Credentials, MirrorConfig};
use forebay_proto::KeyRange;

use super::*;

fn key(key: &'static str) -> KeyRange {
    KeyRange::Key(key.into())
}

/// With auth enabled after the mirror was filled: `alice` may read `a`, `bob` may read `b`, the gateway everything.
async fn with_auth() -> Setup {
    let world = World::new();
    world.put("a", "alice's");
    world.put("b", "bob's");
    let user = Credentials { name: "gateway".into(), password: "secret".into() };
    let setup = Setup::over(world, MirrorConfig { user: Some(user), ..MirrorConfig::default() }).await;
    setup.world.enable_auth(&[("gateway", &[KeyRange::all()]), ("alice", &[key("a")]), ("bob", &[key("b")])]);
    setup.until("the gateway has a token", || setup.world.calls("Authenticate") >= 2).await;
    setup
}

const DENIED: (i32, &str) = (7, "etcdserver: permission denied");
const NOBODY: (i32, &str) = (3, "etcdserver: user name is empty");
const INVALID: (i32, &str) = (16, "etcdserver: invalid auth token");

#[tokio::test(start_paused = true)]
async fn b33_a_token_reads_from_the_mirror_what_it_may_and_nothing_else() {
    let setup = with_auth().await;
    for (asked, token, told) in [
        ("a", Some("alice"), Ok("alice's")),
        ("b", Some("bob"), Ok("bob's")),
        ("b", Some("alice"), Err(DENIED)),
        ("a", None, Err(NOBODY)),
        ("a", Some("mallory"), Err(INVALID)),
    ] {
        let read = setup.range(&get(asked), token).await;
        let read = read.as_ref().map(value).map_err(|(code, text)| (*code, text.as_str()));
        assert_eq!(read, told, "{asked} as {token:?}");
    }
    assert_eq!((setup.served("hit"), setup.served("unvouched")), (2.0, 3.0));
}

#[tokio::test(start_paused = true)]
async fn b36_neither_counts_nor_serializable_reads_leak() {
    let setup = with_auth().await;
    for serializable in [false, true] {
        for token in [None, Some("alice")] {
            let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), serializable, ..Default::default() };
            let counted = setup.range(&pb::RangeRequest { count_only: true, ..all.clone() }, token).await;
            assert!(counted.is_err(), "{counted:?}");
            assert!(setup.range(&all, token).await.is_err());
        }
    }
    assert_eq!(setup.served("hit"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn b33_a_revocation_reaches_new_reads_at_once_and_open_streams_within_a_second() {
    let setup = with_auth().await;
    let watch = |name: &'static str| pb::WatchCreateRequest { key: name.into(), ..Default::default() };
    let (mut alice, mut bob) = (setup.watch(Some("alice")).await, setup.watch(Some("bob")).await);
    assert!(alice.create(watch("a")).await.created && bob.create(watch("b")).await.created);
    assert!(setup.range(&get("a"), Some("alice")).await.is_ok());
    setup.world.enable_auth(&[("gateway", &[KeyRange::all()]), ("alice", &[]), ("bob", &[key("b")])]);
    let (code, _) = setup.range(&get("a"), Some("alice")).await.unwrap_err();
    assert_eq!(code, 7);
    let revoked = tokio::time::Instant::now();
    assert_eq!(alice.try_next().await.unwrap_err().0, 14);
    assert!(revoked.elapsed() <= Duration::from_secs(1), "{:?}", revoked.elapsed());
    setup.world.put("b", "for bob");
    assert_eq!(bob.events(1).await, ["4 b for bob"], "another's loss is not bob's");
    let mut alice = setup.watch(Some("alice")).await;
    let refused = alice.create(watch("a")).await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
    assert_eq!(refused.cancel_reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
}

#[tokio::test(start_paused = true)]
async fn b34_a_token_that_is_not_good_any_more_is_nobody_elses_loss() {
    let setup = with_auth().await;
    let watch = pb::WatchCreateRequest { key: "b".into(), ..Default::default() };
    let mut bob = setup.watch(Some("bob")).await;
    assert!(bob.create(watch).await.created);
    let (served, rebuilt) = (setup.served("hit"), setup.metric("forebay_mirror_rebuilds_total", ""));
    setup.world.enable_auth(&[("gateway", &[KeyRange::all()]), ("bob", &[key("b")])]);
    for round in 0..20 {
        let (a, b) = (get("a"), get("b"));
        let (alice, bobs) = tokio::join!(setup.range(&a, Some("alice")), setup.range(&b, Some("bob")));
        assert_eq!(alice.map_err(|(code, _)| code).unwrap_err(), INVALID.0);
        assert_eq!(value(&bobs.unwrap()), "bob's", "round {round}");
    }
    assert_eq!(setup.served("hit") - served, 20.0, "all of bob's reads are from the mirror");
    setup.world.put("b", "more");
    assert_eq!(bob.events(1).await, ["4 b more"], "on the same stream");
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", ""), rebuilt);
}

#[tokio::test(start_paused = true)]
async fn b36_a_common_name_gives_those_without_a_token_that_users_rights_and_no_more() {
    let world = World::new();
    world.put("a", "for all");
    world.put("b", "for few");
    let user = Credentials { name: "gateway".into(), password: "secret".into() };
    let config = MirrorConfig { user: Some(user), has_common_name: true, ..MirrorConfig::default() };
    let setup = Setup::over(world, config).await;
    setup.world.set_common_name("cert");
    let first_keys = KeyRange::Range("\0".into(), "b".into());
    setup.world.enable_auth(&[("gateway", &[KeyRange::all()]), ("cert", &[first_keys])]);
    setup.until("the gateway has a token", || setup.world.calls("Authenticate") >= 2).await;
    assert_eq!(value(&setup.get("a").await), "for all");
    assert_eq!(setup.served("hit"), 1.0);
    for serializable in [false, true] {
        let (code, text) = setup.range(&pb::RangeRequest { serializable, ..get("b") }, None).await.unwrap_err();
        assert_eq!((code, text.as_str()), DENIED);
    }
    let watch = |key: &'static str| pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    let refused = setup.watch(None).await.create(watch("b")).await;
    assert!(refused.canceled && refused.watch_id == -1, "{refused:?}");
    let mut stream = setup.watch(None).await;
    assert!(stream.create(watch("a")).await.created);
    setup.world.enable_auth(&[("gateway", &[KeyRange::all()]), ("cert", &[])]);
    assert_eq!(stream.try_next().await.unwrap_err().0, 14, "a revocation ends it");
}

#[tokio::test(start_paused = true)]
async fn b35_a_watch_is_refused_with_etcds_own_reasons() {
    let setup = with_auth().await;
    for (token, reason) in [
        (None, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (Some("mallory"), "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
        (Some("alice"), "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
    ] {
        let mut stream = setup.watch(token).await;
        let refused = stream.create(all_from(0)).await;
        assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
        assert_eq!(refused.cancel_reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_user_of_its_own_the_gateway_mirrors_nothing_once_auth_is_enabled() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    setup.world.enable_auth(&[("alice", &[key("k")])]);
    let (code, text) = setup.range(&get("k"), None).await.unwrap_err();
    assert_eq!((code, text.as_str()), NOBODY, "at once");
    let enabled = tokio::time::Instant::now();
    assert_eq!(stream.try_next().await.unwrap_err().0, 14);
    assert!(enabled.elapsed() <= Duration::from_secs(1), "{:?}", enabled.elapsed());
    setup.until("the mirror is gone", || setup.metric("forebay_mirror_serving", "") == 0.0).await;
    assert_eq!(value(&setup.range(&get("k"), Some("alice")).await.unwrap()), "v2", "by the upstream");
}
