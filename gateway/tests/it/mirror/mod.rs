//! The mirror in front of an upstream that misbehaves on purpose. Tests begin with the number of the invariant that they
//! hold the gateway to.

mod faults;
mod identity;
mod reads;
mod upstream;
mod watches;

use std::time::Duration;

use bytes::Bytes;
use forebay_edge::Api;
use forebay_gateway::{Config, Gateway, Metrics, Upstream, mirror::MirrorConfig};
use forebay_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use prometheus::Registry;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use self::upstream::World;
use crate::client::{Answer, Reader, Writer, call, request, with_body};

/// A gateway with a mirror, and what it stands in front of.
struct Setup {
    world: World,
    api: Api,
    _gateway: Gateway,
    registry: Registry,
}

impl Setup {
    /// In front of a store that holds `k` = `v2` at revision 3, after the mirror is filled.
    async fn new() -> Setup {
        Setup::with_past(MirrorConfig::default().past_revisions).await
    }

    /// The same, with a window that begins so many revisions earlier at most.
    async fn with_past(past_revisions: u64) -> Setup {
        let world = World::new();
        world.put("k", "v1");
        world.put("k", "v2");
        Setup::over(world, MirrorConfig { past_revisions, ..MirrorConfig::default() }).await
    }

    async fn over(world: World, mirror: MirrorConfig) -> Setup {
        let registry = Registry::new();
        let config = Config { mirror: Some(mirror), ..Config::default() };
        let upstream = Upstream::Local(Api::new(world.clone()));
        let gateway = Gateway::new(&config, upstream, Metrics::new(&registry).unwrap());
        let setup = Setup { world, api: gateway.api(), _gateway: gateway, registry };
        setup.serving().await;
        setup
    }

    async fn serving(&self) {
        self.until("there is a mirror", || self.metric("forebay_mirror_serving", "") == 1.0).await;
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    /// The sum of a metric over labels with this value, or over all.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let matching =
            metrics.filter(|metric| label.is_empty() || metric.get_label().iter().any(|own| own.value() == label));
        matching.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }

    fn served(&self, how: &str) -> f64 {
        self.metric("forebay_mirror_requests_total", how)
    }

    async fn range(&self, range: &pb::RangeRequest, token: Option<&str>) -> Result<pb::RangeResponse, (i32, String)> {
        let answer = self.call("KV/Range", range.encode_to_vec(), token).await;
        match answer.status() {
            (0, _) => Ok(pb::RangeResponse::decode(answer.messages[0].clone()).unwrap()),
            status => Err(status),
        }
    }

    async fn get(&self, key: &'static str) -> pb::RangeResponse {
        self.range(&get(key), None).await.expect("a range that may be read")
    }

    async fn put(&self, key: &'static str, value: &'static str) -> i64 {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        let answer = self.call("KV/Put", put.encode_to_vec(), None).await;
        let response = pb::PutResponse::decode(answer.messages[0].clone()).unwrap();
        response.header.expect("a header").revision
    }

    async fn call(&self, method: &str, message: Vec<u8>, token: Option<&str>) -> Answer {
        let mut request = request(&format!("/etcdserverpb.{method}"), message);
        if let Some(token) = token {
            request.headers_mut().insert("token", token.parse().unwrap());
        }
        timeout(Duration::from_secs(60), call(&self.api, request)).await.expect("an answer in time")
    }

    /// Opens a watch stream.
    async fn watch(&self, token: Option<&str>) -> Stream {
        let (writer, body) = Writer::new();
        let mut request = with_body("/etcdserverpb.Watch/Watch", body);
        if let Some(token) = token {
            request.headers_mut().insert("token", token.parse().unwrap());
        }
        let response = self.api.call(request).await;
        Stream { writer, reader: Reader::new(response.into_body()) }
    }
}

/// The value of the only key of an answer.
fn value(response: &pb::RangeResponse) -> &str {
    std::str::from_utf8(&response.kvs[0].value).unwrap()
}

fn revision(response: &pb::RangeResponse) -> i64 {
    response.header.as_ref().expect("a header").revision
}

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

struct Stream {
    writer: Writer,
    reader: Reader,
}

impl Stream {
    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send_create(create).await;
        self.next().await
    }

    async fn send_create(&mut self, create: pb::WatchCreateRequest) {
        let union = RequestUnion::CreateRequest(create);
        self.writer.send(pb::WatchRequest { request_union: Some(union) }.encode_to_vec()).await;
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.try_next().await.unwrap_or_else(|status| panic!("the stream ended: {status:?}"))
    }

    async fn try_next(&mut self) -> Result<pb::WatchResponse, (i32, String)> {
        let message: Option<Bytes> =
            timeout(Duration::from_secs(60), self.reader.next()).await.expect("a response in time");
        message.map(|message| pb::WatchResponse::decode(message).unwrap()).ok_or_else(|| self.reader.status())
    }

    /// Events as `revision key value`, deletions without a value, until there are so many.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            for event in self.next().await.events {
                let kv = event.kv.expect("an event has a key");
                let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                events.push(format!("{} {} {}", kv.mod_revision, text(&kv.key), text(&kv.value)).trim().to_owned());
            }
        }
        events
    }

    /// Asserts that nothing comes for a while.
    async fn is_silent(&mut self) {
        let message = timeout(Duration::from_secs(2), self.reader.next()).await;
        assert!(message.is_err(), "silence, not {message:?}");
    }
}

/// A watch of every key from a revision on.
fn all_from(start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), start_revision, ..Default::default() }
}
