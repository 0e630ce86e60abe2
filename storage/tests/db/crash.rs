//! Power cuts and failing disks.
//!
//! The disk is one in memory that loses what was not synced, sector by sector as chance wills, and fails the call it
//! is told to. Whatever it does, a file that opens again holds exactly the last committed state, or, when a commit was
//! cut short, that one.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use forebay_storage::db::{Db, Error, Options};
use forebay_storage::disk::{Disk as _, sim::SimDisk};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::model::{Model, change, content};

const PATH: &str = "/member/snap/db";

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/member/snap")).unwrap();
    disk
}

fn open(disk: &SimDisk) -> Result<Db, Error> {
    Db::open(PATH, Options { page_size: 1024, growth: 32 << 10, disk: Arc::new(disk.clone()), ..Options::default() })
}

/// Runs until the disk fails or the transactions are done. Returns the last committed state and, when a commit
/// failed, the one it was writing.
fn run(rng: &mut StdRng, disk: &SimDisk, transactions: usize) -> (Model, Option<Model>) {
    let Ok(db) = open(disk) else { return (Model::new(), None) };
    run_from(rng, &db, Model::new(), 0, transactions)
}

/// The same with a file that holds something.
fn run_from(
    rng: &mut StdRng,
    db: &Db,
    mut model: Model,
    mut next_revision: u64,
    transactions: usize,
) -> (Model, Option<Model>) {
    for _ in 0..transactions {
        if rng.random_bool(0.1) && db.defragment().is_err() {
            return (model, None);
        }
        let Ok(mut txn) = db.begin_write() else { return (model, None) };
        let changed = change(rng, &mut txn, &model, &mut next_revision);
        match txn.commit() {
            Ok(()) => model = changed,
            Err(_) => return (model, Some(changed)),
        }
        assert_eq!(content(&db.begin_read()), model);
    }
    (model, None)
}

#[test]
fn after_a_power_cut_the_file_holds_the_last_commit_or_the_one_in_flight() {
    let mut in_flight_survived = 0;
    for seed in 0..120 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = disk();
        disk.fail_after(rng.random_range(0..120), ErrorKind::Other);
        let transactions = rng.random_range(1..25);
        let (committed, in_flight) = run(&mut rng, &disk, transactions);
        // Some cuts lose everything in flight, some nothing, most toss a coin for each sector.
        let chance = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        let after = disk.crash(|| rng.random_bool(chance));
        let db = open(&after).unwrap();
        let found = content(&db.begin_read());
        if found != committed {
            assert_eq!(Some(found), in_flight, "neither the last committed state nor the one in flight");
            in_flight_survived += 1;
        }
        // What was found can be written on.
        let mut txn = db.begin_write().unwrap();
        txn.create_bucket_if_missing(b"after").unwrap().put(b"key", b"value").unwrap();
        txn.commit().unwrap();
    }
    assert!(in_flight_survived > 0, "no cut fell between the meta page and its fsync");
}

#[test]
fn k15_every_call_may_fail_and_the_file_opens_again() {
    for (kind, error) in [(ErrorKind::StorageFull, "ENOSPC"), (ErrorKind::Other, "EIO")] {
        for call in 0..40 {
            println!("{error} at call {call}");
            let mut rng = StdRng::seed_from_u64(call);
            let disk = disk();
            disk.fail_after(call, kind);
            let (committed, in_flight) = run(&mut rng, &disk, 8);
            let db = open(&disk).unwrap();
            let found = content(&db.begin_read());
            assert!(found == committed || Some(found) == in_flight);
        }
    }
}

/// A database with one commit, and the number of calls that the next small commit will make.
fn prepared() -> (SimDisk, Db) {
    let disk = disk();
    let db = open(&disk).unwrap();
    put(&db, b"first").unwrap();
    (disk, db)
}

fn put(db: &Db, key: &[u8]) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    txn.create_bucket_if_missing(b"key")?.put(key, b"value")?;
    txn.commit()
}

