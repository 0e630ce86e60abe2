//! The URLs that etcd listens on and advertises: `http`, `https`, `unix`, `unixs`, and nothing after the address.
//!
//! Refusals carry the texts of Go's `net/url` and of etcd. User names, queries and fragments, which etcd accepts
//! and never uses, are refused: they only ever hide a mistake.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use super::go::quote;

/// One address to listen on or to advertise.
///
/// Ordered and compared by its text, as etcd sorts them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

/// Where a [`Url`] points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A name or IP, without the brackets of IPv6; an empty host means every interface, a port of 0 any free one.
    Tcp { host: String, port: u16 },
    /// A socket file.
    Unix(PathBuf),
}

impl Url {
    /// Reads one URL; spaces around it do not count.
    pub fn parse(input: &str) -> Result<Url, String> {
        let input = input.trim();
        let (before_fragment, fragment) = match input.split_once('#') {
            Some((before, after)) => (before, Some(after)),
            None => (input, None),
        };
        let refuse = |reason: String| format!("parse {}: {reason}", quote(before_fragment));
        if before_fragment.chars().any(|c| c.is_ascii_control()) {
            return Err(refuse("net/url: invalid control character in URL".to_owned()));
        }
        let (scheme, rest) = split_scheme(before_fragment).map_err(refuse)?;
        let (rest, query) = match rest.split_once('?') {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let (authority, path) = if let Some(after) = rest.strip_prefix("//") {
            let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
            (Some(authority), path)
        } else if rest.starts_with('/') || !scheme.is_empty() {
            (None, rest)
        } else if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err(refuse("first path segment in URL cannot contain colon".to_owned()));
        } else {
            (None, rest)
        };
        let host = match authority {
            Some(authority) => {
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                check_host(host).map_err(refuse)?;
                host
            }
            None => "",
        };
        if let Some(escape) = bad_escape(path) {
            return Err(refuse(format!("invalid URL escape {}", quote(escape))));
        }

        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {input}")),
        };
        let extra = [("a user", authority.is_some_and(|a| a.contains('@'))), ("a query", query.is_some())];
        if let Some((what, _)) = extra.into_iter().chain([("a fragment", fragment.is_some())]).find(|(_, there)| *there)
        {
            return Err(format!("URL must not contain {what}: {input}"));
        }
        let address = match scheme {
            Scheme::Http | Scheme::Https => {
                let (host, port) = split_host_port(host)
                    .ok_or_else(|| format!("URL address does not have the form \"host:port\": {input}"))?;
                if !path.is_empty() {
                    return Err(format!("URL must not contain a path: {input}"));
                }
                let port = if port.is_empty() { Ok(0) } else { port.parse() };
                let port = port.map_err(|_| format!("URL port must be below 65536: {input}"))?;
                Address::Tcp { host: host.replace("%25", "%"), port }
            }
            Scheme::Unix | Scheme::Unixs if host.is_empty() && path.is_empty() => {
                return Err(format!("URL must name a socket file: {input}"));
            }
            Scheme::Unix | Scheme::Unixs => Address::Unix(PathBuf::from(format!("{host}{path}"))),
        };
        let after_scheme = input.split_once(':').map_or("", |(_, after)| after);
        Ok(Url { text: format!("{scheme}:{after_scheme}"), scheme, address })
    }

    /// Reads a comma separated list; the result is sorted and holds each URL once.
    pub fn parse_list(input: &str) -> Result<Vec<Url>, String> {
        let mut urls = input.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The host of a TCP address.
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// The port of a TCP address.
    pub fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        }
    }

    /// Whether one can listen here: etcd binds to addresses only, a name may resolve to another machine.
    pub fn can_bind(&self) -> bool {
        match &self.address {
            Address::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok(),
            Address::Unix(_) => true,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same scheme with another TCP address.
    pub fn with_address(&self, host: &str, port: u16) -> Url {
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let address = Address::Tcp { host: host.to_owned(), port };
        Url { text: format!("{}://{authority}", self.scheme), scheme: self.scheme, address }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        })
    }
}

/// The scheme (empty when there is none) and what follows its colon.
fn split_scheme(url: &str) -> Result<(&str, &str), String> {
    for (at, c) in url.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&url[..at], &url[at + 1..])),
            _ => break,
        }
    }
    Ok(("", url))
}

