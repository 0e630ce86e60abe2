//! Keeps the mirror filled: a list at one revision, then a watch from the next one on, for ever.
//!
//! The first list is of the past, so that the watch brings the window that clients resume in: after a restart of the gateway
//! all of them come back with revisions from just before it, and each that lies before the window costs the upstream a
//! watch.
//!
//! What goes wrong decides how it goes on:
//!
//! | What | Then |
//! |---|---|
//! | the stream breaks, stalls or is cancelled | another stream goes on at the next revision; reads go on |
//! | the upstream compacted that revision, or said what cannot be true | nothing is answered from the mirror until it is listed anew; watches go on from where they were |
//! | the upstream was set back, or is another | the same, and every watch ends as compacted |
//! | the past takes long | nothing has been answered from the mirror yet; it is listed as it is now |
//! | auth is enabled and the gateway has no user, or the keys do not fit | there is no mirror; its streams are ended and resume at the upstream |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_keyspace::mirror::{Desync, Limits, Mirror, Ranges};
use forebay_proto::Error;
use tokio::time;
use tonic::{Code, Status};

use super::{
    config::{MirrorConfig, pair, with_prefix},
    credentials::Own,
    follow::{Break, Fault},
    list::{self, ListError},
    probe::Want,
    reached::Reached,
    sight::Setback,
    state::{Serving, State},
    tail::{self, TailEnd},
};

/// The pause before a mirror is built anew, doubled each time up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause where only somebody's decision can change something.
const PAUSE_HOPELESS: Duration = Duration::from_secs(5);
/// The pause before keys that did not fit are listed again: listing them costs the upstream something.
const PAUSE_TOO_LARGE: Duration = Duration::from_secs(300);
/// How long watch streams stay with a mirror that is being built anew.
const ORPHANED_MAX: Duration = Duration::from_secs(5);

/// Why there is no mirror for the moment.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The upstream could not be asked.
    #[error("the upstream cannot be asked: {0}")]
    Unreachable(Status),
    /// The upstream wants to know who asks, and the gateway cannot say, or may not read what it is to mirror.
    #[error("the upstream does not let the gateway read: {0}")]
    Unauthorised(Status),
    /// The keys take more memory than the mirror may.
    #[error("the keys do not fit into --mirror-max-bytes")]
    TooLarge,
    /// The upstream does not tell its progress reliably enough to mirror a part of its keys.
    #[error("the upstream is too old to mirror a part of its keys; it needs 3.4.25 or 3.5.8")]
    TooOld,
    /// What is next was compacted.
    #[error("the upstream has compacted what comes next")]
    Compacted,
    /// What the upstream said cannot be true.
    #[error("{0}")]
    Fault(Fault),
    /// What the upstream said contradicts the mirror.
    #[error("{0}")]
    Desync(#[from] Desync),
    /// A comparison with the upstream failed.
    #[error("a part of the mirror is not what the upstream has")]
    Audit,
    /// The window's past would take too long.
    #[error("the past takes too long to tell")]
    Late,
    /// The upstream is not what it was.
    #[error("{0}")]
    Setback(Setback),
}

/// How an upstream says that a caller may not.
const DENIALS: [Error; 5] =
    [Error::UserEmpty, Error::InvalidAuthToken, Error::AuthOldRevision, Error::PermissionDenied, Error::AuthFailed];

/// The status behind the reason of a cancelled watch, if its caller may not watch.
pub(super) fn denial(reason: &str) -> Option<Status> {
    DENIALS.iter().find(|error| reason.ends_with(error.message())).map(|error| (*error).into())
}

