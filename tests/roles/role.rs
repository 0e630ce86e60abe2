//! A role of the binary, as a process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use forebay_edge::tls::Connector;
use forebay_loadtest::process::free_address;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

/// How often a role is started anew because somebody else took its port between the choice and the start.
const TRIES: usize = 5;

/// A role that runs; killed when dropped.
pub struct Role {
    child: Child,
    /// Where it serves clients; for certain once it is ready.
    pub port: u16,
    log: PathBuf,
    /// Role, scheme and what else it is told.
    told: (String, String, Vec<String>),
    tries: usize,
}

impl Role {
    /// A role that serves clients under TLS.
    pub fn start(dir: &Path, role: &str, args: &[String]) -> Role {
        let mut started = Role::spawn(dir, role, role, "https", args);
        started.ready();
        started
    }

    /// A member that is alone in its cluster, with its data there, once it serves; `more` are flags of its own.
    pub fn member(dir: &Path, data: &Path, scheme: &str, more: &[&str]) -> Role {
        let mut args = alone(data);
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let mut started = Role::spawn(dir, "server", "server", scheme, &args);
        started.ready();
        started
    }

    /// A role whose log has this name, and that is not waited for: members of a new cluster need each other.
    pub fn spawn(dir: &Path, name: &str, role: &str, scheme: &str, args: &[String]) -> Role {
        let log = dir.join(format!("{name}.log"));
        let told = (role.to_owned(), scheme.to_owned(), args.to_vec());
        let (child, port) = run(&log, &told);
        Role { child, port, log, told, tries: 1 }
    }

    /// Waits until it serves.
    pub fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.said().contains("ready to serve client requests") {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() && self.tries < TRIES && self.said().contains("is in use") {
                (self.child, self.port) = run(&self.log, &self.told);
                self.tries += 1;
                continue;
            }
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a request under TLS and returns the whole answer.
    pub async fn ask(&self, tls: &Connector, path: &str, body: &str) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let stream = tls.connect(stream, "127.0.0.1").await.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
        exchange(stream, &request(path, body)).await
    }

    /// Sends a request in clear and returns the whole answer.
    pub async fn ask_in_clear(&self, path: &str, body: &str) -> String {
        self.ask_with(path, &[], body).await
    }

    /// The same with more header fields.
    pub async fn ask_with(&self, path: &str, fields: &[(&str, &str)], body: &str) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let more: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        exchange(stream, &request(path, body).replacen("\r\n", &format!("\r\n{more}"), 1)).await
    }
}

/// The flags of a member that is alone in its cluster, with its data there.
pub fn alone(data: &Path) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{}", free_port());
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

/// What is tested: `FOREBAY_BIN` if it is given, else what cargo built beside the tests.
pub fn program() -> PathBuf {
    std::env::var_os("FOREBAY_BIN").map_or_else(|| env!("CARGO_BIN_EXE_forebay").into(), PathBuf::from)
}

/// Starts it on a port of its own.
fn run(log: &Path, (role, scheme, args): &(String, String, Vec<String>)) -> (Child, u16) {
    let port = free_port();
    let child = Command::new(program())
        .arg(role)
        .arg(format!("--listen-client-urls={scheme}://127.0.0.1:{port}"))
        .arg(format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"))
        .args(args)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .expect("the binary runs");
    (child, port)
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request and reads to the end.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Whoever refuses a request before it has read all of it may end the connection hard.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request over HTTP/1.1 whose answer ends the connection.
pub fn request(path: &str, body: &str) -> String {
    let method = if body.is_empty() { "GET" } else { "POST" };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub fn free_port() -> u16 {
    free_address().unwrap().port()
}
