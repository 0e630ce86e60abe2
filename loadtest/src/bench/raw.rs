//! Calls whose answers are received and not read: a list of 300,000 keys is the server's work, not ours.
//!
//! A request is one frame that says itself that it is the last. So it leaves with its head, in one system call; a
//! generated client sends its end behind it.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, Version, header};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;

use crate::client::Connection;

/// The bytes before each message: no compression, and its length.
const PREFIX: usize = 5;

/// Calls a method of one request, and waits for the end of all its answers.
pub async fn call(connection: &Connection, path: &'static str, request: &impl Message) -> Result<(), Status> {
    let response = connection.clone().oneshot(head(path, frame(request))).await;
    let (head, mut body) = response.map_err(|error| Status::from_error(Box::new(error)))?.into_parts();
    // Of a call that failed before it answered, the head is all there is.
    let mut end = Status::from_header_map(&head.headers);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
        if let Some(trailers) = frame.trailers_ref() {
            end = Status::from_header_map(trailers);
        }
    }
    match end {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::unknown(format!("the answer ended without a status, as HTTP {}", head.status))),
    }
}

fn frame(request: &impl Message) -> Bytes {
    let length = request.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a request has less than 4 GiB"));
    request.encode(&mut frame).expect("there is room");
    frame.freeze()
}

fn head(path: &'static str, frame: Bytes) -> http::Request<Body> {
    let request = http::Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(path)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc");
    request.body(Body::new(Full::new(frame))).expect("these are a head")
}
