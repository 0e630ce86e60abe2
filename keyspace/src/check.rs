//! What can be said against a request before any state is looked at.
//!
//! The order of the checks is etcd's, because it decides which error a request with several faults gets.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use forebay_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use forebay_proto::etcdserverpb::request_op::Request;
use forebay_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use forebay_proto::{Error, KeyRange};

/// Checks a range.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if !known {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Why a RangeStream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeStreamError {
    /// For what a Range is refused for.
    #[error(transparent)]
    Range(#[from] Error),
    /// It asks for an order that needs all keys at once. The code is UNIMPLEMENTED.
    #[error("RangeStream does not support custom sort orders")]
    Order,
    /// It asks for filters, which would make the count unknown. The code is UNIMPLEMENTED.
    #[error("RangeStream does not support revision filters")]
    Filters,
}

/// Checks a RangeStream.
pub fn range_stream(request: &RangeRequest) -> Result<(), RangeStreamError> {
    range(request)?;
    match (request.sort_order(), request.sort_target()) {
        // Without an order the target is ignored.
        (SortOrder::None, _) | (SortOrder::Ascend, SortTarget::Key) => {}
        _ => return Err(RangeStreamError::Order),
    }
    if has_revision_filters(request) { Err(RangeStreamError::Filters) } else { Ok(()) }
}

/// Whether a range asks for some keys only, by when they were created or changed.
pub fn has_revision_filters(request: &RangeRequest) -> bool {
    let RangeRequest { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, .. } = *request;
    [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] != [0; 4]
}

/// Checks a put.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a txn and everything in it. `max_ops` bounds the longest of its three lists; a nested txn has what its parent's
/// longest list leaves.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    operations(request, max_ops)?;
    Written::by(&request.success)?;
    Written::by(&request.failure)?;
    Ok(())
}

fn operations(request: &TxnRequest, budget: usize) -> Result<(), Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = budget.checked_sub(longest).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => operations(request, left)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What one branch of a txn writes, its nested txns included: no key may be put twice, or put and deleted.
///
/// Two holes are etcd's and stay open, since clients may rely on them: a deletion without an end covers no put, and a
/// put of one nested txn may be deleted by a later one. The operations run in their order then.
#[derive(Debug, Default)]
struct Written<'t> {
    puts: HashSet<&'t Bytes>,
    deletes: Spans<'t>,
}

impl<'t> Written<'t> {
    fn by(ops: &'t [RequestOp]) -> Result<Written<'t>, Error> {
        let mut written = Written::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                written.deletes.insert(KeyRange::new(delete.key.clone(), delete.range_end.clone()), delete);
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                let success = Written::by(&nested.success)?;
                let failure = Written::by(&nested.failure)?;
                for key in &success.puts {
                    written.put(key)?;
                }
                // Only one of both branches runs, so they may put the same key.
                for key in failure.puts.difference(&success.puts) {
                    written.put(key)?;
                }
                written.deletes.extend(success.deletes);
                written.deletes.extend(failure.deletes);
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                written.put(&put.key)?;
            }
        }
        Ok(written)
    }

    fn put(&mut self, key: &'t Bytes) -> Result<(), Error> {
        let fresh = !self.deletes.contains(key) && self.puts.insert(key);
        if fresh { Ok(()) } else { Err(Error::DuplicateKey) }
    }
}

