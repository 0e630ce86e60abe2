//! The values of the db file.

use forebay_storage::{
    db::ReadTxn,
    schema::{self, RevisionKey, Value},
    snap::{member_from_json, member_json},
};

use crate::{
    db::{disk_with, open, read_facts},
    input::Input,
};

/// Keys whose values have a form of their own, with their buckets.
const NAMED: [(&[u8], &[u8]); 11] = [
    (schema::META, b"consistent_index"),
    (schema::META, b"term"),
    (schema::META, b"confState"),
    (schema::META, b"scheduledCompactRev"),
    (schema::META, b"finishedCompactRev"),
    (schema::META, b"storageVersion"),
    (schema::CLUSTER, b"clusterVersion"),
    (schema::CLUSTER, b"downgrade"),
    (schema::AUTH, b"authEnabled"),
    (schema::AUTH, b"authRevision"),
    (schema::MEMBERS, b"1"),
];

/// Every fact of a file is read or refused, and what was read is read again once it was written.
///
/// Input: values, each a number and a chunk: below the number of [`NAMED`] keys the chunk is that one's value, else the
/// number says the bucket, and the chunk is the key, followed by another that is its value.
pub fn schema_values(data: &[u8]) {
    let disk = disk_with(None);
    let db = open(&disk).expect("a new file");
    let mut txn = db.begin_write().expect("a new file");
    schema::create(&mut txn).expect("a new file");
    let mut input = Input::new(data);
    while !input.is_empty() {
        let number = usize::from(input.byte());
        let chunk = input.chunk();
        let (bucket, key, value) = match NAMED.get(number) {
            Some((bucket, key)) => (*bucket, *key, chunk),
            None => (schema::BUCKETS[number % schema::BUCKETS.len()], chunk, input.chunk()),
        };
        if !key.is_empty() {
            txn.bucket(bucket).expect("every bucket is there").put(key, value).expect("a short key");
        }
    }
    txn.commit().expect("a disk without faults");
    let txn = db.begin_read();
    read_facts(&txn);
    let _ = schema::read_auth_enabled(&txn);
    write_again(&txn);
    if let Some((main, sub, tombstone)) = RevisionKey::parse(data) {
        assert_eq!(&*RevisionKey::new(main, sub, tombstone), data);
    }
}

/// Writes what can be read into another file and compares what is read there.
fn write_again(txn: &ReadTxn) {
    let mut values: Vec<Value> = Vec::new();
    let conf_state = schema::read_conf_state(txn);
    values.extend(conf_state.as_ref().ok().and_then(Option::as_ref).map(schema::conf_state));
    let leases = schema::read_leases(txn).map(|leases| {
        // One of each id, in the order that their keys have.
        let by_key = leases.into_iter().map(|lease| (schema::lease_key(lease.id), lease));
        by_key.collect::<std::collections::BTreeMap<_, _>>().into_values().collect::<Vec<_>>()
    });
    values.extend(leases.iter().flatten().map(schema::lease));
    let membership = schema::read_membership(txn);
    for member in membership.iter().flat_map(|membership| &membership.members) {
        assert_eq!(member_from_json(member_json(member).as_bytes()).as_ref(), Some(member));
    }
    if let Ok(membership) = &membership {
        serde_json::from_slice::<serde::de::IgnoredAny>(&membership.to_snapshot_data()).expect("a tree in JSON");
    }
    let auth = schema::read_auth(txn);
    if let Ok(auth) = &auth {
        values.extend([schema::auth_enabled(auth.enabled), schema::auth_revision(auth.revision)]);
    }

    let disk = disk_with(None);
    let db = open(&disk).expect("a new file");
    let mut txn = db.begin_write().expect("a new file");
    schema::create(&mut txn).expect("a new file");
    values.iter().for_each(|value| value.put(&mut txn).expect("a value of the schema"));
    txn.commit().expect("a disk without faults");
    let txn = db.begin_read();
    if let Ok(conf_state) = conf_state {
        assert_eq!(schema::read_conf_state(&txn).expect("a configuration of ours"), conf_state);
    }
    if let Ok(leases) = leases {
        assert_eq!(schema::read_leases(&txn).expect("leases of ours"), leases);
    }
    if let Ok(auth) = auth {
        let again = schema::read_auth(&txn).expect("auth of ours");
        assert_eq!((again.enabled, again.revision), (auth.enabled, auth.revision));
    }
}
