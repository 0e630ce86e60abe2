//! Questions over HTTP, one connection each: a few small requests are all a doctor asks.

use std::{io, time::Duration};

use anyhow::{Context as _, bail, ensure};
use forebay_edge::tls::{ClientOptions, Connector};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::observe;

/// The longest answer that is read: a metrics page with room to spare.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Who is asked.
#[derive(Clone)]
pub(super) struct Target {
    /// As it can be given to etcdctl.
    pub(super) url: String,
    pub(super) host: String,
    port: u16,
    tls: Option<Connector>,
    patience: Duration,
}

/// Status and body.
pub(super) type Answer = (u16, String);

impl Target {
    /// Reads `host:port` or a URL. Without a scheme it is `https` if `is_tls`.
    pub(super) fn parse(text: &str, is_tls: bool, tls: &ClientOptions, patience: Duration) -> anyhow::Result<Target> {
        let (scheme, rest) = text.split_once("://").unwrap_or((if is_tls { "https" } else { "http" }, text));
        ensure!(scheme == "http" || scheme == "https", "{text}: an endpoint begins with http:// or https://");
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap_or((rest.trim_end_matches('/'), "2379"));
        let port = port.parse().with_context(|| format!("{text}: {port:?} is no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        ensure!(!host.is_empty(), "{text}: no host");
        let tls = (scheme == "https").then(|| Connector::new(tls.clone())).transpose()?;
        Ok(Target { url: format!("{scheme}://{rest}"), host, port, tls, patience })
    }

    /// A GET.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.get_with(path, "").await
    }

    /// A GET of what a gateway tells its operator alone.
    pub(super) async fn get_as_operator(&self, path: &str) -> anyhow::Result<Answer> {
        self.get_with(path, &observe::authorization()).await
    }

    async fn get_with(&self, path: &str, header: &str) -> anyhow::Result<Answer> {
        self.exchange(format!("GET {path} HTTP/1.0\r\nHost: {}:{}\r\n{header}\r\n", self.host, self.port)).await
    }

    /// A method of the JSON API. What is refused is an error with the server's words.
    pub(super) async fn post(&self, path: &str, body: &Value, token: Option<&str>) -> anyhow::Result<Value> {
        let body = body.to_string();
        let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
        let (status, text) = self
            .exchange(format!(
                "POST {path} HTTP/1.0\r\nHost: {}:{}\r\n{token}Content-Length: {}\r\n\r\n{body}",
                self.host,
                self.port,
                body.len()
            ))
            .await?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {status} {}", text.trim()))?;
        match value["error"].as_str().or(value["message"].as_str()) {
            Some(error) if status != 200 => bail!("{error}"),
            _ => Ok(value),
        }
    }

    async fn exchange(&self, request: String) -> anyhow::Result<Answer> {
        let exchange = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            match &self.tls {
                Some(tls) => over(tls.connect(stream, &self.host).await?, &request).await,
                None => over(stream, &request).await,
            }
        };
        timeout(self.patience, exchange).await.with_context(|| format!("no answer within {:?}", self.patience))?
    }
}

async fn over<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> anyhow::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut received = Vec::new();
    match (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut received).await {
        Ok(_) => {}
        // Some servers end TLS without saying so; the answer is there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error.into()),
    }
    let text = String::from_utf8_lossy(&received);
    let (head, body) = text.split_once("\r\n\r\n").context("that is no HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("that is no HTTP")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use forebay_edge::tls::{Protocol, Verify};

    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_a_host_and_a_port() {
        let tls = ClientOptions {
            verify: Verify::InsecureSkip,
            identity: None,
            server_name: None,
            protocol: Protocol::default(),
            speaks: vec![],
        };
        let parse = |text: &str| {
            let target = Target::parse(text, false, &tls, Duration::from_secs(1)).ok()?;
            Some((target.host, target.port))
        };
        assert_eq!(parse("10.0.0.1:2379"), Some(("10.0.0.1".into(), 2379)));
        assert_eq!(parse("http://[::1]:23/"), Some(("::1".into(), 23)));
        assert_eq!(parse("etcd.example"), Some(("etcd.example".into(), 2379)));
        assert_eq!(parse("unix://a:1"), None);
        assert_eq!(parse("a:b"), None);
    }
}
