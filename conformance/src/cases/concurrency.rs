//! The Lock and Election services.

use std::time::Duration;

use forebay_proto::{
    etcdserverpb::LeaseTimeToLiveRequest,
    v3electionpb::{
        CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest, election_client::ElectionClient,
    },
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, lock_client::LockClient},
};
use tokio::task::JoinHandle;
use tonic::Status;

use super::{cases, requests::*};
use crate::session::{LIMIT, Session};

cases! { "concurrency":
    lock: "taking and giving back a lock";
    lock_without_a_lease: "a lease that the server grants, or that is not there";
    election: "campaign, proclaim, leader, resign";
    lock_queue: "waiting for a lock, and for a lease that ends meanwhile";
    observe: "an observer from before the first leader on";
    resign_in_front: "a candidate that waits, and wins";
    election_errors: "no leader, not the leader, no leader named";
}

async fn lock(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    let request = LockRequest { name: "l".into(), lease: 5 };
    s.lock(request.clone()).await;
    s.range(all()).await;
    s.lock(request).await;
    s.range(all()).await;
    s.unlock(UnlockRequest { key: "l/5".into() }).await;
    s.unlock(UnlockRequest { key: "l/5".into() }).await;
    s.unlock(UnlockRequest { key: "".into() }).await;
    s.range(all()).await;
    Ok(())
}

async fn lock_without_a_lease(s: &mut Session) -> anyhow::Result<()> {
    s.lock(LockRequest { name: "l".into(), lease: 404 }).await;
    let mut client = LockClient::new(s.channel.clone());
    let locked = client.lock(LockRequest { name: "l".into(), lease: 0 }).await?.into_inner();
    let id = locked.key.strip_prefix(b"l/").and_then(|hex| std::str::from_utf8(hex).ok());
    let id = id.and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or_default();
    s.names.id(id, "the lock's lease");
    s.time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await;
    s.unlock(UnlockRequest { key: locked.key }).await;
    s.range(all()).await;
    Ok(())
}

async fn election(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    let campaign = |value: &'static str| CampaignRequest { name: "e".into(), lease: 5, value: value.into() };
    let leader = s.campaign(campaign("first")).await.and_then(|campaign| campaign.leader);
    s.election_leader(LeaderRequest { name: "e".into() }).await;
    s.campaign(campaign("second")).await;
    s.election_leader(LeaderRequest { name: "e".into() }).await;
    s.proclaim(ProclaimRequest { leader: leader.clone(), value: "third".into() }).await;
    s.range(all()).await;
    s.resign(ResignRequest { leader: leader.clone() }).await;
    s.resign(ResignRequest { leader: leader.clone() }).await;
    s.proclaim(ProclaimRequest { leader, value: "late".into() }).await;
    s.range(all()).await;
    Ok(())
}

/// Resolves when so many keys stand under a prefix that ends in a slash.
async fn stand_under(s: &Session, prefix: &'static str, count: i64) -> anyhow::Result<()> {
    let end = prefix.replace('/', "0");
    for _ in 0..500 {
        if s.range_quietly(range(prefix, end.clone())).await?.count == count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("there are never {count} keys under {prefix}")
}

/// Waits in the background; the answer is recorded by whoever joins.
fn wait_for_lock(s: &Session, lease: i64) -> JoinHandle<Result<LockResponse, Status>> {
    let mut client = LockClient::new(s.channel.clone());
    tokio::spawn(async move {
        let request = LockRequest { name: "l".into(), lease };
        client.lock(request).await.map(tonic::Response::into_inner)
    })
}

async fn lock_queue(s: &mut Session) -> anyhow::Result<()> {
    for id in [5, 6, 7] {
        s.grant(lease(id, 1000)).await;
    }
    s.lock(LockRequest { name: "l".into(), lease: 5 }).await;
    let second = wait_for_lock(s, 6);
    stand_under(s, "l/", 2).await?;
    let third = wait_for_lock(s, 7);
    stand_under(s, "l/", 3).await?;
    s.range(range("l/", "l0")).await;
    s.unlock(UnlockRequest { key: "l/5".into() }).await;
    s.record("the second", &6, &second.await?);
    s.revoke(revoke(7)).await;
    s.unlock(UnlockRequest { key: "l/6".into() }).await;
    s.record("the third, without a lease", &7, &third.await?);
    s.range(all()).await;
    Ok(())
}

async fn observe(s: &mut Session) -> anyhow::Result<()> {
    for id in [5, 6] {
        s.grant(lease(id, 1000)).await;
    }
    let mut client = ElectionClient::new(s.channel.clone());
    // The head comes with the first leader.
    let opened = tokio::spawn(async move { client.observe(LeaderRequest { name: "e".into() }).await });
    // Whether the observer stands ready by now does not show: it is told of the first leader either way.
    let campaign = |lease, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let first = s.campaign(campaign(5, "one")).await.and_then(|won| won.leader);
    let mut news = opened.await??.into_inner();
    let mut told = async |s: &mut Session, what: &str| -> anyhow::Result<()> {
        let news = tokio::time::timeout(LIMIT, news.message()).await?;
        let news = news.and_then(|news| news.ok_or_else(|| Status::unknown("the end")));
        s.record(what, &"", &news);
        Ok(())
    };
    told(s, "the first leader").await?;
    s.proclaim(ProclaimRequest { leader: first.clone(), value: "uno".into() }).await;
    told(s, "another value").await?;
    s.resign(ResignRequest { leader: first }).await;
    s.campaign(campaign(6, "two")).await;
    told(s, "the second leader").await?;
    s.put(put("e/6", "by hand")).await;
    told(s, "a value put by hand").await?;
    s.delete(del("e/6")).await;
    s.put(put("e/anybody", "a key put by hand")).await;
    told(s, "a key that is no candidate's").await
}

async fn resign_in_front(s: &mut Session) -> anyhow::Result<()> {
    for id in [5, 6] {
        s.grant(lease(id, 1000)).await;
    }
    let campaign = |lease, value: &'static str| CampaignRequest { name: "e".into(), lease, value: value.into() };
    let first = s.campaign(campaign(5, "one")).await.and_then(|won| won.leader);
    let mut client = ElectionClient::new(s.channel.clone());
    let second = tokio::spawn(async move { client.campaign(campaign(6, "two")).await });
    stand_under(s, "e/", 2).await?;
    s.election_leader(LeaderRequest { name: "e".into() }).await;
    s.resign(ResignRequest { leader: first }).await;
    let won = second.await?.map(tonic::Response::into_inner);
    s.record("the second", &6, &won);
    s.election_leader(LeaderRequest { name: "e".into() }).await;
    Ok(())
}

async fn election_errors(s: &mut Session) -> anyhow::Result<()> {
    s.election_leader(LeaderRequest { name: "e".into() }).await;
    s.proclaim(ProclaimRequest { leader: None, value: "v".into() }).await;
    s.resign(ResignRequest { leader: None }).await;
    let stranger = LeaderKey { name: "e".into(), key: "e/99".into(), rev: 9, lease: 153 };
    s.proclaim(ProclaimRequest { leader: Some(stranger.clone()), value: "v".into() }).await;
    s.resign(ResignRequest { leader: Some(stranger) }).await;
    s.campaign(CampaignRequest { name: "e".into(), lease: 404, value: "v".into() }).await;
    s.range(all()).await;
    Ok(())
}
