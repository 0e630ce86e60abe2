//! KV.Put and KV.DeleteRange.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "kv":
    put_refuses_what_is_no_request: "empty key, ignore_value with a value, ignore_lease with a lease";
    put_revisions: "create_revision, mod_revision and version over a key's lives";
    put_prev_kv: "prev_kv when asked and when there is one";
    put_ignore_value: "ignore_value keeps the value and takes the lease";
    put_ignore_lease: "ignore_lease keeps the lease";
    put_leases: "attaching, moving and detaching";
    put_empty_value: "a value of nothing";
    delete_ranges: "one key, ranges, from a key on, everything, nothing";
    delete_prev_kvs: "prev_kvs in key order";
    delete_makes_revisions: "only when something went";
    hash_follows_the_revision: "HashKV at every revision of a short history";
}

async fn put_refuses_what_is_no_request(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("", "v")).await;
    s.put(put("", "")).await;
    s.put(pb::PutRequest { ignore_value: true, ..put("a", "v") }).await;
    s.put(pb::PutRequest { ignore_lease: true, lease: 1, ..put("a", "v") }).await;
    s.put(pb::PutRequest { ignore_value: true, ignore_lease: true, lease: 1, ..put("", "v") }).await;
    s.put(pb::PutRequest { ignore_value: true, ignore_lease: true, lease: 1, ..put("a", "v") }).await;
    s.put(pb::PutRequest { ignore_value: true, ..put("missing", "") }).await;
    s.put(pb::PutRequest { ignore_lease: true, ..put("missing", "v") }).await;
    s.put(pb::PutRequest { lease: 404, ..put("a", "v") }).await;
    s.put(pb::PutRequest { lease: -404, ..put("a", "v") }).await;
    s.put(pb::PutRequest { lease: 404, ignore_value: true, ..put("missing", "") }).await;
    s.range(all()).await;
    Ok(())
}

async fn put_revisions(s: &mut Session) -> anyhow::Result<()> {
    for _ in 0..3 {
        s.put(put("a", "same")).await;
    }
    s.range(get("a")).await;
    s.delete(del("a")).await;
    s.range(get("a")).await;
    s.put(put("a", "again")).await;
    s.range(get("a")).await;
    s.put(put("b", "other")).await;
    s.range(all()).await;
    Ok(())
}

async fn put_prev_kv(s: &mut Session) -> anyhow::Result<()> {
    let asking = |value| pb::PutRequest { prev_kv: true, ..put("a", value) };
    s.put(asking("1")).await;
    s.put(asking("2")).await;
    s.put(put("a", "3")).await;
    s.put(asking("4")).await;
    s.delete(del("a")).await;
    s.put(asking("5")).await;
    Ok(())
}

async fn put_ignore_value(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    s.put(put("a", "kept")).await;
    s.put(pb::PutRequest { ignore_value: true, lease: 5, prev_kv: true, ..put("a", "") }).await;
    s.range(get("a")).await;
    s.time_to_live(time_to_live(5)).await;
    s.put(pb::PutRequest { ignore_value: true, ..put("a", "") }).await;
    s.range(get("a")).await;
    s.time_to_live(time_to_live(5)).await;
    s.delete(del("a")).await;
    s.put(pb::PutRequest { ignore_value: true, ..put("a", "") }).await;
    Ok(())
}

async fn put_ignore_lease(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    s.put(pb::PutRequest { lease: 5, ..put("a", "1") }).await;
    s.put(pb::PutRequest { ignore_lease: true, ..put("a", "2") }).await;
    s.range(get("a")).await;
    s.put(pb::PutRequest { ignore_lease: true, ignore_value: true, ..put("a", "") }).await;
    s.range(get("a")).await;
    s.put(put("b", "no lease")).await;
    s.put(pb::PutRequest { ignore_lease: true, ..put("b", "still none") }).await;
    s.range(all()).await;
    s.revoke(revoke(5)).await;
    s.put(pb::PutRequest { ignore_lease: true, ..put("a", "3") }).await;
    Ok(())
}

async fn put_leases(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    s.grant(lease(6, 1000)).await;
    s.put(pb::PutRequest { lease: 5, ..put("a", "1") }).await;
    s.put(pb::PutRequest { lease: 5, ..put("b", "1") }).await;
    s.put(pb::PutRequest { lease: 6, ..put("a", "2") }).await;
    s.time_to_live(time_to_live(5)).await;
    s.time_to_live(time_to_live(6)).await;
    s.put(put("b", "2")).await;
    s.time_to_live(time_to_live(5)).await;
    s.revoke(revoke(5)).await;
    s.range(all()).await;
    s.delete(del("a")).await;
    s.time_to_live(time_to_live(6)).await;
    s.revoke(revoke(6)).await;
    s.range(all()).await;
    Ok(())
}

async fn put_empty_value(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "")).await;
    s.range(get("a")).await;
    s.put(pb::PutRequest { prev_kv: true, ..put("a", "") }).await;
    s.delete(pb::DeleteRangeRequest { prev_kv: true, ..del("a") }).await;
    Ok(())
}

async fn delete_ranges(s: &mut Session) -> anyhow::Result<()> {
    for (key, end) in [
        ("a", ""),
        ("x", ""),
        ("a", "c"),
        ("c", "a"),
        ("a", "a"),
        ("aa", FROM),
        ("z", FROM),
        (FROM, FROM),
        ("\0\0", "\0"),
        ("", ""),
        ("", FROM),
    ] {
        for key in ["a", "aa", "b", "c"] {
            s.put(put(key, key)).await;
        }
        s.delete(del_range(key, end)).await;
        s.range(all()).await;
    }
    Ok(())
}

async fn delete_prev_kvs(s: &mut Session) -> anyhow::Result<()> {
    for key in ["c", "a", "b"] {
        s.put(put(key, key)).await;
    }
    s.delete(pb::DeleteRangeRequest { prev_kv: true, ..del("missing") }).await;
    s.delete(pb::DeleteRangeRequest { prev_kv: true, ..del_range("a", FROM) }).await;
    s.delete(pb::DeleteRangeRequest { prev_kv: true, ..del_range("a", FROM) }).await;
    Ok(())
}

async fn delete_makes_revisions(s: &mut Session) -> anyhow::Result<()> {
    s.delete(del("a")).await;
    for key in ["a", "b", "c"] {
        s.put(put(key, key)).await;
    }
    s.delete(del_range("a", "c")).await;
    s.delete(del_range("a", "c")).await;
    s.put(put("a", "again")).await;
    for revision in 1..=6 {
        s.range(pb::RangeRequest { revision, ..all() }).await;
    }
    Ok(())
}

async fn hash_follows_the_revision(s: &mut Session) -> anyhow::Result<()> {
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.put(put("a", "1")).await;
    s.put(put("b", "1")).await;
    s.delete(del("a")).await;
    s.txn(always([put("c", "1").op(), del("b").op(), put("d", "").op()])).await;
    for revision in 0..=6 {
        s.hash_kv(pb::HashKvRequest { revision }).await;
    }
    Ok(())
}