#[test]
fn k16_a_failed_write_or_fsync_ends_writing_but_not_reading() {
    // Data pages, fsync, meta page, fsync.
    for call in 0..4 {
        let (disk, db) = prepared();
        disk.fail_after(call, ErrorKind::Other);
        assert!(matches!(put(&db, b"second"), Err(Error::Io { .. })), "call {call}");
        assert!(disk.has_failed());
        for _ in 0..2 {
            assert!(matches!(put(&db, b"third"), Err(Error::Poisoned { .. })));
        }
        assert!(matches!(db.defragment(), Err(Error::Poisoned { .. })));
        let txn = db.begin_read();
        let bucket = txn.bucket(b"key").unwrap().unwrap();
        assert!(bucket.get(b"first").unwrap().is_some());
        assert!(bucket.get(b"second").unwrap().is_none());
        // What the disk lost, the next process does not believe in.
        drop((txn, db));
        let after = disk.crash(|| false);
        assert!(open(&after).unwrap().begin_read().bucket(b"key").unwrap().unwrap().get(b"first").unwrap().is_some());
    }
}

#[test]
fn k16_a_meta_page_that_a_failed_fsync_left_in_memory_is_not_believed_by_the_next_process() {
    let (disk, db) = prepared();
    put(&db, b"second").unwrap();
    // Data pages, fsync, meta page, fsync.
    disk.fail_after(3, ErrorKind::Other);
    assert!(matches!(put(&db, b"third"), Err(Error::Io { .. })));
    drop(db);
    let disk = disk.killed();
    let db = open(&disk).unwrap();
    let found = content(&db.begin_read());
    assert_eq!(found, content(&open(&disk.crash(|| false)).unwrap().begin_read()), "what is read is on the disk");
    // A commit that is cut short before its meta page is durable falls back to what was found, whole.
    for call in 0..4 {
        let disk = disk.killed();
        let db = open(&disk).unwrap();
        disk.fail_after(call, ErrorKind::Other);
        assert!(put(&db, b"fourth").is_err());
        assert_eq!(content(&open(&disk.crash(|| false)).unwrap().begin_read()), found, "call {call}");
    }
}

#[test]
fn k16_a_process_after_one_that_failed_makes_durable_what_it_builds_on() {
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = disk();
        disk.fail_after(rng.random_range(4..40), ErrorKind::Other);
        run(&mut rng, &disk, 8);
        // The process has ended, and what it wrote is seen, synced or not. The machine ends only after the next one.
        let disk = disk.killed();
        let db = open(&disk).unwrap();
        let before = content(&db.begin_read());
        disk.fail_after(rng.random_range(0..12), ErrorKind::Other);
        let transactions = rng.random_range(0..4);
        let (committed, in_flight) = run_from(&mut rng, &db, before, 1000, transactions);
        let found = content(&open(&disk.crash(|| rng.random_bool(0.3))).unwrap().begin_read());
        assert!(found == committed || Some(found) == in_flight, "seed {seed}");
    }
}

