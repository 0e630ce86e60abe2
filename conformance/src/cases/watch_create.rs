//! Watch: creating and cancelling.

use forebay_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};

use super::{cases, requests::*};
use crate::{session::Session, streams::Shape};

cases! { "watch_create":
    ids_are_the_lowest_free: "ids that the server picks, around ids that clients took";
    ids_of_clients: "positive, negative and duplicate ids";
    ids_come_back_after_a_cancel: "which ids are free again";
    ranges: "empty keys, ends of one zero byte, ranges that hold nothing";
    unset_requests_are_ignored: "a request without a union, first and later";
    start_revisions: "the past, the present, negative revisions";
    start_in_the_future: "nothing until the revision is reached, and nothing below it";
    start_compacted: "created first, then cancelled with the compacted revision";
    start_compacted_keeps_its_id: "what an id is worth after such a cancel";
    cancel: "a live id, an unknown id, the same id twice";
    cancel_is_final: "no event after a cancel";
    half_close: "closing the client's side ends nothing";
    header_of_created: "the revision at creation, and no event at or below it";
}

async fn ids_are_the_lowest_free(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    for id in [0, 0, 3, 0, 0, 0, -1, 0] {
        stream.create(pb::WatchCreateRequest { watch_id: id, ..watch("a") }).await;
    }
    s.put(put("a", "1")).await;
    for id in [0, 1, 2, 3, 4, 5, 6] {
        stream.until_events(id, 1).await;
    }
    stream.settle().await;
    s.record_watch("ids", &stream, Shape::Messages);
    Ok(())
}

async fn ids_of_clients(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    for id in [7, 7, -5, -5, i64::MAX, i64::MIN, 1, 0, 0, 0] {
        stream.create(pb::WatchCreateRequest { watch_id: id, ..watch("a") }).await;
    }
    s.put(put("a", "1")).await;
    stream.until_events(7, 1).await;
    stream.settle().await;
    s.record_watch("ids", &stream, Shape::Messages);
    Ok(())
}

async fn ids_come_back_after_a_cancel(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.create(watch("a")).await;
    stream.cancel(0).await;
    stream.create(watch("b")).await;
    stream.create(pb::WatchCreateRequest { watch_id: 9, ..watch("a") }).await;
    stream.cancel(9).await;
    stream.create(pb::WatchCreateRequest { watch_id: 9, ..watch("b") }).await;
    stream.create(pb::WatchCreateRequest { watch_id: 1, ..watch("b") }).await;
    s.put(put("b", "1")).await;
    stream.until_events(9, 1).await;
    stream.settle().await;
    s.record_watch("ids", &stream, Shape::Messages);
    Ok(())
}

async fn ranges(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    for (key, end) in [
        ("b", ""),
        ("a", "c"),
        ("b", FROM),
        ("", ""),
        ("", FROM),
        (FROM, FROM),
        ("b", "b"),
        ("c", "a"),
        ("", "c"),
        ("", "\0\0"),
        ("\0", ""),
        ("a", "\0\0"),
    ] {
        stream.create(watch_range(key, end)).await;
    }
    for key in ["\0", "a", "b", "bb", "c"] {
        s.put(put(key, key)).await;
    }
    stream.barrier(6).await;
    s.record_watch("ranges", &stream, Shape::Messages);
    Ok(())
}

async fn unset_requests_are_ignored(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.send(None);
    stream.send_progress();
    stream.send_cancel(4);
    stream.create(watch("a")).await;
    stream.send(None);
    s.put(put("a", "1")).await;
    stream.until_events(0, 1).await;
    stream.settle().await;
    s.record_watch("unset", &stream, Shape::Messages);
    Ok(())
}

async fn start_revisions(s: &mut Session) -> anyhow::Result<()> {
    for n in 0..6 {
        s.put(put("a", format!("{n}"))).await;
    }
    let mut stream = s.watch();
    for start_revision in [-1, 0, 1, 2, 4, 7, -9, i64::MIN] {
        stream.create(pb::WatchCreateRequest { start_revision, ..watch("a") }).await;
    }
    stream.barrier(7).await;
    s.record_watch("caught up", &stream, Shape::Messages);
    s.put(put("a", "now")).await;
    stream.barrier(8).await;
    s.record_watch("and live", &stream, Shape::Messages);
    Ok(())
}

