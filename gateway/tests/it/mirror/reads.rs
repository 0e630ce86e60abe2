//! Ranges from the mirror.

use std::sync::Arc;

use forebay_gateway::mirror::MirrorConfig;

use super::*;

#[tokio::test(start_paused = true)]
async fn b02_a_range_is_answered_from_the_mirror_at_the_revision_of_its_data() {
    let setup = Setup::new().await;
    let asked = setup.world.calls("Range");
    let response = setup.get("k").await;
    assert_eq!((value(&response), revision(&response), response.count), ("v2", 3, 1));
    assert_eq!(setup.served("hit"), 1.0);
    assert_eq!(setup.world.calls("Range") - asked, 1, "one small read asked whether it may");
    let header = response.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (7, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn b25_a_read_that_comes_during_a_round_waits_for_the_next_one() {
    let setup = Arc::new(Setup::new().await);
    let get = |setup: &Arc<Setup>| {
        let setup = Arc::clone(setup);
        tokio::spawn(async move { setup.get("k").await })
    };
    setup.world.hold(true);
    let asked = setup.world.calls("Range");
    let early = get(&setup);
    let rounds = || setup.world.calls("Range") - asked;
    setup.until("the first round is under way", || rounds() >= 1).await;
    // Decided before this write, told after it.
    let written = setup.world.put("k", "v3");
    let late: Vec<_> = (0..10).map(|_| get(&setup)).collect();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(rounds(), 1, "one round at a time");
    setup.world.hold(false);
    assert!(revision(&early.await.unwrap()) >= 3);
    for late in late {
        let late = late.await.unwrap();
        assert_eq!((value(&late), revision(&late)), ("v3", written), "what was written before the read came");
    }
    assert!(rounds() <= 3, "all who waited share a round: {}", rounds());
}

#[tokio::test(start_paused = true)]
async fn b27_a_mirror_that_is_behind_does_not_answer() {
    let setup = Setup::new().await;
    setup.world.set_mute(true);
    setup.world.put("k", "v3");
    assert_eq!(value(&setup.get("k").await), "v3");
    assert_eq!((setup.served("hit"), setup.served("lagging")), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn b28_every_option_of_a_range_is_the_mirrors_to_answer() {
    let setup = Setup::new().await;
    for at in 0..5 {
        setup.world.put(&format!("p/{at}"), &at.to_string());
    }
    let all = pb::RangeRequest { key: "p/".into(), range_end: "p0".into(), ..Default::default() };
    let limited = setup.range(&pb::RangeRequest { limit: 2, ..all.clone() }, None).await.unwrap();
    assert_eq!((limited.kvs.len(), limited.count, limited.more), (2, 5, true));
    let counted = setup.range(&pb::RangeRequest { count_only: true, ..all.clone() }, None).await.unwrap();
    assert_eq!((counted.kvs.len(), counted.count), (0, 5));
    let order = pb::range_request::SortOrder::Descend.into();
    let sorted = setup.range(&pb::RangeRequest { sort_order: order, keys_only: true, ..all }, None).await.unwrap();
    assert_eq!((&sorted.kvs[0].key[..], sorted.kvs[0].value.len()), (&b"p/4"[..], 0));
    assert_eq!(setup.served("hit"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn b29_a_compaction_by_somebody_else_holds_at_once() {
    let setup = Setup::new().await;
    let first = setup.world.put("k", "v3");
    setup.world.put("k", "v4");
    let past = pb::RangeRequest { revision: first, ..get("k") };
    assert_eq!(value(&setup.range(&past, None).await.unwrap()), "v3");
    assert_eq!(setup.served("hit"), 1.0, "it is in the window");
    setup.world.compact(first + 1);
    let (code, text) = setup.range(&past, None).await.unwrap_err();
    assert_eq!((code, text.as_str()), (11, "etcdserver: mvcc: required revision has been compacted"));
    let future = pb::RangeRequest { revision: 100, ..get("k") };
    let (code, text) = setup.range(&future, None).await.unwrap_err();
    assert_eq!((code, text.as_str()), (11, "etcdserver: mvcc: required revision is a future revision"));
}

#[tokio::test(start_paused = true)]
async fn b34_reads_of_the_compacted_past_do_not_keep_others_from_the_mirror() {
    let setup = Setup::new().await;
    setup.world.put("k", "v3");
    setup.get("k").await;
    setup.world.compact(4);
    let served = setup.served("hit");
    for _ in 0..10 {
        let (past, now) = (pb::RangeRequest { revision: 3, ..get("k") }, get("k"));
        let (past, now) = tokio::join!(setup.range(&past, None), setup.range(&now, None));
        assert_eq!((past.unwrap_err().0, value(&now.unwrap())), (11, "v3"));
    }
    assert_eq!(setup.served("hit") - served, 10.0);
}

#[tokio::test(start_paused = true)]
async fn a_revision_before_the_window_is_read_at_the_upstream() {
    let setup = Setup::with_past(0).await;
    let past = pb::RangeRequest { revision: 2, ..get("k") };
    assert_eq!(value(&setup.range(&past, None).await.unwrap()), "v1");
    assert_eq!((setup.served("hit"), setup.served("window")), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn b30_a_serializable_read_is_young_and_not_behind_a_write_that_was_acknowledged() {
    let setup = Setup::new().await;
    let serializable = pb::RangeRequest { serializable: true, ..get("k") };
    assert_eq!(value(&setup.range(&serializable, None).await.unwrap()), "v2");
    assert_eq!(setup.served("hit"), 1.0);
    setup.world.set_mute(true);
    setup.put("k", "mine").await;
    assert_eq!(value(&setup.range(&serializable, None).await.unwrap()), "mine");
    assert_eq!((setup.served("hit"), setup.served("lagging")), (1.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn a_serializable_read_needs_no_leader_and_a_linearizable_one_says_so() {
    let setup = Setup::new().await;
    setup.world.set_leaderless(true);
    let serializable = pb::RangeRequest { serializable: true, ..get("k") };
    assert_eq!(value(&setup.range(&serializable, None).await.unwrap()), "v2");
    let (code, text) = setup.range(&get("k"), None).await.unwrap_err();
    assert_eq!((code, text.as_str()), (14, "etcdserver: no leader"));
}

#[tokio::test(start_paused = true)]
async fn b31_a_txn_is_never_answered_from_the_mirror() {
    let setup = Setup::new().await;
    let range = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(get("k"))) };
    let txn = pb::TxnRequest { success: vec![range], ..Default::default() };
    let asked = setup.world.calls("Txn");
    setup.call("KV/Txn", txn.encode_to_vec(), None).await;
    assert_eq!(setup.world.calls("Txn") - asked, 1);
}

#[tokio::test(start_paused = true)]
async fn b37_two_gateways_each_ask_for_themselves() {
    let one = Setup::new().await;
    let other = Setup::over(one.world.clone(), MirrorConfig::default()).await;
    for value_written in ["a", "b", "c"] {
        let written = one.put("k", value_written).await;
        let read = other.get("k").await;
        assert_eq!((value(&read), revision(&read)), (value_written, written));
    }
    assert_eq!(other.served("hit"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_fit_are_the_upstreams_to_answer() {
    let world = World::new();
    for at in 0..100 {
        world.put(&format!("big/{at}"), &"x".repeat(10_000));
    }
    world.put("small/1", "v");
    let mirror = MirrorConfig { max_bytes: 200_000, prefixes: vec!["small/".into()], ..MirrorConfig::default() };
    let setup = Setup::over(world, mirror).await;
    setup.get("small/1").await;
    assert_eq!((setup.served("hit"), setup.served("uncovered")), (1.0, 0.0));
    assert_eq!(setup.get("big/7").await.count, 1);
    assert_eq!(setup.served("uncovered"), 1.0);
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", "too_large"), 1.0);
    // A change elsewhere is known to be one: progress is asked for.
    setup.world.put("big/0", "y");
    setup.get("small/1").await;
    assert_eq!(setup.served("hit"), 2.0);
}
