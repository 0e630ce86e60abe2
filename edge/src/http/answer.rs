//! Responses without a life of their own: plain texts, and errors in the shapes of the JSON API.

use ::http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use tonic::{Code, Status};

use super::details;
use crate::{Body, Response};

/// What an error of the JSON API looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"code":3,"message":"..."}`, as etcd 3.6 and newer.
    #[default]
    Current,
    /// `{"error":"...","code":3,"message":"..."}`, as etcd 3.5, whose errors about the path are
    /// plain text.
    Legacy,
}

/// The answer to a path that exists neither here nor in etcd.
pub(super) fn not_found() -> Response {
    plain_error(StatusCode::NOT_FOUND, "404 page not found")
}

/// An error as Go's HTTP library words it: a line of text.
pub(super) fn plain_error(status: StatusCode, text: &str) -> Response {
    with_nosniff(with_type(status, "text/plain; charset=utf-8", format!("{text}\n")))
}

/// Keeps browsers from guessing another type.
pub(super) fn with_nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

impl ErrorShape {
    /// The response of a call that failed before it sent anything.
    pub(super) fn unary(self, status: &Status) -> Response {
        let (code, message) = (status.code() as i32, quoted(status.message()));
        let details = details::field(status.details());
        let body = match self {
            ErrorShape::Current => format!(r#"{{"code":{code},"message":{message}{details}}}"#),
            ErrorShape::Legacy => format!(r#"{{"error":{message},"code":{code},"message":{message}{details}}}"#),
        };
        let mut response = with_type(http_status(status.code()), "application/json", body);
        set_retry_after(&mut response, status);
        if self == ErrorShape::Current && status.code() == Code::Unauthenticated {
            set(&mut response, WWW_AUTHENTICATE, status.message());
        }
        response
    }

    /// The line that ends a stream that failed.
    pub(super) fn line(self, status: &Status) -> Vec<u8> {
        let (code, message) = (status.code() as i32, quoted(status.message()));
        let details = details::field(status.details());
        let error = match self {
            ErrorShape::Current => format!(r#"{{"code":{code},"message":{message}{details}}}"#),
            ErrorShape::Legacy => {
                let http = http_status(status.code());
                let reason = quoted(http.canonical_reason().unwrap_or_default());
                let number = http.as_u16();
                format!(
                    r#"{{"grpc_code":{code},"http_code":{number},"message":{message},"http_status":{reason}{details}}}"#
                )
            }
        };
        format!("{{\"error\":{error}}}\n").into_bytes()
    }

    /// The response of a stream that failed before its first message.
    pub(super) fn stream(self, status: &Status) -> Response {
        let mut response = with_type(http_status(status.code()), "application/json", self.line(status));
        set_retry_after(&mut response, status);
        response
    }

    /// A path under `/v3/` without a method behind it.
    pub(super) fn unknown_route(self) -> Response {
        match self {
            ErrorShape::Current => self.unary(&Status::not_found("Not Found")),
            ErrorShape::Legacy => plain_error(StatusCode::NOT_FOUND, "Not Found"),
        }
    }

    /// A path under `/v3/` that was not called with `POST`.
    pub(super) fn wrong_method(self) -> Response {
        match self {
            ErrorShape::Current => self.unary(&Status::unimplemented("Method Not Allowed")),
            ErrorShape::Legacy => plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        }
    }
}

/// Says in HTTP's way when to try again, if the status does in gRPC's.
fn set_retry_after(response: &mut Response, status: &Status) {
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok());
    if let Some(milliseconds) = pushback.and_then(|value| value.parse::<u64>().ok()) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000)));
    }
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    // A text with characters that no header may have is in the body still.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The HTTP status that goes with a gRPC code.
fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(number).expect("the table holds HTTP statuses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_try_again_in_whole_seconds() {
        let mut status = Status::resource_exhausted("etcdserver: too many requests");
        assert!(!ErrorShape::Current.unary(&status).headers().contains_key(RETRY_AFTER));
        status.metadata_mut().insert("grpc-retry-pushback-ms", "1201".parse().expect("metadata"));
        for response in [ErrorShape::Current.unary(&status), ErrorShape::Legacy.stream(&status)] {
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[RETRY_AFTER], "2");
        }
    }
}
