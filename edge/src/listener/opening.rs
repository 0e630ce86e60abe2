//! The bytes of a connection, before HTTP gets to see them.
//!
//! Which HTTP it speaks shows in how it begins, so hyper waits for that before any of its own timeouts runs. A client
//! that connects and is silent, or stops within HTTP/2's preface, would keep its place among the connections for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    frames::{FrameMeter, TOO_MANY_PINGS},
    places::Place,
};

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails to be read if it does not show in time which HTTP it speaks, or is a flood of frames.
pub(super) struct Opening<S> {
    stream: S,
    place: Place,
    /// Until it has shown.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How much of the preface came so far.
    seen: usize,
    /// From the end of the preface on, if it speaks HTTP/2.
    frames: Option<FrameMeter>,
    /// How far apart pings are to be.
    pings_apart: Duration,
}

impl<S> Opening<S> {
    /// The connection has begun at its `place` when the client has shown what it speaks.
    pub(super) fn new(stream: S, deadline: Instant, place: Place, pings_apart: Duration) -> Opening<S> {
        let deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
        Opening { stream, place, deadline, seen: 0, frames: None, pings_apart }
    }

    /// Takes note of how much of the data was written.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>, data: &[io::IoSlice<'_>]) {
        let (Poll::Ready(Ok(len)), Some(frames)) = (written, &mut self.frames) else { return };
        let mut left = *len;
        for piece in data {
            let sent = left.min(piece.len());
            frames.sent(&piece[..sent]);
            left -= sent;
        }
    }

    fn note(&mut self, data: &[u8]) {
        let expected = &PREFACE[self.seen..];
        let len = data.len().min(expected.len());
        self.seen += len;
        let speaks_http1 = data[..len] != expected[..len];
        if !speaks_http1 && self.seen == PREFACE.len() {
            let mut frames = FrameMeter::new(Instant::now(), self.pings_apart);
            frames.received(&data[len..], Instant::now());
            self.frames = Some(frames);
        }
        if speaks_http1 || self.frames.is_some() {
            self.deadline = None;
            self.place.begin();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(deadline) = &mut this.deadline else {
            let Some(frames) = &mut this.frames else { return read };
            if !frames.received(&buf.filled()[before..], Instant::now()) {
                return Poll::Ready(Err(io::Error::other("the client floods the connection with empty frames")));
            }
            if frames.pings_too_often() {
                // Said if there is room for it at once; the connection ends either way.
                if frames.is_between_frames() {
                    let _ = Pin::new(&mut this.stream).poll_write(cx, TOO_MANY_PINGS);
                    let _ = Pin::new(&mut this.stream).poll_flush(cx);
                }
                return Poll::Ready(Err(io::Error::other("the client pings too often")));
            }
            return read;
        };
        if read.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not begin in time")));
        }
        if buf.filled().len() > before {
            this.note(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(&written, &[io::IoSlice::new(data)]);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(&written, data);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::{
        super::{Limits, places::Places},
        *,
    };

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn opening() -> (DuplexStream, Opening<DuplexStream>) {
        let (client, server) = duplex(1024);
        let place = Places::new(Limits::default()).take(Ipv4Addr::LOCALHOST.into()).expect("there is room");
        (client, Opening::new(server, Instant::now() + TIMEOUT, place, Duration::ZERO))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_within_the_preface_is_given_up() {
        for sent in [0, 1, PREFACE.len() - 1] {
            let (mut client, mut server) = opening();
            client.write_all(&PREFACE[..sent]).await.unwrap();
            let mut got = vec![0; sent];
            server.read_exact(&mut got).await.unwrap();
            let error = server.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "after {sent} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_over_http_1_is_not_taken_for_frames() {
        let (mut client, mut server) = opening();
        let request = [b"POST / HTTP/1.1\r\n".as_slice(), &[0xff; 500]].concat();
        for _ in 0..2000 {
            client.write_all(&request).await.unwrap();
            let mut got = vec![0; request.len()];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, request);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_begun_may_take_its_time() {
        for begin in [PREFACE, b"PUT", b"G"] {
            let (mut client, mut server) = opening();
            for byte in begin {
                client.write_u8(*byte).await.unwrap();
                assert_eq!(server.read_u8().await.unwrap(), *byte);
            }
            let late = tokio::spawn(async move {
                tokio::time::sleep(100 * TIMEOUT).await;
                client.write_u8(b'!').await.unwrap();
                client
            });
            assert_eq!(server.read_u8().await.unwrap(), b'!');
            late.await.unwrap();
        }
    }
}
