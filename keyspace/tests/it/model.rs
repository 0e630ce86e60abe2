//! What the keyspace should do, said as plainly as possible: the whole state at every revision, in a list.

use std::collections::BTreeMap;

use forebay_keyspace::Revision;
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op,
    },
    mvccpb::KeyValue,
};
use prost::Message as _;

pub(crate) type State = BTreeMap<Vec<u8>, KeyValue>;

/// Leases with an id up to this exist.
pub(crate) const LEASES: i64 = 3;

pub(crate) struct Model {
    /// The state after each revision, from revision 1 on.
    states: Vec<State>,
    pub(crate) compacted: i64,
    /// Bucket `key`: whether it is a tombstone, and the record.
    pub(crate) bucket: BTreeMap<Revision, (bool, KeyValue)>,
    /// What changes go to the next revision.
    changes: Vec<(bool, KeyValue)>,
    /// The hashes that compactions computed: revision, compacted revision before, hash.
    hashes: Vec<(i64, i64, u32)>,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn key_range(key: &bytes::Bytes, end: &bytes::Bytes) -> KeyRange {
    KeyRange::new(key.clone(), end.clone())
}

impl Model {
    pub(crate) fn new() -> Model {
        Model {
            states: vec![State::new(), State::new()],
            compacted: -1,
            bucket: BTreeMap::new(),
            changes: Vec::new(),
            hashes: Vec::new(),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn state(&self, revision: i64) -> &State {
        &self.states[revision as usize]
    }

    /// A Range of the published state, or of what a txn has come to.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.range_in(&self.states[self.states.len() - 1], self.revision(), request)
    }

    /// `now` is the state at the revision `current`, which is not in the list while a txn is running.
    fn range_in(&self, now: &State, current: i64, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let state = match request.revision {
            asked if asked > current => return Err(Error::FutureRev),
            asked if asked > 0 && asked < self.compacted => return Err(Error::Compacted),
            asked if asked > 0 && asked < current => self.state(asked),
            _ => now,
        };
        let range = key_range(&request.key, &request.range_end);
        let mut kvs: Vec<KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        let mut response = RangeResponse { header: header(current), count, ..Default::default() };
        if request.count_only {
            return Ok(response);
        }
        let is_filtered = (request.min_mod_revision, request.max_mod_revision) != (0, 0)
            || (request.min_create_revision, request.max_create_revision) != (0, 0);
        if request.max_mod_revision != 0 {
            kvs.retain(|kv| kv.mod_revision <= request.max_mod_revision);
        }
        kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
        if request.max_create_revision != 0 {
            kvs.retain(|kv| kv.create_revision <= request.max_create_revision);
        }
        kvs.retain(|kv| kv.create_revision >= request.min_create_revision);
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        if request.sort_order() == SortOrder::None && !is_filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.sort_by(|a, b| {
            let ordering = match request.sort_target() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if request.sort_order() == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
                if request.sort_target() != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        let mut state = self.begin();
        check_put(&state, request)?;
        let before = state.clone();
        let response = self.put_in(&before, &mut state, request);
        self.end(state);
        Ok(response)
    }

    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut state = self.begin();
        let response = self.delete_in(&mut state, request);
        self.end(state);
        response
    }

    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let mut state = self.begin();
        let before = state.clone();
        self.check_txn(&before, request)?;
        let mut response = self.txn_in(&before, &mut state, request);
        self.end(state);
        response.header = header(self.revision());
        Ok(response)
    }

    fn begin(&self) -> State {
        assert!(self.changes.is_empty());
        self.states[self.states.len() - 1].clone()
    }

    fn end(&mut self, state: State) {
        if !self.changes.is_empty() {
            let main = self.revision() + 1;
            let revisions = (0..).map(|sub| Revision { main, sub });
            self.bucket.extend(revisions.zip(std::mem::take(&mut self.changes)));
            self.states.push(state);
        }
    }

    fn current_in_txn(&self) -> i64 {
        self.revision() + i64::from(!self.changes.is_empty())
    }

    fn put_in(&mut self, before: &State, state: &mut State, request: &PutRequest) -> PutResponse {
        let main = self.revision() + 1;
        let prev = state.get(&request.key[..]).cloned();
        let referred = before.get(&request.key[..]).cloned().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: prev.as_ref().map_or(main, |prev| prev.create_revision),
            mod_revision: main,
            version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
            value: if request.ignore_value { referred.value } else { request.value.clone() },
            lease: if request.ignore_lease { referred.lease } else { request.lease },
        };
        self.changes.push((false, kv.clone()));
        state.insert(request.key.to_vec(), kv);
        PutResponse { header: header(main), prev_kv: prev.filter(|_| request.prev_kv) }
    }

