//! `kill -9` at random moments. `CYCLES=100` does it more often, `SEED=7` at other moments.

use forebay_conformance::{
    crash,
    peers::{self, Release},
    target::Kind,
};

use crate::programs::setting;

async fn keeps_what_it_acknowledged(test: &str, kind: Kind, usual: u64) {
    if let Some(missing) = kind.missing() {
        return peers::skip(test, missing);
    }
    let cycles = usize::try_from(setting("CYCLES").unwrap_or(usual)).expect("a count fits");
    let seed = setting("SEED").unwrap_or(1);
    let survived = crash::run(kind, seed, cycles).await.expect("nothing acknowledged is lost");
    assert!(survived.acknowledged > cycles, "too little was written to tell: {survived:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_what_it_acknowledged() {
    keeps_what_it_acknowledged("crash::etcd_keeps_what_it_acknowledged", Kind::Etcd(Release::V3_7), 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_keeps_what_it_acknowledged() {
    keeps_what_it_acknowledged("crash::the_server_keeps_what_it_acknowledged", Kind::Server, 80).await;
}
