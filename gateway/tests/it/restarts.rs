//! The members of a cluster are restarted one after the other, as an upgrade does it, while clients go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay_edge::Api;
use forebay_gateway::{
    Config, Gateway, Metrics, PoolConfig, Upstream,
    upstream::{Address, Pool, TcpConnector},
};
use forebay_proto::etcdserverpb as pb;
use prometheus::Registry;
use prost::Message as _;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    client::{call, request},
    peers::Cluster,
};

const CLIENTS: usize = 8;
const LEADER_CHANGED: &str = "etcdserver: leader changed";

/// What a client was told.
#[derive(Debug, Default)]
struct Told {
    /// Writes that were acknowledged.
    written: u64,
    reads: u64,
    failed_reads: Vec<(i32, String)>,
    failed_writes: Vec<(i32, String)>,
}

/// Writes a key of its own and reads one, again and again.
async fn go_on(api: Api, client: usize, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let put = pb::PutRequest { key: format!("c{client}/{n}").into(), value: "v".into(), ..Default::default() };
        match call(&api, request("/etcdserverpb.KV/Put", put.encode_to_vec())).await.status() {
            (0, _) => told.written += 1,
            failed => told.failed_writes.push(failed),
        }
        let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
        match call(&api, request("/etcdserverpb.KV/Range", range.encode_to_vec())).await.status() {
            (0, _) => told.reads += 1,
            failed => told.failed_reads.push(failed),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_the_upstream_shows_clients_nothing_but_its_election_and_loses_no_write() {
    let Some(mut cluster) = Cluster::start("3.7", 3).await else { return };
    let (config, metrics) = (Config::default(), Metrics::new(&Registry::new()).unwrap());
    let addresses = Address::list(&cluster.urls().join(",")).unwrap();
    let pool = Pool::connect(&config, PoolConfig::default(), addresses, Arc::new(TcpConnector), metrics.clone());
    timeout(Duration::from_secs(10), pool.ready()).await.expect("the gateway connects");
    let api = Gateway::new(&config, Upstream::Remote(pool), metrics).api();

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(go_on(api.clone(), client, Arc::clone(&stop)));
    }
    for member in 0..3 {
        cluster.restart(member).await;
    }
    stop.store(true, Ordering::Relaxed);
    let told = clients.join_all().await;

    let failed_reads: Vec<_> = told.iter().flat_map(|told| &told.failed_reads).collect();
    // What the members themselves say of an election is passed on, as a client would hear it from them.
    assert!(failed_reads.iter().all(|(code, text)| *code == 14 && text == LEADER_CHANGED), "{failed_reads:?}");
    // A write that may have left is not sent again, so each client may lose sight of one at each restart; and never
    // with a code on which it would be sent again.
    let failed_writes: Vec<_> = told.iter().flat_map(|told| &told.failed_writes).collect();
    assert!(failed_writes.iter().all(|(code, _)| *code == 14), "{failed_writes:?}");
    assert!(failed_writes.len() <= 2 * 3 * CLIENTS, "{failed_writes:?}");
    let written: u64 = told.iter().map(|told| told.written).sum();
    let all = pb::RangeRequest { key: "c".into(), range_end: "d".into(), count_only: true, ..Default::default() };
    let answer = call(&api, request("/etcdserverpb.KV/Range", all.encode_to_vec())).await;
    assert_eq!(answer.status().0, 0);
    let found = pb::RangeResponse::decode(answer.messages[0].clone()).unwrap().count;
    let found = u64::try_from(found).unwrap();
    let unknown = failed_writes.len() as u64;
    assert!((written..=written + unknown).contains(&found), "{found} of {written} and {unknown} unknown");
}
