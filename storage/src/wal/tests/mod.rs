mod crash;
mod damage;
pub(crate) mod peers;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use forebay_proto::{
    raftpb::{ConfState, Entry, HardState},
    walpb,
};

use super::*;
use crate::disk::{OsDisk, sim::SimDisk};

const SMALL: Options = Options { segment_bytes: 4096, segments_max: 3 };

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { term: Some(term), index: Some(index), r#type: Some(0), data: Some(Bytes::copy_from_slice(data)) }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term: Some(term), vote: Some(7), commit: Some(commit) }
}

fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = Some(ConfState { voters: vec![7], auto_leave: Some(false), ..ConfState::default() });
    walpb::Snapshot { index: Some(index), term: Some(term), conf_state }
}

fn simulated() -> (SimDisk, &'static Path) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data/member")).unwrap();
    (disk, Path::new("/data/member/wal"))
}

fn create(disk: &SimDisk, dir: &Path, options: Options) -> Wal {
    Wal::create(Arc::new(disk.clone()), dir, options, Bytes::from_static(b"meta")).unwrap()
}

fn open(disk: &SimDisk, dir: &Path, options: Options) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), dir, options, None)
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(Entry::index).collect()
}

#[test]
fn what_was_appended_is_read_back_across_many_segments() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    let mut expected = Vec::new();
    for index in 1..=200 {
        let batch = [entry(index, 2, &vec![index as u8; (index as usize * 37) % 300])];
        wal.append(Some(&state(2, index - 1)), &batch, true).unwrap();
        expected.extend(batch);
    }
    assert!(wal.segments() > 5);
    drop(wal);
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(recovered.metadata, "meta");
    assert_eq!(recovered.hard_state, state(2, 199));
    assert_eq!(recovered.snapshot.index(), 0);
    assert_eq!(recovered.entries, expected);
    assert_eq!(recovered.repair, None);
}

#[test]
fn a_reopened_log_goes_on_where_it_ended() {
    let (disk, dir) = simulated();
    create(&disk, dir, SMALL).append(Some(&state(1, 0)), &[entry(1, 1, b"a")], true).unwrap();
    for index in 2..=60 {
        let (mut wal, recovered) = open(&disk, dir, SMALL).unwrap();
        assert_eq!(indexes(&recovered), (1..index).collect::<Vec<_>>());
        wal.append(None, &[entry(index, 1, &[3; 100])], true).unwrap();
    }
    assert!(open(&disk, dir, SMALL).unwrap().0.segments() > 1);
}

#[test]
fn a_later_entry_replaces_its_index_and_all_after_it() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    let first: Vec<_> = (1..=5).map(|index| entry(index, 1, b"old")).collect();
    wal.append(Some(&state(1, 2)), &first, true).unwrap();
    wal.append(Some(&state(2, 2)), &[entry(3, 2, b"new")], true).unwrap();
    drop(wal);
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(indexes(&recovered), [1, 2, 3]);
    assert_eq!(recovered.entries[2], entry(3, 2, b"new"));
}

#[test]
fn reading_begins_after_the_newest_committed_snapshot() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    let entries: Vec<_> = (1..=10).map(|index| entry(index, 1, b"x")).collect();
    wal.append(Some(&state(1, 8)), &entries, true).unwrap();
    wal.save_snapshot(&snapshot(5, 1)).unwrap();
    wal.save_snapshot(&snapshot(9, 1)).unwrap();
    drop(wal);
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(recovered.snapshot, snapshot(5, 1));
    assert_eq!(indexes(&recovered), [6, 7, 8, 9, 10]);
}

#[test]
fn a_log_jumps_over_a_snapshot_from_the_leader() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    wal.append(Some(&state(1, 2)), &[entry(1, 1, b"x"), entry(2, 1, b"x")], true).unwrap();
    wal.save_snapshot(&snapshot(500, 3)).unwrap();
    wal.append(Some(&state(3, 500)), &[entry(501, 3, b"y")], true).unwrap();
    drop(wal);
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(recovered.snapshot, snapshot(500, 3));
    assert_eq!(recovered.entries, [entry(501, 3, b"y")]);
}

