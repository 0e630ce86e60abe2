//! What must hold, whatever happens.
//!
//! Everything that anybody is told carries a revision, and revisions put all writes in one order: that of the log. So an
//! answer is right if it is what the model says at its revision, and if that revision is not below any that somebody was
//! told before the question was asked. No search is needed, and millions of operations can be checked.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use forebay_keyspace::eval::RangeResult;
use forebay_proto::{
    etcdserverpb::{InternalRaftRequest, RangeRequest},
    raftpb::Entry,
};
use prost::Message as _;

use super::model::{Model, Verdict};
use crate::apply::{Applied, Outcome};

pub(super) struct Judge {
    pub(super) model: Model,
    /// What stands at each index of the log, from 1.
    log: Vec<u64>,
    /// The highest revision that somebody was told.
    floor: i64,
    /// When a lease was last renewed for certain, or granted.
    renewed: BTreeMap<i64, Duration>,
    /// Revokes that members proposed since leases had run out.
    expiries: HashSet<u64>,
    /// Requests of which a member said that it would not propose them.
    dropped: HashSet<u64>,
    pub(super) checked: u64,
    pub(super) expired: u64,
}

/// Clocks go wrong by half a percent at most, either way.
const DRIFT: f64 = 0.99;

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            model: Model::new(),
            log: Vec::new(),
            floor: 1,
            renewed: BTreeMap::new(),
            expiries: HashSet::new(),
            dropped: HashSet::new(),
            checked: 0,
            expired: 0,
        }
    }

    /// What any answer to a question of this moment must have seen.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    pub(super) fn log_len(&self) -> u64 {
        self.log.len() as u64
    }

    /// A member has applied an entry.
    pub(super) fn applied(&mut self, member: u64, entry: &Entry, now: Duration) {
        let mut hasher = DefaultHasher::new();
        (entry.term, entry.r#type, entry.data.as_deref().unwrap_or_default()).hash(&mut hasher);
        let (digest, index) = (hasher.finish(), entry.index());
        let last = self.log.len() as u64;
        if index <= last {
            let known = self.log[index as usize - 1];
            assert_eq!(known, digest, "member {member:x} applied another entry at {index} than others did");
            return;
        }
        assert_eq!(index, last + 1, "member {member:x} applied entry {index}, but nobody the one before");
        self.log.push(digest);
        let is_normal = entry.r#type.unwrap_or_default() == 0;
        let Some(data) = entry.data.as_ref().filter(|data| is_normal && !data.is_empty()) else { return };
        let request = InternalRaftRequest::decode(data.clone()).expect("clients encode what they ask");
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        assert!(!self.dropped.contains(&id), "request {id:x} was said to be dropped, and stands at {index}");
        if let Some(revoke) = &request.lease_revoke {
            self.revoked(revoke.id, self.expiries.contains(&id), now);
        }
        self.model.apply(&request).unwrap_or_else(|error| panic!("{error} (at {index})"));
    }

    fn revoked(&mut self, lease: i64, is_expiry: bool, now: Duration) {
        let Some(ttl) = self.model.leases.get(&lease).map(|lease| lease.ttl) else { return };
        let Some(renewed) = self.renewed.get(&lease).filter(|_| is_expiry) else { return };
        let lived = now.saturating_sub(*renewed);
        let least = Duration::from_secs(ttl as u64).mul_f64(DRIFT);
        assert!(lived >= least, "lease {lease:x} of {ttl} s ended {lived:?} after it was renewed");
        self.expired += 1;
    }

    /// A member proposes to end a lease that ran out.
    pub(super) fn expires(&mut self, request: u64) {
        self.expiries.insert(request);
    }

    /// A renewal or grant that was asked for at `invoked` was answered.
    pub(super) fn renewed(&mut self, lease: i64, invoked: Duration) {
        self.renewed.insert(lease, invoked);
        self.checked += 1;
    }

    pub(super) fn dropped(&mut self, request: u64) {
        assert!(self.model.verdict(request).is_none(), "request {request:x} was carried out and said to be dropped");
        self.dropped.insert(request);
    }

    /// A write was answered. `floor` is of when it was asked for.
    pub(super) fn wrote(&mut self, request: u64, answer: &Applied, floor: i64) {
        if let Err(forebay_proto::Error::LeaderChanged | forebay_proto::Error::Stopped) = answer {
            return;
        }
        let verdict = self.model.verdict(request);
        let verdict = verdict.unwrap_or_else(|| panic!("request {request:x} was acknowledged and is not in the log"));
        let told = match answer {
            Err(_) => None,
            Ok(Outcome::Put(put)) => Some((put.revision, 0, true)),
            Ok(Outcome::DeleteRange(delete)) => Some((delete.revision, delete.deleted, true)),
            Ok(Outcome::Txn(txn)) => Some((txn.revision, -1, txn.succeeded)),
            // Their headers are filled in with whatever is current.
            Ok(_) => Some((-1, -1, true)),
        };
        match (told, verdict) {
            (None, Verdict::Refused) => {}
            (Some(told), Verdict::Done { revision, deleted, succeeded }) => {
                let fits = (told.0 == revision || told.0 == -1) && (told.1 == deleted || told.1 == -1);
                assert!(fits && told.2 == succeeded, "request {request:x}: told {told:?}, but it was {verdict:?}");
                assert!(revision >= floor, "a write at {revision} was asked for after {floor} was told");
                if told.0 != -1 {
                    self.floor = self.floor.max(revision);
                }
            }
            _ => panic!("request {request:x}: told {answer:?}, but it was {verdict:?}"),
        }
        self.checked += 1;
    }

    /// A read was answered. A serializable one may be of any time, but must be of one.
    pub(super) fn read(&mut self, request: &RangeRequest, result: &RangeResult, floor: i64) {
        let at = if request.revision > 0 { request.revision } else { result.revision };
        if !request.serializable {
            assert!(result.revision >= floor, "a read at {} was asked for after {floor} was told", result.revision);
            self.floor = self.floor.max(result.revision);
        }
        let expected = self.model.range(&request.key, &request.range_end, at);
        let same = expected.len() == result.kvs.len()
            && expected.iter().zip(&result.kvs).all(|((key, version), found)| {
                let value: &[u8] = version.value.as_deref().unwrap_or_default();
                key[..] == *found.key()
                    && (version.modified, version.created, version.version, version.lease)
                        == (found.mod_revision(), found.create_revision(), found.version(), found.lease())
                    && value == found.value()
            });
        assert!(same, "a read at {at} found {:?} and not {expected:?}", result.kvs);
        self.checked += 1;
    }
}
