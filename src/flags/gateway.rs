//! The gateway's flags, named as etcd and etcdctl name the same things.

mod kubeadm;
mod mirror;
mod tls;

use std::{collections::BTreeSet, path::PathBuf, time};

use forebay_policies::units::Quantity;

pub use self::mirror::MirrorFlags;
use self::tls::{BORROWED, TlsSettings};
pub use self::tls::{GatewayTls, UpstreamTls};
use super::{
    Asked, Environment, Failure, FailureKind, Problem, Ready,
    go::{self, Duration},
    layered::{self, Layered, Sources},
    table::{Flag, Slot},
    tracing::{TracingFlags, TracingSettings},
    url::{Address, Url},
};
use crate::{
    discovery::Discovery,
    logging::{Level, LogConfig, LogFormat, LogOutput},
};

/// The validated configuration of the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// The upstream, each as `http://host:port` or `https://host:port`; none twice, and empty only if they are to be
    /// found.
    pub endpoints: Vec<String>,
    /// Where DNS names them.
    pub discovery: Option<Discovery>,
    /// Take endpoints without TLS that DNS names.
    pub insecure_discovery: bool,
    pub listen_client_urls: Vec<Url>,
    /// What MemberList answers instead of the members' own URLs; empty leaves them.
    pub advertise_client_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    /// HTTP/2 connections to each endpoint. More spread the work over cores, on both sides.
    pub connections: usize,
    pub dial_timeout: time::Duration,
    /// How often connections to the upstream are pinged; etcd drops those that ping every 5s or more often.
    pub keepalive_time: time::Duration,
    pub keepalive_timeout: time::Duration,
    /// Not below the upstream's own limit, or what it would take is refused here.
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    /// One more takes the place of one without requests.
    pub max_connections: usize,
    /// `None` is as many as there is room for.
    pub max_connections_per_address: Option<usize>,
    pub idle_timeout: time::Duration,
    pub cors: BTreeSet<String>,
    pub host_whitelist: BTreeSet<String>,
    pub tls: GatewayTls,
    /// Absent if every call is passed on.
    pub mirror: Option<MirrorFlags>,
    /// The upstream's user that the gateway is to the upstream, and its password.
    pub user: Option<(String, String)>,
    /// The policy file; without one, the built-in policy holds.
    pub policy: Option<PathBuf>,
    /// Whether the rules and quotas of the file only count.
    pub shadow: bool,
    /// The file with the token of remote operators.
    pub admin_token_file: Option<PathBuf>,
    /// Bytes of requests and answers held at the same time.
    pub memory_limit: usize,
    /// From how long on the log tells of a request.
    pub slow_request: time::Duration,
    pub log: LogConfig,
    /// Absent if calls are not traced.
    pub tracing: Option<TracingFlags>,
}

/// What may be said about the gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    config_file: String,
    from_kubeadm: String,
    print_config: bool,
    version: bool,
    endpoints: Vec<String>,
    discovery_srv: String,
    discovery_srv_name: String,
    insecure_discovery: bool,
    listen_client_urls: Vec<Url>,
    advertise_client_urls: Vec<Url>,
    listen_metrics_urls: Vec<Url>,
    connections: u64,
    dial_timeout: Duration,
    keepalive_time: Duration,
    keepalive_timeout: Duration,
    max_request_bytes: u64,
    max_concurrent_streams: u32,
    max_connections: u64,
    max_connections_per_address: u64,
    idle_timeout: Duration,
    cors: BTreeSet<String>,
    host_whitelist: BTreeSet<String>,
    tls: TlsSettings,
    mirror: String,
    mirror_max_bytes: String,
    mirror_prefix: Vec<String>,
    watch_progress_notify_interval: Duration,
    upstream_user: String,
    upstream_password_file: String,
    policy: String,
    shadow: bool,
    admin_token_file: String,
    memory_limit: String,
    slow_request: Duration,
    log_level: String,
    log_format: String,
    log_outputs: BTreeSet<String>,
    tracing: TracingSettings,
}

