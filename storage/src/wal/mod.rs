//! etcd's write-ahead log: what makes an acknowledged write durable.
//!
//! A log is a directory of segments, `<sequence>-<index>.wal`, each preallocated with zeros and cut once it passes
//! [`Options::segment_bytes`]. A segment begins with the checksum so far, the log's metadata and (but for the first)
//! the hard state; then follow entries, hard states and snapshot marks in the order they were saved ([`record`] has the
//! bytes). A data directory moves between etcd 3.4 to 3.7 and this module in both directions.
//!
//! [`Wal::append`] is the only call on the path of a write: it encodes a whole batch into one buffer, writes it with
//! one call and syncs it with another. Everything else that takes time, preallocating the next segment and removing
//! old ones, happens beside it ([`helper`]).
//!
//! **A failed write or sync is final.** What is on the disk after it is unknown, and asking again may report success
//! for bytes the kernel has given up. The log is poisoned: every later call fails, and only a fresh [`Wal::open`],
//! which believes nothing but checksums, may go on.

mod error;
mod first;
mod helper;
mod reader;
mod record;
mod recover;
pub mod scan;
mod segment;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::VecDeque,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::{
    raftpb::{Entry, HardState},
    walpb,
};
use prost::Message as _;

use self::{
    error::Context as _,
    helper::{Helper, Prepared},
    reader::{Reader, Step},
    record::{Encoder, Kind},
    recover::Collector,
    segment::SegmentName,
};
pub use self::{
    error::WalError,
    first::first_entries,
    recover::{Recovered, Repair},
};
use crate::{
    disk::{Disk, DiskFile},
    failpoint::{Point, reach},
};

/// Sizes of a log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A segment is cut after the append that reaches this. Large: fewer syncs of directories; small: space comes back
    /// sooner after a snapshot.
    pub segment_bytes: u64,
    /// How many segments to keep, those in use included; 0 keeps all. `--max-wals`.
    pub segments_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64_000_000, segments_max: 5 }
    }
}

/// What an append did, for the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    pub bytes: u64,
    pub write: Duration,
    /// `None` when nothing was synced.
    pub sync: Option<Duration>,
}

/// A log open for appending. It holds the locks of its segments until it is dropped.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Bytes,
    hard_state: HardState,
    /// Index of the last entry or snapshot saved; names the next segment.
    last_index: u64,
    encoder: Encoder,
    tail: Segment,
    /// Where the next record goes in the tail.
    offset: u64,
    /// Segments before the tail that may still be needed, oldest first.
    held: VecDeque<Segment>,
    /// Segments that a snapshot made superfluous, oldest first; kept up to `segments_max`.
    released: VecDeque<SegmentName>,
    helper: Helper,
    poison: Option<String>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("tail", &self.tail.name.path(&self.dir))
            .field("offset", &self.offset)
            .field("last_index", &self.last_index)
            .finish_non_exhaustive()
    }
}

struct Segment {
    name: SegmentName,
    file: Box<dyn DiskFile>,
}

