//! The store, and the ways to it.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use forebay_loadtest::{
    client::{Connection, Target},
    process::Process,
    tiers,
    work::Counted,
};
use tempfile::TempDir;

use crate::{Options, report::Figures};

const CONNECTIONS: usize = 10;

/// A way to the store.
pub struct Front {
    pub name: &'static str,
    pub channels: Vec<Connection>,
    pub process: Process,
}

/// One store, and all ways to it.
pub struct Fronts {
    /// The direct one first, and the gateway last.
    pub all: Vec<Front>,
    /// Dropped after what writes into it.
    _scratch: TempDir,
}

impl Fronts {
    /// Starts an empty etcd and what stands before it; `with_proxy` its own proxy too.
    pub async fn start(options: &Options, with_proxy: bool) -> anyhow::Result<Fronts> {
        let scratch = tempfile::tempdir()?;
        let path: &Path = scratch.path();
        let etcd = tiers::store("etcd", &options.etcd, &[], "http", path)?;
        let at = etcd.address;
        let mut processes = vec![("etcd", etcd)];
        if with_proxy {
            processes.push(("grpc-proxy", tiers::grpc_proxy(&options.etcd, at, path)?));
        }
        processes.push(("gateway", tiers::gateway("gateway", &options.forebay, at, &[], path)?));
        let mut all = Vec::new();
        for (name, process) in processes {
            let channels = Target::at(process.address).connect(CONNECTIONS).await?;
            all.push(Front { name, channels, process });
        }
        let fronts = Fronts { all, _scratch: scratch };
        tiers::mirrored(fronts.gateway().process.address).await?;
        Ok(fronts)
    }

    pub fn direct(&self) -> &Front {
        &self.all[0]
    }

    pub fn gateway(&self) -> &Front {
        self.all.last().expect("there is always a gateway")
    }

    /// A metric of the gateway.
    pub async fn gateways(&self, metric: &str) -> anyhow::Result<f64> {
        tiers::metric(self.gateway().process.address, metric).await
    }

    /// A metric of the store.
    pub async fn stores(&self, metric: &str) -> anyhow::Result<f64> {
        tiers::metric(self.direct().process.address, metric).await
    }

    /// Runs some work, and counts what it cost this front and the store.
    pub async fn measured(
        &self,
        front: &Front,
        run: impl Future<Output = anyhow::Result<Counted>>,
    ) -> anyhow::Result<Figures> {
        let now = async || anyhow::Ok((front.process.cpu()?, self.direct().process.cpu()?, self.requests().await?));
        let before = now().await?;
        let counted = run.await.with_context(|| front.name)?;
        let after = now().await?;
        let each = |total: Duration| total.as_secs_f64() * 1e6 / counted.operations as f64;
        let is_direct = front.name == self.direct().name;
        Ok(Figures {
            rate: counted.operations as f64 / counted.elapsed.as_secs_f64(),
            own_us: each(after.0 - before.0),
            upstream_us: if is_direct { 0.0 } else { each(after.1 - before.1) },
            requests: (after.2 - before.2) / counted.operations as f64,
        })
    }

    /// Calls that came to the store so far.
    async fn requests(&self) -> anyhow::Result<f64> {
        self.stores("grpc_server_started_total").await
    }
}
