//! What is acknowledged stays: after a stop, and after a crash at any moment.
//!
//! A crash is a copy of the directory while the member runs, on which another one starts: whatever the first kept in
//! memory is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::{
    Error,
    etcdserverpb::{alarm_request::AlarmAction, request_op::Request as Op, *},
    mvccpb::{Event, KeyValue},
};
use forebay_server::Config;

use crate::support::{
    Node, alarm, all, bytes, compaction, delete, error, get, grant, leased, op, put, refusal, watching_all, zero,
};

/// Everything a client can find out about a member that must not depend on whether it was restarted.
#[derive(Debug, PartialEq)]
struct State {
    revision: i64,
    /// The lowest revision that can be read.
    compacted: i64,
    /// Every key at every revision that can be read.
    keys: BTreeMap<i64, Vec<KeyValue>>,
    /// What a watch from the compacted revision on sees.
    history: Vec<Event>,
    hash: (u32, i64),
    /// Leases with their TTL and keys.
    leases: BTreeMap<i64, (i64, Vec<Bytes>)>,
    alarms: Vec<AlarmMember>,
    members: Vec<Member>,
    cluster_id: u64,
}

async fn state(node: &Node) -> State {
    let revision = node.revision().await;
    let mut keys = BTreeMap::new();
    for at in 1..=revision {
        let then = RangeRequest { key: zero(), range_end: zero(), revision: at, ..Default::default() };
        match node.range(then).await {
            Ok(answer) => drop(keys.insert(at, answer.kvs)),
            Err(status) => assert_eq!(refusal::<()>(Err(status)), error(Error::Compacted)),
        }
    }
    let compacted = *keys.keys().next().expect("the present can be read");
    let mut history = Vec::new();
    if revision > 1 {
        let mut watch = node.watcher(WatchCreateRequest { prev_kv: true, ..watching_all(compacted) }).await;
        while history.last().is_none_or(|event: &Event| event.kv.as_ref().unwrap().mod_revision < revision) {
            history.extend(watch.events().await.events);
        }
    }
    let hashed = node.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
    let mut leases = BTreeMap::new();
    for lease in node.leases(LeaseLeasesRequest {}).await.unwrap().leases {
        let mut left = node.time_to_live(LeaseTimeToLiveRequest { id: lease.id, keys: true }).await.unwrap();
        left.keys.sort();
        leases.insert(lease.id, (left.granted_ttl, left.keys));
    }
    let members = node.member_list(MemberListRequest { linearizable: true }).await.unwrap();
    State {
        revision,
        compacted,
        keys,
        history,
        hash: (hashed.hash, hashed.compact_revision),
        leases,
        alarms: node.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.unwrap().alarms,
        members: members.members,
        cluster_id: members.header.unwrap().cluster_id,
    }
}

/// A bit of everything that leaves traces.
async fn live(node: &Node) {
    for id in [7, -8, 9] {
        node.grant(grant(id, 1000 + id)).await.unwrap();
    }
    for value in ["1", "2", "3"] {
        node.put(put("often", value)).await.unwrap();
        node.put(put("deleted", value)).await.unwrap();
    }
    node.delete(delete("deleted")).await.unwrap();
    for key in ["leased/1", "leased/2", "moved"] {
        node.put(leased(key, 7)).await.unwrap();
    }
    node.put(leased("moved", -8)).await.unwrap();
    node.compact(compaction(6)).await.unwrap();
    let ops = ["txn/1", "txn/2", "txn/3"].map(|key| op(Op::RequestPut(put(key, "in one revision"))));
    node.txn(all(ops.into())).await.unwrap();
    node.put(leased("revoked", 9)).await.unwrap();
    node.revoke(LeaseRevokeRequest { id: 9 }).await.unwrap();
    node.put(put("deleted", "and back")).await.unwrap();
    node.put(PutRequest { key: Bytes::from_static(b"\xff\0\xfe"), value: vec![0xaa; 70_000].into(), ..put("", "") })
        .await
        .unwrap();
    node.delete(DeleteRangeRequest { range_end: bytes("txn/3"), ..delete("txn/") }).await.unwrap();
    // The last thing, because it ends writing.
    node.alarm(alarm(AlarmAction::Activate, 1, AlarmType::Corrupt)).await.unwrap();
    node.alarm(alarm(AlarmAction::Activate, 2, AlarmType::Nospace)).await.unwrap();
    node.alarm(alarm(AlarmAction::Activate, 3, AlarmType::Nospace)).await.unwrap();
    node.alarm(alarm(AlarmAction::Deactivate, 3, AlarmType::Nospace)).await.unwrap();
}

