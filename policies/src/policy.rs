//! A policy that is ready to be asked: rules in the order in which they match, names resolved, defaults filled in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Distinguisher, IdentitySource, Mode, Network, OnLimit, Rpc, Scope, Subject,
    units::{Percent, Quantity, Rate},
};

/// What decides about requests. Comes from [`crate::file::load`] or [`Policy::builtin`].
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: String,
    /// Where clients' names come from; the first that has a value counts.
    pub identity: Vec<IdentitySource>,
    /// Peers whose identity metadata is believed.
    pub trusted_peers: Vec<Network>,
    /// The order in which rules are asked. The first are our own, see [`crate::builtin`]; the last matches all.
    pub rules: Vec<Rule>,
    pub levels: Vec<Level>,
    pub quotas: Vec<Quota>,
    /// Clients that see a part of the key space as all of it; the first that matches counts.
    pub namespaces: Vec<Namespace>,
    /// Makes flows of this process hash unlike those of any other, so that nobody can look for a flow that shares
    /// somebody's queue. The gateway sets it from its own randomness.
    pub seed: u64,
}

/// An index into [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub usize);

/// An index into [`Policy::levels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LevelId(pub usize);

/// One flow rule, as Kubernetes' flow schemas with limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    /// Stands for the name in accounts and flows.
    pub key: u64,
    pub precedence: u32,
    pub mode: Mode,
    pub matches: Match,
    pub distinguish: Vec<Distinguisher>,
    pub level: LevelId,
    /// For each flow.
    pub limits: Limits,
    /// For all flows of the rule together.
    pub total: Limits,
    pub on_limit: OnLimit,
    pub scope: Scope,
}

/// Which requests a rule is about: those for which everything that is said here holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// One of these is the client; empty for everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Subject>,
    /// One of these is the method; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rpcs: Vec<Rpc>,
    /// All keys of the request lie under these prefixes. For rules that privilege: a request cannot buy its way in
    /// by naming one such key among others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Some key of the request may lie under these prefixes. For rules that restrict: a wider range does not evade it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub touching: Vec<String>,
    /// The request writes the key of a lock or an election, as etcd's clients do; for a rule of ours.
    #[serde(skip)]
    pub elections: bool,
    /// The request is predicted to answer with at least so many objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_objects: Option<Quantity>,
    /// The request and its predicted answer have at least so many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<Quantity>,
}

/// Bounds of a flow or of a rule. What is not set is not bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
    /// How many requests may come at once after a pause; the requests of one second unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Quantity>,
    /// Load is requests × objects × object size: bytes read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Rate>,
    /// How much load may come at once after a pause; that of one second unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_burst: Option<Quantity>,
    /// Unary requests that are being served at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Watches that are open at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watches: Option<u32>,
    /// Streams that are open at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// The size of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<Quantity>,
    /// The operations of one txn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<u32>,
    /// The objects one range may answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<Quantity>,
}

impl Limits {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// A priority level: a share of the upstream's concurrency, and queues for what does not fit into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub name: String,
    /// Whether its requests neither wait nor count.
    pub exempt: bool,
    /// Its part of the concurrency is this by the sum over all levels. Others use what of it is idle.
    pub shares: u32,
    /// How much of its part others may use while it is idle; the rest is kept free for it.
    pub lendable: Percent,
    /// How much more than its part it may use while others are idle, by its part; none for all there is.
    pub borrowing: Option<Percent>,
    /// More queues make it less likely that two flows share one.
    pub queues: u32,
    /// How many queues a flow may use. More find an idle one sooner, but let a flow fill more of them.
    pub hand_size: u32,
    /// Requests a queue holds. A long queue bridges bursts; a short one says no before the wait is pointless.
    pub queue_length: u32,
    /// The longest a request waits in a queue. Clients of etcd give up after 5 s.
    pub max_wait: Duration,
    pub codel: Codel,
}

/// When a queue is taken for overloaded: then it serves the newest first and drops what has waited for `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codel {
    /// A wait up to this is no sign of overload. With a small target waits stay short and clients that wait for their
    /// answers before they ask again are refused where patience would have served them.
    pub target: Duration,
    /// The wait has to exceed the target for this long.
    pub interval: Duration,
}

/// A budget for what lies under a prefix. The words are those of Kubernetes' ResourceQuota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub name: String,
    pub mode: Mode,
    pub prefix: Vec<u8>,
    /// One budget for each folder so many slashes deep, instead of one for all.
    pub per: Option<u8>,
    pub hard: HardLimits,
    /// Where warnings begin.
    pub warn_at: Percent,
    /// Whether updates that do not make an object larger pass while the quota is exceeded.
    pub allow_updates: bool,
}

/// What a quota bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardLimits {
    pub objects: Option<u64>,
    /// Keys and values of the newest revisions.
    pub bytes: Option<u64>,
    /// Key and value of one object.
    pub object_bytes: Option<u64>,
    /// Keys and values of all revisions that are kept.
    pub uncompacted_bytes: Option<u64>,
}

/// Clients that are confined to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    pub subjects: Vec<Subject>,
    pub prefix: Vec<u8>,
}

impl Policy {
    /// The rule of an id that this policy gave.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[id.0]
    }

    /// The level of an id that this policy gave.
    pub fn level(&self, id: LevelId) -> &Level {
        &self.levels[id.0]
    }

    /// The same policy with every rule and quota counting only, but for those that are ours.
    pub fn shadowed(mut self) -> Policy {
        self.rules.iter_mut().filter(|rule| !rule.is_ours()).for_each(|rule| rule.mode = Mode::Shadow);
        self.quotas.iter_mut().for_each(|quota| quota.mode = Mode::Shadow);
        self
    }
}

impl Rule {
    /// Whether the rule is part of every policy.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(OURS)
    }
}

/// How the names of rules begin that are part of every policy.
pub(crate) const OURS: &str = "forebay-";
