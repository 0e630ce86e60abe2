//! Reads a call's one message and puts the body together again.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use forebay_edge::{Body, BoxError, grpc::PREFIX};
use http_body::Frame;
use http_body_util::BodyExt as _;

use crate::call::Failure;

/// A request body of which the first message was read.
pub(crate) struct Intake {
    /// The first message without its prefix; `None` if there is none that can be read: it is cut off,
    /// compressed or too long, which the upstream says better.
    pub(crate) message: Option<Bytes>,
    /// What came, and what is still to come.
    pub(crate) body: Body,
}

/// Reads the first message, of at most `max` bytes. `reserve` is told its length before it is kept.
pub(crate) async fn read<E: From<Failure>>(
    mut body: Body,
    max: usize,
    reserve: impl AsyncFnOnce(usize) -> Result<(), E>,
) -> Result<Intake, E> {
    let mut pieces = VecDeque::new();
    let mut len = 0;
    let mut reserve = Some(reserve);
    loop {
        if let Some(wanted) = wanted(&pieces, len) {
            let compressed = pieces.iter().find_map(|piece: &Bytes| piece.first()) != Some(&0);
            if compressed || wanted > max + PREFIX {
                return Ok(Intake { message: None, body: rejoin(pieces, body) });
            }
            if let Some(reserve) = reserve.take() {
                reserve(wanted).await?;
            }
            if len >= wanted {
                let message = Some(first(&pieces, wanted));
                return Ok(Intake { message, body: rejoin(pieces, body) });
            }
        }
        let Some(frame) = body.frame().await else {
            return Ok(Intake { message: None, body: rejoin(pieces, body) });
        };
        // gRPC requests have no trailers; what a client sends there means nothing to etcd.
        if let Ok(piece) = frame.map_err(Failure::from_body)?.into_data() {
            len += piece.len();
            pieces.push_back(piece);
        }
    }
}

/// Bytes of the first message with its prefix, once that came.
fn wanted(pieces: &VecDeque<Bytes>, len: usize) -> Option<usize> {
    if len < PREFIX {
        return None;
    }
    let mut prefix = pieces.iter().flat_map(|piece| piece.iter()).skip(1);
    let mut next = || *prefix.next().expect("the length was checked");
    Some(PREFIX + u32::from_be_bytes([next(), next(), next(), next()]) as usize)
}

/// The first message: without a copy if it lies in one piece, which is the usual case.
fn first(pieces: &VecDeque<Bytes>, wanted: usize) -> Bytes {
    match pieces.front() {
        Some(piece) if piece.len() >= wanted => piece.slice(PREFIX..wanted),
        _ => {
            let mut whole = BytesMut::with_capacity(wanted);
            for piece in pieces {
                whole.extend_from_slice(&piece[..piece.len().min(wanted - whole.len())]);
            }
            whole.freeze().slice(PREFIX..)
        }
    }
}

fn rejoin(mut pieces: VecDeque<Bytes>, rest: Body) -> Body {
    let ended = http_body::Body::is_end_stream(&rest);
    match (pieces.len(), ended) {
        (0, _) => rest,
        (1, true) => Body::full(pieces.pop_front().expect("there is one")),
        _ => Body::new(Rejoined { pieces, rest }),
    }
}

struct Rejoined {
    pieces: VecDeque<Bytes>,
    rest: Body,
}

impl http_body::Body for Rejoined {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::StreamBody;

    use super::*;

    async fn intake(bytes: &'static [u8], size: usize, max: usize) -> (Option<Bytes>, Bytes) {
        let frames = bytes.chunks(size).map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece))));
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let intake = read::<Failure>(body, max, async |_| Ok(())).await.unwrap();
        (intake.message, intake.body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn the_first_message_is_read_and_the_body_is_as_it_was() {
        let two = b"\0\0\0\0\x03abc\0\0\0\0\x01d";
        for size in [1, 3, 5, 6, 8, 9, 100] {
            let (message, body) = intake(two, size, 3).await;
            assert_eq!((message.as_deref(), &body[..]), (Some(&b"abc"[..]), &two[..]), "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_passes() {
        for bytes in [&b""[..], b"\0\0\0", b"\0\0\0\0\x03ab", b"\x01\0\0\0\x01a", b"\0\0\0\0\x04abcd"] {
            let (message, body) = intake(bytes, 2, 3).await;
            assert_eq!((message, &body[..]), (None, bytes));
        }
    }
}
