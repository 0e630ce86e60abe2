//! The state machine.

use std::{sync::Arc, time::Instant};

use forebay_keyspace::{Batch, Keyspace, eval};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{alarm_request::AlarmAction, *},
    leasepb,
    membershippb::ClusterMemberAttrSetRequest,
    raftpb::ConfState,
};
use forebay_storage::{
    failpoint::{Point, reach},
    schema,
    snap::Membership,
};
use parking_lot::Mutex;
use prost::Message as _;
use tonic::Status;

use super::{Applied, Outcome, Place, Tally, auth, txn_cost};
use crate::{
    alarms::Alarms,
    auth::{Auth, Caller, Rights},
    backend::{Backend, Op},
    cluster::Cluster,
    compactor::Compactor,
    lease::Lessor,
    membership::Change,
    metrics::ApplyMetrics,
    quotas::Quotas,
    raft::BoxError,
    state::State,
    version::{self, Version},
};

/// The replicated state of a member, with what reads of it share.
#[derive(Debug)]
pub struct Machine {
    keyspace: Arc<Mutex<Keyspace>>,
    lessor: Arc<Mutex<Lessor>>,
    auth: Arc<Auth>,
    cluster: Arc<Cluster>,
    compactor: Compactor,
    alarms: Alarms,
    membership: Membership,
    metrics: ApplyMetrics,
    quotas: Arc<Quotas>,
    /// The version that the cluster is on its way down to, if it is.
    downgrade: Option<String>,
    /// Changes of the db file since they were last taken.
    ops: Vec<Op>,
}

/// What a machine starts from, as the db file had it.
#[derive(Debug)]
pub struct Restored {
    /// The keys.
    pub keyspace: Arc<Mutex<Keyspace>>,
    /// The leases, keys attached.
    pub lessor: Arc<Mutex<Lessor>>,
    /// Users and roles.
    pub auth: Arc<Auth>,
    /// The raised alarms.
    pub alarms: Alarms,
    /// The members.
    pub membership: Membership,
    /// The version that the cluster is on its way down to, if it is.
    pub downgrade: Option<String>,
}

impl Machine {
    /// Goes on from what was restored.
    pub fn new(
        restored: Restored,
        cluster: Arc<Cluster>,
        compactor: Compactor,
        metrics: ApplyMetrics,
        quotas: Arc<Quotas>,
    ) -> Machine {
        let Restored { keyspace, lessor, auth, alarms, membership, downgrade } = restored;
        let ops = Vec::new();
        let machine =
            Machine { keyspace, lessor, auth, cluster, compactor, alarms, membership, metrics, quotas, downgrade, ops };
        machine.show();
        machine
    }

    /// Takes over what a snapshot of the leader holds. `replace` exchanges the file meanwhile.
    pub fn restore(&mut self, state: State, replace: impl FnOnce() -> Result<(), Status>) -> Result<(), BoxError> {
        // Held all the time, so that the compactor does not tell the new file of the old keyspace.
        let mut keyspace = self.keyspace.lock();
        let (ours, theirs) = (keyspace.revision(), state.keyspace.revision());
        if theirs < ours {
            return Err(format!("the leader's snapshot is at revision {theirs}, but this member is at {ours}").into());
        }
        replace()?;
        keyspace.replace(state.keyspace);
        self.quotas.reload(&keyspace);
        drop(keyspace);
        *self.lessor.lock() = state.lessor;
        self.auth.restore(state.auth);
        (self.alarms, self.membership, self.downgrade) = (state.alarms, state.membership, state.downgrade);
        self.ops.clear();
        if let Some(revision) = state.unfinished {
            drop(self.compactor.schedule(revision, None));
        }
        self.show();
        Ok(())
    }

    /// Lets readers see members and alarms.
    fn show(&self) {
        self.cluster.show(&self.membership, self.downgrade.as_deref(), &self.alarms);
    }

    /// Who is, and who was, a member.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Carries out a membership change that holds.
    pub fn change_membership(&mut self, change: Change) {
        let members = &mut self.membership.members;
        match change {
            Change::Put(member) => {
                self.ops.push(Op::Put(schema::member(&member)));
                members.retain(|known| known.id != member.id);
                members.push(member);
            }
            Change::Remove(id) => {
                members.retain(|known| known.id != id);
                self.membership.removed.push(id);
                self.ops.push(Op::Delete { bucket: schema::MEMBERS, key: schema::member_key(id) });
                self.ops.push(Op::Put(schema::removed_member(id)));
            }
            Change::Nothing => {}
        }
        self.show();
    }

    /// Keeps the configuration that a membership change led to.
    pub fn set_conf_state(&mut self, conf_state: &ConfState) {
        self.ops.push(Op::Put(schema::conf_state(conf_state)));
    }

