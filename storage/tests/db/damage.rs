//! Damaged files: every mutation is an error or harmless, never a panic, a hang or a large allocation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use forebay_storage::db::{Db, Error, Leaf, Options};
use forebay_storage::disk::{
    Disk as _,
    sim::{SimDisk, Wrong},
};
use forebay_storage::schema;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::model::{self, Model, content};

const PAGE: usize = 1024;

fn open(bytes: Vec<u8>) -> Result<Db, Error> {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.put(Path::new("/d/db"), bytes);
    Db::open("/d/db", Options { growth: 32 << 10, disk: Arc::new(disk), ..Options::default() })
}

/// A small file with branches, overflow, inline and nested buckets, cut to the pages it uses.
fn sample() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let db = Db::open(&path, Options { page_size: PAGE, ..Options::default() }).unwrap();
    let mut txn = db.begin_write().unwrap();
    let mut key = txn.create_bucket_if_missing(b"key").unwrap();
    for revision in 0..400_u64 {
        key.put(&revision.to_be_bytes(), &[revision as u8; 60]).unwrap();
    }
    key.put(b"large", &[9; 5 * PAGE]).unwrap();
    txn.create_bucket_if_missing(b"meta").unwrap().put(b"consistent_index", &[1; 8]).unwrap();
    let outer = txn.create_bucket_if_missing(b"outer").unwrap();
    let mut inner = outer.into_bucket_or_create(b"inner").unwrap();
    for entry in 0..40_u8 {
        inner.put(&[entry + 1], &[entry; 50]).unwrap();
    }
    txn.commit().unwrap();
    let mut copy = Vec::new();
    db.snapshot().copy_to(&mut copy).unwrap();
    copy
}

/// Does everything one can do with a database; errors are welcome.
fn use_it(bytes: Vec<u8>) -> Result<(), Error> {
    let db = open(bytes)?;
    let txn = db.begin_read();
    for name in txn.buckets()? {
        if let Some(bucket) = txn.bucket(&name)? {
            bucket.for_each(|_, _| {})?;
            bucket.last()?;
            bucket.get(b"large").ok();
        }
    }
    let mut txn = db.begin_write()?;
    if let Ok(mut bucket) = txn.bucket(b"key") {
        for revision in 100..300_u64 {
            bucket.delete(&revision.to_be_bytes())?;
        }
        bucket.put(&[0xFF; 9], &[1; 2000])?;
    }
    txn.delete_bucket(b"outer")?;
    txn.commit()?;
    db.defragment()
}

#[test]
fn k12_mutated_pages_are_refused_or_harmless() {
    let sample = sample();
    use_it(sample.clone()).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for seed in 0..1500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = sample.clone();
        for _ in 0..rng.random_range(1..4) {
            let page = rng.random_range(0..bytes.len() / PAGE) * PAGE;
            // Headers and elements are the interesting part of a page.
            let reach = if rng.random_bool(0.7) { 160 } else { PAGE - 8 };
            let at = page + rng.random_range(0..reach);
            match rng.random_range(0..4) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2 => {
                    let word = [0, 1, u32::MAX, u32::MAX - 15, 0x8000_0000, rng.random()][rng.random_range(0..6)];
                    bytes[at & !3..][..4].copy_from_slice(&word.to_le_bytes());
                }
                _ => {
                    let from = rng.random_range(0..bytes.len() / PAGE) * PAGE;
                    bytes.copy_within(from..from + PAGE, page);
                }
            }
        }
        println!("seed {seed}");
        match use_it(bytes) {
            Ok(()) => harmless += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused > 300);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let sample = sample();
    for length in (0..sample.len()).step_by(509) {
        let result = open(sample[..length].to_vec());
        assert!(length == 0 || result.is_err(), "cut to {length} of {} bytes", sample.len());
    }
    let error = open(sample[..sample.len() - 1].to_vec()).unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

