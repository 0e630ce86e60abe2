//! Follows the upstream's watch: applies what it says, and finds out when it says nothing any more.
//!
//! A heartbeat asks for the upstream's revision through the same rounds that reads use. If the mirror is not there and
//! the stream tells nothing for a while it is taken for dead, whatever its connection looks like, and another is opened,
//! most likely at another member. The heartbeat also asks whether the mirror's window is compacted, and whether the gateway
//! may still read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_keyspace::mirror::{Desync, Mirror, Ranges};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::Event,
};
use futures::future::BoxFuture;
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};
use tonic::Status;

use super::{
    audit::{self, Audited, Cursor, audit},
    caller::Caller,
    catch_up::{ask_progress, open},
    config::{MirrorConfig, pair},
    credentials::Own,
    feed::{End, denial},
    follow::{Break, Fault, Follower, Step},
    identity::Identity,
    probe::Want,
    sight::Setback,
    state::{Serving, State},
};
use crate::replies::{self, Reply};

/// How often the upstream is asked where it is.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a stream may tell nothing while the upstream has a revision that the mirror has not, before it is taken for
/// dead; doubled up to the longest until one tells something. An upstream looks through its past before it begins to.
const STALL_MAX: Duration = Duration::from_secs(2);
const STALL_LONGEST: Duration = Duration::from_secs(60);
/// How long a mirror that begins in the past may take to come to the present. Nothing is answered from it until then.
const PAST_MAX: Duration = Duration::from_secs(5);
/// How long opening a stream may take.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// Rest between two streams, doubled each time up to the longest, until one delivers.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Why a stream was given up that told nothing, for metrics.
const STALLED: &str = "stalled";

/// Why following ended, so that the mirror has to be listed anew.
#[derive(Debug)]
pub(super) enum TailEnd {
    Break(Break),
    Desync(Desync),
    Setback(Setback),
    /// The gateway may not read any more.
    Status(Status),
    TooLarge,
    /// A comparison with the upstream failed.
    Audit,
    /// There is so much past that it keeps the mirror from the present.
    Late,
}

/// Why one stream ended.
enum StreamEnd {
    /// Another can go on; why, for metrics.
    Reopen(&'static str),
    /// Another can, if the gateway's user may still watch.
    Denied(Status),
    /// None can.
    Tail(TailEnd),
}

impl From<TailEnd> for StreamEnd {
    fn from(end: TailEnd) -> StreamEnd {
        StreamEnd::Tail(end)
    }
}

/// Follows from the mirror's revision on until that is not possible any more. Answers are given from the mirror as soon
/// as it has come to `present`.
pub(super) async fn follow(
    state: &Arc<State>,
    own: &mut Own,
    config: &MirrorConfig,
    mirror: &mut Mirror,
    serving: &Arc<Serving>,
    present: i64,
) -> TailEnd {
    let ranges = mirror.reader().ranges().clone();
    let mut tail = Tail {
        state,
        own,
        config,
        mirror,
        serving,
        due: Some((present, Instant::now() + PAST_MAX)),
        ranges,
        behind: None,
        heard: Instant::now(),
        patience: STALL_MAX,
        denied: false,
        cursor: None,
    };
    tail.serve_if_due();
    let mut pause = REOPEN_PAUSE;
    loop {
        let from = tail.mirror.revision();
        let ended = tail.stream().await;
        state.set_following(false);
        let reason = match ended {
            StreamEnd::Tail(end) => return end,
            StreamEnd::Denied(status) if !tail.logs_in_anew().await => return TailEnd::Status(status),
            StreamEnd::Denied(_) => "denied",
            StreamEnd::Reopen(reason) => reason,
        };
        tracing::debug!(reason, "the upstream watch is opened anew");
        state.metrics.reconnected(reason);
        if tail.mirror.revision() > from {
            (pause, tail.patience) = (REOPEN_PAUSE, STALL_MAX);
        } else {
            pause = (pause * 2).min(REOPEN_PAUSE_MAX);
            if reason == STALLED {
                tail.patience = (tail.patience * 2).min(STALL_LONGEST);
            }
        }
        time::sleep(pause).await;
    }
}

struct Tail<'a> {
    state: &'a Arc<State>,
    own: &'a mut Own,
    config: &'a MirrorConfig,
    mirror: &'a mut Mirror,
    serving: &'a Arc<Serving>,
    /// The revision from which on answers are given, and until when it must have come; absent once they are.
    due: Option<(i64, Instant)>,
    ranges: Ranges,
    /// A revision that the upstream has and the mirror has not, and since when that is known.
    behind: Option<(i64, Instant)>,
    /// When the stream began, or last told of events.
    heard: Instant,
    /// How long it may tell nothing while the mirror is behind.
    patience: Duration,
    /// Whether the last heartbeat or watch was refused for the gateway's rights.
    denied: bool,
    /// Where the next comparison with the upstream begins.
    cursor: Cursor,
}

