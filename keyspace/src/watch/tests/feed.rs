//! Watchers whose past lies before the window.

use super::*;

/// A store with a=2@2 up to a=9@9, whose window begins at `retained`.
fn world(retained: i64) -> World {
    let world = World::new();
    for value in ["2", "3", "4", "5", "6", "7", "8", "9"] {
        world.put("a", value);
    }
    world.store.0.lock().retained = retained;
    world
}

fn from(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..on_key("a") }
}

/// What an upstream says of `a` at these revisions.
fn said(revisions: &[i64]) -> Fed {
    let events = revisions.iter().map(|at| event("a", Some(&at.to_string()), 2, at - 1, *at));
    Fed::Events(Events::new(&events.collect::<Vec<_>>()).unwrap())
}

fn opened(client: &mut Client) -> Ticket {
    match client.stream.take_order() {
        Some(Order::Open(catch_up)) => catch_up.ticket,
        order => panic!("{order:?}"),
    }
}

#[test]
fn b21_a_start_before_the_window_is_fed_and_spliced_at_a_revision_boundary() {
    let world = world(6);
    let mut client = world.open();
    client.create(WatchCreateRequest { prev_kv: true, fragment: true, filters: vec![1], ..from(3) });
    assert_eq!(client.shown(), ["0@9 created"]);
    let Some(Order::Open(catch_up)) = client.stream.take_order() else { panic!("a feed is needed") };
    let request = WatchCreateRequest { prev_kv: true, filters: vec![1], ..from(3) };
    assert_eq!((catch_up.request, catch_up.lasting), (request, false));
    client.stream.feed(catch_up.ticket, said(&[3, 4]));
    assert_eq!(client.shown(), ["0@9 a=3@3 a=4@4"]);
    assert_eq!(client.stream.take_order(), Some(Order::More(catch_up.ticket)));
    world.put("a", "10");
    client.stream.feed(catch_up.ticket, said(&[5]));
    assert_eq!(
        client.shown(),
        ["0@10 a=5@5", "0@10 a=6@6(was 5) a=7@7(was 6) a=8@8(was 7) a=9@9(was 8) a=10@10(was 9)"]
    );
    assert_eq!(client.stream.take_order(), Some(Order::Close(catch_up.ticket)));
    assert_eq!(world.hub.stats().unsynced, 0);
    world.put("a", "11");
    assert_eq!(client.shown(), ["0@11 a=11@11(was 10)"]);
}

#[test]
fn b20_what_is_fed_twice_or_beyond_the_window_is_seen_once() {
    let world = world(6);
    let mut client = world.open();
    client.create(from(3));
    client.read();
    let ticket = opened(&mut client);
    client.stream.feed(ticket, said(&[2, 3]));
    assert_eq!(client.shown(), ["0@9 a=3@3"], "what lies before its start is not for it");
    assert_eq!(client.stream.take_order(), Some(Order::More(ticket)));
    // The upstream is ahead of the mirror, whose revision later headers tell.
    client.stream.feed(ticket, said(&[3, 4, 5, 6, 7, 8, 9, 10, 11]));
    assert_eq!(client.shown(), ["0@9 a=4@4 a=5@5 a=6@6 a=7@7 a=8@8 a=9@9"]);
    assert_eq!(client.stream.take_order(), Some(Order::Close(ticket)));
    for value in ["10", "11", "12"] {
        world.put("a", value);
    }
    assert_eq!(client.shown(), ["0@10 a=10@10", "0@11 a=11@11", "0@12 a=12@12"]);
}

#[test]
fn b12_progress_speaks_for_a_fed_watcher_only_when_it_is_back() {
    let world = world(6);
    let mut client = world.open();
    client.create(WatchCreateRequest { progress_notify: true, ..from(3) });
    client.read();
    let ticket = opened(&mut client);
    client.stream.request_progress();
    client.stream.tick_progress();
    assert_eq!(client.shown(), Vec::<String>::new());
    client.stream.feed(ticket, Fed::Progress(4));
    assert_eq!(client.shown(), Vec::<String>::new(), "the upstream's progress is for the feed alone");
    assert_eq!(client.stream.take_order(), Some(Order::More(ticket)));
    client.stream.feed(ticket, Fed::Progress(9));
    client.poll(&mut BytesMut::new(), 1);
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@9"]);
}

