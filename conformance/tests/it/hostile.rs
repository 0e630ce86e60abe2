//! Hostile clients on etcd 3.4.23: the controls of what `tests/roles/attacks.rs` holds our processes to.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_conformance::peers::{self, Release};
use forebay_loadtest::{
    abuse::{self, Abuse, Plan},
    process::{Process, etcd_flags, free_address},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet, time};

/// etcd 3.4, if it is installed.
fn etcd(test: &str, scheme: &str, dir: &Path) -> Option<Process> {
    let Some(program) = Release::V3_4.etcd() else {
        peers::skip(test, peers::INSTALL);
        return None;
    };
    let (client, peer) = (free_address().unwrap(), free_address().unwrap());
    let flags = etcd_flags(&dir.join("data"), scheme, client, peer);
    Some(Process::start(&program, &flags, client, dir.join("etcd.log")).unwrap())
}

/// What ours may grow by.
const GROWTH_MAX: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h1_streams_without_end_take_the_memory_of_etcd_3_4() {
    let dir = tempfile::tempdir().unwrap();
    let Some(etcd) = etcd("hostile::h1", "http", dir.path()).map(Arc::new) else { return };
    let plan = Plan { lasts: Duration::from_secs(1), around: Duration::from_millis(200), ..Plan::default() };
    let mut growth = 0;
    // A busy machine lets nobody open many in a second.
    for _ in 0..20 {
        let measured = Arc::clone(&etcd);
        let report = abuse::run(Abuse::OpenStreams, etcd.address, plan, move || measured.rss().ok()).await.unwrap();
        growth = growth.max(report.rss_max.saturating_sub(report.rss_before));
        if growth > GROWTH_MAX {
            return;
        }
    }
    panic!("etcd 3.4 grew by {growth} bytes only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_idle_sockets_under_tls_stay_at_etcd_3_4() {
    const IDLE: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let Some(etcd) = etcd("hostile::h4", "https", dir.path()) else { return };
    let mut idle = JoinSet::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(etcd.address).await.unwrap();
        idle.spawn(async move { stream.read(&mut [0]).await.map(drop) });
    }
    time::sleep(Duration::from_secs(16)).await;
    assert!(idle.try_join_next().is_none(), "etcd 3.4 ended a connection that said nothing");
    assert_eq!(idle.len(), IDLE);
}
