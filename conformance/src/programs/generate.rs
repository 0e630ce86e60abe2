//! Programs from a seed.

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
    request_op,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::Op;
use crate::cases::requests::{FROM, Operation as _, compare};

/// Few enough to meet again and again; some are prefixes of others, some are no text.
const KEYS: [&[u8]; 14] =
    [b"a", b"a\0", b"aa", b"ab", b"b", b"ba", b"c", b"c/1", b"c/2", b"c/3", b"d", b"\0", b"\xff", b"\xff\xff"];

/// Where ranges end, beside every key.
const ENDS: [&[u8]; 5] = [b"\0", b"\0", b"z", b"c0", b"\xff\xff\xff"];

const LEASES: std::ops::RangeInclusive<i64> = 1..=4;

/// The program of a seed.
pub fn generate(seed: u64, length: usize) -> Vec<Op> {
    let mut generator = Generator::new(seed);
    (0..length).map(|_| generator.op()).collect()
}

/// A source of operations that knows about how many revisions there are.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
    /// At least the current revision: every operation that may make one counts.
    revision: i64,
}

impl Generator {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Generator {
        Generator { rng: StdRng::seed_from_u64(seed), revision: 1 }
    }

    /// The next operation.
    pub fn op(&mut self) -> Op {
        match self.rng.random_range(0..100) {
            0..30 => Op::Range(self.range(true)),
            30..33 => Op::RangeStream(pb::RangeRequest { sort_order: 0, sort_target: 0, ..self.unfiltered() }),
            33..58 => self.put_op(),
            58..66 => self.delete_op(),
            66..85 => self.txn_op(),
            85..87 => Op::Compact(pb::CompactionRequest { revision: self.some_revision(), physical: true }),
            87..90 => {
                let id = self.rng.random_range(LEASES);
                Op::Grant(pb::LeaseGrantRequest { id, ttl: 10_000 + 1000 * id })
            }
            90..92 => Op::Revoke(pb::LeaseRevokeRequest { id: self.rng.random_range(LEASES) }),
            92..94 => Op::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.rng.random_range(LEASES), keys: true }),
            94..96 => Op::Leases,
            96 => Op::Defragment,
            _ => Op::HashKv(pb::HashKvRequest { revision: self.some_revision() }),
        }
    }

    /// An operation that may change keys, for traffic under watches.
    pub fn write(&mut self) -> Op {
        match self.rng.random_range(0..10) {
            0..5 => self.put_op(),
            5..7 => self.delete_op(),
            _ => self.txn_op(),
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: i64) -> i64 {
        self.rng.random_range(0..limit)
    }

    /// Whether something of this chance in a hundred happens.
    pub fn percent(&mut self, chance: u32) -> bool {
        self.rng.random_range(0..100) < chance
    }

    /// A key.
    pub fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS.choose(&mut self.rng).expect("there are keys"))
    }

    /// A key and the end of a range: half of the time none.
    pub fn key_and_end(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.rng.random_range(0..4) {
            0 => self.key(),
            1 => Bytes::from_static(ENDS.choose(&mut self.rng).expect("there are ends")),
            _ => Bytes::new(),
        };
        (key, end)
    }

    /// A range, perhaps at one of these revisions.
    pub fn range_at(&mut self, oldest: i64, newest: i64) -> pb::RangeRequest {
        let revision = if self.percent(40) { self.rng.random_range(oldest..=newest) } else { 0 };
        pb::RangeRequest { revision, ..self.range(true) }
    }

    /// A watch that begins at one of these revisions.
    pub fn watch_from(&mut self, oldest: i64, newest: i64) -> pb::WatchCreateRequest {
        let (key, range_end) = self.key_and_end();
        let filters = if self.percent(20) { vec![i32::from(self.percent(50))] } else { vec![] };
        let start_revision = self.rng.random_range(oldest.max(1)..=newest);
        let (prev_kv, fragment) = (self.percent(40), self.percent(20));
        pb::WatchCreateRequest { key, range_end, start_revision, filters, prev_kv, fragment, ..Default::default() }
    }

    fn put_op(&mut self) -> Op {
        self.revision += 1;
        let key = self.key();
        Op::Put(self.put(key))
    }

    fn delete_op(&mut self) -> Op {
        self.revision += 1;
        Op::Delete(self.delete())
    }

    fn txn_op(&mut self) -> Op {
        self.revision += 1;
        let mut txn = self.txn(2);
        if deletes_from_a_key(&txn) {
            refer_to_nothing(&mut txn);
        }
        Op::Txn(txn)
    }

    /// Mostly 0, else any number up to a little past the present.
    fn some_revision(&mut self) -> i64 {
        self.rng.random_range(-1..=self.revision + 2)
    }

    fn value(&mut self) -> Bytes {
        let length = [0, 1, 2, 8, 40, 3000].choose(&mut self.rng).copied().unwrap_or_default();
        (0..length).map(|_| self.rng.random::<u8>()).collect()
    }

    fn unfiltered(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.key_and_end();
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.percent(30) { self.below(6) } else { 0 },
            revision: if self.percent(30) { self.some_revision() } else { 0 },
            serializable: self.percent(30),
            keys_only: self.percent(15),
            count_only: self.percent(10),
            ..Default::default()
        }
    }

    fn range(&mut self, any_target: bool) -> pb::RangeRequest {
        let mut range = self.unfiltered();
        if self.percent(40) {
            range.sort_order = self.rng.random_range(0..=2);
            // A sort by value hides what it sorted by when it returns keys only.
            let targets = if range.keys_only { 4 } else { 5 };
            range.sort_target = if any_target { self.rng.random_range(0..targets) } else { 0 };
        }
        if self.percent(20) {
            range.min_mod_revision = self.some_revision();
            range.max_mod_revision = if self.percent(50) { self.some_revision() } else { 0 };
            range.min_create_revision = if self.percent(30) { self.some_revision() } else { 0 };
            range.max_create_revision = if self.percent(30) { self.some_revision() } else { 0 };
        }
        range
    }

    fn put(&mut self, key: Bytes) -> pb::PutRequest {
        let mut put = pb::PutRequest { key, value: self.value(), prev_kv: self.percent(30), ..Default::default() };
        if self.percent(25) {
            put.lease = self.rng.random_range(LEASES);
        }
        match self.rng.random_range(0..20) {
            0 => (put.ignore_value, put.value) = (true, Bytes::new()),
            1 => (put.ignore_lease, put.lease) = (true, 0),
            2 => put.ignore_value = true,
            _ => {}
        }
        put
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.key_and_end();
        // Deletes of everything leave little to look at.
        let range_end =
            if range_end.len() == 1 && range_end[0] == 0 && self.percent(80) { Bytes::new() } else { range_end };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.percent(30) }
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let compares = self.rng.random_range(0..=2);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth),
            failure: self.branch(depth),
        }
    }

    fn branch(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        // Keys that are put once mostly, because a second put refuses the whole txn.
        let mut fresh: Vec<Bytes> = KEYS.map(Bytes::from_static).into();
        let length = self.rng.random_range(0..=4);
        (0..length)
            .map(|_| match self.rng.random_range(0..10) {
                0..4 => {
                    let at = self.rng.random_range(0..fresh.len());
                    let key = if self.percent(95) { fresh.swap_remove(at) } else { self.key() };
                    self.put(key).op()
                }
                4..7 => self.range(false).op(),
                7 => self.delete().op(),
                _ if depth > 0 => self.txn(depth - 1).op(),
                _ => self.range(false).op(),
            })
            .collect()
    }

    fn compare(&mut self) -> pb::Compare {
        let results = [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        let result = *results.choose(&mut self.rng).expect("there are results");
        let against = match self.rng.random_range(0..5) {
            0 => TargetUnion::Version(self.below(4)),
            1 => TargetUnion::CreateRevision(self.some_revision()),
            2 => TargetUnion::ModRevision(self.some_revision()),
            3 => TargetUnion::Value(self.value()),
            _ => TargetUnion::Lease(self.below(5)),
        };
        let (key, end) = self.key_and_end();
        pb::Compare { range_end: if self.percent(20) { end } else { Bytes::new() }, ..compare(key, result, against) }
    }
}

/// Whether a txn, or one in it, deletes everything from a key on.
fn deletes_from_a_key(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(request_op::Request::RequestDeleteRange(delete)) => delete.range_end == FROM,
        Some(request_op::Request::RequestTxn(txn)) => deletes_from_a_key(txn),
        _ => false,
    })
}

/// Takes the flags out of a txn's puts that refer to the key's present value or lease. etcd 3.7 does not see that a
/// delete from a key on takes what a put after it refers to, and ends with an index out of range while it applies that.
fn refer_to_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(request_op::Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(request_op::Request::RequestTxn(txn)) => refer_to_nothing(txn),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_program() {
        assert_eq!(generate(7, 50), generate(7, 50));
        assert_ne!(generate(7, 50), generate(8, 50));
    }

    #[test]
    fn every_end_and_key_can_be_chosen() {
        let mut generator = Generator::new(1);
        let ends: std::collections::BTreeSet<Bytes> = (0..2000).map(|_| generator.key_and_end().1).collect();
        assert!(ends.contains(FROM.as_bytes()) && ends.len() > KEYS.len());
    }
}
