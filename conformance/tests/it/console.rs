//! The console in a real, headless Chromium: what it shows, and that nothing in it goes wrong or is let in.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    peers, session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use tempfile::TempDir;

const INSTALL: &str = "no chromium on the PATH; apt-get install chromium";

fn chromium() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("chromium")).find(|path| path.is_file())
}

/// The page as it stands after some refreshes, and what the browser complained about.
fn open(chromium: &PathBuf, url: &str, size: &str) -> anyhow::Result<(String, Vec<String>)> {
    let profile = TempDir::with_prefix("conformance-console-")?;
    let output = Command::new("timeout")
        .arg("60")
        .arg(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"])
        .args(["--virtual-time-budget=9000", "--dump-dom"])
        .arg(format!("--window-size={size}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()?;
    ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaints = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Ok((String::from_utf8(output.stdout)?, complaints))
}

/// A Service as Kubernetes stores it.
fn service() -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }
    let kind = [field(1, b"v1"), field(2, b"Service")].concat();
    let metadata = [field(1, b"kubedns"), field(3, b"kube-system")].concat();
    [b"k8s\0".to_vec(), field(1, &kind), field(2, &field(1, &metadata))].concat()
}

async fn every_view(chromium: &PathBuf) -> anyhow::Result<()> {
    let target = Target::start(Kind::GatewayOverServer, &[]).await?;
    let mut kv = KvClient::new(session::connect(&target).await?);
    let hostile = "<img src=x onerror=console.error(1)>";
    for (key, value) in [
        ("/app/config".to_owned(), b"{\"a\": 1}".to_vec()),
        ("/app/config".to_owned(), b"{\"a\": 2}".to_vec()),
        (format!("/app/{hostile}"), hostile.as_bytes().to_vec()),
        ("/registry/services/specs/kube-system/kubedns".to_owned(), service()),
    ] {
        kv.put(PutRequest { key: key.into(), value: value.into(), ..Default::default() }).await?;
    }
    let at = target.client;
    for (view, wanted) in [
        ("", "99 % of unary calls within"),
        ("#clients", "requests × objects × size"),
        ("#policy", "forebay-catch-all"),
        ("#watches", "mirror serves"),
        ("#storage", "CONNECTIONS"),
        ("#keys", "3 keys under everything"),
        ("#keys:/app/", "&lt;img src=x"),
        ("#keys=/app/config", "changes since v1"),
        ("#keys=/registry/services/specs/kube-system/kubedns", "<strong>Service</strong> v1, kube-system/kubedns"),
    ] {
        // Two of them on a phone too.
        for size in if view.len() < 9 { ["1280,800", "400,800"].as_slice() } else { &["1280,800"] } {
            let (page, complaints) = open(chromium, &format!("http://{at}/console/{view}"), size)?;
            ensure!(complaints.is_empty(), "{view} at {size}: {complaints:#?}");
            ensure!(page.contains(wanted), "{view} at {size} does not show {wanted:?}:\n{page}");
            ensure!(!page.contains("<img"), "{view} at {size}: a key became markup");
        }
    }
    // A member alone has another view of itself.
    let (page, complaints) = open(chromium, &format!("http://{}/console/#storage", target.member), "1280,800")?;
    ensure!(complaints.is_empty() && page.contains("WAL fsyncs"), "{complaints:#?}\n{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_of_the_console_is_shown_without_a_complaint() {
    let test = "console::every_view_of_the_console_is_shown_without_a_complaint";
    let Some(chromium) = chromium() else { return peers::skip_extra(test, INSTALL) };
    if let Some(missing) = Kind::GatewayOverServer.missing() {
        return peers::skip(test, missing);
    }
    every_view(&chromium).await.context("the console").unwrap();
}
