//! The console in a real, headless Chromium: what it shows, and that nothing in it goes wrong or is let in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    browser::{Page, chromium},
    peers, session,
    target::{Kind, Target},
};
use forebay_loadtest::process::{Process, etcd_flags, free_address};
use forebay_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use tempfile::TempDir;

const INSTALL: &str = "no chromium on the PATH; apt-get install chromium";

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

const POLICY: &str = "
apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: control-plane}
spec:
  flowRules:
    - name: lists
      matchingPrecedence: 500
      mode: Shadow
      match: {rpcs: [Range], keys: [/registry/pods/]}
      priorityLevel: catch-all
      limits: {requests: 5/s}
      onLimit: Reject
";

/// Presses what has this text.
fn press(text: &str) -> String {
    format!("[...document.querySelectorAll('button, a')].find(part => part.textContent.trim() === '{text}').click()")
}

/// Whether something that can be pressed has this text.
fn offers(text: &str) -> String {
    format!("[...document.querySelectorAll('button, a')].some(part => part.textContent.trim() === '{text}')")
}

/// Types the admin token into the dialog for it.
async fn bring(page: &mut Page, token: &str) -> anyhow::Result<()> {
    let field = "document.querySelector('#dialog input[name=token]')";
    page.until(&format!("!!{field}")).await?;
    page.eval(&format!("{field}.value = '{token}'")).await?;
    page.eval(&press("Use it")).await.map(drop)
}

async fn operator(chromium: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let (token, policy) = (scratch.path().join("token"), scratch.path().join("policy.yaml"));
    fs::write(&token, "s3cret\n")?;
    fs::write(&policy, POLICY)?;
    let (client, peer) = (free_address()?, free_address()?);
    let mut args = vec!["up".to_owned(), format!("--policy={}", policy.display())];
    args.push(format!("--admin-token-file={}", token.display()));
    args.extend(etcd_flags(&scratch.path().join("data"), "http", client, peer));
    let program = peers::forebay().context(peers::BUILD)?;
    let _up = Process::start(&program, &args, client, scratch.path().join("log"))?;

    let mut page = Page::open(chromium, (1280, 800), false, &format!("http://{client}/console/#policy")).await?;
    // Without the token nothing is told, and nothing offered that changes anything.
    page.until("document.body?.innerText.includes('brings the admin token') === true").await?;
    ensure!(page.eval(&offers("enforce")).await? == false, "somebody without the token may change a rule");
    page.eval(&press("operator")).await?;
    bring(&mut page, "wrong").await?;
    page.until("document.querySelector('#dialog').innerText.includes('not the token')").await?;
    bring(&mut page, "s3cret").await?;
    page.until(&offers("enforce")).await?;
    page.eval(&press("enforce")).await?;
    page.until(&offers("Enforce this rule")).await?;
    page.eval(&press("Enforce this rule")).await?;
    page.until("document.querySelector('#dialog').innerText.includes('lists: Enforce')").await?;
    page.eval(&press("Close")).await?;
    page.until(&offers("only count")).await?;

    page.eval("location.hash = 'storage'").await?;
    for (action, said) in [("Defragment", "now "), ("Disarm alarms", "0 disarmed")] {
        page.until(&offers(action)).await?;
        page.eval(&press(action)).await?;
        page.until("!!document.querySelector('#dialog[open] .danger')").await?;
        page.eval("document.querySelector('#dialog .danger').click()").await?;
        page.until(&format!("document.querySelector('#dialog').innerText.includes('{said}')")).await?;
        page.eval(&press("Close")).await?;
    }
    page.eval(&press("stop acting as operator")).await?;
    page.until(&format!("!({})", offers("Defragment"))).await?;
    // That the token is refused is what the browser says of the wrong one; it is no complaint of the page.
    ensure!(page.complaints.is_empty(), "{:#?}", page.complaints);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_brings_the_admin_token_may_change_things_and_nobody_else() {
    let test = "console::who_brings_the_admin_token_may_change_things_and_nobody_else";
    let Some(chromium) = chromium() else { return peers::skip_extra(test, INSTALL) };
    if let Some(missing) = Kind::Server.missing() {
        return peers::skip(test, missing);
    }
    operator(&chromium).await.context("the console").unwrap();
}

/// Twice what is promised of a quiet machine, on one that may be busy: the fastest of several.
const PAINT_MS: f64 = 2000.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_paint_is_soon_on_a_screen_and_on_a_phone() {
    let test = "console::the_first_paint_is_soon_on_a_screen_and_on_a_phone";
    let Some(chromium) = chromium() else { return peers::skip_extra(test, INSTALL) };
    if let Some(missing) = Kind::Server.missing() {
        return peers::skip(test, missing);
    }
    let target = Target::start(Kind::Server, &[]).await.unwrap();
    let url = format!("http://{}/console/", target.client);
    for (size, is_dark) in [((1280, 800), false), ((1280, 800), true), ((400, 800), false), ((400, 800), true)] {
        let mut fastest = f64::INFINITY;
        for _ in 0..3 {
            let mut page = Page::open(&chromium, size, is_dark, &url).await.unwrap();
            let paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
            page.until(&format!("({paint}) > 0")).await.unwrap();
            fastest = fastest.min(page.eval(paint).await.unwrap().as_f64().unwrap());
            page.until("document.querySelectorAll('main section').length > 3").await.unwrap();
            // Nothing stands out to the right, where nobody would look for it.
            let width = page.eval("document.documentElement.scrollWidth").await.unwrap();
            assert_eq!(width, size.0, "the page is wider than the screen");
            let background = page.eval("getComputedStyle(document.body).backgroundColor").await.unwrap();
            assert_eq!(background, if is_dark { "rgb(17, 24, 27)" } else { "rgb(246, 248, 249)" });
            assert!(page.screenshot().await.unwrap().len() > 10_000, "there is something to be seen");
            assert!(page.complaints.is_empty(), "{:#?}", page.complaints);
        }
        println!("{size:?} dark {is_dark}: first contentful paint after {fastest:.0} ms");
        assert!(fastest < PAINT_MS, "first contentful paint after {fastest:.0} ms");
    }
}
