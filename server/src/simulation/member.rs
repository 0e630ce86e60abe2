//! One machine of a simulated cluster: a disk, a clock that is a little off, and, while it runs, a member. The member is
//! the real one from the mailbox of its raft driver to its files; what is left out are threads, sockets and handlers.

use std::{
    io::Read as _,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_keyspace::{Reader, Snapshot, Version, watch::Hub};
use forebay_proto::{
    KeyRange,
    raftpb::{self, ConfChange, ConfState, Entry, Message},
};
use forebay_storage::{
    db,
    disk::{Disk, sim::SimDisk},
    snap::{MemberRecord, Membership},
};
use parking_lot::Mutex;
use prometheus::Registry;

use super::{
    damage,
    plan::{Bug, Plan},
};
use crate::{
    apply::{self, Machine, Replica, Restored},
    auth::{Auth, Passwords, Tokens},
    backend::{self, Backend},
    clock::Clock,
    cluster::Cluster,
    compactor::{Compaction, Compactor},
    config::Config,
    files,
    lease::{Lessor, Rules},
    metrics::Metrics,
    peer::{Prepared, file_name},
    proposals::{RequestIds, Waiters},
    quotas::Quotas,
    raft::{
        self, Bootstrap, BoxError, Circumstances, Driver, Dropped, Leadership, Opened, RaftHandle, RaftMetrics,
        SnapshotData, StateMachine, Transport,
    },
    start::raft_config,
};

pub(super) const CLUSTER: u64 = 0xf0eba;

/// A machine.
pub(super) struct Seat {
    pub(super) id: u64,
    pub(super) disk: SimDisk,
    pub(super) running: Option<Running>,
    /// How the member began; only its first start looks at it.
    pub(super) bootstrap: Bootstrap,
    pub(super) starts: u64,
    /// Whether the cluster has removed it; it does not come back.
    pub(super) is_removed: bool,
    /// Its disk changed what was synced.
    pub(super) is_damaged: bool,
    /// It did not start since, and another has not taken its place yet.
    pub(super) is_refused: bool,
    /// What its db file was like a while ago, on a disk that begins to go wrong.
    pub(super) old_db: Option<Vec<u8>>,
    /// The member cannot run before this: it waits for its disk, or was stopped.
    pub(super) busy_until: Duration,
    pub(super) slow_until: Duration,
    /// When its next turn is due.
    pub(super) turn_at: Option<Duration>,
    hand: Arc<Mutex<Instant>>,
    epoch: Instant,
    /// How fast its clock goes.
    rate: f64,
    leases: Rules,
}

/// A member that runs.
pub(super) struct Running {
    pub(super) driver: Driver<Observed, Outbox>,
    pub(super) raft: RaftHandle,
    pub(super) reader: Reader,
    pub(super) hub: Hub,
    pub(super) lessor: Arc<Mutex<Lessor>>,
    pub(super) waiters: Arc<Waiters<apply::Applied>>,
    pub(super) backend: Arc<Backend>,
    pub(super) compaction: Compaction,
    pub(super) cluster: Arc<Cluster>,
    pub(super) prepared: Arc<Mutex<Option<Prepared>>>,
    pub(super) ids: RequestIds,
    pub(super) sent: Arc<Mutex<Sent>>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) commit_due: bool,
    pub(super) compaction_due: bool,
}

/// What a member wants sent.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) messages: Vec<Message>,
    pub(super) snapshots: Vec<(Message, Bytes)>,
}

/// What a member did to its state.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) applied: Vec<Entry>,
    pub(super) dropped: Vec<u64>,
}

impl Seat {
    pub(super) fn new(id: u64, bootstrap: Bootstrap, epoch: Instant, rate: f64) -> Self {
        Self {
            id,
            disk: SimDisk::new(),
            running: None,
            bootstrap,
            starts: 0,
            is_removed: false,
            is_damaged: false,
            is_refused: false,
            old_db: None,
            busy_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            turn_at: None,
            hand: Arc::new(Mutex::new(epoch)),
            epoch,
            rate,
            leases: Rules::default(),
        }
    }

    /// Sets the member's clock and returns what it shows.
    pub(super) fn look_at_clock(&self, now: Duration) -> Instant {
        let shown = self.epoch + now.mul_f64(self.rate);
        let mut hand = self.hand.lock();
        *hand = (*hand).max(shown);
        *hand
    }

