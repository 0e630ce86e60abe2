//! Quotas of objects, against a store that evaluates txns.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_edge::{Api, Request, Response, Service, grpc};
use forebay_gateway::{AdmissionConfig, Config, Gateway, Metrics, Upstream};
use forebay_policies::Policy;
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op, response_op,
    },
    mvccpb::KeyValue,
};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use prometheus::Registry;
use prost::Message as _;
use tokio::time;

use super::policy;
use crate::client::{Answer, Reader, call, request};

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// Keys with their create and mod revisions. A call takes a while, in which others come in between.
#[derive(Clone, Default)]
struct Txns(Arc<Mutex<Keys>>);

#[derive(Default)]
struct Keys {
    revision: i64,
    keys: BTreeMap<Bytes, (i64, i64)>,
}

impl Keys {
    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { cluster_id: 1, revision: self.revision, ..Default::default() })
    }

    fn within(&self, key: &Bytes, range_end: &Bytes) -> Vec<(Bytes, (i64, i64))> {
        let range = KeyRange::new(key.clone(), range_end.clone());
        self.keys.iter().filter(|(key, _)| range.contains(key)).map(|(key, at)| (key.clone(), *at)).collect()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.within(&compare.key, &compare.range_end);
        let revisions = if found.is_empty() { vec![(0, 0)] } else { found.into_iter().map(|(_, at)| at).collect() };
        revisions.into_iter().all(|(created, modified)| {
            let (actual, wanted) = match (compare.target(), &compare.target_union) {
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => (created, *wanted),
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => (modified, *wanted),
                other => panic!("{other:?}"),
            };
            match compare.result() {
                CompareResult::Equal => actual == wanted,
                CompareResult::Less => actual < wanted,
                other => panic!("{other:?}"),
            }
        })
    }

    fn put(&mut self, put: &PutRequest, revision: i64) -> PutResponse {
        let at = self.keys.entry(put.key.clone()).or_insert((revision, revision));
        at.1 = revision;
        self.revision = revision;
        PutResponse { header: self.header(), prev_kv: None }
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let deleted = self.within(&delete.key, &delete.range_end);
        self.revision += i64::from(!deleted.is_empty());
        deleted.iter().for_each(|(key, _)| _ = self.keys.remove(key));
        DeleteRangeResponse { header: self.header(), deleted: deleted.len() as i64, prev_kvs: Vec::new() }
    }

    fn range(&self, range: &RangeRequest) -> RangeResponse {
        let found = self.within(&range.key, &range.range_end);
        let count = found.len() as i64;
        let record = |(key, (_, mod_revision))| KeyValue { key, mod_revision, ..Default::default() };
        let kvs = if range.count_only { Vec::new() } else { found.into_iter().map(record).collect() };
        RangeResponse { header: self.header(), kvs, count, ..Default::default() }
    }

    /// How many objects count.
    fn counted(&self) -> usize {
        self.keys.keys().filter(|key| key.starts_with(b"/q/")).count()
    }

    fn txn(&mut self, txn: &TxnRequest, revision: i64) -> TxnResponse {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let responses = branch.iter().map(|RequestOp { request }| {
            let response = match request.as_ref().unwrap() {
                request_op::Request::RequestPut(put) => response_op::Response::ResponsePut(self.put(put, revision)),
                request_op::Request::RequestRange(range) => response_op::Response::ResponseRange(self.range(range)),
                request_op::Request::RequestTxn(txn) => response_op::Response::ResponseTxn(self.txn(txn, revision)),
                other => panic!("{other:?}"),
            };
            ResponseOp { response: Some(response) }
        });
        let responses = responses.collect();
        TxnResponse { header: self.header(), succeeded, responses }
    }
}

impl Txns {
    fn answer(&self, path: &str, message: Bytes) -> Response {
        let mut keys = self.0.lock();
        let next = keys.revision + 1;
        match path {
            PUT => grpc::reply_message(&keys.put(&PutRequest::decode(message).unwrap(), next)),
            DELETE => grpc::reply_message(&keys.delete(&DeleteRangeRequest::decode(message).unwrap())),
            TXN => grpc::reply_message(&keys.txn(&TxnRequest::decode(message).unwrap(), next)),
            _ => grpc::reply_message(&keys.range(&RangeRequest::decode(message).unwrap())),
        }
    }
}

impl Service for Txns {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let store = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let message = Reader::new(request.into_body()).next().await.unwrap();
            time::sleep(Duration::from_millis(1)).await;
            let response = store.answer(&path, message);
            time::sleep(Duration::from_millis(1)).await;
            response
        })
    }
}

