//! A log, printed as etcd-dump-logs prints it; and who wrote how much of it.

mod decoder;
mod filter;
mod raw;
mod totals;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_proto::{
    etcdserverpb::Metadata,
    raftpb::{ConfChange, Entry, EntryType, HardState, Snapshot},
};
use forebay_storage::{
    disk::OsDisk,
    schema,
    snap::Snapshots,
    wal::scan::{End, From, Position, Scan, Scanned},
};
use prost::Message as _;

use crate::{Error, Result, files, prototext};

pub use self::{decoder::Decoder, filter::Filter, raw::raw, totals::Totals};

/// The name of the message that entries hold.
const REQUEST: &str = "etcdserverpb.InternalRaftRequest";

/// Which part of which log.
#[derive(Clone, Debug)]
pub struct Part {
    /// Of the member.
    pub data_dir: PathBuf,
    /// Where the log is, if not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The first index; without it, the one after the newest snapshot file's.
    pub start_index: Option<u64>,
    /// The index before which it ends.
    pub end_index: u64,
    /// The snapshot file to begin after.
    pub start_snap: Option<String>,
}

impl Part {
    /// Where the log is.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| files::wal_dir(&self.data_dir))
    }
}

/// A log that was read through once.
#[derive(Debug)]
pub struct Log {
    scan: Scan,
    /// Entries after this index.
    after: u64,
    end_index: u64,
    metadata: Metadata,
    hard_state: HardState,
    survivors: Survivors,
    /// What to print before anything else.
    preface: String,
    position: Position,
    is_torn: bool,
}

/// Which of the entries in the order they were written have not been replaced by later ones: eight bytes for each.
#[derive(Debug, Default)]
struct Survivors {
    /// The index before the first.
    base: u64,
    /// The numbers of the entries with the indexes from `base + 1` on.
    numbers: Vec<u64>,
    seen: u64,
}

impl Survivors {
    fn take(&mut self, index: u64, after: u64) {
        let number = self.seen;
        self.seen += 1;
        if index <= after {
            return;
        }
        if self.numbers.is_empty() || index > self.last() + 1 || index <= self.base {
            // The first, or behind a snapshot from the leader.
            self.numbers.clear();
            self.base = index - 1;
        }
        self.numbers.truncate((index - self.base - 1) as usize);
        self.numbers.push(number);
    }

    fn last(&self) -> u64 {
        self.base + self.numbers.len() as u64
    }
}

