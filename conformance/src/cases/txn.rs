//! KV.Txn: compares, execution and revisions.

use forebay_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
};

use super::{cases, requests::*};
use crate::session::Session;

cases! { "txn":
    compares_every_target: "every target against less, equal and more with every result";
    compares_a_missing_key: "numbers compare with zero, values never hold";
    compares_a_range: "a range compare holds for every key; an empty range is a missing key";
    compares_odd_unions: "unions that do not fit the target, unknown results and targets";
    all_compares_must_hold: "AND over compares, success without any";
    compares_see_the_state_before: "nested compares are decided before any write";
    reads_its_own_writes: "ranges inside see the writes before them, but not their revision";
    one_revision_for_all: "main and sub revisions of everything a txn writes";
    answers_have_the_shape_of_the_branch: "one answer per operation, nested ones too";
    checks_only_the_branch_taken: "revision, lease and ignore errors of the branch not taken do not count";
    fails_as_a_whole: "an error in the branch taken leaves nothing behind";
    read_only: "txns that only read";
    revisions_inside: "negative, compacted and future revisions of ranges inside";
    leases_inside: "puts with leases inside, and a lease that is not there";
    changes_nothing: "deletes of nothing make no revision";
}

const RESULTS: [CompareResult; 4] =
    [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];

/// Asks whether a compare holds.
async fn holds(s: &mut Session, compare: pb::Compare) {
    s.txn(txn([compare], [], [])).await;
}

async fn compares_every_target(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(50, 1000)).await;
    s.put(put("other", "")).await;
    s.put(put("a", "m")).await;
    s.put(pb::PutRequest { lease: 50, ..put("a", "m") }).await;
    for result in RESULTS {
        for around in [-1, 0, 1] {
            holds(s, compare("a", result, TargetUnion::Version(2 + around))).await;
            holds(s, compare("a", result, TargetUnion::CreateRevision(3 + around))).await;
            holds(s, compare("a", result, TargetUnion::ModRevision(4 + around))).await;
            holds(s, compare("a", result, TargetUnion::Lease(50 + around))).await;
        }
        for value in ["", "l", "m", "ma", "n"] {
            holds(s, compare("a", result, TargetUnion::Value(value.into()))).await;
        }
    }
    Ok(())
}

async fn compares_a_missing_key(s: &mut Session) -> anyhow::Result<()> {
    for result in RESULTS {
        for number in [-1, 0, 1] {
            holds(s, compare("a", result, TargetUnion::Version(number))).await;
            holds(s, compare("a", result, TargetUnion::CreateRevision(number))).await;
            holds(s, compare("a", result, TargetUnion::ModRevision(number))).await;
            holds(s, compare("a", result, TargetUnion::Lease(number))).await;
        }
        holds(s, compare("a", result, TargetUnion::Value("".into()))).await;
        holds(s, compare("a", result, TargetUnion::Value("x".into()))).await;
    }
    Ok(())
}

async fn compares_a_range(s: &mut Session) -> anyhow::Result<()> {
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("c", "3")] {
        s.put(put(key, value)).await;
    }
    for (key, end) in [("a", "c"), ("a", "d"), ("a", FROM), (FROM, FROM), ("x", "z"), ("c", "a"), ("c", ""), ("a", "b")]
    {
        for result in RESULTS {
            for against in [
                TargetUnion::Version(1),
                TargetUnion::Version(0),
                TargetUnion::CreateRevision(3),
                TargetUnion::ModRevision(4),
                TargetUnion::Value("2".into()),
                TargetUnion::Lease(0),
            ] {
                holds(s, pb::Compare { range_end: end.into(), ..compare(key, result, against) }).await;
            }
        }
    }
    Ok(())
}

async fn compares_odd_unions(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "")).await;
    s.put(put("b", "v")).await;
    for key in ["a", "b", "missing"] {
        for target in 0..=6 {
            for result in [0, 1, 2, 3, 4, -1] {
                let odd = pb::Compare { target, result, key: key.into(), ..Default::default() };
                holds(s, odd.clone()).await;
                holds(s, pb::Compare { target_union: Some(TargetUnion::Version(1)), ..odd.clone() }).await;
                holds(s, pb::Compare { target_union: Some(TargetUnion::Value("v".into())), ..odd }).await;
            }
        }
    }
    Ok(())
}

async fn all_compares_must_hold(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let yes = compare("a", CompareResult::Equal, TargetUnion::Version(1));
    let no = compare("a", CompareResult::Greater, TargetUnion::Version(1));
    for compares in [vec![], vec![yes.clone()], vec![yes.clone(), yes.clone()], vec![yes, no.clone()], vec![no]] {
        s.txn(txn(compares, [put("yes", "").op()], [put("no", "").op()])).await;
    }
    s.range(all()).await;
    Ok(())
}

async fn compares_see_the_state_before(s: &mut Session) -> anyhow::Result<()> {
    let missing = compare("a", CompareResult::Equal, TargetUnion::Version(0));
    let nested = txn([missing.clone()], [put("nested", "saw nothing").op()], [put("nested", "saw a").op()]);
    s.txn(always([put("a", "1").op(), nested.clone().op()])).await;
    s.txn(always([del("a").op(), nested.op()])).await;
    let deep = txn([missing.clone()], [txn([missing], [put("deep", "yes").op()], [put("deep", "no").op()]).op()], []);
    s.txn(always([put("a", "2").op(), deep.op()])).await;
    s.range(all()).await;
    Ok(())
}

