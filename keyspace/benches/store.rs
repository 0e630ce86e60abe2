//! What a million keys cost: `cargo bench -p forebay-keyspace --bench store [keys]`.
//!
//! The yardstick is what one would use without a tree of one's own: `imbl::OrdMap` from keys to versions behind an atomic
//! swap. It keeps one version per key and neither history nor counts, so the comparison is in its favour. Figures are CPU
//! time of this one thread, so that a busy machine does not falsify them; every operation is a txn of its own, published.

#![allow(clippy::print_stdout, reason = "a bench reports on its output")]

use std::{fmt::Display, hint::black_box, ops::ControlFlow, sync::Arc};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use forebay_keyspace::{
    CompactStep, Put, Restore, Revision, Snapshot, Version,
    eval::{self, Response as _},
};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{RangeRequest, ResponseHeader},
};
use imbl::OrdMap;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::time::{ClockId, clock_gettime};

const VALUE: [u8; 256] = [b'v'; 256];
const OPERATIONS: usize = 200_000;
const RANGES: usize = 2_000;
const RANGE_LEN: usize = 500;

/// The CPU time of `work`, in nanoseconds for each of `times`.
fn cpu<T>(times: usize, work: impl FnOnce() -> T) -> (f64, T) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let begin = now();
    let result = work();
    ((now() - begin) / times as f64, result)
}

fn resident_mb() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0 / 1e6)
}

