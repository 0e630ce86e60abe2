//! The streams that this member dials: it asks another one for what raft has for it.

use std::{sync::Arc, time::Duration};

use forebay_edge::Body;
use forebay_proto::raftpb::MessageType;
use http::{HeaderValue, Method, StatusCode};
use hyper::body::Incoming;

use super::{
    client::{ClientError, PATIENCE},
    codec::{Bounded, Decoder, Kind, StreamError},
    id_text,
    identity::{RAFT_TO, SERVER_VERSION, text_of},
    link::Link,
};
use crate::version::Version;

/// Between two attempts.
const REDIAL: Duration = Duration::from_millis(100);
/// The oldest release that writes these streams.
const STREAMS_SINCE: Version = Version { major: 2, minor: 1, patch: 0 };

/// Dials, reads until the stream ends, and dials again. Where a stream was and nobody listens any more, the member's
/// process has ended, and raft is told: a machine that is lost, or a way to it, answers nothing.
pub(super) async fn read(link: Arc<Link>, kind: Kind) {
    let mut was_there = false;
    loop {
        let url = link.url();
        match dial(&link, &url, kind).await {
            Ok(body) => {
                link.activate();
                was_there = true;
                let ended = take(&link, kind, body).await;
                tracing::debug!(remote_peer_id = id_text(link.id), stream = kind.name(), %ended, "a stream has ended");
                if !matches!(ended, StreamError::Ended) {
                    link.deactivate(ended);
                }
            }
            Err(ClientError::Status(StatusCode::GONE, _)) => {
                link.network.raft.removed();
                return;
            }
            Err(error) => {
                tracing::debug!(remote_peer_id = id_text(link.id), url, %error, "failed to dial a peer");
                if error.is_refused() && std::mem::take(&mut was_there) {
                    link.network.raft.gone(link.id);
                }
                link.try_next_url();
                link.deactivate(error);
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn dial(link: &Link, url: &str, kind: Kind) -> Result<Incoming, ClientError> {
    let network = &link.network;
    let path = format!("/raft/stream/{}/{}", kind.name(), id_text(network.identity.member_id));
    let mut headers = network.identity.headers();
    headers.insert(RAFT_TO, HeaderValue::from_str(&id_text(link.id)).expect("an id is header text"));
    let dialling = network.client.send(url, Method::GET, &path, headers, Body::empty());
    let dialled = tokio::time::timeout(PATIENCE, dialling).await;
    let (parts, body) = dialled.map_err(|_| ClientError::Timeout(PATIENCE))??.into_parts();
    if parts.status != StatusCode::OK {
        let text = Bounded::new(body, PATIENCE).all(4 << 10).await.unwrap_or_default();
        return Err(ClientError::Status(parts.status, String::from_utf8_lossy(&text).trim_end().to_owned()));
    }
    let version = text_of(&parts.headers, &SERVER_VERSION).and_then(Version::parse);
    if version.is_none_or(|version| version < STREAMS_SINCE) {
        return Err(ClientError::Nonsense("its version has no such streams".into()));
    }
    Ok(body)
}

/// Hands on what comes, until nothing comes any more.
async fn take(link: &Link, kind: Kind, body: Incoming) -> StreamError {
    let network = &link.network;
    let mut bytes = Bounded::new(body, network.client.read_timeout());
    let mut decoder = Decoder::new(kind, link.id, network.identity.member_id);
    loop {
        let message = match decoder.decode(&mut bytes).await {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(error) => return error,
        };
        // Snapshots come with their db, and that does not fit into a stream.
        let received = match message.r#type() {
            MessageType::MsgSnap => Err("a snapshot without its db".to_owned()),
            _ => network.receive(message).map_err(|refused| refused.to_string()),
        };
        if let Err(reason) = received {
            network.count_dropped(link.id);
            tracing::debug!(remote_peer_id = id_text(link.id), reason, "dropped a message of a peer");
        }
    }
}
