//! Reads from a request's bytes what admission goes by: which keys, how many operations, how much is
//! written. Nothing is decoded, and a key is a slice of the message.
//!
//! What is not a message of its method reads as `None` and passes on, so that the upstream answers it
//! with its own words. The reader takes at least what the upstream's decoder takes; otherwise a
//! request could be shaped to pass unseen.

use bytes::Bytes;
use forebay_policies::Watched;
use forebay_proto::KeyRange;
use parking_lot::Mutex;
use prost::encoding::{self, DecodeContext, WireType};
use smallvec::{SmallVec, smallvec};

use crate::methods::Method;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    /// Bytes of the message.
    pub(crate) bytes: usize,
    /// Every key that is named, compares and both branches of a txn included, in the message's order.
    pub(crate) keys: SmallVec<[KeyRange; 3]>,
    /// Operations, however deep.
    pub(crate) ops: u32,
    /// How many of them write if the outermost compares hold, and how many if not.
    pub(crate) writes: [u32; 2],
    /// What may be written: an index into the keys, and the size of the value.
    pub(crate) puts: SmallVec<[Put; 1]>,
    /// A lease that is attached.
    pub(crate) lease: i64,
    /// For a plain range.
    pub(crate) range: Option<RangeAsked>,
    /// Who wants to log in.
    pub(crate) user: Option<Bytes>,
}

/// One put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// Which of the request's keys.
    pub(crate) key: usize,
    pub(crate) value_bytes: usize,
}

/// A plain range in more detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeAsked {
    pub(crate) limit: i64,
    pub(crate) revision: i64,
    pub(crate) serializable: bool,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    /// In the order of keys, with nothing filtered out: what can be read in pages.
    pub(crate) plain: bool,
}

/// The branch of the outermost txn that an operation stands in.
#[derive(Clone, Copy)]
enum Branch {
    Success,
    Failure,
}

/// Operations and bytes of what etcd's concurrency packages write, with room to spare.
const ELECTION_OPS_MAX: u32 = 8;
const ELECTION_BYTES_MAX: usize = 16 << 10;

impl Asked {
    /// The writes of the branch that has more.
    pub(crate) fn writes_max(&self) -> u32 {
        self.writes[0].max(self.writes[1])
    }

    /// Whether nothing is put but the key of a lock or an election, and little of it.
    pub(crate) fn elects(&self) -> bool {
        if self.lease == 0 || self.puts.is_empty() || self.ops > ELECTION_OPS_MAX || self.bytes > ELECTION_BYTES_MAX {
            return false;
        }
        let suffix = format!("/{:x}", self.lease);
        self.puts.iter().all(|put| self.keys[put.key].start().ends_with(suffix.as_bytes()))
    }

    /// How many watches hear of what is written.
    pub(crate) fn heard_by(&self, watched: &Mutex<Watched>) -> u32 {
        match &self.puts[..] {
            _ if self.writes_max() == 0 => 0,
            // One that only deletes names what it deletes first.
            [] => watched.lock().hear(self.keys.iter().take(1)),
            puts => watched.lock().hear(puts.iter().map(|put| &self.keys[put.key])),
        }
    }

    fn read(&mut self, keys: KeyRange) {
        self.ops += 1;
        self.keys.push(keys);
    }

    fn write(&mut self, keys: KeyRange, branch: Branch) {
        self.ops += 1;
        self.writes[branch as usize] += 1;
        self.keys.push(keys);
    }
}

