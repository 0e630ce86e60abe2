//! The gateway: etcd's API in front of etcd's API.
//!
//! Calls pass as bytes, streams in both directions, whatever the method; what is looked into is
//! named in [`stack`](crate::Gateway). Start reading at `stack.rs`, which shows the whole way of a
//! request on one screen.

mod admission;
mod call;
mod config;
mod gateway;
mod intake;
mod layers;
pub mod methods;
mod metrics;
pub mod mirror;
mod probes;
mod replies;
mod rescue;
mod stack;
pub mod upstream;

pub use admission::{ADMIN, AdminToken, Admission, PolicyError, PolicyFile};
pub use config::{AdmissionConfig, Config, GatewayId, KEEPALIVE_MIN, MAX_MESSAGE_BYTES, PoolConfig};
pub use gateway::Gateway;
pub use metrics::Metrics;
pub use probes::GatewayProbes;
pub use upstream::Upstream;
