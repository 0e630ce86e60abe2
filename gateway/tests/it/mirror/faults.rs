//! An upstream that stalls, lies, is set back, or loses its leader.

use super::*;

#[tokio::test(start_paused = true)]
async fn b23_a_watch_that_is_dead_without_saying_so_is_replaced() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    setup.world.set_mute(true);
    setup.world.put("k", "v3");
    setup.until("the stall is noticed", || setup.metric("forebay_mirror_reconnects_total", "stalled") >= 1.0).await;
    setup.world.set_mute(false);
    setup.world.put("k", "v4");
    assert_eq!(stream.events(2).await, ["4 k v3", "5 k v4"]);
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", ""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn b23_an_upstream_that_looks_through_its_past_for_long_is_given_the_time() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    setup.world.delay_watches(Duration::from_secs(7));
    setup.world.break_streams();
    setup.world.put("k", "v3");
    assert_eq!(stream.events(1).await, ["4 k v3"]);
    assert_eq!(setup.metric("forebay_mirror_reconnects_total", "stalled"), 2.0, "after two and four seconds");
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", ""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_begins_at_the_present_if_the_past_takes_too_long() {
    let world = World::new();
    world.put("k", "v1");
    world.delay_watches(Duration::from_secs(20));
    let setup = Setup::over(world, MirrorConfig::default()).await;
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", "late"), 1.0);
    assert_eq!(value(&setup.get("k").await), "v1");
    assert_eq!(setup.served("hit"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn b39_streams_that_break_lose_and_repeat_nothing() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    let mut expected = Vec::new();
    for round in 0..30 {
        setup.world.break_streams();
        expected.push(format!("{} k {round}", setup.world.put("k", &round.to_string())));
    }
    assert_eq!(stream.events(30).await, expected);
    assert_eq!(value(&setup.get("k").await), "29");
    assert_eq!(setup.metric("forebay_mirror_rebuilds_total", ""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn b32_a_lost_event_is_fatal_for_the_mirror_and_not_for_its_clients() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    setup.world.lose_next();
    setup.world.put("k", "v3");
    setup.world.put("k", "v4");
    assert_eq!(value(&setup.get("k").await), "v4");
    setup.until("it is built anew", || setup.metric("forebay_mirror_rebuilds_total", "gap") == 1.0).await;
    setup.serving().await;
    setup.world.put("k", "v5");
    assert_eq!(stream.events(3).await, ["4 k v3", "5 k v4", "6 k v5"]);
    assert_eq!(value(&setup.get("k").await), "v5");
}

#[tokio::test(start_paused = true)]
async fn b32_what_no_event_shows_a_comparison_finds() {
    let setup = Setup::new().await;
    setup.until("a page is compared", || setup.metric("forebay_mirror_audits_total", "same") >= 1.0).await;
    setup.world.falsify("k", "another past");
    setup.until("it is found out", || setup.metric("forebay_mirror_rebuilds_total", "audit") == 1.0).await;
    setup.serving().await;
    assert_eq!(value(&setup.get("k").await), "another past");
}

#[tokio::test(start_paused = true)]
async fn b40_an_upstream_that_was_set_back_is_believed_and_the_past_is_not() {
    for cluster_id in [7, 8] {
        let setup = Setup::new().await;
        let mut stream = setup.watch(None).await;
        stream.create(all_from(0)).await;
        setup.world.restore(cluster_id);
        let read = setup.get("k").await;
        assert_eq!((read.count, revision(&read)), (0, 1), "cluster {cluster_id}: old revisions are never served");
        let canceled = stream.next().await;
        assert!(canceled.canceled && canceled.compact_revision > 0, "{canceled:?}");
        let (code, _) = stream.try_next().await.unwrap_err();
        assert_eq!(code, 14, "the client comes back");
        let reason = if cluster_id == 7 { "revision" } else { "cluster" };
        assert_eq!(setup.metric("forebay_mirror_rebuilds_total", reason), 1.0);
        setup.serving().await;
        setup.world.put("k", "anew");
        assert_eq!(value(&setup.get("k").await), "anew");
    }
}

#[tokio::test(start_paused = true)]
async fn b40_an_upstream_that_was_set_back_to_what_no_read_had_seen_is_found_out_too() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    assert_eq!(revision(&setup.get("k").await), 3);
    for value in ["v3", "v4", "v5"] {
        setup.world.put("k", value);
    }
    stream.events(3).await;
    setup.world.restore(7);
    for value in ["new", "newer", "newest"] {
        setup.world.put("k", value);
    }
    let read = setup.get("k").await;
    assert_eq!((value(&read), revision(&read)), ("newest", 4), "a watch had told of revision 6");
    assert!(stream.next().await.canceled);
}

#[tokio::test(start_paused = true)]
async fn b40_a_watch_from_before_what_a_restored_upstream_compacted_hears_nothing_of_the_past_that_was() {
    let setup = Setup::new().await;
    for value in ["v3", "v4", "v5"] {
        setup.world.put("k", value);
    }
    assert_eq!(revision(&setup.get("k").await), 6);
    setup.world.restore(7);
    for value in ["new", "newer", "newest"] {
        setup.world.put("k", value);
    }
    setup.world.compact(3);
    let mut early = setup.watch(None).await;
    early.send_create(all_from(2)).await;
    assert_eq!(early.try_next().await.unwrap_err().0, 14, "the client comes back");
    let mut stream = setup.watch(None).await;
    let created = stream.create(all_from(2)).await;
    let canceled = stream.next().await;
    assert!(created.created && canceled.canceled && canceled.compact_revision == 3, "{created:?} {canceled:?}");
    assert_eq!(created.header.unwrap().revision, 4);
}

#[tokio::test(start_paused = true)]
async fn b38_a_lost_leader_ends_the_streams_that_asked_to_hear_of_it() {
    let setup = Setup::new().await;
    let (writer, body) = Writer::new();
    let mut request = with_body("/etcdserverpb.Watch/Watch", body);
    request.headers_mut().insert("hasleader", "true".parse().unwrap());
    let response = setup.api.call(request).await;
    let mut asking = Stream { writer, reader: Reader::new(response.into_body()) };
    let mut other = setup.watch(None).await;
    asking.create(all_from(0)).await;
    other.create(all_from(0)).await;
    setup.world.set_leaderless(true);
    assert_eq!(asking.try_next().await.unwrap_err(), (14, "etcdserver: no leader".to_owned()));
    other.is_silent().await;
}
