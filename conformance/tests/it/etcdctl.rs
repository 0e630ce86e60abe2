//! etcdctl of every release on every target.

use forebay_conformance::{
    etcdctl,
    peers::{self, Release},
    target::Kind,
};

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    for release in Release::ALL {
        if release.etcdctl().is_none() {
            peers::skip(&format!("{test} with etcdctl {release}"), peers::INSTALL);
            continue;
        }
        let failures = etcdctl::check(kind, release).await.expect("the script can be run");
        assert!(failures.is_empty(), "etcdctl {release}: {} differences:\n{}", failures.len(), failures.join("\n"));
    }
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("etcdctl::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_is_like_itself: Kind::Etcd(Release::V3_7);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
}
