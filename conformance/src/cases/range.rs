//! KV.Range.

use forebay_proto::etcdserverpb::{
    self as pb,
    range_request::{SortOrder, SortTarget},
};

use super::{cases, requests::*};
use crate::session::Session;

cases! { "range":
    refuses_what_is_no_request: "empty keys and revisions that are not there";
    unknown_sort_numbers: "sort orders and targets outside of the protocol";
    ends: "one key, a range, from a key on, every key, and ranges that hold nothing";
    revisions: "the present, the past, the compacted revision itself";
    limit_more_and_count: "limit, more and count";
    count_only: "count_only leaves everything else out";
    keys_only: "keys_only, with leases and with a sort by value";
    filters: "the four revision filters, alone and together, with count, limit and more";
    sorting: "every target in every order";
    sorting_with_a_limit: "which keys a limit leaves, by order and target";
    negative_numbers: "negative limits, revisions and filters";
    bytes_are_not_text: "keys and values of any bytes";
    serializable: "serializable reads on a healthy member";
    many_keys: "a few thousand keys in one answer";
    large_values: "an answer past four mebibytes";
}

const TARGETS: [SortTarget; 5] =
    [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
const ORDERS: [SortOrder; 3] = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];

/// Five keys that no two sort targets put into the same order, and no two of which are equal on any.
async fn five_keys(s: &mut Session) {
    for (key, value, times) in [("c", "5", 1), ("a", "3", 4), ("e", "1", 2), ("b", "2", 5), ("d", "4", 3)] {
        for _ in 0..times {
            s.put(put(key, value)).await;
        }
    }
    s.put(put("e", "1")).await;
    s.put(put("e", "1")).await;
    s.put(put("e", "1")).await;
    s.put(put("e", "1")).await;
    s.put(put("d", "9")).await;
    s.put(put("d", "4")).await;
    s.put(put("d", "4")).await;
    s.put(put("d", "4")).await;
}

async fn refuses_what_is_no_request(s: &mut Session) -> anyhow::Result<()> {
    s.range(get("")).await;
    s.range(range("", FROM)).await;
    s.range(pb::RangeRequest { revision: 2, ..get("a") }).await;
    s.range(pb::RangeRequest { revision: i64::MAX, ..get("a") }).await;
    s.range(pb::RangeRequest { revision: 2, count_only: true, ..get("a") }).await;
    Ok(())
}

async fn unknown_sort_numbers(s: &mut Session) -> anyhow::Result<()> {
    s.range(pb::RangeRequest { sort_order: 3, ..all() }).await;
    s.range(pb::RangeRequest { sort_order: -1, ..all() }).await;
    s.range(pb::RangeRequest { sort_target: 5, ..all() }).await;
    s.range(pb::RangeRequest { sort_target: -1, ..all() }).await;
    s.range(pb::RangeRequest { sort_order: 3, ..get("") }).await;
    Ok(())
}

async fn ends(s: &mut Session) -> anyhow::Result<()> {
    for key in ["a", "aa", "ab", "b", "c"] {
        s.put(put(key, key)).await;
    }
    for (key, end) in [
        ("a", ""),
        ("x", ""),
        ("a", "b"),
        ("a", "a"),
        ("b", "a"),
        ("a", "a\0"),
        ("a", "zz"),
        ("aa", FROM),
        ("aaa", FROM),
        ("z", FROM),
        (FROM, FROM),
        (FROM, "b"),
        ("\0\0", "b"),
        ("ab", "\0\0"),
        ("x", "z"),
    ] {
        s.range(range(key, end)).await;
    }
    Ok(())
}

async fn revisions(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.put(put("b", "1")).await;
    s.put(put("a", "2")).await;
    s.delete(del("b")).await;
    s.put(put("b", "2")).await;
    for revision in [-1, 0, 1, 2, 3, 4, 5, 6, 7] {
        s.range(pb::RangeRequest { revision, ..all() }).await;
    }
    s.compact(pb::CompactionRequest { revision: 4, physical: true }).await;
    for revision in [-1, 0, 1, 3, 4, 5, 6, 7] {
        s.range(pb::RangeRequest { revision, ..all() }).await;
        s.range(pb::RangeRequest { revision, serializable: true, count_only: true, ..all() }).await;
    }
    Ok(())
}

async fn limit_more_and_count(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    for limit in [0, 1, 2, 4, 5, 6, i64::MAX] {
        s.range(pb::RangeRequest { limit, ..all() }).await;
        s.range(pb::RangeRequest { limit, ..range("b", "d") }).await;
    }
    s.range(pb::RangeRequest { limit: 1, ..get("a") }).await;
    s.range(pb::RangeRequest { limit: 1, ..get("missing") }).await;
    s.range(pb::RangeRequest { limit: 2, revision: 4, ..all() }).await;
    Ok(())
}

async fn count_only(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    let count = pb::RangeRequest { count_only: true, ..all() };
    s.range(count.clone()).await;
    s.range(pb::RangeRequest { limit: 2, ..count.clone() }).await;
    s.range(pb::RangeRequest { keys_only: true, ..count.clone() }).await;
    s.range(pb::RangeRequest { min_mod_revision: 10, max_create_revision: 3, ..count.clone() }).await;
    s.range(pb::RangeRequest { revision: 4, ..count.clone() }).await;
    s.range(pb::RangeRequest { sort_order: 2, sort_target: 4, ..count }).await;
    s.range(pb::RangeRequest { count_only: true, ..get("missing") }).await;
    Ok(())
}

