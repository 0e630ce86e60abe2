//! One version of a key: one allocation that serves memory, disk and wire.
//!
//! The bytes of `mvccpb.KeyValue` are what bucket `key` of the db file holds, what the keyspace keeps, and what a
//! response carries. They are encoded once, when a put is applied or a db file is read, in ascending field order with
//! zero values left out, exactly as etcd does; from then on every use is a slice:
//!
//! ```text
//! | 1 key | 2 create_revision | 3 mod_revision | 4 version | 5 value | 6 lease |
//!         '------------------- keys_only ------'           '-value-'
//! ```

use std::fmt;

use bytes::BufMut;
use forebay_proto::mvccpb::KeyValue;
use triomphe::ThinArc;

use crate::varint::{
    bytes_field_len, bytes_tag, int_field_len, message_field_len, put_bytes_field, put_int_field, put_message_head,
    take_varint, varint_len, varint_tag,
};

/// A point in the history of the store: the txn (`main`), and the change within it (`sub`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Counts the txns that changed something.
    pub main: i64,
    /// Counts the changes of one txn from 0.
    pub sub: i64,
}

/// The length of a revision in a db file, without the mark of a tombstone.
pub const REVISION_LEN: usize = 17;

impl Revision {
    /// The key of bucket `key` in a db file: both numbers big-endian with `_` between.
    pub fn to_bytes(self) -> [u8; REVISION_LEN] {
        let mut bytes = [b'_'; REVISION_LEN];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// Reads a key of bucket `key`: the revision, and whether it is marked `t` as a tombstone.
    pub fn from_bytes(bytes: &[u8]) -> Option<(Revision, bool)> {
        let (revision, tombstone) = match bytes.len() {
            REVISION_LEN => (bytes, false),
            18 if bytes[17] == b't' => (&bytes[..REVISION_LEN], true),
            _ => return None,
        };
        let main = i64::from_be_bytes(revision[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(revision[9..].try_into().ok()?);
        (revision[8] == b'_').then_some((Revision { main, sub }, tombstone))
    }
}

/// Why the bytes of a db file are not a version of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not a `KeyValue` in the one encoding that etcd writes.
    #[error("revision {0:?}: the record is not a KeyValue with ascending fields")]
    Malformed(Revision),
    /// The record has no key.
    #[error("revision {0:?}: the record has no key")]
    NoKey(Revision),
    /// A put's own numbers contradict the revision it is filed under.
    #[error("revision {0:?}: the record is of modification {1}, version {2}, created at {3}")]
    Contradicts(Revision, i64, i64, i64),
    /// The record is longer than 4 GiB or its sub revision above 2^32.
    #[error("revision {0:?}: the record is too large")]
    TooLarge(Revision),
    /// The main revision is below 1, or the last that a number can be, which nothing can follow.
    #[error("revision {0:?}: no store is ever there")]
    Impossible(Revision),
    /// The records did not come in ascending order of revision.
    #[error("revision {0:?} comes after revision {1:?}")]
    Unordered(Revision, Revision),
}

/// What evaluation asks of every version it looks at, beside the record itself.
#[derive(Debug)]
struct Header {
    main: i64,
    create_revision: i64,
    version: i64,
    sub: u32,
    key_end: u32,
    key_len: u32,
    value_start: u32,
    value_end: u32,
}

/// One version of a key, a tombstone included. Cheap to clone: one pointer.
#[derive(Clone)]
pub struct Version(ThinArc<Header, u8>);

/// What a put writes.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// When.
    pub revision: Revision,
    /// The main revision that created the key.
    pub create_revision: i64,
    /// How many puts since it was created, this one included.
    pub version: i64,
    /// The lease, or 0.
    pub lease: i64,
    /// The key, not empty.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// How much of a version goes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Everything.
    Full,
    /// Without the value.
    WithoutValue,
    /// Without value and lease: what etcd 3.7 answers `keys_only` from its index with.
    KeyOnly,
}

impl Version {
    /// Encodes a put. `scratch` is any buffer; it is emptied, and kept by the caller so that a put allocates once.
    pub fn put(put: Put<'_>, scratch: &mut Vec<u8>) -> Version {
        assert!(put.version > 0 && !put.key.is_empty(), "a put has a key and a version above zero");
        scratch.clear();
        put_bytes_field(1, put.key, scratch);
        let key_end = scratch.len();
        put_int_field(2, put.create_revision, scratch);
        put_int_field(3, put.revision.main, scratch);
        put_int_field(4, put.version, scratch);
        put_bytes_field(5, put.value, scratch);
        let value_end = scratch.len();
        put_int_field(6, put.lease, scratch);
        let header = Header {
            main: put.revision.main,
            create_revision: put.create_revision,
            version: put.version,
            sub: narrow(put.revision.sub),
            key_end: narrow(key_end),
            key_len: narrow(put.key.len()),
            value_start: narrow(value_end - put.value.len()),
            value_end: narrow(value_end),
        };
        Version(ThinArc::from_header_and_slice(header, scratch))
    }