async fn start_in_the_future(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "2")).await;
    let mut stream = s.watch();
    stream.create(pb::WatchCreateRequest { start_revision: 3, ..watch("a") }).await;
    stream.create(pb::WatchCreateRequest { start_revision: 5, ..watch("a") }).await;
    stream.send_progress();
    stream.settle().await;
    s.record_watch("waiting", &stream, Shape::Messages);
    for n in 3..=6 {
        s.put(put("a", format!("{n}"))).await;
    }
    stream.until_events(0, 4).await;
    stream.until_events(1, 2).await;
    stream.barrier(6).await;
    s.record_watch("reached", &stream, Shape::Messages);
    Ok(())
}

/// Three revisions of `a` compacted away, two left.
async fn compacted_store(s: &mut Session) {
    for n in 2..=6 {
        s.put(put("a", format!("{n}"))).await;
    }
    s.compact(pb::CompactionRequest { revision: 5, physical: true }).await;
}

async fn start_compacted(s: &mut Session) -> anyhow::Result<()> {
    compacted_store(s).await;
    let mut stream = s.watch();
    for start_revision in [5, 6, 7] {
        stream.create(pb::WatchCreateRequest { start_revision, ..watch("a") }).await;
    }
    stream.barrier(6).await;
    for start_revision in [1, 4] {
        stream.create(pb::WatchCreateRequest { start_revision, ..watch("a") }).await;
    }
    let canceled = |stream: &crate::streams::WatchStream| stream.seen.iter().filter(|seen| seen.canceled).count() == 2;
    stream.until("two canceled messages", canceled).await;
    s.put(put("a", "7")).await;
    stream.until_events(0, 3).await;
    stream.settle().await;
    s.record_watch("compacted", &stream, Shape::Messages);
    Ok(())
}

async fn start_compacted_keeps_its_id(s: &mut Session) -> anyhow::Result<()> {
    compacted_store(s).await;
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.create(pb::WatchCreateRequest { start_revision: 2, watch_id: 8, ..watch("a") }).await;
    stream.until("a canceled message", |stream| stream.seen.iter().any(|seen| seen.canceled)).await;
    stream.send_progress();
    stream.settle().await;
    stream.create(pb::WatchCreateRequest { watch_id: 8, ..watch("a") }).await;
    stream.cancel(8).await;
    stream.barrier(6).await;
    stream.create(pb::WatchCreateRequest { watch_id: 8, ..watch("a") }).await;
    stream.settle().await;
    s.record_watch("the id", &stream, Shape::Messages);
    Ok(())
}

async fn cancel(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.create(watch("b")).await;
    stream.send_cancel(77);
    stream.cancel(0).await;
    stream.send_cancel(0);
    stream.send_cancel(-1);
    s.put(put("b", "1")).await;
    stream.until_events(1, 1).await;
    stream.settle().await;
    s.record_watch("cancel", &stream, Shape::Messages);
    Ok(())
}

async fn cancel_is_final(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.create(watch("a")).await;
    s.put(put("a", "1")).await;
    stream.until_events(0, 1).await;
    stream.until_events(1, 1).await;
    stream.cancel(0).await;
    s.put(put("a", "2")).await;
    stream.until_events(1, 2).await;
    stream.settle().await;
    s.record_watch("final", &stream, Shape::Messages);
    Ok(())
}

async fn half_close(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    stream.half_close();
    stream.settle().await;
    for n in 0..3 {
        s.put(put("a", format!("{n}"))).await;
    }
    stream.until_events(0, 3).await;
    stream.settle().await;
    s.record_watch("half closed", &stream, Shape::Messages);
    Ok(())
}

async fn header_of_created(s: &mut Session) -> anyhow::Result<()> {
    let mut stream = s.watch();
    stream.create(watch("a")).await;
    s.put(put("a", "1")).await;
    stream.create(watch("a")).await;
    s.put(put("b", "1")).await;
    stream.create(pb::WatchCreateRequest { start_revision: 3, ..watch("b") }).await;
    stream.send(Some(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision: 9, ..watch("a") })));
    stream.until("four created messages", |stream| stream.seen.iter().filter(|seen| seen.created).count() == 4).await;
    stream.until_events(2, 1).await;
    s.record_watch("created", &stream, Shape::Messages);
    Ok(())
}