#[test]
fn a_given_snapshot_must_be_in_the_log() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    let entries: Vec<_> = (1..=4).map(|index| entry(index, 1, b"x")).collect();
    wal.append(Some(&state(1, 4)), &entries, true).unwrap();
    wal.save_snapshot(&snapshot(2, 1)).unwrap();
    wal.save_snapshot(&snapshot(3, 1)).unwrap();
    drop(wal);
    let at = |snapshot| Wal::open(Arc::new(disk.clone()), dir, SMALL, Some(snapshot));
    let (wal, recovered) = at(snapshot(2, 1)).unwrap();
    assert_eq!((recovered.snapshot.index(), indexes(&recovered)), (2, vec![3, 4]));
    drop(wal);
    for missing in [snapshot(2, 9), snapshot(4, 1)] {
        assert!(matches!(at(missing), Err(WalError::Snapshot { .. })));
    }
}

#[test]
fn released_segments_are_removed_down_to_the_limit_and_the_rest_opens() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    for index in 1..=200 {
        wal.append(Some(&state(1, index)), &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    let before = wal.segments();
    wal.save_snapshot(&snapshot(190, 1)).unwrap();
    wal.release_to(190);
    assert!(before > 10 && wal.segments() == 3, "{before} segments, then {}", wal.segments());
    drop(wal);
    let names = disk.list(dir).unwrap();
    assert_eq!(names.len(), 3, "{names:?}");
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(recovered.snapshot, snapshot(190, 1));
    assert_eq!(indexes(&recovered), (191..=200).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_cannot_be_removed_leaves_no_gap_behind_it() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    for index in 1..=200 {
        wal.append(Some(&state(1, index)), &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    wal.save_snapshot(&snapshot(190, 1)).unwrap();
    let before = disk.list(dir).unwrap().len();
    disk.fail_at(".wal", 2, io::ErrorKind::Other);
    wal.release_to(190);
    assert_eq!(disk.list(dir).unwrap().len(), before - 2);
    assert_eq!(indexes(&open(&disk.killed(), dir, SMALL).unwrap().1), (191..=200).collect::<Vec<_>>());
    // The next time it goes.
    wal.release_to(190);
    drop(wal);
    assert_eq!(disk.list(dir).unwrap().len(), SMALL.segments_max);
}

#[test]
fn a_segment_that_a_snapshot_does_not_cover_is_never_removed() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, Options { segments_max: 1, ..SMALL });
    for index in 1..=100 {
        wal.append(Some(&state(1, index)), &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    wal.save_snapshot(&snapshot(50, 1)).unwrap();
    wal.release_to(50);
    drop(wal);
    let (_wal, recovered) = open(&disk, dir, SMALL).unwrap();
    assert_eq!(indexes(&recovered), (51..=100).collect::<Vec<_>>());
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let wal = Wal::create(Arc::new(OsDisk), &path, SMALL, Bytes::new()).unwrap();
    assert!(matches!(Wal::open(Arc::new(OsDisk), &path, SMALL, None), Err(WalError::Locked { .. })));
    drop(wal);
    Wal::open(Arc::new(OsDisk), &path, SMALL, None).unwrap();
}

#[test]
fn a_log_is_not_created_over_another() {
    let (disk, dir) = simulated();
    drop(create(&disk, dir, SMALL));
    let again = Wal::create(Arc::new(disk), dir, SMALL, Bytes::new());
    assert!(matches!(again, Err(WalError::Exists { .. })));
}

#[test]
fn a_missing_segment_is_refused() {
    let (disk, dir) = simulated();
    let mut wal = create(&disk, dir, SMALL);
    for index in 1..=100 {
        wal.append(None, &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    drop(wal);
    let names = disk.list(dir).unwrap();
    disk.remove(&dir.join(&names[2])).unwrap();
    assert!(matches!(open(&disk, dir, SMALL), Err(WalError::Segments { .. })));
    // It is a log all the same, in the place of which no other may be made.
    assert!(exists(&disk, dir).unwrap());
    let again = Wal::create(Arc::new(disk), dir, SMALL, Bytes::new());
    assert!(matches!(again, Err(WalError::Exists { .. })));
}

#[test]
fn files_are_private_and_leftovers_are_gone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let mut wal = Wal::create(Arc::new(OsDisk), &path, SMALL, Bytes::new()).unwrap();
    for index in 1..=30 {
        wal.append(None, &[entry(index, 1, &[1; 200])], true).unwrap();
    }
    drop(wal);
    let mut modes: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|file| file.unwrap())
        .inspect(|file| assert!(file.file_name().to_str().unwrap().ends_with(".wal"), "{file:?}"))
        .map(|file| file.metadata().unwrap().permissions().mode() & 0o777)
        .collect();
    modes.dedup();
    assert_eq!(modes, [0o600]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!dir.path().join("wal.tmp").exists());
}
