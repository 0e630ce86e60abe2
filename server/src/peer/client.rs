//! Requests to other members: HTTP/1.1, one connection for each. Streams keep theirs for long, and everything else is
//! rare.

use std::{collections::BTreeMap, io, net::IpAddr, os::fd::AsFd, time::Duration};

use bytes::Bytes;
use forebay_edge::{Body, tls::Connector};
use forebay_storage::snap::{MemberRecord, members_from_json};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Authority};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::{
    codec::{Bounded, StreamError},
    identity::{CLUSTER_ID, id_of, text_of},
};
use crate::raft::BoxError;

/// How long a member may take to be connected to, and between two pieces of an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that is not a stream. The largest is the keys of a lease.
const ANSWER_BYTES_MAX: usize = 100 << 20;

/// Makes requests to other members.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Option<Connector>,
    timeouts: Timeouts,
    /// Where connections come from; wherever the way begins if there is none.
    from: Option<IpAddr>,
}

/// How long another member may keep still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// On a stream of its messages.
    pub(crate) read: Duration,
    /// While it has not acknowledged what it was sent.
    pub(crate) write: Duration,
}

impl Timeouts {
    /// Has the system end a connection, or those that a listening socket accepts, whose other side acknowledges nothing.
    pub(crate) fn bound(&self, socket: impl AsFd) -> io::Result<()> {
        let millis = u32::try_from(self.write.as_millis()).unwrap_or(u32::MAX);
        Ok(set_tcp_user_timeout(socket, millis)?)
    }
}

/// An answer that was read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What the answer says, for a log.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The URL is none that this version can use.
    #[error("{0} is not the URL of a peer")]
    Url(String),
    /// No connection, or it was lost.
    #[error("{0}")]
    Connection(BoxError),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer cannot be read.
    #[error("{0}")]
    Answer(BoxError),
    /// The answer is no success.
    #[error("{0}: {1}")]
    Status(StatusCode, String),
    /// The answer does not say what it should.
    #[error("{0}")]
    Nonsense(String),
}

