//! The console: one page with its script and its style, embedded, that reads what a port serves anyway.
//!
//! It is the same for everybody and holds nothing, so whoever reaches the port may have it; what it shows is asked of
//! pages that decide for themselves whom they answer. The policy that goes with it lets no markup, script or style from
//! elsewhere in, and lets it talk to nobody but the server it came from.

use bytes::Bytes;
use forebay_edge::{Body, Request, Response};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        X_FRAME_OPTIONS,
    },
};

/// Where it is.
pub const PATH: &str = "/console/";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Each file with its type.
const FILES: [(&str, &str, &str); 3] = [
    ("", "text/html; charset=utf-8", include_str!("console/index.html")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("console/console.js")),
    ("console.css", "text/css; charset=utf-8", include_str!("console/console.css")),
];

/// Answers a request for the console; `None` if the path is another one.
pub fn answer(request: &Request) -> Option<Response> {
    let path = request.uri().path();
    if path == PATH.trim_end_matches('/') {
        let mut response = plain(StatusCode::PERMANENT_REDIRECT, "");
        response.headers_mut().insert(LOCATION, HeaderValue::from_static(PATH));
        return Some(response);
    }
    let name = path.strip_prefix(PATH)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let Some((_, content_type, text)) = FILES.iter().find(|(own, ..)| *own == name) else {
        return Some(plain(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    let body = if request.method() == Method::HEAD { "" } else { text };
    let mut response = with_headers(StatusCode::OK, content_type, body);
    let mut set =
        |name: HeaderName, value: &'static str| response.headers_mut().insert(name, HeaderValue::from_static(value));
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_FRAME_OPTIONS, "DENY");
    set(REFERRER_POLICY, "no-referrer");
    // Another release at the same address has another page.
    set(CACHE_CONTROL, "no-cache");
    Some(response)
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    with_headers(status, "text/plain; charset=utf-8", text)
}

fn with_headers(status: StatusCode, content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::full(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, path: &str) -> Option<Response> {
        answer(&http::Request::builder().method(method).uri(path).body(Body::empty()).expect("a request"))
    }

    #[test]
    fn the_console_is_small_and_lets_nothing_else_in() {
        assert!(FILES.iter().map(|(.., text)| text.len()).sum::<usize>() < 300 << 10);
        for (name, content_type, _) in FILES {
            let response = ask("GET", &format!("{PATH}{name}")).expect("it is there");
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            assert_eq!(response.headers()[CONTENT_TYPE], content_type);
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text");
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        }
        assert_eq!(ask("GET", "/console").expect("a redirect").headers()[LOCATION], PATH);
        assert_eq!(ask("POST", PATH).expect("a refusal").status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask("GET", "/console/../x").expect("a refusal").status(), StatusCode::NOT_FOUND);
        assert!(ask("GET", "/consoles").is_none() && ask("GET", "/").is_none());
    }

    #[test]
    fn nothing_from_elsewhere_is_loaded_and_no_markup_is_made_of_data() {
        let [(_, _, page), (_, _, script), (_, _, style)] = FILES;
        // The namespace of SVG is a name, not an address.
        let addresses = |text: &str| text.replace("http://www.w3.org/2000/svg", "").contains("://");
        assert!(!addresses(page) && !addresses(script) && !addresses(style));
        for forbidden in [".innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
        assert!(!page.contains("<script>") && !page.contains(" style=") && !page.contains(" onclick="));
    }
}