async fn disarm(node: &Node) {
    for AlarmMember { member_id, alarm: kind } in node.member.alarms() {
        let off = AlarmRequest { action: AlarmAction::Deactivate as i32, member_id, alarm: kind };
        assert_eq!(node.alarm(off).await.unwrap().alarms.len(), 1);
    }
}

/// The db file stays as it is until the member stops: the log has to bring everything back.
fn lazy_backend(config: &mut Config) {
    config.backend_batch_interval = Duration::from_secs(3600);
}

#[tokio::test]
async fn everything_is_there_after_a_stop() {
    let node = Node::start().await;
    live(&node).await;
    let before = state(&node).await;
    assert_eq!((before.leases.len(), before.alarms.len(), before.compacted), (2, 2, 6));
    let node = node.restart().await;
    assert_eq!(state(&node).await, before);
    let node = node.restart().await;
    assert_eq!(state(&node).await, before, "after a second one");
    disarm(&node).await;
    assert_eq!(node.put(put("often", "4")).await.unwrap().header.unwrap().revision, before.revision + 1);
}

#[tokio::test]
async fn everything_is_there_after_a_crash_that_the_db_file_knows_nothing_of() {
    let node = Node::with(lazy_backend).await;
    live(&node).await;
    let crashed = node.crashed().await;
    let before = state(&node).await;
    assert_eq!(state(&crashed).await, before);
    // It goes on where the other one was, and once more from the log of a log.
    disarm(&crashed).await;
    crashed.put(put("more", "1")).await.unwrap();
    let before = state(&crashed).await;
    let again = crashed.crashed_with(lazy_backend).await;
    assert_eq!(state(&again).await, before);
    let again = again.restart().await;
    assert_eq!(state(&again).await, before);
}

#[tokio::test]
async fn everything_is_there_after_a_crash_with_half_of_it_in_the_db_file() {
    let node = Node::start().await;
    node.put(put("often", "before")).await.unwrap();
    node.grant(grant(100, 1000)).await.unwrap();
    node.put(leased("before", 100)).await.unwrap();
    let node = node.restart_with(lazy_backend).await;
    node.revoke(LeaseRevokeRequest { id: 100 }).await.unwrap();
    live(&node).await;
    let crashed = node.crashed().await;
    assert_eq!(state(&crashed).await, state(&node).await);
}

#[tokio::test]
async fn everything_is_there_after_a_crash_with_all_of_it_in_the_db_file() {
    let node = Node::start().await;
    live(&node).await;
    // This waits until the file has everything.
    node.hash(HashRequest {}).await.unwrap();
    let crashed = node.crashed().await;
    assert_eq!(state(&crashed).await, state(&node).await);
}

#[tokio::test]
async fn nothing_is_lost_where_snapshots_are_made_all_the_time() {
    let often = |config: &mut Config| {
        config.snapshot_count = 50;
        config.snapshot_catchup_entries = 5;
        config.max_snapshots = 2;
    };
    let mut node = Node::with(often).await;
    let mut revision = 1;
    for round in 0..4 {
        for n in 0..130 {
            node.put(put(&format!("k{}", n % 17), &format!("{round}/{n}"))).await.unwrap();
        }
        revision += 130;
        node.compact(compaction(revision - 20)).await.unwrap();
        node.hash(HashRequest {}).await.unwrap();
        let before = state(&node).await;
        assert_eq!((before.revision, before.compacted), (revision, revision - 20));
        assert_eq!(state(&node.crashed_with(often).await).await, before, "after crash {round}");
        node = node.restart_with(often).await;
        assert_eq!(state(&node).await, before, "after stop {round}");
    }
    let files = std::fs::read_dir(node.path().join("member/snap")).unwrap();
    let snapshots = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "snap"));
    let snapshots = snapshots.count();
    assert!((1..=3).contains(&snapshots), "{snapshots} snapshot files are kept");
}

