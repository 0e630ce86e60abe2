//! Who sends a request, and how a policy names clients.
//!
//! The gateway fills a [`Client`] with what it knows for certain: it strips identity headers of peers that the policy
//! does not trust, and takes a user name only from a token that the upstream accepted. Here nothing is verified again.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use crate::suggest;

/// What is known of the sender of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The common name of a verified client certificate.
    pub common_name: Option<Arc<str>>,
    /// The etcd user of a token that the upstream accepted.
    pub user: Option<Arc<str>>,
    /// The value of the policy's metadata key, from a trusted peer.
    pub metadata: Option<Arc<str>>,
    /// The `user-agent` header, which anybody can write.
    pub agent: Option<Arc<str>>,
    /// The name of the listener the connection came in by.
    pub listener: Option<Arc<str>>,
    pub peer: Option<IpAddr>,
}

/// A place to take a client's name from. The first of a policy's list that has a value counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    TlsCommonName,
    AuthUser,
    /// A metadata key, written `metadata:x-client`; believed only from trusted peers.
    Metadata(String),
    UserAgent,
    Listener,
    PeerIp,
}

/// The name by which limits and accounts know a client: where it was found, and the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientName<'a> {
    CommonName(&'a str),
    User(&'a str),
    Metadata(&'a str),
    Agent(&'a str),
    Listener(&'a str),
    Ip(IpAddr),
    /// None of the policy's sources has a value.
    Unknown,
}

impl Client {
    /// The client's name by a policy's sources.
    pub fn name<'a>(&'a self, sources: &[IdentitySource]) -> ClientName<'a> {
        sources.iter().find_map(|source| self.by(source)).unwrap_or(ClientName::Unknown)
    }

    /// The client with one attribute more, written as in a [`Subject`]: `CN=kube-apiserver` or `ip=10.0.0.1`.
    pub fn with(mut self, attribute: &str) -> Result<Client, String> {
        match attribute.parse()? {
            Subject::CommonName(Text::Exactly(text)) => self.common_name = Some(text.into()),
            Subject::User(Text::Exactly(text)) => self.user = Some(text.into()),
            Subject::Metadata(Text::Exactly(text)) => self.metadata = Some(text.into()),
            Subject::Agent(Text::Exactly(text)) => self.agent = Some(text.into()),
            Subject::Listener(Text::Exactly(text)) => self.listener = Some(text.into()),
            Subject::Ip(network) if network.is_one() => self.peer = Some(network.address),
            _ => return Err(format!("{attribute:?} is more than one client")),
        }
        Ok(self)
    }

    fn by<'a>(&'a self, source: &IdentitySource) -> Option<ClientName<'a>> {
        match source {
            IdentitySource::TlsCommonName => self.common_name.as_deref().map(ClientName::CommonName),
            IdentitySource::AuthUser => self.user.as_deref().map(ClientName::User),
            IdentitySource::Metadata(_) => self.metadata.as_deref().map(ClientName::Metadata),
            IdentitySource::UserAgent => self.agent.as_deref().map(ClientName::Agent),
            IdentitySource::Listener => self.listener.as_deref().map(ClientName::Listener),
            IdentitySource::PeerIp => self.peer.map(|peer| ClientName::Ip(host(peer))),
        }
    }
}

/// The address that stands for one host. Whoever has an IPv6 address has the whole /64 around it, and would have as
/// many names as it has addresses.
fn host(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

impl Hash for ClientName<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            ClientName::CommonName(text)
            | ClientName::User(text)
            | ClientName::Metadata(text)
            | ClientName::Agent(text)
            | ClientName::Listener(text) => text.hash(state),
            ClientName::Ip(ip) => ip.hash(state),
            ClientName::Unknown => {}
        }
    }
}

impl fmt::Display for ClientName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientName::CommonName(text) => write!(f, "CN={text}"),
            ClientName::User(text) => write!(f, "user={text}"),
            ClientName::Metadata(text) => write!(f, "metadata={text}"),
            ClientName::Agent(text) => write!(f, "agent={text}"),
            ClientName::Listener(text) => write!(f, "listener={text}"),
            ClientName::Ip(ip) => write!(f, "ip={ip}"),
            ClientName::Unknown => f.write_str("unknown"),
        }
    }
}

const SOURCES: [&str; 5] = ["tlsCommonName", "authUser", "userAgent", "listener", "peerIP"];

impl FromStr for IdentitySource {
    type Err = String;

