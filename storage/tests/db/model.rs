//! Random transactions against ordered maps, with readers held open, reopens, snapshots and defragmentation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_storage::db::{APPEND_FILL, Db, Error, Options, ReadTxn, WriteTxn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Bucket = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Model = BTreeMap<Vec<u8>, Bucket>;

pub(crate) fn content(txn: &ReadTxn) -> Model {
    let buckets = txn.buckets().unwrap().into_iter();
    buckets
        .map(|name| {
            let mut entries = Bucket::new();
            let bucket = txn.bucket(&name).unwrap().unwrap();
            bucket.for_each(|key, value| assert!(entries.insert(key.to_vec(), value.to_vec()).is_none())).unwrap();
            (name, entries)
        })
        .collect()
}

fn bytes(rng: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes[..]);
    bytes
}

fn value(rng: &mut StdRng) -> Vec<u8> {
    let length = match rng.random_range(0..20) {
        0 => rng.random_range(0..20_000),
        1..4 => rng.random_range(0..1500),
        _ => rng.random_range(0..100),
    };
    bytes(rng, length)
}

fn key(rng: &mut StdRng, bucket: &Bucket) -> Vec<u8> {
    if rng.random_bool(0.5)
        && let Some(key) = bucket.keys().nth(rng.random_range(0..bucket.len().max(1)))
    {
        return key.clone();
    }
    let length = if rng.random_bool(0.01) { rng.random_range(1..5000) } else { rng.random_range(1..30) };
    bytes(rng, length)
}

/// Puts one transaction's worth of changes into `txn`; returns what the database then holds.
pub(crate) fn change(rng: &mut StdRng, txn: &mut WriteTxn<'_>, model: &Model, next_revision: &mut u64) -> Model {
    let mut changed = model.clone();
    if rng.random_bool(0.02) && !changed.is_empty() {
        let name = changed.keys().nth(rng.random_range(0..changed.len())).unwrap().clone();
        assert!(txn.delete_bucket(&name).unwrap());
        changed.remove(&name);
    }
    for _ in 0..rng.random_range(0..4) {
        let name = [&b"key"[..], b"lease", b"auth", b"members"][rng.random_range(0..4)];
        let entries = changed.entry(name.to_vec()).or_default();
        let mut bucket = txn.create_bucket_if_missing(name).unwrap();
        match rng.random_range(0..10) {
            // Appended revisions, as etcd writes them.
            0..3 => {
                bucket.set_fill(APPEND_FILL);
                for _ in 0..rng.random_range(1..200) {
                    let (key, value) = (next_revision.to_be_bytes().to_vec(), value(rng));
                    *next_revision += 1;
                    bucket.put(&key, &value).unwrap();
                    entries.insert(key, value);
                }
            }
            // Compaction: a row of old keys, or scattered ones.
            3..5 => {
                let keep = rng.random_range(0.0..1.0);
                let victims: Vec<_> = entries.keys().filter(|_| !rng.random_bool(keep)).cloned().collect();
                for key in victims {
                    assert!(bucket.delete(&key).unwrap());
                    entries.remove(&key);
                }
            }
            _ => {
                for _ in 0..rng.random_range(1..60) {
                    let key = key(rng, entries);
                    if rng.random_bool(0.6) {
                        let value = value(rng);
                        bucket.put(&key, &value).unwrap();
                        entries.insert(key, value);
                    } else {
                        assert_eq!(bucket.delete(&key).unwrap(), entries.remove(&key).is_some());
                    }
                }
            }
        }
        let probe = key(rng, entries);
        assert_eq!(bucket.get(&probe).unwrap().as_deref(), entries.get(&probe).map(Vec::as_slice));
    }
    changed
}

