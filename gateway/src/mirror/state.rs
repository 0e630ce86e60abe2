//! What the feed, the reads and the watches of a mirror share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use forebay_keyspace::{mirror::MirrorReader, watch::Hub};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tonic::Status;

use super::{
    caller::Caller,
    identity::Identity,
    metrics::Metrics,
    probe::Want,
    reached::Reached,
    rounds::Rounds,
    sight::{Setback, Sight},
    turns::Turns,
};

/// How old the state may be that a serializable read is answered from: it has everything that the upstream had
/// committed this long ago.
pub(super) const STALENESS_MAX: Duration = Duration::from_secs(1);

/// Without an answered quorum round for this long the upstream counts as leaderless: three of etcd's default election
/// timeouts.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct State {
    pub(super) caller: Caller,
    pub(super) sight: Arc<Sight>,
    pub(super) rounds: Rounds,
    pub(super) turns: Turns,
    pub(super) metrics: Metrics,
    /// See [`MirrorConfig::has_common_name`](super::MirrorConfig::has_common_name).
    has_common_name: bool,
    /// Absent while nothing may be answered from the mirror.
    serving: ArcSwapOption<Serving>,
    /// The last contradiction, for the feed.
    setback: watch::Sender<Option<Setback>>,
    leaderless: watch::Sender<bool>,
    /// Whether it is of use to wait for a mirror.
    prospect: watch::Sender<Prospect>,
    /// Counts how often the streams that ride the mirror were sent away.
    dismissals: watch::Sender<u64>,
    /// Asks the feed for a progress notice.
    pub(super) progress_wanted: Notify,
    /// The highest revision of a write that a client was told of here.
    acknowledged: AtomicI64,
    /// See [`State::is_following`].
    following: AtomicBool,
    /// When the last quorum round began that was answered, and its revision.
    last_round: Mutex<Option<(Instant, i64)>>,
}

/// What a stream that comes now can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prospect {
    /// There is a mirror, or will soon be one.
    Filling,
    Serving,
    /// There will be none until somebody decides otherwise.
    None,
}

/// A mirror that may be answered from.
pub(super) struct Serving {
    pub(super) reader: MirrorReader,
    pub(super) hub: Hub,
    pub(super) reached: Arc<Reached>,
}

impl State {
    pub(super) fn new(caller: Caller, key: Bytes, has_common_name: bool, metrics: Metrics) -> Arc<State> {
        Arc::new_cyclic(|state: &std::sync::Weak<State>| {
            let sight = Arc::new(Sight::default());
            let state = state.clone();
            let alarm = move |setback| {
                if let Some(state) = state.upgrade() {
                    state.alarm(setback);
                }
            };
            State {
                rounds: Rounds::new(caller.clone(), key, Arc::clone(&sight), alarm, metrics.clone()),
                caller,
                sight,
                turns: Turns::default(),
                metrics,
                has_common_name,
                serving: ArcSwapOption::empty(),
                setback: watch::Sender::new(None),
                leaderless: watch::Sender::new(false),
                prospect: watch::Sender::new(Prospect::Filling),
                dismissals: watch::Sender::new(0),
                progress_wanted: Notify::new(),
                acknowledged: AtomicI64::new(0),
                following: AtomicBool::new(false),
                last_round: Mutex::new(None),
            }
        })
    }

