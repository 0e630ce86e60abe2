//! What etcd keeps in the db file: ten buckets and the encoding of their values.
//!
//! Writers get a [`Value`], which says where bytes go; readers get typed facts of a read transaction.

mod auth;
mod status;

use std::fmt::Write as _;

use bytes::Bytes;
use forebay_proto::{etcdserverpb::AlarmMember, leasepb, raftpb::ConfState};
use prost::Message as _;

use crate::{
    db::{self, ReadTxn, WriteTxn},
    snap::{MemberRecord, Membership, member_from_json, member_json},
};

pub use auth::{Auth, auth_enabled, auth_revision, read_auth, read_auth_revision, role, user};
pub use status::{Status, read_status};

/// Versions of keys by revision.
pub const KEY: &[u8] = b"key";
/// Facts about the file itself.
pub const META: &[u8] = b"meta";
/// Leases by id.
pub const LEASE: &[u8] = b"lease";
/// Raised alarms.
pub const ALARM: &[u8] = b"alarm";
/// Whether auth is on, and its revision.
pub const AUTH: &[u8] = b"auth";
/// Users by name.
pub const AUTH_USERS: &[u8] = b"authUsers";
/// Roles by name.
pub const AUTH_ROLES: &[u8] = b"authRoles";
/// Members by id.
pub const MEMBERS: &[u8] = b"members";
/// Ids that were members once.
pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
/// The cluster version and downgrades.
pub const CLUSTER: &[u8] = b"cluster";

/// All buckets of a file. They exist from the first start.
pub const BUCKETS: [&[u8]; 10] =
    [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];

const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const TERM: &[u8] = b"term";
const CONF_STATE: &[u8] = b"confState";
const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
/// The key of [`storage_version`] in bucket [`META`].
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// Ours; etcd keeps it and does not look at it.
const LAST_WRITTEN: &[u8] = b"forebayLastWritten";
const DOWNGRADE: &[u8] = b"downgrade";
const AUTH_ENABLED: &[u8] = b"authEnabled";
const AUTH_REVISION: &[u8] = b"authRevision";

/// Bytes and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bucket.
    pub bucket: &'static [u8],
    /// The key in it.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Value {
    fn new(bucket: &'static [u8], key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Value {
        Value { bucket, key: key.into(), value: value.into() }
    }

    /// Writes it.
    pub fn put(&self, txn: &mut WriteTxn<'_>) -> db::Result<()> {
        txn.bucket(self.bucket)?.put(&self.key, &self.value)
    }
}

/// A fact of the file that is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself cannot be read.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// A value has another form than etcd gives it.
    #[error("bucket {bucket}, key {key}: expected {expected}")]
    Malformed {
        /// The bucket.
        bucket: String,
        /// The key in it.
        key: String,
        /// What the value should be.
        expected: &'static str,
    },
    /// What was written last is not there.
    #[error("revision {written} was written to it, but it ends at {last}: the disk lost a write")]
    Lost {
        /// The revision that was written.
        written: i64,
        /// The last one that there is.
        last: i64,
    },
}

fn malformed(bucket: &[u8], key: &[u8], expected: &'static str) -> Error {
    Error::Malformed { bucket: bucket.escape_ascii().to_string(), key: key.escape_ascii().to_string(), expected }
}

/// Makes what every file has from the first start, where it is missing.
pub fn create(txn: &mut WriteTxn<'_>) -> db::Result<()> {
    for bucket in BUCKETS {
        txn.create_bucket_if_missing(bucket)?;
    }
    if txn.bucket(AUTH)?.get(AUTH_REVISION)?.is_none() {
        Value::new(AUTH, AUTH_REVISION, 1u64.to_be_bytes()).put(txn)?;
    }
    Ok(())
}

