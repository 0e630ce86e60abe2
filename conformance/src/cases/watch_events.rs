//! Watch: events and progress.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::{session::Session, streams::Shape};

cases! { "watch_events":
    live: "one message for each revision, with its revision in the header";
    one_message_for_a_revision: "all events of a txn or a range delete together, in sub order";
    catch_up: "the past in one message, with the current revision in the header";
    catch_up_with_many_revisions: "a thousand revisions a message";
    deletes_have_little: "a delete event has a key and a revision";
    prev_kv: "the value before, when asked and when there was one";
    prev_kv_compacted: "the value before, when it is compacted away";
    filters: "NOPUT, NODELETE, both, and unknown numbers";
    filters_on_catch_up: "the same over the past";
    lease_revoke: "keys that go with their lease";
    lease_expiry: "keys that go when a lease runs out";
    twice_in_a_revision: "a key deleted and put in one revision gives two events";
    nothing_for_others: "revisions without a matching event send nothing";
    progress_on_request: "one answer for the stream, when every watch is up to date";
    progress_without_watches: "no answer on an empty stream";
    progress_notify: "periodic progress, for the watches that asked, when quiet"
        with ["--watch-progress-notify-interval", "1s"];
    fragments: "a large message in pieces, when asked"
        with ["--max-request-bytes", "600000"];
    large_messages_whole: "a large message whole, when not asked for pieces";
    several_watches_of_a_key: "each watch has its own messages";
    without_a_leader_asked_for: "hasleader on a member that has one";
}

async fn live(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch_range("a", "d")).await;
    s.put(put("a", "1")).await;
    s.put(put("b", "1")).await;
    s.put(put("a", "2")).await;
    s.delete(del("a")).await;
    s.delete(del("missing")).await;
    s.put(put("x", "outside")).await;
    s.put(put("a", "3")).await;
    stream.until_events(0, 5).await;
    stream.settle().await;
    s.record_watch("live", &stream, Shape::Messages);
    Ok(())
}

async fn one_message_for_a_revision(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch_range("a", "z")).await;
    stream.create(watch("b")).await;
    s.txn(always([put("c", "").op(), put("a", "").op(), always([put("b", "").op()]).op()])).await;
    s.delete(del_range("a", "d")).await;
    s.txn(always([put("b", "2").op(), del("missing").op(), put("x", "").op()])).await;
    s.txn(always([del_range("b", "c").op(), put("zz", "").op()])).await;
    stream.barrier(5).await;
    s.record_watch("whole revisions", &stream, Shape::Messages);
    Ok(())
}

async fn catch_up(s: &mut Session) -> anyhow::Result<()> {
    for n in 0..5 {
        s.put(put("a", format!("{n}"))).await;
        s.put(put("b", format!("{n}"))).await;
    }
    s.delete(del_range("a", "c")).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch("a") }).await;
    stream.create(pb::WatchCreateRequest { start_revision: 6, ..watch_range("a", "c") }).await;
    stream.create(pb::WatchCreateRequest { start_revision: 3, ..watch("nobody") }).await;
    stream.barrier(12).await;
    s.record_watch("caught up", &stream, Shape::Messages);
    Ok(())
}

async fn catch_up_with_many_revisions(s: &mut Session) -> anyhow::Result<()> {
    for batch in 0..21 {
        futures::future::join_all((0..100).map(|n| {
            let mut client = forebay_proto::etcdserverpb::kv_client::KvClient::new(s.channel.clone());
            async move { client.put(put(format!("k{batch:02}{n:02}"), "v")).await }
        }))
        .await;
    }
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch_range("k", "l") }).await;
    stream.until_events(0, 2100).await;
    stream.settle().await;
    // The puts were concurrent: which key has which revision is chance, the grouping is not.
    let groups: Vec<(usize, i64, i64)> = stream
        .seen
        .iter()
        .map(|seen| {
            let last = seen.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
            (seen.events.len(), last, seen.header.as_ref().map_or(0, |header| header.revision))
        })
        .collect();
    let revisions = stream.events(0).filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    let ordered = revisions.eq(2..=2101);
    s.note("events, last revision and header of each message", serde_json::json!([groups, ordered]));
    Ok(())
}

