//! What fills a database: Space ≈ objects × average size × uncompacted revisions, for each prefix, or kind of
//! Kubernetes object, with the three factors of it.

mod kubernetes;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use forebay_proto::mvccpb::KeyValue;
use forebay_storage::{
    db::{Db, ReadTxn},
    schema::{self, KEY, RevisionKey},
};
use prost::Message as _;
use serde::Serialize;

use crate::{
    Error, Result, hashkv,
    prefixes::{prefix, readable},
    table,
};

/// How keys are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By their first names between slashes.
    Prefix {
        /// How many names.
        depth: usize,
    },
    /// By what their values say they are.
    Kind,
    /// By kind, and the namespace that they say they are in.
    Namespace,
}

/// What is known of one key: all that is kept in memory.
#[derive(Clone, Debug, Default)]
struct Key {
    versions: u64,
    /// Of the records of all versions, each with its revision, as they stand in the file.
    bytes: u64,
    /// Versions since the last deletion, which is the first of them.
    versions_since_deleted: u64,
    /// Of the values of these alone.
    value_bytes_since_deleted: u64,
    /// Versions after the last compaction.
    recent: u64,
    is_live: bool,
    /// The number of its kind, of its newest value.
    kind: Option<usize>,
}

/// What stands in a file.
#[derive(Debug)]
pub struct Space {
    keys: BTreeMap<Vec<u8>, Key>,
    /// Each is a kind and a namespace.
    kinds: Vec<(String, String)>,
    /// The bytes of the database.
    size: u64,
    /// Those of them in pages that are in use.
    in_use: u64,
    revision: i64,
    compacted: i64,
}

/// A row of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The prefix, or the kind.
    pub name: String,
    /// Keys, deleted ones of which versions are left included.
    pub objects: u64,
    /// Of these, the ones that are not deleted.
    pub live: u64,
    /// Versions of all of them.
    pub versions: u64,
    /// The bytes of these versions: `objects` × average size × versions for each object.
    pub bytes: u64,
    /// Versions that were written after the last compaction.
    pub recent: u64,
    /// The key with the most bytes.
    pub top_key: String,
    #[serde(skip)]
    top_bytes: u64,
}

impl Space {
    /// Reads through a file. Takes memory for each key of which a version is left, and for no value.
    pub fn read(db: &Db, path: &Path, under: &[u8]) -> Result<Self> {
        let txn = db.begin_read();
        let (scheduled, finished) = schema::read_compactions(&txn).map_err(Error::schema(path))?;
        let compacted = scheduled.max(finished).unwrap_or(0);
        let mut space = Self {
            keys: BTreeMap::new(),
            kinds: Vec::new(),
            size: db.size(),
            in_use: db.size_in_use(),
            revision: hashkv::last_revision(&txn)?,
            compacted,
        };
        space.count(&txn, path, under)?;
        Ok(space)
    }

    fn count(&mut self, txn: &ReadTxn, path: &Path, under: &[u8]) -> Result<()> {
        let Some(bucket) = txn.bucket(KEY)? else { return Ok(()) };
        let mut kinds: HashMap<(String, String), usize> = HashMap::new();
        let mut wrong = None;
        bucket.for_each(|key, value| {
            // What a restore with a bumped revision leaves.
            if value.is_empty() {
                return;
            }
            let (Some((main, _, tombstone)), Ok(record)) = (RevisionKey::parse(key), KeyValue::decode(value)) else {
                wrong = wrong.take().or_else(|| Some(key.escape_ascii().to_string()));
                return;
            };
            if !record.key.starts_with(under) {
                return;
            }
            let facts = match self.keys.get_mut(&record.key[..]) {
                Some(facts) => facts,
                None => self.keys.entry(record.key.to_vec()).or_default(),
            };
            facts.versions += 1;
            facts.bytes += (key.len() + value.len()) as u64;
            if tombstone {
                (facts.versions_since_deleted, facts.value_bytes_since_deleted) = (0, 0);
            }
            facts.versions_since_deleted += 1;
            facts.value_bytes_since_deleted += record.value.len() as u64;
            facts.recent += u64::from(main > self.compacted);
            facts.is_live = !tombstone;
            if let Some(kind) = kubernetes::kind(&record.value) {
                let next = kinds.len();
                facts.kind = Some(*kinds.entry(kind).or_insert(next));
            }
        })?;
        if let Some(key) = wrong {
            return Err(Error::refused(format!("{}: bucket key, key {key}: expected a version", path.display())));
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_unstable_by_key(|(_, number)| *number);
        self.kinds = kinds.into_iter().map(|(kind, _)| kind).collect();
        Ok(())
    }

    /// The rows, most bytes first.
    #[must_use]
    pub fn rows(&self, by: By) -> Vec<Row> {
        let mut rows: HashMap<String, Row> = HashMap::new();
        for (key, facts) in &self.keys {
            let name = self.name(key, facts, by);
            let row = rows.entry(name.clone()).or_insert_with(|| Row { name, ..Row::default() });
            row.objects += 1;
            row.live += u64::from(facts.is_live);
            row.versions += facts.versions;
            row.bytes += facts.bytes;
            row.recent += facts.recent;
            if facts.bytes > row.top_bytes {
                (row.top_bytes, row.top_key) = (facts.bytes, readable(key));
            }
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.sort_unstable_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.name.cmp(&other.name)));
        rows
    }

