//! Evaluating requests: what a Range, Put, DeleteRange or Txn does and answers.
//!
//! Requests have passed [`crate::check`]. What can still be refused (a revision, a lease, a key that is not there) is
//! checked before anything is written; after that an evaluation does not fail.
//!
//! Results hold versions, not messages. [`Response`] writes them to the wire as they lie in memory.

mod chunks;
mod compare;
mod delete;
mod put;
mod range;
mod response;
#[cfg(test)]
mod tests;
mod txn;

pub use self::{
    chunks::{RangeChunk, RangeChunks, ResultChunks},
    delete::{DeleteRangeResult, delete_range},
    put::{Leases, PutResult, put},
    range::{RangeResult, range},
    response::Response,
    txn::{OpResult, TxnResult, is_read_only, is_serializable, ranges, txn, txn_read},
};
