//! The peer port: what other members ask of this one.

use std::{sync::Arc, time::SystemTime};

use forebay_edge::{Body, Request, Response};
use forebay_proto::raftpb::{Message, MessageType};
use forebay_storage::snap::member_json;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prost::Message as _;

use super::{
    Peers, calls,
    client::PATIENCE,
    codec::{Bounded, Kind},
    id_text,
    identity::{self, CLUSTER_ID, RAFT_TO, SERVER_VERSION, id_of, text_of},
    outgoing::Outgoing,
    peers::Refused,
    receive::{self, Receiver, Refusal},
};
use crate::{member::Member, version};

/// The largest message that is posted alone. Longer ones go through streams.
const POST_BYTES_MAX: usize = 64 << 20;

/// Answers what comes to the peer port. Clones are the same.
#[derive(Clone)]
pub(crate) struct PeerService(Arc<Inner>);

struct Inner {
    peers: Peers,
    receiver: Receiver,
    member: Member,
}

impl PeerService {
    pub(crate) fn new(peers: Peers, receiver: Receiver, member: Member) -> PeerService {
        PeerService(Arc::new(Inner { peers, receiver, member }))
    }

    /// Answers one request.
    pub(crate) async fn call(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let allowed = match &path[..] {
            "/raft" | "/raft/snapshot" => Some(Method::POST),
            "/members" => Some(Method::GET),
            path if path.starts_with("/raft/stream/") => Some(Method::GET),
            _ => None,
        };
        if let Some(allowed) = allowed.filter(|allowed| request.method() != allowed) {
            return not_allowed(&allowed);
        }
        let Inner { peers, member, .. } = &*self.0;
        let answered = match &path[..] {
            "/raft" => self.post(request).await,
            "/raft/snapshot" => self.snapshot(request).await,
            "/raft/probing" => Ok(json(format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(SystemTime::now())))),
            "/version" => Ok(json(versions(member))),
            "/members" => Ok(json(members(member))),
            path if path.starts_with("/raft/stream/") => self.stream(path, request.headers()),
            path if calls::knows(path) => Ok(calls::answer(member, request).await),
            path if path.starts_with("/members/") => Err((StatusCode::BAD_REQUEST, "bad path".into())),
            _ => return error(StatusCode::NOT_FOUND, "404 page not found"),
        };
        let mut response = answered.unwrap_or_else(refuse);
        response.headers_mut().insert(CLUSTER_ID, peers.identity().cluster_header());
        if path.starts_with("/raft/stream/") {
            response.headers_mut().insert(SERVER_VERSION, HeaderValue::from_static(version::SERVER));
        }
        response
    }

    fn greet(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        greet(&self.0.peers, headers)
    }

    /// Keeps what a sender says of itself, to answer it.
    fn learn_sender(&self, headers: &HeaderMap) {
        if let Some((id, urls)) = identity::sender(headers) {
            self.0.peers.add_remote(id, urls);
        }
    }

    async fn post(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        self.greet(&parts.headers)?;
        self.learn_sender(&parts.headers);
        let network = self.0.peers.network();
        let bad = |text: &str| (StatusCode::BAD_REQUEST, text.to_owned());
        let body = Bounded::new(body, PATIENCE).all(POST_BYTES_MAX).await;
        let body = body.map_err(|_| bad("error reading raft message"))?;
        let message = Message::decode(body).map_err(|_| bad("error unmarshalling raft message"))?;
        let from = message.from();
        let received = match message.r#type() {
            MessageType::MsgSnap => Err(bad("wrong raft message type")),
            _ => network.receive(message).map_err(|refused| match refused {
                Refused::Removed | Refused::Mismatch => (StatusCode::FORBIDDEN, refused.to_string()),
                Refused::Busy => (StatusCode::INTERNAL_SERVER_ERROR, "error processing raft message".into()),
            }),
        };
        received.inspect_err(|_| network.count_dropped(from))?;
        Ok(done())
    }

    async fn snapshot(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        self.greet(&parts.headers)?;
        self.learn_sender(&parts.headers);
        let network = self.0.peers.network();
        let from = text_of(&parts.headers, &identity::SERVER_FROM).and_then(id_of).map_or_else(String::new, id_text);
        let received = self.0.receiver.receive(network, Bounded::new(body, receive::PATIENCE)).await;
        received.inspect_err(|(_, reason)| {
            tracing::warn!(remote_snapshot_sender_id = from, reason, "failed to take a database snapshot");
            network.metrics.snapshots_received_failures.with_label_values(&[&from]).inc();
        })?;
        network.metrics.snapshots_received.with_label_values(&[&from]).inc();
        Ok(done())
    }

    /// Lets another member hear what raft has for it.
    fn stream(&self, path: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
        let peers = &self.0.peers;
        self.greet(headers)?;
        let not_found = |text: &str| (StatusCode::NOT_FOUND, text.to_owned());
        let rest = path.trim_start_matches("/raft/stream/");
        let (kind, from) = match rest.split_once('/') {
            Some(("msgapp", from)) => (Kind::MsgApp, from),
            Some(("message", from)) => (Kind::Message, from),
            _ => return Err(not_found("invalid path")),
        };
        let from = id_of(from).ok_or_else(|| not_found("invalid from"))?;
        if peers.network().cluster.is_removed(from) {
            return Err((StatusCode::GONE, "removed member".into()));
        }
        let Some(link) = peers.link(from).filter(|link| link.is_member()) else {
            self.learn_sender(headers);
            return Err(not_found("error sender not found"));
        };
        if text_of(headers, &RAFT_TO) != Some(&*id_text(peers.identity().member_id)) {
            return Err((StatusCode::PRECONDITION_FAILED, "to field mismatch".into()));
        }
        Ok(Response::new(Body::new(Outgoing::attach(link, kind))))
    }
}

