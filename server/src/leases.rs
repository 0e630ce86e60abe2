//! Renewing leases and asking how long they last: only the leader knows, and others ask it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_proto::{
    Error,
    etcdserverpb::{
        LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
    },
    leasepb::{LeaseInternalRequest, LeaseInternalResponse},
};
use http::StatusCode;
use prost::Message;
use tonic::Status;

use crate::{
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

    /// Renews a lease, if this member leads. It proves that first: a leader that was replaced without noticing would
    /// promise what the new one does not know of.
    pub(crate) async fn renew_here(&self, id: i64) -> Result<i64, LeaseError> {
        self.prove_leadership().await?;
        let deadline = Instant::now() + self.config().request_timeout();
        loop {
            let renewal = {
                let mut lessor = self.lessor();
                if !lessor.is_primary() {
                    return Err(LeaseError::Elsewhere);
                }
                lessor.renew(id, Instant::now())
            };
            match renewal {
                Renewal::Renewed { ttl } => {
                    self.metrics().leases_renewed.inc();
                    return Ok(ttl);
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

    async fn prove_leadership(&self) -> Result<(), LeaseError> {
        self.linearize(self.own_deadline()).await.map_err(|_| LeaseError::Behind)
    }
}

/// Decodes an answer of the leader.
fn decode<M: Message + Default>(body: &Bytes) -> Result<M, Status> {
    M::decode(body.clone()).map_err(|_| Error::LeaderChanged.into())
}
