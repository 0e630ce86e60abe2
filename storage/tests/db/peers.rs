//! Our files in the hands of etcd and its tools, and theirs in ours.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_proto::{leasepb, mvccpb::KeyValue};
use forebay_storage::db::{Db, Options, ReadTxn};
use forebay_storage::schema;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::model;

/// A program of the real peers, or None with a line saying how to get it.
fn peer(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let peers = std::env::var_os("FOREBAY_PEERS").map_or(home.join(".cache/forebay-peers"), PathBuf::from);
    let path = peers.join(name);
    if !path.exists() {
        println!("skipped: install with conformance/install-peers.sh ({} is missing)", path.display());
        return None;
    }
    Some(path)
}

/// Runs a program to its end and returns what it printed.
fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("ETCDCTL_API", "3").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {}\n{text}{errors}", program.display(), output.status);
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A database with some of everything etcd puts there.
fn database(path: &Path) -> Db {
    let db = Db::open(path, Options::default()).unwrap();
    let mut txn = db.begin_write().unwrap();
    schema::create(&mut txn).unwrap();
    for revision in 2..3000_i64 {
        let key = format!("key {}", revision % 700);
        let tombstone = revision % 10 == 9;
        let record = KeyValue {
            key: key.into(),
            value: if tombstone { Default::default() } else { vec![b'v'; revision as usize % 300].into() },
            mod_revision: if tombstone { 0 } else { revision },
            create_revision: if tombstone { 0 } else { revision },
            version: i64::from(!tombstone),
            lease: 0,
        };
        let at = schema::RevisionKey::new(revision, 0, tombstone);
        txn.bucket(schema::KEY).unwrap().put(&at, &record.encode_to_vec()).unwrap();
    }
    let lease = leasepb::Lease { id: 0x1234, ttl: 60, remaining_ttl: 0 };
    for value in [schema::lease(&lease), schema::storage_version("3.7.0"), schema::cluster_version("3.7.0")] {
        value.put(&mut txn).unwrap();
    }
    for value in schema::applied(77, 2) {
        value.put(&mut txn).unwrap();
    }
    txn.commit().unwrap();
    db
}

fn status_line(txn: &ReadTxn) -> schema::Status {
    schema::read_status(txn).unwrap()
}

/// `etcdutl snapshot status -w fields`, as we say it.
fn status_of_etcdutl(etcdutl: &Path, path: &Path) -> schema::Status {
    let fields = output(etcdutl, &["snapshot", "status", text(path), "-w", "json"]);
    let json: serde_json::Value = serde_json::from_str(&fields).unwrap();
    let version = json["version"].as_str().unwrap_or_default();
    schema::Status {
        hash: json["hash"].as_u64().unwrap() as u32,
        revision: json["revision"].as_i64().unwrap(),
        total_keys: json["totalKey"].as_u64().unwrap() as usize,
        total_size: json["totalSize"].as_u64().unwrap(),
        version: (!version.is_empty()).then(|| version.to_string()),
    }
}

#[test]
fn bbolt_finds_nothing_wrong_with_what_random_transactions_leave() {
    let Some(bbolt) = peer("tools/bbolt") else { return };
    for seed in 100..103 {
        let directory = model::run(seed, 40);
        let path = directory.path().join("db");
        assert_eq!(output(&bbolt, &["check", text(&path)]).trim(), "OK");
    }
}

#[test]
fn a_file_with_a_freelist_is_taken_over_and_loses_it() {
    let Some(bbolt) = peer("tools/bbolt") else { return };
    let directory = tempfile::tempdir().unwrap();
    let [path, compacted] = ["db", "compacted"].map(|name| directory.path().join(name));
    drop(database(&path));
    // The tool writes with bbolt's defaults: the freelist is in the file.
    output(&bbolt, &["compact", "-o", text(&compacted), text(&path), "--tx-max-size", "20000"]);
    let db = Db::open(&compacted, Options::default()).unwrap();
    let original = Db::open(&path, Options::default()).unwrap();
    assert_eq!(model::content(&db.begin_read()), model::content(&original.begin_read()));
    for revision in 5000..5010 {
        let mut txn = db.begin_write().unwrap();
        let key = schema::RevisionKey::new(revision, 0, false);
        txn.bucket(schema::KEY).unwrap().put(&key, &[1; 2000]).unwrap();
        txn.commit().unwrap();
    }
    drop(db);
    assert_eq!(output(&bbolt, &["check", text(&compacted)]).trim(), "OK");
    let pages = output(&bbolt, &["page", text(&compacted), "0"]);
    assert!(pages.contains("Freelist:   <pgid=18446744073709551615>"), "{pages}");
}