fn gateway(store: &Txns, policy: Policy) -> Gateway {
    let config = Config { admission: AdmissionConfig { policy, ..AdmissionConfig::default() }, ..Config::default() };
    Gateway::new(&config, Upstream::Local(Api::new(store.clone())), Metrics::new(&Registry::new()).unwrap())
}

fn objects(hard: u32, per: &str) -> Policy {
    policy(&format!("  quotas:\n    - {{name: small, prefix: /q/, mode: Enforce, hard: {{objects: {hard}}}{per}}}\n"))
}

fn put_of(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() }
}

async fn put(gateway: &Gateway, key: &str) -> Answer {
    call(&gateway.api(), request(PUT, put_of(key).encode_to_vec())).await
}

/// A Kubernetes API server's write: with revision 0 a create, with another an update.
async fn kubernetes(gateway: &Gateway, key: &str, mod_revision: i64) -> Answer {
    let txn = TxnRequest {
        compare: vec![Compare {
            target: CompareTarget::Mod.into(),
            key: key.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..Default::default()
        }],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put_of(key))) }],
        failure: Vec::new(),
    };
    call(&gateway.api(), request(TXN, txn.encode_to_vec())).await
}

#[tokio::test(start_paused = true)]
async fn many_writers_through_many_gateways_meet_the_limit_exactly() {
    let store = Txns::default();
    let gateways: Vec<_> = (0..4).map(|_| gateway(&store, objects(100, ""))).collect();
    let writers = (0..64).map(|writer| {
        let gateway = &gateways[writer % 4];
        async move {
            let mut created = 0;
            for number in 0..5 {
                let answer = put(gateway, &format!("/q/{writer}/{number}")).await;
                match answer.status() {
                    (0, _) => created += 1,
                    (8, text) if text.starts_with("forebay: quota small: 100 of 100 objects") => {}
                    // Others were faster for too long; a client that comes back finds out.
                    (8, _) => assert_eq!(answer.headers["forebay-reason"], "quota-busy"),
                    other => panic!("{other:?}"),
                }
            }
            created
        }
    });
    let created: usize = join_all(writers).await.into_iter().sum();
    assert_eq!(created, store.0.lock().counted());
    assert_eq!(created, 100);
}

#[tokio::test(start_paused = true)]
async fn a_full_budget_refuses_growth_and_nothing_else() {
    let store = Txns::default();
    let gateway = gateway(&store, objects(3, ""));
    for key in ["/q/a", "/q/b", "/q/c"] {
        assert_eq!(put(&gateway, key).await.status().0, 0);
    }
    let refused = put(&gateway, "/q/d").await;
    assert_eq!(
        refused.status(),
        (8, "forebay: quota small: 3 of 3 objects are used, and 1 more were asked for under /q/".into())
    );
    assert_eq!(refused.headers["forebay-rule"], "small");
    assert!(!refused.headers.contains_key("grpc-retry-pushback-ms"), "waiting does not help");
    assert_eq!(kubernetes(&gateway, "/q/d", 0).await.status().0, 8, "a create");
    assert_eq!(put(&gateway, "/q/a").await.status().0, 0, "an update");
    assert_eq!(put(&gateway, "/other").await.status().0, 0, "another prefix");
    let modified = store.0.lock().keys[&b"/q/b"[..]].1;
    let updated = kubernetes(&gateway, "/q/b", modified).await;
    let updated = TxnResponse::decode(updated.messages[0].clone()).unwrap();
    assert!(updated.succeeded && updated.header.is_some() && updated.responses.len() == 1, "{updated:?}");
    let conflict = kubernetes(&gateway, "/q/b", modified).await;
    assert!(!TxnResponse::decode(conflict.messages[0].clone()).unwrap().succeeded, "the client's own compare fails");
    let delete = DeleteRangeRequest { key: "/q/c".into(), ..Default::default() };
    assert_eq!(call(&gateway.api(), request(DELETE, delete.encode_to_vec())).await.status().0, 0);
    let created = put(&gateway, "/q/d").await;
    assert_eq!(created.status().0, 0, "there is room again");
    assert!(PutResponse::decode(created.messages[0].clone()).unwrap().header.is_some());
}

#[tokio::test(start_paused = true)]
async fn each_folder_has_its_own_budget_where_the_quota_says_so() {
    let store = Txns::default();
    let gateway = gateway(&store, objects(1, ", per: segment(3)"));
    assert_eq!(put(&gateway, "/q/one/a").await.status().0, 0);
    assert_eq!(put(&gateway, "/q/two/a").await.status().0, 0);
    assert_eq!(put(&gateway, "/q/one/b").await.status().0, 8);
}
