//! Keeps gateways from forwarding in circles.
//!
//! Each gateway adds its id to the metadata key `forebay-via`. One that finds itself there, or too
//! many others, refuses. The prober's own calls carry the key as well, so an upstream list that
//! leads back here is noticed at once and that endpoint is never used.

use forebay_edge::Response;
use http::{HeaderName, HeaderValue};
use tonic::Status;

use crate::{
    call::{Call, Failure, Handler},
    config::GatewayId,
};

/// The metadata key: ids of the gateways a call passed, comma-separated.
pub(crate) const VIA: HeaderName = HeaderName::from_static("forebay-via");
/// What a call that comes round is refused with.
pub(crate) const LOOP: &str = "forebay: the upstream leads back to this gateway";

/// The layer.
#[derive(Debug)]
pub(crate) struct Hops<S> {
    inner: S,
    id: String,
    max: usize,
}

impl<S> Hops<S> {
    /// Lets a call pass at most `max` gateways, this one included.
    pub(crate) fn new(inner: S, id: GatewayId, max: usize) -> Hops<S> {
        Hops { inner, id: id.to_string(), max }
    }

    fn via(&self, seen: Option<&HeaderValue>) -> Result<HeaderValue, Status> {
        let own = || HeaderValue::try_from(self.id.as_str()).expect("an id is hexadecimal");
        let Some(seen) = seen else { return Ok(own()) };
        let seen = seen.to_str().map_err(|_| Status::invalid_argument("forebay: malformed metadata forebay-via"))?;
        if seen.split(',').any(|hop| hop == self.id) {
            return Err(Status::failed_precondition(LOOP));
        }
        if seen.split(',').count() >= self.max {
            let text = format!("forebay: the call passed more than {} gateways", self.max);
            return Err(Status::failed_precondition(text));
        }
        Ok(HeaderValue::try_from(format!("{seen},{}", self.id)).expect("both halves are visible ASCII"))
    }
}

impl<S: Handler> Handler for Hops<S> {
    async fn handle(&self, mut call: Call) -> Result<Response, Failure> {
        let headers = call.request.headers_mut();
        let via = self.via(headers.get(VIA))?;
        headers.insert(VIA, via);
        self.inner.handle(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_passes_each_gateway_once_and_only_so_many() {
        let [a, b, c] = [1, 2, 3].map(|id| Hops::new((), GatewayId(id), 2));
        let first = a.via(None).unwrap();
        let second = b.via(Some(&first)).unwrap();
        assert_eq!(second, "0000000000000001,0000000000000002");
        assert_eq!(a.via(Some(&second)).unwrap_err().message(), LOOP);
        assert_eq!(c.via(Some(&second)).unwrap_err().message(), "forebay: the call passed more than 2 gateways");
    }
}
