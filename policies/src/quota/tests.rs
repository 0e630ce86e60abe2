use bytes::Bytes;
use forebay_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{policy::HardLimits, units::Percent};

fn quota(prefix: &str, per: Option<u8>, hard: HardLimits) -> Quota {
    Quota {
        name: "q".to_owned(),
        mode: Mode::Enforce,
        prefix: prefix.as_bytes().to_vec(),
        per,
        hard,
        warn_at: Percent(80),
        allow_updates: true,
    }
}

/// A key space that only knows sizes, with the ledger of its changes.
#[derive(Default)]
struct Store {
    objects: BTreeMap<Vec<u8>, u64>,
    ledger: Ledger,
}

impl Objects for Store {
    fn object(&self, key: &[u8]) -> Option<u64> {
        self.objects.get(key).copied()
    }

    fn live(&self, range: &KeyRange) -> (u64, u64) {
        let inside = self.objects.iter().filter(|(key, _)| range.contains(key));
        inside.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size))
    }
}

impl Store {
    fn put(&mut self, quotas: &[Quota], key: &[u8], size: u64) {
        let before = self.objects.insert(key.to_vec(), size);
        self.ledger.put(quotas, key, before, size);
    }

    fn delete(&mut self, quotas: &[Quota], range: &KeyRange) {
        let gone: Vec<Vec<u8>> = self.objects.keys().filter(|key| range.contains(key)).cloned().collect();
        for key in gone {
            let before = self.objects.remove(&key).expect("it was there");
            self.ledger.delete(quotas, &key, before);
        }
    }

