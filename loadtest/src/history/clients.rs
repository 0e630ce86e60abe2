//! What the clients of a recording ask, and what they make of the answers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn},
    response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tonic::{Code, Status};

use super::Shared;
use crate::{
    bench::scenario::prefix_end,
    check::{Answer, Operation, Outcome, Refusal, Request, revision_of},
    client::{Connection, MAX_ANSWER},
};

/// After an answer that was no good.
const BACK_OFF: Duration = Duration::from_millis(30);

/// How far back reads at a revision go, and how far behind the present compactions stay.
const PAST: i64 = 200;

/// One client: asks and records until the recording is over.
pub async fn run(shared: Arc<Shared>, connection: Connection, number: usize) {
    let mut client = Client {
        rng: SmallRng::seed_from_u64(shared.setup.seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
        kv: KvClient::new(connection).max_decoding_message_size(MAX_ANSWER),
        shared,
        number,
        written: 0,
    };
    while !client.shared.is_over() {
        let request = client.request();
        let is_known = client.act(request).await;
        let pause = client.shared.setup.pause;
        tokio::time::sleep(if is_known { pause } else { pause.max(BACK_OFF) }).await;
    }
}

struct Client {
    shared: Arc<Shared>,
    kv: KvClient<Connection>,
    rng: SmallRng,
    number: usize,
    /// How many values it has made: no two are the same.
    written: u64,
}

impl Client {
    fn key(&mut self) -> Bytes {
        let setup = &self.shared.setup;
        Bytes::from(format!("{}{:02}", setup.prefix, self.rng.random_range(0..setup.keys.max(1))))
    }

    fn put(&mut self) -> PutRequest {
        self.written += 1;
        let value = Bytes::from(format!("{}/{}/{}", self.shared.setup.seed, self.number, self.written));
        PutRequest { key: self.key(), value, prev_kv: self.rng.random(), ..Default::default() }
    }

    fn range(&mut self) -> RangeRequest {
        let seen = self.shared.revision();
        let is_past = self.rng.random_range(0..5) == 0;
        let oldest = self.shared.compacted.load(Ordering::SeqCst).max(seen - PAST).max(1);
        let end = prefix_end(&self.shared.setup.prefix);
        RangeRequest {
            key: self.key(),
            range_end: if self.rng.random() { Bytes::new() } else { end },
            limit: if self.rng.random_range(0..3) == 0 { self.rng.random_range(1..5) } else { 0 },
            revision: if is_past { self.rng.random_range(oldest..=seen.max(oldest)) } else { 0 },
            serializable: self.rng.random_range(0..5) == 0,
            keys_only: self.rng.random_range(0..8) == 0,
            count_only: self.rng.random_range(0..8) == 0,
            ..Default::default()
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        let is_one = self.rng.random_range(0..4) > 0;
        let range_end = if is_one { Bytes::new() } else { prefix_end(&self.shared.setup.prefix) };
        DeleteRangeRequest { key, range_end, prev_kv: true }
    }

    /// Several keys at once, if one of them is as it may be.
    fn txn(&mut self) -> TxnRequest {
        let key = self.key();
        let target_union = match self.rng.random_range(0..3) {
            0 => TargetUnion::Version(self.rng.random_range(0..3)),
            _ => TargetUnion::ModRevision(self.shared.revision() - self.rng.random_range(0..20)),
        };
        let (target, result) = match target_union {
            TargetUnion::Version(_) => (CompareTarget::Version, CompareResult::Equal),
            _ => (CompareTarget::Mod, CompareResult::Greater),
        };
        let compare = Compare {
            result: result as i32,
            target: target as i32,
            key,
            target_union: Some(target_union),
            ..Default::default()
        };
        let op = |request| RequestOp { request: Some(request) };
        let (first, second) = (self.put(), self.put());
        let range = RequestRange(RangeRequest { revision: 0, serializable: false, ..self.range() });
        let mut success = vec![op(range.clone()), op(RequestPut(first.clone()))];
        if first.key != second.key {
            success.push(op(RequestPut(second)));
        }
        TxnRequest { compare: vec![compare], success, failure: vec![op(range)] }
    }

    fn request(&mut self) -> Request {
        match self.rng.random_range(0..100) {
            0..30 => Request::Kv(RequestPut(self.put())),
            30..38 => Request::Kv(RequestDeleteRange(self.delete())),
            38..55 => Request::Kv(RequestTxn(self.txn())),
            55 if self.shared.setup.compacts => Request::Compact((self.shared.revision() - PAST / 4).max(1)),
            _ => Request::Kv(RequestRange(self.range())),
        }
    }

    /// Asks, and records; says whether it knows what came of it.
    async fn act(&mut self, request: Request) -> bool {
        let called = self.shared.now();
        let answer = tokio::time::timeout(self.shared.setup.timeout, self.send(&request)).await;
        let at = self.shared.now();
        let outcome = match answer {
            Ok(Ok(answer)) => {
                if let Answer::Kv(response) = &answer {
                    self.shared.saw(revision_of(response).unwrap_or_default());
                }
                Outcome::Answered { at, answer }
            }
            Ok(Err(status)) => refusal(&status).map_or(Outcome::Unknown, |refusal| Outcome::Refused { at, refusal }),
            Err(_) => Outcome::Unknown,
        };
        let is_known = !matches!(outcome, Outcome::Unknown);
        let mut operations = self.shared.operations.lock().expect("nothing panics under this lock");
        operations.push(Operation { called, request, outcome });
        is_known
    }

    async fn send(&mut self, request: &Request) -> Result<Answer, Status> {
        Ok(Answer::Kv(match request {
            Request::Kv(RequestRange(request)) => ResponseRange(self.kv.range(request.clone()).await?.into_inner()),
            Request::Kv(RequestPut(request)) => ResponsePut(self.kv.put(request.clone()).await?.into_inner()),
            Request::Kv(RequestTxn(request)) => ResponseTxn(self.kv.txn(request.clone()).await?.into_inner()),
            Request::Kv(RequestDeleteRange(request)) => {
                ResponseDeleteRange(self.kv.delete_range(request.clone()).await?.into_inner())
            }
            Request::Compact(revision) => {
                self.shared.compacted.fetch_max(*revision, Ordering::SeqCst);
                self.kv.compact(CompactionRequest { revision: *revision, physical: false }).await?;
                return Ok(Answer::Done);
            }
            Request::Revoke(_) => return Err(Status::unimplemented("recordings have no leases")),
        }))
    }
}

/// Why a request was not done, if it is certain that it was not. Anything else may have been done.
fn refusal(status: &Status) -> Option<Refusal> {
    match (status.code(), status.message()) {
        (Code::OutOfRange, text) if text.contains("has been compacted") => Some(Refusal::Compacted),
        (Code::OutOfRange, text) if text.contains("future revision") => Some(Refusal::FutureRevision),
        (Code::InvalidArgument | Code::ResourceExhausted | Code::PermissionDenied | Code::Unauthenticated, _) => {
            Some(Refusal::Other)
        }
        _ => None,
    }
}
