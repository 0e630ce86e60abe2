//! gRPC's framing of request messages.

use std::time::Instant;

use bytes::Bytes;
use forebay_edge::{
    Body, BoxError,
    grpc::{self, Messages},
};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use tonic::Status;

use crate::input::Input;

/// A body means the same in whatever pieces it comes, and that is what its prefixes say.
///
/// Input: largest message / 4, whether a compression is named, then chunks: the timeout, the sizes of the pieces; the
/// rest is the body.
pub fn grpc_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let max = usize::from(input.byte()) * 4;
    let mut headers = HeaderMap::new();
    if input.flag() {
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    if let Ok(timeout) = HeaderValue::from_bytes(input.chunk()) {
        headers.insert("grpc-timeout", timeout);
        let now = Instant::now();
        if let Ok(Some(deadline)) = grpc::deadline(&headers, now) {
            assert!(deadline >= now, "a deadline does not lie before the call");
        }
    }
    let sizes = input.chunk();
    let body = Bytes::copy_from_slice(input.rest());

    let whole = read(&headers, vec![body.clone()], max);
    let pieces = read(&headers, pieces(&body, sizes), max);
    assert_eq!(whole.0, pieces.0);
    assert_eq!(outcome(&whole.1), outcome(&pieces.1));
    let (messages, is_whole) = expected(&body, max);
    assert_eq!(whole.0, messages);
    assert_eq!(whole.1.is_ok(), is_whole, "{:?}", whole.1);
}

fn outcome(result: &Result<(), Status>) -> Option<(tonic::Code, &str)> {
    result.as_ref().err().map(|status| (status.code(), status.message()))
}

/// Every message, and how the stream ended.
fn read(headers: &HeaderMap, pieces: Vec<Bytes>, max: usize) -> (Vec<Bytes>, Result<(), Status>) {
    let frames = pieces.into_iter().map(|piece| Ok::<_, BoxError>(http_body::Frame::data(piece)));
    let body = Body::new(StreamBody::new(futures::stream::iter(frames)));
    let mut messages = Messages::<()>::new(headers, body, max);
    let mut read = Vec::new();
    let end = loop {
        match messages.next_bytes().now_or_never().expect("the body is always ready") {
            Ok(Some(message)) => read.push(message),
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    (read, end)
}

/// Cuts a body; a size of 0 is an empty piece, and the last piece is all that is left.
pub(crate) fn pieces(body: &Bytes, sizes: &[u8]) -> Vec<Bytes> {
    let mut rest = body.clone();
    let mut pieces: Vec<Bytes> = sizes.iter().map(|size| rest.split_to(rest.len().min((*size).into()))).collect();
    pieces.push(rest);
    pieces
}

/// The messages that a body holds, and whether nothing is wrong behind them.
fn expected(mut body: &[u8], max: usize) -> (Vec<Bytes>, bool) {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<{ grpc::PREFIX }>() {
        let [flag, len @ ..] = *prefix;
        let len = u32::from_be_bytes(len) as usize;
        if flag != 0 || len > max || len > rest.len() {
            return (messages, false);
        }
        let (message, rest) = rest.split_at(len);
        messages.push(Bytes::copy_from_slice(message));
        body = rest;
    }
    (messages, body.is_empty())
}
