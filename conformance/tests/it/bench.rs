//! `forebay bench` as users run it, before real etcd and ours: whether every load runs, what is reported is what the
//! server counted, and the exit status and the files are what was asked for.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    http,
    peers::{self, Release},
    target::{Kind, Target},
};
use serde_json::Value;

use super::within;

const KINDS: [Kind; 2] = [Kind::Etcd(Release::V3_7), Kind::Server];

fn is_missing(test: &str) -> bool {
    let missing = KINDS.iter().find_map(|kind| kind.missing());
    if let Some(missing) = missing {
        peers::skip(test, missing);
    }
    missing.is_some()
}

fn bench(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(peers::forebay().context(peers::BUILD)?);
    command.arg("bench").args(args).args(["--quiet", "--warm-up=0s"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// The first target of a report, of a load that must have ended well.
fn reported(output: &Output) -> anyhow::Result<Value> {
    ensure!(output.status.success(), "{output:?}");
    let mut report: Value = serde_json::from_slice(&output.stdout)?;
    Ok(report["targets"][0].take())
}

/// The value of a series on a page of metrics.
async fn counted(target: &Target, series: &str) -> anyhow::Result<u64> {
    let page = http::Call::get("/metrics").send(target.member).await?.body_text();
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    // What has not happened yet may have no line.
    Ok(line.map_or(Ok(0.0), |value| value.trim().parse::<f64>())? as u64)
}

/// A load at a steady rate: how many and how many a second, as it was reported and as the server counted meanwhile.
async fn at_a_rate(target: &Target) -> anyhow::Result<[(u64, f64); 2]> {
    let puts = r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    let before = counted(target, puts).await?;
    let endpoint = format!("--endpoints={}", target.client);
    let mut load = bench(&["put", &endpoint, "--rate=800/s", "--duration=3s", "--output=json"])?.spawn()?;
    let mut seen = Vec::new();
    while load.try_wait()?.is_none() {
        let asked = Instant::now();
        let count = counted(target, puts).await? - before;
        // Somewhen between both it was counted; what took long says too little.
        if (200..2200).contains(&count) && asked.elapsed() < Duration::from_millis(25) {
            seen.push((asked + asked.elapsed() / 2, count));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = reported(&load.wait_with_output()?)?;
    let put = &report["series"]["put"];
    let total = counted(target, puts).await? - before;
    let rate = match seen[..] {
        [(began, first), .., (ended, last)] => (last - first) as f64 / (ended - began).as_secs_f64(),
        _ => f64::NAN,
    };
    let told = (put["operations"].as_u64().context("operations")?, put["perSecond"].as_f64().context("perSecond")?);
    Ok([told, (total, rate)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_is_what_the_server_counted() {
    if is_missing("bench::what_is_reported_is_what_the_server_counted") {
        return;
    }
    within(async {
        for kind in KINDS {
            let target = Target::start(kind, &[]).await?;
            // A machine that has something else to do keeps the pace of neither; a wrong figure would be wrong each time.
            let mut off = Vec::new();
            while off.last().is_none_or(|off: &f64| off.abs() > 0.01 || off.is_nan()) {
                ensure!(off.len() < 10, "{kind}: the rate is never within 1 % of the server's own: {off:?}");
                let [told, counted] = at_a_rate(&target).await?;
                ensure!(told.0 == counted.0, "{kind}: {} are reported, {} were counted", told.0, counted.0);
                off.push(told.1 / counted.1 - 1.0);
            }
            println!("{kind}: the rate is off by {:.2} %", off.last().context("one was enough")? * 100.0);
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_load_runs_on_etcd_and_on_ours() {
    if is_missing("bench::every_load_runs_on_etcd_and_on_ours") {
        return;
    }
    within(async {
        let scratch = tempfile::tempdir()?;
        // As `forebay tap -o json` has it.
        let recording = scratch.path().join("day.jsonl");
        let line = |at_micros: u32| {
            format!(
                r#"{{"atMicros":{at_micros},"client":"ip=127.0.0.1","code":"Ok","key":"/a","request":{{"key":"L2E="}},"rpc":"Range"}}"#
            )
        };
        fs::write(&recording, format!("{}\n{}\n", line(1), line(200_000)))?;
        let recording = recording.display().to_string();
        let loads: [&[&str]; 13] = [
            &["put"],
            &["range"],
            &["range-stream"],
            &["txn-put"],
            &["txn-mixed"],
            &["watch", "--watchers-per-stream=2"],
            &["watch-latency"],
            &["lease-keepalive"],
            &["stm"],
            &["k8s"],
            &["storm"],
            &["abuse", "huge-txn"],
            &["replay", &recording],
        ];
        for kind in KINDS {
            let target = Target::start(kind, &[]).await?;
            let endpoint = format!("--endpoints={}", target.client);
            for load in loads {
                let args = [load, &[&endpoint, "--rate=50/s", "--duration=500ms", "--output=json"]].concat();
                let report = reported(&bench(&args)?.output()?).with_context(|| format!("{kind}: {load:?}"))?;
                let errors = report["errors"].as_array().context("errors")?;
                let series = report["series"].as_object().context("series")?;
                let answered = series.values().all(|one| one["operations"].as_u64() > Some(0));
                ensure!(errors.is_empty() && answered && !series.is_empty(), "{kind}: {load:?}: {report:#}");
            }
        }
        Ok(())
    })
    .await;
}

/// Whether a page asks for nothing from outside.
fn is_alone(page: &str) -> bool {
    !["src=", "href=\"http", "url(", "@import", "fetch("].iter().any(|outside| page.contains(outside))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_statuses_and_reports_are_what_was_asked_for() {
    if is_missing("bench::exit_statuses_and_reports_are_what_was_asked_for") {
        return;
    }
    within(async {
        let (etcd, ours) = (Target::start(KINDS[0], &[]).await?, Target::start(KINDS[1], &[]).await?);
        let scratch = tempfile::tempdir()?;
        let at = |ending: &str| scratch.path().join(format!("report.{ending}")).display().to_string();
        let endpoint = format!("--endpoints={}", ours.client);
        let run = |args: &[&str]| -> anyhow::Result<Output> {
            Ok(bench(&[&["put", "--rate=200/s", "--duration=500ms"], args].concat())?.output()?)
        };
        let status = |args: &[&str]| -> anyhow::Result<Option<i32>> { Ok(run(args)?.status.code()) };

        ensure!(status(&[&endpoint, "--assert=p99<60s,errors<1,rate>1"])? == Some(0));
        ensure!(status(&[&endpoint, "--assert=p99<1us"])? == Some(1));
        ensure!(status(&[&endpoint, "--assert=p99 is small"])? == Some(2));
        ensure!(status(&["--endpoints=127.0.0.1:1"])? == Some(1), "nobody is there");
        ensure!(status(&[&endpoint, "--check"])? == Some(0), "what ours does can have happened");

        let compare = format!("--compare={},{}", etcd.client, ours.client);
        let files = ["html", "json", "hgrm", "txt"].map(at);
        let report = format!("--report={}", files.join(","));
        let output = run(&[&compare, &report])?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.contains("as multiples of") && text.contains("p99.99"), "{text}");
        let read = |path: &String| fs::read_to_string(Path::new(path));
        let [html, json, hgrm, txt] = [read(&files[0])?, read(&files[1])?, read(&files[2])?, read(&files[3])?];
        ensure!(txt == text, "{txt}");
        ensure!(html.starts_with("<!doctype html>") && html.contains("<svg") && is_alone(&html), "{html}");
        let json: Value = serde_json::from_str(&json)?;
        ensure!(json["targets"].as_array().is_some_and(|targets| targets.len() == 2), "{json:#}");
        // Value, percentile, count, and what the percentile leaves over; the last line has all of them.
        let counts = hgrm.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().nth(2));
        let counts: Vec<u64> = counts.flatten().filter_map(|count| count.parse().ok()).collect();
        let all = json["targets"][0]["series"]["put"]["operations"].as_u64();
        ensure!(counts.is_sorted() && counts.last().copied() == all, "{hgrm}");
        Ok(())
    })
    .await;
}