/// A bucket that a file has lost. Every release since 3.4 makes all of them at its first start, before anything is put into
/// these; so a file that holds something, and not all buckets, is damaged. etcd 3.7 makes anew what is missing, and goes
/// on without keys, or without auth, as if there had never been any.
pub fn lost_bucket(txn: &ReadTxn) -> Result<Option<&'static [u8]>, Error> {
    let is_present = |name| txn.bucket(name).map(|bucket| bucket.is_some());
    let holds_something = |name| match txn.bucket(name)? {
        Some(bucket) => bucket.cursor().next_entry().map(|entry| entry.is_some()),
        None => Ok(false),
    };
    let mut is_used = read_applied(txn)?.0 > 0;
    for name in BUCKETS.into_iter().filter(|name| ![META, AUTH].contains(name)) {
        is_used = is_used || holds_something(name)?;
    }
    for name in BUCKETS.into_iter().filter(|_| is_used) {
        if !is_present(name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The key of a version in bucket [`KEY`]: both numbers big-endian with `_` between, and `t` behind
/// those of a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionKey {
    bytes: [u8; 18],
    len: usize,
}

impl RevisionKey {
    /// The key of a revision.
    pub fn new(main: i64, sub: i64, tombstone: bool) -> RevisionKey {
        let mut bytes = [b'_'; 18];
        bytes[..8].copy_from_slice(&main.to_be_bytes());
        bytes[9..17].copy_from_slice(&sub.to_be_bytes());
        bytes[17] = b't';
        RevisionKey { bytes, len: if tombstone { 18 } else { 17 } }
    }

    /// Main and sub revision of a key, and whether it is a tombstone's.
    pub fn parse(key: &[u8]) -> Option<(i64, i64, bool)> {
        let tombstone = match key.get(17..)? {
            [] => false,
            [b't'] => true,
            _ => return None,
        };
        let number = |at: usize| key[at..].first_chunk().copied().map(i64::from_be_bytes);
        if key[8] != b'_' {
            return None;
        }
        Some((number(0)?, number(9)?, tombstone))
    }
}

impl std::ops::Deref for RevisionKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The index and term of the last entry whose effect the file holds.
pub fn applied(index: u64, term: u64) -> [Value; 2] {
    [Value::new(META, CONSISTENT_INDEX, index.to_be_bytes()), Value::new(META, TERM, term.to_be_bytes())]
}

/// The largest key that was ever written to bucket [`KEY`].
pub fn last_written(key: &RevisionKey) -> Value {
    Value::new(META, LAST_WRITTEN, &**key)
}

/// The configuration as of that entry, as Go prints it.
pub fn conf_state(conf_state: &ConfState) -> Value {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut json = format!("{{\"voters\":[{}]", list(&conf_state.voters));
    for (name, ids) in [
        ("learners", &conf_state.learners),
        ("voters_outgoing", &conf_state.voters_outgoing),
        ("learners_next", &conf_state.learners_next),
    ] {
        if !ids.is_empty() {
            write!(json, ",\"{name}\":[{}]", list(ids)).expect("a string takes everything");
        }
    }
    write!(json, ",\"auto_leave\":{}}}", conf_state.auto_leave()).expect("a string takes everything");
    Value::new(META, CONF_STATE, json)
}

/// A compaction that was accepted.
pub fn scheduled_compaction(revision: i64) -> Value {
    Value::new(META, SCHEDULED_COMPACTION, &*RevisionKey::new(revision, 0, false))
}

/// A compaction that is done.
pub fn finished_compaction(revision: i64) -> Value {
    Value::new(META, FINISHED_COMPACTION, &*RevisionKey::new(revision, 0, false))
}

/// The version of this schema. It follows the cluster version.
pub fn storage_version(version: &str) -> Value {
    Value::new(META, STORAGE_VERSION, version)
}

/// The cluster version.
pub fn cluster_version(version: &str) -> Value {
    Value::new(CLUSTER, CLUSTER_VERSION, version)
}

/// Whether the cluster is on its way to an older version, and to which, as Go prints it.
pub fn downgrade(target_version: &str, enabled: bool) -> Value {
    // A version has no character that JSON escapes.
    Value::new(CLUSTER, DOWNGRADE, format!("{{\"target-version\":\"{target_version}\",\"enabled\":{enabled}}}"))
}

/// A lease.
pub fn lease(lease: &leasepb::Lease) -> Value {
    Value::new(LEASE, lease_key(lease.id), lease.encode_to_vec())
}

/// The key of a lease.
pub fn lease_key(id: i64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

/// A raised alarm; all of it is in the key.
pub fn alarm(alarm: &AlarmMember) -> Value {
    Value::new(ALARM, alarm.encode_to_vec(), [])
}

/// A member.
pub fn member(member: &MemberRecord) -> Value {
    Value::new(MEMBERS, member_key(member.id), member_json(member))
}

/// The key of a member.
pub fn member_key(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

/// An id that must not come back.
pub fn removed_member(id: u64) -> Value {
    Value::new(MEMBERS_REMOVED, member_key(id), "removed")
}

fn get(txn: &ReadTxn, bucket: &[u8], key: &[u8]) -> Result<Option<Bytes>, Error> {
    Ok(match txn.bucket(bucket)? {
        Some(bucket) => bucket.get(key)?,
        None => None,
    })
}

fn read_u64(txn: &ReadTxn, key: &[u8]) -> Result<Option<u64>, Error> {
    let Some(value) = get(txn, META, key)? else { return Ok(None) };
    let bytes = <[u8; 8]>::try_from(&value[..]).map_err(|_| malformed(META, key, "8 bytes"))?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

/// The index and term of the last entry whose effect the file holds; zeros in a new file.
pub fn read_applied(txn: &ReadTxn) -> Result<(u64, u64), Error> {
    Ok((read_u64(txn, CONSISTENT_INDEX)?.unwrap_or(0), read_u64(txn, TERM)?.unwrap_or(0)))
}

/// The configuration as of that entry. Files of 3.4 have none.
pub fn read_conf_state(txn: &ReadTxn) -> Result<Option<ConfState>, Error> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Json {
        voters: Vec<u64>,
        learners: Vec<u64>,
        voters_outgoing: Vec<u64>,
        learners_next: Vec<u64>,
        auto_leave: bool,
    }
    let Some(value) = get(txn, META, CONF_STATE)? else { return Ok(None) };
    let json: Json =
        serde_json::from_slice(&value).map_err(|_| malformed(META, CONF_STATE, "a raft configuration in JSON"))?;
    Ok(Some(ConfState {
        voters: json.voters,
        learners: json.learners,
        voters_outgoing: json.voters_outgoing,
        learners_next: json.learners_next,
        auto_leave: json.auto_leave.then_some(true),
    }))
}

/// The revisions of the last compaction that was accepted, and of the last that was finished.
pub fn read_compactions(txn: &ReadTxn) -> Result<(Option<i64>, Option<i64>), Error> {
    let read = |key: &[u8]| -> Result<Option<i64>, Error> {
        let Some(value) = get(txn, META, key)? else { return Ok(None) };
        let main = match value.split_first_chunk::<8>() {
            Some((main, rest)) if rest.len() == 9 => Some(i64::from_be_bytes(*main)),
            _ => None,
        };
        // The store goes on above it, so the last number there is cannot be one.
        match main {
            Some(main) if (0..i64::MAX).contains(&main) => Ok(Some(main)),
            _ => Err(malformed(META, key, "a revision of 17 bytes")),
        }
    };
    Ok((read(SCHEDULED_COMPACTION)?, read(FINISHED_COMPACTION)?))
}

/// Fails if what was written last to bucket [`KEY`] is not there, and no compaction removed it. A page that a disk did not
/// write, and reported as written, leaves the file as it was a while ago: every page is sound, and up to its last revision
/// it holds what other members do.
pub fn check_last_written(txn: &ReadTxn) -> Result<(), Error> {
    let Some(value) = get(txn, META, LAST_WRITTEN)? else { return Ok(()) };
    let revision = |key: &[u8]| RevisionKey::parse(key).map(|(main, sub, _)| (main, sub));
    let written = revision(&value).ok_or_else(|| malformed(META, LAST_WRITTEN, "a revision"))?;
    let last = match txn.bucket(KEY)? {
        Some(keys) => keys.last()?.and_then(|(key, _)| revision(&key)),
        None => None,
    };
    let (scheduled, finished) = read_compactions(txn)?;
    if last >= Some(written) || scheduled.max(finished) >= Some(written.0) {
        return Ok(());
    }
    let (main, _) = last.unwrap_or_default();
    Err(Error::Lost { written: written.0, last: main })
}

/// The version of the schema. Files before 3.6 have none.
pub fn read_storage_version(txn: &ReadTxn) -> Result<Option<String>, Error> {
    let Some(value) = get(txn, META, STORAGE_VERSION)? else { return Ok(None) };
    String::from_utf8(value.to_vec()).map(Some).map_err(|_| malformed(META, STORAGE_VERSION, "a version"))
}

/// The version that the cluster is on its way down to, if it is.
pub fn read_downgrade(txn: &ReadTxn) -> Result<Option<String>, Error> {
    #[derive(serde::Deserialize)]
    struct Json {
        #[serde(rename = "target-version", default)]
        target_version: String,
        #[serde(default)]
        enabled: bool,
    }
    let Some(value) = get(txn, CLUSTER, DOWNGRADE)? else { return Ok(None) };
    let json: Json =
        serde_json::from_slice(&value).map_err(|_| malformed(CLUSTER, DOWNGRADE, "a downgrade in JSON"))?;
    Ok(json.enabled.then_some(json.target_version))
}

/// Every lease.
pub fn read_leases(txn: &ReadTxn) -> Result<Vec<leasepb::Lease>, Error> {
    values(txn, LEASE, "a lease", |_, value| leasepb::Lease::decode(value).ok())
}

/// Every raised alarm.
pub fn read_alarms(txn: &ReadTxn) -> Result<Vec<AlarmMember>, Error> {
    values(txn, ALARM, "an alarm", |key, _| AlarmMember::decode(key).ok())
}

/// Whether auth is on.
pub fn read_auth_enabled(txn: &ReadTxn) -> Result<bool, Error> {
    Ok(get(txn, AUTH, AUTH_ENABLED)?.is_some_and(|value| value[..] == [1]))
}

/// Who is, and who was, a member.
pub fn read_membership(txn: &ReadTxn) -> Result<Membership, Error> {
    let members = values(txn, MEMBERS, "a member in JSON", |_, value| member_from_json(value))?;
    let removed = values(txn, MEMBERS_REMOVED, "a member id in hex", |key, _| {
        u64::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()
    })?;
    let version = get(txn, CLUSTER, CLUSTER_VERSION)?;
    let cluster_version = version
        .map(|value| String::from_utf8(value.to_vec()).map_err(|_| malformed(CLUSTER, CLUSTER_VERSION, "a version")))
        .transpose()?;
    Ok(Membership { members, removed, cluster_version })
}

fn values<T>(
    txn: &ReadTxn,
    name: &'static [u8],
    expected: &'static str,
    read: impl Fn(&[u8], &[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    let mut wrong = None;
    if let Some(bucket) = txn.bucket(name)? {
        bucket.for_each(|key, value| match read(key, value) {
            Some(fact) => all.push(fact),
            None => wrong = wrong.take().or_else(|| Some(key.to_vec())),
        })?;
    }
    match wrong {
        Some(key) => Err(malformed(name, &key, expected)),
        None => Ok(all),
    }
}

/// The hash that Maintenance.Hash answers: every bucket with its name and content, but for what
/// members that hold the same may differ in.
pub fn hash(txn: &ReadTxn) -> db::Result<u32> {
    const MAY_DIFFER: [&[u8]; 4] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION, LAST_WRITTEN];
    hash_with(txn, |bucket, key| bucket == META && MAY_DIFFER.contains(&key))
}

/// The hash that `etcd-dump-db hash` prints: as [`hash`], but it knows of nothing that is ours.
pub fn hash_as_dumped(txn: &ReadTxn) -> db::Result<u32> {
    const MAY_DIFFER: [&[u8]; 3] = [CONSISTENT_INDEX, TERM, STORAGE_VERSION];
    hash_with(txn, |bucket, key| bucket == META && MAY_DIFFER.contains(&key))
}

/// The hash that `etcdutl snapshot status` prints: every bucket with its name and content.
pub fn snapshot_hash(txn: &ReadTxn) -> db::Result<u32> {
    hash_with(txn, |_, _| false)
}

fn hash_with(txn: &ReadTxn, left_out: impl Fn(&[u8], &[u8]) -> bool) -> db::Result<u32> {
    let mut hash = 0;
    for name in txn.buckets()? {
        hash = crc32c::crc32c_append(hash, &name);
        let Some(bucket) = txn.bucket(&name)? else { continue };
        bucket.for_each(|key, value| {
            if !left_out(&name, key) {
                hash = crc32c::crc32c_append(hash, key);
                hash = crc32c::crc32c_append(hash, value);
            }
        })?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Db, Options};

    fn scratch() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path().join("db"), Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        create(&mut txn).unwrap();
        txn.commit().unwrap();
        (dir, db)
    }

    #[test]
    fn a_new_file_has_every_bucket_and_nothing_applied() {
        let (_dir, db) = scratch();
        let txn = db.begin_read();
        assert_eq!(txn.buckets().unwrap(), BUCKETS.map(<[u8]>::to_vec));
        assert_eq!(read_applied(&txn).unwrap(), (0, 0));
        assert_eq!(read_compactions(&txn).unwrap(), (None, None));
        assert_eq!(read_conf_state(&txn).unwrap(), None);
        assert!(!read_auth_enabled(&txn).unwrap());
        assert_eq!(read_membership(&txn).unwrap(), Membership::default());
    }

    #[test]
    fn k13_keys_that_were_written_last_and_are_gone_are_missed() {
        let (_dir, db) = scratch();
        let change = |change: &dyn Fn(&mut WriteTxn<'_>)| {
            let mut txn = db.begin_write().unwrap();
            change(&mut txn);
            txn.commit().unwrap();
            check_last_written(&db.begin_read())
        };
        let keys = [(5, 0), (6, 0), (6, 1)].map(|(main, sub)| RevisionKey::new(main, sub, sub == 1));
        let all = change(&|txn| {
            keys.iter().for_each(|key| txn.bucket(KEY).unwrap().put(key, b"").unwrap());
            last_written(&keys[2]).put(txn).unwrap();
        });
        assert!(all.is_ok(), "{all:?}");
        let without = |count: usize| {
            change(&move |txn| {
                let mut bucket = txn.bucket(KEY).unwrap();
                keys[keys.len() - count..].iter().for_each(|key| _ = bucket.delete(key).unwrap());
            })
        };
        assert!(matches!(without(1), Err(Error::Lost { written: 6, last: 6 })));
        assert!(matches!(without(2), Err(Error::Lost { written: 6, last: 5 })));
        assert!(matches!(without(3), Err(Error::Lost { written: 6, last: 0 })));
        assert!(matches!(change(&|txn| assert!(txn.delete_bucket(KEY).unwrap())), Err(Error::Lost { .. })));
        // What a compaction removed is not missed, nor what came later.
        assert!(change(&|txn| scheduled_compaction(6).put(txn).unwrap()).is_ok());
        let later = RevisionKey::new(7, 0, false);
        assert!(
            change(&|txn| {
                scheduled_compaction(5).put(txn).unwrap();
                create(txn).unwrap();
                txn.bucket(KEY).unwrap().put(&later, b"").unwrap();
            })
            .is_ok()
        );
    }

    #[test]
    fn what_is_put_is_read() {
        let (_dir, db) = scratch();
        let conf = ConfState { voters: vec![3, u64::MAX], learners: vec![7], ..Default::default() };
        let grant = leasepb::Lease { id: -5, ttl: 60, remaining_ttl: 0 };
        let raised = AlarmMember { member_id: 3, alarm: 1 };
        let record = MemberRecord {
            id: 0x8e9e_05c5_2164_694d,
            name: "a \"name\"".into(),
            peer_urls: vec!["http://localhost:2380".into()],
            client_urls: vec![],
            is_learner: true,
        };
        let mut txn = db.begin_write().unwrap();
        let values = [
            conf_state(&conf),
            scheduled_compaction(9),
            finished_compaction(7),
            cluster_version("3.7.0"),
            storage_version("3.6.0"),
            downgrade("3.6.0", true),
            lease(&grant),
            alarm(&raised),
            member(&record),
            removed_member(0xab),
        ];
        for value in values.iter().chain(&applied(77, 3)) {
            value.put(&mut txn).unwrap();
        }
        txn.commit().unwrap();
        let txn = db.begin_read();
        assert_eq!(read_applied(&txn).unwrap(), (77, 3));
        assert_eq!(read_conf_state(&txn).unwrap(), Some(conf));
        assert_eq!(read_compactions(&txn).unwrap(), (Some(9), Some(7)));
        assert_eq!(read_storage_version(&txn).unwrap().as_deref(), Some("3.6.0"));
        assert_eq!(read_downgrade(&txn).unwrap().as_deref(), Some("3.6.0"));
        assert_eq!(read_leases(&txn).unwrap(), [grant]);
        assert_eq!(read_alarms(&txn).unwrap(), [raised]);
        let membership = read_membership(&txn).unwrap();
        assert_eq!(membership.members, [record]);
        assert_eq!(membership.removed, [0xab]);
        assert_eq!(membership.cluster_version.as_deref(), Some("3.7.0"));
    }

    #[test]
    fn revision_keys_read_back_and_nothing_else_does() {
        for (main, sub, tombstone) in [(1, 0, false), (i64::MAX, 7, true)] {
            assert_eq!(RevisionKey::parse(&RevisionKey::new(main, sub, tombstone)), Some((main, sub, tombstone)));
        }
        for key in [&b""[..], b"12345678_1234567", b"12345678_12345678x", b"12345678-12345678", b"12345678_12345678tt"]
        {
            assert_eq!(RevisionKey::parse(key), None, "{key:?}");
        }
    }

    #[test]
    fn configurations_are_printed_as_go_does() {
        let json = |conf: ConfState| String::from_utf8(conf_state(&conf).value).unwrap();
        let one = ConfState { voters: vec![7], ..Default::default() };
        assert_eq!(json(one), r#"{"voters":[7],"auto_leave":false}"#);
        let learner = ConfState { voters: vec![7, 8], learners: vec![9], ..Default::default() };
        assert_eq!(json(learner), r#"{"voters":[7,8],"learners":[9],"auto_leave":false}"#);
    }

    #[test]
    fn a_value_of_another_form_is_named() {
        let (_dir, db) = scratch();
        let mut txn = db.begin_write().unwrap();
        Value::new(META, CONSISTENT_INDEX, [1, 2, 3]).put(&mut txn).unwrap();
        Value::new(MEMBERS, "zz", "{").put(&mut txn).unwrap();
        txn.commit().unwrap();
        let txn = db.begin_read();
        for revision in [-1, i64::MAX] {
            let mut txn = db.begin_write().unwrap();
            scheduled_compaction(revision).put(&mut txn).unwrap();
            txn.commit().unwrap();
            let message = read_compactions(&db.begin_read()).unwrap_err().to_string();
            assert_eq!(message, "bucket meta, key scheduledCompactRev: expected a revision of 17 bytes");
        }
        let message = read_applied(&txn).unwrap_err().to_string();
        assert_eq!(message, "bucket meta, key consistent_index: expected 8 bytes");
        assert!(read_membership(&txn).unwrap_err().to_string().contains("bucket members, key zz"));
    }
}
