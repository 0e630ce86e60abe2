//! The JSON form of the API, in both directions.

use bytes::Bytes;
use forebay_proto::json::{Error, Route, Values};
use serde::de::IgnoredAny;

use crate::messages::Method;

/// A body is the same values in whatever pieces it comes; each is JSON, and becomes a message that means what another
/// reader of JSON takes it for, if that takes it too.
///
/// Input: the path, a line feed, the body.
pub fn json_request(data: &[u8]) {
    let Some((route, body)) = routed(data) else { return };
    let (values, end) = values([body]);
    assert_eq!((values.clone(), end), self::values(body.chunks(1 + body.len() % 5)));
    let method = Method::find(route.grpc_path);
    for value in values {
        serde_json::from_slice::<IgnoredAny>(&value).expect("a value is JSON");
        let mut protobuf = Vec::new();
        if route.request(&value, &mut protobuf).is_ok() {
            let message = (method.request.canonical)(&protobuf).expect("what was read is a message");
            if let Some(other) = (method.request.from_json)(&value) {
                assert_eq!(message, other, "{}", String::from_utf8_lossy(&value));
            }
        }
    }
}

/// A message has a JSON form, and that means the message.
///
/// Input: the path, a line feed, the encoded response.
pub fn json_response(data: &[u8]) {
    let Some((route, protobuf)) = routed(data) else { return };
    let method = Method::find(route.grpc_path);
    let written = |protobuf: &[u8]| {
        let mut json = Vec::new();
        route.response(protobuf, &mut json).map(|()| String::from_utf8(json).expect("JSON is text"))
    };
    let of_input = written(protobuf);
    let Some(message) = (method.response.canonical)(protobuf) else { return };
    let text = written(&message).expect("a message has a JSON form");
    assert!(!text.contains('\n'), "a response is one line of a stream");
    serde_json::from_str::<IgnoredAny>(&text).expect("a response is JSON");
    // Encodings of one message have one form. Only what no writer of proto3 puts there, a group, has none.
    assert!(of_input.is_err() || of_input == Ok(text.clone()), "{of_input:?} and {text}");
    if let Some(other) = (method.response.from_json)(text.as_bytes()) {
        assert_eq!(other, message, "{text}");
    }
}

fn routed(data: &[u8]) -> Option<(&'static Route, &[u8])> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let route = Route::find(std::str::from_utf8(&data[..end]).ok()?)?;
    Some((route, &data[end + 1..]))
}

/// The values of a body that comes in these pieces, and the error they end with, if they do.
fn values<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Vec<Bytes>, Option<Error>) {
    let mut values = Values::default();
    let mut taken = Vec::new();
    let mut take_all = |values: &mut Values, last: bool| loop {
        match if last { values.finish() } else { values.take_next() } {
            Ok(Some(value)) => taken.push(value),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    };
    for piece in pieces {
        values.push(piece);
        if let Some(error) = take_all(&mut values, false) {
            return (taken, Some(error));
        }
    }
    let error = take_all(&mut values, true);
    (taken, error)
}