/// Reads the message of a call; `None` if it is none.
pub(crate) fn scan(method: &Method, message: &Bytes) -> Option<Asked> {
    let mut asked = Asked { bytes: message.len(), ..Asked::default() };
    match method.path {
        "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/RangeStream" => {
            let (keys, range) = scan_range(message, message)?;
            asked.range = Some(range);
            asked.read(keys);
        }
        "/etcdserverpb.KV/Put" => scan_put(message, message, Branch::Success, &mut asked)?,
        "/etcdserverpb.KV/DeleteRange" => scan_delete(message, message, Branch::Success, &mut asked)?,
        "/etcdserverpb.KV/Txn" => scan_txn(message, &mut asked)?,
        "/v3lockpb.Lock/Lock" | "/v3electionpb.Election/Campaign" => {
            let mut name = Bytes::new();
            let mut lease = 0;
            fields(message, |tag, value| {
                match (tag, value) {
                    (1, Value::Bytes(bytes)) => name = message.slice_ref(bytes),
                    (2, Value::Varint(id)) => lease = id.cast_signed(),
                    _ => {}
                }
                Some(())
            })?;
            asked.lease = lease;
            asked.write(KeyRange::Key(name), Branch::Success);
        }
        "/etcdserverpb.Auth/Authenticate" => {
            fields(message, |tag, value| {
                if let (1, Value::Bytes(bytes)) = (tag, value) {
                    asked.user = Some(message.slice_ref(bytes));
                }
                Some(())
            })?;
        }
        // The rest names no keys; that it can be read at all is the upstream's to say.
        _ => {}
    }
    Some(asked)
}

/// A request on a Watch stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WatchAsked {
    Create {
        keys: KeyRange,
        start_revision: i64,
    },
    /// Cancel, progress, or nothing that we know.
    Other,
}

/// Reads a message of a Watch stream.
pub(crate) fn scan_watch(message: &Bytes) -> Option<WatchAsked> {
    let mut create = None;
    fields(message, |tag, value| {
        if let Value::Bytes(bytes) = value {
            // Of several the last one counts.
            create = (tag == 1).then_some(bytes);
        }
        Some(())
    })?;
    let Some(create) = create else { return Some(WatchAsked::Other) };
    let (mut key, mut end, mut start_revision) = (Bytes::new(), Bytes::new(), 0);
    fields(create, |tag, value| {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => key = message.slice_ref(bytes),
            (2, Value::Bytes(bytes)) => end = message.slice_ref(bytes),
            (3, Value::Varint(number)) => start_revision = number.cast_signed(),
            _ => {}
        }
        Some(())
    })?;
    Some(WatchAsked::Create { keys: KeyRange::new(key, end), start_revision })
}

fn scan_range(message: &Bytes, range: &[u8]) -> Option<(KeyRange, RangeAsked)> {
    let (mut key, mut end) = (Bytes::new(), Bytes::new());
    let mut asked = RangeAsked::default();
    let (mut order, mut target, mut filters) = (0, 0, 0);
    fields(range, |tag, value| {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => key = message.slice_ref(bytes),
            (2, Value::Bytes(bytes)) => end = message.slice_ref(bytes),
            (3, Value::Varint(number)) => asked.limit = number.cast_signed(),
            (4, Value::Varint(number)) => asked.revision = number.cast_signed(),
            (5, Value::Varint(number)) => order = number,
            (6, Value::Varint(number)) => target = number,
            (7, Value::Varint(number)) => asked.serializable = number != 0,
            (8, Value::Varint(number)) => asked.keys_only = number != 0,
            (9, Value::Varint(number)) => asked.count_only = number != 0,
            (10..=13, Value::Varint(number)) => filters |= number,
            _ => {}
        }
        Some(())
    })?;
    // etcd sorts by key ascending only when a target is named and no order; by key it is the store's order anyway.
    asked.plain = order == 0 && target == 0 && filters == 0;
    Some((KeyRange::new(key, end), asked))
}

fn scan_put(message: &Bytes, put: &[u8], branch: Branch, asked: &mut Asked) -> Option<()> {
    let mut key = Bytes::new();
    let mut value_bytes = 0;
    fields(put, |tag, value| {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => key = message.slice_ref(bytes),
            (2, Value::Bytes(bytes)) => value_bytes = bytes.len(),
            (3, Value::Varint(number)) => asked.lease = number.cast_signed(),
            _ => {}
        }
        Some(())
    })?;
    asked.puts.push(Put { key: asked.keys.len(), value_bytes });
    asked.write(KeyRange::Key(key), branch);
    Some(())
}

