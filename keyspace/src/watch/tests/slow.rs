//! Streams that do not keep up.

use super::super::mailbox::{PENDING_BYTES_MAX, PENDING_ITEMS_MAX};
use super::*;

fn revisions(responses: &[WatchResponse]) -> Vec<i64> {
    let events = responses.iter().flat_map(|response| &response.events);
    events.map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[test]
fn b08_a_stream_with_a_full_queue_reads_the_history_and_loses_nothing() {
    let world = World::new();
    let (mut slow, mut quick) = (world.open(), world.open());
    slow.watch(on_key("a"));
    quick.watch(on_key("a"));
    let mut seen = Vec::new();
    let last = 2 * PENDING_ITEMS_MAX as i64;
    for _ in 2..=last {
        world.put("a", "1");
        seen.extend(revisions(&quick.read()));
    }
    let stats = world.hub.stats();
    assert_eq!((stats.unsynced, stats.pending), (1, PENDING_ITEMS_MAX as u64));
    slow.stream.request_progress();
    let responses = slow.read();
    assert_eq!(revisions(&responses), (2..=last).collect::<Vec<_>>());
    assert_eq!(revisions(&responses), seen);
    assert!(responses.iter().all(|response| response.watch_id == 0), "an unsynced watcher tells no progress");
    let stats = world.hub.stats();
    assert_eq!((stats.unsynced, stats.pending), (0, 0));
    world.put("a", "2");
    assert_eq!(slow.read(), quick.read());
}

#[test]
fn a_queue_is_bounded_in_bytes_but_takes_one_large_item() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    let huge = Op::Put("a", Bytes::from(vec![b'v'; PENDING_BYTES_MAX]));
    for _ in 0..3 {
        world.txn(std::slice::from_ref(&huge));
    }
    assert_eq!(world.hub.stats().pending, 1);
    assert_eq!(revisions(&client.read()), [2, 3, 4]);
}

#[test]
fn a_stream_with_many_watchers_queues_some_revisions_for_each() {
    let world = World::new();
    let mut client = world.open();
    for _ in 0..2 * PENDING_ITEMS_MAX {
        client.create(on_key("a"));
    }
    client.read();
    world.put("a", "1");
    assert_eq!(world.hub.stats().unsynced, 0);
    assert_eq!(client.read().len(), 2 * PENDING_ITEMS_MAX);
}

#[test]
fn compaction_overtakes_a_slow_watcher_after_what_was_queued_for_it() {
    let world = World::new();
    let mut client = world.open();
    client.watch(on_key("a"));
    for _ in 0..PENDING_ITEMS_MAX + 10 {
        world.put("a", "1");
    }
    let current = PENDING_ITEMS_MAX as i64 + 11;
    world.store.compact(current);
    let responses = client.read();
    assert_eq!(revisions(&responses), (2..=current - 10).collect::<Vec<_>>());
    let end = format!("0@0 canceled compacted={current}");
    assert_eq!(show(responses.last().unwrap()), end);
}

#[test]
fn lagging_watchers_take_turns() {
    let world = World::new();
    let mut client = world.open();
    let watchers = 8;
    for round in 0..40 {
        world.txn(&[Op::Put("a", Bytes::from(vec![b'v'; 50_000])), put("b", &round.to_string())]);
    }
    for _ in 0..watchers {
        client.create(WatchCreateRequest { start_revision: 2, ..on_all() });
    }
    let mut bytes_of = vec![0; watchers];
    loop {
        let mut out = BytesMut::new();
        if client.poll(&mut out, 1) == Polled::Idle {
            break;
        }
        let len = out.len();
        bytes_of[decode(out).remove(0).watch_id as usize] += len;
        let (least, most) = (bytes_of.iter().min().unwrap(), bytes_of.iter().max().unwrap());
        assert!(most - least <= 250_000, "none gets more than a turn ahead: {bytes_of:?}");
    }
    assert!(bytes_of.iter().all(|bytes| *bytes > 40 * 50_000));
}

#[test]
fn a_long_message_is_written_once_there_is_memory_for_it_and_says_how_much() {
    let world = World::new();
    let mut client = world.open();
    let prev_kv = WatchCreateRequest { prev_kv: true, ..on_all() };
    client.watch(prev_kv);
    let long = |key| Op::Put(key, Bytes::from(vec![b'v'; 50_000]));
    world.txn(&[put("a", "short")]);
    world.txn(&[long("a"), long("b")]);
    world.txn(&[put("c", "behind")]);
    let mut out = BytesMut::new();
    // Nothing overtakes it, and what is short waits for nobody.
    assert_eq!(client.stream.poll(&BASE, &mut out, 1 << 20), Polled::Wrote { messages: 1, events: 1 });
    let Polled::Long(bytes) = client.stream.poll(&BASE, &mut out, 1 << 20) else { panic!("100 KB are long") };
    let before = out.len();
    assert_eq!(client.stream.poll(&BASE, &mut out, 1 << 20), Polled::Long(bytes));
    assert_eq!(out.len(), before);
    client.stream.allow_long();
    assert_eq!(client.stream.poll(&BASE, &mut out, 1), Polled::Wrote { messages: 1, events: 2 });
    // A piece of a message in pieces has one field more.
    assert_eq!(out.len() - before, bytes + 5 - 2);
    assert_eq!(client.stream.poll(&BASE, &mut out, 1 << 20), Polled::Wrote { messages: 1, events: 1 });
    assert_eq!(client.stream.poll(&BASE, &mut out, 1 << 20), Polled::Idle);
}

#[test]
fn a_long_search_in_the_history_lets_others_run() {
    let world = World::new();
    let txns: Vec<Vec<Op>> = (0..40_000).map(|_| vec![put("a", "")]).collect();
    let batch = world.store.commit(&txns);
    world.hub.publish(&batch);
    let mut client = world.open();
    client.watch(WatchCreateRequest { start_revision: 2, ..on_key("b") });
    let mut out = BytesMut::new();
    let mut yields = 0;
    while client.poll(&mut out, 1024) == Polled::Yield {
        yields += 1;
    }
    assert_eq!(yields, 2);
    assert!(out.is_empty());
    assert_eq!(world.hub.stats().unsynced, 0);
}