#[test]
fn k12_one_lost_meta_page_is_survived_and_two_are_refused() {
    let sample = sample();
    let txid = open(sample.clone()).unwrap().txid();
    for lost in [0, 1] {
        let mut bytes = sample.clone();
        bytes[lost * PAGE + 20..][..40].fill(0xEE);
        // The copy's page 1 is the same state under the number before.
        assert_eq!(open(bytes.clone()).unwrap().txid(), if lost == 0 { txid - 1 } else { txid });
        bytes[(1 - lost) * PAGE + 70] ^= 1;
        let error = open(bytes).unwrap_err();
        assert!(matches!(error, Error::NoMeta { .. }), "{error}");
    }
}

#[test]
fn errors_name_the_file_the_page_and_what_was_expected() {
    let mut bytes = sample();
    let page = bytes.len() / PAGE - 1;
    bytes[page * PAGE + 8] = 0x40;
    assert_eq!(
        open(bytes).unwrap_err().to_string(),
        format!("/d/db: page {page} at byte {}: expected a branch or leaf page, found flags 0x40", page * PAGE)
    );
}

#[test]
fn k12_a_huge_overflow_count_takes_no_memory() {
    let directory = model::run(7, 1);
    let path = directory.path().join("huge");
    // A sparse file of 64 GiB whose root claims to fill it.
    let db = Db::open(&path, Options::default()).unwrap();
    let mut txn = db.begin_write().unwrap();
    txn.create_bucket_if_missing(b"key").unwrap().put(b"a", b"b").unwrap();
    txn.commit().unwrap();
    let mut copy = Vec::new();
    db.snapshot().copy_to(&mut copy).unwrap();
    drop(db);
    let pages: u64 = 16 << 20;
    for meta in copy.chunks_exact_mut(4096).take(2) {
        meta[16 + 40..16 + 48].copy_from_slice(&pages.to_le_bytes());
        let sum = meta[16..72]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        meta[72..80].copy_from_slice(&sum.to_le_bytes());
    }
    let root = u64::from_le_bytes(copy[32..40].try_into().unwrap()) as usize;
    copy[root * 4096 + 12..][..4].copy_from_slice(&(pages as u32 - 16).to_le_bytes());
    std::fs::write(&path, &copy).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(pages * 4096).unwrap();
    let error = Db::open(&path, Options { read_only: true, ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("expected as much overflow as the elements need"), "{error}");
}

/// Read as a value, the bucket would be lost with the next rewrite, and its pages with the next write.
#[test]
fn a_bucket_that_lost_its_mark_is_refused() {
    let mut bytes = sample();
    let root = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
    let flags = root * PAGE + 16;
    assert_eq!(bytes[flags], 1, "the first element of the root is a bucket");
    bytes[flags] = 0;
    assert_eq!(
        open(bytes).unwrap_err().to_string(),
        format!("/d/db: page {root} at byte {}: expected nothing but buckets in the root, found a value", root * PAGE)
    );
}

#[test]
fn a_new_file_is_copied_from_its_first_meta_page_alone() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    drop(Db::open("/d/db", Options { page_size: PAGE, disk: Arc::new(disk.clone()), ..Options::default() }).unwrap());
    let mut bytes = disk.contents(Path::new("/d/db")).unwrap();
    bytes[PAGE + 16] ^= 1;
    let db = open(bytes).unwrap();
    assert_eq!(db.txid(), 0);
    let mut copy = Vec::new();
    db.snapshot().copy_to(&mut copy).unwrap();
    assert_eq!(open(copy).unwrap().txid(), 0);
}

