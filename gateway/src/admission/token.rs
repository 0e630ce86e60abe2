//! The admin token: who brings it is the operator, wherever he comes from.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

/// A secret that is compared and never shown.
#[derive(Clone)]
pub struct AdminToken {
    /// Makes hashes that nobody else can make, so that how long a comparison takes says nothing of the secret.
    hasher: RandomState,
    hashed: u64,
    len: usize,
    secret: Box<[u8]>,
}

impl AdminToken {
    /// A secret, without the space around it that a file has; none if there is nothing else.
    pub fn new(text: &str) -> Option<AdminToken> {
        let secret = text.trim().as_bytes();
        let hasher = RandomState::new();
        let hashed = hasher.hash_one(secret);
        (!secret.is_empty()).then(|| AdminToken { hasher, hashed, len: secret.len(), secret: secret.into() })
    }

    /// Whether this is the secret.
    pub(super) fn is(&self, said: &[u8]) -> bool {
        // The bytes are only compared when they are the same, or by a chance that nobody can look for.
        said.len() == self.len && self.hasher.hash_one(said) == self.hashed && *said == *self.secret
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_is_the_secret() {
        let token = AdminToken::new(" s3cret\n").unwrap();
        assert!(token.is(b"s3cret"));
        assert!(!token.is(b"s3creT") && !token.is(b"") && !token.is(b"s3cret "));
        assert!(AdminToken::new(" \n").is_none(), "nothing is no secret");
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}
