use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{Mode, policy::HardLimits, units::Percent};

fn quota(prefix: &str, per: Option<u8>, hard: HardLimits) -> Quota {
    Quota {
        name: format!("q{prefix}{per:?}"),
        mode: Mode::Enforce,
        prefix: prefix.as_bytes().to_vec(),
        per,
        hard,
        warn_at: Percent(80),
        allow_updates: true,
    }
}

fn objects(most: u64) -> HardLimits {
    HardLimits { objects: Some(most), ..HardLimits::default() }
}

/// A key space that only knows sizes.
#[derive(Clone, Default)]
struct Objects(BTreeMap<Vec<u8>, u64>);

impl super::Objects for Objects {
    fn object(&self, key: &[u8]) -> Option<u64> {
        self.0.get(key).copied()
    }

    fn each(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>) {
        let inside = self.0.iter().filter(|(key, _)| range.contains(key));
        let _ = inside.map(|(key, size)| visit(key, *size)).find(ControlFlow::is_break);
    }
}

/// Objects, and the ledger of their changes.
struct Store {
    objects: Objects,
    ledger: Ledger,
    ids: u64,
}

impl Store {
    fn new(quotas: impl Into<Vec<Quota>>) -> Store {
        Store { objects: Objects::default(), ledger: Ledger::new(quotas.into()), ids: 0 }
    }

    fn put(&mut self, key: &[u8], size: u64) {
        let before = self.objects.0.insert(key.to_vec(), size);
        self.ledger.put(key, before, size);
    }

    fn delete(&mut self, range: &KeyRange) {
        let gone: Vec<Vec<u8>> = self.objects.0.keys().filter(|key| range.contains(key)).cloned().collect();
        for key in gone {
            let before = self.objects.0.remove(&key).expect("it was there");
            self.ledger.delete(&key, before);
        }
    }

    /// Decides; the id is that of the request if it was admitted.
    fn begin(&mut self, txn: &TxnRequest) -> Result<u64, Verdict> {
        let writes = Writes::of_txn(txn, &mut |txn| Branch::certain(txn, 100, &self.objects));
        self.ids += 1;
        self.ledger.admit(self.ids, &writes, &self.objects).map(|()| self.ids)
    }