    /// When the member's clock will show this.
    pub(super) fn when(&self, shown: Instant) -> Duration {
        shown.saturating_duration_since(self.epoch).div_f64(self.rate) + Duration::from_micros(1)
    }

    /// Starts the member on what its disk holds.
    pub(super) fn start(&mut self, plan: &Plan, now: Duration, seed: u64, others: &[Reader]) -> Result<(), String> {
        self.look_at_clock(now);
        self.starts += 1;
        let config = Config {
            lease_checkpoint_interval: Some(Duration::from_secs(5)),
            data_dir: "/data".into(),
            heartbeat_interval: plan.tick,
            election_timeout: plan.election(),
            snapshot_count: plan.snapshot_count,
            snapshot_catchup_entries: plan.catchup_entries,
            ..Config::default()
        };
        self.leases = config.lease_rules();
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        disk.create_dir_all(&config.snap_path()).map_err(|error| error.to_string())?;
        if plan.bug == Some(Bug::LyingDisk) {
            self.disk.lie();
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (db, state) = files::open(&config, db_options(disk.clone())).map_err(|error| text(&error))?;
        let mut raft_config = raft_config(&config);
        raft_config.wal.segment_bytes = plan.segment_bytes;
        let log = Opened::open(raft_config, disk.clone(), Some(&self.bootstrap)).map_err(|error| text(&error))?;
        let state = files::install_received(&config, &*disk, &db, state, log.snapshot_index());
        let state = state.map_err(|error| text(&error))?;
        if plan.bug != Some(Bug::UncheckedStart) {
            let (own, _) = state.keyspace.reader().hash(0).map_err(|error| text(&error))?;
            damage::compare(self, &own, others)?;
        }

        let registry = Registry::new();
        let metrics = Metrics::register(&registry).map_err(|error| text(&error))?;
        let pace = backend::Pace { interval: config.backend_batch_interval, limit: config.backend_batch_limit };
        // A file that cannot be written ends the member at its next flush.
        let backend = Backend::new(db, state.applied.index, state.term, pace, metrics.backend.clone(), drop);
        let backend = Arc::new(backend);
        let reader = state.keyspace.reader();
        let keyspace = Arc::new(Mutex::new(state.keyspace));
        let lessor = Arc::new(Mutex::new(state.lessor));
        let cluster = Arc::new(Cluster::default());
        let waiters = Arc::new(Waiters::default());
        let hub = Hub::new(Arc::new(reader.clone()), config.max_request_bytes);
        let quotas = Arc::new(Quotas::new(keyspace.clone()));
        let (compactor, compaction) =
            Compactor::new(keyspace.clone(), quotas.clone(), backend.clone(), 10, metrics.compaction.clone());
        if let Some(revision) = state.unfinished {
            drop(compactor.schedule(revision, None));
        }
        let prepared = Arc::new(Mutex::new(None));
        let restored = Restored {
            keyspace,
            lessor: lessor.clone(),
            auth: Arc::new(Auth::new(state.auth, Tokens::None, Passwords::new(config.bcrypt_cost), false)),
            alarms: state.alarms,
            membership: state.membership,
            downgrade: state.downgrade,
        };
        let clock = Clock::Simulated(self.hand.clone());
        let replica = Replica {
            machine: Machine::new(restored, cluster.clone(), compactor, metrics.apply.clone(), quotas.clone()),
            max_learners: config.max_learners,
            clock: clock.clone(),
            prepared: prepared.clone(),
            backend: backend.clone(),
            hub: hub.clone(),
            waiters: waiters.clone(),
            quotas,
            lessor: lessor.clone(),
            lease_extension: config.election_timeout,
            metrics: metrics.apply,
            warning_apply_duration: config.warning_apply_duration,
            restored: state.applied,
        };
        let (seen, sent) = (Arc::<Mutex<Seen>>::default(), Arc::<Mutex<Sent>>::default());
        let observed = Observed { replica, seen: seen.clone() };
        let raft = log.handle();
        // No two starts within a millisecond of each other have the same ids.
        let since_1970 = now + Duration::from_millis(self.starts);
        let circumstances = Circumstances { clock, seed: seed ^ self.id << 32 ^ self.starts, since_1970 };
        let raft_metrics = RaftMetrics::register(&registry).map_err(|error| text(&error))?;
        let outbox = Outbox(sent.clone());
        let mut driver =
            log.into_driver(observed, outbox, raft_metrics, circumstances).map_err(|error| text(&error))?;
        driver.begin().map_err(|error| text(&error))?;
        let ids = RequestIds::new(self.id, since_1970.as_millis() as u64);
        self.running = Some(Running {
            driver,
            raft,
            reader,
            hub,
            lessor,
            waiters,
            backend,
            compaction,
            cluster,
            prepared,
            ids,
            sent,
            seen,
            commit_due: false,
            compaction_due: false,
        });
        Ok(())
    }

    /// Receives the db of a snapshot, as `peer::receive` does. `false` when there is no use for it.
    pub(super) fn receive(&self, message: &Message, content: &[u8]) -> Result<bool, String> {
        let Some(running) = &self.running else { return Ok(false) };
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
        let dir = Path::new("/data/member/snap");
        let path = dir.join(file_name(metadata.index()));
        let temporary = dir.join(format!("tmp.{}", file_name(metadata.index())));
        let write = || {
            let file = self.disk.create(&temporary)?;
            file.write_at(content, 0)?;
            file.sync_data()?;
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(dir)
        };
        write().map_err(|error| error.to_string())?;
        let prepared = Prepared::open(running.backend.db(), path, metadata.index(), self.leases);
        *running.prepared.lock() = Some(prepared.map_err(|error| error.to_string())?);
        Ok(running.raft.step_snapshot(message.clone()).is_ok())
    }
}

impl Running {
    /// Every key as it is now, ascending.
    pub(super) fn contents(&self) -> Vec<Version> {
        let everything = |snapshot: &Snapshot<'_>| {
            let mut versions = Vec::new();
            snapshot.scan(&KeyRange::all(), snapshot.revision(), &mut |version| {
                versions.push(version.clone());
                ControlFlow::Continue(())
            });
            Ok(versions)
        };
        self.reader.evaluate(everything).expect("the current revision is not compacted")
    }
}

