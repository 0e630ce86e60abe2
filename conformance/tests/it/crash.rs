//! `kill -9` and power cuts at random moments. `CYCLES=100` does it more often, `SEED=7` at other moments.

use forebay_conformance::{
    crash::{self, Ending},
    peers::{self, Release},
    power,
    target::Kind,
};

use crate::programs::setting;

async fn keeps_what_it_acknowledged(test: &str, kind: Kind, ending: Ending, usual: u64) {
    if let Some(missing) = kind.missing() {
        return peers::skip(test, missing);
    }
    if let Some(missing) = (ending == Ending::PowerCut).then(power::missing).flatten() {
        return peers::skip_extra(test, &missing);
    }
    let cycles = usize::try_from(setting("CYCLES").unwrap_or(usual)).expect("a count fits");
    let seed = setting("SEED").unwrap_or(1);
    let survived = crash::run(kind, ending, &[], seed, cycles).await.expect("nothing acknowledged is lost");
    assert!(survived.acknowledged > cycles, "too little was written to tell: {survived:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_what_it_acknowledged() {
    let test = "crash::etcd_keeps_what_it_acknowledged";
    keeps_what_it_acknowledged(test, Kind::Etcd(Release::V3_7), Ending::Kill, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_keeps_what_it_acknowledged() {
    let test = "crash::the_server_keeps_what_it_acknowledged";
    keeps_what_it_acknowledged(test, Kind::Server, Ending::Kill, 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_etcd_keeps_what_it_acknowledged_when_the_power_of_its_disk_is_cut() {
    let test = "crash::k3_etcd_keeps_what_it_acknowledged_when_the_power_of_its_disk_is_cut";
    keeps_what_it_acknowledged(test, Kind::Etcd(Release::V3_7), Ending::PowerCut, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_the_server_keeps_what_it_acknowledged_when_the_power_of_its_disk_is_cut() {
    let test = "crash::k3_the_server_keeps_what_it_acknowledged_when_the_power_of_its_disk_is_cut";
    keeps_what_it_acknowledged(test, Kind::Server, Ending::PowerCut, 24).await;
}

/// A member that does not sync loses what it acknowledged, or the other tests would show nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_server_that_does_not_sync_loses_what_it_acknowledged_when_the_power_is_cut() {
    let test = "crash::k3_a_server_that_does_not_sync_loses_what_it_acknowledged_when_the_power_is_cut";
    if let Some(missing) = Kind::Server.missing() {
        return peers::skip(test, missing);
    }
    if let Some(missing) = power::missing() {
        return peers::skip_extra(test, &missing);
    }
    let seed = setting("SEED").unwrap_or(1);
    let lost = crash::run(Kind::Server, Ending::PowerCut, &["--unsafe-no-fsync"], seed, 3).await;
    let lost = format!("{:#}", lost.expect_err("what nobody synced is lost"));
    // It is refused, or missed, as the file system comes back with the files empty or without them.
    assert!(["no valid meta page", "was seen before"].iter().any(|found| lost.contains(found)), "{lost}");
}