    fn name(&self, key: &[u8], facts: &Key, by: By) -> String {
        let kind = facts.kind.map(|kind| &self.kinds[kind]);
        match (by, kind) {
            (By::Prefix { depth }, _) => readable(prefix(key, depth)),
            (_, None) => "(no Kubernetes object)".to_owned(),
            (By::Kind, Some((kind, _))) => kind.clone(),
            (By::Namespace, Some((kind, namespace))) if namespace.is_empty() => kind.clone(),
            (By::Namespace, Some((kind, namespace))) => format!("{kind} in {namespace}"),
        }
    }

    /// The rows as a table, and what the rest of the file is.
    #[must_use]
    pub fn table(&self, by: By) -> String {
        let rows = self.rows(by);
        let recent: u64 = rows.iter().map(|row| row.recent).sum();
        let bytes: u64 = rows.iter().map(|row| row.bytes).sum();
        let cells: Vec<Vec<String>> = (rows.iter())
            .map(|row| {
                vec![
                    row.name.clone(),
                    row.objects.to_string(),
                    row.live.to_string(),
                    humane(row.bytes / row.versions.max(1)),
                    format!("{:.1}", row.versions as f64 / row.objects.max(1) as f64),
                    humane(row.bytes),
                    percent(row.bytes, self.in_use),
                    percent(row.recent, recent),
                    row.top_key.clone(),
                ]
            })
            .collect();
        let head = match by {
            By::Prefix { .. } => "PREFIX",
            By::Kind | By::Namespace => "KIND",
        };
        let head = [head, "OBJECTS", "LIVE", "AVG SIZE", "REVISIONS", "SPACE", "%DB", "CHURN", "TOP KEY"];
        table::columns(&head, &cells)
            + &format!(
                "\nversions {}, pages around them and other buckets {}, free {}: db {}; revision {}, compacted at {}\n",
                humane(bytes),
                humane(self.in_use.saturating_sub(bytes)),
                humane(self.size - self.in_use),
                humane(self.size),
                self.revision,
                self.compacted
            )
    }

    /// All of it as JSON.
    #[must_use]
    pub fn json(&self, by: By) -> String {
        let answer = serde_json::json!({
            "dbSize": self.size,
            "dbSizeInUse": self.in_use,
            "revision": self.revision,
            "compactRevision": self.compacted,
            "rows": self.rows(by),
        });
        format!("{answer}\n")
    }

    /// A line for each key: bytes of all its values, number of its versions, and itself; what
    /// `auger extract --fields all-versions-value-size,version-count,key` prints. As there, a key that was deleted begins
    /// anew with the deletion.
    #[must_use]
    pub fn auger(&self) -> String {
        let line = |(key, facts): (&Vec<u8>, &Key)| {
            let key = String::from_utf8_lossy(key);
            format!("{} {} {key}\n", facts.value_bytes_since_deleted, facts.versions_since_deleted)
        };
        self.keys.iter().map(line).collect()
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}%", part as f64 * 100.0 / whole.max(1) as f64)
}

/// Bytes with the unit that leaves few digits.
fn humane(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10).min(4) as usize;
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{:.1}{}", bytes as f64 / 1024f64.powi(unit as i32), UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_storage::{
        db::{Db, Options},
        schema::Value,
    };

    use super::*;
    use crate::files;

    /// Each is a key, the size of a value, and how many versions of it there are; 0 bytes delete.
    fn file(writes: &[(&str, usize, usize)]) -> (tempfile::TempDir, Db, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let db = Db::open(&path, Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        schema::create(&mut txn).unwrap();
        let mut revision = 1;
        for (key, size, count) in writes {
            for _ in 0..*count {
                revision += 1;
                let record = KeyValue {
                    key: key.as_bytes().to_vec().into(),
                    value: vec![b'x'; *size].into(),
                    ..Default::default()
                };
                let at = RevisionKey::new(revision, 0, *size == 0);
                Value { bucket: KEY, key: at.to_vec(), value: record.encode_to_vec() }.put(&mut txn).unwrap();
            }
        }
        schema::finished_compaction(5).put(&mut txn).unwrap();
        txn.commit().unwrap();
        drop(db);
        let db = files::open_read_only(&path, Duration::from_secs(1)).unwrap();
        (dir, db, path)
    }

    #[test]
    fn space_is_put_down_to_prefixes_with_its_factors() {
        let (_dir, db, path) = file(&[("/a/x", 1000, 4), ("/a/y", 10, 1), ("/b/z", 50, 1), ("/b/z", 0, 1)]);
        let space = Space::read(&db, &path, b"").unwrap();
        let rows = space.rows(By::Prefix { depth: 1 });
        let facts: Vec<_> =
            rows.iter().map(|row| (&row.name[..], row.objects, row.live, row.versions, row.recent)).collect();
        assert_eq!(facts, [("/a/", 2, 2, 5, 1), ("/b/", 1, 0, 2, 2)]);
        assert_eq!(rows[0].top_key, "/a/x");
        // Revision, then the record: 6 bytes of key, 3 of lengths and tags or more, the value.
        assert_eq!(rows[0].bytes, 4 * (17 + 6 + 3 + 1000) + 17 + 6 + 2 + 10);
        assert_eq!(space.auger(), "4000 4 /a/x\n10 1 /a/y\n0 1 /b/z\n");
        assert!(space.table(By::Prefix { depth: 1 }).starts_with("PREFIX  OBJECTS  LIVE  AVG SIZE  REVISIONS"));
        let json: serde_json::Value = serde_json::from_str(&space.json(By::Kind)).unwrap();
        assert_eq!(json["rows"][0]["name"], "(no Kubernetes object)");
        assert_eq!((json["revision"].as_i64(), json["compactRevision"].as_i64()), (Some(8), Some(5)));
        let under = Space::read(&db, &path, b"/b/").unwrap();
        assert_eq!(under.auger(), "0 1 /b/z\n");
    }
}
