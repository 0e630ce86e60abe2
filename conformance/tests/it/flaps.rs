//! A member that goes and comes back behind a gateway. `CYCLES=100` does it more often.

use forebay_conformance::{
    flaps,
    peers::{self, Release},
    target::Kind,
};

use crate::programs::setting;

async fn nothing_is_lost_or_stale(test: &str, kind: Kind) {
    if let Some(missing) = kind.missing() {
        return peers::skip(test, missing);
    }
    let cycles = usize::try_from(setting("CYCLES").unwrap_or(3)).expect("a count fits");
    let checked = flaps::run(kind, cycles).await.expect("nothing is lost or stale");
    assert!(checked.writes > cycles && checked.reads > cycles, "too little was done to tell: {checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_mirror_outlives_its_etcd() {
    nothing_is_lost_or_stale("flaps::g2_a_mirror_outlives_its_etcd", Kind::GatewayOverEtcd(Release::V3_7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_mirror_outlives_an_old_etcd() {
    nothing_is_lost_or_stale("flaps::g2_a_mirror_outlives_an_old_etcd", Kind::GatewayOverEtcd(Release::V3_4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_mirror_outlives_the_server() {
    nothing_is_lost_or_stale("flaps::g2_a_mirror_outlives_the_server", Kind::GatewayOverServer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_gateway_without_a_mirror_loses_nothing_either() {
    let kind = Kind::PassThroughOverEtcd(Release::V3_7);
    nothing_is_lost_or_stale("flaps::g2_a_gateway_without_a_mirror_loses_nothing_either", kind).await;
}
