//! The roles, as async functions that take the validated configuration and return when they have ended.

mod ports;
mod quotas;
mod settings;
mod tls;

use std::{
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use forebay_edge::{
    Api,
    http::{Front, Options, Probes},
    listener::Limits,
    metrics::Measured,
    tls::Acceptor,
};
use forebay_gateway::{
    AdminToken, Admission, AdmissionConfig, Config, Gateway, GatewayProbes, Metrics, PolicyFile, PoolConfig, Upstream,
    upstream::{Address, Pool},
};
use forebay_policies::Policy;
use forebay_server::{Member, MemberProbes};
use prometheus::{Registry, process_collector::ProcessCollector};

use self::ports::{Bound, Fronts, Ports};
use crate::{
    discovery::dns::Resolver,
    flags::{gateway::GatewayConfig, server_config::ServerConfig, url::Url},
    notify,
    signals::{self, Stop},
    traces::Traces,
};

/// How long open requests may take to finish once the process was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How a role ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, as a member does that was removed from its cluster.
    Stopped,
    /// Because it was told to.
    Told(Stop),
}

/// The bundled server and the gateway in one process.
pub async fn up(config: ServerConfig) -> anyhow::Result<Ended> {
    let config = with_cluster(config).await?;
    let bound = bind(&config).await?;
    let tls = tls::member_clients(&config)?;
    let peer_ports = ports::peers(&config.listen_peer_urls, tls::member_peers(&config)?).await?;
    let registry = registry()?;
    let file = config.policy.clone().map(|path| PolicyFile::new(path, false));
    let member = forebay_server::start(settings::member(&config)?, peer_ports, &registry).await?;
    let told = Config {
        max_message_bytes: member.config().max_message_bytes(),
        advertise_client_urls: Vec::new(),
        admission: AdmissionConfig {
            policy: policy(file.as_ref())?,
            lists_in_pages: false,
            admin_token: config.admin_token_file.as_deref().map(admin_token).transpose()?,
            ..AdmissionConfig::default()
        },
        ..Config::default()
    };
    let traces = Traces::start(config.tracing.as_ref())?;
    let upstream = Upstream::Local(traces.of("forebay.server", member.api()));
    let gateway = Gateway::new(&told, upstream, Metrics::new(&registry)?);
    let running = gateway.clone();
    tokio::spawn(async move { running.run(file).await });
    let probes = Arc::new(MemberProbes::new(member.clone(), registry.clone()));
    let ports = serve(
        bound,
        tls,
        Served {
            grpc: measured(traces.of("forebay.gateway", gateway.api()), &registry)?,
            admission: Some(gateway.admission().clone()),
        },
        probes,
        &registry,
        settings::member_http(&config),
        &settings::member_limits(&config),
    )?;
    ready(&config.listen_client_urls);
    greet(&config);
    let ended = until_told_or_failed(&member).await;
    notify::stopping();
    tokio::join!(gateway.drain(GRACE), ports.close());
    member.stop().await;
    traces.stop().await;
    ended
}

/// The bundled server alone.
pub async fn server(config: ServerConfig) -> anyhow::Result<Ended> {
    let config = with_cluster(config).await?;
    let bound = bind(&config).await?;
    let tls = tls::member_clients(&config)?;
    let peer_ports = ports::peers(&config.listen_peer_urls, tls::member_peers(&config)?).await?;
    let registry = registry()?;
    let member = forebay_server::start(settings::member(&config)?, peer_ports, &registry).await?;
    if let Some(path) = &config.policy {
        let file = PolicyFile::new(path.clone(), false);
        let policy = file.load()?;
        tokio::spawn(quotas::hold(member.clone(), file, policy));
    }
    let traces = Traces::start(config.tracing.as_ref())?;
    let api = traces.of("forebay.server", member.api());
    let probes = Arc::new(MemberProbes::new(member.clone(), registry.clone()));
    let ports = serve(
        bound,
        tls,
        Served { grpc: measured(api, &registry)?, admission: None },
        probes,
        &registry,
        settings::member_http(&config),
        &settings::member_limits(&config),
    )?;
    ready(&config.listen_client_urls);
    let ended = until_told_or_failed(&member).await;
    notify::stopping();
    member.drain();
    ports.close().await;
    member.stop().await;
    traces.stop().await;
    ended
}

