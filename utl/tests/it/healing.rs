//! What healing does to the files of a member. That the others fill the new one is seen in `conformance`.

use std::{fs, time::Duration};

use forebay_utl::{
    check,
    files::{db_path, wal_dir},
    heal::{Files, Identity},
};

use crate::files::{restore, snapshot};

/// The first two of a db file are its head.
const PAGE: usize = 4096;
const WAIT: Duration = Duration::from_millis(1);

#[test]
fn a_damaged_member_makes_way_for_one_that_knows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let old = restore(&snapshot(dir.path(), &[]));
    let restored = old.run().unwrap();
    let files = Files { data_dir: old.data_dir.clone(), wal_dir: None };
    assert!(files.damage(WAIT).unwrap().is_none());
    let path = db_path(&old.data_dir);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * PAGE..].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    assert!(files.damage(WAIT).unwrap().is_some());
    let own = Identity { member_id: restored.member_id, cluster_id: restored.cluster_id };
    assert_eq!(files.identity(), Some(own), "the log tells whose it is");

    let new = Identity { member_id: 0xbeef, ..own };
    for aside in ["member.damaged", "member.damaged.2"] {
        assert_eq!(files.begin_anew(new).unwrap(), [old.data_dir.join(aside)]);
    }
    assert_eq!(fs::read(old.data_dir.join("member.damaged/snap/db")).unwrap(), bytes, "nothing is thrown away");
    assert_eq!(files.identity(), Some(new));
    let checks = check::check(&old.data_dir, None, WAIT);
    let log = checks.iter().find(|check| check.what == "log").unwrap().found.as_ref().unwrap();
    assert!(log.starts_with("member beef of cluster ") && log.contains(" 0 entries up to index 0"), "{log}");
}

#[test]
fn a_log_elsewhere_is_checked_and_set_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("log");
    let old = restore(&snapshot(dir.path(), &[]));
    let old = forebay_utl::restore::Restore { wal_dir: Some(elsewhere.clone()), ..old };
    let restored = old.run().unwrap();
    let own = Identity { member_id: restored.member_id, cluster_id: restored.cluster_id };
    let files = Files { data_dir: old.data_dir.clone(), wal_dir: Some(elsewhere.join("")) };
    assert!(files.damage(WAIT).unwrap().is_none());
    let segment = fs::read_dir(&elsewhere).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[60] ^= 0x80;
    fs::write(&segment, bytes).unwrap();
    assert!(files.damage(WAIT).unwrap().unwrap().to_string().contains("is damaged at offset"));
    let aside = [old.data_dir.join("member.damaged"), dir.path().join("log.damaged")];
    assert_eq!(files.begin_anew(own).unwrap(), aside);
    assert!(!wal_dir(&old.data_dir).exists() && elsewhere.exists());
}

#[test]
fn a_member_that_runs_or_is_not_there_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let old = restore(&snapshot(dir.path(), &[]));
    old.run().unwrap();
    let files = Files { data_dir: old.data_dir.clone(), wal_dir: None };
    let running = forebay_storage::db::Db::open(db_path(&old.data_dir), Default::default()).unwrap();
    assert!(files.damage(WAIT).unwrap_err().to_string().contains("locked by another process"));
    drop(running);
    let nowhere = Files { data_dir: dir.path().join("typo"), wal_dir: None };
    assert!(nowhere.damage(WAIT).unwrap_err().to_string().contains("is no directory"));
}
