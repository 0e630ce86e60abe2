//! Clients: some read and write, some keep leases alive until they no longer do.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use forebay_keyspace::eval;
use forebay_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestHeader, RequestOp, TxnRequest, compare,
    compare::TargetUnion, request_op::Request,
};
use prost::Message as _;
use rand::{Rng as _, seq::IndexedRandom as _};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    plan::Bug,
    watchers::Watcher,
    world::{Event, World, min_lease_ttl},
};
use crate::{
    apply::{Applied, Outcome},
    lease::Renewal,
    raft::{Proposal, Refused},
};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(7);

type Confirmation = Pin<Box<dyn Future<Output = Result<u64, Refused>> + Send>>;

pub(super) struct Client {
    /// The member it talks to.
    member: u64,
    /// Counts its requests.
    serial: u64,
    pending: Option<Pending>,
    lease: Option<Keeper>,
    is_keeper: bool,
}

/// A lease that a client keeps alive.
struct Keeper {
    id: i64,
    ttl: i64,
    /// How often it will still renew it.
    renewals: u32,
    has_key: bool,
}

struct Pending {
    floor: i64,
    invoked: Duration,
    call: Call,
}

enum Call {
    Write {
        request: u64,
        grants: Option<(i64, i64)>,
        attaches: bool,
        reply: oneshot::Receiver<Applied>,
    },
    Read {
        request: RangeRequest,
        confirmation: Option<Confirmation>,
    },
    /// `term` is that of the leader which has renewed the lease already, and proves now that it might.
    Renew {
        lease: i64,
        term: Option<u64>,
        confirmation: Confirmation,
    },
}

/// How a call went.
enum Ended {
    Answered,
    /// It may have been carried out, or not.
    Unknown,
}

impl World {
    pub(super) fn add_clients(&mut self) {
        for client in 0..self.plan.clients + self.plan.keepers {
            let is_keeper = client >= self.plan.clients;
            self.clients.push(Client { member: 1, serial: 0, pending: None, lease: None, is_keeper });
            let think = self.around(self.plan.think);
            self.after(think, Event::Client(client, 0));
        }
        for watcher in 0..self.plan.watchers {
            let (key, end) = match self.rng.random_range(0..3) {
                0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
                1 => (self.key(), Bytes::new()),
                _ => (Bytes::from_static(b"k"), Bytes::from_static(b"k2")),
            };
            self.watchers.push(Watcher::new(key, end));
            self.after(Duration::from_millis(10), Event::Watcher(watcher));
        }
    }

    fn key(&mut self) -> Bytes {
        format!("k{}", self.rng.random_range(0..self.plan.keys)).into()
    }

    pub(super) fn client_acts(&mut self, client: usize, serial: u64) {
        if self.clients[client].serial != serial {
            return;
        }
        if self.clients[client].pending.take().is_some() {
            // It has waited long enough.
            return self.ended(client, &Ended::Unknown);
        }
        if !self.open {
            return;
        }
        let member = self.clients[client].member;
        if self.seats.get(&member).is_none_or(|seat| seat.running.is_none()) {
            return self.ended(client, &Ended::Unknown);
        }
        let call = if self.clients[client].is_keeper { self.keep(client) } else { self.ask(client) };
        let Some(call) = call else { return self.ended(client, &Ended::Unknown) };
        let pending = Pending { floor: self.judge.floor(), invoked: self.now, call };
        self.clients[client].pending = Some(pending);
        self.after(PATIENCE, Event::Client(client, serial));
        // Some of it may be known at once.
        self.poll_client(client);
        self.wake(member);
    }

