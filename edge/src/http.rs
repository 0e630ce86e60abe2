//! Everything on a client port that is not gRPC: the JSON API, websockets, health, version and
//! metrics.
//!
//! [`Front::client`] is the whole way of a request on one screen, in etcd's order. JSON requests
//! become gRPC calls on the same [`Api`] that the port serves, so they pass the same checks and
//! policies. What the endpoints report is asked of [`Probes`], which the server and the gateway
//! implement.

mod access;
mod answer;
mod details;
mod exposition;
mod gateway;
mod health;
mod metadata;
mod probes;
mod websocket;

use std::sync::Arc;

use ::http::{
    Method, StatusCode,
    header::{ALLOW, ORIGIN},
};
use prometheus::Registry;
use tokio::sync::Semaphore;

use crate::{Api, Request, Response};

pub use access::{Origins, is_local};
pub use answer::ErrorShape;
pub use exposition::encode as encode_metrics;
pub use probes::{Probes, Versions};

/// How the HTTP side of a port behaves. The defaults are etcd's.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether `/v3/` is served (`--enable-grpc-gateway`).
    pub json: bool,
    /// What an error looks like: that changed with etcd 3.6.
    pub error_shape: ErrorShape,
    /// Largest message of the API in bytes (`--max-request-bytes` and half a MiB). A JSON body may
    /// have four times as much, which is room for base64 and then some; a client that sends more is
    /// refused before it is buffered.
    pub max_message_bytes: usize,
    /// Web pages that may use the API (`--cors`).
    pub origins: Origins,
    /// Names by which a client without TLS may call us (`--host-whitelist`), against pages that
    /// rebind their DNS name to our address. Empty, or with a `*`, any.
    pub hosts: Vec<String>,
    /// Whether clients show certificates (`--client-cert-auth`).
    pub client_cert_auth: bool,
    /// Open websockets. Each takes a task, two small buffers and a message of the largest size; one
    /// more is refused.
    pub max_websockets: usize,
    /// Metrics whose labels name clients and what they ask for. They are told on metrics ports and, on client ports, to
    /// who is on this machine and no web page: whoever may use the API need not know who else does what.
    pub names: Registry,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            json: true,
            error_shape: ErrorShape::default(),
            max_message_bytes: 2 << 20,
            origins: Origins::Any,
            hosts: Vec::new(),
            client_cert_auth: false,
            max_websockets: 10_000,
            names: Registry::new(),
        }
    }
}

/// Answers HTTP requests that are not gRPC. Cheap to clone; one serves every listener of a role.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

struct Shared {
    api: Api,
    probes: Arc<dyn Probes>,
    options: Options,
    health: health::Metrics,
    websockets: Arc<Semaphore>,
}

impl Front {
    /// Registers the health metrics and answers from `api` and `probes`.
    pub fn new(api: Api, probes: Arc<dyn Probes>, options: Options, registry: &Registry) -> prometheus::Result<Front> {
        let health = health::Metrics::register(registry)?;
        let websockets = Arc::new(Semaphore::new(options.max_websockets));
        Ok(Front(Arc::new(Shared { api, probes, options, health, websockets })))
    }

