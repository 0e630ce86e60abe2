//! Snapshot files.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use forebay_proto::{raftpb, snappb};
use forebay_storage::{disk::sim::SimDisk, snap::Snapshots};
use prost::Message as _;

const DIR: &str = "/snap";

/// A snapshot file is read or set aside; what was read is read again once it was saved. The input is the file, and,
/// for the sake of what lies behind the checksum, also the content of a file that checks.
pub fn snapshot_file(data: &[u8]) {
    read(data.to_vec());
    let envelope = snappb::Snapshot { crc: Some(crc32c::crc32c(data)), data: Some(Bytes::copy_from_slice(data)) };
    let found = read(envelope.encode_to_vec());
    let content = Some(data).filter(|data| !data.is_empty()).and_then(|data| raftpb::Snapshot::decode(data).ok());
    assert_eq!(found, content, "nothing but its content is wrong with a file that checks");
}

fn read(file: Vec<u8>) -> Option<raftpb::Snapshot> {
    let (disk, snapshots) = empty();
    let path = Path::new("/snap/0000000000000001-0000000000000001.snap");
    disk.put(path, file.clone());
    let found = snapshots.newest(|_| true).expect("a disk without faults");
    match &found {
        None => assert_eq!(disk.contents(&path.with_extension("snap.broken")), Some(file), "it is set aside as it was"),
        // It would be saved as no bytes, which are no snapshot.
        Some(snapshot) if *snapshot == raftpb::Snapshot::default() => {}
        Some(snapshot) => {
            let (_, snapshots) = empty();
            snapshots.save(snapshot).expect("a disk without faults");
            assert_eq!(snapshots.newest(|_| true).expect("a disk without faults").as_ref(), Some(snapshot));
        }
    }
    found
}

fn empty() -> (SimDisk, Snapshots) {
    let disk = SimDisk::new();
    let snapshots = Snapshots::open(Arc::new(disk.clone()), Path::new(DIR)).expect("a disk without faults");
    (disk, snapshots)
}
