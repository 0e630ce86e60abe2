//! Who is let in, and what those hear who are not.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_edge::{Api, Body, Request, Response, Service, grpc, listener::Peer};
use forebay_gateway::{AdminToken, AdmissionConfig, Config, Gateway, Metrics, PolicyFile, Upstream};
use forebay_policies::{Policy, file};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, WatchCancelRequest, WatchCreateRequest,
        WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
    mvccpb::KeyValue,
};
use futures::{StreamExt as _, future::BoxFuture, future::join_all, stream};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use prometheus::Registry;
use prost::Message as _;
use tokio::time::{self, Instant};

mod oneself;
mod quotas;

use crate::client::{Answer, Reader, Writer, call, request, with_body, within};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";

const EXHAUSTED: i32 = 8;
const TOO_MANY: &str = "etcdserver: too many requests";

/// An upstream in process: a few keys at one revision, and a time that every call takes.
#[derive(Clone, Default)]
struct Store(Arc<Inner>);

#[derive(Default)]
struct Inner {
    keys: BTreeMap<Bytes, Bytes>,
    takes: Duration,
    seen: Mutex<Vec<Seen>>,
    running: AtomicUsize,
    /// Most calls at the same time, streams aside.
    running_max: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Seen {
    path: String,
    headers: http::HeaderMap,
    message: Bytes,
}

impl Store {
    fn new(keys: usize, value_bytes: usize, takes: Duration) -> Store {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        let keys = (0..keys).map(|number| (format!("/r/k{number:06}").into(), value.clone())).collect();
        Store(Arc::new(Inner { keys, takes, ..Inner::default() }))
    }

    fn seen(&self, path: &str) -> Vec<Seen> {
        self.0.seen.lock().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    fn range(&self, asked: &RangeRequest) -> RangeResponse {
        let keys = KeyRange::new(asked.key.clone(), asked.range_end.clone());
        let matching: Vec<_> = self.0.keys.iter().filter(|(key, _)| keys.contains(key)).collect();
        let limit = usize::try_from(asked.limit).unwrap();
        let shown = if limit == 0 { matching.len() } else { limit.min(matching.len()) };
        let record = |(key, value): &(&Bytes, &Bytes)| KeyValue {
            key: (*key).clone(),
            value: (*value).clone(),
            mod_revision: 5,
            ..KeyValue::default()
        };
        RangeResponse {
            header: Some(header()),
            kvs: matching[..shown].iter().map(record).collect(),
            more: shown < matching.len(),
            count: matching.len() as i64,
        }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let headers = request.headers().clone();
        if path == WATCH {
            return watch(request);
        }
        let (_, body) = request.into_parts();
        let message = Reader::new(body).next().await.unwrap_or_default();
        self.0.seen.lock().push(Seen { path: path.clone(), headers, message: message.clone() });
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.running_max.fetch_max(running, Ordering::SeqCst);
        time::sleep(self.0.takes).await;
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        match path.as_str() {
            RANGE => match RangeRequest::decode(message) {
                Ok(asked) => grpc::reply_message(&self.range(&asked)),
                Err(error) => grpc::refuse(tonic::Status::internal(format!("unmarshalling: {error}"))),
            },
            _ => grpc::reply_message(&PutResponse { header: Some(header()), prev_kv: None }),
        }
    }
}

impl Service for Store {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(self.clone().answer(request))
    }
}

fn header() -> ResponseHeader {
    ResponseHeader { cluster_id: 1, member_id: 2, revision: 7, raft_term: 3 }
}

/// Answers creates with ids from 0, and cancels.
fn watch(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let messages = grpc::Messages::<WatchRequest>::new(&parts.headers, body, 1 << 20);
    let frames = stream::unfold((messages, 0), |(mut messages, mut next)| async move {
        let request = messages.next().await.ok()??;
        let response = match request.request_union {
            Some(RequestUnion::CreateRequest(_)) => {
                next += 1;
                WatchResponse { header: Some(header()), watch_id: next - 1, created: true, ..Default::default() }
            }
            Some(RequestUnion::CancelRequest(cancel)) => WatchResponse {
                header: Some(header()),
                watch_id: cancel.watch_id,
                canceled: true,
                ..Default::default()
            },
            _ => WatchResponse { header: Some(header()), watch_id: -1, ..Default::default() },
        };
        Some((Ok(grpc::encode(&response)), (messages, next)))
    });
    grpc::respond(Body::grpc_stream(frames.boxed()))
}

struct Setup {
    store: Store,
    gateway: Gateway,
    registry: Registry,
}

fn policy(spec: &str) -> Policy {
    let text = format!("apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n{spec}");
    file::load(&text).unwrap_or_else(|problems| panic!("{problems:?}")).policy
}

impl Setup {
    fn new(store: Store, policy: Policy) -> Setup {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let admission = AdmissionConfig { policy, memory_bytes: 64 << 20, ..AdmissionConfig::default() };
        let config = Config { admission, ..Config::default() };
        let gateway = Gateway::new(&config, Upstream::Local(Api::new(store.clone())), metrics);
        Setup { store, gateway, registry }
    }