impl Default for Settings {
    fn default() -> Settings {
        let any = BTreeSet::from(["*".to_owned()]);
        Settings {
            config_file: String::new(),
            from_kubeadm: String::new(),
            print_config: false,
            version: false,
            endpoints: Vec::new(),
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            insecure_discovery: false,
            listen_client_urls: vec![Url::parse("http://localhost:2379").expect("invariant: the default URL is one")],
            advertise_client_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            connections: 2,
            dial_timeout: Duration::from_secs(2),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            max_connections: 10_000,
            max_connections_per_address: 0,
            idle_timeout: Duration::from_secs(30 * 60),
            cors: any.clone(),
            host_whitelist: any,
            tls: TlsSettings::default(),
            mirror: "on".to_owned(),
            mirror_max_bytes: "1GiB".to_owned(),
            mirror_prefix: Vec::new(),
            watch_progress_notify_interval: Duration::from_secs(600),
            upstream_user: String::new(),
            upstream_password_file: String::new(),
            policy: String::new(),
            shadow: false,
            admin_token_file: String::new(),
            memory_limit: "1GiB".to_owned(),
            slow_request: Duration::from_secs(1),
            log_level: "info".to_owned(),
            log_format: "json".to_owned(),
            log_outputs: BTreeSet::from(["default".to_owned()]),
            tracing: TracingSettings::of("forebay"),
        }
    }
}

const UPSTREAM: &str = "Upstream";
const CLIENTS: &str = "Clients";
const MIRROR: &str = "Mirror";
const ADMISSION: &str = "Admission";
const LOGGING: &str = "Logging";
const TRACING: &str = "Tracing";
const SELF: &str = "Configuration";

/// etcd drops connections that ping every 5 s; the second more is for a jittery clock.
const KEEPALIVE_MIN: Duration = Duration::from_secs(6);

const SOURCES: Sources<'static> = Sources {
    prefixes: &["FOREBAY_"],
    borrowed: &[
        ("endpoints", "ETCDCTL_ENDPOINTS"),
        ("dial-timeout", "ETCDCTL_DIAL_TIMEOUT"),
        ("keepalive-time", "ETCDCTL_KEEPALIVE_TIME"),
        ("keepalive-timeout", "ETCDCTL_KEEPALIVE_TIMEOUT"),
        BORROWED[0],
        BORROWED[1],
        BORROWED[2],
        BORROWED[3],
    ],
    file_flag: "config-file",
};

