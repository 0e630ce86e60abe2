//! Which entries are asked for, by etcd-dump-logs' names.

use forebay_proto::{
    decode_raft_request,
    etcdserverpb::InternalRaftRequest,
    raftpb::{Entry, EntryType},
};

use crate::{Error, Result};

/// A name, and whether it is that of a kind of request.
type Named = (&'static str, fn(&Entry, Option<&InternalRaftRequest>) -> bool);

const TYPES: [Named; 12] = [
    ("ConfigChange", |entry, _| entry.r#type() != EntryType::EntryNormal),
    ("Normal", |entry, _| entry.r#type() == EntryType::EntryNormal),
    ("Request", |entry, request| entry.r#type() == EntryType::EntryNormal && request.is_none()),
    ("InternalRaftRequest", |_, request| request.is_some()),
    ("IRRRange", |_, request| request.is_some_and(|request| request.range.is_some())),
    ("IRRPut", |_, request| request.is_some_and(|request| request.put.is_some())),
    ("IRRDeleteRange", |_, request| request.is_some_and(|request| request.delete_range.is_some())),
    ("IRRTxn", |_, request| request.is_some_and(|request| request.txn.is_some())),
    ("IRRCompaction", |_, request| request.is_some_and(|request| request.compaction.is_some())),
    ("IRRLeaseGrant", |_, request| request.is_some_and(|request| request.lease_grant.is_some())),
    ("IRRLeaseRevoke", |_, request| request.is_some_and(|request| request.lease_revoke.is_some())),
    ("IRRLeaseCheckpoint", |_, request| request.is_some_and(|request| request.lease_checkpoint.is_some())),
];

/// A choice of entry types.
#[derive(Debug)]
pub struct Filter {
    types: Vec<Named>,
}

impl Filter {
    /// Everything that etcd-dump-logs prints if nothing else is said.
    pub const DEFAULT: &str = "Normal,ConfigChange";

    /// Reads names with commas between them.
    pub fn read(text: &str) -> Result<Self> {
        let find = |name: &str| {
            TYPES.iter().find(|(known, _)| *known == name).copied().ok_or_else(|| {
                let names: Vec<_> = TYPES.iter().map(|(name, _)| *name).collect();
                Error::refused_with(
                    format!("[{name}] is not a valid entry-type"),
                    format!("one or more of {}", names.join(", ")),
                )
            })
        };
        let types = text.split(',').filter(|name| !name.is_empty()).map(find).collect::<Result<Vec<_>>>()?;
        Ok(Self { types })
    }

    /// Whether an entry is asked for.
    #[must_use]
    pub fn wants(&self, entry: &Entry) -> bool {
        let request = request(entry);
        self.types.iter().any(|(_, is)| is(entry, request.as_ref()))
    }
}

/// The request that an entry holds, if it holds one.
pub(super) fn request(entry: &Entry) -> Option<InternalRaftRequest> {
    let is_normal = entry.r#type() == EntryType::EntryNormal;
    is_normal.then(|| decode_raft_request(entry.data.clone().unwrap_or_default()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{CompactionRequest, PutRequest};
    use prost::Message as _;

    use super::*;

    fn wants(types: &str, entry: &Entry) -> bool {
        Filter::read(types).unwrap().wants(entry)
    }

    fn normal(data: Vec<u8>) -> Entry {
        Entry { term: Some(1), index: Some(1), r#type: Some(0), data: Some(data.into()) }
    }

    #[test]
    fn entries_are_told_apart_by_what_they_hold() {
        let put = InternalRaftRequest { put: Some(PutRequest::default()), ..Default::default() };
        let put = normal(put.encode_to_vec());
        let compaction = InternalRaftRequest { compaction: Some(CompactionRequest::default()), ..Default::default() };
        let compaction = normal(compaction.encode_to_vec());
        let unknown = normal(vec![0xcf]);
        let change = Entry { r#type: Some(1), ..Entry::default() };
        for (types, wanted) in [
            (Filter::DEFAULT, [true, true, true, true]),
            ("IRRPut", [true, false, false, false]),
            ("ConfigChange,IRRCompaction", [false, true, false, true]),
            ("InternalRaftRequest", [true, true, false, false]),
            ("Request", [false, false, true, false]),
            ("", [false; 4]),
        ] {
            assert_eq!([&put, &compaction, &unknown, &change].map(|entry| wants(types, entry)), wanted, "{types}");
        }
        assert!(Filter::read("IRRPut,Nonsense").unwrap_err().to_string().contains("[Nonsense]"));
    }
}