fn scan_delete(message: &Bytes, delete: &[u8], branch: Branch, asked: &mut Asked) -> Option<()> {
    let (mut key, mut end) = (Bytes::new(), Bytes::new());
    fields(delete, |tag, value| {
        match (tag, value) {
            (1, Value::Bytes(bytes)) => key = message.slice_ref(bytes),
            (2, Value::Bytes(bytes)) => end = message.slice_ref(bytes),
            _ => {}
        }
        Some(())
    })?;
    asked.write(KeyRange::new(key, end), branch);
    Some(())
}

fn scan_txn(message: &Bytes, asked: &mut Asked) -> Option<()> {
    // A stack of our own: how deep it goes is the client's choice.
    let mut pending: SmallVec<[(&[u8], Option<Branch>); 1]> = smallvec![(&message[..], None)];
    while let Some((txn, outer)) = pending.pop() {
        fields(txn, |tag, value| {
            let Value::Bytes(bytes) = value else { return Some(()) };
            match tag {
                1 => asked.keys.push(scan_compare(message, bytes)?),
                2 | 3 => {
                    let own = if tag == 2 { Branch::Success } else { Branch::Failure };
                    let branch = outer.unwrap_or(own);
                    fields(bytes, |tag, value| {
                        let Value::Bytes(bytes) = value else { return Some(()) };
                        match tag {
                            1 => asked.read(scan_range(message, bytes)?.0),
                            2 => scan_put(message, bytes, branch, asked)?,
                            3 => scan_delete(message, bytes, branch, asked)?,
                            4 => pending.push((bytes, Some(branch))),
                            _ => {}
                        }
                        Some(())
                    })?;
                }
                _ => {}
            }
            Some(())
        })?;
    }
    Some(())
}

fn scan_compare(message: &Bytes, compare: &[u8]) -> Option<KeyRange> {
    let (mut key, mut end) = (Bytes::new(), Bytes::new());
    fields(compare, |tag, value| {
        match (tag, value) {
            (3, Value::Bytes(bytes)) => key = message.slice_ref(bytes),
            (64, Value::Bytes(bytes)) => end = message.slice_ref(bytes),
            _ => {}
        }
        Some(())
    })?;
    Some(KeyRange::new(key, end))
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a wire type that etcd's messages do not use.
    Other,
}

/// Visits the fields of a message; `None` if it is none, or if the visitor says so.
pub(super) fn fields<'a>(mut message: &'a [u8], mut visit: impl FnMut(u32, Value<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let (tag, value) = next_field(&mut message)?;
        visit(tag, value)?;
    }
    Some(())
}

