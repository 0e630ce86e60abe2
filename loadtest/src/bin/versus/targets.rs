//! What is compared: servers, and the front tiers before them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use forebay_loadtest::{
    client::{self, Connection, trusting},
    process::{Process, free_address, own_certificate},
    tiers,
};

use crate::{CONNECTIONS, KEYS, Options};

/// What a target is, and with it which work it takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A store of its own.
    Server,
    /// Another one's answers: a proxy, or a store together with the gateway.
    Front,
    /// Our store under TLS. etcd's own making of certificates is of a kind that Rust's library does not believe.
    Tls,
    /// Answers that mean nothing.
    Empty,
}

/// One thing under load.
pub struct Target {
    pub name: &'static str,
    pub kind: Kind,
    /// The targets that its figures are given as multiples of.
    pub bases: &'static [&'static str],
    pub channels: Vec<Connection>,
    process: Arc<Process>,
    /// The process that it forwards to, if it does.
    upstream: Option<Arc<Process>>,
}

impl Target {
    /// User and system CPU time so far: its own, and its upstream's.
    pub fn cpu(&self) -> anyhow::Result<(Duration, Duration)> {
        let upstream = self.upstream.as_ref().map(|process| process.cpu()).transpose()?;
        Ok((self.process.cpu()?, upstream.unwrap_or_default()))
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> anyhow::Result<u64> {
        self.process.rss()
    }
}

/// Starts everything that the options name, each front right after what it is compared with, since neighbours in a
/// round share the machine's moods.
pub async fn start(options: &Options, scratch: &Path) -> anyhow::Result<Vec<Target>> {
    let mut starter = Starter { scratch, targets: Vec::new() };
    if let Some(etcd) = &options.etcd {
        let process = starter.server("etcd", etcd, &[], Kind::Server, &["empty"]).await?;
        let proxy = Arc::new(tiers::grpc_proxy(etcd, process.address, scratch)?);
        starter.add("grpc-proxy", Kind::Front, &["etcd"], proxy, Some(process), None).await?;
        if let Some(forebay) = &options.forebay {
            let store = starter.behind("behind-etcd", etcd, &[]).await?;
            starter.gateway("gateway-etcd", forebay, store, &[], &["etcd", "grpc-proxy"]).await?;
        }
    }
    if let Some(forebay) = &options.forebay {
        let process = starter.server("forebay", forebay, &["server"], Kind::Server, &["etcd", "empty"]).await?;
        starter.server("forebay-tls", forebay, &["server"], Kind::Tls, &["forebay"]).await?;
        starter.gateway("passing", forebay, process, &["--mirror=off"], &["forebay"]).await?;
        let store = starter.behind("behind", forebay, &["server"]).await?;
        starter.gateway("gateway", forebay, store, &[], &["forebay"]).await?;
        starter.server("up", forebay, &["up"], Kind::Front, &["forebay"]).await?;
    }
    let address = free_address()?;
    let args = ["empty-server".to_owned(), address.to_string()];
    let empty = Arc::new(Process::start(&std::env::current_exe()?, &args, address, scratch.join("empty.log"))?);
    starter.add("empty", Kind::Empty, &[], empty, None, None).await?;
    Ok(starter.targets)
}

struct Starter<'a> {
    scratch: &'a Path,
    targets: Vec<Target>,
}

impl Starter<'_> {
    /// Starts a store with data of its own and fills it.
    async fn server(
        &mut self,
        name: &'static str,
        program: &Path,
        command: &[&str],
        kind: Kind,
        bases: &'static [&'static str],
    ) -> anyhow::Result<Arc<Process>> {
        let scheme = if kind == Kind::Tls { "https" } else { "http" };
        let process = Arc::new(tiers::store(name, program, command, scheme, self.scratch)?);
        let trusted = (kind == Kind::Tls).then(|| own_certificate(&self.scratch.join(name)));
        self.add(name, kind, bases, process.clone(), None, trusted.as_deref()).await?;
        let channels = &self.targets.last().expect("added above").channels;
        KEYS.load(channels, "key/").await.with_context(|| format!("loading {name}"))?;
        Ok(process)
    }

    /// Starts a store for a gateway alone: a mirror's watch would cost the store that others are compared with.
    async fn behind(&self, name: &str, program: &Path, command: &[&str]) -> anyhow::Result<Arc<Process>> {
        let process = Arc::new(tiers::store(name, program, command, "http", self.scratch)?);
        let channels = client::Target::at(process.address).connect(CONNECTIONS).await?;
        KEYS.load(&channels, "key/").await.with_context(|| format!("loading {name}"))?;
        Ok(process)
    }

    /// Starts our gateway in front of a store.
    async fn gateway(
        &mut self,
        name: &'static str,
        program: &Path,
        upstream: Arc<Process>,
        flags: &[&str],
        bases: &'static [&'static str],
    ) -> anyhow::Result<()> {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let process = Arc::new(tiers::gateway(name, program, upstream.address, &flags, self.scratch)?);
        if flags.is_empty() {
            tiers::mirrored(process.address).await?;
        }
        self.add(name, Kind::Front, bases, process, Some(upstream), None).await
    }

    async fn add(
        &mut self,
        name: &'static str,
        kind: Kind,
        bases: &'static [&'static str],
        process: Arc<Process>,
        upstream: Option<Arc<Process>>,
        trusted: Option<&Path>,
    ) -> anyhow::Result<()> {
        let mut target = client::Target::at(process.address);
        if let Some(trusted) = trusted {
            target.endpoints = vec![format!("https://{}", process.address)];
            target.tls = Some(trusting(trusted).await?);
        }
        let channels = target.connect(CONNECTIONS).await?;
        self.targets.push(Target { name, kind, bases, channels, process, upstream });
        Ok(())
    }
}
