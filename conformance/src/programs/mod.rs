//! Random programs: the same requests in lock-step on the reference and on a target.
//!
//! A program is a list of operations made from a seed and nothing else, so a seed is enough to run it
//! again. When an answer differs, operations are dropped for as long as something still differs: what is
//! left is printed with the seed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use forebay_proto::etcdserverpb as pb;

use crate::{
    diff::differences,
    outcome::Step,
    runner::Pair,
    session::Session,
    target::{Kind, Target},
};

mod generate;
mod ties;

pub use generate::{Generator, generate};
pub(crate) use ties::settle;

/// One operation of a program.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// KV.Range.
    Range(pb::RangeRequest),
    /// KV.RangeStream, which releases before 3.7 do not have.
    RangeStream(pb::RangeRequest),
    /// KV.Put.
    Put(pb::PutRequest),
    /// KV.DeleteRange.
    Delete(pb::DeleteRangeRequest),
    /// KV.Txn.
    Txn(pb::TxnRequest),
    /// KV.Compact.
    Compact(pb::CompactionRequest),
    /// Lease.LeaseGrant.
    Grant(pb::LeaseGrantRequest),
    /// Lease.LeaseRevoke.
    Revoke(pb::LeaseRevokeRequest),
    /// Lease.LeaseTimeToLive.
    TimeToLive(pb::LeaseTimeToLiveRequest),
    /// Lease.LeaseLeases.
    Leases,
    /// Maintenance.HashKV.
    HashKv(pb::HashKvRequest),
    /// Maintenance.Defragment.
    Defragment,
}

impl Op {
    /// Sends the operation; the answer is the session's last step.
    pub async fn send(&self, s: &mut Session) {
        match self.clone() {
            Op::Range(request) => {
                // Which of several equal keys a sort puts first is nobody's promise.
                let answer = s.range_quietly(request.clone()).await;
                let answer = answer.map(|response| ties::settle(&request, response));
                s.record("range", &request, &answer);
            }
            Op::RangeStream(request) => drop(s.range_stream(request).await),
            Op::Put(request) => drop(s.put(request).await),
            Op::Delete(request) => drop(s.delete(request).await),
            Op::Txn(request) => drop(s.txn(request).await),
            Op::Compact(request) => drop(s.compact(request).await),
            Op::Grant(request) => drop(s.grant(request).await),
            Op::Revoke(request) => drop(s.revoke(request).await),
            Op::TimeToLive(request) => drop(s.time_to_live(request).await),
            Op::Leases => drop(s.leases(pb::LeaseLeasesRequest {}).await),
            Op::HashKv(request) => drop(s.hash_kv(request).await),
            Op::Defragment => drop(s.defragment(pb::DefragmentRequest {}).await),
        }
    }
}

/// How long the search for a shorter program may take.
const SHRINK_LIMIT: Duration = Duration::from_secs(30);

/// Runs the program of a seed; the text of the failure, if there is one.
pub async fn check(kind: Kind, seed: u64, length: usize) -> anyhow::Result<Option<String>> {
    let program = generate(seed, length);
    let Some(first) = run(kind, &program).await? else { return Ok(None) };
    let (program, last) = shrink(kind, program, first).await?;
    let ops: Vec<String> = program.iter().map(|op| format!("  {op:?}")).collect();
    Ok(Some(format!(
        "seed {seed} on {kind}: {last}\nshrunk to {} of {length} operations:\n{}\nagain: SEED={seed} cargo test -p forebay-conformance programs\n",
        program.len(),
        ops.join("\n"),
    )))
}

/// How many requests of each method the reference accepts in the program of a seed, and of how many:
/// a program that is refused throughout compares nothing.
pub async fn accepted(seed: u64, length: usize) -> anyhow::Result<BTreeMap<String, (usize, usize)>> {
    let target = Target::start(Kind::REFERENCE, &[]).await?;
    let mut session = Session::open(&target).await?;
    for op in generate(seed, length) {
        op.send(&mut session).await;
    }
    let mut methods: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for Step { call, outcome } in &session.steps {
        let method = call.split(' ').next().unwrap_or_default();
        let (accepted, all) = methods.entry(method.to_owned()).or_default();
        *accepted += usize::from(outcome.get("error").is_none() && outcome["end"].get("error").is_none());
        *all += 1;
    }
    Ok(methods)
}

/// Runs a program on a fresh pair; the first difference, if there is one.
async fn run(kind: Kind, program: &[Op]) -> anyhow::Result<Option<String>> {
    let mut pair = Pair::start(kind, &[]).await?;
    for op in program {
        if let Some(difference) = in_lock_step(&mut pair, op).await? {
            return Ok(Some(difference));
        }
    }
    // The present, and every revision that both still have, in order and by hash.
    let last = pair.reference.1.revision().await?;
    for revision in std::iter::once(0).chain((1..=last).rev().step_by(1 + usize::try_from(last).unwrap_or(0) / 12)) {
        let everything = pb::RangeRequest { revision, ..crate::cases::requests::all() };
        for op in [Op::HashKv(pb::HashKvRequest { revision }), Op::Range(everything)] {
            if let Some(difference) = in_lock_step(&mut pair, &op).await? {
                return Ok(Some(difference));
            }
        }
    }
    Ok(None)
}

async fn in_lock_step(pair: &mut Pair, op: &Op) -> anyhow::Result<Option<String>> {
    let (reference, target) = (&mut pair.reference.1, &mut pair.target.1);
    tokio::join!(op.send(reference), op.send(target));
    let last = |session: &Session| session.steps.last().cloned().context("an operation leaves a step");
    let (reference, target): (Step, Step) = (last(reference)?, last(target)?);
    let found = differences(&reference.outcome, &target.outcome);
    Ok((!found.is_empty()).then(|| {
        let list: Vec<String> = found.iter().map(|difference| format!("\n    {difference}")).collect();
        format!("{}{}", reference.call, list.concat())
    }))
}

/// Drops ever smaller pieces of the program for as long as it still fails.
async fn shrink(kind: Kind, mut program: Vec<Op>, mut failure: String) -> anyhow::Result<(Vec<Op>, String)> {
    let started = Instant::now();
    let mut piece = program.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < program.len() {
            if started.elapsed() > SHRINK_LIMIT {
                return Ok((program, failure));
            }
            let end = program.len().min(at + piece);
            let shorter = [&program[..at], &program[end..]].concat();
            match run(kind, &shorter).await? {
                Some(still) => (program, failure) = (shorter, still),
                None => at = end,
            }
        }
        piece /= 2;
    }
    Ok((program, failure))
}