async fn keys_only(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    s.grant(lease(77, 1000)).await;
    s.put(pb::PutRequest { lease: 77, ..put("c", "leased") }).await;
    let keys = pb::RangeRequest { keys_only: true, ..all() };
    s.range(keys.clone()).await;
    s.range(pb::RangeRequest { limit: 2, ..keys.clone() }).await;
    s.range(pb::RangeRequest { min_mod_revision: 10, ..keys.clone() }).await;
    s.range(pb::RangeRequest { revision: 4, ..keys.clone() }).await;
    for target in TARGETS {
        for order in ORDERS {
            s.range(pb::RangeRequest { sort_order: order.into(), sort_target: target.into(), ..keys.clone() }).await;
        }
    }
    s.txn(always([keys.op()])).await;
    Ok(())
}

async fn filters(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    for bound in [1, 2, 7, 8, 13, 24, 100] {
        s.range(pb::RangeRequest { min_mod_revision: bound, ..all() }).await;
        s.range(pb::RangeRequest { max_mod_revision: bound, ..all() }).await;
        s.range(pb::RangeRequest { min_create_revision: bound, ..all() }).await;
        s.range(pb::RangeRequest { max_create_revision: bound, ..all() }).await;
    }
    let both = pb::RangeRequest { min_create_revision: 3, max_create_revision: 13, ..all() };
    s.range(both.clone()).await;
    s.range(pb::RangeRequest { min_mod_revision: 7, max_mod_revision: 20, ..both.clone() }).await;
    for limit in [1, 2, 3, 4] {
        s.range(pb::RangeRequest { limit, ..both.clone() }).await;
        s.range(pb::RangeRequest { limit, keys_only: true, ..both.clone() }).await;
        s.range(pb::RangeRequest { limit, sort_order: 2, sort_target: 3, ..both.clone() }).await;
    }
    s.range(pb::RangeRequest { revision: 6, ..both }).await;
    s.range(pb::RangeRequest { max_mod_revision: 3, revision: 6, ..all() }).await;
    Ok(())
}

async fn sorting(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    for target in TARGETS {
        for order in ORDERS {
            let sorted = pb::RangeRequest { sort_order: order.into(), sort_target: target.into(), ..all() };
            s.range(sorted.clone()).await;
            s.range(pb::RangeRequest { revision: 9, ..sorted }).await;
        }
    }
    Ok(())
}

async fn sorting_with_a_limit(s: &mut Session) -> anyhow::Result<()> {
    five_keys(s).await;
    for target in TARGETS {
        for order in ORDERS {
            let sorted = pb::RangeRequest { sort_order: order.into(), sort_target: target.into(), limit: 2, ..all() };
            s.range(sorted.clone()).await;
            s.range(pb::RangeRequest { keys_only: true, ..sorted.clone() }).await;
            s.range(pb::RangeRequest { max_create_revision: 9, ..sorted }).await;
        }
    }
    Ok(())
}

async fn negative_numbers(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.put(put("b", "1")).await;
    s.range(pb::RangeRequest { limit: -1, ..all() }).await;
    s.range(pb::RangeRequest { limit: i64::MIN, ..all() }).await;
    s.range(pb::RangeRequest { revision: -7, ..all() }).await;
    s.range(pb::RangeRequest { min_mod_revision: -1, ..all() }).await;
    s.range(pb::RangeRequest { max_mod_revision: -1, ..all() }).await;
    s.range(pb::RangeRequest { min_create_revision: -1, max_create_revision: -1, ..all() }).await;
    Ok(())
}

async fn bytes_are_not_text(s: &mut Session) -> anyhow::Result<()> {
    for key in [&b"\0"[..], b"\0\0", b"\xff", b"\xff\xff", b"a\0b", b"\x80\xfe"] {
        s.put(put(key, [key, b"\xff\0"].concat())).await;
    }
    s.range(all()).await;
    s.range(get(&b"\0"[..])).await;
    s.range(range(&b"\xff"[..], &b"\xff\xff"[..])).await;
    s.range(range(&b"\xff"[..], FROM)).await;
    s.range(range(&b"\0"[..], &b"\x80"[..])).await;
    Ok(())
}

async fn serializable(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.range(pb::RangeRequest { serializable: true, ..get("a") }).await;
    s.range(pb::RangeRequest { serializable: true, revision: 9, ..get("a") }).await;
    s.range(pb::RangeRequest { serializable: true, ..get("") }).await;
    Ok(())
}

async fn many_keys(s: &mut Session) -> anyhow::Result<()> {
    for batch in 0..25 {
        let ops: Vec<_> = (0..100).map(|n| put(format!("k{batch:02}{n:02}"), format!("v{n}")).op()).collect();
        s.txn(always(ops)).await;
    }
    s.range(all()).await;
    s.range(pb::RangeRequest { limit: 1000, ..all() }).await;
    s.range(pb::RangeRequest { keys_only: true, sort_order: 2, ..range("k10", "k20") }).await;
    s.range(pb::RangeRequest { limit: 999, revision: 20, ..range("k05", FROM) }).await;
    s.range(pb::RangeRequest { count_only: true, ..range("k05", "k0501") }).await;
    Ok(())
}

async fn large_values(s: &mut Session) -> anyhow::Result<()> {
    for key in ["a", "b", "c", "d", "e", "f"] {
        s.put(put(key, key.repeat(1_000_000))).await;
    }
    s.range(all()).await;
    s.range(pb::RangeRequest { keys_only: true, ..all() }).await;
    s.range(pb::RangeRequest { limit: 5, ..all() }).await;
    Ok(())
}