/// Whether the sender may talk to this member.
pub(super) fn greet(peers: &Peers, headers: &HeaderMap) -> Result<(), Refusal> {
    peers.identity().check(headers).map_err(|stranger| {
        tracing::warn!(
            remote_peer_id = text_of(headers, &identity::SERVER_FROM),
            remote_peer_server_version = text_of(headers, &SERVER_VERSION),
            remote_peer_cluster_id = text_of(headers, &CLUSTER_ID),
            reason = %stranger,
            "refused a request of a peer"
        );
        (StatusCode::PRECONDITION_FAILED, stranger.to_string())
    })
}

/// The list of members as etcd prints it.
pub(super) fn members(member: &Member) -> String {
    let members = member.0.cluster.shown().members.iter().map(member_json).collect::<Vec<_>>();
    format!("[{}]\n", members.join(","))
}

fn versions(member: &Member) -> String {
    let cluster = member.cluster_version();
    format!(
        "{{\"etcdserver\":\"{}\",\"etcdcluster\":\"{}\",\"storage\":\"{}\"}}",
        version::SERVER,
        cluster.as_deref().unwrap_or("not_decided"),
        cluster.as_deref().unwrap_or("unknown"),
    )
}

pub(super) fn json(text: String) -> Response {
    let mut response = Response::new(Body::full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// There is nothing more to say.
fn done() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A refusal as Go's server writes one.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::full(format!("{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(super) fn not_allowed(allowed: &Method) -> Response {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = HeaderValue::from_str(allowed.as_str()).expect("a method is header text");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// Whoever is forbidden to talk is told in JSON, everybody else in text.
fn refuse((status, text): Refusal) -> Response {
    if status != StatusCode::FORBIDDEN {
        return error(status, &text);
    }
    let mut response = json(format!("{{\"message\":\"{text}\"}}"));
    *response.status_mut() = status;
    response
}

/// A time as Go prints it in JSON, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years begin in March here, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + next_year;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_gos() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_795_392_000 + 3_661), "2026-11-23T01:01:01.000000000Z");
    }
}
