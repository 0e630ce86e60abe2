//! One call on one connection: bytes up, bytes down, and what it means when that breaks.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use forebay_edge::{Body, BoxError, Response};
use h2::{Reason, RecvStream, SendStream};
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    connection::{ActiveStream, Connection},
    unread::Answer,
    upload::Upload,
};
use crate::{
    call::Failure,
    methods::{Method, Shape},
    rescue,
};

/// Why an exchange did not get as far as a response.
#[derive(Debug)]
pub(super) enum Break {
    /// The connection takes no new streams; the call surely never left.
    Unsent,
    /// The upstream said that it did not begin with the call.
    Refused,
    /// The upstream may have carried the call out.
    Lost(BoxError),
    /// The client's side ended it.
    Ended(Failure),
}

/// Sends a request head and as much of the upload as the upstream takes until its response begins;
/// the response's body sends the rest.
pub(super) async fn exchange(
    connection: &Arc<Connection>,
    method: &Method,
    head: http::Request<()>,
    mut upload: Upload,
) -> Result<Response, (Break, Upload)> {
    let began = Instant::now();
    let metrics = &connection.endpoint.metrics;
    let opened = connection.sender().send_request(head, upload.is_ended());
    let (mut response, stream) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(endpoint = %connection.address, %error, "connection takes no new streams");
            connection.retire();
            metrics.unsent.inc();
            return Err((Break::Unsent, upload));
        }
    };
    let active = ActiveStream::new(connection);
    let mut pump = Pump { stream: if upload.is_ended() { None } else { Some(stream) } };
    let answered = poll_fn(|cx| {
        if let Poll::Ready(Err(failure)) = pump.poll(&mut upload, cx) {
            return Poll::Ready(Err(Break::Ended(failure)));
        }
        Pin::new(&mut response).poll(cx).map_err(|error| classify(connection, error))
    })
    .await;
    let response = match answered {
        Ok(response) => response,
        Err(end) => {
            match end {
                Break::Refused => metrics.refused.inc(),
                Break::Lost(_) => metrics.broken.inc(),
                Break::Unsent | Break::Ended(_) => {}
            }
            return Err((end, upload));
        }
    };
    metrics.answered.inc();
    if method.shape == Shape::Unary {
        metrics.seconds.observe(began.elapsed().as_secs_f64());
    }
    upload.settle();
    let (mut head, download) = response.into_parts();
    head.version = http::Version::default();
    if rescue::code(&head.headers).is_none() && head.status != http::StatusCode::OK {
        let status = Status::new(code_of_http(head.status), format!("unexpected HTTP status code {}", head.status));
        return Err((Break::Ended(Failure::Refused(status)), upload));
    }
    if download.is_end_stream() {
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let body = Download { upload, pump, answer: connection.endpoint.unread.add(download), _active: active };
    Ok(Response::from_parts(head, Body::new(body)))
}

/// What a failed exchange means for sending the call elsewhere.
fn classify(connection: &Connection, error: h2::Error) -> Break {
    if error.is_go_away() && error.is_remote() {
        // h2 fails a stream so only if its id is above the last one that the upstream will process.
        connection.retire();
        return Break::Refused;
    }
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Break::Refused;
    }
    if !error.is_reset() {
        connection.retire();
    }
    Break::Lost(error.into())
}

/// The codes that grpc-go gives to HTTP errors; whoever sent one is not etcd.
fn code_of_http(status: http::StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Moves an upload into a stream as fast as its window opens.
struct Pump {
    /// `None` once everything was sent or there is no use in sending more.
    stream: Option<SendStream<Bytes>>,
}

impl Pump {
    /// Sends what it can. An error is the client's: it went away or sent what is refused, and the
    /// stream is reset. The upstream's errors show in the response.
    fn poll(&mut self, upload: &mut Upload, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(stream) = &mut self.stream {
            // A piece is read only when there is room to send some of it.
            stream.reserve_capacity(1);
            while stream.capacity() == 0 {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => {
                        self.stream = None;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            let sent = match ready!(upload.poll_piece(cx)) {
                Some(Ok(piece)) => stream.send_data(piece, upload.is_ended()),
                Some(Err(failure)) => {
                    stream.send_reset(Reason::CANCEL);
                    self.stream = None;
                    return Poll::Ready(Err(failure));
                }
                None => stream.send_data(Bytes::new(), true),
            };
            if sent.is_err() || upload.is_ended() {
                self.stream = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The response's body, which also sends the rest of the upload. Dropping it resets the stream.
struct Download {
    upload: Upload,
    pump: Pump,
    answer: Arc<Answer>,
    _active: ActiveStream,
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        if let Poll::Ready(Err(failure)) = this.pump.poll(&mut this.upload, cx) {
            return Poll::Ready(Some(Err(failure)));
        }
        this.answer.ask(|stream| poll_frame(stream, cx)).unwrap_or_else(|| {
            let text = "the client did not read what the upstream answered";
            Poll::Ready(Some(Err(Failure::Broken(text.into()))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_over()
    }
}

fn poll_frame(stream: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
    match ready!(stream.poll_data(cx)) {
        Some(Ok(data)) => {
            // Whoever polls for more has room for it, so the window opens as fast as the client reads.
            let _ = stream.flow_control().release_capacity(data.len());
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
        // An upstream that has answered may stop an upload that way.
        Some(Err(error)) if error.reason() != Some(Reason::NO_ERROR) => {
            Poll::Ready(Some(Err(Failure::Broken(error.into()))))
        }
        Some(Err(_)) | None => match ready!(stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(Failure::Broken(error.into())))),
        },
    }
}