    /// What may be answered from now.
    pub(super) fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    /// Whether what was answered from `serving` may still be told.
    pub(super) fn is_serving(&self, serving: &Arc<Serving>) -> bool {
        self.serving.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, serving))
    }

    /// Answers are given from this mirror from now on, unless the upstream was set back since it was listed.
    pub(super) fn serve(&self, serving: &Arc<Serving>) {
        // Under the lock that `alarm` takes too.
        self.setback.send_if_modified(|setback| {
            if setback.is_none() {
                self.serving.store(Some(Arc::clone(serving)));
                self.metrics.set_serving(true);
                self.prospect.send_replace(Prospect::Serving);
            }
            false
        });
    }

    /// No answers are given from the mirror until [`State::serve`].
    pub(super) fn suspend(&self) {
        self.serving.store(None);
        self.metrics.set_serving(false);
        self.prospect.send_replace(Prospect::Filling);
    }

    /// There is no mirror, and there will be none for a while.
    pub(super) fn despair(&self) {
        self.prospect.send_replace(Prospect::None);
    }

    /// Waits for a mirror while there is a prospect of one, for so long at most. A stream that is passed on stays with
    /// the upstream for as long as it lives, so it is worth a wait.
    pub(super) async fn soon_serving(&self, at_most: Duration) -> Option<Arc<Serving>> {
        let mut prospect = self.prospect.subscribe();
        let decided = prospect.wait_for(|prospect| *prospect != Prospect::Filling);
        let _ = tokio::time::timeout(at_most, decided).await;
        self.serving()
    }

    /// What the upstream showed contradicts what it showed before.
    fn alarm(&self, setback: Setback) {
        self.setback.send_modify(|standing| {
            self.suspend();
            *standing = Some(setback);
        });
    }

    /// The contradiction that stands, if one does.
    pub(super) fn standing_setback(&self) -> Option<Setback> {
        *self.setback.borrow()
    }

    /// Learns of contradictions; the first value is the one that stands.
    pub(super) fn setbacks(&self) -> watch::Receiver<Option<Setback>> {
        self.setback.subscribe()
    }

    /// Everything that was learnt from the upstream is void, and it is learnt anew.
    pub(super) fn forget(&self) {
        self.sight.forget();
        self.acknowledged.store(0, Ordering::SeqCst);
        *self.last_round.lock() = None;
        self.setback.send_replace(None);
    }

    /// Ends the streams that ride the mirror; their clients resume them.
    pub(super) fn dismiss_streams(&self) {
        self.dismissals.send_modify(|count| *count += 1);
    }

    /// Resolves when the streams that ride the mirror now are to end.
    pub(super) fn dismissed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut dismissals = self.dismissals.subscribe();
        async move {
            // A mirror that is gone dismisses its streams too.
            let _ = dismissals.changed().await;
        }
    }

    /// Whether this may be somebody at the upstream, whose rights have to be asked for.
    pub(super) fn is_somebody(&self, identity: &Identity) -> bool {
        !identity.is_anonymous() || self.has_common_name
    }

    /// The upstream's word that all that is wanted may be answered, and at which revision at least.
    pub(super) async fn vouch(&self, identity: &Identity, serializable: bool, want: &Want) -> Result<i64, Status> {
        let began = Instant::now();
        let revision = self.rounds.join(identity, serializable, want).await?;
        if !serializable {
            let mut last = self.last_round.lock();
            // The round began after the call did; the earlier moment is the safe one to remember.
            if last.is_none_or(|(other, _)| other < began) {
                *last = Some((began, revision));
            }
        }
        Ok(revision)
    }

    /// A client is about to be told of a write at this revision.
    pub(super) fn acknowledge(&self, revision: i64) {
        self.acknowledged.fetch_max(revision, Ordering::SeqCst);
    }

    /// The highest revision of a write that a client was told of here.
    pub(super) fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Whether the upstream watch is open, and a quorum was heard since it was opened. While it is not, the upstream may
    /// have been restored, and a member's own word does not tell.
    pub(super) fn is_following(&self) -> bool {
        self.following.load(Ordering::SeqCst)
    }

    /// See [`State::is_following`].
    pub(super) fn set_following(&self, following: bool) {
        self.following.store(following, Ordering::SeqCst);
    }

    /// Whether the upstream has had no leader for longer than etcd waits for one.
    pub(super) fn leaderless(&self) -> watch::Receiver<bool> {
        self.leaderless.subscribe()
    }

    /// Looks whether quorum rounds are answered.
    pub(super) fn note_leader(&self) {
        let is_led = self.last_round.lock().is_some_and(|(began, _)| began.elapsed() <= LEADERLESS_MAX);
        self.leaderless.send_if_modified(|leaderless| std::mem::replace(leaderless, !is_led) == is_led);
    }

    /// The lowest revision that a serializable read may be answered at, if it is known well enough: that of the last
    /// quorum round, if it is young and the upstream still the same, and of every write that was acknowledged here.
    pub(super) fn recent(&self) -> Option<i64> {
        let (began, revision) = (*self.last_round.lock())?;
        (began.elapsed() <= STALENESS_MAX && self.is_following()).then(|| revision.max(self.acknowledged()))
    }
}
