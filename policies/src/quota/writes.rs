//! What a request would write.

use std::collections::BTreeMap;

use forebay_proto::{
    KeyRange,
    etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request},
};

use super::Objects;
use crate::KubernetesWrite;

/// The branch of a txn that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    Success,
    Failure,
    /// Its compares are not decided yet.
    Unknown,
}

/// The puts and deletes of a request.
#[derive(Clone, Debug, Default)]
pub struct Writes<'r> {
    /// Keys with the size of their new object. A put that keeps the value changes no size, and is not among them.
    puts: BTreeMap<&'r [u8], u64>,
    /// In order, and none overlaps another, so that no object is counted as freed twice.
    deletes: Vec<KeyRange>,
    /// Whether it is known which branches are taken, so that all of it comes true or nothing.
    certain: bool,
}

impl Branch {
    /// The branch that a txn takes whatever is carried out before it, as far as that is certain at a revision of the
    /// store: one without compares succeeds, and an update of an object that does not exist, as a Kubernetes API server
    /// writes it, fails. It will never have that revision again.
    pub fn certain(txn: &TxnRequest, revision: i64, objects: &impl Objects) -> Branch {
        match KubernetesWrite::of(txn) {
            _ if txn.compare.is_empty() => Branch::Success,
            Some(KubernetesWrite::Update { key, mod_revision })
                if mod_revision <= revision && objects.object(key).is_none() =>
            {
                Branch::Failure
            }
            _ => Branch::Unknown,
        }
    }
}

impl<'r> Writes<'r> {
    /// The write of a put.
    pub fn of_put(request: &'r PutRequest) -> Writes<'r> {
        let mut writes = Writes { certain: true, ..Writes::default() };
        writes.put(request);
        writes
    }

    /// The writes of a txn. `taken` says which branch each txn takes, the outer one and those inside. Where it does not
    /// know, both branches' puts count, and no delete is counted on.
    pub fn of_txn(txn: &'r TxnRequest, taken: &mut impl FnMut(&TxnRequest) -> Branch) -> Writes<'r> {
        let mut writes = Writes::default();
        writes.certain = writes.txn(txn, taken);
        if writes.certain {
            writes.deletes = disjoint(writes.deletes);
        } else {
            writes.deletes.clear();
        }
        writes
    }

    /// Whether nothing is written that could grow.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    /// The keys that are put, with the size of their objects.
    pub fn puts(&self) -> impl Iterator<Item = (&'r [u8], u64)> {
        self.puts.iter().map(|(key, size)| (*key, *size))
    }

    /// Whether it shrinks and deletes what it says.
    pub(super) fn is_certain(&self) -> bool {
        self.certain
    }

    /// Whether it may take as much away as it adds.
    pub(super) fn gives_up(&self) -> bool {
        self.certain && (!self.deletes.is_empty() || self.puts.len() > 1)
    }

    pub(super) fn puts_key(&self, key: &[u8]) -> bool {
        self.puts.contains_key(key)
    }

    pub(super) fn deletes(&self) -> &[KeyRange] {
        &self.deletes
    }

    fn txn(&mut self, txn: &'r TxnRequest, taken: &mut impl FnMut(&TxnRequest) -> Branch) -> bool {
        match taken(txn) {
            Branch::Success => self.ops(&txn.success, taken),
            Branch::Failure => self.ops(&txn.failure, taken),
            Branch::Unknown => {
                self.ops(&txn.success, taken);
                self.ops(&txn.failure, taken);
                false
            }
        }
    }

    /// Whether all branches of txns inside were known.
    fn ops(&mut self, ops: &'r [RequestOp], taken: &mut impl FnMut(&TxnRequest) -> Branch) -> bool {
        let mut certain = true;
        for op in ops {
            match &op.request {
                Some(Request::RequestPut(put)) => self.put(put),
                Some(Request::RequestDeleteRange(delete)) => {
                    self.deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                }
                Some(Request::RequestTxn(txn)) => certain &= self.txn(txn, taken),
                Some(Request::RequestRange(_)) | None => {}
            }
        }
        certain
    }

    /// Two branches may write the same key; then the larger object counts.
    fn put(&mut self, put: &'r PutRequest) {
        if put.ignore_value {
            return;
        }
        let size = (put.key.len() + put.value.len()) as u64;
        let entry = self.puts.entry(&put.key).or_insert(size);
        *entry = (*entry).max(size);
    }
}

/// The same keys in ranges that do not overlap, in order.
fn disjoint(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by(|a, b| a.start().cmp(b.start()));
    let mut merged: Vec<KeyRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.overlaps(&range) => *last = union(last, &range),
            _ => merged.push(range),
        }
    }
    merged
}

/// The keys of two ranges that overlap; `a` begins first.
fn union(a: &KeyRange, b: &KeyRange) -> KeyRange {
    match (a, b) {
        (KeyRange::From(_), _) | (_, KeyRange::Key(_)) => a.clone(),
        (KeyRange::Key(_), b) => b.clone(),
        (KeyRange::Range(start, _), KeyRange::From(_)) => KeyRange::From(start.clone()),
        (KeyRange::Range(start, end), KeyRange::Range(_, other)) => {
            KeyRange::Range(start.clone(), end.clone().max(other.clone()))
        }
    }
}
