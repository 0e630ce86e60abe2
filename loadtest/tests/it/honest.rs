//! What is reported is what was.

use std::{
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use forebay_loadtest::{
    bench::{
        meter::Interval,
        misuse::Misuse,
        run::{Measured, Plan},
        scenario::{Scenario, Shape},
    },
    client::Target,
    empty::Empty,
    process::{Process, free_address},
};

fn plan(rate: &str, seconds: u64) -> Plan {
    let shape = Shape {
        prefix: "bench/".to_owned(),
        key_size: 16,
        value_size: 64,
        key_space: 100,
        sequential: false,
        range: None,
        limit: 0,
        serializable: false,
        keys_only: false,
        count_only: false,
        txn_ops: 1,
        read_write_ratio: 1.0,
        streams: 1,
        watchers_per_stream: 1,
        watched_keys: 1,
        prev_kv: false,
        keys_per_txn: 1,
        write_percent: 50,
        objects: 10,
        bystander_rate: 10.0,
        recording: None,
    };
    Plan {
        scenario: Scenario::Put,
        shape: Arc::new(shape),
        connections: 4,
        clients: 1000,
        rate: Some(rate.parse().expect("a rate")),
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(seconds),
        total: u64::MAX,
        timeout: Duration::from_secs(30),
        misuse: Misuse::default(),
        seed: 1,
        begin: None,
    }
}

async fn run(plan: &Plan, target: &Target) -> Measured {
    let mut measured = Measured::default();
    let seconds = plan.run(target, |interval: &Interval| measured.tick(interval)).await.expect("the load runs");
    Measured { seconds, ..measured }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_are_reported_as_the_server_counted() {
    let address = free_address().expect("an address");
    let empty = Empty::new(1, 64);
    let counted = Arc::clone(&empty.answered);
    tokio::spawn(empty.serve(address));
    let target = Target::at(address);
    while target.connect(1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    let measured = run(&plan("1000/s", 2), &target).await;
    let wall = began.elapsed().as_secs_f64();
    let counted = counted.load(Ordering::Relaxed);
    assert_eq!((measured.all.answered(), measured.all.failed()), (counted, 0));
    // By a clock that also saw the connections being made, so it can only be slower, and not by much.
    let (by_clock, reported) = (counted as f64 / wall, measured.rate("put"));
    assert!(
        by_clock <= reported && reported < 1.5 * by_clock,
        "{reported}/s reported, {by_clock}/s by the server's count and the clock on the wall"
    );
    assert!(measured.seconds > 1.99, "{} s", measured.seconds);
}

/// Half of a run of 2 s falls on a server that is stopped: each of those requests waits for the rest of that second, so
/// half of all waits are spread evenly between nothing and a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_is_seen_to() {
    let (scratch, address) = (tempfile::tempdir().expect("a folder"), free_address().expect("an address"));
    let args = ["empty-server".to_owned(), address.to_string()];
    let program = env!("CARGO_BIN_EXE_versus");
    let server = Process::start(program.as_ref(), &args, address, scratch.path().join("log")).expect("it starts");
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &server.id().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "{name}");
    };
    let (plan, target) = (plan("500/s", 2), Target::at(address));
    let stall = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        signal("-STOP");
        tokio::time::sleep(Duration::from_secs(1)).await;
        signal("-CONT");
    };
    let (measured, ()) = tokio::join!(run(&plan, &target), stall);
    let latencies = &measured.all.series["put"];
    assert_eq!((latencies.0.len(), measured.all.failed()), (1000, 0), "every request is sent, and counts");
    let ms = |percent: f64| latencies.percentile(percent).as_millis();
    assert!(ms(75.0) > 300, "a quarter of all waited longer than half of the stall: p75 is {} ms", ms(75.0));
    assert!(ms(95.0) > 700, "one in twenty waited longer than nine tenths of it: p95 is {} ms", ms(95.0));
    assert!(latencies.max().as_millis() > 900, "the first to meet it waited for all of it: {:?}", latencies.max());
}

/// The server is stopped for longer than anybody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_is_in_the_percentiles_and_not_among_the_answers() {
    let (scratch, address) = (tempfile::tempdir().expect("a folder"), free_address().expect("an address"));
    let args = ["empty-server".to_owned(), address.to_string()];
    let program = env!("CARGO_BIN_EXE_versus");
    let server = Process::start(program.as_ref(), &args, address, scratch.path().join("log")).expect("it starts");
    let stall = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = Command::new("kill").args(["-STOP", &server.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    };
    let plan = Plan { timeout: Duration::from_secs(1), ..plan("200/s", 1) };
    let target = Target::at(address);
    let (measured, ()) = tokio::join!(run(&plan, &target), stall);
    let (all, latencies) = (&measured.all, &measured.all.series["put"]);
    assert_eq!((all.answered() + all.failed(), latencies.0.len()), (200, 200), "every request is in both");
    assert!(all.failed() > 0 && all.answered() < 200, "{} were answered", all.answered());
    assert!(latencies.percentile(99.0) >= Duration::from_millis(990), "{:?}", latencies.percentile(99.0));
}