fn check_reads(rng: &mut StdRng, txn: &ReadTxn, model: &Model) {
    for (name, entries) in model {
        let bucket = txn.bucket(name).unwrap().unwrap();
        let probe = key(rng, entries);
        assert_eq!(bucket.get(&probe).unwrap().as_deref(), entries.get(&probe).map(Vec::as_slice));
        let mut cursor = bucket.cursor();
        cursor.seek(&probe).unwrap();
        for (key, value) in entries.range(probe..).take(50) {
            let found = cursor.next_entry().unwrap().unwrap();
            assert_eq!((found.key, found.value), (&key[..], &value[..]));
        }
        let mut backward = bucket.backward();
        for (key, value) in entries.iter().rev().take(50) {
            let found = backward.next_entry().unwrap().unwrap();
            assert_eq!((found.key, found.value), (&key[..], &value[..]));
        }
        if entries.len() <= 50 {
            assert_eq!(backward.next_entry().unwrap(), None);
        }
        let last = bucket.last().unwrap();
        assert_eq!(last.as_ref().map(|(key, _)| &key[..]), entries.keys().next_back().map(Vec::as_slice));
    }
}

/// Leaves the database as `db` in the directory it returns.
pub(crate) fn run(seed: u64, transactions: usize) -> tempfile::TempDir {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let page_size = [1024, 4096][rng.random_range(0..2)];
    let options = Options { page_size, sync: false, ..Options::default() };
    let mut db = Db::open(&path, options.clone()).unwrap();
    let (mut model, mut next_revision) = (Model::new(), 0);
    let mut held: Vec<(ReadTxn, Model)> = Vec::new();
    for _ in 0..transactions {
        let mut txn = db.begin_write().unwrap();
        let changed = change(&mut rng, &mut txn, &model, &mut next_revision);
        if rng.random_bool(0.9) {
            txn.commit().unwrap();
            model = changed;
        } else {
            drop(txn);
        }
        match rng.random_range(0..100) {
            0..12 => held.push((db.begin_read(), model.clone())),
            12..24 if !held.is_empty() => {
                let (txn, seen) = held.swap_remove(rng.random_range(0..held.len()));
                assert_eq!(content(&txn), seen);
            }
            24..28 => {
                let (path, mut copy) = (directory.path().join("copy"), Vec::new());
                let mut snapshot = db.snapshot();
                assert_eq!(snapshot.size(), db.size());
                snapshot.read_to_end(&mut copy).unwrap();
                std::fs::write(&path, &copy).unwrap();
                let copied = Db::open(&path, Options { read_only: true, ..Options::default() }).unwrap();
                assert_eq!((copied.size(), content(&copied.begin_read())), (copy.len() as u64, model.clone()));
            }
            28..30 => {
                let free = db.size() - db.size_in_use();
                db.defragment().unwrap();
                assert!(db.size() - db.size_in_use() <= free.max(20 * page_size as u64));
            }
            30..34 => {
                held.clear();
                drop(db);
                db = Db::open(&path, options.clone()).unwrap();
                assert_eq!(content(&db.begin_read()), model);
            }
            _ => {}
        }
        check_reads(&mut rng, &db.begin_read(), &model);
    }
    for (txn, seen) in held {
        assert_eq!(content(&txn), seen);
    }
    assert_eq!(content(&db.begin_read()), model);
    directory
}

#[test]
fn random_transactions_leave_what_a_map_would_hold() {
    for seed in 0..6 {
        run(seed, 60);
    }
}

#[test]
fn buckets_inside_buckets_survive_changes_around_them_and_defragmentation() {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(directory.path().join("db"), Options::default()).unwrap();
    let mut txn = db.begin_write().unwrap();
    for index in 0..500_u32 {
        let mut outer = txn.create_bucket_if_missing(b"outer").unwrap();
        outer.put(format!("plain {index:04}").as_bytes(), b"value").unwrap();
        let mut inner = outer.into_bucket_or_create(b"inner").unwrap();
        inner.put(format!("deep {index:04}").as_bytes(), &[7; 40]).unwrap();
        inner.into_bucket_or_create(b"small").unwrap().put(b"x", b"y").unwrap();
    }
    txn.commit().unwrap();
    let check = |expected: usize| {
        let txn = db.begin_read();
        let outer = txn.bucket(b"outer").unwrap().unwrap();
        let inner = outer.bucket(b"inner").unwrap().unwrap();
        let mut entries = 0;
        inner.for_each(|_, _| entries += 1).unwrap();
        assert_eq!(entries, expected + 1);
        assert_eq!(inner.bucket(b"small").unwrap().unwrap().get(b"x").unwrap().unwrap(), "y");
        assert!(outer.get(b"inner").is_err());
        assert!(outer.bucket(b"plain 0001").is_err() || outer.get(b"plain 0001").unwrap().is_none());
    };
    check(500);
    let mut txn = db.begin_write().unwrap();
    let mut outer = txn.bucket(b"outer").unwrap();
    assert!(outer.put(b"inner", b"no value").is_err());
    assert!(outer.delete(b"inner").is_err());
    for index in 0..500_u32 {
        outer.delete(format!("plain {index:04}").as_bytes()).unwrap();
    }
    txn.commit().unwrap();
    check(500);
    db.defragment().unwrap();
    check(500);
    let mut txn = db.begin_write().unwrap();
    assert!(txn.delete_bucket(b"outer").unwrap());
    assert!(!txn.delete_bucket(b"outer").unwrap());
    txn.commit().unwrap();
    // What the last commit freed waits for one more.
    let mut txn = db.begin_write().unwrap();
    txn.create_bucket_if_missing(b"a").unwrap();
    txn.commit().unwrap();
    assert!(db.size_in_use() <= 6 * 4096, "{} bytes in use", db.size_in_use());
}

