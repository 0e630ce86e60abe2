//! What readers may know of the cluster: its members, its version, its alarms.
//!
//! Apply decides these and shows them; requests read what was shown last, without waiting for apply.

use std::sync::Arc;

use arc_swap::ArcSwap;
use forebay_proto::etcdserverpb::{self, AlarmMember, AlarmType};
use forebay_storage::snap::{MemberRecord, Membership};

use crate::alarms::Alarms;

/// What apply showed last.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Ascending by id.
    pub members: Vec<MemberRecord>,
    /// Ids of those that were members, and never will be again.
    pub removed: Vec<u64>,
    /// Major, minor and a zero, once the leader has decided it.
    pub version: Option<String>,
    /// The version that the cluster is on its way down to, if it is.
    pub downgrade: Option<String>,
    /// Every raised alarm.
    pub alarms: Vec<AlarmMember>,
}

/// The shared view.
#[derive(Debug, Default)]
pub struct Cluster(ArcSwap<Shown>);

impl Cluster {
    /// The present state.
    pub fn shown(&self) -> Arc<Shown> {
        self.0.load_full()
    }

    /// Whether this was a member.
    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.0.load().removed.contains(&id)
    }

    /// Shows a new state.
    pub(crate) fn show(&self, membership: &Membership, downgrade: Option<&str>, alarms: &Alarms) {
        let mut members = membership.members.clone();
        members.sort_unstable_by_key(|member| member.id);
        let (removed, version) = (membership.removed.clone(), membership.cluster_version.clone());
        let downgrade = downgrade.map(str::to_owned);
        self.0.store(Arc::new(Shown { members, removed, version, downgrade, alarms: alarms.list(AlarmType::None) }));
    }
}

/// A member as the Cluster service lists it.
pub(crate) fn to_wire(member: &MemberRecord) -> etcdserverpb::Member {
    etcdserverpb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
