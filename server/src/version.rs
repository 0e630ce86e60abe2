//! The versions that a member reports. Clients decide by them what they may ask for, so they name
//! the etcd release whose behaviour this one has.

/// The release of etcd that a member behaves as.
pub const SERVER: &str = "3.7.1";
/// The version of the cluster: major and minor of the lowest member.
pub const CLUSTER: &str = "3.7.0";
/// The version of the db file's schema.
pub const STORAGE: &str = "3.7.0";
