//! Decoding txns inside txns.
//!
//! The only requests that nest are txns, two messages for each: a txn has operations, an operation may be a txn. prost
//! reads a hundred messages inside each other, in whatever field; etcd takes as many nested txns as it takes operations
//! of one, 128 by default. What prost gives up on is measured first, without recursion, and then decoded with one.

use bytes::Bytes;
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::etcdserverpb::{Compare, InternalRaftRequest, RequestOp, TxnRequest, request_op::Request};

/// Txns inside each other that are decoded. Everything that handles a txn recurses once per level, so this bounds the
/// stack. etcd has no such bound, but no member takes more who was not told so with `--max-txn-ops`.
pub const TXN_DEPTH_MAX: usize = 256;

/// Messages inside each other that Go's decoder reads.
const GO_DEPTH_MAX: usize = 10_000;

/// Why bytes are no txn.
#[derive(Debug, thiserror::Error)]
pub enum NestingError {
    /// They are no message.
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    /// More than [`TXN_DEPTH_MAX`] txns inside each other.
    #[error("txns are nested {0} levels deep, and {TXN_DEPTH_MAX} are the most that are decoded")]
    TooDeep(usize),
    /// More than etcd's decoder reads; this is what it says.
    #[error("proto:\u{a0}exceeded maximum recursion depth")]
    Recursion,
}

/// Decodes a txn.
pub fn decode_txn(bytes: Bytes) -> Result<TxnRequest, NestingError> {
    TxnRequest::decode(bytes.clone()).or_else(|_| match txn_depth(&bytes)? {
        depth if depth <= TXN_DEPTH_MAX => Ok(txn(bytes)?),
        depth => Err(NestingError::TooDeep(depth)),
    })
}

/// Visits every operation and every compare of a txn, in both branches and however deep.
pub fn each_part(txn: &mut TxnRequest, op: &mut impl FnMut(&mut Request), compare: &mut impl FnMut(&mut Compare)) {
    txn.compare.iter_mut().for_each(&mut *compare);
    for request in txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut()) {
        match request {
            Request::RequestTxn(txn) => each_part(txn, op, compare),
            request => op(request),
        }
    }
}

/// Decodes the content of a raft entry.
pub fn decode_raft_request(bytes: Bytes) -> Result<InternalRaftRequest, NestingError> {
    InternalRaftRequest::decode(bytes.clone()).or_else(|_| {
        let mut request = InternalRaftRequest::default();
        for field in Fields(bytes) {
            match field? {
                Field { number: raft_field::TXN, value: Some(value), .. } => {
                    extend(request.txn.get_or_insert_default(), decode_txn(value)?);
                }
                field => request.merge(field.whole)?,
            }
        }
        Ok(request)
    })
}

mod raft_field {
    pub(super) const TXN: u32 = 6;
}

mod txn_field {
    pub(super) const SUCCESS: u32 = 2;
    pub(super) const FAILURE: u32 = 3;
}

mod op_field {
    pub(super) const TXN: u32 = 4;
}

/// How many txns are inside each other, the outermost included.
fn txn_depth(bytes: &Bytes) -> Result<usize, NestingError> {
    // Txns and operations in turns, each with what is left of it.
    let mut open = vec![Fields(bytes.clone())];
    let mut deepest = 1;
    while let Some(fields) = open.last_mut() {
        let Some(field) = fields.next().transpose()? else {
            open.pop();
            continue;
        };
        let is_txn = open.len() % 2 == 1;
        let nests = match is_txn {
            true => matches!(field.number, txn_field::SUCCESS | txn_field::FAILURE),
            false => field.number == op_field::TXN,
        };
        if let Some(value) = field.value.filter(|_| nests) {
            if open.len() == GO_DEPTH_MAX {
                return Err(NestingError::Recursion);
            }
            open.push(Fields(value));
            deepest = deepest.max(open.len());
        }
    }
    Ok(deepest.div_ceil(2))
}

fn txn(bytes: Bytes) -> Result<TxnRequest, DecodeError> {
    let mut txn = TxnRequest::default();
    for field in Fields(bytes) {
        match field? {
            Field { number: txn_field::SUCCESS, value: Some(value), .. } => txn.success.push(op(value)?),
            Field { number: txn_field::FAILURE, value: Some(value), .. } => txn.failure.push(op(value)?),
            field => txn.merge(field.whole)?,
        }
    }
    Ok(txn)
}

fn op(bytes: Bytes) -> Result<RequestOp, DecodeError> {
    let mut op = RequestOp::default();
    for field in Fields(bytes) {
        match field? {
            Field { number: op_field::TXN, value: Some(value), .. } => {
                let more = txn(value)?;
                match &mut op.request {
                    Some(Request::RequestTxn(txn)) => extend(txn, more),
                    // The last kind of request that is named is the one.
                    other => *other = Some(Request::RequestTxn(more)),
                }
            }
            field => op.merge(field.whole)?,
        }
    }
    Ok(op)
}

