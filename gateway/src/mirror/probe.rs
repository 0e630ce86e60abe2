//! The read with which the upstream is asked whether a request may be answered from the mirror.
//!
//! One small request asks everything at once, under the caller's own token, so that the upstream itself judges:
//!
//! - its header is the revision that is safe to read at: the request is linearizable, unless the reads it is for are not;
//! - a token that is not valid, or no token while auth is enabled, fails it;
//! - every range that is to be read stands in the branch of the txn that is not taken. It is never evaluated, but etcd
//!   checks the right to it, so a range that this user may not read fails the request at the cost of reading no key;
//! - the lowest revision that is to be read at stands in the branch that is taken, as a read of a key that cannot be
//!   there: it fails if that revision is compacted, whoever compacted it.
//!
//! A request without ranges and revisions is a plain read of that key, which is cheaper still.

use std::collections::HashSet;

use bytes::Bytes;
use forebay_proto::{
    KeyRange,
    etcdserverpb::{RangeRequest, RequestOp, TxnRequest, request_op},
};

use super::config::pair;

/// etcd's default `--max-txn-ops`, which bounds the ranges of one request.
const RANGES_MAX: usize = 128;

/// What is asked for one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    /// The right to read this range. Absent where there is nobody whose right it could be.
    pub(super) range: Option<KeyRange>,
    /// That this revision is not compacted; 0 asks nothing.
    pub(super) revision: i64,
}

/// What is asked for all reads of one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    ranges: HashSet<KeyRange>,
    /// The lowest; 0 for none.
    revision: i64,
}

/// The request of one round.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Probe {
    Range(RangeRequest),
    Txn(TxnRequest),
}

impl Wants {
    /// Adds what one more read asks; returns whether there was room for it.
    pub(super) fn add(&mut self, want: &Want) -> bool {
        if let Some(range) = &want.range
            && !self.ranges.contains(range)
        {
            if self.ranges.len() == RANGES_MAX {
                return false;
            }
            self.ranges.insert(range.clone());
        }
        if want.revision > 0 && (self.revision == 0 || want.revision < self.revision) {
            self.revision = want.revision;
        }
        true
    }

    /// The request that asks all of it. `key` is one that the gateway and, without ranges, anybody may ask for.
    pub(super) fn probe(&self, key: &Bytes, serializable: bool) -> Probe {
        let own = RangeRequest { key: key.clone(), revision: self.revision, serializable, ..Default::default() };
        if self.ranges.is_empty() {
            return Probe::Range(own);
        }
        let op = |range| RequestOp { request: Some(request_op::Request::RequestRange(range)) };
        // The key itself must be one the user may read, or the request would fail for the key's sake.
        let readable = self.ranges.iter().map(|range| pair(range).0).min();
        let taken = RangeRequest { key: readable.unwrap_or_default(), ..own };
        let success = if self.revision > 0 { vec![op(taken)] } else { Vec::new() };
        let failure = self.ranges.iter().map(|range| op(asking_for(range, serializable))).collect();
        Probe::Txn(TxnRequest { compare: Vec::new(), success, failure })
    }
}

fn asking_for(range: &KeyRange, serializable: bool) -> RangeRequest {
    let (key, range_end) = pair(range);
    RangeRequest { key, range_end, serializable, limit: 1, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(range: Option<(&'static [u8], &'static [u8])>, revision: i64) -> Want {
        let range = range.map(|(key, end)| KeyRange::new(Bytes::from_static(key), Bytes::from_static(end)));
        Want { range, revision }
    }

    const KEY: Bytes = Bytes::from_static(b"\0");

    #[test]
    fn b26_without_a_token_the_probe_is_a_read_of_one_key() {
        let mut wants = Wants::default();
        assert!(wants.add(&want(None, 0)));
        let expected = RangeRequest { key: KEY, ..Default::default() };
        assert_eq!(wants.probe(&KEY, false), Probe::Range(expected.clone()));
        for revision in [9, 7, 8] {
            assert!(wants.add(&want(None, revision)));
        }
        assert_eq!(wants.probe(&KEY, false), Probe::Range(RangeRequest { revision: 7, ..expected }));
    }

    #[test]
    fn b33_with_a_token_every_range_is_asked_for_in_the_branch_that_is_not_taken() {
        let mut wants = Wants::default();
        for _ in 0..2 {
            assert!(wants.add(&want(Some((b"b", b"")), 0)));
            assert!(wants.add(&want(Some((b"c", b"\0")), 0)));
        }
        let Probe::Txn(txn) = wants.probe(&KEY, false) else { panic!("a txn") };
        assert!(txn.compare.is_empty() && txn.success.is_empty());
        assert_eq!(txn.failure.len(), 2, "each range once");
        assert!(wants.add(&want(Some((b"b", b"d")), 5)));
        let Probe::Txn(txn) = wants.probe(&KEY, true) else { panic!("a txn") };
        let ranges = |ops: &[RequestOp]| -> Vec<RangeRequest> {
            ops.iter()
                .map(|op| match &op.request {
                    Some(request_op::Request::RequestRange(range)) => range.clone(),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let taken = ranges(&txn.success);
        assert_eq!((taken[0].key.as_ref(), taken[0].range_end.as_ref(), taken[0].revision), (&b"b"[..], &b""[..], 5));
        assert!(ranges(&txn.failure).iter().all(|range| range.serializable && range.revision == 0));
    }

    #[test]
    fn a_txn_has_no_more_ops_than_etcd_takes() {
        let mut wants = Wants::default();
        let range = |at: usize| Want { range: Some(KeyRange::Key(Bytes::from(at.to_string()))), revision: 0 };
        assert!((0..RANGES_MAX).all(|at| wants.add(&range(at))));
        assert!(!wants.add(&range(RANGES_MAX)) && wants.add(&range(0)));
    }
}
