//! The methods of etcd's API, as policies name them and as admission treats them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::suggest;

/// What kind of work a method gives the upstream. Reads and writes wait for different things, so each kind has a
/// concurrency limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Read,
    Write,
    /// Lives as long as its client; only its creation is work.
    Stream,
    /// Serves the operator or the cluster itself.
    Control,
}

macro_rules! rpcs {
    ($($rpc:ident $path:literal $kind:ident $reserved:literal,)*) => {
        /// A method of the API. Policy files use these names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rpc {
            $($rpc,)*
            /// Whatever the table does not know.
            Other,
        }

        impl Rpc {
            /// Every method, the unknown one last.
            pub const ALL: &[Rpc] = &[$(Rpc::$rpc,)* Rpc::Other];

            /// The method of a request's path.
            pub fn of_path(path: &str) -> Rpc {
                match path {
                    $($path => Rpc::$rpc,)*
                    _ => Rpc::Other,
                }
            }

            /// `/service/Method`.
            pub fn path(self) -> &'static str {
                match self {
                    $(Rpc::$rpc => $path,)*
                    Rpc::Other => "/other",
                }
            }

            /// The name in policy files and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Rpc::$rpc => stringify!($rpc),)*
                    Rpc::Other => "Other",
                }
            }

            /// See [`Kind`].
            pub fn kind(self) -> Kind {
                match self {
                    $(Rpc::$rpc => Kind::$kind,)*
                    Rpc::Other => Kind::Write,
                }
            }

            /// Whether refusing or delaying the method would break what it keeps alive, or take the operator's tools
            /// away. No rule reaches these; only a loose limit per client does.
            pub fn is_reserved(self) -> bool {
                match self {
                    $(Rpc::$rpc => $reserved,)*
                    Rpc::Other => false,
                }
            }
        }
    };
}

rpcs! {
    Range "/etcdserverpb.KV/Range" Read false,
    RangeStream "/etcdserverpb.KV/RangeStream" Read false,
    Put "/etcdserverpb.KV/Put" Write false,
    DeleteRange "/etcdserverpb.KV/DeleteRange" Write false,
    Txn "/etcdserverpb.KV/Txn" Write false,
    Compact "/etcdserverpb.KV/Compact" Control true,
    Watch "/etcdserverpb.Watch/Watch" Stream false,
    LeaseGrant "/etcdserverpb.Lease/LeaseGrant" Write false,
    LeaseRevoke "/etcdserverpb.Lease/LeaseRevoke" Write true,
    LeaseKeepAlive "/etcdserverpb.Lease/LeaseKeepAlive" Stream true,
    LeaseTimeToLive "/etcdserverpb.Lease/LeaseTimeToLive" Read true,
    LeaseLeases "/etcdserverpb.Lease/LeaseLeases" Read false,
    MemberAdd "/etcdserverpb.Cluster/MemberAdd" Control false,
    MemberRemove "/etcdserverpb.Cluster/MemberRemove" Control false,
    MemberUpdate "/etcdserverpb.Cluster/MemberUpdate" Control false,
    MemberList "/etcdserverpb.Cluster/MemberList" Control true,
    MemberPromote "/etcdserverpb.Cluster/MemberPromote" Control false,
    Alarm "/etcdserverpb.Maintenance/Alarm" Control true,
    Status "/etcdserverpb.Maintenance/Status" Control true,
    Defragment "/etcdserverpb.Maintenance/Defragment" Control true,
    Hash "/etcdserverpb.Maintenance/Hash" Control false,
    HashKV "/etcdserverpb.Maintenance/HashKV" Control false,
    Snapshot "/etcdserverpb.Maintenance/Snapshot" Control true,
    MoveLeader "/etcdserverpb.Maintenance/MoveLeader" Control false,
    Downgrade "/etcdserverpb.Maintenance/Downgrade" Control false,
    AuthEnable "/etcdserverpb.Auth/AuthEnable" Control false,
    AuthDisable "/etcdserverpb.Auth/AuthDisable" Control false,
    AuthStatus "/etcdserverpb.Auth/AuthStatus" Control false,
    Authenticate "/etcdserverpb.Auth/Authenticate" Control true,
    UserAdd "/etcdserverpb.Auth/UserAdd" Control false,
    UserGet "/etcdserverpb.Auth/UserGet" Control false,
    UserList "/etcdserverpb.Auth/UserList" Control false,
    UserDelete "/etcdserverpb.Auth/UserDelete" Control false,
    UserChangePassword "/etcdserverpb.Auth/UserChangePassword" Control false,
    UserGrantRole "/etcdserverpb.Auth/UserGrantRole" Control false,
    UserRevokeRole "/etcdserverpb.Auth/UserRevokeRole" Control false,
    RoleAdd "/etcdserverpb.Auth/RoleAdd" Control false,
    RoleGet "/etcdserverpb.Auth/RoleGet" Control false,
    RoleList "/etcdserverpb.Auth/RoleList" Control false,
    RoleDelete "/etcdserverpb.Auth/RoleDelete" Control false,
    RoleGrantPermission "/etcdserverpb.Auth/RoleGrantPermission" Control false,
    RoleRevokePermission "/etcdserverpb.Auth/RoleRevokePermission" Control false,
    Lock "/v3lockpb.Lock/Lock" Write false,
    Unlock "/v3lockpb.Lock/Unlock" Write false,
    Campaign "/v3electionpb.Election/Campaign" Write false,
    Proclaim "/v3electionpb.Election/Proclaim" Write false,
    Leader "/v3electionpb.Election/Leader" Read false,
    Observe "/v3electionpb.Election/Observe" Stream false,
    Resign "/v3electionpb.Election/Resign" Write false,
    HealthCheck "/grpc.health.v1.Health/Check" Control true,
    HealthWatch "/grpc.health.v1.Health/Watch" Stream true,
    HealthList "/grpc.health.v1.Health/List" Control true,
}

