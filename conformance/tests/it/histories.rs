//! What clients of two gateways see while what is behind them fails. `CYCLES=50` lets it fail more often, `SEED=7`
//! asks other questions.

use forebay_conformance::{
    histories,
    peers::{self, Release},
    target::Kind,
};

use crate::programs::setting;

fn cycles() -> usize {
    usize::try_from(setting("CYCLES").unwrap_or(2)).expect("a count fits")
}

fn seed() -> u64 {
    setting("SEED").unwrap_or(1)
}

/// Whether the test can run here.
fn can_run(test: &str, kind: Kind) -> bool {
    let missing = kind.missing().or(Kind::Server.missing());
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_none()
}

async fn restored(test: &str, kind: Kind) {
    if Release::V3_7.etcdutl().is_none() {
        return peers::skip(test, peers::INSTALL);
    }
    if can_run(test, kind) {
        let reports =
            histories::with_a_restore(kind, cycles(), seed()).await.unwrap_or_else(|error| panic!("{error:#}"));
        for report in reports {
            eprintln!("{test}: {}", report.summary());
            assert!(report.operations > 100 && report.events > 100, "too little was done: {}", report.summary());
        }
    }
}

async fn led(test: &str, kind: Kind) {
    if can_run(test, kind) {
        let report =
            histories::with_leaders_killed(kind, cycles(), seed()).await.unwrap_or_else(|error| panic!("{error:#}"));
        eprintln!("{test}: {}", report.summary());
        assert!(report.operations > 100 && report.events > 100, "too little was done: {}", report.summary());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_two_gateways_over_an_etcd_that_is_killed_and_restored() {
    restored("histories::g4_two_gateways_over_an_etcd_that_is_killed_and_restored", Kind::Etcd(Release::V3_7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_two_gateways_over_a_server_that_is_killed_and_restored() {
    restored("histories::g4_two_gateways_over_a_server_that_is_killed_and_restored", Kind::Server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_two_gateways_over_etcds_whose_leaders_are_killed() {
    led("histories::g3_two_gateways_over_etcds_whose_leaders_are_killed", Kind::Etcd(Release::V3_7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_two_gateways_over_servers_whose_leaders_are_killed() {
    led("histories::g3_two_gateways_over_servers_whose_leaders_are_killed", Kind::Server).await;
}
