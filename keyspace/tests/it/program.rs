//! Random programs against the reference: requests, compactions, restarts, and views held meanwhile.

use bytes::{Bytes, BytesMut};
use forebay_keyspace::{
    Batch, CompactStep, Keyspace, Reader, Restore, View, check,
    eval::{self, Response},
};
use forebay_proto::{
    Error,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RequestOp, ResponseHeader,
        TxnRequest, compare::TargetUnion, request_op::Request,
    },
};
use prost::Message;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::model::{LEASES, Model};

/// Makes random requests over few keys, so that they meet.
struct Requests<'r> {
    random: &'r mut StdRng,
    revision: i64,
}

impl Requests<'_> {
    fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }

    fn key(&mut self) -> Bytes {
        let key = format!("{}{}", ["a", "a/b", "b"][self.random.random_range(0..3)], self.random.random_range(0..9));
        key.into()
    }

    fn end(&mut self) -> Bytes {
        match self.random.random_range(0..5) {
            0 => Bytes::from_static(b"\0"),
            1 | 2 => self.key(),
            _ => Bytes::new(),
        }
    }

    fn some_revision(&mut self) -> i64 {
        let revision = self.revision;
        self.random.random_range(-2..revision + 2)
    }

    fn range(&mut self) -> RangeRequest {
        let mut request = RangeRequest { key: self.key(), range_end: self.end(), ..Default::default() };
        if self.chance(3) {
            (request.key, request.range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        }
        if self.chance(3) {
            request.limit = self.random.random_range(-1..8);
        }
        if self.chance(2) {
            request.revision = self.some_revision();
        }
        if self.chance(2) {
            request.sort_order = self.random.random_range(0..3);
            request.sort_target = self.random.random_range(0..5);
        }
        if self.chance(4) {
            request.min_mod_revision = self.some_revision();
            request.max_create_revision = self.some_revision();
        }
        if self.chance(4) {
            request.max_mod_revision = self.some_revision();
            request.min_create_revision = self.some_revision();
        }
        request.keys_only = self.chance(4);
        request.count_only = self.chance(6);
        request
    }

    fn put(&mut self) -> PutRequest {
        let mut request = PutRequest { key: self.key(), prev_kv: self.chance(2), ..Default::default() };
        request.ignore_value = self.chance(8);
        request.ignore_lease = self.chance(8);
        if !request.ignore_value {
            request.value = vec![b'v'; self.random.random_range(0..200)].into();
        }
        if !request.ignore_lease && self.chance(3) {
            request.lease = self.random.random_range(0..=LEASES + 1);
        }
        request
    }

    fn delete_range(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key(), range_end: self.end(), prev_kv: self.chance(2) }
    }

    fn compare(&mut self) -> Compare {
        let number = self.some_revision().min(self.random.random_range(-1..20));
        let target_union = match self.random.random_range(0..6) {
            0 => None,
            1 => Some(TargetUnion::Version(number)),
            2 => Some(TargetUnion::CreateRevision(number)),
            3 => Some(TargetUnion::ModRevision(number)),
            4 => Some(TargetUnion::Lease(number)),
            _ => Some(TargetUnion::Value(vec![b'v'; number.max(0) as usize].into())),
        };
        let target = match &target_union {
            Some(union) if !self.chance(6) => match union {
                TargetUnion::Version(_) => 0,
                TargetUnion::CreateRevision(_) => 1,
                TargetUnion::ModRevision(_) => 2,
                TargetUnion::Value(_) => 3,
                TargetUnion::Lease(_) => 4,
            },
            _ => self.random.random_range(0..6),
        };
        let result = self.random.random_range(0..5);
        Compare { result, target, key: self.key(), range_end: self.end(), target_union }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let mut ops = || (0..self.random.random_range(0..5)).map(|_| self.op(depth)).collect();
        let (success, failure) = (ops(), ops());
        let compare = (0..self.random.random_range(0..3)).map(|_| self.compare()).collect();
        TxnRequest { compare, success, failure }
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.random.random_range(0..10) {
            0..3 => Request::RequestRange(self.range()),
            3..6 => Request::RequestPut(self.put()),
            6..8 => Request::RequestDeleteRange(self.delete_range()),
            _ if depth == 0 => Request::RequestPut(self.put()),
            _ => Request::RequestTxn(self.txn(depth - 1)),
        };
        RequestOp { request: Some(request) }
    }
}

/// The message that a result is written as, checked to be as long as said.
fn written<M: Message + Default>(result: &impl Response) -> M {
    let base = ResponseHeader::default();
    let mut out = BytesMut::new();
    result.encode(&base, &mut out);
    assert_eq!(out.len(), result.encoded_len(&base));
    let message = M::decode(&out[..]).expect("a response is a message");
    assert_eq!(out, message.encode_to_vec(), "a response is written as prost would");
    message
}

fn leases(lease: i64) -> bool {
    lease <= LEASES
}

/// A keyspace and the reference beside it.
struct Pair {
    keyspace: Keyspace,
    reader: Reader,
    model: Model,
}