    fn from_str(text: &str) -> Result<IdentitySource, String> {
        Ok(match text {
            "tlsCommonName" => IdentitySource::TlsCommonName,
            "authUser" => IdentitySource::AuthUser,
            "userAgent" => IdentitySource::UserAgent,
            "listener" => IdentitySource::Listener,
            "peerIP" => IdentitySource::PeerIp,
            other => {
                if let Some(key) = other.strip_prefix("metadata:") {
                    // The lower case of HTTP/2: another spelling would never be found.
                    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
                    if key.is_empty() || !key.bytes().all(valid) {
                        return Err(format!(
                            "{key:?} is no metadata key: lower case letters, digits and - _ . make one"
                        ));
                    }
                    return Ok(IdentitySource::Metadata(key.to_owned()));
                }
                let near = suggest::nearest(other, SOURCES);
                let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(format!("no identity source is called {other:?}{near}"));
            }
        })
    }
}

impl fmt::Display for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentitySource::TlsCommonName => f.write_str("tlsCommonName"),
            IdentitySource::AuthUser => f.write_str("authUser"),
            IdentitySource::Metadata(key) => write!(f, "metadata:{key}"),
            IdentitySource::UserAgent => f.write_str("userAgent"),
            IdentitySource::Listener => f.write_str("listener"),
            IdentitySource::PeerIp => f.write_str("peerIP"),
        }
    }
}

/// A pattern for clients: one attribute and what it must be, or `*` for everybody.
///
/// ```
/// use forebay_policies::{Client, Subject};
/// let subject: Subject = "CN=kube-*".parse().unwrap();
/// let client = Client { common_name: Some("kube-apiserver".into()), ..Client::default() };
/// assert!(subject.matches(&client) && !subject.matches(&Client::default()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Everybody,
    CommonName(Text),
    User(Text),
    Metadata(Text),
    Agent(Text),
    Listener(Text),
    Ip(Network),
}

/// A text, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Exactly(String),
    StartsWith(String),
}

impl Text {
    fn matches(&self, text: Option<&Arc<str>>) -> bool {
        text.is_some_and(|text| match self {
            Text::Exactly(own) => **own == **text,
            Text::StartsWith(own) => text.starts_with(own.as_str()),
        })
    }
}

impl Subject {
    /// Whether the client is meant.
    pub fn matches(&self, client: &Client) -> bool {
        match self {
            Subject::Everybody => true,
            Subject::CommonName(text) => text.matches(client.common_name.as_ref()),
            Subject::User(text) => text.matches(client.user.as_ref()),
            Subject::Metadata(text) => text.matches(client.metadata.as_ref()),
            Subject::Agent(text) => text.matches(client.agent.as_ref()),
            Subject::Listener(text) => text.matches(client.listener.as_ref()),
            Subject::Ip(network) => client.peer.is_some_and(|peer| network.contains(peer)),
        }
    }

    /// Whether clients are told apart by what they write themselves.
    pub fn is_agent(&self) -> bool {
        matches!(self, Subject::Agent(_))
    }

    /// Whether anybody can claim to be meant.
    pub fn can_be_forged(&self) -> bool {
        matches!(self, Subject::Everybody | Subject::Agent(_))
    }
}

const ATTRIBUTES: [&str; 6] = ["CN", "user", "metadata", "agent", "listener", "ip"];

impl FromStr for Subject {
    type Err = String;

