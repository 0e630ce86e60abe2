//! Changes of the membership: what a member may ask for, before the log decides.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_edge::Body;
use forebay_proto::{
    Error,
    raftpb::{ConfChange, ConfChangeType},
};
use forebay_storage::{
    identity,
    snap::{MemberRecord, member_json},
};
use http::{HeaderMap, Method, StatusCode};
use tonic::Status;

use crate::{
    member::{Deadline, Member},
    peer::Answer,
};

/// How long a member must be reached without interruption before the quorum counts on it.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// How much of the leader's log a learner must have to be promoted, in percent.
const READY_PERCENT: u64 = 90;
/// Between two attempts to reach the leader.
pub(crate) const FORWARD_PAUSE: Duration = Duration::from_millis(50);

impl Member {
    /// Adds a member that is reached at these URLs. It is not started yet.
    pub(crate) async fn add_member(
        &self,
        mut peer_urls: Vec<String>,
        is_learner: bool,
        deadline: Deadline,
    ) -> Result<MemberRecord, Status> {
        peer_urls.iter_mut().for_each(|url| *url = url.trim().to_owned());
        if peer_urls.is_empty() || !peer_urls.iter().all(|url| is_peer_url(url)) {
            return Err(Error::MemberBadUrls.into());
        }
        peer_urls.sort_unstable();
        // With the time, so that the same URLs can come back as another member.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let id = identity::member_id(&peer_urls, &now.to_string());
        let member = MemberRecord { id, peer_urls, is_learner, ..MemberRecord::default() };
        self.may_add(is_learner)?;
        let kind = match is_learner {
            true => ConfChangeType::ConfChangeAddLearnerNode,
            false => ConfChangeType::ConfChangeAddNode,
        };
        self.configure(kind, id, Some(member_json(&member)), deadline).await?;
        Ok(member)
    }

    /// Removes a member, for ever.
    pub(crate) async fn remove_member(&self, id: u64, deadline: Deadline) -> Result<(), Status> {
        self.may_remove(id)?;
        self.configure(ConfChangeType::ConfChangeRemoveNode, id, None, deadline).await
    }

    /// Tells the others where a member is reached from now on.
    pub(crate) async fn update_member(
        &self,
        id: u64,
        peer_urls: Vec<String>,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let member = MemberRecord { id, peer_urls, ..MemberRecord::default() };
        self.configure(ConfChangeType::ConfChangeUpdateNode, id, Some(member_json(&member)), deadline).await
    }

