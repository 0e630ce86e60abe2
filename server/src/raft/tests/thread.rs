//! The whole raft thread, over a simulated disk.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_storage::{
    disk::{Disk as _, sim::SimDisk},
    snap::{MemberRecord, Membership},
    wal,
};
use prometheus::Registry;

use super::*;
use crate::raft::{
    Applied, Bootstrap, BoxError, Dropped, Leadership, NoPeers, Opened, Proposal, RaftConfig, RaftError, RaftHandle,
    RaftMetrics, RaftThread, Refused, Role, SnapshotData, StateMachine, Transport,
};

/// What the state machine saw, for the test to look at while the thread runs.
#[derive(Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
    /// What the "db file" holds, crash or not.
    durable: AtomicU64,
}

#[derive(Default)]
struct State {
    /// One item per call: the values of its entries, with their indexes.
    applies: Vec<Vec<(u64, Bytes)>>,
    dropped: Vec<(u64, Dropped)>,
    leaderships: Vec<Leadership>,
    /// What was applied when this member first led for good.
    settled_at: Option<u64>,
    flushes: usize,
    conf_state: Option<ConfState>,
    index: u64,
    /// While true, `apply` does not return.
    held: bool,
    fails: bool,
}

impl Seen {
    fn wait(&self, what: &str, mut until: impl FnMut(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) =
            self.changed.wait_timeout_while(state, Duration::from_secs(20), |state| !until(state)).unwrap();
        assert!(!timeout.timed_out(), "waited too long for {what}");
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn values(&self) -> Vec<(u64, Bytes)> {
        let state = self.state.lock().unwrap();
        state.applies.iter().flatten().filter(|(_, data)| !data.is_empty()).cloned().collect()
    }
}

struct Recorder {
    seen: Arc<Seen>,
    start: Applied,
}

impl StateMachine for Recorder {
    fn applied(&self) -> Applied {
        self.start.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), BoxError> {
        self.seen.change(|state| {
            state
                .applies
                .push(entries.iter().map(|entry| (entry.index(), entry.data.clone().unwrap_or_default())).collect());
            state.index = entries.last().unwrap().index();
        });
        self.seen.wait("the test to let go", |state| !state.held);
        if self.seen.state.lock().unwrap().fails { Err("the db is gone".into()) } else { Ok(()) }
    }

    fn accepts(&self, change: &ConfChange) -> bool {
        change.node_id() != 666
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        _change: &ConfChange,
        _accepted: bool,
        conf_state: &ConfState,
    ) -> Result<(), BoxError> {
        self.seen.change(|state| {
            state.conf_state = Some(conf_state.clone());
            state.index = entry.index();
        });
        Ok(())
    }

    fn dropped(&mut self, proposal: u64, reason: Dropped) {
        self.seen.change(|state| state.dropped.push((proposal, reason)));
    }

    fn leader_changed(&mut self, leadership: Leadership) {
        self.seen.change(|state| {
            state.leaderships.push(leadership);
            if leadership.is_settled {
                state.settled_at.get_or_insert(state.index);
            }
        });
    }

    fn flush(&mut self) {
        self.seen.change(|state| state.flushes += 1);
    }

    fn durable_index(&self) -> u64 {
        self.seen.durable.load(Ordering::Relaxed)
    }