    /// What a client asks next.
    fn ask(&mut self, client: usize) -> Option<Call> {
        let key = self.key();
        let put = |key: Bytes, value: String| PutRequest { key, value: value.into(), ..PutRequest::default() };
        let value = format!("{client}.{}", self.clients[client].serial);
        let value = format!("{value:.<0$}", self.plan.value_bytes);
        let mut request = InternalRaftRequest::default();
        match self.rng.random_range(0..100) {
            0..30 => request.put = Some(put(key, value)),
            30..36 => {
                let range_end = if self.rng.random_bool(0.1) { Bytes::from_static(b"k2") } else { Bytes::new() };
                request.delete_range = Some(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() });
            }
            36..50 => {
                let known = self.judge.model.at(&key, i64::MAX).map_or(0, |version| version.modified);
                let wanted = if self.rng.random_bool(0.7) { known } else { known - 1 };
                let op = |request| RequestOp { request: Some(request) };
                let condition = Compare {
                    key: key.clone(),
                    target: compare::CompareTarget::Mod as i32,
                    target_union: Some(TargetUnion::ModRevision(wanted)),
                    ..Compare::default()
                };
                let other = self.key();
                let mut success = vec![op(Request::RequestPut(put(key.clone(), value)))];
                if other != key {
                    success.push(op(Request::RequestDeleteRange(DeleteRangeRequest {
                        key: other,
                        ..DeleteRangeRequest::default()
                    })));
                }
                let failure = vec![op(Request::RequestRange(RangeRequest { key, ..RangeRequest::default() }))];
                request.txn = Some(TxnRequest { compare: vec![condition], success, failure });
            }
            50..52 if self.plan.compacts => {
                let revision = self.judge.model.revision - self.rng.random_range(-1..20);
                request.compaction = Some(CompactionRequest { revision, physical: self.rng.random_bool(0.5) });
            }
            52..60 => {
                let serializable = RangeRequest { key, serializable: true, ..RangeRequest::default() };
                return Some(Call::Read { request: serializable, confirmation: None });
            }
            60..64 => {
                let revision = self.judge.model.revision - self.rng.random_range(0..30);
                let past = RangeRequest { key, revision: revision.max(1), ..RangeRequest::default() };
                return self.read(client, past);
            }
            64..75 => {
                let range = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
                return self.read(client, RangeRequest { key: range.0, range_end: range.1, ..RangeRequest::default() });
            }
            _ => return self.read(client, RangeRequest { key, ..RangeRequest::default() }),
        }
        self.propose(client, request, None, false)
    }

    fn read(&mut self, client: usize, request: RangeRequest) -> Option<Call> {
        let running = self.seats[&self.clients[client].member].running.as_ref()?;
        let proves = self.plan.bug != Some(Bug::UnprovenRead);
        let confirmation = proves.then(|| -> Confirmation { Box::pin(running.raft.read_index()) });
        Some(Call::Read { request, confirmation })
    }

    /// What a keeper does next: a lease, a key on it, renewals, and then nothing, until the lease is gone.
    fn keep(&mut self, client: usize) -> Option<Call> {
        let shortest = min_lease_ttl(&self.plan);
        if let Some(keeper) = &mut self.clients[client].lease {
            let (id, has_key) = (keeper.id, keeper.has_key);
            if !has_key {
                let put = PutRequest {
                    key: format!("lease{id}").into(),
                    value: Bytes::from_static(b"held"),
                    lease: id,
                    ..PutRequest::default()
                };
                let request = InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() };
                return self.propose(client, request, None, true);
            }
            if keeper.renewals > 0 {
                keeper.renewals -= 1;
                return self.renew(client, id, false);
            }
            if self.rng.random_bool(0.3) {
                let revoke = Some(LeaseRevokeRequest { id });
                self.clients[client].lease = None;
                let request = InternalRaftRequest { lease_revoke: revoke, ..InternalRaftRequest::default() };
                return self.propose(client, request, None, false);
            }
            self.clients[client].lease = None;
            return None;
        }
        let id = (client as i64) << 32 | self.clients[client].serial as i64 | 1 << 60;
        let ttl = self.rng.random_range(shortest..shortest + 20);
        let grant = Some(LeaseGrantRequest { id, ttl });
        let request = InternalRaftRequest { lease_grant: grant, ..InternalRaftRequest::default() };
        self.propose(client, request, Some((id, ttl)), false)
    }

    fn propose(
        &mut self,
        client: usize,
        mut request: InternalRaftRequest,
        grants: Option<(i64, i64)>,
        attaches: bool,
    ) -> Option<Call> {
        let running = self.seats[&self.clients[client].member].running.as_ref()?;
        let id = running.ids.next();
        request.header = Some(RequestHeader { id, ..RequestHeader::default() });
        let reply = running.waiters.register(id, self.epoch + Duration::from_secs(1 << 30));
        let proposal = Proposal { id, data: request.encode_to_vec().into(), term: None };
        if running.raft.propose(proposal).is_err() {
            running.waiters.forget(id);
            return None;
        }
        if self.plan.bug == Some(Bug::EarlyAcknowledgement) && request.put.is_some() {
            let (made, early) = oneshot::channel();
            let revision = running.reader.revision() + 1;
            let _ = made.send(Ok(Outcome::Put(eval::PutResult { revision, prev: None })));
            return Some(Call::Write { request: id, grants, attaches, reply: early });
        }
        Some(Call::Write { request: id, grants, attaches, reply })
    }

    pub(super) fn poll_clients(&mut self, member: u64) {
        for client in 0..self.clients.len() {
            if self.clients[client].member == member {
                self.poll_client(client);
            }
        }
    }

    fn poll_client(&mut self, client: usize) {
        let Some(mut pending) = self.clients[client].pending.take() else { return };
        match self.poll_call(client, &mut pending) {
            Some(ended) => self.ended(client, &ended),
            None => self.clients[client].pending = Some(pending),
        }
    }

    fn poll_call(&mut self, client: usize, pending: &mut Pending) -> Option<Ended> {
        let member = self.clients[client].member;
        let seat = &self.seats[&member];
        let Some(running) = &seat.running else { return Some(Ended::Unknown) };
        match &mut pending.call {
            Call::Write { request, grants, attaches, reply } => {
                let answer = match reply.try_recv() {
                    Ok(answer) => answer,
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Closed) => return Some(Ended::Unknown),
                };
                self.judge.wrote(*request, &answer, pending.floor);
                if answer.is_ok() {
                    if let Some((id, ttl)) = *grants {
                        self.judge.renewed(id, pending.invoked);
                        let renewals = self.rng.random_range(0..12);
                        self.clients[client].lease = Some(Keeper { id, ttl, renewals, has_key: false });
                    } else if let Some(keeper) = self.clients[client].lease.as_mut().filter(|_| *attaches) {
                        keeper.has_key = true;
                    }
                } else if *attaches {
                    self.clients[client].lease = None;
                }
                let told = match &answer {
                    Ok(_) => "done",
                    Err(_) => "refused",
                };
                self.note((client, *request, told));
                Some(Ended::Answered)
            }
            Call::Read { request, confirmation } => {
                if let Some(confirmation) = confirmation
                    && poll(confirmation)?.is_err()
                {
                    return Some(Ended::Unknown);
                }
                // Compacted, or of the future as far as this member knows.
                let Ok(result) = running.reader.evaluate(|snapshot| eval::range(snapshot, request)) else {
                    return Some(Ended::Answered);
                };
                self.judge.read(request, &result, pending.floor);
                self.note((client, result.revision, result.kvs.len()));
                Some(Ended::Answered)
            }
            Call::Renew { lease, term, confirmation } => {
                if poll(confirmation)?.is_err() {
                    return Some(Ended::Unknown);
                }
                let (lease, term) = (*lease, *term);
                let Some(term) = term else {
                    // What was not known here is known by now, or is not there.
                    pending.call = match self.renew(client, lease, true) {
                        Some(call) => call,
                        None => return Some(Ended::Unknown),
                    };
                    self.wake(member);
                    return None;
                };
                let lessor = running.lessor.lock();
                if lessor.primary_term() == Some(term) && lessor.exists(lease) {
                    drop(lessor);
                    self.judge.renewed(lease, pending.invoked);
                }
                Some(Ended::Answered)
            }
        }
    }

    /// Renews a lease as `leases::renew_here` does: on the leader, which proves afterwards that it leads.
    fn renew(&mut self, client: usize, lease: i64, is_proven: bool) -> Option<Call> {
        let seat = &self.seats[&self.clients[client].member];
        let running = seat.running.as_ref()?;
        let now = seat.look_at_clock(self.now);
        let mut lessor = running.lessor.lock();
        let term = lessor.primary_term()?;
        let renewal = lessor.renew(lease, now);
        drop(lessor);
        let proof: Confirmation = match renewal {
            Renewal::Renewed { was_checkpointed: false, .. } => Box::pin(running.raft.read_index()),
            Renewal::Renewed { was_checkpointed: true, .. } => {
                let checkpoint = LeaseCheckpoint { id: lease, remaining_ttl: 0 };
                let request = LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
                let id = running.ids.next();
                let header = Some(RequestHeader { id, ..RequestHeader::default() });
                let request =
                    InternalRaftRequest { header, lease_checkpoint: Some(request), ..InternalRaftRequest::default() };
                let reply = running.waiters.register(id, self.epoch + Duration::from_secs(1 << 30));
                let data = request.encode_to_vec().into();
                running.raft.propose(Proposal { id, data, term: Some(term) }).ok()?;
                Box::pin(async move {
                    match reply.await {
                        Ok(Ok(_)) => Ok(0),
                        _ => Err(Refused::Stopped),
                    }
                })
            }
            Renewal::Expiring | Renewal::NotFound if is_proven => {
                self.clients[client].lease = None;
                return None;
            }
            Renewal::Expiring | Renewal::NotFound => {
                return Some(Call::Renew { lease, term: None, confirmation: Box::pin(running.raft.read_index()) });
            }
        };
        Some(Call::Renew { lease, term: Some(term), confirmation: proof })
    }

    /// A client has its answer, or gives up; it thinks, and goes on.
    fn ended(&mut self, client: usize, ended: &Ended) {
        if let Ended::Unknown = ended {
            let leader = self.leader().filter(|_| self.clients[client].is_keeper);
            let members: Vec<_> = self.seats.keys().copied().collect();
            let any = members.choose(&mut self.rng).copied().expect("a cluster has members");
            self.clients[client].member = leader.unwrap_or(any);
        }
        self.clients[client].serial += 1;
        let think = match &self.clients[client].lease {
            Some(keeper) if keeper.has_key => Duration::from_secs(keeper.ttl as u64) / 3,
            _ => self.around(self.plan.think),
        };
        let serial = self.clients[client].serial;
        self.after(think, Event::Client(client, serial));
    }

    /// Those who waited for a member that ended find out.
    pub(super) fn disconnect(&mut self, member: u64) {
        for client in 0..self.clients.len() {
            if self.clients[client].member == member && self.clients[client].pending.take().is_some() {
                self.ended(client, &Ended::Unknown);
            }
        }
        for watcher in &mut self.watchers {
            if watcher.member() == Some(member) {
                watcher.disconnect();
            }
        }
    }

    pub(super) fn poll_watchers(&mut self, member: u64) {
        let loses = self.plan.bug == Some(Bug::LostEvent);
        for watcher in &mut self.watchers {
            if watcher.member() == Some(member) {
                let rng = &mut self.rng;
                watcher.poll(&self.judge.model, || loses && rng.random_bool(0.005));
            }
        }
    }

    /// A watcher connects, asks how far it is, or goes elsewhere.
    pub(super) fn watcher_acts(&mut self, watcher: usize) {
        let moves = !self.healed && self.rng.random_bool(0.2);
        let mut running = self.running();
        if self.healed
            && let Some(leader) = self.leader()
        {
            // A machine whose member was never added, or hears of its removal last, has nothing to tell for ever.
            let shown = self.seats[&leader].running.as_ref().expect("it leads").cluster.shown();
            running.retain(|id| shown.members.iter().any(|member| member.id == *id));
            if self.watchers[watcher].member().is_some_and(|member| !running.contains(&member)) {
                self.watchers[watcher].disconnect();
            }
        }
        if (moves || self.watchers[watcher].member().is_none())
            && let Some(member) = running.choose(&mut self.rng)
        {
            let seat = self.seats[member].running.as_ref().expect("it was listed");
            self.watchers[watcher].connect(*member, seat);
        } else {
            self.watchers[watcher].ask_progress();
        }
        if let Some(member) = self.watchers[watcher].member() {
            self.poll_watchers(member);
        }
        let pause = self.around(Duration::from_secs(10));
        self.after(pause, Event::Watcher(watcher));
    }
}

fn poll(confirmation: &mut Confirmation) -> Option<Result<u64, Refused>> {
    match confirmation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}