/// Reads one field and moves behind it.
pub(super) fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let (tag, wire_type) = encoding::decode_key(message).ok()?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(encoding::decode_varint(message).ok()?),
        WireType::LengthDelimited => {
            let len = usize::try_from(encoding::decode_varint(message).ok()?).ok()?;
            let (value, rest) = message.split_at_checked(len)?;
            *message = rest;
            Value::Bytes(value)
        }
        other => {
            encoding::skip_field(other, tag, message, DecodeContext::default()).ok()?;
            Value::Other
        }
    };
    Some((tag, value))
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
        request_op::Request, watch_request::RequestUnion,
    };
    use prost::Message as _;

    use super::*;

    fn scanned(path: &str, message: &impl prost::Message) -> Option<Asked> {
        scan(Method::find(path), &message.encode_to_vec().into())
    }

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn key(text: &'static str) -> KeyRange {
        KeyRange::Key(text.into())
    }

    #[test]
    fn a_range_tells_its_keys_and_whether_it_can_be_paged() {
        let mut range = RangeRequest { key: "a".into(), range_end: "b".into(), limit: 7, ..Default::default() };
        let asked = scanned("/etcdserverpb.KV/Range", &range).unwrap();
        assert_eq!(asked.keys.as_slice(), [KeyRange::Range("a".into(), "b".into())]);
        assert_eq!(asked.range, Some(RangeAsked { limit: 7, plain: true, ..Default::default() }));
        range.sort_target = 2;
        assert!(!scanned("/etcdserverpb.KV/Range", &range).unwrap().range.unwrap().plain);
        range.sort_target = 0;
        range.min_mod_revision = -1;
        assert!(!scanned("/etcdserverpb.KV/Range", &range).unwrap().range.unwrap().plain);
    }

    #[test]
    fn a_txn_shows_every_operation_however_deep() {
        let put = |name: &'static str, value: &'static str| {
            op(Request::RequestPut(PutRequest {
                key: name.into(),
                value: value.into(),
                lease: 5,
                ..Default::default()
            }))
        };
        let mut txn = TxnRequest { success: vec![put("deep", "1234")], ..Default::default() };
        for _ in 0..40 {
            txn = TxnRequest { failure: vec![op(Request::RequestTxn(txn))], ..Default::default() };
        }
        txn.compare = vec![Compare { key: "guard".into(), ..Default::default() }];
        txn.success = vec![
            put("flat", "12"),
            op(Request::RequestDeleteRange(DeleteRangeRequest { key: "gone".into(), ..Default::default() })),
        ];
        let asked = scanned("/etcdserverpb.KV/Txn", &txn).unwrap();
        let keys = ["guard", "flat", "gone", "deep"].map(key);
        assert_eq!(asked.keys.as_slice(), keys);
        assert_eq!((asked.ops, asked.writes, asked.lease), (3, [2, 1], 5));
        let puts: Vec<_> = asked.puts.iter().map(|put| (put.key, put.value_bytes)).collect();
        assert_eq!(puts, [(1, 2), (3, 4)]);
    }

    #[test]
    fn a_lock_of_etcds_clients_is_told_from_other_writes() {
        let put = |key: &str, lease| PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
        let lock = |put: PutRequest| TxnRequest {
            success: vec![op(Request::RequestPut(put)), op(Request::RequestRange(RangeRequest::default()))],
            failure: vec![op(Request::RequestRange(RangeRequest::default()))],
            ..Default::default()
        };
        let elects = |txn: &TxnRequest| scanned("/etcdserverpb.KV/Txn", txn).unwrap().elects();
        assert!(elects(&lock(put("/my-lock/694d5765fc71500b", 0x694d_5765_fc71_500b))));
        assert!(!elects(&lock(put("/my-lock/694d5765fc71500b", 0x694d))), "another lease");
        assert!(!elects(&lock(put("/my-lock/0", 0))), "no lease");
        let mut more = lock(put("/my-lock/7b", 0x7b));
        more.success.push(op(Request::RequestPut(put("/elsewhere", 0x7b))));
        assert!(!elects(&more), "something else beside it");
    }

    #[test]
    fn a_key_is_no_copy_and_an_unknown_field_is_no_hindrance() {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let mut message = put.encode_to_vec();
        encoding::fixed64::encode(99, &5, &mut message);
        message.extend_from_slice(b"\x9b\x06\x08\x01\x9c\x06"); // a group
        let message = Bytes::from(message);
        let asked = scan(Method::find("/etcdserverpb.KV/Put"), &message).unwrap();
        let [KeyRange::Key(found)] = &asked.keys[..] else { panic!("{asked:?}") };
        assert_eq!(found.as_ptr(), message[2..].as_ptr());
    }

    #[test]
    fn the_last_of_a_field_given_twice_counts() {
        let first = PutRequest { key: "free".into(), ..Default::default() };
        let mut message = first.encode_to_vec();
        PutRequest { key: "limited".into(), ..Default::default() }.encode(&mut message).unwrap();
        let asked = scan(Method::find("/etcdserverpb.KV/Put"), &message.into()).unwrap();
        assert_eq!(asked.keys.as_slice(), [key("limited")]);
    }

    #[test]
    fn what_is_no_message_is_nothing() {
        for bytes in [&b"\x0a"[..], b"\x0a\x05ab", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00"] {
            assert_eq!(scan(Method::find("/etcdserverpb.KV/Range"), &Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_watch_request_is_a_create_or_nothing_to_us() {
        let create = WatchCreateRequest { key: "a".into(), start_revision: 9, ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let asked = scan_watch(&create.encode_to_vec().into());
        assert_eq!(asked, Some(WatchAsked::Create { keys: key("a"), start_revision: 9 }));
        let progress = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(Default::default())) };
        assert_eq!(scan_watch(&progress.encode_to_vec().into()), Some(WatchAsked::Other));
    }
}