impl Tail<'_> {
    /// Opens a stream and applies what it says until it ends.
    async fn stream(&mut self) -> StreamEnd {
        let watched: Vec<KeyRange> = self.ranges.iter().collect();
        let next = self.mirror.revision() + 1;
        let creates = watched.iter().map(|range| watcher(range, next)).collect();
        let opening = open(&self.state.caller, self.own.identity(), creates);
        let (requests, mut replies) = match time::timeout(OPEN_MAX, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => return StreamEnd::Reopen("unreachable"),
        };
        let _open = self.state.metrics.upstream_watches(watched.len());
        let cluster_id = self.state.sight.now().cluster_id;
        let mut follower = Follower::new(cluster_id, watched.len(), self.ranges.is_all(), next);
        let mut setbacks = self.state.setbacks();
        let mut heartbeat = time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat: Option<BoxFuture<'static, Result<i64, Status>>> = None;
        let mut auditing = time::interval_at(Instant::now() + audit::INTERVAL, audit::INTERVAL);
        auditing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut comparison: Option<BoxFuture<'static, (Audited, Cursor)>> = None;
        // From now on the clock of a stall runs for this stream.
        self.heard = Instant::now();
        let mut asked_progress = false;
        loop {
            let wants_progress = follower.is_parking() || self.behind.is_some();
            if wants_progress && !asked_progress && !self.ranges.is_all() {
                asked_progress = ask_progress(&requests);
            }
            let stalled_at = self.behind.map_or(self.heard, |(_, since)| since.max(self.heard)) + self.patience;
            let late_at = self.due.map_or(self.heard, |(_, until)| until);
            let ended = tokio::select! {
                setback = standing(&mut setbacks) => Err(TailEnd::Setback(setback).into()),
                reply = replies.next() => match reply {
                    Ok(Reply::Message(message)) => self.receive(&mut follower, message, &mut asked_progress),
                    Ok(Reply::End(trailers)) => {
                        tracing::debug!(status = %replies::status(&trailers), "the upstream ended the watch");
                        Err(StreamEnd::Reopen("ended"))
                    }
                    Err(_) => Err(StreamEnd::Reopen("broken")),
                },
                told = async { beat.as_mut().expect("there is one").await }, if beat.is_some() => {
                    beat = None;
                    self.heartbeat(told).await
                }
                (audited, cursor) = async { comparison.as_mut().expect("there is one").await }, if comparison.is_some() => {
                    (comparison, self.cursor) = (None, cursor);
                    self.state.metrics.audited(audited.outcome());
                    if audited == Audited::Different { Err(TailEnd::Audit.into()) } else { Ok(()) }
                }
                _ = auditing.tick(), if comparison.is_none() => {
                    comparison = Some(self.compare());
                    Ok(())
                }
                _ = heartbeat.tick(), if beat.is_none() => {
                    // A request that was not answered, because a watcher was not synced, is made again.
                    asked_progress = false;
                    beat = Some(self.beat());
                    Ok(())
                }
                () = self.state.progress_wanted.notified(), if !self.ranges.is_all() => {
                    asked_progress = ask_progress(&requests);
                    Ok(())
                }
                () = time::sleep_until(stalled_at), if self.behind.is_some() => Err(StreamEnd::Reopen(STALLED)),
                () = time::sleep_until(late_at), if self.due.is_some() => Err(TailEnd::Late.into()),
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    /// Applies a message of the stream.
    fn receive(&mut self, follower: &mut Follower, message: Bytes, asked_progress: &mut bool) -> Result<(), StreamEnd> {
        let malformed = |_| TailEnd::Break(Break::Fault(Fault::Malformed));
        let response = WatchResponse::decode(message).map_err(malformed)?;
        if !response.events.is_empty() {
            self.heard = Instant::now();
        }
        let steps = match follower.receive(response) {
            Ok(steps) => steps,
            Err(Break::Canceled(reason)) => {
                tracing::debug!(reason, "the upstream cancelled the watch");
                return Err(denial(&reason).map_or(StreamEnd::Reopen("cancelled"), StreamEnd::Denied));
            }
            Err(end) => return Err(TailEnd::Break(end).into()),
        };
        let mut events: Vec<Event> = Vec::new();
        let mut quiet_until = None;
        let mut last = 0;
        for step in steps {
            match step {
                Step::Apply(revision, changes) => {
                    last = revision;
                    events.extend(changes);
                }
                Step::Advance(revision) => {
                    last = revision;
                    (quiet_until, *asked_progress) = (Some(revision), false);
                }
            }
        }
        // Before anybody can read it: a round that begins after that must not be answered from before.
        self.state.sight.watched(last);
        if !events.is_empty() {
            self.mirror.apply(&events).map_err(TailEnd::Desync)?;
        }
        if let Some(revision) = quiet_until {
            self.mirror.advance(revision).map_err(TailEnd::Desync)?;
        }
        let revision = self.mirror.revision();
        self.serving.reached.advance(revision);
        self.serve_if_due();
        if self.behind.is_some_and(|(wanted, _)| wanted <= revision) {
            self.behind = None;
        }
        self.state.metrics.filled(self.mirror.bytes());
        if self.mirror.bytes() > self.config.max_bytes {
            return Err(TailEnd::TooLarge.into());
        }
        Ok(())
    }

    fn serve_if_due(&mut self) {
        if self.due.take_if(|(due, _)| *due <= self.mirror.revision()).is_some() {
            self.state.serve(self.serving);
        }
    }

    /// Asks where the upstream is, whether what the window holds is compacted, and whether the gateway may read.
    fn beat(&self) -> BoxFuture<'static, Result<i64, Status>> {
        let (state, identity) = (Arc::clone(self.state), self.own.identity().clone());
        let reader = self.mirror.reader();
        let oldest = reader.floor().max(reader.compacted_revision());
        let want = Want { range: own_range(&state, &identity, &self.ranges), revision: oldest };
        Box::pin(async move { state.vouch(&identity, false, &want).await })
    }

    fn compare(&self) -> BoxFuture<'static, (Audited, Cursor)> {
        let (state, identity) = (Arc::clone(self.state), self.own.identity().clone());
        let (reader, cursor) = (self.mirror.reader(), self.cursor.clone());
        Box::pin(async move { audit(&state.caller, &identity, &reader, cursor).await })
    }

    async fn heartbeat(&mut self, told: Result<i64, Status>) -> Result<(), StreamEnd> {
        self.state.note_leader();
        self.state.metrics.riders(&self.serving.hub.stats());
        let status = match told {
            Ok(revision) => {
                self.denied = false;
                self.state.set_following(true);
                self.state
                    .metrics
                    .lag(revision - self.mirror.revision(), self.behind.map(|(_, since)| since.elapsed()));
                if revision > self.mirror.revision() && self.behind.is_none() {
                    self.behind = Some((revision, Instant::now()));
                }
                return Ok(());
            }
            Err(status) => status,
        };
        match End::of(status) {
            End::Compacted => {
                let oldest = self.mirror.reader().floor();
                let identity = self.own.identity().clone();
                let key = self.ranges.iter().next().map_or_else(Bytes::new, |range| pair(&range).0);
                if let Some(revision) = compacted_revision(&self.state.caller, &identity, key, oldest).await {
                    self.mirror.set_compacted(revision);
                }
                Ok(())
            }
            End::Unauthorised(_) if self.logs_in_anew().await => Ok(()),
            End::Unauthorised(status) => Err(TailEnd::Status(status).into()),
            // Reads find out by themselves, and a mirror that is behind is found out by its deadline.
            _ => Ok(()),
        }
    }

    /// A token that has expired is replaced once; a user that has no right any more stays without.
    async fn logs_in_anew(&mut self) -> bool {
        let again = !self.denied && self.own.authenticate(&self.state.caller).await.is_ok();
        self.denied = true;
        again && !self.own.identity().is_anonymous()
    }
}