    fn membership(&self) -> Membership {
        Membership { members: vec![member(7)], ..Membership::default() }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotData>, BoxError> {
        Ok(Box::new(Db(io::Cursor::new(b"db".to_vec()))))
    }

    fn restore(&mut self, _snapshot: &Snapshot) -> Result<(), BoxError> {
        Err("no snapshot is expected here".into())
    }
}

struct Db(io::Cursor<Vec<u8>>);

impl io::Read for Db {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl SnapshotData for Db {
    fn len(&self) -> u64 {
        self.0.get_ref().len() as u64
    }
}

fn member(id: u64) -> MemberRecord {
    MemberRecord { id, name: "m".into(), peer_urls: vec!["http://h:2380".into()], ..MemberRecord::default() }
}

struct Rig {
    disk: SimDisk,
    config: RaftConfig,
    registry: Registry,
    seen: Arc<Seen>,
    thread: RaftThread<Recorder>,
}

fn config() -> RaftConfig {
    RaftConfig {
        tick: Duration::from_millis(10),
        election_ticks: 10,
        pre_vote: true,
        snapshot_count: 10_000,
        snapshot_catchup_entries: 100,
        snapshots_max: 5,
        wal_dir: PathBuf::from("/data/member/wal"),
        snap_dir: PathBuf::from("/data/member/snap"),
        wal: wal::Options { segment_bytes: 16 << 10, segments_max: 3 },
        unsafe_no_fsync: false,
    }
}

/// A disk with an empty data directory.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data/member")).unwrap();
    disk
}

fn try_start(
    disk: &SimDisk,
    config: RaftConfig,
    voters: &[u64],
    applied: Applied,
    transport: impl Transport,
) -> Result<Rig, RaftError> {
    let members = voters.iter().copied().map(member).collect();
    let bootstrap = Bootstrap { member_id: 7, cluster_id: 9, members };
    let opened = Opened::open(config.clone(), Arc::new(disk.clone()), Some(&bootstrap))?;
    assert_eq!((opened.member_id(), opened.cluster_id()), (7, 9));
    let (seen, registry) = (Arc::new(Seen::default()), Registry::new());
    let recorder = Recorder { seen: seen.clone(), start: applied };
    let thread = opened.start(recorder, transport, RaftMetrics::register(&registry).unwrap())?;
    Ok(Rig { disk: disk.clone(), config, registry, seen, thread })
}

fn start(disk: &SimDisk, config: RaftConfig, applied: Applied) -> Rig {
    try_start(disk, config, &[7], applied, NoPeers).unwrap()
}

impl Rig {
    fn handle(&self) -> RaftHandle {
        self.thread.handle().clone()
    }

    fn propose(&self, ids: std::ops::Range<u64>) {
        for id in ids {
            self.handle().propose(Proposal { id, data: Bytes::from(format!("p{id}")), term: None }).unwrap();
        }
    }

    fn wait_for_values(&self, count: usize) {
        self.seen.wait("values", |state| {
            state.applies.iter().flatten().filter(|(_, data)| !data.is_empty()).count() >= count
        });
    }

    /// Applies one proposal and does not come back from it until `let_go`.
    fn hold(&self, id: u64) {
        let applied = self.seen.state.lock().unwrap().index;
        while self.handle().status().applied < applied {
            std::thread::yield_now();
        }
        let values = self.seen.values().len();
        self.seen.change(|state| state.held = true);
        self.propose(id..id + 1);
        self.wait_for_values(values + 1);
    }

    fn let_go(&self) {
        self.seen.change(|state| state.held = false);
    }