async fn deletes_have_little(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(9, 1000)).await;
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    s.put(pb::PutRequest { lease: 9, ..put("a", "1") }).await;
    s.put(pb::PutRequest { lease: 9, ..put("a", "2") }).await;
    s.delete(del("a")).await;
    stream.until_events(0, 3).await;
    stream.create(pb::WatchCreateRequest { start_revision: 1, ..watch("a") }).await;
    stream.until_events(1, 3).await;
    s.record_watch("deletes", &stream, Shape::Messages);
    Ok(())
}

async fn prev_kv(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "0")).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch("a") }).await;
    stream.create(watch("a")).await;
    s.put(put("a", "1")).await;
    s.delete(del("a")).await;
    s.put(put("a", "2")).await;
    s.txn(always([del_range("a", FROM).op(), put("a", "3").op()])).await;
    stream.barrier(6).await;
    stream.create(pb::WatchCreateRequest { prev_kv: true, start_revision: 1, ..watch("a") }).await;
    stream.barrier(6).await;
    stream.until_events(2, 6).await;
    s.record_watch("the value before", &stream, Shape::Messages);
    Ok(())
}

async fn prev_kv_compacted(s: &mut Session) -> anyhow::Result<()> {
    for n in 2..=6 {
        s.put(put("a", format!("{n}"))).await;
    }
    s.delete(del("a")).await;
    s.compact(pb::CompactionRequest { revision: 5, physical: true }).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { prev_kv: true, start_revision: 5, ..watch("a") }).await;
    stream.until_events(0, 3).await;
    s.record_watch("compacted before", &stream, Shape::Messages);
    Ok(())
}

const FILTERS: [&[i32]; 7] = [&[], &[0], &[1], &[0, 1], &[7], &[7, 0], &[1, 1, -3]];

async fn filters(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    for filters in FILTERS {
        stream.create(pb::WatchCreateRequest { filters: filters.to_vec(), ..watch_range("a", "z") }).await;
    }
    s.put(put("a", "1")).await;
    s.delete(del("a")).await;
    s.txn(always([put("b", "1").op(), put("c", "1").op()])).await;
    s.txn(always([put("d", "1").op(), del("b").op()])).await;
    stream.barrier(5).await;
    s.record_watch("filters", &stream, Shape::Messages);
    Ok(())
}

async fn filters_on_catch_up(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.delete(del("a")).await;
    s.txn(always([put("b", "1").op(), put("c", "1").op()])).await;
    s.txn(always([put("d", "1").op(), del("b").op()])).await;
    let mut stream = s.watch();
    for filters in FILTERS {
        let request = watch_range("a", "z");
        stream.create(pb::WatchCreateRequest { filters: filters.to_vec(), start_revision: 2, ..request }).await;
    }
    stream.barrier(5).await;
    s.record_watch("filters", &stream, Shape::Messages);
    Ok(())
}

async fn lease_revoke(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(9, 1000)).await;
    for key in ["c", "a", "b"] {
        s.put(pb::PutRequest { lease: 9, ..put(key, key) }).await;
    }
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch_range("a", "z") }).await;
    s.revoke(revoke(9)).await;
    stream.until_events(0, 3).await;
    stream.settle().await;
    s.record_watch("revoked", &stream, Shape::Messages);
    Ok(())
}

async fn lease_expiry(s: &mut Session) -> anyhow::Result<()> {
    s.grant(lease(9, 2)).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch_range("a", "z") }).await;
    s.txn(always([
        pb::PutRequest { lease: 9, ..put("b", "1") }.op(),
        pb::PutRequest { lease: 9, ..put("a", "1") }.op(),
    ]))
    .await;
    stream.until_events(0, 4).await;
    stream.settle().await;
    s.record_watch("expired", &stream, Shape::Messages);
    s.range(all()).await;
    s.leases(pb::LeaseLeasesRequest {}).await;
    Ok(())
}

