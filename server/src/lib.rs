//! The bundled server: a member of an etcd cluster.
//!
//! In reading order: [`start`](start()) brings a member up from its files, [`Member`] is what requests call, `rpc` are
//! the gRPC services, `raft` orders what they propose, `apply` carries it out, `backend` writes it to the db file.

mod alarms;
mod apply;
mod auto_compaction;
mod backend;
mod cluster;
mod compactor;
mod config;
pub mod identity;
mod lease;
mod member;
mod membership;
mod metrics;
mod probes;
mod proposals;
pub mod raft;
mod rpc;
mod start;
mod upkeep;
pub mod version;

pub use auto_compaction::AutoCompaction;
pub use config::{Config, Feature, GRPC_OVERHEAD_BYTES};
pub use member::Member;
pub use probes::MemberProbes;
pub use start::{StartError, start};