/// A message that comes in two pieces is both together.
fn extend(txn: &mut TxnRequest, more: TxnRequest) {
    txn.compare.extend(more.compare);
    txn.success.extend(more.success);
    txn.failure.extend(more.failure);
}

/// The fields of an encoded message, in their order.
struct Fields(Bytes);

struct Field {
    number: u32,
    /// Key and value.
    whole: Bytes,
    /// The value, of a field that has a length.
    value: Option<Bytes>,
}

impl Fields {
    fn take(&mut self) -> Result<Field, DecodeError> {
        let mut whole = self.0.clone();
        let (number, wire_type) = decode_key(&mut self.0)?;
        let mut value = self.0.clone();
        skip_field(wire_type, number, &mut self.0, DecodeContext::default())?;
        whole.truncate(whole.len() - self.0.len());
        value.truncate(value.len() - self.0.len());
        let is_delimited = wire_type == WireType::LengthDelimited;
        if is_delimited {
            decode_varint(&mut value)?;
        }
        Ok(Field { number, whole, value: is_delimited.then_some(value) })
    }
}

impl Iterator for Fields {
    type Item = Result<Field, DecodeError>;

    /// Not to be called again after an error.
    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestHeader};

    fn put(key: &str) -> RequestOp {
        let put = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn range(key: &str) -> RequestOp {
        let range = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        RequestOp { request: Some(Request::RequestRange(range)) }
    }

    /// A txn in a txn and so on, `depth` of them, with neighbours on every level.
    fn nested(depth: usize) -> TxnRequest {
        let innermost = TxnRequest { success: vec![put("deep")], ..Default::default() };
        (1..depth).fold(innermost, |inner, level| {
            let key = level.to_string();
            let op = RequestOp { request: Some(Request::RequestTxn(inner)) };
            let compare = vec![Compare { key: key.clone().into(), ..Default::default() }];
            let (mut nest, rest) = (vec![put(&key), op, range(&key)], vec![range(&key)]);
            match level % 2 {
                0 => TxnRequest { compare, success: nest, failure: rest },
                _ => TxnRequest { compare, success: rest, failure: std::mem::take(&mut nest) },
            }
        })
    }

    /// The bytes of so many txns inside each other, made from the inside out: prost's own encoding takes quadratic time.
    fn encoded(depth: usize) -> Bytes {
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            out.extend(inner);
            out
        };
        (1..depth).fold(Vec::new(), |inner, _| wrap(0x12, &wrap(0x22, &inner))).into()
    }

    #[test]
    fn a_txn_is_what_it_was_at_every_depth() {
        for depth in [1, 2, 49, 50, 51, 128, TXN_DEPTH_MAX] {
            let wanted = nested(depth);
            assert_eq!(decode_txn(wanted.encode_to_vec().into()).unwrap(), wanted, "{depth}");
            let header = Some(RequestHeader { id: 7, ..Default::default() });
            let request = InternalRaftRequest { header, txn: Some(wanted), ..Default::default() };
            assert_eq!(decode_raft_request(request.encode_to_vec().into()).unwrap(), request, "{depth}");
        }
    }

    #[test]
    fn too_deep_is_said_as_etcd_says_it_from_where_its_decoder_gives_up() {
        let depth_of = |depth| match decode_txn(encoded(depth)) {
            Err(NestingError::TooDeep(depth)) => depth,
            other => panic!("{depth}: {other:?}"),
        };
        assert_eq!((depth_of(TXN_DEPTH_MAX + 1), depth_of(5_000)), (TXN_DEPTH_MAX + 1, 5_000));
        assert!(matches!(decode_txn(encoded(5_001)), Err(NestingError::Recursion)));
        assert!(matches!(decode_txn(encoded(100_000)), Err(NestingError::Recursion)));
    }

    #[test]
    fn our_own_reading_agrees_with_prosts_where_both_can_read() {
        let mut pieces = nested(20).encode_to_vec();
        // The same txn in two pieces, and unknown fields of every wire type between them.
        pieces.extend([0x78, 1, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7d, 1, 2, 3, 4, 0x7b, 0x08, 1, 0x7c, 0x7a, 1, 9]);
        pieces.extend(nested(3).encode_to_vec());
        let bytes = Bytes::from(pieces);
        assert_eq!(txn(bytes.clone()).unwrap(), TxnRequest::decode(bytes.clone()).unwrap());
        for end in 0..bytes.len() {
            let cut = bytes.slice(..end);
            assert_eq!(txn(cut.clone()).ok(), TxnRequest::decode(cut).ok(), "{end} bytes");
        }
        // An operation that is a txn twice is one txn; one that is something else in the end is that.
        let twice = [&nested_op()[..], &nested_op()].concat();
        let then_put = [&nested_op()[..], &put("k").encode_to_vec()].concat();
        for bytes in [twice, then_put] {
            let bytes = Bytes::from(bytes);
            assert_eq!(op(bytes.clone()).unwrap(), RequestOp::decode(bytes).unwrap());
        }
    }

    fn nested_op() -> Vec<u8> {
        RequestOp { request: Some(Request::RequestTxn(nested(2))) }.encode_to_vec()
    }
}
