//! A headless Chromium with one page, spoken to by its debugging protocol: enough to type, to press and to look.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// How long anything may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The one of this machine, if it has one.
pub fn chromium() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("chromium")).find(|path| path.is_file())
}

/// A page of a browser that ends with it.
pub struct Page {
    browser: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    sent: u64,
    /// What the page said on its console, and what it threw.
    pub complaints: Vec<String>,
    _profile: TempDir,
}

impl Page {
    /// Opens a page of this size.
    pub async fn open(chromium: &Path, (width, height): (u32, u32), is_dark: bool, url: &str) -> anyhow::Result<Page> {
        let profile = TempDir::with_prefix("conformance-browser-")?;
        let mut browser = Command::new(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(browser.stderr.take().context("it was asked for")?);
        // It says where it listens before anything is asked of it, and then little.
        let told = tokio::task::spawn_blocking(move || {
            let mut lines = said.lines().map_while(Result::ok);
            let told = lines.find_map(|line| Some(line.strip_prefix("DevTools listening on ")?.to_owned()));
            std::thread::spawn(move || lines.for_each(drop));
            told
        });
        let address = tokio::time::timeout(PATIENCE, told).await??.context("the browser listens nowhere")?;
        let (socket, _) = connect_async(address).await?;
        let (session, complaints) = (String::new(), Vec::new());
        let mut page = Page { browser, socket, session, sent: 0, complaints, _profile: profile };
        let made = page.ask("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attached = json!({"targetId": made["targetId"], "flatten": true});
        let attached = page.ask("Target.attachToTarget", attached).await?;
        attached["sessionId"].as_str().context("a session")?.clone_into(&mut page.session);
        page.ask("Runtime.enable", json!({})).await?;
        page.ask("Page.enable", json!({})).await?;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        page.ask("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = json!({"name": "prefers-color-scheme", "value": if is_dark { "dark" } else { "light" }});
        page.ask("Emulation.setEmulatedMedia", json!({"features": [scheme]})).await?;
        page.ask("Page.navigate", json!({"url": url})).await?;
        Ok(page)
    }

    async fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.sent += 1;
        let mut question = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            question["sessionId"] = self.session.as_str().into();
        }
        self.socket.send(Message::text(question.to_string())).await?;
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let Some(message) = next.with_context(|| method.to_owned())? else { bail!("the browser went away") };
            let Message::Text(text) = message? else { continue };
            let said: Value = serde_json::from_str(&text)?;
            match said["method"].as_str() {
                Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => {
                    self.complaints.push(said["params"].to_string());
                }
                _ if said["id"] == self.sent => {
                    ensure!(said.get("error").is_none(), "{method}: {}", said["error"]);
                    return Ok(said["result"].clone());
                }
                _ => {}
            }
        }
    }

    /// What an expression comes to in the page.
    pub async fn eval(&mut self, expression: &str) -> anyhow::Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", asked).await?;
        ensure!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.eval(expression).await? != true {
            if began.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText").await?;
                bail!("never: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// What is seen of it, as PNG.
    pub async fn screenshot(&mut self) -> anyhow::Result<Vec<u8>> {
        let answer = self.ask("Page.captureScreenshot", json!({"format": "png"})).await?;
        Ok(STANDARD.decode(answer["data"].as_str().context("a picture")?)?)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Either fails only for one that has ended.
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
