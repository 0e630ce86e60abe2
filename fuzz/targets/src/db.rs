//! The db file.

use std::{collections::BTreeMap, io::Read as _, path::Path, sync::Arc};

use forebay_storage::{
    db::{Bucket, Db, Leaves, Options, ReadTxn},
    disk::{Disk as _, sim::SimDisk},
    schema,
};

const PATH: &str = "/db";

/// A file is refused, or can be read to its end, copied, written and rewritten.
///
/// The input is the file; for the sake of what lies behind the checksums of its meta pages, they are set right in a
/// second try.
pub fn db_file(data: &[u8]) {
    read_and_write(data);
    let mut sealed = data.to_vec();
    seal(&mut sealed, 0);
    let page_size = sealed.get(24..28).map_or(0, |size| u32::from_le_bytes(size.try_into().expect("four bytes")));
    seal(&mut sealed, page_size as usize);
    if sealed != data {
        read_and_write(&sealed);
    }
}

/// Gives the meta page at an offset the checksum of what it says.
fn seal(file: &mut [u8], offset: usize) {
    const PAGE_HEADER: usize = 16;
    const SUMMED: usize = 56;
    let Some(page) = file.get_mut(offset..).and_then(|file| file.get_mut(PAGE_HEADER..PAGE_HEADER + SUMMED + 8)) else {
        return;
    };
    let (fields, sum) = page.split_at_mut(SUMMED);
    let fnv = fields
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    sum.copy_from_slice(&fnv.to_le_bytes());
}

/// A bucket: its keys with their values, and its buckets.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    buckets: BTreeMap<Vec<u8>, Content>,
}

pub(crate) fn disk_with(file: Option<&[u8]>) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/")).expect("a disk without faults");
    if let Some(file) = file {
        disk.put(Path::new(PATH), file.to_vec());
    }
    disk
}

pub(crate) fn open(disk: &SimDisk) -> forebay_storage::db::Result<Db> {
    Db::open(PATH, Options { page_size: 1024, growth: 4096, disk: Arc::new(disk.clone()), ..Options::default() })
}

/// What is left of a file is read page by page, as far as it goes; it takes no more memory than the file.
fn salvage(disk: &SimDisk) {
    let Ok(mut leaves) = Leaves::open(disk, Path::new(PATH)) else { return };
    while let Ok(Some(leaf)) = leaves.next_leaf() {
        let Ok(leaf) = leaf else { continue };
        assert_eq!(leaf.entries().count(), leaf.len());
    }
}

fn read_and_write(file: &[u8]) {
    let disk = disk_with(Some(file));
    salvage(&disk);
    let Ok(db) = open(&disk) else { return };
    let mut expected = content(&db);
    read_facts(&db.begin_read());

    let mut copy = Vec::new();
    db.snapshot().read_to_end(&mut copy).expect("a database that opened can be copied");
    let copied = open(&disk_with(Some(&copy))).expect("a copy opens");
    assert_eq!(content(&copied), expected);

    let mut txn = db.begin_write().expect("a database that opened can be written");
    let first = expected.buckets.iter_mut().find(|(_, bucket)| !bucket.values.is_empty());
    if let Some((name, bucket)) = first {
        let (key, _) = bucket.values.pop_first().expect("found above");
        assert!(txn.bucket(name).expect("it is there").delete(&key).expect("it can be changed"));
    }
    let name = b"a new bucket".to_vec();
    let is_taken = expected.values.contains_key(&name);
    if !is_taken {
        let mut bucket = txn.create_bucket_if_missing(&name).expect("a bucket can be made");
        let content = expected.buckets.entry(name).or_default();
        for key in 0..40u8 {
            let value = vec![key; 50];
            if !content.buckets.contains_key(&[key][..]) {
                bucket.put(&[key], &value).expect("it can be put");
                content.values.insert(vec![key], value);
            }
        }
    }
    txn.commit().expect("a database that opened can be committed");
    assert_eq!(content(&db), expected);
    drop(db);
    let db = open(&disk.crash(|| false)).expect("what was committed opens after a power cut");
    assert_eq!(content(&db), expected);
    db.defragment().expect("a database that opened can be rewritten");
    assert_eq!(content(&db), expected);
}

/// Everything in a database, read both in order and by key.
fn content(db: &Db) -> Content {
    read_bucket(&db.begin_read().root())
}

fn read_bucket(bucket: &Bucket<'_>) -> Content {
    const READABLE: &str = "what was checked at open can be read";
    let mut content = Content::default();
    let mut names = Vec::new();
    let mut cursor = bucket.cursor();
    while let Some(entry) = cursor.next_entry().expect(READABLE) {
        if entry.is_bucket {
            names.push(entry.key.to_vec());
        } else {
            content.values.insert(entry.key.to_vec(), entry.value.to_vec());
        }
    }
    for (key, value) in &content.values {
        assert_eq!(bucket.get(key).expect(READABLE).as_deref(), Some(&value[..]));
    }
    let mut backward = bucket.backward();
    for key in content.values.keys().chain(&names).collect::<std::collections::BTreeSet<_>>().into_iter().rev() {
        assert_eq!(backward.next_entry().expect(READABLE).map(|entry| entry.key.to_vec()).as_ref(), Some(key));
    }
    assert_eq!(backward.next_entry().expect(READABLE), None);
    let last = content.values.keys().chain(&names).max();
    assert_eq!(bucket.last().expect(READABLE).map(|(key, _)| key.to_vec()).as_ref(), last);
    for name in names {
        let nested = bucket.bucket(&name).expect(READABLE).expect("the cursor saw it");
        content.buckets.insert(name, read_bucket(&nested));
    }
    content
}

/// Asks for every fact of the schema; a refusal is an answer.
pub(crate) fn read_facts(txn: &ReadTxn) {
    let _ = schema::read_applied(txn);
    let _ = schema::read_compactions(txn);
    let _ = schema::read_storage_version(txn);
    let _ = schema::read_downgrade(txn);
    let _ = schema::read_status(txn);
    let _ = schema::hash(txn);
    let _ = schema::snapshot_hash(txn);
}