#[test]
fn a_long_reader_does_not_hold_back_the_churn_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: false, ..Options::default() };
    let db = Db::open(directory.path().join("db"), options).unwrap();
    let put = |value: u32| {
        let mut txn = db.begin_write().unwrap();
        let mut bucket = txn.create_bucket_if_missing(b"key").unwrap();
        for key in 0..200_u32 {
            bucket.put(&key.to_be_bytes(), &[value as u8; 100]).unwrap();
        }
        txn.commit().unwrap();
    };
    put(0);
    let reader = db.begin_read();
    for value in 1..50 {
        put(value);
    }
    // One state for the reader, one committed, one being written: each takes some 15 pages.
    assert!(db.size() < 60 * 4096, "{} bytes", db.size());
    reader.bucket(b"key").unwrap().unwrap().for_each(|_, value| assert_eq!(value, [0; 100])).unwrap();
}

#[test]
fn a_transaction_larger_than_its_memory_is_all_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: false, ..Options::default() };
    let db = Db::open(directory.path().join("db"), options.clone()).unwrap();
    let key = |index: u32| index.wrapping_mul(2_654_435_761).to_be_bytes();
    let value = |index: u32| vec![index as u8; 1000];
    let put_all = |txn: &mut WriteTxn<'_>, count: u32| {
        let mut bucket = txn.create_bucket_if_missing(b"key").unwrap();
        for index in 0..count {
            bucket.put(&key(index), &value(index)).unwrap();
        }
        for index in (0..count).step_by(3) {
            assert!(bucket.delete(&key(index)).unwrap());
        }
        assert_eq!(bucket.get(&key(1)).unwrap().unwrap(), value(1));
        assert_eq!(bucket.get(&key(3)).unwrap(), None);
    };
    let mut txn = db.begin_write().unwrap();
    put_all(&mut txn, 40_000);
    txn.commit().unwrap();
    let check = |db: &Db| {
        let (txn, mut count) = (db.begin_read(), 0);
        let bucket = txn.bucket(b"key").unwrap().unwrap();
        bucket.for_each(|_, _| count += 1).unwrap();
        assert_eq!(count, 40_000 - 13_334);
        assert_eq!(bucket.get(&key(39_998)).unwrap().unwrap(), value(39_998));
    };
    check(&db);
    let (size, used) = (db.size(), db.size_in_use());
    let mut txn = db.begin_write().unwrap();
    txn.delete_bucket(b"key").unwrap();
    put_all(&mut txn, 20_000);
    drop(txn);
    check(&db);
    assert_eq!((db.size(), db.size_in_use()), (size, used));
    drop(db);
    let db = Db::open(directory.path().join("db"), options).unwrap();
    check(&db);
    db.defragment().unwrap();
    check(&db);
}

