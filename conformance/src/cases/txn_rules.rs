//! KV.Txn: what is refused before anything runs.

use forebay_proto::etcdserverpb::{
    self as pb,
    compare::{CompareResult, TargetUnion},
};

use super::{cases, requests::*};
use crate::session::Session;

cases! { "txn_rules":
    size: "128 at each level, less for what is nested";
    size_by_flag: "the same with --max-txn-ops" with ["--max-txn-ops", "5"];
    size_is_checked_before_the_operations: "which error of several is given";
    every_operation_is_one: "empty operations, empty keys, nested and in both branches";
    duplicate_keys: "two puts, a put under a delete, in any order";
    duplicate_keys_nested: "parents, siblings and the two branches of one nested txn";
    holes: "the duplicates that are let through, and what they do";
    puts_are_checked_like_requests: "ignore flags inside";
    unknown_sort_numbers: "sort options inside";
}

fn puts(count: usize) -> Vec<pb::RequestOp> {
    (0..count).map(|n| put(format!("k{n}"), "").op()).collect()
}

fn compares(count: usize) -> Vec<pb::Compare> {
    vec![compare("k", CompareResult::Equal, TargetUnion::Version(0)); count]
}

async fn size(s: &mut Session) -> anyhow::Result<()> {
    s.txn(txn(compares(128), puts(128), puts(128))).await;
    s.txn(txn(compares(129), [], [])).await;
    s.txn(txn([], puts(129), [])).await;
    s.txn(txn([], [], puts(129))).await;
    for (outer, inner) in [(1, 127), (1, 128), (64, 64), (64, 65), (128, 1), (128, 0), (2, 126), (2, 127)] {
        let mut ops: Vec<_> = (1..outer).map(|n| get(format!("g{n}")).op()).collect();
        ops.push(always(puts(inner)).op());
        s.txn(always(ops)).await;
    }
    s.txn(txn(compares(100), [always(puts(28)).op()], [])).await;
    s.txn(txn(compares(100), [always(puts(29)).op()], [])).await;
    s.txn(txn([], [], [txn([], [], puts(128)).op()])).await;
    s.txn(always([always([always(puts(126)).op()]).op()])).await;
    s.txn(always([always([always(puts(127)).op()]).op()])).await;
    Ok(())
}

async fn size_by_flag(s: &mut Session) -> anyhow::Result<()> {
    s.txn(always(puts(5))).await;
    s.txn(always(puts(6))).await;
    s.txn(always([always(puts(4)).op()])).await;
    s.txn(always([always(puts(5)).op()])).await;
    Ok(())
}

async fn size_is_checked_before_the_operations(s: &mut Session) -> anyhow::Result<()> {
    let empty = pb::RequestOp { request: None };
    s.txn(always([puts(129), vec![empty.clone()]].concat())).await;
    s.txn(txn([pb::Compare::default()], [empty.clone()], [])).await;
    s.txn(always([put("a", "").op(), put("a", "").op(), empty.clone()])).await;
    s.txn(always([put("a", "").op(), put("a", "").op(), put("", "").op()])).await;
    s.txn(txn([], [put("a", "").op(), put("a", "").op()], [put("", "").op()])).await;
    s.txn(always([pb::RangeRequest { revision: 99, ..get("a") }.op(), put("", "").op()])).await;
    Ok(())
}

async fn every_operation_is_one(s: &mut Session) -> anyhow::Result<()> {
    let empty = pb::RequestOp { request: None };
    s.txn(always([empty.clone()])).await;
    s.txn(txn([], [], [empty.clone()])).await;
    s.txn(always([always([empty.clone()]).op()])).await;
    s.txn(txn(compares(1), [], [txn([], [], [empty]).op()])).await;
    s.txn(txn([pb::Compare::default()], [], [])).await;
    s.txn(always([txn([pb::Compare::default()], [], []).op()])).await;
    for op in [get("").op(), put("", "v").op(), del("").op(), range("", FROM).op(), always([del("").op()]).op()] {
        s.txn(always([op.clone()])).await;
        s.txn(txn([], [], [op])).await;
    }
    Ok(())
}

