//! The bundled server: a member of an etcd cluster.
//!
//! In reading order: [`start`](start()) brings a member up from its files, [`Member`] is what requests call, `rpc` are
//! the gRPC services, `raft` orders what they propose, `apply` carries it out, `backend` writes it to the db file.

mod alarms;
mod apply;
mod auth;
mod auto_compaction;
mod backend;
mod bootstrap;
mod clock;
mod cluster;
mod cluster_version;
mod compactor;
mod config;
mod corrupt;
mod downgrade;
mod files;
mod lease;
mod leases;
mod load;
mod logins;
mod member;
mod members;
mod membership;
mod metrics;
pub mod peer;
mod probes;
mod proposals;
mod quotas;
pub mod raft;
mod rpc;
#[cfg(test)]
mod simulation;
mod space;
mod start;
mod state;
mod upkeep;
pub mod version;

pub use auth::{JwtOptions, TokenKind};
pub use auto_compaction::AutoCompaction;
pub use bootstrap::BootstrapError;
pub use config::{Config, Feature, GRPC_OVERHEAD_BYTES, InitialState};
pub use member::{Ended, Member};
pub use probes::MemberProbes;
pub use start::{PeerPorts, StartError, start, start_on};
