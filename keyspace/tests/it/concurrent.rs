//! One writer that also compacts, and readers beside it.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use bytes::Bytes;
use forebay_keyspace::{
    CompactStep, Keyspace, Reader, Snapshot,
    eval::{self, RangeChunk, RangeChunks, RangeResult},
};
use forebay_proto::{Error, KeyRange, etcdserverpb::RangeRequest};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

const ROUNDS: usize = 800;
/// Keys that every txn writes, with its revision as the value.
const STEADY: usize = 40;

fn steady(number: usize) -> String {
    format!("steady/{number:03}")
}

/// Writes, publishes and compacts. In between, keys come and go, so that the tree's nodes split and join.
fn write(mut keyspace: Keyspace, random: &mut StdRng) {
    for round in 0..ROUNDS {
        let mut txn = keyspace.write();
        let value = (txn.revision() + 1).to_string();
        (0..STEADY).for_each(|number| {
            txn.put(steady(number).as_bytes(), value.as_bytes(), 0);
        });
        for _ in 0..20 {
            let key = format!("passing/{}", random.random_range(0..3000));
            if txn.delete_range(&KeyRange::new(key.clone().into(), Bytes::new())).is_empty() {
                txn.put(key.as_bytes(), b"", 0);
            }
        }
        txn.end();
        if round % 3 > 0 {
            keyspace.publish();
        }
        if round % 50 == 49 {
            let revision = keyspace.revision() - random.random_range(0..10);
            if let Ok(Some(job)) = keyspace.compact(revision) {
                keyspace.publish();
                assert_eq!(keyspace.compact_step(10), CompactStep::Waiting);
                job.run();
            }
        }
        keyspace.publish();
        keyspace.compact_step(100);
    }
}

/// What must hold of the steady keys, read at any revision.
fn check(kvs: &RangeResult, at: i64) {
    assert_eq!((kvs.kvs.len(), kvs.count), (STEADY, STEADY as i64), "at {at}");
    for version in &kvs.kvs {
        assert_eq!((version.mod_revision(), version.value()), (at, at.to_string().as_bytes()));
    }
}

fn range(start: &str, end: &str) -> RangeRequest {
    RangeRequest { key: start.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

fn read(reader: &Reader, random: &mut StdRng, last: &mut i64) {
    let request = range("steady/", "steady0");
    let all = range("\0", "\0");
    let (now, everything, counted) = reader
        .evaluate(|snapshot: &Snapshot<'_>| {
            let counted = eval::range(snapshot, &RangeRequest { limit: 1, ..all.clone() })?.count;
            Ok((eval::range(snapshot, &request)?, eval::range(snapshot, &all)?, counted))
        })
        .expect("the current revision can always be read");
    check(&now, now.revision);
    assert_eq!(everything.kvs.len() as i64, counted, "the count is that of the very revision");
    assert!(now.revision >= *last, "a reader never goes back");
    *last = now.revision;

    let at = random.random_range(now.revision - 60..=now.revision).max(2);
    match reader.evaluate(|snapshot| eval::range(snapshot, &RangeRequest { revision: at, ..request.clone() })) {
        Ok(past) => check(&past, at),
        Err(error) => {
            assert_eq!(error, Error::Compacted);
            assert!(at < reader.compacted_revision());
        }
    }

    let mut kvs = Vec::new();
    for chunk in RangeChunks::new(reader.clone(), request, 100) {
        match chunk {
            Ok(RangeChunk::Some(more, _)) => kvs.extend(more),
            Ok(RangeChunk::Last(mut result)) => {
                kvs.append(&mut result.kvs);
                check(&RangeResult { kvs: std::mem::take(&mut kvs), ..result }, result.revision);
            }
            Err(error) => assert_eq!(error, Error::Compacted),
        }
    }
}

#[test]
fn readers_see_whole_revisions_while_one_writes_and_compacts() {
    let keyspace = {
        let mut keyspace = Keyspace::new();
        let mut txn = keyspace.write();
        (0..STEADY).for_each(|number| {
            txn.put(steady(number).as_bytes(), b"2", 0);
        });
        txn.end();
        keyspace.publish();
        keyspace
    };
    let reader = keyspace.reader();
    let (is_done, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..3 {
            let (reader, is_done, reads) = (reader.clone(), &is_done, &reads);
            scope.spawn(move || {
                let (mut random, mut last) = (StdRng::seed_from_u64(seed), 0);
                while !is_done.load(Ordering::Relaxed) {
                    read(&reader, &mut random, &mut last);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let is_done = &is_done;
        scope.spawn(move || {
            write(keyspace, &mut StdRng::seed_from_u64(9));
            is_done.store(true, Ordering::Relaxed);
        });
    });
    assert!(reads.into_inner() > 0);
    assert_eq!(reader.revision(), 2 + ROUNDS as i64);
}
