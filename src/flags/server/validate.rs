//! From what was said to a configuration that can run, or to everything that is wrong with it.
//!
//! The rules and their order are etcd's, so that the first problem is the one etcd would have stopped at. A few are
//! stricter: what etcd finds out when it starts to listen, or ignores, is refused here at once.

mod compaction;
mod complete;
mod remarks;
mod rules;
mod tokens;

use std::{collections::BTreeSet, path::PathBuf};

use super::settings::{Settings, TlsSettings};
use crate::{
    discovery::Discovery,
    flags::{
        FailureKind, Notice, Problem,
        go::Duration,
        server_config::{AuthToken, ClusterState, GrpcKeepalive, ServerConfig, TlsFiles},
        url::Url,
    },
    logging::Level,
};

/// The settings, and how they came about.
#[derive(Clone, Debug)]
pub struct Said {
    pub settings: Settings,
    /// The flags that were given, by whatever source.
    pub given: BTreeSet<&'static str>,
    /// Whether they came from a configuration file, where etcd does not ask for `advertise-client-urls`.
    pub from_file: bool,
    /// What [`super::default_host`] says.
    pub default_host: Option<String>,
}

/// What [`validate`] found.
pub type Verdict = Result<(ServerConfig, Vec<Notice>), (FailureKind, Vec<Problem>)>;

const DEFAULT_QUOTA: u64 = 2 << 30;
const MIN_RAFT_TIMEOUT: Duration = Duration::from_secs(5);
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What is wrong and what is worth a word, as the rules find it.
struct Found {
    problems: Vec<Problem>,
    notices: Vec<Notice>,
    kind: FailureKind,
}

impl Found {
    fn problem(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(text).hint(hint));
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}

