//! What the log of a new cluster begins with.

use bytes::Bytes;
use forebay_proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use prost::Message as _;

use crate::snap::{MemberRecord, member_json};

/// The entries that add the members of a new cluster.
///
/// Every member writes them for itself, so their bytes follow etcd's: ids ascending, the type of an AddNode explicit,
/// the member as Go prints it.
pub fn first_entries(members: &[MemberRecord]) -> Vec<Entry> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_unstable_by_key(|member| member.id);
    let entry = |(index, member): (u64, &MemberRecord)| {
        let change = ConfChange {
            id: None,
            r#type: Some(ConfChangeType::ConfChangeAddNode as i32),
            node_id: Some(member.id),
            context: Some(Bytes::from(member_json(member))),
        };
        Entry {
            r#type: Some(EntryType::EntryConfChange as i32),
            term: Some(1),
            index: Some(index),
            data: Some(Bytes::from(change.encode_to_vec())),
        }
    };
    (1..).zip(members).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_has_the_bytes_etcd_writes() {
        let member = MemberRecord {
            id: 16591065801865697118,
            name: "m1".into(),
            peer_urls: vec!["http://127.0.0.1:21071".into()],
            ..MemberRecord::default()
        };
        // From the WAL of a 3.7.1 member.
        let json = br#"{"id":16591065801865697118,"peerURLs":["http://127.0.0.1:21071"],"name":"m1"}"#;
        let mut change = b"\x10\x00\x18\xde\xae\xd8\xea\x98\xce\xd3\x9f\xe6\x01\x22\x4d".to_vec();
        change.extend(json);
        let mut entry = b"\x08\x01\x10\x01\x18\x01\x22\x5c".to_vec();
        entry.extend(change);
        assert_eq!(first_entries(&[member])[0].encode_to_vec(), entry);
    }

    #[test]
    fn the_first_entries_ascend_by_id_whatever_the_order_they_are_given_in() {
        let member = |id| MemberRecord { id, ..MemberRecord::default() };
        let entries = first_entries(&[member(9), member(u64::MAX), member(3)]);
        let ids = entries.iter().map(|entry| ConfChange::decode(entry.data.clone().unwrap()).unwrap().node_id());
        assert_eq!(ids.collect::<Vec<_>>(), [3, 9, u64::MAX]);
        assert_eq!(entries.iter().map(Entry::index).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