    /// Encodes the live version that another store told of, filed under `revision`. `None` if no store can hold it: it has
    /// no key, no version, or revisions that contradict each other.
    pub fn of(kv: &KeyValue, revision: Revision, scratch: &mut Vec<u8>) -> Option<Version> {
        let KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
        let (create_revision, version, lease) = (*create_revision, *version, *lease);
        let possible = (1..i64::MAX).contains(mod_revision)
            && *mod_revision == revision.main
            && (1..=revision.main).contains(&create_revision)
            && (1..i64::MAX).contains(&version)
            && !key.is_empty();
        possible.then(|| Version::put(Put { revision, create_revision, version, lease, key, value }, scratch))
    }

    /// Encodes a tombstone.
    pub fn tombstone(revision: Revision, key: &[u8], scratch: &mut Vec<u8>) -> Version {
        assert!(!key.is_empty(), "a tombstone has a key");
        scratch.clear();
        put_bytes_field(1, key, scratch);
        let end = narrow(scratch.len());
        let header = Header {
            main: revision.main,
            create_revision: 0,
            version: 0,
            sub: narrow(revision.sub),
            key_end: end,
            key_len: narrow(key.len()),
            value_start: end,
            value_end: end,
        };
        Version(ThinArc::from_header_and_slice(header, scratch))
    }

    /// Takes over a record of bucket `key`, checking it.
    pub fn restore(revision: Revision, tombstone: bool, record: &[u8]) -> Result<Version, RecordError> {
        let too_large = || RecordError::TooLarge(revision);
        u32::try_from(record.len()).map_err(|_| too_large())?;
        let sub = u32::try_from(revision.sub).map_err(|_| too_large())?;
        let fields = Fields::parse(record).ok_or(RecordError::Malformed(revision))?;
        if fields.key_len == 0 {
            return Err(RecordError::NoKey(revision));
        }
        let mentions = [fields.create_revision, fields.mod_revision, fields.version];
        let agrees = match tombstone {
            true => mentions == [0; 3],
            false => {
                fields.mod_revision == revision.main
                    && fields.version > 0
                    && (1..=revision.main).contains(&fields.create_revision)
            }
        };
        if !agrees {
            let [create_revision, mod_revision, version] = mentions;
            return Err(RecordError::Contradicts(revision, mod_revision, version, create_revision));
        }
        let header = Header {
            main: revision.main,
            create_revision: fields.create_revision,
            version: fields.version,
            sub,
            key_end: narrow(fields.key_end),
            key_len: narrow(fields.key_len),
            value_start: narrow(fields.value_start),
            value_end: narrow(fields.value_end),
        };
        Ok(Version(ThinArc::from_header_and_slice(header, record)))
    }

    /// When it was written; `main` is the `mod_revision`.
    pub fn revision(&self) -> Revision {
        Revision { main: self.mod_revision(), sub: i64::from(self.header().sub) }
    }

    /// The main revision that wrote it.
    pub fn mod_revision(&self) -> i64 {
        self.header().main
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        let header = self.header();
        &self.record()[(header.key_end - header.key_len) as usize..header.key_end as usize]
    }