/// Whether a directory holds a log, sound or not.
pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, WalError> {
    match disk.list(dir) {
        Ok(names) => Ok(names.iter().any(|name| SegmentName::parse(name).is_some())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("list", dir),
    }
}

impl Wal {
    /// Creates a log; `metadata` is repeated at the head of every segment.
    ///
    /// It is built beside `dir` and renamed, so a log that exists is complete.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, options: Options, metadata: Bytes) -> Result<Self, WalError> {
        if exists(&*disk, dir)? {
            return Err(WalError::Exists { path: dir.to_owned() });
        }
        let building = suffixed(dir, ".tmp");
        disk.remove_dir_all(&building).context("remove", &building)?;
        disk.create_dir_all(&building).context("create", &building)?;
        let name = SegmentName { sequence: 0, index: 0 };
        let path = name.path(&building);
        let file = disk.create(&path).context("create", &path)?;
        lock(&*file, &path)?;
        file.preallocate(options.segment_bytes).context("allocate", &path)?;
        let mut encoder = Encoder::new(0);
        encoder.chain_start();
        encoder.record(Kind::Metadata, &metadata);
        let first = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
        encoder.record(Kind::Snapshot, &first.encode_to_vec());
        file.write_at(encoder.bytes(), 0).context("write", &path)?;
        file.sync_data().context("sync", &path)?;
        disk.sync_dir(&building).context("sync", &building)?;
        reach(Point::WalCreateBuilt);
        // What may stand here is a directory without segments, in the way of the rename.
        disk.remove_dir_all(dir).context("remove", dir)?;
        disk.rename(&building, dir).context("rename", &building)?;
        reach(Point::WalCreated);
        let parent = dir.parent().unwrap_or(Path::new("."));
        disk.sync_dir(parent).context("sync", parent)?;
        let offset = encoder.bytes().len() as u64;
        Ok(Self {
            helper: Helper::new(disk.clone(), dir.to_owned(), options.segment_bytes),
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            hard_state: HardState::default(),
            last_index: 0,
            encoder,
            tail: Segment { name, file },
            offset,
            held: VecDeque::new(),
            released: VecDeque::new(),
            poison: None,
        })
    }

    /// Opens a log and reads it to its end; a torn tail is cut off, anything else that does not check is refused.
    ///
    /// Entries begin after `start`, whose record must be there, or after the newest committed snapshot.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        start: Option<walpb::Snapshot>,
    ) -> Result<(Self, Recovered), WalError> {
        let mut names = segment::list(&*disk, dir)?;
        let mut released = VecDeque::new();
        if let Some(start) = &start {
            let first = names.iter().rposition(|name| name.index <= start.index()).unwrap_or(0);
            released.extend(names.drain(..first));
        }
        for stale in disk.list(dir).context("list", dir)?.iter().filter(|name| name.ends_with(".tmp")) {
            let path = dir.join(stale);
            disk.remove(&path).context("remove", &path)?;
        }
        let mut held = VecDeque::new();
        for name in names {
            let path = name.path(dir);
            let file = disk.open(&path).context("open", &path)?;
            lock(&*file, &path)?;
            held.push_back(Segment { name, file });
        }

        // What the last process wrote is durable now or never. A failed sync may have left in memory what is not on the disk:
        // no member may vouch for that. Only in the last segment, as the others were synced before it got its name.
        let tail = held.back().expect("a log has at least one segment");
        let path = tail.name.path(dir);
        tail.file.sync_data().context("sync", &path)?;
        tail.file.len().and_then(|len| tail.file.forget(len)).context("reread", &path)?;

        let mut collector = Collector::new(held[0].name.index, start);
        let (mut crc, mut offset, mut is_torn) = (None, 0, false);
        for (position, segment) in held.iter().enumerate() {
            let is_last = position + 1 == held.len();
            let path = segment.name.path(dir);
            (crc, offset, is_torn) = read_segment(segment, &path, is_last, crc, &mut collector)?;
        }
        let tail = held.pop_back().expect("a log has at least one segment");
        let path = tail.name.path(dir);
        confirm_end(&tail, &path, crc, offset, is_torn)?;
        let last_index = collector.last_index();
        let mut recovered = collector.finish().map_err(|(index, term, found)| WalError::Snapshot {
            path: dir.to_owned(),
            index,
            term,
            found,
        })?;
        let last = recovered.snapshot.index() + recovered.entries.len() as u64;
        if recovered.hard_state.commit() > last {
            return Err(WalError::CommitBeyondLog { path, offset, commit: recovered.hard_state.commit(), last });
        }

        reach(Point::WalOpenRead);
        // Only now: a log that is refused is left as it is, for whoever looks at it.
        if is_torn {
            keep_broken(&*disk, &tail, &path, offset)?;
            recovered.repair = Some(Repair { path: path.clone(), offset });
        }
        // What follows the end may be later sectors of a write whose first never arrived: they must not be taken for
        // records once new ones reach them.
        tail.file.set_len(offset).context("truncate", &path)?;
        tail.file.preallocate(options.segment_bytes.max(offset)).context("allocate", &path)?;
        reach(Point::WalOpenCut);
        tail.file.sync_data().context("sync", &path)?;
        // The process before this one may have ended between giving a name and making it durable.
        disk.sync_dir(dir).context("sync", dir)?;
        let parent = dir.parent().unwrap_or(Path::new("."));
        disk.sync_dir(parent).context("sync", parent)?;
        let wal = Self {
            helper: Helper::new(disk.clone(), dir.to_owned(), options.segment_bytes),
            disk,
            dir: dir.to_owned(),
            options,
            metadata: recovered.metadata.clone(),
            hard_state: recovered.hard_state,
            last_index,
            encoder: Encoder::new(crc.unwrap_or_default()),
            tail,
            offset,
            held,
            released,
            poison: None,
        };
        Ok((wal, recovered))
    }

    /// Saves entries, then the hard state, in one write; `sync` makes them durable before this returns.
    ///
    /// raft asks for `sync` whenever there are entries or the term or vote changed.
    pub fn append(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
        sync: bool,
    ) -> Result<Written, WalError> {
        /// A batch beyond this is written in pieces, so that the buffer does not grow with it.
        const BUFFER_BYTES_MAX: usize = 4 << 20;
        self.guarded(|wal| {
            reach(Point::WalAppend);
            let mut written = Written::default();
            wal.encoder.clear();
            for entry in entries {
                wal.encoder.entry(entry);
                wal.last_index = entry.index();
                if wal.encoder.bytes().len() >= BUFFER_BYTES_MAX {
                    wal.write(&mut written)?;
                }
            }
            if let Some(hard_state) = hard_state {
                wal.encode_hard_state(hard_state);
            }
            wal.write(&mut written)?;
            reach(Point::WalAppendWritten);
            wal.settle(sync, &mut written)?;
            reach(Point::WalAppendSynced);
            Ok(written)
        })
    }

    /// Marks a snapshot, durably. From then on the log may be read from there, and what is before may be released.
    ///
    /// A snapshot of any index but 0 needs its conf state: restarting members take their configuration from here.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<Written, WalError> {
        assert!(
            snapshot.index() == 0 || snapshot.conf_state.is_some(),
            "invariant: a snapshot record above index 0 carries its conf state"
        );
        self.guarded(|wal| {
            reach(Point::WalMark);
            let mut written = Written::default();
            wal.encoder.clear();
            wal.encoder.record(Kind::Snapshot, &snapshot.encode_to_vec());
            wal.last_index = wal.last_index.max(snapshot.index());
            wal.write(&mut written)?;
            wal.settle(true, &mut written)?;
            reach(Point::WalMarked);
            Ok(written)
        })
    }

    /// Releases the segments wholly before `index`, the index of a snapshot, and removes the oldest beyond
    /// [`Options::segments_max`]. One more segment than needed is held, as etcd does.
    pub fn release_to(&mut self, index: u64) {
        reach(Point::WalRelease);
        let names = self.held.iter().chain([&self.tail]).map(|segment| segment.name);
        let needed = names.take_while(|name| name.index < index).count().saturating_sub(1);
        self.released.extend(self.held.drain(..needed).map(|segment| segment.name));
        let beyond = match self.options.segments_max {
            0 => 0,
            max => self.segments().saturating_sub(max).min(self.released.len()),
        };
        self.helper.remove(self.released.drain(..beyond).map(|name| name.path(&self.dir)));
    }

    /// How many segments there are that are not being removed.
    pub fn segments(&self) -> usize {
        self.released.len() + self.held.len() + 1
    }

    /// Runs a step that writes; its first failure is the last thing this log does.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, WalError>) -> Result<T, WalError> {
        if let Some(cause) = &self.poison {
            return Err(WalError::Poisoned { cause: cause.clone() });
        }
        let result = step(self);
        if let Err(error) = &result {
            self.poison = Some(error.to_string());
        }
        result
    }

    fn encode_hard_state(&mut self, hard_state: &HardState) {
        self.hard_state = *hard_state;
        self.encoder.record(Kind::State, &hard_state.encode_to_vec());
    }

    fn write(&mut self, written: &mut Written) -> Result<(), WalError> {
        let bytes = self.encoder.bytes();
        let start = Instant::now();
        self.tail.file.write_at(bytes, self.offset).map_err(|source| self.failed("write", source))?;
        written.write += start.elapsed();
        written.bytes += bytes.len() as u64;
        self.offset += bytes.len() as u64;
        self.encoder.clear();
        Ok(())
    }

    fn settle(&mut self, sync: bool, written: &mut Written) -> Result<(), WalError> {
        if self.offset >= self.options.segment_bytes {
            return self.cut(written);
        }
        if sync {
            self.sync(written)?;
        }
        if self.offset >= self.options.segment_bytes / 2 {
            self.helper.prepare();
        }
        Ok(())
    }

    fn sync(&self, written: &mut Written) -> Result<(), WalError> {
        /// etcd's threshold: beyond it, heartbeats and elections begin to suffer.
        const SLOW_SYNC: Duration = Duration::from_secs(1);
        let start = Instant::now();
        self.tail.file.sync_data().map_err(|source| self.failed("sync", source))?;
        let took = start.elapsed();
        if took > SLOW_SYNC {
            tracing::warn!(?took, expected = ?SLOW_SYNC, "slow fdatasync");
        }
        written.sync = Some(written.sync.unwrap_or_default() + took);
        Ok(())
    }

    /// Ends the tail at its real length and goes on in the next segment.
    ///
    /// The new segment gets its name only once its head is durable, so a named segment always has one.
    fn cut(&mut self, written: &mut Written) -> Result<(), WalError> {
        reach(Point::WalCut);
        self.tail.file.set_len(self.offset).map_err(|source| self.failed("truncate", source))?;
        self.sync(written)?;
        reach(Point::WalCutEnded);

        let Prepared { path, file } = self.helper.take()?;
        let name = SegmentName { sequence: self.tail.name.sequence + 1, index: self.last_index + 1 };
        let final_path = name.path(&self.dir);
        self.encoder = Encoder::new(self.encoder.crc());
        self.encoder.chain_start();
        self.encoder.record(Kind::Metadata, &self.metadata);
        if self.hard_state != HardState::default() {
            let hard_state = self.hard_state;
            self.encode_hard_state(&hard_state);
        }
        file.write_at(self.encoder.bytes(), 0).context("write", &path)?;
        file.sync_data().context("sync", &path)?;
        lock(&*file, &path)?;
        reach(Point::WalCutHead);
        self.disk.rename(&path, &final_path).context("rename", &path)?;
        reach(Point::WalCutNamed);
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        reach(Point::WalCutDone);

        self.offset = self.encoder.bytes().len() as u64;
        let sealed = std::mem::replace(&mut self.tail, Segment { name, file });
        self.held.push_back(sealed);
        tracing::info!(path = %final_path.display(), "created a new WAL segment");
        Ok(())
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> WalError {
        WalError::Io { action, path: self.tail.name.path(&self.dir), source }
    }
}

