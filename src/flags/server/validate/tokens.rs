//! `--auth-token`: a kind, and what it needs to know.

use std::{path::PathBuf, time};

use crate::flags::{
    Problem,
    go::{self, Duration},
    server::Settings,
    server_config::AuthToken,
};

const KINDS: &str = "it takes simple, or jwt,sign-method=METHOD,priv-key=FILE,pub-key=FILE,ttl=DURATION";
/// As long as a token lasts that nobody said more about.
const TTL: time::Duration = time::Duration::from_secs(300);

/// Reads it; the second of the pair are options that mean nothing.
pub(super) fn auth_token(settings: &Settings) -> Result<(AuthToken, Vec<String>), Problem> {
    let text = settings.auth_token.as_str();
    let invalid = |reason: &str| {
        Problem::new(format!("auth: invalid auth options: --auth-token {}: {reason}", go::quote(text))).hint(KINDS)
    };
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options: Vec<(&str, &str)> = Vec::new();
    for part in parts {
        let (name, value) = part
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| invalid(&format!("{} is not NAME=VALUE", go::quote(part))))?;
        if options.iter().any(|(known, _)| *known == name) {
            return Err(invalid(&format!("{name} is given twice")));
        }
        options.push((name, value));
    }
    let mut take = |name: &str| {
        let at = options.iter().position(|(known, _)| *known == name)?;
        Some(options.remove(at).1).filter(|value| !value.is_empty())
    };
    let token = match kind {
        "simple" => AuthToken::Simple(match settings.auth_token_ttl {
            0 => TTL,
            seconds => time::Duration::from_secs(seconds),
        }),
        "jwt" => AuthToken::Jwt {
            method: take("sign-method").ok_or_else(|| invalid("jwt needs a sign-method"))?.to_owned(),
            public_key: take("pub-key").map(PathBuf::from),
            private_key: take("priv-key").map(PathBuf::from),
            ttl: match take("ttl").map(Duration::parse) {
                None => TTL,
                Some(Ok(ttl)) if ttl > Duration(0) => ttl.to_std(),
                Some(Ok(_)) => return Err(invalid("a ttl must be positive")),
                Some(Err(error)) => return Err(invalid(&error)),
            },
        },
        "" => AuthToken::None,
        other => return Err(invalid(&format!("there is no kind {}", go::quote(other)))),
    };
    Ok((token, options.into_iter().map(|(name, _)| name.to_owned()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(AuthToken, Vec<String>), Problem> {
        auth_token(&Settings { auth_token: text.to_owned(), ..Settings::default() })
    }

    #[test]
    fn kinds_and_their_options_are_read() {
        assert_eq!(parse("simple").ok(), Some((AuthToken::Simple(TTL), vec![])));
        assert_eq!(parse("").ok(), Some((AuthToken::None, vec![])));
        let full = parse("jwt,pub-key=a.pem,priv-key=b.pem,sign-method=RS256,ttl=10m,colour=red");
        let token = AuthToken::Jwt {
            method: "RS256".to_owned(),
            public_key: Some("a.pem".into()),
            private_key: Some("b.pem".into()),
            ttl: time::Duration::from_secs(600),
        };
        assert_eq!(full.ok(), Some((token, vec!["colour".to_owned()])));
    }

    #[test]
    fn what_is_no_kind_or_option_is_a_problem() {
        for text in [
            "simpel",
            "JWT",
            "jwt",
            "jwt,",
            "simple,x",
            "jwt,sign-method=",
            "jwt,sign-method=RS256=",
            "jwt,ttl=1s,ttl=2s,sign-method=RS256",
            "jwt,sign-method=RS256,ttl=soon",
            "jwt,sign-method=RS256,ttl=-1s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
