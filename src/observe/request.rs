//! One request to a gateway. HTTP/1.0, because then the end of the connection is the end of the answer, and a few lines
//! are all it takes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use crate::flags::Problem;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The whole answer.
pub(super) fn get(endpoint: &str, page: &str) -> Result<String, Problem> {
    let mut reader = open(endpoint, page, Some(CONNECT_TIMEOUT))?;
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(|error| failed(endpoint, &error.to_string()))?;
    Ok(text)
}

/// The answer to a text.
pub(super) fn post(endpoint: &str, page: &str, text: &str) -> Result<String, Problem> {
    let mut reader = exchange(endpoint, "POST", page, text, Some(CONNECT_TIMEOUT))?;
    let mut answer = String::new();
    reader.read_to_string(&mut answer).map_err(|error| failed(endpoint, &error.to_string()))?;
    Ok(answer)
}

/// The answer as it comes.
pub(super) fn stream(endpoint: &str, page: &str) -> Result<BufReader<TcpStream>, Problem> {
    open(endpoint, page, None)
}

fn open(endpoint: &str, page: &str, patience: Option<Duration>) -> Result<BufReader<TcpStream>, Problem> {
    exchange(endpoint, "GET", page, "", patience)
}

fn exchange(
    endpoint: &str,
    method: &str,
    page: &str,
    body: &str,
    patience: Option<Duration>,
) -> Result<BufReader<TcpStream>, Problem> {
    let mut addresses = endpoint.to_socket_addrs().map_err(|error| failed(endpoint, &error.to_string()))?;
    let address = addresses.next().ok_or_else(|| failed(endpoint, "the name has no address"))?;
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(patience)?;
        let length = body.len();
        write!(stream, "{method} /forebay/v1/{page} HTTP/1.0\r\nHost: {address}\r\n")?;
        write!(stream, "Content-Length: {length}\r\n{}\r\n{body}", authorization())?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        let mut header = String::from("-");
        while !header.trim().is_empty() {
            header.clear();
            reader.read_line(&mut header)?;
        }
        Ok((status, reader))
    };
    let (status, mut reader) = exchange().map_err(|error: std::io::Error| failed(endpoint, &error.to_string()))?;
    if status.split(' ').nth(1) == Some("200") {
        return Ok(reader);
    }
    let mut text = String::new();
    let _ = reader.read_to_string(&mut text);
    Err(failed(endpoint, &format!("{} {}", status.trim(), text.trim())))
}

/// The header with the admin token, for a gateway that has one.
pub(crate) fn authorization() -> String {
    let token = std::env::var("FOREBAY_ADMIN_TOKEN").unwrap_or_default();
    if token.is_empty() { token } else { format!("Authorization: Bearer {}\r\n", token.trim()) }
}

fn failed(endpoint: &str, error: &str) -> Problem {
    Problem::new(format!("no answer from {endpoint}: {error}")).hint(
        "name a gateway of this machine: --endpoint=127.0.0.1:2379, its client or its metrics port without TLS; one \
             of another machine, or with --admin-token-file, wants its admin token in FOREBAY_ADMIN_TOKEN",
    )
}
