//! What the roles' TLS flags have in common.

use super::{Problem, go, server_config::TlsVersion};

/// Reads `tls-min-version` and `tls-max-version`; an empty one is the default.
pub fn versions(
    min: &str,
    max: &str,
    cipher_suites: &[String],
    problems: &mut Vec<Problem>,
) -> (TlsVersion, Option<TlsVersion>) {
    let mut problem = |text: String, hint: &str| problems.push(Problem::new(text).hint(hint));
    let mut version = |text: &str| match text {
        "" => None,
        "TLS1.2" => Some(TlsVersion::Tls12),
        "TLS1.3" => Some(TlsVersion::Tls13),
        other => {
            problem(
                format!("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", go::quote(other)),
                "write TLS1.2 or TLS1.3",
            );
            None
        }
    };
    let (oldest, newest) = (version(min), version(max));
    if newest.is_some_and(|newest| oldest > Some(newest)) {
        problem(
            format!("min version ({min}) is greater than max version ({max})"),
            "raise --tls-max-version or leave it out",
        );
    }
    if oldest == Some(TlsVersion::Tls13) && !cipher_suites.is_empty() {
        problem(
            "cipher suites cannot be configured when only TLS1.3 is enabled".to_owned(),
            "leave --cipher-suites out, TLS 1.3 has only good ones",
        );
    }
    (oldest.unwrap_or(TlsVersion::Tls12), newest)
}

/// What lets in fewer clients, and without an authority would let in all: flag by flag, whether it is given.
pub fn without_authority(prefix: &str, restrictions: &[(&str, bool)], problems: &mut Vec<Problem>) {
    for (flag, _) in restrictions.iter().filter(|(_, given)| *given) {
        problems.push(
            Problem::new(format!("--{flag} verifies nobody without --{prefix}trusted-ca-file"))
                .hint(format!("name the authority that signs the certificates in --{prefix}trusted-ca-file")),
        );
    }
}
