//! etcd's rules, one function for each thing they are about, in the order etcd has them.

use super::{Found, Said, Settings, list};
use crate::{
    flags::{
        FailureKind, Notice,
        go::{self, Duration},
        server_config::TlsVersion,
        tls,
        url::Url,
    },
    logging::{Level, LogConfig, LogFormat, LogOutput, Rotation},
};

const MAX_ELECTION_MS: u64 = 50_000;

/// First, because in etcd nothing else is looked at before there is a logger.
pub(super) fn log(said: &Said, found: &mut Found) -> LogConfig {
    let s = &said.settings;
    match s.logger.as_str() {
        "zap" => {}
        "capnslog" => found.problem("--logger=capnslog is removed in v3.5", "leave --logger out"),
        other => found.problem(format!("unknown logger option {}", go::quote(other)), "leave --logger out"),
    }
    if s.log_outputs.len() > 1 && s.log_outputs.contains("default") {
        found.problem(
            "multi logoutput for \"default\" is not supported yet",
            "name stderr or stdout beside the files in --log-outputs",
        );
    }
    let outputs: Vec<LogOutput> = s.log_outputs.iter().map(|output| LogOutput::parse(output)).collect();
    let rotation = s.enable_log_rotation.then(|| rotation(s, &outputs, found)).flatten();
    let level = Level::parse(&s.log_level).unwrap_or_else(|| {
        if found.problems.is_empty() {
            found.kind = FailureKind::Panic;
        }
        found.problem(
            format!("unrecognized level: {}", go::quote(&s.log_level)),
            "--log-level takes debug, info, warn, error, panic or fatal",
        );
        Level::Info
    });
    let format = LogFormat::parse(&s.log_format).unwrap_or_else(|| {
        found.problem(
            format!("unknown log format: {}, supported values json, console", s.log_format),
            "--log-format takes json or console",
        );
        LogFormat::Json
    });
    LogConfig { level, format, outputs, rotation }
}

fn rotation(s: &Settings, outputs: &[LogOutput], found: &mut Found) -> Option<Rotation> {
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files > 1 || (files == 0 && outputs.len() == 1) {
        found.problem(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
            "name the file in --log-outputs",
        );
        return None;
    }
    Rotation::parse(&s.log_rotation_config_json)
        .map_err(|error| found.problem(error, r#"write {"maxsize": 100} for files of 100 MiB"#))
        .ok()
}

pub(super) fn addresses(said: &Said, found: &mut Found) {
    let s = &said.settings;
    for urls in [&s.listen_peer_urls, &s.listen_client_urls, &s.listen_client_http_urls, &s.listen_metrics_urls] {
        if let Some(url) = urls.iter().find(|url| !url.can_bind()) {
            found.problem(
                format!("expected IP in URL for binding ({url})"),
                "listen on an IP address, on 0.0.0.0 for every interface, or on localhost",
            );
        }
    }
    let nobody = |urls: &[Url]| urls.iter().find(|url| url.host() == Some("")).cloned();
    if let Some(url) = nobody(&s.initial_advertise_peer_urls) {
        found.problem(
            format!(
                "--initial-advertise-peer-urls {} must be \"host:port\" (unexpected empty host ({url}))",
                go::quote(&list(&s.initial_advertise_peer_urls))
            ),
            "name the host that the other members reach this one at",
        );
    }
    if let Some(url) = nobody(&s.advertise_client_urls) {
        found.problem(
            format!(
                "--advertise-client-urls {} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
                 \"unixs:/path/to/socket\" (unexpected empty host ({url}))",
                go::quote(&list(&s.advertise_client_urls))
            ),
            "name the host that clients reach this member at",
        );
    }
}

pub(super) fn bootstrap(said: &Said, found: &mut Found) {
    let s = &said.settings;
    let discovery = !s.discovery_endpoints.is_empty();
    let ways = [!s.initial_cluster.is_empty(), !s.discovery_srv.is_empty(), discovery];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        found.problem(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
            "keep --initial-cluster",
        );
    }
    if s.discovery_token.is_empty() == discovery {
        found.problem(
            "both --discovery-token and --discovery-endpoints must be set",
            "leave both out and list the members in --initial-cluster",
        );
    }
    if discovery {
        found.problem(
            "finding the cluster by a discovery service is not supported here",
            "list the members in --initial-cluster, or let DNS name them by --discovery-srv",
        );
    }
    if s.discovery_fallback == "proxy" {
        found.problem(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
            "leave --discovery-fallback out",
        );
    }
}

pub(super) fn timing(said: &Said, found: &mut Found) {
    let (heartbeat, election) = (said.settings.heartbeat_interval, said.settings.election_timeout);
    let ten = format!("for a heartbeat of {heartbeat} write --election-timeout={}", heartbeat.saturating_mul(10));
    if heartbeat == 0 {
        found.problem("--heartbeat-interval must be >0 (set to 0ms)", "the default is 100");
    }
    if election == 0 {
        found.problem("--election-timeout must be >0 (set to 0ms)", "the default is 1000");
    } else if heartbeat.saturating_mul(5) > election {
        found.problem(
            format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ),
            ten,
        );
    }
    if election > MAX_ELECTION_MS {
        found.problem(
            format!("--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"),
            "ten times the heartbeat is usual",
        );
    }
}