#[test]
fn readers_and_snapshots_in_other_threads_see_whole_commits() {
    const KEYS: u32 = 300;
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(directory.path().join("db"), Options { sync: false, ..Options::default() }).unwrap();
    let put_all = |generation: u32| {
        let mut txn = db.begin_write().unwrap();
        let mut bucket = txn.create_bucket_if_missing(b"key").unwrap();
        for key in 0..KEYS {
            // Longer and shorter values, so that pages split and merge.
            bucket
                .put(&key.to_be_bytes(), &generation.to_be_bytes().repeat(1 + (key + generation) as usize % 40))
                .unwrap();
        }
        txn.commit().unwrap();
    };
    let check = |txn: &ReadTxn| {
        let (mut keys, mut generations) = (0, BTreeSet::new());
        let bucket = txn.bucket(b"key").unwrap().unwrap();
        bucket
            .for_each(|_, value| {
                keys += 1;
                generations.insert(value[..4].to_vec());
            })
            .unwrap();
        assert_eq!((keys, generations.len()), (KEYS, 1));
    };
    put_all(0);
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (db, check) = (&db, &check);
        for reader in 0..2 {
            let copy = directory.path().join(format!("copy {reader}"));
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let txn = db.begin_read();
                    (0..3).for_each(|_| check(&txn));
                    let mut bytes = Vec::new();
                    db.snapshot().copy_to(&mut bytes).unwrap();
                    std::fs::write(&copy, bytes).unwrap();
                    check(&Db::open(&copy, Options { read_only: true, ..Options::default() }).unwrap().begin_read());
                }
            });
        }
        for generation in 1..150 {
            put_all(generation);
            if generation % 50 == 0 {
                db.defragment().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(db.open_readers(), 0);
    // Nothing was held back for good.
    assert!(db.size() < 100 * 4096 * 3, "{} bytes", db.size());
}

#[test]
fn keys_and_values_out_of_bounds_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(directory.path().join("db"), Options::default()).unwrap();
    let mut txn = db.begin_write().unwrap();
    let mut bucket = txn.create_bucket_if_missing(b"key").unwrap();
    assert_eq!(bucket.put(b"", b"").unwrap_err().to_string(), "key of 0 bytes, allowed are 1 to 32768");
    bucket.put(&[1; 32768], b"").unwrap();
    assert!(bucket.put(&[1; 32769], b"").is_err());
    assert_eq!(txn.bucket(b"absent").unwrap_err().to_string(), "bucket \"absent\" not found");
}

#[test]
fn a_defragmentation_that_is_not_wanted_any_more_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let db = Db::open(&path, Options { sync: false, ..Options::default() }).unwrap();
    let put = |numbers: std::ops::Range<u32>| {
        let mut txn = db.begin_write().unwrap();
        let mut bucket = txn.create_bucket_if_missing(b"key").unwrap();
        numbers.for_each(|number| bucket.put(&number.to_be_bytes(), &[7; 1 << 20]).unwrap());
        txn.commit().unwrap();
    };
    put(0..40);
    let (asked, before) = (std::cell::Cell::new(0), db.size());
    let wanted_once = || asked.replace(asked.get() + 1) == 0;
    let given_up = db.defragment_while(&wanted_once).unwrap_err();
    assert!(matches!(given_up, Error::GivenUp { .. }), "{given_up}");
    assert_eq!((asked.get(), db.size(), std::fs::read_dir(directory.path()).unwrap().count()), (2, before, 1));
    put(40..41);
    db.defragment().unwrap();
    let txn = db.begin_read();
    let bucket = txn.bucket(b"key").unwrap().unwrap();
    assert!((0..41_u32).all(|number| *bucket.get(&number.to_be_bytes()).unwrap().unwrap() == [7; 1 << 20]));
}

#[test]
fn a_second_opener_is_refused_while_the_first_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let first = Db::open(&path, Options::default()).unwrap();
    let read_only = Options { read_only: true, ..Options::default() };
    let refused = Db::open(&path, Options::default()).unwrap_err();
    assert_eq!(refused.to_string(), format!("{}: locked by another process", path.display()));
    assert!(Db::open(&path, read_only.clone()).is_err());
    first.defragment().unwrap();
    assert!(Db::open(&path, Options::default()).is_err());
    drop(first);
    let one = Db::open(&path, read_only.clone()).unwrap();
    let two = Db::open(&path, read_only).unwrap();
    assert_eq!(one.begin_read().txid(), two.begin_read().txid());
    assert!(one.begin_write().is_err());
}