#[test]
fn etcds_tools_read_our_file_and_agree_on_its_hashes() {
    let (Some(dump), Some(etcdutl)) = (peer("tools/etcd-dump-db"), peer("3.7/etcdutl")) else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let db = database(&path);
    let (hash, status) = (schema::hash(&db.begin_read()).unwrap(), status_line(&db.begin_read()));
    assert_eq!((status.revision, status.version.as_deref()), (2999, Some("3.7.0")));
    drop(db);
    let names = String::from_utf8(schema::BUCKETS.join(&b'\n')).unwrap();
    assert_eq!(output(&dump, &["list-bucket", text(&path)]).trim(), names);
    let leases = output(&dump, &["iterate-bucket", text(&path), "lease", "--decode"]);
    assert!(leases.contains("lease ID=0000000000001234, TTL=60s"), "{leases}");
    let keys = output(&dump, &["iterate-bucket", text(&path), "key", "--decode", "--limit", "1"]);
    assert!(keys.contains("Main:2999"), "{keys}");
    let printed = output(&dump, &["hash", text(&path)]);
    assert!(printed.contains(&format!("Hash: {hash}")), "{printed}, ours {hash}");
    assert_eq!(status_of_etcdutl(&etcdutl, &path), status);
}

/// A running member; killed when it is dropped.
struct Member {
    process: Child,
    client: String,
    etcdctl: PathBuf,
}