    fn delete_in(&mut self, state: &mut State, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = key_range(&request.key, &request.range_end);
        let deleted: Vec<KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        for kv in &deleted {
            state.remove(&kv.key[..]);
            self.changes.push((true, KeyValue { key: kv.key.clone(), ..Default::default() }));
        }
        DeleteRangeResponse {
            header: header(self.current_in_txn()),
            deleted: deleted.len() as i64,
            prev_kvs: if request.prev_kv { deleted } else { Vec::new() },
        }
    }

    fn check_txn(&self, before: &State, request: &TxnRequest) -> Result<(), Error> {
        for op in branch(before, request) {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) if range.revision > self.revision() => return Err(Error::FutureRev),
                Request::RequestRange(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(Error::Compacted);
                }
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
                Request::RequestPut(put) => check_put(before, put)?,
                Request::RequestTxn(txn) => self.check_txn(before, txn)?,
            }
        }
        Ok(())
    }

    fn txn_in(&mut self, before: &State, state: &mut State, request: &TxnRequest) -> TxnResponse {
        let mut responses = Vec::new();
        for op in branch(before, request) {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => response_op::Response::ResponseRange(
                    self.range_in(state, self.current_in_txn(), range).expect("checked before"),
                ),
                Request::RequestPut(put) => response_op::Response::ResponsePut(self.put_in(before, state, put)),
                Request::RequestDeleteRange(delete) => {
                    response_op::Response::ResponseDeleteRange(self.delete_in(state, delete))
                }
                Request::RequestTxn(txn) => response_op::Response::ResponseTxn(self.txn_in(before, state, txn)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        let succeeded = request.compare.iter().all(|compare| holds(before, compare));
        TxnResponse { header: header(0), succeeded, responses }
    }

    /// Compacts; returns what goes from the bucket.
    pub(crate) fn compact(&mut self, revision: i64, is_idle: bool) -> Result<Vec<(Revision, bool)>, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision() {
            return Err(Error::FutureRev);
        }
        if is_idle {
            let hash = self.hash_entries(revision, true);
            self.hashes.push((revision, self.compacted, hash));
            let outdated = self.hashes.len().saturating_sub(10);
            self.hashes.drain(..outdated);
        }
        self.compacted = revision;
        let goes = |(at, (tombstone, kv)): (&Revision, &(bool, KeyValue))| {
            let is_newest = !self
                .bucket
                .iter()
                .any(|(later, (_, other))| later > at && later.main <= revision && other.key == kv.key);
            let stays = at.main > revision || (at.main == revision && *tombstone) || (is_newest && !tombstone);
            (!stays).then_some((*at, *tombstone))
        };
        let gone: Vec<_> = self.bucket.iter().filter_map(goes).collect();
        for (at, _) in &gone {
            self.bucket.remove(at);
        }
        Ok(gone)
    }

    /// HashKV: hash, compacted revision, revision.
    pub(crate) fn hash(&self, revision: i64) -> Result<(u32, i64, i64), Error> {
        if let Some((revision, compacted, hash)) = self.hashes.iter().find(|(kept, ..)| *kept == revision) {
            return Ok((*hash, *compacted, *revision));
        }
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision() {
            return Err(Error::FutureRev);
        }
        let revision = if revision == 0 { self.revision() } else { revision };
        Ok((self.hash_entries(revision, false), self.compacted, revision))
    }

    pub(crate) fn forget_hashes(&mut self) {
        self.hashes.clear();
    }

    fn hash_entries(&self, revision: i64, in_compaction: bool) -> u32 {
        let mut keep = BTreeMap::new();
        let upto = || self.bucket.iter().filter(|(at, _)| at.main <= revision);
        for (at, (tombstone, kv)) in upto() {
            keep.insert(&kv.key, (*at, *tombstone));
        }
        for (at, (tombstone, kv)) in upto().rev() {
            if at.main == revision && *tombstone {
                keep.insert(&kv.key, (*at, true));
            }
        }
        let is_kept = |at: Revision, tombstone: bool| match tombstone {
            false => true,
            true => in_compaction && at.main == revision,
        };
        let keep: Vec<Revision> =
            keep.values().filter(|(at, tombstone)| is_kept(*at, *tombstone)).map(|(at, _)| *at).collect();
        let mut bytes = b"key".to_vec();
        for (at, (tombstone, kv)) in upto() {
            let is_compacted = at.main <= self.compacted && !keep.is_empty() && !keep.contains(at);
            let is_at_compaction = at.main == self.compacted && *tombstone;
            if !is_compacted && !is_at_compaction {
                bytes.extend(at.to_bytes());
                bytes.extend(tombstone.then_some(b't'));
                bytes.extend(kv.encode_to_vec());
            }
        }
        crc32c::crc32c(&bytes)
    }
}

