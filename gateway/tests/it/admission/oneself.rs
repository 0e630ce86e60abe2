//! In whose name the gateway calls an upstream that has auth enabled.

use std::{sync::Arc, time::Duration};

use forebay_edge::{Api, Request, Response, Service, grpc};
use forebay_gateway::{AdmissionConfig, Config, Gateway, Metrics, Upstream, mirror::Credentials};
use forebay_proto::{
    Error,
    etcdserverpb::{
        AuthenticateResponse, LeaseGrantResponse, PutResponse, RangeResponse, ResponseOp, TxnResponse, response_op,
    },
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::time;

use super::{policy, put};
use crate::client::call;

/// An upstream that knows alice by her token, and the gateway by the last token that it gave out.
#[derive(Clone, Default)]
struct Locked(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Tells tokens apart.
    given: usize,
    /// What was carried out, and under which token.
    done: Vec<(String, String)>,
}

impl State {
    fn answer(&mut self, method: &str, token: Option<&str>) -> Response {
        let own = format!("gateway-{}", self.given);
        if method == "Authenticate" {
            self.given += 1;
            let token = format!("gateway-{}", self.given);
            return grpc::reply_message(&AuthenticateResponse { token, ..Default::default() });
        }
        let token = match token {
            None => return grpc::refuse(Error::UserEmpty.into()),
            Some(token) if token != own && token != "alice" => return grpc::refuse(Error::InvalidAuthToken.into()),
            Some(token) => token.to_owned(),
        };
        self.done.push((method.to_owned(), token));
        match method {
            "LeaseGrant" => grpc::reply_message(&LeaseGrantResponse { id: 7, ttl: 15, ..Default::default() }),
            "Txn" => {
                let range = response_op::Response::ResponseRange(RangeResponse::default());
                let responses = vec![ResponseOp { response: Some(range) }];
                grpc::reply_message(&TxnResponse { succeeded: true, responses, ..Default::default() })
            }
            _ => grpc::reply_message(&PutResponse::default()),
        }
    }
}

impl Service for Locked {
    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let token = request.headers().get("token").map(|token| token.to_str().unwrap().to_owned());
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let response = self.0.lock().answer(&method, token.as_deref());
        Box::pin(std::future::ready(response))
    }
}

#[tokio::test(start_paused = true)]
async fn the_gateway_has_a_name_of_its_own_for_its_own_keys_and_lends_it_to_nobody() {
    let upstream = Locked::default();
    let spec = "
  flowRules:
    - {name: shared, matchingPrecedence: 1, mode: Enforce, match: {rpcs: [Put]}, priorityLevel: catch-all, limits: {requests: 100/s}, scope: Cluster}
  quotas:
    - {name: few, prefix: /q/, hard: {objects: 10}}
";
    let admission = AdmissionConfig { policy: policy(spec), ..AdmissionConfig::default() };
    let user = Some(Credentials { name: "gateway".into(), password: "secret".into() });
    let config = Config { admission, user, ..Config::default() };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let gateway = Gateway::new(&config, Upstream::Local(Api::new(upstream.clone())), metrics);
    let running = gateway.clone();
    let running = tokio::spawn(async move { running.run(None).await });
    let shares_are_told_by = async |token: &str| {
        let is_told = || upstream.0.lock().done.contains(&("Txn".to_owned(), token.to_owned()));
        time::timeout(Duration::from_secs(20), async {
            while !is_told() {
                time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("nothing is told as {token}"));
    };
    // One token serves what the gateway tells of its shares and of quotas.
    shares_are_told_by("gateway-1").await;
    let (code, text) = call(&gateway.api(), put("a", 1)).await.status();
    assert_eq!((code, text.as_str()), (3, "etcdserver: user name is empty"), "whoever has no token gets none lent");
    let mut request = put("a", 1);
    request.headers_mut().insert("token", "alice".parse().unwrap());
    assert_eq!(call(&gateway.api(), request).await.status().0, 0);
    // The token has come to its end.
    upstream.0.lock().given = 6;
    shares_are_told_by("gateway-7").await;
    running.abort();
    let done = std::mem::take(&mut upstream.0.lock().done);
    let puts: Vec<_> = done.iter().filter(|(method, _)| method == "Put").collect();
    assert_eq!(puts, [&("Put".to_owned(), "alice".to_owned())]);
    assert!(done.iter().any(|(method, token)| method == "Hold" && token.starts_with("gateway-")), "{done:?}");
}
