//! What a client hears that is not let in, as etcd's clients can bear it.
//!
//! RESOURCE_EXHAUSTED with etcd's own text is the one answer after which clientv3 makes one attempt
//! and no more. What else is said is for clients that look: `google.rpc.RetryInfo` and
//! `QuotaFailure` in the status details, the pushback of gRPC's retry design, and the name of the
//! rule. Nothing in it tells who else is there.

use std::time::Duration;

use forebay_edge::{Response, grpc};
use forebay_proto::{Error, rpc};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use rand::Rng as _;
use tonic::{Code, Status};

/// The rule that refused.
pub(crate) const RULE: HeaderName = HeaderName::from_static("forebay-rule");
/// Why, in a word.
pub(crate) const REASON: HeaderName = HeaderName::from_static("forebay-reason");
/// When to try again, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// A refusal before anything was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The rule or quota that says so.
    pub(crate) rule: Box<str>,
    /// A word for metrics and trailers, one of a few.
    pub(crate) reason: &'static str,
    pub(crate) what: What,
}

/// What kind of refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Not now; the time after which it would pass.
    Later(Duration),
    /// Not while a quota is used up: the sentence says which, how much of it, and where.
    Quota(String),
    /// Never, as it is.
    Invalid(Error),
    /// Never at this size: the sentence says what to do instead.
    TooMuch(String),
}

impl Refusal {
    /// The gateway holds as much as it may.
    pub(crate) fn no_memory() -> Refusal {
        Refusal { rule: "memory-limit".into(), reason: "memory", what: What::Later(Duration::from_secs(1)) }
    }

    /// Too many logins of this user failed.
    pub(crate) fn guesses(after: Duration) -> Refusal {
        Refusal { rule: "login-guesses".into(), reason: "guesses", what: What::Later(after) }
    }

    /// The code and the text.
    fn code(&self) -> (Code, &str) {
        match &self.what {
            What::Later(_) => (Code::ResourceExhausted, Error::TooManyRequests.message()),
            What::Quota(text) | What::TooMuch(text) => (Code::ResourceExhausted, text),
            What::Invalid(error) => (error.code(), error.message()),
        }
    }

    /// The trailers-only response.
    pub(crate) fn response(&self) -> Response {
        let pushback = match self.what {
            What::Later(after) => Some(jittered(after)),
            _ => None,
        };
        let (code, message) = self.code();
        let details = self.details(code, message, pushback);
        let mut response = grpc::refuse(Status::with_details(code, message, details.into()));
        let headers = response.headers_mut();
        if let Some(pushback) = pushback {
            headers.insert(PUSHBACK, HeaderValue::from(u64::try_from(pushback.as_millis()).unwrap_or(u64::MAX)));
        }
        self.name(headers);
        response
    }

    /// Names the rule in headers.
    fn name(&self, headers: &mut HeaderMap) {
        if let Ok(rule) = HeaderValue::from_str(&self.rule) {
            headers.insert(RULE, rule);
        }
        headers.insert(REASON, HeaderValue::from_static(self.reason));
    }

    fn details(&self, code: Code, message: &str, pushback: Option<Duration>) -> Vec<u8> {
        let mut details = Vec::new();
        if let Some(pushback) = pushback {
            let retry_delay = prost_types::Duration::try_from(pushback).ok();
            details.push(rpc::detail("RetryInfo", &rpc::RetryInfo { retry_delay }));
        }
        if code == Code::ResourceExhausted {
            let violation =
                rpc::Violation { subject: format!("rule:{}", self.rule), description: self.reason.to_owned() };
            details.push(rpc::detail("QuotaFailure", &rpc::QuotaFailure { violations: vec![violation] }));
        }
        if details.is_empty() {
            return Vec::new();
        }
        rpc::Status { code: code as i32, message: message.to_owned(), details }.encode_to_vec()
    }
}

/// Clients that were refused together must not return together.
fn jittered(after: Duration) -> Duration {
    let least = Duration::from_millis(100);
    after.clamp(least, Duration::from_secs(30)).mul_f64(rand::rng().random_range(1.0..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(what: What) -> Response {
        Refusal { rule: "cronjob-lists".into(), reason: "rate", what }.response()
    }

    #[test]
    fn a_refusal_that_passes_says_when() {
        let response = refused(What::Later(Duration::from_secs(2)));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "etcdserver: too many requests"));
        let pushback: u64 = response.headers()[PUSHBACK].to_str().unwrap().parse().unwrap();
        assert!((2000..3000).contains(&pushback), "{pushback}");
        assert_eq!(response.headers()[RULE], "cronjob-lists");
        let details = rpc::Status::decode(status.details()).unwrap();
        let names: Vec<_> = details.details.iter().map(|any| any.type_url.rsplit('.').next().unwrap()).collect();
        assert_eq!((details.code, names), (8, vec!["RetryInfo", "QuotaFailure"]));
        let retry = rpc::RetryInfo::decode(&details.details[0].value[..]).unwrap().retry_delay.unwrap();
        assert_eq!(retry.seconds as u64 * 1000 + retry.nanos as u64 / 1_000_000, pushback);
    }

    #[test]
    fn a_quota_is_no_matter_of_time() {
        let response = refused(What::Quota("forebay: quota events: 5 of 5 objects under /a/ are used".into()));
        assert!(!response.headers().contains_key(PUSHBACK));
        let status = Status::from_header_map(response.headers()).unwrap();
        let details = rpc::Status::decode(status.details()).unwrap().details;
        assert_eq!(details.len(), 1);
        assert!(!status.message().contains("space exceeded"), "NOSPACE is another matter");
    }

    #[test]
    fn a_request_that_can_never_pass_is_invalid_in_etcds_words() {
        let response = refused(What::Invalid(Error::RequestTooLarge));
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
        assert!(status.details().is_empty());
    }
}
