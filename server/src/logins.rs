//! Finding out who a request is from, and logging in.

use std::net::{IpAddr, Ipv4Addr};

use forebay_edge::{Request, listener::Peer};
use forebay_proto::{
    Error,
    etcdserverpb::{AuthenticateRequest, InternalAuthenticateRequest, InternalRaftRequest},
};
use http::request::Parts;
use tonic::Status;

use crate::{
    apply::{Answer, Outcome},
    auth::{Caller, Credentials, Identified, Tokens, new_prefix},
    member::{Deadline, Member, refused},
};

/// etcd's word for it, which has no name on the wire.
const NO_PASSWORD: &str = "auth: authentication failed, password was given for no password user";
/// Likewise.
const VERIFY_ONLY: &str = "auth: token signing attempted with verify-only key";

impl Member {
    /// Who a request is from.
    pub(crate) async fn caller(&self, parts: &Parts, deadline: Deadline) -> Result<Caller, Status> {
        if !self.auth().is_enabled() {
            return Ok(Caller::nobody());
        }
        self.identify(&Credentials::of(&parts.headers, &parts.extensions), deadline).await
    }

    /// What a request shows of its caller, for a stream that asks again and again.
    pub(crate) fn credentials(request: &Request) -> Credentials {
        Credentials::of(request.headers(), request.extensions())
    }

    /// Who showed these. A token that another member has just given may have to come through the log yet.
    pub(crate) async fn identify(&self, credentials: &Credentials, deadline: Deadline) -> Result<Caller, Status> {
        let invalid = || Err(Error::InvalidAuthToken.into());
        // Asked for first: what is applied between the two looks may be the very token.
        let applied = self.raft_status().applied;
        match self.auth().identify(credentials) {
            Identified::As(caller) => return Ok(caller),
            Identified::Invalid => return invalid(),
            // The entry that gives the token is at this index, or, since etcd 3.6, at the next.
            Identified::Later(index) if index < applied => return invalid(),
            Identified::Later(_) => {}
        }
        // Whatever was given before this request came is applied here then; what still is not there, nobody gave.
        let _ = self.linearize(deadline).await;
        match self.auth().identify(credentials) {
            Identified::As(caller) => Ok(caller),
            Identified::Invalid | Identified::Later(_) => invalid(),
        }
    }

    /// Gives whoever knows a password a token.
    pub(crate) async fn log_in(&self, parts: &Parts, request: AuthenticateRequest) -> Result<String, Status> {
        let AuthenticateRequest { name, password } = request;
        let deadline = self.deadline(&parts.headers)?;
        let peer = parts.extensions.get::<Peer>();
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        self.auth().passwords().may_try(address, &name).map_err(refused)?;
        self.linearize(deadline).await?;
        loop {
            let checked = self.check_password(address, &name, &password).await?;
            let simple_token = match self.auth().tokens() {
                Tokens::Simple(_) => new_prefix(),
                Tokens::Jwt(_) | Tokens::None => String::new(),
            };
            let authenticate = InternalAuthenticateRequest { name: name.clone(), simple_token, ..Default::default() };
            let request = InternalRaftRequest { authenticate: Some(authenticate), ..Default::default() };
            let answer = self.propose(&Caller::nobody(), request, deadline).await?;
            let Outcome::Auth(Answer::LoggedIn { token, revision }) = answer else {
                unreachable!("a login was proposed")
            };
            // Who changed the password meanwhile has revoked the tokens of the old one, perhaps just before this came.
            if revision != checked {
                continue;
            }
            return match self.auth().tokens() {
                Tokens::Jwt(tokens) => tokens
                    .give(&name, revision, std::time::SystemTime::now())
                    .ok_or_else(|| Status::unknown(VERIFY_ONLY)),
                Tokens::Simple(_) | Tokens::None => Ok(token),
            };
        }
    }

    /// Returns the auth revision at which the password was this one.
    async fn check_password(&self, address: IpAddr, name: &str, password: &str) -> Result<u64, Status> {
        let (enabled, revision, user) =
            self.auth().read(|store| (store.is_enabled(), store.revision(), store.user(name).cloned()));
        if !enabled {
            return Err(Error::AuthNotEnabled.into());
        }
        if user.as_ref().and_then(|user| user.options).is_some_and(|options| options.no_password) {
            return Err(Status::unknown(NO_PASSWORD));
        }
        // Who is not known is not known as slowly as who is.
        match self.auth().passwords().verify(address, name, user, password.to_owned()).await {
            Ok(true) => Ok(revision),
            Ok(false) => {
                tracing::warn!(user = name, "invalid authentication was requested");
                Err(Error::AuthFailed.into())
            }
            Err(error) => Err(refused(error)),
        }
    }
}
