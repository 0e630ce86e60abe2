//! The Lease service.

use std::time::Duration;

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "lease":
    grant_ids: "ids that the server picks, ids that are taken, negative ids";
    grant_ttls: "TTLs below the minimum are raised, TTLs above the maximum refused";
    keep_alive: "renewals, and leases that are not there";
    keep_alive_after_expiry: "renewing a lease that ran out";
    remaining: "known, unknown, with and without keys";
    list: "every lease, the one that runs out first in front";
    revoke_deletes_keys: "all keys of a lease in one revision";
    revoke_without_keys: "no keys, no revision";
    revoke_twice: "a lease that is not there";
    expiry: "keys go with a lease that runs out";
    renewal_keeps_it: "a lease that is renewed outlives its TTL";
    id_after_revoke: "an id can be used again";
}

async fn grant_ids(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(0, 100)).await;
    s.grant(lease(0, 100)).await;
    s.grant(lease(5, 100)).await;
    s.grant(lease(5, 100)).await;
    s.grant(lease(5, 200)).await;
    s.grant(lease(-5, 100)).await;
    s.grant(lease(i64::MAX, 100)).await;
    s.grant(lease(i64::MIN, 100)).await;
    s.put(pb::PutRequest { lease: -5, ..put("a", "") }).await;
    s.range(get("a")).await;
    Ok(())
}

async fn grant_ttls(s: &mut Session) -> anyhow::Result<()> {
    let ttls = [1, 0, -1, 2, 3, i64::MIN, 9_000_000_000, 9_000_000_001, i64::MAX];
    for (id, ttl) in (1..).zip(ttls) {
        s.grant(lease(id, ttl)).await;
    }
    s.grant(lease(4, 9_000_000_001)).await;
    Ok(())
}

async fn keep_alive(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 60)).await;
    let mut stream = s.keep_alive();
    for id in [5, 404, 0, -1, 5] {
        stream.renew(s, id).await;
    }
    s.put(put("a", "")).await;
    stream.renew(s, 5).await;
    s.revoke(revoke(5)).await;
    stream.renew(s, 5).await;
    Ok(())
}

async fn keep_alive_after_expiry(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 2)).await;
    let mut stream = s.keep_alive();
    stream.renew(s, 5).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    stream.renew(s, 5).await;
    s.time_to_live(time_to_live(5)).await;
    Ok(())
}

async fn remaining(s: &mut Session) -> anyhow::Result<()> {
    let ask = time_to_live;
    s.grant(lease(5, 1000)).await;
    s.time_to_live(ask(5)).await;
    for key in ["c", "a", "b"] {
        s.put(pb::PutRequest { lease: 5, ..put(key, "") }).await;
    }
    s.time_to_live(ask(5)).await;
    s.time_to_live(pb::LeaseTimeToLiveRequest { id: 5, keys: false }).await;
    s.time_to_live(ask(404)).await;
    s.time_to_live(ask(0)).await;
    s.delete(del("b")).await;
    s.time_to_live(ask(5)).await;
    Ok(())
}

async fn list(s: &mut Session) -> anyhow::Result<()> {
    s.leases(pb::LeaseLeasesRequest {}).await;
    for (id, ttl) in [(1, 500), (2, 300), (3, 400)] {
        s.grant(lease(id, ttl)).await;
    }
    s.leases(pb::LeaseLeasesRequest {}).await;
    s.revoke(revoke(2)).await;
    s.leases(pb::LeaseLeasesRequest {}).await;
    Ok(())
}

async fn revoke_deletes_keys(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    for key in ["c", "a", "b"] {
        s.put(pb::PutRequest { lease: 5, ..put(key, "") }).await;
    }
    s.put(put("other", "")).await;
    s.revoke(revoke(5)).await;
    s.range(all()).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.time_to_live(time_to_live(5)).await;
    Ok(())
}

async fn revoke_without_keys(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    s.revoke(revoke(5)).await;
    s.grant(lease(6, 1000)).await;
    s.put(pb::PutRequest { lease: 6, ..put("a", "") }).await;
    s.delete(del("a")).await;
    s.revoke(revoke(6)).await;
    s.range(all()).await;
    Ok(())
}

async fn revoke_twice(s: &mut Session) -> anyhow::Result<()> {
    s.revoke(revoke(5)).await;
    s.revoke(revoke(0)).await;
    s.grant(lease(5, 1000)).await;
    s.revoke(revoke(5)).await;
    s.revoke(revoke(5)).await;
    Ok(())
}

async fn expiry(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 2)).await;
    s.grant(lease(6, 1000)).await;
    for (key, id) in [("b", 5), ("a", 5), ("c", 6)] {
        s.put(pb::PutRequest { lease: id, ..put(key, "") }).await;
    }
    s.range(all()).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    s.range(all()).await;
    s.leases(pb::LeaseLeasesRequest {}).await;
    s.put(pb::PutRequest { lease: 5, ..put("d", "") }).await;
    s.revoke(revoke(5)).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    Ok(())
}

async fn renewal_keeps_it(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 2)).await;
    s.put(pb::PutRequest { lease: 5, ..put("a", "") }).await;
    let mut stream = s.keep_alive();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.renew(s, 5).await;
    }
    s.range(all()).await;
    Ok(())
}

async fn id_after_revoke(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 100)).await;
    s.put(pb::PutRequest { lease: 5, ..put("a", "") }).await;
    s.revoke(revoke(5)).await;
    s.grant(lease(5, 200)).await;
    s.time_to_live(time_to_live(5)).await;
    s.range(all()).await;
    Ok(())
}
