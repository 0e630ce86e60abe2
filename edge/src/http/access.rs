//! Who may ask, and for which path: host names, web origins, certificates, clean paths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, FORWARDED, HOST,
        LOCATION, ORIGIN,
    },
};

use super::{
    Shared,
    answer::{empty, plain_error, with_type},
};
use crate::{Request, Response, listener::Peer, tls::Tls};

/// Web pages that may use the API, by their origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any page, as etcd allows by default.
    Any,
    /// These. A page of another origin is not only kept from reading answers, as by etcd: its
    /// requests are refused, because a browser sends a form's `POST` without asking first.
    Listed(Vec<String>),
}

impl Origins {
    /// The value of `Access-Control-Allow-Origin`, if the page may read the answer.
    pub(super) fn headers_for(&self, request: &Request) -> Option<HeaderValue> {
        match self {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Listed(_) => {
                request.headers().get(ORIGIN).filter(|origin| self.allows(origin.as_bytes())).cloned()
            }
        }
    }

    fn allows(&self, origin: &[u8]) -> bool {
        match self {
            Origins::Any => true,
            Origins::Listed(listed) => listed.iter().any(|allowed| allowed.as_bytes() == origin),
        }
    }

    /// Whether the request comes from a page that may not use the API. A page of our own may.
    fn refuses(&self, request: &Request) -> bool {
        let Some(origin) = request.headers().get(ORIGIN) else { return false };
        let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        !self.allows(origin.as_bytes()) && own != Some(host(request))
    }
}

pub(super) fn with_cors(mut response: Response, origin: Option<HeaderValue>) -> Response {
    if let Some(origin) = origin {
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    }
    response
}

impl Shared {
    /// The refusal of a caller that may not be here, whatever it asks.
    pub(super) fn refuse_caller(&self, request: &Request, path: &str) -> Option<Response> {
        match request.extensions().get::<Tls>() {
            None => {
                let name = without_port(host(request));
                let hosts = &self.options.hosts;
                if !hosts.is_empty() && !hosts.iter().any(|host| host == "*" || host == name) {
                    tracing::warn!(host = name, "refused a request under a foreign host name");
                    return Some(plain_error(StatusCode::MISDIRECTED_REQUEST, &foreign_host(name)));
                }
            }
            Some(tls) => {
                // A user by certificate cannot be told to the API by this way, and answering as
                // somebody else would surprise.
                let named = tls.common_name.as_ref().is_some_and(|name| !name.is_empty());
                let guarded = self.options.client_cert_auth && self.options.json && path.starts_with("/v3/");
                if named && guarded && self.probes.auth_enabled() {
                    let text = "CommonName of client sending a request against gateway will be ignored and not used as expected";
                    return Some(plain_error(StatusCode::BAD_REQUEST, text));
                }
            }
        }
        if path.starts_with("/v3/") && self.options.origins.refuses(request) {
            return Some(plain_error(StatusCode::FORBIDDEN, "this origin may not use the API; see --cors"));
        }
        None
    }
}

fn foreign_host(name: &str) -> String {
    format!(
        "\nThis request names the host {name:?}, which this server does not know itself by.\n\n\
         A web page can make its own name point here and have a browser talk to us (DNS rebinding,\n\
         CVE-2018-5702). If the name is meant, either\n\
         - use TLS, which such a page cannot, or\n\
         - start the server with --host-whitelist {name:?}."
    )
}

/// Whether a request comes from this machine and is meant for it: a web page can make a name of its own point here (DNS
/// rebinding), and a proxy on this machine says for whom it asks.
pub fn is_local(request: &Request) -> bool {
    let is_loopback = |address: IpAddr| address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address.ip().to_canonical());
    let name = without_port(host(request)).trim_start_matches('[').trim_end_matches(']');
    let is_forwarded =
        request.headers().keys().any(|name| name == FORWARDED || name.as_str().starts_with("x-forwarded-"));
    peer.is_some_and(is_loopback) && (name == "localhost" || name.parse().is_ok_and(is_loopback)) && !is_forwarded
}

/// The host that the request names, with its port.
pub(super) fn host(request: &Request) -> &str {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or(header).unwrap_or_default()
}

fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return address;
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// The path with its escapes resolved. Bytes that are no text make a path that nothing has.
pub(super) fn decoded_path(uri: &Uri) -> String {
    percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy().into_owned()
}

/// The pairs of a query; a value may be missing.
pub(super) fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        (decoded(name), decoded(value))
    })
}

/// Sends a client with dots or double slashes in its path, or without the slash behind `/v3`, to the
/// path it means, as Go's HTTP server does.
pub(super) fn redirect_to_clean_path(request: &Request, json: bool) -> Option<Response> {
    let path = request.uri().path();
    let mut clean = clean_path(path);
    if json && clean == "/v3" {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    if let Some(query) = request.uri().query() {
        clean.push('?');
        clean.push_str(query);
    }
    // Browsers read a backslash as a slash, and two of those as the start of a host.
    let clean = clean.replace('\\', "%5C");
    let location = HeaderValue::from_str(&clean).ok()?;
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        let link = clean.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let body = format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n");
        with_type(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", body)
    } else {
        empty(StatusCode::TEMPORARY_REDIRECT)
    };
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

/// The path with `.`, `..` and empty parts resolved; it begins with one slash, so it cannot lead to
/// another host.
fn clean_path(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for part in &parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    clean
}