    fn stop(self) -> Arc<Seen> {
        self.handle().stop();
        self.thread.join().unwrap().seen
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_gauge().get_value()
            + metric.get_counter().get_value()
            + metric.get_histogram().get_sample_count() as f64
    }
}

fn expected(ids: std::ops::Range<u64>, first_index: u64) -> Vec<(u64, Bytes)> {
    (first_index..).zip(ids).map(|(index, id)| (index, Bytes::from(format!("p{id}")))).collect()
}

#[test]
fn a_new_member_adds_itself_leads_and_applies_in_order() {
    let rig = start(&disk(), config(), Applied::default());
    rig.propose(0..500);
    rig.wait_for_values(500);
    // Index 1 adds the member, 2 is the leader's first entry.
    assert_eq!(rig.seen.values(), expected(0..500, 3));
    let status = rig.handle().status();
    assert_eq!((status.id, status.leader, status.role, status.term), (7, 7, Role::Leader, 2));
    assert_eq!(rig.metric("etcd_server_has_leader") + rig.metric("etcd_server_is_leader"), 2.0);
    assert_eq!(rig.metric("etcd_server_leader_changes_seen_total"), 1.0);
    let seen = rig.stop();
    let state = seen.state.lock().unwrap();
    assert_eq!(state.conf_state.as_ref().unwrap().voters, [7]);
    assert_eq!(state.leaderships.last(), Some(&Leadership { term: 2, leader: 7, is_settled: true }));
}

#[test]
fn everything_that_waits_becomes_one_batch_with_one_sync() {
    let rig = start(&disk(), config(), Applied::default());
    rig.propose(0..1);
    rig.wait_for_values(1);
    rig.hold(1);
    let syncs = rig.metric("etcd_disk_wal_fsync_duration_seconds");
    rig.propose(2..1002);
    rig.let_go();
    rig.wait_for_values(1002);
    let last = rig.seen.state.lock().unwrap().applies.last().unwrap().len();
    assert_eq!(last, 1000);
    // The batch, and at most two ends of segments it ran over.
    assert!(rig.metric("etcd_disk_wal_fsync_duration_seconds") - syncs <= 3.0);
    rig.stop();
}

#[test]
fn a_member_whose_ticks_are_advanced_waits_less_for_a_leader() {
    let slow = RaftConfig { tick: Duration::from_secs(3600), ..config() };
    let rig = try_start(&disk(), slow, &[7, 8, 9], Applied::default(), NoPeers).unwrap();
    let handle = rig.handle();
    let role_after = |ticks| {
        handle.advance_ticks(ticks).unwrap();
        // What was asked before is done, and told, by the end of the turn before the second answer.
        for _ in 0..2 {
            assert!(handle.progress().unwrap().blocking_recv().unwrap().is_none());
        }
        handle.status().role
    };
    assert_eq!(role_after(8), Role::Follower, "less than the shortest timeout");
    assert_ne!(role_after(12), Role::Follower, "the longest timeout");
    rig.stop();
}

#[tokio::test]
async fn reads_see_what_was_acknowledged_before_them() {
    let rig = start(&disk(), config(), Applied::default());
    let handle = rig.handle();
    // Asked before there is a leader: it waits for one.
    assert!(handle.read_index().await.unwrap() >= 2);
    rig.propose(0..10);
    rig.wait_for_values(10);
    // Alone and settled, it answers without asking the thread, which we hold to prove it.
    let settled = handle.read_index().await.unwrap();
    rig.hold(10);
    let index = tokio::time::timeout(Duration::from_secs(5), handle.read_index()).await.unwrap().unwrap();
    assert!(index >= settled);
    rig.let_go();
    rig.stop();
}

#[test]
fn a_restart_applies_what_the_db_lacks_and_nothing_else() {
    let disk = disk();
    let rig = start(&disk, config(), Applied::default());
    rig.propose(0..300);
    rig.wait_for_values(300);
    rig.stop();
    let conf_state = ConfState { voters: vec![7], auto_leave: Some(false), ..ConfState::default() };
    for (index, conf_state) in
        [(0, None), (1, None), (100, Some(conf_state.clone())), (100, None), (302, Some(conf_state))]
    {
        let rig = start(&disk, config(), Applied { index, conf_state });
        rig.seen.wait("its own entry", |state| {
            state.settled_at.is_some() && state.applies.iter().flatten().any(|(i, data)| *i > 302 && data.is_empty())
        });
        assert!(rig.seen.state.lock().unwrap().settled_at > Some(302), "it led before it had applied all");
        let all = expected(0..300, 3);
        let missing = all.iter().filter(|(i, _)| *i > index).cloned().collect::<Vec<_>>();
        assert_eq!(rig.seen.values(), missing, "from {index}");
        rig.stop();
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_applied() {
    for odds in [false, true] {
        let disk = disk();
        let rig = start(&disk, config(), Applied::default());
        rig.propose(0..200);
        rig.wait_for_values(200);
        let crashed = rig.disk.crash(|| odds);
        rig.stop();
        let rig = start(&crashed, config(), Applied::default());
        rig.wait_for_values(200);
        assert_eq!(rig.seen.values(), expected(0..200, 3));
        rig.stop();
    }
}

#[test]
fn a_db_that_the_log_does_not_know_is_refused() {
    let disk = disk();
    let rig = start(&disk, config(), Applied::default());
    rig.propose(0..5);
    rig.wait_for_values(5);
    rig.stop();
    let applied = Applied { index: 99, conf_state: None };
    let Err(error) = try_start(&disk, config(), &[7], applied, NoPeers) else { panic!("not refused") };
    assert!(error.to_string().contains("invariant: the db is at an index the WAL knows"), "{error}");
}

#[test]
fn a_snapshot_waits_for_the_db_and_lets_the_log_go() {
    let disk = disk();
    let config = RaftConfig { snapshot_count: 100, ..config() };
    let rig = start(&disk, config, Applied::default());
    let snap_files = || disk.list(Path::new("/data/member/snap")).unwrap();
    for batch in 0..40 {
        rig.propose(batch * 10..batch * 10 + 10);
        rig.wait_for_values(batch as usize * 10 + 10);
    }
    rig.seen.wait("a flush", |state| state.flushes > 0);
    assert_eq!(snap_files(), [""; 0], "the db holds nothing yet");
    rig.seen.durable.store(u64::MAX, Ordering::Relaxed);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while snap_files().is_empty() || rig.metric("etcd_debugging_snap_save_total_duration_seconds") == 0.0 {
        assert!(std::time::Instant::now() < deadline, "no snapshot was saved");
        std::thread::yield_now();
    }
    assert_eq!(rig.seen.state.lock().unwrap().conf_state.as_ref().unwrap().voters, [7]);
    let config = rig.config.clone();
    rig.stop();

    let opened = Opened::open(
        config.clone(),
        Arc::new(disk.clone()),
        Some(&Bootstrap { member_id: 0, cluster_id: 0, members: vec![] }),
    );
    let index = opened.unwrap().snapshot_index();
    assert!(index >= 100, "{index}");
    let Err(error) = try_start(&disk, config.clone(), &[7], Applied::default(), NoPeers) else { panic!("not refused") };
    assert!(error.to_string().contains("the db is at an index the WAL knows"), "{error}");
    let rig = start(&disk, config, Applied { index, conf_state: None });
    rig.wait_for_values((402 - index) as usize);
    let rest: Vec<_> = expected(0..400, 3).into_iter().filter(|(i, _)| *i > index).collect();
    assert_eq!(rig.seen.values(), rest);
    rig.stop();
}

#[tokio::test]
async fn a_failing_disk_stops_the_member_without_acknowledging() {
    for after in 0..4 {
        let rig = start(&disk(), config(), Applied::default());
        rig.propose(0..10);
        rig.wait_for_values(10);
        let handle = rig.handle();
        rig.disk.fail_after(after, io::ErrorKind::StorageFull);
        for id in 10..30 {
            if handle.propose(Proposal { id, data: Bytes::from_static(b"x"), term: None }).is_err() {
                break;
            }
        }
        // Some of these may have been in time, and are then applied; the failed write's are not.
        let _ = handle.propose(Proposal { id: 30, data: vec![0; 20_000].into(), term: None });
        tokio::time::timeout(Duration::from_secs(20), handle.stopped()).await.unwrap();
        assert_eq!(handle.read_index().await, Err(Refused::Stopped));
        assert_eq!(handle.propose(Proposal { id: 31, data: Bytes::new(), term: None }), Err(Refused::Stopped));
        let applied = rig.seen.values();
        let Err(error) = rig.thread.join() else { panic!("not stopped") };
        assert!(matches!(error, RaftError::Wal(_)), "{error}");
        // Whatever was applied is in the log of the next life.
        let rig = start(&rig.disk.crash(|| false), config(), Applied::default());
        rig.wait_for_values(applied.len());
        assert_eq!(rig.seen.values()[..applied.len()], applied);
        rig.stop();
    }
}

#[test]
fn a_state_machine_that_cannot_go_on_stops_the_member() {
    let rig = start(&disk(), config(), Applied::default());
    rig.seen.change(|state| state.fails = true);
    rig.propose(0..1);
    let Err(error) = rig.thread.join() else { panic!("not stopped") };
    assert_eq!(error.to_string(), "apply: the db is gone");
}

/// Keeps what would have been sent.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<Message>>>);

impl Transport for Outbox {
    fn send(&mut self, messages: Vec<Message>) {
        self.0.lock().unwrap().extend(messages);
    }

    fn send_snapshot(&mut self, message: Message, mut db: Box<dyn SnapshotData>) {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut db, &mut bytes).unwrap();
        assert_eq!(bytes, b"db");
        self.0.lock().unwrap().push(message);
    }

    fn set_members(&mut self, _membership: &Membership) {}
}

#[test]
fn without_a_leader_proposals_wait_and_are_dropped_when_the_member_stops() {
    let outbox = Outbox::default();
    let rig = try_start(&disk(), config(), &[7, 8, 9], Applied::default(), outbox.clone()).unwrap();
    rig.propose(0..5);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while outbox.0.lock().unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "it never asked for votes");
        std::thread::yield_now();
    }
    let asked = outbox.0.lock().unwrap()[0].clone();
    assert_eq!(asked.r#type(), MessageType::MsgPreVote);
    assert_eq!((asked.from(), asked.index(), asked.log_term()), (7, 3, 1));
    assert_eq!(rig.seen.values(), []);
    let seen = rig.stop();
    let state = seen.state.lock().unwrap();
    assert_eq!(state.dropped, (0..5).map(|id| (id, Dropped::Stopped)).collect::<Vec<_>>());
}

#[test]
fn a_follower_beyond_the_log_is_sent_the_state_of_this_moment() {
    let outbox = Outbox::default();
    let config = RaftConfig { snapshot_catchup_entries: 0, ..config() };
    let rig = try_start(&disk(), config, &[7], Applied::default(), outbox.clone()).unwrap();
    rig.propose(0..50);
    rig.wait_for_values(50);
    let kind = Some(ConfChangeType::ConfChangeAddLearnerNode as i32);
    let change = ConfChange { id: Some(1), r#type: kind, node_id: Some(8), context: None };
    rig.handle().propose_conf_change(change).unwrap();
    let sent = |kind: MessageType| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let found = outbox.0.lock().unwrap().iter().find(|message| message.r#type() == kind).cloned();
            if let Some(message) = found {
                return message;
            }
            assert!(std::time::Instant::now() < deadline, "no {kind:?} was sent");
            std::thread::yield_now();
        }
    };
    let probe = sent(MessageType::MsgApp);
    let answer = Message {
        r#type: Some(MessageType::MsgAppResp as i32),
        from: Some(8),
        to: Some(7),
        term: probe.term,
        index: probe.index,
        reject: Some(true),
        ..Message::default()
    };
    assert!(rig.handle().step(answer));
    let message = sent(MessageType::MsgSnap);
    let metadata = message.snapshot.as_ref().unwrap().metadata.clone().unwrap();
    assert_eq!((message.to(), metadata.index(), metadata.term()), (8, 53, 2));
    assert_eq!(metadata.conf_state.unwrap().learners, [8]);
    assert!(message.snapshot.unwrap().data.unwrap().starts_with(b"{\"Root\""));
    rig.stop();
}

#[test]
fn a_change_that_is_not_accepted_changes_nothing_and_removal_ends_the_member() {
    let rig = start(&disk(), config(), Applied::default());
    let propose = |kind: ConfChangeType, id: u64| {
        let change = ConfChange { id: Some(id), r#type: Some(kind as i32), node_id: Some(id), context: None };
        rig.handle().propose_conf_change(change).unwrap();
    };
    rig.propose(0..1);
    rig.wait_for_values(1);
    propose(ConfChangeType::ConfChangeAddNode, 666);
    rig.seen.wait("the refused change", |state| state.index == 4);
    assert_eq!(rig.seen.state.lock().unwrap().conf_state.as_ref().unwrap().voters, [7]);
    propose(ConfChangeType::ConfChangeAddLearnerNode, 8);
    rig.seen.wait("the learner", |state| state.conf_state.as_ref().unwrap().learners == [8]);
    // Two voters are needed, or the library refuses to remove the last one.
    propose(ConfChangeType::ConfChangeRemoveNode, 8);
    rig.seen.wait("no learner", |state| state.conf_state.as_ref().unwrap().learners.is_empty());
    propose(ConfChangeType::ConfChangeRemoveNode, 7);
    let Err(error) = rig.thread.join() else { panic!("not stopped") };
    assert!(matches!(error, RaftError::Removed | RaftError::Invariant(_)), "{error}");
}

#[test]
fn a_crash_right_after_the_log_was_created_is_made_up_for() {
    let disk = disk();
    let metadata = forebay_proto::etcdserverpb::Metadata { node_id: Some(7), cluster_id: Some(9) };
    let dir = Path::new("/data/member/wal");
    drop(wal::Wal::create(Arc::new(disk.clone()), dir, config().wal, metadata.encode_to_vec().into()).unwrap());
    let rig = start(&disk, config(), Applied::default());
    rig.propose(0..3);
    rig.wait_for_values(3);
    rig.stop();
}
