//! One of three members holds something else than the others, and no checksum shows it: what each of the checks across
//! members makes of that, and what a cluster still does afterwards.

use std::{fs, path::Path};

use anyhow::ensure;
use forebay_proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, MemberListRequest, RangeRequest,
    alarm_request::AlarmAction, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
};

use crate::{
    cases::requests::{Operation as _, always, del_range, put},
    cluster::Cluster,
    target::Kind,
};

/// Who is changed.
const CHANGED: usize = 2;
const TRUTH: &[u8] = b"what everybody was told";
const LIE: &[u8] = b"what nobody ever wrote!";

/// Three members, one of which has ended and holds a lie in its db file.
async fn with_a_lie(kind: Kind, args: &[&str]) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::start(&[kind; 3], args).await?;
    cluster.move_leader(0).await?;
    for n in 0..20 {
        cluster.members[n % 3].put(&format!("key {n}"), std::str::from_utf8(TRUTH)?).await?;
    }
    cluster.agree().await?;
    cluster.stop(CHANGED).await?;
    ensure!(change(&cluster.data_dir(CHANGED).join("member/snap/db"))? >= 20, "the values are in the file");
    Ok(cluster)
}

/// Changes every value in a db file, so that nothing but its content is different.
fn change(db: &Path) -> anyhow::Result<usize> {
    let mut bytes = fs::read(db)?;
    let found: Vec<_> =
        bytes.windows(TRUTH.len()).enumerate().filter(|(_, window)| *window == TRUTH).map(|(at, _)| at).collect();
    for at in &found {
        bytes[*at..][..LIE.len()].copy_from_slice(LIE);
    }
    fs::write(db, bytes)?;
    Ok(found.len())
}

/// A member that compares itself with the others before it serves; what it says when it refuses.
pub async fn at_start(kind: Kind) -> anyhow::Result<String> {
    let mut cluster = with_a_lie(kind, &["--feature-gates=InitialCorruptCheck=true"]).await?;
    cluster.spawn(CHANGED)?;
    let log = cluster.refused(CHANGED).await?;
    cluster.members[0].put("meanwhile", "the others go on").await?;
    Ok(log)
}

/// A cluster that compares its members every second, or at compactions, and has found the one that differs; and who that
/// is.
pub async fn found(kind: Kind, is_at_compactions: bool) -> anyhow::Result<(Cluster, u64)> {
    let args: &[&str] = match is_at_compactions {
        true => &["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"],
        false => &["--corrupt-check-time=1s"],
    };
    let mut cluster = with_a_lie(kind, args).await?;
    cluster.restart_as(CHANGED, kind).await?;
    let changed = cluster.members[CHANGED].id().await?;
    ensure!(cluster.leader().await? != CHANGED, "the lead was with another");
    if is_at_compactions {
        let revision = cluster.members[0].put("one more", "1").await?;
        cluster.members[0].kv().compact(CompactionRequest { revision, physical: false }).await?;
    }
    cluster.wait("the alarm", async |cluster| Ok(raised(cluster, 0).await? == [changed])).await?;
    for member in 0..3 {
        cluster.wait("the alarm on all", async |cluster| Ok(raised(cluster, member).await? == [changed])).await?;
    }
    Ok((cluster, changed))
}

/// What such a cluster answers to everything, and once the alarm is disarmed.
pub async fn while_running(kind: Kind, is_at_compactions: bool) -> anyhow::Result<Vec<String>> {
    let (cluster, changed) = found(kind, is_at_compactions).await?;
    let mut answers = Vec::new();
    for member in [0, CHANGED] {
        answers.extend(operations(&cluster, member).await);
    }
    let disarm =
        AlarmRequest { action: AlarmAction::Deactivate as i32, member_id: changed, alarm: AlarmType::Corrupt as i32 };
    MaintenanceClient::new(cluster.members[0].channel.clone()).alarm(disarm).await?;
    if is_at_compactions {
        answers.extend(operations(&cluster, 0).await);
    }
    Ok(answers)
}

/// The members that are said to be corrupt, as a member knows it.
async fn raised(cluster: &Cluster, member: usize) -> anyhow::Result<Vec<u64>> {
    let list = AlarmRequest { action: AlarmAction::Get as i32, member_id: 0, alarm: AlarmType::None as i32 };
    let mut client = MaintenanceClient::new(cluster.members[member].channel.clone());
    let alarms = client.alarm(list).await?.into_inner().alarms;
    ensure!(alarms.iter().all(|alarm| alarm.alarm == AlarmType::Corrupt as i32), "another alarm: {alarms:?}");
    Ok(alarms.iter().map(|alarm| alarm.member_id).collect())
}

/// Every operation that an alarm could be about, and how it went.
async fn operations(cluster: &Cluster, member: usize) -> Vec<String> {
    let node = &cluster.members[member];
    let mut kv = node.kv();
    let mut leases = LeaseClient::new(node.channel.clone());
    let mut told = Vec::new();
    let mut tell = |what: &str, answer: Result<(), tonic::Status>| {
        told.push(match answer {
            Ok(()) => format!("{what}: done"),
            Err(status) => format!("{what}: {:?} {}", status.code(), status.message()),
        });
    };
    let range = |serializable| RangeRequest { key: "key 1".into(), serializable, ..Default::default() };
    let read_txn = always([crate::cases::requests::get("key 1").op()]);
    tell("put", kv.put(put("key 1", "v")).await.map(drop));
    tell("range", kv.range(range(false)).await.map(drop));
    tell("serializable range", kv.range(range(true)).await.map(drop));
    tell("delete", kv.delete_range(del_range("key 1", "")).await.map(drop));
    tell("txn", kv.txn(always([put("key 2", "v").op()])).await.map(drop));
    tell("read-only txn", kv.txn(read_txn).await.map(drop));
    tell("compact", kv.compact(CompactionRequest { revision: 5, physical: false }).await.map(drop));
    let id = 77 + member as i64;
    tell("grant", leases.lease_grant(LeaseGrantRequest { id, ttl: 60 }).await.map(drop));
    tell("revoke", leases.lease_revoke(LeaseRevokeRequest { id }).await.map(drop));
    tell("member list", node.cluster().member_list(MemberListRequest::default()).await.map(drop));
    tell("status", node.status().await.map(drop));
    told
}
