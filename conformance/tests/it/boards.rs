//! Boards, rules and metrics before their real judges: Prometheus, promtool and Grafana's linter.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use forebay_conformance::{
    monitoring::{LIMIT, Monitored, compared, folder, queries},
    peers,
    target::Kind,
};

fn boards() -> anyhow::Result<Vec<PathBuf>> {
    let mut boards = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            boards.push(path);
        }
    }
    ensure!(boards.len() == 5, "{boards:?}");
    Ok(boards)
}

/// The tool, or why the test is skipped.
fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let found = peers::monitoring(name);
    if found.is_none() {
        peers::skip_extra(test, peers::INSTALL_MONITORING);
    }
    found
}

/// Runs a tool in the folder of the boards; what it printed.
fn run(command: &mut Command, input: &str) -> anyhow::Result<(bool, String)> {
    let piped = || Stdio::piped();
    let mut child = command.current_dir(folder()).stdin(piped()).stdout(piped()).stderr(piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

async fn everything_has_data() -> anyhow::Result<()> {
    let mixin = |name| peers::monitoring(name).context(peers::INSTALL_MONITORING);
    let rules = [folder().join("rules.yaml").canonicalize()?, mixin("mixin-alerts.json")?];
    let monitored = Monitored::start(&rules).await?;
    let mut open = queries(&[boards()?, vec![mixin("mixin-board.json")?]].concat())?;
    let panels = open.len();
    for (name, query) in monitored.rules().await? {
        open.extend(compared(&query).into_iter().map(|part| (name.clone(), part.to_owned())));
    }
    ensure!(panels > 70 && open.len() - panels > 35, "{panels} queries of panels, {} in all", open.len());
    let began = Instant::now();
    while !open.is_empty() {
        monitored.work().await?;
        let mut silent = Vec::new();
        for (name, query) in open {
            let values = monitored.query(&query).await.with_context(|| format!("{name}: {query}"))?;
            if values.is_empty() {
                silent.push((name, query));
            }
        }
        open = silent;
        ensure!(
            began.elapsed() < LIMIT,
            "no data after {LIMIT:?}:\n{}",
            open.iter().map(|(name, query)| format!("{name}: {query}\n")).collect::<String>()
        );
    }
    // Evaluated for a while now: none may have failed.
    monitored.rules().await?;

    let promtool = mixin("promtool")?;
    for page in monitored.pages().await? {
        let (_, remarks) = run(Command::new(&promtool).args(["check", "metrics"]), &page)?;
        let ours: Vec<&str> =
            remarks.lines().filter(|line| line.starts_with("forebay_") || line.starts_with("error")).collect();
        ensure!(ours.is_empty(), "promtool check metrics: {ours:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_every_rule_has_data_from_a_cluster_under_load() {
    let test = "boards::every_panel_and_every_rule_has_data_from_a_cluster_under_load";
    if tool(test, "prometheus").is_none() {
        return;
    }
    if let Some(missing) = Kind::Server.missing() {
        return peers::skip(test, missing);
    }
    everything_has_data().await.unwrap();
}

#[test]
fn the_rules_pass_their_unit_tests() {
    let Some(promtool) = tool("boards::the_rules_pass_their_unit_tests", "promtool") else { return };
    for line in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let (passed, said) = run(Command::new(&promtool).args(line), "").unwrap();
        assert!(passed, "{said}");
    }
}

#[test]
fn the_boards_pass_grafanas_linter_in_strict_mode() {
    let Some(linter) = tool("boards::the_boards_pass_grafanas_linter_in_strict_mode", "dashboard-linter") else {
        return;
    };
    for board in boards().unwrap() {
        let (passed, said) =
            run(Command::new(&linter).args(["lint", "--strict", "--verbose"]).arg(&board), "").unwrap();
        assert!(passed, "{}:\n{said}", board.display());
    }
}