/// Reads one segment into the collector; returns the chain after it, where it ends, and whether a torn record is there.
fn read_segment(
    segment: &Segment,
    path: &Path,
    is_last: bool,
    crc: Option<u32>,
    collector: &mut Collector,
) -> Result<(Option<u32>, u64, bool), WalError> {
    let mut reader = Reader::new(path, &*segment.file, is_last, crc)?;
    let corrupt = |offset, (expected, found)| WalError::Corrupt { path: path.to_owned(), offset, expected, found };
    for position in 0u64.. {
        let (end, torn) = match reader.next()? {
            Step::Record { offset, record } => {
                if position == 1 && record.kind != Kind::Metadata {
                    return Err(corrupt(offset, ("a metadata record".into(), format!("{:?}", record.kind))));
                }
                collector.take(record).map_err(|contradiction| corrupt(offset, contradiction))?;
                continue;
            }
            Step::End { offset } => (offset, false),
            Step::Torn { offset } => (offset, true),
        };
        if position < 2 {
            let found = format!("{position} records");
            return Err(corrupt(end, ("a segment with its crc and metadata records".into(), found)));
        }
        return Ok((reader.crc(), end, torn));
    }
    unreachable!("a segment has fewer than 2^64 records")
}

/// Reads once more from the disk what follows the last record, and fails if it is not the same: on the word of one read
/// nothing is cut off that may have been acknowledged.
fn confirm_end(segment: &Segment, path: &Path, crc: Option<u32>, end: u64, was_torn: bool) -> Result<(), WalError> {
    segment.file.len().and_then(|len| segment.file.forget(len)).context("reread", path)?;
    let found = match Reader::resume(path, &*segment.file, true, crc, end)?.next()? {
        Step::End { .. } if !was_torn => return Ok(()),
        Step::Torn { .. } if was_torn => return Ok(()),
        Step::End { .. } => "the end",
        Step::Torn { .. } => "a torn record",
        Step::Record { .. } => "a record",
    };
    let expected = if was_torn { "a torn record" } else { "the end" };
    let twice = format!("the disk gave {expected} at offset {end}, and {found} when it was read again");
    Err(io::Error::other(twice)).context("read", path)
}

/// Keeps a copy of a segment that is about to end after its last whole record.
fn keep_broken(disk: &dyn Disk, segment: &Segment, path: &Path, offset: u64) -> Result<(), WalError> {
    let broken = suffixed(path, ".broken");
    let copy = disk.create(&broken).context("create", &broken)?;
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = segment.file.read_at(&mut chunk, at).context("read", path)?;
        if read == 0 {
            break;
        }
        copy.write_at(&chunk[..read], at).context("write", &broken)?;
        at += read as u64;
    }
    copy.sync_data().context("sync", &broken)?;
    tracing::warn!(path = %path.display(), offset, "cut a torn write off the WAL; the file as it was has suffix .broken");
    Ok(())
}

fn lock(file: &dyn DiskFile, path: &Path) -> Result<(), WalError> {
    if file.try_lock().context("lock", path)? { Ok(()) } else { Err(WalError::Locked { path: path.to_owned() }) }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    // Of the name alone: a directory may be given with a slash behind it.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
