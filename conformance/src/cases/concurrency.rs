//! The Lock and Election services.

use forebay_proto::{
    v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest},
    v3lockpb::{LockRequest, UnlockRequest},
};

use super::{cases, requests::*};
use crate::session::Session;

cases! { "concurrency":
    lock: "taking and giving back a lock";
    lock_without_a_lease: "a lease that the server grants, or that is not there";
    election: "campaign, proclaim, leader, resign";
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
    let mut client = forebay_proto::v3lockpb::lock_client::LockClient::new(s.channel.clone());
    let locked = client.lock(LockRequest { name: "l".into(), lease: 0 }).await?.into_inner();
    let id = locked.key.strip_prefix(b"l/").and_then(|hex| std::str::from_utf8(hex).ok());
    let id = id.and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or_default();
    s.names.id(id, "the lock's lease");
    s.time_to_live(forebay_proto::etcdserverpb::LeaseTimeToLiveRequest { id, keys: false }).await;
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