    /// The value; empty in a tombstone.
    pub fn value(&self) -> &[u8] {
        let header = self.header();
        &self.record()[header.value_start as usize..header.value_end as usize]
    }

    /// The main revision that created the key; 0 in a tombstone.
    pub fn create_revision(&self) -> i64 {
        self.header().create_revision
    }

    /// How many puts since the key was created; 0 in a tombstone.
    pub fn version(&self) -> i64 {
        self.header().version
    }

    /// The lease, or 0.
    pub fn lease(&self) -> i64 {
        // Asked for by compares and by the lessor, once per version: cheaper to read than to keep.
        match self.lease_field() {
            [] => 0,
            [_, varint @ ..] => take_varint(&mut &varint[..]).expect("the record was checked when it was made") as i64,
        }
    }

    /// Whether this version says that the key is gone.
    pub fn is_tombstone(&self) -> bool {
        self.header().version == 0
    }

    /// The encoded `KeyValue`, as bucket `key` holds it.
    pub fn record(&self) -> &[u8] {
        &self.0.slice
    }

    /// The length of the `KeyValue` in this form.
    pub fn len(&self, form: Form) -> usize {
        match form {
            Form::Full => self.record().len(),
            Form::WithoutValue => self.facts().len() + self.lease_field().len(),
            Form::KeyOnly => self.facts().len(),
        }
    }

    /// Writes the `KeyValue` in this form.
    pub fn write(&self, form: Form, out: &mut impl BufMut) {
        match form {
            Form::Full => out.put_slice(self.record()),
            Form::KeyOnly => out.put_slice(self.facts()),
            Form::WithoutValue => {
                out.put_slice(self.facts());
                out.put_slice(self.lease_field());
            }
        }
    }

    /// The length of [`Version::write_field`].
    pub fn field_len(&self, form: Form) -> usize {
        message_field_len(self.len(form))
    }

    /// Writes the `KeyValue` as a field of another message: tag, length, bytes.
    pub fn write_field(&self, field: u8, form: Form, out: &mut impl BufMut) {
        put_message_head(field, self.len(form), out);
        self.write(form, out);
    }

    /// The length of [`Version::write_event_kv`].
    pub fn event_kv_len(&self) -> usize {
        match self.is_tombstone() {
            true => self.record().len() + int_field_len(self.mod_revision()),
            false => self.record().len(),
        }
    }

    /// Writes the `KeyValue` of a watch event: the record; of a deletion the key and when it happened.
    pub fn write_event_kv(&self, out: &mut impl BufMut) {
        out.put_slice(self.record());
        if self.is_tombstone() {
            put_int_field(3, self.mod_revision(), out);
        }
    }

    fn header(&self) -> &Header {
        &self.0.header.header
    }

    /// Key, create_revision, mod_revision and version.
    fn facts(&self) -> &[u8] {
        let header = self.header();
        let value_field = bytes_field_len((header.value_end - header.value_start) as usize);
        &self.record()[..header.value_end as usize - value_field]
    }

    fn lease_field(&self) -> &[u8] {
        &self.record()[self.header().value_end as usize..]
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Revision { main, sub } = self.revision();
        write!(f, "{}@{main}.{sub}", self.key().escape_ascii())?;
        match self.is_tombstone() {
            true => f.write_str(" deleted"),
            false => write!(f, " v{}={}", self.version(), self.value().escape_ascii()),
        }
    }
}

/// Where the fields of an encoded `KeyValue` lie.
struct Fields {
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    key_end: usize,
    key_len: usize,
    value_start: usize,
    value_end: usize,
}

impl Fields {
    /// Parses the canonical encoding: ascending fields, each at most once, zero values left out, shortest varints.
    /// Any other would break the slicing above, and the equality of hashes between members.
    fn parse(record: &[u8]) -> Option<Fields> {
        let mut rest = record;
        let key_len = take_bytes(1, &mut rest)?.len();
        let key_end = record.len() - rest.len();
        let create_revision = take_int(2, &mut rest)?;
        let mod_revision = take_int(3, &mut rest)?;
        let version = take_int(4, &mut rest)?;
        let value_len = take_bytes(5, &mut rest)?.len();
        let value_end = record.len() - rest.len();
        take_int(6, &mut rest)?;
        let value_start = value_end - value_len;
        let fields = Fields { create_revision, mod_revision, version, key_end, key_len, value_start, value_end };
        rest.is_empty().then_some(fields)
    }
}

/// Takes a `bytes` field if it comes next; an absent one is empty.
fn take_bytes<'a>(field: u8, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.first() != Some(&bytes_tag(field)) {
        return Some(&[]);
    }
    let mut after = &rest[1..];
    let before = after.len();
    let len = take_varint(&mut after)?;
    if len == 0 || varint_len(len) != before - after.len() {
        return None;
    }
    let (value, after) = after.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(value)
}

