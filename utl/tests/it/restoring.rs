//! Restores, and what is restored.

use std::{fs, path::Path, time::Duration};

use forebay_storage::schema;
use forebay_utl::{check, files::db_path, files::open_read_only, hashkv, restore::Restore, status, verify};

use crate::files::{URL, database, restore, snapshot};

const WAIT: Duration = Duration::from_secs(5);

fn hash(path: &Path) -> hashkv::HashKv {
    hashkv::hash_file(path, 0, WAIT).unwrap()
}

#[test]
fn a_snapshot_comes_back_as_a_member_of_a_new_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = snapshot(dir.path(), &[]);
    let mut restore = restore(&snapshot);
    restore.initial_cluster.push(("m2".to_owned(), vec!["http://b:2380".to_owned()]));
    let restored = restore.run().unwrap();
    assert_eq!(restored.revision, 306);
    check::must_be_whole(&restore.data_dir, WAIT).unwrap();
    let path = db_path(&restore.data_dir);
    assert_eq!(hash(&path), hash(&snapshot));
    let db = open_read_only(&path, WAIT).unwrap();
    let txn = db.begin_read();
    let membership = schema::read_membership(&txn).unwrap();
    assert_eq!(membership.members.len(), 2);
    assert!(membership.members.iter().any(|member| member.id == restored.member_id && member.name == "m1"));
    assert_eq!((membership.removed, membership.cluster_version.as_deref()), (vec![], Some("3.7.0")));
    assert_eq!(schema::read_applied(&txn).unwrap(), (2, 1));
    assert_eq!(schema::read_conf_state(&txn).unwrap().unwrap().voters.len(), 2);
    assert_eq!(schema::read_leases(&txn).unwrap().len(), 1);
    assert_eq!(schema::read_auth(&txn).unwrap().users[0].name, "root");
    let (before, after) = (status::status(&snapshot).unwrap(), schema::read_status(&txn).unwrap());
    assert_eq!((before.revision, before.total_keys), (after.revision, after.total_keys));
}

#[test]
fn a_bumped_revision_is_compacted_at() {
    let dir = tempfile::tempdir().unwrap();
    let restore = Restore { bump_revision: 1000, ..restore(&snapshot(dir.path(), &[])) };
    assert_eq!(restore.run().unwrap().revision, 1306);
    let db = open_read_only(&db_path(&restore.data_dir), WAIT).unwrap();
    assert_eq!(schema::read_compactions(&db.begin_read()).unwrap(), (Some(1306), None));
    let (key, value) = db.begin_read().bucket(schema::KEY).unwrap().unwrap().last().unwrap().unwrap();
    assert_eq!((schema::RevisionKey::parse(&key), value.len()), (Some((1306, 0, false)), 0));
    let hash = hashkv::hash(&db.begin_read(), Path::new("db"), 0).unwrap();
    assert_eq!((hash.revision, hash.compact_revision), (1306, 1306));
    check::must_be_whole(&restore.data_dir, WAIT).unwrap();
    let too_far = Restore { bump_revision: u64::MAX, data_dir: dir.path().join("other"), ..restore };
    assert!(too_far.run().is_err() && !too_far.data_dir.exists());
}

#[test]
fn a_verified_snapshot_was_restored_and_nothing_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = snapshot(dir.path(), &[]);
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let verified = verify::verify(&snapshot, &scratch, false).unwrap();
    assert_eq!((verified.status.revision, verified.status.total_keys), (306, 301));
    assert_eq!(verified.hash, hash(&snapshot));
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[5000] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    assert!(verify::verify(&snapshot, &scratch, false).is_err());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_restored_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = snapshot(dir.path(), &[]);
    let whole = fs::read(&snapshot).unwrap();
    let good = restore(&snapshot);
    let refused = |restore: &Restore, text: &str| {
        let error = restore.run().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.hint().is_some(), "{error} says what to do");
        assert!(!restore.data_dir.exists(), "{text}");
    };
    fs::write(&snapshot, &whole[..whole.len() - 32]).unwrap();
    refused(&good, "snapshot missing hash but --skip-hash-check=false");
    let mut flipped = whole.clone();
    flipped[9000] ^= 4;
    fs::write(&snapshot, &flipped).unwrap();
    refused(&good, "expected sha256");
    fs::write(&snapshot, b"this is no snapshot").unwrap();
    refused(&Restore { skip_hash_check: true, ..good.clone() }, "no valid meta page");
    fs::write(&snapshot, &whole[..(whole.len() / 2) & !511]).unwrap();
    refused(&Restore { skip_hash_check: true, ..good.clone() }, "as the meta page says");
    fs::write(&snapshot, &whole).unwrap();
    refused(&Restore { name: "m9".into(), ..good.clone() }, "couldn't find local name \"m9\"");
    refused(
        &Restore { peer_urls: vec!["http://c:1".into()], ..good.clone() },
        "missing from --initial-advertise-peer-urls",
    );
    let twice = vec![("m1".to_owned(), vec![URL.to_owned()]), ("m2".to_owned(), vec![URL.to_owned()])];
    refused(&Restore { initial_cluster: twice, ..good.clone() }, "duplicate url");
    let wal_dir = dir.path().join("wal");
    fs::create_dir(&wal_dir).unwrap();
    refused(&Restore { wal_dir: Some(wal_dir), ..good.clone() }, "exists");
    good.run().unwrap();
    let error = good.run().unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    check::must_be_whole(&good.data_dir, WAIT).unwrap();
}

#[test]
fn a_file_in_use_is_refused_and_one_that_is_read_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let running = database(&path, &[]);
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    let error = hashkv::hash_file(&path, 0, Duration::from_millis(1)).unwrap_err();
    assert!(error.to_string().contains("locked by another process"), "{error}");
    assert!(error.hint().unwrap().contains("forebay utl snapshot save"));
    drop(running);
    hash(&path);
    status::status(&path).unwrap();
    check::must_be_whole(&path, WAIT).unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()), before);
    let missing = dir.path().join("typo");
    assert!(hashkv::hash_file(&missing, 0, WAIT).is_err() && !missing.exists());
}
