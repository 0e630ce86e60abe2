//! The table of HTTP requests on every target.

use forebay_conformance::{
    http,
    peers::{self, Release},
    runner::{Pair, judge},
    target::Kind,
};

async fn like_the_reference(test: &str, kind: Kind) {
    if let Some(missing) = Kind::REFERENCE.missing().or(kind.missing()) {
        return peers::skip(test, missing);
    }
    let Pair { reference, target } = Pair::start(kind, &[]).await.expect("both start");
    let (theirs, ours) =
        tokio::join!(http::record(&reference.1, reference.0.client), http::record(&target.1, target.0.client));
    let failures = judge(kind, "http", &theirs, &ours);
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

macro_rules! targets {
    ($($name:ident: $kind:expr;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            like_the_reference(concat!("http::", stringify!($name)), $kind).await;
        }
    )* };
}

targets! {
    etcd_is_like_itself: Kind::Etcd(Release::V3_7);
    the_server_is_like_etcd: Kind::Server;
    the_gateway_over_the_server_is_like_etcd: Kind::GatewayOverServer;
    the_gateway_over_etcd_is_like_etcd: Kind::GatewayOverEtcd(Release::V3_7);
}
