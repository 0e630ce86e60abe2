//! What comparisons set up: stores, the front tiers before them, and what their metrics say.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::process::{Process, etcd_flags, free_address};

/// How long a mirror may take to be filled.
const FILL_MAX: Duration = Duration::from_secs(120);

/// A store of one member, with its data and log in `scratch`: etcd, or with a `command` ours. `scheme` is what
/// clients speak.
pub fn store(name: &str, program: &Path, command: &[&str], scheme: &str, scratch: &Path) -> anyhow::Result<Process> {
    let (client, peer) = (free_address()?, free_address()?);
    let mut args: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    args.extend(etcd_flags(&scratch.join(name), scheme, client, peer));
    Process::start(program, &args, client, scratch.join(format!("{name}.log")))
}

/// etcd's own proxy before a store.
pub fn grpc_proxy(etcd: &Path, store: SocketAddr, scratch: &Path) -> anyhow::Result<Process> {
    let address = free_address()?;
    let args = [
        "grpc-proxy".to_owned(),
        "start".to_owned(),
        format!("--endpoints={store}"),
        format!("--listen-addr={address}"),
        format!("--data-dir={}", scratch.join("grpc-proxy").display()),
    ];
    Process::start(etcd, &args, address, scratch.join("grpc-proxy.log"))
}

/// Our gateway as a process of its own before a store; `more` are flags of its own.
pub fn gateway(
    name: &str,
    forebay: &Path,
    store: SocketAddr,
    more: &[String],
    scratch: &Path,
) -> anyhow::Result<Process> {
    let address = free_address()?;
    let mut args = vec![
        "gateway".to_owned(),
        format!("--endpoints={store}"),
        format!("--listen-client-urls=http://{address}"),
        "--log-level=error".to_owned(),
    ];
    args.extend_from_slice(more);
    Process::start(forebay, &args, address, scratch.join(format!("{name}.log")))
}

/// Waits until a gateway answers from its mirror.
pub async fn mirrored(gateway: SocketAddr) -> anyhow::Result<()> {
    let filled = async {
        while metric(gateway, "forebay_mirror_serving").await? != 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FILL_MAX, filled).await.context("there is no mirror")?
}

/// The value of a metric, summed over its labels, on the page that is served where clients connect.
pub async fn metric(address: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address).await?;
    // Of a version that has no chunks.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.with_context(|| format!("the metrics of {address}"))?;
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<f64>().ok())?
    });
    values.reduce(|sum, value| sum + value).with_context(|| format!("{address} has no metric {name}"))
}
