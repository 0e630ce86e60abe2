//! A running member: what requests call.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_edge::{Api, grpc, listener::Drain, trace, watch::Watches};
use forebay_keyspace::{Reader, RevisionHash};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{
        self, AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, ResponseHeader, alarm_request::AlarmAction,
    },
};
use forebay_storage::disk::Disk;
use futures::future::Either;
use http::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use crate::{
    apply::{Applied, Outcome},
    auth::{Auth, Caller},
    backend::Backend,
    cluster::{self, Cluster},
    config::Config,
    lease::Lessor,
    metrics::{Kind, Metrics},
    peer::Peers,
    proposals::{RequestIds, Waiters},
    quotas::Quotas,
    raft::{Progress, Proposal, RaftError, RaftHandle, RaftThread, Refused, Role},
    rpc::{Audit, Rpc},
    space::Reserve,
    version::{self, Version},
};

/// Requests that go over the whole db file or keyspace at once. Each takes a core, and memory for every version.
pub(crate) const MAINTENANCE_MAX: usize = 2;
/// Clients that read a snapshot at once. Each keeps a thread for as long as it likes, of the 512 there are, and pages of
/// the db file from being used again.
pub(crate) const SNAPSHOTS_MAX: usize = 16;

/// A read that waits longer for its index is slow; etcd asks again after as much.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// A handle on a running member; clones are the same member.
#[derive(Clone)]
pub struct Member(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) ids: RequestIds,
    pub(crate) waiters: Arc<Waiters<Applied>>,
    pub(crate) raft: RaftHandle,
    pub(crate) reader: Reader,
    pub(crate) watches: Watches,
    pub(crate) lessor: Arc<Mutex<Lessor>>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) audit: Audit,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) peers: Peers,
    /// Ends the serving of other members.
    pub(crate) peers_closing: Drain,
    pub(crate) backend: Arc<Backend>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) reserve: Reserve,
    pub(crate) metrics: Metrics,
    /// Whether the health service says that calls are served.
    pub(crate) serving: watch::Sender<bool>,
    /// Lets a few requests at a time go over the whole db file or keyspace.
    pub(crate) maintenance: Arc<Semaphore>,
    /// Lets a few clients at a time read a snapshot of the db file.
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) stopping: Drain,
    /// Set once, with the reason, when the member cannot go on.
    pub(crate) failed: watch::Sender<Option<Ended>>,
    pub(crate) running: Running,
}

/// The threads of a member.
pub(crate) struct Running {
    /// Set when the raft thread has ended.
    raft_ended: watch::Sender<bool>,
    compacting: Mutex<Option<JoinHandle<()>>>,
}

impl Running {
    pub(crate) fn new(compacting: JoinHandle<()>) -> Running {
        Running { raft_ended: watch::Sender::new(false), compacting: Mutex::new(Some(compacting)) }
    }

    /// Waits for the raft thread's end, on a thread that does nothing else, and tells everybody.
    pub(crate) fn watch_raft<S: Send + 'static>(
        &self,
        thread: RaftThread<S>,
        waiters: Arc<Waiters<Applied>>,
        fail: impl FnOnce(RaftError) + Send + 'static,
    ) {
        let ended = self.raft_ended.clone();
        let wait = move || {
            if let Err(error) = thread.join() {
                fail(error);
            }
            waiters.clear();
            ended.send_replace(true);
        };
        std::thread::Builder::new().name("raft-end".into()).spawn(wait).expect("a thread can be started");
    }
}

/// Why a member ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It is no member of its cluster any more, as somebody wished.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// Something broke.
    #[error("{0}")]
    Failed(String),
}

/// Until when a request waits, and whose patience that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    is_callers: bool,
}

impl Deadline {
    /// When it ends.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// How long there still is.
    pub(crate) fn left(self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// The error of a request that waited in vain.
    pub(crate) fn passed(self) -> Status {
        match self.is_callers {
            true => Status::deadline_exceeded("context deadline exceeded"),
            false => Error::Timeout.into(),
        }
    }
}

/// Sizes of the db file in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DbSizes {
    pub(crate) total: u64,
    pub(crate) in_use: u64,
}

impl Member {
    /// The configuration it was started with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The member's id.
    pub fn id(&self) -> u64 {
        self.0.member_id
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.0.cluster_id
    }

