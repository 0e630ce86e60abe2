//! The header of every answer.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "header":
    of_key_value_methods: "header of Range, Put, DeleteRange, Txn and Compact";
    of_leases: "header of the Lease service";
    of_cluster_and_maintenance: "header of Cluster and Maintenance, where there is one";
    inside_a_txn: "headers of the answers inside a txn";
}

async fn of_key_value_methods(s: &mut Session) -> anyhow::Result<()> {
    s.range(get("a")).await;
    s.put(put("a", "1")).await;
    s.put(put("a", "2")).await;
    s.range(pb::RangeRequest { revision: 2, ..get("a") }).await;
    s.delete(del("missing")).await;
    s.delete(del("a")).await;
    s.txn(always([])).await;
    s.txn(always([put("b", "").op()])).await;
    s.compact(pb::CompactionRequest { revision: 3, physical: true }).await;
    s.range(pb::RangeRequest { serializable: true, ..all() }).await;
    Ok(())
}

async fn of_leases(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.grant(lease(7, 100)).await;
    s.put(pb::PutRequest { lease: 7, ..put("a", "2") }).await;
    s.keep_alive().renew(s, 7).await;
    s.time_to_live(time_to_live(7)).await;
    s.leases(pb::LeaseLeasesRequest {}).await;
    s.revoke(revoke(7)).await;
    Ok(())
}

async fn of_cluster_and_maintenance(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    s.member_list(pb::MemberListRequest { linearizable: false }).await;
    s.alarm(pb::AlarmRequest::default()).await;
    s.hash().await;
    s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    s.defragment(pb::DefragmentRequest {}).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    Ok(())
}

async fn inside_a_txn(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let nested = always([get("a").op(), put("c", "3").op(), del("nothing").op()]);
    let ops = [get("a").op(), del("nothing").op(), put("b", "2").op(), get("b").op(), nested.op(), get("c").op()];
    s.txn(always(ops)).await;
    s.txn(always([always([get("a").op()]).op(), get("a").op()])).await;
    s.txn(always([get("a").op()])).await;
    Ok(())
}