async fn twice_in_a_revision(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let mut stream = s.watch();
    stream.create(watch_range("a", FROM)).await;
    s.txn(always([del_range("a", FROM).op(), put("a", "2").op()])).await;
    s.txn(always([always([put("b", "1").op()]).op(), always([del("b").op()]).op()])).await;
    stream.until_events(0, 4).await;
    stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch_range("a", FROM) }).await;
    stream.until_events(1, 5).await;
    s.range(all()).await;
    s.record_watch("twice", &stream, Shape::Messages);
    Ok(())
}

async fn nothing_for_others(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("b")).await;
    for key in ["a", "c", "bb", "b\0"] {
        s.put(put(key, "")).await;
    }
    stream.settle().await;
    s.put(put("b", "")).await;
    stream.until_events(0, 1).await;
    s.record_watch("one event", &stream, Shape::Messages);
    Ok(())
}

async fn progress_on_request(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.create(watch("b")).await;
    s.put(put("other", "1")).await;
    stream.send_progress();
    stream.until("progress", |stream| stream.seen.iter().any(|seen| seen.watch_id == -1)).await;
    stream.settle().await;
    s.record_watch("progress", &stream, Shape::Messages);
    stream.create(pb::WatchCreateRequest { start_revision: 50, ..watch("a") }).await;
    stream.send_progress();
    stream.settle().await;
    s.record_watch("a future watch silences it", &stream, Shape::Messages);
    stream.cancel(2).await;
    stream.barrier(3).await;
    s.record_watch("until it is gone", &stream, Shape::Messages);
    Ok(())
}

async fn progress_without_watches(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.send_progress();
    stream.settle().await;
    s.record_watch("an empty stream", &stream, Shape::Messages);
    stream.create(watch("a")).await;
    stream.cancel(0).await;
    stream.send_progress();
    stream.settle().await;
    s.record_watch("empty again", &stream, Shape::Messages);
    Ok(())
}

async fn progress_notify(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { progress_notify: true, ..watch("a") }).await;
    stream.create(watch("a")).await;
    s.put(put("b", "1")).await;
    let notified = |stream: &crate::streams::WatchStream| {
        stream.seen.iter().any(|seen| seen.watch_id == 0 && !seen.created && seen.events.is_empty())
    };
    stream.until("a progress message", notified).await;
    s.record_watch("notified", &stream, Shape::Messages);
    Ok(())
}

async fn fragments(s: &mut Session) -> anyhow::Result<()> {
    // The limit of a message is --max-request-bytes and half a mebibyte.
    let value = "x".repeat(250_000);
    for _ in 0..3 {
        for key in ["a", "b", "c", "d"] {
            s.put(put(key, value.clone())).await;
        }
    }
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { fragment: true, start_revision: 2, ..watch_range("a", "z") }).await;
    stream.until_events(0, 12).await;
    stream.settle().await;
    s.record_watch("in pieces", &stream, Shape::Messages);
    Ok(())
}

async fn large_messages_whole(s: &mut Session) -> anyhow::Result<()> {
    let value = "x".repeat(1_000_000);
    for key in ["a", "b", "c", "d"] {
        s.put(put(key, value.clone())).await;
    }
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch_range("a", "z") }).await;
    stream.until_events(0, 4).await;
    stream.settle().await;
    s.record_watch("whole", &stream, Shape::Messages);
    Ok(())
}

async fn several_watches_of_a_key(s: &mut Session) -> anyhow::Result<()> {
    let (mut one, mut other) = (s.watch(), s.watch());
    for stream in [&mut one, &mut other] {
        stream.create(watch("a")).await;
        stream.create(watch_range("a", "b")).await;
        stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch("a") }).await;
    }
    s.put(put("a", "1")).await;
    s.put(put("a", "2")).await;
    for (name, stream) in [("one", &mut one), ("other", &mut other)] {
        stream.barrier(3).await;
        s.record_watch(name, stream, Shape::Messages);
    }
    Ok(())
}

async fn without_a_leader_asked_for(s: &mut Session) -> anyhow::Result<()> {
    s.metadata("hasleader", b"true");
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    s.put(put("a", "1")).await;
    stream.until_events(0, 1).await;
    s.record_watch("with a leader", &stream, Shape::Messages);
    Ok(())
}