    /// Makes what was applied visible to readers, hands it to the file, and says what it was.
    /// `index` and `term` are of the last entry applied.
    pub fn publish(&mut self, backend: &Backend, index: u64, term: u64) -> Option<Arc<Batch>> {
        // The file is told under the keyspace's lock: the compactor, which holds it too, must not
        // get ahead with removing what the file has not heard of.
        let mut keyspace = self.keyspace.lock();
        let batch = keyspace.publish();
        self.quotas.refresh(&keyspace);
        backend.add(batch.iter().cloned().map(Op::Batch).chain(self.ops.drain(..)), index, term);
        batch
    }

    /// Carries out one request of the log, `None` if it is of a kind that this version does not know.
    ///
    /// Alarms are asked before rights, and those before anything that the request says: in etcd's order, which decides
    /// the refusal when there are several.
    pub fn apply(&mut self, request: &InternalRaftRequest, index: u64, now: Instant) -> Option<Applied> {
        let caller = &Caller::of_entry(request.header.as_ref());
        Some(if let Some(put) = &request.put {
            self.check_growth(true)
                .and_then(|()| self.judge(caller, |rights, lessor| rights.put(put, lessor)))
                .and_then(|()| self.put(put))
        } else if let Some(txn) = &request.txn {
            self.check_growth(txn_cost(txn) > 0)
                .and_then(|()| self.judge(caller, |rights, lessor| rights.txn(txn, lessor)))
                .and_then(|()| self.txn(txn))
        } else if let Some(delete) = &request.delete_range {
            self.check_growth(false)
                .and_then(|()| self.judge(caller, |rights, _| rights.delete_range(delete)))
                .and_then(|()| self.delete_range(delete))
        } else if let Some(compaction) = &request.compaction {
            self.check_growth(false).and_then(|()| self.compact(compaction))
        } else if let Some(grant) = &request.lease_grant {
            self.check_growth(true).and_then(|()| self.grant(grant, now))
        } else if let Some(revoke) = &request.lease_revoke {
            self.check_growth(false)
                .and_then(|()| self.judge(caller, |rights, lessor| rights.write_lease(revoke.id, lessor)))
                .and_then(|()| self.revoke(revoke.id))
        } else if let Some(checkpoint) = &request.lease_checkpoint {
            self.checkpoint(checkpoint, now);
            Ok(Outcome::Done)
        } else if let Some(alarm) = &request.alarm {
            Ok(self.alarm(alarm))
        } else if let Some(set) = &request.cluster_member_attr_set {
            self.set_attributes(set);
            Ok(Outcome::Done)
        } else if let Some(set) = &request.cluster_version_set {
            self.set_cluster_version(&set.ver);
            Ok(Outcome::Done)
        } else if let Some(set) = &request.downgrade_info_set {
            let target = if set.enabled { &set.ver[..] } else { "" };
            self.ops.push(Op::Put(schema::downgrade(target, set.enabled)));
            self.downgrade = set.enabled.then(|| set.ver.clone());
            self.show();
            Ok(Outcome::Done)
        } else if changes_nothing(request) {
            Ok(Outcome::Done)
        } else {
            return self.auth(caller, request, index, now);
        })
    }

