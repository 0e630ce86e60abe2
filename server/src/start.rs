//! Brings a member up from its files, or makes the files of a new one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use forebay_edge::{listener::Drain, watch::Watches};
use forebay_keyspace::{Keyspace, RecordError, Restore, Revision, watch::Hub};
use forebay_proto::{
    KeyRange,
    etcdserverpb::InternalRaftRequest,
    membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest},
};
use forebay_storage::{
    db::{self, Db},
    disk::{self, OsDisk},
    schema,
    snap::{MemberRecord, Membership},
    wal,
};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::{
    alarms::Alarms,
    apply::{Machine, Replica, Restored},
    auto_compaction,
    backend::{self, Backend},
    cluster::Cluster,
    compactor::{self, Compactor},
    config::Config,
    identity,
    lease::Lessor,
    member::{Inner, MAINTENANCE_MAX, Member, Running, SNAPSHOTS_MAX},
    metrics::Metrics,
    proposals::{RequestIds, Waiters},
    raft::{self, NoPeers, RaftMetrics},
    upkeep, version,
};

/// Why a member does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory of the member cannot be made or used.
    #[error("cannot use the data directory {path}: {source}; give one that this user may write with --data-dir")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Other users may read what the member keeps.
    #[error("the data directory {path} has mode {mode:o}, which lets others read it; run: chmod 700 {path}")]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The db file cannot be used.
    #[error("{0}")]
    Db(#[from] db::Error),
    /// The db file holds something else than etcd's state.
    #[error("the db file {path} is damaged: {reason}; restore a snapshot into a new --data-dir")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What.
        reason: String,
    },
    /// The state was written with auth on, which this version would not enforce.
    #[error("auth is enabled in {path}, and this version cannot enforce it; disable it with etcd first")]
    AuthEnabled {
        /// Which.
        path: PathBuf,
    },
    /// The directory belongs to a member of a larger cluster, and this version has no peers.
    #[error(
        "{path} is of a cluster of {count} members, and this version runs one; restore a snapshot of it into a new --data-dir"
    )]
    Members {
        /// Which.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// The log cannot be used.
    #[error("{0}")]
    Raft(#[from] raft::RaftError),
    /// The member came up but could not make itself known in its own log.
    #[error("the member cannot publish itself: {}", .0.message())]
    Publish(Status),
    /// Two members in one process would share metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The state that the db file holds.
struct State {
    keyspace: Keyspace,
    lessor: Lessor,
    alarms: Alarms,
    membership: Membership,
    applied: raft::Applied,
    term: u64,
    /// A compaction that was accepted and not finished.
    unfinished: Option<i64>,
}

/// Starts a member of a cluster of one. It serves when this returns.
///
/// Metrics go to `registry`. Must be called in a tokio runtime.
pub async fn start(config: Config, registry: &Registry) -> Result<Member, StartError> {
    let files = config.clone();
    let (db, state) = tokio::task::spawn_blocking(move || open_files(&files))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let path = db.path().to_owned();
    let log = raft::Opened::open(raft_config(&config), Arc::new(OsDisk), &bootstrap(&config))?;
    if log.snapshot_index() > state.applied.index {
        let reason = format!("it is at entry {}, but the log begins at {}", state.applied.index, log.snapshot_index());
        return Err(StartError::Damaged { path, reason });
    }
    let (member_id, cluster_id) = (log.member_id(), log.cluster_id());

    let metrics = Metrics::register(registry)?;
    let (failed, _) = watch::channel(None);
    let fail = {
        let failed = failed.clone();
        move |message: String| {
            tracing::error!(error = message, "the member cannot go on");
            failed.send_if_modified(|first| first.is_none().then(|| *first = Some(message)).is_some());
        }
    };
    let pace = backend::Pace { interval: config.backend_batch_interval, limit: config.backend_batch_limit };
    let backend = Backend::start(db, state.applied.index, state.term, pace, metrics.backend.clone(), fail.clone());
    let backend = Arc::new(backend);
    let reader = state.keyspace.reader();
    let keyspace = Arc::new(Mutex::new(state.keyspace));
    let lessor = Arc::new(Mutex::new(state.lessor));
    let cluster = Arc::new(Cluster::default());
    let waiters = Arc::new(Waiters::default());
    let hub = Hub::new(Arc::new(reader.clone()), config.max_request_bytes);
    let pace = compactor::Pace { limit: config.compaction_batch_limit, pause: config.compaction_sleep_interval };
    let (compactor, compacting) =
        Compactor::start(keyspace.clone(), backend.clone(), pace, metrics.compaction.clone(), fail.clone());
    if let Some(revision) = state.unfinished {
        drop(compactor.schedule(revision, None));
    }
    let restored = Restored { keyspace, lessor: lessor.clone(), alarms: state.alarms, membership: state.membership };
    let replica = Replica {
        machine: Machine::new(restored, cluster.clone(), compactor, metrics.apply.clone()),
        backend: backend.clone(),
        hub: hub.clone(),
        waiters: waiters.clone(),
        lessor: lessor.clone(),
        lease_extension: config.election_timeout,
        metrics: metrics.apply.clone(),
        warning_apply_duration: config.warning_apply_duration,
        restored: state.applied,
    };
    let thread = log.start(replica, NoPeers, RaftMetrics::register(registry)?)?;
    let raft = thread.handle().clone();
    let running = Running::new(compacting);
    running.watch_raft(thread, waiters.clone(), fail);

    let watches = Watches {
        hub,
        max_message: config.max_message_bytes(),
        progress_interval: config.watch_progress_notify_interval,
    };
    let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let member = Member(Arc::new(Inner {
        config,
        cluster_id,
        member_id,
        ids: RequestIds::new(member_id, start_ms),
        waiters,
        raft,
        reader,
        watches,
        lessor,
        cluster,
        backend,
        metrics,
        serving: watch::Sender::new(true),
        maintenance: Arc::new(Semaphore::new(MAINTENANCE_MAX)),
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        stopping: Drain::default(),
        failed,
        running,
    }));
    tokio::spawn(upkeep::expire_waiters(member.clone()));
    if let Err(error) = go_public(&member, registry).await {
        member.stop().await;
        return Err(error);
    }
    tokio::spawn(upkeep::expire_leases(member.clone()));
    if let Some(wanted) = member.config().auto_compaction {
        tokio::spawn(auto_compaction::run(member.clone(), wanted));
    }
    Ok(member)
}

/// Waits until the member knows what it knew before, and makes it known to others.
async fn go_public(member: &Member, registry: &Registry) -> Result<(), StartError> {
    member.0.raft.replayed().await;
    publish(member).await.map_err(StartError::Publish)?;
    Ok(member.metrics().observe(registry, member)?)
}

/// Makes name, client URLs and cluster version known, as every member of etcd does when it starts.
async fn publish(member: &Member) -> Result<(), Status> {
    let attributes =
        Attributes { name: member.config().name.clone(), client_urls: member.config().advertise_client_urls.clone() };
    let set = ClusterMemberAttrSetRequest { member_id: member.id(), member_attributes: Some(attributes) };
    let request = InternalRaftRequest { cluster_member_attr_set: Some(set), ..Default::default() };
    member.propose(request, member.own_deadline()).await?;
    if member.cluster_version().is_none() {
        let set = ClusterVersionSetRequest { ver: version::CLUSTER.into() };
        let request = InternalRaftRequest { cluster_version_set: Some(set), ..Default::default() };
        member.propose(request, member.own_deadline()).await?;
    }
    Ok(())
}

fn bootstrap(config: &Config) -> raft::Bootstrap {
    let id = identity::member_id(&config.advertise_peer_urls, &config.initial_cluster_token);
    let member = MemberRecord {
        id,
        name: config.name.clone(),
        peer_urls: config.advertise_peer_urls.clone(),
        client_urls: Vec::new(),
        is_learner: false,
    };
    raft::Bootstrap { member_id: id, cluster_id: identity::cluster_id(&[id]), members: vec![member] }
}

fn raft_config(config: &Config) -> raft::RaftConfig {
    let ticks = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis().max(1);
    raft::RaftConfig {
        tick: config.heartbeat_interval,
        election_ticks: ticks as usize,
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        snapshots_max: config.max_snapshots,
        unsafe_no_fsync: config.unsafe_no_fsync,
        wal_dir: config.wal_path(),
        snap_dir: config.snap_path(),
        wal: wal::Options { segments_max: config.max_wals, ..wal::Options::default() },
    }
}

/// Opens the db file, made if there is none, and reads what it holds.
fn open_files(config: &Config) -> Result<(Db, State), StartError> {
    make_private(&config.data_dir)?;
    let snap = config.snap_path();
    make_private(&snap)?;
    let path = snap.join("db");
    let options = db::Options { sync: !config.unsafe_no_fsync, ..db::Options::default() };
    let db = Db::open(&path, options)?;
    let mut txn = db.begin_write()?;
    schema::create(&mut txn)?;
    txn.commit()?;
    if let Some(threshold) = config.bootstrap_defrag_threshold_bytes {
        defragment_if_it_frees(&db, threshold)?;
    }
    let state = read_state(&db, config).map_err(|error| match error {
        Unreadable::Schema(schema::Error::Db(error)) => StartError::Db(error),
        Unreadable::Schema(error) => StartError::Damaged { path: path.clone(), reason: error.to_string() },
        Unreadable::Record(error) => StartError::Damaged { path: path.clone(), reason: error.to_string() },
        Unreadable::Key(key) => StartError::Damaged { path: path.clone(), reason: format!("{key} is no revision") },
        Unreadable::AuthEnabled => StartError::AuthEnabled { path: path.clone() },
        Unreadable::Members(count) => StartError::Members { path: path.clone(), count },
    })?;
    Ok((db, state))
}

/// Defragments the file unless that would free less than `threshold` bytes.
fn defragment_if_it_frees(db: &Db, threshold: u64) -> db::Result<()> {
    let (size, in_use) = (db.size(), db.size_in_use());
    if size - in_use < threshold {
        tracing::info!(size, in_use, threshold, "Skipping defragmentation");
        return Ok(());
    }
    db.defragment()?;
    tracing::info!(before = size, after = db.size(), "defragmented the db file");
    Ok(())
}

/// Makes a directory that only this user may use, or checks that it is one.
fn make_private(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::Directory { path: path.to_owned(), source };
    disk::create_dir_all_durably(&OsDisk, path).map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StartError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Why the state of a file cannot be used.
#[derive(Debug)]
enum Unreadable {
    Schema(schema::Error),
    Record(RecordError),
    Key(String),
    AuthEnabled,
    Members(usize),
}

impl From<schema::Error> for Unreadable {
    fn from(error: schema::Error) -> Unreadable {
        Unreadable::Schema(error)
    }
}

impl From<db::Error> for Unreadable {
    fn from(error: db::Error) -> Unreadable {
        Unreadable::Schema(error.into())
    }
}

fn read_state(db: &Db, config: &Config) -> Result<State, Unreadable> {
    let txn = db.begin_read();
    if schema::read_auth_enabled(&txn)? {
        return Err(Unreadable::AuthEnabled);
    }
    let (scheduled, finished) = schema::read_compactions(&txn)?;
    let mut restore = Restore::new(finished);
    let mut wrong = None;
    if let Some(bucket) = txn.bucket(schema::KEY)? {
        bucket.for_each(|key, record| {
            if wrong.is_none() {
                wrong = match Revision::from_bytes(key) {
                    Some((revision, tombstone)) => {
                        restore.record(revision, tombstone, record).err().map(Unreadable::Record)
                    }
                    None => Some(Unreadable::Key(key.escape_ascii().to_string())),
                };
            }
        })?;
    }
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let mut keyspace = restore.finish(scheduled.max(finished).unwrap_or(0));
    let unfinished = scheduled.filter(|revision| finished.is_none_or(|finished| finished < *revision));
    let unfinished = unfinished.filter(|revision| keyspace.compact(*revision).is_ok());
    keyspace.publish();

    let mut lessor = Lessor::new(config.min_lease_ttl());
    let now = Instant::now();
    for lease in schema::read_leases(&txn)? {
        lessor.restore(&lease, now);
    }
    let snapshot = keyspace.snapshot();
    snapshot.scan(&KeyRange::all(), snapshot.revision(), &mut |version| {
        lessor.attach(version.lease(), version.key());
        std::ops::ControlFlow::Continue(())
    });
    let mut alarms = Alarms::default();
    for alarm in schema::read_alarms(&txn)? {
        alarms.raise(&alarm);
    }
    let (index, term) = schema::read_applied(&txn)?;
    let applied = raft::Applied { index, conf_state: schema::read_conf_state(&txn)? };
    let membership = schema::read_membership(&txn)?;
    if membership.members.len() > 1 {
        return Err(Unreadable::Members(membership.members.len()));
    }
    Ok(State { keyspace, lessor, alarms, membership, applied, term, unfinished })
}