impl Member {
    fn start(etcd: &Path, etcdctl: &Path, data: &Path, ports: [u16; 2]) -> Self {
        let [client, peer] = ports.map(|port| format!("http://127.0.0.1:{port}"));
        let process = Command::new(etcd)
            .args(["--name", "m1", "--log-level", "error", "--data-dir", text(data)])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m1={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let member = Self { process, client, etcdctl: etcdctl.to_path_buf() };
        let deadline = Instant::now() + Duration::from_secs(60);
        let health = ["--endpoints", &member.client, "--command-timeout", "1s", "endpoint", "health"];
        while !Command::new(etcdctl).args(health).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "{} did not come up", etcd.display());
        }
        member
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        output(&self.etcdctl, &[&["--endpoints", &self.client, "--command-timeout", "20s"], arguments].concat())
    }

    /// Ends it as an operator would, so that everything is in its files.
    fn stop(mut self) {
        let id = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn open(data: &Path) -> Db {
    Db::open(data.join("member/snap/db"), Options::default()).unwrap()
}

/// etcd writes, we rewrite its file with every kind of change that leaves its content alone, etcd goes on with it.
fn exchange(release: &str) {
    let (Some(etcd), Some(etcdctl)) = (peer(&format!("{release}/etcd")), peer("3.7/etcdctl")) else { return };
    let Some(bbolt) = peer("tools/bbolt") else { return };
    let directory = tempfile::tempdir().unwrap();
    let (data, ports) = (directory.path().join("data"), free_ports());
    let path = data.join("member/snap/db");
    let member = Member::start(&etcd, &etcdctl, &data, ports);
    let lease = member.ctl(&["lease", "grant", "600"]);
    let lease = lease.split(' ').nth(1).unwrap();
    for round in 0..12 {
        let value = "x".repeat(1 + 4000 * (round % 4));
        member.ctl(&["put", &format!("key {}", round % 5), &value]);
        member.ctl(&["put", &format!("leased {round}"), "v", "--lease", lease]);
    }
    member.ctl(&["del", "key 3"]);
    member.ctl(&["compact", "9", "--physical"]);
    let hash = member.ctl(&["endpoint", "hashkv"]);
    let keys = member.ctl(&["get", "", "--prefix"]);
    member.stop();

    let db = open(&data);
    let before = (schema::hash(&db.begin_read()).unwrap(), model::content(&db.begin_read()));
    let leases = schema::read_leases(&db.begin_read()).unwrap();
    assert_eq!(leases.iter().map(|lease| format!("{:016x}", lease.id)).collect::<Vec<_>>(), [lease]);
    assert_eq!(schema::read_membership(&db.begin_read()).unwrap().members.len(), 1);
    db.defragment().unwrap();
    // Keys come and go again, so that every page is written by us more than once.
    let revision = |index: i64| schema::RevisionKey::new(i64::MAX - index, 0, false);
    for _ in 0..2 {
        let mut txn = db.begin_write().unwrap();
        for index in 0..500 {
            txn.bucket(schema::KEY).unwrap().put(&revision(index), &[7; 300]).unwrap();
        }
        txn.commit().unwrap();
        let mut txn = db.begin_write().unwrap();
        for index in 0..500 {
            assert!(txn.bucket(schema::KEY).unwrap().delete(&revision(index)).unwrap());
        }
        txn.commit().unwrap();
    }
    assert_eq!((schema::hash(&db.begin_read()).unwrap(), model::content(&db.begin_read())), before);
    drop(db);
    assert_eq!(output(&bbolt, &["check", text(&path)]).trim(), "OK");

    let member = Member::start(&etcd, &etcdctl, &data, ports);
    assert_eq!(member.ctl(&["endpoint", "hashkv"]), hash);
    assert_eq!(member.ctl(&["get", "", "--prefix"]), keys);
    member.ctl(&["put", "after", "us"]);
    member.ctl(&["defrag"]);
    member.stop();

    let db = open(&data);
    let (_, record) = db.begin_read().bucket(schema::KEY).unwrap().unwrap().last().unwrap().unwrap();
    assert_eq!(KeyValue::decode(record).unwrap().key, "after");
}

#[test]
fn etcd_3_7_goes_on_with_a_file_we_rewrote() {
    exchange("3.7");
}

#[test]
fn etcd_3_5_goes_on_with_a_file_we_rewrote() {
    exchange("3.5");
}

#[test]
fn etcd_3_4_goes_on_with_a_file_we_rewrote() {
    exchange("3.4");
}

#[test]
fn etcd_restores_our_snapshot() {
    let (Some(etcd), Some(etcdctl)) = (peer("3.7/etcd"), peer("3.7/etcdctl")) else { return };
    let Some(etcdutl) = peer("3.7/etcdutl") else { return };
    let directory = tempfile::tempdir().unwrap();
    let db = database(&directory.path().join("db"));
    let mut snapshot = db.snapshot();
    // Writes behind the snapshot's back do not show in it.
    let mut txn = db.begin_write().unwrap();
    txn.delete_bucket(schema::KEY).unwrap();
    txn.create_bucket_if_missing(schema::KEY).unwrap();
    txn.commit().unwrap();
    let status = status_line(snapshot.txn());
    let mut bytes = Vec::new();
    snapshot.copy_to(&mut bytes).unwrap();
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    let file = directory.path().join("snapshot");
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(status_of_etcdutl(&etcdutl, &file), status);
    let (data, ports) = (directory.path().join("data"), free_ports());
    let peer = format!("http://127.0.0.1:{}", ports[1]);
    let mut restore = vec!["snapshot", "restore", text(&file), "--data-dir", text(&data), "--name", "m1"];
    let cluster = format!("m1={peer}");
    restore.extend(["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer]);
    output(&etcdutl, &restore);
    let member = Member::start(&etcd, &etcdctl, &data, ports);
    let count = member.ctl(&["get", "", "--prefix", "--count-only", "-w", "fields"]);
    assert!(count.contains(&format!("\"Count\" : {}", status.total_keys)), "{count}");
    member.stop();
}
