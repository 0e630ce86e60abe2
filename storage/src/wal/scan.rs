//! Reads a log without opening it: takes no lock, repairs nothing and keeps nothing in memory.
//!
//! It is for tools, which may look at the log of a member that runs. What that one has just written may be there in
//! part: it looks like a torn write, and is whole a moment later.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use forebay_proto::{
    raftpb::{Entry, HardState},
    walpb,
};
use prost::Message;

use super::{
    error::{Context as _, WalError},
    reader::{Reader, Step},
    record::{Kind, Record},
    segment::{self, SegmentName},
};
use crate::disk::Disk;

/// A record of a log.
#[derive(Debug, Clone, PartialEq)]
pub enum Scanned<'a> {
    /// What a segment begins with: the checksum so far.
    Crc(u32),
    /// The bytes of an `etcdserverpb.Metadata`.
    Metadata(&'a [u8]),
    /// An entry. One with an index that was there before replaces it and all after it.
    Entry(Entry),
    /// The hard state from here on.
    State(HardState),
    /// A snapshot that the log may be read from.
    Snapshot(walpb::Snapshot),
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The segment.
    pub path: &'a Path,
    /// The byte in it at which the record's frame begins.
    pub offset: u64,
}

/// Why a visitor ends a scan: what it expected, and what it found.
pub type Refusal = (String, String);

/// Who is handed the records.
pub type Visit<'v> = dyn FnMut(Place<'_>, Scanned<'_>) -> Result<(), Refusal> + 'v;

/// Where a scan begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest segment.
    Start,
    /// With the last segment that may hold this index.
    Index(u64),
    /// Where another scan ended.
    Position(Position),
}

/// Between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    sequence: u64,
    offset: u64,
    crc: Option<u32>,
}

/// How a scan ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Where to go on from.
    pub position: Position,
    /// The last segment, and the byte in it after its last whole record.
    pub path: PathBuf,
    /// See [`End::path`].
    pub offset: u64,
    /// Whether a part of a record follows. It is cut off when a member opens the log.
    pub is_torn: bool,
}

/// A log to be read.
#[derive(Debug, Clone)]
pub struct Scan {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Scan {
    /// Of the log in this directory.
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Self {
        Self { disk, dir: dir.into() }
    }

    /// Hands every record from `from` on to `visit`, which ends the scan by refusing one.
    pub fn run(&self, from: From, visit: &mut Visit<'_>) -> Result<End, WalError> {
        let (mut names, mut crc, mut offset) = (segment::list(&*self.disk, &self.dir)?, None, 0);
        match from {
            From::Start => {}
            From::Index(index) => {
                let first = names.iter().rposition(|name| name.index <= index).unwrap_or(0);
                names.drain(..first);
            }
            From::Position(position) => {
                names.retain(|name| name.sequence >= position.sequence);
                if names.first().is_none_or(|name| name.sequence != position.sequence) {
                    let expected = format!("segment {}", position.sequence);
                    return Err(WalError::Segments { path: self.dir.clone(), expected, found: "it purged".into() });
                }
                (crc, offset) = (position.crc, position.offset);
            }
        }
        let mut end = None;
        for (place, name) in names.iter().enumerate() {
            let is_last = place + 1 == names.len();
            let ended = self.segment(*name, is_last, crc, offset, visit)?;
            (crc, offset) = (ended.position.crc, 0);
            end = Some(ended);
        }
        Ok(end.expect("invariant: a log has at least one segment"))
    }

    fn segment(
        &self,
        name: SegmentName,
        is_last: bool,
        crc: Option<u32>,
        offset: u64,
        visit: &mut Visit<'_>,
    ) -> Result<End, WalError> {
        let path = name.path(&self.dir);
        let file = self.disk.open_read_only(&path).context("open", &path)?;
        let mut reader = Reader::resume(&path, &*file, is_last, crc, offset)?;
        loop {
            let (offset, is_torn) = match reader.next()? {
                Step::Record { offset, record } => {
                    let place = Place { path: &path, offset };
                    scanned(record).and_then(|record| visit(place, record)).map_err(|(expected, found)| {
                        WalError::Corrupt { path: path.clone(), offset, expected, found }
                    })?;
                    continue;
                }
                Step::End { offset } => (offset, false),
                Step::Torn { offset } => (offset, true),
            };
            let position = Position { sequence: name.sequence, offset, crc: reader.crc() };
            return Ok(End { position, path, offset, is_torn });
        }
    }
}

fn scanned(record: Record<'_>) -> Result<Scanned<'_>, Refusal> {
    fn decoded<M: Message + Default>(data: &[u8], expected: &str) -> Result<M, Refusal> {
        M::decode(Bytes::copy_from_slice(data)).map_err(|error| (expected.to_owned(), error.to_string()))
    }
    Ok(match record.kind {
        Kind::Crc => Scanned::Crc(record.crc),
        Kind::Metadata => Scanned::Metadata(record.data),
        Kind::Entry => Scanned::Entry(decoded(record.data, "an entry")?),
        Kind::State => Scanned::State(decoded(record.data, "a hard state")?),
        Kind::Snapshot => Scanned::Snapshot(decoded(record.data, "a snapshot")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::sim::SimDisk,
        wal::{Options, Wal},
    };

    const DIR: &str = "/d/wal";

    fn entry(index: u64) -> Entry {
        Entry { term: Some(1), index: Some(index), r#type: Some(0), data: Some(vec![index as u8; 300].into()) }
    }

    fn indexes(scan: &Scan, from: From) -> (Vec<u64>, End) {
        let mut found = Vec::new();
        let end = scan.run(from, &mut |_, record| {
            if let Scanned::Entry(entry) = record {
                found.push(entry.index());
            }
            Ok(())
        });
        (found, end.unwrap())
    }

    #[test]
    fn a_scan_reads_beside_the_writer_and_goes_on_where_it_ended() {
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        let options = Options { segment_bytes: 4096, segments_max: 0 };
        let mut wal = Wal::create(disk.clone(), Path::new(DIR), options, Bytes::from_static(b"m")).unwrap();
        let scan = Scan::new(disk, DIR);
        let mut position = From::Start;
        for round in 0..5u64 {
            let entries: Vec<_> = (round * 7 + 1..=round * 7 + 7).map(entry).collect();
            wal.append(None, &entries, true).unwrap();
            let (found, end) = indexes(&scan, position);
            assert_eq!(found, entries.iter().map(Entry::index).collect::<Vec<_>>());
            assert!(!end.is_torn);
            position = From::Position(end.position);
        }
        assert!(wal.segments() > 2, "the scan crossed from segment to segment");
        assert_eq!(indexes(&scan, From::Start).0, (1..=35).collect::<Vec<_>>());
        let (found, _) = indexes(&scan, From::Index(35));
        assert!(found.contains(&35) && !found.contains(&1), "{found:?}");
        assert!(indexes(&scan, position).0.is_empty());
    }

    #[test]
    fn what_the_visitor_refuses_is_named_with_its_place() {
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        drop(Wal::create(disk.clone(), Path::new(DIR), Options::default(), Bytes::new()).unwrap());
        let refused = Scan::new(disk, DIR).run(From::Start, &mut |_, record| match record {
            Scanned::Snapshot(_) => Err(("something else".into(), "a snapshot".into())),
            _ => Ok(()),
        });
        let message = refused.unwrap_err().to_string();
        let path = format!("{DIR}/0000000000000000-0000000000000000.wal");
        let expected = format!("wal: {path} is damaged at offset 32: expected something else, found a snapshot");
        assert_eq!(message, expected);
    }
}