/// The gateway alone.
pub async fn gateway(config: GatewayConfig) -> anyhow::Result<Ended> {
    let config = with_endpoints(config).await?;
    let bound = Bound::new(&config.listen_client_urls, &[], &config.listen_metrics_urls, false).await?;
    let registry = registry()?;
    let metrics = Metrics::new(&registry)?;
    let file = config.policy.clone().map(|path| PolicyFile::new(path, config.shadow));
    let told = Config {
        advertise_client_urls: config.advertise_client_urls.iter().map(|url| url.as_str().to_owned()).collect(),
        max_message_bytes: config.max_request_bytes + forebay_server::GRPC_OVERHEAD_BYTES,
        user: settings::user(&config),
        mirror: settings::mirror(&config),
        admission: AdmissionConfig {
            policy: policy(file.as_ref())?,
            memory_bytes: config.memory_limit,
            lists_in_pages: true,
            slow_request: config.slow_request,
            admin_token: config.admin_token_file.as_deref().map(admin_token).transpose()?,
        },
        ..Config::default()
    };
    let pool = PoolConfig {
        connections: config.connections,
        connect_timeout: config.dial_timeout,
        keepalive_interval: config.keepalive_time,
        keepalive_timeout: config.keepalive_timeout,
        ..PoolConfig::default()
    };
    let addresses = Address::list(&config.endpoints.join(","))?;
    let upstream = Upstream::Remote(Pool::connect(&told, pool, addresses, tls::upstream(&config)?, metrics.clone()));
    let gateway = Gateway::new(&told, upstream, metrics);
    let running = gateway.clone();
    tokio::spawn(async move { running.run(file).await });
    let probes = GatewayProbes::new(&gateway, registry.clone()).expect("the upstream is a pool");
    let limits = settings::gateway_limits(&config);
    let tls = tls::gateway_clients(&config)?;
    let traces = Traces::start(config.tracing.as_ref())?;
    let api = traces.of("forebay.gateway", gateway.api());
    let served = Served { grpc: measured(api, &registry)?, admission: Some(gateway.admission().clone()) };
    let ports = serve(bound, tls, served, Arc::new(probes), &registry, settings::gateway_http(&config), &limits)?;
    ready(&config.listen_client_urls);
    let stop = signals::stop().await?;
    notify::stopping();
    tokio::join!(gateway.drain(GRACE), ports.close());
    traces.stop().await;
    Ok(Ended::Told(stop))
}

/// The policy of a file, or the built-in one.
fn policy(file: Option<&PolicyFile>) -> anyhow::Result<Policy> {
    Ok(file.map_or_else(|| Ok(Policy::builtin()), PolicyFile::load)?)
}

/// The token in a file.
fn admin_token(path: &Path) -> anyhow::Result<AdminToken> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--admin-token-file {}", path.display()))?;
    AdminToken::new(&text).with_context(|| format!("--admin-token-file {}: the file is empty", path.display()))
}

async fn bind(config: &ServerConfig) -> anyhow::Result<Bound> {
    if config.memory_mlock {
        lock_memory()?;
    }
    let ServerConfig { listen_client_urls: clients, listen_client_http_urls: http, .. } = config;
    Bound::new(clients, http, &config.listen_metrics_urls, config.socket_reuse_port).await
}

/// Keeps the memory of the process from being swapped out, what it takes later included.
fn lock_memory() -> anyhow::Result<()> {
    use rustix::mm::MlockAllFlags;
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).context("--memory-mlock: failed to lock the memory; raise `ulimit -l`, or leave it out")
}

/// Finds the cluster of a member that is to, unless it has been part of one.
async fn with_cluster(mut config: ServerConfig) -> anyhow::Result<ServerConfig> {
    let Some(discovery) = &config.discovery else { return Ok(config) };
    let log = config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("member").join("wal"));
    if !log.read_dir().is_ok_and(|mut files| files.next().is_some()) {
        let own = &config.initial_advertise_peer_urls;
        config.initial_cluster = discovery.cluster(&Resolver::system(), &config.name, own).await?;
        let shown: Vec<String> = (config.initial_cluster.iter())
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        tracing::info!(cluster = shown.join(","), domain = discovery.domain, "found the cluster by DNS");
    }
    Ok(config)
}

