//! The gateway's calls in its own name: to keys of its own, and to what a cluster of ours is told.
//!
//! No request of a client ever goes out under this name, and none of these under a client's.

use std::time::Duration;

use forebay_proto::Error;
use prost::Message;
use tokio::sync::Mutex;
use tonic::Status;

use crate::{
    mirror::{Caller, Credentials, Own},
    upstream::Upstream,
};

/// How an upstream says that it wants to know who asks, or does not any more.
const WANTS_TOKEN: [Error; 3] = [Error::UserEmpty, Error::InvalidAuthToken, Error::AuthOldRevision];

/// The gateway as the upstream's client.
pub(crate) struct Oneself {
    caller: Caller,
    own: Mutex<Own>,
    has_user: bool,
}

impl Oneself {
    /// Under the name of this user of the upstream, or under none.
    pub(crate) fn new(upstream: Upstream, user: Option<Credentials>) -> Oneself {
        let has_user = user.is_some();
        Oneself { caller: Caller::new(upstream), own: Mutex::new(Own::new(user)), has_user }
    }

    /// One request, one response, each attempt in bounded time. A token that is not good any more is replaced.
    pub(super) async fn unary<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<M, Status> {
        let identity = self.own.lock().await.identity().clone();
        let answered = self.caller.unary(path, request, &identity, timeout).await;
        let wants_token = |status: &Status| WANTS_TOKEN.iter().any(|error| status.message() == error.message());
        if !self.has_user || !answered.as_ref().err().is_some_and(wants_token) {
            return answered;
        }
        let mut own = self.own.lock().await;
        // Another call may have got one meanwhile.
        if *own.identity() == identity {
            own.authenticate(&self.caller).await?;
        }
        let identity = own.identity().clone();
        drop(own);
        self.caller.unary(path, request, &identity, timeout).await
    }
}
