//! Requests whose messages are compressed, as an etcd since 3.5 takes them: from here on they are not, so that everything
//! that judges a request reads what the upstream would.

use std::{
    io::{self, Read as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::HeaderValue;
use http_body::Frame;
use tonic::Status;

use super::{ENCODING, Pieces, framed, not_installed};
use crate::{Body, BoxError, Request};

/// The same request with messages that are not compressed, of at most `max` bytes each. Of other encodings than gzip the
/// first compressed message is refused: an upstream might know more of them.
pub fn inflated(mut request: Request, max: usize) -> Request {
    let Some(encoding) = request.headers().get(ENCODING).filter(|encoding| *encoding != "identity") else {
        return request;
    };
    let unknown = (encoding != "gzip").then(|| encoding.clone());
    if unknown.is_none() {
        request.headers_mut().remove(ENCODING);
    }
    request.map(|body| Body::new(Inflated { body, unknown, buffer: Pieces::default(), max }))
}

struct Inflated {
    body: Body,
    /// How messages are compressed, if it is not known here.
    unknown: Option<HeaderValue>,
    /// Received, of a message that is not whole yet, or behind one.
    buffer: Pieces,
    max: usize,
}

impl Inflated {
    /// The next message with its prefix, if it is whole.
    fn message(&mut self) -> Result<Option<Bytes>, Status> {
        let Some([flag, len @ ..]) = self.buffer.peek_prefix() else { return Ok(None) };
        let len = u32::from_be_bytes(len) as usize;
        if len > self.max {
            let text = format!("grpc: received message larger than max ({len} vs. {})", self.max);
            return Err(Status::resource_exhausted(text));
        }
        let Some(message) = self.buffer.take_message(len) else { return Ok(None) };
        match (flag, &self.unknown) {
            (0, _) => Ok(Some(framed(&message))),
            (1, None) => Ok(Some(framed(&inflate(&message, self.max)?))),
            (1, Some(encoding)) => Err(not_installed(encoding)),
            (flag, _) => Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        }
    }
}

/// What was compressed, unless it is longer than `max` bytes; no more of it is kept.
fn inflate(message: &[u8], max: usize) -> Result<Vec<u8>, Status> {
    let mut inflated = Vec::new();
    // As etcd, it reads one compression after the other.
    MultiGzDecoder::new(message)
        .take(max as u64 + 1)
        .read_to_end(&mut inflated)
        .and_then(|len| if message.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(len) })
        .map_err(|error| Status::internal(format!("grpc: failed to decompress the message: {error}")))?;
    if inflated.len() > max {
        let text = format!("grpc: received message after decompression larger than max {max}");
        return Err(Status::resource_exhausted(text));
    }
    Ok(inflated)
}

impl http_body::Body for Inflated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.message() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Err(status) => return Poll::Ready(Some(Err(status.into()))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.push(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if self.buffer.len() == 0 => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(Status::internal("unexpected EOF").into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.len() == 0 && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn flagged(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut out = framed(message).to_vec();
        out[0] = flag;
        out
    }

    /// What is read of a request that comes in pieces of some size.
    async fn read(wire: &[u8], size: usize, max: usize) -> Result<Bytes, Status> {
        read_of("gzip", wire, size, max).await
    }

    async fn read_of(encoding: &'static str, wire: &[u8], size: usize, max: usize) -> Result<Bytes, Status> {
        let pieces: Vec<_> =
            wire.chunks(size).map(|piece| Ok::<_, BoxError>(Frame::data(piece.to_vec().into()))).collect();
        let mut request = Request::new(Body::new(StreamBody::new(stream::iter(pieces))));
        request.headers_mut().insert(ENCODING, HeaderValue::from_static(encoding));
        let request = inflated(request, max);
        assert_eq!(request.headers().contains_key(ENCODING), encoding != "gzip");
        let read = request.into_body().collect().await.map_err(|error| *error.downcast::<Status>().unwrap())?;
        Ok(read.to_bytes())
    }

    #[tokio::test]
    async fn messages_come_out_as_they_went_in() {
        let (first, second, third) = (vec![b'a'; 1000], b"not compressed".to_vec(), b"twice ".to_vec());
        let twice = [zipped(&third), zipped(&third)].concat();
        let wire = [flagged(1, &zipped(&first)), flagged(0, &second), flagged(1, &twice)].concat();
        let plain = [framed(&first), framed(&second), framed(b"twice twice ")].concat();
        for size in [1, 7, 10_000] {
            assert_eq!(read(&wire, size, 1000).await.unwrap(), plain, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_or_broken_is_refused_with_etcds_codes() {
        let bomb = flagged(1, &zipped(&vec![0; 1 << 20]));
        let refused = read(&bomb, 100, 1 << 19).await.unwrap_err();
        let text = "grpc: received message after decompression larger than max 524288";
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
        let refused = read(&flagged(1, &[0; 11]), 100, 10).await.unwrap_err();
        assert_eq!(refused.message(), "grpc: received message larger than max (11 vs. 10)");
        let (mut wrong, whole) = (zipped(b"content"), zipped(b"content"));
        let checksum = wrong.len() - 5;
        wrong[checksum] ^= 1;
        for broken in [&b""[..], b"hello", &whole[..whole.len() - 6], &wrong, &[whole.clone(), b"xx".to_vec()].concat()]
        {
            let refused = read(&flagged(1, broken), 100, 1 << 10).await.unwrap_err();
            assert_eq!(refused.code(), Code::Internal);
            assert!(refused.message().starts_with("grpc: failed to decompress the message: "), "{refused}");
        }
        let refused = read_of("br", &flagged(1, &whole), 100, 1 << 10).await.unwrap_err();
        let text = "grpc: Decompressor is not installed for grpc-encoding \"br\"";
        assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, text));
        let refused = read(&flagged(2, b""), 100, 10).await.unwrap_err();
        assert_eq!(refused.message(), "grpc: received unexpected payload format 2");
        let refused = read(&flagged(1, &whole)[..20], 100, 1 << 10).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::Internal, "unexpected EOF"));
    }
}
