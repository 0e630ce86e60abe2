//! Tokens that are signed claims: whoever has the key can read them, and no member has to remember one.
//!
//! A token names the auth revision that it was given at. After any change of users or roles it does for nothing but what
//! asks for no key, so its holder logs in again.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair, RsaSignatureEncoding,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;
use serde_json::json;

use crate::auth::Caller;

/// What `--auth-token=jwt,…` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The algorithm, by its name in JWTs.
    pub method: String,
    /// A file with the public key in PEM. Alone it lets a member take tokens and give none.
    pub public_key: Option<PathBuf>,
    /// A file with the private key in PEM; of the algorithms with a shared secret, the secret itself.
    pub private_key: Option<PathBuf>,
    /// How long a token is good.
    pub ttl: Duration,
}

/// Why tokens cannot be signed or read.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// No algorithm has this name.
    #[error("{0:?} is no sign-method; there are HS, RS, PS and ES with 256, 384 and 512, and EdDSA")]
    Method(String),
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Neither key was given, or the secret is empty.
    #[error("{0} needs priv-key or pub-key, and a shared secret is priv-key")]
    NoKey(String),
    /// A file does not hold a key for the algorithm.
    #[error("{path} holds no key for {method}: {reason}")]
    Key {
        /// Which.
        path: PathBuf,
        /// For what.
        method: String,
        /// Why not.
        reason: String,
    },
    /// What the private key signs, the public key does not verify.
    #[error("pub-key and priv-key are not of one pair")]
    Mismatch,
}

/// The key that gives and reads tokens.
#[derive(Debug)]
pub struct Jwt {
    method: String,
    key: Key,
    ttl: Duration,
}

#[derive(Debug)]
enum Key {
    Shared(Box<hmac::Key>),
    Pair { private: Option<Private>, public: UnparsedPublicKey<Vec<u8>> },
}

#[derive(Debug)]
enum Private {
    Rsa(&'static RsaSignatureEncoding, RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// What an algorithm needs of a library.
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaSignatureEncoding, &'static dyn VerificationAlgorithm),
    Ec(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed,
}

impl Algorithm {
    fn of(method: &str) -> Option<Algorithm> {
        use signature as s;
        Some(match method {
            "HS256" => Algorithm::Hmac(hmac::HMAC_SHA256),
            "HS384" => Algorithm::Hmac(hmac::HMAC_SHA384),
            "HS512" => Algorithm::Hmac(hmac::HMAC_SHA512),
            "RS256" => Algorithm::Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Algorithm::Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Algorithm::Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Algorithm::Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256),
            "PS384" => Algorithm::Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384),
            "PS512" => Algorithm::Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512),
            "ES256" => Algorithm::Ec(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED),
            "ES384" => Algorithm::Ec(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED),
            "ES512" => Algorithm::Ec(&s::ECDSA_P521_SHA512_FIXED_SIGNING, &s::ECDSA_P521_SHA512_FIXED),
            "EdDSA" => Algorithm::Ed,
            _ => return None,
        })
    }

    fn verification(&self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::Rsa(_, verification) | Algorithm::Ec(_, verification) => *verification,
            Algorithm::Ed => &signature::ED25519,
            Algorithm::Hmac(_) => unreachable!("a shared secret has no public half"),
        }
    }

    /// Reads a private key, with its public half.
    fn private(&self, pem: &[u8]) -> Result<(Private, Vec<u8>), String> {
        let (kind, der) = section(pem, |kind| {
            matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
        })?;
        let refused = |error: aws_lc_rs::error::KeyRejected| error.to_string();
        Ok(match self {
            Algorithm::Rsa(encoding, _) => {
                let read =
                    if kind == SectionKind::RsaPrivateKey { RsaKeyPair::from_der } else { RsaKeyPair::from_pkcs8 };
                let pair = read(&der).map_err(refused)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::Rsa(encoding, pair), public)
            }
            Algorithm::Ec(signing, _) => {
                let pair = EcdsaKeyPair::from_private_key_der(signing, &der).map_err(refused)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::Ec(pair), public)
            }
            Algorithm::Ed => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(refused)?;
                let public = pair.public_key().as_ref().to_vec();
                (Private::Ed(pair), public)
            }
            Algorithm::Hmac(_) => unreachable!("a shared secret is no PEM"),
        })
    }
}

