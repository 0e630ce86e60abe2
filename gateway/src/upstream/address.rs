//! Endpoints as etcdctl takes them.

use std::{fmt, str::FromStr};

use http::uri::{Authority, Scheme};

/// The address of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
}

/// Why a list of endpoints cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is nothing in it.
    #[error("no endpoints given; name at least one, such as http://127.0.0.1:2379")]
    Empty,
    /// More than a pool can tell apart.
    #[error("{0} endpoints given; at most {max} are possible", max = Address::MAX)]
    TooMany(usize),
    /// Not a URL of a host.
    #[error("endpoint {0:?} is not of the form http://host:port")]
    Malformed(String),
    /// Another scheme than http and https.
    #[error("endpoint {0:?}: scheme {1:?} is not supported; use http or https")]
    Scheme(String, String),
    /// The same endpoint twice.
    #[error("endpoint {0:?} is given twice")]
    Duplicate(String),
}

impl Address {
    /// Endpoints that one pool can hold.
    pub const MAX: usize = 64;

    /// Reads `http://a:2379,b:2379`: comma-separated, the scheme optional, the port 2379 unless given.
    pub fn list(text: &str) -> Result<Vec<Address>, AddressError> {
        let mut addresses: Vec<Address> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let address: Address = part.parse()?;
            if addresses.contains(&address) {
                return Err(AddressError::Duplicate(part.to_owned()));
            }
            addresses.push(address);
        }
        match addresses.len() {
            0 => Err(AddressError::Empty),
            count if count > Address::MAX => Err(AddressError::TooMany(count)),
            _ => Ok(addresses),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = match scheme {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            other => return Err(AddressError::Scheme(text.to_owned(), other.to_owned())),
        };
        let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| malformed())?;
        let has_user = authority.as_str().contains('@');
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        if authority.host().is_empty() || has_user || (!port.is_empty() && authority.port_u16().is_none()) {
            return Err(malformed());
        }
        let authority = match authority.port_u16() {
            Some(_) => authority,
            None => format!("{}:2379", authority.host()).parse().map_err(|_| malformed())?,
        };
        Ok(Address { scheme, authority })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcdctl_writes_them() {
        let list = |text| Address::list(text).map(|list| list.iter().map(Address::to_string).collect::<Vec<_>>());
        assert_eq!(list("127.0.0.1:2379").unwrap(), ["http://127.0.0.1:2379"]);
        assert_eq!(list("http://a:2379,b:1, c").unwrap(), ["http://a:2379", "http://b:1", "http://c:2379"]);
        assert_eq!(list("http://[::1]:2379/").unwrap(), ["http://[::1]:2379"]);
        assert_eq!(list(" ,"), Err(AddressError::Empty));
        assert_eq!(list("a,http://a:2379"), Err(AddressError::Duplicate("http://a:2379".into())));
        assert_eq!(list("https://a:1,a:1").unwrap(), ["https://a:1", "http://a:1"]);
        assert_eq!(list("unix://a:1"), Err(AddressError::Scheme("unix://a:1".into(), "unix".into())));
        for bad in ["http://", "a:b", "a:99999", "u@a:1", "http://a/path", "a b"] {
            assert_eq!(list(bad), Err(AddressError::Malformed(bad.into())), "{bad}");
        }
    }
}
