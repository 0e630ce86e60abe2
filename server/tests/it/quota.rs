//! A member that is full, and one that does not trust its data.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use forebay_proto::{
    Error,
    etcdserverpb::{alarm_request::AlarmAction, request_op::Request as Op, *},
};
use forebay_storage::disk::{Disk, DiskFile, OsDisk, Space};

use crate::support::{
    Node, alarm, all, bytes, compaction, delete, error, eventually, get, grant, leased, nested, op, put, refusal,
    watching_all, zero,
};

const QUOTA: u64 = 2 << 20;

fn large(key: &str) -> PutRequest {
    PutRequest { value: Bytes::from(vec![b'v'; 100 << 10]), ..put(key, "") }
}

/// A member that was written to until it refused.
async fn full() -> Node {
    let node = Node::with(|config| config.quota_backend_bytes = Some(QUOTA)).await;
    node.grant(grant(7, 600)).await.unwrap();
    node.put(leased("leased", 7)).await.unwrap();
    node.put(put("small", "1")).await.unwrap();
    for n in 0.. {
        match node.put(large(&format!("large/{n}"))).await {
            Ok(_) => assert!(n < QUOTA / (100 << 10), "what is not in the file yet counts"),
            Err(status) => {
                assert_eq!((status.code(), status.message()), (Error::NoSpace.code(), Error::NoSpace.message()));
                break;
            }
        }
    }
    // The file follows behind; a hash waits for it.
    node.hash(HashRequest {}).await.unwrap();
    eventually("the alarm is raised", async || !raised(&node).await.is_empty()).await;
    node
}

async fn raised(node: &Node) -> Vec<(u64, AlarmType)> {
    let listed = node.alarm(alarm(AlarmAction::Get, 0, AlarmType::None)).await.unwrap();
    listed.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect()
}

async fn disarm(node: &Node, kind: AlarmType) {
    let cleared = node.alarm(alarm(AlarmAction::Deactivate, node.member.id(), kind)).await.unwrap();
    assert_eq!(cleared.alarms, [AlarmMember { member_id: node.member.id(), alarm: kind as i32 }]);
}

#[tokio::test]
async fn a_full_member_raises_the_alarm_and_says_so() {
    let node = full().await;
    assert_eq!(raised(&node).await, [(node.member.id(), AlarmType::Nospace)]);
    let status = node.status(StatusRequest {}).await.unwrap();
    assert_eq!(status.errors, [format!("memberID:{} alarm:NOSPACE ", node.member.id())]);
    assert_eq!(status.db_size_quota, QUOTA as i64);
    assert!(status.db_size as u64 + (100 << 10) >= QUOTA, "{status:?}");
}

#[tokio::test]
async fn a_full_member_refuses_whatever_could_grow() {
    let node = full().await;
    let tiny = || op(Op::RequestPut(put("tiny", "")));
    let before = node.revision().await;
    assert_eq!(refusal(node.put(put("tiny", "")).await), error(Error::NoSpace));
    assert_eq!(refusal(node.put(put("small", "")).await), error(Error::NoSpace), "replacing is growing");
    assert_eq!(refusal(node.grant(grant(8, 60)).await), error(Error::NoSpace));
    assert_eq!(refusal(node.txn(all(vec![tiny()])).await), error(Error::NoSpace));
    let untaken = TxnRequest { failure: vec![tiny()], ..all(vec![op(Op::RequestRange(get("small")))]) };
    assert_eq!(refusal(node.txn(untaken).await), error(Error::NoSpace), "the branch not taken counts");
    assert_eq!(refusal(node.txn(nested(3, all(vec![tiny()]))).await), error(Error::NoSpace));
    assert_eq!(node.revision().await, before);
}

#[tokio::test]
async fn the_quota_is_looked_at_before_the_request() {
    let node = Node::with(|config| config.quota_backend_bytes = Some(100 << 10)).await;
    assert_eq!(refusal(node.put(large("")).await), error(Error::NoSpace));
    assert_eq!(refusal(node.txn(all(vec![op(Op::RequestPut(large("")))])).await), error(Error::NoSpace));
    eventually("the alarm is raised", async || !raised(&node).await.is_empty()).await;
    // What would fit is refused by the alarm, which is looked at after the request.
    assert_eq!(refusal(node.put(put("", "")).await), error(Error::EmptyKey));
}

