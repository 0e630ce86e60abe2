//! What is asked of a running member: its snapshot.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use forebay_edge::tls::{ClientOptions, KeyPair, Protocol, Verify};
use forebay_gateway::upstream::{Address, Connector, TcpConnector, TlsConnector};
use forebay_proto::etcdserverpb::{
    AuthenticateRequest, SnapshotRequest, auth_client::AuthClient, maintenance_client::MaintenanceClient,
};
use hyper_util::rt::TokioIo;
use tonic::{metadata::MetadataValue, transport::Channel};

use crate::flags::table::{Flag, Slot};

/// Which member, and how it is reached.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// One member: a snapshot is the state of one.
    pub endpoints: Vec<String>,
    user: String,
    cacert: String,
    cert: String,
    key: String,
    insecure_skip_tls_verify: bool,
}

/// Settings of a command that may ask a member.
pub trait Asking {
    /// How the member is reached.
    fn live(&mut self) -> &mut Settings;
}

impl Asking for Settings {
    fn live(&mut self) -> &mut Settings {
        self
    }
}

/// etcdctl's flags.
#[rustfmt::skip]
pub fn flags<S: Asking>() -> Vec<Flag<S>> {
    use Slot::{Bool, List, Text};
    const GROUP: &str = "A running member, for snapshot save and space";
    let flag = Flag::new;
    vec![
        flag(GROUP, "endpoints", List(|s| &mut s.live().endpoints), "The member, as HOST:PORT or https://HOST:PORT."),
        flag(GROUP, "user", Text(|s| &mut s.live().user), "NAME:PASSWORD of a user with the role root, if auth is on."),
        flag(GROUP, "cacert", Text(|s| &mut s.live().cacert), "The authority that signed the member's certificate."),
        flag(GROUP, "cert", Text(|s| &mut s.live().cert), "The certificate to show."),
        flag(GROUP, "key", Text(|s| &mut s.live().key), "Its key."),
        flag(GROUP, "insecure-skip-tls-verify", Bool(|s| &mut s.live().insecure_skip_tls_verify), "Believe whoever answers."),
    ]
}

/// How long a member may take to answer a connection or a password, and to send each piece of a snapshot.
const PATIENCE: Duration = Duration::from_secs(10);

/// A saved snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The bytes of the file, the digest included.
    pub size: u64,
    /// The storage version that the member named; empty before 3.6.
    pub version: String,
}

impl Settings {
    /// Saves the snapshot of the one endpoint; the file is there as a whole or not at all.
    pub fn save(&self, path: &Path) -> anyhow::Result<Saved> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let [endpoint] = &Address::list(&self.endpoints.join(","))?[..] else {
                anyhow::bail!("snapshot must be requested to one selected node, not {}", self.endpoints.join(","))
            };
            let part = PathBuf::from(format!("{}.part", path.display()));
            let saved = self.receive(endpoint, &part).await;
            if saved.is_err() {
                // The first error is the one to report.
                let _ = fs::remove_file(&part);
            }
            let saved = saved?;
            fs::rename(&part, path).with_context(|| format!("cannot rename {}", part.display()))?;
            Ok(saved)
        })
    }

    async fn receive(&self, endpoint: &Address, part: &Path) -> anyhow::Result<Saved> {
        let channel = self.connect(endpoint).await?;
        let mut request = tonic::Request::new(SnapshotRequest {});
        if let Some((name, password)) = self.user.split_once(':') {
            let ask = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let answer = tokio::time::timeout(PATIENCE, AuthClient::new(channel.clone()).authenticate(ask)).await;
            let token = answer.context("authenticate: no answer")??.into_inner().token;
            request.metadata_mut().insert("token", MetadataValue::try_from(token)?);
        } else {
            ensure!(self.user.is_empty(), "--user: write NAME:PASSWORD");
        }
        let mut pieces = MaintenanceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .snapshot(request)
            .await
            .with_context(|| format!("snapshot of {}", self.endpoints.join(",")))?
            .into_inner();
        let mut file = fs::File::create(part).with_context(|| format!("cannot create {}", part.display()))?;
        let mut saved = Saved { size: 0, version: String::new() };
        let mut promised = None;
        loop {
            let piece =
                tokio::time::timeout(PATIENCE, pieces.message()).await.context("the member sends no more")??;
            let Some(piece) = piece else { break };
            let so_far = saved.size + piece.blob.len() as u64;
            // The digest at the end is not counted beforehand.
            promised.get_or_insert(so_far + piece.remaining_bytes);
            file.write_all(&piece.blob).with_context(|| format!("cannot write {}", part.display()))?;
            saved = Saved { size: so_far, version: piece.version };
        }
        let expected = promised.unwrap_or(0) + forebay_utl::files::DIGEST as u64;
        ensure!(saved.size == expected, "expected {expected} bytes, the member sent {}", saved.size);
        file.sync_all().with_context(|| format!("cannot sync {}", part.display()))?;
        Ok(saved)
    }

    async fn connect(&self, endpoint: &Address) -> anyhow::Result<Channel> {
        let connector = self.connector(endpoint)?;
        let address = endpoint.clone();
        // What the stream goes to is decided by the connector; the URI only becomes the authority of the requests.
        let authority = tonic::transport::Endpoint::from_shared(format!("http://{}", endpoint.authority))?;
        let connect = tower::service_fn(move |_: http::Uri| {
            let connected = connector.connect(&address);
            async move { connected.await.map(TokioIo::new) }
        });
        let connected = authority.connect_timeout(PATIENCE).connect_with_connector(connect).await;
        connected.with_context(|| format!("cannot connect to {endpoint}"))
    }

    fn connector(&self, endpoint: &Address) -> anyhow::Result<Arc<dyn Connector>> {
        if endpoint.scheme == http::uri::Scheme::HTTP {
            return Ok(Arc::new(TcpConnector));
        }
        let verify = match (&self.cacert[..], self.insecure_skip_tls_verify) {
            (_, true) => Verify::InsecureSkip,
            ("", false) => Verify::System,
            (authority, false) => Verify::Authorities(authority.into()),
        };
        let given = !self.cert.is_empty() && !self.key.is_empty();
        let identity = given.then(|| KeyPair { certificate: (&self.cert).into(), key: (&self.key).into() });
        let options =
            ClientOptions { verify, identity, server_name: None, protocol: Protocol::default(), speaks: vec!["h2"] };
        let connector = forebay_edge::tls::Connector::new(options).context("cannot set up TLS")?;
        Ok(Arc::new(TlsConnector(connector)))
    }
}