/// What Go's `url.Parse` asks of `host[:port]`.
fn check_host(host: &str) -> Result<(), String> {
    let name = if let Some(inner) = host.strip_prefix('[') {
        let Some(end) = inner.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        check_port(&inner[end + 1..])?;
        let literal = &inner[..end];
        let (ip, zone) = literal.split_once("%25").map_or((literal, None), |(ip, zone)| (ip, Some(zone)));
        if ip.parse::<Ipv6Addr>().is_err() || zone == Some("") {
            return Err(format!("invalid host: ParseAddr({}): unable to parse IP", quote(literal)));
        }
        return Ok(());
    } else if let Some(colon) = host.find(':') {
        check_port(&host[colon..])?;
        &host[..colon]
    } else {
        host
    };
    for (at, c) in name.char_indices() {
        if c == '%' {
            let escape: String = name[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {}", quote(&escape)));
        }
        if c.is_ascii() && !c.is_ascii_alphanumeric() && !"-_.~!$&'()*+,;=:[]<>\"".contains(c) {
            return Err(format!("invalid character {} in host name", quote(&c.to_string())));
        }
    }
    Ok(())
}

fn check_port(colon_port: &str) -> Result<(), String> {
    let digits_only = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if colon_port.is_empty() || colon_port.strip_prefix(':').is_some_and(digits_only) {
        Ok(())
    } else {
        Err(format!("invalid port {} after host", quote(colon_port)))
    }
}

/// Host and port of an authority that [`check_host`] accepted, or `None` without a port.
fn split_host_port(host: &str) -> Option<(&str, &str)> {
    match host.strip_prefix('[') {
        Some(inner) => {
            let (literal, rest) = inner.rsplit_once(']')?;
            Some((literal, rest.strip_prefix(':')?))
        }
        None => host.rsplit_once(':'),
    }
}

/// The first `%` that is not followed by two hexadecimal digits.
fn bad_escape(path: &str) -> Option<&str> {
    path.match_indices('%').map(|(at, _)| &path[at..]).find_map(|escape| {
        let hex = escape.as_bytes().get(1..3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let shown = escape.char_indices().nth(3).map_or(escape.len(), |(end, _)| end);
        (!hex).then(|| &escape[..shown])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_texts_of_go_and_etcd() {
        for (input, error) in [
            ("http://127.0.0.1", r#"URL address does not have the form "host:port": http://127.0.0.1"#),
            ("127.0.0.1:2379", r#"parse "127.0.0.1:2379": first path segment in URL cannot contain colon"#),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("http://127.0.0.1:2379/", "URL must not contain a path: http://127.0.0.1:2379/"),
            ("ftp://127.0.0.1:2379", "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:2379"),
            ("http://exa mple:1", r#"parse "http://exa mple:1": invalid character " " in host name"#),
            ("http://127.0.0.1:abc", r#"parse "http://127.0.0.1:abc": invalid port ":abc" after host"#),
            ("%zz", r#"parse "%zz": invalid URL escape "%zz""#),
            ("http://h:1/%zz", r#"parse "http://h:1/%zz": invalid URL escape "%zz""#),
            ("http://h%zz:1", r#"parse "http://h%zz:1": invalid URL escape "%zz""#),
            ("http://a%20b:1", r#"parse "http://a%20b:1": invalid URL escape "%20""#),
            ("http://[::1", r#"parse "http://[::1": missing ']' in host"#),
            ("http://[::1]x:1", r#"parse "http://[::1]x:1": invalid port "x:1" after host"#),
            ("http://[zz]:1", r#"parse "http://[zz]:1": invalid host: ParseAddr("zz"): unable to parse IP"#),
            ("http://[fe80::1]", r#"URL address does not have the form "host:port": http://[fe80::1]"#),
            ("http://::1:2379", r#"parse "http://::1:2379": invalid port "::1:2379" after host"#),
            ("http://a:1:2", r#"parse "http://a:1:2": invalid port ":1:2" after host"#),
            ("http://a\x01:1", r#"parse "http://a\x01:1": net/url: invalid control character in URL"#),
            (":foo", r#"parse ":foo": missing protocol scheme"#),
            ("1http://h:1", r#"parse "1http://h:1": first path segment in URL cannot contain colon"#),
            ("//h:1", "URL scheme must be http, https, unix, or unixs: //h:1"),
            ("http:h:1", r#"URL address does not have the form "host:port": http:h:1"#),
            ("http:///x", r#"URL address does not have the form "host:port": http:///x"#),
            ("*", "URL scheme must be http, https, unix, or unixs: *"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            // Accepted by etcd, where they fail later or never mean anything.
            ("http://h:99999", "URL port must be below 65536: http://h:99999"),
            ("http://u:p@h:1", "URL must not contain a user: http://u:p@h:1"),
            ("http://h:1?x=1", "URL must not contain a query: http://h:1?x=1"),
            ("http://h:1#f", "URL must not contain a fragment: http://h:1#f"),
            ("unix://", "URL must name a socket file: unix://"),
        ] {
            assert_eq!(Url::parse(input), Err(error.to_owned()), "{input:?}");
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        for (input, text, scheme, address) in [
            (" http://h:1 ", "http://h:1", Scheme::Http, tcp("h", 1)),
            ("HTTPS://H:1", "https://H:1", Scheme::Https, tcp("H", 1)),
            ("http://[::1]:2379", "http://[::1]:2379", Scheme::Http, tcp("::1", 2379)),
            ("http://[fe80::1%25eth0]:1", "http://[fe80::1%25eth0]:1", Scheme::Http, tcp("fe80::1%eth0", 1)),
            ("http://:2379", "http://:2379", Scheme::Http, tcp("", 2379)),
            ("http://h:", "http://h:", Scheme::Http, tcp("h", 0)),
            ("unix:///run/etcd.sock", "unix:///run/etcd.sock", Scheme::Unix, Address::Unix("/run/etcd.sock".into())),
            ("unixs://localhost:1", "unixs://localhost:1", Scheme::Unixs, Address::Unix("localhost:1".into())),
            ("unix:sock", "unix:sock", Scheme::Unix, Address::Unix("sock".into())),
        ] {
            let url = Url::parse(input).unwrap_or_else(|error| panic!("{input:?}: {error}"));
            assert_eq!((url.as_str(), url.scheme(), url.address()), (text, scheme, &address), "{input:?}");
        }
    }

    #[test]
    fn lists_are_sorted_and_hold_each_url_once() {
        let urls = Url::parse_list("http://h:2, http://h:1,http://h:2").expect("three good URLs");
        let texts: Vec<&str> = urls.iter().map(Url::as_str).collect();
        assert_eq!(texts, ["http://h:1", "http://h:2"]);
        assert!(Url::parse_list("http://h:1,").is_err());
        assert_eq!(urls[0].with_address("::1", 9).as_str(), "http://[::1]:9");
    }
}
