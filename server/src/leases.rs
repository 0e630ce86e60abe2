//! Renewing leases and asking how long they last: only the leader knows, and others ask it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_proto::{
    Error,
    etcdserverpb::{
        InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
    },
    leasepb::{LeaseInternalRequest, LeaseInternalResponse},
};
use http::StatusCode;
use prost::Message;
use tonic::Status;

use crate::{
    auth::Caller,
    lease::{LeaseError, Renewal},
    member::{Deadline, Member},
    members::FORWARD_PAUSE,
};

/// How often a renewal looks whether the revoke of an expired lease has come through.
const REVOKE_POLL: Duration = Duration::from_millis(20);

impl Member {
    /// Renews a lease, here or on the leader. 0 when there is none.
    pub(crate) async fn renew(&self, id: i64, deadline: Deadline) -> Result<i64, Status> {
        let body = LeaseKeepAliveRequest { id }.encode_to_vec();
        loop {
            if self.lessor().is_primary() {
                match self.renew_here(id).await {
                    Ok(ttl) => return Ok(ttl),
                    Err(LeaseError::Unknown) => return Ok(0),
                    // Another one leads by now.
                    Err(LeaseError::Elsewhere | LeaseError::Behind) => {}
                }
            }
            match self.ask_leader("/leases", body.clone(), deadline).await? {
                Some(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(0),
                Some(answer) if answer.status == StatusCode::OK => {
                    return Ok(decode::<LeaseKeepAliveResponse>(&answer.body)?.ttl);
                }
                Some(_) => tokio::time::sleep(FORWARD_PAUSE).await,
                None => {}
            }
        }
    }

    /// How long a lease lasts, as the leader knows it.
    pub(crate) async fn time_to_live(
        &self,
        query: LeaseTimeToLiveRequest,
        deadline: Deadline,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        let body = LeaseInternalRequest { lease_time_to_live_request: Some(query) }.encode_to_vec();
        let unknown = LeaseTimeToLiveResponse { id: query.id, ttl: -1, ..Default::default() };
        loop {
            if self.lessor().is_primary() {
                match self.time_to_live_here(&query).await {
                    Ok(answer) => return Ok(answer),
                    Err(LeaseError::Unknown) => return Ok(unknown),
                    Err(LeaseError::Elsewhere | LeaseError::Behind) => {}
                }
            }
            match self.ask_leader("/leases/internal", body.clone(), deadline).await? {
                Some(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(unknown),
                Some(answer) if answer.status == StatusCode::OK => {
                    let answer: LeaseInternalResponse = decode(&answer.body)?;
                    return Ok(answer.lease_time_to_live_response.unwrap_or(unknown));
                }
                Some(_) => tokio::time::sleep(FORWARD_PAUSE).await,
                None => {}
            }
        }
    }

    /// Renews a lease, if this member leads. It proves that afterwards: whoever leads next began after the proof, and with
    /// the lease at its full length. Proven before, the renewal of a member that was stopped in between would be a promise
    /// that nobody keeps.
    pub(crate) async fn renew_here(&self, id: i64) -> Result<i64, LeaseError> {
        let mut is_proven = false;
        let deadline = Instant::now() + self.config().request_timeout();
        loop {
            let (term, renewal) = {
                let mut lessor = self.lessor();
                let term = lessor.primary_term().ok_or(LeaseError::Elsewhere)?;
                (term, lessor.renew(id, Instant::now()))
            };
            match renewal {
                Renewal::Renewed { ttl, was_checkpointed } => {
                    match was_checkpointed {
                        true => self.forget_checkpoint(term, id).await?,
                        false => self.prove_leadership().await?,
                    }
                    let lessor = self.lessor();
                    if lessor.primary_term() != Some(term) {
                        return Err(LeaseError::Elsewhere);
                    }
                    if !lessor.exists(id) {
                        return Err(LeaseError::Unknown);
                    }
                    self.metrics().leases_renewed.inc();
                    return Ok(ttl);
                }
                // What was granted or revoked through others may not be applied here yet.
                Renewal::NotFound | Renewal::Expiring if !is_proven => {
                    self.prove_leadership().await?;
                    is_proven = true;
                }
                Renewal::NotFound => return Err(LeaseError::Unknown),
                Renewal::Expiring if Instant::now() < deadline => tokio::time::sleep(REVOKE_POLL).await,
                Renewal::Expiring => return Err(LeaseError::Behind),
            }
        }
    }

    /// How long a lease lasts, if this member leads.
    pub(crate) async fn time_to_live_here(
        &self,
        query: &LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, LeaseError> {
        self.prove_leadership().await?;
        let lessor = self.lessor();
        if !lessor.is_primary() {
            return Err(LeaseError::Elsewhere);
        }
        let remaining = lessor.remaining(query.id, Instant::now()).ok_or(LeaseError::Unknown)?;
        let keys = query.keys.then(|| lessor.keys(query.id).map(Bytes::copy_from_slice).collect());
        Ok(LeaseTimeToLiveResponse {
            // etcd fills in the one that it is given, and ends without one.
            header: Some(ResponseHeader::default()),
            id: query.id,
            ttl: remaining.ttl,
            granted_ttl: remaining.granted,
            keys: keys.unwrap_or_default(),
        })
    }

    /// Has the log forget what was left of a lease. That this is committed proves the leadership of its term as well.
    async fn forget_checkpoint(&self, term: u64, id: i64) -> Result<(), LeaseError> {
        let request = LeaseCheckpointRequest { checkpoints: vec![LeaseCheckpoint { id, remaining_ttl: 0 }] };
        let request = InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() };
        self.propose_as_leader(&Caller::nobody(), Some(term), request, self.own_deadline())
            .await
            .map(drop)
            .map_err(|_| LeaseError::Behind)
    }

    async fn prove_leadership(&self) -> Result<(), LeaseError> {
        self.linearize(self.own_deadline()).await.map_err(|_| LeaseError::Behind)
    }
}

/// Decodes an answer of the leader.
fn decode<M: Message + Default>(body: &Bytes) -> Result<M, Status> {
    M::decode(body.clone()).map_err(|_| Error::LeaderChanged.into())
}
