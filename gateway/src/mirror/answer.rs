//! Range results on their way to a client.
//!
//! A response is one gRPC message, whatever it holds, and a list of everything is hundreds of megabytes. Its length is
//! known before any of it is written, so it is written piece by piece as the client takes it: what waits is a pointer
//! for each key, and the records are the mirror's own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use forebay_edge::{Body, BoxError, Response, grpc};
use forebay_keyspace::{Form, Version, eval::RangeResult};
use forebay_proto::etcdserverpb::{RangeResponse, ResponseHeader};
use http::HeaderMap;
use http_body::Frame;
use prost::Message as _;
use tonic::Status;

/// The field of `RangeResponse` that holds the keys.
const KVS: u8 = 2;
/// The largest message that is sent; etcd's number.
const MESSAGE_MAX: usize = i32::MAX as usize;
/// How large a piece is, its last record left aside.
const PIECE_BYTES: usize = 128 << 10;

/// A response with a result, whose header is `base` at the result's revision.
pub(super) fn respond(result: RangeResult, base: &ResponseHeader) -> Response {
    let RangeResult { revision, kvs, form, more, count } = result;
    let header = ResponseHeader { revision, ..*base };
    let head = RangeResponse { header: Some(header), ..Default::default() }.encode_to_vec();
    let tail = RangeResponse { more, count, ..Default::default() }.encode_to_vec();
    let len = head.len() + kvs.iter().map(|version| version.field_len(form)).sum::<usize>() + tail.len();
    if len > MESSAGE_MAX {
        let text = format!("grpc: trying to send message larger than max ({len} vs. {MESSAGE_MAX})");
        return grpc::refuse(Status::resource_exhausted(text));
    }
    let mut out = grpc::frame(len.min(2 * PIECE_BYTES));
    out[1..grpc::PREFIX].copy_from_slice(&u32::try_from(len).expect("it is below the largest message").to_be_bytes());
    out.extend_from_slice(&head);
    if len <= PIECE_BYTES {
        kvs.iter().for_each(|version| version.write_field(KVS, form, &mut out));
        out.extend_from_slice(&tail);
        return grpc::reply(out.freeze());
    }
    grpc::respond(Body::new(Pieces { out, kvs: kvs.into_iter(), form, tail: Some(tail), trailers: Some(ok()) }))
}

fn ok() -> HeaderMap {
    grpc::trailers(&Status::ok(""))
}

/// A message that is written as it is taken.
struct Pieces {
    out: BytesMut,
    kvs: std::vec::IntoIter<Version>,
    form: Form,
    tail: Option<Vec<u8>>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        while this.out.len() < PIECE_BYTES {
            let Some(version) = this.kvs.next() else {
                if let Some(tail) = this.tail.take() {
                    this.out.extend_from_slice(&tail);
                }
                break;
            };
            version.write_field(KVS, this.form, &mut this.out);
        }
        if this.out.is_empty() {
            return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let piece = std::mem::take(&mut this.out).freeze();
        this.out.reserve(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use forebay_keyspace::{Keyspace, eval};
    use forebay_proto::etcdserverpb::RangeRequest;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_response_in_pieces_is_the_one_that_etcd_would_encode() {
        for (keys, value_bytes) in [(0, 0), (3, 10), (1000, 1000), (2, 3 << 20)] {
            let mut keyspace = Keyspace::new();
            let mut txn = keyspace.write();
            for key in 0..keys {
                txn.put(format!("key{key:05}").as_bytes(), &vec![b'v'; value_bytes], 7);
            }
            txn.end();
            keyspace.publish();
            let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), limit: 900, ..Default::default() };
            let result = keyspace.reader().evaluate(|snapshot| eval::range(snapshot, &request)).unwrap();
            let base = ResponseHeader { cluster_id: 1, member_id: 2, raft_term: 3, revision: 0 };
            let mut whole = BytesMut::new();
            eval::Response::encode(&result, &base, &mut whole);
            let collected = respond(result, &base).into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            let sent = collected.to_bytes();
            assert_eq!(sent[..5], [&[0], &u32::try_from(whole.len()).unwrap().to_be_bytes()[..]].concat());
            assert!(sent[5..] == whole[..], "{keys} keys of {value_bytes} bytes");
        }
    }
}
