//! Creating and cancelling watchers.

use super::*;

#[test]
fn ids_count_up_from_zero_and_skip_what_the_client_took() {
    let world = World::new();
    let mut client = world.open();
    let mut ids = Vec::new();
    for asked in [0, 1, -7, 0, 3, 0, 0, i64::MIN, i64::MAX] {
        ids.push(client.watch(WatchCreateRequest { watch_id: asked, ..on_key("a") }));
    }
    assert_eq!(ids, [0, 1, -7, 2, 3, 4, 5, i64::MIN, i64::MAX]);
    client.stream.cancel(0);
    assert_eq!(client.shown(), ["0@1 canceled"]);
    assert_eq!(client.watch(on_key("a")), 6, "the counter does not go back");
}

#[test]
fn b15_an_id_in_use_is_refused_and_a_cancelled_one_is_free_again() {
    let world = World::new();
    let mut client = world.open();
    let seven = WatchCreateRequest { watch_id: 7, ..on_key("a") };
    client.create(seven.clone());
    client.create(seven.clone());
    client.stream.cancel(7);
    client.create(seven);
    let duplicate = "-1@1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)";
    assert_eq!(client.shown(), ["7@1 created", duplicate, "7@1 canceled", "7@1 created"]);
}

#[test]
fn b18_an_empty_key_is_the_first_one_and_an_end_of_zero_is_none() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key(""));
    client.watch(on_range("", "\0"));
    client.watch(on_range("b", "\0"));
    client.watch(on_range("", "b"));
    world.txn(&[put("\0", "1"), put("a", "2"), put("b", "3"), put("c", "4")]);
    let mut shown = client.shown();
    shown.sort();
    assert_eq!(shown, ["0@2 \\x00=1@2", "1@2 \\x00=1@2 a=2@2 b=3@2 c=4@2", "2@2 b=3@2 c=4@2", "3@2 \\x00=1@2 a=2@2"]);
}

#[test]
fn a_range_that_ends_before_it_begins_is_refused() {
    let world = World::new();
    let mut client = world.open();
    client.create(on_range("b", "a"));
    client.create(on_range("b", "b"));
    client.create(on_key("b"));
    let refused = "-1@1 created canceled (mvcc: watcher range is empty)";
    assert_eq!(client.shown(), [refused, refused, "0@1 created"]);
}

#[test]
fn a_negative_start_is_refused_before_anything_else_is_looked_at() {
    let world = World::new();
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: -1, ..on_range("b", "a") });
    assert_eq!(client.shown(), ["-1@1 created canceled (etcdserver: mvcc: required revision has been compacted)"]);
}

#[test]
fn b14_a_refusal_keeps_the_stream_usable() {
    let world = World::new();
    let mut client = world.open();
    client.stream.refuse("rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    client.create(on_key("a"));
    world.put("a", "1");
    assert_eq!(
        client.shown(),
        [
            "-1@1 created canceled (rpc error: code = PermissionDenied desc = etcdserver: permission denied)",
            "0@1 created",
            "0@2 a=1@2"
        ]
    );
}

#[test]
fn b04_without_a_start_nothing_up_to_the_created_revision_is_sent_even_if_it_is_published_later() {
    let world = World::new();
    let mut client = world.open();
    let second = world.store.commit(&[vec![put("a", "2")]]);
    client.create(on_key("a"));
    let third = world.store.commit(&[vec![put("a", "3")]]);
    client.create(on_key("a"));
    world.hub.publish(&second);
    world.hub.publish(&third);
    assert_eq!(client.shown(), ["0@2 created", "1@3 created", "0@3 a=3@3"]);
    world.put("a", "4");
    assert_eq!(client.shown(), ["0@4 a=4@4", "1@4 a=4@4"]);
}

#[test]
fn a_start_that_is_visible_and_not_yet_published_needs_no_history() {
    let world = World::new();
    let mut client = world.open();
    let batch = world.store.commit(&[vec![put("a", "2")], vec![put("a", "3")]]);
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    client.create(WatchCreateRequest { start_revision: 3, ..on_key("a") });
    assert_eq!(world.hub.stats().unsynced, 0);
    world.hub.publish(&batch);
    assert_eq!(client.shown(), ["0@3 created", "1@3 created", "0@3 a=2@2", "0@3 a=3@3", "1@3 a=3@3"]);
}

#[test]
fn b17_a_future_start_is_silent_until_it_is_reached() {
    let world = World::new();
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 4, ..on_key("a") });
    client.create(WatchCreateRequest { start_revision: i64::MAX, ..on_key("a") });
    world.put("a", "2");
    world.put("a", "3");
    assert_eq!(client.shown(), ["0@1 created", "1@1 created"]);
    world.hub.resync();
    assert_eq!(client.shown(), Vec::<String>::new());
    world.put("a", "4");
    assert_eq!(client.shown(), ["0@4 a=4@4"]);
    assert_eq!(world.hub.stats().unsynced, 0);
}

