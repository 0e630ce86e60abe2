//! Txn: conditions, checks, execution, in that order.

use forebay_proto::{
    Error,
    etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request},
};

use super::{
    compare,
    delete::{DeleteRangeResult, delete_range},
    put::{self, Leases, PutResult},
    range::{RangeResult, range},
};
use crate::{reader::Snapshot, record::Version, store::WriteTxn};

/// What a Txn answers.
#[derive(Clone, Debug)]
pub struct TxnResult {
    /// The revision after the txn; 0 in a nested one.
    pub revision: i64,
    /// Which branch ran.
    pub succeeded: bool,
    /// What its operations answer, one each.
    pub responses: Vec<OpResult>,
}

/// What one operation of a txn answers.
#[derive(Clone, Debug)]
pub enum OpResult {
    /// Of a Range.
    Range(RangeResult),
    /// Of a Put.
    Put(PutResult),
    /// Of a DeleteRange.
    DeleteRange(DeleteRangeResult),
    /// Of a nested Txn.
    Txn(TxnResult),
    /// Of an operation that says nothing.
    Nothing,
}

/// Whether a txn is evaluated as a read: both branches have nothing but ranges. A nested txn makes it a write, whatever
/// is in there.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a txn is content with the local state: each operation of both branches is a serializable range. That is so of
/// a txn without operations too, although its conditions may then be evaluated on an old state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// The ranges of both branches, those of nested txns left aside.
pub fn ranges(request: &TxnRequest) -> impl Iterator<Item = &RangeRequest> {
    ops(request).filter_map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Evaluates a Txn that writes, or may. An error means that nothing was written.
pub fn txn(txn: &mut WriteTxn<'_>, leases: &impl Leases, request: &TxnRequest) -> Result<TxnResult, Error> {
    let before = txn.snapshot();
    let mut plan = Plan::of(&before, request);
    plan.check(&before, leases)?;
    let result = plan.execute(&mut State::Write(txn))?;
    Ok(TxnResult { revision: txn.revision(), ..result })
}

/// Evaluates a Txn that [`is_read_only`].
pub fn txn_read(snapshot: &Snapshot<'_>, request: &TxnRequest) -> Result<TxnResult, Error> {
    let mut plan = Plan::of(snapshot, request);
    plan.check(snapshot, &|_| true)?;
    let result = plan.execute(&mut State::Read(snapshot))?;
    Ok(TxnResult { revision: snapshot.revision(), ..result })
}

/// The branches that the state before the txn decides for, nested ones included.
struct Plan<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Range(&'t RangeRequest),
    /// With the version that `ignore_value` or `ignore_lease` refers to.
    Put(&'t PutRequest, Option<Version>),
    DeleteRange(&'t DeleteRangeRequest),
    Txn(Plan<'t>),
    Nothing,
}

/// What a txn works on.
enum State<'s, 'k> {
    Read(&'s Snapshot<'s>),
    Write(&'s mut WriteTxn<'k>),
}

impl<'t> Plan<'t> {
    fn of(snapshot: &Snapshot<'_>, request: &'t TxnRequest) -> Plan<'t> {
        let succeeded = compare::all_hold(snapshot, &request.compare);
        let taken = if succeeded { &request.success } else { &request.failure };
        let step = |op: &'t RequestOp| match &op.request {
            Some(Request::RequestRange(request)) => Step::Range(request),
            Some(Request::RequestPut(request)) => Step::Put(request, None),
            Some(Request::RequestDeleteRange(request)) => Step::DeleteRange(request),
            Some(Request::RequestTxn(request)) => Step::Txn(Plan::of(snapshot, request)),
            None => Step::Nothing,
        };
        Plan { succeeded, steps: taken.iter().map(step).collect() }
    }

    /// Checks everything that could fail, on the state before the txn. So a key that the txn itself creates does not
    /// serve `ignore_value`, and the revision that it makes cannot be read at.
    fn check(&mut self, snapshot: &Snapshot<'_>, leases: &impl Leases) -> Result<(), Error> {
        for step in &mut self.steps {
            match step {
                Step::Range(request) => check_revision(snapshot, request.revision)?,
                Step::Put(request, referred) => *referred = put::check(snapshot, leases, request)?,
                Step::Txn(plan) => plan.check(snapshot, leases)?,
                Step::DeleteRange(_) | Step::Nothing => {}
            }
        }
        Ok(())
    }

    /// Runs the steps. Of a write txn that was checked it does not fail.
    fn execute(&self, state: &mut State<'_, '_>) -> Result<TxnResult, Error> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            responses.push(match (step, &mut *state) {
                (Step::Range(request), State::Read(snapshot)) => OpResult::Range(range(snapshot, request)?),
                (Step::Range(request), State::Write(txn)) => OpResult::Range(range(&txn.snapshot(), request)?),
                (Step::Put(request, referred), State::Write(txn)) => {
                    OpResult::Put(put::write(txn, request, referred.as_ref()))
                }
                (Step::DeleteRange(request), State::Write(txn)) => OpResult::DeleteRange(delete_range(txn, request)),
                (Step::Txn(plan), _) => OpResult::Txn(plan.execute(state)?),
                (Step::Nothing, _) => OpResult::Nothing,
                (Step::Put(..) | Step::DeleteRange(_), State::Read(_)) => {
                    unreachable!("a txn that is read only has nothing but ranges")
                }
            });
        }
        Ok(TxnResult { revision: 0, succeeded: self.succeeded, responses })
    }
}

/// Unlike a Range by itself, one in a txn does not read the current revision when it asks for a negative one, unless
/// nothing was ever compacted and it asks for -1.
fn check_revision(snapshot: &Snapshot<'_>, asked: i64) -> Result<(), Error> {
    match asked {
        0 => Ok(()),
        _ if asked > snapshot.revision() => Err(Error::FutureRev),
        _ if asked < snapshot.compacted_revision() => Err(Error::Compacted),
        _ => Ok(()),
    }
}
