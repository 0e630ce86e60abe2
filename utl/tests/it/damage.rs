//! `check` finds what is wrong and names it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use forebay_proto::{
    etcdserverpb::Metadata,
    raftpb::{Entry, HardState},
};
use forebay_storage::{
    disk::OsDisk,
    schema::{self, Value},
    wal::{Options, Wal},
};
use forebay_utl::{
    buckets, check,
    files::{db_path, wal_dir},
};

use prost::Message as _;

use crate::files::{database, restore, snapshot, version};

const WAIT: Duration = Duration::from_secs(5);

/// What is wrong with it, each with the name of its check.
fn wrong(path: &Path) -> Vec<(&'static str, String)> {
    let checks = check::check(path, None, WAIT);
    checks.into_iter().filter_map(|check| Some((check.what, check.found.err()?.to_string()))).collect()
}

fn one_wrong(path: &Path) -> (&'static str, String) {
    <[_; 1]>::try_from(wrong(path)).unwrap_or_else(|wrong| panic!("{wrong:?}"))[0].clone()
}

fn with(more: &[Value]) -> (&'static str, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(database(&path, more));
    one_wrong(&path)
}

#[test]
fn a_history_that_cannot_have_been_written_is_named() {
    let (what, text) = with(&[version("history", 2, 400, 7)]);
    assert_eq!(what, "keys");
    assert!(text.contains("expected created and version to be (2, 4), found (2, 7)"), "{text}");
    let (_, text) = with(&[version("history", 3, 400, 4)]);
    assert!(text.contains("expected created and version to be (2, 4), found (3, 4)"), "{text}");
    let (_, text) = with(&[version("new", 20, 400, 2)]);
    assert!(text.contains("expected the first version of a key created at 20, found version 2"), "{text}");
    let (_, text) = with(&[Value { bucket: schema::KEY, key: b"nonsense".to_vec(), value: vec![] }]);
    assert!(text.contains("expected a revision as key"), "{text}");
    let (_, text) = with(&[Value { bucket: schema::META, key: b"consistent_index".to_vec(), value: vec![1] }]);
    assert!(text.contains("bucket meta, key consistent_index: expected 8 bytes"), "{text}");
}

#[test]
fn a_damaged_page_is_named_with_its_byte_and_its_versions_can_still_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(database(&path, &[]));
    let mut bytes = fs::read(&path).unwrap();
    // The keys of the last leaf page, in use or not, go backwards.
    let leaf = (2..bytes.len() / 4096)
        .filter(|page| bytes[page * 4096..][..10] == [&(*page as u64).to_le_bytes()[..], &[2, 0]].concat()[..])
        .find(|page| bytes[page * 4096 + 10] > 20)
        .expect("a leaf of versions");
    let second = leaf * 4096 + 16 + 16;
    let at = second + u32::from_le_bytes(bytes[second + 4..][..4].try_into().unwrap()) as usize;
    bytes[at] = 0xff;
    fs::write(&path, bytes).unwrap();
    let (what, text) = one_wrong(&path);
    assert_eq!(what, "pages");
    let expected = format!("page {leaf} at byte {}: expected keys in ascending order", leaf * 4096);
    assert!(text.contains(&expected), "{text}");
    let mut found = 0;
    buckets::scan_keys(
        &path,
        0,
        &mut |_| {
            found += 1;
            Ok(())
        },
        &mut |_| {},
    )
    .unwrap();
    assert!(found > 200, "{found} versions were saved");
}

#[test]
fn files_that_are_none_of_ours_are_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    for content in [&b""[..], b"SQLite format 3\0", &[0xff; 20_480]] {
        fs::write(&path, content).unwrap();
        let (what, text) = one_wrong(&path);
        assert!(what == "pages" && text.contains("no valid meta page"), "{what}: {text}");
    }
    drop(database(&dir.path().join("other"), &[]));
    let mut future = fs::read(dir.path().join("other")).unwrap();
    for meta in [0, 4096] {
        future[meta + 20] = 3;
    }
    fs::write(&path, future).unwrap();
    let (_, text) = one_wrong(&path);
    assert!(text.contains("expected version 2, found version 3"), "{text}");
}

#[test]
fn a_log_is_checked_record_by_record_and_against_the_db() {
    let dir = tempfile::tempdir().unwrap();
    let restore = restore(&snapshot(dir.path(), &[]));
    restore.run().unwrap();
    assert_eq!(wrong(&restore.data_dir), []);
    let segment = fs::read_dir(wal_dir(&restore.data_dir)).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&segment).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    fs::write(&segment, &flipped).unwrap();
    let (what, text) = one_wrong(&restore.data_dir);
    assert_eq!(what, "log");
    assert!(text.contains("is damaged at offset"), "{text}");
    fs::write(&segment, &whole).unwrap();
    // An older or newer db file than the log's.
    fs::remove_file(db_path(&restore.data_dir)).unwrap();
    drop(database(&db_path(&restore.data_dir), &[]));
    let (what, text) = one_wrong(&restore.data_dir);
    assert_eq!(what, "agreement");
    assert!(text.contains("expected an index that the log knows, 0 to 1, found 400"), "{text}");
}

#[test]
fn a_log_without_its_first_segments_does_not_know_what_was_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let restore = restore(&snapshot(dir.path(), &[]));
    restore.run().unwrap();
    let wal_dir = wal_dir(&restore.data_dir);
    fs::remove_dir_all(&wal_dir).unwrap();
    let metadata = Metadata { node_id: Some(1), cluster_id: Some(2) }.encode_to_vec();
    let options = Options { segment_bytes: 1, segments_max: 0 };
    let mut wal = Wal::create(Arc::new(OsDisk), &wal_dir, options, metadata.into()).unwrap();
    for index in 1..=5 {
        let state = HardState { term: Some(1), vote: Some(1), commit: Some(index) };
        let entry = Entry { term: Some(1), index: Some(index), ..Entry::default() };
        wal.append(Some(&state), &[entry], true).unwrap();
    }
    drop(wal);
    assert_eq!(wrong(&restore.data_dir), [], "the db file is at index 1");
    let mut segments: Vec<_> = fs::read_dir(&wal_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "wal"));
    segments.sort();
    segments[..3].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    let (what, text) = one_wrong(&restore.data_dir);
    assert_eq!(what, "agreement");
    assert!(text.contains("expected an index that the log knows, 3 to 5, found 1"), "{text}");
}
