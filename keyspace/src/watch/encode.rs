//! `WatchResponse` as bytes: a small head, and events that are slices of records.
//!
//! An event is a few bytes of tags and lengths before the record that apply encoded once, so every watcher's copy is one
//! `memcpy`; there is no encoded event to cache, because the record is it. Each message is written with the five bytes
//! that gRPC frames it in, so that the caller sends the buffer as it is.

use std::mem;

use bytes::{BufMut, BytesMut};

use crate::record::{Form, Version};
use crate::varint::{int_field_len, message_field_len, put_int_field, put_message_head};

/// The part of a response header that names the member and its term. The revision comes from the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderBase {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that answers.
    pub member_id: u64,
    /// Its raft term.
    pub raft_term: u64,
}

impl HeaderBase {
    fn len(&self, revision: i64) -> usize {
        let [cluster, member, term] = [self.cluster_id, self.member_id, self.raft_term].map(|id| id as i64);
        int_field_len(cluster) + int_field_len(member) + int_field_len(revision) + int_field_len(term)
    }

    fn write(&self, revision: i64, out: &mut impl BufMut) {
        put_int_field(1, self.cluster_id as i64, out);
        put_int_field(2, self.member_id as i64, out);
        put_int_field(3, revision, out);
        put_int_field(4, self.raft_term as i64, out);
    }
}

/// Every field of a `WatchResponse` before its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) revision: i64,
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: i64,
    pub(super) cancel_reason: &'a str,
    pub(super) fragment: bool,
}

/// gRPC: one byte for "not compressed", four for the length.
pub(super) const FRAME_HEAD: usize = 5;

/// Room for the frame's head and all fixed fields: a header of 4 ids (2 + 44), the id (11), the compact revision (11),
/// two flags (4).
const FIXED_MAX: usize = FRAME_HEAD + 46 + 11 + 11 + 4;

impl Head<'_> {
    pub(super) fn len(&self, base: &HeaderBase) -> usize {
        message_field_len(base.len(self.revision))
            + int_field_len(self.watch_id)
            + int_field_len(self.created.into())
            + int_field_len(self.canceled.into())
            + int_field_len(self.compact_revision)
            + if self.cancel_reason.is_empty() { 0 } else { message_field_len(self.cancel_reason.len()) }
            + int_field_len(self.fragment.into())
    }

    fn write(&self, base: &HeaderBase, out: &mut BytesMut) {
        // Assembled aside, because every write to a `BytesMut` asks anew whether there is room.
        let mut fixed = [0; FIXED_MAX];
        let mut rest = &mut fixed[FRAME_HEAD..];
        put_message_head(1, base.len(self.revision), &mut rest);
        base.write(self.revision, &mut rest);
        put_int_field(2, self.watch_id, &mut rest);
        put_int_field(3, self.created.into(), &mut rest);
        put_int_field(4, self.canceled.into(), &mut rest);
        put_int_field(5, self.compact_revision, &mut rest);
        let len = FIXED_MAX - rest.len();
        out.extend_from_slice(&fixed[..len]);
        if !self.cancel_reason.is_empty() {
            put_message_head(6, self.cancel_reason.len(), out);
            out.extend_from_slice(self.cancel_reason.as_bytes());
        }
        put_int_field(7, self.fragment.into(), out);
    }
}

/// A gRPC message under way: begun, given events, then either finished or taken back.
pub(super) struct Frame {
    start: usize,
}

impl Frame {
    pub(super) fn begin(head: &Head<'_>, base: &HeaderBase, out: &mut BytesMut) -> Frame {
        let start = out.len();
        head.write(base, out);
        Frame { start }
    }

    /// The length of the message so far.
    fn message_len(&self, out: &BytesMut) -> usize {
        out.len() - self.start - FRAME_HEAD
    }

    pub(super) fn finish(self, out: &mut BytesMut) {
        let len = u32::try_from(self.message_len(out)).expect("a message is shorter than 4 GiB, gRPC's own limit");
        out[self.start + 1..self.start + FRAME_HEAD].copy_from_slice(&len.to_be_bytes());
    }

    pub(super) fn take_back(self, out: &mut BytesMut) {
        out.truncate(self.start);
    }
}

/// One event as one watcher gets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    /// The put, or the tombstone.
    pub(super) version: &'a Version,
    /// The `prev_kv`, if the watcher asked and there is one.
    pub(super) prev: Option<&'a Version>,
}

/// `mvccpb.Event.EventType.DELETE`; PUT is 0 and therefore left out.
const DELETE: i64 = 1;

/// Tags and lengths before the record: two message heads of at most 6 bytes, and the type.
const PREFIX_MAX: usize = 6 + 2 + 6;

