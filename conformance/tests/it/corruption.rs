//! A member that holds something else than the others is found by each of the checks, and a cluster that knows of it
//! answers as etcd's does.

use forebay_conformance::{
    corruption,
    peers::{self, Release},
    target::Kind,
};

const ETCD: Kind = Kind::Etcd(Release::V3_7);

fn can_run(test: &str, kinds: &[Kind]) -> bool {
    let missing = kinds.iter().find_map(|kind| kind.missing());
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_differs_is_refused_at_its_start() {
    if can_run("corruption::a_member_that_differs_is_refused_at_its_start", &[Kind::Server]) {
        let log = corruption::at_start(Kind::Server).await.unwrap_or_else(|error| panic!("{error:#}"));
        for part in ["found data inconsistency with peers", "remove this member"] {
            assert!(log.contains(part), "{part:?} is missing in {log}");
        }
    }
}

async fn as_etcd_does(test: &str, is_at_compactions: bool) {
    if can_run(test, &[Kind::Server, ETCD]) {
        let (ours, etcds) = tokio::join!(
            corruption::while_running(Kind::Server, is_at_compactions),
            corruption::while_running(ETCD, is_at_compactions)
        );
        let ours = ours.unwrap_or_else(|error| panic!("{error:#}"));
        let etcds = etcds.unwrap_or_else(|error| panic!("etcd: {error:#}"));
        assert!(ours.iter().any(|answer| answer.contains("corrupt cluster")), "nothing is refused: {ours:#?}");
        assert_eq!(ours, etcds);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_differs_is_found_by_the_periodic_check() {
    as_etcd_does("corruption::a_member_that_differs_is_found_by_the_periodic_check", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_differs_is_found_at_a_compaction() {
    as_etcd_does("corruption::a_member_that_differs_is_found_at_a_compaction", true).await;
}
