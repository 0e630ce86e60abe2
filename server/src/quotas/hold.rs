//! Proposing what quotas have a say in, and saying which quotas there are.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_edge::Body;
use forebay_policies::{
    Quota,
    file::{quotas_from_json, quotas_to_json},
    quota::Verdict,
};
use forebay_proto::{
    Error,
    etcdserverpb::{DeleteRangeRequest, InternalRaftRequest, PutRequest},
    quotas::BudgetUsage,
};
use futures::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use tonic::{Code, Status};

use super::RECORDS;
use crate::{
    apply::Applied,
    auth::Caller,
    member::{Deadline, Member},
    members::FORWARD_PAUSE,
    raft::{Proposal, Role},
};

/// Where the peer port takes proposals that the leader is to decide about.
pub(crate) const PROPOSE: &str = "/forebay/propose";
/// Where a member of ours says that it is one.
pub(crate) const HOLDS: &str = "/forebay/quotas";
/// A proposal is not taken, and never will be.
const REFUSED: [StatusCode; 3] =
    [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST, StatusCode::PRECONDITION_FAILED];
/// How long another member may take to say so.
const HOLDS_PATIENCE: Duration = Duration::from_secs(1);
/// Budgets that are told of.
const USAGE_MAX: usize = 1_000;

/// What a leader made of another member's proposal.
pub(crate) enum Decided {
    /// It is in the log, or may come there.
    Proposed,
    /// It will not come there: this member does not lead, or knows of no quota that has a say in it.
    NotHere,
}

impl Member {
    /// Has a request ordered that quotas have a say in. `None` if what it did did not become known in time.
    pub(crate) async fn propose_within_quotas(
        &self,
        request: &InternalRaftRequest,
        id: u64,
        data: Bytes,
        deadline: Deadline,
    ) -> Result<Option<Applied>, Status> {
        loop {
            // The quotas may end while the members do not agree on them.
            if !self.0.quotas.concern(request) {
                let proposal = Proposal { id, data, term: None };
                return self.wait_for(id, deadline, |raft| raft.propose(proposal)).await;
            }
            if let Some(term) = self.admit(request, id, deadline).await? {
                return self.propose_in(term, id, data, deadline).await;
            }
            if let Some(url) = self.leader_url()
                && let Some(answered) = self.propose_at(&url, id, data.clone(), deadline).await?
            {
                return Ok(answered);
            }
            if deadline.left(Instant::now()).is_zero() {
                return Err(if self.has_leader() { deadline.passed() } else { Error::NoLeader.into() });
            }
            tokio::time::sleep(FORWARD_PAUSE).await;
        }
    }

    /// As [`Member::propose_within_quotas`], for another member that waits for the outcome itself.
    pub(crate) async fn propose_for_peer(
        &self,
        request: &InternalRaftRequest,
        id: u64,
        data: Bytes,
    ) -> Result<Decided, Status> {
        let deadline = self.own_deadline();
        if !self.0.quotas.concern(request) {
            return Ok(Decided::NotHere);
        }
        let Some(term) = self.admit(request, id, deadline).await? else { return Ok(Decided::NotHere) };
        match self.propose_in(term, id, data, deadline).await? {
            Some(Err(Error::LeaderChanged)) => Ok(Decided::NotHere),
            _ => Ok(Decided::Proposed),
        }
    }

    /// Decides about a request; the term for which that holds, `None` if this member does not lead.
    async fn admit(&self, request: &InternalRaftRequest, id: u64, deadline: Deadline) -> Result<Option<u64>, Status> {
        let quotas = &self.0.quotas;
        // Whoever was replaced without noticing may not know that there is room by now.
        let mut is_confirmed = false;
        loop {
            let done = quotas.done.notified();
            tokio::pin!(done);
            // From here on, before it is looked at what is on its way.
            done.as_mut().enable();
            let status = self.raft_status();
            if status.role != Role::Leader {
                return Ok(None);
            }
            if !quotas.is_settled(status.term) {
                self.linearize(deadline).await?;
                let now = self.raft_status();
                if (now.role, now.term) == (Role::Leader, status.term) {
                    quotas.settle(status.term);
                }
                continue;
            }
            match quotas.admit(id, status.term, request) {
                Ok(()) => return Ok(Some(status.term)),
                Err(Verdict::Wait) => {
                    tokio::time::timeout_at(deadline.at().into(), done).await.map_err(|_| deadline.passed())?;
                }
                Err(Verdict::Refused(_)) if !is_confirmed => {
                    self.linearize(deadline).await?;
                    is_confirmed = true;
                }
                Err(Verdict::Refused(exceeded)) => return Err(Status::resource_exhausted(exceeded.to_string())),
                Err(Verdict::Repeated) => return Err(Status::unavailable("forebay: this request is on its way")),
            }
        }
    }

    /// Proposes what was admitted in a term.
    async fn propose_in(&self, term: u64, id: u64, data: Bytes, deadline: Deadline) -> Result<Option<Applied>, Status> {
        let proposal = Proposal { id, data, term: Some(term) };
        let waited = self.wait_for(id, deadline, |raft| raft.propose(proposal)).await;
        if waited.is_err() {
            // It was not even queued.
            self.0.quotas.done(std::iter::once(id));
        }
        waited
    }

