//! The version that all members of the cluster have in common: the leader asks them, and raises or lowers it.

use std::time::Duration;

use forebay_proto::{etcdserverpb::InternalRaftRequest, membershippb::ClusterVersionSetRequest};

use crate::{
    auth::Caller,
    member::Member,
    peer::{get_versions, id_text},
    raft::Role,
    version::{MIN_CLUSTER, Version},
};

/// How often the leader asks.
const INTERVAL: Duration = Duration::from_secs(4);
/// How often a member looks whether it leads now: a new leader asks at once.
const LEADERSHIP_POLL: Duration = Duration::from_millis(100);

/// Keeps the version right while this member leads. Ends when the member stops.
pub(crate) async fn watch(member: Member) {
    let work = async {
        let mut term = 0;
        let mut next = tokio::time::Instant::now();
        loop {
            let status = member.raft_status();
            let leads = status.role == Role::Leader && status.applied > 0;
            if leads && (status.term != term || next <= tokio::time::Instant::now()) {
                (term, next) = (status.term, tokio::time::Instant::now() + INTERVAL);
                update(&member).await;
            }
            tokio::time::sleep(LEADERSHIP_POLL).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = member.draining() => {}
    }
}

/// Sets the version that fits, unless it is set.
pub(crate) async fn update(member: &Member) {
    let current = member.cluster_version().as_deref().and_then(Version::parse);
    let lowest = lowest_server(member).await;
    let Some(version) = decide(current, lowest, member.downgrade_target()) else { return };
    if member.config().hold_cluster_version && current.is_some_and(|current| is_set(current) && current < version) {
        return;
    }
    let set = ClusterVersionSetRequest { ver: version.to_string() };
    let request = InternalRaftRequest { cluster_version_set: Some(set), ..Default::default() };
    match member.propose(&Caller::nobody(), request, member.own_deadline()).await {
        Ok(_) => tracing::info!(cluster_version = %version, "cluster version is updated"),
        Err(status) => tracing::warn!(error = status.message(), "failed to update cluster version"),
    }
}

/// The version that the cluster should have now, if that is another one.
fn decide(current: Option<Version>, lowest: Option<Version>, target: Option<Version>) -> Option<Version> {
    let lowest = lowest.map(Version::minor);
    let Some(current) = current else {
        // Better a low version at once than none: it is raised when all members have answered.
        return lowest.or_else(|| Version::parse(MIN_CLUSTER));
    };
    let lowest = lowest?;
    match target {
        Some(target) => {
            (target != current && target == current.one_below() && target == lowest.one_below()).then_some(target)
        }
        None => (current < lowest && current.major == lowest.major).then_some(lowest),
    }
}

/// Whether a cluster was given this version, and does not have it for want of a better one.
fn is_set(version: Version) -> bool {
    Some(version) != Version::parse(MIN_CLUSTER)
}

/// The lowest release of all members, if all say theirs.
async fn lowest_server(member: &Member) -> Option<Version> {
    versions(member).await.into_iter().map(|(_, version)| version).min().flatten()
}

/// What each member says it is. `None` sorts first, so that the lowest is only known when all are.
async fn versions(member: &Member) -> Vec<(u64, Option<Version>)> {
    let shown = member.0.cluster.shown();
    let (own, others): (Vec<_>, Vec<_>) = shown.members.iter().cloned().partition(|other| other.id == member.id());
    let own = own.into_iter().map(|own| (own.id, Some(Version::server())));
    let limit = member.config().request_timeout();
    let asked = get_versions(member.0.peers.client(), &others, limit).await.into_iter().map(|(id, versions)| {
        let version = versions.as_ref().and_then(|versions| Version::parse(&versions.server));
        if version.is_some_and(|version| version > Version::server()) {
            tracing::warn!(remote_member_id = id_text(id), "leader found higher-versioned member");
        }
        (id, version)
    });
    own.chain(asked).collect()
}

/// Whether every member is a release of this version.
pub(crate) async fn all_are(member: &Member, target: Version) -> bool {
    versions(member).await.iter().all(|(_, version)| version.is_some_and(|version| version.minor() == target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(current: &str, lowest: &str, target: &str) -> Option<String> {
        decide(Version::parse(current), Version::parse(lowest), Version::parse(target))
            .map(|version| version.to_string())
    }

    #[test]
    fn the_version_is_the_lowest_and_never_goes_down_unasked() {
        assert_eq!(decided("", "", "").as_deref(), Some("3.0.0"));
        assert_eq!(decided("", "3.5.28", "").as_deref(), Some("3.5.0"));
        assert_eq!(decided("3.0.0", "3.7.1", "").as_deref(), Some("3.7.0"));
        assert_eq!(decided("3.5.0", "", ""), None, "not all have answered");
        assert_eq!(decided("3.7.0", "3.7.1", ""), None);
        assert_eq!(decided("3.7.0", "3.5.28", ""), None);
    }

    #[test]
    fn a_downgrade_goes_one_version_down() {
        assert_eq!(decided("3.7.0", "3.7.1", "3.6.0").as_deref(), Some("3.6.0"));
        assert_eq!(decided("3.6.0", "3.7.1", "3.6.0"), None, "done");
        assert_eq!(decided("3.7.0", "3.7.1", "3.5.0"), None);
        assert_eq!(decided("3.7.0", "3.6.5", "3.6.0"), None, "a member below that would be left behind");
    }
}
