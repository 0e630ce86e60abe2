//! What members send each other: the streams of raft messages.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forebay_edge::BoxError;
use forebay_proto::raftpb::Message;
use forebay_server::peer::codec::{Bounded, Decoder, Encoder, Kind};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::{grpc::pieces, input::Input};

/// A stream means the same in whatever pieces it comes, and what was read from one is read again from how we write it.
///
/// Input: which of the streams, a chunk with the sizes of the pieces; the rest is the stream.
pub fn peer_streams(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = if input.flag() { Kind::MsgApp } else { Kind::Message };
    let sizes = input.chunk();
    let stream = Bytes::copy_from_slice(input.rest());
    let whole = read(kind, vec![stream.clone()]);
    assert_eq!(whole, read(kind, pieces(&stream, sizes)));
    // A whole append may be one that is written as what goes on, and then says less.
    if kind == Kind::Message {
        let mut encoder = Encoder::new(kind);
        let mut out = BytesMut::new();
        whole.0.iter().for_each(|message| encoder.encode(message, &mut out));
        assert_eq!(read(kind, vec![out.freeze()]).0, whole.0);
    }
}

/// Every message, and how the stream ended.
fn read(kind: Kind, pieces: Vec<Bytes>) -> (Vec<Message>, String) {
    let frames: Vec<_> = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(piece))).collect();
    let body = StreamBody::new(futures::stream::iter(frames));
    let mut bytes = Bounded::new(body, Duration::from_secs(60));
    let mut decoder = Decoder::new(kind, 1, 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
    let mut messages = Vec::new();
    loop {
        match runtime.block_on(decoder.decode(&mut bytes)) {
            Ok(message) => messages.extend(message),
            Err(end) => return (messages, end.to_string()),
        }
    }
}