/// A set of keys, kept as disjoint spans from a start to an end, so that a hostile txn of a hundred thousand deletions
/// costs no more than sorting them.
#[derive(Debug, Default)]
struct Spans<'t>(BTreeMap<&'t [u8], End<'t>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End<'t> {
    /// Through this key.
    Through(&'t [u8]),
    /// Up to this key, which is not part of it. (A key that ends where another begins sorts behind it.)
    Before(&'t [u8]),
}

impl<'t> Spans<'t> {
    fn insert(&mut self, range: KeyRange, delete: &'t DeleteRangeRequest) {
        match range {
            KeyRange::Key(_) => self.add(&delete.key, End::Through(&delete.key)),
            KeyRange::Range(..) if range.is_empty() => {}
            KeyRange::Range(..) => self.add(&delete.key, End::Before(&delete.range_end)),
            KeyRange::From(_) => {}
        }
    }

    fn extend(&mut self, other: Spans<'t>) {
        for (start, end) in other.0 {
            self.add(start, end);
        }
    }

    fn add(&mut self, start: &'t [u8], end: End<'t>) {
        let (mut start, mut end) = (start, end);
        if let Some((before, its_end)) = self.0.range(..=start).next_back().map(|(start, end)| (*start, *end))
            && its_end.covers(start)
        {
            start = before;
            end = end.max_with(its_end);
        }
        while let Some((next, its_end)) = self.0.range(start..).next().map(|(start, end)| (*start, *end)) {
            if !end.covers(next) {
                break;
            }
            end = end.max_with(its_end);
            self.0.remove(next);
        }
        self.0.insert(start, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.0.range(..=key).next_back().is_some_and(|(_, end)| end.covers(key))
    }
}

impl<'t> End<'t> {
    /// Whether a key at or behind the start is inside.
    fn covers(self, key: &[u8]) -> bool {
        match self {
            End::Through(last) => key <= last,
            End::Before(end) => key < end,
        }
    }

    fn max_with(self, other: End<'t>) -> End<'t> {
        let (End::Through(mine) | End::Before(mine)) = self;
        let (End::Through(theirs) | End::Before(theirs)) = other;
        match mine.cmp(theirs) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal if matches!(self, End::Through(_)) => self,
            std::cmp::Ordering::Equal => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::etcdserverpb::Compare;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn puts(key: &str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }))
    }

    fn deletes(key: &str, end: &str) -> RequestOp {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        op(Request::RequestDeleteRange(DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false }))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest { compare: Vec::new(), success, failure }))
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Error> {
        txn(&TxnRequest { success, ..Default::default() }, 128)
    }

    #[test]
    fn one_branch_puts_a_key_once() {
        assert_eq!(check(vec![puts("a"), puts("b")]), Ok(()));
        assert_eq!(check(vec![puts("a"), puts("a")]), Err(Error::DuplicateKey));
        let both = TxnRequest { success: vec![puts("a")], failure: vec![puts("a")], ..Default::default() };
        assert_eq!(txn(&both, 128), Ok(()));
    }

    #[test]
    fn a_put_inside_a_deleted_range_is_a_duplicate_in_any_order() {
        for (key, end) in [("a", ""), ("a", "c"), ("0", "b")] {
            assert_eq!(check(vec![puts("a"), deletes(key, end)]), Err(Error::DuplicateKey), "{key} {end}");
            assert_eq!(check(vec![deletes(key, end), puts("a")]), Err(Error::DuplicateKey), "{key} {end}");
        }
        for (key, end) in [("b", ""), ("0", "a"), ("b", "c"), ("c", "a")] {
            assert_eq!(check(vec![puts("a"), deletes(key, end)]), Ok(()), "{key} {end}");
        }
        assert_eq!(check(vec![deletes("a", "c"), deletes("b", "d")]), Ok(()));
    }

    #[test]
    fn a_deletion_without_an_end_covers_no_put() {
        assert_eq!(check(vec![deletes("a", "\0"), puts("b")]), Ok(()));
    }

