//! `snapshot restore`: a new data directory of a member of a new cluster, with the content of a snapshot.
//!
//! The keys, their history, leases, auth, alarms and versions are those of the snapshot; the membership, and with it the
//! ids of members and cluster, are new. Every member of the new cluster is restored from the same file.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_proto::{
    etcdserverpb::Metadata,
    raftpb::{ConfState, HardState, Snapshot, SnapshotMetadata},
    walpb,
};
use forebay_storage::{
    db::{Db, Options},
    disk::{OsDisk, create_dir_all_durably},
    identity,
    schema::{self, MEMBERS, MEMBERS_REMOVED, Value},
    snap::{MemberRecord, Membership, Snapshots},
    wal::{self, Wal},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Context as _, Error, Result},
    files, hashkv,
};

/// What to restore, and as which member of which cluster.
#[derive(Clone, Debug)]
pub struct Restore {
    /// A saved snapshot, or with `skip_hash_check` the db file of a stopped member.
    pub snapshot: PathBuf,
    /// The new data directory.
    pub data_dir: PathBuf,
    /// Where the log goes, if not into the data directory.
    pub wal_dir: Option<PathBuf>,
    /// This member's name in `initial_cluster`.
    pub name: String,
    /// This member's peer URLs; they must be those that `initial_cluster` has.
    pub peer_urls: Vec<String>,
    /// All members by name, with their peer URLs.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// Keeps clusters of the same URLs apart.
    pub token: String,
    /// Whether the SHA-256 behind the snapshot may be missing or wrong.
    pub skip_hash_check: bool,
    /// How much later the first new revision is than the snapshot's last, so that no client sees a revision twice. What
    /// is before it is marked as compacted, which ends the watches of those who saw more than the snapshot has.
    pub bump_revision: u64,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The id of this member.
    pub member_id: u64,
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The last revision.
    pub revision: i64,
    /// The bytes of the db file.
    pub size: u64,
}

impl Restore {
    /// Restores. On an error nothing of the new directory is left.
    pub fn run(&self) -> Result<Restored> {
        let cluster = Cluster::of(self)?;
        files::must_be_empty(&self.data_dir)?;
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| files::wal_dir(&self.data_dir));
        if self.wal_dir.is_some() && wal_dir.exists() {
            return Err(Error::refused_with(
                format!("wal-dir {wal_dir:?} exists"),
                "name a directory that does not exist yet; nothing is ever written over",
            ));
        }
        let existed = self.data_dir.exists();
        let restored = self.write(&cluster, &wal_dir);
        if restored.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&wal_dir);
            let made = if existed { self.data_dir.join("member") } else { self.data_dir.clone() };
            let _ = fs::remove_dir_all(made);
        }
        restored
    }

    fn write(&self, cluster: &Cluster, wal_dir: &Path) -> Result<Restored> {
        let snap_dir = files::snap_dir(&self.data_dir);
        create_dir_all_durably(&OsDisk, &snap_dir).context("create", &snap_dir)?;
        let path = snap_dir.join("db");
        copy_verified(&self.snapshot, &path, self.skip_hash_check)?;
        let db = Db::open(&path, Options::default())?;
        let revision = self.rewrite(&db, cluster)?;
        let size = db.size();
        drop(db);
        cluster.write_log(wal_dir, &snap_dir)?;
        Ok(Restored { member_id: cluster.own, cluster_id: cluster.id, revision, size })
    }

    /// Makes the db file that of a member of the new cluster, in one commit; returns its last revision.
    fn rewrite(&self, db: &Db, cluster: &Cluster) -> Result<i64> {
        let mut revision = hashkv::last_revision(&db.begin_read())?;
        let mut txn = db.begin_write()?;
        schema::create(&mut txn)?;
        for bucket in [MEMBERS, MEMBERS_REMOVED] {
            txn.delete_bucket(bucket)?;
            txn.create_bucket_if_missing(bucket)?;
        }
        for member in &cluster.members {
            schema::member(member).put(&mut txn)?;
        }
        if self.bump_revision > 0 {
            revision = i64::try_from(self.bump_revision)
                .ok()
                .and_then(|bump| revision.checked_add(bump))
                .filter(|bumped| *bumped < i64::MAX)
                .ok_or_else(|| Error::refused(format!("revision {revision} cannot be raised so far")))?;
            let placeholder = schema::RevisionKey::new(revision, 0, false);
            Value { bucket: schema::KEY, key: placeholder.to_vec(), value: Vec::new() }.put(&mut txn)?;
            schema::scheduled_compaction(revision).put(&mut txn)?;
        }
        for value in
            schema::applied(cluster.commit(), FIRST_TERM).iter().chain([&schema::conf_state(&cluster.voters())])
        {
            value.put(&mut txn)?;
        }
        txn.commit()?;
        Ok(revision)
    }
}

/// The term of what a new cluster's log begins with.
const FIRST_TERM: u64 = 1;

