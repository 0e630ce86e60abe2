//! The hub over the real keyspace: resuming across compaction, restart and a snapshot.

use forebay_proto::KeyRange;

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
