//! The request body on its way to the upstream: bounded, and kept as long as it may have to be sent
//! again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use forebay_edge::{
    Body,
    grpc::{Follower, PREFIX},
};
use tonic::Status;

use crate::{
    call::Failure,
    methods::{Method, Shape},
};

/// What is kept of a stream's requests; beyond it the call stays with its endpoint. Single calls are
/// kept whole, since the message limit bounds them.
const STREAM_KEPT_MAX: usize = 64 << 10;

/// A request body that can be read again from its start until it has grown too long.
pub(super) struct Upload {
    body: Body,
    /// Every piece read so far; `None` once that is too much or not needed any more.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    kept_max: usize,
    /// How many of the kept pieces were handed out since the last rewind.
    replayed: usize,
    messages: Follower,
    message_bytes_max: usize,
    /// Whether the body has ended.
    ended: bool,
}

impl Upload {
    pub(super) fn new(method: &Method, body: Body, message_bytes_max: usize) -> Upload {
        let kept_max = if method.shape == Shape::Duplex { STREAM_KEPT_MAX } else { message_bytes_max + PREFIX };
        let ended = http_body::Body::is_end_stream(&body);
        Upload {
            body,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            kept_max,
            replayed: 0,
            messages: Follower::default(),
            message_bytes_max,
            ended,
        }
    }

    /// Reads the first piece, so that a refused message is never forwarded and a client that stalls
    /// before it holds no upstream stream.
    pub(super) async fn prime(&mut self) -> Result<(), Failure> {
        if let Some(Err(failure)) = std::future::poll_fn(|cx| self.poll_piece(cx)).await {
            return Err(failure);
        }
        self.replayed = 0;
        Ok(())
    }

    /// The next piece; `None` when the body ended.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(piece) = self.kept.as_ref().and_then(|kept| kept.get(self.replayed)) {
            self.replayed += 1;
            return Poll::Ready(Some(Ok(piece.clone())));
        }
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.body), cx));
            self.ended = http_body::Body::is_end_stream(&self.body);
            let Some(frame) = frame else {
                self.ended = true;
                return Poll::Ready(None);
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Some(Err(Failure::from_body(error)))),
            };
            // gRPC requests have no trailers; what a client sends there means nothing to etcd.
            let Ok(piece) = frame.into_data() else { continue };
            if let Err(status) = self.measure(&piece) {
                return Poll::Ready(Some(Err(Failure::Refused(status))));
            }
            self.keep(&piece);
            return Poll::Ready(Some(Ok(piece)));
        }
    }

    /// Whether everything was handed out.
    pub(super) fn is_ended(&self) -> bool {
        self.ended && self.kept.as_ref().is_none_or(|kept| kept.len() == self.replayed)
    }

    /// Starts again from the first piece, if that is still possible.
    pub(super) fn rewind(&mut self) -> bool {
        self.replayed = 0;
        self.kept.is_some()
    }

    /// The upstream has begun to answer: nothing will be sent again.
    pub(super) fn settle(&mut self) {
        let all_handed_out = self.kept.as_ref().is_some_and(|kept| kept.len() == self.replayed);
        if all_handed_out {
            self.kept = None;
        } else {
            self.kept_max = 0;
        }
    }

    /// Refuses a message above the limit by its prefix, with grpc-go's words.
    fn measure(&mut self, piece: &[u8]) -> Result<(), Status> {
        let (max, mut longest) = (self.message_bytes_max, 0);
        self.messages.read(piece, |len| longest = longest.max(len));
        if longest > max {
            let text = format!("grpc: received message larger than max ({longest} vs. {max})");
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }

    fn keep(&mut self, piece: &Bytes) {
        self.kept_bytes += piece.len();
        if self.kept_bytes > self.kept_max {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
            self.replayed = kept.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    fn upload(path: &str, pieces: Vec<Bytes>, max: usize) -> Upload {
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
        Upload::new(Method::find(path), Body::new(StreamBody::new(futures::stream::iter(frames))), max)
    }

    async fn all(upload: &mut Upload) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| upload.poll_piece(cx)).await {
            bytes.extend_from_slice(&piece?);
        }
        assert!(upload.is_ended());
        Ok(bytes)
    }

    fn messages(lens: &[usize]) -> Bytes {
        let mut bytes = BytesMut::new();
        for len in lens {
            bytes.put_u8(0);
            bytes.put_u32(*len as u32);
            bytes.put_bytes(7, *len);
        }
        bytes.freeze()
    }

    fn cut(bytes: &Bytes, size: usize) -> Vec<Bytes> {
        bytes.chunks(size).map(Bytes::copy_from_slice).collect()
    }

    #[tokio::test]
    async fn messages_are_measured_however_they_are_cut() {
        let fits = messages(&[0, 3, 100, 0, 100]);
        let exceeds = messages(&[100, 101]);
        for size in [1, 2, 4, 5, 6, 50, 1000] {
            let mut upload_fits = upload("/etcdserverpb.Watch/Watch", cut(&fits, size), 100);
            assert_eq!(all(&mut upload_fits).await.unwrap(), fits, "pieces of {size}");
            let mut upload_exceeds = upload("/etcdserverpb.Watch/Watch", cut(&exceeds, size), 100);
            match all(&mut upload_exceeds).await {
                Err(Failure::Refused(status)) => {
                    assert_eq!(status.message(), "grpc: received message larger than max (101 vs. 100)");
                }
                other => panic!("pieces of {size}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_call_can_be_sent_again_until_it_is_settled() {
        let bytes = messages(&[1000]);
        let mut upload = upload("/etcdserverpb.KV/Range", cut(&bytes, 300), 1000);
        upload.prime().await.unwrap();
        for _ in 0..2 {
            assert_eq!(all(&mut upload).await.unwrap(), bytes);
            assert!(upload.rewind());
        }
        assert_eq!(all(&mut upload).await.unwrap(), bytes);
        upload.settle();
        assert!(!upload.rewind());
    }

    #[tokio::test]
    async fn a_long_stream_is_not_kept() {
        let bytes = messages(&[1000; 100]);
        let mut upload = upload("/etcdserverpb.Watch/Watch", cut(&bytes, 16_384), 2000);
        assert_eq!(all(&mut upload).await.unwrap(), bytes);
        assert!(!upload.rewind());
    }
}
