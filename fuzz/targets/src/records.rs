//! The versions of keys in a db file.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use forebay_keyspace::{
    CompactStep, Form, Restore, Revision, Version,
    eval::{self, Response as _},
};
use forebay_proto::{
    etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
    mvccpb::KeyValue,
};
use forebay_storage::schema::RevisionKey;
use prost::Message as _;

use crate::input::Input;

/// Entries of bucket `key` are restored or refused, and a store that was restored holds what they say.
///
/// Input: whether anything was compacted and a byte that says where, then entries, each a byte that begins with its
/// form: 0 has a chunk for a key and a chunk for a record, 1 has bytes for the main and sub revision, whether it is a
/// tombstone and a chunk for a record, and the others have such bytes and bytes for the key, the revision of its
/// creation and its version, and a chunk for its value.
pub fn key_records(data: &[u8]) {
    let mut input = Input::new(data);
    let compacted = input.flag().then(|| i64::from(input.byte()));
    let mut restore = Restore::new(compacted);
    let mut live: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
    let mut deleted: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    let mut last = 0;
    while !input.is_empty() {
        let Some((revision, tombstone, record)) = entry(&mut input) else { continue };
        let version = Version::restore(revision, tombstone, &record);
        if let Ok(version) = &version
            && deleted.get(version.key()) == Some(&revision.main)
            && !tombstone
        {
            // No txn puts what it deleted, and compaction counts on that: a restore does not look for it.
            return;
        }
        if let Ok(version) = &version {
            check(version, revision, tombstone, &record);
        }
        if restore.record(revision, tombstone, &record).is_err() {
            // A file that is refused is refused as a whole.
            return;
        }
        last = last.max(revision.main);
        if let Ok(version) = version {
            let record = KeyValue::decode(version.record()).expect("it was checked");
            if tombstone {
                live.remove(&record.key);
                deleted.insert(record.key.to_vec(), revision.main);
            } else {
                live.insert(record.key.clone(), record);
            }
        }
    }
    let mut keyspace = restore.finish(compacted.unwrap_or(0));
    assert_eq!(keyspace.revision(), last.max(compacted.unwrap_or(0)).max(1));
    let all = || Bytes::from_static(b"\0");
    let everything = RangeRequest { key: all(), range_end: all(), ..Default::default() };
    let expected: Vec<KeyValue> = live.into_values().collect();
    assert_eq!(ranged(&keyspace, &everything).map(|response| response.kvs), Ok(expected.clone()));
    for revision in keyspace.revision().saturating_sub(3)..=keyspace.revision() {
        let _ = ranged(&keyspace, &RangeRequest { revision, count_only: true, ..everything.clone() });
        let _ = keyspace.reader().hash(revision);
    }
    let _ = keyspace.reader().history(0, usize::MAX);

    // It goes on: with a write, and with a compaction at it.
    if keyspace.revision() == i64::MAX {
        return;
    }
    let mut txn = keyspace.write();
    txn.put(b"key", b"value", 0);
    let revision = txn.end();
    keyspace.publish();
    drop(keyspace.compact(revision));
    keyspace.publish();
    while !matches!(keyspace.compact_step(100), CompactStep::Idle) {}
    let after = ranged(&keyspace, &everything).expect("the current revision is there").kvs;
    let others = |kvs: Vec<KeyValue>| kvs.into_iter().filter(|kv| kv.key != "key").collect::<Vec<_>>();
    assert_eq!(others(after), others(expected));
}

fn entry(input: &mut Input<'_>) -> Option<(Revision, bool, Vec<u8>)> {
    match input.byte() {
        0 => {
            let key = input.chunk();
            let record = input.chunk();
            let (revision, tombstone) = Revision::from_bytes(key)?;
            assert_eq!(RevisionKey::parse(key), Some((revision.main, revision.sub, tombstone)));
            assert_eq!(&*RevisionKey::new(revision.main, revision.sub, tombstone), key);
            assert!(key.starts_with(&revision.to_bytes()));
            Some((revision, tombstone, record.to_vec()))
        }
        form => {
            let revision = Revision { main: input.byte().into(), sub: input.byte().into() };
            let tombstone = input.flag();
            if form == 1 {
                return Some((revision, tombstone, input.chunk().to_vec()));
            }
            let key = Bytes::from(vec![b'a' + input.byte() % 4]);
            let (create_revision, version) = (input.byte().into(), input.byte().into());
            let value = Bytes::copy_from_slice(input.chunk());
            let record = match tombstone {
                true => KeyValue { key, ..Default::default() },
                false => KeyValue { key, create_revision, mod_revision: revision.main, version, value, lease: 0 },
            };
            Some((revision, tombstone, record.encode_to_vec()))
        }
    }
}

/// What a version says is what its record says.
fn check(version: &Version, revision: Revision, tombstone: bool, record: &[u8]) {
    let kv = KeyValue::decode(record).expect("what was restored is a message");
    assert_eq!((version.revision(), version.is_tombstone(), version.record()), (revision, tombstone, record));
    assert_eq!((version.key(), version.value(), version.lease()), (&kv.key[..], &kv.value[..], kv.lease));
    assert_eq!((version.create_revision(), version.version()), (kv.create_revision, kv.version));
    let mut full = Vec::new();
    version.write(Form::Full, &mut full);
    assert_eq!(full, record);
    assert_eq!(full, kv.encode_to_vec(), "there is one encoding");
    for (form, expected) in [
        (Form::WithoutValue, KeyValue { value: Bytes::new(), ..kv.clone() }),
        (Form::KeyOnly, KeyValue { value: Bytes::new(), lease: 0, ..kv }),
    ] {
        let mut written = Vec::new();
        version.write(form, &mut written);
        assert_eq!(written, expected.encode_to_vec());
        assert_eq!(written.len(), version.len(form));
    }
}

fn ranged(
    keyspace: &forebay_keyspace::Keyspace,
    request: &RangeRequest,
) -> Result<RangeResponse, forebay_proto::Error> {
    let result = keyspace.reader().evaluate(|snapshot| eval::range(snapshot, request))?;
    let mut out = BytesMut::new();
    result.encode(&ResponseHeader::default(), &mut out);
    Ok(RangeResponse::decode(out.freeze()).expect("a response is a message"))
}
