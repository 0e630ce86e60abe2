//! DeleteRange.

use forebay_proto::{KeyRange, etcdserverpb::DeleteRangeRequest};

use crate::{record::Version, store::WriteTxn};

/// What a DeleteRange answers.
#[derive(Clone, Debug)]
pub struct DeleteRangeResult {
    /// The revision of the deletion; the current one if nothing was deleted.
    pub revision: i64,
    /// How many keys.
    pub deleted: i64,
    /// What they were, if that was asked for, in the order of keys.
    pub prev: Vec<Version>,
}

/// Evaluates a DeleteRange, which cannot fail.
pub fn delete_range(txn: &mut WriteTxn<'_>, request: &DeleteRangeRequest) -> DeleteRangeResult {
    let mut prev = txn.delete_range(&KeyRange::new(request.key.clone(), request.range_end.clone()));
    let deleted = prev.len() as i64;
    if !request.prev_kv {
        prev.clear();
    }
    DeleteRangeResult { revision: txn.revision(), deleted, prev }
}
