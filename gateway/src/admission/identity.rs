//! Who sends a call: what the connection proves, the user behind a token, and what a trusted peer says.
//!
//! A policy decides which of these names a client ([`forebay_policies::IdentitySource`]); here they are
//! only gathered. Nobody but a trusted peer can say who he is: from all others the metadata keys that
//! carry a name are removed before the call goes on, so that a gateway behind this one, which trusts
//! this one, is not told what anybody made up.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
};

use forebay_edge::{listener::Peer, tls::Tls};
use forebay_policies::{Client, IdentitySource, Network, Policy, Subject};
use http::{HeaderMap, HeaderName, Request, header::USER_AGENT};
use parking_lot::Mutex;

use super::{recent::Recent, token::AdminToken};

/// The metadata key under which one gateway tells the next who the client is, if that trusts it.
pub(crate) const CLIENT: HeaderName = HeaderName::from_static("forebay-client");

/// The metadata key under which a call brings the admin token. It goes no further.
const ADMIN_TOKEN: HeaderName = HeaderName::from_static("forebay-admin-token");
/// The metadata key of etcd's tokens.
const TOKEN: HeaderName = HeaderName::from_static("token");
/// A `user-agent` is anybody's text; a longer one names nobody better.
const AGENT_BYTES_MAX: usize = 128;

/// Gathers identities.
pub(crate) struct Identities {
    users: Users,
}

/// Marks a call of the gateway itself, such as what its health page asks: no limit may keep the
/// gateway from telling how it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnCall;

/// The listener that every policy lets past its limits.
const ADMIN_LISTENER: &str = "admin";

/// What a policy says about names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    /// The metadata key that trusted peers name the client with.
    pub(crate) metadata: Option<HeaderName>,
    /// Peers that are believed.
    pub(crate) trusted: Vec<Network>,
    /// Whether a rule or a source looks at the `user-agent`.
    pub(crate) agents: bool,
}

impl Naming {
    /// Reads what a policy looks at.
    pub(crate) fn new(policy: &Policy) -> Naming {
        let trusted = policy.trusted_peers.clone();
        let subjects = (policy.rules.iter().flat_map(|rule| &rule.matches.subjects))
            .chain(policy.namespaces.iter().flat_map(|namespace| &namespace.subjects));
        let agents = policy.identity.contains(&IdentitySource::UserAgent)
            || subjects.into_iter().any(|subject| matches!(subject, Subject::Agent(_)));
        let metadata = policy.identity.iter().find_map(|source| match source {
            IdentitySource::Metadata(key) => HeaderName::try_from(key.as_str()).ok(),
            _ => None,
        });
        Naming { metadata, trusted, agents }
    }

    fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_some_and(|peer| self.trusted.iter().any(|network| network.contains(peer)))
    }
}

impl Identities {
    pub(crate) fn new() -> Identities {
        Identities { users: Users::default() }
    }

    /// Who sends a request, and by which token. Takes names away that the sender has no right to give.
    pub(crate) fn identify<B>(
        &self,
        request: &mut Request<B>,
        naming: &Naming,
        admin: Option<&AdminToken>,
    ) -> (Client, Option<TokenId>) {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
        let key = naming.metadata.clone().unwrap_or(CLIENT);
        let metadata = if naming.trusts(peer) {
            request.headers().get(&key).and_then(|value| value.to_str().ok()).map(Arc::from)
        } else {
            while request.headers_mut().remove(&key).is_some() {}
            while request.headers_mut().remove(CLIENT).is_some() {}
            None
        };
        let said = request.headers_mut().remove(ADMIN_TOKEN);
        let brings_token = admin.zip(said).is_some_and(|(token, said)| token.is(said.as_bytes()));
        let is_admin = brings_token || request.extensions().get::<OwnCall>().is_some();
        let token = request.headers().get(TOKEN).map(|token| self.users.id(token.as_bytes()));
        let client = Client {
            common_name: request.extensions().get::<Tls>().and_then(|tls| tls.common_name.as_deref()).map(Arc::from),
            user: token.and_then(|token| self.users.known.lock().get(&token)),
            metadata,
            agent: naming.agents.then(|| agent(request.headers())).flatten(),
            listener: is_admin.then(|| Arc::from(ADMIN_LISTENER)),
            peer,
        };
        (client, token)
    }

