//! Every flag of etcd 3.7's server.

use super::settings::Settings;
use crate::flags::table::{Flag, Kind, Slot};

const MEMBER: &str = "Member";
const CLUSTERING: &str = "Clustering";
const STORAGE: &str = "Storage and compaction";
const SECURITY: &str = "Security";
const AUTH: &str = "Auth";
const MONITORING: &str = "Monitoring and logging";
const UNSAFE: &str = "Unsafe (may break what consensus guarantees)";
/// Where the flags stand that have no meaning here.
pub const UNUSED: &str = "Accepted, without meaning here";

const NO_DISCOVERY: &str = "the discovery service is not built in";
const OF_OLD: &str = "etcd dropped it long ago and still accepts it";

/// The table of `forebay server`, sorted as the help page prints it.
#[rustfmt::skip] // one row per flag reads as the table it is
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Choice, Gates, Int, List, Origins, Set, Text, Uint, Uint32, Urls};
    let flag = Flag::<Settings>::new;
    let unused = |name, kind, because| Flag::<Settings>::new(UNUSED, name, Slot::Unused(kind, because), "");
    vec![
        flag(MEMBER, "config-file", Text(|s| &mut s.config_file), "YAML or JSON file to read instead of every other flag and variable.").not_in_file(),
        flag(MEMBER, "version", Bool(|s| &mut s.version), "Print the version and exit.").not_in_file(),
        flag(MEMBER, "name", Text(|s| &mut s.name), "This member's name, unique in its cluster."),
        flag(MEMBER, "data-dir", Text(|s| &mut s.data_dir), "Where the data lives; NAME.etcd when empty."),
        flag(MEMBER, "wal-dir", Text(|s| &mut s.wal_dir), "Where the write-ahead log lives, if on a disk of its own."),
        flag(MEMBER, "listen-client-urls", Urls(|s| &mut s.listen_client_urls), "Where clients connect: gRPC, and JSON unless --listen-client-http-urls is set."),
        flag(MEMBER, "listen-client-http-urls", Urls(|s| &mut s.listen_client_http_urls), "Where HTTP is served instead of at --listen-client-urls."),
        flag(MEMBER, "listen-peer-urls", Urls(|s| &mut s.listen_peer_urls), "Where other members connect."),
        flag(MEMBER, "heartbeat-interval", Uint(|s| &mut s.heartbeat_interval), "Milliseconds between heartbeats."),
        flag(MEMBER, "election-timeout", Uint(|s| &mut s.election_timeout), "Milliseconds without a leader before an election; at least five heartbeats, at most 50000."),
        flag(MEMBER, "initial-election-tick-advance", Bool(|s| &mut s.initial_election_tick_advance), "Skip most of the first election timeout at start."),
        flag(MEMBER, "pre-vote", Bool(|s| &mut s.pre_vote), "Ask whether an election could be won before starting one."),
        flag(MEMBER, "raft-read-timeout", Slot::Duration(|s| &mut s.raft_read_timeout), "Silence after which a connection from a member is given up; 5s at least.").not_in_file(),
        flag(MEMBER, "raft-write-timeout", Slot::Duration(|s| &mut s.raft_write_timeout), "Time a member may take to accept data; 5s at least.").not_in_file(),
        flag(MEMBER, "max-request-bytes", Uint(|s| &mut s.max_request_bytes), "Largest request a client may send."),
        flag(MEMBER, "max-txn-ops", Uint(|s| &mut s.max_txn_ops), "Most operations in one transaction."),
        flag(MEMBER, "max-concurrent-streams", Uint32(|s| &mut s.max_concurrent_streams), "Most streams a client may have open on a connection."),
        flag(MEMBER, "grpc-keepalive-min-time", Slot::Duration(|s| &mut s.grpc_keepalive_min_time), "Clients that ping more often are disconnected."),
        flag(MEMBER, "grpc-keepalive-interval", Slot::Duration(|s| &mut s.grpc_keepalive_interval), "How often idle connections are pinged; 0 never."),
        flag(MEMBER, "grpc-keepalive-timeout", Slot::Duration(|s| &mut s.grpc_keepalive_timeout), "How long a ping may go unanswered; 0 for ever."),
        flag(MEMBER, "socket-reuse-port", Bool(|s| &mut s.socket_reuse_port), "Listen with SO_REUSEPORT.").at("socket-options.reuse-port"),
        flag(MEMBER, "socket-reuse-address", Bool(|s| &mut s.socket_reuse_address), "Listen with SO_REUSEADDR.").at("socket-options.reuse-address"),
        flag(MEMBER, "enable-grpc-gateway", Bool(|s| &mut s.enable_grpc_gateway), "Serve the JSON API."),
        flag(MEMBER, "memory-mlock", Bool(|s| &mut s.memory_mlock), "Keep the memory from being swapped out."),
        flag(MEMBER, "watch-progress-notify-interval", Slot::Duration(|s| &mut s.watch_progress_notify_interval), "How often idle watches that asked for it hear the current revision; 10m when 0."),
        flag(MEMBER, "feature-gates", Gates(|s| &mut s.feature_gates), "Features to switch, as NAME=BOOL with commas:"),

        flag(CLUSTERING, "initial-advertise-peer-urls", Urls(|s| &mut s.initial_advertise_peer_urls), "Where the other members reach this one."),
        flag(CLUSTERING, "initial-cluster", Text(|s| &mut s.initial_cluster), "The members of a new cluster: NAME=URL with commas."),
        flag(CLUSTERING, "initial-cluster-state", Choice(|s| &mut s.initial_cluster_state, &["new", "existing"]), "new to bootstrap, existing to join; of no account once there is data."),
        flag(CLUSTERING, "initial-cluster-token", Text(|s| &mut s.initial_cluster_token), "Keeps clusters apart that were bootstrapped from the same names."),
        flag(CLUSTERING, "advertise-client-urls", Urls(|s| &mut s.advertise_client_urls), "Where clients are told to connect; to be given with --listen-client-urls."),
        flag(CLUSTERING, "strict-reconfig-check", Bool(|s| &mut s.strict_reconfig_check), "Refuse membership changes that would cost the quorum."),
        flag(CLUSTERING, "max-learners", Int(|s| &mut s.max_learners), "Most learners in the cluster."),
        flag(CLUSTERING, "downgrade-check-time", Slot::Duration(|s| &mut s.downgrade_check_time), "How often a downgrade under way is looked at."),
        flag(CLUSTERING, "hold-cluster-version", Bool(|s| &mut s.hold_cluster_version), "Never raise the version of a cluster that has one, so that older members of etcd can come back (Forebay's own)."),
        flag(STORAGE, "policy", Text(|s| &mut s.policy), "Policy file whose quotas the cluster holds; it is read again when it changes (Forebay's own)."),
        flag(CLUSTERING, "discovery-srv", Text(|s| &mut s.discovery_srv), "DNS domain whose SRV records _etcd-server-ssl._tcp and _etcd-server._tcp name the members of a new cluster."),
        flag(CLUSTERING, "discovery-srv-name", Text(|s| &mut s.discovery_srv_name), "What these services' names end in, behind a hyphen."),
        flag(CLUSTERING, "discovery-token", Text(|s| &mut s.discovery_token), "Token of the discovery service (refused: not built in).").at("discovery-config.token"),
        flag(CLUSTERING, "discovery-endpoints", Set(|s| &mut s.discovery_endpoints), "Addresses of the discovery service (refused: not built in).").at("discovery-config.client.endpoints"),
        flag(CLUSTERING, "discovery-fallback", Choice(|s| &mut s.discovery_fallback, &["exit", "proxy"]), "What to do when discovery fails: exit.").not_in_file(),

        flag(STORAGE, "snapshot-count", Uint(|s| &mut s.snapshot_count), "Applied entries between snapshots."),
        flag(STORAGE, "snapshot-catchup-entries", Uint(|s| &mut s.snapshot_catchup_entries), "Entries kept for slow followers after a snapshot."),
        flag(STORAGE, "max-snapshots", Uint(|s| &mut s.max_snapshots), "Snapshot files to keep; 0 keeps all."),
        flag(STORAGE, "max-wals", Uint(|s| &mut s.max_wals), "Log files to keep; 0 keeps all."),
        flag(STORAGE, "quota-backend-bytes", Int(|s| &mut s.quota_backend_bytes), "Size of the database at which only deletes pass; 0 is 2 GiB, less is no limit."),
        flag(STORAGE, "backend-batch-interval", Slot::Duration(|s| &mut s.backend_batch_interval), "Longest wait before the database file is brought up to date; 100ms when 0."),
        flag(STORAGE, "backend-batch-limit", Int(|s| &mut s.backend_batch_limit), "Most operations before the database file is brought up to date; 10000 when 0."),
        flag(STORAGE, "bootstrap-defrag-threshold-megabytes", Uint(|s| &mut s.bootstrap_defrag_threshold_megabytes), "Defragment at start if it frees this much; 0 never does."),
        flag(STORAGE, "auto-compaction-mode", Text(|s| &mut s.auto_compaction_mode), "periodic or revision: what --auto-compaction-retention counts."),
        flag(STORAGE, "auto-compaction-retention", Text(|s| &mut s.auto_compaction_retention), "History to keep: hours, a duration, or revisions; 0 keeps all."),
        flag(STORAGE, "compaction-batch-limit", Int(|s| &mut s.compaction_batch_limit), "Most revisions removed at a time; 1000 when 0."),
        flag(STORAGE, "compaction-sleep-interval", Slot::Duration(|s| &mut s.compaction_sleep_interval), "Rest between these; 10ms when 0."),
        flag(STORAGE, "corrupt-check-time", Slot::Duration(|s| &mut s.corrupt_check_time), "How often members compare their data; 0 never."),
        flag(STORAGE, "compact-hash-check-time", Slot::Duration(|s| &mut s.compact_hash_check_time), "How often the leader compares hashes made at compaction."),

        flag(SECURITY, "cert-file", Text(|s| &mut s.client_tls.cert_file), "Certificate shown to clients.").at("client-transport-security.cert-file"),
        flag(SECURITY, "key-file", Text(|s| &mut s.client_tls.key_file), "Its key.").at("client-transport-security.key-file"),
        flag(SECURITY, "client-cert-auth", Bool(|s| &mut s.client_tls.client_cert_auth), "Refuse clients without a certificate.").at("client-transport-security.client-cert-auth"),
        flag(SECURITY, "trusted-ca-file", Text(|s| &mut s.client_tls.trusted_ca_file), "Who may sign clients' certificates.").at("client-transport-security.trusted-ca-file"),
        flag(SECURITY, "client-crl-file", Text(|s| &mut s.client_tls.crl_file), "Certificates of clients that were revoked.").not_in_file(),
        flag(SECURITY, "client-cert-allowed-hostname", List(|s| &mut s.client_tls.allowed_hostname), "Host names a client's certificate must have one of.").at("client-transport-security.allowed-hostname"),
        flag(SECURITY, "client-cert-file", Text(|s| &mut s.client_tls.client_cert_file), "Certificate to show where this member is the client; --cert-file when empty.").at("client-transport-security.client-cert-file"),
        flag(SECURITY, "client-key-file", Text(|s| &mut s.client_tls.client_key_file), "Its key.").at("client-transport-security.client-key-file"),
        flag(SECURITY, "auto-tls", Bool(|s| &mut s.client_tls.auto_tls), "Make a certificate for clients when none is given.").at("client-transport-security.auto-tls"),
        flag(SECURITY, "peer-cert-file", Text(|s| &mut s.peer_tls.cert_file), "Certificate shown to other members.").at("peer-transport-security.cert-file"),
        flag(SECURITY, "peer-key-file", Text(|s| &mut s.peer_tls.key_file), "Its key.").at("peer-transport-security.key-file"),
        flag(SECURITY, "peer-client-cert-auth", Bool(|s| &mut s.peer_tls.client_cert_auth), "Refuse members without a certificate.").at("peer-transport-security.client-cert-auth"),
        flag(SECURITY, "peer-trusted-ca-file", Text(|s| &mut s.peer_tls.trusted_ca_file), "Who may sign members' certificates.").at("peer-transport-security.trusted-ca-file"),
        flag(SECURITY, "peer-crl-file", Text(|s| &mut s.peer_tls.crl_file), "Certificates of members that were revoked.").not_in_file(),
        flag(SECURITY, "peer-cert-allowed-cn", List(|s| &mut s.peer_tls.allowed_cn), "Common names a member's certificate must have one of.").at("peer-transport-security.allowed-cn"),
        flag(SECURITY, "peer-cert-allowed-hostname", List(|s| &mut s.peer_tls.allowed_hostname), "Host names a member's certificate must have one of.").at("peer-transport-security.allowed-hostname"),
        flag(SECURITY, "peer-client-cert-file", Text(|s| &mut s.peer_tls.client_cert_file), "Certificate to show when connecting to members; --peer-cert-file when empty.").at("peer-transport-security.client-cert-file"),
        flag(SECURITY, "peer-client-key-file", Text(|s| &mut s.peer_tls.client_key_file), "Its key.").at("peer-transport-security.client-key-file"),
        flag(SECURITY, "peer-auto-tls", Bool(|s| &mut s.peer_tls.auto_tls), "Make a certificate for members when none is given.").at("peer-transport-security.auto-tls"),
        flag(SECURITY, "peer-skip-client-san-verification", Bool(|s| &mut s.peer_tls.skip_client_san_verification), "Do not compare a member's certificate with its address.").at("peer-transport-security.skip-client-san-verification"),
        flag(SECURITY, "self-signed-cert-validity", Uint(|s| &mut s.self_signed_cert_validity), "Years that certificates made here are good for."),
        flag(SECURITY, "tls-min-version", Text(|s| &mut s.tls_min_version), "TLS1.2 or TLS1.3."),
        flag(SECURITY, "tls-max-version", Text(|s| &mut s.tls_max_version), "TLS1.2 or TLS1.3; the newest when empty."),
        flag(SECURITY, "cipher-suites", List(|s| &mut s.cipher_suites), "Cipher suites for TLS 1.2, named as Go names them."),
        flag(SECURITY, "cors", Origins(|s| &mut s.cors), "Origins whose pages may read answers; * is any."),
        flag(SECURITY, "host-whitelist", Set(|s| &mut s.host_whitelist), "Host names plain HTTP requests may be for; * is any."),

        flag(AUTH, "auth-token", Text(|s| &mut s.auth_token), "simple, or jwt with its options."),
        flag(AUTH, "auth-token-ttl", Uint(|s| &mut s.auth_token_ttl), "Seconds a simple token is good for."),
        flag(AUTH, "bcrypt-cost", Uint(|s| &mut s.bcrypt_cost), "How much work a password's hash takes, 4 to 31."),
        flag(AUTH, "password-min-length", Uint(|s| &mut s.password_min_length), "Refuse new passwords of fewer characters; etcd takes any. Those of fewer than 8 are warned of (Forebay's own)."),

        flag(MONITORING, "metrics", Text(|s| &mut s.metrics), "basic or extensive; the latency histograms of every method are there with either."),
        flag(MONITORING, "listen-metrics-urls", Urls(|s| &mut s.listen_metrics_urls), "Where /metrics and the health pages are served as well."),
        flag(MONITORING, "warning-apply-duration", Slot::Duration(|s| &mut s.warning_apply_duration), "Applying that takes longer is logged."),
        flag(MONITORING, "warning-unary-request-duration", Slot::Duration(|s| &mut s.warning_unary_request_duration), "Requests that take longer are logged."),
        flag(MONITORING, "log-level", Text(|s| &mut s.log_level), "debug, info, warn, error, panic or fatal."),
        flag(MONITORING, "log-format", Text(|s| &mut s.log_format), "json or console."),
        flag(MONITORING, "log-outputs", Set(|s| &mut s.log_outputs), "stderr, stdout or files, with commas; default is stderr."),
        flag(MONITORING, "logger", Text(|s| &mut s.logger), "zap, the only shape of log lines there is."),
        flag(MONITORING, "enable-log-rotation", Bool(|s| &mut s.enable_log_rotation), "Put the log file aside when it is full."),
        flag(MONITORING, "log-rotation-config-json", Text(|s| &mut s.log_rotation_config_json), "When it is, and what is kept: maxsize in MiB, maxage in days, maxbackups, compress."),
        flag(MONITORING, "enable-distributed-tracing", Bool(|s| &mut s.tracing.enabled), "Send spans of calls to an OpenTelemetry collector."),
        flag(MONITORING, "distributed-tracing-address", Text(|s| &mut s.tracing.address), "The collector's host and port, for OTLP over gRPC."),
        flag(MONITORING, "distributed-tracing-service-name", Text(|s| &mut s.tracing.service_name), "The name under which spans are sent."),
        flag(MONITORING, "distributed-tracing-instance-id", Text(|s| &mut s.tracing.instance_id), "Which one of that name this is."),
        flag(MONITORING, "distributed-tracing-sampling-rate", Int(|s| &mut s.tracing.sampling_rate), "How many of a million calls begin a trace. Those that come within one are part of it if it is sampled."),

        flag(UNSAFE, "force-new-cluster", Bool(|s| &mut s.force_new_cluster), "Make a cluster of this member alone out of its data."),
        flag(UNSAFE, "unsafe-no-fsync", Bool(|s| &mut s.unsafe_no_fsync), "Acknowledge writes that are not on disk yet. A crash loses them."),

        unused("backend-bbolt-freelist-type", Kind::Text, "the database engine keeps its free pages in a form of its own"),
        unused("enable-pprof", Kind::Bool, "there is no Go runtime to profile"),
        unused("v2-deprecation", Kind::Choices(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "etcd enforces the default whatever is given"),
        unused("discovery-dial-timeout", Kind::Duration, NO_DISCOVERY).at("discovery-config.client.dial-timeout"),
        unused("discovery-request-timeout", Kind::Duration, NO_DISCOVERY).at("discovery-config.client.request-timeout"),
        unused("discovery-keepalive-time", Kind::Duration, NO_DISCOVERY).at("discovery-config.client.keepalive-time"),
        unused("discovery-keepalive-timeout", Kind::Duration, NO_DISCOVERY).at("discovery-config.client.keepalive-timeout"),
        unused("discovery-insecure-transport", Kind::Bool, NO_DISCOVERY).at("discovery-config.client.secure.insecure-transport"),
        unused("discovery-insecure-skip-tls-verify", Kind::Bool, NO_DISCOVERY).at("discovery-config.client.secure.insecure-skip-tls-verify"),
        unused("discovery-cert", Kind::Text, NO_DISCOVERY).at("discovery-config.client.secure.cert"),
        unused("discovery-key", Kind::Text, NO_DISCOVERY).at("discovery-config.client.secure.key"),
        unused("discovery-cacert", Kind::Text, NO_DISCOVERY).at("discovery-config.client.secure.cacert"),
        unused("discovery-user", Kind::Text, NO_DISCOVERY).at("discovery-config.client.auth.username"),
        unused("discovery-password", Kind::Text, NO_DISCOVERY).at("discovery-config.client.auth.password"),
        unused("cluster-active-size", Kind::Anything, OF_OLD).not_in_file(),
        unused("cluster-remove-delay", Kind::Anything, OF_OLD).not_in_file(),
        unused("cluster-sync-interval", Kind::Anything, OF_OLD).not_in_file(),
        unused("config", Kind::Anything, OF_OLD).not_in_file(),
        unused("force", Kind::Anything, OF_OLD).not_in_file(),
        unused("max-result-buffer", Kind::Anything, OF_OLD).not_in_file(),
        unused("max-retry-attempts", Kind::Anything, OF_OLD).not_in_file(),
        unused("peer-election-timeout", Kind::Anything, OF_OLD).not_in_file(),
        unused("peer-heartbeat-interval", Kind::Anything, OF_OLD).not_in_file(),
        unused("retry-interval", Kind::Anything, OF_OLD).not_in_file(),
        unused("snapshot", Kind::Anything, OF_OLD).not_in_file(),
        unused("test.coverprofile", Kind::Anything, OF_OLD).not_in_file(),
        unused("test.outputdir", Kind::Anything, OF_OLD).not_in_file(),
        unused("v", Kind::Anything, OF_OLD).not_in_file(),
        unused("vv", Kind::Anything, OF_OLD).not_in_file(),
    ]
}
