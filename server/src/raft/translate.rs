//! The library's messages from and to etcd's.
//!
//! Both descend from the same Go code and agree in field numbers, but not in everything:
//! - conf changes: etcd's UpdateNode (2) has no counterpart, and its AddLearnerNode (3) is the library's 2. The library
//!   only ever asks a conf change entry *whether* it is one, so its `data` is a stand-in the library can parse, and
//!   etcd's own bytes travel in the entry's `context`, which etcd does not have. They come back out unchanged;
//! - the library adds commit hints and priorities to votes and responses. etcd does not send them: they stay here;
//! - etcd leaves unset fields out since 3.7 and writes zeros before. Absent and zero are read alike.

use bytes::Bytes;
use forebay_proto::raftpb;
use prost::Message as _;
use protobuf::{Message as _, RepeatedField};
use raft::eraftpb;

/// A message or an entry that the library must not see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("message type {0}")]
    MessageType(i32),
    #[error("entry type {0}")]
    EntryType(i32),
    #[error("a conf change that does not parse")]
    ConfChange,
    #[error("a configuration in transition")]
    JointConfState,
}

pub(super) fn entry_to_library(entry: raftpb::Entry) -> Result<eraftpb::Entry, Unknown> {
    let mut out = eraftpb::Entry { term: entry.term(), index: entry.index(), ..Default::default() };
    let data = entry.data.unwrap_or_default();
    match entry.r#type.unwrap_or_default() {
        kind if kind == raftpb::EntryType::EntryNormal as i32 => out.data = data,
        kind if kind == raftpb::EntryType::EntryConfChange as i32 => {
            let change = raftpb::ConfChange::decode(data.clone()).map_err(|_| Unknown::ConfChange)?;
            out.set_entry_type(eraftpb::EntryType::EntryConfChange);
            out.data = conf_change_to_library(&change)
                .ok_or(Unknown::ConfChange)?
                .write_to_bytes()
                .expect("a conf change without required fields always encodes")
                .into();
            out.context = data;
        }
        kind => return Err(Unknown::EntryType(kind)),
    }
    Ok(out)
}

/// Entries get an explicit type, even 0: etcd-dump-logs 3.7 crashes without, and every etcd reads it.
pub(super) fn entry_from_library(entry: &eraftpb::Entry) -> raftpb::Entry {
    let (kind, data) = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => (raftpb::EntryType::EntryNormal, &entry.data),
        // Nothing here ever proposes the second form; joint consensus is not part of etcd.
        eraftpb::EntryType::EntryConfChangeV2 => (raftpb::EntryType::EntryConfChangeV2, &entry.data),
        eraftpb::EntryType::EntryConfChange => (raftpb::EntryType::EntryConfChange, &entry.context),
    };
    raftpb::Entry {
        term: Some(entry.term),
        index: Some(entry.index),
        r#type: Some(kind as i32),
        data: (!data.is_empty()).then(|| data.clone()),
    }
}

/// What a conf change means to the library; UpdateNode means nothing, which it spells as a change of member 0.
pub(super) fn conf_change_to_library(change: &raftpb::ConfChange) -> Option<eraftpb::ConfChange> {
    use raftpb::ConfChangeType as Etcd;
    let mut out = eraftpb::ConfChange { node_id: change.node_id(), ..Default::default() };
    let kind = match Etcd::try_from(change.r#type.unwrap_or_default()).ok()? {
        Etcd::ConfChangeAddNode => eraftpb::ConfChangeType::AddNode,
        Etcd::ConfChangeRemoveNode => eraftpb::ConfChangeType::RemoveNode,
        Etcd::ConfChangeAddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
        Etcd::ConfChangeUpdateNode => {
            out.node_id = 0;
            eraftpb::ConfChangeType::AddNode
        }
    };
    out.set_change_type(kind);
    Some(out)
}

pub(super) fn hard_state_to_library(state: &raftpb::HardState) -> eraftpb::HardState {
    let mut out = eraftpb::HardState::default();
    (out.term, out.vote, out.commit) = (state.term(), state.vote(), state.commit());
    out
}

pub(super) fn hard_state_from_library(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState { term: Some(state.term), vote: Some(state.vote), commit: Some(state.commit) }
}

pub(super) fn conf_state_to_library(state: &raftpb::ConfState) -> Result<eraftpb::ConfState, Unknown> {
    if !state.voters_outgoing.is_empty() || !state.learners_next.is_empty() || state.auto_leave() {
        return Err(Unknown::JointConfState);
    }
    Ok(eraftpb::ConfState { voters: state.voters.clone(), learners: state.learners.clone(), ..Default::default() })
}

