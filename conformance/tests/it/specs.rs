//! Random ranges and watches, directly and through a gateway that outlives what happens to its store. `SPECS=100000`
//! asks so many of them, `SEED=7` of one history.

use forebay_conformance::{
    peers::{self, Release},
    specs::{self, Store},
    target::Kind,
};

use crate::programs::setting;

/// How many are asked about one history.
const RANGES: u64 = 1_000;
const WATCHES: u64 = 250;
/// Each fault happens once.
const ROUNDS_MIN: u64 = 2;

async fn same_both_ways(test: &str, kind: Kind, start: impl AsyncFn(Kind) -> anyhow::Result<Store>) {
    let needs_tool = Release::REFERENCE.etcdutl().is_none().then_some(peers::INSTALL);
    if let Some(missing) = kind.missing().or(Kind::Server.missing()).or(needs_tool) {
        return peers::skip(test, missing);
    }
    let rounds = setting("SPECS").map_or(ROUNDS_MIN, |specs| specs.div_ceil(RANGES + WATCHES));
    let seeds = setting("SEED").map_or(1..=rounds, |seed| seed..=seed);
    let mut store = start(kind).await.expect("the store starts");
    let (mut asked, mut events) = (0, 0);
    for seed in seeds {
        let compared = specs::check(&mut store, seed, RANGES as usize, WATCHES as usize).await;
        let compared = compared.unwrap_or_else(|error| panic!("{error:#}"));
        asked += compared.ranges + compared.watches;
        events += compared.events;
    }
    eprintln!("{test}: {asked} ranges and watches, {events} events, no difference");
    assert!(events > 500, "the watches saw too little: {events} events");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_an_etcd_that_is_killed_and_restored() {
    let etcd = Kind::Etcd(Release::V3_7);
    same_both_ways("specs::g5_an_etcd_that_is_killed_and_restored", etcd, Store::of_one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_server_that_is_killed_and_restored() {
    same_both_ways("specs::g5_a_server_that_is_killed_and_restored", Kind::Server, Store::of_one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_etcds_whose_leader_is_killed_and_moved() {
    let etcd = Kind::Etcd(Release::V3_7);
    same_both_ways("specs::g5_etcds_whose_leader_is_killed_and_moved", etcd, Store::of_three).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_servers_whose_leader_is_killed_and_moved() {
    same_both_ways("specs::g5_servers_whose_leader_is_killed_and_moved", Kind::Server, Store::of_three).await;
}
