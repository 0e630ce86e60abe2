//! Writing responses without building messages.

use bytes::BytesMut;
use forebay_proto::etcdserverpb::ResponseHeader;
use prost::Message as _;

use super::{DeleteRangeResult, OpResult, PutResult, RangeResult, TxnResult};
use crate::{
    record::{Form, Version},
    varint::{int_field_len, message_field_len, put_int_field, put_message_head},
};

/// The field numbers of `ResponseHeader`, `RangeResponse`, `PutResponse`, `DeleteRangeResponse`, `TxnResponse` and
/// `ResponseOp`.
mod field {
    pub(super) const HEADER: u8 = 1;
    pub(super) const HEADER_REVISION: u8 = 3;
    pub(super) const RANGE_MORE: u8 = 3;
    pub(super) const RANGE_COUNT: u8 = 4;
    pub(super) const PUT_PREV_KV: u8 = 2;
    pub(super) const DELETE_DELETED: u8 = 2;
    pub(super) const DELETE_PREV_KVS: u8 = 3;
    pub(super) const TXN_SUCCEEDED: u8 = 2;
    pub(super) const TXN_RESPONSES: u8 = 3;
    pub(super) const OP_RANGE: u8 = 1;
    pub(super) const OP_PUT: u8 = 2;
    pub(super) const OP_DELETE_RANGE: u8 = 3;
    pub(super) const OP_TXN: u8 = 4;
}

/// The field of `RangeResponse` that holds the keys.
pub(super) const RANGE_KVS: u8 = 2;

/// A result that can be written as its response message.
pub trait Response {
    /// What the header says.
    fn revision(&self) -> i64;

    /// The length of everything but the header.
    fn body_len(&self) -> usize;

    /// Writes everything but the header.
    fn write_body(&self, out: &mut BytesMut);

    /// The length of the message, with a header like `base`.
    fn encoded_len(&self, base: &ResponseHeader) -> usize {
        message_field_len(self.header(base).encoded_len()) + self.body_len()
    }

    /// Writes the message. Of the header, the revision is the result's own and the rest is `base`'s.
    fn encode(&self, base: &ResponseHeader, out: &mut BytesMut) {
        out.reserve(self.encoded_len(base));
        let header = self.header(base);
        put_message_head(field::HEADER, header.encoded_len(), out);
        header.encode_raw(out);
        self.write_body(out);
    }

    /// The header of the message.
    fn header(&self, base: &ResponseHeader) -> ResponseHeader {
        ResponseHeader { revision: self.revision(), ..*base }
    }
}

/// The length of a response inside a txn's, whose header has nothing but a revision.
fn nested_len(response: &impl Response) -> usize {
    message_field_len(int_field_len(response.revision())) + response.body_len()
}

fn write_nested(number: u8, response: &impl Response, out: &mut BytesMut) {
    put_message_head(number, nested_len(response), out);
    put_message_head(field::HEADER, int_field_len(response.revision()), out);
    put_int_field(field::HEADER_REVISION, response.revision(), out);
    response.write_body(out);
}

pub(super) fn kvs_len(kvs: &[Version], form: Form) -> usize {
    kvs.iter().map(|version| version.field_len(form)).sum()
}

pub(super) fn write_kvs(number: u8, kvs: &[Version], form: Form, out: &mut BytesMut) {
    kvs.iter().for_each(|version| version.write_field(number, form, out));
}

impl Response for RangeResult {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn body_len(&self) -> usize {
        kvs_len(&self.kvs, self.form) + int_field_len(self.more.into()) + int_field_len(self.count)
    }

    fn write_body(&self, out: &mut BytesMut) {
        write_kvs(RANGE_KVS, &self.kvs, self.form, out);
        put_int_field(field::RANGE_MORE, self.more.into(), out);
        put_int_field(field::RANGE_COUNT, self.count, out);
    }
}

impl Response for PutResult {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn body_len(&self) -> usize {
        kvs_len(self.prev.as_slice(), Form::Full)
    }

    fn write_body(&self, out: &mut BytesMut) {
        write_kvs(field::PUT_PREV_KV, self.prev.as_slice(), Form::Full, out);
    }
}

impl Response for DeleteRangeResult {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn body_len(&self) -> usize {
        int_field_len(self.deleted) + kvs_len(&self.prev, Form::Full)
    }

    fn write_body(&self, out: &mut BytesMut) {
        put_int_field(field::DELETE_DELETED, self.deleted, out);
        write_kvs(field::DELETE_PREV_KVS, &self.prev, Form::Full, out);
    }
}

impl Response for TxnResult {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn body_len(&self) -> usize {
        let ops: usize = self.responses.iter().map(|op| message_field_len(op.len())).sum();
        int_field_len(self.succeeded.into()) + ops
    }

    fn write_body(&self, out: &mut BytesMut) {
        put_int_field(field::TXN_SUCCEEDED, self.succeeded.into(), out);
        for op in &self.responses {
            put_message_head(field::TXN_RESPONSES, op.len(), out);
            op.write(out);
        }
    }
}

impl OpResult {
    /// The length of the `ResponseOp`.
    fn len(&self) -> usize {
        match self {
            OpResult::Range(range) => message_field_len(nested_len(range)),
            OpResult::Put(put) => message_field_len(nested_len(put)),
            OpResult::DeleteRange(delete) => message_field_len(nested_len(delete)),
            OpResult::Txn(txn) => message_field_len(nested_len(txn)),
            OpResult::Nothing => 0,
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            OpResult::Range(range) => write_nested(field::OP_RANGE, range, out),
            OpResult::Put(put) => write_nested(field::OP_PUT, put, out),
            OpResult::DeleteRange(delete) => write_nested(field::OP_DELETE_RANGE, delete, out),
            OpResult::Txn(txn) => write_nested(field::OP_TXN, txn, out),
            OpResult::Nothing => {}
        }
    }
}