fn check_put(before: &State, request: &PutRequest) -> Result<(), Error> {
    if request.lease > LEASES {
        return Err(Error::LeaseNotFound);
    }
    let refers = request.ignore_lease || request.ignore_value;
    if refers && !before.contains_key(&request.key[..]) { Err(Error::KeyNotFound) } else { Ok(()) }
}

fn branch<'t>(before: &State, request: &'t TxnRequest) -> &'t [RequestOp] {
    let succeeded = request.compare.iter().all(|compare| holds(before, compare));
    if succeeded { &request.success } else { &request.failure }
}

fn holds(before: &State, compare: &Compare) -> bool {
    let range = key_range(&compare.key, &compare.range_end);
    let mut kvs: Vec<&KeyValue> = before.values().filter(|kv| range.contains(&kv.key)).collect();
    let missing = KeyValue::default();
    let target = CompareTarget::try_from(compare.target);
    if kvs.is_empty() {
        if target == Ok(CompareTarget::Value) {
            return false;
        }
        kvs.push(&missing);
    }
    kvs.iter().all(|kv| {
        let ordering = match (target, &compare.target_union) {
            (Ok(CompareTarget::Value), Some(TargetUnion::Value(given))) => kv.value.cmp(given),
            (Ok(CompareTarget::Value), _) => kv.value[..].cmp(b""),
            (Ok(CompareTarget::Version), Some(TargetUnion::Version(given))) => kv.version.cmp(given),
            (Ok(CompareTarget::Version), _) => kv.version.cmp(&0),
            (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(given))) => kv.create_revision.cmp(given),
            (Ok(CompareTarget::Create), _) => kv.create_revision.cmp(&0),
            (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(given))) => kv.mod_revision.cmp(given),
            (Ok(CompareTarget::Mod), _) => kv.mod_revision.cmp(&0),
            (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(given))) => kv.lease.cmp(given),
            (Ok(CompareTarget::Lease), _) => kv.lease.cmp(&0),
            (Err(_), _) => std::cmp::Ordering::Equal,
        };
        match CompareResult::try_from(compare.result) {
            Ok(CompareResult::Equal) => ordering.is_eq(),
            Ok(CompareResult::NotEqual) => ordering.is_ne(),
            Ok(CompareResult::Greater) => ordering.is_gt(),
            Ok(CompareResult::Less) => ordering.is_lt(),
            Err(_) => true,
        }
    })
}
