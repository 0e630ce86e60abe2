//! How a gateway tells a member of ours which quotas to hold: a method of our own, which an etcd does not know.

use bytes::Bytes;
use prost::Message;

use crate::etcdserverpb::ResponseHeader;

/// The path of the method: unary, [`HoldRequest`] to [`HoldResponse`].
pub const HOLD: &str = "/forebay.v1.Quotas/Hold";

/// Asks for quotas to be held.
#[derive(Clone, PartialEq, Message)]
pub struct HoldRequest {
    /// The policy that says so; its quotas replace those that it had before.
    #[prost(string, tag = "1")]
    pub policy: String,
    /// The quotas as JSON, in the words of a policy file. Empty to ask for nothing, and only hear what is held.
    #[prost(bytes = "bytes", tag = "2")]
    pub quotas: Bytes,
}

/// Says what is held.
#[derive(Clone, PartialEq, Message)]
pub struct HoldResponse {
    /// As every answer has it.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether quotas are held at all: not while a member of the cluster is an etcd.
    #[prost(bool, tag = "2")]
    pub held: bool,
    /// The quotas of the policy, as JSON; empty if it has none.
    #[prost(bytes = "bytes", tag = "3")]
    pub quotas: Bytes,
    /// What the budgets of all policies hold, a thousand of them at most.
    #[prost(message, repeated, tag = "4")]
    pub usage: Vec<BudgetUsage>,
}

/// What one budget holds.
#[derive(Clone, PartialEq, Message)]
pub struct BudgetUsage {
    /// The name of the quota.
    #[prost(string, tag = "1")]
    pub quota: String,
    /// Whose budget it is.
    #[prost(bytes = "bytes", tag = "2")]
    pub prefix: Bytes,
    /// Keys.
    #[prost(uint64, tag = "3")]
    pub objects: u64,
    /// Keys and values of the newest revisions.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    /// Keys and values of all revisions that are kept.
    #[prost(uint64, tag = "5")]
    pub uncompacted_bytes: u64,
}