    #[test]
    fn nested_txns_share_keys_only_between_their_branches() {
        assert_eq!(check(vec![nested(vec![puts("a")], vec![puts("a")])]), Ok(()));
        assert_eq!(
            check(vec![nested(vec![puts("a")], vec![]), nested(vec![], vec![puts("a")])]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(check(vec![nested(vec![puts("a")], vec![]), puts("a")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![nested(vec![puts("a")], vec![]), deletes("a", "")]), Err(Error::DuplicateKey));
        assert_eq!(check(vec![nested(vec![deletes("a", "")], vec![]), puts("a")]), Err(Error::DuplicateKey));
    }

    #[test]
    fn a_later_sibling_may_delete_what_an_earlier_one_put() {
        let put = || nested(vec![puts("a")], vec![]);
        let delete = || nested(vec![deletes("a", "")], vec![]);
        assert_eq!(check(vec![put(), delete()]), Ok(()));
        assert_eq!(check(vec![delete(), put()]), Err(Error::DuplicateKey));
    }

    #[test]
    fn each_level_has_what_its_parent_leaves() {
        let many = |count: usize| (0..count).map(|n| puts(&format!("k{n}"))).collect::<Vec<_>>();
        assert_eq!(check(many(128)), Ok(()));
        assert_eq!(check(many(129)), Err(Error::TooManyOps));
        assert_eq!(check(vec![nested(many(127), vec![])]), Ok(()));
        assert_eq!(check(vec![nested(many(128), vec![])]), Err(Error::TooManyOps));
        let compares = vec![Compare { key: "a".into(), ..Default::default() }; 129];
        assert_eq!(txn(&TxnRequest { compare: compares, ..Default::default() }, 128), Err(Error::TooManyOps));
    }

    #[test]
    fn every_part_of_a_txn_is_checked() {
        assert_eq!(check(vec![RequestOp { request: None }]), Err(Error::KeyNotFound));
        assert_eq!(check(vec![puts("")]), Err(Error::EmptyKey));
        assert_eq!(check(vec![deletes("", "a")]), Err(Error::EmptyKey));
        let compare = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
        assert_eq!(txn(&compare, 128), Err(Error::EmptyKey));
        assert_eq!(check(vec![nested(vec![], vec![RequestOp { request: None }])]), Err(Error::KeyNotFound));
        let unsorted = RangeRequest { key: "a".into(), sort_target: 9, ..Default::default() };
        assert_eq!(check(vec![op(Request::RequestRange(unsorted))]), Err(Error::InvalidSortOption));
    }

    #[test]
    fn puts_say_either_what_or_ignore() {
        let base = PutRequest { key: "a".into(), ..Default::default() };
        assert_eq!(
            put(&PutRequest { ignore_value: true, value: "v".into(), ..base.clone() }),
            Err(Error::ValueProvided)
        );
        assert_eq!(put(&PutRequest { ignore_lease: true, lease: 1, ..base.clone() }), Err(Error::LeaseProvided));
        assert_eq!(put(&PutRequest { ignore_lease: true, ignore_value: true, ..base }), Ok(()));
    }

    #[test]
    fn spans_agree_with_brute_force() {
        // Every pair of keys from a small alphabet, in an order made by a fixed generator.
        let keys: Vec<Vec<u8>> = (0..40u32)
            .map(|n| [vec![b'a' + (n / 8) as u8], vec![0; (n % 4) as usize], vec![b'x'; (n % 3) as usize]].concat())
            .collect();
        let mut state = 7u64;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        for _ in 0..300 {
            let requests: Vec<DeleteRangeRequest> = (0..6)
                .map(|_| {
                    let key = Bytes::from(keys[next(keys.len())].clone());
                    let range_end =
                        if next(3) == 0 { Bytes::new() } else { Bytes::from(keys[next(keys.len())].clone()) };
                    DeleteRangeRequest { key, range_end, prev_kv: false }
                })
                .collect();
            let mut spans = Spans::default();
            for request in &requests {
                spans.insert(KeyRange::new(request.key.clone(), request.range_end.clone()), request);
            }
            for key in &keys {
                let expected = requests
                    .iter()
                    .any(|request| KeyRange::new(request.key.clone(), request.range_end.clone()).contains(key));
                assert_eq!(spans.contains(key), expected, "{key:?} in {requests:?}");
            }
        }
    }
}
