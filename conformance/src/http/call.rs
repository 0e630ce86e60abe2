//! One HTTP/1.1 request on a connection of its own.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A request, not yet sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method, sent as it is.
    pub method: &'static str,
    /// Path and query, sent as they are.
    pub path: String,
    /// Headers beside `Host`, `Connection` and `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body, sent as it is.
    pub body: Vec<u8>,
    /// Read this many lines of an endless body and then hang up.
    pub lines: Option<usize>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body without its chunking.
    pub body: Vec<u8>,
}

impl Call {
    /// A GET without a body.
    pub fn get(path: impl Into<String>) -> Call {
        Call { method: "GET", path: path.into(), headers: Vec::new(), body: Vec::new(), lines: None }
    }

    /// A POST.
    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Call {
        Call { method: "POST", body: body.into(), ..Call::get(path) }
    }

    /// The same with another method.
    pub fn method(mut self, method: &'static str) -> Call {
        self.method = method;
        self
    }

    /// The same with one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, hanging up after so many lines of the body.
    pub fn lines(mut self, lines: usize) -> Call {
        self.lines = Some(lines);
        self
    }

    /// Sends the request and reads the answer to its end.
    pub async fn send(&self, to: SocketAddr) -> anyhow::Result<Response> {
        tokio::time::timeout(LIMIT, self.exchange(to)).await.context("no HTTP answer in time")?
    }

    async fn exchange(&self, to: SocketAddr) -> anyhow::Result<Response> {
        let mut stream = TcpStream::connect(to).await?;
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.method != "GET" || !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        // A server may answer and close before it has read an oversized body; what it said counts.
        let sent = stream.write_all(&[head.as_bytes(), &self.body].concat()).await;
        let mut received = Vec::new();
        loop {
            let read = stream.read_buf(&mut received).await;
            let ended = matches!(read, Ok(0) | Err(_));
            match Response::parse(&received, self.method == "HEAD") {
                Some((response, whole)) => {
                    let enough = self.lines.is_some_and(|lines| response.line_count() >= lines);
                    if ended || enough || whole {
                        return Ok(response);
                    }
                }
                None if ended => {
                    sent?;
                    bail!("the connection ended after {} bytes", received.len());
                }
                None => {}
            }
        }
    }
}

impl Response {
    /// The first value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn line_count(&self) -> usize {
        self.body.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// What can be read of an answer so far and whether that is all of it; `None` until its head is whole.
    fn parse(received: &[u8], headless: bool) -> Option<(Response, bool)> {
        let end = received.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: received[end + 4..].to_vec() };
        if headless {
            response.body.clear();
            return Some((response, true));
        }
        let whole = if response.header("transfer-encoding") == Some("chunked") {
            let (body, whole) = dechunk(&response.body);
            response.body = body;
            whole
        } else {
            response.header("content-length").is_some_and(|length| length.parse() == Ok(response.body.len()))
        };
        Some((response, whole))
    }
}

/// The content of the chunks that are whole, and whether the last one was among them.
fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..line]);
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else { break };
        if size == 0 {
            return (body, true);
        }
        let start = line + 2;
        let Some(chunk) = rest.get(start..start + size) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(start + size + 2..).unwrap_or_default();
    }
    (body, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_one_body_and_the_last_one_ends_it() {
        assert_eq!(dechunk(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), (b"abcde".to_vec(), true));
        assert_eq!(dechunk(b"3\r\nabc\r\n2\r\nd"), (b"abc".to_vec(), false));
    }

    #[test]
    fn a_head_is_awaited_before_anything_is_said() {
        assert_eq!(Response::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n", false), None);
        let answer = b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nxy";
        let (response, whole) = Response::parse(answer, false).expect("the head is whole");
        assert!(!whole, "only the end of the connection ends this body");
        assert_eq!((response.status, response.header("a"), response.body_text().as_str()), (404, Some("b"), "xy"));
    }
}
