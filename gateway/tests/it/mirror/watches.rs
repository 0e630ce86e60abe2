//! Watch streams that ride the mirror.

use super::*;

#[tokio::test(start_paused = true)]
async fn many_watches_are_one_at_the_upstream() {
    let setup = Setup::new().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = setup.watch(None).await;
        for _ in 0..3 {
            assert!(stream.create(all_from(0)).await.created);
        }
        streams.push(stream);
    }
    setup.put("k", "v3").await;
    for stream in &mut streams {
        assert_eq!(stream.events(3).await, ["4 k v3"; 3]);
    }
    assert_eq!(setup.world.calls("Watch"), 1);
}

#[tokio::test(start_paused = true)]
async fn b04_a_watch_begins_behind_what_was_acknowledged_before_it() {
    let setup = Setup::new().await;
    for round in 0..20 {
        let written = setup.put("k", "before").await;
        let mut stream = setup.watch(None).await;
        let created = stream.create(all_from(0)).await;
        assert!(created.created && created.header.unwrap().revision >= written, "round {round}");
        let after = setup.put("k", "after").await;
        assert_eq!(stream.events(1).await, [format!("{after} k after")]);
    }
}

#[tokio::test(start_paused = true)]
async fn b20_a_watch_from_before_the_window_sees_everything_once_and_in_order() {
    let setup = Setup::with_past(0).await;
    setup.world.put("k", "v3");
    let mut stream = setup.watch(None).await;
    assert!(stream.create(all_from(1)).await.created);
    setup.world.put("k", "v4");
    setup.world.delete("k");
    assert_eq!(stream.events(5).await, ["2 k v1", "3 k v2", "4 k v3", "5 k v4", "6 k"]);
    setup.world.put("k", "v5");
    assert_eq!(stream.events(1).await, ["7 k v5"]);
    stream.is_silent().await;
    assert_eq!(setup.metric("forebay_mirror_upstream_watches", ""), 1.0, "the private one is closed");
    assert_eq!(setup.world.calls("Watch"), 2, "one to mirror, one to catch up");
}

/// `k` = `v1`, `k` = `v2`, `other` = `v`, `k` = `v3` at the revisions 2 to 5, compacted at 3.
fn compacted_world() -> World {
    let world = World::new();
    for (key, value) in [("k", "v1"), ("k", "v2"), ("other", "v"), ("k", "v3")] {
        world.put(key, value);
    }
    world.compact(3);
    world
}

/// Watches and reads of the past after a start; returns how many of the three reads the mirror answered.
async fn past_is_as_it_was(setup: &Setup) -> f64 {
    let mut compacted = setup.watch(None).await;
    assert!(compacted.create(all_from(2)).await.created);
    assert_eq!(compacted.next().await.compact_revision, 3);
    let mut past = setup.watch(None).await;
    let from_the_past = pb::WatchCreateRequest { prev_kv: true, ..all_from(4) };
    assert!(past.create(from_the_past).await.created);
    let mut edge = setup.watch(None).await;
    assert!(edge.create(all_from(6)).await.created);
    setup.world.delete("k");
    assert_eq!(past.events(3).await, ["4 other v", "5 k v3", "6 k"]);
    assert_eq!(edge.events(1).await, ["6 k"]);
    let at = |revision| pb::RangeRequest { revision, ..get("k") };
    let served = setup.served("hit");
    for (revision, told) in [(3, "v2"), (4, "v2"), (5, "v3")] {
        assert_eq!(value(&setup.range(&at(revision), None).await.unwrap()), told, "at {revision}");
    }
    let served = setup.served("hit") - served;
    assert_eq!(setup.range(&at(6), None).await.unwrap().count, 0);
    assert_eq!(setup.range(&at(2), None).await.unwrap_err().0, 11);
    served
}

#[tokio::test(start_paused = true)]
async fn b11_after_a_start_everything_that_is_not_compacted_is_resumed_in_the_window() {
    let setup = Setup::over(compacted_world(), MirrorConfig::default()).await;
    let watches = setup.world.calls("Watch");
    assert_eq!(past_is_as_it_was(&setup).await, 3.0);
    assert_eq!(setup.metric("forebay_mirror_catch_ups_total", ""), 1.0, "for the compacted start alone");
    assert_eq!(setup.world.calls("Watch") - watches, 1);
}

