//! Every method of etcd's API and what the gateway may do with it.
//!
//! One row a method. A test compares the table with the descriptors, so a method that etcd adds
//! fails the build until somebody decides here what it is. Methods without a row still pass: they
//! are treated as the most delicate kind, [`OTHER`].

use std::{collections::HashMap, sync::LazyLock};

/// What sending a call twice, or not knowing its result, means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing: may go to another endpoint as long as no response has begun.
    Read,
    /// May change something: never sent twice, and never ends in DEADLINE_EXCEEDED or CANCELLED,
    /// because clients would send it again.
    Mutation,
    /// A conversation for as long as the client lives: ends in a way that makes clients resume it.
    Stream,
}

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    Responses,
    /// Many requests, many responses.
    Duplex,
}

/// Who may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any member of the cluster.
    Cluster,
    /// The answer is about one member, so one member gives all of them.
    Member,
}

/// What admission may do when the upstream is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May wait or be refused.
    Ordinary,
    /// Never shed and never queued behind others: shedding it would break what it keeps alive.
    Reserved,
}

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// `/service/Method`.
    pub path: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// See [`Shape`].
    pub shape: Shape,
    /// See [`Scope`].
    pub scope: Scope,
    /// See [`Class`].
    pub class: Class,
}

impl Method {
    /// The row of a path, or [`OTHER`].
    pub fn find(path: &str) -> &'static Method {
        static ROWS: LazyLock<HashMap<&str, &Method>> =
            LazyLock::new(|| METHODS.iter().map(|method| (method.path, method)).collect());
        ROWS.get(path).copied().unwrap_or(&OTHER)
    }

    /// The name for metrics: bounded, since every unknown method has the same.
    pub fn label(&self) -> &'static str {
        self.path.trim_start_matches('/')
    }

    /// Whether this is the stream that keeps leases alive.
    pub fn is_keep_alive(&self) -> bool {
        self.path == LEASE_KEEP_ALIVE
    }
}

/// The stream of watches.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// The stream that keeps leases alive.
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// The answer of which names the members' client URLs.
pub const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
/// A member's view of itself, which the prober asks for.
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// gRPC's own health service.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// A method without a row. It may be anything, so it is handled as what can go wrong worst.
pub static OTHER: Method = Method { path: "/other", kind: Mutation, shape: Duplex, scope: Cluster, class: Ordinary };

use Class::{Ordinary, Reserved};
use Kind::{Mutation, Read, Stream};
use Scope::{Cluster, Member};
use Shape::{Duplex, Responses, Unary};

const fn row(path: &'static str, kind: Kind, shape: Shape, scope: Scope, class: Class) -> Method {
    Method { path, kind, shape, scope, class }
}

/// The table, in the order of the `.proto` files.
#[rustfmt::skip]
pub static METHODS: &[Method] = &[
    row("/etcdserverpb.KV/Range", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.KV/RangeStream", Read, Responses, Cluster, Ordinary),
    row("/etcdserverpb.KV/Put", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.KV/DeleteRange", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.KV/Txn", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.KV/Compact", Mutation, Unary, Cluster, Reserved),
    row(WATCH, Stream, Duplex, Cluster, Ordinary),
    row("/etcdserverpb.Lease/LeaseGrant", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Lease/LeaseRevoke", Mutation, Unary, Cluster, Reserved),
    row(LEASE_KEEP_ALIVE, Stream, Duplex, Cluster, Reserved),
    row("/etcdserverpb.Lease/LeaseTimeToLive", Read, Unary, Cluster, Reserved),
    row("/etcdserverpb.Lease/LeaseLeases", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Cluster/MemberAdd", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Cluster/MemberRemove", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Cluster/MemberUpdate", Mutation, Unary, Cluster, Ordinary),
    row(MEMBER_LIST, Read, Unary, Cluster, Reserved),
    row("/etcdserverpb.Cluster/MemberPromote", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Maintenance/Alarm", Mutation, Unary, Cluster, Reserved),
    row(STATUS, Read, Unary, Member, Reserved),
    row("/etcdserverpb.Maintenance/Defragment", Mutation, Unary, Member, Reserved),
    row("/etcdserverpb.Maintenance/Hash", Read, Unary, Member, Ordinary),
    row("/etcdserverpb.Maintenance/HashKV", Read, Unary, Member, Ordinary),
    row("/etcdserverpb.Maintenance/Snapshot", Read, Responses, Member, Reserved),
    row("/etcdserverpb.Maintenance/MoveLeader", Mutation, Unary, Member, Ordinary),
    row("/etcdserverpb.Maintenance/Downgrade", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/AuthEnable", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/AuthDisable", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/AuthStatus", Read, Unary, Cluster, Ordinary),
    // Hands out a token, and with simple tokens writes to the log.
    row("/etcdserverpb.Auth/Authenticate", Mutation, Unary, Cluster, Reserved),
    row("/etcdserverpb.Auth/UserAdd", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserGet", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserList", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserDelete", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserChangePassword", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserGrantRole", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/UserRevokeRole", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleAdd", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleGet", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleList", Read, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleDelete", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleGrantPermission", Mutation, Unary, Cluster, Ordinary),
    row("/etcdserverpb.Auth/RoleRevokePermission", Mutation, Unary, Cluster, Ordinary),
    row("/v3lockpb.Lock/Lock", Mutation, Unary, Cluster, Ordinary),
    row("/v3lockpb.Lock/Unlock", Mutation, Unary, Cluster, Ordinary),
    row("/v3electionpb.Election/Campaign", Mutation, Unary, Cluster, Ordinary),
    row("/v3electionpb.Election/Proclaim", Mutation, Unary, Cluster, Ordinary),
    row("/v3electionpb.Election/Leader", Read, Unary, Cluster, Ordinary),
    row("/v3electionpb.Election/Observe", Read, Responses, Cluster, Ordinary),
    row("/v3electionpb.Election/Resign", Mutation, Unary, Cluster, Ordinary),
    // Registered by every etcd, though not part of its `.proto` files.
    row(HEALTH_CHECK, Read, Unary, Cluster, Reserved),
    row("/grpc.health.v1.Health/Watch", Read, Responses, Cluster, Reserved),
    row("/grpc.health.v1.Health/List", Read, Unary, Cluster, Reserved),
];

#[cfg(test)]
mod tests {
    use forebay_proto::DESCRIPTORS;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_the_descriptors_has_a_row_of_its_shape() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let mut seen = 0;
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let row = Method::find(&path);
                    assert_eq!(row.path, path, "a method of etcd has no row: decide what it is");
                    let shape = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => Unary,
                        (false, true) => Responses,
                        (true, _) => Duplex,
                    };
                    assert_eq!(row.shape, shape, "{path}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, METHODS.iter().filter(|row| !row.path.starts_with("/grpc.")).count());
    }

    #[test]
    fn a_path_stands_in_the_table_once() {
        for (i, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..i].iter().all(|other| other.path != method.path), "{}", method.path);
        }
    }

    #[test]
    fn an_unknown_method_is_never_sent_twice_and_has_one_label() {
        let method = Method::find("/etcdserverpb.KV/Invented");
        assert_eq!((method.kind, method.shape, method.label()), (Mutation, Duplex, "other"));
    }

    #[test]
    fn what_keeps_a_cluster_alive_is_never_shed() {
        for path in [LEASE_KEEP_ALIVE, "/etcdserverpb.Lease/LeaseRevoke", "/etcdserverpb.KV/Compact", STATUS] {
            assert_eq!(Method::find(path).class, Reserved, "{path}");
        }
    }
}
