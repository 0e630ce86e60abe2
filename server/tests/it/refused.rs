//! Files that a member does not start on: it says which, where, what was expected, and what to do; and leaves them as they
//! are.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_storage::{
    db::{Db, Options},
    disk::OsDisk,
    schema::{self, Value},
};
use tempfile::TempDir;

use crate::support::{Node, new_dir, put};

/// The files of a member that has stopped.
async fn files() -> Arc<TempDir> {
    let dir = Arc::new(new_dir());
    let node = Node::try_on_disk(dir.clone(), Arc::new(OsDisk), |_| {}).await.unwrap();
    for n in 0..50 {
        node.put(put(&format!("key {n}"), &"v".repeat(1000))).await.unwrap();
    }
    node.member.stop().await;
    dir
}

fn db(dir: &TempDir) -> PathBuf {
    dir.path().join("member/snap/db")
}

fn segment(dir: &TempDir) -> PathBuf {
    let mut names = fs::read_dir(dir.path().join("member/wal")).unwrap().map(|entry| entry.unwrap().path());
    names.find(|path| path.extension().is_some_and(|end| end == "wal")).unwrap()
}

async fn refusal(dir: &Arc<TempDir>) -> String {
    match Node::try_on_disk(dir.clone(), Arc::new(OsDisk), |_| {}).await {
        Ok(_) => panic!("the member starts"),
        Err(error) => error.to_string(),
    }
}

/// How a file is changed, and words of the refusal.
type Case = (fn(&mut Vec<u8>), &'static [&'static str]);

/// Each way to change the file is refused with all these words, and the file.
async fn refuses(dir: &Arc<TempDir>, path: &Path, cases: &[Case]) {
    let whole = fs::read(path).unwrap();
    for (change, words) in cases {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(path, &bytes).unwrap();
        let text = refusal(dir).await;
        for word in words.iter().chain(&[path.to_str().unwrap(), "expected", "found", "forebay utl heal", "restore"]) {
            assert!(text.contains(word), "{word:?} is missing in {text}");
        }
        assert!(fs::read(path).unwrap() == bytes, "a refused file is left as it is");
    }
    fs::write(path, whole).unwrap();
    Node::try_on_disk(dir.clone(), Arc::new(OsDisk), |_| {}).await.unwrap().member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_db_file_that_is_cut_off_flipped_foreign_or_of_another_format_is_refused() {
    let dir = files().await;
    let cases: [Case; 4] = [
        (|bytes| bytes.truncate(4 * 4096), &["cut off at byte"]),
        (|bytes| bytes[2 * 4096..].iter_mut().for_each(|byte| *byte ^= 4), &["at byte"]),
        (|bytes| *bytes = b"SQLite format 3\0".repeat(4096), &["at byte 0", "magic"]),
        (|bytes| [0, 4096].map(|meta| bytes[meta + 20] = 3).into_iter().for_each(drop), &["at byte 0", "version 3"]),
    ];
    refuses(&dir, &db(&dir), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_off_flipped_foreign_or_of_another_format_is_refused() {
    let dir = files().await;
    let cases: [Case; 4] = [
        (|bytes| bytes.truncate(20), &["at offset"]),
        (|bytes| bytes[2000] ^= 1, &["at offset"]),
        (|bytes| *bytes = b"no log of anybody's\n".repeat(4096), &["at offset 0"]),
        // The first record has a kind that is not known, and is whole.
        (|bytes| bytes[9] = 9, &["at offset 0"]),
    ];
    refuses(&dir, &segment(&dir), &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k12_a_db_file_that_has_lost_a_bucket_is_refused_and_left_as_it_is() {
    let dir = files().await;
    let whole = fs::read(db(&dir)).unwrap();
    for bucket in schema::BUCKETS {
        let opened = Db::open(db(&dir), Options::default()).unwrap();
        let mut txn = opened.begin_write().unwrap();
        assert!(txn.delete_bucket(bucket).unwrap());
        txn.commit().unwrap();
        drop(opened);
        let without = fs::read(db(&dir)).unwrap();
        let text = refusal(&dir).await;
        let expected = format!("expected bucket {}, found none", bucket.escape_ascii());
        for word in [db(&dir).to_str().unwrap(), &expected, "forebay utl heal", "snapshot restore"] {
            assert!(text.contains(word), "{word:?} is missing in {text}");
        }
        assert!(fs::read(db(&dir)).unwrap() == without, "a refused file is left as it is");
        fs::write(db(&dir), &whole).unwrap();
    }
    Node::try_on_disk(dir.clone(), Arc::new(OsDisk), |_| {}).await.unwrap().member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_newer_release_are_refused_with_the_way_down() {
    let dir = files().await;
    let write = |value: Value| {
        let db = Db::open(db(&dir), Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        value.put(&mut txn).unwrap();
        txn.commit().unwrap();
    };
    for (newer, known, what) in [
        (schema::storage_version("3.8.0"), schema::storage_version("3.7.0"), "a storage version"),
        (schema::cluster_version("4.0.0"), schema::cluster_version("3.7.0"), "a cluster version"),
    ] {
        write(newer);
        let text = refusal(&dir).await;
        for word in [db(&dir).to_str().unwrap(), what, "of at most 3.7.0, found", "etcdctl downgrade enable 3.7"] {
            assert!(text.contains(word), "{word:?} is missing in {text}");
        }
        write(known);
    }
    Node::try_on_disk(dir.clone(), Arc::new(OsDisk), |_| {}).await.unwrap().member.stop().await;
}
