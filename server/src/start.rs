//! Brings a member up from its files, or makes the files of a new one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use forebay_edge::{
    listener::{self, Drain, Limits, Listener, Port},
    tls::Connector,
    watch::Watches,
};
use forebay_keyspace::watch::Hub;
use forebay_proto::{
    etcdserverpb::InternalRaftRequest,
    membershippb::{Attributes, ClusterMemberAttrSetRequest},
};
use forebay_storage::{
    db,
    disk::{self, Disk, OsDisk},
    failpoint,
    snap::MemberRecord,
    wal,
};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{Semaphore, watch};
use tonic::{Code, Status};

use crate::{
    apply::{Machine, Replica, Restored},
    auth::{Auth, Caller, JwtError, Passwords, Tokens},
    auto_compaction,
    backend::{self, Backend},
    bootstrap::{self, BootstrapError},
    clock::Clock,
    cluster::Cluster,
    cluster_version,
    compactor::{self, Compactor},
    config::Config,
    corrupt, downgrade, files,
    member::{Ended, Inner, MAINTENANCE_MAX, Member, Running, SNAPSHOTS_MAX},
    metrics::Metrics,
    peer::{Client, Identity, PeerMetrics, PeerService, Peers, Receiver, Timeouts, id_text},
    proposals::{RequestIds, Waiters},
    quotas::Quotas,
    raft::{self, RaftMetrics},
    rpc::Audit,
    space::{self, Reserve},
    upkeep,
    version::Version,
};

/// How long requests of other members may take once the member stops. Streams never end by themselves.
const PEER_GRACE: Duration = Duration::from_millis(100);
/// Between two attempts of a member to make itself known.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);

/// How other members are reached, and reach this one.
#[derive(Default)]
pub struct PeerPorts {
    /// Where they come in. Without one, the member can only be alone.
    pub ports: Vec<Port>,
    /// TLS towards those whose URLs say https.
    pub connector: Option<Connector>,
}

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
    #[error("{}{}", .0, remedy(.0.is_damage()))]
    Db(#[from] db::Error),
    /// The db file holds something else than etcd's state.
    #[error("the db file {path} is damaged: {reason}{}", remedy(true))]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What.
        reason: String,
    },
    /// The db file is of a release that is not known here.
    #[error(
        "the db file {path} is of a newer release: {reason}; start the release that wrote it, run `etcdctl downgrade enable \
         {}.{}`, and stop it once `etcdctl downgrade` is done", Version::server().major, Version::server().minor
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// What says so.
        reason: String,
    },
    /// Tokens cannot be given.
    #[error("{0}")]
    Tokens(#[from] JwtError),
    /// The cluster cannot be found.
    #[error("{0}")]
    Bootstrap(#[from] BootstrapError),
    /// The files are of a member that was removed.
    #[error(
        "member {0} was removed from its cluster and can never come back; add a new member, and start it with a new \
         --data-dir"
    )]
    Removed(String),
    /// The member came up but could not make itself known in its own log.
    #[error("the member cannot publish itself: {}", .0.message())]
    Publish(Status),
    /// The member ended before it could serve.
    #[error("{0}")]
    Failed(String),
    /// The log cannot be used.
    #[error("{}{}", .0, remedy(matches!(.0, raft::RaftError::Wal(error) if error.is_damage())))]
    Raft(#[from] raft::RaftError),
    /// Two members in one process would share metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What repairs files that are damaged: nothing is guessed, and no damaged file is served.
fn remedy(is_damage: bool) -> &'static str {
    match is_damage {
        true => {
            "; `forebay utl check` says what else is wrong. In a cluster it heals from the others: forebay utl heal \
             --data-dir DIR --endpoints HOST:PORT of another member, then start it again. Alone, restore a backup: \
             forebay utl snapshot restore FILE --data-dir DIR"
        }
        false => "",
    }
}

/// Starts a member. It serves when this returns, which takes until there is a leader.
///
/// Metrics go to `registry`. Must be called in a tokio runtime.
pub async fn start(config: Config, peer_ports: PeerPorts, registry: &Registry) -> Result<Member, StartError> {
    start_on(Arc::new(OsDisk), config, peer_ports, registry).await
}

