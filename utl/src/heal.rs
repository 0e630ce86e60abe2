//! `heal`, as far as files go: a damaged member makes way for a new one in the same place, which the others fill.
//!
//! A member that lost a part of its log may have voted, and acknowledged writes, in what it lost. Under its old id it
//! would break its word: there could be two leaders of a term, or a write that was acknowledged could be lost. So the
//! cluster removes it for good, and what begins here has another id, which has promised nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use forebay_proto::etcdserverpb::Metadata;
use forebay_storage::{
    db,
    disk::{Disk as _, OsDisk, create_dir_all_durably},
    wal::{
        self, Wal, WalError,
        scan::{From, Scan, Scanned},
    },
};
use prost::Message as _;

use crate::{
    check,
    error::{Context as _, Error, Result},
    files,
};

/// The files of a stopped member.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where its log is, if not there.
    pub wal_dir: Option<PathBuf>,
}

/// Who a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub member_id: u64,
    /// That of its cluster.
    pub cluster_id: u64,
}

impl Files {
    fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| files::wal_dir(&self.data_dir))
    }

    /// What is wrong, if anything is. Fails if the member runs, or if this user may not look.
    pub fn damage(&self, wait: Duration) -> Result<Option<Error>> {
        if !self.data_dir.is_dir() {
            return Err(Error::refused(format!("{} is no directory", self.data_dir.display())));
        }
        let wrong = check::check(&self.data_dir, Some(&self.wal_dir()), wait).into_iter().filter_map(|c| c.found.err());
        let (unseen, damage): (Vec<_>, Vec<_>) = wrong.partition(is_no_damage);
        unseen.into_iter().next().map_or_else(|| Ok(damage.into_iter().next()), Err)
    }

    /// Whose log it is, if the head of any segment can be read.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let scan = Scan::new(Arc::new(OsDisk), self.wal_dir());
        [From::Start, From::Index(u64::MAX)].into_iter().find_map(|from| {
            let mut found = None;
            // Nothing is asked of the rest.
            let _ = scan.run(from, &mut |_, record| match record {
                Scanned::Metadata(bytes) => {
                    found = Metadata::decode(bytes).ok().filter(|metadata| metadata.node_id() != 0);
                    Err(Default::default())
                }
                _ => Ok(()),
            });
            found.map(|found| Identity { member_id: found.node_id(), cluster_id: found.cluster_id() })
        })
    }

    /// Renames what is there and makes the files of a member that knows nothing. Returns where the old ones are now.
    pub fn begin_anew(&self, identity: Identity) -> Result<Vec<PathBuf>> {
        let mut set_aside = Vec::new();
        for path in [Some(self.data_dir.join("member")), self.wal_dir.clone()].into_iter().flatten() {
            if path.exists() {
                let aside = free_name(&path);
                fs::rename(&path, &aside).context("rename", &path)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                OsDisk.sync_dir(parent).context("sync", parent)?;
                set_aside.push(aside);
            }
        }
        let snap_dir = files::snap_dir(&self.data_dir);
        create_dir_all_durably(&OsDisk, &snap_dir).context("create", &snap_dir)?;
        let metadata = Metadata { node_id: Some(identity.member_id), cluster_id: Some(identity.cluster_id) };
        let metadata = metadata.encode_to_vec().into();
        Wal::create(Arc::new(OsDisk), &self.wal_dir(), wal::Options::default(), metadata)?;
        Ok(set_aside)
    }
}

/// Whether the files could not be looked at: somebody uses them, or they are another user's.
fn is_no_damage(error: &Error) -> bool {
    match error {
        Error::Db(db::Error::Locked { .. }) | Error::Wal(WalError::Locked { .. }) => true,
        Error::Io { source, .. }
        | Error::Db(db::Error::Io { source, .. })
        | Error::Wal(WalError::Io { source, .. }) => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// The path with `.damaged` behind it, and a number if there is such a one.
fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = |end: &str| path.with_file_name(format!("{name}.damaged{end}"));
    let numbered = (2..).map(|n| named(&format!(".{n}")));
    let free = std::iter::once(named("")).chain(numbered).find(|path| !path.exists());
    free.expect("invariant: a directory has fewer entries than there are numbers")
}
