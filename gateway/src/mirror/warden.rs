//! Asks again and again whether open watch streams may stay open.
//!
//! etcd asks once, when a watch is created. A stream that rides the mirror would outlive everything the upstream could
//! do about its client, so its right is asked for twice a second, with the client's own token, in the same rounds as
//! reads: one small request for all streams of a token. If the upstream denies it, the streams of that token end. Their
//! clients come back, and are judged watch by watch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use forebay_proto::KeyRange;
use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};

use super::{feed::End, identity::Identity, probe::Want, state::State};

/// How often. A denial is acted on within this and one round: well within a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// The rights that open streams rest on.
#[derive(Default)]
pub(super) struct Warden(Mutex<HashMap<Identity, Rights>>);

struct Rights {
    /// Counted by watcher. Who is nobody has none, and only auth being disabled to rest on.
    ranges: HashMap<KeyRange, usize>,
    streams: usize,
    denied: watch::Sender<()>,
}

/// One stream's part in it.
pub(super) struct Ward {
    warden: Arc<Warden>,
    identity: Identity,
    /// Grows with the watchers that the stream ever had.
    ranges: Mutex<Vec<KeyRange>>,
}

impl Warden {
    /// A stream opens; the receiver changes when it has to end.
    pub(super) fn admit(self: &Arc<Warden>, identity: Identity) -> (Ward, watch::Receiver<()>) {
        let mut all = self.0.lock();
        let new = || Rights { ranges: HashMap::new(), streams: 0, denied: watch::Sender::new(()) };
        let rights = all.entry(identity.clone()).or_insert_with(new);
        rights.streams += 1;
        let denied = rights.denied.subscribe();
        (Ward { warden: Arc::clone(self), identity, ranges: Mutex::default() }, denied)
    }

    /// Asks for ever.
    pub(super) async fn run(self: Arc<Warden>, state: Arc<State>) {
        let mut interval = time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let asked: Vec<(Identity, Want)> = self.wants(&state);
            let asking: FuturesUnordered<_> = asked
                .iter()
                .map(async |(identity, want)| match state.vouch(identity, true, want).await {
                    Err(status) if matches!(End::of(status.clone()), End::Unauthorised(_)) => Some(identity),
                    // An upstream that does not answer denies nothing.
                    _ => None,
                })
                .collect();
            let denied: Vec<_> = asking.filter_map(async |denied| denied).collect().await;
            for identity in denied {
                if let Some(rights) = self.0.lock().get(identity) {
                    state.metrics.revoked(rights.streams);
                    rights.denied.send_replace(());
                }
            }
        }
    }

    fn wants(&self, state: &State) -> Vec<(Identity, Want)> {
        let all = self.0.lock();
        let each = all.iter().flat_map(|(identity, rights)| {
            let nothing = rights.ranges.is_empty().then(Want::default).filter(|_| !state.is_somebody(identity));
            let ranges = rights.ranges.keys().map(|range| Want { range: Some(range.clone()), revision: 0 });
            nothing.into_iter().chain(ranges).map(|want| (identity.clone(), want))
        });
        each.collect()
    }
}

impl Ward {
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A watcher was granted this range.
    pub(super) fn add(&self, range: KeyRange) {
        if let Some(rights) = self.warden.0.lock().get_mut(&self.identity) {
            *rights.ranges.entry(range.clone()).or_default() += 1;
        }
        self.ranges.lock().push(range);
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        let mut all = self.warden.0.lock();
        let Some(rights) = all.get_mut(&self.identity) else { return };
        for range in self.ranges.get_mut() {
            if let Some(count) = rights.ranges.get_mut(range) {
                *count -= 1;
                if *count == 0 {
                    rights.ranges.remove(range);
                }
            }
        }
        rights.streams -= 1;
        if rights.streams == 0 {
            all.remove(&self.identity);
        }
    }
}
