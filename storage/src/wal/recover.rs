//! Turns the records of all segments back into what the member had written.

use bytes::Bytes;
use forebay_proto::{
    raftpb::{Entry, EntryType, HardState},
    walpb,
};
use prost::Message;

use super::record::{Kind, Record};

/// What a log says about its member.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The metadata that the log was created with.
    pub metadata: Bytes,
    /// The last hard state; all zero in a log that never saw one.
    pub hard_state: HardState,
    /// Where the entries begin: the newest snapshot that is committed, or the one that was asked for.
    pub snapshot: walpb::Snapshot,
    /// The entries after the snapshot, without a gap. Those above `hard_state.commit` may still be replaced.
    pub entries: Vec<Entry>,
    /// The torn write that was cut off, if there was one.
    pub repair: Option<Repair>,
}

/// A torn tail that was cut off; the segment as it was is kept with the suffix `.broken`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    pub path: std::path::PathBuf,
    /// Where the last whole record ended.
    pub offset: u64,
}

/// A record that contradicts those before it: what was expected, what was found.
pub(super) type Contradiction = (String, String);

/// Collects records in order.
///
/// Invariant: `entries` are without a gap, the first has index `base + 1`, and their terms never decrease.
#[derive(Debug, Default)]
pub(super) struct Collector {
    metadata: Option<Bytes>,
    hard_state: HardState,
    snapshots: Vec<walpb::Snapshot>,
    base: u64,
    entries: Vec<Entry>,
    last_index: u64,
    /// The snapshot the caller insists on: entries are kept from there, later snapshots notwithstanding.
    wanted: Option<walpb::Snapshot>,
}

impl Collector {
    /// Starts in front of a segment whose first entry may be `first_index`.
    pub(super) fn new(first_index: u64, wanted: Option<walpb::Snapshot>) -> Self {
        let base = wanted.as_ref().map_or(first_index.saturating_sub(1), walpb::Snapshot::index);
        Self { base, wanted, ..Self::default() }
    }

    /// The index of the last entry in the log, or of a snapshot beyond it.
    pub(super) fn last_index(&self) -> u64 {
        self.last_index
    }

    pub(super) fn take(&mut self, record: Record<'_>) -> Result<(), Contradiction> {
        match record.kind {
            Kind::Crc => Ok(()),
            Kind::Metadata => self.take_metadata(record.data),
            Kind::Entry => self.take_entry(decode_exact(Bytes::copy_from_slice(record.data), "an entry")?),
            Kind::State => self.take_state(decode_exact(Bytes::copy_from_slice(record.data), "a hard state")?),
            Kind::Snapshot => self.take_snapshot(record.data),
        }
    }

    fn take_metadata(&mut self, data: &[u8]) -> Result<(), Contradiction> {
        match &self.metadata {
            Some(metadata) if metadata != data => Err((
                format!("the metadata of the other segments, {metadata:x}"),
                format!("{:x}", Bytes::copy_from_slice(data)),
            )),
            Some(_) => Ok(()),
            None => {
                self.metadata = Some(Bytes::copy_from_slice(data));
                Ok(())
            }
        }
    }

    fn take_entry(&mut self, entry: Entry) -> Result<(), Contradiction> {
        let kind = entry.r#type.unwrap_or_default();
        let is_conf_change = kind == EntryType::EntryConfChange as i32;
        if !(kind == EntryType::EntryNormal as i32 || is_conf_change && entry.data.is_some()) {
            return Err(("a normal entry or a conf change".into(), format!("an entry of type {kind}")));
        }
        let index = followed(entry.index())?;
        self.last_index = index;
        let next = self.base.saturating_add(1 + self.entries.len() as u64);
        if index > next {
            // Only a snapshot from the leader lets a log jump.
            let jump = self.snapshots.iter().rev().find(|snapshot| snapshot.index() == index - 1);
            if jump.is_none() || self.wanted.is_some() {
                return Err((format!("an entry up to index {next}"), format!("index {index}")));
            }
            self.entries.clear();
            self.base = index - 1;
        }
        if index <= self.base {
            return Ok(());
        }
        self.entries.truncate((index - self.base - 1) as usize);
        if let Some(previous) = self.entries.last().filter(|previous| previous.term() > entry.term()) {
            return Err((format!("a term from {} on", previous.term()), format!("term {}", entry.term())));
        }
        self.entries.push(entry);
        Ok(())
    }