    /// The upstream gave `user` this token.
    pub(crate) fn logged_in(&self, user: &str, token: &str) {
        let id = self.users.id(token.as_bytes());
        self.users.known.lock().insert(id, Arc::from(user));
    }

    /// The upstream refused this token.
    pub(crate) fn refused(&self, token: TokenId) {
        self.users.known.lock().remove(&token);
    }
}

fn agent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(Arc::from(&text[..text.len().min(AGENT_BYTES_MAX)]))
}

/// The users of tokens that the upstream gave out through this gateway.
///
/// A token itself is not kept, only a keyed hash of it, so that no memory of the gateway lets anybody
/// in. A token that was given out elsewhere has no user here: what is written inside a JWT proves
/// nothing before somebody has checked its signature.
struct Users {
    hasher: RandomState,
    known: Mutex<Recent<TokenId, Arc<str>>>,
}

/// Stands for a token; says nothing about it to anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenId(u64);

/// Tokens that are remembered.
const TOKENS_MAX: usize = 20_000;

impl Default for Users {
    fn default() -> Users {
        Users { hasher: RandomState::new(), known: Mutex::new(Recent::new(TOKENS_MAX)) }
    }
}

impl Users {
    fn id(&self, token: &[u8]) -> TokenId {
        TokenId(self.hasher.hash_one(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(address: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(Peer { address: address.parse().unwrap() });
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        request
    }

    #[test]
    fn only_a_trusted_peer_names_the_client() {
        let policy = Policy {
            identity: vec![IdentitySource::Metadata("x-client".into())],
            trusted_peers: vec!["10.0.0.0/8".parse().unwrap()],
            ..Policy::builtin()
        };
        let naming = Naming::new(&policy);
        let identities = Identities::new();
        let said = [("x-client", "alice"), ("x-client", "bob"), ("forebay-client", "carol"), ("token", "t")];
        let mut trusted = head("10.1.2.3:1", &said);
        assert_eq!(identities.identify(&mut trusted, &naming, None).0.metadata.as_deref(), Some("alice"));
        let mut stranger = head("192.0.2.1:1", &said);
        assert_eq!(identities.identify(&mut stranger, &naming, None).0.metadata, None);
        let left: Vec<_> = stranger.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["token"], "what a stranger says about himself goes no further");
    }

    #[test]
    fn who_brings_the_admin_token_is_the_operator_and_it_goes_no_further() {
        let (identities, naming, token) = (Identities::new(), Naming::default(), AdminToken::new("s3cret").unwrap());
        let listener = |said: &str, token: Option<&AdminToken>| {
            let mut head = head("192.0.2.1:1", &[("forebay-admin-token", said)]);
            let listener = identities.identify(&mut head, &naming, token).0.listener;
            assert!(head.headers().is_empty());
            listener
        };
        assert_eq!(listener("s3cret", Some(&token)).as_deref(), Some("admin"));
        assert_eq!((listener("guess", Some(&token)), listener("s3cret", None)), (None, None));
    }

    #[test]
    fn a_token_has_the_user_that_the_upstream_gave_it_to() {
        let (identities, naming) = (Identities::new(), Naming::default());
        let identify = || identities.identify(&mut head("1.2.3.4:1", &[("token", "abc.7")]), &naming, None);
        assert_eq!(identify().0.user, None);
        identities.logged_in("alice", "abc.7");
        assert_eq!(identify().0.user.as_deref(), Some("alice"));
        identities.refused(identify().1.unwrap());
        assert_eq!(identify().0.user, None, "a token that the upstream refuses is nobody's");
    }
}
