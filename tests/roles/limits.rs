//! Ways round what a policy limits (row G11), each of which is none: many connections, another protocol, txns within
//! txns, leases, restarts. Rates are counted by a clock that never jumps, so the machine's time is no way either.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use forebay_loadtest::client::{Connection, Target};
use forebay_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, compare::CompareResult, kv_client::KvClient, lease_client::LeaseClient, request_op::Request,
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::role::Role;

/// Requests a second that a client may send, and how many at once.
const RATE: f64 = 100.0;
const BURST: f64 = 20.0;
/// Objects that there may be below `/q/`.
const OBJECTS: usize = 50;

const POLICY: &str = "
apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
spec:
  identity: [peerIP]
  flowRules:
    - name: reads
      matchingPrecedence: 100
      priorityLevel: catch-all
      mode: Enforce
      match: {rpcs: [Range]}
      limits: {requests: 100/s, burst: 20}
      onLimit: Reject
  quotas:
    - {name: few, prefix: /q/, hard: {objects: 50}}
";

struct Setup {
    dir: tempfile::TempDir,
    server: Role,
    gateway: Role,
}

impl Setup {
    fn new() -> Setup {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
        let server = server(dir.path());
        let gateway = gateway(dir.path(), server.port);
        Setup { dir, server, gateway }
    }

    /// Both are killed, and begin again.
    fn restarted(self) -> Setup {
        let Setup { dir, server: before, gateway: front } = self;
        drop((front, before));
        let server = server(dir.path());
        let gateway = gateway(dir.path(), server.port);
        Setup { dir, server, gateway }
    }

    /// Connections to the gateway from an address.
    async fn connections(&self, source: Ipv4Addr, count: usize) -> Vec<Connection> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.gateway.port));
        let target = Target { source: Some(source), ..Target::at(address) };
        target.connect(count).await.unwrap()
    }
}

fn server(dir: &Path) -> Role {
    Role::member(dir, &dir.join("data"), "http", &[])
}

fn gateway(dir: &Path, upstream: u16) -> Role {
    let args =
        [format!("--endpoints=http://127.0.0.1:{upstream}"), format!("--policy={}", dir.join("policy.yaml").display())];
    let mut gateway = Role::spawn(dir, "gateway", "gateway", "http", &args);
    gateway.ready();
    gateway
}

/// Reads four times as often as is allowed until then, whether it is answered or not, by these connections in turns; how
/// many reads were answered.
async fn read_until(connections: Vec<Connection>, end: Instant) -> usize {
    let mut turns = tokio::time::interval(Duration::from_secs_f64(1.0 / (4.0 * RATE)));
    let mut reads = JoinSet::new();
    for connection in connections.iter().cycle().take_while(|_| Instant::now() < end) {
        turns.tick().await;
        let mut client = KvClient::new(connection.clone());
        reads.spawn(async move {
            let read = client.range(RangeRequest { key: "k".into(), ..Default::default() }).await;
            let refused = read.as_ref().err().map(Status::code);
            assert!(matches!(refused, None | Some(Code::ResourceExhausted)), "{read:?}");
            refused.is_none()
        });
    }
    reads.join_all().await.into_iter().filter(|answered| *answered).count()
}

