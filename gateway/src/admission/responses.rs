//! Follows the responses of a Watch stream without decoding events: which creates are answered, which
//! watches end, and where something may be put in between.

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::grpc::{self, PREFIX};
use forebay_proto::{
    Error,
    etcdserverpb::{ResponseHeader, WatchResponse},
};
use prost::Message as _;

use super::scan::{Value, next_field};

/// What is read of a message. The header, the ids and the flags stand before the events.
const HEAD_BYTES: usize = 160;
/// The field `events`, behind which nothing is looked for.
const EVENTS: u32 = 11;

/// One message that has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// More of the same revision follows, and nothing may stand between.
    pub(super) fragment: bool,
    /// Its encoded header.
    pub(super) header: Bytes,
}

/// Finds the ends of messages in a body.
#[derive(Debug, Default)]
pub(super) struct Follower {
    prefix: Vec<u8>,
    head: BytesMut,
    /// Bytes of the present message that are still to come.
    left: usize,
}

impl Follower {
    /// Reads on to the end of a message or of the piece: how much was read, and the message that ended.
    pub(super) fn read(&mut self, piece: &[u8]) -> (usize, Option<Passed>) {
        let mut read = 0;
        if self.prefix.len() < PREFIX {
            read = (PREFIX - self.prefix.len()).min(piece.len());
            self.prefix.extend_from_slice(&piece[..read]);
            let Some(&[_, a, b, c, d]) = self.prefix.first_chunk::<PREFIX>() else { return (read, None) };
            self.left = u32::from_be_bytes([a, b, c, d]) as usize;
        }
        let here = self.left.min(piece.len() - read);
        let kept = here.min(HEAD_BYTES.saturating_sub(self.head.len()));
        self.head.put_slice(&piece[read..read + kept]);
        self.left -= here;
        if self.left > 0 {
            return (read + here, None);
        }
        self.prefix.clear();
        let head = self.head.split().freeze();
        (read + here, Some(passed(&head)))
    }

    /// Whether the last message has ended.
    pub(super) fn is_between(&self) -> bool {
        self.prefix.is_empty()
    }
}

/// Reads a message's fields as far as its head goes.
fn passed(head: &Bytes) -> Passed {
    let mut passed = Passed::default();
    let mut rest = &head[..];
    // A head that is cut off inside of an event ends with what stands before.
    while !rest.is_empty()
        && let Some((tag, value)) = next_field(&mut rest)
    {
        match (tag, value) {
            (1, Value::Bytes(header)) => passed.header = head.slice_ref(header),
            (2, Value::Varint(id)) => passed.watch_id = id.cast_signed(),
            (3, Value::Varint(flag)) => passed.created = flag != 0,
            (4, Value::Varint(flag)) => passed.canceled = flag != 0,
            (7, Value::Varint(flag)) => passed.fragment = flag != 0,
            (EVENTS.., _) => break,
            _ => {}
        }
    }
    passed
}

/// The answer to a create that is refused for good, as etcd's server words such an answer.
pub(super) fn refused(header: &Bytes) -> Bytes {
    grpc::encode(&WatchResponse {
        header: Some(ResponseHeader::decode(header.clone()).unwrap_or_default()),
        watch_id: -1,
        created: true,
        canceled: true,
        cancel_reason: Error::TooManyRequests.message().to_owned(),
        ..WatchResponse::default()
    })
}

#[cfg(test)]
mod tests {
    use forebay_proto::mvccpb::{Event, KeyValue};

    use super::*;

    fn follow(body: &[u8], size: usize) -> Vec<Passed> {
        let mut follower = Follower::default();
        let mut all = Vec::new();
        for mut piece in body.chunks(size) {
            while !piece.is_empty() {
                let (read, passed) = follower.read(piece);
                piece = &piece[read..];
                all.extend(passed);
            }
        }
        assert!(follower.is_between());
        all
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let header =
            ResponseHeader { cluster_id: u64::MAX, member_id: u64::MAX, revision: i64::MAX, raft_term: u64::MAX };
        let event =
            Event { kv: Some(KeyValue { value: vec![0x18; 5000].into(), ..Default::default() }), ..Default::default() };
        let responses = [
            WatchResponse { header: Some(header), watch_id: i64::MAX, created: true, ..Default::default() },
            WatchResponse {
                header: Some(header),
                fragment: true,
                events: vec![event.clone(); 3],
                ..Default::default()
            },
            WatchResponse { header: Some(header), events: vec![event], ..Default::default() },
            WatchResponse {
                header: Some(header),
                canceled: true,
                cancel_reason: "x".repeat(300),
                ..Default::default()
            },
            WatchResponse::default(),
        ];
        let body: Vec<u8> = responses.iter().flat_map(|response| grpc::encode(response).to_vec()).collect();
        for size in [1, 4, 5, 6, 100, 1000, 100_000] {
            let seen = follow(&body, size);
            let flags: Vec<_> = seen.iter().map(|seen| (seen.created, seen.canceled, seen.fragment)).collect();
            let want: Vec<_> = responses.iter().map(|r| (r.created, r.canceled, r.fragment)).collect();
            assert_eq!(flags, want, "pieces of {size}");
            assert_eq!(ResponseHeader::decode(seen[0].header.clone()).unwrap(), header);
        }
    }

    #[test]
    fn a_refused_create_is_answered_as_etcd_answers_one() {
        let header = ResponseHeader { cluster_id: 5, revision: 9, ..Default::default() };
        let refused = refused(&header.encode_to_vec().into());
        let refused = WatchResponse::decode(refused.slice(PREFIX..)).unwrap();
        assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
        assert_eq!(refused.cancel_reason, "etcdserver: too many requests");
        assert_eq!(refused.header, Some(header));
    }
}
