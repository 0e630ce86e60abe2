//! The write-ahead log.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use forebay_proto::raftpb::{Entry, HardState};
use forebay_storage::{
    disk::{Disk as _, sim::SimDisk},
    wal::{
        Options, Recovered, Wal, WalError,
        scan::{From, Scan, Scanned},
    },
};

use crate::input::Input;

const DIR: &str = "/wal";
const OPTIONS: Options = Options { segment_bytes: 4096, segments_max: 0 };

/// Whatever a log's one segment holds, it is opened or refused. The input is the file.
pub fn wal_segment(data: &[u8]) {
    open_and_go_on(&[data.to_vec()], 0);
}

/// As [`wal_segment`], with records that check: what is wrong with them is not their bytes.
///
/// Input: the index in the first segment's name, then records, each a byte that says its type, a byte of 1 if a segment
/// begins before it, and a chunk that is its content.
pub fn wal_records(data: &[u8]) {
    let mut input = Input::new(data);
    let first_index = input.byte().into();
    let mut segments = vec![Segment::new(0)];
    while !input.is_empty() {
        let kind = input.byte() % 8;
        let segment = segments.last_mut().expect("there is one from the beginning");
        if input.flag() {
            let crc = segment.crc;
            segments.push(Segment::new(crc));
        } else {
            segment.record(kind, Some(input.long_chunk()));
        }
    }
    let segments: Vec<_> = segments.into_iter().map(|segment| segment.bytes).collect();
    open_and_go_on(&segments, first_index);
}

/// A segment as etcd's encoder writes it: a second opinion on the format.
struct Segment {
    bytes: Vec<u8>,
    crc: u32,
}

impl Segment {
    fn new(crc: u32) -> Segment {
        const CRC: u8 = 4;
        let mut segment = Segment { bytes: Vec::new(), crc };
        segment.record(CRC, None);
        segment
    }

    fn record(&mut self, kind: u8, data: Option<&[u8]>) {
        self.crc = crc32c::crc32c_append(self.crc, data.unwrap_or_default());
        let record = forebay_proto::walpb::Record {
            r#type: Some(kind.into()),
            crc: Some(self.crc),
            data: data.map(Bytes::copy_from_slice),
        };
        let mut record = prost::Message::encode_to_vec(&record);
        let padding = record.len().next_multiple_of(8) - record.len();
        let mark = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        self.bytes.extend((record.len() as u64 | mark << 56).to_le_bytes());
        record.resize(record.len() + padding, 0);
        self.bytes.extend(record);
    }
}

/// A log is refused without a change, or opens in a way that holds together, opens again to the same, and goes on.
fn open_and_go_on(segments: &[Vec<u8>], first_index: u64) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("a disk without faults");
    let name = |sequence: usize| format!("{DIR}/{sequence:016x}-{first_index:016x}.wal");
    for (sequence, segment) in segments.iter().enumerate() {
        disk.put(Path::new(&name(sequence)), segment.clone());
    }
    let last = name(segments.len() - 1);
    let kept = || {
        let found = [last.clone(), format!("{last}.broken")].map(|name| disk.contents(Path::new(&name)));
        found.iter().flatten().any(|bytes| bytes == segments.last().expect("there is one"))
    };
    let scanned = scan(&disk);
    let (wal, first) = match open(&disk) {
        Ok(opened) => opened,
        Err(_) => return assert!(kept(), "a log that is refused is kept as it was"),
    };
    assert!(first.repair.is_none() || kept(), "what is cut off is kept");
    drop(wal);
    check(&first);
    let scanned = scanned.expect("a log that opens is scanned");
    for entry in &first.entries {
        assert_eq!(scanned.get(&entry.index()), Some(entry), "who only looks sees the same entries");
    }

    let (mut wal, second) = open(&disk).expect("a log that opened opens again");
    assert_eq!(second, Recovered { repair: None, ..first });
    let last = second.snapshot.index() + second.entries.len() as u64;
    let term = second.entries.last().map_or(second.snapshot.term(), Entry::term).max(second.hard_state.term());
    // The last index there is belongs to nobody.
    if last + 1 == u64::MAX {
        return;
    }
    let entry = Entry { term: Some(term), index: Some(last + 1), data: Some(Bytes::from_static(b"on")), r#type: None };
    let state = HardState { term: Some(term), commit: Some(last + 1), ..second.hard_state };
    wal.append(Some(&state), std::slice::from_ref(&entry), true).expect("a log that opened goes on");
    drop(wal);
    // The power fails, and everything that was synced is there.
    let (_wal, third) = open(&disk.crash(|| false)).expect("a log that was appended to opens");
    let mut entries = second.entries;
    entries.push(entry);
    // A snapshot beyond the last commit may be committed now.
    assert!(entries.ends_with(&third.entries), "{:?} of {entries:?}", third.entries);
    assert_eq!(third.snapshot.index() + third.entries.len() as u64, last + 1);
    assert_eq!((third.hard_state, third.metadata), (state, second.metadata));
}

/// The entries of a log by those who only look, each the last of its index; printed, as tools do.
fn scan(disk: &SimDisk) -> Result<BTreeMap<u64, Entry>, WalError> {
    let mut entries = BTreeMap::new();
    Scan::new(Arc::new(disk.clone()), DIR).run(From::Start, &mut |_, record| {
        if let Scanned::Entry(entry) = record {
            assert!(!forebay_utl::logs::line(&entry).contains('\n'), "an entry is one line");
            entries.insert(entry.index(), entry);
        }
        Ok(())
    })?;
    Ok(entries)
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIR), OPTIONS, None)
}

fn check(recovered: &Recovered) {
    let mut before = (recovered.snapshot.index(), 0);
    for entry in &recovered.entries {
        assert_eq!(entry.index(), before.0 + 1, "entries are without a gap");
        assert!(entry.term() >= before.1, "terms do not decrease");
        before = (entry.index(), entry.term());
    }
    assert!(recovered.hard_state.commit() <= before.0, "nothing is committed that is not there");
}
