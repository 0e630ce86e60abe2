//! What a log means, written down as plainly as possible: every version of every key, by revision.
//!
//! It knows the requests that the clients of a simulation make, and shares no code with the keyspace it judges.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, compare::TargetUnion, request_op::Request,
};

/// One version of a key; a tombstone has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) modified: i64,
    pub(super) created: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
    pub(super) value: Option<Bytes>,
}

/// One change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) key: Bytes,
    pub(super) version: Version,
}

/// What an entry came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was carried out; `revision` is that of the store then.
    Done {
        revision: i64,
        deleted: i64,
        succeeded: bool,
    },
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Lease {
    pub(super) ttl: i64,
    pub(super) keys: BTreeSet<Bytes>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, Lease>,
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Ascending by revision, in the order of the operations within one.
    events: Vec<Event>,
    verdicts: HashMap<u64, Verdict>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
            events: Vec::new(),
            verdicts: HashMap::new(),
        }
    }

    /// Carries out the next entry. An id that stands in the log twice would be a write that happened twice.
    pub(super) fn apply(&mut self, request: &InternalRaftRequest) -> Result<(), String> {
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        let before = self.revision;
        let (deleted, succeeded) = (0, true);
        let verdict = if let Some(put) = &request.put {
            self.put(put, before + 1).then_some((deleted, succeeded))
        } else if let Some(delete) = &request.delete_range {
            Some((self.delete(&delete.key, &delete.range_end, before + 1), succeeded))
        } else if let Some(txn) = &request.txn {
            self.txn(txn)
        } else if let Some(compaction) = &request.compaction {
            let fits = self.compacted < compaction.revision && compaction.revision <= self.revision;
            if fits {
                self.compacted = compaction.revision;
            }
            fits.then_some((deleted, succeeded))
        } else if let Some(grant) = &request.lease_grant {
            let is_new = !self.leases.contains_key(&grant.id);
            self.leases.entry(grant.id).or_insert(Lease { ttl: grant.ttl, keys: BTreeSet::new() });
            is_new.then_some((deleted, succeeded))
        } else if let Some(revoke) = &request.lease_revoke {
            let keys = self.leases.remove(&revoke.id).map(|lease| lease.keys);
            keys.map(|keys| {
                for key in keys {
                    self.write(&key, None, 0, before + 1);
                }
                (deleted, succeeded)
            })
        } else {
            Some((deleted, succeeded))
        };
        let verdict = verdict.map_or(Verdict::Refused, |(deleted, succeeded)| Verdict::Done {
            revision: self.revision,
            deleted,
            succeeded,
        });
        match self.verdicts.insert(id, verdict) {
            Some(_) if id != 0 => Err(format!("request {id:x} stands in the log twice")),
            _ => Ok(()),
        }
    }

    pub(super) fn verdict(&self, id: u64) -> Option<Verdict> {
        self.verdicts.get(&id).copied()
    }

    /// The version of a key at a revision.
    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        let after = versions.partition_point(|version| version.modified <= revision);
        versions[..after].last().filter(|version| version.value.is_some())
    }

    /// Everything in a range at a revision, ascending by key.
    pub(super) fn range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<(&Bytes, &Version)> {
        let keys = self.keys.range(Bytes::copy_from_slice(key)..);
        let inside = keys.take_while(|(candidate, _)| is_inside(candidate, key, end));
        inside.filter_map(|(key, _)| Some((key, self.at(key, revision)?))).collect()
    }

    /// The changes of a range from a revision on.
    pub(super) fn changes<'m>(&'m self, key: &'m [u8], end: &'m [u8], from: i64) -> impl Iterator<Item = &'m Event> {
        let start = self.events.partition_point(|event| event.version.modified < from);
        self.events[start..].iter().filter(move |event| is_inside(&event.key, key, end))
    }

    fn put(&mut self, put: &PutRequest, revision: i64) -> bool {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return false;
        }
        self.write(&put.key, Some(put.value.clone()), put.lease, revision);
        true
    }

    fn delete(&mut self, key: &[u8], end: &[u8], revision: i64) -> i64 {
        let keys: Vec<_> = self.range(key, end, i64::MAX).into_iter().map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.write(key, None, 0, revision);
        }
        keys.len() as i64
    }

    /// All or nothing: the leases of the branch are looked at first.
    fn txn(&mut self, txn: &TxnRequest) -> Option<(i64, bool)> {
        let revision = self.revision + 1;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch: &[RequestOp] = if succeeded { &txn.success } else { &txn.failure };
        let known = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(put)) => put.lease == 0 || self.leases.contains_key(&put.lease),
            _ => true,
        };
        if !branch.iter().all(known) {
            return None;
        }
        let mut deleted = 0;
        for op in branch {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    self.put(put, revision);
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    deleted += self.delete(&delete.key, &delete.range_end, revision);
                }
                _ => {}
            }
        }
        Some((deleted, succeeded))
    }

    /// Clients compare a mod revision for equality, and nothing else.
    fn holds(&self, compare: &Compare) -> bool {
        let Some(TargetUnion::ModRevision(wanted)) = compare.target_union else { return false };
        self.at(&compare.key, i64::MAX).map_or(0, |version| version.modified) == wanted
    }

    fn write(&mut self, key: &Bytes, value: Option<Bytes>, lease: i64, revision: i64) {
        let versions = self.keys.entry(key.clone()).or_default();
        let live = versions.last().filter(|version| version.value.is_some());
        let old_lease = live.map_or(0, |version| version.lease);
        let (created, version) = match (&value, live) {
            (None, _) => (0, 0),
            (Some(_), Some(live)) => (live.created, live.version + 1),
            (Some(_), None) => (revision, 1),
        };
        let new = Version { modified: revision, created, version, lease, value };
        versions.push(new.clone());
        self.events.push(Event { key: key.clone(), version: new });
        if old_lease != lease
            && let Some(old) = self.leases.get_mut(&old_lease)
        {
            old.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.clone());
        }
        self.revision = revision;
    }
}

/// Whether a key is in a range, with etcd's two special ends.
fn is_inside(candidate: &[u8], key: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => candidate == key,
        b"\0" => key <= candidate,
        _ => key <= candidate && candidate < end,
    }
}
