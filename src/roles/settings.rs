//! From what the operator said to what the roles are told.

use std::collections::BTreeSet;

use forebay_edge::{
    http::{Options, Origins},
    listener::Limits,
};
use forebay_gateway::mirror::{Credentials, MirrorConfig};
use forebay_server::{GRPC_OVERHEAD_BYTES, InitialState, JwtOptions, TokenKind};

use crate::flags::{
    gateway::GatewayConfig,
    server_config::{AuthToken, AutoCompaction, ClusterState, Gate, GrpcKeepalive, ServerConfig},
    url::Url,
};

/// Open streams of a connection unless the operator says otherwise: etcd has no bound, and one connection could take
/// all memory.
const STREAMS: u32 = 1000;

/// What a member is told. Refuses what this version would not honour.
pub(super) fn member(config: &ServerConfig) -> anyhow::Result<forebay_server::Config> {
    let strings = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect::<Vec<_>>();
    Ok(forebay_server::Config {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        advertise_client_urls: strings(&config.advertise_client_urls),
        advertise_peer_urls: strings(&config.initial_advertise_peer_urls),
        initial_cluster: config.initial_cluster.iter().map(|(name, urls)| (name.clone(), strings(urls))).collect(),
        initial_state: match config.initial_cluster_state {
            ClusterState::New => InitialState::New,
            ClusterState::Existing => InitialState::Existing,
        },
        force_new_cluster: config.force_new_cluster,
        strict_reconfig_check: config.strict_reconfig_check,
        max_learners: size(config.max_learners),
        initial_cluster_token: config.initial_cluster_token.clone(),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        max_wals: size(config.max_wals),
        max_snapshots: size(config.max_snapshots),
        max_request_bytes: size(config.max_request_bytes),
        max_txn_ops: size(config.max_txn_ops),
        quota_backend_bytes: config.quota_backend_bytes,
        backend_batch_interval: config.backend_batch_interval,
        backend_batch_limit: size(config.backend_batch_limit),
        compaction_batch_limit: size(config.compaction_batch_limit),
        compaction_sleep_interval: config.compaction_sleep_interval,
        auto_compaction: config.auto_compaction.map(|wanted| match wanted {
            AutoCompaction::Periodic(period) => forebay_server::AutoCompaction::Periodic(period),
            AutoCompaction::Revision(keep) => forebay_server::AutoCompaction::Revision(keep),
        }),
        bootstrap_defrag_threshold_bytes: match config.bootstrap_defrag_threshold_megabytes {
            0 => None,
            megabytes => Some(megabytes.saturating_mul(1 << 20)),
        },
        warning_apply_duration: config.warning_apply_duration,
        warning_unary_request_duration: config.warning_unary_request_duration,
        stop_grpc_service_on_defrag: config.feature_gates.stop_grpc_service_on_defrag,
        priority_request: config.feature_gates.priority_request,
        set_local_address: config.feature_gates.set_member_local_addr,
        peer_read_timeout: config.raft_read_timeout,
        peer_write_timeout: config.raft_write_timeout,
        advance_first_election: config.initial_election_tick_advance,
        features: (config.gates.iter())
            .map(|&Gate { name, stage, enabled }| forebay_server::Feature { name, stage, enabled })
            .collect(),
        watch_progress_notify_interval: config.watch_progress_notify_interval,
        downgrade_check_time: config.downgrade_check_time,
        hold_cluster_version: config.hold_cluster_version,
        initial_corrupt_check: config.feature_gates.initial_corrupt_check,
        corrupt_check_time: config.corrupt_check_time,
        compact_hash_check_time: match config.feature_gates.compact_hash_check {
            true => config.compact_hash_check_time,
            false => std::time::Duration::ZERO,
        },
        auth_token: match config.auth_token.clone() {
            AuthToken::Simple(ttl) => TokenKind::Simple(ttl),
            AuthToken::Jwt { method, public_key, private_key, ttl } => {
                TokenKind::Jwt(JwtOptions { method, public_key, private_key, ttl })
            }
            AuthToken::None => TokenKind::None,
        },
        bcrypt_cost: config.bcrypt_cost,
        password_min_length: config.password_min_length,
        client_cert_auth: config.client_tls.client_cert_auth,
        // As often as etcd.
        lease_checkpoint_interval: config.feature_gates.lease_checkpoint.then_some(std::time::Duration::from_secs(300)),
        lease_checkpoint_persist: config.feature_gates.lease_checkpoint_persist,
        unsafe_no_fsync: config.unsafe_no_fsync,
    })
}

/// What the connections of a member may use.
pub(super) fn member_limits(config: &ServerConfig) -> Limits {
    let GrpcKeepalive { min_time, interval, timeout } = config.grpc_keepalive;
    let limits = Limits { keepalive_min_time: min_time, ..limits(config.max_concurrent_streams) };
    // As in etcd one without the other is as good as neither, and neither leaves its library's defaults.
    match interval.is_zero() || timeout.is_zero() {
        true => limits,
        false => Limits { keepalive_interval: interval, keepalive_timeout: timeout, ..limits },
    }
}

/// How the HTTP side of a member behaves.
pub(super) fn member_http(config: &ServerConfig) -> Options {
    Options {
        json: config.enable_grpc_gateway,
        client_cert_auth: config.client_tls.client_cert_auth,
        max_message_bytes: size(config.max_request_bytes) + GRPC_OVERHEAD_BYTES,
        origins: origins(&config.cors),
        hosts: config.host_whitelist.iter().cloned().collect(),
        ..Options::default()
    }
}

/// How the HTTP side of a gateway behaves.
pub(super) fn gateway_http(config: &GatewayConfig) -> Options {
    Options {
        client_cert_auth: config.tls.clients.client_cert_auth,
        max_message_bytes: config.max_request_bytes + GRPC_OVERHEAD_BYTES,
        origins: origins(&config.cors),
        hosts: config.host_whitelist.iter().cloned().collect(),
        ..Options::default()
    }
}

/// What the connections of a gateway may use.
pub(super) fn gateway_limits(config: &GatewayConfig) -> Limits {
    Limits {
        max_connections: config.max_connections,
        max_connections_per_source: config.max_connections_per_address,
        idle_timeout: config.idle_timeout,
        ..limits(config.max_concurrent_streams)
    }
}

/// Who a gateway is to its upstream.
pub(super) fn user(config: &GatewayConfig) -> Option<Credentials> {
    config.user.clone().map(|(name, password)| Credentials { name, password })
}

/// What a gateway mirrors.
pub(super) fn mirror(config: &GatewayConfig) -> Option<MirrorConfig> {
    let flags = config.mirror.as_ref()?;
    Some(MirrorConfig {
        prefixes: flags.prefixes.iter().map(|prefix| prefix.clone().into()).collect(),
        max_bytes: flags.max_bytes,
        progress_interval: flags.progress_interval,
        user: user(config),
        has_common_name: config.tls.upstream.allow_common_name,
        max_request_bytes: config.max_request_bytes,
        ..MirrorConfig::default()
    })
}

/// What connections may use. A bound on streams that is not etcd's default is the operator's wish.
fn limits(max_concurrent_streams: u32) -> Limits {
    let streams = if max_concurrent_streams == u32::MAX { STREAMS } else { max_concurrent_streams };
    Limits { max_concurrent_streams: streams, ..Limits::default() }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn origins(allowed: &BTreeSet<String>) -> Origins {
    if allowed.is_empty() || allowed.contains("*") {
        Origins::Any
    } else {
        Origins::Listed(allowed.iter().cloned().collect())
    }
}
