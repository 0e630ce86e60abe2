//! Several members in this process, over real connections.

use std::{net::TcpListener, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_proto::{Error, etcdserverpb::*, raftpb};
use forebay_server::{Config, InitialState};
use forebay_storage::disk::{Disk, OsDisk};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::TcpStream;

use crate::support::{Node, error, eventually, get, grant, put, refusal, watching_all};

/// A bound port for other members.
struct Port {
    listener: TcpListener,
    url: String,
}

fn port() -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    Port { listener, url }
}

/// What every member of these clusters is told.
fn configure(config: &mut Config, name: &str, url: &str, list: &[(String, Vec<String>)]) {
    config.name = name.into();
    config.advertise_peer_urls = vec![url.into()];
    config.advertise_client_urls = vec![format!("http://{name}:2379")];
    config.initial_cluster = list.to_vec();
    config.heartbeat_interval = Duration::from_millis(20);
    config.election_timeout = Duration::from_millis(200);
    // What these tests wait for is not what the strict checks ask.
    config.strict_reconfig_check = false;
}

/// A cluster that serves.
pub struct Cluster {
    pub nodes: Vec<Node>,
    urls: Vec<String>,
    list: Vec<(String, Vec<String>)>,
}

impl Cluster {
    pub async fn start(members: usize, change: impl Fn(&mut Config)) -> Cluster {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        Cluster::start_on(vec![disk; members], change).await
    }

    /// The same with a disk for each member.
    pub async fn start_on(disks: Vec<Arc<dyn Disk>>, change: impl Fn(&mut Config)) -> Cluster {
        let mut bound = Vec::new();
        for _ in &disks {
            bound.push(port());
        }
        let urls: Vec<String> = bound.iter().map(|port| port.url.clone()).collect();
        let named = |(n, url): (usize, &String)| (format!("m{n}"), vec![url.clone()]);
        let list: Vec<_> = urls.iter().enumerate().map(named).collect();
        let starting = bound.into_iter().zip(&list).zip(disks).map(|((port, (name, _)), disk)| {
            let (list, change) = (&list, &change);
            Node::in_cluster_on(disk, port.listener, move |config| {
                configure(config, name, &port.url, list);
                change(config);
            })
        });
        let nodes = futures::future::join_all(starting).await;
        Cluster { nodes, urls, list }
    }

    /// The place of the leader that everybody names.
    pub async fn leader(&self) -> usize {
        let found = std::cell::Cell::new(None);
        eventually("one leader", || async {
            let mut leaders = Vec::new();
            for node in &self.nodes {
                leaders.push(node.status(StatusRequest {}).await.unwrap().leader);
            }
            found.set(self.nodes.iter().position(|node| node.member.id() == leaders[0]));
            leaders.iter().all(|leader| *leader == leaders[0]) && found.get().is_some()
        })
        .await;
        found.get().expect("a leader was found")
    }

    /// Waits until all members hold the same, and are at one revision.
    pub async fn agree(&self) -> i64 {
        eventually("all members to agree", || async {
            let mut states = Vec::new();
            for node in &self.nodes {
                let hashed = node.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
                states.push((hashed.hash_revision, hashed.hash));
            }
            states.iter().all(|state| *state == states[0])
        })
        .await;
        self.nodes[0].hash_kv(HashKvRequest { revision: 0 }).await.unwrap().hash_revision
    }

