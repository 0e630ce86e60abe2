//! The policy file, key by key. What a key means is said in `schema.json`, which a test holds to these types.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    IdentitySource, Limits, Match, Network, Subject,
    units::{GoDuration, Percent, Quantity},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    pub api_version: ApiVersion,
    pub kind: DocumentKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    pub spec: Spec,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ApiVersion {
    #[serde(rename = "forebay.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum DocumentKind {
    TrafficPolicy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Vec<IdentitySource>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_peers: Vec<Network>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Vec<Subject>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority_levels: Vec<LevelSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flow_rules: Vec<RuleSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<QuotaSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LevelSpec {
    pub name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exempt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lendable: Option<Percent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowing: Option<Percent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codel: Option<CodelSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CodelSpec {
    pub target: GoDuration,
    pub interval: GoDuration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    pub name: String,
    pub matching_precedence: u32,
    #[serde(default)]
    pub mode: Mode,
    #[serde(rename = "match")]
    pub matches: Match,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinguish_by: Option<Vec<Distinguisher>>,
    pub priority_level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Limits>,
    #[serde(default)]
    pub on_limit: OnLimit,
    #[serde(default, skip_serializing_if = "Scope::is_default")]
    pub scope: Scope,
}

/// Whose rates the limits of a rule are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Each gateway's.
    #[default]
    Gateway,
    /// Those of all gateways together; each has a share.
    Cluster,
}

impl Scope {
    fn is_default(&self) -> bool {
        *self == Scope::default()
    }
}

/// Whether a rule acts or only counts what it would have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Shadow,
    Enforce,
}

/// What happens to a request that exceeds its rule's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLimit {
    /// It waits, at most as long as its level lets it, and is refused after that.
    #[default]
    Queue,
    /// It is refused at once.
    Reject,
    /// As `Queue`; a range over the limit of objects is read from the upstream in pages instead of being refused.
    Paginate,
}

/// What makes requests of a rule different flows, each with limits and a place in the queues of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    Client,
    /// The folder of the first key, so many slashes deep.
    Prefix(u8),
    Rpc,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaSpec {
    pub name: String,
    #[serde(default = "enforce")]
    pub mode: Mode,
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Segment>,
    pub hard: Hard,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_at: Option<Percent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_when_exceeded: Option<Vec<Allowed>>,
}

/// A quota that counts nothing back would be one that nobody asked for.
fn enforce() -> Mode {
    Mode::Enforce
}

/// One budget for each folder so many slashes deep: `segment(4)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment(pub u8);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hard {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_bytes: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompacted_bytes: Option<Quantity>,
}

/// What passes while a quota is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allowed {
    Delete,
    UpdateNotLarger,
    LeaseRevoke,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSpec {
    pub name: String,
    pub subjects: Vec<Subject>,
    pub prefix: String,
}

impl FromStr for Distinguisher {
    type Err = String;

    fn from_str(text: &str) -> Result<Distinguisher, String> {
        match text {
            "client" => Ok(Distinguisher::Client),
            "rpc" => Ok(Distinguisher::Rpc),
            other => match other.strip_prefix("prefix/").and_then(depth) {
                Some(depth) => Ok(Distinguisher::Prefix(depth)),
                None => Err(format!("{text:?} distinguishes nothing; write client, rpc or prefix/3")),
            },
        }
    }
}

impl fmt::Display for Distinguisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distinguisher::Client => f.write_str("client"),
            Distinguisher::Prefix(depth) => write!(f, "prefix/{depth}"),
            Distinguisher::Rpc => f.write_str("rpc"),
        }
    }
}

impl FromStr for Segment {
    type Err = String;

    fn from_str(text: &str) -> Result<Segment, String> {
        let inner = text.strip_prefix("segment(").and_then(|rest| rest.strip_suffix(')'));
        inner.and_then(depth).map(Segment).ok_or_else(|| format!("{text:?} is no way to divide; write segment(4)"))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment({})", self.0)
    }
}

/// How deep a folder may be asked for: keys with more slashes exist, meaning in them hardly.
fn depth(text: &str) -> Option<u8> {
    text.parse().ok().filter(|depth| (1..=16).contains(depth))
}

crate::text::as_text!(Distinguisher, Segment);
