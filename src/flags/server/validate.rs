//! From what was said to a configuration that can run, or to everything that is wrong with it.
//!
//! The rules and their order are etcd's, so that the first problem is the one etcd would have stopped at. A few are
//! stricter: what etcd finds out when it starts to listen, or ignores, is refused here at once.

use std::{collections::BTreeSet, path::PathBuf};

use super::settings::{self, Settings, TlsSettings};
use crate::{
    flags::{
        FailureKind, Notice, Problem,
        go::{self, Duration},
        server_config::{
            AutoCompaction, ClusterState, GrpcKeepalive, MetricsDetail, ServerConfig, TlsFiles, TlsVersion,
        },
        url::Url,
    },
    logging::{Level, LogConfig, LogFormat, LogOutput},
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

const MAX_ELECTION_MS: u64 = 50_000;
const DEFAULT_QUOTA: u64 = 2 << 30;
const LARGEST_TRIED_QUOTA: u64 = 8 << 30;
const RECOMMENDED_REQUEST_BYTES: u64 = 10 << 20;
const MIN_RAFT_TIMEOUT: Duration = Duration::from_secs(5);
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Validates once; every problem is reported.
pub fn validate(said: Said) -> Verdict {
    let mut judge = Judge { said, problems: Vec::new(), notices: Vec::new(), kind: FailureKind::Invalid };
    let log = judge.log();
    judge.addresses();
    judge.bootstrap();
    judge.timing();
    judge.advertised();
    let auto_compaction = judge.auto_compaction();
    judge.checks();
    let (tls_min_version, tls_max_version) = judge.tls_versions();
    judge.certificates();
    judge.default_host();
    let initial_cluster = judge.initial_cluster();
    judge.remarks();
    if !judge.problems.is_empty() {
        return Err((judge.kind, judge.problems));
    }

    let Judge { said: Said { settings: s, .. }, notices, .. } = judge;
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
        metrics: if s.metrics == "extensive" { MetricsDetail::Extensive } else { MetricsDetail::Basic },
        client_tls: files(s.client_tls),
        peer_tls: files(s.peer_tls),
        tls_min_version,
        tls_max_version,
        cipher_suites: s.cipher_suites,
        self_signed_cert_validity_years: s.self_signed_cert_validity.max(1),
        auth_token: s.auth_token,
        auth_token_ttl: std::time::Duration::from_secs(if s.auth_token_ttl == 0 { 300 } else { s.auth_token_ttl }),
        bcrypt_cost: u32::try_from(s.bcrypt_cost).ok().filter(|cost| (4..=31).contains(cost)).unwrap_or(10),
        feature_gates: s.feature_gates.resolve(),
        memory_mlock: s.memory_mlock,
        log,
    };
    Ok((config, notices))
}

struct Judge {
    said: Said,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
    kind: FailureKind,
}

impl Judge {
    fn problem(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(text).hint(hint));
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    fn given(&self, flag: &str) -> bool {
        self.said.given.contains(flag)
    }

    /// First, because in etcd nothing else is looked at before there is a logger.
    fn log(&mut self) -> LogConfig {
        let s = &self.said.settings;
        let (logger, rotation, format_text) = (s.logger.clone(), s.enable_log_rotation, s.log_format.clone());
        let (level_text, outputs) = (s.log_level.clone(), s.log_outputs.clone());
        match logger.as_str() {
            "zap" => {}
            "capnslog" => self.problem("--logger=capnslog is removed in v3.5", "leave --logger out"),
            other => self.problem(format!("unknown logger option {}", go::quote(other)), "leave --logger out"),
        }
        if outputs.len() > 1 && outputs.contains("default") {
            self.problem(
                "multi logoutput for \"default\" is not supported yet",
                "name stderr or stdout beside the files in --log-outputs",
            );
        }
        if rotation {
            self.problem(
                "--enable-log-rotation is not supported here",
                "log to stderr, or rotate the file with logrotate's copytruncate",
            );
        }
        let level = Level::parse(&level_text).unwrap_or_else(|| {
            if self.problems.is_empty() {
                self.kind = FailureKind::Panic;
            }
            self.problem(
                format!("unrecognized level: {}", go::quote(&level_text)),
                "--log-level takes debug, info, warn, error, panic or fatal",
            );
            Level::Info
        });
        let format = LogFormat::parse(&format_text).unwrap_or_else(|| {
            self.problem(
                format!("unknown log format: {format_text}, supported values json, console"),
                "--log-format takes json or console",
            );
            LogFormat::Json
        });
        LogConfig { level, format, outputs: outputs.iter().map(|output| LogOutput::parse(output)).collect() }
    }

