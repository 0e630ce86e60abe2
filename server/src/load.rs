//! Reads the keys of a db file while it is opened, beside the walk that checks it.
//!
//! A member keeps every record in memory. Getting that memory from the system and filling it is most of what a start
//! takes, more than reading the file: so the file is read once, by the walk, and the records are copied out of its pages
//! by as many threads as there are processors. What comes of it does not depend on them.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use forebay_keyspace::{Piece, Revision};
use forebay_storage::db::{self, Leaf};
use parking_lot::Mutex;

use crate::state::Unreadable;

/// The bytes of pages that are handed over at once, or one page if it is larger.
const BATCH_BYTES: usize = 1 << 20;
/// How many batches may wait, so that a file is never held in memory beside its records.
const BATCHES_MAX: usize = 16;

/// The entries of bucket `key`, in pieces that follow each other.
pub(crate) type Loaded = Vec<Piece>;

/// Opens a file by `open`, which shows the leaves of bucket `key` in order.
pub(crate) fn while_opening<T>(
    open: impl FnOnce(&mut dyn FnMut(Leaf)) -> db::Result<T>,
) -> Result<(T, Loaded), Unreadable> {
    let (sender, batches) = sync_channel::<Vec<Leaf>>(BATCHES_MAX);
    let batches = Mutex::new((0, batches));
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let readers: Vec<_> = (0..count).map(|_| scope.spawn(|| read_batches(&batches))).collect();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let opened = open(&mut |leaf| {
            bytes += leaf.bytes();
            batch.push(leaf);
            if bytes >= BATCH_BYTES {
                bytes = 0;
                sender.send(std::mem::take(&mut batch)).expect("invariant: readers take until nothing is sent");
            }
        });
        sender.send(batch).expect("invariant: readers take until nothing is sent");
        drop(sender);
        let read = |reader: thread::ScopedJoinHandle<'_, _>| reader.join().expect("a reader does not panic");
        let mut pieces: Vec<(usize, _)> = readers.into_iter().flat_map(read).collect();
        let opened = opened?;
        pieces.sort_unstable_by_key(|(place, _)| *place);
        let pieces: Result<Loaded, Unreadable> = pieces.into_iter().map(|(_, piece)| piece).collect();
        Ok((opened, pieces?))
    })
}

/// Takes batches, and the place of each among all, until there are no more.
fn read_batches(batches: &Mutex<(usize, Receiver<Vec<Leaf>>)>) -> Vec<(usize, Result<Piece, Unreadable>)> {
    let next = || {
        let (place, batches) = &mut *batches.lock();
        *place += 1;
        batches.recv().ok().map(|batch| (*place, batch))
    };
    std::iter::from_fn(next).map(|(place, batch)| (place, read(&batch))).collect()
}

fn read(leaves: &[Leaf]) -> Result<Piece, Unreadable> {
    let mut piece = Piece::default();
    for (key, record) in leaves.iter().flat_map(Leaf::entries) {
        let (revision, tombstone) =
            Revision::from_bytes(key).ok_or_else(|| Unreadable::Key(key.escape_ascii().to_string()))?;
        piece.record(revision, tombstone, record)?;
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use forebay_keyspace::{Put, Version};
    use forebay_storage::{
        db::{Db, Options},
        schema::{self, RevisionKey},
    };

    use super::*;

    /// A file of so many revisions of one key, with values of several pages, and what is to be done to it.
    fn file(dir: &std::path::Path, revisions: i64, change: impl FnOnce(&mut db::BucketMut<'_>)) -> std::path::PathBuf {
        let path = dir.join("db");
        let db = Db::open(&path, Options::default()).unwrap();
        let mut txn = db.begin_write().unwrap();
        schema::create(&mut txn).unwrap();
        let mut keys = txn.bucket(schema::KEY).unwrap();
        for main in 2..2 + revisions {
            let revision = Revision { main, sub: 0 };
            let (version, value) = (main - 1, vec![main as u8; 10_000]);
            let put = Put { revision, create_revision: 2, version, lease: 0, key: b"key", value: &value };
            let record = Version::put(put, &mut Vec::new());
            keys.put(&RevisionKey::new(main, 0, false), record.record()).unwrap();
        }
        change(&mut keys);
        txn.commit().unwrap();
        path
    }

    fn load(path: &std::path::Path) -> Result<Loaded, String> {
        let options = Options::default();
        while_opening(|show| Db::open_showing(path, options, schema::KEY, show))
            .map(|(_, loaded)| loaded)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_entry_is_read_in_its_place_whoever_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 1000, |_| {});
        let pieces = load(&path).unwrap();
        assert!(pieces.len() > 5, "several batches: {}", pieces.len());
        let mut restore = forebay_keyspace::Restore::new(None);
        for piece in pieces {
            restore.piece(piece).unwrap();
        }
        let keyspace = restore.finish(0);
        assert_eq!(keyspace.revision(), 1001);
        let version = keyspace.snapshot().get(b"key", 500).expect("every revision is there");
        assert_eq!((version.mod_revision(), version.value()), (500, &[244; 10_000][..]));
    }

    #[test]
    fn an_empty_file_has_no_entries_and_a_wrong_entry_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 0, |_| {});
        let restored = load(&path)
            .unwrap()
            .into_iter()
            .try_fold((), |(), piece| forebay_keyspace::Restore::new(None).piece(piece).map(drop));
        assert_eq!(restored, Ok(()));
        let path = file(dir.path(), 5, |keys| keys.put(b"no revision", b"x").unwrap());
        assert_eq!(load(&path).unwrap_err(), "no revision is no revision");
        std::fs::remove_file(&path).unwrap();
        let path = file(dir.path(), 5, |keys| keys.put(&RevisionKey::new(9, 0, false), b"x").unwrap());
        assert!(load(&path).unwrap_err().contains('9'));
    }
}