    fn carry_out(&mut self, txn: &TxnRequest) {
        for op in &txn.success {
            match op.request.as_ref().expect("an op") {
                Request::RequestPut(put) => self.put(&put.key, (put.key.len() + put.value.len()) as u64),
                Request::RequestDeleteRange(delete) => {
                    self.delete(&KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                }
                other => panic!("not written here: {other:?}"),
            }
        }
    }

    /// Decides and does; what is lacking if it is refused.
    fn write(&mut self, ops: Vec<RequestOp>) -> Option<Resource> {
        let txn = txn(ops);
        match self.begin(&txn) {
            Ok(id) => {
                self.carry_out(&txn);
                assert!(self.ledger.done(id));
                None
            }
            Err(Verdict::Refused(exceeded)) => Some(exceeded.resource),
            Err(other) => panic!("nothing is on its way: {other:?}"),
        }
    }

    fn used(&self, quota: usize, prefix: &str) -> Usage {
        self.ledger.used(&BudgetId { quota, prefix: prefix.as_bytes().to_vec() })
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

/// As an API server writes an object of a revision; 0 creates it.
fn kubernetes(key: &'static str, mod_revision: i64) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: Bytes::from_static(key.as_bytes()),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Compare::default()
    };
    TxnRequest { compare: vec![compare], ..txn(vec![put(key, 20)]) }
}

#[test]
fn only_growth_is_refused() {
    let mut store = Store::new([quota("/e/", None, HardLimits { bytes: Some(100), ..objects(2) })]);
    assert_eq!(store.write(vec![put("/e/a", 50), put("/e/b", 50)]), None);
    assert_eq!(store.write(vec![put("/e/c", 10)]), Some(Resource::Objects));
    assert_eq!(store.write(vec![put("/f/c", 1_000)]), None, "not under the prefix");
    assert_eq!(store.write(vec![put("/e/a", 51)]), Some(Resource::Bytes));
    assert_eq!(store.write(vec![put("/e/a", 50)]), None, "no larger");
    assert_eq!(store.write(vec![put("/e/a", 20)]), None, "smaller");
    assert_eq!(store.write(vec![delete("/e/b", ""), put("/e/c", 50)]), None, "one goes, one comes");
    assert_eq!(store.write(vec![delete("/e/", "/e0"), put("/f/x", 10)]), None);
    assert_eq!(store.write(vec![put("/e/x", 60), put("/e/y", 60)]), Some(Resource::Bytes));
}

#[test]
fn what_exceeds_a_lowered_quota_may_stay_and_shrink() {
    let mut store = Store::new([quota("/e/", None, objects(2))]);
    for key in ["/e/a", "/e/b", "/e/c", "/e/d"] {
        store.put(key.as_bytes(), 10);
    }
    assert_eq!(store.write(vec![put("/e/a", 50)]), None, "an update");
    assert_eq!(store.write(vec![delete("/e/b", ""), put("/e/x", 9)]), None, "as many come as go");
    assert_eq!(store.write(vec![delete("/e/c", ""), put("/e/y", 9), put("/e/z", 9)]), Some(Resource::Objects));
}

#[test]
fn a_delete_that_is_named_twice_makes_room_once() {
    let mut store = Store::new([quota("/e/", None, objects(3))]);
    assert_eq!(store.write(vec![put("/e/a", 9), put("/e/b", 9), put("/e/c", 9)]), None);
    let twice = vec![delete("/e/a", ""), delete("/e/a", "/e/b"), put("/e/x", 9), put("/e/y", 9)];
    assert_eq!(store.write(twice), Some(Resource::Objects), "two come and one goes");
}

/// etcd lets a txn put a key that a range of it deletes before, if the range has no end.
#[test]
fn a_key_that_a_txn_deletes_and_puts_again_makes_no_room() {
    let mut store = Store::new([quota("/e/", None, objects(1))]);
    store.put(b"/e/a", 10);
    assert_eq!(store.write(vec![delete("/e/a", "\0"), put("/e/a", 9), put("/e/b", 9)]), Some(Resource::Objects));
}

#[test]
fn budgets_are_divided_by_segments() {
    let mut store = Store::new([quota("/e/", Some(3), objects(1))]);
    assert_eq!(store.write(vec![put("/e/x/1", 9)]), None);
    assert_eq!(store.write(vec![put("/e/y/1", 9)]), None);
    assert_eq!(store.write(vec![put("/e/x/2", 9)]), Some(Resource::Objects));
    assert_eq!(store.write(vec![put("/e/top", 9)]), None, "less deep: it belongs to what it lies in");
    assert_eq!(store.used(0, "/e/").objects, 1);
}

#[test]
fn all_revisions_count_until_they_are_compacted() {
    let hard = HardLimits { uncompacted_bytes: Some(30), ..HardLimits::default() };
    let mut store = Store::new([quota("/e/", None, hard)]);
    assert_eq!(store.write(vec![put("/e/a", 10)]), None);
    assert_eq!(store.write(vec![put("/e/a", 10)]), None);
    assert_eq!(store.write(vec![put("/e/a", 10)]), None);
    assert_eq!(store.write(vec![put("/e/a", 10)]), Some(Resource::UncompactedBytes));
    assert_eq!(store.write(vec![put("/e/a", 5)]), None, "smaller ones are the way out");
    store.ledger.compact(b"/e/a", 10);
    store.ledger.compact(b"/e/a", 10);
    assert_eq!(store.used(0, "/e/").uncompacted_bytes, 15);
    assert_eq!(store.write(vec![put("/e/a", 10)]), None);
}

#[test]
fn objects_have_a_size() {
    let hard = HardLimits { object_bytes: Some(20), ..HardLimits::default() };
    let mut store = Store::new([quota("/e/", None, hard)]);
    assert_eq!(store.write(vec![put("/e/a", 21)]), Some(Resource::ObjectBytes));
    store.put(b"/e/old", 30);
    assert_eq!(store.write(vec![put("/e/old", 29)]), None, "it was too large before, and is smaller now");
}

#[test]
fn updates_may_be_forbidden_while_a_quota_is_exceeded() {
    let mut store = Store::new([Quota { allow_updates: false, ..quota("/e/", None, objects(1)) }]);
    store.put(b"/e/a", 20);
    assert_eq!(store.write(vec![put("/e/a", 20)]), None, "full, not exceeded");
    store.put(b"/e/b", 20);
    assert_eq!(store.write(vec![put("/e/a", 20)]), Some(Resource::Objects));
    assert_eq!(store.write(vec![delete("/e/a", "")]), None);
}

#[test]
fn while_the_branch_is_unknown_both_count_and_no_delete_does() {
    let mut store = Store::new([quota("/e/", None, objects(2))]);
    store.put(b"/e/a", 20);
    let compare = vec![Compare { key: Bytes::from_static(b"/e/a"), ..Compare::default() }];
    let either =
        TxnRequest { compare, failure: vec![put("/e/b", 20)], ..txn(vec![delete("/e/a", ""), put("/e/b", 9)]) };
    let id = store.begin(&either).expect("both branches put the same key");
    assert!(matches!(store.begin(&txn(vec![put("/e/c", 9)])), Err(Verdict::Wait)), "what is on its way counts");
    store.ledger.done(id);
    assert_eq!(store.write(vec![put("/e/c", 9)]), None);
}

#[test]
fn creates_and_updates_of_an_api_server_are_told_apart_before_they_are_carried_out() {
    let mut store = Store::new([quota("/e/", None, objects(1))]);
    store.put(b"/e/a", 20);
    assert!(store.begin(&kubernetes("/e/b", 0)).is_err(), "a create");
    assert!(store.begin(&kubernetes("/e/a", 0)).is_ok(), "a create of what exists, which fails");
    assert!(store.begin(&kubernetes("/e/a", 7)).is_ok(), "an update");
    assert!(store.begin(&kubernetes("/e/b", 7)).is_ok(), "an update of what does not exist, which fails");
    assert!(store.begin(&kubernetes("/e/b", 700)).is_err(), "nobody knows what a later revision will be");
}

/// Two who move an object away at the same time make room for one.
#[test]
fn the_room_that_a_delete_makes_is_used_once() {
    let mut store = Store::new([quota("/e/", None, objects(1))]);
    store.put(b"/e/a", 10);
    let (b, c) = (txn(vec![delete("/e/a", ""), put("/e/b", 10)]), txn(vec![delete("/e/a", ""), put("/e/c", 10)]));
    let first = store.begin(&b).expect("one goes, one comes");
    assert!(matches!(store.begin(&c), Err(Verdict::Wait)));
    // Somebody else deletes it before.
    store.delete(&KeyRange::Key(Bytes::from_static(b"/e/a")));
    assert!(matches!(store.begin(&txn(vec![put("/e/x", 10)])), Err(Verdict::Wait)), "the room is for the first");
    store.carry_out(&b);
    store.ledger.done(first);
    assert!(matches!(store.begin(&c), Err(Verdict::Refused(_))));
}

#[test]
fn an_update_on_its_way_keeps_the_place_of_an_object_that_is_deleted_meanwhile() {
    let mut store = Store::new([quota("/e/", None, objects(1))]);
    store.put(b"/e/a", 10);
    let update = txn(vec![put("/e/a", 10)]);
    let id = store.begin(&update).expect("no growth");
    store.delete(&KeyRange::Key(Bytes::from_static(b"/e/a")));
    assert!(matches!(store.begin(&txn(vec![put("/e/b", 10)])), Err(Verdict::Wait)));
    store.carry_out(&update);
    store.ledger.done(id);
    assert_eq!(store.used(0, "/e/").objects, 1);
}

#[test]
fn an_id_that_is_on_its_way_is_refused_and_changes_nothing() {
    let mut store = Store::new([quota("/e/", None, objects(2))]);
    let first = store.begin(&txn(vec![put("/e/a", 10)])).expect("there is room");
    store.ids -= 1;
    assert_eq!(store.begin(&txn(vec![put("/e/b", 10)])), Err(Verdict::Repeated));
    assert!(store.ledger.done(first));
    assert_eq!(store.ledger.keys_on_their_way(), 0);
}

#[test]
fn without_quotas_nothing_is_kept() {
    let mut store = Store::new([]);
    let id = store.begin(&txn(vec![put("/e/a", 10)])).expect("nothing is asked");
    assert!(!store.ledger.done(id));
    assert_eq!(store.ledger.keys_on_their_way(), 0);
}

#[test]
fn what_is_forgotten_leaves_what_is_stored() {
    let mut store = Store::new([quota("/e/", None, HardLimits { bytes: Some(100), ..objects(3) })]);
    assert_eq!(store.write(vec![put("/e/a", 10)]), None);
    let id = store.begin(&txn(vec![put("/e/b", 10), put("/e/a", 20)])).expect("there is room");
    store.ledger.forget();
    assert!(!store.ledger.done(id));
    assert_eq!(store.ledger.keys_on_their_way(), 0);
    assert_eq!(store.used(0, "/e/"), Usage { objects: 1, bytes: 10, uncompacted_bytes: 10 });
}

#[test]
fn what_is_on_its_way_counts_under_the_quotas_that_replace_others() {
    let mut store = Store::new([quota("/e/", None, objects(5))]);
    let coming = store.begin(&txn(vec![put("/e/a", 10), put("/e/b", 10)])).expect("there is room");
    let before = std::mem::replace(&mut store.ledger, Ledger::new(vec![quota("/e/", None, objects(2))]));
    store.ledger.carry(before, &store.objects);
    let more = txn(vec![put("/e/c", 10)]);
    assert_eq!(store.begin(&more), Err(Verdict::Wait));
    assert!(store.ledger.done(coming));
    assert_eq!(store.ledger.keys_on_their_way(), 0);
    assert!(store.begin(&more).is_ok(), "nothing of it came true");
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

fn count(objects: &Objects, prefix: &[u8]) -> (u64, u64) {
    let inside = objects.0.iter().filter(|(key, _)| key.starts_with(prefix));
    inside.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size))
}

/// Txns that are decided one after another and carried out in any order, if at all, with deletes that nobody decides
/// about between them: no budget ever holds more than it may, the ledger always equals a count of everything, and once
/// nothing is on its way nothing is refused that fits.
#[test]
fn quotas_are_exact_whatever_becomes_of_what_is_on_its_way() {
    for seed in 0..40u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let quotas =
            [quota("/e/", None, HardLimits { bytes: Some(400), ..objects(12) }), quota("/e/", Some(3), objects(4))];
        let mut store = Store::new(quotas);
        let mut coming: VecDeque<(u64, TxnRequest)> = VecDeque::new();
        let most = random.random_range(0..12);
        for step in 0..600 {
            let request = txn(random_ops(&mut random));
            match store.begin(&request) {
                Ok(id) => coming.push_back((id, request)),
                Err(verdict) if coming.is_empty() => {
                    let Verdict::Refused(exceeded) = verdict else { panic!("seed {seed}, step {step}: {verdict:?}") };
                    let mut forced = Store { objects: store.objects.clone(), ..Store::new([]) };
                    forced.carry_out(&request);
                    let (objects, bytes) = count(&forced.objects, &exceeded.prefix);
                    let over = if exceeded.resource == Resource::Objects { objects } else { bytes };
                    assert!(over > exceeded.hard, "seed {seed}, step {step}: refused though it fits: {exceeded}");
                }
                Err(_) => {}
            }
            if random.random_range(0..5) == 0 {
                store.delete(&KeyRange::Key(Bytes::from(format!("/e/{}/{}", step % 4, step % 6))));
            }
            while coming.len() > most || (!coming.is_empty() && random.random_range(0..3) == 0) {
                let (id, request) = coming.remove(random.random_range(0..coming.len())).expect("one of them");
                if random.random_range(0..8) > 0 {
                    store.carry_out(&request);
                }
                store.ledger.done(id);
            }
            let (objects, bytes) = count(&store.objects, b"/e/");
            assert!(objects <= 12 && bytes <= 400, "seed {seed}, step {step}: {objects} objects, {bytes} bytes");
            let usage = store.used(0, "/e/");
            assert_eq!((usage.objects, usage.bytes), (objects, bytes), "seed {seed}, step {step}");
            for folder in 0..4 {
                let prefix = format!("/e/{folder}/").into_bytes();
                assert!(count(&store.objects, &prefix).0 <= 4, "seed {seed}, step {step}");
            }
        }
        store.ledger.forget();
        assert!(store.ledger.keys_on_their_way() == 0, "seed {seed}");
    }
}
