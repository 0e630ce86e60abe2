//! Carries out committed entries: the one place where state changes.
//!
//! What an entry does depends on the log and the state alone, so that every member, and the same
//! member after a crash, ends up with the same bytes. The time that is passed in only says when a
//! lease of this member's table runs out, which is not part of the replicated state.

mod auth;
mod cost;
pub mod describe;
mod entry;
mod machine;
mod replica;
mod tally;

use forebay_keyspace::eval::{DeleteRangeResult, PutResult, TxnResult};
use forebay_proto::{Error, etcdserverpb::AlarmMember};
use tokio::sync::oneshot;

pub use auth::{Answer, Place};
pub use cost::{LEASE_COST, put as put_cost, txn as txn_cost};
pub use machine::{Machine, Restored};
pub use replica::Replica;
pub use tally::Tally;

use crate::lease::Grant;

/// What an entry did, for whoever proposed it.
#[derive(Debug)]
pub enum Outcome {
    /// A put, with what its answer needs.
    Put(PutResult),
    /// A deletion.
    DeleteRange(DeleteRangeResult),
    /// A txn.
    Txn(TxnResult),
    /// A compaction was accepted. The receiver resolves when the removed revisions are gone from
    /// the db file too; it fails if the member stops before.
    Compact(oneshot::Receiver<()>),
    /// A lease was granted.
    LeaseGrant(Grant),
    /// The alarms that an alarm request asked for or changed.
    Alarm(Vec<AlarmMember>),
    /// What was asked about users and roles.
    Auth(Answer),
    /// Nothing to tell but that it is done.
    Done,
}

/// An outcome, or why the entry was refused.
pub type Applied = Result<Outcome, Error>;
