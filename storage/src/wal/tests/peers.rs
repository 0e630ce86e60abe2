//! Logs of real etcds, and real etcd tools on our logs.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use forebay_proto::{etcdserverpb, raftpb::EntryType};

use super::*;

/// A program of a release of etcd, if the peers are installed.
pub(crate) fn peer(release: &str, program: &str) -> Option<PathBuf> {
    let base = std::env::var_os("FOREBAY_PEERS")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/forebay-peers")))?;
    let path = base.join(release).join(program);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is missing; install it with conformance/install-peers.sh", path.display());
    None
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a real member over `data`, puts `keys` keys, and kills it.
pub(crate) fn run_etcd(etcd: &Path, etcdctl: &Path, data: &Path, keys: usize) {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
    let mut command = Command::new(etcd);
    command.args(["--name", "m1", "--log-level", "error", "--snapshot-count", "20", "--data-dir"]).arg(data);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("m1={peer}")]);
    let member = Stopped(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let put = |key: usize| {
        let mut command = Command::new(etcdctl);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &client, "--command-timeout", "1s"]);
        let value = "v".repeat(key * 10);
        let output = command.args(["put", &format!("k{key}"), &value]).output().unwrap();
        output.status.success()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    for key in 1..=keys {
        while !put(key) {
            assert!(Instant::now() < deadline, "etcd did not come up");
        }
    }
    drop(member);
}

#[test]
fn logs_of_real_members_are_read_and_continued() {
    for release in ["3.4", "3.5", "3.7"] {
        let (Some(etcd), Some(etcdctl)) = (peer(release, "etcd"), peer(release, "etcdctl")) else { continue };
        let dir = tempfile::tempdir().unwrap();
        run_etcd(&etcd, &etcdctl, dir.path(), 30);
        let wal_dir = dir.path().join("member/wal");
        // From the beginning, as if there were no snapshot.
        let start = Some(walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None });
        let (wal, recovered) = Wal::open(Arc::new(OsDisk), &wal_dir, Options::default(), start).unwrap();
        drop(wal);
        let metadata = etcdserverpb::Metadata::decode(recovered.metadata.clone()).unwrap();
        assert_ne!(metadata.node_id(), 0, "{release}");
        assert_eq!(recovered.entries[0].r#type(), EntryType::EntryConfChange, "{release}");
        let puts = recovered.entries.iter().filter_map(|entry| {
            let request = etcdserverpb::InternalRaftRequest::decode(entry.data.clone()?).ok()?;
            request.put
        });
        let mut keys: Vec<_> = puts.map(|put| (put.key, put.value.len())).collect();
        // What is not answered in time is put again, and may be there twice.
        keys.dedup();
        let expected: Vec<_> = (1..=30).map(|key| (Bytes::from(format!("k{key}")), key * 10)).collect();
        assert_eq!(keys, expected, "{release}");

        let (mut wal, recovered) = Wal::open(Arc::new(OsDisk), &wal_dir, Options::default(), None).unwrap();
        assert!(recovered.snapshot.index() >= 20, "{release}: {:?}", recovered.snapshot);
        let last = recovered.entries.last().unwrap();
        let (index, term) = (last.index(), last.term());
        let commit = HardState { commit: Some(index + 1), ..recovered.hard_state };
        let noop = Entry { term: Some(term), index: Some(index + 1), ..Entry::default() };
        wal.append(Some(&commit), &[noop], true).unwrap();
        drop(wal);
        // And back: the member takes its log with our records in it.
        run_etcd(&etcd, &etcdctl, dir.path(), 3);
        let (_wal, after) = Wal::open(Arc::new(OsDisk), &wal_dir, Options::default(), None).unwrap();
        assert!(after.hard_state.commit() > index + 1, "{release}");
    }
}

#[test]
fn etcd_dump_logs_reads_ours() {
    let Some(dump) = peer("tools", "etcd-dump-logs") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("member/snap")).unwrap();
    let metadata = etcdserverpb::Metadata { node_id: Some(7), cluster_id: Some(9) }.encode_to_vec();
    let options = Options { segment_bytes: 16 << 10, segments_max: 0 };
    let path = dir.path().join("member/wal");
    let mut wal = Wal::create(Arc::new(OsDisk), &path, options, metadata.into()).unwrap();
    for index in 1..=300 {
        let put = etcdserverpb::PutRequest {
            key: format!("k{index}").into(),
            value: vec![b'v'; 100].into(),
            ..Default::default()
        };
        let request = etcdserverpb::InternalRaftRequest {
            header: Some(Default::default()),
            put: Some(put),
            ..Default::default()
        };
        let entry = entry(index, 1, &request.encode_to_vec());
        wal.append(Some(&state(1, index - 1)), &[entry], true).unwrap();
    }
    assert!(wal.segments() > 2);
    drop(wal);
    let output = Command::new(dump).arg(dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Terms and indexes are not compared: 3.7.1 prints the addresses of those fields.
    assert!(text.contains("nodeID=7 clusterID=9") && text.contains("vote=7"), "{text}");
    assert!(text.contains("count is : 300"), "{text}");
    assert!(text.contains("key:\"k300\""), "{text}");
}