impl ClientError {
    /// Whether the machine answered that nobody listens there.
    pub(super) fn is_refused(&self) -> bool {
        let ClientError::Connection(error) = self else { return false };
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Client {
    /// With `tls` it also reaches members whose URLs say https.
    pub(crate) fn new(tls: Option<Connector>, timeouts: Timeouts, from: Option<IpAddr>) -> Client {
        Client { tls, timeouts, from }
    }

    /// Silence after which a stream is given up.
    pub(super) fn read_timeout(&self) -> Duration {
        self.timeouts.read
    }

    /// Sends a request to `base`, a peer URL, and returns once the head of the answer is there.
    pub(crate) async fn send(
        &self,
        base: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let url: Uri = base.parse().map_err(|_| ClientError::Url(base.to_owned()))?;
        let refused = || ClientError::Url(base.to_owned());
        let authority = url.authority().ok_or_else(refused)?;
        let tls = match url.scheme_str() {
            Some("http") => None,
            Some("https") => Some(self.tls.as_ref().ok_or_else(refused)?),
            _ => return Err(refused()),
        };
        let connecting = tokio::time::timeout(PATIENCE, self.connect(authority, tls)).await;
        let mut sender = connecting.map_err(|_| ClientError::Timeout(PATIENCE))??;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| ClientError::Url(format!("{base}{path}")))?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(authority.as_str()).map_err(failed)?;
        request.headers_mut().insert(header::HOST, host);
        sender.send_request(request).await.map_err(failed)
    }

    /// As [`Client::send`], and reads the answer, all of it within `limit`.
    pub(crate) async fn ask(
        &self,
        base: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let asking = async {
            let (parts, body) = self.send(base, method, path, headers, body).await?.into_parts();
            let body = Bounded::new(body, limit).all(ANSWER_BYTES_MAX).await.map_err(unread)?;
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(limit, asking).await.unwrap_or(Err(ClientError::Timeout(limit)))
    }

    /// What a path says that is simply read.
    pub(crate) async fn get(&self, base: &str, path: &str, limit: Duration) -> Result<Answer, ClientError> {
        let answer = self.ask(base, Method::GET, path, HeaderMap::new(), Body::empty(), limit).await?;
        if answer.status != StatusCode::OK {
            return Err(ClientError::Status(answer.status, answer.text()));
        }
        Ok(answer)
    }

    /// Connects to a member. The connection ends with the answer's body, or when nobody waits for the answer any more.
    async fn connect(&self, authority: &Authority, tls: Option<&Connector>) -> Result<SendRequest<Body>, ClientError> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let stream = match self.from {
            None => TcpStream::connect((host, port)).await,
            Some(from) => connect_from(from, host, port).await,
        };
        let stream = stream.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        self.timeouts.bound(&stream).map_err(failed)?;
        match tls {
            None => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(sender)
            }
            Some(tls) => {
                let stream = tls.connect(stream, host).await.map_err(failed)?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }
}

/// Connects from an address of this machine to whichever address of the host is of its kind.
async fn connect_from(from: IpAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last =
        io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{host} has no address of the kind of {from}"));
    for address in lookup_host((host, port)).await?.filter(|address| address.is_ipv4() == from.is_ipv4()) {
        let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((from, 0).into())?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub(super) fn unread(error: StreamError) -> ClientError {
    ClientError::Answer(error.into())
}

fn failed(error: impl Into<BoxError>) -> ClientError {
    ClientError::Connection(error.into())
}

/// The cluster's id and its members, as the member at `base` knows them.
pub(crate) async fn get_members(
    client: &Client,
    base: &str,
    limit: Duration,
) -> Result<(u64, Vec<MemberRecord>), ClientError> {
    let answer = client.get(base, "/members", limit).await?;
    let cluster_id = text_of(&answer.headers, &CLUSTER_ID).and_then(id_of);
    let cluster_id = cluster_id.ok_or_else(|| ClientError::Nonsense("it does not name its cluster".into()))?;
    let members = members_from_json(&answer.body);
    Ok((cluster_id, members.ok_or_else(|| ClientError::Nonsense("its list of members is none".into()))?))
}

/// What a member says of its version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Versions {
    /// The release it is.
    #[serde(rename = "etcdserver")]
    pub(crate) server: String,
    /// The cluster version, or `not_decided`.
    #[serde(rename = "etcdcluster")]
    pub(crate) cluster: String,
}

/// The versions of a member that is reached at one of `urls`.
pub(crate) async fn get_version(client: &Client, urls: &[String], limit: Duration) -> Result<Versions, ClientError> {
    let mut last = ClientError::Nonsense("it has no peer URL".into());
    for url in urls {
        match client.get(url, "/version", limit).await {
            Ok(answer) => {
                return serde_json::from_slice(&answer.body)
                    .map_err(|error| ClientError::Nonsense(format!("its version is none: {error}")));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The versions of several members by id; `None` for those that did not say.
pub(crate) async fn get_versions(
    client: &Client,
    members: &[MemberRecord],
    limit: Duration,
) -> BTreeMap<u64, Option<Versions>> {
    let asking = members.iter().map(|member| async {
        let answer = get_version(client, &member.peer_urls, limit).await;
        if let Err(error) = &answer {
            tracing::debug!(member = super::id_text(member.id), %error, "failed to ask a member for its version");
        }
        (member.id, answer.ok())
    });
    futures::future::join_all(asking).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::tcp_user_timeout;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_bounded_hands_its_bound_to_those_it_accepts() {
        let timeouts = Timeouts { read: PATIENCE, write: Duration::from_secs(7) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        timeouts.bound(&listener).unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        let (accepted, connected) = (accepted.unwrap().0, connected.unwrap());
        assert_eq!(tcp_user_timeout(&accepted).unwrap(), 7_000);
        timeouts.bound(&connected).unwrap();
        assert_eq!(tcp_user_timeout(&connected).unwrap(), 7_000);
    }

    #[tokio::test]
    async fn connections_come_from_the_address_that_was_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own: IpAddr = [127, 0, 0, 7].into();
        let (accepted, connected) = tokio::join!(listener.accept(), connect_from(own, "127.0.0.1", port));
        assert_eq!((accepted.unwrap().1.ip(), connected.is_ok()), (own, true));
        let other = connect_from("::1".parse().unwrap(), "127.0.0.1", port).await;
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