#[tokio::test]
async fn a_full_member_lets_read_and_give_space_back() {
    let node = full().await;
    assert_eq!(node.range(get("small")).await.unwrap().count, 1);
    assert!(node.txn(all(vec![op(Op::RequestRange(get("small")))])).await.unwrap().succeeded);
    let mut watch = node.watcher(watching_all(0)).await;
    assert_eq!(node.delete(delete("large/0")).await.unwrap().deleted, 1);
    let deletes = all(vec![op(Op::RequestDeleteRange(delete("large/1"))), op(Op::RequestRange(get("small")))]);
    assert!(node.txn(deletes).await.unwrap().succeeded);
    node.revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
    for key in ["large/0", "large/1", "leased"] {
        assert_eq!(watch.events().await.events[0].kv.as_ref().unwrap().key, bytes(key));
    }
    node.compact(compaction(node.revision().await)).await.unwrap();
    node.defragment(DefragmentRequest {}).await.unwrap();
    node.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
}

#[tokio::test]
async fn a_full_member_takes_writes_again_once_space_is_back_and_the_alarm_is_off() {
    let node = full().await;
    let large_keys = DeleteRangeRequest { range_end: bytes("large0"), ..delete("large/") };
    assert!(node.delete(large_keys).await.unwrap().deleted > 10);
    node.compact(compaction(node.revision().await)).await.unwrap();
    let full_size = node.status(StatusRequest {}).await.unwrap().db_size;
    node.defragment(DefragmentRequest {}).await.unwrap();
    let size = node.status(StatusRequest {}).await.unwrap().db_size;
    assert!(size < full_size / 2, "{size} of {full_size} bytes are left");

    assert_eq!(refusal(node.put(put("a", "1")).await), error(Error::NoSpace), "the alarm stays until it is turned off");
    disarm(&node, AlarmType::Nospace).await;
    assert!(raised(&node).await.is_empty());
    node.put(large("large/again")).await.unwrap();
    node.grant(grant(8, 60)).await.unwrap();
}

#[tokio::test]
async fn an_alarm_that_is_turned_off_too_early_comes_back() {
    let node = full().await;
    disarm(&node, AlarmType::Nospace).await;
    assert_eq!(refusal(node.put(large("one/more")).await), error(Error::NoSpace));
    eventually("the alarm is raised again", async || !raised(&node).await.is_empty()).await;
}

#[tokio::test]
async fn a_member_without_a_quota_is_never_full() {
    let node = Node::with(|config| config.quota_backend_bytes = None).await;
    for n in 0..30 {
        node.put(large(&format!("large/{n}"))).await.unwrap();
    }
    node.hash(HashRequest {}).await.unwrap();
    let status = node.status(StatusRequest {}).await.unwrap();
    assert!(status.db_size as u64 > QUOTA && status.errors.is_empty(), "{status:?}");
}

