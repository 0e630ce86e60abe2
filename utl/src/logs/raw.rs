//! Every record of a log as it stands there, replaced entries, checksums and states included.

use std::{fmt::Write as _, path::Path, sync::Arc};

use forebay_proto::raftpb::{Entry, EntryType};
use forebay_storage::{
    disk::OsDisk,
    wal::scan::{From, Scan, Scanned},
};
use prost::Message as _;

use crate::{Result, prototext};

/// Prints the records from index `from` on, a line each, as `etcd-dump-logs -raw` does.
pub fn raw(wal_dir: &Path, from: u64, print: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
    let mut failed = None;
    let scanned = Scan::new(Arc::new(OsDisk), wal_dir).run(From::Start, &mut |_, record| {
        let Some(line) = line(&record, from) else { return Ok(()) };
        print(line).map_err(|error| {
            failed = Some(error);
            Default::default()
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    print(match scanned?.is_torn {
        true => "ErrUnexpectedEOF: The last record might be corrupted, error: unexpected EOF.".to_owned(),
        false => "EOF: All entries were processed.".to_owned(),
    })
}

fn line(record: &Scanned<'_>, from: u64) -> Option<String> {
    match record {
        Scanned::Crc(crc) => Some(format!("CRC: {crc}")),
        Scanned::Metadata(bytes) => {
            Some(format!("Metadata: {}", prototext::print("etcdserverpb.Metadata", bytes).unwrap_or("???".to_owned())))
        }
        Scanned::Entry(found) => (found.index() >= from).then(|| entry(found)),
        Scanned::State(state) => (state.commit() >= from).then(|| {
            let text = prototext::print("raftpb.HardState", &state.encode_to_vec());
            format!("HardState: {}", text.unwrap_or_default())
        }),
        Scanned::Snapshot(snapshot) => {
            (snapshot.index() >= from).then(|| format!("Snapshot: index:{} term:{}", snapshot.index(), snapshot.term()))
        }
    }
}

fn entry(entry: &Entry) -> String {
    let mut line = format!("Entry: Term:{} Index:{}", entry.term(), entry.index());
    if entry.r#type() != EntryType::EntryNormal {
        line += &format!(" Type:{}", entry.r#type().as_str_name());
    }
    let data = entry.data.as_deref().unwrap_or_default();
    if !data.is_empty() {
        line += &format!(" Data:\"{}\" ", octal(data));
    }
    line
}

/// Bytes as etcd's first protobuf library printed them.
fn octal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => write!(out, "\\{byte:03o}").expect("a string takes everything"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_etcd_dump_logs_prints_them() {
        let entry = Entry { term: Some(1), index: Some(9), r#type: Some(1), data: Some(b"\x10\0\"L{".to_vec().into()) };
        let printed = line(&Scanned::Entry(entry.clone()), 9).unwrap();
        assert_eq!(printed, "Entry: Term:1 Index:9 Type:EntryConfChange Data:\"\\020\\000\\\"L{\" ");
        assert_eq!(line(&Scanned::Entry(entry), 10), None);
        assert_eq!(line(&Scanned::Crc(0), 0).as_deref(), Some("CRC: 0"));
        assert_eq!(line(&Scanned::Metadata(b"\x08\x07\x10\x09"), 0).as_deref(), Some("Metadata: NodeID:7 ClusterID:9"));
    }
}