/// The table of `forebay gateway`.
#[rustfmt::skip] // one row per flag reads as the table it is
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Choice, Int, List, Origins, Set, Text, Uint, Uint32, Urls};
    let flag = Flag::<Settings>::new;
    let mut flags = vec![
        flag(UPSTREAM, "endpoints", List(|s| &mut s.endpoints), "The etcd to stand in front of, with commas: 10.0.0.1:2379,http://10.0.0.2:2379."),
        flag(UPSTREAM, "discovery-srv", Text(|s| &mut s.discovery_srv), "DNS domain whose SRV records _etcd-client-ssl._tcp and _etcd-client._tcp name the endpoints. Their certificates must be good for it."),
        flag(UPSTREAM, "discovery-srv-name", Text(|s| &mut s.discovery_srv_name), "What these services' names end in, behind a hyphen."),
        flag(UPSTREAM, "insecure-discovery", Bool(|s| &mut s.insecure_discovery), "Take endpoints without TLS that DNS names."),
        flag(UPSTREAM, "connections", Uint(|s| &mut s.connections), "Connections to each endpoint."),
        flag(UPSTREAM, "dial-timeout", Slot::Duration(|s| &mut s.dial_timeout), "How long connecting may take."),
        flag(UPSTREAM, "keepalive-time", Slot::Duration(|s| &mut s.keepalive_time), "How often a connection is pinged; 6s at least, or etcd drops it."),
        flag(UPSTREAM, "keepalive-timeout", Slot::Duration(|s| &mut s.keepalive_timeout), "How long a ping may go unanswered."),
        flag(CLIENTS, "listen-client-urls", Urls(|s| &mut s.listen_client_urls), "Where clients connect, gRPC and JSON alike."),
        flag(CLIENTS, "advertise-client-urls", Urls(|s| &mut s.advertise_client_urls), "What the member list tells clients instead of the members' own URLs, so that they stay with the gateway."),
        flag(CLIENTS, "listen-metrics-urls", Urls(|s| &mut s.listen_metrics_urls), "Where /metrics and the health pages are served as well."),
        flag(CLIENTS, "max-request-bytes", Uint(|s| &mut s.max_request_bytes), "Largest request a client may send; as the upstream has it."),
        flag(CLIENTS, "max-concurrent-streams", Uint32(|s| &mut s.max_concurrent_streams), "Most streams a client may have open on a connection."),
        flag(CLIENTS, "max-connections", Uint(|s| &mut s.max_connections), "Most connections of clients; one more takes the place of one without requests."),
        flag(CLIENTS, "max-connections-per-address", Uint(|s| &mut s.max_connections_per_address), "Most connections from one address; 0 is any number."),
        flag(CLIENTS, "idle-timeout", Slot::Duration(|s| &mut s.idle_timeout), "How long a client may be connected without requests."),
        flag(CLIENTS, "cors", Origins(|s| &mut s.cors), "Origins whose pages may read answers; * is any."),
        flag(CLIENTS, "host-whitelist", Set(|s| &mut s.host_whitelist), "Host names plain HTTP requests may be for; * is any."),
        flag(MIRROR, "mirror", Choice(|s| &mut s.mirror, &["on", "off"]), "Whether ranges and watches are answered from a mirror of the upstream's keys."),
        flag(MIRROR, "mirror-max-bytes", Text(|s| &mut s.mirror_max_bytes), "What the mirror may take in memory, its history included, as 512MiB or 2GiB; what does not fit is the upstream's to answer."),
        flag(MIRROR, "mirror-prefix", List(|s| &mut s.mirror_prefix), "What is mirrored if all keys do not fit: those with these prefixes, with commas."),
        flag(MIRROR, "watch-progress-notify-interval", Slot::Duration(|s| &mut s.watch_progress_notify_interval), "How often watches that ask for it are told the revision; as the upstream has it."),
        flag(MIRROR, "upstream-user", Text(|s| &mut s.upstream_user), "The upstream's user for the gateway's own calls: it fills the mirror, writes under forebay/gateways/ and tells a cluster of Forebay members which quotas to hold. Without one none of that is done while the upstream has auth enabled."),
        flag(MIRROR, "upstream-password-file", Text(|s| &mut s.upstream_password_file), "The file that user's password stands in."),
        flag(ADMISSION, "policy", Text(|s| &mut s.policy), "Policy file: who may do how much. It is read again when it changes; `forebay policy` checks one."),
        flag(ADMISSION, "shadow", Bool(|s| &mut s.shadow), "Only count what the rules and quotas of the policy file would refuse."),
        flag(ADMISSION, "admin-token-file", Text(|s| &mut s.admin_token_file), "File with a secret: who brings it (metadata forebay-admin-token, or Authorization: Bearer for the admin pages) is the operator from everywhere, past every limit."),
        flag(ADMISSION, "memory-limit", Text(|s| &mut s.memory_limit), "Bytes of requests and answers held at the same time, as 512MiB or 2GiB; what does not fit waits, then is refused."),
        flag(ADMISSION, "slow-request", Slot::Duration(|s| &mut s.slow_request), "From how long on the log tells of a request, with what it waited for."),
        flag(LOGGING, "log-level", Text(|s| &mut s.log_level), "debug, info, warn, error, panic or fatal."),
        flag(LOGGING, "log-format", Text(|s| &mut s.log_format), "json or console."),
        flag(LOGGING, "log-outputs", Set(|s| &mut s.log_outputs), "stderr, stdout or files, with commas; default is stderr."),
        flag(TRACING, "enable-distributed-tracing", Bool(|s| &mut s.tracing.enabled), "Send spans of calls to an OpenTelemetry collector."),
        flag(TRACING, "distributed-tracing-address", Text(|s| &mut s.tracing.address), "The collector's host and port, for OTLP over gRPC."),
        flag(TRACING, "distributed-tracing-service-name", Text(|s| &mut s.tracing.service_name), "The name under which spans are sent."),
        flag(TRACING, "distributed-tracing-instance-id", Text(|s| &mut s.tracing.instance_id), "Which one of that name this is."),
        flag(TRACING, "distributed-tracing-sampling-rate", Int(|s| &mut s.tracing.sampling_rate), "How many of a million calls begin a trace. Those that come within one are part of it if it is sampled."),
        flag(SELF, "config-file", Text(|s| &mut s.config_file), "YAML or JSON file with these flags as keys.").not_in_file(),
        flag(SELF, "from-kubeadm", Text(|s| &mut s.from_kubeadm), "Take what is not said from a control plane that kubeadm set up: /etc/kubernetes."),
        flag(SELF, "print-config", Bool(|s| &mut s.print_config), "Print every setting and where it came from, and exit.").not_in_file(),
        flag(SELF, "version", Bool(|s| &mut s.version), "Print the version and exit.").not_in_file(),
    ];
    flags.extend(tls::flags());
    flags
}