/// As [`start`](start()), with the files on a disk of the caller's.
pub async fn start_on(
    disk: Arc<dyn Disk>,
    config: Config,
    peer_ports: PeerPorts,
    registry: &Registry,
) -> Result<Member, StartError> {
    failpoint::arm_from_environment().map_err(StartError::Failed)?;
    let tokens = Tokens::open(&config.auth_token)?;
    let files = config.clone();
    let opening_disk = disk.clone();
    let (db, state) = blocking(move || {
        make_private(&files.data_dir)?;
        make_private(&files.snap_path())?;
        let sync = !files.unsafe_no_fsync;
        files::open(&files, db::Options { sync, disk: opening_disk, ..db::Options::default() })
    })
    .await?;
    let timeouts = Timeouts { read: config.peer_read_timeout, write: config.peer_write_timeout };
    let client = Client::new(peer_ports.connector, timeouts, config.local_address());
    let plan = match wal::exists(&*disk, &config.wal_path()).map_err(raft::RaftError::Wal)? {
        true => bootstrap::replan(&config),
        false => Some(bootstrap::plan(&config, &client).await?),
    };
    let (bootstrap, others) = plan.map(|plan| (plan.bootstrap, plan.others)).unzip();
    let opening = config.clone();
    let opening_disk = disk.clone();
    let (log, db, state) = blocking(move || {
        let mut log = raft::Opened::open(raft_config(&opening), opening_disk.clone(), bootstrap.as_ref())?;
        let state = files::install_received(&opening, &*opening_disk, &db, state, log.snapshot_index())?;
        if opening.force_new_cluster {
            let peer_urls = opening.advertise_peer_urls.clone();
            log.force_new_cluster(state.applied.index, &MemberRecord { peer_urls, ..MemberRecord::default() })?;
        }
        Ok((log, db, state))
    })
    .await?;
    let (member_id, cluster_id) = (log.member_id(), log.cluster_id());
    if state.membership.removed.contains(&member_id) {
        return Err(StartError::Removed(id_text(member_id)));
    }
    let identity = Identity { member_id, cluster_id, peer_urls: config.advertise_peer_urls.clone() };
    if config.initial_corrupt_check {
        let (own, _) = state.keyspace.reader().hash(0).map_err(|error| StartError::Failed(error.to_string()))?;
        let limit = config.request_timeout();
        let checked = corrupt::check_at_start(own, &client, &identity, &state.membership.members, limit).await;
        checked.map_err(StartError::Failed)?;
    }

    let metrics = Metrics::register(registry)?;
    let (failed, _) = watch::channel(None);
    let fail = {
        let failed = failed.clone();
        move |message: String| {
            tracing::error!(error = message, "the member cannot go on");
            end(&failed, Ended::Failed(message));
        }
    };
    let pace = backend::Pace { interval: config.backend_batch_interval, limit: config.backend_batch_limit };
    let backend = Backend::start(db, state.applied.index, state.term, pace, metrics.backend.clone(), fail.clone());
    let backend = Arc::new(backend);
    let reader = state.keyspace.reader();
    let keyspace = Arc::new(Mutex::new(state.keyspace));
    let quotas = Arc::new(Quotas::new(keyspace.clone()));
    let lessor = Arc::new(Mutex::new(state.lessor));
    let passwords = Passwords::new(config.bcrypt_cost);
    let auth = Arc::new(Auth::new(state.auth, tokens, passwords, config.client_cert_auth));
    let cluster = Arc::new(Cluster::default());
    let waiters = Arc::new(Waiters::default());
    let hub = Hub::new(Arc::new(reader.clone()), config.max_request_bytes);
    let pace = compactor::Pace { limit: config.compaction_batch_limit, pause: config.compaction_sleep_interval };
    let (compactor, compacting) = Compactor::start(
        keyspace.clone(),
        quotas.clone(),
        backend.clone(),
        pace,
        metrics.compaction.clone(),
        fail.clone(),
    );
    if let Some(revision) = state.unfinished {
        drop(compactor.schedule(revision, None));
    }
    let peers = Peers::new(identity, client, log.handle(), cluster.clone(), PeerMetrics::register(registry)?);
    peers.set(&others.unwrap_or_default(), &[]);
    peers.set(&state.membership.members, &state.membership.removed);
    let prepared = Arc::new(Mutex::new(None));
    let receiver = Receiver::new(backend.clone(), config.lease_rules(), prepared.clone());
    let restored = Restored {
        keyspace,
        lessor: lessor.clone(),
        auth: auth.clone(),
        alarms: state.alarms,
        membership: state.membership,
        downgrade: state.downgrade,
    };
    let replica = Replica {
        machine: Machine::new(restored, cluster.clone(), compactor, metrics.apply.clone(), quotas.clone()),
        max_learners: config.max_learners,
        clock: Clock::System,
        prepared,
        backend: backend.clone(),
        hub: hub.clone(),
        waiters: waiters.clone(),
        quotas: quotas.clone(),
        lessor: lessor.clone(),
        lease_extension: config.election_timeout,
        metrics: metrics.apply.clone(),
        warning_apply_duration: config.warning_apply_duration,
        restored: state.applied,
    };
    let thread = log.start(replica, peers.clone(), RaftMetrics::register(registry)?)?;
    let raft = thread.handle().clone();
    let running = Running::new(compacting);
    let raft_failed = failed.clone();
    running.watch_raft(thread, waiters.clone(), move |error| match error {
        raft::RaftError::Removed => end(&raft_failed, Ended::Removed),
        error => fail(error.to_string()),
    });

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
        quotas,
        auth,
        audit: Audit::new(Instant::now()),
        cluster,
        peers: peers.clone(),
        peers_closing: Drain::default(),
        backend,
        disk,
        reserve: Reserve::default(),
        metrics,
        serving: watch::Sender::new(true),
        maintenance: Arc::new(Semaphore::new(MAINTENANCE_MAX)),
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        stopping: Drain::default(),
        failed,
        running,
    }));
    tokio::spawn(upkeep::expire_waiters(member.clone()));
    if member.config().advance_first_election {
        tokio::spawn(upkeep::advance_first_election(member.clone()));
    }
    serve_peers(peer_ports.ports, &PeerService::new(peers, receiver, member.clone()), timeouts, &member);
    if let Err(error) = go_public(&member, registry).await {
        member.stop().await;
        return Err(error);
    }
    tokio::spawn(upkeep::expire_leases(member.clone()));
    tokio::spawn(space::watch(member.clone()));
    if let Some(wanted) = member.config().auto_compaction {
        tokio::spawn(auto_compaction::run(member.clone(), wanted));
    }
    Ok(member)
}

