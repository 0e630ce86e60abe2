//! The hub over the real keyspace: resuming across compaction, restart and a snapshot.

use forebay_proto::KeyRange;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::super::mailbox::PENDING_ITEMS_MAX;
use super::*;
use crate::{CompactStep, Keyspace, Restore};

fn write(keyspace: &mut Keyspace, hub: Option<&Hub>, ops: &[Op]) {
    let mut txn = keyspace.write();
    for op in ops {
        match op {
            Op::Put(key, value) => drop(txn.put(key.as_bytes(), value, 0)),
            Op::Delete(key) => drop(txn.delete_range(&KeyRange::Key(Bytes::from_static(key.as_bytes())))),
        }
    }
    txn.end();
    let batch = keyspace.publish().expect("the ops change something");
    if let Some(hub) = hub {
        hub.publish(&batch);
    }
}

fn compact(keyspace: &mut Keyspace, revision: i64) {
    drop(keyspace.compact(revision).unwrap());
    keyspace.publish();
    assert!(matches!(keyspace.compact_step(1000), CompactStep::Finished(..)));
}

/// The records of a keyspace whose history was: a=1, b=1, -a, b=2, with a compaction at the deletion.
fn restored_at_a_deletion() -> Keyspace {
    let at = |main| Revision { main, sub: 0 };
    let mut restore = Restore::new(Some(4));
    let mut scratch = Vec::new();
    let mut b = |main, version, value| {
        let put = Put { revision: at(main), create_revision: 3, version, lease: 0, key: b"b", value };
        Version::put(put, &mut scratch)
    };
    let (b1, b2) = (b(3, 1, b"1"), b(5, 2, b"2"));
    restore.record(at(3), false, b1.record()).unwrap();
    restore.record(at(4), true, Version::tombstone(at(4), b"a", &mut scratch).record()).unwrap();
    restore.record(at(5), false, b2.record()).unwrap();
    restore.finish(0)
}

/// etcd's #19179: the deletion was missing for a watch that began exactly there.
#[test]
fn b11_a_deletion_at_the_compacted_revision_is_seen_before_and_after_a_restart() {
    let mut keyspace = Keyspace::new();
    for ops in [[put("a", "1")], [put("b", "1")], [Op::Delete("a")], [put("b", "2")]] {
        write(&mut keyspace, None, &ops);
    }
    compact(&mut keyspace, 4);
    for keyspace in [keyspace, restored_at_a_deletion()] {
        let hub = Hub::new(Arc::new(keyspace.reader()), 0);
        let mut client = Client::new(&hub);
        client.create(WatchCreateRequest { start_revision: 4, prev_kv: true, ..on_all() });
        client.create(WatchCreateRequest { start_revision: 3, ..on_all() });
        assert_eq!(client.shown(), ["0@5 created", "1@5 created", "0@5 -a@4 b=2@5(was 1)", "1@0 canceled compacted=4"]);
    }
}

#[test]
fn a_watch_goes_on_across_a_snapshot_from_the_leader() {
    let mut follower = Keyspace::new();
    let hub = Hub::new(Arc::new(follower.reader()), 0);
    let mut client = Client::new(&hub);
    client.create(on_all());
    write(&mut follower, Some(&hub), &[put("a", "1")]);
    write(&mut follower, Some(&hub), &[put("b", "1")]);
    assert_eq!(client.shown(), ["0@1 created", "0@2 a=1@2", "0@3 b=1@3"]);
    follower.replace(restored_at_a_deletion());
    hub.resync();
    write(&mut follower, Some(&hub), &[put("b", "3")]);
    assert_eq!(client.shown(), ["0@6 -a@4 b=2@5 b=3@6"]);
}

#[test]
fn a_snapshot_that_is_compacted_beyond_a_watcher_ends_it() {
    let mut follower = Keyspace::new();
    let hub = Hub::new(Arc::new(follower.reader()), 0);
    let mut client = Client::new(&hub);
    client.create(on_all());
    write(&mut follower, Some(&hub), &[put("a", "1")]);
    follower.replace(restored_at_a_deletion());
    hub.resync();
    assert_eq!(client.shown(), ["0@1 created", "0@2 a=1@2", "0@0 canceled compacted=4"]);
}

