//! Sizes, metadata and methods that are not there.

use std::time::Duration;

use forebay_proto::{
    etcdserverpb as pb,
    v3lockpb::{LockRequest, lock_client::LockClient},
};
use tonic::Code;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "limits":
    request_size: "1.5 MiB as etcd counts it, and the gRPC limit above it";
    request_size_by_flag: "the same with --max-request-bytes" with ["--max-request-bytes", "10000"];
    large_keys: "keys have no limit of their own";
    unknown_methods: "methods and services that nobody has";
    leader_wanted: "hasleader on a member that has one";
    tokens_without_auth: "tokens while auth is off";
    client_versions: "the client's version, and one that is no text";
    deadlines: "a deadline that has passed";
    deep_txns: "txns nested deeply";
}

async fn request_size(s: &mut Session) -> anyhow::Result<()> {
    for size in [1_572_000, 1_572_864, 1_573_500, 2_090_000, 2_097_152, 3_000_000] {
        s.put(put("a", "x".repeat(size))).await;
    }
    let half = || put("a", "x".repeat(800_000)).op();
    s.txn(always([half(), put("b", "y".repeat(800_000)).op()])).await;
    s.range(get("x".repeat(2_000_000))).await;
    s.range(pb::RangeRequest { keys_only: true, ..all() }).await;
    Ok(())
}

/// The largest value that fits is part of the contract: clients chunk by it.
async fn request_size_by_flag(s: &mut Session) -> anyhow::Result<()> {
    for size in [9_900, 9_960, 9_970, 9_975, 9_980, 9_985, 9_990, 9_995, 10_000, 10_100, 600_000] {
        s.put(put("a", "x".repeat(size))).await;
    }
    s.delete(del_range("a", "x".repeat(10_100))).await;
    s.grant(lease(1, 100)).await;
    Ok(())
}

async fn large_keys(s: &mut Session) -> anyhow::Result<()> {
    let key = "k".repeat(1_000_000);
    s.put(put(key.clone(), "v")).await;
    s.range(get(key.clone())).await;
    s.range(pb::RangeRequest { count_only: true, ..range(key.clone(), FROM) }).await;
    s.delete(del(key)).await;
    Ok(())
}

async fn unknown_methods(s: &mut Session) -> anyhow::Result<()> {
    for path in [
        "/etcdserverpb.KV/Nothing",
        "/etcdserverpb.Nothing/Range",
        "/nothing.At.All/X",
        "/etcdserverpb.kv/range",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        s.unary(path, get("a")).await;
    }
    s.unary("/etcdserverpb.KV/Range", get("a")).await;
    s.unary("/grpc.health.v1.Health/Check", pb::RangeRequest::default()).await;
    s.unary("/grpc.health.v1.Health/Check", get("etcd")).await;
    Ok(())
}

async fn leader_wanted(s: &mut Session) -> anyhow::Result<()> {
    s.metadata("hasleader", b"true");
    s.put(put("a", "1")).await;
    s.range(get("a")).await;
    Ok(())
}

async fn tokens_without_auth(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.metadata("token", b"nonsense");
    s.range(get("a")).await;
    s.auth_status(pb::AuthStatusRequest {}).await;
    s.without_metadata("token");
    s.metadata("authorization", b"Bearer nonsense");
    s.range(get("a")).await;
    Ok(())
}

async fn client_versions(s: &mut Session) -> anyhow::Result<()> {
    s.put(put("a", "1")).await;
    s.metadata("client-api-version", b"3.7.1");
    s.range(get("a")).await;
    s.metadata("client-api-version", b"odd \xff\xfe");
    s.range(get("a")).await;
    s.put(put("a", "2")).await;
    Ok(())
}

async fn deadlines(s: &mut Session) -> anyhow::Result<()> {
    for id in [5, 6] {
        s.grant(lease(id, 1000)).await;
    }
    s.lock(LockRequest { name: "l".into(), lease: 5 }).await;
    let mut request = tonic::Request::new(LockRequest { name: "l".into(), lease: 6 });
    request.set_timeout(Duration::from_secs(3));
    let end = match LockClient::new(s.channel.clone()).lock(request).await {
        // Either side may notice first: tonic calls its own timer's end "cancelled", and errors of the Lock
        // service have no code.
        Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => "late".to_owned(),
        Err(status) if status.message().contains("deadline exceeded") => "late".to_owned(),
        Err(status) => status.to_string(),
        Ok(_) => "in time".to_owned(),
    };
    s.note("waiting for a lock", serde_json::json!(end));
    // The waiter's key goes a moment after the waiter.
    for _ in 0..100 {
        let mut client = pb::kv_client::KvClient::new(s.channel.clone());
        if client.range(range("l", "m")).await?.into_inner().count == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    s.range(range("l", "m")).await;
    Ok(())
}

async fn deep_txns(s: &mut Session) -> anyhow::Result<()> {
    for depth in [20, 100, 127, 128, 129] {
        let deep = (0..depth).fold(always([put("deep", "").op()]), |inner, _| always([inner.op()]));
        // The answer is as deep as the request; whether it came is what counts.
        let mut client = pb::kv_client::KvClient::new(s.channel.clone());
        let outcome = match client.txn(deep).await {
            Ok(_) => "ok".to_owned(),
            // prost, here in the client, gives up on what etcd takes.
            Err(status) if status.message().starts_with("failed to decode") => "ok".to_owned(),
            Err(status) => format!("{:?} {}", status.code(), status.message()),
        };
        s.note(format!("{depth} levels"), serde_json::json!(outcome));
    }
    s.range(get("deep")).await;
    Ok(())
}