/// 16 bytes, in no order.
fn key(number: usize) -> String {
    format!("/r/{:013x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12)
}

fn report(what: impl Display, ours: f64, imbl: f64) {
    println!("{what:<34}{ours:>10.0} ns{imbl:>10.0} ns{:>8.2}", ours / imbl);
}

/// The yardstick.
struct Imbl {
    map: OrdMap<Bytes, Version>,
    published: ArcSwap<OrdMap<Bytes, Version>>,
    revision: i64,
    scratch: Vec<u8>,
}

impl Imbl {
    fn put(&mut self, key: &[u8]) {
        self.revision += 1;
        let before = self.map.get(key);
        let put = Put {
            revision: Revision { main: self.revision, sub: 0 },
            create_revision: before.map_or(self.revision, Version::create_revision),
            version: before.map_or(0, Version::version) + 1,
            lease: 0,
            key,
            value: &VALUE,
        };
        let version = Version::put(put, &mut self.scratch);
        self.map.insert(Bytes::copy_from_slice(key), version);
    }

    fn publish(&self) {
        self.published.store(Arc::new(self.map.clone()));
    }
}

fn main() {
    let keys: usize = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let names: Vec<String> = (0..keys).map(key).collect();
    let mut scratch = Vec::new();
    let records: Vec<Vec<u8>> = (0..keys)
        .map(|number| {
            let main = number as i64 + 2;
            let (revision, key) = (Revision { main, sub: 0 }, names[number].as_bytes());
            let put = Put { revision, create_revision: main, version: 1, lease: 0, key, value: &VALUE };
            Version::put(put, &mut scratch).record().to_vec()
        })
        .collect();

    let before = resident_mb();
    let (restore, mut keyspace) = cpu(1, || {
        let mut restore = Restore::new(Some(keys as i64 + 1));
        for (number, record) in records.iter().enumerate() {
            restore.record(Revision { main: number as i64 + 2, sub: 0 }, false, record).unwrap();
        }
        restore.finish(1)
    });
    println!("{keys} keys restored in {:.0} ms CPU, {:.0} MB resident", restore / 1e6, resident_mb() - before);
    let before = resident_mb();
    let mut imbl = Imbl { map: OrdMap::new(), published: ArcSwap::default(), revision: 1, scratch: Vec::new() };
    let (fill, ()) = cpu(1, || names.iter().for_each(|name| imbl.put(name.as_bytes())));
    println!("{keys} keys put into imbl in {:.0} ms CPU, {:.0} MB resident", fill / 1e6, resident_mb() - before);
    drop(records);

    println!("{:<34}{:>13}{:>13}{:>8}", "", "forebay", "imbl", "ratio");
    let reader = keyspace.reader();
    let mut random = StdRng::seed_from_u64(1);
    let mut some = |count: usize| -> Vec<usize> { (0..count).map(|_| random.random_range(0..keys)).collect() };

    let probes = some(OPERATIONS);
    let (ours, ()) = cpu(OPERATIONS, || {
        for probe in &probes {
            let key = names[*probe].as_bytes();
            black_box(reader.evaluate(|snapshot| Ok(snapshot.get(key, snapshot.revision()))).unwrap().unwrap());
        }
    });
    imbl.publish();
    let (theirs, ()) = cpu(OPERATIONS, || {
        for probe in &probes {
            black_box(imbl.published.load().get(names[*probe].as_bytes()).cloned().unwrap());
        }
    });
    report("get", ours, theirs);

    let puts = some(OPERATIONS);
    let (ours, ()) = cpu(OPERATIONS, || {
        for put in &puts {
            keyspace.write().put(names[*put].as_bytes(), &VALUE, 0);
            keyspace.publish();
        }
    });
    let (theirs, ()) = cpu(OPERATIONS, || {
        for put in &puts {
            imbl.put(names[*put].as_bytes());
            imbl.publish();
        }
    });
    report("put on a key, published", ours, theirs);

    let (ours, ()) = cpu(OPERATIONS, || {
        for puts in puts.chunks(64) {
            for put in puts {
                keyspace.write().put(names[*put].as_bytes(), &VALUE, 0);
            }
            keyspace.publish();
        }
    });
    let (theirs, ()) = cpu(OPERATIONS, || {
        for puts in puts.chunks(64) {
            puts.iter().for_each(|put| imbl.put(names[*put].as_bytes()));
            imbl.publish();
        }
    });
    report("put on a key, 64 to a publish", ours, theirs);

    let added: Vec<String> = (0..OPERATIONS).map(|number| key(keys + number)).collect();
    let (ours, ()) = cpu(OPERATIONS / 2, || {
        for name in &added[..OPERATIONS / 2] {
            keyspace.write().put(name.as_bytes(), &VALUE, 0);
            keyspace.publish();
        }
    });
    let (theirs, ()) = cpu(OPERATIONS / 2, || {
        for name in &added[..OPERATIONS / 2] {
            imbl.put(name.as_bytes());
            imbl.publish();
        }
    });
    report("put of a new key, published", ours, theirs);
    let (ours, ()) = cpu(OPERATIONS / 2, || {
        for names in added[OPERATIONS / 2..].chunks(64) {
            for name in names {
                keyspace.write().put(name.as_bytes(), &VALUE, 0);
            }
            keyspace.publish();
        }
    });
    let (theirs, ()) = cpu(OPERATIONS / 2, || {
        for names in added[OPERATIONS / 2..].chunks(64) {
            names.iter().for_each(|name| imbl.put(name.as_bytes()));
            imbl.publish();
        }
    });
    report("put of a new key, 64 to a publish", ours, theirs);

    let starts = some(RANGES);
    let range_from = |start: &usize| KeyRange::From(Bytes::copy_from_slice(names[*start].as_bytes()));
    let collect = |snapshot: &Snapshot<'_>, range: &KeyRange| {
        let mut kvs = Vec::with_capacity(RANGE_LEN);
        snapshot.scan(range, snapshot.revision(), &mut |version| {
            kvs.push(version.clone());
            if kvs.len() == RANGE_LEN { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        kvs
    };
    let (ours, ()) = cpu(RANGES, || {
        for start in &starts {
            let range = range_from(start);
            black_box(reader.evaluate(|snapshot| Ok(collect(snapshot, &range))).unwrap());
        }
    });
    let (theirs, ()) = cpu(RANGES, || {
        for start in &starts {
            let map = imbl.published.load();
            let from = Bytes::copy_from_slice(names[*start].as_bytes());
            black_box(map.range(from..).take(RANGE_LEN).map(|(_, version)| version.clone()).collect::<Vec<_>>());
        }
    });
    report("range of 500 versions", ours, theirs);

    let request = |start: &usize| RangeRequest {
        key: Bytes::copy_from_slice(names[*start].as_bytes()),
        range_end: Bytes::from_static(b"\0"),
        limit: RANGE_LEN as i64,
        ..Default::default()
    };
    let mut body = BytesMut::new();
    let (ours, ()) = cpu(RANGES, || {
        for start in &starts {
            let request = request(start);
            let result = reader.evaluate(|snapshot| eval::range(snapshot, &request)).unwrap();
            body.clear();
            result.encode(&ResponseHeader::default(), &mut body);
            black_box(&body);
        }
    });
    println!("{:<34}{ours:>10.0} ns", "range of 500, with count, encoded");

    let counts = &starts[..200];
    let (ours, ()) = cpu(counts.len(), || {
        for start in counts {
            let range = range_from(start);
            black_box(reader.evaluate(|snapshot| Ok(snapshot.count(&range, snapshot.revision()))).unwrap());
        }
    });
    let (theirs, ()) = cpu(5, || {
        for start in &counts[..5] {
            let from = Bytes::copy_from_slice(names[*start].as_bytes());
            black_box(imbl.published.load().range(from..).count());
        }
    });
    report("count from a random key", ours, theirs);

    let current = reader.revision();
    let (hash, _) = cpu(1, || reader.hash(current).unwrap());
    println!("{:<34}{:>10.0} ms", "HashKV", hash / 1e6);
    drop(keyspace.compact(current).unwrap());
    keyspace.publish();
    let (compaction, removed) = cpu(1, || {
        let mut removed = 0;
        loop {
            match keyspace.compact_step(1000) {
                CompactStep::Removed(versions) => removed += versions.len(),
                CompactStep::Finished(_, versions) => break removed + versions.len(),
                step => unreachable!("{step:?}"),
            }
        }
    });
    println!("{:<34}{:>10.0} ns for each of {removed} versions", "compaction", compaction / removed as f64);
}
