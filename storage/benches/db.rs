//! What the db engine costs on the server's own pattern: `cargo bench -p forebay-storage --bench db`.
//!
//! A million revisions of 17 bytes with values of 150 bytes are appended in transactions of 10,000, then opened, walked,
//! looked up, compacted and copied. CPU time is that of the process, so fsync waits do not count.

use std::time::{Duration, Instant};

use forebay_storage::db::{APPEND_FILL, Db, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: u64 = 1_000_000;
const BATCH: u64 = 10_000;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure<T>(what: &str, count: u64, run: impl FnOnce() -> T) -> T {
    let (wall_begin, cpu_begin) = (Instant::now(), cpu());
    let result = run();
    let (wall, cpu) = (wall_begin.elapsed(), cpu() - cpu_begin);
    let per_key = cpu.as_secs_f64() * 1e6 / count as f64;
    let rate = count as f64 / wall.as_secs_f64() / 1e3;
    report(&format!(
        "{what:<44} {:>8.1} ms wall {per_key:>8.3} us CPU a key {rate:>10.0} k/s",
        wall.as_secs_f64() * 1e3
    ));
    result
}

#[expect(clippy::print_stdout, reason = "this is a report")]
fn report(line: &str) {
    println!("{line}");
}

fn revision(main: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8] = b'_';
    key
}

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("db");
    let mut rng = StdRng::seed_from_u64(1);
    let mut values = vec![0_u8; 1 << 20];
    rng.fill(&mut values[..]);
    let db = Db::open(&path, Options::default()).expect("create");
    measure("append 1 M revisions, 10,000 a commit", KEYS, || {
        for batch in 0..KEYS / BATCH {
            let mut txn = db.begin_write().expect("begin");
            let mut bucket = txn.create_bucket_if_missing(b"key").expect("bucket");
            bucket.set_fill(APPEND_FILL);
            for main in batch * BATCH..(batch + 1) * BATCH {
                let at = (main as usize * 769) % (values.len() - 150);
                bucket.put(&revision(main), &values[at..at + 150]).expect("put");
            }
            txn.commit().expect("commit");
        }
    });
    drop(db);
    let db =
        measure("open: check the tree, find free pages", KEYS, || Db::open(&path, Options::default()).expect("open"));
    report(&format!("{:<44} {:>8.1} MB", "size", db.size() as f64 / 1e6));
    let txn = db.begin_read();
    let bucket = txn.bucket(b"key").expect("bucket").expect("bucket");
    let mut sum = 0;
    measure("walk all", KEYS, || bucket.for_each(|key, value| sum += key.len() + value.len()).expect("walk"));
    measure("get 200,000 at random", 200_000, || {
        for _ in 0..200_000 {
            let found = bucket.get(&revision(rng.random_range(0..KEYS))).expect("get");
            assert!(found.is_some(), "every revision is there");
        }
    });
    measure("snapshot", KEYS, || db.snapshot().copy_to(&mut std::io::sink()).expect("copy"));
    drop(txn);
    let deleted = KEYS / 2;
    measure("delete every other revision, 1,000 a commit", deleted, || {
        for batch in 0..deleted / 1000 {
            let mut txn = db.begin_write().expect("begin");
            let mut bucket = txn.bucket(b"key").expect("bucket");
            for index in 0..1000 {
                bucket.delete(&revision((batch * 1000 + index) * 2)).expect("delete");
            }
            txn.commit().expect("commit");
        }
    });
    measure("defragment", deleted, || db.defragment().expect("defragment"));
    report(&format!("{:<44} {:>8.1} MB", "size", db.size() as f64 / 1e6));
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    report(peak.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