/// The new cluster.
struct Cluster {
    id: u64,
    own: u64,
    /// By id ascending.
    members: Vec<MemberRecord>,
}

impl Cluster {
    fn of(restore: &Restore) -> Result<Self> {
        let mut members: Vec<MemberRecord> = Vec::new();
        for (name, urls) in &restore.initial_cluster {
            let mut peer_urls = urls.clone();
            peer_urls.sort_unstable();
            if let Some(url) = peer_urls.iter().find(|url| members.iter().any(|other| other.peer_urls.contains(url))) {
                return Err(Error::refused_with(
                    format!("initial cluster has duplicate url {url}"),
                    "give each member of --initial-cluster its own",
                ));
            }
            let id = identity::member_id(&peer_urls, &restore.token);
            members.push(MemberRecord { id, name: name.clone(), peer_urls, ..MemberRecord::default() });
        }
        members.sort_unstable_by_key(|member| member.id);
        let own = members.iter().find(|member| member.name == restore.name).ok_or_else(|| {
            Error::refused_with(
                format!("couldn't find local name {:?} in the initial cluster configuration", restore.name),
                "add it to --initial-cluster, or say with --name which of them this member is",
            )
        })?;
        let mut advertised = restore.peer_urls.clone();
        advertised.sort_unstable();
        if advertised != own.peer_urls {
            return Err(Error::refused_with(
                format!(
                    "--initial-cluster has {}={} but missing from --initial-advertise-peer-urls={}",
                    own.name,
                    own.peer_urls.join(","),
                    advertised.join(",")
                ),
                "make the two the same",
            ));
        }
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        Ok(Self { id: identity::cluster_id(&ids), own: own.id, members })
    }

    fn voters(&self) -> ConfState {
        ConfState { voters: self.members.iter().map(|member| member.id).collect(), ..ConfState::default() }
    }

    /// The log begins with an entry for each member, and is committed as far.
    fn commit(&self) -> u64 {
        self.members.len() as u64
    }

    fn write_log(&self, wal_dir: &Path, snap_dir: &Path) -> Result<()> {
        let disk = Arc::new(OsDisk);
        if let Some(parent) = wal_dir.parent() {
            create_dir_all_durably(&*disk, parent).context("create", parent)?;
        }
        let metadata = Metadata { node_id: Some(self.own), cluster_id: Some(self.id) };
        let options = wal::Options::default();
        let mut wal = Wal::create(disk.clone(), wal_dir, options, metadata.encode_to_vec().into())?;
        let first = self.members.first().map(|member| member.id);
        let hard_state = HardState { term: Some(FIRST_TERM), vote: first, commit: Some(self.commit()) };
        wal.append(Some(&hard_state), &wal::first_entries(&self.members), true)?;
        // Older releases need the file, and look for it once the log has the record.
        let conf_state = ConfState { auto_leave: Some(false), ..self.voters() };
        let membership = Membership { members: self.members.clone(), ..Membership::default() };
        Snapshots::open(disk, snap_dir)?.save(&Snapshot {
            data: Some(membership.to_snapshot_data().into()),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(conf_state.clone()),
                index: Some(self.commit()),
                term: Some(FIRST_TERM),
            }),
        })?;
        let record =
            walpb::Snapshot { index: Some(self.commit()), term: Some(FIRST_TERM), conf_state: Some(conf_state) };
        wal.save_snapshot(&record)?;
        Ok(())
    }
}

/// Copies the db file out of a snapshot, durably; the digest behind it must be there and right.
pub(crate) fn copy_verified(from: &Path, to: &Path, skip_hash_check: bool) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let (mut left, digest) = files::digest(from)?;
    if digest.is_none() && !skip_hash_check {
        return Err(Error::refused_with(
            "snapshot missing hash but --skip-hash-check=false",
            "a file copied from a data directory has none: give --skip-hash-check. A saved snapshot that lost it is cut \
             short: save it again",
        ));
    }
    let mut source = File::open(from).context("open", from)?;
    let mut options = OpenOptions::new();
    let mut target = options.write(true).create_new(true).mode(0o600).open(to).context("create", to)?;
    let mut chunk = vec![0; CHUNK];
    let mut hash = Sha256::new();
    while left > 0 {
        let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        source.read_exact(&mut chunk[..want]).context("read", from)?;
        hash.update(&chunk[..want]);
        target.write_all(&chunk[..want]).context("write", to)?;
        left -= want as u64;
    }
    let found: [u8; files::DIGEST] = hash.finalize().into();
    if let Some(digest) = digest.filter(|digest| *digest != found && !skip_hash_check) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        return Err(Error::refused_with(
            format!("{}: expected sha256 {}, got {}", from.display(), hex(&digest), hex(&found)),
            "the file was changed after it was saved: use another copy of it, or an older snapshot",
        ));
    }
    target.sync_all().context("sync", to)
}
