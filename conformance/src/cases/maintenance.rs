//! The Maintenance service.

use std::time::Duration;

use forebay_proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};

use super::{cases, requests::*};
use crate::session::Session;

cases! { "maintenance":
    status: "every field of Status";
    status_with_alarms: "alarms are printed among its errors";
    alarms: "raising, listing and clearing";
    alarm_without_space: "what NOSPACE refuses and what it lets through";
    alarm_of_corruption: "what CORRUPT refuses and what it lets through";
    quota: "the quota raises NOSPACE by itself" with ["--quota-backend-bytes", "2000000"];
    hash_kv: "revisions, compaction, errors";
    defragment: "the data after it is the data before it";
    snapshot: "chunks, remaining bytes, version and checksum";
    move_leader: "to itself and to nobody";
    downgrade_twice: "one downgrade at a time, and its end";
    downgrade: "versions that fit and versions that do not";
}

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;
const NONE: i32 = 0;
const NOSPACE: i32 = 1;
const CORRUPT: i32 = 2;

fn alarm(action: i32, member_id: u64, alarm: i32) -> pb::AlarmRequest {
    pb::AlarmRequest { action, member_id, alarm }
}

/// Waits until the storage version is that of the cluster, which it follows by a moment: until then it is that of the
/// first release that has one. Releases without the field are waited for in vain, and not for long.
pub(super) async fn settle(s: &mut Session) -> anyhow::Result<()> {
    for _ in 0..100 {
        let mut client = MaintenanceClient::new(s.channel.clone());
        let status = client.status(pb::StatusRequest {}).await?.into_inner();
        if !["", "3.5.0"].contains(&status.storage_version.as_str()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn status(s: &mut Session) -> anyhow::Result<()> {
    settle(s).await?;
    s.status().await;
    s.put(put("a", "1")).await;
    s.status().await;
    Ok(())
}

async fn status_with_alarms(s: &mut Session) -> anyhow::Result<()> {
    settle(s).await?;
    s.alarm(alarm(ACTIVATE, 17, NOSPACE)).await;
    s.status().await;
    s.alarm(alarm(ACTIVATE, 18, CORRUPT)).await;
    s.status().await;
    Ok(())
}

async fn alarms(s: &mut Session) -> anyhow::Result<()> {
    s.alarm(alarm(GET, 0, NONE)).await;
    s.alarm(alarm(ACTIVATE, 17, NONE)).await;
    s.alarm(alarm(ACTIVATE, 17, NOSPACE)).await;
    s.alarm(alarm(ACTIVATE, 17, NOSPACE)).await;
    s.alarm(alarm(GET, 0, NONE)).await;
    s.alarm(alarm(GET, 18, NONE)).await;
    s.alarm(alarm(GET, 18, NOSPACE)).await;
    s.alarm(alarm(GET, 0, CORRUPT)).await;
    s.alarm(alarm(DEACTIVATE, 18, NOSPACE)).await;
    s.alarm(alarm(DEACTIVATE, 17, CORRUPT)).await;
    s.alarm(alarm(DEACTIVATE, 17, NONE)).await;
    s.alarm(alarm(GET, 0, NOSPACE)).await;
    s.alarm(alarm(DEACTIVATE, 17, NOSPACE)).await;
    s.alarm(alarm(DEACTIVATE, 17, NOSPACE)).await;
    s.alarm(alarm(GET, 0, NONE)).await;
    Ok(())
}

/// One request of every kind that an alarm may refuse.
async fn everything(s: &mut Session) {
    s.range(all()).await;
    s.range(pb::RangeRequest { serializable: true, ..all() }).await;
    s.put(put("a", "2")).await;
    s.delete(del("b")).await;
    s.txn(always([])).await;
    s.txn(always([get("a").op()])).await;
    s.txn(always([del("c").op()])).await;
    s.txn(always([put("a", "3").op()])).await;
    s.txn(txn([], [get("a").op()], [put("a", "untaken").op()])).await;
    s.txn(txn([], [del("d").op()], [put("a", "untaken").op()])).await;
    s.txn(always([always([put("a", "nested").op()]).op()])).await;
    s.txn(always([always([get("a").op()]).op()])).await;
    s.grant(lease(6, 1000)).await;
    s.keep_alive().renew(s, 5).await;
    s.time_to_live(time_to_live(5)).await;
    s.revoke(revoke(5)).await;
    s.compact(pb::CompactionRequest { revision: 3, physical: true }).await;
    s.put(put("", "")).await;
    s.put(pb::PutRequest { lease: 404, ..put("a", "") }).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.defragment(pb::DefragmentRequest {}).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    s.range(all()).await;
}

async fn alarm_without_space(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    for key in ["a", "b", "c", "d"] {
        s.put(put(key, "1")).await;
    }
    s.alarm(alarm(ACTIVATE, 17, NOSPACE)).await;
    everything(s).await;
    s.alarm(alarm(DEACTIVATE, 17, NOSPACE)).await;
    s.put(put("a", "free again")).await;
    Ok(())
}

async fn alarm_of_corruption(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(5, 1000)).await;
    for key in ["a", "b", "c", "d"] {
        s.put(put(key, "1")).await;
    }
    s.alarm(alarm(ACTIVATE, 17, CORRUPT)).await;
    everything(s).await;
    s.alarm(alarm(ACTIVATE, 17, NOSPACE)).await;
    everything(s).await;
    s.alarm(alarm(DEACTIVATE, 17, CORRUPT)).await;
    s.put(put("a", "only NOSPACE is left")).await;
    Ok(())
}

async fn quota(s: &mut Session) -> anyhow::Result<()> {
    let value = "x".repeat(300_000);
    let mut refused = false;
    let mut client = pb::kv_client::KvClient::new(s.channel.clone());
    for _ in 0..60 {
        if let Err(status) = client.put(put("a", value.clone())).await {
            s.record::<()>("put", &put("a", "a large value"), &Err(status));
            refused = true;
            break;
        }
    }
    s.note("the quota refuses in the end", serde_json::json!(refused));
    // How many puts fit depends on when pages are written, so revisions are left out from here on.
    let alarms = MaintenanceClient::new(s.channel.clone()).alarm(alarm(GET, 0, NONE)).await?.into_inner().alarms;
    let alarms = s.names.tree_of(serde_json::to_value(alarms)?);
    s.note("alarms", alarms);
    for small in [always([put("b", "").op()]), always([get("b").op()])] {
        let code = client.txn(small).await.map_or_else(|status| status.to_string(), |_| "ok".to_owned());
        s.note("a small txn", serde_json::json!(code));
    }
    let code = client.delete_range(del("a")).await.map_or_else(|status| status.to_string(), |_| "ok".to_owned());
    s.note("a delete", serde_json::json!(code));
    Ok(())
}

async fn hash_kv(s: &mut Session) -> anyhow::Result<()> {
    for n in 2..=8 {
        s.put(put(format!("k{}", n % 3), format!("{n}"))).await;
    }
    s.delete(del("k1")).await;
    for revision in [-1, 0, 1, 2, 5, 9, 10, i64::MAX] {
        s.hash_kv(pb::HashKvRequest { revision }).await;
    }
    s.compact(pb::CompactionRequest { revision: 6, physical: true }).await;
    for revision in [-1, 0, 1, 5, 6, 7, 9, 10] {
        s.hash_kv(pb::HashKvRequest { revision }).await;
    }
    Ok(())
}

async fn defragment(s: &mut Session) -> anyhow::Result<()> {
    for n in 0..30 {
        s.put(put(format!("k{}", n % 7), "x".repeat(n * 100))).await;
    }
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.defragment(pb::DefragmentRequest {}).await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.range(all()).await;
    s.put(put("after", "")).await;
    s.range(pb::RangeRequest { revision: 10, ..all() }).await;
    Ok(())
}

async fn snapshot(s: &mut Session) -> anyhow::Result<()> {
    for n in 0..20 {
        s.put(put(format!("k{n}"), "x".repeat(10_000))).await;
    }
    s.status().await;
    s.snapshot().await;
    Ok(())
}

async fn move_leader(s: &mut Session) -> anyhow::Result<()> {
    let leader = MaintenanceClient::new(s.channel.clone()).status(pb::StatusRequest {}).await?.into_inner().leader;
    s.move_leader(pb::MoveLeaderRequest { target_id: leader }).await;
    s.move_leader(pb::MoveLeaderRequest { target_id: 404 }).await;
    s.move_leader(pb::MoveLeaderRequest { target_id: 0 }).await;
    Ok(())
}

async fn downgrade_twice(s: &mut Session) -> anyhow::Result<()> {
    let ask = |action| pb::DowngradeRequest { action, version: "3.6.0".to_owned() };
    for action in [1, 1, 0, 2, 2] {
        s.downgrade(ask(action)).await;
    }
    Ok(())
}

async fn downgrade(s: &mut Session) -> anyhow::Result<()> {
    for version in ["3.6.0", "3.6", "3.5.0", "3.7.0", "3.8.0", "4.0.0", "", "six", "3.6.1"] {
        s.downgrade(pb::DowngradeRequest { action: 0, version: version.to_owned() }).await;
    }
    s.downgrade(pb::DowngradeRequest { action: 2, version: String::new() }).await;
    s.downgrade(pb::DowngradeRequest { action: 9, version: "3.6.0".to_owned() }).await;
    s.downgrade(pb::DowngradeRequest { action: 1, version: "3.5.0".to_owned() }).await;
    Ok(())
}