    /// Decides and does.
    fn apply(&mut self, quotas: &[Quota], txn: &TxnRequest) -> Decision {
        let writes = Writes::of_txn(txn, &mut |_| Branch::Success);
        let decision = decide(quotas, &self.ledger, self, &writes);
        if decision.refused.is_none() {
            for op in &txn.success {
                match op.request.as_ref().expect("an op") {
                    Request::RequestPut(put) => self.put(quotas, &put.key, (put.key.len() + put.value.len()) as u64),
                    Request::RequestDeleteRange(delete) => {
                        self.delete(quotas, &KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                    }
                    other => panic!("not written here: {other:?}"),
                }
            }
        }
        decision
    }
}

/// A put of an object with so many bytes, key and value.
fn put(key: &str, size: usize) -> RequestOp {
    let value = Bytes::from(vec![b'v'; size - key.len()]);
    let put = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value, ..PutRequest::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn delete(key: &str, end: &str) -> RequestOp {
    let range = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let delete = DeleteRangeRequest { key: range(key), range_end: range(end), ..DeleteRangeRequest::default() };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

fn txn(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

#[test]
fn only_growth_is_refused() {
    let quotas = [quota("/e/", None, HardLimits { objects: Some(2), bytes: Some(100), ..HardLimits::default() })];
    let mut store = Store::default();
    let mut refused = |ops: Vec<RequestOp>| store.apply(&quotas, &txn(ops)).refused.map(|exceeded| exceeded.resource);
    assert_eq!(refused(vec![put("/e/a", 50), put("/e/b", 50)]), None);
    assert_eq!(refused(vec![put("/e/c", 10)]), Some(Resource::Objects));
    assert_eq!(refused(vec![put("/f/c", 1_000)]), None, "not under the prefix");
    assert_eq!(refused(vec![put("/e/a", 51)]), Some(Resource::Bytes));
    assert_eq!(refused(vec![put("/e/a", 50)]), None, "no larger");
    assert_eq!(refused(vec![put("/e/a", 20)]), None, "smaller");
    assert_eq!(refused(vec![delete("/e/b", ""), put("/e/c", 50)]), None, "one goes, one comes");
    assert_eq!(refused(vec![delete("/e/", "/e0"), delete("/e/a", "\0"), put("/f/x", 10)]), None);
    assert_eq!(refused(vec![put("/e/x", 60), put("/e/y", 60)]), Some(Resource::Bytes));
}

#[test]
fn a_delete_that_is_named_twice_frees_once() {
    let quotas = [quota("/e/", None, HardLimits { objects: Some(3), ..HardLimits::default() })];
    let mut store = Store::default();
    assert!(store.apply(&quotas, &txn(vec![put("/e/a", 9), put("/e/b", 9), put("/e/c", 9)])).refused.is_none());
    let twice = vec![delete("/e/a", ""), delete("/e/a", "/e/b"), put("/e/x", 9), put("/e/y", 9)];
    let exceeded = store.apply(&quotas, &txn(twice)).refused.expect("two come and one goes");
    assert_eq!(exceeded.to_string(), "forebay: quota q exceeded: 3 of 3 objects under /e/ used, 1 more asked");
}

#[test]
fn each_folder_has_its_own_budget() {
    let quotas = [quota("/r/events/", Some(4), HardLimits { objects: Some(1), ..HardLimits::default() })];
    let mut store = Store::default();
    let mut refused =
        |key: &str| store.apply(&quotas, &txn(vec![put(key, 40)])).refused.map(|exceeded| exceeded.prefix);
    assert_eq!(refused("/r/events/default/a"), None);
    assert_eq!(refused("/r/events/other/a"), None);
    assert_eq!(refused("/r/events/default/b/c"), Some(b"/r/events/default/".to_vec()));
    assert_eq!(refused("/r/events/x"), None, "less deep: the budget of the prefix");
    assert_eq!(refused("/r/events/y"), Some(b"/r/events/".to_vec()));
}

#[test]
fn the_size_of_an_object_is_bounded_but_what_is_too_large_already_may_shrink() {
    let hard = HardLimits { object_bytes: Some(50), ..HardLimits::default() };
    let mut store = Store::default();
    store.put(&[], b"/e/old", 90);
    let quotas = [quota("/e/", None, hard)];
    let mut refused = |key: &str, size| store.apply(&quotas, &txn(vec![put(key, size)])).refused.is_some();
    assert!(refused("/e/new", 51) && !refused("/e/new", 50));
    assert!(refused("/e/old", 91) && !refused("/e/old", 70) && !refused("/e/old", 60));
}

#[test]
fn every_revision_counts_until_it_is_compacted() {
    let quotas = [quota("/e/", None, HardLimits { uncompacted_bytes: Some(100), ..HardLimits::default() })];
    let mut store = Store::default();
    let refused = |store: &mut Store, size| store.apply(&quotas, &txn(vec![put("/e/a", size)])).refused.is_some();
    assert!(!refused(&mut store, 50) && !refused(&mut store, 50));
    assert!(refused(&mut store, 50), "of the same size, but one more revision");
    assert!(!refused(&mut store, 20), "smaller");
    store.ledger.compact(&quotas, b"/e/a", 50);
    store.ledger.compact(&quotas, b"/e/a", 50);
    assert!(!refused(&mut store, 50));
}

#[test]
fn updates_can_be_held_back_too_while_a_quota_is_exceeded() {
    let hard = HardLimits { objects: Some(1), ..HardLimits::default() };
    let quotas = [Quota { allow_updates: false, ..quota("/e/", None, hard) }];
    let mut store = Store::default();
    store.put(&quotas, b"/e/a", 20);
    assert!(store.apply(&quotas, &txn(vec![put("/e/a", 20)])).refused.is_none(), "full, not exceeded");
    store.put(&quotas, b"/e/b", 20);
    assert!(store.apply(&quotas, &txn(vec![put("/e/a", 20)])).refused.is_some());
    assert!(store.apply(&quotas, &txn(vec![delete("/e/a", "")])).refused.is_none());
}

#[test]
fn while_the_branch_is_unknown_both_count_and_no_delete_does() {
    let quotas = [quota("/e/", None, HardLimits { objects: Some(2), ..HardLimits::default() })];
    let mut store = Store::default();
    store.put(&quotas, b"/e/a", 20);
    let either = TxnRequest {
        success: vec![delete("/e/a", ""), put("/e/b", 9)],
        failure: vec![put("/e/b", 20)],
        ..TxnRequest::default()
    };
    let writes = Writes::of_txn(&either, &mut |_| Branch::Unknown);
    let decision = decide(&quotas, &store.ledger, &store, &writes);
    let id = BudgetId { quota: 0, prefix: b"/e/".to_vec() };
    assert_eq!(decision.growth[&id], Growth { objects: 1, bytes: 20, uncompacted_bytes: 20 });
    store.ledger.reserve(&decision.growth);
    assert_eq!(store.ledger.used(&id).objects, 2);
    assert!(store.apply(&quotas, &txn(vec![put("/e/c", 9)])).refused.is_some(), "what is on its way counts");
    store.ledger.release(&decision.growth);
    assert_eq!(store.ledger.used(&id).objects, 1);
}

#[test]
fn creates_and_updates_of_an_api_server_are_told_apart_before_they_are_applied() {
    use forebay_proto::etcdserverpb::{
        Compare,
        compare::{CompareResult, CompareTarget, TargetUnion},
    };
    let write = |key: &'static str, mod_revision| TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: Bytes::from_static(key.as_bytes()),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..Compare::default()
        }],
        ..txn(vec![put(key, 20)])
    };
    let quotas = [quota("/e/", None, HardLimits { objects: Some(1), ..HardLimits::default() })];
    let mut store = Store::default();
    store.put(&quotas, b"/e/a", 20);
    let refused = |txn: &TxnRequest| {
        let writes = Writes::of_txn(txn, &mut |txn| Branch::expected(txn, &store));
        decide(&quotas, &store.ledger, &store, &writes).refused.is_some()
    };
    assert!(refused(&write("/e/b", 0)), "a create");
    assert!(!refused(&write("/e/a", 0)), "a create of what exists, which fails");
    assert!(!refused(&write("/e/a", 7)), "an update");
    assert!(!refused(&write("/e/b", 7)), "an update of what does not exist, which fails");
    assert!(refused(&txn(vec![put("/e/b", 20)])), "no Kubernetes write");
}

#[test]
fn a_quota_in_shadow_mode_only_says_so() {
    let hard = HardLimits { objects: Some(0), ..HardLimits::default() };
    let quotas = [Quota { mode: Mode::Shadow, ..quota("/e/", None, hard) }];
    let decision = Store::default().apply(&quotas, &txn(vec![put("/e/a", 9)]));
    assert!(decision.refused.is_none() && decision.shadow.len() == 1);
}

/// Puts and deletes of a few keys. As etcd demands, no key is put twice, and none is put that is deleted.
fn random_ops(random: &mut StdRng) -> Vec<RequestOp> {
    let (mut ops, mut puts, mut deletes): (Vec<RequestOp>, Vec<String>, Vec<KeyRange>) = Default::default();
    for _ in 0..random.random_range(1..4) {
        let root = ["e", "f"][random.random_range(0..2)];
        let key = format!("/{root}/{}/{}", random.random_range(0..4), random.random_range(0..6));
        if random.random_range(0..3) == 0 {
            let end = if random.random() { String::new() } else { format!("{key}~") };
            let range = KeyRange::new(Bytes::from(key.clone()), Bytes::from(end.clone()));
            if !puts.iter().any(|put| range.contains(put.as_bytes())) {
                ops.push(delete(&key, &end));
                deletes.push(range);
            }
        } else if !puts.contains(&key) && !deletes.iter().any(|range| range.contains(key.as_bytes())) {
            ops.push(put(&key, random.random_range(10..60)));
            puts.push(key);
        }
    }
    ops
}

/// Random txns: no budget ever holds more than it may, the ledger always equals a count of everything, and nothing is
/// refused that would have fit.
#[test]
fn quotas_are_exact() {
    for seed in 0..30u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let quotas = [
            quota("/e/", None, HardLimits { objects: Some(12), bytes: Some(400), ..HardLimits::default() }),
            quota("/e/", Some(3), HardLimits { objects: Some(4), ..HardLimits::default() }),
        ];
        let mut store = Store::default();
        for step in 0..400 {
            let ops = random_ops(&mut random);
            let request = txn(ops);
            let before = store.objects.clone();
            let decision = store.apply(&quotas, &request);
            let count = |objects: &BTreeMap<Vec<u8>, u64>, prefix: &[u8]| {
                let inside = objects.iter().filter(|(key, _)| key.starts_with(prefix));
                inside.fold((0u64, 0u64), |(count, bytes), (_, size)| (count + 1, bytes + size))
            };
            let (objects, bytes) = count(&store.objects, b"/e/");
            assert!(objects <= 12 && bytes <= 400, "seed {seed}, step {step}");
            let usage = store.ledger.used(&BudgetId { quota: 0, prefix: b"/e/".to_vec() });
            assert_eq!((usage.objects, usage.bytes), (objects, bytes), "seed {seed}, step {step}");
            for folder in 0..4 {
                let prefix = format!("/e/{folder}/").into_bytes();
                assert!(count(&store.objects, &prefix).0 <= 4, "seed {seed}, step {step}");
            }
            if let Some(exceeded) = decision.refused {
                let mut forced = Store { objects: before, ledger: Ledger::new() };
                forced.apply(&[], &request);
                let (objects, bytes) = count(&forced.objects, &exceeded.prefix);
                let over = match exceeded.resource {
                    Resource::Objects => objects,
                    _ => bytes,
                };
                assert!(over > exceeded.hard, "seed {seed}, step {step}: refused though it fits: {exceeded}");
            }
        }
    }
}