/// A file as a member writes it, with revisions that are appended and compacted; what it holds, and held before the last
/// commit.
fn member_file(rng: &mut StdRng, disk: &SimDisk) -> [Model; 2] {
    let db = reopen(disk, &mut |_| {}).unwrap();
    let mut revision = 1;
    let mut states = [Model::new(), Model::new()];
    for commit in 0..rng.random_range(20..60) {
        let mut txn = db.begin_write().unwrap();
        if commit == 0 {
            schema::create(&mut txn).unwrap();
        }
        let mut keys = txn.bucket(schema::KEY).unwrap();
        for _ in 0..rng.random_range(1..30) {
            revision += 1;
            let value = vec![revision as u8; rng.random_range(1..200)];
            keys.put(&schema::RevisionKey::new(revision, 0, false), &value).unwrap();
        }
        if rng.random_bool(0.2) {
            for old in (2..revision - 20).filter(|_| rng.random_bool(0.5)) {
                keys.delete(&schema::RevisionKey::new(old, 0, false)).unwrap();
            }
        }
        txn.commit().unwrap();
        states = [content(&db.begin_read()), std::mem::take(&mut states[0])];
    }
    states
}

fn reopen(disk: &SimDisk, leaf: &mut dyn FnMut(Leaf)) -> Result<Db, Error> {
    let disk = Arc::new(disk.clone());
    let options = Options { page_size: PAGE, growth: 32 << 10, disk, ..Options::default() };
    Db::open_showing("/d/db", options, schema::KEY, leaf)
}

/// Of a meta page too that is as it was before it was written last. Of other pages that cannot be told if they fit where
/// they stand: they have no checksum.
#[test]
fn k13_a_db_of_which_a_read_is_short_or_a_meta_page_old_is_refused_or_as_it_was() {
    let (mut refused, mut present, mut previous) = (0, 0, 0);
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.remember(PAGE);
        let states = member_file(&mut rng, &disk);
        let short =
            [0, 1, 79, 1500, 70_000].into_iter().flat_map(|bytes| (0..40).map(move |n| (n, Wrong::Short(bytes))));
        let meta_pages = [(0, Wrong::Old(0)), (1, Wrong::Old(0))];
        for (read, wrong) in short.chain(meta_pages) {
            let disk = disk.killed();
            disk.misread_at("db", read, wrong);
            let mut shown = BTreeMap::new();
            let opened = reopen(&disk, &mut |leaf| {
                shown.extend(leaf.entries().map(|(key, value)| (key.to_vec(), value.to_vec())));
            });
            let was_struck = !disk.misread_never();
            let Ok(db) = opened else {
                assert!(reopen(&disk, &mut |_| {}).is_ok_and(|db| content(&db.begin_read()) == states[0]));
                refused += 1;
                continue;
            };
            let found = content(&db.begin_read());
            let state = states.iter().position(|state| *state == found).expect("one of the last two states");
            assert!(shown == found[schema::KEY], "seed {seed}, read {read} is {wrong:?}");
            present += usize::from(was_struck && state == 0);
            previous += usize::from(state == 1);
            // What is written now takes the place of nothing that is there.
            let mut later = found;
            for n in 0..3 {
                let mut txn = db.begin_write().unwrap();
                txn.bucket(schema::LEASE).unwrap().put(&[n; 8], &[1; 3000]).unwrap();
                txn.commit().unwrap();
                later.get_mut(schema::LEASE).unwrap().insert(vec![n; 8], vec![1; 3000]);
            }
            drop(db);
            let again = content(&reopen(&disk, &mut |_| {}).unwrap().begin_read());
            assert!(again == later, "seed {seed}, read {read} is {wrong:?}, later");
        }
    }
    assert!(refused > 50 && present > 5 && previous > 5, "{refused} refused, {present} present, {previous} previous");
}

/// A file whose creation was cut short is made anew; on the word of one read, none that has something.
#[test]
fn k13_a_file_that_seems_to_be_empty_is_not_made_anew() {
    for read in 0..3 {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.put(Path::new("/d/db"), sample());
        disk.misread_at("db", read, Wrong::Short(0));
        let holds = reopen(&disk, &mut |_| {}).map(|db| content(&db.begin_read()).len());
        assert!(!disk.misread_never(), "read {read}");
        assert!(matches!(holds, Err(_) | Ok(3)), "read {read}: {holds:?}");
        assert!(disk.contents(Path::new("/d/db")).unwrap() == sample(), "read {read}: it is as it was");
    }
}
