//! gRPC's responses: their messages, and the status behind them.

use bytes::Bytes;
use forebay_edge::{
    Body, BoxError, Response,
    grpc::{self, Replies},
};
use futures::FutureExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::{Code, Status};

use crate::{grpc::pieces, input::Input};

/// A response means the same in whatever pieces it comes.
///
/// Input: a code, then chunks: the text of a status, its details, the sizes of the pieces; the rest is the body.
pub fn grpc_replies(data: &[u8]) {
    let mut input = Input::new(data);
    let code = Code::from_i32((input.byte() % 17).into());
    let text = String::from_utf8_lossy(input.chunk()).into_owned();
    let status = Status::with_details(code, text, Bytes::copy_from_slice(input.chunk()));
    let trailers = grpc::trailers(&status);
    let read = Status::from_header_map(&trailers).expect("trailers carry a status");
    assert_eq!((read.code(), read.message(), read.details()), (code, status.message(), status.details()));

    let sizes = input.chunk();
    let body = Bytes::copy_from_slice(input.rest());
    let answered = |pieces: Vec<Bytes>| {
        let data = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
        let frames: Vec<_> = data.chain([Ok(Frame::trailers(trailers.clone()))]).collect();
        let (_, mut replies) = Replies::new(Response::new(Body::new(StreamBody::new(futures::stream::iter(frames)))));
        let mut messages = Vec::new();
        loop {
            match replies.next().now_or_never().expect("the body is always ready") {
                Ok(message) => messages.push(message),
                Err(end) => return (messages, end.code(), end.message().to_owned()),
            }
        }
    };
    let whole = answered(vec![body.clone()]);
    assert_eq!(whole, answered(pieces(&body, sizes)));
    let framed: usize = whole.0.iter().map(|message| grpc::PREFIX + message.len()).sum();
    assert!(framed <= body.len(), "messages are what stood there");
    if whole.1 == Code::Ok {
        assert_eq!((framed, code), (body.len(), Code::Ok), "nothing is left behind a response that went well");
    }
}