impl Pair {
    fn step(&mut self, random: &mut StdRng) {
        let mut requests = Requests { random, revision: self.model.revision() };
        match requests.random.random_range(0..20) {
            0..6 => {
                let request = requests.put();
                let mut txn = self.keyspace.write();
                let result = eval::put(&mut txn, &leases, &request).map(|result| written(&result));
                drop(txn);
                assert_eq!(result, self.model.put(&request), "{request:?}");
            }
            6..9 => {
                let request = requests.delete_range();
                let result: DeleteRangeResponse = written(&eval::delete_range(&mut self.keyspace.write(), &request));
                assert_eq!(result, self.model.delete_range(&request), "{request:?}");
            }
            9..16 => {
                let request = requests.txn(2);
                if check::txn(&request, 128).is_ok() {
                    let result = if eval::is_read_only(&request) {
                        self.publish();
                        self.reader.evaluate(|snapshot| eval::txn_read(snapshot, &request))
                    } else {
                        eval::txn(&mut self.keyspace.write(), &leases, &request)
                    };
                    assert_eq!(result.map(|result| written(&result)), self.model.txn(&request), "{request:?}");
                }
            }
            16 => self.publish(),
            17 => self.compact(&mut requests),
            18 => self.check_hash(requests.some_revision().max(0)),
            _ => self.restart(),
        }
        assert_eq!(self.keyspace.revision(), self.model.revision());
    }

    /// Publishes, and reads everything that a client could.
    fn publish(&mut self) {
        self.keyspace.publish();
        assert_eq!(
            (self.reader.revision(), self.reader.compacted_revision()),
            (self.model.revision(), self.model.compacted)
        );
        self.check_history();
    }

    fn check_history(&self) {
        let from = self.model.compacted.max(0);
        let batches = self.reader.history(from, usize::MAX);
        let changes = batches.iter().flat_map(|batch: &std::sync::Arc<Batch>| batch.since(from)).map(|change| {
            (change.version.revision(), (change.version.is_tombstone(), change.version.record().to_vec()))
        });
        let above = self.model.bucket.iter().filter(|(at, _)| at.main > from);
        let expected: Vec<_> = above.map(|(at, (tombstone, kv))| (*at, (*tombstone, kv.encode_to_vec()))).collect();
        let changes: Vec<_> = changes.filter(|(at, _)| at.main > from).collect();
        assert_eq!(changes, expected);
    }

    fn compact(&mut self, requests: &mut Requests<'_>) {
        let revision = requests.some_revision();
        let result = self.keyspace.compact(revision);
        if let Some(job) = result.as_ref().ok().and_then(Option::as_ref) {
            assert_eq!(self.keyspace.compact_step(1), CompactStep::Waiting, "{job:?} has not run");
        }
        let mut expected = match self.model.compact(revision, true) {
            Ok(gone) => gone,
            Err(error) => return assert_eq!(result.err(), Some(error)),
        };
        result.expect("the model accepts it").expect("no other compaction is running").run();
        self.publish();
        let mut gone = Vec::new();
        loop {
            match self.keyspace.compact_step(requests.random.random_range(1..20)) {
                CompactStep::Removed(removed) => gone.extend(removed),
                CompactStep::Finished(finished, removed) => {
                    assert_eq!(finished, revision);
                    gone.extend(removed);
                    break;
                }
                step => panic!("{step:?}"),
            }
        }
        gone.sort_unstable();
        expected.sort_unstable();
        assert_eq!(gone, expected);
        assert_eq!(self.keyspace.compact_step(1), CompactStep::Idle);
    }

    fn check_hash(&mut self, revision: i64) {
        self.publish();
        let result = self.reader.hash(revision).map(|(hash, current)| {
            assert_eq!(current, self.model.revision());
            (hash.hash, hash.compact_revision, hash.revision)
        });
        assert_eq!(result, self.model.hash(revision), "of {revision}");
    }

    /// Goes on with what a db file would have.
    fn restart(&mut self) {
        let compacted = Some(self.model.compacted).filter(|compacted| *compacted >= 0);
        let mut restore = Restore::new(compacted);
        for (revision, (tombstone, kv)) in &self.model.bucket {
            restore.record(*revision, *tombstone, &kv.encode_to_vec()).expect("a bucket of the model is in order");
        }
        let restored = restore.finish(self.model.compacted.max(1));
        self.model.forget_hashes();
        // The readers are the same, as on a member that gets a snapshot.
        self.keyspace.publish();
        self.keyspace.replace(restored);
        self.check_history();
    }

    fn check_ranges(&mut self, random: &mut StdRng) {
        let mut requests = Requests { random, revision: self.model.revision() };
        for _ in 0..8 {
            let request = requests.range();
            let result = self.reader.evaluate(|snapshot| eval::range(snapshot, &request));
            assert_eq!(result.map(|result| written(&result)), self.model.range(&request), "{request:?}");
        }
    }
}

/// A view must go on showing what it showed, or say that it was compacted.
fn check_view(view: &View, expected: &[u8], compacted: i64) {
    let everything =
        RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() };
    let result = view.evaluate(|snapshot| eval::range(snapshot, &everything));
    match result {
        Ok(result) => {
            let mut out = BytesMut::new();
            result.encode(&ResponseHeader::default(), &mut out);
            assert_eq!(out, expected);
        }
        Err(error) => {
            assert_eq!(error, Error::Compacted);
            assert!(view.revision() < compacted);
        }
    }
}

#[test]
fn random_programs_agree_with_the_reference() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let keyspace = Keyspace::new();
        let mut pair = Pair { reader: keyspace.reader(), keyspace, model: Model::new() };
        let mut views = Vec::new();
        for _ in 0..250 {
            pair.step(&mut random);
            if random.random_range(0..4) == 0 {
                pair.publish();
                pair.check_ranges(&mut random);
            }
            if random.random_range(0..30) == 0 {
                pair.publish();
                let view = pair.reader.view();
                let everything = RangeRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    ..Default::default()
                };
                views.push((view, pair.model.range(&everything).unwrap().encode_to_vec()));
            }
            if random.random_range(0..20) == 0 {
                views.iter().for_each(|(view, expected)| check_view(view, expected, pair.model.compacted));
            }
        }
    }
}