/// Takes an `int64` field if it comes next; an absent one is 0.
fn take_int(field: u8, rest: &mut &[u8]) -> Option<i64> {
    if rest.first() != Some(&varint_tag(field)) {
        return Some(0);
    }
    let mut after = &rest[1..];
    let before = after.len();
    let value = take_varint(&mut after)?;
    if value == 0 || varint_len(value) != before - after.len() {
        return None;
    }
    *rest = after;
    Some(value as i64)
}

/// Offsets and sub revisions are kept in 32 bits. A request is far smaller, so only a broken caller gets here.
fn narrow<N: TryInto<u32>>(number: N) -> u32 {
    number.try_into().ok().expect("a record is smaller than 4 GiB and a txn has fewer than 2^32 changes")
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// What the key became.
    pub version: Version,
    /// The live version it replaced; `None` when the key did not exist, or when that version is compacted.
    pub prev: Option<Version>,
}

/// What one publish made visible: whole main revisions, ascending by (main, sub).
#[derive(Debug)]
pub struct Batch {
    /// Invariant: not empty, ascending by revision.
    pub changes: Box<[Change]>,
    /// How many main revisions that is.
    revisions: u32,
}

fn revisions(changes: &[Change]) -> usize {
    changes.chunk_by(|a, b| a.version.mod_revision() == b.version.mod_revision()).count()
}

impl Batch {
    /// A batch of changes that ascend by revision.
    ///
    /// # Panics
    /// When there are none, or they do not ascend.
    pub fn new(changes: Vec<Change>) -> Batch {
        assert!(!changes.is_empty(), "a batch makes something visible");
        let ascends = changes.is_sorted_by(|a, b| a.version.revision() < b.version.revision());
        assert!(ascends, "the changes of a batch ascend by revision");
        Batch { revisions: narrow(revisions(&changes)), changes: changes.into() }
    }

    /// The first main revision.
    pub fn first(&self) -> i64 {
        self.changes[0].version.mod_revision()
    }

    /// The last main revision.
    pub fn last(&self) -> i64 {
        self.changes[self.changes.len() - 1].version.mod_revision()
    }

    /// How many main revisions `>= from` it has changes of.
    pub fn revisions_since(&self, from: i64) -> usize {
        if from <= self.first() {
            return self.revisions as usize;
        }
        revisions(self.since(from))
    }

