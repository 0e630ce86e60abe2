//! The validated configuration of the bundled server.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

pub use super::{
    gates::{FeatureGates, Gate},
    tracing::TracingFlags,
    url::Url,
};
use crate::{discovery::Discovery, logging::LogConfig};

/// Everything a member needs to know to run. Every rule between the fields holds; the files that paths name have not
/// been looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// The member's name; unique in its cluster.
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the write-ahead log lives when not in `data_dir`.
    pub wal_dir: Option<PathBuf>,

    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// When not empty, HTTP (JSON, health) is served here only and `listen_client_urls` speak gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,

    /// The members of a new cluster by name, in the order given; read only when the data directory is empty.
    pub initial_cluster: Vec<(String, Vec<Url>)>,
    /// Where DNS names the members of a new cluster, instead.
    pub discovery: Option<Discovery>,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// Makes a one-member cluster of an existing data directory. Unsafe: the other members must be gone for good.
    pub force_new_cluster: bool,
    /// Refuse membership changes that would cost the quorum.
    pub strict_reconfig_check: bool,
    pub max_learners: u64,

    /// One raft tick. Small notices a lost leader soon; too small takes a slow disk for a lost leader.
    pub heartbeat_interval: Duration,
    /// How long a follower waits for its leader: at least five heartbeats.
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// Skip most of the first election timeout at start.
    pub initial_election_tick_advance: bool,
    pub raft_read_timeout: Duration,
    pub raft_write_timeout: Duration,

    /// Applied entries between snapshots. Large costs memory and replay at start; small costs writing.
    pub snapshot_count: u64,
    /// Entries kept in memory for slow followers after a snapshot; fewer sends them whole databases sooner.
    pub snapshot_catchup_entries: u64,
    /// Snapshot files kept; 0 keeps all.
    pub max_snapshots: u64,
    /// Log files kept; 0 keeps all.
    pub max_wals: u64,
    /// Acknowledge writes before they are on disk. Unsafe: a crash loses them.
    pub unsafe_no_fsync: bool,

    /// Largest size of the database before only deletes pass; `None` is no limit.
    pub quota_backend_bytes: Option<u64>,
    pub backend_batch_interval: Duration,
    pub backend_batch_limit: u64,
    /// Defragment at start when it frees this much; 0 never does.
    pub bootstrap_defrag_threshold_megabytes: u64,
    pub auto_compaction: Option<AutoCompaction>,
    pub compaction_batch_limit: u64,
    pub compaction_sleep_interval: Duration,
    /// Zero never compares the members' data.
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    pub downgrade_check_time: Duration,
    /// Whether the version of a cluster that has one is never raised.
    pub hold_cluster_version: bool,
    /// The policy file, whose quotas the member holds.
    pub policy: Option<PathBuf>,
    /// The file with the token of operators, where a gateway is in the same process.
    pub admin_token_file: Option<PathBuf>,

    pub max_request_bytes: u64,
    pub max_txn_ops: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive: GrpcKeepalive,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,

    pub enable_grpc_gateway: bool,
    /// Origins allowed to read answers in a browser; `*` is any.
    pub cors: BTreeSet<String>,
    /// Host names that plain HTTP requests may be for; `*` is any.
    pub host_whitelist: BTreeSet<String>,

    pub client_tls: TlsFiles,
    pub peer_tls: TlsFiles,
    pub tls_min_version: TlsVersion,
    /// `None` is the newest there is.
    pub tls_max_version: Option<TlsVersion>,
    /// Names as Go spells them; empty leaves the choice to the library.
    pub cipher_suites: Vec<String>,
    /// Years that certificates made for `auto_tls` are good for.
    pub self_signed_cert_validity_years: u64,

    pub auth_token: AuthToken,
    pub bcrypt_cost: u32,
    /// Characters that a new password has at least.
    pub password_min_length: usize,

    pub feature_gates: FeatureGates,
    /// The same as a list, in which every gate has its stage.
    pub gates: Vec<Gate>,
    /// Keep the process's memory from being swapped out.
    pub memory_mlock: bool,
    pub log: LogConfig,
    /// Absent if calls are not traced.
    pub tracing: Option<TracingFlags>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Bootstrapping a new cluster.
    New,
    /// Joining one that runs.
    Existing,
}

/// What to forget, unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Everything older than this.
    Periodic(Duration),
    /// Everything but this many of the newest revisions.
    Revision(u64),
}

/// What clients are given when they log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthToken {
    /// Random letters, each good for so long from its last use.
    Simple(Duration),
    /// Signed claims.
    Jwt {
        /// The algorithm.
        method: String,
        public_key: Option<PathBuf>,
        private_key: Option<PathBuf>,
        ttl: Duration,
    },
    /// Nothing: users have certificates.
    None,
}

/// How HTTP/2 pings are used; zero switches one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcKeepalive {
    /// Clients that ping more often are disconnected.
    pub min_time: Duration,
    /// The server pings an idle connection this often …
    pub interval: Duration,
    /// … and gives it up when nothing comes back for this long.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// The certificates of one side, clients or peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Shown instead of `cert_file` where this member is the client.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub trusted_ca_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    /// Refuse connections without a certificate signed by `trusted_ca_file`.
    pub client_cert_auth: bool,
    pub allowed_common_names: Vec<String>,
    pub allowed_hostnames: Vec<String>,
    /// Do not compare a peer's certificate with its address.
    pub skip_client_san_verification: bool,
    /// Make a certificate at start when none is given.
    pub auto_tls: bool,
}

impl TlsFiles {
    /// Whether there is anything to present.
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || self.key_file.is_some()
    }
}
