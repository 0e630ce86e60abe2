//! Progress notices: on request, and when nothing happened for a while.

use super::*;

#[test]
fn b13_progress_is_told_when_every_watcher_is_synced_and_has_begun() {
    let world = World::new();
    let mut client = world.open();
    client.stream.request_progress();
    assert_eq!(client.shown(), Vec::<String>::new(), "a stream without watchers has none");
    client.watch(on_key("a"));
    world.put("b", "2");
    client.stream.request_progress();
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@2", "-1@2"]);
    let future = client.watch(WatchCreateRequest { start_revision: 4, ..on_key("a") });
    world.put("b", "3");
    client.stream.request_progress();
    assert_eq!(client.shown(), Vec::<String>::new(), "a watcher has not begun, and the request is not kept");
    world.put("b", "4");
    assert_eq!(client.shown(), Vec::<String>::new());
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@4"]);
    client.stream.cancel(future);
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("b") });
    client.stream.request_progress();
    assert_eq!(
        client.shown(),
        ["1@4 canceled", "2@4 created", "2@4 b=2@2 b=3@3 b=4@4"],
        "a watcher was unsynced when it was asked"
    );
}

#[test]
fn b05_progress_comes_after_the_events_it_speaks_of() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    world.put("a", "2");
    client.stream.request_progress();
    world.put("a", "3");
    assert_eq!(client.shown(), ["0@2 a=2@2", "-1@2", "0@3 a=3@3"]);
}

#[test]
fn b12_progress_waits_for_the_notifier_to_publish_the_revision_it_names() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    let second = world.store.commit(&[vec![put("a", "2")]]);
    client.stream.request_progress();
    let third = world.store.commit(&[vec![put("a", "3")]]);
    assert_eq!(client.shown(), Vec::<String>::new());
    world.hub.publish(&second);
    assert_eq!(client.shown(), ["0@2 a=2@2", "-1@2"]);
    world.hub.publish(&third);
    assert_eq!(client.shown(), ["0@3 a=3@3"]);
}

#[test]
fn b01_progress_that_a_newer_created_message_overtook_is_told_at_the_newer_revision() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    let second = world.store.commit(&[vec![put("a", "2")]]);
    client.stream.request_progress();
    let third = world.store.commit(&[vec![put("a", "3")]]);
    client.create(on_key("b"));
    assert_eq!(client.shown(), ["1@3 created"]);
    world.hub.publish(&second);
    assert_eq!(client.shown(), ["0@3 a=2@2"], "revisions do not go down on a stream");
    world.hub.publish(&third);
    assert_eq!(client.shown(), ["0@3 a=3@3", "-1@3"]);
}

#[test]
fn progress_under_way_is_dropped_when_a_new_watcher_must_still_catch_up() {
    let world = World::new();
    world.put("b", "2");
    let mut client = world.open();
    client.watch(on_key("a"));
    let third = world.store.commit(&[vec![put("a", "3")]]);
    client.stream.request_progress();
    client.create(WatchCreateRequest { start_revision: 9, ..on_key("a") });
    world.hub.publish(&third);
    assert_eq!(client.shown(), ["1@3 created", "0@3 a=3@3"]);
    assert!(client.stream.accepts_requests());
}

#[test]
fn b13_periodic_progress_goes_to_quiet_synced_watchers_that_asked() {
    let world = World::new();
    let mut client = world.open();
    let notify = |request| WatchCreateRequest { progress_notify: true, ..request };
    client.watch(notify(on_key("quiet")));
    client.watch(notify(on_key("busy")));
    client.watch(on_key("deaf"));
    client.watch(notify(WatchCreateRequest { start_revision: 4, ..on_key("future") }));
    world.put("busy", "2");
    assert_eq!(client.shown(), ["1@2 busy=2@2"]);
    client.stream.tick_progress();
    assert_eq!(client.shown(), ["0@2"]);
    client.stream.tick_progress();
    assert_eq!(client.shown(), ["0@2", "1@2"], "it sent nothing since the last tick");
    world.put("other", "3");
    world.put("other", "4");
    client.create(notify(WatchCreateRequest { start_revision: 2, ..on_key("busy") }));
    client.stream.tick_progress();
    assert_eq!(client.shown(), ["4@4 created", "0@4", "1@4", "3@4", "4@4 busy=2@2"]);
}

#[test]
fn a_stream_that_does_not_read_collects_one_periodic_notice_per_watcher() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { progress_notify: true, ..on_key("a") });
    for _ in 0..5 {
        client.stream.tick_progress();
        world.put("b", "1");
    }
    assert_eq!(client.shown(), ["0@1"]);
    client.stream.tick_progress();
    assert_eq!(client.shown(), ["0@6"]);
}

#[test]
fn a_quiet_mirror_advances_without_changes() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    world.store.0.lock().revision = 10;
    client.stream.request_progress();
    assert_eq!(client.shown(), Vec::<String>::new());
    world.hub.advance(10);
    assert_eq!(world.hub.published(), 10);
    assert_eq!(client.shown(), ["-1@10"]);
}

#[test]
fn a_watcher_of_a_quiet_mirror_is_synced_when_no_change_is_left_to_read() {
    let world = World::new();
    world.put("a", "2");
    world.store.0.lock().revision = 10;
    world.hub.advance(10);
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    client.create(WatchCreateRequest { start_revision: 5, ..on_key("a") });
    let mut out = BytesMut::new();
    assert_eq!(client.poll(&mut out, 1024), Polled::Wrote { messages: 3, events: 1 });
    assert_eq!(client.poll(&mut out, 1024), Polled::Idle);
    assert_eq!(decode(out).iter().map(show).collect::<Vec<_>>(), ["0@10 created", "1@10 created", "0@10 a=2@2"]);
    assert_eq!(world.hub.stats().unsynced, 0);
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@10"]);
}
