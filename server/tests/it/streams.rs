//! Watches that come and go, beside everything else. A test begins with the number of the row of `docs/FAULTS.md` that
//! it holds.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use forebay_proto::etcdserverpb::{kv_client::KvClient, request_op::Request as Op, watch_client::WatchClient, *};
use futures::StreamExt as _;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use crate::support::{LIMIT, Node, all, eventually, op, put, watch_cancel, watch_create, watch_progress, watching};

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

/// What the client of the slow stream takes in a second.
const PACE: usize = 8 << 20;
/// What it takes at most between a write and its event, or between two responses of a watch that has more to come: a
/// mebibyte that waits for the stream, another that came meanwhile, one round of a mebibyte among the watches that lag,
/// and what is on its way. At its pace that is half a second, however long the others have been behind.
const WAIT_MAX: usize = 4 << 20;

const QUIET_WATCHES: usize = 300;
const BUSY_WATCHES: usize = 20;
/// So many busy revisions are there before, and come meanwhile: 24 MiB for all who watch them.
const BUSY_BEFORE: usize = 200;
const BUSY_MEANWHILE: usize = 100;
const BUSY_VALUE: usize = 4 << 10;

/// A watch, and what arrived for it.
struct Watched {
    keys: Range<String>,
    /// The first revision that it gets; 0 until it is created if that is the one after.
    from: i64,
    /// What was taken before it was created.
    created_after: usize,
    /// Revision, key, and what was taken before.
    arrived: Vec<(i64, String, usize)>,
}

/// What everybody knows.
#[derive(Default)]
struct Slow {
    /// What the client took so far, in bytes.
    taken: AtomicUsize,
    /// Every event, and what was taken when its write was answered.
    written: Mutex<BTreeMap<(i64, String), usize>>,
}

impl Slow {
    async fn write(&self, client: &mut KvClient<Channel>, keys: Vec<String>, value: &str) -> i64 {
        let puts = keys.iter().map(|key| op(Op::RequestPut(put(key, value)))).collect();
        let revision = client.txn(all(puts)).await.unwrap().into_inner().header.unwrap().revision;
        let taken = self.taken.load(Ordering::SeqCst);
        self.written.lock().unwrap().extend(keys.into_iter().map(|key| ((revision, key), taken)));
        revision
    }

    /// What arrives for a watch, in order, and what was taken when it was written.
    fn of(&self, watched: &Watched) -> Vec<((i64, String), usize)> {
        let written = self.written.lock().unwrap();
        let since = written.range((watched.from, String::new())..);
        let seen = since.filter(|((_, key), _)| watched.keys.contains(key));
        seen.map(|(event, taken)| (event.clone(), *taken)).collect()
    }
}

fn quiet(key: usize) -> String {
    format!("quiet/{key:03}")
}