/// Waits until the member knows what it knew before, and makes it known to others.
async fn go_public(member: &Member, registry: &Registry) -> Result<(), StartError> {
    member.0.raft.replayed().await;
    tokio::select! {
        published = publish(member) => published.map_err(StartError::Publish)?,
        ended = member.ended() => return Err(StartError::Failed(ended.to_string())),
    }
    // After the first version of a new cluster was proposed, or it would be proposed twice.
    tokio::spawn(cluster_version::watch(member.clone()));
    watch_cluster(member);
    Ok(member.metrics().observe(registry, member)?)
}

/// Starts what a leader looks after, each as often as it is told to.
fn watch_cluster(member: &Member) {
    let config = member.config();
    if !config.downgrade_check_time.is_zero() {
        tokio::spawn(downgrade::watch(member.clone(), config.downgrade_check_time));
    }
    if !config.corrupt_check_time.is_zero() {
        tokio::spawn(corrupt::watch_periodically(member.clone(), config.corrupt_check_time));
    }
    if !config.compact_hash_check_time.is_zero() {
        tokio::spawn(corrupt::watch_compactions(member.clone(), config.compact_hash_check_time));
    }
}

/// Runs what waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Answers other members, until the member is stopped.
fn serve_peers(ports: Vec<Port>, service: &PeerService, timeouts: Timeouts, member: &Member) {
    for port in ports {
        if let Listener::Tcp(listener) = &port.listener
            && let Err(error) = timeouts.bound(listener)
        {
            tracing::warn!(%error, "members that acknowledge nothing are noticed late");
        }
        let service = service.clone();
        let answer = move |request| {
            let service = service.clone();
            async move { service.call(request).await }
        };
        let closing = member.0.peers_closing.clone();
        tokio::spawn(listener::serve(port, answer, Limits::default(), closing, PEER_GRACE));
    }
}

/// Makes name and client URLs known, as every member of etcd does when it starts. Goes on until it is done: without a
/// leader that may take long.
async fn publish(member: &Member) -> Result<(), Status> {
    let attributes =
        Attributes { name: member.config().name.clone(), client_urls: member.config().advertise_client_urls.clone() };
    let set = ClusterMemberAttrSetRequest { member_id: member.id(), member_attributes: Some(attributes) };
    let request = InternalRaftRequest { cluster_member_attr_set: Some(set), ..Default::default() };
    while let Err(status) = member.propose(&Caller::nobody(), request.clone(), member.own_deadline()).await {
        // What is refused for itself is refused again.
        if status.code() == Code::InvalidArgument {
            return Err(status);
        }
        tracing::warn!(error = status.message(), "failed to publish local member to cluster through raft");
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
    // Alone, there is nobody to wait for.
    if member.cluster_version().is_none() && member.raft_status().role == raft::Role::Leader {
        cluster_version::update(member).await;
    }
    Ok(())
}

/// Notes why the member ends; the first reason counts.
fn end(ended: &watch::Sender<Option<Ended>>, reason: Ended) {
    ended.send_if_modified(|first| first.is_none().then(|| *first = Some(reason)).is_some());
}

pub(crate) fn raft_config(config: &Config) -> raft::RaftConfig {
    raft::RaftConfig {
        tick: config.heartbeat_interval,
        election_ticks: config.election_ticks(),
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
