//! Random ranges and watches, directly and through a gateway. `SPECS=100000` asks so many of them, `SEED=7` of one
//! history.

use forebay_conformance::{
    peers::{self, Release},
    specs,
    target::{Kind, Target},
};

use crate::programs::setting;

/// How many are asked about one history; a fifth are watches.
const PER_SEED: u64 = 2_500;

async fn same_both_ways(test: &str, kind: Kind) {
    if let Some(missing) = kind.missing() {
        return peers::skip(test, missing);
    }
    let rounds = setting("SPECS").unwrap_or(PER_SEED).div_ceil(PER_SEED);
    let seeds = setting("SEED").map_or(1..=rounds, |seed| seed..=seed);
    let (mut asked, mut events) = (0, 0);
    for seed in seeds {
        let target = Target::start(kind, &[]).await.expect("the target starts");
        let (ranges, watches) = (usize::try_from(PER_SEED * 4 / 5).unwrap(), usize::try_from(PER_SEED / 5).unwrap());
        let compared = specs::check(&target, seed, ranges, watches).await.unwrap_or_else(|error| panic!("{error:#}"));
        asked += compared.ranges + compared.watches;
        events += compared.events;
    }
    eprintln!("{test}: {asked} ranges and watches, {events} events, no difference");
    assert!(events > 1000, "the watches saw too little: {events} events");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_through_a_gateway_over_etcd() {
    same_both_ways("specs::g5_through_a_gateway_over_etcd", Kind::GatewayOverEtcd(Release::V3_7)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_through_a_gateway_over_the_server() {
    same_both_ways("specs::g5_through_a_gateway_over_the_server", Kind::GatewayOverServer).await;
}