#[test]
fn b16_what_the_upstream_has_compacted_ends_the_watcher_with_its_revision() {
    let world = world(6);
    let mut client = world.open();
    client.create(from(3));
    client.read();
    let ticket = opened(&mut client);
    client.stream.feed(ticket, Fed::Compacted(5));
    assert_eq!(client.shown(), ["0@0 canceled compacted=5"]);
    assert_eq!(client.stream.take_order(), Some(Order::Close(ticket)));
    world.put("a", "10");
    client.stream.request_progress();
    assert_eq!(client.shown(), Vec::<String>::new());
}

#[test]
fn b15_a_cancelled_watcher_closes_its_feed_and_leaves_nothing_to_its_successor() {
    let world = world(6);
    let mut client = world.open();
    client.create(from(3));
    client.read();
    let ticket = opened(&mut client);
    client.stream.feed(ticket, said(&[3]));
    client.stream.cancel(0);
    client.create(from(4));
    assert_eq!(client.shown(), ["0@9 canceled", "1@9 created"]);
    assert_eq!(client.stream.take_order(), Some(Order::Close(ticket)));
    let second = opened(&mut client);
    client.stream.feed(ticket, said(&[3]));
    client.stream.feed(second, said(&[4, 5]));
    assert_eq!(client.shown()[0], "1@9 a=4@4 a=5@5", "what was on its way to the first is dropped");
}

#[test]
fn b22_a_client_that_falls_behind_the_window_costs_one_response_and_loses_nothing() {
    let world = world(2);
    let mut client = world.open();
    client.watch(from(0));
    let behind = super::super::mailbox::PENDING_ITEMS_MAX as i64;
    for revision in 10..=behind + 19 {
        world.put("a", &revision.to_string());
    }
    world.store.0.lock().retained = behind + 15;
    let mut seen: Vec<i64> = Vec::new();
    let mut take = |client: &mut Client| {
        let responses = client.read();
        let events = responses.iter().flat_map(|response| &response.events);
        seen.extend(events.map(|event| event.kv.as_ref().unwrap().mod_revision));
    };
    take(&mut client);
    let ticket = opened(&mut client);
    client.stream.feed(ticket, said(&(behind + 10..behind + 15).collect::<Vec<_>>()));
    take(&mut client);
    assert_eq!(seen, (10..=behind + 19).collect::<Vec<_>>());
    assert_eq!(world.hub.stats().unsynced, 0);
}

#[test]
fn b10_nothing_comes_between_the_pieces_of_what_was_fed() {
    let world = world(6);
    let mut client = world.open();
    client.create(WatchCreateRequest { fragment: true, ..from(3) });
    client.create(from(0));
    client.read();
    let ticket = opened(&mut client);
    let large = "v".repeat(300_000);
    let events: Vec<_> = (3..6).map(|at| event("a", Some(&large), 2, at - 1, at)).collect();
    client.stream.feed(ticket, Fed::Events(Events::new(&events).unwrap()));
    world.put("a", "10");
    let ids: Vec<_> = client.read().iter().map(|response| (response.watch_id, response.fragment)).collect();
    let first = ids.iter().position(|(id, _)| *id == 0).unwrap();
    assert_eq!(ids[first..first + 3], [(0, true), (0, true), (0, false)]);
    assert!(ids.iter().any(|(id, _)| *id == 1));
}

#[test]
fn a_stream_opens_some_feeds_at_a_time_and_the_rest_in_turn() {
    let world = world(6);
    let mut client = world.open();
    for _ in 0..40 {
        client.create(from(3));
    }
    client.read();
    let (mut open, mut served) = (Vec::new(), 0);
    loop {
        while let Some(order) = client.stream.take_order() {
            match order {
                Order::Open(catch_up) => open.push(catch_up.ticket),
                Order::Close(ticket) => open.retain(|of| *of != ticket),
                Order::More(ticket) => panic!("{ticket:?} was fed all it needs"),
            }
        }
        assert!(open.len() <= 16);
        let Some(ticket) = open.first().copied() else { break };
        client.stream.feed(ticket, said(&[3, 4, 5]));
        client.read();
        served += 1;
    }
    assert_eq!((served, world.hub.stats().unsynced), (40, 0));
}