/// The first section of a PEM file that is of one of these kinds.
fn section(pem: &[u8], is_wanted: impl Fn(SectionKind) -> bool) -> Result<(SectionKind, Vec<u8>), String> {
    for found in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = found.map_err(|error| error.to_string())?;
        if is_wanted(kind) {
            return Ok((kind, der));
        }
    }
    Err("there is no such section in it".to_owned())
}

impl Private {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let signed = match self {
            Private::Rsa(encoding, pair) => {
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed).map(|()| signed)
            }
            Private::Ec(pair) => pair.sign(&random, message).map(|signed| signed.as_ref().to_vec()),
            Private::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        };
        signed.expect("invariant: a key that was read signs")
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    username: String,
    revision: f64,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Jwt {
    /// Reads the keys.
    pub fn open(options: &JwtOptions) -> Result<Jwt, JwtError> {
        let JwtOptions { method, public_key, private_key, ttl } = options;
        let algorithm = Algorithm::of(method).ok_or_else(|| JwtError::Method(method.clone()))?;
        let read = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let (public_pem, private_pem) = (read(public_key)?, read(private_key)?);
        let unusable = |path: &Option<PathBuf>, reason| JwtError::Key {
            path: path.clone().unwrap_or_default(),
            method: method.clone(),
            reason,
        };
        let key = if let Algorithm::Hmac(algorithm) = algorithm {
            let secret = private_pem.filter(|secret| !secret.is_empty());
            let secret = secret.ok_or_else(|| JwtError::NoKey(method.clone()))?;
            Key::Shared(Box::new(hmac::Key::new(algorithm, &secret)))
        } else {
            let private = private_pem.map(|pem| algorithm.private(&pem)).transpose();
            let private = private.map_err(|reason| unusable(private_key, reason))?;
            let public = public_pem.map(|pem| section(&pem, |kind| kind == SectionKind::PublicKey)).transpose();
            let public = public.map_err(|reason| unusable(public_key, reason))?.map(|(_, der)| der);
            pair(&algorithm, private, public).ok_or_else(|| JwtError::NoKey(method.clone()))??
        };
        Ok(Jwt { method: method.clone(), key, ttl: *ttl })
    }

    /// A token for a user who logged in at this auth revision; `None` if there is only a public key.
    pub fn give(&self, user: &str, revision: u64, now: SystemTime) -> Option<String> {
        let expiry = unix_time(now) + self.ttl.as_secs_f64();
        let header = json!({ "alg": self.method, "typ": "JWT" });
        let claims = json!({ "username": user, "revision": revision, "exp": expiry as u64 });
        let encoded = |part: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = match &self.key {
            Key::Shared(secret) => hmac::sign(secret, signed.as_bytes()).as_ref().to_vec(),
            Key::Pair { private, .. } => private.as_ref()?.sign(signed.as_bytes()),
        };
        Some(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose token this is, and of which auth revision.
    pub fn read(&self, token: &str, now: SystemTime) -> Option<Caller> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decoded(header)?).ok()?;
        // The algorithm is ours to choose and never the token's.
        if header.alg != self.method {
            return None;
        }
        let (signed, signature) = (signed.as_bytes(), decoded(signature)?);
        match &self.key {
            Key::Shared(secret) => hmac::verify(secret, signed, &signature).ok()?,
            Key::Pair { public, .. } => public.verify(signed, &signature).ok()?,
        }
        let Claims { username, revision, exp, nbf } = serde_json::from_slice(&decoded(claims)?).ok()?;
        let now = unix_time(now);
        let is_good = exp.is_none_or(|exp| now < exp) && nbf.is_none_or(|nbf| nbf <= now);
        is_good.then(|| Caller::new(username, revision as u64))
    }
}

/// What there is of a pair of keys; the outer `None` if that is nothing.
fn pair(
    algorithm: &Algorithm,
    private: Option<(Private, Vec<u8>)>,
    public: Option<Vec<u8>>,
) -> Option<Result<Key, JwtError>> {
    let (private, own) = private.unzip();
    let public = UnparsedPublicKey::new(algorithm.verification(), public.or(own)?);
    if let Some(private) = &private {
        let probe = b"do these belong together?";
        if public.verify(probe, &private.sign(probe)).is_err() {
            return Some(Err(JwtError::Mismatch));
        }
    }
    Some(Ok(Key::Pair { private, public }))
}

fn read(path: &Path) -> Result<Vec<u8>, JwtError> {
    std::fs::read(path).map_err(|error| JwtError::Read { path: path.to_owned(), error })
}

fn unix_time(now: SystemTime) -> f64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