/// Finds the endpoints of a gateway that is to.
async fn with_endpoints(mut config: GatewayConfig) -> anyhow::Result<GatewayConfig> {
    let Some(discovery) = &config.discovery else { return Ok(config) };
    let mut found = discovery.endpoints(&Resolver::system()).await?;
    if !config.insecure_discovery {
        // Whoever can answer for DNS could otherwise name any host, and nothing would prove that it is the wrong one.
        let (verified, rest): (Vec<String>, Vec<String>) =
            found.into_iter().partition(|endpoint| endpoint.starts_with("https:"));
        for endpoint in rest {
            tracing::warn!(endpoint, "passed over an endpoint without TLS; --insecure-discovery would take it");
        }
        found = verified;
    }
    anyhow::ensure!(!found.is_empty(), "DNS names no endpoint under {} that may be used", discovery.domain);
    tracing::info!(endpoints = found.join(","), domain = discovery.domain, "found the endpoints by DNS");
    // Their certificates must be good for the domain that was asked for, not for whatever name DNS gives.
    config.tls.upstream.server_name.get_or_insert_with(|| discovery.domain.clone());
    config.endpoints = found;
    Ok(config)
}

/// A registry that has what the operating system knows of the process.
fn registry() -> anyhow::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Counts the calls of an API.
fn measured(api: Api, registry: &Registry) -> anyhow::Result<Api> {
    Ok(Api::new(Measured::new(api, registry)?))
}

/// What ports serve.
struct Served {
    grpc: Api,
    /// What operators may ask about; a member alone has none.
    admission: Option<Admission>,
}

/// Serves an API on the bound ports, as gRPC and as JSON. JSON requests become calls of it, so they are counted like
/// those of gRPC clients.
fn serve(
    bound: Bound,
    tls: Option<Acceptor>,
    Served { grpc, admission }: Served,
    probes: Arc<dyn Probes>,
    registry: &Registry,
    options: Options,
    limits: &Limits,
) -> anyhow::Result<Ports> {
    if let Some(admission) = &admission {
        admission.register(&options.names)?;
    }
    let max_message_bytes = options.max_message_bytes;
    let http = Front::new(grpc.clone(), probes, options, registry)?;
    let fronts = Fronts { grpc, max_message_bytes, http, admission };
    Ok(Ports::serve(bound, tls.as_ref(), &fronts, limits, GRACE))
}

/// Waits for a signal, or for the member to say that it cannot go on.
async fn until_told_or_failed(member: &Member) -> anyhow::Result<Ended> {
    tokio::select! {
        stop = signals::stop() => Ok(Ended::Told(stop?)),
        reason = member.ended() => match reason {
            forebay_server::Ended::Removed => {
                tracing::warn!("the member was removed from its cluster, and ends");
                Ok(Ended::Stopped)
            }
            forebay_server::Ended::Failed(reason) => Err(anyhow::anyhow!(reason)),
        }
    }
}

/// Says that clients are served, in the words that etcd's tools wait for.
fn ready(urls: &[Url]) {
    for url in urls {
        tracing::info!(address = url.as_str(), "ready to serve client requests");
    }
    notify::ready("serving clients");
    notify::watch();
}

/// Tells a newcomer what to try.
fn greet(config: &ServerConfig) {
    // Where it listens may be no address that anybody can connect to, as 0.0.0.0.
    let Some(url) = config.advertise_client_urls.first() else { return };
    let endpoint = url.as_str();
    let text = format!(
        "\nforebay listens on {endpoint}, data in {}. Try, from another terminal:\n\
         \n  etcdctl --endpoints {endpoint} put greeting hello\
         \n  etcdctl --endpoints {endpoint} watch --prefix greet\
         \n  curl -s {endpoint}/v3/kv/range -d '{{\"key\":\"Z3JlZXRpbmc=\"}}'\n\
         \nThe console is at {endpoint}/console/.\n\
         \nCtrl-C stops it.\n",
        config.data_dir.display()
    );
    // Nobody reads it if stdout is closed.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
