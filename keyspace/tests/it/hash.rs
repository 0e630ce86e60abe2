//! HashKV against what a real etcd answered: `testdata/hash-*.txt`, written by `testdata/record-hashes.py`.
//!
//! The files are of etcd 3.7.1. 3.5.1 gave the same, up to its refusal to hash the compacted revision itself.

use std::{fs, path::Path};

use forebay_keyspace::{CompactStep, Keyspace, Put, Restore, Revision, RevisionHash, Version, WriteTxn};
use forebay_proto::KeyRange;

fn number(field: Option<&str>) -> i64 {
    field.expect("a field is missing").parse().expect("the field is a number")
}

fn write(txn: &mut WriteTxn<'_>, command: &str) {
    let mut fields = command.split_whitespace();
    match (fields.next(), fields.next()) {
        (Some("put"), Some(key)) => {
            let value = vec![b'v'; number(fields.next()) as usize];
            txn.put(key.as_bytes(), &value, number(fields.next()));
        }
        (Some("delete"), Some(key)) => {
            let end = fields.next().filter(|end| *end != "-").unwrap_or_default();
            txn.delete_range(&KeyRange::new(key.to_owned().into(), end.to_owned().into()));
        }
        _ => panic!("not a write: {command}"),
    }
}

fn compact(keyspace: &mut Keyspace, revision: i64) {
    keyspace.compact(revision).unwrap().expect("no other compaction is running").run();
    keyspace.publish();
    while !matches!(keyspace.compact_step(7), CompactStep::Finished(..)) {}
}

fn replay(file: &Path) {
    let program = fs::read_to_string(file).unwrap();
    let mut keyspace = Keyspace::new();
    let reader = keyspace.reader();
    let mut hashes = 0;
    for (line, number_of_line) in program.lines().zip(1..) {
        let place = format!("{}:{number_of_line}: {line}", file.display());
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("#") => {}
            Some("put" | "delete") => write(&mut keyspace.write(), line),
            Some("txn") => {
                let mut txn = keyspace.write();
                line.split(" ; ").skip(1).for_each(|command| write(&mut txn, command));
            }
            Some("at") => assert_eq!(keyspace.revision(), number(fields.next()), "{place}"),
            Some("compact") => compact(&mut keyspace, number(fields.next())),
            Some("hash") => {
                keyspace.publish();
                let (hash, current) = reader.hash(number(fields.next())).unwrap();
                let answer = [hash.hash.into(), hash.compact_revision, hash.revision];
                assert_eq!(answer, [(); 3].map(|()| number(fields.next())), "{place}");
                assert_eq!(current, keyspace.revision());
                hashes += 1;
            }
            _ => panic!("not a command: {place}"),
        }
    }
    assert!(hashes > 100, "{} has {hashes} hashes", file.display());
}

#[test]
fn hashes_are_those_of_a_real_etcd() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for seed in 1..=3 {
        replay(&testdata.join(format!("hash-{seed}.txt")));
    }
}

#[test]
fn how_far_a_compaction_has_come_changes_no_hash() {
    let mut keyspace = Keyspace::new();
    let reader = keyspace.reader();
    for command in ["put a 1 0", "put a 2 0", "put b 1 0", "delete b -", "put a 3 0"] {
        write(&mut keyspace.write(), command);
    }
    keyspace.compact(5).unwrap().expect("no other compaction is running").run();
    // Nothing is left that a compaction would keep: what the one before kept counts all the same.
    write(&mut keyspace.write(), "delete a -");
    keyspace.publish();
    let revision = keyspace.revision();
    let before = [reader.hash(0).unwrap().0, reader.hash(revision - 1).unwrap().0];
    loop {
        let step = keyspace.compact_step(1);
        keyspace.publish();
        assert_eq!([reader.hash(0).unwrap().0, reader.hash(revision - 1).unwrap().0], before, "{step:?}");
        if matches!(step, CompactStep::Finished(..)) {
            return;
        }
    }
}

/// A store of etcd 3.7.1 with three revisions, restored by `etcdutl snapshot restore --bump-revision 100
/// --mark-compacted`, and what it answered once it had run.
#[test]
fn a_snapshot_restored_with_a_bumped_revision_hashes_as_in_a_real_etcd() {
    let at = |main| Revision { main, sub: 0 };
    let mut restore = Restore::new(None);
    for (main, key, value) in [(2, b"a", b"1"), (3, b"b", b"2")] {
        let put = Put { revision: at(main), create_revision: main, version: 1, lease: 0, key, value };
        restore.record(at(main), false, Version::put(put, &mut Vec::new()).record()).unwrap();
    }
    restore.record(at(4), true, Version::tombstone(at(4), b"a", &mut Vec::new()).record()).unwrap();
    restore.record(at(104), false, b"").unwrap();
    let mut keyspace = restore.finish(104);
    keyspace.resume_compaction(104).unwrap();
    keyspace.publish();
    let step = keyspace.compact_step(1000);
    assert_eq!(step, CompactStep::Finished(104, vec![(at(2), false), (at(4), true)]), "104 itself stays");
    let reader = keyspace.reader();
    let hash = RevisionHash { hash: 2811356613, compact_revision: 104, revision: 104 };
    assert_eq!(reader.hash(0), Ok((hash, 104)));
    keyspace.write().put(b"c", b"3", 0);
    keyspace.publish();
    assert_eq!(reader.hash(0), Ok((RevisionHash { hash: 2436078089, revision: 105, ..hash }, 105)));
    assert_eq!(reader.hash(104), Ok((hash, 105)));
    let everything = KeyRange::all();
    assert_eq!(reader.evaluate(|snapshot| Ok(snapshot.count(&everything, 105))), Ok(2), "a placeholder is no key");
}