    /// Judges whoever proposed an entry by users and roles as the log has them at this place.
    fn judge(
        &self,
        caller: &Caller,
        judge: impl FnOnce(&Rights<'_>, &Lessor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.auth.judge(caller, |rights| judge(rights, &self.lessor.lock()))
    }

    fn auth(&mut self, caller: &Caller, request: &InternalRaftRequest, index: u64, now: Instant) -> Option<Applied> {
        let version = self.membership.cluster_version.as_deref();
        let tokens_name_entry_before = version.is_none_or(|version| version::storage(version).is_some());
        auth::carry_out(&self.auth, caller, request, Place { index, now, tokens_name_entry_before }, &mut self.ops)
    }

    /// The schema follows the cluster version, but had no version of its own before 3.6.
    fn set_cluster_version(&mut self, version: &str) {
        self.membership.cluster_version = Some(version.to_owned());
        self.show();
        self.ops.push(Op::Put(schema::cluster_version(version)));
        self.ops.push(match version::storage(version) {
            Some(version) => Op::Put(schema::storage_version(version)),
            None => Op::Delete { bucket: schema::META, key: schema::STORAGE_VERSION.to_vec() },
        });
    }

    /// Refuses what the raised alarms forbid.
    fn check_growth(&self, grows: bool) -> Result<(), Error> {
        if self.alarms.any(AlarmType::Corrupt) {
            return Err(Error::Corrupt);
        }
        if grows && self.alarms.any(AlarmType::Nospace) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> Applied {
        let mut keyspace = self.keyspace.lock();
        let mut lessor = self.lessor.lock();
        let mut txn = keyspace.write();
        let result = eval::put(&mut txn, &|id| lessor.exists(id), request)?;
        txn.changes().iter().for_each(|change| lessor.observe(change));
        self.quotas.observe(txn.changes());
        Tally::put(request).count(&self.metrics);
        Ok(Outcome::Put(result))
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> Applied {
        let mut keyspace = self.keyspace.lock();
        let mut lessor = self.lessor.lock();
        let mut txn = keyspace.write();
        let result = eval::delete_range(&mut txn, request);
        txn.changes().iter().for_each(|change| lessor.observe(change));
        self.quotas.observe(txn.changes());
        Tally::deletion(request.prev_kv).count(&self.metrics);
        Ok(Outcome::DeleteRange(result))
    }

    fn txn(&mut self, request: &TxnRequest) -> Applied {
        let mut keyspace = self.keyspace.lock();
        let mut lessor = self.lessor.lock();
        let mut txn = keyspace.write();
        let result = eval::txn(&mut txn, &|id| lessor.exists(id), request)?;
        txn.changes().iter().for_each(|change| lessor.observe(change));
        self.quotas.observe(txn.changes());
        Tally::txn(request, &result).count(&self.metrics);
        Ok(Outcome::Txn(result))
    }

    fn compact(&mut self, request: &CompactionRequest) -> Applied {
        let hash = self.keyspace.lock().compact(request.revision)?;
        self.ops.push(Op::Put(schema::scheduled_compaction(request.revision)));
        Ok(Outcome::Compact(self.compactor.schedule(request.revision, hash)))
    }

    fn grant(&mut self, request: &LeaseGrantRequest, now: Instant) -> Applied {
        reach(Point::LeaseGrant);
        let granted = self.lessor.lock().grant(request.id, request.ttl, now)?;
        self.metrics.leases_granted.inc();
        self.metrics.lease_ttl.observe(granted.ttl as f64);
        let lease = leasepb::Lease { id: granted.id, ttl: granted.ttl, remaining_ttl: 0 };
        self.ops.push(Op::Put(schema::lease(&lease)));
        Ok(Outcome::LeaseGrant(granted))
    }

    fn revoke(&mut self, id: i64) -> Applied {
        reach(Point::LeaseRevoke);
        let keys = self.lessor.lock().revoke(id)?;
        reach(Point::LeaseRevoked);
        self.metrics.leases_revoked.inc();
        let mut keyspace = self.keyspace.lock();
        let mut txn = keyspace.write();
        for key in keys {
            txn.delete_range(&KeyRange::Key(key.into()));
        }
        self.quotas.observe(txn.changes());
        drop(txn);
        self.ops.push(Op::Delete { bucket: schema::LEASE, key: schema::lease_key(id) });
        Ok(Outcome::Done)
    }

    /// Older releases do not read what is left of a lease, and some trip over it.
    fn checkpoint(&mut self, request: &LeaseCheckpointRequest, now: Instant) {
        reach(Point::LeaseCheckpoint);
        let version = self.membership.cluster_version.as_deref().and_then(Version::parse);
        let is_read = version.is_some_and(|version| (version.major, version.minor) >= (3, 6));
        let mut lessor = self.lessor.lock();
        let persists = is_read || lessor.persists_checkpoints();
        let stored = request.checkpoints.iter().filter_map(|checkpoint| lessor.checkpoint(checkpoint, now));
        let ops = stored.map(|lease| Op::Put(schema::lease(&lease)));
        if persists { self.ops.extend(ops) } else { ops.for_each(drop) }
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Outcome {
        let member = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let changed = match request.action() {
            AlarmAction::Get => return Outcome::Alarm(self.alarms.list(request.alarm())),
            AlarmAction::Activate if request.alarm() == AlarmType::None => return Outcome::Alarm(Vec::new()),
            AlarmAction::Activate => {
                if self.alarms.raise(&member) {
                    self.ops.push(Op::Put(schema::alarm(&member)));
                }
                true
            }
            AlarmAction::Deactivate => {
                let cleared = self.alarms.clear(&member);
                if cleared {
                    self.ops.push(Op::Delete { bucket: schema::ALARM, key: member.encode_to_vec() });
                }
                cleared
            }
        };
        self.show();
        Outcome::Alarm(changed.then_some(member).into_iter().collect())
    }

    fn set_attributes(&mut self, set: &ClusterMemberAttrSetRequest) {
        let attributes = set.member_attributes.clone().unwrap_or_default();
        let Some(member) = self.membership.members.iter_mut().find(|member| member.id == set.member_id) else {
            // It was removed meanwhile.
            return;
        };
        member.name = attributes.name;
        member.client_urls = attributes.client_urls;
        self.ops.push(Op::Put(schema::member(member)));
        self.show();
    }
}

/// Requests that stand in logs that an etcd wrote, and only read.
fn changes_nothing(request: &InternalRaftRequest) -> bool {
    request.range.is_some() || request.downgrade_version_test.is_some()
}