impl Rpc {
    /// Whether the method answers with as many objects as the keys of the request have.
    pub fn lists(self) -> bool {
        matches!(self, Rpc::Range | Rpc::RangeStream)
    }

    /// Whether it may wait for what other clients do, for as long as they like. A seat that it held meanwhile would be
    /// missing to those it waits for.
    pub fn waits_for_clients(self) -> bool {
        matches!(self, Rpc::Lock | Rpc::Campaign | Rpc::Observe)
    }

    /// Whether there may be many objects in its answer, or in what it changes.
    pub fn answers_objects(self) -> bool {
        self.lists() || matches!(self, Rpc::DeleteRange | Rpc::Txn)
    }

    /// Whether its requests name keys.
    pub fn names_keys(self) -> bool {
        self.answers_objects() || matches!(self, Rpc::Put | Rpc::Watch)
    }
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no method has.
#[derive(Debug, thiserror::Error)]
#[error("no method is called {name:?}{}", .near.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
pub struct UnknownRpc {
    name: String,
    near: Option<&'static str>,
}

impl FromStr for Rpc {
    type Err = UnknownRpc;

    fn from_str(name: &str) -> Result<Rpc, UnknownRpc> {
        Rpc::ALL.iter().copied().find(|rpc| rpc.name() == name).ok_or_else(|| UnknownRpc {
            name: name.to_owned(),
            near: suggest::nearest(name, Rpc::ALL.iter().map(|rpc| rpc.name())),
        })
    }
}

impl<'de> Deserialize<'de> for Rpc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rpc, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Rpc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::DESCRIPTORS;

    use super::*;

    #[test]
    fn names_and_paths_lead_back_to_their_method() {
        for &rpc in Rpc::ALL {
            assert_eq!(rpc.name().parse::<Rpc>().expect("a known name"), rpc);
            assert_eq!(Rpc::of_path(rpc.path()), rpc);
        }
        let error = "Rnage".parse::<Rpc>().expect_err("no such method");
        assert_eq!(error.to_string(), "no method is called \"Rnage\"; did you mean Range?");
    }

    #[test]
    fn every_method_name_is_part_of_the_descriptors() {
        for rpc in Rpc::ALL.iter().filter(|rpc| !rpc.path().starts_with("/grpc.") && **rpc != Rpc::Other) {
            let method = rpc.path().rsplit('/').next().expect("a method");
            assert!(DESCRIPTORS.windows(method.len()).any(|window| window == method.as_bytes()), "{rpc}");
        }
    }
}