    async fn call(&self, request: Request) -> Answer {
        call(&self.gateway.api(), request).await
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

fn from(address: &str, mut request: Request) -> Request {
    let address: SocketAddr = format!("{address}:1000").parse().unwrap();
    request.extensions_mut().insert(Peer { address });
    request
}

fn get(key: &'static str) -> Request {
    request(RANGE, RangeRequest { key: key.into(), ..Default::default() }.encode_to_vec())
}

fn list() -> RangeRequest {
    RangeRequest { key: "/r/".into(), range_end: "/r0".into(), ..Default::default() }
}

fn put(key: &'static str, value_bytes: usize) -> Request {
    request(
        PUT,
        PutRequest { key: key.into(), value: vec![0; value_bytes].into(), ..Default::default() }.encode_to_vec(),
    )
}

const FIVE_A_SECOND: &str = "
  identity: [peerIP]
  flowRules:
    - name: five
      matchingPrecedence: 100
      priorityLevel: catch-all
      mode: Enforce
      match: {rpcs: [Range]}
      limits: {requests: 5/s, burst: 5}
      onLimit: Reject
";

#[tokio::test]
async fn who_does_what_is_told_to_this_machine_or_if_there_is_a_token_to_who_brings_it() {
    let asked = async |admin_token: Option<&str>, address: &str, field: Option<(&'static str, &str)>| {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let admin_token = admin_token.and_then(AdminToken::new);
        let admission = AdmissionConfig { admin_token, ..AdmissionConfig::default() };
        let config = Config { admission, ..Config::default() };
        let gateway = Gateway::new(&config, Upstream::Local(Api::new(Store::default())), metrics);
        let mut request = http::Request::get("/forebay/v1/top").header("host", "127.0.0.1:2379");
        if let Some((name, value)) = field {
            request = request.header(name, value);
        }
        let request = from(address, request.body(Body::empty()).unwrap());
        gateway.admission().admin(request).await.status().as_u16()
    };
    assert_eq!(asked(None, "127.0.0.1", None).await, 200);
    assert_eq!(asked(None, "127.0.0.1", Some(("x-forwarded-for", "10.0.0.2"))).await, 403, "a proxy asks for another");
    assert_eq!(asked(None, "10.0.0.2", None).await, 403);
    for address in ["127.0.0.1", "10.0.0.2"] {
        assert_eq!(asked(Some("secret"), address, None).await, 403, "{address}");
        assert_eq!(asked(Some("secret"), address, Some(("authorization", "Bearer wrong"))).await, 403, "{address}");
        assert_eq!(asked(Some("secret"), address, Some(("authorization", "Bearer secret"))).await, 200, "{address}");
    }
}

#[tokio::test]
async fn a_rule_is_enforced_or_only_counted_at_the_word_of_who_brings_the_token() {
    let gateway = |admin_token: Option<&str>| {
        let admin_token = admin_token.and_then(AdminToken::new);
        let admission = AdmissionConfig { policy: policy(FIVE_A_SECOND), admin_token, ..AdmissionConfig::default() };
        let metrics = Metrics::new(&Registry::new()).unwrap();
        Gateway::new(&Config { admission, ..Config::default() }, Upstream::Local(Api::new(Store::default())), metrics)
    };
    let post = async |gateway: &Gateway, query: &str, token: &str| {
        let request = http::Request::post(format!("/forebay/v1/policy/mode?{query}")).header("host", "127.0.0.1:2379");
        let request = request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        let response = gateway.admission().admin(from("127.0.0.1", request)).await;
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
    };
    let open = gateway(None);
    assert_eq!(post(&open, "rule=five&mode=Shadow", "").await.0, 403, "this machine may look, and change nothing");
    let held = gateway(Some("secret"));
    assert_eq!(post(&held, "rule=five&mode=Shadow", "wrong").await.0, 403);
    for wrong in ["", "rule=five", "rule=five&mode=Off", "rule=five&mode=Shadow&more=1", "rule=%zz&mode=Shadow"] {
        assert_eq!(post(&held, wrong, "secret").await.0, 400, "{wrong}");
    }
    for foreign in ["six", "forebay-reserved"] {
        assert_eq!(post(&held, &format!("rule={foreign}&mode=Shadow"), "secret").await.0, 404, "{foreign}");
    }
    for mode in ["Shadow", "Enforce"] {
        let (status, text) = post(&held, &format!("rule=five&mode={mode}"), "secret").await;
        let now: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rules = now["rules"].as_array().unwrap();
        let five = rules.iter().find(|rule| rule["name"] == "five").unwrap();
        assert_eq!((status, five["mode"].as_str()), (200, Some(mode)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_rate_hears_it_once_and_others_hear_nothing() {
    let setup = Setup::new(Store::default(), policy(FIVE_A_SECOND));
    for _ in 0..5 {
        assert_eq!(setup.call(from("10.0.0.1", get("a"))).await.status().0, 0);
    }
    let refused = setup.call(from("10.0.0.1", get("a"))).await;
    assert_eq!(refused.status(), (EXHAUSTED, TOO_MANY.into()));
    assert_eq!(refused.headers["forebay-rule"], "five");
    assert_eq!(refused.headers["forebay-reason"], "requests");
    assert!(refused.headers.contains_key("grpc-retry-pushback-ms"));
    assert_eq!(setup.call(from("10.0.0.2", get("a"))).await.status().0, 0, "another client has a rate of its own");
    assert_eq!(setup.call(from("10.0.0.1", put("a", 1))).await.status().0, 0, "another method has no rate");
    assert_eq!(setup.store.seen(RANGE).len(), 6, "what is refused is not forwarded");
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.call(from("10.0.0.1", get("a"))).await.status().0, 0);
    assert_eq!(setup.metric("forebay_admission_refused_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_queues_lets_its_requests_wait_for_the_rate_within_their_time() {
    let queued = FIVE_A_SECOND.replace("onLimit: Reject", "onLimit: Queue");
    let setup = Setup::new(Store::default(), policy(&queued));
    let began = Instant::now();
    let answers = join_all((0..15).map(|_| setup.call(from("10.0.0.1", get("a"))))).await;
    assert!(answers.iter().all(|answer| answer.status().0 == 0));
    let took = began.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_millis(2100)).contains(&took), "{took:?}");
    // No more than a quarter of the time that its caller gives it.
    let hurried = within(from("10.0.0.1", get("a")), Duration::from_millis(400));
    assert_eq!(setup.call(hurried).await.status().0, EXHAUSTED);
}

#[tokio::test(start_paused = true)]
async fn a_rule_in_shadow_mode_counts_and_refuses_nobody() {
    let setup = Setup::new(Store::default(), policy(FIVE_A_SECOND).shadowed());
    for _ in 0..20 {
        assert_eq!(setup.call(from("10.0.0.1", get("a"))).await.status().0, 0);
    }
    assert_eq!(setup.metric("forebay_admission_shadow_refused_total"), 15.0);
    assert_eq!(setup.metric("forebay_admission_refused_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_never_pass_is_invalid_and_an_unreadable_one_is_the_upstreams_to_refuse() {
    let spec = "
  flowRules:
    - name: small
      matchingPrecedence: 100
      priorityLevel: catch-all
      mode: Enforce
      match: {rpcs: [Put]}
      limits: {requestBytes: 1KiB}
";
    let setup = Setup::new(Store::default(), policy(spec));
    assert_eq!(setup.call(put("a", 100)).await.status().0, 0);
    assert_eq!(setup.call(put("a", 2000)).await.status(), (3, "etcdserver: request is too large".into()));
    let unreadable = setup.call(request(RANGE, "\x0a\x7fabc")).await;
    assert_eq!(unreadable.status().0, 13);
    assert!(unreadable.status().1.starts_with("unmarshalling"), "the upstream's own words");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_others_alive_passes_whatever_else_waits() {
    let store = Store::new(0, 0, Duration::from_secs(10));
    let setup = Setup::new(store, Policy::builtin());
    let flood = join_all((0..2000).map(|_| setup.call(within(put("a", 10), Duration::from_secs(20)))));
    let reserved = async {
        time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        for path in [STATUS, LEASE_REVOKE, "/etcdserverpb.Cluster/MemberList", "/grpc.health.v1.Health/Check"] {
            assert_eq!(setup.call(request(path, "")).await.status().0, 0, "{path}");
        }
        began.elapsed()
    };
    let (answers, took) = tokio::join!(flood, reserved);
    assert_eq!(took, Duration::from_secs(40), "four calls of ten seconds, without a wait");
    let refused = answers.iter().filter(|answer| answer.status() == (EXHAUSTED, TOO_MANY.into())).count();
    assert!(refused > 1000, "{refused} of 2000 were told to come later");
}

#[tokio::test(start_paused = true)]
async fn only_a_trusted_peer_says_who_the_client_is() {
    let spec = FIVE_A_SECOND.replace("[peerIP]", "['metadata:x-client', peerIP]\n  trustedPeers: [10.0.0.0/8]");
    let setup = Setup::new(Store::default(), policy(&spec));
    let named = |address, name: &str| {
        let mut request = from(address, get("a"));
        request.headers_mut().insert("x-client", name.parse().unwrap());
        request
    };
    for number in 0..10 {
        // Behind one trusted proxy, two clients.
        let name = if number % 2 == 0 { "alice" } else { "bob" };
        assert_eq!(setup.call(named("10.0.0.1", name)).await.status().0, 0);
    }
    let refused = join_all((0..10).map(|number| setup.call(named("192.0.2.1", &format!("made-up-{number}"))))).await;
    assert_eq!(refused.iter().filter(|answer| answer.status().0 == EXHAUSTED).count(), 5, "a stranger is one client");
    let told: Vec<_> = setup.store.seen(RANGE).iter().map(|seen| seen.headers.contains_key("x-client")).collect();
    assert_eq!(told, [[true; 10].as_slice(), &[false; 5]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_lists_the_same_gets_one_answer_in_pages() {
    let store = Store::new(12_345, 300, Duration::from_millis(20));
    let setup = Setup::new(store, Policy::builtin());
    let want = setup.store.range(&list());
    let answers = join_all((0..200).map(|_| setup.call(request(RANGE, list().encode_to_vec())))).await;
    for answer in &answers {
        assert_eq!(answer.status(), (0, String::new()));
        assert_eq!(RangeResponse::decode(answer.messages[0].clone()).unwrap(), want);
    }
    let pages: Vec<_> =
        setup.store.seen(RANGE).iter().map(|seen| RangeRequest::decode(seen.message.clone()).unwrap()).collect();
    assert!(pages.iter().all(|page| page.limit > 0 && page.limit <= 10_000));
    let begun = pages.iter().filter(|page| page.revision == 0).count();
    assert!(begun <= 2, "{begun} lists for 200 callers");
    assert_eq!(setup.store.0.running_max.load(Ordering::SeqCst), 1, "lists of the same keys take turns");
    assert_eq!(setup.metric("forebay_admission_joined_lists_total"), 198.0);
}

#[tokio::test(start_paused = true)]
async fn a_list_whose_turn_does_not_come_in_time_is_shed() {
    let setup = Setup::new(Store::new(12_345, 300, Duration::from_secs(1)), Policy::builtin());
    let keys = RangeRequest { keys_only: true, ..list() };
    let first = setup.call(request(RANGE, list().encode_to_vec()));
    let second = setup.call(within(request(RANGE, keys.encode_to_vec()), Duration::from_secs(2)));
    let third = setup.call(within(request(RANGE, keys.encode_to_vec()), Duration::from_secs(60)));
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!((first.status().0, third.status().0), (0, 0), "the one that goes, and the one that can wait");
    assert_eq!(second.status(), (EXHAUSTED, TOO_MANY.into()));
    assert_eq!(second.headers["forebay-reason"], "crowded");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_known_to_be_small_passes_as_it_came() {
    let setup = Setup::new(Store::new(10, 100, Duration::ZERO), Policy::builtin());
    for _ in 0..2 {
        let answer = setup.call(request(RANGE, list().encode_to_vec())).await;
        assert_eq!(RangeResponse::decode(answer.messages[0].clone()).unwrap(), setup.store.range(&list()));
    }
    let seen = setup.store.seen(RANGE);
    assert_eq!(RangeRequest::decode(seen[0].message.clone()).unwrap().limit, 500, "nothing is known of it");
    assert_eq!(seen[1].message, list().encode_to_vec());
}

#[tokio::test(start_paused = true)]
async fn what_a_list_costs_is_settled_when_it_is_known() {
    let spec = "
  identity: [peerIP]
  flowRules:
    - name: load
      matchingPrecedence: 100
      priorityLevel: catch-all
      mode: Enforce
      match: {rpcs: [Range]}
      limits: {load: 100KiB/s, loadBurst: 1MiB}
      onLimit: Reject
";
    let setup = Setup::new(Store::new(1000, 1000, Duration::ZERO), policy(spec));
    let listed = || setup.call(from("10.0.0.1", request(RANGE, list().encode_to_vec())));
    // Nothing is known of it, so it takes all there is; it turns out to be about a megabyte.
    assert_eq!(listed().await.status().0, 0);
    assert_eq!(listed().await.status().0, EXHAUSTED);
    time::sleep(Duration::from_secs(11)).await;
    assert_eq!(listed().await.status().0, 0, "it was charged what it was, not what it might have been");
    assert!(setup.metric("forebay_admission_load_bytes_total") > 2e6);
}

/// The client's side of a Watch stream.
struct Watching {
    requests: Writer,
    responses: Reader,
}

impl Watching {
    async fn open(setup: &Setup) -> Watching {
        let (requests, body) = Writer::new();
        requests.send(create()).await;
        let response = setup.gateway.api().call(from("10.0.0.1", with_body(WATCH, body))).await;
        Watching { requests, responses: Reader::new(response.into_body()) }
    }

    async fn next(&mut self) -> WatchResponse {
        WatchResponse::decode(self.responses.next().await.expect("the stream goes on")).unwrap()
    }

    async fn create(&mut self) -> WatchResponse {
        self.requests.send(create()).await;
        self.next().await
    }

    async fn cancel(&mut self, watch_id: i64) -> WatchResponse {
        let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
        self.requests.send(WatchRequest { request_union: Some(cancel) }.encode_to_vec()).await;
        self.next().await
    }
}

fn create() -> Vec<u8> {
    let create = WatchCreateRequest { key: "/w/".into(), range_end: "/w0".into(), ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }.encode_to_vec()
}

fn watches(limits: &str) -> Policy {
    policy(&format!(
        "
  identity: [peerIP]
  flowRules:
    - name: watches
      matchingPrecedence: 100
      priorityLevel: catch-all
      mode: Enforce
      match: {{rpcs: [Watch], touching: [/w/]}}
      limits: {{{limits}}}
"
    ))
}

#[tokio::test(start_paused = true)]
async fn a_watch_too_many_is_refused_as_etcd_refuses_one_and_the_others_live() {
    let setup = Setup::new(Store::default(), watches("watches: 2"));
    let mut stream = Watching::open(&setup).await;
    assert_eq!((stream.next().await.watch_id, stream.create().await.watch_id), (0, 1));
    let refused = stream.create().await;
    assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
    assert_eq!((refused.cancel_reason.as_str(), refused.header), (TOO_MANY, Some(header())));
    assert!(stream.cancel(0).await.canceled);
    assert_eq!(stream.create().await.watch_id, 2, "a watch that ended makes room");
    // A stream of its own finds no room either, and is told so although the upstream never heard of it.
    let mut second = Watching::open(&setup).await;
    assert_eq!(second.next().await.watch_id, -1);
    drop(stream);
    assert_eq!(second.create().await.watch_id, 0, "a stream that ended makes room for all its watches");
}

#[tokio::test(start_paused = true)]
async fn creates_over_a_rate_wait_and_do_not_fail() {
    let setup = Setup::new(Store::default(), watches("requests: 2/s, burst: 1"));
    let began = Instant::now();
    let mut stream = Watching::open(&setup).await;
    assert_eq!(stream.next().await.watch_id, 0);
    for id in 1..=10 {
        assert_eq!(stream.create().await.watch_id, id);
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(4900)..Duration::from_millis(5600)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_is_dearer_the_more_watches_hear_of_it() {
    let setup = Setup::new(Store::default(), Policy::builtin());
    let seats = async || {
        let asked = http::Request::get("/forebay/v1/explain?rpc=Put&key=%2Fw%2Fa").header("host", "127.0.0.1:2379");
        let asked = from("127.0.0.1", asked.body(Body::empty()).unwrap());
        let page = setup.gateway.admission().admin(asked).await.into_body().collect().await.unwrap().to_bytes();
        let page = String::from_utf8(page.to_vec()).unwrap();
        let cost = page.lines().find_map(|line| line.strip_suffix(" seats")).expect("a cost");
        cost.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(seats().await, 1);
    let mut stream = Watching::open(&setup).await;
    stream.next().await;
    for _ in 1..300 {
        stream.create().await;
    }
    assert_eq!(seats().await, 4);
    assert!(stream.cancel(7).await.canceled);
    assert_eq!(seats().await, 3, "a watch that ended hears nothing");
    drop(stream);
    assert_eq!(seats().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_file_is_followed_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.yaml");
    let text = |requests| {
        let spec = FIVE_A_SECOND.replace("5/s, burst: 5", requests);
        format!("apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n{spec}")
    };
    std::fs::write(&path, text("1/s, burst: 1")).unwrap();
    let file = PolicyFile::new(path.clone(), false);
    let setup = Setup::new(Store::default(), file.load().unwrap());
    let admission = setup.gateway.admission().clone();
    tokio::spawn(async move { admission.run(Some(file)).await });
    let passes = async |most: usize| {
        time::sleep(Duration::from_secs(5)).await;
        let answers = join_all((0..most + 1).map(|_| setup.call(from("10.0.0.1", get("a"))))).await;
        answers.iter().filter(|answer| answer.status().0 == 0).count()
    };
    assert_eq!(passes(1).await, 1);
    for (content, most, current) in
        [(text("3/s, burst: 3"), 3, 1.0), ("flowRules: [".into(), 3, 0.0), (text("2/s, burst: 2"), 2, 1.0)]
    {
        std::fs::write(&path, content).unwrap();
        while passes(most).await != most || setup.metric("forebay_admission_policy_is_current") != current {}
    }
    assert!(setup.metric("forebay_admission_policy_reloads_total") >= 3.0);
}