    fn from_str(subject: &str) -> Result<Subject, String> {
        if subject == "*" {
            return Ok(Subject::Everybody);
        }
        let Some((attribute, value)) = subject.split_once('=') else {
            return Err(format!(
                "subject {subject:?} is neither * nor one of {}= with a value",
                ATTRIBUTES.join("=, ")
            ));
        };
        if value.is_empty() {
            return Err(format!("subject {subject:?} has no value"));
        }
        let text = match value.strip_suffix('*') {
            Some(start) => Text::StartsWith(start.to_owned()),
            None => Text::Exactly(value.to_owned()),
        };
        Ok(match attribute {
            "CN" => Subject::CommonName(text),
            "user" => Subject::User(text),
            "metadata" => Subject::Metadata(text),
            "agent" => Subject::Agent(text),
            "listener" => Subject::Listener(text),
            "ip" => Subject::Ip(value.parse()?),
            other => {
                let near = suggest::nearest(other, ATTRIBUTES);
                let near = near.map(|near| format!("; did you mean {near}=?")).unwrap_or_default();
                return Err(format!("no attribute of a client is called {other:?}{near}"));
            }
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (attribute, text) = match self {
            Subject::Everybody => return f.write_str("*"),
            Subject::Ip(network) => return write!(f, "ip={network}"),
            Subject::CommonName(text) => ("CN", text),
            Subject::User(text) => ("user", text),
            Subject::Metadata(text) => ("metadata", text),
            Subject::Agent(text) => ("agent", text),
            Subject::Listener(text) => ("listener", text),
        };
        match text {
            Text::Exactly(text) => write!(f, "{attribute}={text}"),
            Text::StartsWith(text) => write!(f, "{attribute}={text}*"),
        }
    }
}

/// Addresses that share their first bits: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Invariant: at most the bits of the address.
    bits: u8,
}

impl Network {
    /// Whether it is one address.
    pub fn is_one(&self) -> bool {
        self.bits == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether every address of its family is one of them.
    pub fn is_everything(&self) -> bool {
        self.bits == 0
    }

    /// Whether the address is one of them. An IPv4 address inside IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let malformed = || format!("{text:?} is neither an IP address nor a network like 10.0.0.0/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| malformed()))?;
        if bits > most { Err(malformed()) } else { Ok(Network { address, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.bits) }
    }
}

crate::text::as_text!(IdentitySource, Subject, Network);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_first_source_with_a_value_names_the_client() {
        let client = Client { user: Some("alice".into()), peer: Some(ip("10.0.0.1")), ..Client::default() };
        let sources = [IdentitySource::TlsCommonName, IdentitySource::AuthUser, IdentitySource::PeerIp];
        assert_eq!(client.name(&sources).to_string(), "user=alice");
        assert_eq!(client.name(&sources[2..]).to_string(), "ip=10.0.0.1");
        assert_eq!(client.name(&sources[..1]), ClientName::Unknown);
    }

    #[test]
    fn all_addresses_of_one_ipv6_host_are_one_client() {
        let name =
            |text| Client { peer: Some(ip(text)), ..Client::default() }.name(&[IdentitySource::PeerIp]).to_string();
        assert_eq!(name("2001:db8::1"), name("2001:db8::ffff:1"));
        assert_ne!(name("2001:db8::1"), name("2001:db8:0:1::1"));
        assert_eq!(name("::ffff:10.0.0.1"), name("10.0.0.1"));
    }

    #[test]
    fn subjects_match_their_attribute_alone() {
        let client = Client {
            common_name: Some("kube-apiserver".into()),
            agent: Some("etcdctl/3.5".into()),
            peer: Some(ip("10.1.2.3")),
            ..Client::default()
        };
        for (subject, matches) in [
            ("*", true),
            ("CN=kube-apiserver", true),
            ("CN=kube-*", true),
            ("CN=kube", false),
            ("user=kube-apiserver", false),
            ("agent=etcdctl*", true),
            ("ip=10.0.0.0/8", true),
            ("ip=10.1.2.3", true),
            ("ip=10.1.2.2/31", true),
            ("ip=10.1.2.4/31", false),
            ("ip=0.0.0.0/0", true),
            ("ip=::/0", false),
        ] {
            let parsed: Subject = subject.parse().unwrap_or_else(|error| panic!("{subject}: {error}"));
            assert_eq!(parsed.matches(&client), matches, "{subject}");
            assert_eq!(parsed.to_string(), subject);
        }
    }

    #[test]
    fn a_client_is_put_together_from_attributes() {
        let client = Client::default().with("CN=a").and_then(|client| client.with("ip=10.0.0.1")).expect("attributes");
        assert_eq!((client.common_name.as_deref(), client.peer), (Some("a"), Some(ip("10.0.0.1"))));
        for several in ["*", "CN=a*", "ip=10.0.0.0/8"] {
            assert!(Client::default().with(several).is_err(), "{several}");
        }
    }

    #[test]
    fn what_is_no_subject_is_refused_with_the_nearest() {
        for (text, part) in [
            ("kube-apiserver", "neither * nor one of"),
            ("CN=", "has no value"),
            ("usr=a", "did you mean user=?"),
            ("ip=10.0.0.0/33", "neither an IP address"),
            ("ip=10.0.0", "neither an IP address"),
        ] {
            let error = text.parse::<Subject>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("tlsCommonname".parse::<IdentitySource>().expect_err("case").contains("did you mean tlsCommonName?"));
        assert!("metadata:X-A".parse::<IdentitySource>().is_err());
    }
}