/// Ids ascend, as Go prints them, so that equal configurations have equal bytes.
pub(super) fn conf_state_from_library(state: &eraftpb::ConfState) -> raftpb::ConfState {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    raftpb::ConfState {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: Some(state.auto_leave),
    }
}

pub(super) fn snapshot_to_library(snapshot: raftpb::Snapshot) -> Result<eraftpb::Snapshot, Unknown> {
    let metadata = snapshot.metadata.unwrap_or_default();
    let mut out = eraftpb::Snapshot { data: snapshot.data.unwrap_or_default(), ..Default::default() };
    out.mut_metadata().index = metadata.index();
    out.mut_metadata().term = metadata.term();
    out.mut_metadata().set_conf_state(conf_state_to_library(&metadata.conf_state.unwrap_or_default())?);
    Ok(out)
}

pub(super) fn snapshot_from_library(snapshot: &eraftpb::Snapshot) -> raftpb::Snapshot {
    let metadata = snapshot.get_metadata();
    raftpb::Snapshot {
        data: (!snapshot.data.is_empty()).then(|| snapshot.data.clone()),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(conf_state_from_library(metadata.get_conf_state())),
            index: Some(metadata.index),
            term: Some(metadata.term),
        }),
    }
}

pub(super) fn message_to_library(message: raftpb::Message) -> Result<eraftpb::Message, Unknown> {
    let mut out = eraftpb::Message::default();
    out.set_msg_type(message_type_to_library(message.r#type.unwrap_or_default())?);
    out.to = message.to();
    out.from = message.from();
    out.term = message.term();
    out.log_term = message.log_term();
    out.index = message.index();
    out.commit = message.commit();
    out.reject = message.reject();
    out.reject_hint = message.reject_hint();
    out.context = message.context.unwrap_or_default();
    let entries = message.entries.into_iter().map(entry_to_library).collect::<Result<Vec<_>, _>>()?;
    out.entries = RepeatedField::from_vec(entries);
    if let Some(snapshot) = message.snapshot {
        out.set_snapshot(snapshot_to_library(snapshot)?);
    }
    Ok(out)
}

pub(super) fn message_from_library(message: &eraftpb::Message) -> raftpb::Message {
    use eraftpb::MessageType as Library;
    let kind = message.msg_type;
    // Only these carry a commit index in etcd's protocol.
    let has_commit = matches!(kind, Library::MsgAppend | Library::MsgHeartbeat | Library::MsgSnapshot);
    raftpb::Message {
        r#type: Some(kind as i32),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: Some(message.log_term),
        index: Some(message.index),
        entries: message.entries.iter().map(entry_from_library).collect(),
        commit: Some(if has_commit { message.commit } else { 0 }),
        vote: None,
        snapshot: message.snapshot.as_ref().map(snapshot_from_library),
        reject: Some(message.reject),
        reject_hint: Some(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
        responses: Vec::new(),
    }
}

/// The types share their numbers up to MsgPreVoteResp; what etcd added later never travels between members.
fn message_type_to_library(kind: i32) -> Result<eraftpb::MessageType, Unknown> {
    use protobuf::ProtobufEnum as _;
    eraftpb::MessageType::from_i32(kind).ok_or(Unknown::MessageType(kind))
}

/// The bytes of a conf change as etcd writes them.
pub(super) fn conf_change_entry(change: &raftpb::ConfChange) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(raftpb::EntryType::EntryConfChange as i32),
        data: Some(Bytes::from(change.encode_to_vec())),
        ..raftpb::Entry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: raftpb::ConfChangeType, node_id: u64) -> raftpb::ConfChange {
        raftpb::ConfChange {
            id: Some(77),
            r#type: Some(kind as i32),
            node_id: Some(node_id),
            context: Some(Bytes::from_static(b"{\"id\":9}")),
        }
    }

    fn filled(entry: &raftpb::Entry) -> raftpb::Entry {
        raftpb::Entry {
            term: Some(entry.term()),
            index: Some(entry.index()),
            r#type: Some(entry.r#type.unwrap_or(0)),
            ..entry.clone()
        }
    }

    #[test]
    fn every_kind_of_entry_comes_back_with_the_same_bytes() {
        use raftpb::ConfChangeType as Kind;
        let mut entries = vec![
            raftpb::Entry::default(),
            raftpb::Entry { term: Some(3), index: Some(9), r#type: None, data: Some(Bytes::from_static(b"put")) },
            raftpb::Entry { term: Some(0), index: Some(0), r#type: Some(0), data: None },
        ];
        for kind in [
            Kind::ConfChangeAddNode,
            Kind::ConfChangeRemoveNode,
            Kind::ConfChangeUpdateNode,
            Kind::ConfChangeAddLearnerNode,
        ] {
            let entry = conf_change_entry(&change(kind, 9));
            entries.push(raftpb::Entry { term: Some(2), index: Some(5), ..entry });
        }
        // 3.6 and older write the type 0 of an AddNode explicitly; those bytes must survive too.
        entries.push(raftpb::Entry {
            r#type: Some(1),
            data: Some(Bytes::from_static(b"\x08\x00\x10\x00\x18\x09\x22\x02{}")),
            ..raftpb::Entry::default()
        });
        for entry in entries {
            let library = entry_to_library(entry.clone()).unwrap();
            assert_eq!(entry_from_library(&library), filled(&entry));
        }
    }

    #[test]
    fn the_library_reads_conf_changes_as_what_they_mean() {
        use eraftpb::ConfChangeType as Library;
        use raftpb::ConfChangeType as Etcd;
        for (etcd, library, node_id) in [
            (Etcd::ConfChangeAddNode, Library::AddNode, 9),
            (Etcd::ConfChangeRemoveNode, Library::RemoveNode, 9),
            (Etcd::ConfChangeAddLearnerNode, Library::AddLearnerNode, 9),
            (Etcd::ConfChangeUpdateNode, Library::AddNode, 0),
        ] {
            let entry = entry_to_library(conf_change_entry(&change(etcd, 9))).unwrap();
            let mut parsed = eraftpb::ConfChange::default();
            parsed.merge_from_bytes(&entry.data).unwrap();
            assert_eq!((parsed.change_type, parsed.node_id), (library, node_id), "{etcd:?}");
        }
    }

    #[test]
    fn what_has_no_counterpart_is_refused_by_name() {
        let entry = |kind, data: &'static [u8]| raftpb::Entry {
            r#type: Some(kind),
            data: Some(Bytes::from_static(data)),
            ..raftpb::Entry::default()
        };
        assert_eq!(entry_to_library(entry(2, b"")), Err(Unknown::EntryType(2)));
        assert_eq!(entry_to_library(entry(1, b"\xff")), Err(Unknown::ConfChange));
        assert_eq!(entry_to_library(entry(1, b"\x10\x09")), Err(Unknown::ConfChange));
        for kind in [19, 20, 21, 22, 23, 99, -1] {
            let message = raftpb::Message { r#type: Some(kind), ..raftpb::Message::default() };
            assert_eq!(message_to_library(message), Err(Unknown::MessageType(kind)));
        }
        let joint = raftpb::ConfState { voters: vec![1], voters_outgoing: vec![2], ..raftpb::ConfState::default() };
        assert_eq!(conf_state_to_library(&joint), Err(Unknown::JointConfState));
    }

    #[test]
    fn every_message_that_travels_comes_back_the_same() {
        let conf_state = raftpb::ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            auto_leave: Some(false),
            ..raftpb::ConfState::default()
        };
        for kind in (2..=9).chain(13..=18) {
            let message = raftpb::Message {
                r#type: Some(kind),
                to: Some(1),
                from: Some(2),
                term: Some(3),
                log_term: Some(4),
                index: Some(5),
                entries: vec![filled(&raftpb::Entry { data: Some(Bytes::from_static(b"x")), ..Default::default() })],
                commit: Some(if [3, 7, 8].contains(&kind) { 6 } else { 0 }),
                vote: None,
                snapshot: Some(raftpb::Snapshot {
                    data: Some(Bytes::from_static(b"{}")),
                    metadata: Some(raftpb::SnapshotMetadata {
                        conf_state: Some(conf_state.clone()),
                        index: Some(7),
                        term: Some(8),
                    }),
                }),
                reject: Some(true),
                reject_hint: Some(9),
                context: Some(Bytes::from_static(b"ctx")),
                responses: Vec::new(),
            };
            let library = message_to_library(message.clone()).unwrap();
            assert_eq!(message_from_library(&library), message);
        }
    }

    #[test]
    fn the_librarys_own_hints_stay_here() {
        let mut vote = eraftpb::Message::default();
        vote.set_msg_type(eraftpb::MessageType::MsgRequestVote);
        (vote.commit, vote.commit_term, vote.priority) = (5, 6, 7);
        assert_eq!(message_from_library(&vote).commit(), 0);
    }
}
