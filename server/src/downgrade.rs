//! The way of a cluster to the version before: asked for, carried out by the leader's cluster version, and ended once every
//! member is of that version.

use std::time::Duration;

use forebay_proto::{Error, etcdserverpb::InternalRaftRequest, membershippb::DowngradeInfoSetRequest};
use tonic::Status;

use crate::{
    auth::Caller,
    cluster_version,
    member::{Deadline, Member},
    raft::Role,
    version::Version,
};

impl Member {
    /// Whether the cluster could go back to `version`. Answers with the cluster version.
    pub(crate) async fn validate_downgrade(&self, version: &str, deadline: Deadline) -> Result<String, Status> {
        self.check_downgrade(version, deadline).await.map(|(current, _)| text(current))
    }

    /// Begins to go back to `version`.
    pub(crate) async fn enable_downgrade(&self, version: &str, deadline: Deadline) -> Result<String, Status> {
        let (current, target) = self.check_downgrade(version, deadline).await?;
        self.set_downgrade(Some(target), deadline).await?;
        Ok(text(current))
    }

    /// Ends it. Nothing to end is no error.
    pub(crate) async fn cancel_downgrade(&self, deadline: Deadline) -> Result<String, Status> {
        let current = self.current_version()?;
        self.linearize(deadline).await?;
        if self.downgrade_target().is_some() {
            self.set_downgrade(None, deadline).await?;
        }
        Ok(text(current))
    }

    fn current_version(&self) -> Result<Version, Error> {
        self.cluster_version().as_deref().and_then(Version::parse).ok_or(Error::ClusterVersionUnavailable)
    }

    async fn check_downgrade(&self, version: &str, deadline: Deadline) -> Result<(Version, Version), Status> {
        // Two numbers are enough.
        let dots = version.matches('.').count();
        let padded = if dots == 1 { format!("{version}.0") } else { version.to_owned() };
        let target = Version::parse(&padded).ok_or(Error::WrongDowngradeVersionFormat)?.minor();
        let current = self.current_version()?;
        // Members may not agree yet.
        self.linearize(deadline).await?;
        if target != current.one_below() {
            return Err(Error::InvalidDowngradeTargetVersion.into());
        }
        if self.downgrade_target().is_some() {
            return Err(Error::DowngradeInProcess.into());
        }
        Ok((current, target))
    }

    async fn set_downgrade(&self, target: Option<Version>, deadline: Deadline) -> Result<(), Status> {
        let ver = target.map_or_else(String::new, |target| target.to_string());
        let set = DowngradeInfoSetRequest { enabled: target.is_some(), ver };
        let request = InternalRaftRequest { downgrade_info_set: Some(set), ..Default::default() };
        self.propose(&Caller::nobody(), request, deadline).await.map(drop)
    }
}

/// Major and minor, as this call prints versions.
fn text(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

/// Ends a downgrade once every member is of the version that it went to, while this member leads. Ends when the member
/// stops.
pub(crate) async fn watch(member: Member, interval: Duration) {
    let work = async {
        loop {
            tokio::time::sleep(interval).await;
            let Some(target) = member.downgrade_target().filter(|_| member.raft_status().role == Role::Leader) else {
                continue;
            };
            if cluster_version::all_are(&member, target).await {
                tracing::info!(cluster_version = %target, "the cluster has been downgraded");
                if let Err(status) = member.set_downgrade(None, member.own_deadline()).await {
                    tracing::warn!(error = status.message(), "failed to cancel downgrade");
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = member.draining() => {}
    }
}