impl Log {
    /// Reads a log through. Nothing is locked or changed: it may be that of a member that runs.
    pub fn open(part: &Part) -> Result<Self> {
        let (after, preface) = match part.start_index {
            Some(index) => (index.saturating_sub(1), format!("Start dumping log entries from index {index}.\n")),
            None => {
                let snapshot = snapshot(&part.data_dir, part.start_snap.as_deref())?;
                let after = snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).map_or(0, |m| m.index());
                (after, preface(snapshot.as_ref()))
            }
        };
        let scan = Scan::new(Arc::new(OsDisk), part.wal_dir());
        let (mut metadata, mut hard_state) = (Metadata::default(), HardState::default());
        let mut survivors = Survivors::default();
        let end = scan.run(From::Index(after), &mut |_, record| {
            match record {
                Scanned::Metadata(bytes) => {
                    metadata = Metadata::decode(bytes)
                        .map_err(|error| ("the ids of member and cluster".to_owned(), error.to_string()))?;
                }
                Scanned::State(state) => hard_state = state,
                Scanned::Entry(entry) if entry.index() == u64::MAX => {
                    return Err(("an index that another can follow".to_owned(), entry.index().to_string()));
                }
                Scanned::Entry(entry) => survivors.take(entry.index(), after),
                Scanned::Crc(_) | Scanned::Snapshot(_) => {}
            }
            Ok(())
        })?;
        let End { position, is_torn, .. } = end;
        Ok(Self { scan, after, end_index: part.end_index, metadata, hard_state, survivors, preface, position, is_torn })
    }

    /// Whether a part of a record stands at the end.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// What etcd-dump-logs prints before the entries.
    #[must_use]
    pub fn head(&self, with_decoder: bool) -> String {
        let (base, last) = (self.survivors.base, self.survivors.last().min(self.end_index.saturating_sub(1)));
        let count = last.saturating_sub(base);
        let HardState { term, commit, vote } = self.hard_state;
        let mut head = format!(
            "{}WAL metadata:\nnodeID={:x} clusterID={:x} term={} commitIndex={} vote={:x}\nWAL entries: {count}\n",
            self.preface,
            self.metadata.node_id(),
            self.metadata.cluster_id(),
            term.unwrap_or(0),
            commit.unwrap_or(0),
            vote.unwrap_or(0),
        );
        if count > 0 {
            head += &format!("lastIndex={last}\n");
        }
        head += "term\t     index\ttype\tdata";
        head + if with_decoder { "\tdecoder_status\tdecoded_data\n" } else { "\n" }
    }

    /// Hands every entry that counts to `visit`.
    pub fn entries(&self, visit: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<()> {
        let mut survivors = self.survivors.numbers.iter().copied().peekable();
        let mut number = 0;
        self.walk(From::Index(self.after), &mut |entry| {
            let survives = survivors.next_if_eq(&number).is_some();
            number += 1;
            if survives && entry.index() < self.end_index { visit(entry) } else { Ok(()) }
        })
        .map(drop)
    }

    /// Hands what was written since the last look to `visit`, entries that replace others included.
    pub fn more(&mut self, visit: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<()> {
        let end_index = self.end_index;
        self.position = self.walk(From::Position(self.position), &mut |entry| {
            if entry.index() < end_index { visit(entry) } else { Ok(()) }
        })?;
        Ok(())
    }

    fn walk(&self, from: From, visit: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<Position> {
        let mut failed = None;
        let scanned = self.scan.run(from, &mut |_, record| match record {
            Scanned::Entry(entry) => visit(&entry).map_err(|error| {
                failed = Some(error);
                Default::default()
            }),
            _ => Ok(()),
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(scanned?.position),
        }
    }
}

fn snapshot(data_dir: &Path, name: Option<&str>) -> Result<Option<Snapshot>> {
    let snapshots = Snapshots::at(Arc::new(OsDisk), &files::snap_dir(data_dir));
    Ok(match name {
        Some(name) => Some(snapshots.read(name)?),
        None => snapshots.peek()?,
    })
}

fn preface(snapshot: Option<&Snapshot>) -> String {
    let Some(metadata) = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()) else {
        return "Snapshot:\nempty\nStart dumping log entries from snapshot.\n".to_owned();
    };
    let conf_state = metadata.conf_state.clone().unwrap_or_default();
    let nodes: Vec<String> = conf_state.voters.iter().map(|id| format!("{id:x}")).collect();
    let json = String::from_utf8(schema::conf_state(&conf_state).value).unwrap_or_default();
    format!(
        "Snapshot:\nterm={} index={} nodes=[{}] confstate={json}\nStart dumping log entries from snapshot.\n",
        metadata.term(),
        metadata.index(),
        nodes.join(" ")
    )
}

/// An entry as a line.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let data = entry.data.as_deref().unwrap_or_default();
    let (kind, text) = if entry.r#type() == EntryType::EntryNormal {
        ("norm", prototext::print(REQUEST, data).unwrap_or_else(|| "???".to_owned()))
    } else {
        let change = (entry.r#type() == EntryType::EntryConfChange).then(|| ConfChange::decode(data).ok()).flatten();
        let text = change.map_or("???".to_owned(), |change| {
            format!("method={} id={:x}", change.r#type().as_str_name(), change.node_id())
        });
        ("conf", text)
    };
    format!("{:4}\t{:10}\t{kind}\t{text}", entry.term(), entry.index())
}

/// What etcd-dump-logs prints after the entries.
#[must_use]
pub fn foot(types: &str, count: u64) -> String {
    format!("\nEntry types ({types}) count is : {count}\n")
}

/// What two flags of etcd-dump-logs exclude.
pub fn check(part: &Part) -> Result<()> {
    if part.start_snap.is_some() && part.start_index.is_some_and(|index| index != 0) {
        return Err(Error::refused("start-snap and start-index flags cannot be used together."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_replaces_those_from_its_index_on() {
        let mut survivors = Survivors::default();
        for index in [1, 2, 3, 4, 3, 4, 5] {
            survivors.take(index, 1);
        }
        assert_eq!((survivors.base, &survivors.numbers[..]), (1, &[1, 4, 5, 6][..]));
        survivors.take(100, 1);
        assert_eq!((survivors.last(), &survivors.numbers[..]), (100, &[7][..]));
    }

    #[test]
    fn entries_read_as_etcd_dump_logs_prints_them() {
        let entry = |kind: i32, data: &[u8]| Entry {
            term: Some(2),
            index: Some(77),
            r#type: Some(kind),
            data: Some(data.to_vec().into()),
        };
        assert_eq!(line(&entry(0, b"")), "   2\t        77\tnorm\t");
        assert_eq!(line(&entry(0, b"\xcf")), "   2\t        77\tnorm\t???");
        assert_eq!(line(&entry(0, b"\x08\x07")), "   2\t        77\tnorm\tID:7");
        let change = ConfChange { r#type: Some(1), node_id: Some(0xab), ..ConfChange::default() }.encode_to_vec();
        assert_eq!(line(&entry(1, &change)), "   2\t        77\tconf\tmethod=ConfChangeRemoveNode id=ab");
        assert_eq!(line(&entry(1, b"\xff")), "   2\t        77\tconf\t???");
    }
}