    /// Adds a member, by way of the first one and in the name of whoever asks, and starts it.
    pub async fn join(&mut self, who: &HeaderMap, change: impl Fn(&mut Config)) -> &Node {
        let port = port();
        let add = MemberAddRequest { peer_ur_ls: vec![port.url.clone()], is_learner: false };
        let added = self.nodes[0].call_with("/etcdserverpb.Cluster/MemberAdd", who.clone(), &add).await;
        let _: MemberAddResponse = added.unwrap();
        let name = format!("m{}", self.list.len());
        self.list.push((name.clone(), vec![port.url.clone()]));
        let node = Node::in_cluster(port.listener, |config| {
            configure(config, &name, &port.url, &self.list);
            config.initial_state = InitialState::Existing;
            change(config);
        })
        .await;
        self.nodes.push(node);
        self.nodes.last().expect("it was added")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_writes_and_reads_what_the_others_wrote() {
    let cluster = Cluster::start(3, |_| {}).await;
    for (n, node) in cluster.nodes.iter().enumerate() {
        node.put(put(&format!("k{n}"), "1")).await.unwrap();
    }
    for node in &cluster.nodes {
        for n in 0..3 {
            assert_eq!(node.range(get(&format!("k{n}"))).await.unwrap().kvs.len(), 1, "a linearizable read sees it");
        }
        assert_eq!(node.member_list(MemberListRequest::default()).await.unwrap().members.len(), 3);
    }
    assert_eq!(cluster.agree().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_its_leader_and_takes_it_back() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let stopped = cluster.nodes.remove(leader);
    let restarting = stopped.stopped().await;
    eventually("a put without the leader", || async { cluster.nodes[0].put(put("a", "1")).await.is_ok() }).await;
    cluster.nodes.push(restarting.start().await);
    assert_eq!(cluster.nodes[2].range(get("a")).await.unwrap().kvs.len(), 1);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_installs_a_snapshot_and_its_watchers_miss_nothing() {
    let small = |config: &mut Config| (config.snapshot_count, config.snapshot_catchup_entries) = (10, 5);
    let mut cluster = Cluster::start(3, small).await;
    let place = (cluster.leader().await + 1) % 3;
    let follower = cluster.nodes.remove(place).stopped().await;
    let revision = cluster.nodes[0].put(put("k", "0")).await.unwrap().header.unwrap().revision;
    for n in 1..200 {
        cluster.nodes[0].put(put("k", &n.to_string())).await.unwrap();
    }
    let back = follower.start().await;
    let mut watch = back.watcher(watching_all(revision)).await;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        seen.extend(watch.events().await.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(seen, (revision..revision + 200).collect::<Vec<_>>(), "each revision once, in order");
    let left: Vec<_> = std::fs::read_dir(back.path().join("member/snap"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("snap.db"))
        .collect();
    assert_eq!(left, [""; 0], "received files are gone once they are installed");
    cluster.nodes.push(back);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_renewed_and_looked_up_by_way_of_every_member() {
    let cluster = Cluster::start(3, |_| {}).await;
    cluster.nodes[0].grant(grant(7, 60)).await.unwrap();
    for node in &cluster.nodes {
        let mut renewing = node.open("/etcdserverpb.Lease/LeaseKeepAlive").await;
        renewing.send(&LeaseKeepAliveRequest { id: 7 });
        assert_eq!(renewing.next::<LeaseKeepAliveResponse>().await.unwrap().ttl, 60);
        renewing.send(&LeaseKeepAliveRequest { id: 8 });
        assert_eq!(renewing.next::<LeaseKeepAliveResponse>().await.unwrap().ttl, 0, "there is no such lease");
        let asked = node.time_to_live(LeaseTimeToLiveRequest { id: 7, keys: true }).await.unwrap();
        assert_eq!((asked.id, asked.granted_ttl), (7, 60));
        assert!((55..=60).contains(&asked.ttl), "{asked:?}");
        assert_eq!(asked.header.unwrap().member_id, node.member.id());
        let asked = node.time_to_live(LeaseTimeToLiveRequest { id: 8, keys: true }).await.unwrap();
        assert_eq!(asked.ttl, -1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_renews_ends_after_its_leader_is_gone() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    cluster.nodes[0].grant(grant(7, 1)).await.unwrap();
    cluster.nodes[0].put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    let leader = cluster.leader().await;
    drop(cluster.nodes.remove(leader));
    eventually("the lease to end", || async {
        let read = cluster.nodes[0].range(RangeRequest { serializable: true, ..get("a") }).await.unwrap();
        read.kvs.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_where_it_is_asked_to() {
    let cluster = Cluster::start(3, |_| {}).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let to = |target_id| MoveLeaderRequest { target_id };
    let moved: Result<MoveLeaderResponse, _> =
        cluster.nodes[follower].call("/etcdserverpb.Maintenance/MoveLeader", &to(1)).await;
    assert_eq!(refusal(moved), error(Error::NotLeader));
    let moved: Result<MoveLeaderResponse, _> =
        cluster.nodes[leader].call("/etcdserverpb.Maintenance/MoveLeader", &to(1)).await;
    assert_eq!(refusal(moved), error(Error::BadLeaderTransferee));
    let wish = to(cluster.nodes[follower].member.id());
    let _: MoveLeaderResponse =
        cluster.nodes[leader].call("/etcdserverpb.Maintenance/MoveLeader", &wish).await.unwrap();
    assert_eq!(cluster.leader().await, follower);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_joins_serves_what_a_learner_may_and_is_promoted_by_way_of_a_follower() {
    let mut cluster = Cluster::start(2, |_| {}).await;
    for n in 0..20 {
        cluster.nodes[0].put(put(&format!("k{n}"), "1")).await.unwrap();
    }
    let port = port();
    let add = MemberAddRequest { peer_ur_ls: vec![port.url.clone()], is_learner: true };
    let added: MemberAddResponse = cluster.nodes[0].call("/etcdserverpb.Cluster/MemberAdd", &add).await.unwrap();
    let id = added.member.unwrap().id;
    // With another URL beside it: an id is made of the URLs and the second.
    let again = MemberAddRequest { peer_ur_ls: vec![port.url.clone(), "http://127.0.0.1:2".into()], is_learner: false };
    let again: Result<MemberAddResponse, _> = cluster.nodes[1].call("/etcdserverpb.Cluster/MemberAdd", &again).await;
    assert_eq!(refusal(again), error(Error::PeerUrlExist));
    let second = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
    let second: Result<MemberAddResponse, _> = cluster.nodes[1].call("/etcdserverpb.Cluster/MemberAdd", &second).await;
    assert_eq!(refusal(second), error(Error::TooManyLearners));
    let promote = MemberPromoteRequest { id };
    let early: Result<MemberPromoteResponse, _> =
        cluster.nodes[1].call("/etcdserverpb.Cluster/MemberPromote", &promote).await;
    assert_eq!(refusal(early), error(Error::LearnerNotReady));

    let mut list = cluster.list.clone();
    list.push(("m2".into(), vec![port.url.clone()]));
    let learner = Node::in_cluster(port.listener, |config| {
        configure(config, "m2", &port.url, &list);
        config.initial_state = InitialState::Existing;
    })
    .await;
    assert_eq!(learner.member.id(), id);
    assert_eq!(refusal(learner.put(put("a", "1")).await), error(Error::NotSupportedForLearner));
    assert_eq!(refusal(learner.range(get("k1")).await), error(Error::NotSupportedForLearner));
    let read = learner.range(RangeRequest { serializable: true, ..get("k1") }).await.unwrap();
    assert_eq!(read.kvs.len(), 1);
    assert!(learner.status(StatusRequest {}).await.unwrap().is_learner);

    for node in &cluster.nodes {
        // One of them leads, and the other asks it.
        let again: Result<MemberPromoteResponse, _> = node.call("/etcdserverpb.Cluster/MemberPromote", &promote).await;
        assert!(again.is_ok() || refusal(again) == error(Error::MemberNotLearner));
    }
    eventually("the promotion to be applied", || async { learner.put(put("a", "1")).await.is_ok() }).await;
    cluster.nodes.push(learner);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_goes_one_version_down_and_is_cancelled() {
    let cluster = Cluster::start(3, |_| {}).await;
    let node = &cluster.nodes[0];
    eventually("the cluster version", || async { node.member.cluster_version().as_deref() == Some("3.7.0") }).await;
    let ask = |action: downgrade_request::DowngradeAction, version: &str| {
        let wish = DowngradeRequest { action: action as i32, version: version.into() };
        async move { node.call::<DowngradeResponse>("/etcdserverpb.Maintenance/Downgrade", &wish).await }
    };
    use downgrade_request::DowngradeAction::{Cancel, Enable, Validate};
    assert_eq!(refusal(ask(Validate, "3.5.0").await), error(Error::InvalidDowngradeTargetVersion));
    assert_eq!(refusal(ask(Enable, "none").await), error(Error::WrongDowngradeVersionFormat));
    assert_eq!(ask(Validate, "3.6.0").await.unwrap().version, "3.7");
    ask(Enable, "3.6.0").await.unwrap();
    assert_eq!(refusal(ask(Enable, "3.6.0").await), error(Error::DowngradeInProcess));
    for other in &cluster.nodes {
        eventually("everybody to know of it", || async {
            let status = other.status(StatusRequest {}).await.unwrap();
            status.downgrade_info.unwrap() == DowngradeInfo { enabled: true, target_version: "3.6.0".into() }
        })
        .await;
    }
    eventually("the cluster version to go down", || async {
        node.member.cluster_version().as_deref() == Some("3.6.0")
    })
    .await;
    ask(Cancel, "").await.unwrap();
    eventually("the cluster version to come back", || async {
        node.member.cluster_version().as_deref() == Some("3.7.0")
    })
    .await;
}

/// A request to a member's peer port, with a body that is sent as it is.
async fn ask(url: &str, method: Method, path: &str, headers: &HeaderMap, body: Bytes) -> (StatusCode, String) {
    let uri: Uri = url.parse().unwrap();
    let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
        (method, path.parse().unwrap(), headers.clone());
    request.headers_mut().insert("host", "peer".parse().unwrap());
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8(body.to_vec()).unwrap())
}

fn headers(cluster_id: u64, changes: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-server-from", "77"),
        ("x-server-version", "3.7.1"),
        ("x-min-cluster-version", "3.0.0"),
        ("x-etcd-cluster-id", &format!("{cluster_id:x}")),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    for (name, value) in changes {
        headers.insert(*name, value.parse().unwrap());
    }
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_lost_peers_are_refused_and_change_nothing() {
    let cluster = Cluster::start(3, |_| {}).await;
    let node = &cluster.nodes[0];
    node.put(put("a", "1")).await.unwrap();
    let url = &cluster.urls[0];
    let (cluster_id, own, other) = (node.member.cluster_id(), node.member.id(), cluster.nodes[1].member.id());
    let fine = headers(cluster_id, &[]);
    let message = |to: u64, kind: raftpb::MessageType| raftpb::Message {
        r#type: Some(kind as i32),
        to: Some(to),
        from: Some(other),
        term: Some(1 << 60),
        index: Some(u64::MAX),
        commit: Some(u64::MAX),
        ..Default::default()
    };
    let post =
        |headers: HeaderMap, body: Vec<u8>| async move { ask(url, Method::POST, "/raft", &headers, body.into()).await };

    let (status, text) = post(headers(cluster_id + 1, &[]), vec![]).await;
    assert_eq!((status, &text[..]), (StatusCode::PRECONDITION_FAILED, "cluster ID mismatch\n"));
    let (status, text) = post(headers(cluster_id, &[("x-server-version", "2.3.0")]), vec![]).await;
    assert_eq!((status, &text[..]), (StatusCode::PRECONDITION_FAILED, "incompatible version\n"));
    assert_eq!(post(fine.clone(), b"\xff\xff".to_vec()).await.0, StatusCode::BAD_REQUEST);
    let lost = message(own ^ 1, raftpb::MessageType::MsgApp).encode_to_vec();
    let (status, text) = post(fine.clone(), lost).await;
    let expected = "{\"message\":\"cannot process message to mismatch member\"}";
    assert_eq!((status, &text[..]), (StatusCode::FORBIDDEN, expected));
    // Taken, looked at and dropped by raft: a commit beyond the log, an index that no log reaches, a snapshot alone.
    assert_eq!(post(fine.clone(), message(own, raftpb::MessageType::MsgHeartbeat).encode_to_vec()).await.0, 204);
    assert_eq!(post(fine.clone(), message(own, raftpb::MessageType::MsgApp).encode_to_vec()).await.0, 204);
    assert_eq!(post(fine.clone(), message(own, raftpb::MessageType::MsgSnap).encode_to_vec()).await.0, 400);

    // What no member would ask its leader to propose: carried out, it would end them all.
    let propose = |headers: HeaderMap, request: InternalRaftRequest| async move {
        ask(url, Method::POST, "/forebay/propose", &headers, request.encode_to_vec().into()).await.0
    };
    let header = Some(RequestHeader { id: 1, ..RequestHeader::default() });
    let nothing = InternalRaftRequest { header, ..InternalRaftRequest::default() };
    let unasked = InternalRaftRequest { put: Some(put("a", "2")), ..nothing.clone() };
    assert_eq!(propose(headers(cluster_id + 1, &[]), unasked.clone()).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(propose(fine.clone(), nothing).await, StatusCode::BAD_REQUEST);
    assert_eq!(propose(fine.clone(), unasked).await, StatusCode::CONFLICT);

    let get =
        |path: String, headers: HeaderMap| async move { ask(url, Method::GET, &path, &headers, Bytes::new()).await };
    for (path, headers, status) in [
        ("/raft".to_owned(), fine.clone(), 405),
        ("/nothing".to_owned(), fine.clone(), 404),
        ("/members/nothing".to_owned(), fine.clone(), 400),
        ("/raft/stream/nothing/1".to_owned(), fine.clone(), 404),
        ("/raft/stream/msgapp/0".to_owned(), fine.clone(), 404),
        ("/raft/stream/msgapp/77".to_owned(), fine.clone(), 404),
        (format!("/raft/stream/msgapp/{other:x}"), fine.clone(), 412),
    ] {
        assert_eq!(get(path.clone(), headers).await.0, status, "{path}");
    }

    // A length that nothing follows, and a db that is none.
    let mut body = BytesMut::new();
    body.put_u64(u64::MAX);
    let snapshot = |body: Bytes| ask(url, Method::POST, "/raft/snapshot", &fine, body);
    assert_eq!(snapshot(body.freeze()).await.0, StatusCode::BAD_REQUEST);
    let metadata = raftpb::SnapshotMetadata {
        conf_state: Some(raftpb::ConfState { voters: vec![own], ..Default::default() }),
        index: Some(1000),
        term: Some(9),
    };
    let mut forged = message(own, raftpb::MessageType::MsgSnap);
    forged.snapshot = Some(raftpb::Snapshot { data: None, metadata: Some(metadata) });
    let mut body = BytesMut::new();
    body.put_u64(forged.encoded_len() as u64);
    forged.encode(&mut body).unwrap();
    body.put_slice(&[7; 10_000]);
    assert_eq!(snapshot(body.freeze()).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let files = std::fs::read_dir(node.path().join("member/snap")).unwrap();
    let names: Vec<_> = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("tmp") || name.ends_with(".snap.db")), "{names:?}");

    eventually("the cluster to go on", || async { node.put(put("b", "1")).await.is_ok() }).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_ends_and_does_not_come_back() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let removed = cluster.nodes.remove(2);
    let id = removed.member.id();
    let _: MemberRemoveResponse =
        cluster.nodes[0].call("/etcdserverpb.Cluster/MemberRemove", &MemberRemoveRequest { id }).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), removed.member.ended()).await.unwrap();
    assert_eq!(ended, forebay_server::Ended::Removed);
    // It may have led, so that another one has to be elected first.
    eventually("a second removal to be refused", || async {
        let again: Result<MemberRemoveResponse, _> =
            cluster.nodes[1].call("/etcdserverpb.Cluster/MemberRemove", &MemberRemoveRequest { id }).await;
        refusal(again) == error(Error::MemberNotFound)
    })
    .await;
    let message = raftpb::Message { to: Some(cluster.nodes[0].member.id()), from: Some(id), ..Default::default() }
        .encode_to_vec();
    let fine = headers(removed.member.cluster_id(), &[]);
    let (status, text) = ask(&cluster.urls[0], Method::POST, "/raft", &fine, message.into()).await;
    assert_eq!(
        (status, &text[..]),
        (StatusCode::FORBIDDEN, "{\"message\":\"cannot process message from removed member\"}")
    );
    let (status, text) =
        ask(&cluster.urls[0], Method::GET, &format!("/raft/stream/message/{id:x}"), &fine, Bytes::new()).await;
    assert_eq!((status, &text[..]), (StatusCode::GONE, "removed member\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_becomes_a_cluster_of_its_own_when_it_is_forced_to() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    cluster.nodes[0].put(put("a", "1")).await.unwrap();
    cluster.agree().await;
    let last = cluster.nodes.remove(1);
    let id = last.member.id();
    drop(cluster);
    let last = last.restart_with(|config| config.force_new_cluster = true).await;
    assert_eq!(last.range(get("a")).await.unwrap().kvs.len(), 1);
    last.put(put("b", "1")).await.unwrap();
    let members = last.member_list(MemberListRequest::default()).await.unwrap().members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
}
