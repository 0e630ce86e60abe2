//! The host that a request names: one, and the same however the request is read.
//!
//! Who may ask is decided by it where there is no TLS (`--host-whitelist`), and a proxy in front may have decided by it
//! already. A request that could be read in two ways is therefore refused, as RFC 9112 3.2 and RFC 9113 8.3.1 have it and
//! Go's HTTP server and grpc-go do. A URI with a host of its own beats the field under HTTP/1.1 (RFC 9112 3.2.2).

use http::{Method, Request, Version, header::HOST};

/// Why the host of a request is none.
pub(super) fn fault<B>(request: &Request<B>) -> Option<&'static str> {
    let mut fields = request.headers().get_all(HOST).iter();
    let Some(host) = fields.next() else {
        let needs_one = request.version() == Version::HTTP_11 && request.method() != Method::CONNECT;
        return needs_one.then_some("missing required Host header");
    };
    if fields.next().is_some() {
        return Some("too many Host headers");
    }
    if !host.as_bytes().iter().all(|byte| is_of_host(*byte)) {
        return Some("malformed Host header");
    }
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    let differs = |authority: &str| !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    authority.is_some_and(|authority| differs(authority.as_str())).then_some("Host differs from :authority")
}

/// Whether Go's HTTP server takes a byte in a host.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_host_and_no_other() {
        let of = |version, uri: &str, hosts: &[&str]| {
            let request =
                hosts.iter().fold(Request::get(uri).version(version), |request, host| request.header(HOST, *host));
            fault(&request.body(()).unwrap())
        };
        let plain = |hosts: &[&str]| of(Version::HTTP_11, "/version", hosts);
        for host in ["here", "here:2379", "[::1]:2379", ""] {
            assert_eq!(plain(&[host]), None, "{host}");
        }
        assert_eq!(plain(&[]), Some("missing required Host header"));
        assert_eq!(of(Version::HTTP_10, "/version", &[]), None);
        for hosts in [["here", "there"], ["here", "here"]] {
            assert_eq!(plain(&hosts), Some("too many Host headers"));
        }
        for host in ["he re", "here/x", "user@here", "h\u{e9}re"] {
            assert_eq!(plain(&[host]), Some("malformed Host header"), "{host}");
        }
        // The URI counts, as in `http::access::host`.
        assert_eq!(of(Version::HTTP_11, "http://here/version", &["there"]), None);
        assert_eq!(of(Version::HTTP_11, "http://here/version", &[]), Some("missing required Host header"));
        let second = |hosts: &[&str]| of(Version::HTTP_2, "http://here:1/version", hosts);
        assert_eq!((second(&[]), second(&["HERE:1"])), (None, None));
        assert_eq!(second(&["there"]), Some("Host differs from :authority"));
        assert_eq!(second(&["here:1", "there"]), Some("too many Host headers"));
    }
}
