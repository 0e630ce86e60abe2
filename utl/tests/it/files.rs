//! Files to work on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use forebay_proto::{authpb, leasepb, mvccpb::KeyValue};
use forebay_storage::{
    db::{Db, Options},
    schema::{self, KEY, RevisionKey, Value},
};
use forebay_utl::restore::Restore;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

pub const URL: &str = "http://localhost:2380";

/// The version of a key at a revision.
pub fn version(key: &str, create: i64, revision: i64, version: i64) -> Value {
    let record = KeyValue {
        key: key.as_bytes().to_vec().into(),
        value: format!("{key} at {revision}").into(),
        create_revision: create,
        mod_revision: revision,
        version,
        lease: 0,
    };
    let at = RevisionKey::new(revision, 0, false);
    Value { bucket: KEY, key: at.to_vec(), value: record.encode_to_vec() }
}

fn tombstone(key: &str, revision: i64) -> Value {
    let record = KeyValue { key: key.as_bytes().to_vec().into(), ..KeyValue::default() };
    let at = RevisionKey::new(revision, 0, true);
    Value { bucket: KEY, key: at.to_vec(), value: record.encode_to_vec() }
}

/// A db file with 300 keys, a deleted one, one with a history, a lease, a user and more values beside.
pub fn database(path: &Path, more: &[Value]) -> Db {
    let db = Db::open(path, Options::default()).unwrap();
    let mut txn = db.begin_write().unwrap();
    schema::create(&mut txn).unwrap();
    let mut values = vec![
        version("history", 2, 2, 1),
        version("history", 2, 3, 2),
        version("gone", 4, 4, 1),
        tombstone("gone", 5),
        version("history", 2, 6, 3),
        schema::lease(&leasepb::Lease { id: 7, ttl: 60, remaining_ttl: 0 }),
        schema::user(&authpb::User { name: "root".into(), ..authpb::User::default() }),
        schema::cluster_version("3.7.0"),
        schema::storage_version("3.7.0"),
        schema::removed_member(0xdead),
    ];
    values.extend((0..300).map(|n| version(&format!("key {n:03}"), 7 + n, 7 + n, 1)));
    values.extend(schema::applied(400, 3));
    for value in values.iter().chain(more) {
        value.put(&mut txn).unwrap();
    }
    txn.commit().unwrap();
    db
}

/// The file that `snapshot save` would make of it.
pub fn snapshot(dir: &Path, more: &[Value]) -> PathBuf {
    let path = dir.join("snapshot.db");
    let db = database(&dir.join("source"), more);
    let mut bytes = Vec::new();
    db.snapshot().copy_to(&mut bytes).unwrap();
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    fs::write(&path, bytes).unwrap();
    path
}

/// A restore into `data` beside the snapshot, as a cluster of one.
pub fn restore(snapshot: &Path) -> Restore {
    Restore {
        snapshot: snapshot.to_owned(),
        data_dir: snapshot.with_file_name("data"),
        wal_dir: None,
        name: "m1".to_owned(),
        peer_urls: vec![URL.to_owned()],
        initial_cluster: vec![("m1".to_owned(), vec![URL.to_owned()])],
        token: "etcd-cluster".to_owned(),
        skip_hash_check: false,
        bump_revision: 0,
    }
}
