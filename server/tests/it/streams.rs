//! Watches that come and go, beside everything else. A test begins with the number of the row of `docs/FAULTS.md` that
//! it holds.

use forebay_proto::etcdserverpb::*;

use crate::support::{Node, eventually, put, watch_cancel, watch_create, watch_progress, watching};

#[tokio::test(flavor = "multi_thread")]
async fn w6_watches_come_and_go_by_the_thousand_beside_writes_progress_and_a_snapshot() {
    const ROUNDS: usize = 5;
    const WATCHERS: usize = 2000;
    let node = Node::start().await;
    let mut comes_and_goes = node.watch().await;
    let mut stays = node.watcher(watching("written")).await;
    let coming_and_going = async {
        for round in 0..ROUNDS {
            let mut ids = Vec::new();
            for n in 0..WATCHERS {
                // Some of them see what is written meanwhile.
                let key = if n % 100 == 0 { "written" } else { "silent" };
                comes_and_goes.send(&watch_create(watching(key)));
            }
            while ids.len() < WATCHERS {
                let response: WatchResponse = comes_and_goes.next().await.expect("the stream goes on");
                ids.extend(response.created.then_some(response.watch_id));
            }
            ids.iter().for_each(|id| comes_and_goes.send(&watch_cancel(*id)));
            let mut canceled = 0;
            while canceled < WATCHERS {
                let response: WatchResponse = comes_and_goes.next().await.expect("the stream goes on");
                canceled += usize::from(response.canceled);
            }
            assert_eq!(node.metric("etcd_debugging_mvcc_watcher_total"), 1.0, "after round {round}");
        }
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let writing = async {
        let mut written: i64 = 0;
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            node.put(put("written", &written.to_string())).await.unwrap();
            written += 1;
        }
        written
    };
    let snapshots = async {
        for _ in 0..3 {
            let mut call = node.open("/etcdserverpb.Maintenance/Snapshot").await;
            call.send(&SnapshotRequest {});
            call.half_close();
            let (parts, status) = call.rest::<SnapshotResponse>().await;
            assert!(!parts.is_empty() && status.code() == tonic::Code::Ok, "{status}");
        }
    };
    let others = async {
        futures::join!(coming_and_going, snapshots);
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let ((), written) = futures::join!(others, writing);
    let (mut revision, last) = (1, written + 1);
    stays.send(&watch_progress());
    while revision < last {
        let response: WatchResponse = stays.next().await.expect("the watch goes on");
        for event in &response.events {
            revision += 1;
            assert_eq!(event.kv.as_ref().unwrap().mod_revision, revision, "each revision once, in order");
        }
    }
    drop((comes_and_goes, stays));
    eventually("all watchers to be gone", async || node.metric("etcd_debugging_mvcc_watcher_total") == 0.0).await;
    assert_eq!(node.metric("etcd_debugging_mvcc_watch_stream_total"), 0.0);
}