/// etcd promises a watch all its events in order, and no time: there, before this client, one waits for 22 MiB of the
/// other watches' events, nearly all there are.
#[tokio::test(flavor = "multi_thread")]
async fn w4_none_of_hundreds_of_watches_on_one_slow_stream_waits_for_the_others_to_catch_up() {
    let node = Node::start().await;
    let slow = Slow::default();
    let endpoint = Endpoint::from_shared(node.listen().await).unwrap();
    let mut client = KvClient::new(endpoint.connect().await.unwrap());
    let busy_value = "v".repeat(BUSY_VALUE);
    for _ in 0..5 {
        for keys in (0..QUIET_WATCHES).collect::<Vec<_>>().chunks(100) {
            slow.write(&mut client, keys.iter().map(|key| quiet(*key)).collect(), "before").await;
        }
    }
    let mut before = 0;
    for n in 0..BUSY_BEFORE {
        before = slow.write(&mut client, vec![format!("busy/{}", n % 10)], &busy_value).await;
    }

    // Of one key or of ten; from now on, from the beginning on, and from some revision to come.
    let of_quiet = (0..QUIET_WATCHES).map(|n| {
        let end = if n % 10 == 0 { quiet(n + 10) } else { quiet(n) + "\0" };
        (quiet(n)..end, [0, 2, before + n as i64][n % 3])
    });
    let of_busy = std::iter::repeat_n(("busy/".to_owned().."busy0".to_owned(), 2), BUSY_WATCHES);
    let mut watches: Vec<Watched> = of_quiet
        .chain(of_busy)
        .map(|(keys, from)| Watched { keys, from, created_after: usize::MAX, arrived: Vec::new() })
        .collect();
    let creates: Vec<WatchRequest> = watches
        .iter()
        .zip(1..)
        .map(|(watched, watch_id)| {
            let Range { start, end } = watched.keys.clone();
            let (key, range_end, start_revision) = (start.into(), end.into(), watched.from);
            watch_create(WatchCreateRequest { key, range_end, start_revision, watch_id, ..Default::default() })
        })
        .collect();

    let (over, mut is_over) = tokio::sync::watch::channel(false);
    let reading = async {
        // Small windows: what the client does not take stays where it is.
        let endpoint = endpoint.initial_stream_window_size(65_535);
        let mut client = WatchClient::new(endpoint.connect().await.unwrap());
        let requests = futures::stream::iter(creates).chain(futures::stream::pending());
        let mut responses = client.watch(requests).await.unwrap().into_inner();
        let (mut taken, mut arrived, started) = (0, 0, Instant::now());
        let mut expected = None;
        loop {
            if *is_over.borrow_and_update() && expected.is_none() && watches.iter().all(|watched| watched.from != 0) {
                expected = Some(watches.iter().map(|watched| slow.of(watched).len()).sum());
            }
            if expected == Some(arrived) {
                break;
            }
            let response = tokio::select! {
                response = responses.message() => response.unwrap().expect("the stream goes on"),
                Ok(()) = is_over.changed() => continue,
            };
            assert!(!response.canceled, "{response:?}");
            let watched = &mut watches[response.watch_id as usize - 1];
            if response.created {
                watched.created_after = taken;
                let next = response.header.as_ref().unwrap().revision + 1;
                watched.from = if watched.from == 0 { next } else { watched.from };
            }
            for event in &response.events {
                let kv = event.kv.as_ref().unwrap();
                let key = String::from_utf8(kv.key.to_vec()).unwrap();
                watched.arrived.push((kv.mod_revision, key, taken));
            }
            arrived += response.events.len();
            taken += response.encoded_len();
            slow.taken.store(taken, Ordering::SeqCst);
            let due = started + Duration::from_secs_f64(taken as f64 / PACE as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        (watches, started.elapsed())
    };

    let busy = async {
        let mut client = client.clone();
        for n in 0..BUSY_MEANWHILE {
            slow.write(&mut client, vec![format!("busy/{}", n % 10)], &busy_value).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let quietly = async {
        let mut client = client.clone();
        // Until nearly everything is read: each of these events overtakes what lags.
        let much = (BUSY_BEFORE + BUSY_MEANWHILE) * BUSY_WATCHES * BUSY_VALUE;
        for n in 0.. {
            if n > QUIET_WATCHES && slow.taken.load(Ordering::SeqCst) > much {
                break;
            }
            slow.write(&mut client, vec![quiet(n * 7 % QUIET_WATCHES)], "meanwhile").await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let writing = async {
        futures::join!(busy, quietly);
        over.send_replace(true);
    };
    let both = async { futures::join!(reading, writing).0 };
    let (watches, took) = tokio::time::timeout(4 * LIMIT, both).await.expect("everything arrives");

    let mut waited_most = 0;
    for watched in &watches {
        let expected = slow.of(watched);
        let arrived = watched.arrived.iter().map(|(revision, key, _)| (revision, key));
        let is_complete = arrived.eq(expected.iter().map(|((revision, key), _)| (revision, key)));
        assert!(is_complete, "{:?} from {}", watched.keys, watched.from);
        let is_busy = watched.keys.start == "busy/";
        let mut before = watched.created_after;
        for ((_, written), (.., arrived)) in expected.iter().zip(&watched.arrived) {
            // Who watches what is busy waits for itself.
            let since = if is_busy { before.max(*written) } else { watched.created_after.max(*written) };
            waited_most = waited_most.max(arrived.saturating_sub(since));
            before = *arrived;
        }
    }
    let taken = slow.taken.load(Ordering::SeqCst);
    assert!(waited_most <= WAIT_MAX, "one waited for {waited_most} bytes of others, of {taken} in {took:?}");
}
