//! What a member does on its own while it runs: it hastens its first election, ends leases that ran out and gives up on
//! requests that waited too long.

use std::time::{Duration, Instant};

use forebay_proto::{
    Error,
    etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest},
};
use futures::{StreamExt as _, future::OptionFuture};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Status;

use crate::{
    apply::Outcome,
    auth::Caller,
    lease::{CHECKPOINTS_PER_ENTRY, REVOKES_PER_ROUND},
    member::Member,
};

/// How often expired leases are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);
/// Revokes that are under way at once.
const REVOKES_IN_FLIGHT: usize = 16;
/// How often a member that begins looks whom it reaches.
const REACHED_INTERVAL: Duration = Duration::from_millis(50);
/// How late a timeout may be noticed.
const TIMEOUT_INTERVAL: Duration = Duration::from_millis(100);

/// Has a member of a cluster that is up wait hardly any longer for its leader before it stands for election the first
/// time: as soon as two others are reached, the time that is left is two ticks and what chance adds. Where nobody is
/// reached for a while it waits as long as ever, for it may be the one that is cut off.
pub(crate) async fn advance_first_election(member: Member) {
    let config = member.config();
    let reached = async {
        let mut looks = interval(REACHED_INTERVAL);
        while member.0.peers.active() < 2 {
            looks.tick().await;
        }
    };
    tokio::select! {
        reached = timeout(config.peer_read_timeout, reached) => {
            if reached.is_ok() && member.raft_status().leader == 0 {
                // A stopped thread needs none.
                let _ = member.0.raft.advance_ticks(config.election_ticks().saturating_sub(2));
            }
        }
        () = member.draining() => {}
    }
}

/// Revokes leases as they run out, on the leader. Ends when the member stops.
pub(crate) async fn expire_leases(member: Member) {
    let mut ticks = interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            ticks.tick().await;
            let (term, expired, checkpointed) = {
                let (mut lessor, now) = (member.lessor(), Instant::now());
                let (term, expired) = (lessor.primary_term(), lessor.expired(now, REVOKES_PER_ROUND));
                let due = lessor.checkpoints_due(now, CHECKPOINTS_PER_ENTRY);
                // On its way before the table is let go, and anybody renews one of them.
                (term, expired, (!due.is_empty()).then(|| checkpoint(&member, term, due)))
            };
            if let Some(Err(status)) = OptionFuture::from(checkpointed).await {
                tracing::warn!(error = status.message(), "failed to checkpoint leases");
            }
            futures::stream::iter(expired).for_each_concurrent(REVOKES_IN_FLIGHT, |id| revoke(&member, term, id)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = member.draining() => {}
    }
}

/// Has the log remember what is left of leases.
fn checkpoint(
    member: &Member,
    term: Option<u64>,
    checkpoints: Vec<LeaseCheckpoint>,
) -> impl Future<Output = Result<Outcome, Status>> {
    let request = LeaseCheckpointRequest { checkpoints };
    let request = InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() };
    member.propose_as_leader(&Caller::nobody(), term, request, member.own_deadline())
}

/// Ends a lease that ran out in the eyes of the leader of a term, and of no other: a later one may have renewed it.
async fn revoke(member: &Member, term: Option<u64>, id: i64) {
    let request = InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..Default::default() };
    match member.propose_as_leader(&member.auth().root(), term, request, member.own_deadline()).await {
        Ok(_) => {
            member.metrics().leases_expired.inc();
            tracing::debug!(lease = format_args!("{id:x}"), "revoked an expired lease");
        }
        // A client was faster.
        Err(status) if status.message() == Error::LeaseNotFound.message() => {}
        Err(status) => {
            tracing::warn!(
                lease = format_args!("{id:x}"),
                error = status.message(),
                "failed to revoke an expired lease"
            );
        }
    }
}

/// Lets requests and tokens end whose time is up. Ends with the raft thread: until then requests are answered.
pub(crate) async fn expire_waiters(member: Member) {
    let mut ticks = interval(TIMEOUT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            ticks.tick().await;
            let now = Instant::now();
            member.0.waiters.expire(now);
            member.auth().tokens().expire(now);
        }
    };
    tokio::select! {
        () = work => {}
        () = member.0.raft.stopped() => {}
    }
}