    fn take_state(&mut self, state: HardState) -> Result<(), Contradiction> {
        if state.term() < self.hard_state.term() || state.commit() < self.hard_state.commit() {
            return Err((format!("a state not before {:?}", self.hard_state), format!("{state:?}")));
        }
        self.hard_state = state;
        self.forget_covered();
        Ok(())
    }

    fn take_snapshot(&mut self, data: &[u8]) -> Result<(), Contradiction> {
        let snapshot = walpb::Snapshot::decode(data).map_err(|error| ("a snapshot".to_owned(), error.to_string()))?;
        self.last_index = self.last_index.max(followed(snapshot.index())?);
        self.snapshots.push(snapshot);
        self.forget_covered();
        Ok(())
    }

    /// Drops entries that a committed snapshot covers, so that a long log does not pile up in memory.
    fn forget_covered(&mut self) {
        if self.wanted.is_some() {
            return;
        }
        let Some(index) = self.newest_committed().map(walpb::Snapshot::index) else { return };
        if index > self.base {
            let covered = self.entries.len().min((index - self.base) as usize);
            self.entries.drain(..covered);
            self.base = index;
        }
    }

    fn newest_committed(&self) -> Option<&walpb::Snapshot> {
        let commit = self.hard_state.commit();
        self.snapshots.iter().filter(|snapshot| snapshot.index() <= commit).max_by_key(|snapshot| snapshot.index())
    }

    /// Ends the collection. `Err` says which snapshot record (index, term) is missing, and what is there instead.
    pub(super) fn finish(mut self) -> Result<Recovered, (u64, u64, String)> {
        let snapshot = match &self.wanted {
            Some(wanted) => self
                .snapshots
                .iter()
                .find(|snapshot| (snapshot.index(), snapshot.term()) == (wanted.index(), wanted.term()))
                .ok_or_else(|| (wanted.index(), wanted.term(), self.snapshots_found()))?,
            None => self
                .newest_committed()
                .filter(|snapshot| snapshot.index() >= self.base)
                .ok_or_else(|| (self.base, self.hard_state.term(), self.snapshots_found()))?,
        }
        .clone();
        let covered = self.entries.len().min((snapshot.index() - self.base) as usize);
        self.entries.drain(..covered);
        Ok(Recovered {
            metadata: self.metadata.unwrap_or_default(),
            hard_state: self.hard_state,
            snapshot,
            entries: self.entries,
            repair: None,
        })
    }

    fn snapshots_found(&self) -> String {
        let found: Vec<_> = self.snapshots.iter().map(|snapshot| (snapshot.index(), snapshot.term())).collect();
        format!("records for {found:?}, committed is {}", self.hard_state.commit())
    }
}

/// An index that another can follow, as every one in a log is.
fn followed(index: u64) -> Result<u64, Contradiction> {
    if index < u64::MAX { Ok(index) } else { Err(("an index that another can follow".into(), index.to_string())) }
}

/// Decodes a message that must consist of known fields only.
///
/// The checksum does not cover a record's type. Read as another kind, a record leaves fields over.
fn decode_exact<M: Message + Default>(data: Bytes, what: &str) -> Result<M, Contradiction> {
    let len = data.len();
    let message = M::decode(data).map_err(|error| (what.to_owned(), error.to_string()))?;
    if message.encoded_len() != len {
        return Err((what.to_owned(), "fields of another kind of record".to_owned()));
    }
    Ok(message)
}
