//! Watch streams that ride the mirror.

use std::{sync::Arc, time::Duration};

use forebay_edge::{
    listener::{Held, Memory},
    watch::{Admission, Source},
};
use forebay_keyspace::watch::{CatchUp, Fed, HeaderBase};
use forebay_proto::{KeyRange, etcdserverpb::WatchCreateRequest};
use futures::{FutureExt as _, future::BoxFuture, stream::BoxStream};
use tokio::time;
use tonic::{Code, Status};

use super::{
    catch_up::catch_up,
    feed::End,
    identity::Identity,
    probe::Want,
    state::{Serving, State},
    warden::Ward,
};

/// How long a new watcher waits for a mirror that is behind, before it gets an upstream watch of its own.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Rest before the upstream is asked again whether a watcher may be created.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One client's stream, as the shared Watch service asks about it.
pub(super) struct Rider {
    pub(super) state: Arc<State>,
    pub(super) serving: Arc<Serving>,
    pub(super) ward: Arc<Ward>,
    pub(super) memory: Memory,
}

impl Source for Rider {
    fn header(&self) -> HeaderBase {
        self.state.sight.header()
    }

    fn admit(&self, request: &WatchCreateRequest) -> Option<BoxFuture<'static, Admission>> {
        let create = Create {
            state: Arc::clone(&self.state),
            serving: Arc::clone(&self.serving),
            ward: Arc::clone(&self.ward),
            range: watched(request),
            start_revision: request.start_revision,
            prev_kv: request.prev_kv,
        };
        Some(create.admit().boxed())
    }

    fn fresh(&self) -> Option<BoxFuture<'static, ()>> {
        let (state, serving) = (Arc::clone(&self.state), Arc::clone(&self.serving));
        let identity = self.ward.identity().clone();
        let caught_up = async move {
            // A member tells the revision that it has itself, so no quorum is needed. Somebody is answered at the
            // revision that the last round had; there is no key that a user could surely ask for.
            let revision = match state.is_somebody(&identity) {
                true => 0,
                false => state.vouch(&identity, true, &Want::default()).await.unwrap_or_default(),
            };
            let _ = time::timeout(LAG_MAX, reach(&state, &serving, revision)).await;
        };
        Some(caught_up.boxed())
    }

    fn catch_up(&self, wanted: CatchUp) -> BoxStream<'static, (Fed, Held)> {
        catch_up(Arc::clone(&self.state), self.ward.identity().clone(), self.memory.clone(), wanted)
    }
}

/// Waits until the mirror shows `revision` and every write that was acknowledged here.
async fn reach(state: &State, serving: &Serving, revision: i64) {
    let revision = revision.max(state.acknowledged());
    if serving.reached.revision() < revision {
        state.progress_wanted.notify_one();
        serving.reached.wait(revision).await;
    }
}

/// A watcher that is to be created.
struct Create {
    state: Arc<State>,
    serving: Arc<Serving>,
    ward: Arc<Ward>,
    range: KeyRange,
    start_revision: i64,
    prev_kv: bool,
}

impl Create {
    /// Asks the upstream as etcd asks itself: locally at one member, without a quorum; unless it is not sure that the
    /// upstream is what it was.
    async fn admit(self) -> Admission {
        let identity = self.ward.identity();
        let right = self.range.clone();
        // An empty range is refused by the hub, if its first key may be asked for.
        let right = if right.is_empty() { KeyRange::Key(right.start().to_vec().into()) } else { right };
        let want = Want { range: self.state.is_somebody(identity).then_some(right), revision: self.oldest_read() };
        loop {
            let is_following = self.state.is_following();
            let vouched = self.state.vouch(identity, is_following, &want).await;
            // Who answered may be another than who was followed, if that broke off meanwhile; and a mirror that is not
            // served may hold a past that never was.
            let is_sure = self.state.serving().is_some() && (!is_following || self.state.is_following());
            let status = match vouched {
                Ok(revision) if is_sure => return self.granted(revision).await,
                Ok(_) => Status::unavailable("the mirror is not sure of its upstream"),
                Err(status) => status,
            };
            match End::of(status.clone()) {
                // Told by the upstream, which knows at which revision. An answer without a header does not show whether it
                // was set back, so it has to be followed.
                End::Compacted if is_following && is_sure => return Admission::Feed,
                End::Unauthorised(status) => return self.denied(identity, &want, status).await,
                // As with a member that is not there: the client waits, or goes elsewhere.
                _ => {
                    tracing::debug!(%status, "a watch waits for the upstream");
                    time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// The lowest revision that the watcher reads, if it begins in the past: what it needs must not be compacted.
    fn oldest_read(&self) -> i64 {
        let current = self.serving.reader.revision();
        match self.start_revision {
            start @ 1.. if start <= current => {
                if self.prev_kv {
                    (start - 1).max(1)
                } else {
                    start
                }
            }
            _ => 0,
        }
    }

    async fn granted(&self, revision: i64) -> Admission {
        if !self.serving.reader.ranges().covers(&self.range) {
            return Admission::Feed;
        }
        if self.state.is_somebody(self.ward.identity()) {
            self.ward.add(self.range.clone());
        }
        let reached = time::timeout(LAG_MAX, reach(&self.state, &self.serving, revision)).await;
        if reached.is_ok() { Admission::Serve } else { Admission::Feed }
    }

    /// The refusal may be for somebody else in the same round. etcd's reason is a printed status.
    async fn denied(&self, identity: &Identity, want: &Want, status: Status) -> Admission {
        let alone = self.state.rounds.alone(identity, true, want).await;
        match alone {
            Ok(revision) => self.granted(revision).await,
            Err(own) => {
                let status = if own.code() == Code::Unavailable { status } else { own };
                Admission::Refuse(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            }
        }
    }
}

/// What a create request watches, as etcd has it: an empty key means from the first one on.
fn watched(request: &WatchCreateRequest) -> KeyRange {
    let key = if request.key.is_empty() { bytes::Bytes::from_static(b"\0") } else { request.key.clone() };
    KeyRange::new(key, request.range_end.clone())
}