    fn addresses(&mut self) {
        let s = self.said.settings.clone();
        for urls in [&s.listen_peer_urls, &s.listen_client_urls, &s.listen_client_http_urls, &s.listen_metrics_urls] {
            if let Some(url) = urls.iter().find(|url| !url.can_bind()) {
                self.problem(
                    format!("expected IP in URL for binding ({url})"),
                    "listen on an IP address, on 0.0.0.0 for every interface, or on localhost",
                );
            }
        }
        let nobody = |urls: &[Url]| urls.iter().find(|url| url.host() == Some("")).cloned();
        if let Some(url) = nobody(&s.initial_advertise_peer_urls) {
            self.problem(
                format!(
                    "--initial-advertise-peer-urls {} must be \"host:port\" (unexpected empty host ({url}))",
                    go::quote(&list(&s.initial_advertise_peer_urls))
                ),
                "name the host that the other members reach this one at",
            );
        }
        if let Some(url) = nobody(&s.advertise_client_urls) {
            self.problem(
                format!(
                    "--advertise-client-urls {} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
                     \"unixs:/path/to/socket\" (unexpected empty host ({url}))",
                    go::quote(&list(&s.advertise_client_urls))
                ),
                "name the host that clients reach this member at",
            );
        }
    }

    fn bootstrap(&mut self) {
        let s = self.said.settings.clone();
        let discovery = !s.discovery_endpoints.is_empty();
        let elsewhere = !s.discovery_srv.is_empty() || discovery || !s.discovery_srv_name.is_empty();
        if elsewhere && !self.given("initial-cluster") {
            self.said.settings.initial_cluster.clear();
        }
        let ways = [!self.said.settings.initial_cluster.is_empty(), !s.discovery_srv.is_empty(), discovery];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            self.problem(
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                 \"discovery-endpoints\" or \"discovery-srv\"",
                "keep --initial-cluster",
            );
        }
        if s.discovery_token.is_empty() == discovery {
            self.problem(
                "both --discovery-token and --discovery-endpoints must be set",
                "leave both out and list the members in --initial-cluster",
            );
        }
        if elsewhere {
            self.problem(
                "discovering the cluster by DNS or by a discovery service is not supported here",
                "list the members in --initial-cluster",
            );
        }
        if s.discovery_fallback == "proxy" {
            self.problem(
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
                "leave --discovery-fallback out",
            );
        }
    }

    fn timing(&mut self) {
        let (heartbeat, election) = (self.said.settings.heartbeat_interval, self.said.settings.election_timeout);
        let ten = format!("for a heartbeat of {heartbeat} write --election-timeout={}", heartbeat.saturating_mul(10));
        if heartbeat == 0 {
            self.problem("--heartbeat-interval must be >0 (set to 0ms)", "the default is 100");
        }
        if election == 0 {
            self.problem("--election-timeout must be >0 (set to 0ms)", "the default is 1000");
        } else if heartbeat.saturating_mul(5) > election {
            self.problem(
                format!(
                    "--election-timeout[{election}ms] should be at least as 5 times as \
                     --heartbeat-interval[{heartbeat}ms]"
                ),
                ten,
            );
        }
        if election > MAX_ELECTION_MS {
            self.problem(
                format!(
                    "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
                ),
                "ten times the heartbeat is usual",
            );
        }
    }

    fn advertised(&mut self) {
        if !self.said.from_file && self.given("listen-client-urls") && !self.given("advertise-client-urls") {
            self.problem(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
                format!("if clients reach this member there, add --advertise-client-urls={}", {
                    list(&self.said.settings.listen_client_urls)
                }),
            );
        }
    }

    fn auto_compaction(&mut self) -> Option<AutoCompaction> {
        let (mode, retention) =
            (self.said.settings.auto_compaction_mode.clone(), self.said.settings.auto_compaction_retention.clone());
        let count = retention.parse::<u64>().ok();
        match mode.as_str() {
            "periodic" => match count {
                Some(hours) => match hours.checked_mul(3600) {
                    Some(0) => None,
                    Some(seconds) => Some(AutoCompaction::Periodic(std::time::Duration::from_secs(seconds))),
                    None => {
                        self.problem(
                            format!("--auto-compaction-retention of {hours} hours is too long"),
                            "0 keeps all history",
                        );
                        None
                    }
                },
                None if retention.is_empty() => None,
                None => match Duration::parse(&retention) {
                    Ok(kept) if kept > Duration(0) => Some(AutoCompaction::Periodic(kept.to_std())),
                    Ok(Duration(0)) => None,
                    Ok(_) => {
                        self.problem("--auto-compaction-retention must not be negative", "0 keeps all history");
                        None
                    }
                    Err(error) => {
                        self.problem(
                            format!("error parsing CompactionRetention: {error}"),
                            "--auto-compaction-retention takes hours such as 1, or a duration such as 30m",
                        );
                        None
                    }
                },
            },
            "revision" => match count {
                Some(0) => None,
                Some(revisions) => Some(AutoCompaction::Revision(revisions)),
                None if retention.is_empty() => None,
                None => {
                    self.problem(
                        format!(
                            "error parsing CompactionRetention: {} is no number of revisions",
                            go::quote(&retention)
                        ),
                        "--auto-compaction-mode=revision takes revisions to keep, such as 1000",
                    );
                    None
                }
            },
            "" => {
                self.problem("undefined auto-compaction-mode", "--auto-compaction-mode takes periodic or revision");
                None
            }
            other => {
                self.problem(
                    format!("unknown auto-compaction-mode {}", go::quote(other)),
                    "--auto-compaction-mode takes periodic or revision",
                );
                None
            }
        }
    }

    fn checks(&mut self) {
        let s = self.said.settings.clone();
        let gates = s.feature_gates.resolve();
        if gates.lease_checkpoint_persist && !gates.lease_checkpoint {
            self.problem(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
                "add LeaseCheckpoint=true to --feature-gates",
            );
        }
        if gates.lease_checkpoint && !gates.lease_checkpoint_persist {
            self.notice(Notice::new(
                Level::Warn,
                "Detected that checkpointing is enabled without persistence. Consider enabling feature gate \
                 LeaseCheckpointPersist",
            ));
        }
        if s.compact_hash_check_time <= Duration(0) {
            self.problem(
                format!("--compact-hash-check-time must be >0 (set to {})", s.compact_hash_check_time),
                "the default is 1m",
            );
        }
        for (flag, duration) in [
            ("backend-batch-interval", s.backend_batch_interval),
            ("compaction-sleep-interval", s.compaction_sleep_interval),
            ("corrupt-check-time", s.corrupt_check_time),
            ("downgrade-check-time", s.downgrade_check_time),
            ("grpc-keepalive-min-time", s.grpc_keepalive_min_time),
            ("grpc-keepalive-interval", s.grpc_keepalive_interval),
            ("grpc-keepalive-timeout", s.grpc_keepalive_timeout),
            ("warning-apply-duration", s.warning_apply_duration),
            ("warning-unary-request-duration", s.warning_unary_request_duration),
        ] {
            if duration < Duration(0) {
                self.problem(format!("--{flag} must not be negative (set to {duration})"), "0 is the default or off");
            }
        }
        for (flag, number) in [
            ("backend-batch-limit", s.backend_batch_limit),
            ("compaction-batch-limit", s.compaction_batch_limit),
            ("max-learners", s.max_learners),
        ] {
            if number < 0 {
                self.problem(
                    format!("--{flag} must not be negative (set to {number})"),
                    "leave it out for the default",
                );
            }
        }
    }

    fn tls_versions(&mut self) -> (TlsVersion, Option<TlsVersion>) {
        let s = self.said.settings.clone();
        let mut version = |text: &str| match text {
            "" => None,
            "TLS1.2" => Some(TlsVersion::Tls12),
            "TLS1.3" => Some(TlsVersion::Tls13),
            other => {
                self.problem(
                    format!("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", go::quote(other)),
                    "write TLS1.2 or TLS1.3",
                );
                None
            }
        };
        let (min, max) = (version(&s.tls_min_version), version(&s.tls_max_version));
        if max.is_some_and(|max| min > Some(max)) {
            self.problem(
                format!("min version ({}) is greater than max version ({})", s.tls_min_version, s.tls_max_version),
                "raise --tls-max-version or leave it out",
            );
        }
        if min == Some(TlsVersion::Tls13) && !s.cipher_suites.is_empty() {
            self.problem(
                "cipher suites cannot be configured when only TLS1.3 is enabled",
                "leave --cipher-suites out, TLS 1.3 has only good ones",
            );
        }
        (min.unwrap_or(TlsVersion::Tls12), max)
    }

    /// Encrypted addresses need a certificate, and a certificate that no address uses is worth a word.
    fn certificates(&mut self) {
        let s = self.said.settings.clone();
        let client_urls: Vec<Url> = s.listen_client_urls.iter().chain(&s.listen_client_http_urls).cloned().collect();
        for (side, prefix, urls, tls) in
            [("client", "", &client_urls, &s.client_tls), ("peer", "peer-", &s.listen_peer_urls, &s.peer_tls)]
        {
            let present = !tls.cert_file.is_empty() || !tls.key_file.is_empty();
            for url in urls {
                if url.is_tls() && !present && !tls.auto_tls {
                    self.problem(
                        format!(
                            "TLS key/cert (--{prefix}cert-file, --{prefix}key-file) must be provided for {side} url \
                             {url} with HTTPS scheme"
                        ),
                        format!("give both files, or --{prefix}auto-tls to have a certificate made"),
                    );
                }
                if !url.is_tls() && present {
                    self.notice(
                        Notice::new(
                            Level::Warn,
                            "scheme is http or unix while key and cert files are present; ignoring key and cert files",
                        )
                        .with("url", url),
                    );
                }
                if !url.is_tls() && tls.client_cert_auth {
                    self.notice(
                        Notice::new(
                            Level::Warn,
                            format!(
                                "scheme is http or unix while --{prefix}client-cert-auth is enabled; ignoring client \
                                 cert auth for this URL"
                            ),
                        )
                        .with("url", url),
                    );
                }
            }
            if present && (tls.cert_file.is_empty() || tls.key_file.is_empty()) && urls.iter().any(Url::is_tls) {
                self.problem(
                    format!(
                        "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                        tls.key_file, tls.cert_file
                    ),
                    format!("give both --{prefix}cert-file and --{prefix}key-file"),
                );
            }
            if present && tls.auto_tls {
                self.notice(Notice::new(Level::Warn, format!("ignoring {side} auto TLS since certs given")));
            }
        }
    }

    /// Who listens on every interface and was not told what to advertise advertises this machine's address.
    fn default_host(&mut self) {
        let Some(host) = self.said.default_host.clone() else {
            self.rename_default_cluster();
            return;
        };
        let everywhere = |urls: &[Url]| match urls.first() {
            Some(url) if url.host() == Some("0.0.0.0") => url.port(),
            _ => None,
        };
        let s = &mut self.said.settings;
        let mut used = false;
        if let Some(port) = everywhere(&s.listen_peer_urls)
            && list(&s.initial_advertise_peer_urls) == settings::DEFAULT_PEER_URL
        {
            s.initial_advertise_peer_urls[0] = s.initial_advertise_peer_urls[0].with_address(&host, port);
            used = true;
        }
        if let Some(port) = everywhere(&s.listen_client_urls)
            && list(&s.advertise_client_urls) == settings::DEFAULT_CLIENT_URL
        {
            s.advertise_client_urls[0] = s.advertise_client_urls[0].with_address(&host, port);
            used = true;
        }
        self.rename_default_cluster();
        if used {
            self.notice(Notice::new(Level::Info, "detected default host for advertise").with("host", host));
        }
    }

    /// With a name and nothing else, the cluster is this member.
    fn rename_default_cluster(&mut self) {
        let s = &mut self.said.settings;
        if s.name != settings::DEFAULT_NAME && s.initial_cluster == settings::DEFAULT_INITIAL_CLUSTER {
            let name = if s.name.is_empty() { settings::DEFAULT_NAME } else { &s.name };
            let pairs: Vec<String> = s.initial_advertise_peer_urls.iter().map(|url| format!("{name}={url}")).collect();
            s.initial_cluster = pairs.join(",");
        }
    }

    fn initial_cluster(&mut self) -> Vec<(String, Vec<Url>)> {
        let mut members: Vec<(String, Vec<Url>)> = Vec::new();
        let text = self.said.settings.initial_cluster.clone();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, url) = item.split_once('=').unwrap_or((item, ""));
            match Url::parse(url) {
                Ok(url) => match members.iter_mut().find(|(known, _)| known == name) {
                    Some((_, urls)) => urls.push(url),
                    None => members.push((name.to_owned(), vec![url])),
                },
                Err(error) => self.problem(
                    format!("error setting up initial cluster: {error}"),
                    "--initial-cluster takes NAME=URL,NAME=URL, such as m1=http://10.0.0.1:2380",
                ),
            }
        }
        for (_, urls) in &mut members {
            urls.sort();
        }
        members
    }

    /// What is no problem and still worth a line in the log.
    fn remarks(&mut self) {
        if self.said.settings.data_dir.is_empty() {
            self.said.settings.data_dir = format!("{}.etcd", self.said.settings.name);
            let dir = self.said.settings.data_dir.clone();
            self.notice(Notice::new(Level::Warn, "'data-dir' was empty; using default").with("data-dir", dir));
        }
        let s = self.said.settings.clone();
        if s.name == settings::DEFAULT_NAME {
            self.notice(
                Notice::new(
                    Level::Warn,
                    "it isn't recommended to use default name, please set a value for --name. Note that etcd might run \
                     into issue when multiple members have the same default name",
                )
                .with("name", &s.name),
            );
        }
        if self.given("max-snapshots") {
            self.notice(Notice::new(
                Level::Warn,
                "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
            ));
        }
        for flag in super::flags() {
            if let Some(because) = flag.unused().filter(|_| self.given(flag.name)) {
                self.notice(
                    Notice::new(Level::Warn, "flag has no meaning here - ignoring")
                        .with("flag-name", flag.name)
                        .with("reason", because),
                );
            }
        }
        for (flag, timeout) in
            [("raft-read-timeout", s.raft_read_timeout), ("raft-write-timeout", s.raft_write_timeout)]
        {
            if timeout < MIN_RAFT_TIMEOUT {
                self.notice(Notice::new(Level::Info, format!("{flag} increased to minimum value: {MIN_RAFT_TIMEOUT}")));
            }
        }
        let progress = s.watch_progress_notify_interval;
        if progress != Duration(0) && progress < MIN_PROGRESS_INTERVAL {
            self.notice(
                Notice::new(Level::Warn, "adjusting watch progress notify interval to minimum period")
                    .with("min-watch-progress-notify-interval", MIN_PROGRESS_INTERVAL),
            );
        }
        if !(4..=31).contains(&s.bcrypt_cost) {
            self.notice(
                Notice::new(Level::Warn, "use default bcrypt cost instead of the invalid given cost")
                    .with("given-cost", s.bcrypt_cost)
                    .with("default-cost", 10),
            );
        }
        if u64::try_from(s.quota_backend_bytes).is_ok_and(|quota| quota > LARGEST_TRIED_QUOTA) {
            self.notice(
                Notice::new(Level::Warn, "quota exceeds the maximum value")
                    .with("quota-size-bytes", s.quota_backend_bytes)
                    .with("quota-maximum-size-bytes", LARGEST_TRIED_QUOTA),
            );
        }
        if s.max_request_bytes > RECOMMENDED_REQUEST_BYTES {
            self.notice(
                Notice::new(Level::Warn, "exceeded recommended request limit")
                    .with("max-request-bytes", s.max_request_bytes)
                    .with("recommended-request-bytes", RECOMMENDED_REQUEST_BYTES),
            );
        }
        if s.unsafe_no_fsync {
            self.notice(Notice::new(
                Level::Warn,
                "--unsafe-no-fsync is set: a crash of the machine loses acknowledged writes",
            ));
        }
    }
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