    /// Has the leader decide and propose. `None` if nothing came of it and another member leads, or has to catch up.
    ///
    /// It is asked once: what has left may come true, and must not do so twice.
    async fn propose_at(
        &self,
        url: &str,
        id: u64,
        data: Bytes,
        deadline: Deadline,
    ) -> Result<Option<Option<Applied>>, Status> {
        let mut applied = self.0.waiters.register(id, deadline.at());
        let (body, left) = (Body::full(data.clone()), deadline.left(Instant::now()));
        let headers = self.0.peers.identity().headers();
        let asking = self.0.peers.client().ask(url, Method::POST, PROPOSE, headers, body, left);
        let answer = tokio::select! {
            biased;
            applied = &mut applied => return Ok(Some(applied.ok())),
            answer = asking => answer,
        };
        let forget = || self.0.waiters.forget(id);
        match answer {
            Ok(answer) if answer.status == StatusCode::CONFLICT => {
                forget();
                return Ok(None);
            }
            Ok(answer) if answer.status == StatusCode::FORBIDDEN => {
                forget();
                return Err(Status::resource_exhausted(answer.text()));
            }
            Ok(answer) if REFUSED.contains(&answer.status) => {
                forget();
                return Err(Status::unavailable(answer.text()));
            }
            // An etcd, which holds no quotas.
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                forget();
                let propose = Proposal { id, data, term: None };
                return self.wait_for(id, deadline, |raft| raft.propose(propose)).await.map(Some);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(url, %error, "the leader's answer to a proposal is lost"),
        }
        Ok(Some(applied.await.ok()))
    }

    /// Where the leader is asked, if another member leads.
    fn leader_url(&self) -> Option<String> {
        let leader = self.raft_status().leader;
        let shown = self.0.cluster.shown();
        let known = shown.members.iter().find(|member| member.id == leader && leader != self.id())?;
        known.peer_urls.first().cloned()
    }

    /// Has the quotas of a policy replaced by these, unless it has them already.
    pub async fn hold_quotas(&self, policy: &str, quotas: &[Quota]) -> Result<(), Status> {
        self.hold(&self.auth().root(), policy, quotas_to_json(quotas).into(), self.own_deadline()).await
    }

    /// As [`Member::hold_quotas`], with quotas as JSON.
    pub(crate) async fn hold(
        &self,
        caller: &Caller,
        policy: &str,
        json: Bytes,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let quotas = quotas_from_json(&json).map_err(|error| Status::invalid_argument(format!("forebay: {error}")))?;
        if policy.is_empty() || policy.len() > 253 {
            return Err(Status::invalid_argument(
                "forebay: a policy that has quotas held has a name of 253 bytes at most",
            ));
        }
        self.linearize(deadline).await?;
        let recorded = self.recorded(policy);
        if recorded == json || (recorded.is_empty() && quotas.is_empty()) {
            return Ok(());
        }
        let key = record(policy);
        let mut request = InternalRaftRequest::default();
        if quotas.is_empty() {
            request.delete_range = Some(DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
        } else {
            request.put = Some(PutRequest { key, value: json, ..PutRequest::default() });
        }
        self.propose(caller, request, deadline).await.map(drop)
    }

    /// The quotas of a policy as JSON; empty if it has none.
    pub(crate) fn recorded(&self, policy: &str) -> Bytes {
        let key = record(policy);
        let view = self.reader().view();
        let found = view.evaluate(|snapshot| Ok(snapshot.get(&key, snapshot.revision())));
        found.ok().flatten().map_or_else(Bytes::new, |version| Bytes::copy_from_slice(version.value()))
    }

    /// Whether quotas are held whoever leads: no member says that it is an etcd. One that is not reached leads nobody.
    pub(crate) async fn holds_quotas(&self) -> bool {
        let shown = self.0.cluster.shown();
        let others = shown.members.iter().filter(|member| member.id != self.id());
        let asking = others.filter_map(|member| member.peer_urls.first()).map(|url| async move {
            let client = self.0.peers.client();
            let asking = client.ask(url, Method::POST, HOLDS, HeaderMap::new(), Body::empty(), HOLDS_PATIENCE);
            asking.await.is_ok_and(|answer| answer.status == StatusCode::NOT_FOUND)
        });
        let are_etcds = join_all(asking).await;
        !are_etcds.contains(&true)
    }

    /// What the budgets hold.
    pub(crate) fn quota_usage(&self) -> Vec<BudgetUsage> {
        let usage = self.0.quotas.usage(USAGE_MAX).into_iter();
        let told = usage.map(|(quota, prefix, usage)| BudgetUsage {
            quota,
            prefix: prefix.into(),
            objects: usage.objects,
            bytes: usage.bytes,
            uncompacted_bytes: usage.uncompacted_bytes,
        });
        told.collect()
    }
}

fn record(policy: &str) -> Bytes {
    [RECORDS, policy.as_bytes()].concat().into()
}

/// The status under which a refusal goes to another member.
pub(crate) fn peer_status(status: &Status) -> StatusCode {
    match status.code() {
        Code::ResourceExhausted => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
