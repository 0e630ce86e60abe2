//! KV.Compact.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "compact":
    refuses: "revisions that are compacted, in the future, negative";
    of_a_new_store: "revision 0 can be compacted once";
    of_a_new_store_negative: "revision -1 never";
    to_the_current_revision: "everything old goes, everything live stays";
    makes_no_revision: "the revision after a compaction";
    keeps_what_is_readable: "every revision from the compacted one on reads as before";
    tombstones: "a tombstone at the compacted revision stays in the hash";
    scheduled: "physical and not, reads below fail at once";
    again_and_again: "several compactions, hashes at every revision after each";
}

fn at(revision: i64) -> pb::CompactionRequest {
    pb::CompactionRequest { revision, physical: true }
}

/// A history with creates, updates, deletes, a txn and a key that comes back.
async fn history(s: &mut Session) {
    s.put(put("a", "2")).await;
    s.put(put("b", "3")).await;
    s.put(put("a", "4")).await;
    s.delete(del("b")).await;
    s.txn(always([put("c", "6").op(), put("d", "6").op(), del("a").op()])).await;
    s.put(put("b", "7")).await;
    s.delete(del_range("c", "e")).await;
    s.put(put("d", "9")).await;
}

async fn read_everything(s: &mut Session) {
    for revision in 1..=10 {
        s.range(pb::RangeRequest { revision, ..all() }).await;
        s.hash_kv(pb::HashKvRequest { revision }).await;
    }
}

async fn refuses(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    for revision in [10, 99, i64::MAX, 4, 4, 3, 0, -1, i64::MIN, 5, 9, 9, 10] {
        s.compact(at(revision)).await;
    }
    Ok(())
}

async fn of_a_new_store(s: &mut Session) -> anyhow::Result<()> {
    for revision in [2, 0, 0, -1, 1, 1] {
        s.compact(at(revision)).await;
        s.range(all()).await;
        s.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    }
    Ok(())
}

async fn of_a_new_store_negative(s: &mut Session) -> anyhow::Result<()> {
    for revision in [-1, -2, i64::MIN, 1] {
        s.compact(pb::CompactionRequest { revision, physical: false }).await;
    }
    Ok(())
}

async fn to_the_current_revision(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    s.compact(at(9)).await;
    read_everything(s).await;
    s.range(all()).await;
    Ok(())
}

async fn makes_no_revision(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    s.compact(at(3)).await;
    s.put(put("next", "")).await;
    s.compact(at(10)).await;
    s.put(put("next", "")).await;
    Ok(())
}

async fn keeps_what_is_readable(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    for revision in [4, 7] {
        s.compact(at(revision)).await;
        read_everything(s).await;
    }
    Ok(())
}

async fn tombstones(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    s.compact(at(5)).await;
    read_everything(s).await;
    s.compact(at(6)).await;
    read_everything(s).await;
    s.compact(at(8)).await;
    read_everything(s).await;
    Ok(())
}

async fn scheduled(s: &mut Session) -> anyhow::Result<()> {
    history(s).await;
    s.compact(pb::CompactionRequest { revision: 5, physical: false }).await;
    s.range(pb::RangeRequest { revision: 4, ..all() }).await;
    s.range(pb::RangeRequest { revision: 5, ..all() }).await;
    s.compact(pb::CompactionRequest { revision: 5, physical: false }).await;
    s.compact(pb::CompactionRequest { revision: 6, physical: true }).await;
    s.range(pb::RangeRequest { revision: 5, ..all() }).await;
    Ok(())
}

async fn again_and_again(s: &mut Session) -> anyhow::Result<()> {
    for round in 0..4i64 {
        for n in 0..10i64 {
            s.put(put(format!("k{}", n % 4), format!("{round}{n}"))).await;
            if n % 3 == 0 {
                s.delete(del(format!("k{}", (n + 1) % 4))).await;
            }
        }
        let current = s.revision().await?;
        s.compact(at(current - 4)).await;
        for revision in current - 5..=current {
            s.hash_kv(pb::HashKvRequest { revision }).await;
            s.range(pb::RangeRequest { revision, ..all() }).await;
        }
    }
    Ok(())
}