/// The same as JSON, each on a connection of its own.
async fn read_json_until(gateway: &Role, end: Instant) -> usize {
    let mut answered = 0;
    while Instant::now() < end {
        let answer = gateway.ask_in_clear("/v3/kv/range", r#"{"key":"aw=="}"#).await;
        let is_refused = answer.starts_with("HTTP/1.1 429 ");
        assert!(is_refused || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answered += usize::from(!is_refused);
    }
    answered
}

/// No more than what the rule lets in since `began`, and not much less than in the time in which was asked.
fn keeps_to_the_rate(answered: usize, began: Instant) {
    let within = |time: Duration| BURST + RATE * time.as_secs_f64();
    let (least, most) = (within(LASTS) / 2.0, within(began.elapsed()) + 1.0);
    assert!((least..=most).contains(&(answered as f64)), "{answered} answered, {least:.0} to {most:.0} are right");
}

/// How long is asked.
const LASTS: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_no_number_of_connections_or_protocols_and_no_restart_gets_round_a_rate() {
    let setup = Setup::new();
    let here = Ipv4Addr::LOCALHOST;
    let connections = setup.connections(here, 16).await;
    let began = Instant::now();
    let by_grpc = read_until(connections, began + LASTS);
    let (by_grpc, by_json) = tokio::join!(by_grpc, read_json_until(&setup.gateway, began + LASTS));
    keeps_to_the_rate(by_grpc + by_json, began);
    assert!(by_json > 0, "both are served");

    // It begins with the burst that every client has, and with nothing else.
    let setup = setup.restarted();
    let connections = setup.connections(here, 4).await;
    let began = Instant::now();
    keeps_to_the_rate(read_until(connections, began + LASTS).await, began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_who_opens_more_connections_gets_no_more_than_others() {
    let setup = Setup::new();
    let many = setup.connections(Ipv4Addr::new(127, 0, 2, 1), 12).await;
    let few = setup.connections(Ipv4Addr::new(127, 0, 2, 2), 2).await;
    let end = Instant::now() + LASTS;
    let (many, few) = tokio::join!(read_until(many, end), read_until(few, end));
    let (less, more) = (many.min(few) as f64, many.max(few) as f64);
    assert!(less >= 0.9 * more, "{many} by twelve connections, {few} by two");
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn txn(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

/// Whether a create came through; if it did not, the quota says why.
fn is_created<T>(answer: Result<T, Status>) -> bool {
    let Err(status) = answer else { return true };
    assert!(status.message().starts_with("forebay: quota few"), "{status:?}");
    false
}

/// Tries to create an object in each way that there is; returns how many came through.
async fn create_in_every_way(setup: &Setup, name: &str) -> usize {
    let connection = setup.connections(Ipv4Addr::LOCALHOST, 1).await.remove(0);
    let mut kv = KvClient::new(connection.clone());
    let key = |way: &str| format!("/q/{name}/{way}");
    let mut created = usize::from(is_created(kv.put(put(&key("put"))).await));
    let plain = txn(vec![op(Request::RequestPut(put(&key("txn"))))]);
    created += usize::from(is_created(kv.txn(plain).await));
    let nested = txn(vec![op(Request::RequestPut(put(&key("nested"))))]);
    created += usize::from(is_created(kv.txn(txn(vec![op(Request::RequestTxn(nested))])).await));
    // A version of the key that does not hold: the other branch is carried out.
    let never = Compare { key: "/q/none".into(), result: CompareResult::Greater as i32, ..Default::default() };
    let failure = vec![op(Request::RequestPut(put(&key("failure"))))];
    created +=
        usize::from(is_created(kv.txn(TxnRequest { compare: vec![never], failure, ..Default::default() }).await));
    let lease = LeaseClient::new(connection).lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap();
    let leased = PutRequest { lease: lease.into_inner().id, ..put(&key("leased")) };
    created += usize::from(is_created(kv.put(leased).await));
    // `/q/json` in base64.
    let answer = setup.gateway.ask_in_clear("/v3/kv/put", r#"{"key":"L3EvanNvbg==","value":"dg=="}"#).await;
    let is_new = answer.starts_with("HTTP/1.1 200 ");
    assert!(is_new || answer.contains("forebay: quota few"), "{answer}");
    created + usize::from(is_new)
}

async fn count(setup: &Setup) -> usize {
    let connection = setup.connections(Ipv4Addr::new(127, 0, 3, 1), 1).await.remove(0);
    let range = RangeRequest { key: "/q/".into(), range_end: "/q0".into(), count_only: true, ..Default::default() };
    let counted = KvClient::new(connection).range(range).await.unwrap().into_inner();
    usize::try_from(counted.count).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_no_protocol_txn_lease_or_restart_gets_round_a_quota() {
    let setup = Setup::new();
    assert_eq!(create_in_every_way(&setup, "early").await, 6, "far from the limit all ways are open");
    let mut writers = JoinSet::new();
    for (writer, connection) in setup.connections(Ipv4Addr::LOCALHOST, 8).await.into_iter().enumerate() {
        writers.spawn(async move {
            let (mut client, mut created) = (KvClient::new(connection), 0);
            while is_created(client.put(put(&format!("/q/{writer}/{created}"))).await) {
                created += 1;
            }
            created
        });
    }
    assert_eq!(writers.join_all().await.into_iter().sum::<usize>(), OBJECTS - 6);

    let connection = setup.connections(Ipv4Addr::LOCALHOST, 1).await.remove(0);
    let (mut kv, mut leases) = (KvClient::new(connection.clone()), LeaseClient::new(connection));
    // The key of the JSON request is there by now: it is an update, which is none's to refuse.
    assert_eq!(create_in_every_way(&setup, "late").await, 1);
    assert_eq!(count(&setup).await, OBJECTS);

    // What hangs on a lease counts until it is gone, once.
    let gone = DeleteRangeRequest { key: "/q/early/".into(), range_end: "/q/early0".into(), ..Default::default() };
    assert_eq!(kv.delete_range(gone).await.unwrap().into_inner().deleted, 5);
    let lease = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner().id;
    for turn in 0..6 {
        let leased = PutRequest { lease, ..put(&format!("/q/leased/{turn}")) };
        assert_eq!(is_created(kv.put(leased).await), turn < 5, "{turn}");
    }
    leases.lease_revoke(LeaseRevokeRequest { id: lease }).await.unwrap();
    assert_eq!(create_in_every_way(&setup, "again").await, 6, "five of them new");
    assert_eq!(count(&setup).await, OBJECTS);

    let setup = setup.restarted();
    assert_eq!(create_in_every_way(&setup, "later").await, 1);
    assert_eq!(count(&setup).await, OBJECTS);
}