async fn duplicate_keys(s: &mut Session) -> anyhow::Result<()> {
    let a = || put("a", "").op();
    for ops in [
        vec![a(), a()],
        vec![a(), put("b", "").op(), a()],
        vec![a(), del("a").op()],
        vec![del("a").op(), a()],
        vec![del_range("a", "c").op(), put("b", "").op()],
        vec![put("b", "").op(), del_range("a", "c").op()],
        vec![put("c", "").op(), del_range("a", "c").op()],
        vec![del_range("a", "c").op(), del_range("b", "d").op()],
        vec![del("a").op(), del("a").op()],
        vec![del_range("c", "a").op(), put("b", "").op()],
        vec![get("a").op(), a(), get("a").op(), all().op()],
        vec![del_range("\0\0", "zz").op(), a()],
    ] {
        s.txn(always(ops.clone())).await;
        s.txn(txn([], [], ops.clone())).await;
        s.txn(always([always(ops).op()])).await;
    }
    s.txn(txn(compares(1), [a()], [a()])).await;
    Ok(())
}

async fn duplicate_keys_nested(s: &mut Session) -> anyhow::Result<()> {
    let a = || put("a", "").op();
    let nest = |op| always([op]).op();
    for ops in [
        vec![a(), nest(a())],
        vec![nest(a()), a()],
        vec![nest(a()), nest(a())],
        vec![del("a").op(), nest(a())],
        vec![nest(a()), del("a").op()],
        vec![a(), nest(del("a").op())],
        vec![nest(del("a").op()), a()],
        vec![nest(del("a").op()), nest(a())],
        vec![nest(del_range("a", "c").op()), nest(put("b", "").op())],
        vec![txn([], [a()], [a()]).op()],
        vec![txn([], [a()], [del("a").op()]).op()],
        vec![nest(nest(a())), nest(a())],
        vec![nest(nest(a())), a()],
        vec![nest(del("a").op()), nest(del("a").op())],
        vec![txn([], [], [a()]).op(), a()],
    ] {
        s.txn(always(ops)).await;
    }
    Ok(())
}

async fn holes(s: &mut Session) -> anyhow::Result<()> {
    for key in ["a", "b", "c"] {
        s.put(put(key, "before")).await;
    }
    s.txn(always([del_range("a", FROM).op(), put("b", "after").op()])).await;
    s.range(all()).await;
    s.txn(always([put("c", "gone").op(), del_range("b", FROM).op()])).await;
    s.range(all()).await;
    s.txn(always([always([put("k", "1").op()]).op(), always([del("k").op()]).op(), get("k").op()])).await;
    s.range(all()).await;
    s.txn(always([del_range(FROM, FROM).op(), put("again", "1").op()])).await;
    s.range(all()).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    for revision in 4..=8 {
        s.range(pb::RangeRequest { revision, ..all() }).await;
    }
    Ok(())
}

async fn unknown_sort_numbers(s: &mut Session) -> anyhow::Result<()> {
    for ask in [pb::RangeRequest { sort_order: 9, ..all() }, pb::RangeRequest { sort_target: 9, ..all() }] {
        s.txn(always([ask.clone().op()])).await;
        s.txn(txn([], [], [ask.clone().op()])).await;
        s.txn(always([always([ask.op()]).op()])).await;
    }
    Ok(())
}

async fn puts_are_checked_like_requests(s: &mut Session) -> anyhow::Result<()> {
    for op in [
        pb::PutRequest { ignore_value: true, ..put("a", "v") }.op(),
        pb::PutRequest { ignore_lease: true, lease: 1, ..put("a", "v") }.op(),
    ] {
        s.txn(always([op.clone()])).await;
        s.txn(txn([], [], [op.clone()])).await;
        s.txn(always([always([op]).op()])).await;
    }
    Ok(())
}
