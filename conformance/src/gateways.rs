//! Gateways of their own, in front of whatever listens somewhere.

use std::{net::SocketAddr, process::Command, time::Instant};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::{
    http, peers,
    target::{Process, START_LIMIT, free_addresses},
};

/// A gateway. Ends with the value.
#[derive(Debug)]
pub struct Gateway {
    /// Where clients connect.
    pub client: SocketAddr,
    process: Process,
    // Dropped after the process that writes into it.
    _dir: TempDir,
}

impl Gateway {
    /// Starts one in front of these URLs, and waits until it answers from its mirror. `args` go to it.
    pub async fn start(endpoints: &[String], args: &[&str]) -> anyhow::Result<Gateway> {
        let dir = TempDir::with_prefix("conformance-gateway-")?;
        let [client] = free_addresses()?;
        let mut command = Command::new(peers::forebay().context(peers::BUILD)?);
        command.args(["gateway", "--endpoints", &endpoints.join(","), "--log-level", "warn"]);
        command.args(["--listen-client-urls", &format!("http://{client}")]).args(args);
        let mut process = Process::spawn(command, client, dir.path().join("log"))?;
        process.serving().await?;
        let gateway = Gateway { client, process, _dir: dir };
        gateway.is_mirrored().await?;
        Ok(gateway)
    }

    /// Ends it with SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, as an operator does, and waits until it has.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate().await
    }

    /// Starts it again at the same address, and waits until it answers from its mirror.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.restart().await?;
        self.is_mirrored().await
    }

    /// Stops it in its tracks, until [`Gateway::resume`].
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.signal("STOP")
    }

    /// Lets it go on as if nothing had been.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal("CONT")
    }

    /// Waits until it answers from its mirror.
    pub async fn is_mirrored(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.metric("forebay_mirror_serving").await? != Some(1.0) {
            ensure!(started.elapsed() < START_LIMIT, "no mirror after {START_LIMIT:?}:\n{}", self.process.log());
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        }
        Ok(())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let page = http::Call::get("/metrics").send(self.client).await?.body_text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().context("a metric is a number")).transpose()
    }
}
