//! What events look like, and how they are put into responses.

use forebay_proto::etcdserverpb::watch_create_request::FilterType;

use super::*;

#[test]
fn b09_a_live_response_holds_one_revision_in_order_of_its_operations() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_all());
    client.watch(on_range("b", "d"));
    let batch = world.store.commit(&[
        vec![put("c", "1"), put("a", "2"), put("b", "3")],
        vec![put("x", "4")],
        vec![put("b", "5"), Op::Delete("c")],
    ]);
    world.hub.publish(&batch);
    assert_eq!(
        client.shown(),
        ["0@2 c=1@2 a=2@2 b=3@2", "1@2 c=1@2 b=3@2", "0@3 x=4@3", "0@4 b=5@4 -c@4", "1@4 b=5@4 -c@4"]
    );
}

#[test]
fn two_changes_of_a_key_in_one_revision_are_two_events_with_one_past() {
    let world = World::new();
    let mut client = world.open();
    world.put("old", "0");
    client.watch(WatchCreateRequest { prev_kv: true, ..on_all() });
    world.txn(&[put("old", "1"), Op::Delete("old"), put("new", "2"), put("new", "3"), Op::Delete("new")]);
    assert_eq!(
        client.shown(),
        ["0@3 old=1@3(was 0) -old@3(was 0) new=2@3 new=3@3 -new@3"],
        "the previous value is that of the revision before"
    );
    world.txn(&[put("old", "4"), put("old", "5")]);
    assert_eq!(client.shown(), ["0@4 old=4@4 old=5@4"]);
}

#[test]
fn b19_the_previous_value_is_sent_to_those_who_asked() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { prev_kv: true, ..on_key("a") });
    client.watch(on_key("a"));
    world.put("a", "1");
    world.put("a", "2");
    world.delete("a");
    world.put("a", "3");
    let shown = client.shown();
    let of = |id: &str| -> Vec<&str> { shown.iter().filter_map(|line| line.strip_prefix(id)).collect() };
    assert_eq!(of("0@"), ["2 a=1@2", "3 a=2@3(was 1)", "4 -a@4(was 2)", "5 a=3@5"]);
    assert_eq!(of("1@"), ["2 a=1@2", "3 a=2@3", "4 -a@4", "5 a=3@5"]);
}

#[test]
fn b19_a_previous_value_that_was_compacted_before_it_was_sent_is_absent() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { prev_kv: true, ..on_key("a") });
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.store.compact(3);
    assert_eq!(client.shown(), ["0@2 a=1@2", "0@3 a=2@3", "0@4 a=3@4(was 2)"]);
}

#[test]
fn filters_leave_out_puts_or_deletes_and_say_nothing_when_nothing_is_left() {
    let world = World::new();
    let mut client = world.open();
    let (noput, nodelete) = (FilterType::Noput as i32, FilterType::Nodelete as i32);
    for filters in [vec![noput], vec![nodelete, 77], vec![noput, nodelete], vec![77]] {
        client.watch(WatchCreateRequest { filters, ..on_all() });
    }
    world.put("a", "1");
    world.txn(&[Op::Delete("a"), put("b", "2")]);
    world.delete("b");
    let live = client.shown();
    let of = |id: &str| -> Vec<&str> { live.iter().filter_map(|line| line.strip_prefix(id)).collect() };
    assert_eq!(of("0@"), ["3 -a@3", "4 -b@4"]);
    assert_eq!(of("1@"), ["2 a=1@2", "3 b=2@3"]);
    assert_eq!(of("2@"), Vec::<&str>::new());
    assert_eq!(of("3@"), ["2 a=1@2", "3 -a@3 b=2@3", "4 -b@4"]);
    client.create(WatchCreateRequest { filters: vec![noput], start_revision: 2, ..on_all() });
    client.create(WatchCreateRequest { filters: vec![noput, nodelete], start_revision: 2, ..on_all() });
    assert_eq!(client.shown(), ["4@4 created", "5@4 created", "4@4 -a@3 -b@4"]);
}

#[test]
fn catching_up_takes_at_most_a_thousand_revisions_per_response() {
    let world = World::new();
    for _ in 0..2500 {
        world.txn(&[put("a", "1"), put("b", "2")]);
    }
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 2, ..on_all() });
    let responses = client.read();
    let sizes: Vec<usize> = responses.iter().map(|response| response.events.len()).collect();
    assert_eq!(sizes, [0, 2000, 2000, 1000]);
    assert!(responses.iter().all(|response| revision_of(response) == 2501), "the store's revision, not the events'");
}

#[test]
fn b07_catching_up_ends_where_live_begins() {
    let world = World::new();
    world.put("a", "2");
    world.put("a", "3");
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    // Visible, not published: read from the history, and not delivered a second time.
    let batch = world.store.commit(&[vec![put("a", "4")], vec![put("a", "5")]]);
    assert_eq!(client.shown(), ["0@3 created", "0@5 a=2@2 a=3@3 a=4@4 a=5@5"]);
    world.hub.publish(&batch);
    world.put("a", "6");
    assert_eq!(client.shown(), ["0@6 a=6@6"]);
}

/// A store that is written to while it is read.
struct Busy(Arc<Store>);

impl History for Busy {
    fn revision(&self) -> i64 {
        self.0.revision()
    }

    fn compacted(&self) -> i64 {
        self.0.compacted()
    }

