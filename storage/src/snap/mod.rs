//! Snapshot files: `member/snap/<term>-<index>.snap`, both as 16 hexadecimal digits.
//!
//! Since the keys live in the db file, such a file says only where the log may begin and who the members were. 3.6 and
//! older need it to start; 3.7 trusts the log's snapshot record and still writes it. A file that does not check is set
//! aside as `.broken` and the one before it is used.

mod json;
mod membership;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::{raftpb, snappb};
use prost::Message as _;

pub use self::{
    json::{member_from_json, member_json, members_from_json},
    membership::{MemberRecord, Membership},
};
use crate::{
    disk::{Disk, DiskFile, Work},
    failpoint::{Point, reach},
};

/// Why a snapshot file cannot be written or found.
#[derive(Debug, thiserror::Error)]
pub enum SnapError {
    /// The disk refused.
    #[error("snap: cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The file is empty, does not parse, or its checksum does not match.
    #[error("snap: {path} is damaged: {reason}")]
    Broken { path: PathBuf, reason: String },
}

/// The snapshot files of one member.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Snapshots {
    /// Uses a directory, creating it if needed, and removes what an interrupted save or receipt left there.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, SnapError> {
        let snapshots = Self { disk, dir: dir.to_owned() };
        snapshots.disk.create_dir_all(dir).map_err(|source| snapshots.failed("create", dir, source))?;
        for name in snapshots.list()?.iter().filter(|name| name.starts_with("tmp")) {
            let path = dir.join(name);
            snapshots.disk.remove(&path).map_err(|source| snapshots.failed("remove", &path, source))?;
        }
        Ok(snapshots)
    }

    /// Uses a directory as it is, to look at.
    pub fn at(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.to_owned() }
    }

    /// Saves a snapshot; when this returns it is durable under its name, and before that the name does not exist.
    pub fn save(&self, snapshot: &raftpb::Snapshot) -> Result<(), SnapError> {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let name = format!("{:016x}-{:016x}.snap", metadata.term(), metadata.index());
        let data = Bytes::from(snapshot.encode_to_vec());
        let envelope = snappb::Snapshot { crc: Some(crc32c::crc32c(&data)), data: Some(data) };
        let temporary = self.dir.join(format!("tmp{name}"));
        let path = self.dir.join(name);
        let write = || {
            reach(Point::SnapSave);
            let file = self.disk.create(&temporary)?;
            file.write_at(&envelope.encode_to_vec(), 0)?;
            reach(Point::SnapWritten);
            file.sync_data()?;
            reach(Point::SnapSynced);
            self.disk.rename(&temporary, &path)?;
            reach(Point::SnapNamed);
            self.disk.sync_dir(&self.dir)?;
            reach(Point::SnapSaved);
            Ok(())
        };
        write().map_err(|source: io::Error| self.failed("save", &path, source))
    }

    /// Begins to save a snapshot, and then to purge all but the newest `keep`. Ends with how long it took.
    pub fn begin_save(&self, snapshot: raftpb::Snapshot, keep: usize) -> io::Result<Work<Result<Duration, SnapError>>> {
        let snapshots = self.clone();
        Work::begin(&*self.disk, "raft-snapshot", move || {
            let start = Instant::now();
            snapshots.save(&snapshot)?;
            snapshots.purge(keep)?;
            Ok(start.elapsed())
        })
    }

    /// The newest snapshot that checks and that `is_wanted` accepts, by its metadata. Older members want the newest
    /// one that the log has a record of.
    pub fn newest(
        &self,
        is_wanted: impl Fn(&raftpb::SnapshotMetadata) -> bool,
    ) -> Result<Option<raftpb::Snapshot>, SnapError> {
        for name in self.names()?.iter().rev() {
            let path = self.dir.join(name);
            match self.load(&path) {
                Ok(snapshot) if is_wanted(&snapshot.metadata.clone().unwrap_or_default()) => return Ok(Some(snapshot)),
                Ok(_) => {}
                Err(SnapError::Broken { reason, .. }) => {
                    if self.load(&path).is_ok() {
                        let twice = io::Error::other("the disk gave something else when it was read again");
                        return Err(self.failed("read", &path, twice));
                    }
                    let broken = self.dir.join(format!("{name}.broken"));
                    tracing::warn!(path = %path.display(), reason, "set aside a damaged snapshot file");
                    self.disk.rename(&path, &broken).map_err(|source| self.failed("rename", &path, source))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The newest snapshot that checks. Nothing is set aside.
    pub fn peek(&self) -> Result<Option<raftpb::Snapshot>, SnapError> {
        for name in self.names()?.iter().rev() {
            match self.read(name) {
                Err(SnapError::Broken { .. }) => {}
                read => return read.map(Some),
            }
        }
        Ok(None)
    }

    /// The snapshot in the file of this name.
    pub fn read(&self, name: &str) -> Result<raftpb::Snapshot, SnapError> {
        self.load(&self.dir.join(name))
    }

    /// Removes all but the newest `keep` snapshot files; 0 keeps all. `--max-snapshots`.
    pub fn purge(&self, keep: usize) -> Result<(), SnapError> {
        let names = self.names()?;
        let superfluous = if keep == 0 { 0 } else { names.len().saturating_sub(keep) };
        for name in &names[..superfluous] {
            let path = self.dir.join(name);
            reach(Point::SnapPurge);
            self.disk.remove(&path).map_err(|source| self.failed("remove", &path, source))?;
        }
        Ok(())
    }

    /// Names of snapshot files, oldest first: terms never decrease along a log, so the names sort as the snapshots do.
    fn names(&self) -> Result<Vec<String>, SnapError> {
        let mut names = self.list()?;
        names.retain(|name| {
            let digits = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            name.strip_suffix(".snap")
                .and_then(|stem| stem.split_once('-'))
                .is_some_and(|(t, i)| digits(t) && digits(i))
        });
        Ok(names)
    }

    fn list(&self) -> Result<Vec<String>, SnapError> {
        self.disk.list(&self.dir).map_err(|source| self.failed("list", &self.dir, source))
    }

    fn load(&self, path: &Path) -> Result<raftpb::Snapshot, SnapError> {
        let broken = |reason: String| SnapError::Broken { path: path.to_owned(), reason };
        let file = self.disk.open_read_only(path).map_err(|source| self.failed("open", path, source))?;
        let bytes = read_all(&*file).map_err(|source| self.failed("read", path, source))?;
        let envelope = snappb::Snapshot::decode(bytes).map_err(|error| broken(error.to_string()))?;
        let data = envelope.data.filter(|data| !data.is_empty()).ok_or_else(|| broken("no data".into()))?;
        let crc = crc32c::crc32c(&data);
        if envelope.crc != Some(crc) {
            return Err(broken(format!("expected checksum {crc:08x}, found {:08x?}", envelope.crc)));
        }
        raftpb::Snapshot::decode(data).map_err(|error| broken(error.to_string()))
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> SnapError {
        SnapError::Io { action, path: path.to_owned(), source }
    }
}

fn read_all(file: &dyn DiskFile) -> io::Result<Bytes> {
    let stated = file.len()?;
    file.forget(stated)?;
    let length = usize::try_from(stated).map_err(io::Error::other)?;
    let mut bytes = vec![0; length.saturating_add(1)];
    let read = file.read_at(&mut bytes, 0)?;
    if read != length {
        return Err(io::Error::other(format!("the disk says the file has {length} bytes, and gave {read}")));
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use forebay_proto::raftpb::{ConfState, SnapshotMetadata};

    use super::*;
    use crate::disk::sim::{SimDisk, Wrong};

    fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
        let conf_state = ConfState { voters: vec![7], auto_leave: Some(false), ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(term) };
        raftpb::Snapshot { data: Some(Bytes::from_static(b"{}")), metadata: Some(metadata) }
    }

    #[test]
    fn k13_a_snapshot_file_of_which_a_read_is_short_or_old_is_not_set_aside() {
        let disk = SimDisk::new();
        disk.remember(512);
        let snapshots = opened(&disk);
        for index in [7, 9] {
            snapshots.save(&snapshot(2, index)).unwrap();
        }
        let mut refused = 0;
        for wrong in [0, 1, 20].map(Wrong::Short).into_iter().chain([Wrong::Old(0)]) {
            for read in 0.. {
                let disk = disk.killed();
                disk.misread_at(".snap", read, wrong);
                let newest = opened(&disk).newest(|_| true);
                if disk.misread_never() {
                    break;
                }
                let error = newest.expect_err("one read was wrong").to_string();
                assert!(error.contains("0000000000000002-0000000000000009.snap"), "{error}");
                assert_eq!(opened(&disk).newest(|_| true).unwrap(), Some(snapshot(2, 9)), "{wrong:?}, read {read}");
                refused += 1;
            }
        }
        assert!(refused > 4, "{refused}");
    }

    fn opened(disk: &SimDisk) -> Snapshots {
        Snapshots::open(Arc::new(disk.clone()), Path::new("/m/snap")).unwrap()
    }

    #[test]
    fn the_newest_snapshot_that_is_wanted_is_found() {
        let disk = SimDisk::new();
        let snapshots = opened(&disk);
        assert_eq!(snapshots.newest(|_| true).unwrap(), None);
        for (term, index) in [(2, 10), (3, 5), (10, 40), (10, 300)] {
            snapshots.save(&snapshot(term, index)).unwrap();
        }
        assert_eq!(snapshots.newest(|_| true).unwrap(), Some(snapshot(10, 300)));
        assert_eq!(snapshots.newest(|metadata| metadata.index() < 100).unwrap(), Some(snapshot(10, 40)));
        snapshots.purge(2).unwrap();
        let left = ["000000000000000a-0000000000000028.snap", "000000000000000a-000000000000012c.snap"];
        assert_eq!(disk.list(Path::new("/m/snap")).unwrap(), left);
    }

    #[test]
    fn k12_a_damaged_file_is_set_aside_and_the_older_one_used() {
        let disk = SimDisk::new();
        opened(&disk).save(&snapshot(1, 1)).unwrap();
        opened(&disk).save(&snapshot(1, 2)).unwrap();
        let path = Path::new("/m/snap/0000000000000001-0000000000000002.snap");
        let whole = disk.contents(path).unwrap();
        let damaged = (0..whole.len() * 8)
            .map(|bit| {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            })
            .chain((0..whole.len()).map(|len| whole[..len].to_vec()));
        let mut set_aside = 0;
        for bytes in damaged {
            disk.put(path, bytes);
            let found = opened(&disk).newest(|_| true).unwrap();
            // Bits of the checksum's varint beyond the 32nd mean nothing.
            let unharmed = found == Some(snapshot(1, 2));
            assert!(unharmed || found == Some(snapshot(1, 1)), "{found:?}");
            assert_eq!(disk.exists(&path.with_extension("snap.broken")), !unharmed);
            disk.remove(&path.with_extension("snap.broken")).ok();
            set_aside += usize::from(!unharmed);
        }
        assert!(set_aside > whole.len() * 8);
    }

    #[test]
    fn a_save_cut_short_leaves_the_older_snapshot() {
        for after in 0..5 {
            for survives in [false, true] {
                let disk = SimDisk::new();
                let snapshots = opened(&disk);
                snapshots.save(&snapshot(1, 1)).unwrap();
                disk.fail_after(after, io::ErrorKind::StorageFull);
                snapshots.save(&snapshot(1, 2)).unwrap_err();
                let disk = disk.crash(|| survives);
                let snapshots = opened(&disk);
                assert_eq!(snapshots.newest(|_| true).unwrap(), Some(snapshot(1, 1)));
                assert_eq!(disk.list(Path::new("/m/snap")).unwrap().len(), 1);
                snapshots.save(&snapshot(1, 3)).unwrap();
                assert_eq!(snapshots.newest(|_| true).unwrap(), Some(snapshot(1, 3)));
            }
        }
    }

    #[test]
    fn real_members_start_from_a_file_of_ours() {
        use crate::{
            disk::OsDisk,
            wal::tests::peers::{peer, run_etcd},
        };
        for release in ["3.4", "3.5", "3.7"] {
            let (Some(etcd), Some(etcdctl)) = (peer(release, "etcd"), peer(release, "etcdctl")) else { continue };
            let dir = tempfile::tempdir().unwrap();
            run_etcd(&etcd, &etcdctl, dir.path(), 30);
            let snapshots = Snapshots::open(Arc::new(OsDisk), &dir.path().join("member/snap")).unwrap();
            let mut snapshot = snapshots.newest(|_| true).unwrap().expect("30 keys and a snapshot count of 20");
            let conf_state = snapshot.metadata.as_ref().unwrap().conf_state.as_ref().unwrap();
            let member = MemberRecord {
                id: conf_state.voters[0],
                name: "m1".into(),
                peer_urls: vec!["http://127.0.0.1:1".into()],
                client_urls: vec!["http://127.0.0.1:2".into()],
                is_learner: false,
            };
            let cluster_version = Some(format!("{release}.0"));
            let membership = Membership { members: vec![member], removed: vec![5], cluster_version };
            snapshot.data = Some(membership.to_snapshot_data().into());
            snapshots.save(&snapshot).unwrap();
            // 3.4 and 3.5 read their members from the file, and end at once if they cannot.
            run_etcd(&etcd, &etcdctl, dir.path(), 3);
        }
    }
}