#[test]
fn k14_a_file_that_cannot_grow_undoes_the_commit_and_goes_on() {
    let (disk, db) = prepared();
    let fill = |db: &Db, length: usize| {
        let mut txn = db.begin_write()?;
        txn.bucket(b"key")?.put(b"large", &vec![1; length])?;
        txn.commit()
    };
    // The growth asked for fails, the growth needed succeeds.
    disk.fail_after(0, ErrorKind::StorageFull);
    fill(&db, 1 << 20).unwrap();
    assert!(disk.has_failed());
    let full = Arc::new(FullDisk(disk));
    let used = db.size();
    drop(db);
    let db = Db::open(PATH, Options { disk: full, ..Options::default() }).unwrap();
    let error = fill(&db, 3 << 20).unwrap_err();
    assert!(error.is_no_space() && matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(db.size(), used);
    // A transaction that had to write ahead of its commit fails where it stands, and cannot be committed after that.
    let mut txn = db.begin_write().unwrap();
    let failed = (0..40).find_map(|_| txn.bucket(b"key").unwrap().put(b"large", &vec![1; 1 << 20]).err());
    assert!(failed.is_some_and(|error| error.is_no_space()));
    assert!(matches!(txn.commit(), Err(Error::Broken { .. })));
    // Deletes still fit, and what they free can be used.
    let mut txn = db.begin_write().unwrap();
    txn.bucket(b"key").unwrap().delete(b"large").unwrap();
    txn.commit().unwrap();
    fill(&db, 1 << 19).unwrap();
    fill(&db, 1 << 10).unwrap();
}

/// A disk on which no file can grow.
#[derive(Debug)]
struct FullDisk(SimDisk);

mod full {
    use std::io;
    use std::path::Path;

    use forebay_storage::disk::{Disk, DiskFile, Space};

    use super::FullDisk;

    impl Disk for FullDisk {
        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            Ok(Box::new(FullFile(self.0.open(path)?)))
        }
        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            Ok(Box::new(FullFile(self.0.create(path)?)))
        }
        fn create_dir_all(&self, path: &Path) -> io::Result<()> {
            self.0.create_dir_all(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
        fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
            self.0.remove_dir_all(path)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn exists(&self, path: &Path) -> bool {
            self.0.exists(path)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
        fn space(&self, path: &Path) -> io::Result<Space> {
            self.0.space(path)
        }
    }

    #[derive(Debug)]
    struct FullFile(Box<dyn DiskFile>);

    impl DiskFile for FullFile {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buf, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_at(data, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn forget(&self, len: u64) -> io::Result<()> {
            self.0.forget(len)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn try_lock(&self) -> io::Result<bool> {
            self.0.try_lock()
        }
        fn try_lock_shared(&self) -> io::Result<bool> {
            self.0.try_lock_shared()
        }
        fn unlock(&self) -> io::Result<()> {
            self.0.unlock()
        }
    }
}

#[test]
fn a_defragmentation_cut_short_leaves_the_old_file_or_the_new_one() {
    for call in 0..10 {
        println!("call {call}");
        let (disk, db) = prepared();
        for key in 0..50_u8 {
            put(&db, &[key; 100]).unwrap();
        }
        let before = content(&db.begin_read());
        disk.fail_after(call, ErrorKind::Other);
        let done = db.defragment();
        assert_eq!(content(&db.begin_read()), before);
        if done.is_ok() || put(&db, b"later").is_ok() {
            let _ = put(&db, b"later");
        }
        let now = content(&db.begin_read());
        drop(db);
        let mut rng = StdRng::seed_from_u64(call);
        for chance in [0.0, 0.5, 1.0] {
            let after = disk.crash(|| rng.random_bool(chance));
            let db = open(&after).unwrap();
            assert_eq!(content(&db.begin_read()), now);
            let left = after.list(Path::new("/member/snap")).unwrap();
            assert_eq!(left, ["db"], "the next start removes what is left of it");
        }
    }
}

/// Puts a file with other content in the place of the database, cut short by the disk at any call or by nothing, and
/// then by the power.
#[test]
fn after_a_power_cut_a_replaced_file_is_the_old_or_the_new_one_whole() {
    let (mut replaced, mut kept) = (0, 0);
    for seed in 0..150 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = disk();
        let (old, _) = run(&mut rng, &disk, 6);
        let from = Path::new("/member/snap/0000000000000007.snap.db");
        let options = Options { page_size: 1024, growth: 32 << 10, disk: Arc::new(disk.clone()), ..Options::default() };
        let received = Db::open(from, options).unwrap();
        put(&received, b"from the leader").unwrap();
        let new = content(&received.begin_read());
        received.close();
        drop(received);
        disk.sync_dir(Path::new("/member/snap")).unwrap();

        let db = open(&disk).unwrap();
        let replacement = db.open_replacement(from.into(), b"key", &mut |_| {}).unwrap();
        disk.fail_after(rng.random_range(0..3), ErrorKind::Other);
        let result = db.replace(replacement);
        let chance = [0.0, 0.5, 1.0][rng.random_range(0..3)];
        let after = disk.crash(|| rng.random_bool(chance));
        let found = content(&open(&after).unwrap().begin_read());
        match result {
            Ok(()) => assert!(found == new, "a replacement that was reported is gone"),
            Err(_) => {
                assert!(found == old || found == new, "neither the old file nor the new one");
                assert!(db.begin_write().is_err(), "what is written now could be gone after the next start");
            }
        }
        let is_new = found == new;
        replaced += usize::from(is_new);
        kept += usize::from(!is_new);
    }
    assert!(replaced > 0 && kept > 0, "{replaced} replaced, {kept} kept");
}