#[tokio::test(start_paused = true)]
async fn b21_what_is_before_the_window_is_the_upstreams_to_tell() {
    let setup = Setup::over(compacted_world(), MirrorConfig { past_revisions: 0, ..MirrorConfig::default() }).await;
    assert_eq!(past_is_as_it_was(&setup).await, 1.0);
    assert_eq!(setup.metric("forebay_mirror_catch_ups_total", ""), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_watches_from_long_ago_receives_in_turns_and_those_that_are_not_read_hold_no_turn() {
    const STREAMS: usize = 100;
    const WRITES: usize = 40;
    let world = World::new();
    let value = "v".repeat(64 << 10);
    for _ in 0..WRITES {
        world.put("k", &value);
    }
    let setup = Setup::over(world, MirrorConfig::default()).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = setup.watch(None).await;
        assert!(stream.create(all_from(1)).await.created);
        streams.push(stream);
    }
    let seen = streams.iter_mut().enumerate().map(|(number, stream)| {
        let setup = &setup;
        async move {
            let (mut seen, mut open_max) = (0, 0.0_f64);
            while seen < WRITES {
                let events = stream.next().await.events;
                let revisions = events.iter().map(|event| event.kv.as_ref().expect("an event has a key").mod_revision);
                let due = (seen + 2..).map(|revision| revision as i64).take(events.len());
                assert!(revisions.eq(due), "each once, in order");
                seen += events.len();
                open_max = open_max.max(setup.metric("forebay_mirror_upstream_watches", ""));
                if number % 2 == 0 {
                    sleep(Duration::from_secs(10)).await;
                }
            }
            open_max
        }
    });
    let open_max = futures::future::join_all(seen).await.into_iter().fold(0.0, f64::max);
    assert!((2.0..=11.0).contains(&open_max), "8 that begin, 2 that go on, and the mirror's own; not {open_max}");
}

#[tokio::test(start_paused = true)]
async fn b16_a_start_that_somebody_else_compacted_is_told_with_the_stores_own_revision() {
    let setup = Setup::new().await;
    for value in ["v3", "v4", "v5"] {
        setup.world.put("k", value);
    }
    setup.get("k").await;
    setup.world.compact(5);
    let mut stream = setup.watch(None).await;
    assert!(stream.create(all_from(4)).await.created);
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.compact_revision == 5, "{canceled:?}");
    let mut stream = setup.watch(None).await;
    assert!(stream.create(all_from(5)).await.created);
    assert_eq!(stream.events(2).await, ["5 k v4", "6 k v5"]);
}

#[tokio::test(start_paused = true)]
async fn b17_a_start_in_the_future_is_waited_for() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    assert!(stream.create(all_from(6)).await.created);
    setup.world.put("k", "v3");
    setup.world.put("k", "v4");
    stream.is_silent().await;
    setup.world.put("k", "v5");
    assert_eq!(stream.events(1).await, ["6 k v5"]);
}

#[tokio::test(start_paused = true)]
async fn b13_progress_is_told_behind_what_was_acknowledged() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    let written = setup.put("k", "v3").await;
    let union = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    stream.writer.send(pb::WatchRequest { request_union: Some(union) }.encode_to_vec()).await;
    assert_eq!(stream.events(1).await, ["4 k v3"]);
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.unwrap().revision, written);
}

#[tokio::test(start_paused = true)]
async fn b24_a_client_that_has_nothing_more_to_ask_goes_on_watching() {
    let setup = Setup::new().await;
    let mut stream = setup.watch(None).await;
    stream.create(all_from(0)).await;
    let Stream { writer, reader } = stream;
    drop(writer);
    let (writer, _body) = Writer::new();
    let mut stream = Stream { writer, reader };
    setup.put("k", "v3").await;
    assert_eq!(stream.events(1).await, ["4 k v3"]);
}
