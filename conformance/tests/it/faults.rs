//! Members of a cluster killed, stopped, cut off and replaced. A test that holds a row of the reliability table begins
//! with its number. `CYCLES=50` repeats a fault more often, `SEED=7` at other moments.

use std::future::Future;

use forebay_conformance::{failpoints, faults, network, peers, target::Kind};
use forebay_loadtest::check::Report;

use crate::programs::setting;

fn cycles(usual: u64) -> usize {
    usize::try_from(setting("CYCLES").unwrap_or(usual)).expect("a count fits")
}

fn seed() -> u64 {
    setting("SEED").unwrap_or(1)
}

fn can_run(test: &str) -> bool {
    let missing = Kind::Server.missing();
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_none()
}

async fn survives(test: &str, run: impl Future<Output = anyhow::Result<Report>>) {
    if can_run(test) {
        let report = run.await.unwrap_or_else(|error| panic!("{error:#}"));
        eprintln!("{test}: {}", report.summary());
        assert!(report.operations > 100 && report.events > 100, "too little was done: {}", report.summary());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_a_member_ends_at_its_failpoints_and_comes_back() {
    let test = "faults::k1_a_member_ends_at_its_failpoints_and_comes_back";
    if !can_run(test) {
        return;
    }
    let names = failpoints::names().expect("the binary tells the names");
    assert!(names.len() >= 60, "there are only {names:?}");
    let new = failpoints::run_new().await.unwrap_or_else(|error| panic!("{error:#}"));
    let found = failpoints::run(&names, cycles(1), seed()).await.unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("{test}: {} of {} places; {}", found.struck + new, names.len(), found.report.summary());
    assert!(found.missed.is_empty(), "no member came by {:?}", found.missed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_members_are_killed_one_after_the_other() {
    survives("faults::k2_members_are_killed_one_after_the_other", faults::kills(cycles(60), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k4_all_members_are_killed_at_once() {
    survives("faults::k4_all_members_are_killed_at_once", faults::kills_of_all(cycles(10), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k8_members_are_defragmented_under_load_and_killed_meanwhile() {
    let test = "faults::k8_members_are_defragmented_under_load_and_killed_meanwhile";
    survives(test, faults::defragmentations(cycles(6), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_leases_live_as_long_as_they_are_renewed_whoever_leads() {
    let test = "faults::l1_leases_live_as_long_as_they_are_renewed_whoever_leads";
    if can_run(test) {
        let kept = faults::leases(cycles(2), seed()).await.unwrap_or_else(|error| panic!("{error:#}"));
        eprintln!("{test}: {kept:?}");
        assert!(kept.renewals > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_a_leader_takes_over_a_hundred_thousand_leases() {
    let test = "faults::l4_a_leader_takes_over_a_hundred_thousand_leases";
    if can_run(test) {
        let taken = faults::many_leases(100_000).await.unwrap_or_else(|error| panic!("{error:#}"));
        eprintln!("{test}: {taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n1_n2_ways_between_members_are_cut_in_both_directions_and_in_one() {
    let test = "faults::n1_n2_ways_between_members_are_cut_in_both_directions_and_in_one";
    match network::missing() {
        Some(missing) => peers::skip_extra(test, &missing),
        None => survives(test, faults::cuts(cycles(1), seed())).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_ways_between_members_are_slow_lossy_narrow_and_reset() {
    let test = "faults::n3_ways_between_members_are_slow_lossy_narrow_and_reset";
    survives(test, faults::weathers(cycles(1), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n4_leaders_are_stopped_and_go_on_when_others_lead() {
    survives("faults::n4_leaders_are_stopped_and_go_on_when_others_lead", faults::pauses(cycles(5), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n5_the_leader_moves_all_the_time() {
    survives("faults::n5_the_leader_moves_all_the_time", faults::moves(cycles(3), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n6_a_follower_with_watchers_gets_snapshots() {
    survives("faults::n6_a_follower_with_watchers_gets_snapshots", faults::laggards(cycles(3), seed())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n9_members_come_lead_and_leave_under_load() {
    survives("faults::n9_members_come_lead_and_leave_under_load", faults::replacements(cycles(1), seed())).await;
}