impl Event<'_> {
    fn body_len(&self) -> usize {
        let kind = if self.version.is_tombstone() { int_field_len(DELETE) } else { 0 };
        let prev = self.prev.map_or(0, |prev| prev.field_len(Form::Full));
        kind + message_field_len(self.version.event_kv_len()) + prev
    }

    /// The length of [`Event::write`].
    pub(super) fn len(&self) -> usize {
        message_field_len(self.body_len())
    }

    /// Writes the event as an element of `WatchResponse.events`.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let mut prefix = [0; PREFIX_MAX];
        let mut rest = &mut prefix[..];
        put_message_head(11, self.body_len(), &mut rest);
        if self.version.is_tombstone() {
            put_int_field(1, DELETE, &mut rest);
        }
        put_message_head(2, self.version.event_kv_len(), &mut rest);
        let len = PREFIX_MAX - mem::take(&mut rest).len();
        out.extend_from_slice(&prefix[..len]);
        self.version.write_event_kv(out);
        if let Some(prev) = self.prev {
            prev.write_field(3, Form::Full, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use forebay_proto::mvccpb::{self, KeyValue};
    use prost::Message;

    use super::*;
    use crate::record::{Put, Revision};

    fn put(main: i64, version: i64, value: &[u8]) -> Version {
        let revision = Revision { main, sub: 0 };
        Version::put(Put { revision, create_revision: 2, version, lease: 77, key: b"some/key", value }, &mut Vec::new())
    }

    fn decoded(version: &Version) -> Option<KeyValue> {
        let mut kv = KeyValue::decode(version.record()).unwrap();
        kv.mod_revision = version.mod_revision();
        Some(kv)
    }

    fn message(event: &Event<'_>) -> mvccpb::Event {
        mvccpb::Event {
            r#type: i32::from(event.version.is_tombstone()),
            kv: decoded(event.version),
            prev_kv: event.prev.and_then(decoded),
        }
    }

    #[test]
    fn a_response_equals_prost_and_is_as_long_as_said() {
        let revision = Revision { main: 300, sub: 1 };
        let tombstone = Version::tombstone(revision, b"some/key", &mut Vec::new());
        let (small, large) = (put(200, 1, b""), put(i64::MAX, i64::MAX, &[7; 70_000]));
        let all = [
            Event { version: &small, prev: None },
            Event { version: &large, prev: Some(&small) },
            Event { version: &tombstone, prev: Some(&large) },
            Event { version: &tombstone, prev: None },
        ];
        let bases = [
            HeaderBase::default(),
            HeaderBase { cluster_id: 1, member_id: 300, raft_term: 2 },
            HeaderBase { cluster_id: u64::MAX, member_id: u64::MAX, raft_term: u64::MAX },
        ];
        for base in bases {
            for watch_id in [0, -1, 1, i64::MAX, i64::MIN] {
                for bits in 0..16 {
                    let head = Head {
                        revision: [0, i64::MAX][bits & 1],
                        watch_id,
                        created: bits & 2 != 0,
                        canceled: bits & 4 != 0,
                        compact_revision: [0, i64::MAX][bits & 1],
                        cancel_reason: ["", "etcdserver: no"][bits >> 2 & 1],
                        fragment: bits & 8 != 0,
                    };
                    let events = &all[..bits % 5];
                    let mut out = BytesMut::from(&b"before"[..]);
                    let frame = Frame::begin(&head, &base, &mut out);
                    assert_eq!(frame.message_len(&out), head.len(&base));
                    for event in events {
                        let before = out.len();
                        event.write(&mut out);
                        assert_eq!(out.len() - before, event.len());
                    }
                    let len = frame.message_len(&out);
                    frame.finish(&mut out);
                    let want = WatchResponse {
                        header: Some(ResponseHeader {
                            cluster_id: base.cluster_id,
                            member_id: base.member_id,
                            revision: head.revision,
                            raft_term: base.raft_term,
                        }),
                        watch_id,
                        created: head.created,
                        canceled: head.canceled,
                        compact_revision: head.compact_revision,
                        cancel_reason: head.cancel_reason.to_string(),
                        fragment: head.fragment,
                        events: events.iter().map(message).collect(),
                    };
                    assert_eq!(&out[..7], b"before\0");
                    assert_eq!(out[7..11], u32::try_from(len).unwrap().to_be_bytes());
                    assert_eq!(&out[11..], want.encode_to_vec(), "{head:?}");
                }
            }
        }
    }

    #[test]
    fn a_frame_taken_back_leaves_nothing() {
        let mut out = BytesMut::from(&b"before"[..]);
        let frame = Frame::begin(&Head { watch_id: 5, ..Head::default() }, &HeaderBase::default(), &mut out);
        frame.take_back(&mut out);
        assert_eq!(&out[..], b"before");
    }
}
