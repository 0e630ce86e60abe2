//! Who a call comes from, as far as the upstream can tell.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

/// The metadata key of a token.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// The token that a call carries, under the name it came with, or none.
///
/// The gateway never judges a token. It asks the upstream with it, so what the upstream thinks of it (signature, age,
/// user, rights) is decided there and at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity(Option<(HeaderName, HeaderValue)>);

impl Identity {
    /// The identity that etcd reads from metadata: the first `token`, else the first `authorization`.
    pub(super) fn of(metadata: &HeaderMap) -> Identity {
        let named = |name: HeaderName| metadata.get(&name).map(|value| (name, value.clone()));
        Identity(named(TOKEN).or_else(|| named(AUTHORIZATION)))
    }

    /// The identity of a token that `Authenticate` gave out.
    pub(super) fn with_token(token: HeaderValue) -> Identity {
        Identity(Some((TOKEN, token)))
    }

    /// Whether there is no token: everybody, while the upstream has auth disabled.
    pub(super) fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }

    /// Adds what makes a request this identity's.
    pub(super) fn sign(&self, metadata: &mut HeaderMap) {
        if let Some((name, value)) = &self.0 {
            metadata.insert(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_one_that_etcd_reads() {
        let mut metadata = HeaderMap::new();
        assert!(Identity::of(&metadata).is_anonymous());
        metadata.append("authorization", HeaderValue::from_static("Bearer b"));
        let bearer = Identity::of(&metadata);
        metadata.append("token", HeaderValue::from_static("first"));
        metadata.append("token", HeaderValue::from_static("second"));
        let token = Identity::of(&metadata);
        assert_eq!(token, Identity::with_token(HeaderValue::from_static("first")));
        assert_ne!(token, bearer);
        let mut signed = HeaderMap::new();
        bearer.sign(&mut signed);
        assert_eq!(signed["authorization"], "Bearer b");
    }
}
