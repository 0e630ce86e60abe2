//! What a client shows instead of a password.

mod jwt;
mod simple;

use std::time::{Duration, Instant};

pub use jwt::{Jwt, JwtError, JwtOptions};
pub use simple::{Found, SimpleTokens, new_prefix};

/// The tokens that a member gives and takes; all members of a cluster should have the same kind.
#[derive(Debug)]
pub enum Tokens {
    /// Random letters that every member knows while it runs.
    Simple(SimpleTokens),
    /// Signed claims, which nobody has to remember.
    Jwt(Box<Jwt>),
    /// Nobody can log in; users have certificates.
    None,
}

/// Which kind of tokens a member gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// [`Tokens::Simple`], each lasting so long from its last use.
    Simple(Duration),
    /// [`Tokens::Jwt`].
    Jwt(JwtOptions),
    /// [`Tokens::None`].
    None,
}

impl Tokens {
    /// Tokens of this kind.
    pub fn open(kind: &TokenKind) -> Result<Tokens, JwtError> {
        Ok(match kind {
            TokenKind::Simple(ttl) => Tokens::Simple(SimpleTokens::new(*ttl)),
            TokenKind::Jwt(options) => Tokens::Jwt(Box::new(Jwt::open(options)?)),
            TokenKind::None => Tokens::None,
        })
    }

    /// Forgets the tokens of a user. Those that are signed stand until they expire, or a change of users and roles.
    pub fn revoke(&self, user: &str) {
        if let Tokens::Simple(tokens) = self {
            tokens.revoke(user);
        }
    }

    /// Forgets all tokens that are remembered.
    pub fn clear(&self) {
        if let Tokens::Simple(tokens) = self {
            tokens.clear();
        }
    }

    /// Forgets what has expired.
    pub fn expire(&self, now: Instant) {
        if let Tokens::Simple(tokens) = self {
            tokens.expire(now);
        }
    }
}