    /// Answers a request on a client port.
    pub async fn client(&self, mut request: Request) -> Response {
        let mut path = access::decoded_path(request.uri());
        if let Some(rest) = path.strip_prefix("/v3beta/") {
            // Clients of etcd 3.3 are served by the API of today.
            path = format!("/v3/{rest}");
        }
        if let Some(refusal) = self.0.refuse_caller(&request, &path) {
            return refusal;
        }
        // A page of another origin has no use for the metrics.
        let cors = (path != "/metrics").then(|| self.0.options.origins.headers_for(&request)).flatten();
        if request.method() == Method::OPTIONS {
            return access::with_cors(answer::empty(StatusCode::OK), cors);
        }
        if let Some(redirect) = access::redirect_to_clean_path(&request, self.0.options.json) {
            return access::with_cors(redirect, cors);
        }
        let is_json = self.0.options.json && path.starts_with("/v3/");
        if is_json && websocket::is_upgrade(&request) {
            // The switch of protocols is answered without the headers of a web page's request.
            return websocket::upgrade(self.0.clone(), &path, &mut request)
                .unwrap_or_else(|status| access::with_cors(websocket::refusal(status), cors));
        }
        let response = if is_json {
            self.0.json(&path, request).await
        } else {
            match path.as_str() {
                "/version" => get_only(request.method()).unwrap_or_else(|| self.0.version()),
                "/debug/vars" => self.0.debug_vars(request.method()),
                _ => {
                    let told_names = is_local(&request) && !request.headers().contains_key(ORIGIN);
                    self.0.observe(&path, request, told_names).await
                }
            }
        };
        access::with_cors(response, cors)
    }

    /// Answers a request on a port for metrics and health alone (`--listen-metrics-urls`).
    pub async fn metrics(&self, request: Request) -> Response {
        let path = access::decoded_path(request.uri());
        match access::redirect_to_clean_path(&request, false) {
            Some(redirect) => redirect,
            None => self.0.observe(&path, request, true).await,
        }
    }
}

impl Shared {
    /// The endpoints that both kinds of port have.
    async fn observe(&self, path: &str, request: Request, told_names: bool) -> Response {
        let (head, _) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        match path {
            "/metrics" => {
                let mut families = self.probes.metrics();
                if told_names {
                    families.extend(self.options.names.gather());
                    families.sort_by(|one, other| one.name().cmp(other.name()));
                }
                exposition::page(&families, &head.headers)
            }
            "/health" => match get_only(&head.method) {
                Some(refusal) => refusal,
                None => self.health.health(&*self.probes, query).await,
            },
            _ => match health::Checks::find(path) {
                None => answer::not_found(),
                Some(checks) => match get_only(&head.method) {
                    Some(refusal) => refusal,
                    None => self.health.checks(&*self.probes, checks, query).await,
                },
            },
        }
    }

    fn version(&self) -> Response {
        let Versions { server, cluster, storage } = self.probes.versions();
        let [server, cluster, storage] =
            [&server, cluster.as_deref().unwrap_or("not_decided"), storage.as_deref().unwrap_or("unknown")]
                .map(answer::quoted);
        let body = format!(r#"{{"etcdserver":{server},"etcdcluster":{cluster},"storage":{storage}}}"#);
        answer::with_type(StatusCode::OK, "application/json", body)
    }

    /// etcd prints these line by line, and in the order of their names.
    fn debug_vars(&self, method: &Method) -> Response {
        let Some(mut vars) = self.probes.debug_vars() else { return answer::not_found() };
        if let Some(refusal) = get_only(method) {
            return refusal;
        }
        vars.sort_by_key(|(name, _)| *name);
        let lines: Vec<String> = vars.iter().map(|(name, value)| format!("{name:?}: {value}")).collect();
        let body = format!("{{\n{}\n}}\n", lines.join(",\n"));
        answer::with_type(StatusCode::OK, "application/json; charset=utf-8", body)
    }
}

/// The refusal of a request before the side that it is for has seen it.
pub(crate) fn refused(status: &tonic::Status) -> Response {
    ErrorShape::default().unary(status)
}

/// The refusal of a request that is none, as Go's HTTP server words it.
pub(crate) fn bad_request(fault: &str) -> Response {
    answer::plain_error(StatusCode::BAD_REQUEST, &format!("400 Bad Request: {fault}"))
}

/// The refusal of any method but `GET`.
fn get_only(method: &Method) -> Option<Response> {
    (method != Method::GET).then(|| {
        let mut response = answer::plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(ALLOW, ::http::HeaderValue::from_static("GET"));
        response
    })
}

#[cfg(test)]
mod tests;