#[test]
fn changes_found_by_key_are_those_that_the_history_has() {
    let seed = 7;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut keyspace = Keyspace::new();
    for _ in 0..400 {
        let mut txn = keyspace.write();
        for _ in 0..rng.random_range(1..3) {
            let key = *model::choose(&mut rng, &["a", "a/b", "b", "c", "d"]);
            match rng.random_bool(0.7) {
                true => drop(txn.put(key.as_bytes(), b"value", 0)),
                false => drop(txn.delete_range(&KeyRange::Key(key.into()))),
            }
        }
        txn.end();
        if rng.random_bool(0.5) {
            keyspace.publish();
        }
    }
    let reader = keyspace.reader();
    compact(&mut keyspace, 100);
    // What is not published is not seen by key either.
    keyspace.write().put(b"a", b"unpublished", 0);
    let shown = |changes: &mut dyn Iterator<Item = &Change>| {
        changes.map(|change| format!("{:?} {:?}", change.version, change.prev)).collect::<Vec<_>>()
    };
    let (mut by_key, mut by_history) = (0, 0);
    for (start, end) in [("a", ""), ("a/b", ""), ("a", "b"), ("c", "\0"), ("", "\0"), ("x", ""), ("b", "a")] {
        let range = KeyRange::new(start.into(), end.into());
        for from in 90..=reader.revision() + 1 {
            let Some(found) = reader.history_of(&range, from) else {
                by_history += 1;
                continue;
            };
            assert!(from > 100, "at the compaction only the history knows");
            let history = reader.history(from, usize::MAX);
            let of_range = |change: &&Change| range.contains(change.version.key());
            let expected = shown(&mut history.iter().flat_map(|batch| batch.since(from)).filter(of_range));
            assert_eq!(shown(&mut found.iter().flat_map(|batch| &batch.changes)), expected, "{range:?} from {from}");
            by_key += 1;
        }
    }
    assert!(by_key > 500 && by_history > 50, "{by_key} {by_history}");
}

#[test]
fn w5_a_watcher_half_a_million_revisions_behind_catches_up_in_order_and_disturbs_nobody() {
    const BEHIND: i64 = 500_000;
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    /// As much as is asked for at once, and the rest of an event.
    const PIECE: usize = 64 << 10;
    let mut keyspace = Keyspace::new();
    for first in (0..BEHIND).step_by(1000) {
        for n in first..first + 1000 {
            let mut txn = keyspace.write();
            txn.put(KEYS[n as usize % 4].as_bytes(), b"v", 0);
            txn.end();
        }
        keyspace.publish();
    }
    let hub = Hub::new(Arc::new(keyspace.reader()), 0);
    let (mut present, mut behind) = (Client::new(&hub), Client::new(&hub));
    present.watch(on_all());
    behind.watch(WatchCreateRequest { start_revision: 2, ..on_all() });
    let (mut seen, mut last, mut polls) = (1, BEHIND + 1, 0);
    while seen < last {
        // Writes go on meanwhile, and whoever is there hears of each at once.
        if polls % 10 == 0 {
            write(&mut keyspace, Some(&hub), &[put("a", "now")]);
            last += 1;
            assert_eq!(present.shown(), [format!("0@{last} a=now@{last}")]);
        }
        let mut out = BytesMut::new();
        behind.poll(&mut out, PIECE);
        polls += 1;
        assert!(out.len() <= 2 * PIECE, "{} bytes at once", out.len());
        let stats = hub.stats();
        assert!(stats.pending <= PENDING_ITEMS_MAX as u64, "{} revisions wait in memory", stats.pending);
        for response in decode(out) {
            for event in &response.events {
                seen += 1;
                assert_eq!(event.kv.as_ref().unwrap().mod_revision, seen, "each revision once, in order");
            }
        }
        assert!(polls < BEHIND / 10, "it does not get there");
    }
    let stats = hub.stats();
    assert_eq!((stats.unsynced, stats.pending), (0, 0), "it is where the others are");
    let revision = last + 1;
    write(&mut keyspace, Some(&hub), &[put("a", "now")]);
    assert_eq!(behind.shown(), [format!("0@{revision} a=now@{revision}")]);
}
