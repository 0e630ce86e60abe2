//! KV.RangeStream, new in 3.7.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "range_stream":
    chunks: "ten keys first, then twice as many as long as chunks stay small";
    what_it_does_not_do: "sort orders and filters are refused by name";
    limits_counts_and_ends: "limit, count_only, keys_only, past revisions, nothing found";
    refuses_what_is_no_request: "empty key, future and compacted revisions";
    large_values: "chunks shrink when values are large";
}

async fn fill(s: &mut Session, keys: usize) {
    let keys: Vec<usize> = (0..keys).collect();
    for batch in keys.chunks(100) {
        s.txn(always(batch.iter().map(|n| put(format!("k{n:04}"), format!("v{n}")).op()).collect::<Vec<_>>())).await;
    }
}

async fn chunks(s: &mut Session) -> anyhow::Result<()> {
    fill(s, 205).await;
    s.range_stream(all()).await;
    s.range_stream(range("k0000", "k0010")).await;
    s.range_stream(range("k0000", "k0011")).await;
    s.range_stream(pb::RangeRequest { serializable: true, ..range("k0100", FROM) }).await;
    Ok(())
}

async fn what_it_does_not_do(s: &mut Session) -> anyhow::Result<()> {
    fill(s, 3).await;
    for (order, target) in [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (2, 0), (2, 4), (3, 0), (0, 9)] {
        s.range_stream(pb::RangeRequest { sort_order: order, sort_target: target, ..all() }).await;
    }
    s.range_stream(pb::RangeRequest { min_mod_revision: 1, ..all() }).await;
    s.range_stream(pb::RangeRequest { max_mod_revision: 1, ..all() }).await;
    s.range_stream(pb::RangeRequest { min_create_revision: 1, ..all() }).await;
    s.range_stream(pb::RangeRequest { max_create_revision: 1, ..all() }).await;
    s.range_stream(pb::RangeRequest { sort_order: 2, max_create_revision: 1, ..get("") }).await;
    Ok(())
}

async fn limits_counts_and_ends(s: &mut Session) -> anyhow::Result<()> {
    fill(s, 45).await;
    s.put(put("k0001", "again")).await;
    for limit in [-1, 1, 9, 10, 11, 30, 44, 45, 46] {
        s.range_stream(pb::RangeRequest { limit, ..all() }).await;
    }
    s.range_stream(pb::RangeRequest { count_only: true, ..all() }).await;
    s.range_stream(pb::RangeRequest { count_only: true, limit: 3, ..all() }).await;
    s.range_stream(pb::RangeRequest { keys_only: true, ..range("k0000", "k0015") }).await;
    s.range_stream(pb::RangeRequest { revision: 2, ..range("k0000", "k0003") }).await;
    s.range_stream(pb::RangeRequest { revision: 1, ..all() }).await;
    s.range_stream(get("k0001")).await;
    s.range_stream(get("missing")).await;
    s.range_stream(range("z", FROM)).await;
    s.range_stream(range("b", "a")).await;
    Ok(())
}

async fn refuses_what_is_no_request(s: &mut Session) -> anyhow::Result<()> {
    fill(s, 3).await;
    s.put(put("a", "1")).await;
    s.put(put("a", "2")).await;
    s.range_stream(get("")).await;
    s.range_stream(pb::RangeRequest { revision: 99, ..all() }).await;
    s.compact(pb::CompactionRequest { revision: 3, physical: true }).await;
    s.range_stream(pb::RangeRequest { revision: 2, ..all() }).await;
    s.range_stream(pb::RangeRequest { revision: 3, ..all() }).await;
    Ok(())
}

async fn large_values(s: &mut Session) -> anyhow::Result<()> {
    for n in 0..30 {
        s.put(put(format!("k{n:02}"), "x".repeat(200_000))).await;
    }
    s.range_stream(all()).await;
    s.range_stream(pb::RangeRequest { limit: 25, ..all() }).await;
    Ok(())
}