/// The state machine, with somebody looking over its shoulder.
pub(super) struct Observed {
    replica: Replica,
    seen: Arc<Mutex<Seen>>,
}

impl StateMachine for Observed {
    fn applied(&self) -> raft::Applied {
        self.replica.applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), BoxError> {
        self.seen.lock().applied.extend_from_slice(entries);
        self.replica.apply(entries)
    }

    fn accepts(&self, change: &ConfChange) -> bool {
        self.replica.accepts(change)
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        change: &ConfChange,
        accepted: bool,
        conf_state: &ConfState,
    ) -> Result<(), BoxError> {
        self.seen.lock().applied.push(entry.clone());
        self.replica.apply_conf_change(entry, change, accepted, conf_state)
    }

    fn dropped(&mut self, proposal: u64, reason: Dropped) {
        self.seen.lock().dropped.push(proposal);
        self.replica.dropped(proposal, reason);
    }

    fn leader_changed(&mut self, leadership: Leadership) {
        self.replica.leader_changed(leadership);
    }

    fn flush(&mut self) {
        self.replica.flush();
    }

    fn durable_index(&self) -> u64 {
        self.replica.durable_index()
    }

    fn membership(&self) -> Membership {
        self.replica.membership()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotData>, BoxError> {
        self.replica.snapshot()
    }

    fn restore(&mut self, snapshot: &raftpb::Snapshot) -> Result<(), BoxError> {
        self.replica.restore(snapshot)
    }
}

/// Keeps what is to be sent until the network takes it.
pub(super) struct Outbox(Arc<Mutex<Sent>>);

impl Transport for Outbox {
    fn send(&mut self, messages: Vec<Message>) {
        self.0.lock().messages.extend(messages);
    }

    fn send_snapshot(&mut self, message: Message, mut db: Box<dyn SnapshotData>) {
        let mut content = Vec::new();
        db.read_to_end(&mut content).expect("the db of a member that runs can be read");
        self.0.lock().snapshots.push((message, content.into()));
    }

    fn set_members(&mut self, _membership: &Membership) {}
}

/// How a member opens its db file.
pub(super) fn db_options(disk: Arc<dyn Disk>) -> db::Options {
    db::Options { page_size: damage::PAGE, growth: 32 << 10, disk, ..db::Options::default() }
}

/// A member as the log knows it.
pub(super) fn record(id: u64, is_learner: bool) -> MemberRecord {
    MemberRecord { id, peer_urls: vec![format!("http://m{id}:2380")], is_learner, ..MemberRecord::default() }
}
