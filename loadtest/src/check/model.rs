//! What etcd's operations do, as plainly as it can be said.
//!
//! It shares no code with any server: what is wrong here should not be wrong there in the same way. Every version of
//! every key is kept, so that a revision can be read again, and taken back.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op, response_op,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};

/// Why an operation has no outcome that could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// etcd refuses it.
    Refused,
    /// It reads what was before the model began, or asks for an order that is nobody's promise. A range within a txn
    /// that does so has no response, and does not keep the txn from having its own.
    Unknown,
}

/// A key space with all its past.
#[derive(Clone, Debug, Default)]
pub struct Model {
    first: i64,
    revision: i64,
    /// By key: what it became at which revision, ascending; nothing where it was deleted.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
}

impl Model {
    /// Begins with these keys.
    pub fn new(revision: i64, kvs: &[KeyValue]) -> Model {
        let keys = kvs.iter().map(|kv| (kv.key.clone(), vec![(kv.mod_revision, Some(kv.clone()))])).collect();
        Model { first: revision, revision, keys }
    }

    /// The last revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// A key as it was.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        Self::version(self.keys.get(key)?, revision)
    }

    fn version(versions: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
        versions[..versions.partition_point(|(at, _)| *at <= revision)].last()?.1.as_ref()
    }

    fn keys_in(&self, range: &KeyRange, revision: i64) -> impl Iterator<Item = &KeyValue> {
        self.keys
            .range::<[u8], _>((std::ops::Bound::Included(range.start()), std::ops::Bound::Unbounded))
            .take_while(|(key, _)| !range.is_past(key))
            .filter_map(move |(_, versions)| Self::version(versions, revision))
    }

    /// Does an operation. If it changes anything, that is the next revision; else the revision stays.
    pub fn execute(&mut self, request: &request_op::Request) -> Result<(response_op::Response, Vec<Event>), Past> {
        let mut events = Vec::new();
        match self.run(request, &mut events) {
            Ok(response) => {
                self.revision += i64::from(!events.is_empty());
                Ok((response, events))
            }
            Err(error) => {
                self.forget(&events);
                Err(error)
            }
        }
    }

    /// Takes a lease away.
    pub fn revoke(&mut self, lease: i64) -> Vec<Event> {
        let mut events = Vec::new();
        let held = |kv: &&KeyValue| kv.lease == lease;
        let keys: Vec<Bytes> =
            self.keys_in(&KeyRange::all(), self.revision).filter(held).map(|kv| kv.key.clone()).collect();
        for key in keys {
            self.change(key, None, &mut events);
        }
        self.revision += i64::from(!events.is_empty());
        events
    }

    /// Takes up a revision of which only the events are known.
    pub fn follow(&mut self, events: &[Event]) {
        self.revision += 1;
        for event in events {
            let kv = event.kv.clone().unwrap_or_default();
            let now = (event.r#type == EventType::Put as i32).then(|| kv.clone());
            self.keys.entry(kv.key).or_default().push((self.revision, now));
        }
    }

    /// Takes the last revision back, which had these events.
    pub fn undo(&mut self, events: &[Event]) {
        self.forget(events);
        self.revision -= 1;
    }

    fn forget(&mut self, events: &[Event]) {
        for event in events {
            let key = event.kv.as_ref().map(|kv| &kv.key[..]).unwrap_or_default();
            if let Some(versions) = self.keys.get_mut(key) {
                versions.pop();
            }
        }
    }

    /// Within an operation, its own changes are at the next revision, and are seen.
    fn run(&mut self, request: &request_op::Request, events: &mut Vec<Event>) -> Result<response_op::Response, Past> {
        use request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
        use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
        Ok(match request {
            RequestRange(request) => ResponseRange(self.range(request, !events.is_empty())?),
            RequestPut(request) => ResponsePut(self.put(request, events)?),
            RequestDeleteRange(request) => ResponseDeleteRange(self.delete(request, events)),
            RequestTxn(request) => {
                let mut branches = Vec::new();
                self.decide(request, &mut branches);
                ResponseTxn(self.txn(request, &mut branches.into_iter(), events)?)
            }
        })
    }

    fn range(&self, request: &RangeRequest, after_changes: bool) -> Result<RangeResponse, Past> {
        let current = self.revision + i64::from(after_changes);
        let revision = match request.revision {
            revision if revision > current => return Err(Past::Refused),
            revision if revision > 0 => revision,
            _ => self.revision + 1,
        };
        let is_sorted_by_key = request.sort_target() == SortTarget::Key;
        if revision < self.first || !is_sorted_by_key {
            return Err(Past::Unknown);
        }
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let within = |min: i64, value: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        let mut kvs: Vec<KeyValue> = self.keys_in(&range, revision).cloned().collect();
        let count = i64::try_from(kvs.len()).expect("a count fits");
        if request.count_only {
            return Ok(RangeResponse { count, ..Default::default() });
        }
        kvs.retain(|kv| {
            within(request.min_mod_revision, kv.mod_revision, request.max_mod_revision)
                && within(request.min_create_revision, kv.create_revision, request.max_create_revision)
        });
        if request.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| (kv.value, kv.lease) = (Bytes::new(), 0));
        }
        Ok(RangeResponse { header: None, kvs, more, count })
    }

    fn put(&mut self, request: &PutRequest, events: &mut Vec<Event>) -> Result<PutResponse, Past> {
        let at = self.revision + 1;
        let before = self.get(&request.key, at).cloned();
        if (request.ignore_value || request.ignore_lease) && before.is_none() {
            return Err(Past::Refused);
        }
        let old = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            value: if request.ignore_value { old.value } else { request.value.clone() },
            lease: if request.ignore_lease { old.lease } else { request.lease },
            create_revision: if before.is_some() { old.create_revision } else { at },
            mod_revision: at,
            version: old.version + 1,
        };
        self.change(request.key.clone(), Some(kv), events);
        Ok(PutResponse { header: None, prev_kv: before.filter(|_| request.prev_kv) })
    }

    fn delete(&mut self, request: &DeleteRangeRequest, events: &mut Vec<Event>) -> DeleteRangeResponse {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let found: Vec<KeyValue> = self.keys_in(&range, self.revision + 1).cloned().collect();
        for kv in &found {
            self.change(kv.key.clone(), None, events);
        }
        let deleted = i64::try_from(found.len()).expect("a count fits");
        DeleteRangeResponse { header: None, deleted, prev_kvs: if request.prev_kv { found } else { Vec::new() } }
    }

    /// Decides every txn within a txn, before any of them changes anything: each its own branch, then those within it.
    fn decide(&self, request: &TxnRequest, branches: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        branches.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(request_op::Request::RequestTxn(inner)) = &op.request {
                self.decide(inner, branches);
            }
        }
    }

    fn txn(
        &mut self,
        request: &TxnRequest,
        branches: &mut std::vec::IntoIter<bool>,
        events: &mut Vec<Event>,
    ) -> Result<TxnResponse, Past> {
        let succeeded = branches.next().expect("every txn was decided");
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().ok_or(Past::Refused)? {
                request_op::Request::RequestTxn(inner) => {
                    Ok(response_op::Response::ResponseTxn(self.txn(inner, branches, events)?))
                }
                request => self.run(request, events),
            };
            let response = match response {
                Err(Past::Refused) => return Err(Past::Refused),
                Err(Past::Unknown) => None,
                Ok(response) => Some(response),
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let mut found = self.keys_in(&range, self.revision).peekable();
        if found.peek().is_none() {
            // A key that is not there has no value to compare, and 0 for every number.
            return compare.target() != CompareTarget::Value && holds_for(compare, &KeyValue::default());
        }
        found.all(|kv| holds_for(compare, kv))
    }

    fn change(&mut self, key: Bytes, now: Option<KeyValue>, events: &mut Vec<Event>) {
        let at = self.revision + 1;
        let versions = self.keys.entry(key.clone()).or_default();
        let prev_kv = Self::version(versions, at).cloned();
        versions.push((at, now.clone()));
        let kind = if now.is_some() { EventType::Put } else { EventType::Delete };
        let kv = now.unwrap_or_else(|| KeyValue { key, mod_revision: at, ..Default::default() });
        events.push(Event { r#type: kind as i32, kv: Some(kv), prev_kv });
    }
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let number = match &compare.target_union {
        Some(
            TargetUnion::Version(number)
            | TargetUnion::CreateRevision(number)
            | TargetUnion::ModRevision(number)
            | TargetUnion::Lease(number),
        ) => *number,
        _ => 0,
    };
    let value = match &compare.target_union {
        Some(TargetUnion::Value(value)) => &value[..],
        _ => &[],
    };
    let order = match compare.target() {
        CompareTarget::Version => kv.version.cmp(&number),
        CompareTarget::Create => kv.create_revision.cmp(&number),
        CompareTarget::Mod => kv.mod_revision.cmp(&number),
        CompareTarget::Lease => kv.lease.cmp(&number),
        CompareTarget::Value => kv.value[..].cmp(value),
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}