    /// Makes a learner a voter. Only the leader knows whether it is ready, so others ask the leader.
    pub(crate) async fn promote_member(&self, id: u64, deadline: Deadline) -> Result<(), Status> {
        let answer = loop {
            if let Some(progress) = self.progress().await? {
                self.may_promote(id, &progress)?;
                let member = member_json(&MemberRecord { id, ..MemberRecord::default() });
                let context = format!("{},\"isPromote\":true}}", member.trim_end_matches('}'));
                return self.configure(ConfChangeType::ConfChangeAddNode, id, Some(context), deadline).await;
            }
            let path = format!("/members/promote/{id}");
            if let Some(answer) = self.ask_leader(&path, Vec::new(), deadline).await? {
                match answer.status {
                    StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => break answer,
                    _ => tokio::time::sleep(FORWARD_PAUSE).await,
                }
            }
        };
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => Err(Error::MemberNotFound.into()),
            _ if answer.text().contains("in sync with leader") => Err(Error::LearnerNotReady.into()),
            _ => Err(Error::MemberNotLearner.into()),
        }
    }

    /// Posts something to the leader's peer URLs, once to each until one answers. `None` if none does, or if this member
    /// leads by now: look again then. An error when there is no more time.
    pub(crate) async fn ask_leader(
        &self,
        path: &str,
        body: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Option<Answer>, Status> {
        let leader = self.raft_status().leader;
        let shown = self.0.cluster.shown();
        let known = shown.members.iter().find(|member| member.id == leader && leader != self.id());
        for url in known.map(|leader| &leader.peer_urls[..]).unwrap_or_default() {
            let left = deadline.left(Instant::now());
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/protobuf"));
            let asking = self.0.peers.client().ask(url, Method::POST, path, headers, Body::full(body.clone()), left);
            match asking.await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => tracing::debug!(url, path, %error, "failed to ask the leader"),
            }
        }
        if self.0.stopping.has_started() {
            return Err(Error::Stopped.into());
        }
        if deadline.left(Instant::now()).is_zero() {
            return Err(if known.is_some() { deadline.passed() } else { Error::NoLeader.into() });
        }
        tokio::time::sleep(FORWARD_PAUSE).await;
        Ok(None)
    }

    /// Has a change of the membership decided by the log.
    async fn configure(
        &self,
        kind: ConfChangeType,
        id: u64,
        context: Option<String>,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let request = self.next_request_id();
        let change = ConfChange {
            id: Some(request),
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: context.map(Into::into),
        };
        let answered = self.wait_for(request, deadline, |raft| raft.propose_conf_change(change)).await?;
        self.outcome(answered, deadline).map(drop)
    }

    fn may_add(&self, is_learner: bool) -> Result<(), Status> {
        if !self.config().strict_reconfig_check {
            return Ok(());
        }
        let shown = self.0.cluster.shown();
        let voters: Vec<_> = shown.members.iter().filter(|member| !member.is_learner).collect();
        let started = voters.iter().filter(|voter| has_started(voter)).count();
        // From one member to two there is no way that keeps a quorum.
        let is_first = started == 1 && voters.len() == 1;
        if !is_learner && !is_first && started < quorum(voters.len() + 1) {
            return Err(not_enough_started());
        }
        if voters.len() > 1 && self.healthy(&voters) < quorum(voters.len() + 1) {
            return Err(Error::Unhealthy.into());
        }
        Ok(())
    }

    fn may_remove(&self, id: u64) -> Result<(), Status> {
        let shown = self.0.cluster.shown();
        let is_learner = shown.members.iter().any(|member| member.id == id && member.is_learner);
        if !self.config().strict_reconfig_check || is_learner {
            return Ok(());
        }
        let voters: Vec<_> = shown.members.iter().filter(|member| !member.is_learner).collect();
        let others: Vec<_> = voters.iter().filter(|voter| voter.id != id).collect();
        if others.iter().filter(|voter| has_started(voter)).count() < quorum(others.len()) {
            return Err(not_enough_started());
        }
        // One that is down is no part of the quorum that works.
        if id != self.id() && self.0.peers.active_since(id).is_none() {
            return Ok(());
        }
        let others_max = voters.len().saturating_sub(1);
        if self.healthy(&voters).saturating_sub(1) < 1 + others_max / 2 {
            return Err(Error::Unhealthy.into());
        }
        Ok(())
    }

    fn may_promote(&self, id: u64, progress: &[(u64, u64)]) -> Result<(), Status> {
        let matched = |id| progress.iter().find(|(member, _)| *member == id).map(|(_, matched)| *matched);
        let learner = matched(id).ok_or(Error::MemberNotFound)?;
        let leader = matched(self.id()).unwrap_or(0);
        if u128::from(learner) * 100 < u128::from(leader) * u128::from(READY_PERCENT) {
            return Err(Error::LearnerNotReady.into());
        }
        let shown = self.0.cluster.shown();
        let voters: Vec<_> = shown.members.iter().filter(|member| !member.is_learner).collect();
        // The learner answers, or it would not be in sync.
        let started = 1 + voters.iter().filter(|voter| has_started(voter)).count();
        if self.config().strict_reconfig_check && started < quorum(voters.len() + 1) {
            return Err(not_enough_started());
        }
        Ok(())
    }

    /// How many of these are this member or reached since long enough.
    fn healthy(&self, members: &[&MemberRecord]) -> usize {
        let now = Instant::now();
        let is_healthy = |member: &&&MemberRecord| {
            let since = self.0.peers.active_since(member.id);
            member.id == self.id() || since.is_some_and(|since| since + HEALTHY_AFTER <= now)
        };
        members.iter().filter(is_healthy).count()
    }
}

/// etcd's server sends this text with this code.
fn not_enough_started() -> Status {
    Status::unknown(Error::MemberNotEnoughStarted.message())
}

/// Whether a member has ever published itself.
fn has_started(member: &MemberRecord) -> bool {
    !member.name.is_empty()
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// Whether this is a URL that etcd takes for a member: a scheme, a host with a port, and no path.
fn is_peer_url(url: &str) -> bool {
    match url.split_once("://") {
        Some(("http" | "https", rest)) => {
            let Some((host, port)) = rest.rsplit_once(':') else { return false };
            let is_host = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
            is_host && !host.contains(['/', ' ', '%']) && port.bytes().all(|digit| digit.is_ascii_digit())
        }
        Some(("unix" | "unixs", rest)) => !rest.contains('/'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_peers_have_a_host_and_a_port_and_nothing_else() {
        for good in ["http://a:1", "https://10.0.0.1:2380", "http://[::1]:2380", "unix://localhost:1"] {
            assert!(is_peer_url(good), "{good}");
        }
        for bad in ["", "a:1", "http://a", "http://a:1/", "http://a:x", "ftp://a:1", "http://::1:2380", "http:a:1"] {
            assert!(!is_peer_url(bad), "{bad}");
        }
    }
}
