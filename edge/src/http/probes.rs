//! What the endpoints ask of the role behind them.

use forebay_proto::etcdserverpb::AlarmType;
use futures::future::BoxFuture;
use prometheus::proto::MetricFamily;
use tonic::Status;

/// The state of a member, or of the cluster behind a gateway, as its endpoints report it.
pub trait Probes: Send + Sync + 'static {
    /// The alarms that are raised.
    fn alarms(&self) -> Vec<AlarmType>;

    /// Whether a leader is known.
    fn has_leader(&self) -> bool;

    /// Whether this member is a learner, which answers no clients.
    fn is_learner(&self) -> bool;

    /// Whether users must authenticate.
    fn auth_enabled(&self) -> bool;

    /// Reads one key, without its value and with every right; from the local state alone if
    /// `serializable`. It must end within the request timeout.
    fn read(&self, serializable: bool) -> BoxFuture<'_, Result<(), Status>>;

    /// What `/version` says.
    fn versions(&self) -> Versions;

    /// What `/metrics` says.
    fn metrics(&self) -> Vec<MetricFamily>;

    /// What `/debug/vars` says, by name; `None` if there is no such page. It is served to anyone who
    /// can connect, so nothing secret may be in it.
    fn debug_vars(&self) -> Option<Vec<(&'static str, serde_json::Value)>> {
        None
    }
}

/// The answer to `/version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Of this binary, as an etcd release: `3.7.1`.
    pub server: String,
    /// The one the members agreed on, `3.7.0`; `None` until they have.
    pub cluster: Option<String>,
    /// Of the data on disk; `None` while it is unknown.
    pub storage: Option<String>,
}