pub(super) fn advertised(said: &Said, found: &mut Found) {
    if !said.from_file && said.given.contains("listen-client-urls") && !said.given.contains("advertise-client-urls") {
        found.problem(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            format!("if clients reach this member there, add --advertise-client-urls={}", {
                list(&said.settings.listen_client_urls)
            }),
        );
    }
}

pub(super) fn checks(said: &Said, found: &mut Found) {
    let s = &said.settings;
    let gates = s.feature_gates.resolve();
    if gates.lease_checkpoint_persist && !gates.lease_checkpoint {
        found.problem(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            "add LeaseCheckpoint=true to --feature-gates",
        );
    }
    if gates.lease_checkpoint && !gates.lease_checkpoint_persist {
        found.notice(Notice::new(
            Level::Warn,
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate \
             LeaseCheckpointPersist",
        ));
    }
    if s.compact_hash_check_time <= Duration(0) {
        found.problem(
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
            found.problem(format!("--{flag} must not be negative (set to {duration})"), "0 is the default or off");
        }
    }
    for (flag, number) in [
        ("backend-batch-limit", s.backend_batch_limit),
        ("compaction-batch-limit", s.compaction_batch_limit),
        ("max-learners", s.max_learners),
    ] {
        if number < 0 {
            found.problem(format!("--{flag} must not be negative (set to {number})"), "leave it out for the default");
        }
    }
}

pub(super) fn tls_versions(said: &Said, found: &mut Found) -> (TlsVersion, Option<TlsVersion>) {
    let s = &said.settings;
    tls::versions(&s.tls_min_version, &s.tls_max_version, &s.cipher_suites, &mut found.problems)
}

/// Encrypted addresses need a certificate, and a certificate that no address uses is worth a word.
pub(super) fn certificates(said: &Said, found: &mut Found) {
    let s = &said.settings;
    let client_urls: Vec<Url> = s.listen_client_urls.iter().chain(&s.listen_client_http_urls).cloned().collect();
    for (side, prefix, urls, tls) in
        [("client", "", &client_urls, &s.client_tls), ("peer", "peer-", &s.listen_peer_urls, &s.peer_tls)]
    {
        let present = !tls.cert_file.is_empty() || !tls.key_file.is_empty();
        for url in urls {
            if url.is_tls() && !present && !tls.auto_tls {
                found.problem(
                    format!(
                        "TLS key/cert (--{prefix}cert-file, --{prefix}key-file) must be provided for {side} url \
                         {url} with HTTPS scheme"
                    ),
                    format!("give both files, or --{prefix}auto-tls to have a certificate made"),
                );
            }
            if !url.is_tls() && present {
                found.notice(
                    Notice::new(
                        Level::Warn,
                        "scheme is http or unix while key and cert files are present; ignoring key and cert files",
                    )
                    .with("url", url),
                );
            }
            if !url.is_tls() && tls.client_cert_auth {
                found.notice(
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
            found.problem(
                format!("KeyFile and CertFile must both be present[key: {}, cert: {}]", tls.key_file, tls.cert_file),
                format!("give both --{prefix}cert-file and --{prefix}key-file"),
            );
        }
        if present && tls.auto_tls {
            found.notice(Notice::new(Level::Warn, format!("ignoring {side} auto TLS since certs given")));
        }
    }
}

/// What is to keep clients out must be able to.
pub(super) fn authorities(said: &Said, found: &mut Found) {
    let tls = &said.settings.client_tls;
    if tls.trusted_ca_file.is_empty() {
        let restrictions = [
            ("client-cert-auth", tls.client_cert_auth && said.settings.listen_client_urls.iter().any(Url::is_tls)),
            ("client-crl-file", !tls.crl_file.is_empty()),
            ("client-cert-allowed-hostname", !tls.allowed_hostname.is_empty()),
        ];
        tls::without_authority("", &restrictions, &mut found.problems);
    }
}

pub(super) fn initial_cluster(said: &Said, found: &mut Found) -> Vec<(String, Vec<Url>)> {
    let mut members: Vec<(String, Vec<Url>)> = Vec::new();
    let text = &said.settings.initial_cluster;
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        match Url::parse(url) {
            Ok(url) => match members.iter_mut().find(|(known, _)| known == name) {
                Some((_, urls)) => urls.push(url),
                None => members.push((name.to_owned(), vec![url])),
            },
            Err(error) => found.problem(
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
