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
use tokio::sync::watch::Receiver;
use tonic::Status;

use crate::{
    auth::{Caller, Credentials, Keys, watched},
    member::Member,
};

pub(super) fn watch(member: Member, request: Request) -> Response {
    let owner = Arc::new(Owner { credentials: Member::credentials(&request), rests_on: Mutex::default() });
    // From here on: before the first watcher rests on anything.
    let changes = member.auth().changes();
    let (stopping, revoked) = (member.clone(), revoked(member.clone(), owner.clone(), changes));
    let ended = async move {
        tokio::select! {
            () = stopping.draining() => Error::Stopped.into(),
            status = revoked => status,
        }
    };
    member.watches().serve(request, Arc::new(Own { member: member.clone(), owner }), ended.boxed())
}

/// The memory that the list of what a stream's watchers may read takes at most.
const LISTED_BYTES_MAX: usize = 1 << 20;
const UNLISTED: &str = "forebay: users or roles changed, and this stream's watchers are judged anew";

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
    /// The user, and the keys that watchers of the stream ever were about.
    rights: Option<(String, Keys)>,
    /// The auth revision under which more was granted than is listed. With the next one all is judged anew.
    unlisted: Option<u64>,
}

impl RestsOn {
    /// Takes note of what was granted to a user as of a revision.
    fn add(&mut self, caller: &str, revision: u64, range: &KeyRange) {
        let (_, keys) = self.rights.get_or_insert_with(|| (caller.to_owned(), Keys::default()));
        if keys.cover(range) {
            return;
        }
        let mut one = Keys::default();
        one.add(range);
        match keys.memory() + one.memory() <= LISTED_BYTES_MAX {
            true => keys.add(range),
            false => {
                self.unlisted.get_or_insert(revision);
            }
        }
    }

    /// Whether the stream may go on.
    fn holds(&self, member: &Member) -> Result<(), Status> {
        if self.unlisted.is_some_and(|revision| revision != member.auth().revision()) {
            return Err(Status::unavailable(UNLISTED));
        }
        match self.judge(member) {
            // A change on the heels of this one: it is looked at next.
            Ok(()) | Err(Error::AuthOldRevision) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether all that is listed would be granted again.
    fn judge(&self, member: &Member) -> Result<(), Error> {
        let auth = member.auth();
        if self.nothing {
            auth.judge(&Caller::nobody(), |rights| rights.user())?;
        }
        let Some((user, keys)) = &self.rights else { return Ok(()) };
        // The revision of today: tokens are asked for when a watcher is created, and may have expired since.
        let caller = Caller::new(user.clone(), auth.revision());
        auth.judge(&caller, |rights| keys.ranges().try_for_each(|range| rights.read(&range)))
    }
}

/// Resolves when the stream may not go on.
async fn revoked(member: Member, owner: Arc<Owner>, mut changes: Receiver<u64>) -> Status {
    loop {
        if changes.changed().await.is_err() {
            // The sender lives as long as the member, which this holds.
            std::future::pending::<()>().await;
        }
        if let Err(status) = owner.rests_on.lock().holds(&member) {
            return status;
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
        {
            // Looked at and noted under the lock: whoever looks for what the stream rests on after auth came on finds it.
            let mut rests_on = self.owner.rests_on.lock();
            if !self.member.auth().is_enabled() {
                rests_on.nothing = true;
                return None;
            }
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
    let revision = member.auth().revision();
    member.auth().judge(&caller, |rights| rights.read(&range))?;
    rests_on.add(caller.user(), revision, &range);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stream_rests_on_takes_no_more_memory_than_it_may() {
        let mut rests_on = RestsOn::default();
        let mut add = |text: String, revision| {
            rests_on.add("alice", revision, &KeyRange::Key(text.into()));
            (rests_on.rights.as_ref().map_or(0, |(_, keys)| keys.memory()), rests_on.unlisted)
        };
        let (once, _) = add("k".into(), 7);
        assert_eq!((0..1_000).map(|_| add("k".into(), 7)).last(), Some((once, None)));
        let (most, unlisted) = (0..50_000).map(|n| add(format!("key-{n}"), 8)).last().expect("there are some");
        assert!(most <= LISTED_BYTES_MAX && most > LISTED_BYTES_MAX / 2, "{most}");
        assert_eq!(unlisted, Some(8));
    }
}
