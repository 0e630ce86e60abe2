//! The metrics pages of etcd and of the bundled server, after the same requests.

use std::collections::BTreeMap;

use forebay_conformance::{
    metrics::{self, Family},
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest,
    HashRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    SnapshotRequest, TxnRequest, WatchCreateRequest, WatchRequest, alarm_request::AlarmAction, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op, watch_client::WatchClient,
    watch_request::RequestUnion,
};

/// Requests that touch whatever is counted.
async fn exercise(target: &Target) -> anyhow::Result<()> {
    let channel = session::connect(target).await?;
    let mut kv = KvClient::new(channel.clone());
    let key = || b"k"[..].into();
    let create = WatchCreateRequest { key: key(), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut watch = WatchClient::new(channel.clone()).watch(tokio_stream::iter([create])).await?.into_inner();
    watch.message().await?;
    let put = || PutRequest { key: key(), value: b"v"[..].into(), ..Default::default() };
    kv.put(put()).await?;
    watch.message().await?;
    let range = || RangeRequest { key: key(), ..Default::default() };
    kv.range(range()).await?;
    kv.range(RangeRequest { revision: 99, ..range() }).await.expect_err("the future");
    let op = |request| RequestOp { request: Some(request) };
    let reads = vec![op(request_op::Request::RequestRange(range()))];
    kv.txn(TxnRequest { success: reads, ..Default::default() }).await?;
    let writes = vec![op(request_op::Request::RequestPut(put()))];
    kv.txn(TxnRequest { success: writes, ..Default::default() }).await?;
    kv.delete_range(DeleteRangeRequest { key: key(), ..Default::default() }).await?;
    kv.compact(CompactionRequest { revision: 3, physical: true }).await?;
    let mut leases = LeaseClient::new(channel.clone());
    let id = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
    leases.lease_keep_alive(tokio_stream::iter([LeaseKeepAliveRequest { id }])).await?.into_inner().message().await?;
    leases.lease_revoke(LeaseRevokeRequest { id }).await?;
    let mut maintenance = MaintenanceClient::new(channel);
    let alarm = AlarmMember { member_id: 1, alarm: AlarmType::Nospace as i32 };
    let action = AlarmAction::Activate as i32;
    maintenance.alarm(AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm }).await?;
    maintenance.hash(HashRequest {}).await?;
    maintenance.hash_kv(HashKvRequest::default()).await?;
    maintenance.defragment(DefragmentRequest {}).await?;
    let mut snapshot = maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    while snapshot.message().await?.is_some() {}
    Ok(())
}

async fn page(kind: Kind, args: &[&str]) -> anyhow::Result<BTreeMap<String, Family>> {
    let target = Target::start(kind, args).await?;
    exercise(&target).await?;
    metrics::families(&target).await
}

async fn compare(test: &str, args: &[&str]) -> anyhow::Result<()> {
    let etcd = Kind::Etcd(Release::V3_7);
    if let Some(missing) = etcd.missing().or(Kind::Server.missing()) {
        peers::skip(test, missing);
        return Ok(());
    }
    let (theirs, ours) = (page(etcd, args).await?, page(Kind::Server, args).await?);
    let mut wrong = Vec::new();
    for (name, family) in &theirs {
        match ours.get(name) {
            Some(own) if own == family => {}
            Some(own) => wrong.push(format!("{name}: etcd has {family:?}, ours is {own:?}")),
            None if metrics::reason(metrics::ABSENT, name).is_some() => {}
            None => wrong.push(format!("{name} is missing: {family:?}")),
        }
    }
    for name in ours.keys().filter(|name| name.starts_with("etcd_") || name.starts_with("grpc_")) {
        if !theirs.contains_key(name) {
            wrong.push(format!("{name} is not etcd's"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Ours are always what etcd calls extensive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_has_etcds_extensive_metrics() {
    compare("metrics::the_server_has_etcds_extensive_metrics", &["--metrics=extensive"]).await.unwrap();
}