    /// The cluster version, once it is decided.
    pub fn cluster_version(&self) -> Option<String> {
        self.0.cluster.shown().version.clone()
    }

    /// The version of the schema of the db file, once the cluster has one that has any.
    pub fn storage_version(&self) -> Option<String> {
        self.cluster_version().and_then(|cluster| version::storage(&cluster).map(str::to_owned))
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.raft_status().leader != 0
    }

    /// A response header with the current revision.
    pub(crate) fn header(&self) -> ResponseHeader {
        self.header_at(self.0.reader.revision())
    }

    /// A response header with this revision.
    pub(crate) fn header_at(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.0.cluster_id,
            member_id: self.0.member_id,
            revision,
            raft_term: self.raft_status().term,
        }
    }

    pub(crate) fn next_request_id(&self) -> u64 {
        self.0.ids.next()
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    /// How many keys there are.
    pub(crate) fn key_count(&self) -> i64 {
        let view = self.0.reader.view();
        // A compaction that overtakes the view leaves its count as it is.
        view.evaluate(|snapshot| Ok(snapshot.count(&KeyRange::all(), snapshot.revision()))).unwrap_or(0) as i64
    }

    pub(crate) fn lessor(&self) -> MutexGuard<'_, Lessor> {
        self.0.lessor.lock()
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.0.auth
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.0.watches
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    /// Whether the health service says that calls are served.
    pub(crate) fn serving(&self) -> watch::Receiver<bool> {
        self.0.serving.subscribe()
    }

    /// Defragments the db file.
    pub(crate) fn defragment(&self) -> Result<(), Status> {
        let hides = self.0.config.stop_grpc_service_on_defrag;
        if hides {
            self.0.serving.send_replace(false);
        }
        let defragmented = self.0.backend.defragment();
        if hides {
            self.0.serving.send_replace(true);
        }
        defragmented
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn raft_status(&self) -> crate::raft::Status {
        self.0.raft.status()
    }

    /// The raised alarms.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.0.cluster.shown().alarms.clone()
    }

    pub(crate) fn members(&self) -> Vec<etcdserverpb::Member> {
        self.0.cluster.shown().members.iter().map(cluster::to_wire).collect()
    }

    pub(crate) fn db_sizes(&self) -> DbSizes {
        let db = self.0.backend.db();
        DbSizes { total: db.size(), in_use: db.size_in_use() }
    }

    /// The API that listeners serve.
    pub fn api(&self) -> Api {
        Api::new(Rpc::new(self.clone()))
    }

    /// Resolves with the reason when the member cannot go on. Stop it then.
    pub async fn ended(&self) -> Ended {
        let mut failed = self.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(Ended::Removed),
            // The sender lives as long as the member, which `self` is.
            Err(_) => std::future::pending().await,
        }
    }

    /// Begins to stop: streams end, and nothing new is taken that lasts.
    pub fn drain(&self) {
        self.0.stopping.start();
    }

    /// Stops: what was proposed is finished or given up, and everything applied is in the db file.
    pub async fn stop(&self) {
        self.drain();
        self.hand_over().await;
        self.0.raft.stop();
        let mut ended = self.0.running.raft_ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
        self.0.peers.close();
        self.0.peers_closing.start();
        let member = self.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            // With the raft thread the compactor's callers are gone, so it ends after its step.
            if let Some(compacting) = member.0.running.compacting.lock().take() {
                let _ = compacting.join();
            }
            member.0.backend.stop();
        });
        if let Err(panic) = stopped.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }

    /// Whether the member has begun to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.stopping.has_started()
    }

    /// Has another voter lead, if this one does: clients then do not wait for an election.
    async fn hand_over(&self) {
        let shown = self.0.cluster.shown();
        let voters = shown.members.iter().filter(|member| member.id != self.id() && !member.is_learner);
        let longest = voters.filter_map(|voter| Some((self.0.peers.active_since(voter.id)?, voter.id))).min();
        if let (Role::Leader, Some((_, to))) = (self.raft_status().role, longest)
            // Raft gives up after an election timeout.
            && self.move_leader(to, Some(Instant::now() + 2 * self.config().election_timeout)).await.is_err()
        {
            tracing::warn!("leadership transfer failed");
        }
    }

    /// Has another member lead. Resolves when it does, or when there is no more time.
    pub(crate) async fn move_leader(&self, to: u64, until: Option<Instant>) -> Result<(), Status> {
        self.0.raft.transfer_leader(to).map_err(refused)?;
        let moved = async {
            while self.raft_status().leader != to {
                tokio::time::sleep(self.config().heartbeat_interval).await;
            }
        };
        let passed = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = moved => Ok(()),
            () = passed => {
                Err(Status::unknown("etcdserver: request timed out, leader transfer took too long"))
            }
            () = self.0.raft.stopped() => Err(Error::Stopped.into()),
        }
    }

    /// The version that the cluster is on its way down to, if it is.
    pub(crate) fn downgrade_target(&self) -> Option<Version> {
        self.0.cluster.shown().downgrade.as_deref().and_then(Version::parse)
    }

    /// Whether this member only follows, without a vote.
    pub(crate) fn is_learner(&self) -> bool {
        self.raft_status().role == Role::Learner
    }

    /// Resolves when the member begins to stop.
    pub(crate) async fn draining(&self) {
        self.0.stopping.started().await;
    }

    /// Until when a request with these headers waits.
    pub(crate) fn deadline(&self, headers: &HeaderMap) -> Result<Deadline, Status> {
        let now = Instant::now();
        let ours = now + self.0.config.request_timeout();
        Ok(match grpc::deadline(headers, now)? {
            Some(theirs) if theirs < ours => Deadline { at: theirs, is_callers: true },
            _ => Deadline { at: ours, is_callers: false },
        })
    }

    /// As patient as the member itself.
    pub(crate) fn own_deadline(&self) -> Deadline {
        Deadline { at: Instant::now() + self.0.config.request_timeout(), is_callers: false }
    }

    /// Has a request ordered by raft and carried out, and says what it did. `caller` is who wants it, as apply will
    /// judge.
    ///
    /// Dropping the future does not undo the proposal.
    pub(crate) fn propose(
        &self,
        caller: &Caller,
        request: InternalRaftRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Outcome, Status>> + Send {
        self.propose_as_leader(caller, None, request, deadline)
    }

    /// As [`Member::propose`], but only while this member leads in that term, if one is given.
    ///
    /// The request, of more than a kilobyte, is encoded before there is a future: one that held it, and all that await
    /// that one, would be many kilobytes for each call that is open. What no quota is about is on its way when this
    /// returns, in the order of calls.
    pub(crate) fn propose_as_leader<'a>(
        &'a self,
        caller: &Caller,
        term: Option<u64>,
        mut request: InternalRaftRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Outcome, Status>> + Send + use<'a> {
        let start = Instant::now();
        let kind = Kind::of(&request);
        let id = self.0.ids.next();
        request.header = Some(caller.header(id));
        let fits = request.encoded_len() <= self.0.config.max_request_bytes;
        let data = fits.then(|| Bytes::from(request.encode_to_vec()));
        // What a leader decides on its own is no client's, and has no quota.
        let is_first = self.0.config.priority_request && request.lease_revoke.is_some();
        let within_quotas = self.0.quotas.concern(&request).then(|| Box::new(request));
        let propose = move |raft: &RaftHandle, data| match is_first {
            true => raft.propose_first(Proposal { id, data, term }),
            false => raft.propose(Proposal { id, data, term }),
        };
        let proposed = data.map(|data| match within_quotas {
            None => Either::Left(self.wait_for(id, deadline, move |raft| propose(raft, data))),
            Some(request) => Either::Right((request, data)),
        });
        async move {
            let answered = match proposed.ok_or(Error::RequestTooLarge)? {
                Either::Left(answer) => answer.await?,
                Either::Right((request, data)) => {
                    Box::pin(self.propose_within_quotas(&request, id, data, deadline)).await?
                }
            };
            self.0.metrics.request_seconds.observe(kind, answered.is_some(), start.elapsed());
            self.outcome(answered, deadline)
        }
    }

    /// Proposes something under this id, and resolves to what it did; `None` if that did not become known in time.
    pub(crate) fn wait_for<P: FnOnce(&RaftHandle) -> Result<(), Refused>>(
        &self,
        id: u64,
        deadline: Deadline,
        propose: P,
    ) -> impl Future<Output = Result<Option<Applied>, Status>> + Send + use<P> {
        let receiver = self.0.waiters.register(id, deadline.at);
        let proposed = propose(&self.0.raft).map_err(|error| {
            self.0.waiters.forget(id);
            refused(error)
        });
        async move {
            proposed?;
            Ok(receiver.await.ok())
        }
    }

    /// What a proposal came to.
    pub(crate) fn outcome(&self, answered: Option<Applied>, deadline: Deadline) -> Result<Outcome, Status> {
        match answered {
            Some(outcome) => Ok(outcome?),
            None if self.0.stopping.has_started() => Err(Error::Stopped.into()),
            None => Err(deadline.passed()),
        }
    }

    /// How far each member's log agrees with that of this one, if it leads.
    pub(crate) async fn progress(&self) -> Result<Option<Progress>, Status> {
        let asked = self.0.raft.progress().map_err(refused)?;
        asked.await.map_err(|_| refused(Refused::Stopped))
    }

    /// Waits until this member has applied everything that was committed when this was called.
    pub(crate) async fn linearize(&self, deadline: Deadline) -> Result<(), Status> {
        let start = Instant::now();
        let _span = trace::part("read index");
        let waited = tokio::time::timeout_at(deadline.at.into(), self.0.raft.read_index()).await;
        if start.elapsed() > SLOW_READ_INDEX {
            self.0.metrics.slow_read_indexes.inc();
        }
        let failed = match waited {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => refused(error),
            Err(_) => deadline.passed(),
        };
        self.0.metrics.read_indexes_failed.inc();
        Err(failed)
    }

    /// Refuses what a member without a leader cannot know.
    pub(crate) fn check_leader(&self) -> Result<(), Error> {
        if self.has_leader() { Ok(()) } else { Err(Error::NoLeader) }
    }

    /// Refuses a write that the backend quota or the disk has no room for, and raises the alarm.
    pub(crate) fn check_quota(&self, cost: u64) -> Result<(), Error> {
        let fits = |quota| self.0.backend.size() + cost < quota;
        if self.0.config.quota_backend_bytes.is_none_or(fits) && self.0.reserve.lets_in(cost) {
            return Ok(());
        }
        let member = self.clone();
        tokio::spawn(async move { member.raise_nospace().await });
        Err(Error::NoSpace)
    }

    /// Raises the alarm unless it is raised already. Returns whether it did.
    pub(crate) async fn raise_nospace(&self) -> bool {
        let kind = AlarmType::Nospace as i32;
        let is_it = |alarm: &AlarmMember| alarm.member_id == self.id() && alarm.alarm == kind;
        if self.0.cluster.shown().alarms.iter().any(is_it) {
            return false;
        }
        let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: self.id(), alarm: kind };
        let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
        let raised = self.propose(&Caller::nobody(), request, self.own_deadline()).await;
        if let Err(status) = &raised {
            tracing::warn!(error = status.message(), "failed to raise the NOSPACE alarm");
        }
        raised.is_ok()
    }

    /// The hash of the keyspace at a revision, 0 for the current one.
    pub(crate) fn hash_kv(&self, revision: i64) -> Result<(RevisionHash, i64), Error> {
        let _timer = self.0.metrics.hash_revision_seconds.start_timer();
        self.0.reader.hash(revision)
    }

    /// As [`Member::blocking`], for what goes over the whole db file or keyspace: it waits until others are done. A
    /// client that asks a thousand times at once takes neither every thread nor all memory.
    pub(crate) async fn maintaining<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Member) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = self.0.maintenance.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.blocking(move |member| {
            // Kept here and not by the caller, who may go away before the work is done.
            let _turn = turn;
            work(member)
        })
        .await
    }

    /// The right to read a snapshot, for as long as that takes.
    pub(crate) fn snapshot_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.0.snapshots.clone().try_acquire_owned().map_err(|_| refused(Refused::TooManyRequests))
    }

    /// Runs something that waits for the disk or computes for long, off the threads of requests.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Member) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let member = self.clone();
        tokio::task::spawn_blocking(move || work(&member)).await.map_err(given_up)?
    }
}

/// Work on another thread panicked.
pub(crate) fn given_up(error: tokio::task::JoinError) -> Status {
    Status::internal(format!("the work was given up: {error}"))
}

pub(crate) fn refused(error: Refused) -> Status {
    match error {
        Refused::Stopped => Error::Stopped.into(),
        // etcd's server sends this text with this code.
        Refused::TooManyRequests => Status::unknown(Error::TooManyRequests.message()),
    }
}