#[tokio::test]
async fn the_nospace_alarm_of_any_member_holds_for_all() {
    let node = Node::start().await;
    node.alarm(alarm(AlarmAction::Activate, 12345, AlarmType::Nospace)).await.unwrap();
    assert_eq!(refusal(node.put(put("a", "1")).await), error(Error::NoSpace));
    // It goes with the exact pair alone.
    for other in [
        alarm(AlarmAction::Deactivate, 1, AlarmType::Nospace),
        alarm(AlarmAction::Deactivate, 12345, AlarmType::Corrupt),
    ] {
        assert!(node.alarm(other).await.unwrap().alarms.is_empty());
    }
    assert_eq!(refusal(node.put(put("a", "1")).await), error(Error::NoSpace));
    assert_eq!(node.alarm(alarm(AlarmAction::Deactivate, 12345, AlarmType::Nospace)).await.unwrap().alarms.len(), 1);
    node.put(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn alarms_are_raised_once_and_listed_by_type() {
    let node = Node::start().await;
    let on = |id, kind| alarm(AlarmAction::Activate, id, kind);
    for (id, kind) in
        [(1, AlarmType::Nospace), (1, AlarmType::Nospace), (2, AlarmType::Nospace), (1, AlarmType::Corrupt)]
    {
        let answer = node.alarm(on(id, kind)).await.unwrap();
        assert_eq!(answer.alarms, [AlarmMember { member_id: id, alarm: kind as i32 }]);
    }
    assert!(node.alarm(on(3, AlarmType::None)).await.unwrap().alarms.is_empty());
    for (kind, count) in [(AlarmType::None, 3), (AlarmType::Nospace, 2), (AlarmType::Corrupt, 1)] {
        // The member in the question is ignored.
        let listed = node.alarm(alarm(AlarmAction::Get, 99, kind)).await.unwrap();
        assert_eq!(listed.alarms.len(), count, "{kind:?}");
    }
}

#[tokio::test]
async fn a_corrupt_member_writes_nothing_and_goes_on_to_answer() {
    let node = Node::start().await;
    let corrupt = || error(Error::Corrupt);
    node.grant(grant(7, 600)).await.unwrap();
    node.put(leased("a", 7)).await.unwrap();
    node.alarm(alarm(AlarmAction::Activate, node.member.id(), AlarmType::Corrupt)).await.unwrap();

    assert_eq!(refusal(node.put(put("a", "2")).await), corrupt());
    assert_eq!(refusal(node.delete(delete("a")).await), corrupt());
    assert_eq!(refusal(node.txn(all(vec![op(Op::RequestPut(put("a", "2")))])).await), corrupt());
    assert_eq!(refusal(node.txn(all(vec![op(Op::RequestDeleteRange(delete("a")))])).await), corrupt());
    assert_eq!(refusal(node.compact(compaction(2)).await), corrupt());
    assert_eq!(refusal(node.grant(grant(8, 60)).await), corrupt());
    assert_eq!(refusal(node.revoke(LeaseRevokeRequest { id: 7 }).await), corrupt());

    assert_eq!(node.range(get("a")).await.unwrap().count, 1);
    assert!(node.txn(all(vec![op(Op::RequestRange(get("a")))])).await.unwrap().succeeded);
    let mut watch = node.watcher(watching_all(2)).await;
    assert_eq!(watch.events().await.events.len(), 1);
    let mut renewals = node.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
    renewals.send(&LeaseKeepAliveRequest { id: 7 });
    assert_eq!(renewals.next::<LeaseKeepAliveResponse>().await.unwrap().ttl, 600);
    let status = node.status(StatusRequest {}).await.unwrap();
    assert_eq!(status.errors, [format!("memberID:{} alarm:CORRUPT ", node.member.id())]);

    disarm(&node, AlarmType::Corrupt).await;
    let all_keys = DeleteRangeRequest { key: zero(), range_end: zero(), prev_kv: false };
    assert_eq!(node.delete(all_keys).await.unwrap().deleted, 1);
}

/// A disk that says that it is nearly full when it is told to.
#[derive(Debug, Default)]
struct SmallDisk {
    is_short: std::sync::atomic::AtomicBool,
}

impl Disk for SmallDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.create(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        OsDisk.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let free = if self.is_short.load(Ordering::Relaxed) { 1 << 20 } else { 1 << 40 };
        Ok(Space { free, total: 1 << 41 })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_disk_is_full_the_alarm_is_raised_and_what_frees_space_goes_on() {
    let disk = Arc::new(SmallDisk::default());
    let node = Node::on_disk(disk.clone()).await;
    let revision = node.put(put("a", "1")).await.unwrap().header.unwrap().revision;
    disk.is_short.store(true, Ordering::Relaxed);
    eventually("the alarm is raised, though nobody writes", async || {
        raised(&node).await == [(node.member.id(), AlarmType::Nospace)]
    })
    .await;
    assert_eq!(refusal(node.put(put("b", "2")).await), error(Error::NoSpace));
    node.range(get("a")).await.unwrap();
    node.delete(delete("a")).await.unwrap();
    node.compact(compaction(revision)).await.unwrap();
    node.defragment(DefragmentRequest {}).await.unwrap();
    // Cleared too early, it is raised again.
    disarm(&node, AlarmType::Nospace).await;
    eventually("the alarm is raised again", async || !raised(&node).await.is_empty()).await;

    disk.is_short.store(false, Ordering::Relaxed);
    eventually("writes resume once there is space and the alarm is cleared", async || {
        let alarm = alarm(AlarmAction::Deactivate, node.member.id(), AlarmType::Nospace);
        node.alarm(alarm).await.unwrap();
        node.put(put("b", "2")).await.is_ok()
    })
    .await;
}