    /// The changes at main revisions `>= from`.
    pub fn since(&self, from: i64) -> &[Change] {
        &self.changes[self.changes.partition_point(|change| change.version.mod_revision() < from)..]
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::mvccpb::KeyValue;
    use prost::Message as _;

    use super::*;

    fn samples() -> Vec<Version> {
        let mut scratch = Vec::new();
        let mut samples = Vec::new();
        for (key, value_len, lease) in [(1, 0, 0), (16, 1, 7), (127, 127, -1), (128, 128, i64::MAX), (300, 70_000, 0)] {
            let revision = Revision { main: 5 + lease.unsigned_abs() as i64 % 1000, sub: value_len };
            let (key, value) = (vec![b'k'; key], vec![b'v'; value_len as usize]);
            let put = Put { revision, create_revision: 3, version: 2, lease, key: &key, value: &value };
            samples.push(Version::put(put, &mut scratch));
            samples.push(Version::tombstone(revision, &key, &mut scratch));
        }
        samples
    }

    fn expected(version: &Version) -> KeyValue {
        KeyValue {
            key: version.key().to_vec().into(),
            create_revision: version.create_revision(),
            mod_revision: if version.is_tombstone() { 0 } else { version.mod_revision() },
            version: version.version(),
            value: version.value().to_vec().into(),
            lease: version.lease(),
        }
    }

    #[test]
    fn a_record_is_the_key_value_as_prost_encodes_it() {
        for version in samples() {
            assert_eq!(version.record(), expected(&version).encode_to_vec(), "{:?}", version.revision());
        }
    }

    #[test]
    fn every_form_is_as_long_as_said_and_equals_prost() {
        for version in samples() {
            let full = expected(&version);
            let without_value = KeyValue { value: Default::default(), ..full.clone() };
            let key_only = KeyValue { lease: 0, ..without_value.clone() };
            for (form, want) in
                [(Form::Full, full.clone()), (Form::WithoutValue, without_value), (Form::KeyOnly, key_only)]
            {
                let mut got = Vec::new();
                version.write(form, &mut got);
                assert_eq!(got, want.encode_to_vec(), "{form:?}");
                assert_eq!(got.len(), version.len(form));
                let mut field = Vec::new();
                version.write_field(2, form, &mut field);
                assert_eq!(field.len(), version.field_len(form));
                assert_eq!(&field[field.len() - got.len()..], got);
            }
            let mut event = Vec::new();
            version.write_event_kv(&mut event);
            assert_eq!(event, KeyValue { mod_revision: version.mod_revision(), ..full }.encode_to_vec());
            assert_eq!(event.len(), version.event_kv_len());
        }
    }

    #[test]
    fn a_record_restores_to_itself() {
        for version in samples() {
            let again = Version::restore(version.revision(), version.is_tombstone(), version.record()).unwrap();
            assert_eq!(expected(&again), expected(&version));
            assert_eq!(again.revision(), version.revision());
        }
    }

    #[test]
    fn broken_records_are_refused() {
        let at = Revision { main: 9, sub: 0 };
        let put = Put { revision: at, create_revision: 3, version: 2, lease: 4, key: b"key", value: b"value" };
        let good = Version::put(put, &mut Vec::new());
        for cut in 1..good.record().len() {
            let record = &good.record()[..cut];
            let restored = Version::restore(at, false, record);
            // Cut between two fields it is a KeyValue still, only one with less in it.
            let whole = KeyValue::decode(record).is_ok_and(|kv| kv.version == 2);
            assert_eq!(restored.is_ok(), whole, "{cut}");
        }
        let refused = |tombstone, bytes: &[u8]| Version::restore(at, tombstone, bytes).unwrap_err();
        assert_eq!(refused(false, b""), RecordError::NoKey(at));
        assert_eq!(refused(true, good.record()), RecordError::Contradicts(at, 9, 2, 3));
        assert_eq!(refused(false, b"\x0a\x01k"), RecordError::Contradicts(at, 0, 0, 0));
        assert_eq!(refused(true, b"\x0a\x81\x00k"), RecordError::Malformed(at), "a varint longer than it need be");
        assert_eq!(refused(true, b"\x2a\x01v\x0a\x01k"), RecordError::Malformed(at), "descending fields");
        let elsewhere = Version::restore(Revision { main: 8, sub: 0 }, false, good.record()).unwrap_err();
        assert_eq!(elsewhere, RecordError::Contradicts(Revision { main: 8, sub: 0 }, 9, 2, 3));
    }

    #[test]
    fn a_revision_is_filed_big_endian() {
        let revision = Revision { main: 0x0102, sub: 3 };
        let mut bytes = revision.to_bytes().to_vec();
        assert_eq!(bytes, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        assert_eq!(Revision::from_bytes(&bytes), Some((revision, false)));
        bytes.push(b't');
        assert_eq!(Revision::from_bytes(&bytes), Some((revision, true)));
        bytes[17] = b'x';
        assert_eq!(Revision::from_bytes(&bytes), None);
        assert_eq!(Revision::from_bytes(b"scheduled"), None);
    }
}