/// Waits for a contradiction that stands.
async fn standing(setbacks: &mut watch::Receiver<Option<Setback>>) -> Setback {
    match setbacks.wait_for(Option::is_some).await {
        Ok(setback) => setback.expect("it was waited for"),
        Err(_) => unreachable!("the sender lives in the state, which we hold"),
    }
}

/// The range that the gateway's own rounds ask the right to: none where it is nobody in particular.
pub(super) fn own_range(state: &State, identity: &Identity, ranges: &Ranges) -> Option<KeyRange> {
    if state.is_somebody(identity) { ranges.iter().next() } else { None }
}

/// The revision of the upstream's compaction, which is known to be above `below`: what a watch from there is told when
/// it is cancelled. It watches one key, and there is no history to look through.
pub(super) async fn compacted_revision(caller: &Caller, identity: &Identity, key: Bytes, below: i64) -> Option<i64> {
    let told = async {
        let (_requests, mut replies) = open(caller, identity, vec![watcher(&KeyRange::Key(key), below)]).await.ok()?;
        while let Ok(Reply::Message(message)) = replies.next().await {
            let response = WatchResponse::decode(message).ok()?;
            if response.canceled {
                return Some(response.compact_revision).filter(|revision| *revision > 0);
            }
        }
        None
    };
    time::timeout(OPEN_MAX, told).await.ok()?
}

fn watcher(range: &KeyRange, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = pair(range);
    WatchCreateRequest { key, range_end, start_revision, fragment: true, ..Default::default() }
}
