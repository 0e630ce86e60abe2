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
    /// Major, minor and a zero, once the leader has decided it.
    pub version: Option<String>,
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

    /// Shows a new state.
    pub(crate) fn show(&self, membership: &Membership, alarms: &Alarms) {
        let mut members = membership.members.clone();
        members.sort_unstable_by_key(|member| member.id);
        let version = membership.cluster_version.clone();
        self.0.store(Arc::new(Shown { members, version, alarms: alarms.list(AlarmType::None) }));
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
