//! What one hostile client costs a process, and what somebody beside it notices. The figures are printed; what is held
//! to is what a loaded machine does not change. `ATTACK_SECONDS=10` lengthens each attack.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_loadtest::{
    abuse::{self, Abuse, Plan},
    client::Target,
    process::{Process, etcd_flags, free_address, own_certificate},
};
use forebay_proto::etcdserverpb::{
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, request_op,
    watch_request,
};
use prost::Message as _;
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet};

use crate::{
    role::{exchange, program, request},
    tls,
};

fn server(dir: &Path) -> Process {
    let (client, peer) = (free_address().unwrap(), free_address().unwrap());
    let flags = etcd_flags(&dir.join("data"), "http", client, peer);
    let args = [&["server".to_owned()][..], &flags].concat();
    Process::start(&program(), &args, client, dir.join("server.log")).unwrap()
}

fn gateway(dir: &Path, behind: &Process) -> Process {
    let address = free_address().unwrap();
    let args = [
        "gateway".to_owned(),
        format!("--endpoints={}", behind.address),
        format!("--listen-client-urls=http://{address}"),
        "--log-level=error".to_owned(),
    ];
    Process::start(&program(), &args, address, dir.join("gateway.log")).unwrap()
}

/// Memory that floods of streams and frames may take. A thousand streams that are left open, what a connection may have,
/// take 5 to 11 MiB of it, again and again.
const GROWTH_MAX: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_floods_of_streams_and_frames_take_little_memory_and_no_lease() {
    let seconds = std::env::var("ATTACK_SECONDS").map_or(1, |text| text.parse().expect("ATTACK_SECONDS is a number"));
    let lasts = Duration::from_secs(seconds);
    let plan = Plan { lasts, around: lasts, ..Plan::default() };
    for kind in ["server", "gateway"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(server(dir.path()));
        let front = if kind == "server" { Arc::clone(&server) } else { Arc::new(gateway(dir.path(), &server)) };
        for attack in [Abuse::OpenStreams, Abuse::RapidReset, Abuse::FrameFlood] {
            let measured = Arc::clone(&front);
            let cpu_before = front.cpu().unwrap();
            let report = abuse::run(attack, front.address, plan, move || measured.rss().ok()).await.unwrap();
            let growth = report.rss_max.saturating_sub(report.rss_before);
            println!(
                "{kind}, {}: memory +{} KiB; p99 of a put {:.1} ms alone, {:.1} ms beside; {} frames, {} connections ended; \
                 {:.2} s of CPU time, all in all",
                attack.name(),
                growth >> 10,
                report.alone.p99_micros as f64 / 1e3,
                report.beside.p99_micros as f64 / 1e3,
                report.did.done,
                report.did.refused,
                (front.cpu().unwrap() - cpu_before).as_secs_f64(),
            );
            assert!(growth <= GROWTH_MAX, "{kind}, {attack:?}: {report:?}");
            assert!(report.survived && report.leases_lost == 0, "{kind}, {attack:?}: {report:?}");
            assert!(report.beside.answered > 0 && report.after.answered > 0, "{kind}, {attack:?}: {report:?}");
        }
    }
}

/// What a process may grow by because of what nobody reads.
const UNREAD_MAX: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_answers_and_streams_that_nobody_reads_take_no_more_than_their_budget() {
    const VALUES: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(server(dir.path()));
    let gateway = Arc::new(gateway(dir.path(), &server));
    let channel = Target::at(server.address).connect(1).await.unwrap().remove(0);
    for n in 0..VALUES {
        let value = vec![b'v'; 1 << 20].into();
        KvClient::new(channel.clone())
            .put(PutRequest { key: format!("big/{n}").into(), value, ..Default::default() })
            .await
            .unwrap();
    }
    let (key, range_end): (Bytes, Bytes) = ("big/".into(), "big0".into());
    let all = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..Default::default() };
    let op = RequestOp { request: Some(request_op::Request::RequestRange(all.clone())) };
    let txn = TxnRequest { success: vec![op], ..Default::default() };
    let create = WatchCreateRequest { key, range_end, start_revision: 1, ..Default::default() };
    let watch = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let attacks = [
        ("/etcdserverpb.KV/Range", all.encode_to_vec(), true),
        ("/etcdserverpb.KV/RangeStream", all.encode_to_vec(), true),
        ("/etcdserverpb.KV/Txn", txn.encode_to_vec(), true),
        ("/etcdserverpb.Watch/Watch", watch.encode_to_vec(), false),
    ];
    for (kind, front) in [("server", &server), ("gateway", &gateway)] {
        let normal = Target::at(front.address);
        let elsewhere = Target { source: Some(Ipv4Addr::new(127, 0, 0, 7)), ..normal.clone() };
        let before = front.rss().unwrap();
        for (path, message, ends) in &attacks {
            let mut held = Vec::new();
            for _ in 0..10 {
                held.push(abuse::unread(&elsewhere, 100, path, message, *ends).await.unwrap());
            }
            let mut most = 0;
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(3) {
                most = most.max(front.rss().unwrap());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let growth = most.saturating_sub(before);
            println!("{kind}, a thousand of {path} that nobody reads: memory +{} MiB", growth >> 20);
            assert!(growth <= UNREAD_MAX, "{kind}, {path}: {growth} bytes");
            // Who asks for little is served beside.
            let mut normal = KvClient::new(normal.connect(1).await.unwrap().remove(0));
            let put = PutRequest { key: "small".into(), ..Default::default() };
            tokio::time::timeout(Duration::from_secs(10), normal.put(put)).await.expect("in bearable time").unwrap();
        }
    }
}

/// Sockets that say nothing.
const IDLE: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_idle_sockets_under_tls_are_gone_soon_and_a_client_beside_them_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = tls::server(dir.path(), &data);
    let address = ("127.0.0.1", server.port);
    let connector = tls::trusting(&own_certificate(&data));
    let mut idle = JoinSet::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // An end and a reset are the same here.
        idle.spawn(async move { while stream.read(&mut [0; 64]).await.is_ok_and(|len| len > 0) {} });
    }
    let opened = Instant::now();
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(stream, "127.0.0.1").await.expect("there is room for who says who it is");
    let answer = exchange(stream, &request("/version", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let mut left_at_15 = None;
    while !idle.is_empty() {
        let _ = tokio::time::timeout(Duration::from_millis(100), idle.join_next()).await;
        if opened.elapsed() >= Duration::from_secs(15) {
            left_at_15.get_or_insert(idle.len());
        }
        assert!(opened.elapsed() < Duration::from_secs(60), "{} idle sockets are still open", idle.len());
    }
    println!(
        "{IDLE} idle sockets under TLS: the last was ended after {:.1} s, {} were left after 15 s",
        opened.elapsed().as_secs_f64(),
        left_at_15.unwrap_or(0)
    );
}