/// Validates once; every problem is reported.
pub fn validate(mut said: Said) -> Verdict {
    let mut found = Found { problems: Vec::new(), notices: Vec::new(), kind: FailureKind::Invalid };
    complete::complete(&mut said, &mut found);
    let log = rules::log(&said, &mut found);
    rules::addresses(&said, &mut found);
    rules::bootstrap(&said, &mut found);
    rules::timing(&said, &mut found);
    rules::advertised(&said, &mut found);
    let auto_compaction = compaction::auto_compaction(&said.settings).unwrap_or_else(|problem| {
        found.problems.push(problem);
        None
    });
    let auth_token = tokens::auth_token(&said.settings).map(|(auth_token, unknown)| {
        for option in unknown {
            found.notice(Notice::new(Level::Warn, "unknown JWT options").with("key", option));
        }
        auth_token
    });
    let auth_token = auth_token.unwrap_or_else(|problem| {
        found.problems.push(problem);
        AuthToken::None
    });
    rules::checks(&said, &mut found);
    let (tls_min_version, tls_max_version) = rules::tls_versions(&said, &mut found);
    rules::certificates(&said, &mut found);
    rules::authorities(&said, &mut found);
    let initial_cluster = rules::initial_cluster(&said, &mut found);
    let tracing = said.settings.tracing.validate().unwrap_or_else(|problem| {
        found.problems.push(problem);
        None
    });
    remarks::remarks(&said, &mut found);
    if !found.problems.is_empty() {
        return Err((found.kind, found.problems));
    }

    let s = said.settings;
    let config = ServerConfig {
        data_dir: PathBuf::from(&s.data_dir),
        wal_dir: path(&s.wal_dir),
        name: s.name,
        listen_peer_urls: s.listen_peer_urls,
        listen_client_urls: s.listen_client_urls,
        listen_client_http_urls: s.listen_client_http_urls,
        listen_metrics_urls: s.listen_metrics_urls,
        initial_advertise_peer_urls: s.initial_advertise_peer_urls,
        advertise_client_urls: s.advertise_client_urls,
        initial_cluster,
        discovery: Discovery::new(s.discovery_srv, s.discovery_srv_name),
        initial_cluster_state: match s.initial_cluster_state.as_str() {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        initial_cluster_token: s.initial_cluster_token,
        force_new_cluster: s.force_new_cluster,
        strict_reconfig_check: s.strict_reconfig_check,
        max_learners: unsigned(s.max_learners),
        heartbeat_interval: std::time::Duration::from_millis(s.heartbeat_interval),
        election_timeout: std::time::Duration::from_millis(s.election_timeout),
        pre_vote: s.pre_vote,
        initial_election_tick_advance: s.initial_election_tick_advance,
        raft_read_timeout: s.raft_read_timeout.max(MIN_RAFT_TIMEOUT).to_std(),
        raft_write_timeout: s.raft_write_timeout.max(MIN_RAFT_TIMEOUT).to_std(),
        snapshot_count: if s.snapshot_count == 0 { 10_000 } else { s.snapshot_count },
        snapshot_catchup_entries: s.snapshot_catchup_entries,
        max_snapshots: s.max_snapshots,
        max_wals: s.max_wals,
        unsafe_no_fsync: s.unsafe_no_fsync,
        quota_backend_bytes: match s.quota_backend_bytes {
            0 => Some(DEFAULT_QUOTA),
            limit => u64::try_from(limit).ok(),
        },
        backend_batch_interval: or_default(s.backend_batch_interval, Duration::from_millis(100)),
        backend_batch_limit: if s.backend_batch_limit == 0 { 10_000 } else { unsigned(s.backend_batch_limit) },
        bootstrap_defrag_threshold_megabytes: s.bootstrap_defrag_threshold_megabytes,
        auto_compaction,
        compaction_batch_limit: if s.compaction_batch_limit == 0 { 1_000 } else { unsigned(s.compaction_batch_limit) },
        compaction_sleep_interval: or_default(s.compaction_sleep_interval, Duration::from_millis(10)),
        corrupt_check_time: s.corrupt_check_time.to_std(),
        compact_hash_check_time: s.compact_hash_check_time.to_std(),
        downgrade_check_time: s.downgrade_check_time.to_std(),
        hold_cluster_version: s.hold_cluster_version,
        policy: path(&s.policy),
        admin_token_file: path(&s.admin_token_file),
        max_request_bytes: s.max_request_bytes,
        max_txn_ops: s.max_txn_ops,
        max_concurrent_streams: s.max_concurrent_streams,
        grpc_keepalive: GrpcKeepalive {
            min_time: s.grpc_keepalive_min_time.to_std(),
            interval: s.grpc_keepalive_interval.to_std(),
            timeout: s.grpc_keepalive_timeout.to_std(),
        },
        socket_reuse_port: s.socket_reuse_port,
        socket_reuse_address: s.socket_reuse_address,
        watch_progress_notify_interval: match s.watch_progress_notify_interval {
            Duration(0) => std::time::Duration::from_secs(600),
            interval => interval.max(MIN_PROGRESS_INTERVAL).to_std(),
        },
        warning_apply_duration: s.warning_apply_duration.to_std(),
        warning_unary_request_duration: or_default(s.warning_unary_request_duration, Duration::from_millis(300)),
        enable_grpc_gateway: s.enable_grpc_gateway,
        cors: s.cors,
        host_whitelist: s.host_whitelist,
        client_tls: files(s.client_tls),
        peer_tls: files(s.peer_tls),
        tls_min_version,
        tls_max_version,
        cipher_suites: s.cipher_suites,
        self_signed_cert_validity_years: s.self_signed_cert_validity.max(1),
        auth_token,
        bcrypt_cost: u32::try_from(s.bcrypt_cost).ok().filter(|cost| (4..=31).contains(cost)).unwrap_or(10),
        password_min_length: usize::try_from(s.password_min_length).unwrap_or(usize::MAX),
        gates: s.feature_gates.all(),
        feature_gates: s.feature_gates.resolve(),
        memory_mlock: s.memory_mlock,
        log,
        tracing,
    };
    Ok((config, found.notices))
}

fn list(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn files(tls: TlsSettings) -> TlsFiles {
    TlsFiles {
        cert_file: path(&tls.cert_file),
        key_file: path(&tls.key_file),
        client_cert_file: path(&tls.client_cert_file),
        client_key_file: path(&tls.client_key_file),
        trusted_ca_file: path(&tls.trusted_ca_file),
        crl_file: path(&tls.crl_file),
        client_cert_auth: tls.client_cert_auth,
        allowed_common_names: tls.allowed_cn,
        allowed_hostnames: tls.allowed_hostname,
        skip_client_san_verification: tls.skip_client_san_verification,
        auto_tls: tls.auto_tls,
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).expect("invariant: negative numbers were refused")
}

fn or_default(given: Duration, default: Duration) -> std::time::Duration {
    if given == Duration(0) { default.to_std() } else { given.to_std() }
}
