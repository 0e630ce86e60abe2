//! How a running member is reached, and its snapshot.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
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
use forebay_utl::files::DIGEST;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::flags::table::{Flag, Slot};

/// Which member, and how it is reached.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A snapshot is the state of one; elsewhere the first that answers is asked.
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
    const GROUP: &str = "A running member, for snapshot save, space and heal";
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

/// A connection to a member, in somebody's name.
#[derive(Clone, Debug)]
pub struct Session {
    /// The connection.
    pub channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Session {
    /// A request in the name of the user.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

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
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.with_context(|| format!("cannot sync {}", folder.display()))?;
            Ok(saved)
        })
    }

    async fn receive(&self, endpoint: &Address, part: &Path) -> anyhow::Result<Saved> {
        let session = self.open(endpoint).await?;
        let mut pieces = MaintenanceClient::new(session.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .snapshot(session.request(SnapshotRequest {}))
            .await
            .with_context(|| format!("snapshot of {}", self.endpoints.join(",")))?
            .into_inner();
        let mut file = create(part).with_context(|| format!("cannot create {}", part.display()))?;
        let mut received = Received::default();
        let mut version = String::new();
        loop {
            let piece =
                tokio::time::timeout(PATIENCE, pieces.message()).await.context("the member sends no more")??;
            let Some(piece) = piece else { break };
            received.take(&piece.blob, piece.remaining_bytes);
            file.write_all(&piece.blob).with_context(|| format!("cannot write {}", part.display()))?;
            version = piece.version;
        }
        let size = received.finish()?;
        file.sync_all().with_context(|| format!("cannot sync {}", part.display()))?;
        Ok(Saved { size, version })
    }

    /// The first of the endpoints that answers, as the user.
    pub async fn any(&self) -> anyhow::Result<Session> {
        let mut failed = anyhow::anyhow!("--endpoints names no member");
        for endpoint in Address::list(&self.endpoints.join(","))? {
            match self.open(&endpoint).await {
                Ok(session) => return Ok(session),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Whoever answers at a URL, as the user.
    pub async fn at(&self, url: &str) -> anyhow::Result<Session> {
        let [endpoint] = &Address::list(url)?[..] else { anyhow::bail!("{url} is not one address") };
        self.open(endpoint).await
    }

    async fn open(&self, endpoint: &Address) -> anyhow::Result<Session> {
        let channel = self.connect(endpoint).await?;
        let token = if let Some((name, password)) = self.user.split_once(':') {
            let ask = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let answer = tokio::time::timeout(PATIENCE, AuthClient::new(channel.clone()).authenticate(ask)).await;
            let token = answer.context("authenticate: no answer")??.into_inner().token;
            Some(MetadataValue::try_from(token)?)
        } else {
            ensure!(self.user.is_empty(), "--user: write NAME:PASSWORD");
            None
        };
        Ok(Session { channel, token })
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

/// A file that its owner alone may read: a snapshot holds every secret of the cluster. What an attempt before this one
/// left under the name is written over.
fn create(path: &Path) -> std::io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// What has come of a snapshot: a db file and behind it the digest of that.
#[derive(Default)]
struct Received {
    size: u64,
    /// The bytes of the db file, as the first piece tells; the digest is not counted.
    promised: Option<u64>,
    hash: Sha256,
    digest: Vec<u8>,
}

impl Received {
    fn take(&mut self, blob: &[u8], remaining: u64) {
        let len = blob.len() as u64;
        let promised = *self.promised.get_or_insert(len.saturating_add(remaining));
        let (db, digest) = blob.split_at(promised.saturating_sub(self.size).min(len) as usize);
        self.hash.update(db);
        // More than a digest is refused by its size; there is no need to keep it.
        let room = DIGEST.saturating_sub(self.digest.len()).min(digest.len());
        self.digest.extend_from_slice(&digest[..room]);
        self.size += len;
    }

    /// The bytes of the whole, if they are what the member meant to send.
    fn finish(self) -> anyhow::Result<u64> {
        let expected = self.promised.unwrap_or(0).saturating_add(DIGEST as u64);
        ensure!(self.size == expected, "expected {expected} bytes, the member sent {}", self.size);
        ensure!(
            self.hash.finalize()[..] == self.digest[..],
            "the snapshot is not what its digest is of: save it again"
        );
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_believed_only_with_its_digest_behind_it() {
        let db = [7; 1024];
        let whole = [&db[..], &Sha256::digest(db)[..]].concat();
        // However it is cut; a piece may hold the end of the db file and the beginning of the digest.
        let received = |bytes: &[u8], piece: usize| {
            let mut received = Received::default();
            let mut left = db.len();
            for blob in bytes.chunks(piece) {
                left = left.saturating_sub(blob.len());
                received.take(blob, left as u64);
            }
            received.finish()
        };
        for piece in [1, 512, 1000, 1024] {
            assert_eq!(received(&whole, piece).expect("it is whole"), 1056, "pieces of {piece}");
            assert!(received(&whole[..1055], piece).is_err() && received(&[&whole[..], b"x"].concat(), piece).is_err());
            for at in [0, 1023, 1024, 1055] {
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                let error = received(&flipped, piece).expect_err("a bit is flipped").to_string();
                assert!(error.contains("digest"), "{error}");
            }
        }
    }

    #[test]
    fn a_snapshot_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.part");
        fs::write(&path, "of an attempt before").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        for path in [&path, &dir.path().join("b.part")] {
            let file = create(path).expect("created").metadata().expect("there");
            assert_eq!((file.permissions().mode() & 0o777, file.len()), (0o600, 0), "{}", path.display());
        }
    }
}