#[test]
fn a_range_that_is_not_in_the_history_is_fed_for_good() {
    let world = World::new();
    let mut client = world.open();
    client.stream.create_unmirrored(&on_key("elsewhere"));
    let Some(Order::Open(catch_up)) = client.stream.take_order() else { panic!("a feed is needed") };
    assert_eq!((catch_up.request.start_revision, catch_up.lasting), (2, true), "after the revision it was created at");
    let put = event("elsewhere", Some("x"), 2, 1, 2);
    client.stream.feed(catch_up.ticket, Fed::Events(Events::new(&[put]).unwrap()));
    assert_eq!(client.shown(), ["0@1 created"], "the mirror is at 1, and headers may not go down from 2");
    world.put("a", "2");
    assert_eq!(client.shown(), ["0@2 elsewhere=x@2"]);
    world.put("a", "3");
    client.stream.request_progress();
    assert_eq!(client.shown(), Vec::<String>::new(), "the feed has not said yet that there is nothing more");
    assert_eq!(client.stream.take_order(), Some(Order::More(catch_up.ticket)));
    client.stream.feed(catch_up.ticket, Fed::Progress(3));
    client.read();
    client.stream.request_progress();
    assert_eq!(client.shown(), ["-1@3"]);
    client.stream.cancel(0);
    assert_eq!(client.stream.take_order(), Some(Order::Close(catch_up.ticket)), "and nothing is asked of it before");
}

#[test]
fn b40_a_store_that_begins_anew_ends_every_watcher_and_then_the_stream() {
    let world = world(6);
    let (mut client, mut idle) = (world.open(), world.open());
    client.watch(from(0));
    client.watch(from(30));
    client.create(from(3));
    client.read();
    world.put("a", "10");
    world.hub.purge(|| {
        let mut content = world.store.0.lock();
        *content = Content { revision: 4, ..Content::default() };
    });
    world.put("a", "new");
    client.create(from(0));
    let ended = ["0@0 canceled compacted=4", "1@0 canceled compacted=4", "2@0 canceled compacted=4"];
    assert_eq!(client.shown(), ended, "and nothing of either store, nor of what is asked now");
    for client in [&mut client, &mut idle] {
        assert_eq!(client.poll(&mut BytesMut::new(), 1), Polled::Over);
    }
    let mut after = world.open();
    after.create(from(0));
    world.put("a", "newer");
    assert_eq!(after.shown(), ["0@5 created", "0@6 a=newer@6"]);
    drop((client, idle, after));
    let stats = world.hub.stats();
    assert_eq!((stats.streams, stats.watchers, stats.unsynced, stats.pending), (0, 0, 0, 0));
}

#[test]
fn events_that_no_store_sends_are_refused() {
    let good = |main| event("a", Some("x"), main, 1, main);
    let revision = |events: &[mvccpb::Event]| Events::new(events).map_err(|bad| bad.revision).err();
    assert_eq!(revision(&[good(3), good(3), good(5)]), None);
    assert_eq!(revision(&[good(3), good(2)]), Some(2));
    assert_eq!(revision(&[good(0)]), Some(0));
    assert_eq!(revision(&[good(i64::MAX)]), Some(i64::MAX));
    assert_eq!(revision(&[event("", None, 0, 0, 3)]), Some(3));
    assert_eq!(revision(&[event("a", Some("x"), 9, 1, 3)]), Some(3), "created after it was written");
    assert_eq!(revision(&[mvccpb::Event { r#type: 7, ..good(3) }]), Some(3));
    assert_eq!(revision(&[mvccpb::Event { kv: None, ..good(3) }]), Some(0));
}
