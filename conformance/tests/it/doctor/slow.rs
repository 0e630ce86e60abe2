//! What takes long: disks whose syncs are held up, members far from each other, a machine that has no time or no memory.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use forebay_conformance::{
    cluster::Cluster,
    peers::{self, Release},
    target::Kind,
};
use forebay_loadtest::process::{Process, etcd_flags, free_address};
use forebay_proto::etcdserverpb::{PutRequest, kv_client::KvClient};
use serde_json::Value;

use super::{PATIENCE, channel, endpoints, examine, is_missing};

/// Whether this runs to its end; it prints nothing.
fn works(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_slow_to_sync_is_found() {
    let test = "doctor::slow::a_disk_that_is_slow_to_sync_is_found";
    let kinds = [Kind::Etcd(Release::V3_7), Kind::Server];
    if is_missing(test, &kinds) {
        return;
    }
    if !works("strace", &["-o", "/dev/null", "true"]) {
        return peers::skip_extra(test, "strace cannot be run; apt-get install strace");
    }
    for kind in kinds {
        let scratch = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address().unwrap(), free_address().unwrap());
        // The kernel syncs as fast as ever, but what waits for it hears of it 100 ms later. The process is our child,
        // and strace ends with it.
        let mut args: Vec<String> =
            ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"].map(str::to_owned).into();
        args.extend(["-e", "inject=fdatasync:delay_exit=100000", "--"].map(str::to_owned));
        match kind.release() {
            Some(release) => args.push(release.etcd().unwrap().display().to_string()),
            None => args.extend([peers::forebay().unwrap().display().to_string(), "server".to_owned()]),
        }
        args.extend(etcd_flags(&scratch.path().join("data"), "http", client, peer));
        let _slow = Process::start(Path::new("strace"), &args, client, scratch.path().join("log")).unwrap();
        let mut kv = KvClient::new(channel(format!("http://{client}")).await);
        for _ in 0..5 {
            kv.put(PutRequest { key: "a".into(), ..Default::default() }).await.unwrap();
        }
        let ill = examine(&[&format!("--endpoints={client}")]).unwrap();
        // A machine that is busy besides may make it worse.
        let found = ill.expect("disk", "WARN", "WAL fsync up to").or_else(|_| ill.expect("disk", "FAIL", "WAL fsync"));
        found.with_context(|| kind.to_string()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_far_from_each_other_are_found_with_what_that_costs() {
    if is_missing("doctor::slow::members_far_from_each_other_are_found_with_what_that_costs", &[]) {
        return;
    }
    let cluster = Cluster::start_apart(Duration::from_millis(60), &[Kind::Server; 3], &[]).await.unwrap();
    cluster.leader().await.unwrap();
    let began = Instant::now();
    loop {
        let ill = examine(&[&endpoints(&cluster)]).unwrap();
        // Each read waits for a majority.
        let found = ill.expect("latency", "WARN", "linearizable reads");
        match found.and_then(|()| ill.expect("network", "WARN", "round trip between members up to")) {
            Ok(()) => break,
            other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
        }
    }
}

#[test]
fn a_machine_without_time_or_memory_is_found() {
    let test = "doctor::slow::a_machine_without_time_or_memory_is_found";
    if is_missing(test, &[]) {
        return;
    }
    if !works("unshare", &["--mount", "--map-root-user", "true"]) {
        return peers::skip_extra(test, "this user may not make a mount namespace");
    }
    let scratch = tempfile::tempdir().unwrap();
    let (loadavg, meminfo) = (scratch.path().join("loadavg"), scratch.path().join("meminfo"));
    let busy = "4096.00 4000.00 3000.00 4097/9000 12345\n";
    let idle = "0.10 0.10 0.10 1/200 12345\n";
    let memory = |available: u32, swapped: u32| {
        format!(
            "MemTotal: 8000000 kB\nMemFree: 1000 kB\nMemAvailable: {available} kB\nSwapTotal: 2000000 kB\nSwapFree: {} kB\n",
            2_000_000 - swapped
        )
    };
    for (load, memory, verdict, evidence) in [
        (busy, memory(4_000_000, 0), "WARN", "load 4096.0 on"),
        (idle, memory(100_000, 0), "WARN", "97.7MiB of 7.6GiB memory available"),
        (idle, memory(4_000_000, 1_000_000), "WARN", "976.6MiB swapped out"),
        (idle, memory(4_000_000, 0), "PASS", "load 0.1 on"),
    ] {
        fs::write(&loadavg, load).unwrap();
        fs::write(&meminfo, memory).unwrap();
        // Nobody answers there, and the machine may be why.
        let nobody = format!("--endpoints={}", free_address().unwrap());
        let output = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c"])
            .arg("mount --bind \"$1\" /proc/loadavg && mount --bind \"$2\" /proc/meminfo && shift 2 && exec \"$@\"")
            .arg("sh")
            .args([&loadavg, &meminfo])
            .arg(peers::forebay().unwrap())
            .args(["doctor", &nobody, "-o", "json"])
            .output()
            .unwrap();
        let page: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let machine = page["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "machine");
        let machine = machine.unwrap_or_else(|| panic!("{page:#}"));
        assert_eq!(machine["verdict"], verdict, "{machine}");
        assert!(machine["evidence"].as_str().unwrap().contains(evidence), "{machine}");
    }
}
