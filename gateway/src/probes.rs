//! What a gateway's health pages, version page and metrics page say: how the cluster behind it is,
//! as its members last told.

use std::sync::Arc;

use forebay_edge::{
    Api, Body, grpc,
    http::{Probes, Versions},
};
use forebay_proto::etcdserverpb::{AlarmType, RangeRequest, StatusResponse};
use futures::{FutureExt as _, future::BoxFuture};
use prometheus::{Registry, proto::MetricFamily};
use tonic::{Code, Status};

use crate::{Gateway, Upstream, admission::OwnCall, replies, upstream::Pool};

/// The pages of a gateway in front of a remote cluster.
pub struct GatewayProbes {
    api: Api,
    pool: Pool,
    registry: Registry,
}

impl GatewayProbes {
    /// The pages of `gateway`; `None` if its upstream is a member in this process, whose own pages
    /// say more.
    pub fn new(gateway: &Gateway, registry: Registry) -> Option<GatewayProbes> {
        match gateway.upstream() {
            Upstream::Remote(pool) => Some(GatewayProbes { api: gateway.api(), pool: pool.clone(), registry }),
            Upstream::Local(_) => None,
        }
    }

    /// What the reachable members last said.
    fn statuses(&self) -> Vec<Arc<StatusResponse>> {
        self.pool.health().into_iter().filter_map(|(_, health)| health?.status.clone()).collect()
    }
}

impl Probes for GatewayProbes {
    fn alarms(&self) -> Vec<AlarmType> {
        let statuses = self.statuses();
        let raised = |alarm: &AlarmType| {
            statuses.iter().flat_map(|status| &status.errors).any(|error| error.contains(alarm.as_str_name()))
        };
        [AlarmType::Nospace, AlarmType::Corrupt].into_iter().filter(raised).collect()
    }

    fn has_leader(&self) -> bool {
        self.statuses().iter().any(|status| status.leader != 0)
    }

    fn is_learner(&self) -> bool {
        false
    }

    fn auth_enabled(&self) -> bool {
        // The gateway gives no client an identity, so what this guards against cannot happen here.
        false
    }

    fn read(&self, serializable: bool) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            let range =
                RangeRequest { key: "\0".into(), limit: 1, keys_only: true, serializable, ..Default::default() };
            let mut request = http::Request::post("/etcdserverpb.KV/Range")
                .body(Body::full(grpc::encode(&range)))
                .expect("a method's path is a URI");
            request.extensions_mut().insert(OwnCall);
            let content_type = http::HeaderValue::from_static("application/grpc");
            request.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
            request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("5S"));
            let answered = replies::unary(self.api.call(request).await).await;
            let status = match answered.map_err(|failure| Status::unavailable(failure.to_string()))? {
                Ok(_) => return Ok(()),
                Err(trailers) => replies::status(&trailers),
            };
            match status.code() {
                // We have no user. A cluster that says so works.
                Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => Ok(()),
                _ => Err(status),
            }
        }
        .boxed()
    }

    fn versions(&self) -> Versions {
        // The lowest: clients decide by it what they may ask for, and any member may answer them.
        let lowest = self.statuses().into_iter().min_by_key(|status| numbers(&status.version));
        let Some(status) = lowest else {
            return Versions { server: "unknown".into(), cluster: None, storage: None };
        };
        let minor: Vec<&str> = status.version.splitn(3, '.').take(2).collect();
        let storage = Some(status.storage_version.clone()).filter(|version| !version.is_empty());
        Versions { server: status.version.clone(), cluster: Some(format!("{}.0", minor.join("."))), storage }
    }

    fn debug_vars(&self) -> Option<Vec<(&'static str, serde_json::Value)>> {
        let endpoints = self.pool.health().into_iter().map(|(address, health)| {
            serde_json::json!({
                "endpoint": address.to_string(),
                "connected": health.is_some(),
                "rank": health.map(|health| format!("{:?}", health.rank)),
            })
        });
        Some(vec![("forebay.upstream", endpoints.collect())])
    }

    fn metrics(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// The parts of a version, to be compared as numbers.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map(|part| part.parse().unwrap_or(0)).collect()
}