impl End {
    /// For metrics.
    fn reason(&self) -> &'static str {
        match self {
            End::Unreachable(_) => "unreachable",
            End::Unauthorised(_) => "unauthorised",
            End::TooLarge => "too_large",
            End::TooOld => "too_old",
            End::Compacted => "compacted",
            End::Fault(fault) => fault.reason(),
            End::Desync(desync) => desync.reason(),
            End::Audit => "audit",
            End::Late => "late",
            End::Setback(Setback::Cluster) => "cluster",
            End::Setback(Setback::Revision) => "revision",
        }
    }

    /// What a failed call means.
    pub(super) fn of(status: Status) -> End {
        let is_auth = DENIALS.iter().any(|error| status.message() == error.message());
        match status.code() {
            Code::OutOfRange if status.message() == Error::Compacted.message() => End::Compacted,
            _ if is_auth => End::Unauthorised(status),
            _ => End::Unreachable(status),
        }
    }
}

impl From<ListError> for End {
    fn from(error: ListError) -> End {
        match error {
            ListError::Status(status) => End::of(status),
            ListError::Desync(desync) => End::Desync(desync),
            ListError::TooLarge => End::TooLarge,
        }
    }
}

/// The task that feeds a mirror.
pub(super) struct Feed {
    state: Arc<State>,
    config: MirrorConfig,
    own: Own,
    /// Kept while it is built anew, because watchers hang on it.
    mirror: Option<Mirror>,
    /// Kept as long as the mirror's revisions ascend.
    reached: Arc<Reached>,
    /// Whether all keys turned out not to fit, and the named prefixes are mirrored instead.
    is_reduced: bool,
    /// Whether the upstream is no continuation of what the mirror holds.
    is_set_back: bool,
}

impl Feed {
    pub(super) fn new(state: Arc<State>, config: MirrorConfig) -> Feed {
        let own = Own::new(config.user.clone());
        Feed { state, config, own, mirror: None, reached: Arc::default(), is_reduced: false, is_set_back: false }
    }