/// Reads what the operator said about a gateway. `args` are without the program's and the command's name.
pub fn load(args: &[String], env: &Environment) -> Result<Asked<GatewayConfig>, Box<Failure>> {
    let flags = flags();
    let Layered { mut settings, mut origins, given, notices } = layered::load(&flags, &SOURCES, args, env)?;
    if given.help {
        return Ok(Asked::Help);
    }
    if settings.version {
        return Ok(Asked::Version);
    }
    if !settings.from_kubeadm.is_empty() {
        let dir = settings.from_kubeadm.clone();
        if let Err(error) = kubeadm::complete(&dir, &flags, &mut settings, &mut origins) {
            let problems = vec![Problem::new(error)];
            return Err(Box::new(Failure { problems, notices, kind: FailureKind::Invalid }));
        }
    }
    if settings.print_config {
        return Ok(Asked::Print(layered::print(&flags, &mut settings, &origins)));
    }
    match validate(settings) {
        Ok(config) => Ok(Asked::Run(Box::new(Ready { config, notices }))),
        Err(problems) => Err(Box::new(Failure { problems, notices, kind: FailureKind::Invalid })),
    }
}

fn validate(s: Settings) -> Result<GatewayConfig, Vec<Problem>> {
    let mut problems = Vec::new();
    let given: Vec<&str> = s.endpoints.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    let discovery = Discovery::new(s.discovery_srv.clone(), s.discovery_srv_name.clone());
    if discovery.is_some() && !given.is_empty() {
        problems.push(Problem::new("--endpoints and --discovery-srv are two ways to say the same").hint("keep one"));
    }
    if given.is_empty() && discovery.is_none() {
        problems.push(
            Problem::new("--endpoints is missing: the gateway needs an etcd to stand in front of")
                .hint("for an etcd on this machine write --endpoints=127.0.0.1:2379, and another port to listen on"),
        );
    }
    let mut endpoints = Vec::new();
    for text in given {
        match endpoint(text, if s.tls.is_about_upstream() { "https" } else { "http" }, &s.listen_client_urls) {
            Ok(endpoint) if endpoints.contains(&endpoint) => {
                problems.push(Problem::new(format!("endpoint {text} is given twice")).hint("name it once"));
            }
            Ok(endpoint) => endpoints.push(endpoint),
            Err(problem) => problems.push(problem),
        }
    }
    let listening: Vec<Url> = s.listen_client_urls.iter().chain(&s.listen_metrics_urls).cloned().collect();
    let (mirror, user) = (mirror::validate(&s), mirror::user(&s));
    problems.extend(mirror.as_ref().err().cloned());
    problems.extend(user.as_ref().err().cloned());
    let uses_tls = discovery.is_some() || endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    let tls = s.tls.validate(&listening, uses_tls, &mut problems);
    for url in &listening {
        if !url.can_bind() {
            problems.push(
                Problem::new(format!("expected IP in URL for binding ({url})"))
                    .hint("listen on an IP address, on 0.0.0.0 for every interface, or on localhost"),
            );
        }
    }
    if s.keepalive_time < KEEPALIVE_MIN {
        problems.push(
            Problem::new(format!(
                "--keepalive-time of {} is too short: etcd drops clients that ping so often",
                s.keepalive_time
            ))
            .hint("write --keepalive-time=6s or more"),
        );
    }
    for (flag, duration) in [
        ("dial-timeout", s.dial_timeout),
        ("keepalive-timeout", s.keepalive_timeout),
        ("idle-timeout", s.idle_timeout),
        ("slow-request", s.slow_request),
    ] {
        if duration <= Duration(0) {
            problems.push(Problem::new(format!("--{flag} must be more than nothing (set to {duration})")));
        }
    }
    if !(1..=64).contains(&s.connections) {
        problems.push(Problem::new(format!("--connections must be 1 to 64 (set to {})", s.connections)));
    }
    if s.max_connections == 0 {
        problems.push(Problem::new("--max-connections must be at least 1 (set to 0)"));
    }
    let max_request_bytes = usize::try_from(s.max_request_bytes).ok().filter(|bytes| (1..=MAX_REQUEST).contains(bytes));
    if max_request_bytes.is_none() {
        problems.push(
            Problem::new(format!("--max-request-bytes must be 1 to {MAX_REQUEST} (set to {})", s.max_request_bytes))
                .hint("the default of etcd is 1572864"),
        );
    }
    let memory_limit = memory_limit(&s.memory_limit);
    if let Err(problem) = &memory_limit {
        problems.push(problem.clone());
    }
    if s.shadow && s.policy.is_empty() {
        problems.push(
            Problem::new("--shadow without --policy has nothing to count").hint("name a policy file, or leave it out"),
        );
    }
    let level = Level::parse(&s.log_level);
    if level.is_none() {
        problems.push(
            Problem::new(format!("unrecognized level: {}", go::quote(&s.log_level)))
                .hint("--log-level takes debug, info, warn, error, panic or fatal"),
        );
    }
    let format = LogFormat::parse(&s.log_format);
    if format.is_none() {
        problems.push(
            Problem::new(format!("unknown log format: {}", go::quote(&s.log_format)))
                .hint("--log-format takes json or console"),
        );
    }
    let tracing = s.tracing.validate();
    if let Err(problem) = &tracing {
        problems.push(problem.clone());
    }
    let (true, Some(level), Some(format), Some(max_request_bytes), Ok(mirror), Ok(user), Ok(memory_limit), Ok(tracing)) =
        (problems.is_empty(), level, format, max_request_bytes, mirror, user, memory_limit, tracing)
    else {
        return Err(problems);
    };
    Ok(GatewayConfig {
        endpoints,
        discovery,
        insecure_discovery: s.insecure_discovery,
        listen_client_urls: s.listen_client_urls,
        advertise_client_urls: s.advertise_client_urls,
        listen_metrics_urls: s.listen_metrics_urls,
        connections: usize::try_from(s.connections).expect("invariant: at most 64 were let pass"),
        dial_timeout: s.dial_timeout.to_std(),
        keepalive_time: s.keepalive_time.to_std(),
        keepalive_timeout: s.keepalive_timeout.to_std(),
        max_request_bytes,
        max_concurrent_streams: s.max_concurrent_streams,
        max_connections: size(s.max_connections),
        max_connections_per_address: (s.max_connections_per_address > 0).then(|| size(s.max_connections_per_address)),
        idle_timeout: s.idle_timeout.to_std(),
        cors: s.cors,
        host_whitelist: s.host_whitelist,
        tls,
        mirror,
        user,
        policy: (!s.policy.is_empty()).then(|| PathBuf::from(&s.policy)),
        shadow: s.shadow,
        admin_token_file: (!s.admin_token_file.is_empty()).then(|| PathBuf::from(&s.admin_token_file)),
        memory_limit,
        slow_request: s.slow_request.to_std(),
        log: LogConfig {
            level,
            format,
            outputs: s.log_outputs.iter().map(|output| LogOutput::parse(output)).collect(),
            rotation: None,
        },
        tracing,
    })
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Less could not hold a few of the largest requests.
const MEMORY_MIN: u64 = 64 << 20;

fn memory_limit(text: &str) -> Result<usize, Problem> {
    let bytes = text.parse::<Quantity>().map_err(|error| Problem::new(format!("--memory-limit: {error}")))?.0;
    let enough = usize::try_from(bytes).ok().filter(|_| bytes >= MEMORY_MIN);
    enough.ok_or_else(|| {
        Problem::new(format!("--memory-limit of {text} is too little")).hint("64MiB is the least, 1GiB the default")
    })
}

/// A message may not pass gRPC's own bound by much; beyond it lies a mistake in units.
const MAX_REQUEST: usize = 1 << 30;

/// Reads an endpoint as etcdctl takes it, scheme and port optional, and writes both out.
fn endpoint(text: &str, default_scheme: &str, listening: &[Url]) -> Result<String, Problem> {
    let (scheme, authority) = text.split_once("://").unwrap_or((default_scheme, text));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = if has_port { "" } else { ":2379" };
    let malformed = |error: String| {
        Problem::new(format!("endpoint {}: {error}", go::quote(text)))
            .hint("write endpoints as 10.0.0.1:2379 or http://10.0.0.1:2379")
    };
    let url = Url::parse(&format!("{scheme}://{authority}{port}")).map_err(malformed)?;
    let Address::Tcp { host, port } = url.address() else {
        return Err(malformed("sockets on disk are not supported here".to_owned()));
    };
    if host.is_empty() || *port == 0 {
        return Err(malformed("host and port must both be there".to_owned()));
    }
    let local = |host: &str| if host == "localhost" { "127.0.0.1".to_owned() } else { host.to_owned() };
    match listening.iter().find(|own| own.host().map(local) == Some(local(host)) && own.port() == Some(*port)) {
        Some(own) => Err(Problem::new(format!("endpoint {text} is the gateway itself, which listens on {own}"))
            .hint("listen on another port, as with --listen-client-urls=http://127.0.0.1:23790")),
        None => Ok(url.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Asked;

    fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Asked<GatewayConfig>, Box<Failure>> {
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        super::load(&args, &env)
    }

    fn config(args: &[&str], env: &[(&str, &str)]) -> GatewayConfig {
        match load(args, env) {
            Ok(Asked::Run(ready)) => ready.config,
            other => panic!("{args:?} {env:?}: {other:?}"),
        }
    }

    fn texts(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
        load(args, env).expect_err("refused").problems.into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn endpoints_are_written_out() {
        let config = config(&["--endpoints=10.0.0.1,http://h:1/, [::1]:2379,[::2]"], &[]);
        assert_eq!(config.endpoints, ["http://10.0.0.1:2379", "http://h:1", "http://[::1]:2379", "http://[::2]:2379"]);
        assert_eq!(config.keepalive_time.as_secs(), 10);
    }

    #[test]
    fn a_flag_wins_over_our_variable_and_that_over_etcdctls_and_that_over_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("gateway.yaml");
        std::fs::write(
            &path,
            "endpoints: [filed:1]\ndial-timeout: 3s\nkeepalive-time: 7000000000\nlisten-client-urls: [http://127.0.0.1:1]",
        )
        .expect("a writable file");
        let file = ("FOREBAY_CONFIG_FILE", path.to_str().expect("a UTF-8 path"));
        let borrowed = ("ETCDCTL_ENDPOINTS", "borrowed:1");
        let ours = ("FOREBAY_ENDPOINTS", "ours:1");
        for (args, env, want) in [
            (vec!["--endpoints=flagged:1"], vec![file, borrowed, ours], "http://flagged:1"),
            (vec![], vec![file, borrowed, ours], "http://ours:1"),
            (vec![], vec![file, borrowed], "http://borrowed:1"),
            (vec![], vec![file], "http://filed:1"),
        ] {
            let config = config(&args, &env);
            assert_eq!(config.endpoints, [want]);
            assert_eq!((config.dial_timeout.as_secs(), config.keepalive_time.as_secs()), (3, 7));
            assert_eq!(config.listen_client_urls[0].as_str(), "http://127.0.0.1:1");
        }
    }

    #[test]
    fn the_printed_configuration_tells_origins_and_can_be_read_again() {
        let args = ["--endpoints=a:1", "--print-config", "--cors=*", "--log-outputs=stderr,/tmp/a b"];
        let Ok(Asked::Print(text)) = load(&args, &[("FOREBAY_LOG_LEVEL", "debug")]) else { panic!("printed") };
        let line =
            |key: &str| text.lines().find(|line| line.starts_with(&format!("{key}:"))).expect("a line").to_owned();
        assert!(line("endpoints").ends_with("# command line"));
        assert!(line("log-level").ends_with("# FOREBAY_LOG_LEVEL"));
        assert!(line("dial-timeout").starts_with("dial-timeout: 2s ") && line("dial-timeout").ends_with("# default"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("printed.yaml");
        let keys = text.lines().filter(|line| !line.starts_with("config-file") && !line.starts_with("print-config"));
        let keys: Vec<&str> = keys.filter(|line| !line.starts_with("version")).collect();
        std::fs::write(&path, keys.join("\n")).expect("a writable file");
        let again = config(&[&format!("--config-file={}", path.display())], &[]);
        assert_eq!(again, config(&[args[0], args[2], args[3]], &[("FOREBAY_LOG_LEVEL", "debug")]));
    }

    #[test]
    fn what_cannot_work_is_refused_at_once_and_all_of_it() {
        assert_eq!(texts(&[], &[]), ["--endpoints is missing: the gateway needs an etcd to stand in front of"]);
        assert_eq!(
            texts(
                &["--endpoints=unixs://a:1,a:1,a:1", "--keepalive-time=1s", "--log-format=xml", "--connections=0"],
                &[]
            ),
            [
                "endpoint \"unixs://a:1\": sockets on disk are not supported here",
                "endpoint a:1 is given twice",
                "--keepalive-time of 1s is too short: etcd drops clients that ping so often",
                "--connections must be 1 to 64 (set to 0)",
                "unknown log format: \"xml\"",
            ]
        );
        assert_eq!(
            texts(&["--endpoints=127.0.0.1:2379"], &[]),
            ["endpoint 127.0.0.1:2379 is the gateway itself, which listens on http://localhost:2379"]
        );
        assert_eq!(texts(&["--namespace=x"], &[]), ["flag provided but not defined: -namespace"]);
        assert_eq!(texts(&["--endpoints=a", "b"], &[]), ["\"b\" is not a flag"]);
    }

    #[test]
    fn endpoints_without_a_scheme_are_encrypted_when_flags_tell_how() {
        let sure =
            config(&["--endpoints=a,http://b", "--cacert=ca.pem"], &[("ETCDCTL_CERT", "c"), ("ETCDCTL_KEY", "k")]);
        assert_eq!(sure.endpoints, ["https://a:2379", "http://b:2379"]);
        let upstream = sure.tls.upstream;
        assert_eq!((upstream.authorities, upstream.identity), (Some("ca.pem".into()), Some(("c".into(), "k".into()))));
        assert_eq!(config(&["--endpoints=https://a"], &[]).tls.upstream, UpstreamTls::default());
    }

    #[test]
    fn tls_flags_that_would_protect_nothing_are_refused() {
        for (args, text) in [
            (
                ["--endpoints=http://a", "--cacert=ca"].as_slice(),
                "--cacert, --cert and --insecure-skip-tls-verify are about https endpoints, and there is none",
            ),
            (&["--endpoints=https://a", "--cert=c"], "--cert and --key must both be given, or neither"),
            (&["--endpoints=a", "--client-crl-file=c"], "--client-crl-file verifies nobody without --trusted-ca-file"),
            (
                &["--endpoints=a", "--cert-file=c", "--key-file=k"],
                "--cert-file and --key-file are given, and nothing is listened on under TLS",
            ),
            (
                &["--endpoints=a", "--listen-metrics-urls=https://127.0.0.1:1"],
                "TLS key/cert (--cert-file, --key-file) must be provided for https://127.0.0.1:1 with HTTPS scheme",
            ),
            (
                &["--endpoints=a", "--tls-min-version=TLS1.1"],
                "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
        ] {
            assert_eq!(texts(args, &[]), [text]);
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_and_an_unknown_variable_a_warning() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("g.yaml");
        std::fs::write(&path, "endpoint: a:1\n").expect("a writable file");
        let failure = load(&[&format!("--config-file={}", path.display())], &[]).expect_err("refused");
        assert_eq!(failure.problems[0].text, format!("{}: unknown key \"endpoint\"", path.display()));
        assert_eq!(failure.problems[0].hint.as_deref(), Some("did you mean endpoints?"));
        let Ok(Asked::Run(ready)) = load(&["--endpoints=a:1"], &[("FOREBAY_LOGLEVEL", "debug")]) else {
            panic!("accepted")
        };
        assert!(ready.notices[0].fields.contains(&("did-you-mean", "FOREBAY_LOG_LEVEL".to_owned())));
    }
}
