//! What is stored: too much of it, too much of its past, too much room around it, or not the same everywhere.

use std::process::Command;

use forebay_conformance::{
    corruption,
    peers::{self, Release},
    session,
    target::{Kind, Target},
};
use forebay_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, StatusRequest, kv_client::KvClient,
    maintenance_client::MaintenanceClient,
};
use tonic::transport::Channel;

use super::{PATIENCE, endpoints, examine, is_missing};

const KINDS: [Kind; 2] = [Kind::Etcd(Release::V3_7), Kind::Server];

async fn put(kv: &mut KvClient<Channel>, number: u32, bytes: usize) -> i64 {
    let put = PutRequest { key: format!("k{number}").into(), value: vec![b'x'; bytes].into(), ..Default::default() };
    kv.put(put).await.unwrap().into_inner().header.unwrap().revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_hold_different_keys_are_told_where_to_look() {
    if is_missing("doctor::full::members_that_hold_different_keys_are_told_where_to_look", &KINDS) {
        return;
    }
    for kind in KINDS {
        let (cluster, _) = corruption::found(kind, false).await.unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        let ill = examine(&[&endpoints(&cluster)]).unwrap();
        ill.expect("space", "FAIL", "CORRUPT").unwrap();
        assert_eq!(ill.status, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_that_will_end_is_told_before_it_has() {
    if is_missing("doctor::full::space_that_will_end_is_told_before_it_has", &KINDS) {
        return;
    }
    for kind in KINDS {
        let target = Target::start(kind, &["--quota-backend-bytes", "8000000"]).await.unwrap();
        let endpoint = format!("--endpoints={}", target.client);
        let mut kv = KvClient::new(session::connect(&target).await.unwrap());
        examine(&[&endpoint]).unwrap().expect("space", "PASS", "7.6MiB").unwrap();
        for number in 0.. {
            put(&mut kv, number, 200_000).await;
            // The size is told once what was put is in the file.
            tokio::time::sleep(std::time::Duration::from_millis(120)).await;
            let examined = examine(&[&endpoint]).unwrap();
            if examined.expect("space", "PASS", "").is_err() {
                examined.expect("space", "WARN", "(8").unwrap();
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_mostly_room_is_told_to_be_defragmented_unless_it_gives_the_room_back() {
    if is_missing(
        "doctor::full::a_file_that_is_mostly_room_is_told_to_be_defragmented_unless_it_gives_the_room_back",
        &KINDS,
    ) {
        return;
    }
    for kind in KINDS {
        let target = Target::start(kind, &[]).await.unwrap();
        let endpoint = format!("--endpoints={}", target.client);
        let channel = session::connect(&target).await.unwrap();
        let mut kv = KvClient::new(channel.clone());
        for number in 0..110 {
            put(&mut kv, number, 1_000_000).await;
        }
        let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
        let revision = kv.delete_range(all).await.unwrap().into_inner().header.unwrap().revision;
        kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
        let began = std::time::Instant::now();
        loop {
            let examined = examine(&[&endpoint]).unwrap();
            let found = match kind {
                Kind::Etcd(_) => examined.expect("space", "WARN", "in use"),
                _ => match MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await.unwrap().into_inner()
                {
                    status if status.db_size < 50 << 20 => examined.expect("space", "PASS", "in use"),
                    status => Err(anyhow::anyhow!("{} bytes are not given back", status.db_size)),
                },
            };
            match found {
                Ok(()) => break,
                other => assert!(began.elapsed() < PATIENCE, "{kind}: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_nobody_compacts_is_found() {
    if is_missing("doctor::full::a_history_that_nobody_compacts_is_found", &KINDS) {
        return;
    }
    let etcd = Target::start(KINDS[0], &[]).await.unwrap();
    examine(&[&format!("--endpoints={}", etcd.client)]).unwrap().expect("data", "PASS", "no compaction yet").unwrap();
    let target = Target::start(Kind::Server, &[]).await.unwrap();
    let endpoint = format!("--endpoints={}", target.client);
    examine(&[&endpoint]).unwrap().expect("data", "PASS", "no compaction yet").unwrap();
    let put = Command::new(peers::forebay().unwrap())
        .args(["bench", "put", &endpoint, "--total=26000", "--closed-loop", "--clients=300", "--quiet"])
        .args(["--key-space-size=100", "--val-size=8"])
        .output()
        .unwrap();
    assert!(put.status.success(), "{put:?}");
    examine(&[&endpoint]).unwrap().expect("data", "WARN", "nobody compacts").unwrap();
    let mut kv = KvClient::new(session::connect(&target).await.unwrap());
    kv.compact(CompactionRequest { revision: 25_000, physical: true }).await.unwrap();
    examine(&[&endpoint]).unwrap().expect("data", "PASS", "since the last compaction").unwrap();
}