    /// Feeds until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let (listed, end) = self.session().await;
            self.state.suspend();
            self.state.metrics.rebuild(end.reason());
            match end {
                End::Unreachable(_) => tracing::debug!(reason = %end, "the mirror cannot be built yet"),
                _ => tracing::warn!(reason = %end, "nothing is answered from the mirror until it is built anew"),
            }
            match end {
                End::Setback(_) => {
                    self.is_set_back = true;
                    self.state.forget();
                }
                End::TooLarge if !self.is_reduced && !self.config.prefixes.is_empty() => {
                    self.is_reduced = true;
                    self.drop_mirror();
                    continue;
                }
                End::Late => {
                    self.config.past_revisions = 0;
                    self.drop_mirror();
                    continue;
                }
                // It was let in before: auth was enabled meanwhile, or somebody changed what it may do. It logs in anew.
                End::Unauthorised(_) if listed => {}
                End::Unauthorised(_) | End::TooOld => {
                    self.drop_mirror();
                    self.state.despair();
                    time::sleep(PAUSE_HOPELESS).await;
                    continue;
                }
                End::TooLarge => {
                    self.drop_mirror();
                    self.state.despair();
                    time::sleep(PAUSE_TOO_LARGE).await;
                    continue;
                }
                _ => {}
            }
            pause = if listed { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
            time::sleep(pause).await;
        }
    }

    /// Sends away who rides on the mirror, and forgets it.
    fn drop_mirror(&mut self) {
        if self.mirror.take().is_some() {
            self.reached = Arc::default();
            self.state.dismiss_streams();
        }
    }

    /// Lists and follows once; returns whether there was a list, and how that ended.
    async fn session(&mut self) -> (bool, End) {
        let listed = {
            let (state, has_riders) = (Arc::clone(&self.state), self.mirror.is_some());
            let mut listing = std::pin::pin!(self.list());
            tokio::select! {
                listed = &mut listing => listed,
                () = time::sleep(ORPHANED_MAX), if has_riders => {
                    // They have had no upstream for long enough; a path of their own may be alive.
                    state.dismiss_streams();
                    listing.await
                }
            }
        };
        let (serving, present) = match listed {
            Ok(listed) => listed,
            Err(end) => return (false, self.state.standing_setback().map_or(end, End::Setback)),
        };
        let mirror = self.mirror.as_mut().expect("a mirror was listed");
        let end = match tail::follow(&self.state, &mut self.own, &self.config, mirror, &serving, present).await {
            TailEnd::Break(Break::Compacted(revision)) => {
                mirror.set_compacted(revision);
                End::Compacted
            }
            TailEnd::Break(Break::Fault(Fault::Cluster)) => End::Setback(Setback::Cluster),
            TailEnd::Break(Break::Fault(fault)) => End::Fault(fault),
            TailEnd::Break(Break::Canceled(reason)) => End::Unreachable(Status::unavailable(reason)),
            TailEnd::Desync(desync) => End::Desync(desync),
            TailEnd::Setback(setback) => End::Setback(setback),
            TailEnd::Status(status) => End::of(status),
            TailEnd::TooLarge => End::TooLarge,
            TailEnd::Audit => End::Audit,
            TailEnd::Late => End::Late,
        };
        (true, end)
    }

    /// Fills the mirror from a list; returns at which revision it is of the present.
    async fn list(&mut self) -> Result<(Arc<Serving>, i64), End> {
        let Feed { state, config, own, mirror, .. } = self;
        own.authenticate(&state.caller).await.map_err(End::of)?;
        let ranges = match self.is_reduced {
            true => Ranges::new(config.prefixes.iter().map(with_prefix)),
            false => Ranges::all(),
        };
        if !ranges.is_all() && !state.caller.version().is_some_and(tells_progress) {
            return Err(End::TooOld);
        }
        let want = Want { range: tail::own_range(state, own.identity(), &ranges), revision: 0 };
        let present = state.vouch(own.identity(), false, &want).await.map_err(End::of)?;
        let begin = match mirror {
            None => past(present, config),
            // What made it be built anew may lie in the past.
            Some(_) => present,
        };
        let live_bytes = config.max_bytes - config.window_bytes();
        let list = async |at| {
            let listed = list::list(&state.caller, own.identity(), ranges.clone(), at, live_bytes).await;
            listed.map_err(End::from)
        };
        let load = match list(begin).await {
            Err(End::Compacted) if begin < present => {
                let key = ranges.iter().next().map_or_else(Bytes::new, |range| pair(&range).0);
                let oldest = tail::compacted_revision(&state.caller, own.identity(), key, begin).await;
                list(oldest.map_or(present, |oldest| oldest.clamp(begin, present))).await?
            }
            listed => listed?,
        };
        match mirror {
            Some(mirror) if self.is_set_back => mirror.restart(load)?,
            Some(mirror) => mirror.replace(load)?,
            None => {
                let limits = Limits { bytes: config.window_bytes(), revisions: config.window_revisions };
                *mirror = Some(Mirror::new(load, limits, config.max_request_bytes)?);
            }
        }
        let mirror = mirror.as_ref().expect("it was just filled");
        tracing::info!(revision = present, bytes = mirror.bytes(), "the mirror is filled");
        if std::mem::take(&mut self.is_set_back) {
            // What was reached before was another upstream's.
            self.reached = Arc::default();
        }
        self.reached.advance(mirror.revision());
        let (reader, hub, reached) = (mirror.reader(), mirror.hub().clone(), Arc::clone(&self.reached));
        Ok((Arc::new(Serving { reader, hub, reached }), present))
    }
}

/// Where the window of a mirror should begin that is filled now.
fn past(present: i64, config: &MirrorConfig) -> i64 {
    let revisions = config.past_revisions.min(config.window_revisions);
    present.saturating_sub_unsigned(revisions).max(1).min(present)
}

/// Whether a member of this version sends no progress notice ahead of events: etcd#15220.
pub(super) fn tells_progress(version: (u32, u32, u32)) -> bool {
    match version {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        version => version > (3, 5, 0),
    }
}
