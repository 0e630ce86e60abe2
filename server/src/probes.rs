//! What a member's health pages, version page and metrics page say.

use forebay_edge::http::{Probes, Versions};
use forebay_keyspace::eval;
use forebay_proto::etcdserverpb::{AlarmType, RangeRequest};
use futures::{FutureExt as _, future::BoxFuture};
use prometheus::{Registry, proto::MetricFamily};
use serde_json::json;
use tonic::Status;

use crate::{member::Member, raft, version};

/// The pages of a member.
pub struct MemberProbes {
    member: Member,
    registry: Registry,
}

impl MemberProbes {
    /// The pages of `member`; metrics are those of `registry`.
    pub fn new(member: Member, registry: Registry) -> MemberProbes {
        MemberProbes { member, registry }
    }
}

impl Probes for MemberProbes {
    fn alarms(&self) -> Vec<AlarmType> {
        self.member.alarms().iter().map(|alarm| alarm.alarm()).collect()
    }

    fn has_leader(&self) -> bool {
        self.member.has_leader()
    }

    fn is_learner(&self) -> bool {
        self.member.raft_status().role == raft::Role::Learner
    }

    fn auth_enabled(&self) -> bool {
        self.member.auth().is_enabled()
    }

    fn read(&self, serializable: bool) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            if !serializable {
                self.member.linearize(self.member.own_deadline()).await?;
            }
            let request = RangeRequest { key: "\0".into(), limit: 1, keys_only: true, ..Default::default() };
            self.member.reader().evaluate(|snapshot| eval::range(snapshot, &request))?;
            Ok(())
        }
        .boxed()
    }

    fn versions(&self) -> Versions {
        let cluster = self.member.cluster_version();
        Versions { server: version::SERVER.into(), storage: self.member.storage_version(), cluster }
    }

    fn metrics(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn debug_vars(&self) -> Option<Vec<(&'static str, serde_json::Value)>> {
        let raft = self.member.raft_status();
        let status = json!({
            "id": format!("{:x}", raft.id),
            "term": raft.term,
            "commit": raft.commit,
            "applied": raft.applied,
            "lead": format!("{:x}", raft.leader),
            "raftState": format!("{:?}", raft.role),
        });
        Some(vec![("raft.status", status)])
    }
}
