//! The gateway's own user, as which it lists and watches what it mirrors, and writes its own keys.

use std::time::Duration;

use forebay_proto::{
    Error,
    etcdserverpb::{AuthenticateRequest, AuthenticateResponse},
};
use http::HeaderValue;
use tonic::{Code, Status};

use super::{caller::Caller, identity::Identity};

/// A user of the upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
/// Passwords are slow to check on purpose.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Who the gateway is: the user, or nobody in particular.
pub(crate) struct Own {
    credentials: Option<Credentials>,
    identity: Identity,
}

impl Own {
    pub(crate) fn new(credentials: Option<Credentials>) -> Own {
        Own { credentials, identity: Identity::default() }
    }

    /// As whom the gateway calls now.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Gets a token, if there is a user to get one for. An upstream with auth disabled needs none.
    pub(crate) async fn authenticate(&mut self, caller: &Caller) -> Result<(), Status> {
        self.identity = Identity::default();
        let Some(Credentials { name, password }) = &self.credentials else { return Ok(()) };
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let nobody = Identity::default();
        let asked = caller.unary::<AuthenticateResponse>(AUTHENTICATE, &request, &nobody, TIMEOUT).await;
        let token = match asked {
            Ok(response) => response.token,
            // Auth is disabled, or the upstream knows no auth.
            Err(status) if status.message() == Error::AuthNotEnabled.message() => return Ok(()),
            Err(status) if status.code() == Code::Unimplemented => return Ok(()),
            Err(status) => return Err(status),
        };
        let mut token = HeaderValue::try_from(token).map_err(|_| Status::internal("the token is no metadata value"))?;
        token.set_sensitive(true);
        self.identity = Identity::with_token(token);
        Ok(())
    }
}