async fn reads_its_own_writes(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.txn(always([
        get("a").op(),
        put("a", "2").op(),
        get("a").op(),
        pb::RangeRequest { revision: 2, ..get("a") }.op(),
        del("b").op(),
        put("c", "3").op(),
        all().op(),
        pb::RangeRequest { count_only: true, ..all() }.op(),
    ]))
    .await;
    s.txn(always([del("a").op(), get("a").op(), all().op()])).await;
    s.txn(always([pb::PutRequest { prev_kv: true, ..put("c", "4") }.op(), get("c").op()])).await;
    Ok(())
}

async fn one_revision_for_all(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("x", "")).await;
    s.put(put("y", "")).await;
    let nested = always([put("n", "1").op(), del_range("x", "z").op()]);
    s.txn(always([put("a", "1").op(), nested.op(), put("b", "1").op(), get("b").op()])).await;
    s.range(all()).await;
    s.range(pb::RangeRequest { revision: 3, ..all() }).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.put(put("a", "2")).await;
    s.range(all()).await;
    Ok(())
}

async fn answers_have_the_shape_of_the_branch(s: &mut Session) -> anyhow::Result<()> {
    let no = compare("a", CompareResult::Equal, TargetUnion::Version(9));
    let nested = |inner: pb::RequestOp| txn([no.clone()], [], [inner]);
    s.txn(txn([no.clone()], [], [])).await;
    s.txn(txn([no.clone()], [put("a", "").op()], [get("a").op(), del("a").op()])).await;
    s.txn(nested(nested(nested(put("deep", "1").op()).op()).op())).await;
    s.txn(always([always([]).op(), always([always([]).op()]).op()])).await;
    s.txn(always([pb::DeleteRangeRequest { prev_kv: true, ..del("deep") }.op()])).await;
    Ok(())
}

async fn checks_only_the_branch_taken(s: &mut Session) -> anyhow::Result<()> {
    let no = compare("a", CompareResult::Equal, TargetUnion::Version(9));
    for bad in [
        pb::RangeRequest { revision: 99, ..get("a") }.op(),
        pb::PutRequest { lease: 404, ..put("b", "") }.op(),
        pb::PutRequest { ignore_value: true, ..put("b", "") }.op(),
        pb::PutRequest { ignore_lease: true, ..put("b", "") }.op(),
    ] {
        s.txn(txn([no.clone()], [bad.clone()], [put("fine", "").op()])).await;
        s.txn(txn([no.clone()], [], [bad.clone()])).await;
        s.txn(always([txn([no.clone()], [bad.clone()], []).op()])).await;
        s.txn(always([txn([no.clone()], [], [bad]).op()])).await;
    }
    s.range(all()).await;
    Ok(())
}

async fn fails_as_a_whole(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    for bad in [
        pb::RangeRequest { revision: 99, ..get("a") }.op(),
        pb::PutRequest { lease: 404, ..put("b", "") }.op(),
        pb::PutRequest { ignore_value: true, ..put("created before", "") }.op(),
    ] {
        s.txn(always([put("created before", "1").op(), always([bad.clone()]).op()])).await;
        s.txn(always([put("other", "1").op(), bad, put("after", "1").op()])).await;
        s.range(all()).await;
    }
    Ok(())
}

async fn read_only(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let yes = compare("a", CompareResult::Equal, TargetUnion::Version(1));
    let local = pb::RangeRequest { serializable: true, ..get("a") };
    s.txn(always([])).await;
    s.txn(txn([yes.clone()], [], [])).await;
    s.txn(txn([yes.clone()], [get("a").op()], [get("b").op()])).await;
    s.txn(txn([yes], [local.clone().op()], [local.op()])).await;
    s.txn(always([pb::RangeRequest { revision: 99, ..get("a") }.op()])).await;
    s.txn(always([pb::RangeRequest { sort_order: 2, limit: 1, ..all() }.op()])).await;
    s.range(get("a")).await;
    Ok(())
}

async fn revisions_inside(s: &mut Session) -> anyhow::Result<()> {
    let ask = |revision| pb::RangeRequest { revision, ..get("a") }.op();
    s.put(put("a", "1")).await;
    s.put(put("a", "2")).await;
    for revision in [-2, -1, 0, 1, 2, 3, 4] {
        s.txn(always([ask(revision)])).await;
        s.txn(always([put("b", "").op(), ask(revision)])).await;
    }
    s.compact(pb::CompactionRequest { revision: 3, physical: true }).await;
    for revision in [-2, -1, 0, 1, 2, 3, 4, 20] {
        s.txn(always([ask(revision)])).await;
        s.txn(always([put("b", "").op(), ask(revision)])).await;
    }
    s.range(all()).await;
    Ok(())
}

async fn leases_inside(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(3, 1000)).await;
    s.txn(always([
        pb::PutRequest { lease: 3, ..put("a", "1") }.op(),
        pb::PutRequest { lease: 3, ..put("b", "1") }.op(),
    ]))
    .await;
    s.time_to_live(time_to_live(3)).await;
    s.txn(always([del("a").op(), put("b", "2").op()])).await;
    s.time_to_live(time_to_live(3)).await;
    s.txn(always([pb::PutRequest { ignore_value: true, lease: 3, ..put("b", "") }.op(), get("b").op()])).await;
    s.revoke(revoke(3)).await;
    s.range(all()).await;
    Ok(())
}

async fn changes_nothing(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.txn(always([del("x").op(), get("a").op(), del_range("y", "z").op()])).await;
    s.txn(always([del("x").op(), always([del("z").op()]).op()])).await;
    s.range(get("a")).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    Ok(())
}
