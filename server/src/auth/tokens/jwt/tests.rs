use aws_lc_rs::{encoding::AsDer as _, rsa::KeySize};
use tempfile::TempDir;

use super::*;

const TTL: Duration = Duration::from_secs(300);

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A private key in PEM and its public half, for a method.
fn new_pair(method: &str) -> (String, String) {
    let (private, public): (Vec<u8>, Vec<u8>) = match Algorithm::of(method).unwrap() {
        Algorithm::Rsa(..) => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
            (private.as_ref().to_vec(), pair.public_key().as_der().unwrap().as_ref().to_vec())
        }
        Algorithm::Ec(signing, _) => {
            let pair = EcdsaKeyPair::generate(signing).unwrap();
            (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), pair.public_key().as_der().unwrap().as_ref().to_vec())
        }
        Algorithm::Ed => {
            let pair = Ed25519KeyPair::generate().unwrap();
            (pair.to_pkcs8().unwrap().as_ref().to_vec(), pair.public_key().as_der().unwrap().as_ref().to_vec())
        }
        Algorithm::Hmac(_) => unreachable!("a secret"),
    };
    (pem("PRIVATE KEY", &private), pem("PUBLIC KEY", &public))
}

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> Option<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        Some(path)
    }
}

fn open(method: &str, public_key: Option<PathBuf>, private_key: Option<PathBuf>) -> Result<Jwt, JwtError> {
    Jwt::open(&JwtOptions { method: method.to_owned(), public_key, private_key, ttl: TTL })
}

fn secret(text: &str) -> Jwt {
    open("HS256", None, Files::new().write("secret", text)).unwrap()
}

#[test]
fn a_token_of_every_method_is_read_by_whoever_has_the_public_key() {
    let now = SystemTime::now();
    for method in ["RS256", "PS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"] {
        let files = Files::new();
        let (private, public) = new_pair(method);
        let (private, public) = (files.write("private", &private), files.write("public", &public));
        let both = open(method, public.clone(), private.clone()).unwrap();
        let token = both.give("alice", 7, now).unwrap();
        let reader = open(method, public, None).unwrap();
        for jwt in [&both, &reader, &open(method, None, private).unwrap()] {
            assert_eq!(jwt.read(&token, now), Some(Caller::new("alice", 7)), "{method}");
        }
        assert_eq!(reader.give("alice", 7, now), None, "{method}");
        let other = open(method, None, files.write("other", &new_pair(method).0)).unwrap();
        assert_eq!(other.read(&token, now), None, "{method}");
    }
}

#[test]
fn a_token_expires() {
    let (jwt, now) = (secret("s"), SystemTime::now());
    let token = jwt.give("alice", 7, now).unwrap();
    assert!(jwt.read(&token, now + TTL - Duration::from_secs(2)).is_some());
    assert_eq!(jwt.read(&token, now + TTL), None);
}

#[test]
fn a_token_that_was_touched_is_none() {
    let (jwt, now) = (secret("s"), SystemTime::now());
    let token = jwt.give("alice", 7, now).unwrap();
    for at in (0..token.len()).filter(|at| token.as_bytes()[*at] != b'.') {
        let mut touched = token.clone().into_bytes();
        touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
        let touched = String::from_utf8(touched).unwrap();
        // The last letter of a part has bits that mean nothing, and are refused if set.
        assert_eq!(jwt.read(&touched, now), None, "{touched}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c", "abc.7"] {
        assert_eq!(jwt.read(text, now), None, "{text:?}");
    }
}

#[test]
fn a_token_does_not_choose_its_algorithm() {
    let now = SystemTime::now();
    let files = Files::new();
    let (_, public) = new_pair("ES256");
    let public = files.write("public", &public);
    let reader = open("ES256", public.clone(), None).unwrap();
    // Signed with what everybody knows.
    let forged = open("HS256", None, public).unwrap().give("root", 7, now).unwrap();
    let claims = forged.split('.').nth(1).unwrap();
    let none = format!("{}.{claims}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    assert_eq!((reader.read(&forged, now), reader.read(&none, now)), (None, None));
}

#[test]
fn claims_that_are_missing_or_of_another_kind_make_no_token() {
    let (jwt, now) = (secret("s"), SystemTime::now());
    let signed = |claims: &str| {
        let parts = [r#"{"alg":"HS256"}"#, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        let Key::Shared(key) = &jwt.key else { unreachable!("HS256 has a secret") };
        format!("{parts}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(key, parts.as_bytes())))
    };
    let read = |claims: &str| jwt.read(&signed(claims), now);
    assert_eq!(read(r#"{"username":"alice","revision":7}"#), Some(Caller::new("alice", 7)));
    for claims in [
        r#"{"username":"alice"}"#,
        r#"{"revision":7}"#,
        r#"{"username":7,"revision":7}"#,
        r#"{"username":"alice","revision":"7"}"#,
        r#"{"username":"alice","revision":7,"exp":1}"#,
        r#"{"username":"alice","revision":7,"exp":"never"}"#,
        r#"{"username":"alice","revision":7,"nbf":99999999999}"#,
        "[]",
    ] {
        assert_eq!(read(claims), None, "{claims}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let files = Files::new();
    let (ec, public) = new_pair("ES256");
    let (ec, public) = (files.write("ec", &ec), files.write("public", &public));
    let (other, _) = new_pair("ES256");
    let other = files.write("other", &other);
    let missing = Some(files.0.path().join("missing"));
    assert!(matches!(open("ES255", None, ec.clone()), Err(JwtError::Method(_))));
    assert!(matches!(open("ES256", None, None), Err(JwtError::NoKey(_))));
    assert!(matches!(open("HS256", public.clone(), None), Err(JwtError::NoKey(_))));
    assert!(matches!(open("HS256", None, files.write("empty", "")), Err(JwtError::NoKey(_))));
    assert!(matches!(open("ES256", None, missing), Err(JwtError::Read { .. })));
    assert!(matches!(open("ES384", None, ec.clone()), Err(JwtError::Key { .. })));
    assert!(matches!(open("RS256", None, ec.clone()), Err(JwtError::Key { .. })));
    assert!(matches!(open("ES256", ec, None), Err(JwtError::Key { .. })));
    assert!(matches!(open("ES256", public, other), Err(JwtError::Mismatch)));
}
