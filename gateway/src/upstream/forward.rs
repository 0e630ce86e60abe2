//! Takes one call to the upstream: which endpoint, whether again, for how long.

use std::time::Duration;

use forebay_edge::{Response, grpc};
use futures::FutureExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request,
};
use tokio::time::Instant;

use super::{
    Address, Pool,
    deadly::{self, Judged},
    exchange::{Break, exchange},
    pool::Tried,
    upload::Upload,
};
use crate::{
    call::{Call, Failure},
    methods::{Kind, Shape},
    replies,
};

/// How long to rest when every endpoint was tried.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

impl Pool {
    /// Forwards a call.
    ///
    /// A call goes to another endpoint if it surely never began: its stream was never opened, or
    /// the upstream said that it would not process it. A call that may have begun goes to another
    /// only if it changes nothing, no response has begun, and the retry budget allows it.
    /// Without an endpoint the call is held for a quarter of its time, at most for the configured
    /// hold: clients that hear of it at once come back at once.
    pub(super) async fn forward(&self, call: Call) -> Result<Response, Failure> {
        let pool = &*self.0;
        let method = call.method;
        let call = match deadly::may_be(method) {
            true => match deadly::judged(call, pool.message_bytes_max).boxed().await? {
                Judged::Harmless(call) => call,
                Judged::Refused(in_its_place, status) => {
                    let answered = replies::unary(Box::pin(self.forward(in_its_place)).await?).await?;
                    let status = answered.map_or_else(|trailers| replies::status(&trailers), |_| status);
                    return Err(Failure::Refused(status));
                }
            },
            false => call,
        };
        let (head, body) = call.request.into_parts();
        let mut upload = Upload::new(method, body, pool.message_bytes_max);
        if method.shape != Shape::Duplex {
            upload.prime().await?;
        }
        if method.kind != Kind::Mutation {
            pool.budget.earn();
        }
        let mut tried = Tried::default();
        let mut held_until = None;
        let mut failure = Failure::Unreachable;
        loop {
            let Some(connection) = pool.pick(method.scope, tried) else {
                let until = *held_until.get_or_insert_with(|| hold(pool.hold, call.deadline));
                if Instant::now() >= until {
                    return Err(failure);
                }
                let rest = if tried == Tried::default() { pool.hold } else { ROUND_PAUSE };
                pool.changed(until, rest).await;
                tried = Tried::default();
                continue;
            };
            let outbound = outbound(&head, &connection.address, call.deadline);
            let (end, rest) = match exchange(&connection, method, outbound, upload).await {
                Ok(response) => return Ok(response),
                Err(broken) => broken,
            };
            upload = rest;
            match end {
                // The connection was withdrawn with that, so the next pick is another one.
                Break::Unsent => pool.metrics.retried("unsent"),
                Break::Refused => {
                    tried.add(&connection.endpoint);
                    if !upload.rewind() {
                        return Err(Failure::Broken("the upstream refused a stream that is too long to repeat".into()));
                    }
                    pool.metrics.retried("refused");
                }
                Break::Lost(error) => {
                    failure = Failure::Broken(error);
                    tried.add(&connection.endpoint);
                    if method.kind == Kind::Mutation || !upload.rewind() || !pool.budget.spend() {
                        return Err(failure);
                    }
                    pool.metrics.retried("lost");
                }
                Break::Ended(failure) => return Err(failure),
            }
        }
    }
}

/// When a call without an endpoint is given up.
fn hold(hold: Duration, deadline: Option<Instant>) -> Instant {
    let now = Instant::now();
    let quarter = deadline.map_or(hold, |deadline| deadline.saturating_duration_since(now) / 4);
    now + hold.min(quarter)
}

/// The request head as the upstream gets it: the client's metadata, the upstream's address, and the
/// time that is left.
pub(super) fn outbound(head: &request::Parts, address: &Address, deadline: Option<Instant>) -> http::Request<()> {
    let mut outbound = http::Request::new(());
    *outbound.method_mut() = http::Method::POST;
    *outbound.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(address.scheme.clone());
    uri.authority = Some(address.authority.clone());
    uri.path_and_query = head.uri.path_and_query().cloned();
    *outbound.uri_mut() = Uri::from_parts(uri).expect("a routed path and an address make a URI");
    let headers = outbound.headers_mut();
    *headers = head.headers.clone();
    strip_connection(headers);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        headers.insert(grpc::TIMEOUT, timeout(left));
    }
    outbound
}

/// Removes what concerns the client's connection and not the call.
fn strip_connection(headers: &mut HeaderMap) {
    while let Some(named) = headers.remove(CONNECTION) {
        for name in named.to_str().unwrap_or_default().split(',') {
            if let Ok(name) = HeaderName::try_from(name.trim()) {
                headers.remove(name);
            }
        }
    }
    for name in [HOST, UPGRADE, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
}

/// A `grpc-timeout`: at most eight digits, in the finest unit that has room.
fn timeout(left: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let (amount, unit) = [(left.as_nanos(), 'n'), (left.as_micros(), 'u'), (left.as_millis(), 'm')]
        .into_iter()
        .find(|(amount, _)| *amount <= DIGITS_MAX)
        .unwrap_or((u128::from(left.as_secs()).min(DIGITS_MAX), 'S'));
    HeaderValue::try_from(format!("{amount}{unit}")).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_fit_eight_digits() {
        let text = |left| timeout(left).to_str().unwrap().to_owned();
        assert_eq!(text(Duration::ZERO), "0n");
        assert_eq!(text(Duration::from_millis(99)), "99000000n");
        assert_eq!(text(Duration::from_millis(4_999)), "4999000u");
        assert_eq!(text(Duration::from_secs(3600)), "3600000m");
        assert_eq!(text(Duration::from_secs(1_000_000)), "1000000S");
        assert_eq!(text(Duration::from_secs(u64::MAX)), "99999999S");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_held_for_a_quarter_of_its_time_and_two_seconds_at_most() {
        let now = Instant::now();
        let most = Duration::from_secs(2);
        assert_eq!(hold(most, None), now + most);
        assert_eq!(hold(most, Some(now + Duration::from_secs(60))), now + most);
        assert_eq!(hold(most, Some(now + Duration::from_secs(2))), now + Duration::from_millis(500));
        assert_eq!(hold(most, Some(now)), now);
    }

    #[test]
    fn metadata_passes_and_connection_fields_do_not() {
        let request = http::Request::post("/etcdserverpb.KV/Range")
            .header("connection", "x-hop, keep-alive")
            .header("x-hop", "1")
            .header("host", "gateway:2379")
            .header("te", "gzip")
            .header("user-agent", "grpc-go/1.79")
            .header("token", "abc")
            .header("trace-bin", "AAEC")
            .header("dup", "1")
            .header("dup", "2")
            .body(())
            .unwrap();
        let address: Address = "etcd:2379".parse().unwrap();
        let outbound = outbound(&request.into_parts().0, &address, None);
        assert_eq!(outbound.uri(), "http://etcd:2379/etcdserverpb.KV/Range");
        let headers = outbound.headers();
        for gone in ["connection", "x-hop", "host"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["user-agent"], "grpc-go/1.79");
        assert_eq!(headers["token"], "abc");
        assert_eq!(headers["trace-bin"], "AAEC");
        assert_eq!(headers.get_all("dup").iter().count(), 2);
    }
}
