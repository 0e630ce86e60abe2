//! Load for etcd-compatible servers, and honest figures about how they bore it.
//!
//! Absolute times of a shared machine mean little, so everything here measures several targets in
//! turns in one run and reports ratios; and because client and server share the processors, the
//! CPU time of the server process stands beside its throughput.

pub mod abuse;
pub mod bench;
pub mod check;
pub mod client;
pub mod elsewhere;
pub mod empty;
pub mod history;
pub mod process;
pub mod tiers;
pub mod work;