#[test]
fn b16_a_compacted_start_is_created_and_then_cancelled_and_its_id_stays_taken() {
    let world = World::new();
    for value in ["2", "3", "4"] {
        world.put("a", value);
    }
    world.store.compact(3);
    let mut client = world.open();
    let past = WatchCreateRequest { start_revision: 2, watch_id: 5, ..on_key("a") };
    client.create(past.clone());
    assert_eq!(client.shown(), ["5@4 created", "5@0 canceled compacted=3"]);
    client.create(past);
    client.stream.request_progress();
    client.stream.cancel(5);
    client.stream.cancel(5);
    client.stream.request_progress();
    let duplicate = "-1@4 created canceled (mvcc: duplicate watch ID provided on the WatchStream)";
    assert_eq!(client.shown(), [duplicate, "5@4 canceled"]);
    assert_eq!(client.watch(on_key("a")), 0);
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@4"]);
}

#[test]
fn a_start_at_the_compacted_revision_works_without_the_previous_value() {
    let world = World::new();
    for value in ["2", "3", "4"] {
        world.put("a", value);
    }
    world.store.compact(3);
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 3, prev_kv: true, ..on_key("a") });
    assert_eq!(client.shown(), ["0@4 created", "0@4 a=3@3 a=4@4(was 3)"]);
}

#[test]
fn b15_a_cancelled_watcher_gets_one_answer_and_no_event_after_it() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    client.watch(on_key("a"));
    world.put("a", "1");
    client.stream.cancel(0);
    client.stream.cancel(0);
    client.stream.cancel(99);
    world.put("a", "2");
    assert_eq!(client.shown(), ["0@2 canceled", "1@2 a=1@2", "1@3 a=2@3"]);
    assert_eq!(world.hub.stats().pending, 0);
}

#[test]
fn a_cancelled_watcher_leaves_nothing_to_the_next_one_in_its_place() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { watch_id: 5, ..on_key("a") });
    world.put("a", "1");
    client.stream.cancel(5);
    client.create(WatchCreateRequest { watch_id: 5, ..on_key("a") });
    world.put("a", "2");
    assert_eq!(client.shown(), ["5@2 canceled", "5@2 created", "5@3 a=2@3"]);
}

#[test]
fn the_stream_asks_for_patience_when_answers_pile_up() {
    let world = World::new();
    let mut client = world.open();
    let mut requests = 0;
    while client.stream.accepts_requests() {
        client.create(on_key("a"));
        client.stream.request_progress();
        requests += 1;
    }
    assert!((10..100).contains(&requests));
    assert_eq!(client.read().len(), 2 * requests);
    assert!(client.stream.accepts_requests());
}

#[test]
fn a_dropped_stream_leaves_nothing_behind() {
    let world = World::new();
    for value in ["2", "3", "4", "5"] {
        world.put("a", value);
    }
    world.store.compact(3);
    let mut client = world.open();
    client.watch(on_key("a"));
    client.watch(on_range("a", "b"));
    client.create(WatchCreateRequest { start_revision: 2, ..on_all() });
    client.read();
    client.create(WatchCreateRequest { start_revision: 3, ..on_all() });
    world.put("a", "6");
    let stats = world.hub.stats();
    assert_eq!((stats.streams, stats.watchers, stats.unsynced, stats.pending), (1, 4, 1, 2));
    drop(client);
    let stats = world.hub.stats();
    assert_eq!((stats.streams, stats.watchers, stats.unsynced, stats.pending), (0, 0, 0, 0));
    world.put("a", "7");
    assert_eq!(world.hub.stats().pending, 0);
}