    fn changes(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>> {
        if self.0.revision() < 6 {
            self.0.commit(&[vec![put("a", "new")], vec![put("a", "newer")]]);
        }
        self.0.changes(from, max_revisions)
    }
}

#[test]
fn b02_a_header_is_not_older_than_what_became_visible_while_it_was_read() {
    let mut world = World::new();
    world.store.commit(&[vec![put("a", "2")]]);
    world.hub = Hub::new(Arc::new(Busy(world.store.clone())), 0);
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    assert_eq!(client.shown(), ["0@2 created", "0@2 a=2@2"], "synced: the rest will be published");
    for batch in world.store.changes(3, 1000) {
        world.hub.publish(&batch);
    }
    assert_eq!(client.shown(), ["0@3 a=new@3", "0@4 a=newer@4"]);
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    assert_eq!(client.shown(), ["1@4 created", "1@4 a=2@2 a=new@3 a=newer@4"]);
}

#[test]
fn a_watcher_in_the_middle_of_a_batch_gets_the_rest_of_it() {
    let world = World::new();
    let batch = world.store.commit(&[vec![put("a", "2")], vec![put("a", "3")], vec![put("a", "4")]]);
    world.hub.publish(&batch);
    let mut client = world.open();
    client.create(WatchCreateRequest { start_revision: 3, ..on_key("a") });
    assert_eq!(client.shown(), ["0@4 created", "0@4 a=3@3 a=4@4"]);
}

#[test]
fn compaction_overtakes_a_watcher_that_catches_up_but_no_synced_one() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    for value in ["2", "3", "4"] {
        world.put("a", value);
    }
    client.create(WatchCreateRequest { start_revision: 2, ..on_key("a") });
    world.store.compact(4);
    assert_eq!(
        client.shown(),
        ["1@4 created", "0@4 a=2@2", "0@4 a=3@3", "0@4 a=4@4", "1@0 canceled compacted=4"],
        "the created message came first and said 4, so no later header says less"
    );
}

#[test]
fn a_history_replaced_by_a_snapshot_is_caught_up_without_repeating() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    client.create(WatchCreateRequest { start_revision: 6, ..on_key("a") });
    world.put("a", "2");
    assert_eq!(client.shown(), ["1@1 created", "0@2 a=2@2"]);
    world.put("a", "3");
    // Revisions that arrive inside a snapshot are never published.
    world.store.commit(&[vec![put("a", "4")], vec![put("a", "5")], vec![put("a", "6")]]);
    world.hub.resync();
    assert_eq!(world.hub.stats().unsynced, 2);
    assert_eq!(client.shown(), ["0@3 a=3@3", "0@6 a=4@4 a=5@5 a=6@6", "1@6 a=6@6"]);
    assert_eq!(world.hub.stats().unsynced, 0);
    world.put("a", "7");
    assert_eq!(client.shown(), ["0@7 a=7@7", "1@7 a=7@7"]);
    world.store.commit(&[vec![put("a", "8")], vec![put("a", "9")]]);
    world.store.compact(9);
    world.hub.resync();
    assert_eq!(client.shown(), ["0@0 canceled compacted=9", "1@0 canceled compacted=9"]);
}

fn large(key: &'static str) -> Op {
    Op::Put(key, Bytes::from(vec![b'v'; 200_000]))
}

#[test]
fn b10_a_large_response_is_fragmented_for_those_who_asked_and_nothing_comes_between() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { fragment: true, ..on_all() });
    client.watch(on_all());
    world.txn(&[large("a"), large("b"), large("c"), large("d"), large("e")]);
    // One poll at a time, with requests in between that have answers.
    let mut shown = Vec::new();
    loop {
        let mut out = BytesMut::new();
        if client.poll(&mut out, 1) == Polled::Idle {
            break;
        }
        client.stream.cancel(0);
        shown.extend(decode(out).iter().map(show));
    }
    let event = |key| format!("{key}=200000B@2");
    let (a, b, c, d, e) = (event("a"), event("b"), event("c"), event("d"), event("e"));
    assert_eq!(
        shown,
        [
            format!("0@2 fragment {a} {b}"),
            format!("0@2 fragment {c} {d}"),
            format!("0@2 {e}"),
            "0@2 canceled".to_string(),
            format!("1@2 {a} {b} {c} {d} {e}"),
        ]
    );
}

#[test]
fn a_fragment_holds_at_least_one_event_and_a_single_event_is_whole() {
    let world = World::new();
    let mut client = world.open();
    client.watch(WatchCreateRequest { fragment: true, ..on_all() });
    let huge = |key| Op::Put(key, Bytes::from(vec![b'v'; 600_000]));
    world.txn(&[huge("a")]);
    world.txn(&[put("a", "1"), huge("b"), put("c", "2")]);
    assert_eq!(client.shown(), ["0@2 a=600000B@2", "0@3 fragment a=1@3", "0@3 fragment b=600000B@3", "0@3 c=2@3"]);
}

#[test]
fn caught_up_responses_are_fragmented_too() {
    let world = World::new();
    for key in ["a", "b", "c"] {
        world.txn(&[large(key)]);
    }
    let mut client = world.open();
    client.create(WatchCreateRequest { fragment: true, start_revision: 2, ..on_all() });
    world.put("d", "1");
    assert_eq!(client.shown(), ["0@4 created", "0@5 fragment a=200000B@2 b=200000B@3", "0@5 c=200000B@4 d=1@5"]);
}

#[test]
fn a_stream_is_woken_once_until_it_is_idle_again() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    client.watch(on_all());
    client.read();
    for _ in 0..3 {
        world.put("a", "1");
    }
    world.put("b", "1");
    assert_eq!(client.wakes.load(Ordering::Relaxed), 1);
    client.read();
    world.put("a", "2");
    assert_eq!(client.wakes.load(Ordering::Relaxed), 2);
}
