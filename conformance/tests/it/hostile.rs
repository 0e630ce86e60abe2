//! Hostile clients on ours and, as a control, on etcd 3.4.23; here too the controls of what `tests/roles/attacks.rs` holds
//! our processes to.

use std::{path::Path, sync::Arc, time::Duration};

use forebay_conformance::{
    hostile::{self, ATTEMPTS},
    peers::{self, Release},
    target::Kind,
};
use forebay_loadtest::{
    abuse::{self, Abuse, Plan},
    process::{Process, etcd_flags, free_address},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet, time};

use crate::{finds_nothing, found};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_to_work_on_etcd_3_4_does() {
    let kind = Kind::Etcd(Release::V3_4);
    let Some(worked) = found("hostile::control", kind, hostile::tried(kind)).await else { return };
    let expected = ATTEMPTS.iter().filter(|attempt| attempt.works_on_3_4);
    let expected: Vec<String> = expected.map(|attempt| format!("{}: {}", attempt.row, attempt.about)).collect();
    assert_eq!(worked, expected);
}

finds_nothing! {
    "hostile", hostile::tried,
    nothing_works_on_the_server: Kind::Server;
    nothing_works_through_the_gateway: Kind::GatewayOverEtcd(Release::V3_7);
    nothing_works_through_the_gateway_over_the_server: Kind::GatewayOverServer;
}

/// The rows of the threat model say where an attack works on etcd 3.4.23, and what shows it.
#[test]
fn the_threat_model_says_of_each_row_whether_it_works_on_etcd_3_4() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../THREAT_MODEL.md");
    let model = std::fs::read_to_string(path).expect("the threat model is there");
    let own = include_str!("hostile.rs");
    let rows: Vec<Vec<&str>> = model.lines().filter(|line| line.starts_with("| H")).map(cells).collect();
    assert_eq!(rows.len(), 15, "the table is not where it was");
    for row in rows {
        let [id, _, control, _] = row[..] else { panic!("a row has four cells: {row:?}") };
        let tried: Vec<bool> =
            ATTEMPTS.iter().filter(|attempt| attempt.row == id).map(|one| one.works_on_3_4).collect();
        match control.split_once(": ") {
            Some((says, "`hostile`")) => assert_eq!(says == "works", tried.contains(&true), "{id}"),
            Some(("works", test)) => assert!(own.contains(&format!("fn {}()", test.trim_matches('`'))), "{id}: {test}"),
            _ => assert!(control == "there is no such page" && tried.is_empty(), "{id}: {control}"),
        }
    }
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

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
    let plan =
        Plan { lasts: Duration::from_secs(1), around: Duration::from_millis(200), gives_way: false, ..Plan::default() };
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
