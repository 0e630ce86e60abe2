//! What may be said about the server, and etcd's defaults for it.

use std::collections::BTreeSet;

use crate::flags::{gates::GivenGates, go::Duration, tracing::TracingSettings, url::Url};

/// etcd's flags with their values, not validated.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config_file: String,
    pub version: bool,
    /// Only `forebay up` has these two flags.
    pub print_config: bool,
    pub admin_token_file: String,

    pub name: String,
    pub data_dir: String,
    pub wal_dir: String,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub max_snapshots: u64,
    pub max_wals: u64,
    pub heartbeat_interval: u64,
    pub election_timeout: u64,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,
    pub raft_read_timeout: Duration,
    pub raft_write_timeout: Duration,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub quota_backend_bytes: i64,
    pub backend_batch_interval: Duration,
    pub backend_batch_limit: i64,
    pub bootstrap_defrag_threshold_megabytes: u64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub grpc_keepalive_min_time: Duration,
    pub grpc_keepalive_interval: Duration,
    pub grpc_keepalive_timeout: Duration,
    pub socket_reuse_port: bool,
    pub socket_reuse_address: bool,
    pub enable_grpc_gateway: bool,
    pub memory_mlock: bool,
    pub feature_gates: GivenGates,

    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub initial_cluster: String,
    pub initial_cluster_state: String,
    pub initial_cluster_token: String,
    pub strict_reconfig_check: bool,
    pub max_learners: i64,
    pub force_new_cluster: bool,
    pub discovery_srv: String,
    pub discovery_srv_name: String,
    pub discovery_token: String,
    pub discovery_endpoints: BTreeSet<String>,
    pub discovery_fallback: String,

    pub auto_compaction_mode: String,
    pub auto_compaction_retention: String,
    pub compaction_batch_limit: i64,
    pub compaction_sleep_interval: Duration,
    pub corrupt_check_time: Duration,
    pub compact_hash_check_time: Duration,
    pub downgrade_check_time: Duration,
    pub hold_cluster_version: bool,
    pub policy: String,
    pub watch_progress_notify_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
    pub unsafe_no_fsync: bool,

    pub client_tls: TlsSettings,
    pub peer_tls: TlsSettings,
    pub cipher_suites: Vec<String>,
    pub tls_min_version: String,
    pub tls_max_version: String,
    pub self_signed_cert_validity: u64,
    pub cors: BTreeSet<String>,
    pub host_whitelist: BTreeSet<String>,

    pub auth_token: String,
    pub auth_token_ttl: u64,
    pub bcrypt_cost: u64,
    pub password_min_length: u64,

    pub metrics: String,
    pub tracing: TracingSettings,
    pub logger: String,
    pub log_level: String,
    pub log_format: String,
    pub log_outputs: BTreeSet<String>,
    pub enable_log_rotation: bool,
    pub log_rotation_config_json: String,
}

/// The certificates of one side.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    pub cert_file: String,
    pub key_file: String,
    pub client_cert_file: String,
    pub client_key_file: String,
    pub client_cert_auth: bool,
    pub crl_file: String,
    pub trusted_ca_file: String,
    pub auto_tls: bool,
    pub allowed_cn: Vec<String>,
    pub allowed_hostname: Vec<String>,
    pub skip_client_san_verification: bool,
}

const DEFAULT_LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
pub(super) const DEFAULT_NAME: &str = "default";
pub(super) const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
pub(super) const DEFAULT_PEER_URL: &str = "http://localhost:2380";
pub(super) const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";

fn url(text: &str) -> Vec<Url> {
    vec![Url::parse(text).expect("invariant: the default URLs are URLs")]
}

fn set(text: &str) -> BTreeSet<String> {
    BTreeSet::from([text.to_owned()])
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            config_file: String::new(),
            version: false,
            print_config: false,
            admin_token_file: String::new(),

            name: DEFAULT_NAME.to_owned(),
            data_dir: String::new(),
            wal_dir: String::new(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            max_snapshots: 5,
            max_wals: 5,
            heartbeat_interval: 100,
            election_timeout: 1_000,
            initial_election_tick_advance: true,
            pre_vote: true,
            raft_read_timeout: Duration::from_secs(5),
            raft_write_timeout: Duration::from_secs(5),
            listen_peer_urls: url(DEFAULT_PEER_URL),
            listen_client_urls: url(DEFAULT_CLIENT_URL),
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            quota_backend_bytes: 0,
            backend_batch_interval: Duration(0),
            backend_batch_limit: 0,
            bootstrap_defrag_threshold_megabytes: 0,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: Duration::from_secs(5),
            grpc_keepalive_interval: Duration::from_secs(2 * 3600),
            grpc_keepalive_timeout: Duration::from_secs(20),
            socket_reuse_port: false,
            socket_reuse_address: false,
            enable_grpc_gateway: true,
            memory_mlock: false,
            feature_gates: GivenGates::default(),

            initial_advertise_peer_urls: url(DEFAULT_PEER_URL),
            advertise_client_urls: url(DEFAULT_CLIENT_URL),
            initial_cluster: DEFAULT_INITIAL_CLUSTER.to_owned(),
            initial_cluster_state: "new".to_owned(),
            initial_cluster_token: "etcd-cluster".to_owned(),
            strict_reconfig_check: true,
            max_learners: 1,
            force_new_cluster: false,
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            discovery_token: String::new(),
            discovery_endpoints: BTreeSet::new(),
            discovery_fallback: "exit".to_owned(),

            auto_compaction_mode: "periodic".to_owned(),
            auto_compaction_retention: "0".to_owned(),
            compaction_batch_limit: 0,
            compaction_sleep_interval: Duration(0),
            corrupt_check_time: Duration(0),
            compact_hash_check_time: Duration::from_secs(60),
            downgrade_check_time: Duration::from_secs(5),
            hold_cluster_version: false,
            policy: String::new(),
            watch_progress_notify_interval: Duration(0),
            warning_apply_duration: Duration::from_millis(100),
            warning_unary_request_duration: Duration::from_millis(300),
            unsafe_no_fsync: false,

            client_tls: TlsSettings::default(),
            peer_tls: TlsSettings::default(),
            cipher_suites: Vec::new(),
            tls_min_version: "TLS1.2".to_owned(),
            tls_max_version: String::new(),
            self_signed_cert_validity: 1,
            cors: set("*"),
            host_whitelist: set("*"),

            auth_token: "simple".to_owned(),
            auth_token_ttl: 300,
            bcrypt_cost: 10,
            password_min_length: 0,

            metrics: "basic".to_owned(),
            tracing: TracingSettings::of("etcd"),
            logger: "zap".to_owned(),
            log_level: "info".to_owned(),
            log_format: "json".to_owned(),
            log_outputs: set("default"),
            enable_log_rotation: false,
            log_rotation_config_json: DEFAULT_LOG_ROTATION.to_owned(),
        }
    }
}
