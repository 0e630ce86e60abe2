//! Traces, as a collector gets them: one tree for each call, through gateway, member, raft and apply.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::role::{Role, alone};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A span as a test looks at it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    service: String,
    scope: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
}

/// Keeps every span that it is sent.
#[derive(Clone)]
struct Collector(Arc<watch::Sender<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = Vec::new();
        for of_resource in request.into_inner().resource_spans {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match service.and_then(|attribute| attribute.value?.value) {
                Some(Value::StringValue(name)) => name,
                other => return Err(Status::invalid_argument(format!("a service called {other:?}"))),
            };
            for of_scope in of_resource.scope_spans {
                let scope = of_scope.scope.unwrap_or_default().name;
                seen.extend(of_scope.spans.into_iter().map(|span| Seen {
                    service: service.clone(),
                    scope: scope.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                }));
            }
        }
        self.0.send_modify(|spans| spans.extend(seen));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector, and what it has seen.
async fn collector() -> (String, watch::Receiver<Vec<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, seen) = watch::channel(Vec::new());
    let service = TraceServiceServer::new(Collector(Arc::new(sender)));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    (address, seen)
}

fn tracing(collector: &str, name: &str) -> Vec<String> {
    vec![
        "--enable-distributed-tracing".to_owned(),
        format!("--distributed-tracing-address={collector}"),
        format!("--distributed-tracing-service-name={name}"),
    ]
}

/// Calls within the client's trace, sampled or not.
async fn call(role: &Role, path: &str, flags: &str) {
    let traceparent = format!("00-{TRACE}-{CLIENT}-{flags}");
    let body = r#"{"key":"a2V5"}"#;
    let answer = role.ask_with(path, &[("traceparent", &traceparent)], body).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", role.said());
}

/// From the first span of this name outwards to the client: service, scope and name of each span on the way.
async fn way_out(seen: &mut watch::Receiver<Vec<Seen>>, name: &str) -> Vec<(String, String, String)> {
    let whole = |spans: &Vec<Seen>| {
        let mut way = vec![spans.iter().find(|span| span.name == name)?.clone()];
        while way.last()?.parent != CLIENT {
            let parent = &way.last()?.parent;
            way.push(spans.iter().find(|span| span.id == *parent)?.clone());
        }
        Some(way)
    };
    let found = tokio::time::timeout(Duration::from_secs(60), seen.wait_for(|spans| whole(spans).is_some())).await;
    let spans = found.expect("the spans arrive").expect("the collector runs").clone();
    let way = whole(&spans).expect("they were there");
    assert!(way.iter().all(|span| span.trace == TRACE), "{way:?}");
    way.into_iter().map(|span| (span.service, span.scope, span.name)).collect()
}

fn expected(way: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    way.iter().map(|(service, scope, name)| [service, scope, name].map(|part| (*part).to_owned()).into()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_one_trace_through_gateway_member_raft_and_apply() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut seen) = collector().await;
    let args = [alone(&dir.path().join("data")), tracing(&address, "member")].concat();
    let mut server = Role::spawn(dir.path(), "server", "server", "http", &args);
    server.ready();
    let upstream = vec![format!("--endpoints=127.0.0.1:{}", server.port)];
    let mut gateway =
        Role::spawn(dir.path(), "gateway", "gateway", "http", &[upstream, tracing(&address, "front")].concat());
    gateway.ready();

    call(&gateway, "/v3/kv/put", "00").await;
    call(&gateway, "/v3/kv/put", "01").await;
    let put = "etcdserverpb.KV/Put";
    let way = [
        ("member", "forebay.server", "apply"),
        ("member", "forebay.server", "raft"),
        ("member", "forebay.server", put),
        ("front", "forebay.gateway", "upstream"),
        ("front", "forebay.gateway", put),
    ];
    assert_eq!(way_out(&mut seen, "apply").await, expected(&way));
    let puts = seen.borrow().iter().filter(|span| span.name == put).count();
    assert_eq!(puts, 2, "who is not sampled, and who says nothing, has no spans: {:?}", seen.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process_gateway_and_member_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut seen) = collector().await;
    let args = [alone(&dir.path().join("data")), tracing(&address, "both")].concat();
    let mut up = Role::spawn(dir.path(), "up", "up", "http", &args);
    up.ready();
    call(&up, "/v3/kv/range", "01").await;
    let range = "etcdserverpb.KV/Range";
    let outside = [
        ("both", "forebay.server", range),
        ("both", "forebay.gateway", "upstream"),
        ("both", "forebay.gateway", range),
    ];
    for part in ["read index", "range"] {
        let mut way = vec![("both", "forebay.server", part)];
        way.extend(outside);
        assert_eq!(way_out(&mut seen, part).await, expected(&way));
    }
    assert_eq!(way_out(&mut seen, "wait for a seat").await[1..], expected(&outside)[2..]);
}
