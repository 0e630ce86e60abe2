//! The Watch service: the shared one of `edge` over this member's hub.
//!
//! A right is asked for when a watcher is created, as by etcd. Where etcd lets a watcher go on whatever happens to its
//! owner's rights, a stream ends here as soon as one of its watchers would not be granted any more. Its client comes
//! back, and is judged watcher by watcher.

use std::sync::Arc;

use forebay_edge::{
    Request, Response,
    watch::{Admission, Source},
};
use forebay_keyspace::watch::HeaderBase;
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{ResponseHeader, WatchCreateRequest},
};
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tonic::Status;

use crate::{
    auth::{Caller, Credentials, watched},
    member::Member,
};

pub(super) fn watch(member: Member, request: Request) -> Response {
    let owner = Arc::new(Owner { credentials: Member::credentials(&request), rests_on: Mutex::default() });
    let (stopping, revoked) = (member.clone(), revoked(member.clone(), owner.clone()));
    let ended = async move {
        tokio::select! {
            () = stopping.draining() => Error::Stopped.into(),
            error = revoked => error.into(),
        }
    };
    member.watches().serve(request, Arc::new(Own { member: member.clone(), owner }), ended.boxed())
}

/// Who has a stream.
struct Owner {
    credentials: Credentials,
    rests_on: Mutex<RestsOn>,
}

/// What a stream's watchers were granted for.
#[derive(Default)]
struct RestsOn {
    /// Auth was off.
    nothing: bool,
    /// The user, and what it may read. Grows with the watchers that the stream ever had.
    rights: Option<(String, Vec<KeyRange>)>,
}

impl RestsOn {
    /// Whether all that was granted would be granted again.
    fn holds(&self, member: &Member) -> Result<(), Error> {
        let auth = member.auth();
        if self.nothing {
            auth.judge(&Caller::nobody(), |rights| rights.user())?;
        }
        let Some((user, ranges)) = &self.rights else { return Ok(()) };
        // The revision of today: tokens are asked for when a watcher is created, and may have expired since.
        let caller = Caller::new(user.clone(), auth.revision());
        auth.judge(&caller, |rights| ranges.iter().try_for_each(|range| rights.read(range)))
    }
}

/// Resolves when the stream may not go on.
async fn revoked(member: Member, owner: Arc<Owner>) -> Error {
    let mut changes = member.auth().changes();
    loop {
        if changes.changed().await.is_err() {
            // The sender lives as long as the member, which this holds.
            std::future::pending::<()>().await;
        }
        match owner.rests_on.lock().holds(&member) {
            // A change on the heels of this one: it is looked at next.
            Ok(()) | Err(Error::AuthOldRevision) => {}
            Err(error) => return error,
        }
    }
}

/// The member's own hub knows everything there is since the last compaction, and as soon as the member does.
struct Own {
    member: Member,
    owner: Arc<Owner>,
}

impl Source for Own {
    fn header(&self) -> HeaderBase {
        let ResponseHeader { cluster_id, member_id, raft_term, .. } = self.member.header();
        HeaderBase { cluster_id, member_id, raft_term }
    }

    fn admit(&self, request: &WatchCreateRequest) -> Option<BoxFuture<'static, Admission>> {
        // Such a one is refused for that alone.
        if request.start_revision < 0 {
            return None;
        }
        if !self.member.auth().is_enabled() {
            self.owner.rests_on.lock().nothing = true;
            return None;
        }
        let (member, owner, range) = (self.member.clone(), self.owner.clone(), watched(request));
        let admitted = async move {
            match grant(&member, &owner, range).await {
                Ok(()) => Admission::Serve,
                // etcd's reason is a printed status.
                Err(status) => {
                    let text = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
                    Admission::Refuse(text)
                }
            }
        };
        Some(admitted.boxed())
    }
}

async fn grant(member: &Member, owner: &Owner, range: KeyRange) -> Result<(), Status> {
    let caller = member.identify(&owner.credentials, member.own_deadline()).await?;
    let mut rests_on = owner.rests_on.lock();
    member.auth().judge(&caller, |rights| rights.read(&range))?;
    rests_on.rights.get_or_insert_with(|| (caller.user().to_owned(), Vec::new())).1.push(range);
    Ok(())
}