#[tokio::test]
async fn a_log_of_many_segments_is_read_from_where_it_is_needed() {
    let config = |config: &mut Config| {
        config.snapshot_count = 20;
        config.max_wals = 2;
        config.backend_batch_interval = Duration::from_millis(20);
    };
    let node = Node::with(config).await;
    // A segment is 64 MB, so this takes three.
    for n in 0..140 {
        let value = Bytes::from(vec![n as u8; 1 << 20]);
        node.put(PutRequest { value, ..put(&format!("k{}", n % 3), "") }).await.unwrap();
        if n % 20 == 19 {
            node.compact(compaction(n + 2)).await.unwrap();
        }
    }
    let segments = |node: &Node| {
        let files = std::fs::read_dir(node.path().join("member/wal")).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".wal"));
        names.sort();
        names
    };
    let last = segments(&node).pop().expect("a segment");
    assert!(last.starts_with("0000000000000002-"), "{last} is the third segment");
    let before = node.everything().await;
    assert_eq!(before.iter().map(|kv| kv.value[0]).collect::<Vec<_>>(), [138, 139, 137]);
    let crashed = node.crashed_with(config).await;
    assert_eq!(crashed.everything().await, before);
    drop(crashed);
    let node = node.restart_with(config).await;
    assert_eq!(node.everything().await, before);
    assert_eq!(node.revision().await, 141);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_crash_under_load_is_there_and_nothing_is_torn() {
    const WRITERS: usize = 4;
    let config = |config: &mut Config| {
        lazy_backend(config);
        config.unsafe_no_fsync = false;
    };
    let node = Arc::new(Node::with(config).await);
    let acknowledged: Arc<[AtomicU64; WRITERS]> = Arc::default();
    let stopping = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (node, acknowledged, stopping) = (node.clone(), acknowledged.clone(), stopping.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while stopping.load(Ordering::Relaxed) == 0 {
                    n += 1;
                    // Both keys or none.
                    let number = n.to_string();
                    let [one, two] =
                        ["one", "two"].map(|side| op(Op::RequestPut(put(&format!("{writer}/{side}"), &number))));
                    node.txn(all(vec![one, two])).await.unwrap();
                    acknowledged[writer].store(n, Ordering::Release);
                }
            })
        })
        .collect();
    for _ in 0..4 {
        let target = acknowledged[0].load(Ordering::Acquire) + 20;
        while acknowledged[0].load(Ordering::Acquire) < target {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let promised = acknowledged.each_ref().map(|number| number.load(Ordering::Acquire));
        let crashed = node.crashed().await;
        let mut total = 0;
        for (writer, promised) in promised.into_iter().enumerate() {
            let kvs = [
                crashed.range(get(&format!("{writer}/one"))).await.unwrap().kvs,
                crashed.range(get(&format!("{writer}/two"))).await.unwrap().kvs,
            ]
            .concat();
            let found = |kv: &KeyValue| std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap();
            if promised == 0 && kvs.is_empty() {
                continue;
            }
            let [one, two] = &kvs[..] else { panic!("writer {writer} has written both: {kvs:?}") };
            assert!(found(one) >= promised, "writer {writer}: {} was acknowledged, {} is there", promised, found(one));
            assert_eq!((found(one), one.mod_revision, one.version), (found(two), two.mod_revision, two.version));
            assert_eq!(one.version as u64, found(one), "each write is there once");
            total += found(one);
        }
        assert_eq!(crashed.revision().await as u64, total + 1, "each txn made one revision");
    }
    stopping.store(1, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_answers_everybody_and_loses_nothing() {
    const WRITERS: usize = 16;
    let node = Arc::new(Node::start().await);
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (node, written) = (node.clone(), written.clone());
            tokio::spawn(async move {
                for n in 1.. {
                    match node.put(put(&format!("k{writer}"), &n.to_string())).await {
                        Ok(_) => drop(written.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => return (n - 1, refusal::<()>(Err(status))),
                    }
                }
                unreachable!("it writes until it is refused")
            })
        })
        .collect();
    while written.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.member.stop().await;
    let mut promised = Vec::new();
    for writer in writers {
        let (acknowledged, refused) = writer.await.unwrap();
        assert_eq!(refused, error(Error::Stopped));
        promised.push(acknowledged);
    }
    let node = Arc::into_inner(node).expect("the writers are done").restart().await;
    for (writer, promised) in promised.into_iter().enumerate() {
        let kv = node.range(get(&format!("k{writer}"))).await.unwrap().kvs.pop().expect("it has written");
        // The write that was under way may have been carried out or not.
        assert!((promised..=promised + 1).contains(&(kv.version as u64)), "{} of {promised} writes", kv.version);
        assert_eq!(kv.value, bytes(&kv.version.to_string()));
    }
}

#[tokio::test]
async fn a_compaction_that_a_crash_interrupts_is_in_force_and_finished_later() {
    let node = Node::with(|config| {
        lazy_backend(config);
        config.compaction_batch_limit = 1;
        config.compaction_sleep_interval = Duration::from_millis(20);
    })
    .await;
    for n in 0..60 {
        node.put(put(&format!("k{}", n % 5), &n.to_string())).await.unwrap();
    }
    node.compact(CompactionRequest { revision: 50, physical: false }).await.unwrap();
    let crashed = node.crashed().await;
    assert_eq!(refusal(crashed.range(RangeRequest { revision: 49, ..get("k0") }).await), error(Error::Compacted));
    assert_eq!(refusal(crashed.compact(compaction(50)).await), error(Error::Compacted));
    assert_eq!(crashed.range(RangeRequest { revision: 50, ..get("k0") }).await.unwrap().count, 1);
    // Compactions finish in order, so both have when the second has.
    crashed.compact(compaction(55)).await.unwrap();
    node.compact(compaction(55)).await.unwrap();
    let finished = state(&crashed).await;
    assert_eq!(finished.compacted, 55);
    assert_eq!(state(&node).await, finished);
    assert_eq!(state(&crashed.restart().await).await, finished);
}

#[tokio::test]
async fn a_watch_goes_on_over_a_restart_without_a_gap() {
    let mut node = Node::start().await;
    let mut seen = Vec::new();
    for round in 0..3 {
        let from = seen.len() as i64 + 2;
        let mut watch = node.watcher(watching_all(from)).await;
        for n in 0..10 {
            node.put(put("k", &format!("{round}/{n}"))).await.unwrap();
        }
        // It sees half of them before the member stops.
        while seen.len() < round * 10 + 5 {
            seen.extend(watch.events().await.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        }
        drop(watch);
        node = node.restart().await;
    }
    let mut watch = node.watcher(watching_all(seen.len() as i64 + 2)).await;
    while seen.len() < 30 {
        seen.extend(watch.events().await.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
    }
    assert_eq!(seen, (2..32).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_defragmented_file_is_as_good_as_before() {
    let node = Node::start().await;
    live(&node).await;
    let before = state(&node).await;
    node.defragment(DefragmentRequest {}).await.unwrap();
    assert_eq!(state(&node).await, before);
    assert_eq!(state(&node.crashed().await).await, before);
    disarm(&node).await;
    node.put(put("more", "1")).await.unwrap();
    let before = state(&node).await;
    assert_eq!(state(&node.restart().await).await, before);
}

#[tokio::test]
async fn a_directory_is_used_by_one_member_at_a_time() {
    let node = Node::start().await;
    let config = Config { data_dir: node.path().to_owned(), ..Config::default() };
    let second =
        forebay_server::start(config, forebay_server::PeerPorts::default(), &prometheus::Registry::new()).await;
    let error = second.err().expect("the directory is in use").to_string();
    assert!(error.contains("locked"), "{error}");
    node.put(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_member_that_was_stopped_gives_its_files_back_whoever_still_knows_it() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    let still_known = node.member.clone();
    let node = node.restart().await;
    node.put(put("a", "2")).await.unwrap();
    drop(still_known);
    assert_eq!(node.restart().await.everything().await[0].version, 2);
}

#[tokio::test]
async fn a_member_that_cannot_make_itself_known_leaves_nothing_behind() {
    let node = Node::start().await;
    node.put(put("a", "1")).await.unwrap();
    let dir = node.path().to_owned();
    node.member.stop().await;
    let config = Config { data_dir: dir.clone(), max_request_bytes: 10, ..Config::default() };
    let error =
        forebay_server::start(config.clone(), forebay_server::PeerPorts::default(), &prometheus::Registry::new())
            .await
            .err()
            .expect("too small");
    assert!(error.to_string().contains("publish"), "{error}");
    // The threads are gone and with them the locks.
    let config = Config { max_request_bytes: 1 << 20, ..config };
    let member = forebay_server::start(config, forebay_server::PeerPorts::default(), &prometheus::Registry::new())
        .await
        .unwrap();
    member.stop().await;
}

#[tokio::test]
async fn a_file_that_has_become_hollow_is_defragmented_at_start_if_that_is_asked_for() {
    let node = Node::start().await;
    for n in 0..100 {
        node.put(put(&format!("k{n}"), &"v".repeat(10_000))).await.unwrap();
    }
    // Hashing the file waits for it.
    node.hash(HashRequest {}).await.unwrap();
    let everything = DeleteRangeRequest { key: zero(), range_end: zero(), prev_kv: false };
    node.call::<DeleteRangeResponse>("/etcdserverpb.KV/DeleteRange", &everything).await.unwrap();
    node.compact(compaction(102)).await.unwrap();
    let size = async |node: &Node| node.status(StatusRequest {}).await.unwrap().db_size;
    let hollow = size(&node).await;
    let node = node.restart_with(|config| config.bootstrap_defrag_threshold_bytes = Some(1 << 30)).await;
    assert!(size(&node).await >= hollow, "not worth it");
    let node = node.restart_with(|config| config.bootstrap_defrag_threshold_bytes = Some(1 << 19)).await;
    assert!(size(&node).await < hollow / 4, "{hollow}");
}
