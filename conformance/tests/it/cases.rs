//! The table of cases on every target. `CASE=watch` runs those with `watch` in their name.

use forebay_conformance::{
    peers::{self, Release},
    runner,
    target::Kind,
};

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let report = runner::run_all(kind).await.expect("the cases can be run");
    assert!(report.is_empty(), "\n{report}");
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("cases::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_3_7_is_like_itself: Kind::Etcd(Release::V3_7);
    etcd_3_5_differs_only_as_listed: Kind::Etcd(Release::V3_5);
    etcd_3_4_differs_only_as_listed: Kind::Etcd(Release::V3_4);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
}
